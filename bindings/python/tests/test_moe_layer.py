"""A whole mixture of experts: against a float64 oracle of the same steps, and against the parts, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import oracle
import pytest
from devices import BF16, DTYPES

import nvfp4

F64 = np.float64
SCORES = {nvfp4.MoeScore.SOFTMAX: "softmax", nvfp4.MoeScore.SIGMOID: "sigmoid", nvfp4.MoeScore.SQRT_SOFTPLUS: "sqrt_softplus"}
#: The two values of a byte of codes, and the value of a scale.
PAIRS = oracle.e2m1_values(oracle.unpack(np.arange(256, dtype=np.uint8)[:, None])).astype(np.float32)
SCALES = oracle.e4m3_values(np.arange(256, dtype=np.uint8)).astype(np.float32)


@dataclass(frozen=True)
class Model:
    """A layer with fewer experts and a part of the width, the router's way kept."""

    hidden: int
    width: int
    experts: int
    topk: int
    router: nvfp4.Router
    bias: bool = False
    gated: bool = True
    gate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    product_bias: bool = False
    shared: bool = False


SIGMOID, SQRT_SOFTPLUS = nvfp4.MoeScore.SIGMOID, nvfp4.MoeScore.SQRT_SOFTPLUS
MODELS = {
    "deepseek-v4-flash": Model(512, 256, 16, 6, nvfp4.Router(SQRT_SOFTPLUS, True, scaling=1.5), True, gate=(10.0, 0.0, 0.0), shared=True),
    "deepseek-v4-pro": Model(896, 384, 12, 6, nvfp4.Router(SQRT_SOFTPLUS, True, scaling=2.5), True, gate=(10.0, 0.0, 0.0), shared=True),
    "deepseek-v3": Model(896, 256, 16, 8, nvfp4.Router(SIGMOID, True, None, 8, 4, 2.5), True, shared=True),
    "qwen3-30b": Model(512, 192, 16, 8, nvfp4.Router(renormalise=True)),
    "qwen3-235b": Model(512, 384, 16, 8, nvfp4.Router(renormalise=True)),
    "glm-4.7": Model(640, 192, 20, 8, nvfp4.Router(SIGMOID, True, scaling=2.5), True, shared=True),
    "minimax-m2": Model(384, 192, 32, 8, nvfp4.Router(SIGMOID, True), True),
    "nemotron-3-nano": Model(336, 1856, 8, 6, nvfp4.Router(SIGMOID, True, scaling=2.5), True, gated=False, shared=True),
    "gpt-oss-20b": Model(2880, 2880, 3, 2, nvfp4.Router(renormalise=True), gate=(7.0, 1.702, 1.0), product_bias=True),
}
#: hidden and I of the models.
WIDTHS = {
    "deepseek-v4-flash": (4096, 2048), "deepseek-v4-pro": (7168, 3072), "deepseek-v3": (7168, 2048), "qwen3-30b": (2048, 768),
    "qwen3-235b": (4096, 1536), "glm-4.7": (5120, 1536), "minimax-m2": (3072, 1536), "nemotron-3-nano": (2688, 1856),
    "gpt-oss-20b": (2880, 2880),
}
#: Each with many experts of a part of the width, and with few of all of it.
LAYERS = [(name, False) for name in MODELS] + [(name, True) for name, m in MODELS.items() if (m.hidden, m.width) != WIDTHS[name]]


