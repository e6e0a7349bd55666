"""One call being put together: arrays checked and remembered, outputs and scratch made where they were not given.

The library checks every rule that it can see (alignment, strides, sizes, NULL). Checked here is what a pointer does not
tell: dtype, device, shape, how many bytes lie behind it.
"""

from __future__ import annotations

import ctypes
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from . import _abi
from ._library import library
from .arrays import CODES, SCALES, VALUES, Array, Matrix, View, dtype_of, await_fill, empty, host_bytes, matrix, view
from .context import Buffer, Context, Stream
from .enums import Backend, DType, Grouping, ScaleLayout, ScaleRule, Scope
from .errors import InvalidArgumentError


@dataclass(frozen=True)
class Groups:
    """The split of rows into groups (experts). Rows that belong to no group are neither read nor written."""

    grouping: int
    count: int
    ends: Array = None
    counts: Array = None
    max_tokens: int = 0

    @classmethod
    def by_ends(cls, ends: Array, count: int | None = None) -> Groups:
        """Groups one after another; ends: int32[count] inclusive cumulative ends."""
        return cls(Grouping.ENDS, _length(ends) if count is None else count, ends=ends)

    @classmethod
    def masked(cls, counts: Array, max_tokens: int, count: int | None = None) -> Groups:
        """[count, max_tokens] rows of which group e uses the first counts[e]; counts: int32[count]."""
        return cls(Grouping.MASKED, _length(counts) if count is None else count, counts=counts, max_tokens=max_tokens)

    @classmethod
    def strided(cls, count: int, max_tokens: int) -> Groups:
        """[count, max_tokens] rows, all of them used."""
        return cls(Grouping.STRIDED, count, max_tokens=max_tokens)


def _length(array: Array) -> int:
    shape = view("ends", array).shape
    if len(shape) != 1:
        raise InvalidArgumentError(f"group ends or counts have shape {shape}; pass one dimension")
    return shape[0]


@dataclass(frozen=True)
class Quantized:
    """NVFP4 data: what a quantizer gave, and what `dequantize` and the products take.

    codes [rows, K/2] uint8 (two codes a byte), scales uint8 (E4M3) in `scale_layout`, decode_scales float32 by `scope`
    (None: all 1).
    """

    codes: Array
    scales: Array
    decode_scales: Array = None
    scale_layout: int = ScaleLayout.LINEAR
    scope: int = Scope.TENSOR
    groups: Groups | None = None


_Function = TypeVar("_Function", bound=Callable[..., Any])


def keywords_of(source: Callable[..., Any]) -> Callable[[_Function], _Function]:
    """A function that collects its last keywords for another one says so in its signature."""

    def told(function: _Function) -> _Function:
        own = inspect.signature(function)
        kept = [p for p in own.parameters.values() if p.kind != p.VAR_KEYWORD]
        theirs = inspect.signature(source).parameters.values()
        more = [p for p in theirs if p.kind == p.KEYWORD_ONLY and p.name not in own.parameters]
        function.__signature__ = own.replace(parameters=[*kept, *more])  # type: ignore[attr-defined]
        return function

    return told


#: `of_running`, where this thread asks about a call in place of making it (choices.py).
INSTEAD = threading.local()


