"""Sandboxes and the commands in them."""

from __future__ import annotations

import ctypes
import json
import os
import threading
from ctypes import byref, c_uint64
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, TypeVar, Union

from . import _native
from ._errors import CommandFailed, InvalidRequest, VmmError
from ._native import c_text, check, lib, make, take_bytes, texts
from ._wait import CancelToken, interruptible

__all__ = ["Copied", "Output", "Process", "Result", "Sandbox", "list_sandboxes"]

T = TypeVar("T")

#: A path on the host or in the guest.
Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
#: Words of a command: a text is run by ``sh -c``, a list as it is.
Words = Union[str, Sequence[Union[str, bytes]]]
#: An amount of memory or of a disk: a number of bytes, or a text such as ``"2G"``.
Size = Union[int, str]
#: Who is told of the progress of a start: the step, bytes done, and bytes in all if that is known.
OnProgress = Callable[[str, int, Optional[int]], None]


@dataclass(frozen=True)
class Result:
    """How a command ended, and what it wrote."""

    #: As a shell has it: its code, 128 and the signal, 124 when its time was up.
    status: int
    stdout: bytes
    stderr: bytes
    #: It was killed because its time was up.
    timed_out: bool = False
    #: It wrote more than the limit allowed; the rest was dropped.
    truncated: bool = False
    #: The signal that killed it.
    signal: Optional[int] = None

    @property
    def ok(self) -> bool:
        """Whether it ended with status 0."""
        return self.status == 0

    @property
    def text(self) -> str:
        """Its standard output as text; what is no UTF-8 in it is replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Its standard error as text, likewise."""
        return self.stderr.decode("utf-8", "replace")

    def check(self) -> "Result":
        """Raises :class:`CommandFailed` unless it ended with status 0."""
        if not self.ok:
            raise CommandFailed(self)
        return self


@dataclass(frozen=True)
class Output:
    """A piece of what a command writes."""

    #: ``"stdout"`` or ``"stderr"``.
    stream: str
    data: bytes

    @property
    def text(self) -> str:
        """As text; what is no UTF-8 in it is replaced."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True)
class Copied:
    """What was copied."""

    #: Files, folders, links and others.
    entries: int
    #: Bytes that went through.
    bytes: int
    #: Sockets that were left out.
    sockets: int
    #: Files whose set-user-id and set-group-id bits were taken.
    set_id_taken: int
    #: Extended attributes that the target's file system does not have.
    attributes_lost: int


class _Handle:
    """An object of the library's. It is freed once, after the last call that uses it, and never by a process that was
    forked off the one that made it."""

    def __init__(self, free: Callable[[int], None], what: str) -> None:
        self._free = free
        self._what = what
        self._pointer: Optional[int] = None
        self._users = 0
        self._closing = False
        self._changed = threading.Condition()
        self._process = os.getpid()

    def hold(self, pointer: int) -> None:
        self._pointer = pointer

    def __enter__(self) -> int:
        with self._changed:
            if self._pointer is None or self._closing:
                raise InvalidRequest("closed", f"this {self._what} was closed")
            self._users += 1
            return self._pointer

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._users -= 1
            self._changed.notify_all()

    def close(self) -> None:
        if os.getpid() != self._process:
            return
        with self._changed:
            self._closing = True
            self._changed.wait_for(lambda: self._users == 0)
            pointer, self._pointer = self._pointer, None
        if pointer is not None:
            self._free(pointer)


class _Closing:
    """What holds an object of the library's until it is closed."""

    _handle: _Handle

    def close(self) -> None:
        """Lets go of it."""
        self._handle.close()

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Whoever failed in making it has none.
        handle = getattr(self, "_handle", None)
        if handle is not None:
            handle.close()


