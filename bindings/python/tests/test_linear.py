"""Linear layers against the calls that they consist of, bit for bit, and the product against float64."""

from __future__ import annotations

import numpy as np
import pytest
from devices import BF16, DTYPES

import nvfp4

SCOPES = {"row": nvfp4.Scope.ROW, "group": nvfp4.Scope.GROUP, "tensor": nvfp4.Scope.TENSOR}


def weights(device, rng, groups: int, rows: int, cols: int, **options) -> nvfp4.Weights:
    values = (rng.standard_normal((groups, rows, cols)) / np.sqrt(cols)).astype(BF16)
    return nvfp4.Weights.prepare(device.context, device.put(values), **options)


def same(device, a, b) -> None:
    a, b = device.get(a), device.get(b)
    np.testing.assert_array_equal(a.view(np.uint8), b.view(np.uint8))


@pytest.mark.parametrize("tokens", [0, 1, 37])
@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_linear_of_values(device, context, rng, dtype, tokens) -> None:
    w = weights(device, rng, 1, 48, 64)
    x = device.put(rng.standard_normal((tokens, 64)).astype(DTYPES[dtype]))
    bias = device.put(rng.standard_normal((1, 48)).astype(np.float32))
    same(device, nvfp4.linear(context, x, w, bias=bias), nvfp4.gemm(context, x, w, bias=bias))
    same(device, nvfp4.linear(context, x, w, activation=nvfp4.Activation.RELU2, out_dtype="f32"),
         nvfp4.gemm(context, x, w, activation=nvfp4.Activation.RELU2, out_dtype="f32"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scope", ["row", "tensor"])
@pytest.mark.parametrize("static", [False, True])
def test_linear_that_quantizes(device, context, rng, scope, static, dtype) -> None:
    w = weights(device, rng, 1, 48, 64, gate_up=True)
    x = device.put(rng.standard_normal((19, 64)).astype(DTYPES[dtype]))
    given = device.put((rng.random(19 if scope == "row" else 1) * 0.01 + 0.001).astype(np.float32)) if static else None
    options = {"scope": SCOPES[scope], "static_decode_scales": given, "scale_rule": nvfp4.ScaleRule.FOUR_OVER_SIX}
    q = nvfp4.quantize(context, x, **options)
    gate = {"activation": nvfp4.Activation.SWIGLU, "limit": 7.0, "alpha": 1.702, "beta": 1.0}
    want = nvfp4.gemm(context, q, w, out_dtype="bf16", **gate)
    same(device, nvfp4.linear(context, x, w, quantize=True, out_dtype="bf16", **gate, **options), want)
    for layout in nvfp4.ScaleLayout:
        q = nvfp4.quantize(context, x, scale_layout=layout, **options)
        same(device, nvfp4.linear(context, q, w, out_dtype="bf16", **gate), want)


def test_linear_to_codes_and_back_into_a_linear(device, context, rng) -> None:
    w1, w2 = weights(device, rng, 1, 64, 32), weights(device, rng, 1, 16, 64)
    x = device.put(rng.standard_normal((5, 32)).astype(BF16))
    h = nvfp4.linear(context, x, w1, out_dtype="nvfp4")
    want = nvfp4.gemm(context, x, w1, out_dtype="nvfp4")
    for part in ("codes", "scales", "decode_scales"):
        same(device, getattr(h, part), getattr(want, part))
    same(device, nvfp4.linear(context, h, w2), nvfp4.gemm(context, want, w2))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 64, 32), (23, 3, 32, 16), (0, 2, 16, 16), (130, 1, 48, 80)])
def test_grouped_linear_of_values(device, context, rng, shape, transposed) -> None:
    tokens, g, k, n = shape
    values = (rng.standard_normal((g, n, k)) / np.sqrt(k)).astype(BF16)
    stored = np.ascontiguousarray(values.transpose(0, 2, 1)) if transposed else values
    w = nvfp4.Weights.prepare(context, device.put(stored), transposed=transposed)
    x = rng.standard_normal((tokens, g, k)).astype(BF16)
    bias = rng.standard_normal((g, n)).astype(BF16)
    out = device.get(nvfp4.grouped_linear(context, device.put(x), w, bias=device.put(bias), out_dtype="f32"))
    for group in range(g):
        if tokens:
            one = nvfp4.Weights.prepare(context, device.put(values[group]))
            want = nvfp4.gemm(context, device.put(np.ascontiguousarray(x[:, group])), one, bias=device.put(bias[group : group + 1]), out_dtype="f32")
            np.testing.assert_array_equal(out[:, group].view(np.uint32), device.get(want).view(np.uint32))
    assert out.shape == (tokens, g, n)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("static", [False, True])
