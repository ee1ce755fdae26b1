"""Virtual machines for running code in a sandbox.

::

    from vmm import Sandbox

    with Sandbox("alpine", memory="256M") as sandbox:
        result = sandbox.exec("python3 --version || echo no Python", timeout=10)
        print(result.status, result.text)

Starts, commands, their output, copies and waits for an end can be left by Ctrl-C, and from another
thread by a :class:`CancelToken`. What is over soon by itself (files that are read and written whole,
``stop`` with its grace) returns when it is done; :meth:`Process.write` waits for as long as the process
does not read. In ``async`` code a call is made by
``await asyncio.to_thread(sandbox.exec, "true")``.
"""

from ._errors import (
    Cancelled,
    CommandFailed,
    InvalidRequest,
    NoSuchFile,
    NoSuchSandbox,
    NotRunning,
    TimedOut,
    VmmError,
)
from ._native import lib as _lib
from ._sandbox import Copied, Output, Process, Result, Sandbox, list_sandboxes
from ._wait import CancelToken

__all__ = [
    "CancelToken",
    "Cancelled",
    "CommandFailed",
    "Copied",
    "InvalidRequest",
    "NoSuchFile",
    "NoSuchSandbox",
    "NotRunning",
    "Output",
    "Process",
    "Result",
    "Sandbox",
    "TimedOut",
    "VmmError",
    "list_sandboxes",
]

__version__: str = _lib.vmm_version().decode()
