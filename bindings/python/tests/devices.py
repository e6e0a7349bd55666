"""Array libraries as the tests see them: numpy arrays go in and out, device arrays are given to the package.

`Guarded` is an output: poisoned memory with guards before, after and between its rows.
"""

from __future__ import annotations

import math
import os
import sys

import ml_dtypes
import numpy as np
import pytest

import nvfp4
from nvfp4._call import Call

BF16 = np.dtype(ml_dtypes.bfloat16)
ISA = nvfp4.Isa[os.environ.get("NVFP4_TEST_ISA", "BEST")]
DTYPES = {"bf16": BF16, "f16": np.dtype(np.float16), "f32": np.dtype(np.float32)}
GUARD = 256


class Device:
    """numpy arrays on the CPU."""

    def __init__(self) -> None:
        self.context = nvfp4.Context(threads=2, isa=ISA)

    def put(self, array: np.ndarray, stride: int | None = None, fill: int = 0xA5) -> object:
        """A copy on the device, 16-byte aligned; with `stride`, rows that many elements apart."""
        array = np.asarray(array)
        guarded = Guarded(self, array.shape, array.dtype, fill, stride)
        self.assign(guarded.array, array)
        return guarded.array

    def bytes(self, size: int, fill: int) -> object:
        return np.full(size, fill, np.uint8)

    def address(self, raw: object) -> int:
        return raw.ctypes.data

    def carve(self, raw: object, start: int, size: int, shape: tuple, strides: tuple, dtype: np.dtype) -> object:
        flat = raw[start : start + size].view(dtype)
        return np.lib.stride_tricks.as_strided(flat, shape, [s * dtype.itemsize for s in strides])

    def assign(self, target: object, array: np.ndarray) -> None:
        target[...] = array

    def get(self, array: object) -> np.ndarray:
        self.context.synchronize()
        return np.array(array)


def cuda_context() -> nvfp4.Context:
    info = nvfp4.backend_query(nvfp4.Backend.CUDA)
    if not info.available:
        pytest.skip(f"no CUDA context: {info.name}")
    context = nvfp4.Context(nvfp4.Backend.CUDA)
    context.prepare()
    settle_calls()
    return context


def torch_captures() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def settle_calls() -> None:
    """Makes calls on a GPU wait: the tests drop their arrays at once, and torch and CuPy would use the memory again on
    their own stream."""
    run = Call.run
    if run.__name__ == "settled":
        return

    def settled(call: Call, name: str, args: object) -> None:
        run(call, name, args)
        if call.context.backend == nvfp4.Backend.CUDA and call.stream.capture is None and not torch_captures():
            call.context.synchronize()

    Call.run = settled


class TorchDevice(Device):
    """torch tensors on the CPU."""

    where = "cpu"

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch", reason="torch is not installed: torch tensors are not tested")
        self.context = self._context()

    def _context(self) -> nvfp4.Context:
        return nvfp4.Context(threads=2, isa=ISA)

    def bytes(self, size: int, fill: int) -> object:
        return self.torch.full((size,), fill, dtype=self.torch.uint8, device=self.where)

    def address(self, raw: object) -> int:
        return raw.data_ptr()

    def carve(self, raw: object, start: int, size: int, shape: tuple, strides: tuple, dtype: np.dtype) -> object:
        kind = getattr(self.torch, dtype.name)
        if size == 0:
            return self.torch.empty(shape, dtype=kind, device=self.where)
        return raw[start : start + size].view(kind).as_strided(shape, strides)

    def assign(self, target: object, array: np.ndarray) -> None:
        if array.size == 0:
            return
        array = np.ascontiguousarray(array)
        bits = self.torch.from_numpy(array.reshape(-1).view(np.uint8).copy())
        target.copy_(bits.view(target.dtype).reshape(array.shape))

    def get(self, array: object) -> np.ndarray:
        self.context.synchronize()
        name = str(array.dtype).removeprefix("torch.")
        if array.numel() == 0:
            return np.zeros(tuple(array.shape), BF16 if name == "bfloat16" else name)
        dense = array.detach().cpu().contiguous().reshape(-1).view(self.torch.uint8).numpy()
        return dense.view(BF16 if name == "bfloat16" else np.dtype(name)).reshape(tuple(array.shape)).copy()


