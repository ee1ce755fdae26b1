"""Calls that wait, and Ctrl-C."""

from __future__ import annotations

import threading
from typing import Callable, TypeVar

from . import _native
from ._native import check, lib

__all__ = ["CancelToken", "interruptible"]

T = TypeVar("T")


class CancelToken:
    """Ends, for good, every call that it was given to, from any thread; they raise :class:`Cancelled`. Ctrl-C cancels the
    token of the call that it ends."""

    def __init__(self) -> None:
        self._pointer = None
        self._pointer = _native.make(lib.vmm_cancel_new)

    def cancel(self) -> None:
        """Cancels."""
        check(lib.vmm_cancel_now(self._pointer))

    def __del__(self) -> None:
        if self._pointer is not None:
            lib.vmm_cancel_free(self._pointer)


def interruptible(
    call: Callable[[], T], cancel: CancelToken, discard: Callable[[T], None] = lambda _: None
) -> T:
    """Makes a call that waits. Python handles signals in its first thread, and only between its own instructions: there the
    call is made by another thread, and whatever a signal raises (Ctrl-C) cancels it first. What it has made just then is
    discarded."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    outcome: list = []
    # A thread that was waited for in vain once cannot be waited for again (before Python 3.13).
    done = threading.Event()

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # It is raised again in the thread that waits.
            outcome.append((None, error))
        finally:
            done.set()

    threading.Thread(target=run, name="vmm-call", daemon=True).start()
    try:
        done.wait()
    except BaseException:
        cancel.cancel()
        # The call uses what is ours until it returns, which it does at once now: no second Ctrl-C is heard before.
        while not done.is_set():
            try:
                done.wait()
            except BaseException:
                pass
        value, error = outcome[0]
        if error is None:
            discard(value)
        raise
    value, error = outcome[0]
    if error is not None:
        try:
            raise error
        finally:
            # The traceback would keep itself.
            del error
    return value
