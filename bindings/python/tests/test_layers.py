"""Layers as objects: they call what they say they call, with what they hold."""

from __future__ import annotations

import numpy as np
import pytest
from devices import BF16

import nvfp4


def same(device, a, b) -> None:
    np.testing.assert_array_equal(device.get(a).view(np.uint8), device.get(b).view(np.uint8))


def normal(device, rng, *shape: int, scale: float = 1.0):
    return device.put((rng.standard_normal(shape) * scale).astype(BF16))


def test_an_activation_goes_through_several_layers(device, context, rng) -> None:
    x, norm = normal(device, rng, 9, 64), normal(device, rng, 64)
    a = nvfp4.QuantizedActivation.rmsnorm(context, x, norm, 1e-6)
    parts = nvfp4.rmsnorm_quantize(context, x, norm, 1e-6, scope=nvfp4.Scope.ROW, inv_rms=True)
    for name in ("codes", "scales", "decode_scales", "inv_rms"):
        same(device, getattr(a, name), getattr(parts, name))
    same(device, a.values(context), nvfp4.dequantize(context, parts))
    up, down = (nvfp4.Linear.from_values(context, normal(device, rng, n, k, scale=0.1)) for n, k in ((48, 64), (64, 48)))
    h = up(a, out_dtype="nvfp4")
    assert isinstance(h, nvfp4.QuantizedActivation)
    same(device, down(h), nvfp4.gemm(context, nvfp4.gemm(context, parts, up.weights, out_dtype="nvfp4"), down.weights))
    of = nvfp4.QuantizedActivation.of(context, x)
    same(device, of.codes, nvfp4.quantize(context, x, scope=nvfp4.Scope.ROW).codes)


def test_linear(device, context, rng) -> None:
    x, w, bias = normal(device, rng, 9, 64), normal(device, rng, 48, 64), normal(device, rng, 1, 48)
    layer = nvfp4.Linear.from_values(context, w, bias=bias)
    same(device, layer(x), nvfp4.gemm(context, x, layer.weights, bias=bias))
    transposed = nvfp4.Linear.from_values(context, device.put(np.ascontiguousarray(device.get(w).T)), transposed=True, bias=bias)
    same(device, transposed(x), layer(x))
    q = layer.weights.export()
    again = nvfp4.Linear.from_codes(context, q.codes, q.scales, q.decode_scales, bias=bias)
    same(device, again(x), layer(x))
    scale = layer.calibrate(x)
    same(device, scale, nvfp4.amax_scale(context, x))
    same(device, layer(x, out_dtype="f32"),
         nvfp4.linear(context, x, layer.weights, quantize=True, scope=nvfp4.Scope.TENSOR, static_decode_scales=scale, bias=bias, out_dtype="f32"))


@pytest.mark.parametrize("scope", [nvfp4.Scope.GROUP, nvfp4.Scope.TENSOR])
def test_grouped_linear(device, context, rng, scope) -> None:
    x, w = normal(device, rng, 9, 3, 64), normal(device, rng, 3, 16, 64)
    layer = nvfp4.GroupedLinear.from_values(context, w)
    same(device, layer(x), nvfp4.grouped_linear(context, x, layer.weights))
    scales = layer.calibrate(x, scope)
    largest = np.abs(device.get(x).astype(np.float32)).max(axis=(0, 2) if scope == nvfp4.Scope.GROUP else None)
    np.testing.assert_array_equal(device.get(scales), (np.atleast_1d(largest) / np.float32(2688)).astype(np.float32))
    same(device, layer(x), nvfp4.grouped_linear(context, x, layer.weights, quantize=True, scope=scope, static_decode_scales=scales))