class Layer:
    """The weights of a model, quantized; the library's layer and the oracle's."""

    def __init__(self, device, model: Model, rng) -> None:
        self.device, self.model, self.context = device, model, device.context
        e, k, i = model.experts, model.hidden, model.width
        rows = 2 * i if model.gated else i
        self.w1 = self.weights(uniform(rng, (e, rows, k)), model.gated)
        self.w2 = self.weights(uniform(rng, (e, k, i)), False)
        self.bias = (rng.standard_normal(e) * 0.05).astype(np.float32) if model.bias else None
        self.bias1 = (rng.standard_normal((e, rows)) * 0.1).astype(BF16) if model.product_bias else None
        self.bias2 = (rng.standard_normal((e, k)) * 0.1).astype(BF16) if model.product_bias else None

    def weights(self, values: np.ndarray, gate_up: bool) -> nvfp4.Weights:
        return nvfp4.Weights.prepare(self.context, self.device.put(values), gate_up=gate_up)

    def values(self, name: str) -> Iterator[np.ndarray]:
        """What the library multiplies with, in float64, expert by expert."""
        weights = getattr(self, name)
        info, q = weights.info, weights.export()
        codes, scales, decode = (self.device.get(part) for part in (q.codes, q.scales, q.decode_scales))
        for e in range(info.groups):
            values = PAIRS[codes[e]].reshape(info.rows, -1, 16) * SCALES[scales[e]].reshape(info.rows, -1, 1)  # exact
            yield values.reshape(info.rows, -1).astype(F64) * float(decode[e])

    def put(self, array):
        return None if array is None else self.device.put(array)

    def forward(self, x, logits, shared=None, **options):
        limit, alpha, beta = self.model.gate
        router = nvfp4.Router(**{**self.model.router.__dict__, "bias": self.put(self.bias)})
        routes = {} if "topk_ids" in options else {"logits": self.put(logits), "topk": self.model.topk, "router": router}
        return nvfp4.moe_forward(
            self.context, self.put(x) if isinstance(x, np.ndarray) else x, self.w1, self.w2, bias1=self.put(self.bias1), bias2=self.put(self.bias2),
            activation=nvfp4.Activation.SWIGLU if self.model.gated else nvfp4.Activation.RELU2, limit=limit, alpha=alpha, beta=beta,
            shared=self.put(shared), **routes, **options,
        )

    def route(self, logits):
        r = self.model.router
        return oracle.route(logits.astype(np.float32), self.model.topk, SCORES[r.score], self.bias, r.renormalise, r.scaling, max(r.groups, 1), r.top_groups)

    def oracle(self, x, ids, weights, shared=None, quantize=False) -> np.ndarray:
        """The same steps in float64. Where NVFP4 stands between the products, what is quantized is rounded first, as the
        layer does it: codes of values that differ by less than a rounding may differ by a whole step."""
        out = np.zeros((len(x), self.model.hidden)) if shared is None else shared.astype(F64)
        x = self.requantized(x.astype(np.float32)) if quantize else x.astype(F64)
        keep = bf16 if quantize else lambda v: v
        for e, (w1, w2) in enumerate(zip(self.values("w1"), self.values("w2"))):
            tokens, slots = np.nonzero(ids == e)
            if len(tokens):
                v = x[tokens] @ w1.T + (0 if self.bias1 is None else self.bias1[e].astype(F64))
                h = keep(self.activated(keep(v)))
                h = self.requantized(h.astype(np.float32)) if quantize else h
                y = h @ w2.T + (0 if self.bias2 is None else self.bias2[e].astype(F64))
                np.add.at(out, tokens, weights[tokens, slots].astype(F64)[:, None] * y)
        return out

    def activated(self, v: np.ndarray) -> np.ndarray:
        if not self.model.gated:
            return np.maximum(v, 0) ** 2
        (gate, up), (limit, alpha, beta) = np.split(v, 2, axis=1), self.model.gate
        if limit:
            gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
        return gate / (1 + np.exp(-(alpha or 1.0) * gate)) * (up + beta)

    @staticmethod
    def requantized(rows: np.ndarray) -> np.ndarray:
        encode, decode = oracle.encode_from_amax(oracle.finite_amax(rows, axis=1))
        return oracle.dequantize(*oracle.quantize(rows, encode), decode).astype(F64)


def uniform(rng, shape: tuple[int, ...]) -> np.ndarray:
    """Weights that keep the variance of what they multiply."""
    return ((rng.random(shape, np.float32) - np.float32(0.5)) * np.float32(np.sqrt(12 / shape[-1]))).astype(BF16)


def bf16(v: np.ndarray) -> np.ndarray:
    return v.astype(np.float32).astype(BF16).astype(F64)


def distance(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.astype(F64) - want) / np.linalg.norm(want))


