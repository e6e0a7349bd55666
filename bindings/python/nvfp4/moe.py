"""The parts of a mixture of experts: routing, expert order, combine. `layers.MoE` puts them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import _abi
from ._call import Call, Groups, Quantized
from .arrays import NAMES, VALUES, Array, dtype_of, matrix
from .context import Context, Stream
from .enums import Activation, DType, GemmFlags, Grouping, MoeScore, ScaleLayout, ScaleRule, Scope
from .errors import InvalidArgumentError
from .products import Weights, held


@dataclass(frozen=True)
class Router:
    """What a router does with the logits.

    score: how logits become scores. bias: float32 [experts], added for selection only. groups, top_groups: experts in that
    many groups, of which only the best are eligible. renormalise: weights are divided by their sum; then times scaling.
    """

    score: int = MoeScore.SOFTMAX
    renormalise: bool = False
    bias: Array = None
    groups: int = 0
    top_groups: int = 0
    scaling: float = 1.0

    def fill(self, call: Call, raw: _abi.nvfp4_moe_router, experts: int) -> None:
        """Writes the struct of the header."""
        raw.score, raw.renormalise, raw.scaling = self.score, int(self.renormalise), self.scaling
        raw.groups, raw.top_groups = self.groups, self.top_groups
        if self.bias is not None:
            raw.bias = call.dense("router.bias", self.bias, ("float32",), experts).pointer


@dataclass(frozen=True)
class Permuted:
    """Tokens in expert order. Row r is that of token source_rows[r]; slot (t, j) went to row inverse[t, j], -1 for none.

    ends: the last row of each local expert, inclusive and cumulative. rows: the gathered values or codes, if any.
    """

    ends: Array
    source_rows: Array
    inverse: Array
    groups: Groups
    rows: Any = None


def moe_route(
    context: Context,
    logits: Array,
    topk: int,
    router: Router = Router(),
    *,
    logits_dtype: Any = None,
    token_mask: Array = None,
    topk_ids: Array = None,
    topk_weights: Array = None,
    stream: Stream | None = None,
) -> tuple[Array, Array]:
    """Logits [tokens, experts] -> (ids int32 [tokens, topk], weights float32 [tokens, topk]).

    token_mask: uint8 or bool [tokens], 0 for tokens that are sent nowhere (ids -1).
    """
    call = Call(context, stream)
    args = _abi.nvfp4_moe_route_args(topk=topk)
    found, args.logits_dtype = call.values("logits", logits, logits_dtype)
    source = matrix("logits", found)
    args.logits, args.logits_row_stride = source.pointer, source.row_stride
    args.tokens, args.experts = source.rows, source.cols
    router.fill(call, args.router, source.cols)
    slots = (source.rows, topk)
    args.token_mask = mask_pointer(call, token_mask, source.rows)
    if topk_ids is None:
        topk_ids = call.empty(slots, "int32")
    if topk_weights is None:
        topk_weights = call.empty(slots, "float32")
    args.topk_ids = call.dense("topk_ids", topk_ids, ("int32",), source.rows * topk, written=True).pointer
    args.topk_weights = call.dense("topk_weights", topk_weights, ("float32",), source.rows * topk, written=True).pointer
    call.run("moe_route", args)
    return topk_ids, topk_weights


def mask_pointer(call: Call, mask: Array, tokens: int) -> int | None:
    """Address of a mask of tokens."""
    return None if mask is None else call.dense("token_mask", mask, ("uint8", "bool"), tokens).pointer


def moe_permute(
    context: Context,
    topk_ids: Array,
    experts: int,
    src: Array | Quantized = None,
    *,
    first_expert: int = 0,
    local_experts: int | None = None,
    src_dtype: Any = None,
    quantize: bool = False,
    gathered: Array = None,
    codes: Array = None,
    scales: Array = None,
    decode_scales: Array = None,
    static_decode_scales: Array = None,
    scale_layout: int = ScaleLayout.LINEAR,
    scale_rule: int = ScaleRule.AMAX,
    scope: int = Scope.ROW,
    workspace: Array = None,
    stream: Stream | None = None,
) -> Permuted:
    """ids int32 [tokens, topk] -> the rows of each local expert, by a stable sort.

    src: tokens to gather in that order, values or Quantized; with `quantize` values are quantized on the way.
    """
    call = Call(context, stream)
    ids = call.look("topk_ids", topk_ids, ("int32",))
    if len(ids.shape) != 2 or not ids.contiguous:
        raise InvalidArgumentError(f"topk_ids has shape {ids.shape}; pass [tokens, topk], dense")
    tokens, topk = ids.shape
    local = experts - first_expert if local_experts is None else local_experts
    args = _abi.nvfp4_moe_permute_args(
        tokens=tokens, topk=topk, experts=experts, first_expert=first_expert, local_experts=local, topk_ids=ids.pointer
    )
    ends, source_rows = call.empty((max(local, 0),), "int32"), call.empty((tokens * topk,), "int32")
    inverse = call.empty((tokens, topk), "int32")
    for name, array in (("ends", ends), ("source_rows", source_rows), ("inverse", inverse)):
        setattr(args, name, call.look(name, array, ("int32",), written=True).pointer)
    groups = Groups(Grouping.ENDS, max(local, 0), ends=ends)
    rows: Any = None
    output = {
        "codes": codes, "scales": scales, "decode_scales": decode_scales, "static_decode_scales": static_decode_scales,
        "scale_layout": scale_layout, "scale_rule": scale_rule, "scope": scope,
    }
    if isinstance(src, Quantized):
        source = call.quantized_input(args.src_quantized, "src", src, None)
        args.src_dtype, args.cols = DType.NVFP4, source.cols * 2
        rows = call.quantized(args.out, (tokens * topk,), tokens * topk, args.cols, groups, **output)
    elif src is not None:
        found, args.src_dtype = call.values("src", src, src_dtype)
        source = matrix("src", found)
        args.src, args.src_row_stride, args.cols = source.pointer, source.row_stride, source.cols
        if quantize:
            rows = call.quantized(args.out, (tokens * topk,), tokens * topk, source.cols, groups, **output)
        else:
            rows = call.empty((tokens * topk, source.cols), found.dtype, True) if gathered is None else gathered
            target = call.rows("gathered", call.look("gathered", rows, (found.dtype,), written=True), tokens * topk, source.cols)
            args.gathered, args.gathered_row_stride = target.pointer, target.row_stride
    if src is not None and source.rows != tokens:
        raise InvalidArgumentError(f"src has {source.rows} rows and topk_ids {tokens}; they must be the same tokens")
    call.workspace("moe_permute", args, workspace)
    call.run("moe_permute", args)
    return Permuted(ends, source_rows, inverse, groups, rows)


def moe_combine(
    context: Context,
    y: Array,
    inverse: Array,
    topk_weights: Array,
    *,
    y_dtype: Any = None,
    shared: Array = None,
    shared_dtype: Any = None,
    scaling: float = 1.0,
    out: Array = None,
    out_dtype: Any = None,
    stream: Stream | None = None,
) -> Array:
    """Rows y in expert order -> tokens: (sum over slots of weight * y) * scaling + shared, one rounding in the end."""
    call = Call(context, stream)
    args = _abi.nvfp4_moe_combine_args(scaling=scaling)
    found, args.y_dtype = call.values("y", y, y_dtype)
    source = matrix("y", found)
    slots = call.look("inverse", inverse, ("int32",))
    if len(slots.shape) != 2 or not slots.contiguous:
        raise InvalidArgumentError(f"inverse has shape {slots.shape}; pass [tokens, topk], dense")
    args.tokens, args.topk = slots.shape
    args.y, args.y_row_stride, args.rows, args.cols = source.pointer, source.row_stride, source.rows, source.cols
    args.inverse = slots.pointer
    args.topk_weights = call.dense("topk_weights", topk_weights, ("float32",), slots.size).pointer
    args.shared, args.shared_row_stride, args.shared_dtype = addend(call, shared, shared_dtype, args.tokens, source.cols)
    out, args.out, args.out_row_stride, args.out_dtype = combined(call, out, out_dtype, args.y_dtype, args.tokens, source.cols)
    call.run("moe_combine", args)
    return out


def moe_forward(
    context: Context,
    hidden: Array | Quantized,
    w1: Weights,
    w2: Weights,
    *,
    logits: Array = None,
    topk: int | None = None,
    router: Router = Router(),
    token_mask: Array = None,
    topk_ids: Array = None,
    topk_weights: Array = None,
    experts: int | None = None,
    first_expert: int = 0,
    hidden_dtype: Any = None,
    logits_dtype: Any = None,
    quantize: bool = False,
    bias1: Array = None,
    bias2: Array = None,
    bias_dtype: Any = None,
    activation: int = Activation.SWIGLU,
    limit: float = 0.0,
    alpha: float = 0.0,
    beta: float = 0.0,
    flags: int = GemmFlags.NONE,
    scale_rule: int = ScaleRule.AMAX,
    static_scope: int = Scope.TENSOR,
    static_input_scales: Array = None,
    static_intermediate_scales: Array = None,
    shared: Array = None,
    shared_dtype: Any = None,
    scaling: float = 1.0,
    out: Array = None,
    out_dtype: Any = None,
    workspace: Array = None,
    stream: Stream | None = None,
) -> Array:
    """A whole layer: hidden [tokens, K] and logits [tokens, experts] with `topk` and `router`, or topk_ids and topk_weights
    [tokens, topk], -> [tokens, N].

    w1: weights [E, 2I, K] with gate_up for SWIGLU, or [E, I, K]; w2: [E, N, I], of the experts from first_expert on.
    quantize: both products take NVFP4 activations; else they take values, BF16 or F16 as hidden's. Static decode scales
    are one number or array of 1 (static_scope TENSOR), or one a local expert (GROUP); without them each row has its own.
    """
    call = Call(context, stream)
    first, second = held(call, "w1", w1), held(call, "w2", w2)
    args = _abi.nvfp4_moe_forward_args(
        w1=w1.handle, w2=w2.handle, quantize=int(quantize), activation=activation, limit=limit, alpha=alpha, beta=beta,
        flags=flags, scale_rule=scale_rule, static_scope=static_scope, scaling=scaling, first_expert=first_expert,
    )
    args.experts = first.groups if experts is None else experts
    dtype = int(DType.BF16)
    if isinstance(hidden, Quantized):
        source = call.quantized_input(args.hidden_quantized, "hidden", hidden, None)
        args.hidden_dtype, cols = DType.NVFP4, source.cols * 2
    else:
        found, dtype = call.values("hidden", hidden, hidden_dtype)
        source, args.hidden_dtype = matrix("hidden", found), dtype
        args.hidden, args.hidden_row_stride, cols = source.pointer, source.row_stride, source.cols
    if cols != first.cols:
        raise InvalidArgumentError(f"hidden has {cols} columns and w1 {first.cols}; they must be the same K")
    args.tokens = source.rows
    if logits is not None:
        if topk is None:
            raise InvalidArgumentError("topk is missing; say how many experts a token is sent to")
        found, args.logits_dtype = call.values("logits", logits, logits_dtype)
        scores = call.rows("logits", found, source.rows, args.experts)
        args.logits, args.logits_row_stride, args.topk = scores.pointer, scores.row_stride, topk
        router.fill(call, args.router, args.experts)
        args.token_mask = mask_pointer(call, token_mask, source.rows)
    if topk_ids is not None:
        ids = call.look("topk_ids", topk_ids, ("int32",))
        if len(ids.shape) != 2 or not ids.contiguous or ids.shape[0] != source.rows:
            raise InvalidArgumentError(f"topk_ids has shape {ids.shape}; pass [{source.rows}, topk], dense")
        args.topk_ids, args.topk = ids.pointer, ids.shape[1]
        args.topk_weights = call.dense("topk_weights", topk_weights, ("float32",), ids.size).pointer
    for name, bias, info in (("bias1", bias1, first), ("bias2", bias2, second)):
        if bias is not None:
            found, args.bias_dtype = call.values(name, bias, bias_dtype)
            call.dense(name, bias, (found.dtype,), info.groups * info.rows)
            setattr(args, name, found.pointer)
    count = first.groups if static_scope == Scope.GROUP else 1
    if static_input_scales is not None:
        args.static_input_scales = call.floats("static_input_scales", static_input_scales, count).pointer
    if static_intermediate_scales is not None:
        args.static_intermediate_scales = call.floats("static_intermediate_scales", static_intermediate_scales, count).pointer
    args.shared, args.shared_row_stride, args.shared_dtype = addend(call, shared, shared_dtype, source.rows, second.rows)
    out, args.out, args.out_row_stride, args.out_dtype = combined(call, out, out_dtype, dtype, source.rows, second.rows)
    call.workspace("moe_forward", args, workspace)
    call.run("moe_forward", args)
    return out


def addend(call: Call, shared: Array, dtype: Any, tokens: int, cols: int) -> tuple[int | None, int, int]:
    """The optional addend of a combined row: (pointer, row stride, dtype)."""
    if shared is None:
        return None, 0, 0
    found, number = call.values("shared", shared, dtype)
    target = call.rows("shared", found, tokens, cols)
    return target.pointer, target.row_stride, number


def combined(
    call: Call, out: Array, dtype: Any, default: int, tokens: int, cols: int
) -> tuple[Array, int, int, int]:
    """Where tokens go: (array, pointer, row stride, dtype)."""
    if out is None:
        number = default if dtype is None else dtype_of(dtype)
        if number not in NAMES:
            raise InvalidArgumentError(f"out_dtype = {number} is not a dtype of values; use {', '.join(VALUES)}")
        out = call.empty((tokens, cols), NAMES[DType(number)])
    found, number = call.values("out", out, dtype, written=True)
    target = call.rows("out", found, tokens, cols)
    return out, target.pointer, target.row_stride, number


__all__ = ["Permuted", "Router", "moe_combine", "moe_forward", "moe_permute", "moe_route"]
