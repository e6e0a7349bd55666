"""Layers over the calls: weights, biases and scales held together, called with activations.

    layer = nvfp4.Linear.from_values(context, weight, quantize=True)
    y = layer(x)                                                     # [tokens, K] -> [tokens, N]
    a = nvfp4.QuantizedActivation.rmsnorm(context, x, norm, 1e-6)    # quantized once ...
    q, k = to_q(a), to_k(a)                                          # ... and multiplied twice

A layer works on one context. Its arrays are numpy's on the CPU, torch's or CuPy's on a GPU; results are of the library that
the activations are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import fused, linears, moe, products, quantizers
from ._call import Groups, Quantized
from .arrays import Array
from .context import Context, Stream
from .enums import Activation, GemmFlags, ScaleLayout, ScaleRule, Scope, WeightsScope
from .moe import Router
from .products import Weights


@dataclass(frozen=True)
class QuantizedActivation(Quantized):
    """Activations between layers: codes, scales and decode scales of [tokens, K], and the 1/RMS that a norm found.

    Every layer takes one in the place of values. With scope ROW a token's codes are its own, whatever it is batched with.
    """

    inv_rms: Array = None

    @classmethod
    def of(
        cls, context: Context, x: Array, *, scope: int = Scope.ROW, static_decode_scales: Array = None,
        scale_rule: int = ScaleRule.AMAX, scale_layout: int = ScaleLayout.LINEAR, stream: Stream | None = None, **options: Any,
    ) -> QuantizedActivation:
        """Values [tokens, K], quantized; further keywords are those of `quantize`."""
        found = quantizers.quantize(
            context, x, scope=scope, static_decode_scales=static_decode_scales, scale_rule=scale_rule, scale_layout=scale_layout,
            stream=stream, **options,
        )
        return cls(**vars(found))

    @classmethod
    def rmsnorm(
        cls, context: Context, x: Array, weight: Array, eps: float, *, scope: int = Scope.ROW, stream: Stream | None = None,
        **options: Any,
    ) -> QuantizedActivation:
        """RMSNorm of values [tokens, K] (plus `residual`), quantized; further keywords are those of `rmsnorm_quantize`."""
        options["inv_rms"] = options.get("inv_rms", True)
        found = vars(fused.rmsnorm_quantize(context, x, weight, eps, scope=scope, stream=stream, **options))
        return cls(**{name: value for name, value in found.items() if name not in ("normed", "mixed")})

    def values(self, context: Context, dtype: Any = None, stream: Stream | None = None) -> Array:
        """What the codes stand for, as values."""
        return quantizers.dequantize(context, self, dst_dtype=dtype, stream=stream)


class _Layer:
    """Weights and what is done before and behind the product."""

    _call: Any

    def __init__(
        self, weights: Weights, *, bias: Array = None, quantize: bool = False, scope: int = Scope.ROW, scale_rule: int = ScaleRule.AMAX,
        static_decode_scales: Array = None, activation: int = Activation.NONE, limit: float = 0.0, alpha: float = 0.0,
        beta: float = 0.0, flags: int = GemmFlags.NONE,
    ) -> None:
        """quantize: values that come in become NVFP4 first, by scope and scale_rule, with static_decode_scales or dynamic ones."""
        self.weights, self.context, self.bias = weights, weights.context, bias
        self.quantize, self.scope, self.scale_rule = quantize, scope, scale_rule
        self.static_decode_scales = static_decode_scales
        self._tail = {"activation": activation, "limit": limit, "alpha": alpha, "beta": beta, "flags": flags}

    @classmethod
    def from_values(
        cls, context: Context, weight: Array, *, transposed: bool = False, weight_rule: int = ScaleRule.AMAX, gate_up: bool = False,
        weight_dtype: Any = None, stream: Stream | None = None, **options: Any,
    ) -> Any:
        """Quantizes the weight by weight_rule; transposed: stored with K before N. Options are the constructor's."""
        weights = Weights.prepare(
            context, weight, src_dtype=weight_dtype, transposed=transposed, scale_rule=weight_rule, gate_up=gate_up, stream=stream
        )
        return cls(weights, **options)

    @classmethod
    def from_codes(
        cls, context: Context, codes: Array, scales: Array, decode_scales: Array, *, scale_layout: int = ScaleLayout.LINEAR,
        decode_scope: int = WeightsScope.GROUP, requantize: bool = False, gate_up: bool = False, stream: Stream | None = None,
        **options: Any,
    ) -> Any:
        """Takes a checkpoint's NVFP4: codes, block scales and decode scales, as `Weights.prepare` does. Options are the constructor's."""
        weights = Weights.prepare(
            context, codes=codes, scales=scales, decode_scales=decode_scales, scale_layout=scale_layout, decode_scope=decode_scope,
            requantize=requantize, gate_up=gate_up, stream=stream,
        )
        return cls(weights, **options)

    def __call__(self, a: Array | Quantized, *, out: Array = None, out_dtype: Any = None, stream: Stream | None = None, **options: Any) -> Any:
        """The layer's output; a Quantized goes in as it is. Further keywords are those of the call (`output`, `workspace`)."""
        before: dict[str, Any] = {}
        if self.quantize and not isinstance(a, Quantized):
            before = {
                "quantize": True, "scope": self.scope, "scale_rule": self.scale_rule, "static_decode_scales": self.static_decode_scales,
            }
        result: Any = type(self)._call(
            self.context, a, self.weights, bias=self.bias, out=out, out_dtype=out_dtype, stream=stream, **before, **self._tail, **options
        )
        return QuantizedActivation(**vars(result)) if isinstance(result, Quantized) else result