@pytest.mark.parametrize("scope", [nvfp4.Scope.GROUP, nvfp4.Scope.TENSOR])
def test_moe_calibrates(device, context, rng, scope) -> None:
    x, logits = normal(device, rng, 40, 64), normal(device, rng, 40, 6)
    layer = nvfp4.MoE.from_values(
        context, normal(device, rng, 3, 64, 64, scale=0.1), normal(device, rng, 3, 64, 32, scale=0.1), 2, experts=6, first_expert=2
    )
    values = device.get(layer(x, logits, out_dtype="f32"))
    first, second = (device.get(scales) for scales in layer.calibrate(x, logits, scope=scope))
    ids, _ = (device.get(route) for route in nvfp4.moe_route(context, logits, 2))
    largest = [np.abs(device.get(x).astype(np.float32)[(ids == 2 + e).any(axis=1)]).max() for e in range(3)]
    want = np.array(largest if scope == nvfp4.Scope.GROUP else [max(largest)], np.float32) / np.float32(2688)
    np.testing.assert_array_equal(first, want)
    assert second.shape == want.shape and (second > 0).all()
    static = device.get(layer(x, logits, out_dtype="f32"))
    assert 0.01 < np.linalg.norm(static - values) / np.linalg.norm(values) < 0.3
    # Codes that come in keep their own scales; the intermediate ones stay static.
    codes = nvfp4.QuantizedActivation.of(context, x)
    assert np.linalg.norm(device.get(layer(codes, logits, out_dtype="f32")) - values) / np.linalg.norm(values) < 0.3


def test_moe(device, context, rng) -> None:
    x, logits, shared = normal(device, rng, 9, 64), normal(device, rng, 9, 4), normal(device, rng, 9, 64)
    router = nvfp4.Router(nvfp4.MoeScore.SIGMOID, renormalise=True, scaling=2.5)
    layer = nvfp4.MoE.from_values(
        context, normal(device, rng, 4, 64, 64, scale=0.1), normal(device, rng, 4, 64, 32, scale=0.1), 2, router, limit=7.0
    )
    options = {"limit": 7.0, "shared": shared}
    want = nvfp4.moe_forward(context, x, layer.w1, layer.w2, logits=logits, topk=2, router=router, **options)
    same(device, layer(x, logits, shared=shared), want)
    ids, weights = nvfp4.moe_route(context, logits, 2, router)
    same(device, layer(x, topk_ids=ids, topk_weights=weights, shared=shared), want)
    a = nvfp4.QuantizedActivation.of(context, x)
    same(device, layer(a, logits, shared=shared),
         nvfp4.moe_forward(context, x, layer.w1, layer.w2, logits=logits, topk=2, router=router, quantize=True, **options))
    again = nvfp4.MoE.from_codes(context, layer.w1.export(), layer.w2.export(), 2, router, limit=7.0)
    same(device, again(x, logits, shared=shared), want)
    plain = nvfp4.MoE.from_values(
        context, normal(device, rng, 4, 32, 64, scale=0.1), normal(device, rng, 4, 64, 32, scale=0.1), 2, activation=nvfp4.Activation.RELU2
    )
    assert plain(x, logits).shape == (9, 64)


def test_layers_are_tuned(device, context, rng) -> None:
    """On a GPU each product is measured on what the layer gives it; what comes out afterwards is the same product."""
    gpu = context.backend == nvfp4.Backend.CUDA
    x, logits, grouped = normal(device, rng, 5, 256), normal(device, rng, 5, 4), normal(device, rng, 5, 2, 256)
    linear = nvfp4.Linear.from_values(context, normal(device, rng, 192, 256, scale=0.1), quantize=True)
    several = nvfp4.GroupedLinear.from_values(context, normal(device, rng, 2, 128, 256, scale=0.1))
    moe = nvfp4.MoE.from_values(
        context, normal(device, rng, 4, 128, 256, scale=0.1), normal(device, rng, 4, 256, 64, scale=0.1), 2
    )
    for layer, *args in ((linear, x), (several, grouped), (moe, x, logits)):
        nvfp4.prepare_for(layer, *args)
        before = device.get(layer(*args, out_dtype="f32"))
        tuned = nvfp4.tune(layer, *args, out_dtype="f32", repeats=2)
        assert (tuned.candidates > 0) == gpu and (tuned.best_us > 0) == gpu and bool(tuned.kernel) == gpu
        after = device.get(layer(*args, out_dtype="f32"))
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-2 * np.abs(before).max())
    if gpu:
        context.load_tuning(None)
