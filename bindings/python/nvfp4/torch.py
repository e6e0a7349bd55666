"""torch operators: `torch.ops.nvfp4.*` with fake kernels, for `torch.compile` without graph breaks and for `torch.cuda.graph`.

    import nvfp4.torch as nv
    weights = nv.Weights(w)                              # bf16 [N, K] or [E, N, K], or codes=, scales=, decode_scales=
    q = nv.rmsnorm_quantize(x, norm_weight, 1e-6, scope=nv.Scope.ROW)
    y = nv.gemm(q, weights, dtype=torch.bfloat16)

Work goes to torch's current stream; outputs and scratch come from torch's allocator, so that a capture holds them. Each device
has one context, made and prepared at its first use: call each operator's device once (or `warm_up`) before a capture. No
gradients. Only this module needs torch.
"""

# Schemas are written out: no annotation is evaluated by torch.
import itertools
import threading
import weakref
from typing import Any, NamedTuple

import torch

from . import fused, linears, moe, products, quantizers
from ._call import Groups
from ._call import Quantized as _Quantized
from .context import Context, Stream, backend_query
from .enums import Activation, Backend, GemmFlags, ScaleLayout, ScaleRule, Scope, WeightsScope
from .errors import InvalidArgumentError
from .moe import Router
from .products import Weights as _Weights

__all__ = [
    "Activation", "Quantized", "Router", "ScaleLayout", "ScaleRule", "Scope", "Weights", "WeightsScope", "add_rmsnorm_quantize",
    "available", "dequantize", "gemm", "grouped_gemm", "grouped_linear", "linear", "moe_forward", "moe_route",
    "quantize", "rmsnorm_quantize", "swiglu_quantize", "warm_up",
]

_lock = threading.Lock()
_contexts: dict[tuple[str, int], Context] = {}
_streams: dict[tuple[int, int], Stream] = {}
#: Prepared weights by the number that operators carry (they are no tensor: their layout is the kernels'); never used again.
_weights: dict[int, _Weights] = {}
_numbers = itertools.count(1)


def _context(device: torch.device) -> Context:
    index = (device.index if device.index is not None else torch.cuda.current_device()) if device.type == "cuda" else 0
    with _lock:
        context = _contexts.get((device.type, index))
        if context is None:
            context = Context(Backend.CUDA, index) if device.type == "cuda" else Context()
            context.prepare()
            _contexts[device.type, index] = context
    return context


def available(device: Any = "cuda") -> bool:
    """Whether this machine and this build can work on a device."""
    device = torch.device(device)
    return device.type == "cpu" or bool(backend_query(Backend.CUDA, device.index or 0).available)


def warm_up(device: Any = "cuda") -> None:
    """Makes the context of a device and loads its kernels, which a capture must not."""
    _context(torch.device(device))


def _where(x: torch.Tensor) -> tuple[Context, dict[str, Any]]:
    """Context of a tensor's device; the stream and scratch of a call there."""
    context = _context(x.device)
    if x.device.type != "cuda":
        return context, {"stream": context.stream, "workspace": None}
    native = torch.cuda.current_stream(x.device).cuda_stream
    key = (context.device, native)
    with _lock:
        stream = _streams.get(key)
        if stream is None:
            stream = _streams[key] = Stream.borrow(context, native)
    # In the order of torch's stream, and inside a capture in the graph's own pool.
    return context, {"stream": stream, "workspace": lambda size: torch.empty(size, dtype=torch.uint8, device=x.device)}


class Quantized(NamedTuple):
    """codes [..., K/2] uint8; scales uint8, [..., K/16] or tiled; decode_scales float32, one or one a row."""

    codes: torch.Tensor
    scales: torch.Tensor
    decode_scales: torch.Tensor
    scale_layout: int = ScaleLayout.LINEAR
    scope: int = Scope.TENSOR


def _rows(x: torch.Tensor) -> Any:
    rows = 1
    for size in x.shape[:-1]:
        rows = rows * size
    return rows


