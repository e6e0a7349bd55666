"""Contexts, streams, events and buffers."""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import _abi
from ._library import library
from .arrays import Array, view
from .enums import Backend, FaultFlags, Isa, LogLevel
from .errors import InvalidArgumentError
from .handles import Handle, create


@dataclass(frozen=True)
class BackendInfo:
    """What is known of a backend's device."""

    backend: Backend
    available: bool
    device_count: int
    threads: int
    isa: Isa
    name: str


@dataclass(frozen=True)
class Faults:
    """The sticky fault word of a context. False where nothing was set."""

    flags: FaultFlags
    bad_group: int | None

    def __bool__(self) -> bool:
        return bool(self.flags)


@dataclass(frozen=True)
class PoolStats:
    """What a context's memory pool holds and has done."""

    bytes_in_use: int
    bytes_reserved: int
    peak_bytes_in_use: int
    allocations: int
    reuses: int


def _info(raw: _abi.nvfp4_backend_info) -> BackendInfo:
    return BackendInfo(
        Backend(raw.backend), bool(raw.available), raw.device_count, raw.threads, Isa(raw.isa), raw.name.decode("utf-8", "replace")
    )


def version() -> tuple[int, int, int]:
    """Version of the library: (major, minor, patch)."""
    number = library().functions["nvfp4_version"]()
    return number // 10000, number // 100 % 100, number % 100


def version_string() -> str:
    """Version of the library as text."""
    text: bytes = library().functions["nvfp4_version_string"]()
    return text.decode()


def abi_version() -> int:
    """Version of the library's ABI."""
    return int(library().functions["nvfp4_abi_version"]())


def status_name(status: int) -> str | None:
    """The header's name of a status; None for a number that is none."""
    name: bytes | None = library().functions["nvfp4_status_name"](status)
    return None if name is None else name.decode()


def last_message() -> str:
    """Why the last failed call of this thread failed; empty where none did."""
    return library().last_message()


def backend_query(backend: int = Backend.CPU, device: int = 0) -> BackendInfo:
    """What is known of a device, without a context."""
    raw = _abi.nvfp4_backend_info()
    library().call("nvfp4_backend_query", backend, device, ctypes.byref(raw))
    return _info(raw)


_log_function: Callable[[int, str], None] | None = None


def _log(level: int, message: bytes | None, _user_data: Any) -> None:
    function = _log_function
    if function is not None:
        function(level, (message or b"").decode("utf-8", "replace"))


#: Both live as long as the process: the library may call the first at any time.
_LOG, _NO_LOG = _abi.nvfp4_log_callback(_log), _abi.nvfp4_log_callback()


def set_log_callback(callback: Callable[[int, str], None] | None, level: int = LogLevel.WARNING) -> None:
    """Sends the library's messages up to `level` (a LogLevel) to callback(level, message); None: off.

    It is called on the thread that caused the message, and must not call this function. One callback a process.
    """
    global _log_function
    library().call("nvfp4_set_log_callback", _NO_LOG if callback is None else _LOG, None, level)
    _log_function = callback
    if callback is not None:
        # The library must not call into an interpreter that has ended.
        atexit.unregister(_log_off)
        atexit.register(_log_off)


def _log_off() -> None:
    library().functions["nvfp4_set_log_callback"](_NO_LOG, None, 0)


class Capture:
    """A capture in progress: the streams in it, and every array that its graph will need."""

    def __init__(self, origin: Stream) -> None:
        self.streams = [origin]
        self.keep: list[Any] = []

    def join(self, stream: Stream) -> None:
        if stream not in self.streams:
            self.streams.append(stream)
        stream.capture = self

    def end(self) -> list[Any]:
        """Takes the streams out; gives what the graph has to keep."""
        for stream in self.streams:
            stream.capture = None
        keep, self.keep = self.keep, []  # events may hold on to this object
        return keep


