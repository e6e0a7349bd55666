"""Prepared weights and products: within the contract's bound of the oracle's float64, and bit-exact where it says so."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import nvfp4
import reference as ref
from devices import BF16, DTYPES, Guarded
from nvfp4 import Activation, DType, FaultFlags, GemmFlags, Groups, Quantized, ScaleLayout, Scope, Weights

NAMES = {"bf16": DType.BF16, "f16": DType.F16, "f32": DType.F32}


class Operands:
    """Weights [E, N, K] as NVFP4, prepared on the device."""

    def __init__(self, device, rng, e, n, k, gate_up=False, layout=ScaleLayout.LINEAR) -> None:
        self.e, self.n, self.k = e, n, k
        self.values = (rng.standard_normal((e, n, k)) * 0.05).astype(BF16)
        split = ref.strided(e, n)
        flat = ref.wide(self.values).reshape(e * n, k)
        self.codes, self.scales, self.g = ref.quantize(flat, Scope.GROUP, 0, split)
        scales = self.scales
        if layout != ScaleLayout.LINEAR:
            size = nvfp4.scales_size(e * n, k, scale_layout=layout, groups=Groups.strided(e, n))
            scales = ref.layout(scales, split, layout, np.zeros(size, np.uint8))
        self.tiled = scales
        self.weights = Weights.prepare(
            device.context, codes=device.put(self.codes.reshape(e, n, k // 2)), scales=device.put(scales), scale_layout=layout,
            decode_scales=device.put(self.g), gate_up=gate_up,
        )

    def matrix(self, e: int) -> np.ndarray:
        part = slice(e * self.n, (e + 1) * self.n)
        return oracle.dequantize(self.codes[part], self.scales[part], 1).astype(np.float64)


def exact(a, g_a, operands, split, bias=None):
    """(v, bound) in float64 from dequantized activations a [T, K] and their decode scales [T]."""
    v, bound = np.zeros((split.rows, operands.n)), np.zeros((split.rows, operands.n))
    for e, (first, n) in enumerate(split.spans):
        rows, w, g = slice(first, first + n), operands.matrix(e), float(operands.g[e])
        v[rows] = a[rows] @ w.T * g_a[rows, None] * g
        bound[rows] = ref.product_bound(a[rows], w, g_a[rows], g) + 3 * 2.0**-24 * np.abs(v[rows])
        if bias is not None:
            v[rows] += bias[e]
            bound[rows] += 2.0**-24 * np.abs(v[rows])
    return v, bound


def within(got, v, bound, dtype, used) -> None:
    got = got.astype(np.float64)[used]
    v, bound = v[used], (bound + ref.rounding(v, dtype))[used]
    worst = np.max(np.abs(got - v) / bound, initial=0)
    assert worst <= 1, f"error is {worst:.3g} of the bound"


def activations(device, rng, split, k, kind, layout=ScaleLayout.LINEAR, scope=Scope.ROW):
    """(argument a, extra keywords, float64 values with decode scale 1, decode scale of each row)."""
    x = rng.standard_normal((split.rows, k)).astype(BF16)
    groups = split.groups(device)
    lead = (len(split.sizes), split.max_tokens) if split.kind == "strided" else (split.rows,)
    index = np.maximum(ref.scope_rows(scope, split), 0)
    if kind == "nvfp4":
        codes, scales, g = ref.quantize(ref.wide(x), scope, 0, split)
        a = oracle.dequantize(codes, scales, 1).astype(np.float64) if split.rows else np.zeros((0, k))
        if layout != ScaleLayout.LINEAR:
            size = nvfp4.scales_size(split.rows, k, scale_layout=layout, groups=groups)
            scales = ref.layout(scales, split, layout, np.zeros(size, np.uint8))
        given = Quantized(device.put(codes.reshape(*lead, k // 2), k // 2 + 3), device.put(scales), device.put(g), layout, scope, groups)
        return given, {}, a, np.asarray(g, np.float64)[index] if len(g) else np.zeros(0)
    x = x.astype(DTYPES[kind])
    g = (0.5 + rng.random(ref.scope_count(scope, split))).astype(np.float32)
    given = device.put(x.reshape(*lead, k), k + 8)
    row = g.astype(np.float64)[index] if len(g) else np.zeros(split.rows)
    return given, {"a_decode_scales": device.put(g), "a_scope": scope}, x.astype(np.float64), row


CASES = ["none", "one_row", "no_rows", "ends", "ends_empty", "no_groups", "masked", "strided"]


@pytest.mark.parametrize("kind", ["nvfp4", "bf16", "f16"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_grouped_gemm(device, context, rng, kind, dtype, name) -> None:
    split = ref.SPLITS[name]
    n, k = int(rng.choice([1, 40, 48, 144])), int(rng.choice([16, 96, 320]))
    operands = Operands(device, rng, len(split.sizes), n, k)
    scope = Scope.ROW if split.kind == "none" else Scope(int(rng.integers(3)))
    layout = ScaleLayout(int(rng.integers(3)))
    a, extra, values, g = activations(device, rng, split, k, kind, layout, scope)
    with_bias = bool(rng.integers(2))
    bias = rng.standard_normal((len(split.sizes), n)).astype(DTYPES["f32" if rng.integers(2) else "bf16"]) if with_bias else None
    shape = (len(split.sizes), split.max_tokens, n) if split.kind == "strided" else (split.rows, n)
    out = Guarded(device, shape, DTYPES[dtype], 0xA5, n + 4)
    nvfp4.grouped_gemm(context, a, operands.weights, groups=split.groups(device), out=out.array,
                       bias=None if bias is None else device.put(bias), **extra)
    got, used = out.check().reshape(split.rows, n), split.used
    v, bound = exact(values, g, operands, split, None if bias is None else bias.astype(np.float64))
    within(got, v, bound, DTYPES[dtype], used)
    assert (np.ascontiguousarray(got[~used]).view(np.uint8) == 0xA5).all()


@pytest.mark.parametrize("layout", ScaleLayout)
def test_gemm(device, context, rng, layout) -> None:
    split, operands = ref.single(21), Operands(device, rng, 1, 64, 128, layout=layout)
    a, _, values, g = activations(device, rng, split, 128, "nvfp4")
    out = nvfp4.gemm(context, a, operands.weights, out_dtype=DType.F32)
    v, bound = exact(values, g, operands, split)
    within(device.get(out), v, bound, np.float32, split.used)
    again = nvfp4.grouped_gemm(context, a, operands.weights, out_dtype=DType.F32)
    ref.same(device.get(again), device.get(out), "grouped form")
    given = nvfp4.gemm(context, device.put(ref.wide(values).astype(BF16)), operands.weights)
    assert device.get(given).dtype == BF16


def test_accumulate(device, context, rng) -> None:
    split, operands = ref.SPLITS["ends"], Operands(device, rng, 5, 48, 96)
    a, _, values, g = activations(device, rng, split, 96, "nvfp4")
    old = rng.standard_normal((split.rows, 48)).astype(np.float32)
    out = device.put(old)
    nvfp4.grouped_gemm(context, a, operands.weights, groups=split.groups(device), out=out, flags=GemmFlags.ACCUMULATE)
    v, bound = exact(values, g, operands, split)
    got, total = device.get(out), v + np.where(split.used[:, None], old, 0)
    within(got, total, bound + ref.rounding(total, np.float32), np.float32, split.used)
    ref.same(got[~split.used], old[~split.used], "rows of no group")


@pytest.mark.parametrize("kw", [{}, {"limit": 1.0}, {"limit": 7.0, "alpha": 1.702, "beta": 1.0}], ids=["plain", "limit", "gpt_oss"])
@pytest.mark.parametrize("name", ["none", "ends", "masked", "strided"])
def test_swiglu_epilogue(device, context, rng, kw, name) -> None:
    """The separate kernel on the rounded product gives the epilogue's bits; so does the requantizing output."""
    split = ref.SPLITS[name]
    e, n, k = len(split.sizes), 96, 112
    gated, plain = (Operands(device, np.random.default_rng(7), e, n, k, gate_up=g) for g in (True, False))
    groups, used = split.groups(device), split.used
    a, extra, values, g = activations(device, rng, split, k, "nvfp4")
    bias = device.put(rng.standard_normal((e, n)).astype(np.float32))
    options = {"groups": groups, "bias": bias, **extra}
    v = device.get(nvfp4.grouped_gemm(context, a, plain.weights, out_dtype=DType.BF16, **options)).reshape(split.rows, n)
    want = oracle.swiglu(ref.wide(v[:, : n // 2]), ref.wide(v[:, n // 2 :]), BF16, **kw)
    swiglu = {"activation": Activation.SWIGLU, **kw}
    h = device.get(nvfp4.grouped_gemm(context, a, gated.weights, out_dtype=DType.BF16, **swiglu, **options)).reshape(split.rows, n // 2)
    ref.same(h[used], want.astype(BF16)[used], "h")
    groups_scope = Scope.ROW
    codes = Guarded(device, (split.rows, n // 4), np.uint8, 0xA5, n // 4 + 5)
    layout = ScaleLayout.TILED_128X4 if name == "ends" else ScaleLayout.LINEAR
    size = nvfp4.scales_size(split.rows, n // 2, scale_layout=layout, groups=groups)
    scales = Guarded(device, (split.rows, n // 32) if layout == 0 else (size,), np.uint8, 0xA5)
    decode = Guarded(device, (split.rows,), np.float32, 0xA5)
    nvfp4.grouped_gemm(context, a, gated.weights, out_dtype=DType.NVFP4, codes=codes.array, scales=scales.array, scale_layout=layout,
                       decode_scales=decode.array, scope=groups_scope, **swiglu, **options)
    expected = ref.quantize(ref.wide(want), Scope.ROW, 0, split)
    ref.check_output(codes.check(), scales.check(), decode.check(), expected, split, layout, 0xA5, Scope.ROW, size)


@pytest.mark.parametrize("kw", [{}, {"limit": 7.0, "alpha": 1.702, "beta": 1.0}], ids=["plain", "gpt_oss"])
@pytest.mark.parametrize("tokens", [16, 64, 128, 1024])
def test_swiglu_of_every_gate(device, context, kw, tokens) -> None:
    """Every bfloat16 as a gate, in groups that take tiles of several sizes: the bits of the contract's chain."""
    count = 65536 // tokens // (4 if tokens == 16 else 1)
    w = np.zeros((count, 32, 16), BF16)
    w[:, :16, 0] = 1
    w[:, 16:, 1] = [0.5, 1, 1.5, 2, 3, 4, 6, -1] * 2
    w[:, :, 2] = 6  # every block's largest, of a column without values
    gated, plain = (Weights.prepare(context, device.put(w), gate_up=g) for g in (True, False))
    ends = device.put(np.arange(1, count + 1, dtype=np.int32) * tokens)
    for first in range(0, 65536, count * tokens):
        a = np.zeros((count * tokens, 16), BF16)
        a[:, 0] = np.arange(first, first + len(a), dtype=np.uint32).astype(np.uint16).view(BF16)
        a[:, 1] = np.resize(np.array([0.37, -0.0, 1e-30, 1e30, 2.6], BF16), len(a))
        options = {"groups": Groups.by_ends(ends), "out_dtype": DType.BF16}
        v = device.get(nvfp4.grouped_gemm(context, device.put(a), plain, **options))
        h = device.get(nvfp4.grouped_gemm(context, device.put(a), gated, activation=Activation.SWIGLU, **kw, **options))
        want = oracle.swiglu(ref.wide(v[:, :16]), ref.wide(v[:, 16:]), BF16, **kw)
        ref.same(h, want.astype(BF16), "h")


def test_relu2_epilogue_and_static_requantize(device, context, rng) -> None:
    split, operands = ref.SPLITS["ends"], Operands(device, rng, 5, 64, 96)
    a, _, _, _ = activations(device, rng, split, 96, "nvfp4")
    options = {"groups": split.groups(device)}
    v = device.get(nvfp4.grouped_gemm(context, a, operands.weights, out_dtype=DType.F16, **options))
    h = nvfp4.grouped_gemm(context, a, operands.weights, out_dtype=DType.F16, activation=Activation.RELU2, **options)
    ref.same(device.get(h), oracle.relu2(ref.wide(v), np.float16).astype(np.float16), "h")
    static = (np.arange(1, 6) * 0.003).astype(np.float32)
    q = nvfp4.grouped_gemm(context, a, operands.weights, out_dtype=DType.NVFP4, scope=Scope.GROUP, activation=Activation.RELU2,
                           static_decode_scales=device.put(static), **options)
    v = device.get(nvfp4.grouped_gemm(context, a, operands.weights, out_dtype=DType.BF16, **options))
    codes, scales, _ = ref.quantize(oracle.relu2(ref.wide(v), BF16), Scope.GROUP, 0, split, static)
    ref.same(device.get(q.codes)[split.used], codes[split.used], "codes")
    ref.same(device.get(q.scales)[split.used], scales[split.used], "scales")


def test_strided_groups_may_share_the_activations(device, context, rng) -> None:
    split, operands = ref.strided(3, 9), Operands(device, rng, 3, 32, 64)
    x = rng.standard_normal((9, 64)).astype(BF16)
    groups = split.groups(device)
    shared = device.get(nvfp4.grouped_gemm(context, device.put(x), operands.weights, groups=groups))
    apart = device.get(nvfp4.grouped_gemm(context, device.put(np.stack([x] * 3)), operands.weights, groups=groups))
    assert shared.shape == (3, 9, 32)
    ref.same(shared, apart, "values")
    for scope, layout in ((Scope.ROW, ScaleLayout.LINEAR), (Scope.TENSOR, ScaleLayout.TILED_128X4)):
        q = nvfp4.quantize(context, device.put(x), scope=scope, scale_layout=layout)
        both = nvfp4.quantize(context, device.put(np.stack([x] * 3)), scope=scope, scale_layout=layout, groups=groups)
        shared = device.get(nvfp4.grouped_gemm(context, q, operands.weights, groups=groups))
        ref.same(shared, device.get(nvfp4.grouped_gemm(context, both, operands.weights, groups=groups)), "NVFP4")


def test_rows_are_batch_invariant_and_runs_deterministic(device, context, rng) -> None:
    operands = Operands(device, rng, 2, 96, 544)
    x = rng.standard_normal((40, 544)).astype(BF16)

    def run(sizes, rows):
        groups = Groups.by_ends(device.put(np.cumsum(sizes).astype(np.int32)))
        q = nvfp4.quantize(context, device.put(x[rows]), scope=Scope.ROW, groups=groups)
        return device.get(nvfp4.grouped_gemm(context, q, operands.weights, groups=groups, flags=GemmFlags.BATCH_INVARIANT))

    whole = run([25, 15], slice(None))
    ref.same(run([25, 15], slice(None)), whole, "a second run")
    for row in (0, 7, 24):
        ref.same(run([1, 0], slice(row, row + 1)), whole[row : row + 1], f"row {row} alone")
    ref.same(run([0, 15], slice(25, 40)), whole[25:], "the second group alone")


def test_bad_ends_are_clamped(device, context, rng) -> None:
    operands = Operands(device, rng, 3, 32, 64)
    x = device.put(rng.standard_normal((10, 64)).astype(BF16))
    out = Guarded(device, (10, 32), np.float32, 0xA5)
    nvfp4.grouped_gemm(context, x, operands.weights, groups=Groups.by_ends(device.put(np.array([4, 2, 40], np.int32))), out=out.array)
    want = nvfp4.grouped_gemm(context, x, operands.weights, groups=Groups.by_ends(device.put(np.array([4, 4, 10], np.int32))),
                              out_dtype=DType.F32)
    ref.same(out.check(), device.get(want), "clamped")
    faults = context.faults()
    assert FaultFlags.BAD_GROUP in faults.flags and faults.bad_group == 1


@pytest.mark.parametrize("layout", ScaleLayout)
@pytest.mark.parametrize("gate_up", [False, True])
@pytest.mark.parametrize(("e", "n", "k"), [(1, 2, 16), (3, 130, 80), (0, 16, 32), (2, 64, 272)])
def test_weights_come_back_byte_for_byte(device, context, rng, layout, gate_up, e, n, k) -> None:
    operands = Operands(device, rng, e, n, k, gate_up, layout)
    info = operands.weights.info
    assert (info.groups, info.rows, info.cols, info.gate_up) == (e, n, k, gate_up)
    assert info.storage_size == Weights.storage_size(context, e, n, k, gate_up)
    codes = Guarded(device, (e, n, k // 2), np.uint8, 0xA5)
    scales = Guarded(device, operands.tiled.shape, np.uint8, 0x5A)
    decode = Guarded(device, (e,), np.float32, 0xA5)
    operands.weights.export(scale_layout=layout, codes=codes.array, scales=scales.array, decode_scales=decode.array)
    ref.same(codes.check(), operands.codes.reshape(e, n, k // 2), "codes")
    ref.same(scales.check(), operands.tiled, "scales")
    ref.same(decode.check(), operands.g, "decode scales")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("static", [False, True])
def test_weights_from_values_are_what_quantize_gives(device, context, rng, dtype, transposed, static) -> None:
    e, n, k, rule = 3, 40, 96, int(rng.integers(3))
    x = (rng.standard_normal((e, n, k)) * 0.1).astype(np.float32).astype(DTYPES[dtype])
    src = np.ascontiguousarray(np.swapaxes(x, 1, 2)) if transposed else x
    g = np.array([0.001, 0.002, 0.003], np.float32) if static else None
    weights = Weights.prepare(context, device.put(src, src.shape[-1] + 8), transposed=transposed, scale_rule=rule,
                              decode_scales=device.put(g) if static else None)
    back = weights.export()
    codes, scales, decode = ref.quantize(ref.wide(x).reshape(e * n, k), Scope.GROUP, rule, ref.strided(e, n), g)
    ref.same(device.get(back.codes).reshape(e * n, -1), codes, "codes")
    ref.same(device.get(back.scales).reshape(e * n, -1), scales, "scales")
    ref.same(device.get(back.decode_scales), decode, "decode scales")
    values = nvfp4.dequantize(context, back)
    ref.same(device.get(values).reshape(e * n, k), oracle.dequantize(codes, scales, np.repeat(decode, n)), "values")


def test_weights_in_given_storage(device, context, rng) -> None:
    x = device.put((rng.standard_normal((2, 32, 64)) * 0.1).astype(np.float32))
    size = Weights.storage_size(context, 2, 32, 64)
    storage = nvfp4.Buffer(context, max(size, 1))
    weights = Weights.prepare(context, x, storage=storage)
    a = device.put(rng.standard_normal((4, 64)).astype(BF16))
    groups = Groups.by_ends(device.put(np.array([1, 4], np.int32)))
    got = nvfp4.grouped_gemm(context, a, weights, groups=groups)
    ref.same(device.get(got), device.get(nvfp4.grouped_gemm(context, a, Weights.prepare(context, x), groups=groups)), "values")


def test_given_workspace(device, context, rng) -> None:
    operands = Operands(device, rng, 2, 32, 64)
    a = device.put(rng.standard_normal((4, 64)).astype(BF16))
    groups = Groups.by_ends(device.put(np.array([1, 4], np.int32)))
    workspace = nvfp4.Buffer(context, 64 << 20)
    got = nvfp4.grouped_gemm(context, a, operands.weights, groups=groups, workspace=workspace)
    ref.same(device.get(got), device.get(nvfp4.grouped_gemm(context, a, operands.weights, groups=groups)), "values")