def _fake_quantized(like: torch.Tensor, lead: Any, rows: Any, cols: Any, layout: int, scope: int, static: Any) -> Any:
    def byte(*shape: Any) -> torch.Tensor:
        return like.new_empty(shape, dtype=torch.uint8)

    if layout == ScaleLayout.LINEAR:
        scales = byte(*lead, cols // 16)
    else:
        tile = 128 if layout == ScaleLayout.TILED_128X4 else 8
        scales = byte((rows + tile - 1) // tile * tile * ((cols // 16 + 3) // 4 * 4))
    count = 0 if static is not None else rows if scope == Scope.ROW else 1
    return byte(*lead, cols // 2), scales, like.new_empty((count,), dtype=torch.float32)


def _parts(q: _Quantized, static: Any, like: torch.Tensor) -> Any:
    """What an operator gives back: an output may not be an input, so static scales are not handed out again."""
    decode = like.new_empty((0,), dtype=torch.float32) if static is not None else q.decode_scales
    return q.codes, q.scales, decode


def _whole(parts: Any, static: Any, layout: int, scope: int) -> Quantized:
    codes, scales, decode = parts
    return Quantized(codes, scales, decode if static is None else static, int(layout), scope)


_OUT = "int scale_rule, int scope, int scale_layout, Tensor? static_decode_scales"
_THREE = "(Tensor, Tensor, Tensor)"


def _op(name: str, schema: str, mutates: tuple[str, ...] = ()) -> Any:
    return torch.library.custom_op(f"nvfp4::{name}", mutates_args=mutates, schema=schema)


@_op("quantize", f"(Tensor x, {_OUT}) -> {_THREE}")
def _quantize(x, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    context, where = _where(x)
    q = quantizers.quantize(context, x, scale_rule=scale_rule, scope=scope, scale_layout=scale_layout,
                            static_decode_scales=static_decode_scales, **where)
    return _parts(q, static_decode_scales, x)


@_quantize.register_fake
def _(x, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    return _fake_quantized(x, x.shape[:-1], _rows(x), x.shape[-1], scale_layout, scope, static_decode_scales)


@_op("dequantize", "(Tensor codes, Tensor scales, Tensor decode_scales, int scale_layout, int scope, ScalarType dtype) -> Tensor")
def _dequantize(codes, scales, decode_scales, scale_layout, scope, dtype):  # type: ignore[no-untyped-def]
    context, where = _where(codes)
    q = _Quantized(codes, scales, decode_scales, scale_layout, scope)
    return quantizers.dequantize(context, q, dst_dtype=dtype, stream=where["stream"])


@_dequantize.register_fake
def _(codes, scales, decode_scales, scale_layout, scope, dtype):  # type: ignore[no-untyped-def]
    return codes.new_empty((*codes.shape[:-1], codes.shape[-1] * 2), dtype=dtype)


@_op("rmsnorm_quantize", f"(Tensor x, Tensor weight, float eps, float weight_offset, {_OUT}) -> {_THREE}")
def _rmsnorm(x, weight, eps, weight_offset, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    context, where = _where(x)
    q = fused.rmsnorm_quantize(context, x, weight, eps, weight_offset=weight_offset, scale_rule=scale_rule, scope=scope,
                               scale_layout=scale_layout, static_decode_scales=static_decode_scales, **where)
    return _parts(q, static_decode_scales, x)


@_rmsnorm.register_fake
def _(x, weight, eps, weight_offset, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    return _fake_quantized(x, x.shape[:-1], _rows(x), x.shape[-1], scale_layout, scope, static_decode_scales)


@_op("add_rmsnorm_quantize", f"(Tensor x, Tensor(a!) residual, Tensor weight, float eps, float weight_offset, {_OUT}) -> {_THREE}",
     ("residual",))
def _add_rmsnorm(x, residual, weight, eps, weight_offset, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    context, where = _where(x)
    q = fused.rmsnorm_quantize(context, x, weight, eps, residual=residual, weight_offset=weight_offset, scale_rule=scale_rule,
                               scope=scope, scale_layout=scale_layout, static_decode_scales=static_decode_scales, **where)
    return _parts(q, static_decode_scales, x)


@_add_rmsnorm.register_fake
def _(x, residual, weight, eps, weight_offset, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    return _fake_quantized(x, x.shape[:-1], _rows(x), x.shape[-1], scale_layout, scope, static_decode_scales)


@_op("swiglu_quantize", f"(Tensor x, int activation, float limit, float alpha, float beta, {_OUT}) -> {_THREE}")
def _swiglu(x, activation, limit, alpha, beta, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    context, where = _where(x)
    q = fused.swiglu_quantize(context, x, activation=activation, limit=limit, alpha=alpha, beta=beta, scale_rule=scale_rule,
                              scope=scope, scale_layout=scale_layout, static_decode_scales=static_decode_scales, **where)
    return _parts(q, static_decode_scales, x)


@_swiglu.register_fake
def _(x, activation, limit, alpha, beta, scale_rule, scope, scale_layout, static_decode_scales):  # type: ignore[no-untyped-def]
    cols = x.shape[-1] // 2 if activation == Activation.SWIGLU else x.shape[-1]
    return _fake_quantized(x, x.shape[:-1], _rows(x), cols, scale_layout, scope, static_decode_scales)


_EPILOGUE = ("int weights, int cols, Tensor? bias, int activation, float limit, float alpha, float beta, "
             "int flags, ScalarType dtype")


def _prepared(number: int) -> _Weights:
    found = _weights.get(number)
    if found is None:
        raise InvalidArgumentError(f"weights {number} are gone; keep the nvfp4.torch.Weights while they are used")
    return found


def _product(a: Any, ends: Any, weights: int, bias: Any, activation: int, limit: float, alpha: float, beta: float, flags: int,
             dtype: Any) -> torch.Tensor:
    found = _prepared(weights)
    context, where = _where(a.codes if isinstance(a, _Quantized) else a)
    epilogue = {"bias": bias, "activation": activation, "limit": limit, "alpha": alpha, "beta": beta, "flags": flags}
    if ends is None:
        return products.gemm(context, a, found, out_dtype=dtype, **epilogue, **where)
    return products.grouped_gemm(context, a, found, groups=Groups.by_ends(ends), out_dtype=dtype, **epilogue, **where)


@_op("gemm", f"(Tensor a, Tensor? ends, {_EPILOGUE}) -> Tensor")
def _gemm(a, ends, weights, cols, bias, activation, limit, alpha, beta, flags, dtype):  # type: ignore[no-untyped-def]
    return _product(a, ends, weights, bias, activation, limit, alpha, beta, flags, dtype)


@_gemm.register_fake
def _(a, ends, weights, cols, bias, activation, limit, alpha, beta, flags, dtype):  # type: ignore[no-untyped-def]
    return a.new_empty((*a.shape[:-1], cols), dtype=dtype)


@_op("gemm_quantized", "(Tensor codes, Tensor scales, Tensor decode_scales, int scale_layout, int scope, Tensor? ends, "
     f"{_EPILOGUE}) -> Tensor")
def _gemm_quantized(codes, scales, decode_scales, scale_layout, scope, ends, weights, cols, bias, activation, limit,  # type: ignore[no-untyped-def]
                    alpha, beta, flags, dtype):
    a = _Quantized(codes, scales, decode_scales, scale_layout, scope)
    return _product(a, ends, weights, bias, activation, limit, alpha, beta, flags, dtype)


@_gemm_quantized.register_fake
def _(codes, scales, decode_scales, scale_layout, scope, ends, weights, cols, bias, activation, limit, alpha, beta,  # type: ignore[no-untyped-def]
      flags, dtype):
    return codes.new_empty((*codes.shape[:-1], cols), dtype=dtype)


_LAYER = f"(Tensor a, bool quantize, int scale_rule, int scope, Tensor? static_decode_scales, {_EPILOGUE}) -> Tensor"


def _layer(call: Any, a: Any, quantize: bool, scale_rule: int, scope: int, static: Any, weights: int, bias: Any, activation: int,
           limit: float, alpha: float, beta: float, flags: int, dtype: Any) -> torch.Tensor:
    context, where = _where(a)
    return call(context, a, _prepared(weights), quantize=quantize, scale_rule=scale_rule, scope=scope, static_decode_scales=static,  # type: ignore[no-any-return]
                bias=bias, activation=activation, limit=limit, alpha=alpha, beta=beta, flags=flags, out_dtype=dtype, **where)


@_op("linear", _LAYER)
def _linear(a, quantize, scale_rule, scope, static_decode_scales, weights, cols, *epilogue):  # type: ignore[no-untyped-def]
    out = _layer(linears.linear, a, quantize, scale_rule, scope, static_decode_scales, weights, *epilogue)
    return out.view(*a.shape[:-1], cols)


@_op("grouped_linear", _LAYER)
def _grouped_linear(a, quantize, scale_rule, scope, static_decode_scales, weights, cols, *epilogue):  # type: ignore[no-untyped-def]
    return _layer(linears.grouped_linear, a, quantize, scale_rule, scope, static_decode_scales, weights, *epilogue)


@_linear.register_fake
@_grouped_linear.register_fake
def _(a, quantize, scale_rule, scope, static_decode_scales, weights, cols, bias, activation, limit, alpha, beta, flags, dtype):  # type: ignore[no-untyped-def]
    return a.new_empty((*a.shape[:-1], cols), dtype=dtype)


@_op("moe_route", "(Tensor logits, int topk, int score, bool renormalise, Tensor? bias, int groups, int top_groups, float scaling) "
     "-> (Tensor, Tensor)")
def _route(logits, topk, score, renormalise, bias, groups, top_groups, scaling):  # type: ignore[no-untyped-def]
    context, where = _where(logits)
    router = Router(score, renormalise, bias, groups, top_groups, scaling)
    return moe.moe_route(context, logits, topk, router, stream=where["stream"])


@_route.register_fake
def _(logits, topk, score, renormalise, bias, groups, top_groups, scaling):  # type: ignore[no-untyped-def]
    slots = (logits.shape[0], topk)
    return logits.new_empty(slots, dtype=torch.int32), logits.new_empty(slots, dtype=torch.float32)


@_op("moe_forward", "(Tensor hidden, Tensor topk_ids, Tensor topk_weights, int w1, int w2, int cols, Tensor? bias1, Tensor? bias2, "
     "int activation, float limit, float alpha, float beta, int flags, bool quantize, int scale_rule, int experts, int first_expert, "
     "Tensor? shared, float scaling, ScalarType dtype) -> Tensor")
def _moe(hidden, topk_ids, topk_weights, w1, w2, cols, bias1, bias2, activation, limit, alpha, beta, flags, quantize, scale_rule, experts,  # type: ignore[no-untyped-def]
         first_expert, shared, scaling, dtype):
    context, where = _where(hidden)
    return moe.moe_forward(context, hidden, _prepared(w1), _prepared(w2), topk_ids=topk_ids, topk_weights=topk_weights, experts=experts or None,
                           first_expert=first_expert, bias1=bias1, bias2=bias2, quantize=quantize, scale_rule=scale_rule,
                           activation=activation, limit=limit, alpha=alpha, beta=beta, flags=flags, shared=shared, scaling=scaling,
                           out_dtype=dtype, **where)


@_moe.register_fake
def _(hidden, topk_ids, topk_weights, w1, w2, cols, bias1, bias2, activation, limit, alpha, beta, flags, quantize, scale_rule, experts,  # type: ignore[no-untyped-def]
      first_expert, shared, scaling, dtype):
    return hidden.new_empty((hidden.shape[0], cols), dtype=dtype)


class Weights(torch.nn.Module):
    """Prepared weights [N, K] or [E, N, K], from values or from codes, scales and decode scales of a checkpoint.

    They live where their source is and stay there: `.to()` does not move them, and they are in no state dict.
    """

    def __init__(self, src: Any = None, *, codes: Any = None, scales: Any = None, decode_scales: Any = None, transposed: bool = False,
                 gate_up: bool = False, scale_rule: int = ScaleRule.AMAX, scale_layout: int = ScaleLayout.LINEAR,
                 decode_scope: int = WeightsScope.GROUP, requantize: bool = False) -> None:
        """decode_scope, requantize: those of `nvfp4.Weights.prepare`."""
        super().__init__()
        given = src if src is not None else codes
        if given is None:
            raise InvalidArgumentError("weights are made from src or from codes; pass exactly one")
        context, where = _where(given)
        shape = given.shape if given.dim() == 3 else (1, *given.shape)
        groups, rows, cols = (shape[0], shape[2], shape[1]) if transposed else shape
        size = _Weights.storage_size(context, groups, rows, cols * (1 if src is not None else 2), gate_up)
        self.storage = _aligned(size, given.device)
        made = _Weights.prepare(context, src, codes=codes, scales=scales, decode_scales=decode_scales, transposed=transposed,
                                gate_up=gate_up, scale_rule=scale_rule, scale_layout=scale_layout, decode_scope=decode_scope,
                                requantize=requantize, storage=self.storage,
                                stream=where["stream"])
        self.rows, self.number = rows, next(_numbers)
        _weights[self.number] = made
        weakref.finalize(self, _weights.pop, self.number, None)

    def __deepcopy__(self, memo: Any) -> "Weights":
        return self  # immutable, and tied to its memory

    def forward(self, a: Any, **options: Any) -> torch.Tensor:
        return gemm(a, self, **options)


def _aligned(size: int, device: torch.device) -> torch.Tensor:
    raw = torch.empty(size + 63, dtype=torch.uint8, device=device)
    start = -raw.data_ptr() % 64
    return raw[start : start + size]


def quantize(x: torch.Tensor, *, scale_rule: int = ScaleRule.AMAX, scope: int = Scope.TENSOR, scale_layout: int = ScaleLayout.LINEAR,
             static_decode_scales: Any = None) -> Quantized:
    """Values [..., K] -> NVFP4."""
    parts = _quantize(x, scale_rule, scope, scale_layout, static_decode_scales)
    return _whole(parts, static_decode_scales, scale_layout, scope)


def dequantize(q: Quantized, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return _dequantize(q.codes, q.scales, q.decode_scales, q.scale_layout, q.scope, dtype)  # type: ignore[no-any-return]


def rmsnorm_quantize(x: torch.Tensor, weight: torch.Tensor, eps: float, *, weight_offset: float = 0.0, scale_rule: int = ScaleRule.AMAX,
                     scope: int = Scope.TENSOR, scale_layout: int = ScaleLayout.LINEAR, static_decode_scales: Any = None) -> Quantized:
    parts = _rmsnorm(x, weight, eps, weight_offset, scale_rule, scope, scale_layout, static_decode_scales)
    return _whole(parts, static_decode_scales, scale_layout, scope)


def add_rmsnorm_quantize(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float, *, weight_offset: float = 0.0,
                         scale_rule: int = ScaleRule.AMAX, scope: int = Scope.TENSOR, scale_layout: int = ScaleLayout.LINEAR,
                         static_decode_scales: Any = None) -> Quantized:
    """residual += x, which is then normalised and quantized."""
    parts = _add_rmsnorm(x, residual, weight, eps, weight_offset, scale_rule, scope, scale_layout, static_decode_scales)
    return _whole(parts, static_decode_scales, scale_layout, scope)


def swiglu_quantize(x: torch.Tensor, *, activation: int = Activation.SWIGLU, limit: float = 0.0, alpha: float = 0.0, beta: float = 0.0,
                    scale_rule: int = ScaleRule.AMAX, scope: int = Scope.TENSOR, scale_layout: int = ScaleLayout.LINEAR,
                    static_decode_scales: Any = None) -> Quantized:
    """[gate, up] [..., 2 * I] -> [..., I]; RELU2: [..., I] -> [..., I]."""
    parts = _swiglu(x, activation, limit, alpha, beta, scale_rule, scope, scale_layout, static_decode_scales)
    return _whole(parts, static_decode_scales, scale_layout, scope)


def gemm(a: Any, weights: Weights, *, bias: Any = None, activation: int = Activation.NONE, limit: float = 0.0, alpha: float = 0.0,
         beta: float = 0.0, flags: int = GemmFlags.NONE, dtype: Any = None) -> torch.Tensor:
    """a @ weights.T of one matrix; a: bf16 or f16 values or `Quantized`. dtype: that of values, or bfloat16."""
    return _run(a, None, weights, bias, activation, limit, alpha, beta, flags, dtype)


def grouped_gemm(a: Any, ends: torch.Tensor, weights: Weights, *, bias: Any = None, activation: int = Activation.NONE,
                 limit: float = 0.0, alpha: float = 0.0, beta: float = 0.0, flags: int = GemmFlags.NONE, dtype: Any = None) -> torch.Tensor:
    """Rows [T, K] of experts one after another; ends: int32[E] on the device. Rows of no expert come out as zero."""
    return _run(a, ends, weights, bias, activation, limit, alpha, beta, flags, dtype)


def linear(a: torch.Tensor, weights: Weights, *, quantize: bool = False, scale_rule: int = ScaleRule.AMAX, scope: int = Scope.ROW,
           static_decode_scales: Any = None, bias: Any = None, activation: int = Activation.NONE, limit: float = 0.0,
           alpha: float = 0.0, beta: float = 0.0, flags: int = GemmFlags.NONE, dtype: Any = None) -> torch.Tensor:
    """Values [..., K] -> [..., N], quantized first where `quantize`: by scope and rule, with static scales or dynamic ones."""
    return _linear(a, *_whole_layer(a, weights, quantize, scale_rule, scope, static_decode_scales, bias, activation,  # type: ignore[no-any-return]
                                    limit, alpha, beta, flags, dtype))


def grouped_linear(a: torch.Tensor, weights: Weights, *, quantize: bool = False, scale_rule: int = ScaleRule.AMAX,
                   scope: int = Scope.ROW, static_decode_scales: Any = None, bias: Any = None,
                   activation: int = Activation.NONE, limit: float = 0.0, alpha: float = 0.0, beta: float = 0.0,
                   flags: int = GemmFlags.NONE, dtype: Any = None) -> torch.Tensor:
    """Values [tokens, G, K] -> [tokens, G, N], group g by weights g, where they lie; else as `linear`."""
    return _grouped_linear(a, *_whole_layer(a, weights, quantize, scale_rule, scope, static_decode_scales, bias, activation,  # type: ignore[no-any-return]
                                            limit, alpha, beta, flags, dtype))


def _whole_layer(a: torch.Tensor, weights: Weights, quantize: bool, scale_rule: int, scope: int, static: Any, bias: Any,
                 activation: int, limit: float, alpha: float, beta: float, flags: int, dtype: Any) -> tuple[Any, ...]:
    cols = weights.rows // 2 if activation == Activation.SWIGLU else weights.rows
    return (quantize, scale_rule, scope, static, weights.number, cols, bias, activation, limit, alpha, beta, flags,
            dtype or a.dtype)


def moe_route(logits: torch.Tensor, topk: int, router: Router = Router()) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [tokens, experts] -> ids int32 and weights float32 [tokens, topk], for `moe_forward`."""
    r = router
    return _route(logits, topk, r.score, r.renormalise, r.bias, r.groups, r.top_groups, r.scaling)  # type: ignore[no-any-return]


def moe_forward(hidden: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor, w1: Weights, w2: Weights, *,
                bias1: Any = None, bias2: Any = None, activation: int = Activation.SWIGLU, limit: float = 0.0, alpha: float = 0.0,
                beta: float = 0.0, flags: int = GemmFlags.NONE, quantize: bool = False, scale_rule: int = ScaleRule.AMAX, experts: int = 0,
                first_expert: int = 0, shared: Any = None, scaling: float = 1.0, dtype: Any = None) -> torch.Tensor:
    """A mixture of experts from given routes: ids int32 and weights float32 [tokens, topk]. bias1 [E, rows of w1] and bias2 [E, N] are
    of one dtype. quantize: both products take NVFP4 activations, a decode scale a row. experts 0: all are local."""
    return _moe(hidden, topk_ids, topk_weights, w1.number, w2.number, w2.rows, bias1, bias2, activation, limit, alpha, beta, flags,  # type: ignore[no-any-return]
                quantize, scale_rule, experts, first_expert, shared, scaling, dtype or hidden.dtype)


def _run(a: Any, ends: Any, weights: Weights, bias: Any, activation: int, limit: float, alpha: float, beta: float, flags: int,
         dtype: Any) -> torch.Tensor:
    cols = weights.rows // 2 if activation == Activation.SWIGLU else weights.rows
    epilogue = (weights.number, cols, bias, activation, limit, alpha, beta, flags)
    if isinstance(a, Quantized):
        return _gemm_quantized(*a, ends, *epilogue, dtype or torch.bfloat16)  # type: ignore[no-any-return]
    return _gemm(a, ends, *epilogue, dtype or a.dtype)  # type: ignore[no-any-return]
