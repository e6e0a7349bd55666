"""Finds and loads libnvfp4, checks its ABI version, and turns failed calls into exceptions."""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from . import _abi, errors

_HERE = pathlib.Path(__file__).resolve().parent
_lock = threading.Lock()
_loaded: Library | None = None


def _names() -> tuple[str, ...]:
    if sys.platform == "darwin":
        return ("libnvfp4.dylib",)
    if sys.platform == "win32":
        return ("nvfp4.dll",)
    return ("libnvfp4.so.1", "libnvfp4.so")


def candidates() -> Iterator[str]:
    """Where the library is looked for, best first; an explicit NVFP4_LIBRARY is the only candidate."""
    explicit = os.environ.get("NVFP4_LIBRARY")
    if explicit:
        yield explicit
        return
    folders = [_HERE]
    if len(_HERE.parents) > 2 and (_HERE.parents[2] / "Cargo.toml").is_file():
        folders.append(_HERE.parents[2] / "target" / "release")
    for folder in folders:
        for name in _names():
            if (folder / name).is_file():
                yield str(folder / name)
    yield from _names()


class Library:
    """The loaded library: its functions by name, and `call` for those that return a status."""

    def __init__(self, path: str, dll: ctypes.CDLL) -> None:
        self.path = path
        self.dll = dll
        self.functions: dict[str, Callable[..., Any]] = {}
        for name, (result, arguments) in _abi.PROTOTYPES.items():
            try:
                function = getattr(dll, name)
            except AttributeError:
                raise errors.LibraryError(f"{path} has no {name}; this package needs another version of it") from None
            function.restype = result
            function.argtypes = arguments
            self.functions[name] = function
        version = self.functions["nvfp4_abi_version"]()
        if version != _abi.ABI_VERSION:
            raise errors.LibraryError(f"{path} has ABI version {version}; this package needs {_abi.ABI_VERSION}")

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function that returns a status; raises its exception, with the library's message, where it failed."""
        status = self.functions[name](*arguments)
        if status != 0:
            raise errors.from_status(status, self.last_message())

    def last_message(self) -> str:
        """Why the last failed call of this thread failed."""
        message: bytes = self.functions["nvfp4_last_message"]() or b""
        return message.decode("utf-8", "replace")


def library() -> Library:
    """The library, loaded at first use."""
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                _loaded = _load()
    return _loaded


def _load() -> Library:
    problems: list[str] = []
    for path in candidates():
        try:
            dll = ctypes.CDLL(path)
        except OSError as problem:
            problems.append(str(problem))
        else:
            return Library(path, dll)
    raise errors.LibraryError(
        "libnvfp4 was not found; set NVFP4_LIBRARY to its path, or build it with `cargo build --release` ("
        + "; ".join(problems)
        + ")"
    )