@pytest.mark.parametrize("name,full_width", LAYERS)
def test_layers_of_models(device, context, rng, name, full_width, record_property) -> None:
    model = MODELS[name]
    if full_width:
        if context.backend != nvfp4.Backend.CPU:
            pytest.skip("the bound is the CPU's; devices are compared with it")
        hidden, width = WIDTHS[name]
        few = {"experts": 3, "topk": 2} if not model.router.groups else {
            "experts": 4, "topk": 2, "router": replace(model.router, groups=2, top_groups=1)
        }
        model = replace(model, hidden=hidden, width=width, **few)
    layer = Layer(device, model, rng)
    x = rng.standard_normal((11, model.hidden)).astype(BF16)
    logits = (rng.standard_normal((11, model.experts)) * 2).astype(np.float32)
    shared = rng.standard_normal((11, model.hidden)).astype(BF16) if model.shared else None
    for quantize, bar in ((False, 0.01), (True, 0.02)):
        out = device.get(layer.forward(x, logits, shared, quantize=quantize, out_dtype="f32"))
        error = distance(out, layer.oracle(x, *layer.route(logits), shared, quantize))
        record_property(f"relative_error_{'nvfp4' if quantize else 'bf16'}", error)
        print(f"{name}, NVFP4 activations {quantize}: {error:.5f}")
        assert error <= bar


SMALL = Model(64, 48, 5, 2, nvfp4.Router(renormalise=True), shared=True)


@pytest.fixture(scope="module")
def small(device) -> Layer:
    return Layer(device, SMALL, np.random.default_rng(7))


def parts(layer: Layer, x, ids, weights, shared=None, quantize=False, first_expert=0, experts=None, static=None):
    """The layer by the calls that it consists of."""
    context, model = layer.context, layer.model
    order = nvfp4.moe_permute(
        context, layer.put(ids), model.experts if experts is None else experts, layer.put(x), first_expert=first_expert,
        local_experts=layer.w1.info.groups, quantize=quantize,
        **({} if static is None else {"static_decode_scales": layer.put(static), "scope": nvfp4.Scope.GROUP}),
    )
    limit, alpha, beta = model.gate
    inner = {} if x.dtype == np.float16 else {"out_dtype": "bf16"}
    requantized = {"out_dtype": "nvfp4"}
    if static is not None:
        requantized |= {"static_decode_scales": layer.put(static), "scope": nvfp4.Scope.GROUP}
    h = nvfp4.grouped_gemm(
        context, order.rows, layer.w1, groups=order.groups, activation=nvfp4.Activation.SWIGLU if model.gated else nvfp4.Activation.RELU2,
        limit=limit, alpha=alpha, beta=beta, bias=layer.put(layer.bias1), **(requantized if quantize else inner),
    )
    y = nvfp4.grouped_gemm(context, h, layer.w2, groups=order.groups, bias=layer.put(layer.bias2), out_dtype="f16" if inner == {} else "bf16")
    return nvfp4.moe_combine(context, y, order.inverse, layer.put(weights), shared=layer.put(shared), out_dtype="f32")


def same(layer: Layer, a, b) -> None:
    np.testing.assert_array_equal(layer.device.get(a).view(np.uint32), layer.device.get(b).view(np.uint32))


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
@pytest.mark.parametrize("quantize", [False, True])
def test_a_layer_is_its_parts(small, rng, quantize, dtype) -> None:
    if dtype == "f32" and not quantize:
        pytest.skip("F32 states are quantized")
    x = rng.standard_normal((33, 64)).astype(DTYPES[dtype])
    logits = rng.standard_normal((33, 5)).astype(BF16)
    shared = rng.standard_normal((33, 64)).astype(np.float16)
    ids, weights = small.route(logits)
    want = parts(small, x, ids, weights, shared, quantize)
    same(small, small.forward(x, logits, shared, quantize=quantize, out_dtype="f32"), want)
    same(small, small.forward(x, None, shared, topk_ids=small.put(ids), topk_weights=small.put(weights), quantize=quantize, out_dtype="f32"), want)
    if quantize:
        if dtype != "f16":  # the rows of NVFP4 tokens are BF16 behind the products
            tokens = nvfp4.quantize(small.context, small.put(x), scope=nvfp4.Scope.ROW)
            same(small, small.forward(tokens, logits, shared, quantize=True, out_dtype="f32"), want)
        static = (rng.random(5) * 0.01 + 0.005).astype(np.float32)
        got = small.forward(
            x, logits, shared, quantize=True, out_dtype="f32", static_scope=nvfp4.Scope.GROUP, static_input_scales=small.put(static),
            static_intermediate_scales=small.put(static),
        )
        same(small, got, parts(small, x, ids, weights, shared, True, static=static))


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("routes", ["one expert", "masked", "some masked", "duplicates", "no expert"])
def test_small_routes(small, rng, routes, quantize) -> None:
    x = rng.standard_normal((9, 64)).astype(BF16)
    weights = rng.random((9, 3)).astype(np.float32)
    ids = {
        "one expert": np.full((9, 3), 4), "masked": np.full((9, 3), -1), "some masked": rng.integers(-1, 5, (9, 3)),
        "duplicates": np.repeat(rng.integers(0, 5, (9, 1)), 3, axis=1), "no expert": np.where(rng.random((9, 3)) < 0.5, 5, 1),
    }[routes].astype(np.int32)
    small.context.clear_faults()
    out = small.device.get(small.forward(x, None, topk_ids=small.put(ids), topk_weights=small.put(weights), quantize=quantize, out_dtype="f32"))
    faults = small.context.faults()
    small.context.clear_faults()
    assert faults.flags == (nvfp4.FaultFlags.BAD_GROUP if routes == "no expert" else 0)
    want = small.oracle(x, np.where(ids < 5, ids, -1), weights, None, quantize)
    if routes == "masked":
        assert not out.any()
    else:
        assert distance(out, want) <= (0.02 if quantize else 0.01)