class CudaDevice(TorchDevice):
    """torch tensors on GPU 0. What torch does to them is waited for: the calls run on another stream."""

    where = "cuda"

    def bytes(self, size: int, fill: int) -> object:
        raw = super().bytes(size, fill)
        self.torch.cuda.synchronize()
        return raw

    def assign(self, target: object, array: np.ndarray) -> None:
        super().assign(target, array)
        self.torch.cuda.synchronize()

    def _context(self) -> nvfp4.Context:
        if not self.torch.cuda.is_available():
            pytest.skip("torch sees no GPU")
        return cuda_context()


class CupyDevice(Device):
    """CuPy arrays on GPU 0; bfloat16 where CuPy has it."""

    def __init__(self) -> None:
        self.cupy = pytest.importorskip("cupy", reason="CuPy is not installed: its arrays are not tested")
        self.context = cuda_context()

    def bytes(self, size: int, fill: int) -> object:
        raw = self.cupy.full(size, fill, self.cupy.uint8)
        self.cupy.cuda.Device().synchronize()
        return raw

    def address(self, raw: object) -> int:
        return raw.data.ptr

    def carve(self, raw: object, start: int, size: int, shape: tuple, strides: tuple, dtype: np.dtype) -> object:
        try:
            return self.cupy.ndarray(shape, dtype, raw.data + start, [s * dtype.itemsize for s in strides])
        except (TypeError, ValueError) as problem:
            pytest.skip(f"CuPy {self.cupy.__version__} has no {dtype.name}: {problem}")

    def assign(self, target: object, array: np.ndarray) -> None:
        if array.size == 0:
            return
        array = np.ascontiguousarray(array)
        plain = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[array.dtype.itemsize]
        target.view(plain)[...] = self.cupy.asarray(array.view(plain))
        self.cupy.cuda.Device().synchronize()

    def get(self, array: object) -> np.ndarray:
        self.context.synchronize()
        return self.cupy.asnumpy(array)


DEVICES = {"numpy": Device, "torch": TorchDevice, "cuda": CudaDevice, "cupy": CupyDevice}


class Guarded:
    """[..., cols] elements with poison around them; `stride` elements between rows. Aligned to 16 bytes and no more."""

    def __init__(self, device: Device, shape: tuple, dtype: object, poison: int, stride: int | None = None) -> None:
        self.device, self.poison = device, poison
        self.dtype = np.dtype(dtype)
        shape = tuple(shape)
        cols = shape[-1] if shape else 1
        rows = math.prod(shape[:-1])
        step = stride or cols
        item = self.dtype.itemsize
        self.size = ((rows - 1) * step + cols) * item if rows and cols else 0
        self.raw = device.bytes(GUARD + self.size + GUARD + 64, poison)
        start = GUARD + (-(device.address(self.raw) + GUARD)) % 32 + 16
        if item > 1 and start % item:
            start += -start % item
        strides = [1] * len(shape)
        if len(shape) > 1:
            strides[-2] = step
            for i in range(len(shape) - 3, -1, -1):
                strides[i] = strides[i + 1] * shape[i + 1]
        self.array = device.carve(self.raw, start, self.size, shape, tuple(strides), self.dtype)
        mask = np.ones(len(self.raw), bool)
        for row in range(rows if self.size else 0):
            mask[start + row * step * item : start + (row * step + cols) * item] = False
        self.outside = mask

    def check(self) -> np.ndarray:
        """Asserts that nothing around the elements was written; gives the elements."""
        raw = self.device.get(self.raw)
        assert (raw[self.outside] == self.poison).all(), "bytes around an output were written"
        return self.device.get(self.array)

    def assert_untouched(self) -> None:
        assert (self.device.get(self.raw) == self.poison).all(), "an output of a refused call was written"