class Linear(_Layer):
    """[tokens, K] -> [tokens, N]: weights [N, K]."""

    _call = staticmethod(linears.linear)

    def calibrate(self, sample: Array, stream: Stream | None = None) -> Array:
        """Keeps the decode scale of a sample [tokens, K] as the static one, and gives it."""
        self.scope, self.quantize = Scope.TENSOR, True
        self.static_decode_scales = quantizers.amax_scale(self.context, sample, scope=Scope.TENSOR, stream=stream)
        return self.static_decode_scales


class GroupedLinear(_Layer):
    """[tokens, G, K] -> [tokens, G, N]: weights [G, N, K]. Nothing is permuted, padded or copied."""

    _call = staticmethod(linears.grouped_linear)

    def calibrate(self, sample: Array, scope: int = Scope.GROUP, stream: Stream | None = None) -> Array:
        """Keeps the decode scales of a sample [tokens, G, K], one a group or one for all (TENSOR), and gives them."""
        groups = Groups.strided(self.weights.info.groups, int(sample.shape[0]))
        scales = quantizers.amax_scale(self.context, sample.swapaxes(0, 1), groups=groups, scope=scope, stream=stream)
        self.scope, self.quantize, self.static_decode_scales = scope, True, scales
        return scales


class MoE:
    """A mixture of experts: [tokens, K] and the router's logits -> [tokens, N]."""

    def __init__(
        self, w1: Weights, w2: Weights, topk: int, router: Router = Router(), *, experts: int | None = None, first_expert: int = 0,
        bias1: Array = None, bias2: Array = None, activation: int = Activation.SWIGLU, limit: float = 0.0, alpha: float = 0.0,
        beta: float = 0.0, quantize: bool = False, scale_rule: int = ScaleRule.AMAX, static_scope: int = Scope.TENSOR,
        static_input_scales: Array = None, static_intermediate_scales: Array = None, scaling: float = 1.0,
        flags: int = GemmFlags.NONE,
    ) -> None:
        """w1, w2, and the keywords: those of `moe_forward`."""
        self.w1, self.w2, self.context, self.topk, self.router = w1, w2, w1.context, topk, router
        self._options: dict[str, Any] = {
            "experts": experts, "first_expert": first_expert, "bias1": bias1, "bias2": bias2, "activation": activation, "limit": limit,
            "alpha": alpha, "beta": beta, "quantize": quantize, "scale_rule": scale_rule, "static_scope": static_scope,
            "static_input_scales": static_input_scales, "static_intermediate_scales": static_intermediate_scales, "scaling": scaling,
            "flags": flags,
        }

    @classmethod
    def from_values(
        cls, context: Context, w1: Array, w2: Array, topk: int, router: Router = Router(), *, weight_rule: int = ScaleRule.AMAX,
        weight_dtype: Any = None, stream: Stream | None = None, **options: Any,
    ) -> MoE:
        """Quantizes w1 [E, 2I, K] ([gate; up] for SWIGLU, else [E, I, K]) and w2 [E, N, I]. Options are the constructor's."""
        gated = options.get("activation", Activation.SWIGLU) == Activation.SWIGLU
        first, second = (
            Weights.prepare(context, src, src_dtype=weight_dtype, scale_rule=weight_rule, gate_up=gate_up, stream=stream)
            for src, gate_up in ((w1, gated), (w2, False))
        )
        return cls(first, second, topk, router, **options)

    @classmethod
    def from_codes(
        cls, context: Context, w1: Quantized, w2: Quantized, topk: int, router: Router = Router(), *,
        decode_scope: int = WeightsScope.GROUP, requantize: bool = False, stream: Stream | None = None, **options: Any,
    ) -> MoE:
        """Takes a checkpoint's NVFP4 [E, rows, K] of both products, as `Weights.prepare` does. Options are the constructor's."""
        gated = options.get("activation", Activation.SWIGLU) == Activation.SWIGLU
        first, second = (
            Weights.prepare(
                context, codes=q.codes, scales=q.scales, decode_scales=q.decode_scales, scale_layout=q.scale_layout,
                decode_scope=decode_scope, requantize=requantize, gate_up=gate_up, stream=stream,
            )
            for q, gate_up in ((w1, gated), (w2, False))
        )
        return cls(first, second, topk, router, **options)

    def calibrate(
        self, hidden: Array, logits: Array = None, *, topk_ids: Array = None, scope: int = Scope.TENSOR, stream: Stream | None = None
    ) -> tuple[Array, Array]:
        """Keeps the decode scales of both products' inputs in a sample as the static ones, and gives them: one each, or one a
        local expert (GROUP). The sample is `hidden`, BF16 or F16 [tokens, K], with its logits or routes."""
        o = self._options
        if topk_ids is None:
            topk_ids, _ = moe.moe_route(self.context, logits, self.topk, self.router, stream=stream)
        info = self.w1.info
        experts = info.groups if o["experts"] is None else o["experts"]
        rows = moe.moe_permute(
            self.context, topk_ids, experts, hidden, first_expert=o["first_expert"], local_experts=info.groups, stream=stream
        )
        tail = {name: o[name] for name in ("activation", "limit", "alpha", "beta")}
        h = products.grouped_gemm(self.context, rows.rows, self.w1, groups=rows.groups, bias=o["bias1"], stream=stream, **tail)
        first, second = (
            quantizers.amax_scale(self.context, x, groups=rows.groups, scope=scope, stream=stream) for x in (rows.rows, h)
        )
        o.update(quantize=True, static_scope=scope, static_input_scales=first, static_intermediate_scales=second)
        return first, second

    def __call__(
        self, hidden: Array | Quantized, logits: Array = None, *, topk_ids: Array = None, topk_weights: Array = None,
        token_mask: Array = None, shared: Array = None, out: Array = None, out_dtype: Any = None, workspace: Array = None,
        stream: Stream | None = None, **options: Any,
    ) -> Array:
        """The layer's output, of logits [tokens, experts] or of given routes; `shared` is added last."""
        hidden_is_codes = isinstance(hidden, Quantized)
        return moe.moe_forward(
            self.context, hidden, self.w1, self.w2, logits=logits, topk=self.topk, router=self.router, token_mask=token_mask,
            topk_ids=topk_ids, topk_weights=topk_weights, shared=shared, out=out, out_dtype=out_dtype, workspace=workspace, stream=stream,
            **{**self._options, **({"quantize": True, "static_input_scales": None} if hidden_is_codes else {}), **options},
        )


__all__ = ["GroupedLinear", "Linear", "MoE", "QuantizedActivation"]