@pytest.mark.parametrize("experts", [0, 1, 2])
def test_few_experts(device, context, rng, experts) -> None:
    layer = Layer(device, Model(32, 16, experts, min(experts, 1) or 1, nvfp4.Router()), rng)
    x = rng.standard_normal((6, 32)).astype(BF16)
    if experts == 0:
        ids, weights = np.full((6, 1), -1, np.int32), np.ones((6, 1), np.float32)
        out = device.get(layer.forward(x, None, x, topk_ids=device.put(ids), topk_weights=device.put(weights)))
        np.testing.assert_array_equal(out, x)
        return
    logits = rng.standard_normal((6, experts)).astype(np.float32)
    out = device.get(layer.forward(x, logits, out_dtype="f32"))
    assert distance(out, layer.oracle(x, *layer.route(logits))) <= 0.01


@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
@pytest.mark.parametrize("experts", [0, 1, 2])
def test_every_route_of_few_experts(device, context, rng, experts, activation) -> None:
    """Two tokens of two slots each: all experts, one, duplicates, masks."""
    layer = Layer(device, Model(32, 16, experts, 2, nvfp4.Router(), gated=activation == "swiglu"), rng)
    x, shared = (rng.standard_normal((2, 32)).astype(BF16) for _ in range(2))
    weights = (rng.random((2, 2)) + 0.5).astype(np.float32)
    held_x, held_weights, held_shared = (device.put(a) for a in (x, weights, shared))
    for slots in itertools.product(range(-1, experts), repeat=4):
        ids = np.array(slots, np.int32).reshape(2, 2)
        routes = {"topk_ids": device.put(ids), "topk_weights": held_weights}
        for quantize, bar in ((False, 0.01), (True, 0.02)):
            out = device.get(nvfp4.moe_forward(
                context, held_x, layer.w1, layer.w2, shared=held_shared, quantize=quantize, out_dtype="f32",
                activation=nvfp4.Activation.SWIGLU if layer.model.gated else nvfp4.Activation.RELU2, **routes,
            ))
            assert distance(out, layer.oracle(x, ids, weights, shared, quantize)) <= bar, (ids, quantize)
            masked = (ids < 0).all(axis=1)
            np.testing.assert_array_equal(out[masked], shared[masked].astype(np.float32))
    assert context.faults().flags == 0


def test_no_tokens(small) -> None:
    out = small.forward(np.zeros((0, 64), BF16), np.zeros((0, 5), np.float32))
    assert tuple(out.shape) == (0, 64)


def test_masked_tokens_get_the_shared_expert(small, rng) -> None:
    x, shared = rng.standard_normal((8, 64)).astype(BF16), rng.standard_normal((8, 64)).astype(BF16)
    logits = rng.standard_normal((8, 5)).astype(np.float32)
    mask = np.array([1, 0, 1, 1, 0, 0, 1, 1], np.uint8)
    out = small.device.get(small.forward(x, logits, shared, token_mask=small.put(mask)))
    all_ = small.device.get(small.forward(x, logits, shared))
    np.testing.assert_array_equal(out, np.where(mask[:, None] == 1, all_, shared))