class Context(Handle):
    """One device in use, or this processor: threads, a memory pool, a fault word. May be used from several threads."""

    kind = "context"

    def __init__(self, backend: int = Backend.CPU, device: int = 0, threads: int = 0, isa: int = Isa.BEST, flags: int = 0) -> None:
        options = _abi.nvfp4_context_options(backend=backend, device=device, threads=threads, isa=isa, flags=flags)
        super().__init__(create("nvfp4_context_create", _abi.nvfp4_context, ctypes.byref(options)))
        self.backend = Backend(backend)
        self.device = device
        self._stream: Stream | None = None
        self._lock = threading.Lock()

    @property
    def stream(self) -> Stream:
        """The stream of calls that name none."""
        self.handle
        with self._lock:
            if self._stream is None or self._stream.closed:
                self._stream = Stream(self)
            return self._stream

    def close(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.close()
        super().close()

    def info(self) -> BackendInfo:
        raw = _abi.nvfp4_backend_info()
        library().call("nvfp4_context_info", self.handle, ctypes.byref(raw))
        return _info(raw)

    def faults(self) -> Faults:
        """What work on any stream has met since the last clear; does not wait for work under way."""
        raw = _abi.nvfp4_faults()
        library().call("nvfp4_context_faults", self.handle, ctypes.byref(raw))
        return Faults(FaultFlags(raw.flags), None if raw.bad_group < 0 else raw.bad_group)

    def clear_faults(self) -> None:
        library().call("nvfp4_context_clear_faults", self.handle)

    def synchronize(self) -> None:
        """Waits for all work of the context."""
        library().call("nvfp4_context_synchronize", self.handle)

    def pool_stats(self) -> PoolStats:
        raw = _abi.nvfp4_pool_stats()
        library().call("nvfp4_context_pool_stats", self.handle, ctypes.byref(raw))
        return PoolStats(raw.bytes_in_use, raw.bytes_reserved, raw.peak_bytes_in_use, raw.allocations, raw.reuses)

    def pool_trim(self, keep_bytes: int = 0) -> None:
        """Gives kept memory back until `keep_bytes` are reserved, or all that is free."""
        library().call("nvfp4_context_pool_trim", self.handle, keep_bytes)

    def feature_supported(self, feature: int) -> bool:
        supported = ctypes.c_int32()
        library().call("nvfp4_feature_supported", self.handle, feature, ctypes.byref(supported))
        return bool(supported.value)

    def prepare(self) -> None:
        """Loads all that calls need, so that they may be captured."""
        library().call("nvfp4_prepare", self.handle, None)

    def load_tuning(self, path: str | os.PathLike[str] | None) -> int:
        """Takes the choices of kernels of a file in place of those in use; None forgets all. Gives their number: 0 where
        the file is missing, damaged or of another device, driver or library, which the log is told."""
        choices = ctypes.c_size_t()
        encoded = None if path is None else os.fsencode(path)
        library().call("nvfp4_tuning_load", self.handle, encoded, ctypes.byref(choices))
        return int(choices.value)

    def save_tuning(self, path: str | os.PathLike[str]) -> None:
        """Writes the choices of kernels in use (nvfp4.tune) to a file, in one step."""
        library().call("nvfp4_tuning_save", self.handle, os.fsencode(path))


class Stream(Handle):
    """An ordered queue of work of a context. On the CPU a call has completed when it returns."""

    kind = "stream"

    def __init__(self, context: Context) -> None:
        super().__init__(create("nvfp4_stream_create", _abi.nvfp4_stream, context.handle))
        self.context = context
        self.capture: Capture | None = None

    @classmethod
    def borrow(cls, context: Context, native: int | None = None) -> Stream:
        """A stream made elsewhere (a CUstream's address, as torch's `stream.cuda_stream`), used but not owned.

        On the CPU there is none: pass None.
        """
        stream = cls.__new__(cls)
        Handle.__init__(stream, create("nvfp4_stream_borrow", _abi.nvfp4_stream, context.handle, native))
        stream.context = context
        stream.capture = None
        return stream

    def synchronize(self) -> None:
        library().call("nvfp4_stream_synchronize", self.handle)

    def query(self) -> bool:
        """Whether all work is done."""
        done = ctypes.c_int32()
        library().call("nvfp4_stream_query", self.handle, ctypes.byref(done))
        return bool(done.value)


class Event(Handle):
    """A point in a stream."""

    kind = "event"

    def __init__(self, context: Context) -> None:
        super().__init__(create("nvfp4_event_create", _abi.nvfp4_event, context.handle))
        self.context = context
        self._capture: Capture | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or self.context.stream
        library().call("nvfp4_event_record", self.handle, stream.handle)
        self._capture = stream.capture

    def wait(self, stream: Stream | None = None) -> None:
        """Makes `stream` wait for the event; inside a capture, joins it to the capture."""
        stream = stream or self.context.stream
        library().call("nvfp4_event_wait", self.handle, stream.handle)
        if self._capture is not None:
            self._capture.join(stream)

    def synchronize(self) -> None:
        library().call("nvfp4_event_synchronize", self.handle)

    def query(self) -> bool:
        """Whether the work before the event is done."""
        done = ctypes.c_int32()
        library().call("nvfp4_event_query", self.handle, ctypes.byref(done))
        return bool(done.value)

    def elapsed_ms(self, end: Event) -> float:
        """Milliseconds from this event to `end`."""
        ms = ctypes.c_float()
        library().call("nvfp4_event_elapsed_ms", self.handle, end.handle, ctypes.byref(ms))
        return float(ms.value)


class Buffer(Handle):
    """Device memory from the context's pool, 256-byte aligned; an array of uint8 to every call and to numpy or CuPy.

    Closing it while an array still looks at it, or a graph still uses it, is the caller's mistake to avoid.
    """

    kind = "buffer"

    def __init__(self, context: Context, size: int, stream: Stream | None = None) -> None:
        stream = stream or context.stream
        super().__init__(create("nvfp4_buffer_create", _abi.nvfp4_buffer, context.handle, size, stream.handle))
        self.context = context

    @property
    def data(self) -> int:
        """Its address on the device."""
        data = ctypes.c_void_p()
        library().call("nvfp4_buffer_data", self.handle, ctypes.byref(data))
        return int(data.value or 0)

    @property
    def size(self) -> int:
        """Its bytes."""
        size = ctypes.c_size_t()
        library().call("nvfp4_buffer_size", self.handle, ctypes.byref(size))
        return int(size.value)

    def _interface(self) -> dict[str, Any]:
        return {"version": 3, "shape": (self.size,), "typestr": "|u1", "data": (self.data, False), "strides": None}

    @property
    def __array_interface__(self) -> dict[str, Any]:
        if self.context.backend != Backend.CPU:
            raise AttributeError("the buffer is not in host memory")
        return self._interface()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.context.backend != Backend.CUDA:
            raise AttributeError("the buffer is not in GPU memory")
        return self._interface()

    def upload(self, src: Array, offset: int = 0, stream: Stream | None = None) -> None:
        """Copies a dense host array into the buffer, from byte `offset` on."""
        stream = stream or self.context.stream
        source = _host_bytes("src", src)
        library().call("nvfp4_buffer_upload", self.handle, offset, source.pointer, source.nbytes, stream.handle)
        _keep(stream, self, source.owner)

    def download(self, dst: Array, offset: int = 0, stream: Stream | None = None) -> None:
        """Fills a dense host array from the buffer, from byte `offset` on."""
        stream = stream or self.context.stream
        target = _host_bytes("dst", dst)
        if target.readonly:
            raise InvalidArgumentError("dst is read-only; pass a writable array")
        library().call("nvfp4_buffer_download", self.handle, offset, target.pointer, target.nbytes, stream.handle)
        _keep(stream, self, target.owner)

    def copy_from(
        self, src: Buffer, size: int, dst_offset: int = 0, src_offset: int = 0, stream: Stream | None = None
    ) -> None:
        """Copies `size` bytes of another buffer into this one."""
        stream = stream or self.context.stream
        library().call("nvfp4_buffer_copy", self.handle, dst_offset, src.handle, src_offset, size, stream.handle)
        _keep(stream, self, src)


def _host_bytes(argument: str, array: Array) -> Any:
    found = view(argument, array)
    if found.device != "cpu":
        raise InvalidArgumentError(f"{argument} is on {found.device}; pass host memory")
    if not found.contiguous:
        raise InvalidArgumentError(f"{argument} is not contiguous; copy it")
    return found


def _keep(stream: Stream, *owners: Any) -> None:
    if stream.capture is not None:
        stream.capture.keep.extend(owners)
