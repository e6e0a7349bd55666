"""Arrays of any library by pointer: what is where, of which dtype, in which steps; and new arrays of the same library.

Taken, in this order: torch tensors (`data_ptr`), `__cuda_array_interface__` (CuPy, Numba, a Buffer on a GPU),
`__array_interface__` (numpy, a Buffer on the CPU), the writable buffer protocol (ctypes, array.array, memoryview).
bfloat16 is ml_dtypes.bfloat16 or torch.bfloat16, or uint16 bits where the call names the dtype. Nothing is imported
that is not there.
"""

from __future__ import annotations

import ctypes
import math
import sys
from dataclasses import dataclass
from typing import Any, TypeAlias

from .enums import DType
from .errors import InvalidArgumentError

#: An array of any of the libraries above.
Array: TypeAlias = Any

_TYPESTR = {
    "f4": "float32", "f2": "float16", "u1": "uint8", "i1": "int8", "u2": "uint16", "i4": "int32", "i8": "int64",
    "f8": "float64", "u4": "uint32", "u8": "uint64",
}
_FORMAT = {"f": "float32", "e": "float16", "B": "uint8", "c": "uint8", "H": "uint16", "i": "int32", "q": "int64", "l": "int64"}
_ITEMSIZE = {
    "float32": 4, "float16": 2, "bfloat16": 2, "uint8": 1, "uint16": 2, "int32": 4, "int64": 8, "float8_e4m3fn": 1,
    "float4_e2m1fn_x2": 1,
}

#: dtype name -> DType of the header.
VALUES = {"bfloat16": DType.BF16, "float16": DType.F16, "float32": DType.F32}
NAMES = {dtype: name for name, dtype in VALUES.items()}
CODES = ("uint8", "float4_e2m1fn_x2")
SCALES = ("uint8", "float8_e4m3fn")

_DTYPE_ALIASES = {
    "bf16": DType.BF16, "bfloat16": DType.BF16, "f16": DType.F16, "float16": DType.F16, "half": DType.F16,
    "f32": DType.F32, "float32": DType.F32, "float": DType.F32, "nvfp4": DType.NVFP4,
}

#: What an array of no elements points to: library calls refuse NULL.
_EMPTY = ctypes.create_string_buffer(512)
_EMPTY_POINTER = (ctypes.addressof(_EMPTY) + 255) & ~255


@dataclass(frozen=True)
class View:
    """An array as the library sees it. Strides are in elements."""

    owner: Any
    pointer: int
    dtype: str
    itemsize: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: str
    device_index: int | None
    readonly: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def contiguous(self) -> bool:
        return self.size == 0 or self.strides == dense_strides(self.shape) or all(
            stride == dense for stride, dense, length in zip(self.strides, dense_strides(self.shape), self.shape) if length > 1
        )


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a C-ordered array, in elements."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


def dtype_of(value: Any) -> int:
    """A DType from itself, its number, a name ("bf16", "float32"), or a numpy, ml_dtypes or torch dtype."""
    if isinstance(value, int):
        return int(value)
    name = value if isinstance(value, str) else getattr(value, "name", None) or getattr(value, "__name__", str(value))
    found = _DTYPE_ALIASES.get(str(name).removeprefix("torch.").lower())
    if found is None:
        raise InvalidArgumentError(f"dtype = {value!r} is not known; use a DType, or one of {', '.join(_DTYPE_ALIASES)}")
    return found


def view(argument: str, array: Array) -> View:
    """Looks at an array; raises TypeError for what is none."""
    if array is None:
        raise InvalidArgumentError(f"{argument} is missing; pass an array")
    kind = type(array)
    if kind.__module__.partition(".")[0] == "torch" or hasattr(array, "data_ptr"):
        return _torch(argument, array)
    if hasattr(kind, "__cuda_array_interface__") and (interface := getattr(array, "__cuda_array_interface__", None)):
        index = getattr(getattr(array, "device", None), "id", None)
        return _interface(argument, array, interface, "cuda", index)
    if hasattr(kind, "__array_interface__") and (interface := getattr(array, "__array_interface__", None)):
        if not interface["shape"] and not hasattr(array, "__setitem__"):
            raise TypeError(f"{argument} is a scalar ({kind.__name__}); pass an array")
        return _interface(argument, array, interface, "cpu", None)
    try:
        exported = memoryview(array)
    except TypeError:
        raise TypeError(
            f"{argument} is no array ({kind.__module__}.{kind.__qualname__}); pass a numpy, torch or CuPy array, a Buffer, "
            "or an object with a writable buffer"
        ) from None
    return _memory(argument, array, exported)