class Call:
    """See the module."""

    def __init__(self, context: Context, stream: Stream | None) -> None:
        if not isinstance(context, Context):
            raise TypeError(f"context is a {type(context).__name__}; pass an nvfp4.Context")
        self.context = context
        self.handle = context.handle
        self.stream = context.stream if stream is None else stream
        self.keep: list[Any] = []
        self.like: View | None = None

    # Arrays that were given.

    def look(self, argument: str, array: Array, dtypes: tuple[str, ...], written: bool = False) -> View:
        """Checks dtype, device and writability, and remembers the array."""
        found = view(argument, array)
        if found.dtype not in dtypes:
            raise InvalidArgumentError(f"{argument} has dtype {found.dtype}; pass {' or '.join(dtypes)}")
        kind = "cuda" if self.context.backend == Backend.CUDA else "cpu"
        if found.device != kind or (found.device_index is not None and kind == "cuda" and found.device_index != self.context.device):
            where = found.device if found.device_index is None else f"{found.device}:{found.device_index}"
            raise InvalidArgumentError(f"{argument} is on {where} and the context on {kind}:{self.context.device}; copy it there")
        if written and found.readonly:
            raise InvalidArgumentError(f"{argument} is read-only; pass a writable array")
        self.keep.append(found.owner)
        if self.like is None:
            self.like = found
        return found

    def values(self, argument: str, array: Array, dtype: Any = None, written: bool = False) -> tuple[View, int]:
        """An array of BF16, F16 or F32 values; uint16 bits where `dtype` says which."""
        wanted = None if dtype is None else dtype_of(dtype)
        found = self.look(argument, array, (*VALUES, *(("uint16",) if wanted in (DType.BF16, DType.F16) else ())), written)
        actual = int(VALUES.get(found.dtype, wanted if wanted is not None else -1))
        if wanted is not None and wanted != actual:
            raise InvalidArgumentError(f"{argument} has dtype {found.dtype}, not that of {argument}_dtype = {wanted}")
        return found, actual

    def dense(
        self, argument: str, array: Array, dtypes: tuple[str, ...], least: int, written: bool = False, exact: bool = True
    ) -> View:
        """A contiguous array of `least` elements (or more, unless `exact`)."""
        found = self.look(argument, array, dtypes, written)
        if not found.contiguous:
            raise InvalidArgumentError(f"{argument} is not contiguous; copy it")
        if found.size < least or (exact and found.size != least):
            raise InvalidArgumentError(f"{argument} has {found.size} elements (shape {found.shape}); it needs {least}")
        return found

    def floats(self, argument: str, value: Array, least: int) -> View:
        """A float32 array in device memory; on the CPU a number will do where one is needed."""
        if isinstance(value, (int, float)) or (getattr(value, "shape", None) == () and hasattr(value, "__float__")):
            if self.context.backend != Backend.CPU or least != 1:
                raise InvalidArgumentError(f"{argument} is a number; pass a float32 array of {least} in the context's device memory")
            value = (ctypes.c_float * 1)(float(value))
        return self.dense(argument, value, ("float32",), least)

    def rows(
        self, argument: str, found: View, rows: int, cols: int, groups: Groups | None = None
    ) -> Matrix:
        """A [rows, cols] array, or the groups of one."""
        result = matrix(argument, found, split_of(groups))
        if (result.rows, result.cols) != (rows, cols):
            raise InvalidArgumentError(f"{argument} has shape {found.shape}; it needs {rows} rows of {cols}")
        return result

    # Arrays that were not.

    def empty(self, shape: tuple[int, ...], dtype: str, zero: bool = False) -> Array:
        made = empty(self.like, shape, dtype, zero)
        if zero and self.context.backend == Backend.CUDA and self.stream.capture is None:
            await_fill(made)  # its zeros come on the array library's stream, the call's results on another
        return made

    def groups(self, groups: Groups | None) -> _abi.nvfp4_groups:
        """The struct of a split; the arrays are looked at."""
        raw = _abi.nvfp4_groups()
        if groups is None:
            return raw
        raw.grouping, raw.count, raw.max_tokens = groups.grouping, groups.count, groups.max_tokens
        for name in ("ends", "counts"):
            array = getattr(groups, name)
            if array is not None:
                like = self.like
                setattr(raw, name, self.dense(f"groups.{name}", array, ("int32",), groups.count, exact=False).pointer)
                self.like = like
        return raw

    def quantized(
        self,
        raw: _abi.nvfp4_quantized,
        lead: tuple[int, ...],
        rows: int,
        cols: int,
        groups: Groups | None,
        *,
        codes: Array = None,
        scales: Array = None,
        decode_scales: Array = None,
        static_decode_scales: Array = None,
        scale_layout: int = ScaleLayout.LINEAR,
        scale_rule: int = ScaleRule.AMAX,
        scope: int = Scope.TENSOR,
    ) -> Quantized:
        """Fills the struct of an NVFP4 output, making what was not given. `lead`: the shape of codes but for the columns."""
        raw.scale_layout, raw.scale_rule, raw.scope = scale_layout, scale_rule, scope
        needed = scales_size(rows, cols, scale_layout=scale_layout, groups=groups)
        # Rows of no group are not written: nothing undefined is handed out.
        unused = groups is not None and groups.grouping in (Grouping.ENDS, Grouping.MASKED)
        if codes is None:
            codes = self.empty((*lead, cols // 2), "uint8", unused)
        found = self.rows("codes", self.look("codes", codes, CODES, written=True), rows, cols // 2)
        raw.codes, raw.codes_row_stride = found.pointer, found.row_stride
        if scales is None:
            shape = (*lead, cols // 16) if scale_layout == ScaleLayout.LINEAR else (needed,)
            scales = self.empty(shape, "uint8", unused)
        self.scales(raw, "scales", scales, rows, cols, needed, written=True)
        count = scope_size(scope, rows, groups)
        if static_decode_scales is not None:
            raw.static_decode_scales = self.floats("static_decode_scales", static_decode_scales, count).pointer
            if decode_scales is None:
                return Quantized(codes, scales, static_decode_scales, scale_layout, scope, groups)
        elif decode_scales is None:
            decode_scales = self.empty((count,), "float32", unused)
        raw.decode_scales = self.dense("decode_scales", decode_scales, ("float32",), count, written=True).pointer
        return Quantized(codes, scales, decode_scales, scale_layout, scope, groups)

    def scales(self, raw: Any, argument: str, scales: Array, rows: int, cols: int, needed: int, written: bool = False) -> None:
        """Fills pointer and stride of block scales: rows in the linear layout, else `needed` bytes or more."""
        if raw.scale_layout == ScaleLayout.LINEAR:
            found = self.rows(argument, self.look(argument, scales, SCALES, written), rows, cols // 16)
            raw.scales, raw.scales_row_stride = found.pointer, found.row_stride
        else:
            raw.scales = self.dense(argument, scales, SCALES, needed, written, exact=False).pointer

    def quantized_input(
        self, raw: _abi.nvfp4_quantized_input, argument: str, given: Quantized, groups: Groups | None, shared: bool = False
    ) -> Matrix:
        """Fills the struct of an NVFP4 input; gives its codes. `shared`: one matrix may serve all strided groups."""
        if not isinstance(given, Quantized):
            raise TypeError(f"{argument} is a {type(given).__name__}; pass an nvfp4.Quantized")
        raw.scale_layout, raw.scope = given.scale_layout, given.scope
        split = split_of(groups) if shared else None
        codes = matrix(f"{argument}.codes", self.look(f"{argument}.codes", given.codes, CODES), split)
        rows, cols, stored = codes.rows, codes.cols * 2, groups
        if split is not None and codes.group_stride == 0:
            rows, stored = split[1], None
        raw.codes, raw.codes_row_stride = codes.pointer, codes.row_stride
        needed = scales_size(rows, cols, scale_layout=given.scale_layout, groups=stored)
        self.scales(raw, f"{argument}.scales", given.scales, rows, cols, needed)
        if given.decode_scales is not None:
            count = scope_size(given.scope, rows, groups)
            raw.decode_scales = self.floats(f"{argument}.decode_scales", given.decode_scales, count).pointer
        return codes

    # The call itself.

    def run(self, name: str, args: ctypes.Structure) -> None:
        """Carries the call out, or records it. Where it fails, no output was touched."""
        instead = getattr(INSTEAD, "of_running", None)
        if instead is not None:
            instead(self, name, args)
            return
        if not isinstance(self.stream, Stream):
            raise TypeError(f"stream is a {type(self.stream).__name__}; pass an nvfp4.Stream")
        library().call(f"nvfp4_{name}", self.handle, ctypes.byref(args), self.stream.handle)
        if self.stream.capture is not None:
            self.stream.capture.keep.extend(self.keep)

    def workspace(self, name: str, args: Any, workspace: Array) -> None:
        """Fills the struct's scratch: what was given (or is made by what was given), else what the query asks for."""
        if workspace is None or callable(workspace):
            size = ctypes.c_size_t()
            library().call(f"nvfp4_{name}_workspace_size", self.handle, ctypes.byref(args), ctypes.byref(size))
            if size.value == 0:
                return
            if workspace is not None:
                return self.workspace(name, args, workspace(size.value))
            args.workspace, owner = device_bytes(self.context, self.stream, size.value)
            args.workspace_size = size.value
            self.keep.append(owner)
        else:
            found = self.dense("workspace", workspace, ("uint8",), 0, written=True, exact=False)
            args.workspace, args.workspace_size = found.pointer, found.nbytes


def device_bytes(context: Context, stream: Stream, size: int) -> tuple[int, Any]:
    """Memory of the context's device: (address, owner). In stream order where the stream does not capture."""
    if context.backend == Backend.CPU:
        return host_bytes(size)
    buffer = Buffer(context, size, context.stream if stream.capture is not None else stream)
    return buffer.data, buffer


def split_of(groups: Groups | None) -> tuple[int, int] | None:
    """(count, rows a group) where group strides exist."""
    if groups is None or groups.grouping != Grouping.STRIDED:
        return None
    return groups.count, groups.max_tokens


def scope_size(scope: int, rows: int, groups: Groups | None) -> int:
    """Floats in an array of decode scales."""
    if scope == Scope.ROW:
        return rows
    return groups.count if scope == Scope.GROUP and groups is not None else 1


def scales_size(
    rows: int, cols: int, *, scale_layout: int = ScaleLayout.LINEAR, scales_row_stride: int = 0, groups: Groups | None = None
) -> int:
    """Bytes of the block scales of [rows, cols] values, enough for any split into these groups."""
    raw = _abi.nvfp4_groups()
    if groups is not None:
        raw.grouping, raw.count, raw.max_tokens = groups.grouping, groups.count, groups.max_tokens
    args = _abi.nvfp4_scales_size_args(
        scale_layout=scale_layout, rows=rows, cols=cols, scales_row_stride=scales_row_stride, groups=raw
    )
    size = ctypes.c_size_t()
    library().call("nvfp4_scales_size", ctypes.byref(args), ctypes.byref(size))
    return int(size.value)


__all__ = ["Call", "Groups", "Quantized", "device_bytes", "scales_size", "scope_size"]