@pytest.mark.parametrize("quantize", [False, True])
def test_expert_parallel_parts_add_up(device, context, rng, quantize) -> None:
    """Each process has some of the experts; the sum of their outputs is the layer's."""
    whole = Layer(device, SMALL, np.random.default_rng(7))
    x, logits = rng.standard_normal((21, 64)).astype(BF16), rng.standard_normal((21, 5)).astype(np.float32)
    ids, weights = whole.route(logits)
    total = 0
    for first, local in ((0, 2), (2, 1), (3, 2)):
        part = Layer(device, SMALL, np.random.default_rng(7))
        for name in ("w1", "w2"):
            q, info = getattr(whole, name).export(), getattr(whole, name).info
            cut = lambda a: device.put(np.ascontiguousarray(device.get(a)[first : first + local]))  # noqa: E731, B023
            setattr(part, name, nvfp4.Weights.prepare(
                context, codes=cut(q.codes), scales=cut(q.scales), decode_scales=cut(q.decode_scales), gate_up=info.gate_up
            ))
        got = part.forward(x, logits, experts=5, first_expert=first, quantize=quantize, out_dtype="f32")
        same(whole, got, parts(part, x, ids, weights, None, quantize, first, 5))
        total = total + device.get(got).astype(F64)
    assert distance(total, device.get(whole.forward(x, logits, quantize=quantize, out_dtype="f32")).astype(F64)) < 1e-6


WIDE = Model(512, 256, 16, 4, nvfp4.Router(renormalise=True))


@pytest.fixture(scope="module")
def batched(device, small) -> tuple[Layer, int]:
    """A layer and the most rows of its batches: on a GPU enough for every form of product."""
    if device.context.backend == nvfp4.Backend.CPU:
        return small, 40
    return Layer(device, WIDE, np.random.default_rng(8)), 2500


@pytest.mark.parametrize("quantize", [False, True])
def test_a_token_alone_and_in_any_batch(batched, rng, quantize) -> None:
    layer, most = batched
    rows, experts = rng.standard_normal((2 * most, layer.model.hidden)).astype(BF16), layer.model.experts
    logits = rng.standard_normal((2 * most, experts)).astype(np.float32)
    options = {"quantize": quantize, "flags": nvfp4.GemmFlags.BATCH_INVARIANT}
    alone = layer.device.get(layer.forward(rows[:1], logits[:1], **options))[0].view(np.uint16)
    for _ in range(1000):
        size = int(most ** rng.random())
        first, at = int(rng.integers(1, 2 * most - size)), int(rng.integers(size))
        x, l = rows[first : first + size].copy(), logits[first : first + size].copy()
        x[at], l[at] = rows[0], logits[0]
        np.testing.assert_array_equal(layer.device.get(layer.forward(x, l, **options))[at].view(np.uint16), alone)


@pytest.mark.parametrize("quantize", [False, True])
def test_eager_and_replayed(small, rng, quantize) -> None:
    context, put = small.context, small.put
    x, logits = rng.standard_normal((17, 64)).astype(BF16), rng.standard_normal((17, 5)).astype(np.float32)
    held_x, held_logits, out = put(x), put(logits), put(np.zeros((17, 64), BF16))
    with nvfp4.Stream(context) as stream:
        with nvfp4.Graph.capture(stream) as recording:
            nvfp4.moe_forward(
                context, held_x, small.w1, small.w2, logits=held_logits, topk=2, router=SMALL.router, quantize=quantize, out=out, stream=stream
            )
        for _ in range(3):
            x, logits = rng.standard_normal((17, 64)).astype(BF16), rng.standard_normal((17, 5)).astype(np.float32)
            small.device.assign(held_x, x)
            small.device.assign(held_logits, logits)
            recording.graph.launch(stream)
            stream.synchronize()
            eager = small.device.get(small.forward(x, logits, quantize=quantize))
            np.testing.assert_array_equal(small.device.get(out).view(np.uint16), eager.view(np.uint16))
