"""Arrays by pointer: what is seen of numpy, ctypes, array.array, torch-like and CUDA-interface objects."""

from __future__ import annotations

import array
import ctypes
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

import nvfp4
import reference as ref
from conftest import HAS_TORCH, HERE
from nvfp4 import InvalidArgumentError
from nvfp4.arrays import dtype_of, matrix, view
from nvfp4.enums import DType
from nvfp4._library import library


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32", "int64", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_numpy(dtype) -> None:
    a = np.zeros((4, 6, 8), dtype)[:, 1:4, :5]
    v = view("x", a)
    assert (v.shape, v.strides, v.itemsize) == ((4, 3, 5), (48, 8, 1), a.dtype.itemsize)
    assert v.pointer == a.ctypes.data and v.dtype == a.dtype.name and v.device == "cpu" and not v.contiguous


def test_writability_and_emptiness() -> None:
    a = np.zeros(3, np.float32)
    a.flags.writeable = False
    assert view("x", a).readonly and not view("x", np.zeros(3)).readonly
    empty = view("x", np.zeros((0, 16), np.float32))
    assert empty.pointer and empty.contiguous and empty.nbytes == 0


def test_the_buffer_protocol() -> None:
    a = array.array("f", range(64))
    v = view("x", a)
    assert (v.dtype, v.shape, v.pointer) == ("float32", (64,), a.buffer_info()[0])
    with pytest.raises(BufferError):
        a.append(1.0)  # held while the view lives
    c = (ctypes.c_float * 8)()
    assert view("x", c).pointer == ctypes.addressof(c)
    with pytest.raises(InvalidArgumentError, match="read-only bytes"):
        view("x", b"1234")
    with pytest.raises(TypeError, match="no array"):
        view("x", object())


class Tensor:
    """What this package uses of a torch tensor."""

    def __init__(self, base: np.ndarray, device: str = "cpu", index: int | None = None) -> None:
        self.base, self.shape = base, base.shape
        self.dtype = f"torch.{base.dtype.name}"
        self.device = type("device", (), {"type": device, "index": index})

    def data_ptr(self) -> int:
        return self.base.ctypes.data

    def stride(self) -> tuple:
        return tuple(s // self.base.itemsize for s in self.base.strides)

    def element_size(self) -> int:
        return self.base.itemsize


class CudaArray:
    """What CuPy and Numba show."""

    def __init__(self, base: np.ndarray) -> None:
        self.__cuda_array_interface__ = {**base.__array_interface__, "version": 3, "strides": base.strides}

    @property
    def __cuda_array_interface__(self) -> dict:
        return self.interface

    @__cuda_array_interface__.setter
    def __cuda_array_interface__(self, value: dict) -> None:
        self.interface = value


def test_torch_tensors_are_understood_by_shape(cpu, rng) -> None:
    x = rng.standard_normal((4, 128)).astype(ml_dtypes.bfloat16)[:, :64]
    v = view("x", Tensor(x))
    assert (v.dtype, v.strides, v.shape) == ("bfloat16", (128, 1), (4, 64))
    q = nvfp4.quantize(cpu, Tensor(x), scope=nvfp4.Scope.ROW)
    ref.same(q.codes, ref.quantize(ref.wide(x), 2)[0], "codes")


def test_real_torch_tensors(cpu, rng) -> None:
    if not HAS_TORCH:
        pytest.skip("torch is not installed: torch tensors are tested by a stand-in only")
    import torch

    x = rng.standard_normal((4, 64)).astype(np.float32)
    q = nvfp4.quantize(cpu, torch.from_numpy(x))
    assert isinstance(q.codes, torch.Tensor)
    ref.same(q.codes.numpy(), ref.quantize(x)[0], "codes")
    if hasattr(torch, "float4_e2m1fn_x2"):
        codes, scales = q.codes.view(torch.float4_e2m1fn_x2), q.scales.view(torch.float8_e4m3fn)
        y = nvfp4.dequantize(cpu, nvfp4.Quantized(codes, scales, q.decode_scales))
        ref.same(y.numpy(), nvfp4.dequantize(cpu, q).numpy(), "values")


def test_memory_of_another_device_is_refused(cpu) -> None:
    x = np.ones((4, 64), np.float32)
    for given, where in ((Tensor(x, "cuda", 1), "cuda:1"), (Tensor(x, "mps"), "mps"), (CudaArray(x), "cuda")):
        with pytest.raises(InvalidArgumentError, match=f"src is on {where} and the context on cpu"):
            nvfp4.quantize(cpu, given)
    with pytest.raises(InvalidArgumentError, match="codes is on cuda"):
        nvfp4.quantize(cpu, x, codes=CudaArray(np.zeros((4, 32), np.uint8)))


def test_big_endian_and_odd_strides_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="big-endian"):
        view("x", np.zeros((4, 16), ">f4"))
    odd = np.zeros(100, np.uint8)[:90].view([("a", "u1"), ("f", "<f4")])["f"]
    with pytest.raises(InvalidArgumentError, match="whole number"):
        view("x", odd)