def _torch(argument: str, array: Any) -> View:
    name = str(array.dtype).removeprefix("torch.")
    pointer = int(array.data_ptr())
    shape = tuple(int(n) for n in array.shape)
    return View(
        owner=array,
        pointer=pointer or _EMPTY_POINTER,
        dtype=name,
        itemsize=int(array.element_size()),
        shape=shape,
        strides=tuple(int(n) for n in array.stride()),
        device=str(array.device.type),
        device_index=array.device.index,
        readonly=False,
    )


def _interface(argument: str, array: Any, interface: dict[str, Any], device: str, index: int | None) -> View:
    name = getattr(getattr(array, "dtype", None), "name", None)
    typestr = str(interface["typestr"])
    if typestr[0] == ">" and typestr[2:] != "1":
        raise InvalidArgumentError(f"{argument} has big-endian elements ({typestr}); pass native ones")
    name = name or _TYPESTR.get(typestr[1:], typestr)
    itemsize = _ITEMSIZE.get(name) or int(typestr[2:])
    shape = tuple(int(n) for n in interface["shape"])
    data = interface["data"]
    steps = interface.get("strides")
    strides = dense_strides(shape)
    if steps is not None:
        if any(step % itemsize and length > 1 for step, length in zip(steps, shape)):
            raise InvalidArgumentError(f"{argument} has strides {tuple(steps)} that are no whole number of elements; copy it")
        strides = tuple(int(step) // itemsize for step in steps)
    pointer = int(data[0] or 0)
    if math.prod(shape) == 0:
        pointer = _EMPTY_POINTER
    return View(array, pointer, name, itemsize, shape, strides, device, index, bool(data[1]))


def _memory(argument: str, array: Any, exported: memoryview) -> View:
    if exported.readonly:
        raise InvalidArgumentError(f"{argument} is a read-only {type(array).__name__}; pass a writable one, or a numpy array")
    if not exported.c_contiguous:
        raise InvalidArgumentError(f"{argument} is a memoryview that is not contiguous; copy it")
    name = _FORMAT.get(exported.format.lstrip("<@="), exported.format)
    shape = tuple(exported.shape or ())
    pointer, owner = _EMPTY_POINTER, None
    if exported.nbytes:
        owner = ctypes.c_char.from_buffer(exported)
        pointer = ctypes.addressof(owner)
    return View((array, owner), pointer, name, exported.itemsize, shape, dense_strides(shape), "cpu", None, False)


def empty(like: View | None, shape: tuple[int, ...], dtype: str, zero: bool = False) -> Array:
    """A new array of the library that `like` is of (numpy otherwise), aligned to 256 bytes where this package allocates."""
    owner = like.owner if like is not None else None
    library = type(owner).__module__.partition(".")[0]
    if library == "torch":
        import torch  # type: ignore[import-not-found,unused-ignore]

        make = torch.zeros if zero else torch.empty
        return make(shape, dtype=getattr(torch, dtype), device=owner.device)  # type: ignore[union-attr,unused-ignore]
    if library == "cupy":
        cupy = sys.modules["cupy"]
        return (cupy.zeros if zero else cupy.empty)(shape, _numpy_dtype(dtype))
    if like is not None and like.device != "cpu":
        raise InvalidArgumentError(f"outputs beside a {type(owner).__name__} cannot be allocated; pass them")
    bytes_ = math.prod(shape) * _ITEMSIZE[dtype]
    try:
        import numpy
    except ImportError:
        return _host(bytes_, shape, dtype)
    raw = (numpy.zeros if zero else numpy.empty)(bytes_ + 256, numpy.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + bytes_].view(_numpy_dtype(dtype)).reshape(shape)


def await_fill(array: Array) -> None:
    """Waits for what torch or CuPy does on their current stream, unless that stream captures: it is the call's then."""
    library = type(array).__module__.partition(".")[0]
    if library == "torch":
        import torch  # type: ignore[import-not-found,unused-ignore]

        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(array.device).synchronize()
    elif library == "cupy":
        stream = sys.modules["cupy"].cuda.get_current_stream()
        if not stream.is_capturing():
            stream.synchronize()


def _numpy_dtype(dtype: str) -> Any:
    import numpy

    if dtype != "bfloat16":
        return numpy.dtype(dtype)
    try:
        import ml_dtypes
    except ImportError:
        raise InvalidArgumentError(
            "a bfloat16 numpy output needs the package ml_dtypes; install it, ask for float32, or pass uint16 outputs"
        ) from None
    return numpy.dtype(ml_dtypes.bfloat16)


def _host(bytes_: int, shape: tuple[int, ...], dtype: str) -> Array:
    """Without numpy: zeroed host memory as a memoryview; 16-bit floats as uint16."""
    formats = {"float32": "f", "uint8": "B", "int32": "i", "int64": "q", "bfloat16": "H", "float16": "H"}
    flat: Any = memoryview(host_bytes(bytes_)[1]).cast("B")
    return flat.cast(formats[dtype], shape)


def host_bytes(bytes_: int, alignment: int = 256) -> tuple[int, Any]:
    """Zeroed host memory: (address, owner), the owner a ctypes array of the bytes."""
    raw = (ctypes.c_char * (bytes_ + alignment))()
    start = -ctypes.addressof(raw) % alignment
    owner = (ctypes.c_char * bytes_).from_buffer(raw, start)
    return ctypes.addressof(owner), owner


@dataclass(frozen=True)
class Matrix:
    """Rows of an array: [groups of] rows of `cols` elements. Strides are in elements."""

    view: View
    rows: int
    cols: int
    row_stride: int
    group_stride: int

    @property
    def pointer(self) -> int:
        return self.view.pointer


def matrix(argument: str, array: View, groups: tuple[int, int] | None = None) -> Matrix:
    """The rows of an array with two dimensions or more.

    Without `groups`, leading dimensions are flattened; they must be evenly spaced. With groups = (count, rows a group),
    the array is [count, rows a group, cols], or [count * rows a group, cols], or [rows a group, cols] which all groups
    share (group stride 0; not told apart where count is 1).
    """
    if len(array.shape) < 2:
        raise InvalidArgumentError(f"{argument} has shape {array.shape}; it needs two dimensions or more")
    lead, steps, cols = array.shape[:-1], array.strides[:-1], array.shape[-1]
    if cols > 1 and array.size and array.strides[-1] != 1:
        raise InvalidArgumentError(f"{argument} has inner stride {array.strides[-1]}; it must be 1: copy it")
    if any(step < 0 for step, length in zip(steps, lead) if length > 1):
        raise InvalidArgumentError(f"{argument} has a negative stride; copy it")
    if groups is None:
        row_stride = _flat_stride(argument, array, lead, steps)
        return Matrix(array, math.prod(lead), cols, row_stride or cols, 0)
    count, each = groups
    if len(lead) == 2 and lead == (count, each):
        row_stride = _flat_stride(argument, array, lead[1:], steps[1:]) or cols
        return Matrix(array, count * each, cols, row_stride, steps[0] if count > 1 else each * row_stride)
    row_stride = _flat_stride(argument, array, lead, steps) or cols
    rows = math.prod(lead)
    if rows == count * each:
        return Matrix(array, rows, cols, row_stride, each * row_stride)
    if rows == each:
        return Matrix(array, count * each, cols, row_stride, 0)
    raise InvalidArgumentError(
        f"{argument} has shape {array.shape}; {count} groups of {each} rows need [{count}, {each}, cols], "
        f"or [{each}, cols] for all groups"
    )


def _flat_stride(argument: str, array: View, lead: tuple[int, ...], steps: tuple[int, ...]) -> int:
    """The one stride between consecutive rows, 0 where there are fewer than two."""
    if array.size == 0:
        return 0
    span = [(length, step) for length, step in zip(lead, steps) if length > 1]
    if not span:
        return 0
    length, stride = span[-1]
    if stride == 0:
        raise InvalidArgumentError(f"{argument} repeats one row (stride 0); copy it")
    expected = length * stride
    for length, step in reversed(span[:-1]):
        if step != expected:
            raise InvalidArgumentError(f"{argument} has strides {array.strides} that are not those of evenly spaced rows; copy it")
        expected *= length
    return stride
