"""Routing, expert order and combine against the oracle, bit for bit."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from devices import BF16, DTYPES

import nvfp4

ROUTERS = {
    "qwen3": (128, 8, nvfp4.Router(renormalise=True), False),
    "gpt-oss": (32, 4, nvfp4.Router(renormalise=True), False),
    "deepseek-v3": (256, 8, nvfp4.Router(nvfp4.MoeScore.SIGMOID, True, None, 8, 4, 2.5), True),
    "deepseek-v4": (256, 6, nvfp4.Router(nvfp4.MoeScore.SQRT_SOFTPLUS, True, scaling=1.5), True),
    "one expert": (1, 1, nvfp4.Router(), False),
    "all of two": (2, 2, nvfp4.Router(nvfp4.MoeScore.SIGMOID), True),
    "groups of one": (16, 3, nvfp4.Router(nvfp4.MoeScore.SIGMOID, True, None, 16, 5), True),
    "the most": (1024, 32, nvfp4.Router(nvfp4.MoeScore.SOFTMAX, True), True),
}
SCORES = {nvfp4.MoeScore.SOFTMAX: "softmax", nvfp4.MoeScore.SIGMOID: "sigmoid", nvfp4.MoeScore.SQRT_SOFTPLUS: "sqrt_softplus"}


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROUTERS)
def test_route_is_the_oracles(device, context, rng, name, dtype, coarse) -> None:
    experts, topk, router, with_bias = ROUTERS[name]
    logits = rng.integers(-2, 3, (53, experts)) if coarse else rng.standard_normal((53, experts)) * 3
    logits = logits.astype(DTYPES[dtype])
    bias = (rng.integers(0, 2, experts) if coarse else rng.standard_normal(experts) * 0.1).astype(np.float32) if with_bias else None
    router = nvfp4.Router(**{**router.__dict__, "bias": None if bias is None else device.put(bias)})
    mask = (rng.random(53) > 0.1).astype(np.uint8)
    ids, weights = nvfp4.moe_route(context, device.put(logits), topk, router, token_mask=device.put(mask))
    want_ids, want = oracle.route(
        logits.astype(np.float32), topk, SCORES[router.score], bias, router.renormalise, router.scaling, max(router.groups, 1), router.top_groups
    )
    np.testing.assert_array_equal(device.get(ids), np.where(mask[:, None], want_ids, -1))
    np.testing.assert_array_equal(device.get(weights).view(np.uint32), np.where(mask[:, None], want, np.float32(0)).view(np.uint32))
    assert context.faults().flags == 0


def sort(ids: np.ndarray, first: int, local: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ends, source rows, inverse) by numpy's stable sort."""
    flat = ids.reshape(-1).astype(np.int64) - first
    flat[(ids.reshape(-1) < 0) | (flat < 0) | (flat >= local)] = local
    order = np.argsort(flat, kind="stable")
    used = int((flat < local).sum())
    inverse = np.full(flat.size, -1, np.int32)
    inverse[order[:used]] = np.arange(used)
    source = np.full(flat.size, -1, np.int32)
    source[:used] = order[:used] // ids.shape[1]
    return np.cumsum(np.bincount(flat, minlength=local + 1)[:local]).astype(np.int32), source, inverse.reshape(ids.shape)


@pytest.mark.parametrize("tokens,topk,experts,first,local", [
    (0, 2, 4, 0, 4), (1, 1, 1, 0, 1), (77, 6, 256, 32, 32), (200, 8, 128, 0, 128), (9, 3, 2, 0, 2), (5, 2, 0, 0, 0), (64, 4, 6, 5, 1),
])
def test_permute_is_a_stable_sort(device, context, rng, tokens, topk, experts, first, local) -> None:
    for ids in (
        rng.integers(-1, max(experts, 1), (tokens, topk)) if experts else np.full((tokens, topk), -1),
        np.full((tokens, topk), experts - 1),
        np.full((tokens, topk), -1),
    ):
        ids = ids.astype(np.int32)
        got = nvfp4.moe_permute(context, device.put(ids), experts, first_expert=first, local_experts=local)
        ends, source, inverse = sort(ids, first, local)
        np.testing.assert_array_equal(device.get(got.ends), ends)
        np.testing.assert_array_equal(device.get(got.source_rows), source)
        np.testing.assert_array_equal(device.get(got.inverse), inverse)
    assert context.faults().flags == 0


@pytest.mark.parametrize("layout", nvfp4.ScaleLayout)
def test_rows_in_expert_order(device, context, rng, layout) -> None:
    x = rng.standard_normal((70, 96)).astype(BF16)
    ids = device.put(rng.integers(-1, 5, (70, 3)).astype(np.int32))
    plain = nvfp4.moe_permute(context, ids, 5, device.put(x))
    source = device.get(plain.source_rows)
    used = int((source >= 0).sum())
    np.testing.assert_array_equal(device.get(plain.rows)[:used].view(np.uint16), x[source[:used]].view(np.uint16))
    want = nvfp4.quantize(context, plain.rows, groups=plain.groups, scope=nvfp4.Scope.ROW, scale_layout=layout)
    direct = nvfp4.moe_permute(context, ids, 5, device.put(x), quantize=True, scale_layout=layout)
    once = nvfp4.quantize(context, device.put(x), scope=nvfp4.Scope.ROW)
    moved = nvfp4.moe_permute(context, ids, 5, once, scale_layout=layout)
    for got in (direct.rows, moved.rows):
        for part in ("codes", "scales", "decode_scales"):
            np.testing.assert_array_equal(device.get(getattr(got, part)), device.get(getattr(want, part)))


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("shared", [False, True])
def test_combine_is_the_oracles(device, context, rng, out_dtype, shared) -> None:
    tokens, topk, cols = 19, 6, 1040
    y = rng.standard_normal((tokens * topk, cols)).astype(BF16)
    weights = rng.random((tokens, topk)).astype(np.float32)
    inverse = rng.permutation(tokens * topk).astype(np.int32).reshape(tokens, topk)
    inverse[3], inverse[4, 2] = -1, -1
    addend = rng.standard_normal((tokens, cols)).astype(BF16)
    out = nvfp4.moe_combine(
        context, device.put(y), device.put(inverse), device.put(weights), shared=device.put(addend) if shared else None, out_dtype=out_dtype
    )
    slots = np.where((inverse >= 0)[..., None], y.astype(np.float32)[inverse], np.float32(0))
    want = oracle.combine(slots, np.where(inverse >= 0, weights, np.float32(0)), DTYPES[out_dtype], addend.astype(np.float32) if shared else None)
    np.testing.assert_array_equal(device.get(out).astype(np.float32), want)


def test_arrays_that_do_not_fit(device, context) -> None:
    ids, x = device.put(np.zeros((4, 2), np.int32)), device.put(np.zeros((5, 32), np.float32))
    with pytest.raises(nvfp4.InvalidArgumentError, match="same tokens"):
        nvfp4.moe_permute(context, ids, 3, x)
    with pytest.raises(nvfp4.InvalidArgumentError, match="topk_ids has shape"):
        nvfp4.moe_permute(context, device.put(np.zeros(4, np.int32)), 3)
    with pytest.raises(nvfp4.InvalidArgumentError, match="router.bias has 3 elements"):
        nvfp4.moe_route(context, x, 2, nvfp4.Router(bias=device.put(np.zeros(3, np.float32))))
    with pytest.raises(nvfp4.InvalidArgumentError, match="topk_weights has 3 elements"):
        nvfp4.moe_combine(context, x, ids, device.put(np.zeros(3, np.float32)))
