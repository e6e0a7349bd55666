"""NVFP4 checkpoints in ModelOpt's form, as `nvfp4 quantize` and `nvfp4 convert --to modelopt` write them, on memory maps.

    checkpoint = Checkpoint("model-nvfp4")              # a safetensors file, or a directory of shards
    q = checkpoint.weight("model.layers.0.mlp.down_proj.weight")
    weights = nvfp4.Weights.prepare(context, codes=q.codes, scales=q.scales, decode_scales=q.decode_scales)

Only reads: the command checks scales and translates the form of compressed-tensors. Needs numpy; bfloat16 needs ml_dtypes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ._call import Quantized
from .enums import ScaleLayout, Scope
from .errors import InvalidArgumentError

_DTYPES = {
    "F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1", "U8": "u1", "U16": "u2", "U32": "u4",
    "U64": "u8", "BOOL": "?", "F8_E4M3": "u1",  # scale bytes go to the library as they are
}
_LARGEST_HEADER = 100_000_000


class _File:
    """One safetensors file: its header checked, its data mapped."""

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if size < 8:
            raise InvalidArgumentError(f"{path} has {size} bytes; a safetensors file begins with 8 of length")
        self.data = np.memmap(path, np.uint8, "r")
        length = int(self.data[:8].view("<u8")[0])
        if length > min(size - 8, _LARGEST_HEADER):
            raise InvalidArgumentError(f"{path} claims a header of {length} bytes; it has {size}")
        try:
            header = json.loads(bytes(self.data[8 : 8 + length]))
            self.metadata: dict[str, str] = header.pop("__metadata__", {}) or {}
            self.entries = {name: _entry(name, e) for name, e in header.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InvalidArgumentError(f"{path} has no header of a safetensors file: {error}") from None
        self.start = 8 + length
        self.path = path

    def tensor(self, name: str) -> Any:
        kind, shape, begin, end = self.entries[name]
        dtype = _bfloat16() if kind == "BF16" else np.dtype(_DTYPES[kind]) if kind in _DTYPES else None
        if dtype is None:
            raise InvalidArgumentError(f"{self.path}: tensor {name} is {kind}, which numpy does not have")
        begin, end = self.start + begin, self.start + end
        count = 1
        for size in shape:
            count *= size
        if not 0 <= begin <= end <= self.data.size or count * dtype.itemsize != end - begin:
            raise InvalidArgumentError(f"{self.path}: tensor {name} of shape {shape} does not fit its {end - begin} bytes")
        raw = self.data[begin:end]
        # Copied where another writer put it off its alignment; ours keeps 16 bytes wherever the size allows.
        return (raw if raw.ctypes.data % max(dtype.itemsize, 16) == 0 else _aligned(raw)).view(dtype).reshape(shape)


def _entry(name: str, e: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    """What a header says of a tensor; whether it fits its bytes is seen when it is asked for."""
    kind, shape, (begin, end) = e["dtype"], tuple(e["shape"]), e["data_offsets"]
    if not isinstance(kind, str) or any(type(n) is not int or n < 0 for n in (*shape, begin, end)):
        raise ValueError(f"tensor {name} is {kind!r} {shape!r} at {begin!r} to {end!r}")
    return kind, shape, begin, end


def _bfloat16() -> Any:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def _aligned(raw: Any) -> Any:
    room = np.empty(raw.size + 16, np.uint8)
    start = -room.ctypes.data % 16
    room[start : start + raw.size] = raw
    return room[start : start + raw.size]


def _shards(index: Path) -> set[str]:
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidArgumentError(f"{index} is no index of a checkpoint: {error}") from None
    if not all(isinstance(name, str) and "\0" not in name for name in names):
        raise InvalidArgumentError(f"{index} names files by what is no text")
    return names


class Checkpoint:
    """Tensors by name, wherever they are. Arrays are read-only views of the files, alive as long as they are used."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path = Path(path)
        if path.is_dir():
            index = path / "model.safetensors.index.json"
            names = {"model.safetensors"}
            if index.exists():
                names = _shards(index)
            if any(Path(name).name != name for name in names):
                raise InvalidArgumentError(f"{index} names files outside of its directory")
            self.files = [_File(path / name) for name in sorted(names)]
        else:
            self.files = [_File(path)]
        self._places = {name: file for file in self.files for name in file.entries}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> Any:
        return self._places[name].tensor(name)

    @property
    def metadata(self) -> dict[str, str]:
        return self.files[0].metadata

    def weights(self) -> list[str]:
        """The names of all NVFP4 weights."""
        return [name for name in self if all(part in self for part in _parts(name)[:2])]

    def weight(self, name: str) -> Quantized:
        """Codes, linear scales and decode scales of one weight, [N, K] or experts [E, N, K]."""
        scales, decode, _ = _parts(name)
        for part in (name, scales, decode):
            if part not in self:
                raise InvalidArgumentError(f"{name} is no NVFP4 weight of ModelOpt's form: there is no tensor {part}")
        decode_scales = np.array(self[decode], np.float32).reshape(-1)
        codes = self[name]
        matrices = 1 if codes.ndim == 2 else codes.shape[0]
        if decode_scales.size != matrices:
            raise InvalidArgumentError(f"{decode} has {decode_scales.size} values; `nvfp4 convert --merge-scales` makes them {matrices}")
        scope = Scope.TENSOR if codes.ndim == 2 else Scope.GROUP
        return Quantized(codes, self[scales], decode_scales, ScaleLayout.LINEAR, scope)

    def input_scale(self, name: str) -> Any:
        """The calibrated decode scale of a weight's activations, or None."""
        part = _parts(name)[2]
        return np.array(self[part], np.float32).reshape(-1) if part in self else None


def _parts(name: str) -> tuple[str, str, str]:
    """Block scales, decode scale, input scale of a weight."""
    module, dot, parameter = name.rpartition(".")
    if parameter == "weight":
        return f"{name}_scale", f"{name}_scale_2", f"{module}{dot}input_scale"
    return f"{name}_weight_scale", f"{name}_weight_scale_2", f"{name}_input_scale"
