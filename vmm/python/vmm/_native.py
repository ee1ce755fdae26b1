"""The calls of libvmm.so, as vmm.h declares them, and nothing more.

A call that fails raises: every function here returns an error object or null, and ``check`` turns it into an
exception.
"""

import ctypes
import os
from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    byref,
    c_bool,
    c_char_p,
    c_int32,
    c_int64,
    c_size_t,
    c_uint16,
    c_uint64,
    c_void_p,
)

from ._errors import VmmError, error_of


def _library_path():
    """VMM_LIBRARY, or the library that this package carries."""
    named = os.environ.get("VMM_LIBRARY")
    if named:
        return named
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "native", "libvmm.so")


class Bytes(Structure):
    _fields_ = [("data", c_void_p), ("length", c_size_t)]


class Command(Structure):
    _fields_ = [
        ("argv", POINTER(c_char_p)),
        ("env", POINTER(c_char_p)),
        ("workdir", c_char_p),
        ("user", c_char_p),
        ("input", c_char_p),
        ("input_length", c_size_t),
        ("input_piped", c_bool),
        ("rows", c_uint16),
        ("columns", c_uint16),
        ("timeout_ms", c_uint64),
        ("output_limit", c_size_t),
        ("cancel", c_void_p),
        ("reserved", c_void_p * 4),
    ]


class Output(Structure):
    _fields_ = [
        ("status", c_int32),
        ("signal", c_int32),
        ("timed_out", c_bool),
        ("truncated", c_bool),
        ("out", c_void_p),
        ("out_length", c_size_t),
        ("err", c_void_p),
        ("err_length", c_size_t),
    ]


class Event(Structure):
    _fields_ = [
        ("kind", c_int32),
        ("status", c_int32),
        ("signal", c_int32),
        ("timed_out", c_bool),
        ("data", c_void_p),
        ("length", c_size_t),
    ]


class Copy(Structure):
    _fields_ = [
        ("owner", c_char_p),
        ("set_id", c_bool),
        ("devices", c_bool),
        ("max_bytes", c_uint64),
        ("max_entries", c_uint64),
        ("patience_ms", c_uint64),
        ("cancel", c_void_p),
        ("reserved", c_void_p * 4),
    ]


STDOUT, STDERR, ENDED = 1, 2, 3

ProgressFunction = CFUNCTYPE(None, c_void_p, c_char_p, c_uint64, c_uint64)

_OUT = POINTER(c_void_p)

# Each function that returns an error, by its parameters.
_CALLS = {
    "vmm_cancel_new": [_OUT],
    "vmm_cancel_now": [c_void_p],
    "vmm_options_new": [c_char_p, _OUT],
    "vmm_options_set": [c_void_p, c_char_p, c_char_p],
    "vmm_options_cancel": [c_void_p, c_void_p],
    "vmm_options_progress": [c_void_p, ProgressFunction, c_void_p],
    "vmm_open": [c_void_p, _OUT],
    "vmm_start": [c_void_p, c_char_p, _OUT],
    "vmm_attach": [c_char_p, c_char_p, _OUT],
    "vmm_list": [c_char_p, _OUT],
    "vmm_info": [c_void_p, _OUT],
    "vmm_health": [c_void_p, _OUT],
    "vmm_processes": [c_void_p, _OUT],
    "vmm_wait_until_ready": [c_void_p, c_void_p],
    "vmm_wait": [c_void_p, c_void_p, _OUT],
    "vmm_stop": [c_void_p, c_int64],
    "vmm_kill": [c_void_p],
    "vmm_pause": [c_void_p],
    "vmm_resume": [c_void_p],
    "vmm_remove": [c_void_p, c_bool],
    "vmm_exec": [c_void_p, POINTER(Command), _OUT],
    "vmm_spawn": [c_void_p, POINTER(Command), _OUT],
    "vmm_spawn_detached": [c_void_p, POINTER(Command), POINTER(c_uint64)],
    "vmm_attach_process": [c_void_p, c_uint64, _OUT],
    "vmm_process_next": [c_void_p, c_int64, c_void_p, _OUT],
    "vmm_process_write": [c_void_p, c_char_p, c_size_t],
    "vmm_process_close_input": [c_void_p],
    "vmm_process_signal": [c_void_p, c_int32],
    "vmm_process_resize": [c_void_p, c_uint16, c_uint16],
    "vmm_process_detach": [c_void_p],
    "vmm_write_file": [c_void_p, c_char_p, c_char_p, c_size_t],
    "vmm_read_file": [c_void_p, c_char_p, c_size_t, _OUT],
    "vmm_copy_in": [c_void_p, c_char_p, c_char_p, POINTER(Copy), _OUT],
    "vmm_copy_out": [c_void_p, c_char_p, c_char_p, POINTER(Copy), _OUT],
}

# The others: what they return, and their parameters.
_OTHERS = {
    "vmm_version": (c_char_p, []),
    "vmm_error_code": (c_char_p, [c_void_p]),
    "vmm_error_message": (c_char_p, [c_void_p]),
    "vmm_error_hint": (c_char_p, [c_void_p]),
    "vmm_error_console": (c_char_p, [c_void_p]),
    "vmm_name": (c_char_p, [c_void_p]),
    "vmm_id": (c_char_p, [c_void_p]),
    "vmm_process_id": (c_uint64, [c_void_p]),
    "vmm_error_free": (None, [c_void_p]),
    "vmm_bytes_free": (None, [c_void_p]),
    "vmm_cancel_free": (None, [c_void_p]),
    "vmm_options_free": (None, [c_void_p]),
    "vmm_free": (None, [c_void_p]),
    "vmm_output_free": (None, [c_void_p]),
    "vmm_event_free": (None, [c_void_p]),
    "vmm_process_free": (None, [c_void_p]),
}


def _load():
    path = _library_path()
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise ImportError(f"cannot load the library of vmm: {error}; VMM_LIBRARY names another one") from error
    for name, parameters in _CALLS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = c_void_p, parameters
    for name, (result, parameters) in _OTHERS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
    return library


lib = _load()


def check(error):
    """Raises what an error object says, and frees it."""
    if not error:
        return
    try:
        texts = [getattr(lib, f"vmm_error_{part}")(error) for part in ("code", "message", "hint", "console")]
    finally:
        lib.vmm_error_free(error)
    raise error_of(*[None if text is None else text.decode("utf-8", "replace") for text in texts])


def make(function, *arguments):
    """Calls what makes an object; its pointer is returned."""
    place = c_void_p()
    check(function(*arguments, byref(place)))
    return place.value


def take_bytes(pointer):
    """Copies bytes that were handed out, and frees them."""
    try:
        held = Bytes.from_address(pointer)
        return ctypes.string_at(held.data, held.length)
    finally:
        lib.vmm_bytes_free(pointer)


def texts(values):
    """Texts for C, up to a null pointer; null for none."""
    if values is None:
        return None
    return (c_char_p * (len(values) + 1))(*values, None)


def c_text(value, what):
    """Text for C, in which a zero would be the end. Names of files may have bytes that are no UTF-8."""
    encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise VmmError("invalid", f"{what} has a zero byte")
    return encoded
