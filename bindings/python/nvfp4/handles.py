"""What all handles share: closing, context management, and destruction when unused, at the latest when Python ends."""

from __future__ import annotations

import ctypes
import weakref
from types import TracebackType
from typing import Any, TypeVar

from ._library import library
from .errors import ForkedError, InvalidHandleError

H = TypeVar("H", bound="Handle")


def _destroy(function: str, value: int) -> None:
    # A failure (a handle from before a fork) leaves nothing to do.
    library().functions[function](value)


class Handle:
    """Owns one handle of the library. `close` may be called any number of times; use after it is refused."""

    kind = "handle"

    def __init__(self, value: int) -> None:
        self._value = value
        self._finalizer = weakref.finalize(self, _destroy, f"nvfp4_{self.kind}_destroy", value)

    @property
    def handle(self) -> int:
        """The handle as C sees it."""
        if not self._finalizer.alive:
            raise InvalidHandleError(f"the {self.kind} is closed; create another")
        return self._value

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """Destroys the handle. Work that was submitted with it still completes. Refused for a stream that captures."""
        if self._finalizer.detach() is None:
            return
        try:
            library().call(f"nvfp4_{self.kind}_destroy", self._value)
        except (ForkedError, InvalidHandleError):
            pass  # not this process's to destroy, or destroyed by someone else
        except BaseException:
            self._finalizer = weakref.finalize(self, _destroy, f"nvfp4_{self.kind}_destroy", self._value)
            raise

    def __enter__(self: H) -> H:
        self.handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<nvfp4.{type(self).__name__} {'closed' if self.closed else hex(self._value)}>"


def create(function: str, handle: type[ctypes.c_void_p], *arguments: Any) -> int:
    """Calls a function whose last argument takes a new handle."""
    out = handle()
    library().call(function, *arguments, ctypes.byref(out))
    return int(out.value or 0)