def test_matrix_strides() -> None:
    def rows(a, groups=None):
        m = matrix("x", view("x", a), groups)
        return m.rows, m.cols, m.row_stride, m.group_stride

    a = np.zeros((4, 6, 16), np.float32)
    assert rows(a) == (24, 16, 16, 0)
    assert rows(a[:, :, :8]) == (24, 8, 16, 0)
    assert rows(a[:1, :3]) == (3, 16, 16, 0)
    assert rows(a, (4, 6)) == (24, 16, 16, 96)
    assert rows(a[:, :2], (4, 2)) == (8, 16, 16, 96)
    assert rows(a.transpose(1, 0, 2), (6, 4)) == (24, 16, 96, 16)
    assert rows(a[0], (4, 6)) == (24, 16, 16, 0)
    assert rows(a.reshape(24, 16), (4, 6)) == (24, 16, 16, 96)
    assert rows(a[0], (1, 6)) == (6, 16, 16, 96)
    assert rows(np.zeros((1, 16))) == (1, 16, 16, 0) and rows(np.zeros((0, 16))) == (0, 16, 16, 0)


@pytest.mark.parametrize(("given", "dtype"), [
    ("bf16", 0), ("bfloat16", 0), (ml_dtypes.bfloat16, 0), (np.dtype(ml_dtypes.bfloat16), 0), (np.float16, 1), ("half", 1),
    (np.dtype(np.float32), 2), (DType.F32, 2), (3, 3), ("nvfp4", 3),
])
def test_dtype_names(given, dtype) -> None:
    assert dtype_of(given) == dtype


def test_without_numpy() -> None:
    """The package and its operations need nothing but Python."""
    code = """
import sys
sys.modules["numpy"] = sys.modules["ml_dtypes"] = None
import array, nvfp4
with nvfp4.Context(threads=1) as c:
    x = memoryview(array.array("f", [i % 7 - 3 for i in range(4 * 64)])).cast("B").cast("f", (4, 64))
    q = nvfp4.quantize(c, x, scope=nvfp4.Scope.ROW)
    y = nvfp4.dequantize(c, q)
    assert y.shape == (4, 64) and q.codes.shape == (4, 32), (y.shape, q.codes.shape)
    assert max(abs(a - b) for r, s in zip(x.tolist(), y.tolist()) for a, b in zip(r, s)) < 0.3
    w = nvfp4.Weights.prepare(c, x)
    v = nvfp4.gemm(c, q, w, out_dtype="bf16")
    assert v.format == "H" and v.shape == (4, 4)
    nvfp4.gemm(c, q, w, out=v, out_dtype="bf16")
    assert "numpy" not in [m for m, v in sys.modules.items() if v is not None]
print("fine")
"""
    environment = {"PYTHONPATH": str(HERE.parent), "NVFP4_LIBRARY": library().path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "fine\n", done.stderr
