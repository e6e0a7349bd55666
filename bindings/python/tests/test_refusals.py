"""Refusals: the exception's class and status, a message that names the argument, and outputs untouched."""

from __future__ import annotations

import numpy as np
import pytest

import nvfp4
from devices import BF16, Device, Guarded
from nvfp4 import (
    Activation, DType, GemmFlags, Groups, InvalidArgumentError, InvalidHandleError, Quantized, ScaleLayout, Scope, Status,
    UnsupportedError, Weights, WorkspaceTooSmallError,
)

F32 = np.float32


def x(rows=4, cols=64, dtype=F32):
    return np.ones((rows, cols), dtype)


def misaligned(shape, dtype=F32):
    raw = np.zeros(np.prod(shape) * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 16 + 8
    return raw[start : start + np.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


def read_only(array):
    array.flags.writeable = False
    return array


ENDS = np.array([1, 4], np.int32)

# name: (source, keywords, error, words of the message)
QUANTIZE = {
    "cols": (x(4, 100), {}, InvalidArgumentError, ["cols = 100", "pad to 112"]),
    "no cols": (x(4, 0), {}, InvalidArgumentError, ["cols = 0"]),
    "dtype": (x(dtype=np.float64), {}, InvalidArgumentError, ["src", "float64", "bfloat16"]),
    "other dtype": (x(), {"src_dtype": "bf16"}, InvalidArgumentError, ["src_dtype"]),
    "unknown dtype": (x(), {"src_dtype": "fp8"}, InvalidArgumentError, ["dtype", "fp8"]),
    "one dimension": (np.ones(64, F32), {}, InvalidArgumentError, ["src", "two dimensions"]),
    "inner stride": (np.ones((4, 128), F32)[:, ::2], {}, InvalidArgumentError, ["src", "inner stride 2"]),
    "repeated row": (np.broadcast_to(np.ones(64, F32), (4, 64)), {}, InvalidArgumentError, ["src", "stride 0"]),
    "negative stride": (x()[::-1], {}, InvalidArgumentError, ["src", "negative stride"]),
    "uneven rows": (np.ones((4, 3, 64), F32)[:, :2], {}, InvalidArgumentError, ["src", "strides"]),
    "misaligned": (misaligned((4, 64)), {}, InvalidArgumentError, ["src", "16 bytes"]),
    "layout": (x(), {"scale_layout": 9}, InvalidArgumentError, ["scale_layout = 9"]),
    "rule": (x(), {"scale_rule": 9}, InvalidArgumentError, ["scale_rule = 9"]),
    "scope": (x(), {"scope": 9}, InvalidArgumentError, ["scope = 9"]),
    "group scope": (x(), {"scope": Scope.GROUP}, InvalidArgumentError, ["scope", "groups"]),
    "both scales": (x(), {"static_decode_scales": np.ones(1, F32), "decode_scales": np.ones(1, F32)}, InvalidArgumentError,
                    ["decode_scales"]),
    "static count": (x(), {"static_decode_scales": np.ones(3, F32), "scope": Scope.ROW}, InvalidArgumentError,
                     ["static_decode_scales", "needs 4"]),
    "static number": (x(), {"static_decode_scales": 0.5, "scope": Scope.ROW}, InvalidArgumentError, ["static_decode_scales", "number"]),
    "codes shape": (x(), {"codes": np.zeros((4, 31), np.uint8)}, InvalidArgumentError, ["codes", "4 rows of 32"]),
    "codes dtype": (x(), {"codes": np.zeros((4, 32), np.int8)}, InvalidArgumentError, ["codes", "int8"]),
    "codes read-only": (x(), {"codes": read_only(np.zeros((4, 32), np.uint8))}, InvalidArgumentError, ["codes", "read-only"]),
    "scales shape": (x(), {"scales": np.zeros((4, 3), np.uint8)}, InvalidArgumentError, ["scales", "4 rows of 4"]),
    "scales size": (x(), {"scales": np.zeros(511, np.uint8), "scale_layout": 1}, InvalidArgumentError, ["scales", "512"]),
    "decode count": (x(), {"decode_scales": np.zeros(2, F32)}, InvalidArgumentError, ["decode_scales", "needs 1"]),
    "no array": ([[1.0] * 64], {}, TypeError, ["src", "list"]),
    "a number": (np.float32(3), {}, TypeError, ["src", "scalar"]),
    "none": (None, {}, InvalidArgumentError, ["src is missing"]),
    "bytes": (b"0" * 64, {}, InvalidArgumentError, ["src", "read-only"]),
    "ends dtype": (x(), {"groups": Groups.by_ends(ENDS.astype(np.int64))}, InvalidArgumentError, ["groups.ends", "int64"]),
    "ends short": (x(), {"groups": Groups.by_ends(ENDS, count=3)}, InvalidArgumentError, ["groups.ends", "needs 3"]),
    "too many groups": (x(), {"groups": Groups.strided(65536, 1)}, InvalidArgumentError, ["src"]),
    "masked rows": (x(), {"groups": Groups.masked(ENDS, 3)}, InvalidArgumentError, ["rows = 4", "2 * 3"]),
    "strided rows": (np.ones((3, 2, 64), F32), {"groups": Groups.strided(2, 2)}, InvalidArgumentError, ["src", "2 groups of 2 rows"]),
    "grouping": (x(), {"groups": Groups(9, 2)}, InvalidArgumentError, ["groups.grouping = 9"]),
    "missing ends": (x(), {"groups": Groups(1, 2)}, InvalidArgumentError, ["groups.ends", "NULL"]),
    "stray counts": (x(), {"groups": Groups(1, 2, ends=ENDS, counts=ENDS)}, InvalidArgumentError, ["groups.counts"]),
}


def on_numpy(context):
    """The plain device of devices.py around a context of the test's own."""
    made = Device.__new__(Device)
    made.context = context
    return made


@pytest.mark.parametrize("name", QUANTIZE)
def test_quantize(cpu, name) -> None:
    src, keywords, error, words = QUANTIZE[name]
    outs = {}
    if getattr(src, "shape", ()) == (4, 64):
        device = on_numpy(cpu)
        for key, out in (("codes", Guarded(device, (4, 32), np.uint8, 0xA5)), ("scales", Guarded(device, (4, 4), np.uint8, 0xA5))):
            if key not in keywords and "scale_layout" not in keywords:
                outs[key] = out
    with pytest.raises(error) as raised:
        nvfp4.quantize(cpu, src, **{**{k: v.array for k, v in outs.items()}, **keywords})
    for word in words:
        assert word in str(raised.value), str(raised.value)
    if error is InvalidArgumentError:
        assert raised.value.status == Status.INVALID_ARGUMENT
        assert isinstance(raised.value, ValueError)
    for out in outs.values():
        out.assert_untouched()


def test_overlap_is_refused(cpu) -> None:
    raw = np.zeros(4096, np.uint8)
    raw = raw[-raw.ctypes.data % 16 :]
    src = raw[:1024].view(F32).reshape(4, 64)
    with pytest.raises(InvalidArgumentError, match="overlap"):
        nvfp4.quantize(cpu, src, codes=raw[512:640].reshape(4, 32))
    assert not raw.any()


OTHERS = {
    "amax layout of groups": (lambda c: nvfp4.amax_scale(c, x(), scope=Scope.GROUP), InvalidArgumentError, ["scope"]),
    "amax out": (lambda c: nvfp4.amax_scale(c, x(), decode_scales=np.zeros(2, F32)), InvalidArgumentError, ["decode_scales"]),
    "dequantize input": (lambda c: nvfp4.dequantize(c, x()), TypeError, ["input", "Quantized"]),
    "dequantize scales": (lambda c: nvfp4.dequantize(c, Quantized(np.zeros((4, 32), np.uint8), np.zeros((4, 3), np.uint8))),
                          InvalidArgumentError, ["input.scales"]),
    "dequantize dst": (lambda c: nvfp4.dequantize(c, nvfp4.quantize(c, x()), dst=np.zeros((4, 32), F32)), InvalidArgumentError,
                       ["dst", "4 rows of 64"]),
    "dequantize dtype": (lambda c: nvfp4.dequantize(c, nvfp4.quantize(c, x()), dst_dtype=DType.NVFP4), InvalidArgumentError, ["dst_dtype"]),
    "rmsnorm eps": (lambda c: nvfp4.rmsnorm_quantize(c, x(), np.ones(64, F32), 0.0), InvalidArgumentError, ["eps = 0"]),
    "rmsnorm eps nan": (lambda c: nvfp4.rmsnorm_quantize(c, x(), np.ones(64, F32), np.nan), InvalidArgumentError, ["eps"]),
    "rmsnorm weight": (lambda c: nvfp4.rmsnorm_quantize(c, x(), np.ones(63, F32), 1e-6), InvalidArgumentError, ["weight", "64"]),
    "rmsnorm residual": (lambda c: nvfp4.rmsnorm_quantize(c, x(), np.ones(64, F32), 1e-6, residual=x(dtype=BF16)), InvalidArgumentError,
                         ["residual"]),
    "rmsnorm scope": (lambda c: nvfp4.rmsnorm_quantize(c, x(), np.ones(64, F32), 1e-6, scope=Scope.GROUP), InvalidArgumentError,
                      ["scope"]),
    "hc streams": (lambda c: nvfp4.hc_rmsnorm_quantize(c, x(), np.ones((4, 1), F32), np.ones(64, F32), 1e-6), InvalidArgumentError,
                   ["streams", "[rows, count, K]"]),
    "hc count": (lambda c: nvfp4.hc_rmsnorm_quantize(c, np.ones((4, 5, 64), F32), np.ones((4, 5), F32), np.ones(64, F32), 1e-6),
                 InvalidArgumentError, ["stream_count = 5"]),
    "hc mix": (lambda c: nvfp4.hc_rmsnorm_quantize(c, np.ones((4, 2, 64), F32), np.ones((4, 3), F32), np.ones(64, F32), 1e-6),
               InvalidArgumentError, ["mix"]),
    "swiglu odd": (lambda c: nvfp4.swiglu_quantize(c, x(4, 63)), InvalidArgumentError, ["src", "even"]),
    "swiglu width": (lambda c: nvfp4.swiglu_quantize(c, x(4, 40)), InvalidArgumentError, ["20", "multiple of 16"]),
    "swiglu interleave": (lambda c: nvfp4.swiglu_quantize(c, x(), interleave=4), InvalidArgumentError, ["interleave = 4"]),
    "swiglu limit": (lambda c: nvfp4.swiglu_quantize(c, x(), limit=-1.0), InvalidArgumentError, ["limit = -1"]),
    "relu2 interleave": (lambda c: nvfp4.swiglu_quantize(c, x(), activation=Activation.RELU2, interleave=8), InvalidArgumentError,
                         ["interleave"]),
    "activation": (lambda c: nvfp4.swiglu_quantize(c, x(), activation=7), InvalidArgumentError, ["activation = 7"]),
    "stage hidden": (lambda c: nvfp4.stage_moe_inputs(c, x(4, 48)), InvalidArgumentError, ["hidden = 48", "pad to 64"]),
    "stage ids": (lambda c: nvfp4.stage_moe_inputs(c, x(), np.zeros((3, 2), np.int32), np.zeros((3, 2), F32)), InvalidArgumentError,
                  ["topk_ids"]),
    "stage routes": (lambda c: nvfp4.stage_moe_inputs(c, x(), np.zeros((4, 65), np.int32), np.zeros((4, 65), F32)), InvalidArgumentError,
                     ["routes = 65"]),
    "tile layout": (lambda c: nvfp4.tile_scales(c, np.zeros((4, 4), np.uint8), scale_layout=ScaleLayout.LINEAR), InvalidArgumentError,
                    ["scale_layout = 0"]),
    "tile size": (lambda c: nvfp4.untile_scales(c, np.zeros(511, np.uint8), 4, 4), InvalidArgumentError, ["tiled", "512"]),
    "interleave rows": (lambda c: nvfp4.interleave_gate_up(c, np.zeros((15, 4), np.uint8)), InvalidArgumentError, ["even"]),
    "interleave granularity": (lambda c: nvfp4.interleave_gate_up(c, np.zeros((12, 4), np.uint8)), InvalidArgumentError,
                               ["half_rows = 6", "8"]),
    "group ends": (lambda c: nvfp4.group_ends(c, np.zeros((2, 2), np.int32)), InvalidArgumentError, ["counts"]),
    "weights nothing": (lambda c: Weights.prepare(c), InvalidArgumentError, ["src", "codes"]),
    "weights odd": (lambda c: Weights.prepare(c, x(3, 64), gate_up=True), InvalidArgumentError, ["rows = 3"]),
    "weights cols": (lambda c: Weights.prepare(c, x(4, 63)), InvalidArgumentError, ["cols = 63"]),
    "weights decode": (lambda c: Weights.prepare(c, codes=np.zeros((4, 32), np.uint8), scales=np.zeros((4, 4), np.uint8)),
                       InvalidArgumentError, ["decode_scales"]),
    "weights bad decode": (lambda c: Weights.prepare(c, codes=np.zeros((4, 32), np.uint8), scales=np.zeros((4, 4), np.uint8),
                                                     decode_scales=-1.0), InvalidArgumentError, ["decode_scales"]),
    "weights sign": (lambda c: Weights.prepare(c, codes=np.zeros((4, 32), np.uint8), scales=np.full((4, 4), 0x81, np.uint8),
                                               decode_scales=1.0), InvalidArgumentError, ["scales"]),
    "weights storage": (lambda c: Weights.prepare(c, x(), storage=np.zeros(1, np.uint8)), InvalidArgumentError, ["storage"]),
    "context threads": (lambda c: nvfp4.Context(threads=5000), InvalidArgumentError, ["threads = 5000"]),
    "context device": (lambda c: nvfp4.Context(device=3), InvalidArgumentError, ["device = 3"]),
    "context isa": (lambda c: nvfp4.Context(isa=9), InvalidArgumentError, ["isa = 9"]),
    "context backend": (lambda c: nvfp4.Context(9), InvalidArgumentError, ["backend = 9"]),
    "feature": (lambda c: c.feature_supported(99), InvalidArgumentError, ["feature = 99"]),
    "buffer": (lambda c: nvfp4.Buffer(c, 0), InvalidArgumentError, ["bytes = 0"]),
    "upload": (lambda c: nvfp4.Buffer(c, 16).upload(np.zeros(17, np.uint8)), InvalidArgumentError, ["offset"]),
    "not a context": (lambda c: nvfp4.quantize(None, x()), TypeError, ["context"]),
    "not a stream": (lambda c: nvfp4.quantize(c, x(), stream=3), TypeError, ["stream"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others(cpu, name) -> None:
    call, error, words = OTHERS[name]
    with pytest.raises(error) as raised:
        call(cpu)
    for word in words:
        assert word in str(raised.value), str(raised.value)


def product(c, *, e=2, n=32, k=64, gate_up=False, a=None, **keywords):
    weights = Weights.prepare(c, np.ones((e, n, k), F32), gate_up=gate_up)
    keywords.setdefault("groups", Groups.by_ends(ENDS) if e > 1 else None)
    return nvfp4.grouped_gemm(c, x(4, k, BF16) if a is None else a, weights, **keywords)


PRODUCTS = {
    "K": ({"a": x(4, 32, BF16)}, InvalidArgumentError, ["a has 32 columns", "64"]),
    "f32": ({"a": x()}, InvalidArgumentError, ["a_dtype = 2"]),
    "groups": ({"groups": Groups.by_ends(np.array([1, 2, 4], np.int32))}, InvalidArgumentError, ["groups.count = 3", "2 groups"]),
    "no groups": ({"groups": None}, InvalidArgumentError, ["groups.count = 1"]),
    "swiglu of plain": ({"activation": Activation.SWIGLU}, InvalidArgumentError, ["activation", "gate_up"]),
    "plain of gate_up": ({"gate_up": True}, InvalidArgumentError, ["activation", "gate_up"]),
    "flags": ({"flags": 64}, InvalidArgumentError, ["flags = 64"]),
    "accumulate onto nothing": ({"flags": GemmFlags.ACCUMULATE}, InvalidArgumentError, ["out is missing"]),
    "accumulate an activation": ({"flags": GemmFlags.ACCUMULATE, "activation": Activation.RELU2, "out": np.zeros((4, 32), F32)},
                                 InvalidArgumentError, ["flags", "ACCUMULATE"]),
    "out shape": ({"out": np.zeros((4, 31), F32)}, InvalidArgumentError, ["out", "4 rows of 32"]),
    "out dtype": ({"out": np.zeros((4, 32), np.float64)}, InvalidArgumentError, ["out", "float64"]),
    "bias": ({"bias": np.zeros((2, 31), F32)}, InvalidArgumentError, ["bias", "[2, 32]"]),
    "codes without NVFP4": ({"codes": np.zeros((4, 16), np.uint8)}, InvalidArgumentError, ["codes", "NVFP4"]),
    "dynamic tensor": ({"out_dtype": DType.NVFP4, "scope": Scope.TENSOR}, UnsupportedError, ["NVFP4_SCOPE_ROW"]),
    "narrow": ({"out_dtype": DType.NVFP4, "n": 24}, InvalidArgumentError, ["24", "multiple of 16"]),
    "a scales": ({"a": Quantized(np.zeros((4, 32), np.uint8), np.zeros((4, 4), np.uint8), np.ones(3, F32), scope=Scope.ROW)},
                 InvalidArgumentError, ["a.decode_scales", "needs 4"]),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(cpu, name) -> None:
    keywords, error, words = PRODUCTS[name]
    with pytest.raises(error) as raised:
        product(cpu, **keywords)
    for word in words:
        assert word in str(raised.value), str(raised.value)


def test_gemm_takes_one_matrix(cpu) -> None:
    weights = Weights.prepare(cpu, np.ones((2, 32, 64), F32))
    with pytest.raises(InvalidArgumentError, match="groups"):
        nvfp4.gemm(cpu, x(4, 64, BF16), weights)
    with pytest.raises(TypeError, match="weights"):
        nvfp4.gemm(cpu, x(4, 64, BF16), x())


def test_small_workspace(cpu) -> None:
    weights = Weights.prepare(cpu, np.ones((1, 32, 64), F32))
    a, out = x(4, 64, BF16), np.full((4, 32), 7, F32)
    small = np.zeros(64, np.uint8)[:1]
    try:
        nvfp4.gemm(cpu, a, weights, out=out, workspace=small)
    except WorkspaceTooSmallError as refused:
        assert refused.status == Status.WORKSPACE_TOO_SMALL and "workspace_size = 1" in str(refused)
        assert (out == 7).all()
    else:
        pytest.skip("this product needs no workspace")


def test_cuda_is_not_in_this_build(cpu) -> None:
    info = nvfp4.backend_query(nvfp4.Backend.CUDA)
    if info.available:
        pytest.skip("it is")
    with pytest.raises(UnsupportedError, match="CUDA") as raised:
        nvfp4.Context(nvfp4.Backend.CUDA)
    assert isinstance(raised.value, NotImplementedError) and info.name


def test_handles_of_another_context(cpu) -> None:
    with nvfp4.Context(threads=1) as other:
        weights = Weights.prepare(other, np.ones((1, 32, 64), F32))
        with pytest.raises(InvalidHandleError, match="weights"):
            nvfp4.gemm(cpu, x(4, 64, BF16), weights)
        with pytest.raises(InvalidHandleError, match="stream"):
            nvfp4.quantize(cpu, x(), stream=other.stream)
        with pytest.raises(InvalidHandleError, match="stream"):
            nvfp4.Buffer(cpu, 16, other.stream)