def test_grouped_linear_that_quantizes(device, context, rng, scope, static) -> None:
    tokens, g, k, n = 21, 4, 64, 32
    w = weights(device, rng, g, n, k)
    x = rng.standard_normal((tokens, g, k)).astype(BF16)
    count = {"row": tokens * g, "group": g, "tensor": 1}[scope]
    given = device.put((rng.random(count) * 0.01 + 0.001).astype(np.float32)) if static else None
    options = {"scope": SCOPES[scope], "static_decode_scales": given}
    groups = nvfp4.Groups.strided(g, tokens)
    q = nvfp4.quantize(context, device.put(np.ascontiguousarray(x.transpose(1, 0, 2))), groups=groups, **options)
    want = device.get(nvfp4.grouped_gemm(context, q, w, groups=groups, out_dtype="f32")).transpose(1, 0, 2)
    tiled = (
        nvfp4.quantize(context, device.put(np.ascontiguousarray(x.transpose(1, 0, 2))), groups=groups, scale_layout=layout, **options)
        for layout in nvfp4.ScaleLayout
    )
    for got in (
        nvfp4.grouped_linear(context, device.put(x), w, quantize=True, out_dtype="f32", **options),
        *(nvfp4.grouped_linear(context, codes, w, out_dtype="f32") for codes in tiled),
    ):
        np.testing.assert_array_equal(device.get(got).view(np.uint32), np.ascontiguousarray(want).view(np.uint32))


def test_calibrated_on_a_sample(device, context, rng) -> None:
    """amax_scale of the same strided view is the decode scale that a dynamic layer finds."""
    tokens, g, k = 9, 2, 32
    w = weights(device, rng, g, 16, k)
    x = rng.standard_normal((tokens, g, k)).astype(BF16)
    sample = device.put(np.ascontiguousarray(x.transpose(1, 0, 2)))
    for scope in (nvfp4.Scope.GROUP, nvfp4.Scope.TENSOR):
        scale = nvfp4.amax_scale(context, sample, groups=nvfp4.Groups.strided(g, tokens), scope=scope)
        dynamic = nvfp4.grouped_linear(context, device.put(x), w, quantize=True, scope=scope)
        assert dynamic.shape == (tokens, g, 16)
        # 1 / g and 2688 / amax may round apart: near, not equal.
        static = nvfp4.grouped_linear(context, device.put(x), w, quantize=True, scope=scope, static_decode_scales=scale)
        a, b = device.get(static).astype(np.float64), device.get(dynamic).astype(np.float64)
        assert np.linalg.norm(a - b) <= 0.02 * np.linalg.norm(b)


def test_strided_views_and_accumulation(device, context, rng) -> None:
    tokens, g, k, n = 7, 3, 32, 16
    w = weights(device, rng, g, n, k)
    wide = rng.standard_normal((tokens, g, k + 16)).astype(BF16)
    held = device.put(wide)
    out = device.put(np.ones((tokens, g, n + 8), np.float32))
    nvfp4.grouped_linear(context, held[:, :, :k], w, out=out[:, :, :n], flags=nvfp4.GemmFlags.ACCUMULATE)
    want = device.get(nvfp4.grouped_linear(context, device.put(np.ascontiguousarray(wide[:, :, :k])), w, out_dtype="f32")) + np.float32(1)
    np.testing.assert_array_equal(device.get(out)[:, :, :n], want)
    assert (device.get(out)[:, :, n:] == 1).all()


def test_eager_and_replayed(device, context, rng) -> None:
    w = weights(device, rng, 2, 16, 32)
    x, out = device.put(rng.standard_normal((5, 2, 32)).astype(BF16)), device.put(np.zeros((5, 2, 16), BF16))
    if context.backend == nvfp4.Backend.CUDA:
        context.prepare()
    with nvfp4.Stream(context) as stream:
        with nvfp4.Graph.capture(stream) as recording:
            nvfp4.grouped_linear(context, x, w, quantize=True, out=out, stream=stream)
        recording.graph.launch(stream)
        stream.synchronize()
        same(device, out, nvfp4.grouped_linear(context, x, w, quantize=True))


