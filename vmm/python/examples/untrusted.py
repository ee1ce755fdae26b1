"""Runs programs that nobody trusts, each within limits of time, memory, output and processes.

The sandbox is a virtual machine: its memory is a limit that nothing in it can pass, and what a program leaves behind ends
with it. Within it, limits for one program are the kernel's own (ulimit), for a user that is not root.
"""

from vmm import Sandbox

PROGRAMS = {
    "answer": "echo $((6 * 7))",
    "time": "while :; do :; done",
    "memory": "tail -c 100000000 /dev/zero",
    "output": "seq 10000",
    "processes": "for i in $(seq 100); do sleep 60 & done",
}


def run(sandbox, program):
    """Runs one program, which belongs to the user ``nobody``."""
    limited = ["sh", "-c", 'ulimit -v 65536 -u 32; exec sh -c "$1"', "sh", program]
    return sandbox.exec(limited, user="nobody", timeout=5, output_limit=1000)


with Sandbox("alpine", memory="256M") as sandbox:
    for name, program in PROGRAMS.items():
        result = run(sandbox, program)
        time = ", its time was up" if result.timed_out else ""
        output = ", it wrote too much" if result.truncated else ""
        print(f"{name}: status {result.status}{time}{output}")
