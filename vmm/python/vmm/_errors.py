"""What can go wrong, by its code."""

from __future__ import annotations

from typing import Optional

__all__ = [
    "Cancelled",
    "CommandFailed",
    "InvalidRequest",
    "NoSuchFile",
    "NoSuchSandbox",
    "NotRunning",
    "TimedOut",
    "VmmError",
]


class VmmError(Exception):
    """Something could not be done. ``code`` is stable, for programs; the text is for people."""

    def __init__(
        self, code: str, message: str, hint: Optional[str] = None, console: Optional[str] = None
    ) -> None:
        super().__init__(message if hint is None else f"{message}; {hint}")
        #: A stable word for the kind of error, such as ``no_such_vm``.
        self.code = code
        #: What went wrong and why, in a line.
        self.message = message
        #: What to do about it.
        self.hint = hint
        #: The guest's last words on its console, where they say something about it. They are the guest's: not to be
        #: printed to a terminal as they are.
        self.console = console

    def __reduce__(self):
        return (type(self), (self.code, self.message, self.hint, self.console))


class Cancelled(VmmError):
    """It was cancelled by whom it was asked for."""


class InvalidRequest(VmmError):
    """What was asked for cannot be."""


class NoSuchFile(VmmError):
    """The guest has no such file, or no such program."""


class NoSuchSandbox(VmmError):
    """There is no sandbox of this name."""


class NotRunning(VmmError):
    """The sandbox does not run: it was never started, or it has ended."""


class TimedOut(VmmError):
    """A guest does not get ready, or does not answer. A command whose own time was up is a result, and no error."""


class CommandFailed(VmmError):
    """A command did not end with status 0, and ``check`` was asked for. ``result`` has what it wrote."""

    def __init__(self, result) -> None:
        super().__init__("command_failed", f"the command ended with status {result.status}")
        self.result = result

    def __reduce__(self):
        return (type(self), (self.result,))


_KINDS = {
    "agent_timeout": TimedOut,
    "cancelled": Cancelled,
    "command_not_found": NoSuchFile,
    "monitor_lost": NotRunning,
    "monitor_unresponsive": TimedOut,
    "never_ready": TimedOut,
    "no_such_file": NoSuchFile,
    "no_such_vm": NoSuchSandbox,
    "not_running": NotRunning,
    # How a sandbox ended that ended meanwhile.
    "agent_failed": NotRunning,
    "engine_failed": NotRunning,
    "guest_panic": NotRunning,
    "killed": NotRunning,
    "monitor_killed": NotRunning,
    "power_off": NotRunning,
    "reset": NotRunning,
    "starter_gone": NotRunning,
    "stopped": NotRunning,
}


def error_of(code: str, message: str, hint: Optional[str], console: Optional[str]) -> VmmError:
    """The exception for a code."""
    kind = _KINDS.get(code, InvalidRequest if code.startswith("invalid") else VmmError)
    return kind(code, message, hint, console)