def test_arrays_that_do_not_fit(device, context, rng) -> None:
    w = weights(device, rng, 2, 16, 32)
    x = device.put(np.zeros((5, 2, 32), BF16))
    with pytest.raises(nvfp4.InvalidArgumentError, match="nvfp4_grouped_linear"):
        nvfp4.linear(context, device.put(np.zeros((5, 32), BF16)), w)
    with pytest.raises(nvfp4.InvalidArgumentError, match=r"\[tokens, 2, cols\]"):
        nvfp4.grouped_linear(context, device.put(np.zeros((5, 3, 32), BF16)), w)
    with pytest.raises(nvfp4.InvalidArgumentError, match="the same K"):
        nvfp4.grouped_linear(context, device.put(np.zeros((5, 2, 64), BF16)), w)
    with pytest.raises(nvfp4.InvalidArgumentError, match="a_dtype: F32 values are quantized first"):
        nvfp4.grouped_linear(context, device.put(np.zeros((5, 2, 32), np.float32)), w)
    with pytest.raises(nvfp4.InvalidArgumentError, match="out has shape"):
        nvfp4.grouped_linear(context, x, w, out=device.put(np.zeros((5, 3, 16), BF16)))


def canonical(rng, g: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return rng.integers(0, 256, (g, n, k // 2), np.uint8), rng.integers(20, 100, (g, n, k // 16)).astype(np.uint8)


@pytest.mark.parametrize("layout", nvfp4.ScaleLayout)
def test_decode_scales_of_a_checkpoint(device, context, rng, layout) -> None:
    """Scalar, per group, per row: the same weights where they say the same; rows that differ are named or quantized again."""
    g, n, k = 3, 20, 48
    codes, scales = canonical(rng, g, n, k)
    each = np.array([0.5, 0.25, 0.5], np.float32)
    groups = nvfp4.Groups.strided(g, n)
    stored = scales if layout == nvfp4.ScaleLayout.LINEAR else device.get(
        nvfp4.tile_scales(context, device.put(scales.reshape(g * n, -1)), scale_layout=layout, groups=groups))
    prepare = lambda decode, **options: nvfp4.Weights.prepare(  # noqa: E731
        context, codes=device.put(codes), scales=device.put(stored), scale_layout=layout, decode_scales=device.put(decode), **options)
    want = prepare(each).export()
    per_row = np.repeat(each[:, None], n, axis=1)
    for got in (prepare(per_row, decode_scope=nvfp4.WeightsScope.ROW), prepare(per_row, decode_scope=nvfp4.WeightsScope.ROW, requantize=True)):
        for part in ("codes", "scales", "decode_scales"):
            same(device, getattr(got.export(), part), getattr(want, part))
    one = prepare(each[:1], decode_scope=nvfp4.WeightsScope.TENSOR)
    same(device, one.export().decode_scales, device.put(np.full(g, 0.5, np.float32)))

    per_row[1, 7] = 0.125
    with pytest.raises(nvfp4.InvalidArgumentError, match=r"0\.125 \(group 1, row 7\).*0\.25 of the group's row 0, or requantize = 1"):
        prepare(per_row, decode_scope=nvfp4.WeightsScope.ROW)
    got = prepare(per_row, decode_scope=nvfp4.WeightsScope.ROW, requantize=True, scale_rule=nvfp4.ScaleRule.MIN_MSE).export()
    values = nvfp4.dequantize(context, nvfp4.Quantized(device.put(codes[1]), device.put(scales[1]), device.put(per_row[1]), scope=nvfp4.Scope.ROW))
    again = nvfp4.quantize(context, values, scale_rule=nvfp4.ScaleRule.MIN_MSE)
    for part in ("codes", "scales"):
        parts, kept = device.get(getattr(got, part)), device.get(getattr(want, part))
        np.testing.assert_array_equal(parts[1], device.get(getattr(again, part)))
        np.testing.assert_array_equal(parts[[0, 2]], kept[[0, 2]])
    np.testing.assert_array_equal(device.get(got.decode_scales), [0.5, device.get(again.decode_scales)[0], 0.5])
    per_row[2, 3] = np.inf
    with pytest.raises(nvfp4.InvalidArgumentError, match=r"inf \(group 2, row 3\)"):
        prepare(per_row, decode_scope=nvfp4.WeightsScope.ROW, requantize=True)