class Process(_Closing):
    """A command that runs. Iterating over it gives what it writes, piece by piece, to its end::

        with sandbox.stream("make 2>&1") as build:
            for piece in build:
                print(piece.text, end="")
        print(build.result.status)

    One thread may read it while others write and signal. What nobody reads makes it wait, as with a pipe. Leaving the
    ``with`` block ends it.
    """

    def __init__(self, pointer: int) -> None:
        self._handle = _Handle(lib.vmm_process_free, "process")
        self._handle.hold(pointer)
        #: Its id, by which :meth:`Sandbox.attach_process` finds it again.
        self.id: int = lib.vmm_process_id(pointer)
        #: How it ended, once that is known; what it wrote was read before.
        self.result: Optional[Result] = None

    def next(self, timeout: Optional[float] = None) -> Optional[Output]:
        """What it writes next; ``None`` when it has ended. Raises :class:`TimedOut` after ``timeout`` seconds, and nothing is
        lost then."""
        if self.result is not None:
            return None
        cancel = CancelToken()
        milliseconds = -1 if timeout is None else max(0, round(timeout * 1000))
        with self._handle as pointer:
            call = lambda: make(lib.vmm_process_next, pointer, milliseconds, cancel._pointer)  # noqa: E731
            event_pointer = interruptible(call, cancel, lib.vmm_event_free)
        try:
            event = _native.Event.from_address(event_pointer)
            if event.kind == _native.ENDED:
                self.result = Result(event.status, b"", b"", event.timed_out, False, event.signal or None)
                return None
            stream = "stdout" if event.kind == _native.STDOUT else "stderr"
            return Output(stream, ctypes.string_at(event.data, event.length))
        finally:
            lib.vmm_event_free(event_pointer)

    def __iter__(self) -> Iterator[Output]:
        while True:
            piece = self.next()
            if piece is None:
                return
            yield piece

    def write(self, data: Union[bytes, str]) -> None:
        """Writes to its input, and waits while it does not read."""
        data = data.encode() if isinstance(data, str) else bytes(data)
        with self._handle as pointer:
            check(lib.vmm_process_write(pointer, data, len(data)))

    def close_input(self) -> None:
        """Ends its input."""
        with self._handle as pointer:
            check(lib.vmm_process_close_input(pointer))

    def signal(self, number: int) -> None:
        """Sends a signal to its process group."""
        with self._handle as pointer:
            check(lib.vmm_process_signal(pointer, number))

    def resize(self, rows: int, columns: int) -> None:
        """Tells it that its terminal has another size now."""
        with self._handle as pointer:
            check(lib.vmm_process_resize(pointer, rows, columns))

    def detach(self) -> None:
        """Lets it go on by itself."""
        with self._handle as pointer:
            check(lib.vmm_process_detach(pointer))

    def wait(self) -> Result:
        """Waits for its end; what it still writes is dropped."""
        while self.next() is not None:
            pass
        assert self.result is not None
        return self.result

    def close(self) -> None:
        """Lets go of it. A command that still runs ends by that, with everything that it started."""
        super().close()


