"""What layers are made of on Hopper: at most the launches that docs/layers.md lists. A copy or a memset would be a node more."""

from __future__ import annotations

import numpy as np
import pytest
from devices import BF16

import nvfp4


@pytest.fixture
def hopper(device, context):
    if "compute 9.0" not in context.info().name:
        pytest.skip("the launches of a layer are counted on Hopper")
    return device


def weights(device, rng, *shape: int, gate_up: bool = False) -> nvfp4.Weights:
    values = (rng.random(shape, np.float32) - np.float32(0.5)).astype(BF16)
    return nvfp4.Weights.prepare(device.context, device.put(values), gate_up=gate_up)


def nodes(device, call) -> int:
    """Of a graph of one call, which has run once before."""
    with nvfp4.Stream(device.context) as stream:
        call(stream)
        stream.synchronize()
        with nvfp4.Graph.capture(stream) as recording:
            call(stream)
        count = recording.graph.node_count
        recording.graph.close()
    return count


@pytest.mark.parametrize("tokens", [1, 8, 64, 512])
@pytest.mark.parametrize("k,n", [(4096, 1024), (8192, 1536)])
def test_grouped_linear(hopper, rng, tokens, k, n) -> None:
    w, groups = weights(hopper, rng, 8, n, k), 8
    x = hopper.put(rng.random((tokens, groups, k), np.float32).astype(BF16))
    out = hopper.put(np.zeros((tokens, groups, n), BF16))
    static = hopper.put(np.full(groups, 0.001, np.float32))
    for options, expected in (
        ({}, 1), ({"quantize": True}, 2), ({"quantize": True, "scope": nvfp4.Scope.GROUP, "static_decode_scales": static}, 2),
    ):
        count = nodes(hopper, lambda stream: nvfp4.grouped_linear(hopper.context, x, w, out=out, stream=stream, **options))  # noqa: B023
        assert 1 <= count <= expected, options


@pytest.mark.parametrize("tokens,launches", [(1, 4), (2, 4), (3, 5), (64, 5), (1000, 6), (2000, 8)])
@pytest.mark.parametrize("quantize", [False, True])
def test_moe(hopper, rng, tokens, launches, quantize) -> None:
    w1, w2 = weights(hopper, rng, 16, 512, 512, gate_up=True), weights(hopper, rng, 16, 512, 256)
    x, out = (hopper.put(rng.random((tokens, 512), np.float32).astype(BF16)) for _ in range(2))
    logits = hopper.put(rng.random((tokens, 16), np.float32))
    ids, shares = nvfp4.moe_route(hopper.context, logits, 4)
    for routes, expected in (({"logits": logits, "topk": 4}, launches), ({"topk_ids": ids, "topk_weights": shares}, launches - (tokens > 2))):
        count = nodes(
            hopper, lambda stream: nvfp4.moe_forward(hopper.context, x, w1, w2, out=out, quantize=quantize, stream=stream, **routes)  # noqa: B023
        )
        assert 3 <= count <= expected + quantize, routes.keys()
