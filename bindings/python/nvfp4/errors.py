"""One exception class a status. Each carries `.status` and the library's message."""

from __future__ import annotations

from .enums import Status


class LibraryError(ImportError):
    """libnvfp4 could not be found or loaded, or is of another ABI version."""


class NvFp4Error(Exception):
    """A call failed. Its outputs are untouched."""

    status: Status = Status.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgumentError(NvFp4Error, ValueError):
    """An argument breaks a rule of its documentation; the message names it."""

    status = Status.INVALID_ARGUMENT


class InvalidHandleError(NvFp4Error, ValueError):
    """A handle is closed, of another kind or of another context."""

    status = Status.INVALID_HANDLE


class UnsupportedError(NvFp4Error, NotImplementedError):
    """The arguments are legal, but this build has no path for them."""

    status = Status.UNSUPPORTED


class UnsupportedDeviceError(UnsupportedError):
    """The library holds no kernel image for this GPU, or the device does not exist."""

    status = Status.UNSUPPORTED_DEVICE


class UnsupportedDriverError(UnsupportedError):
    """The GPU driver is missing or too old."""

    status = Status.UNSUPPORTED_DRIVER


class OutOfMemoryError(NvFp4Error, MemoryError):
    """Host or device memory could not be allocated."""

    status = Status.OUT_OF_MEMORY


class NotPreparedError(NvFp4Error, RuntimeError):
    """The call needs a kernel that is not loaded, or a graph that was not instantiated."""

    status = Status.NOT_PREPARED


class CaptureError(NvFp4Error, RuntimeError):
    """The call is not allowed in the stream's capture state."""

    status = Status.CAPTURE


class DeviceError(NvFp4Error, RuntimeError):
    """The driver reported an error."""

    status = Status.DEVICE_ERROR


class DevicePoisonedError(DeviceError):
    """An earlier error left the device context unusable."""

    status = Status.DEVICE_POISONED


class ForkedError(NvFp4Error, RuntimeError):
    """The handle was made before a fork."""

    status = Status.FORKED


class WorkspaceTooSmallError(NvFp4Error, ValueError):
    """The workspace is smaller than its query said."""

    status = Status.WORKSPACE_TOO_SMALL


class InternalError(NvFp4Error, RuntimeError):
    """A fault inside the library."""

    status = Status.INTERNAL


BY_STATUS: dict[int, type[NvFp4Error]] = {
    int(cls.status): cls
    for cls in (
        InvalidArgumentError,
        InvalidHandleError,
        UnsupportedError,
        UnsupportedDeviceError,
        UnsupportedDriverError,
        OutOfMemoryError,
        NotPreparedError,
        CaptureError,
        DeviceError,
        DevicePoisonedError,
        ForkedError,
        WorkspaceTooSmallError,
        InternalError,
    )
}


def from_status(status: int, message: str) -> NvFp4Error:
    """The exception for a failed call; a status that this package does not know becomes an NvFp4Error."""
    cls = BY_STATUS.get(status)
    if cls is None:
        return NvFp4Error(f"status {status}: {message}")
    return cls(message)