class Sandbox(_Closing):
    """A virtual machine to run code in.

    ::

        with Sandbox("alpine", memory="256M") as sandbox:
            print(sandbox.exec("uname -a").text)

    It is gone when the block is left, when it is closed, and when this process ends, however that comes. One with a
    name keeps its disk and can be started again; one that is ``detached`` goes on by itself.

    It may be used by several threads at once.
    """

    def __init__(
        self,
        image: Optional[str] = None,
        *,
        name: Optional[str] = None,
        cpus: Optional[int] = None,
        memory: Optional[Size] = None,
        disk_size: Optional[Size] = None,
        env: Optional[Mapping[str, str]] = None,
        disks: Sequence[str] = (),
        detached: Optional[bool] = None,
        pull: Optional[str] = None,
        home: Optional[Path] = None,
        engine: Optional[str] = None,
        require_hardware: Optional[bool] = None,
        ready_timeout: Optional[float] = None,
        host_name: Optional[str] = None,
        root_writes: Optional[str] = None,
        overlay: Optional[Path] = None,
        init: Optional[str] = None,
        nested: Optional[bool] = None,
        balloon: Optional[bool] = None,
        huge_pages: Optional[bool] = None,
        console: Optional[str] = None,
        kernel: Optional[Path] = None,
        command_line: Optional[str] = None,
        boot_profile: Optional[str] = None,
        restart: Optional[str] = None,
        health_check: Optional[str] = None,
        health_interval: Optional[float] = None,
        health_timeout: Optional[float] = None,
        health_retries: Optional[int] = None,
        health_start_period: Optional[float] = None,
        stop_timeout: Optional[float] = None,
        remove_at_end: Optional[bool] = None,
        base_file: Optional[Path] = None,
        base_format: Optional[str] = None,
        base_initrd: Optional[Path] = None,
        base_modules: Optional[Path] = None,
        executable: Optional[Path] = None,
        seccomp: Optional[bool] = None,
        on_progress: Optional[OnProgress] = None,
        cancel: Optional[CancelToken] = None,
    ) -> None:
        """Makes a sandbox from an image (``"alpine"``, ``"alpine:3.23"``) or from ``base_file``, starts it, and returns when
        commands can run in it. What is ``None`` is as usual; ``vmm run --help`` says what that is."""
        self._handle = _Handle(lib.vmm_free, "sandbox")
        options: List[Tuple[str, Any]] = [
            ("name", name),
            ("cpus", cpus),
            ("memory", _size(memory)),
            ("disk_size", _size(disk_size)),
            ("pull", pull),
            ("engine", engine),
            ("require_hardware", require_hardware),
            ("host_name", host_name),
            ("root_writes", root_writes),
            ("overlay", overlay),
            ("init", init),
            ("nested", nested),
            ("balloon", balloon),
            ("huge_pages", huge_pages),
            ("console", console),
            ("kernel", kernel),
            ("command_line", command_line),
            ("boot_profile", boot_profile),
            ("restart", restart),
            ("health_check", health_check),
            ("health_interval", _seconds(health_interval)),
            ("health_timeout", _seconds(health_timeout)),
            ("health_retries", health_retries),
            ("health_start_period", _seconds(health_start_period)),
            ("stop_timeout", _seconds(stop_timeout)),
            ("remove_at_end", remove_at_end),
            ("base_file", base_file),
            ("base_format", base_format),
            ("base_initrd", base_initrd),
            ("base_modules", base_modules),
            *_of_start(detached, home, ready_timeout, executable, seccomp),
            *[("env", variable) for variable in _variables(env)],
            *[("disk", disk) for disk in disks],
        ]
        self._take(image, options, on_progress, cancel, lambda native: make(lib.vmm_open, native))

    @classmethod
    def start(
        cls,
        name: str,
        *,
        detached: Optional[bool] = None,
        home: Optional[Path] = None,
        ready_timeout: Optional[float] = None,
        executable: Optional[Path] = None,
        seccomp: Optional[bool] = None,
        on_progress: Optional[OnProgress] = None,
        cancel: Optional[CancelToken] = None,
    ) -> "Sandbox":
        """Starts a sandbox that was made before and does not run."""
        sandbox = cls._new()
        options = _of_start(detached, home, ready_timeout, executable, seccomp)
        text = c_text(name, "name")
        sandbox._take(None, options, on_progress, cancel, lambda native: make(lib.vmm_start, native, text))
        return sandbox

    @classmethod
    def attach(cls, name: str, *, home: Optional[Path] = None) -> "Sandbox":
        """A handle on a sandbox that is there, whether it runs or not, by name or id. The handle does not own it."""
        sandbox = cls._new()
        folder = None if home is None else c_text(home, "home")
        sandbox._handle.hold(make(lib.vmm_attach, folder, c_text(name, "name")))
        return sandbox

    @classmethod
    def _new(cls) -> "Sandbox":
        sandbox = cls.__new__(cls)
        sandbox._handle = _Handle(lib.vmm_free, "sandbox")
        return sandbox

    def _take(
        self,
        image: Optional[str],
        options: Sequence[Tuple[str, Any]],
        on_progress: Optional[OnProgress],
        cancel: Optional[CancelToken],
        start: Callable[[int], int],
    ) -> None:
        native = make(lib.vmm_options_new, None if image is None else c_text(image, "image"))
        token = cancel if cancel is not None else CancelToken()
        listener = None
        try:
            for name, value in options:
                if value is not None:
                    check(lib.vmm_options_set(native, name.encode(), _text(name, value)))
            check(lib.vmm_options_cancel(native, token._pointer))
            if on_progress is not None:
                listener = _listener(on_progress)
                check(lib.vmm_options_progress(native, listener, None))
            self._handle.hold(interruptible(lambda: start(native), token, lib.vmm_free))
        finally:
            lib.vmm_options_free(native)
            # It must not go before the options that call it.
            del listener

    @property
    def name(self) -> str:
        """What to call it: its name, or else its id."""
        with self._handle as pointer:
            return lib.vmm_name(pointer).decode()

    @property
    def id(self) -> str:
        """Its id."""
        with self._handle as pointer:
            return lib.vmm_id(pointer).decode()

    def exec(
        self,
        command: Optional[Words] = None,
        *,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[Path] = None,
        user: Optional[str] = None,
        stdin: Union[bytes, str, None] = None,
        timeout: Optional[float] = None,
        output_limit: Optional[int] = None,
        check: bool = False,
        cancel: Optional[CancelToken] = None,
    ) -> Result:
        """Runs a command to its end and collects what it writes: a text by ``sh -c``, a list of words as it is.

        ``timeout`` (seconds) kills it with everything that it started, and is a result (``timed_out``), not an error.
        ``output_limit`` is how many bytes of each output are kept, 16 MiB where nothing is said. ``check`` raises
        :class:`CommandFailed` unless it ends with status 0.
        """
        token = cancel if cancel is not None else CancelToken()
        native = _command(command, env, workdir, user, stdin, timeout)
        if output_limit is not None:
            if output_limit < 1:
                raise InvalidRequest("invalid", "output_limit is at least 1")
            native.output_limit = output_limit
        native.cancel = token._pointer
        with self._handle as pointer:
            call = lambda: make(lib.vmm_exec, pointer, byref(native))  # noqa: E731
            output_pointer = interruptible(call, token, lib.vmm_output_free)
        try:
            output = _native.Output.from_address(output_pointer)
            result = Result(
                output.status,
                ctypes.string_at(output.out, output.out_length),
                ctypes.string_at(output.err, output.err_length),
                output.timed_out,
                output.truncated,
                output.signal or None,
            )
        finally:
            lib.vmm_output_free(output_pointer)
        return result.check() if check else result

    def stream(
        self,
        command: Optional[Words] = None,
        *,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[Path] = None,
        user: Optional[str] = None,
        stdin: Union[bytes, str, None] = None,
        piped: bool = False,
        terminal: Optional[Tuple[int, int]] = None,
        timeout: Optional[float] = None,
    ) -> Process:
        """Starts a command, to be read while it runs. With ``piped`` it reads what :meth:`Process.write` sends; with
        ``terminal`` it has one of so many rows and columns, and its output is one stream."""
        native = _command(command, env, workdir, user, stdin, timeout)
        native.input_piped = piped
        if terminal is not None:
            native.rows, native.columns = terminal
        with self._handle as pointer:
            return Process(make(lib.vmm_spawn, pointer, byref(native)))

    def exec_detached(
        self,
        command: Words,
        *,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[Path] = None,
        user: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> int:
        """Starts a command and leaves it to itself. Its id is returned, for :meth:`attach_process`."""
        native = _command(command, env, workdir, user, None, timeout)
        place = c_uint64()
        with self._handle as pointer:
            check(lib.vmm_spawn_detached(pointer, byref(native), byref(place)))
        return place.value

    def attach_process(self, process: int) -> Process:
        """Goes back to a command that was started before: its output from now on, after the last of what it wrote
        meanwhile."""
        with self._handle as pointer:
            return Process(make(lib.vmm_attach_process, pointer, process))

    def processes(self) -> List[Dict[str, Any]]:
        """The commands that were started in it: those that run, and those that ended last."""
        return self._ask(lib.vmm_processes)

    def write_file(self, path: Path, contents: Union[bytes, str]) -> None:
        """Writes a file in the guest. One that is there is replaced, all at once."""
        data = contents.encode() if isinstance(contents, str) else bytes(contents)
        with self._handle as pointer:
            check(lib.vmm_write_file(pointer, c_text(path, "path"), data, len(data)))

    def read_file(self, path: Path, limit: int = 16 << 20) -> bytes:
        """Reads a file of the guest. One that is longer than ``limit`` is an error."""
        with self._handle as pointer:
            return take_bytes(make(lib.vmm_read_file, pointer, c_text(path, "path"), limit))

    def copy_in(
        self,
        source: Path,
        target: Path,
        *,
        owner: Optional[str] = None,
        set_id: bool = False,
        devices: bool = False,
        cancel: Optional[CancelToken] = None,
    ) -> Copied:
        """Copies a file or tree into the guest, by the rules of ``cp -a``. ``owner`` is ``"keep"`` or ``"user:group"``."""
        return self._copy(lib.vmm_copy_in, source, target, owner, set_id, devices, cancel)

    def copy_out(
        self,
        source: Path,
        target: Path,
        *,
        owner: Optional[str] = None,
        set_id: bool = False,
        devices: bool = False,
        max_bytes: Optional[int] = None,
        max_entries: Optional[int] = None,
        cancel: Optional[CancelToken] = None,
    ) -> Copied:
        """Copies a file or tree out of the guest, by the same rules. Nothing that the guest sends reaches beyond the
        target, nor more than ``max_bytes`` and ``max_entries``."""
        return self._copy(lib.vmm_copy_out, source, target, owner, set_id, devices, cancel, max_bytes, max_entries)

    def _copy(
        self, function, source, target, owner, set_id, devices, cancel, max_bytes=None, max_entries=None
    ) -> Copied:
        token = cancel if cancel is not None else CancelToken()
        native = _native.Copy(set_id=set_id, devices=devices, cancel=token._pointer)
        native.owner = None if owner is None else c_text(owner, "owner")
        for field, limit in (("max_bytes", max_bytes), ("max_entries", max_entries)):
            if limit is not None:
                if limit < 1:
                    raise InvalidRequest("invalid", f"{field} is at least 1")
                setattr(native, field, limit)
        source, target = c_text(source, "source"), c_text(target, "target")
        with self._handle as pointer:
            call = lambda: make(function, pointer, source, target, byref(native))  # noqa: E731
            return Copied(**json.loads(take_bytes(interruptible(call, token))))

    def info(self) -> Dict[str, Any]:
        """What is known of it, as ``vmm ps --json`` has it."""
        return self._ask(lib.vmm_info)

    def health(self) -> Dict[str, Any]:
        """How its guest is: load, memory, disks, uptime."""
        return self._ask(lib.vmm_health)

    def _ask(self, function) -> Any:
        with self._handle as pointer:
            return json.loads(take_bytes(make(function, pointer)))

    def wait_until_ready(self, cancel: Optional[CancelToken] = None) -> None:
        """Waits until commands can run in it, when somebody else starts it."""
        token = cancel if cancel is not None else CancelToken()
        with self._handle as pointer:
            interruptible(lambda: check(lib.vmm_wait_until_ready(pointer, token._pointer)), token)

    def wait(self, cancel: Optional[CancelToken] = None) -> Dict[str, Any]:
        """Waits until it has ended, and says how."""
        token = cancel if cancel is not None else CancelToken()
        with self._handle as pointer:
            ended = interruptible(lambda: make(lib.vmm_wait, pointer, token._pointer), token)
        return json.loads(take_bytes(ended))

    def stop(self, grace: Optional[float] = None) -> None:
        """Shuts it down in order; a guest that takes longer than ``grace`` seconds (its ``stop_timeout``, where nothing is
        said) is stopped at once."""
        with self._handle as pointer:
            check(lib.vmm_stop(pointer, -1 if grace is None else max(0, round(grace * 1000))))

    def kill(self) -> None:
        """Stops it at once."""
        with self._handle as pointer:
            check(lib.vmm_kill(pointer))

    def pause(self) -> None:
        """Has its processors stand still: it keeps its memory and answers nothing until :meth:`resume`."""
        with self._handle as pointer:
            check(lib.vmm_pause(pointer))

    def resume(self) -> None:
        """Lets its processors go on. Its clock is right when this returns."""
        with self._handle as pointer:
            check(lib.vmm_resume(pointer))

    def remove(self, force: bool = False) -> None:
        """Removes it with its disk. One that runs is only removed with ``force``."""
        with self._handle as pointer:
            check(lib.vmm_remove(pointer, force))

    def close(self) -> None:
        """Lets go of it, when calls of other threads have returned (:meth:`kill` has them return). One that was made or
        started here, and is not detached, ends by that."""
        super().close()

    def __repr__(self) -> str:
        try:
            return f"<Sandbox {self.name}>"
        except VmmError:
            return "<Sandbox, closed>"


def list_sandboxes(*, home: Optional[Path] = None) -> List[Dict[str, Any]]:
    """What is known of every sandbox, as ``vmm ps --json`` has it."""
    folder = None if home is None else c_text(home, "home")
    return json.loads(take_bytes(make(lib.vmm_list, folder)))


def _of_start(detached, home, ready_timeout, executable, seccomp) -> List[Tuple[str, Any]]:
    return [
        ("detached", detached),
        ("home", home),
        ("ready_timeout", _seconds(ready_timeout)),
        ("executable", executable),
        ("seccomp", seccomp),
    ]


def _text(name: str, value: Any) -> bytes:
    """The value of an option, as the command line writes it."""
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return c_text(str(value) if isinstance(value, int) else value, name)


def _seconds(span: Optional[float]) -> Optional[str]:
    """A span of time, of which there is always something."""
    return None if span is None else f"{max(1, round(span * 1000))}ms"


def _size(size: Optional[Size]) -> Optional[str]:
    """A number is bytes; the command line's is mebibytes."""
    if isinstance(size, int) and not isinstance(size, bool):
        if size < 0:
            raise InvalidRequest("invalid", f"{size} bytes are less than none")
        return f"{-(-size // 1024)}K"
    return size


def _variables(env: Optional[Mapping[str, str]]) -> List[bytes]:
    return [c_text(key, "env") + b"=" + c_text(value, "env") for key, value in (env or {}).items()]


def _listener(on_progress: OnProgress):
    def tell(_context, step: bytes, done: int, total: int) -> None:
        on_progress(step.decode("utf-8", "replace"), done, total or None)

    return _native.ProgressFunction(tell)


def _command(command, env, workdir, user, stdin, timeout) -> _native.Command:
    if isinstance(command, str):
        command = ["sh", "-c", command]
    native = _native.Command()
    native.argv = texts(None if command is None else [c_text(word, "an argument") for word in command])
    native.env = texts(_variables(env) if env else None)
    native.workdir = None if workdir is None else c_text(workdir, "workdir")
    native.user = None if user is None else c_text(user, "user")
    if stdin is not None:
        data = stdin.encode() if isinstance(stdin, str) else bytes(stdin)
        native.input, native.input_length = data, len(data)
    if timeout is not None:
        # One that is nothing would be none.
        native.timeout_ms = max(1, round(timeout * 1000))
    return native
