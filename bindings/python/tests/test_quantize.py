"""quantize, amax_scale, dequantize and stage_moe_inputs against the oracle, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest

import nvfp4
import reference as ref
from devices import DTYPES, Device, Guarded
from nvfp4 import DType, FaultFlags, ScaleLayout, ScaleRule, Scope

LAYOUTS = list(ScaleLayout)


def stored(device: Device, x: np.ndarray, split: ref.Split, pad: int = 0) -> object:
    """Rows on the device, strided splits as [count, rows, cols]; `pad` elements between rows."""
    shape = (len(split.sizes), split.max_tokens, x.shape[1]) if split.kind == "strided" else x.shape
    return device.put(x.reshape(shape), stride=x.shape[1] + pad if pad else None)


def quantize_guarded(device, context, x, split, scope, rule, layout, poison, pad, static=None, **source):
    """Runs nvfp4.quantize into poisoned, guarded outputs and compares with the oracle."""
    rows, cols = x.shape
    groups = split.groups(device)
    codes = Guarded(device, (rows, cols // 2), np.uint8, poison, cols // 2 + pad)
    if layout == ScaleLayout.LINEAR:
        size = 0
        scales = Guarded(device, (rows, cols // 16), np.uint8, poison, cols // 16 + pad)
    else:
        size = nvfp4.scales_size(rows, cols, scale_layout=layout, groups=groups)
        scales = Guarded(device, (size,), np.uint8, poison)
    decode = Guarded(device, (ref.scope_count(scope, split),), np.float32, poison)
    given = {"decode_scales": decode.array} if static is None else {"static_decode_scales": device.put(static)}
    src = source.pop("src", None)
    if src is None:
        src = stored(device, x, split, pad)
    nvfp4.quantize(context, src, groups=groups, codes=codes.array, scales=scales.array, scale_layout=layout, scale_rule=rule,
                   scope=scope, **given, **source)
    expected = ref.quantize(ref.wide(x), scope, rule, split, static)
    got = decode.check()
    ref.check_output(codes.check(), scales.check(), None if static is not None else got, expected, split, layout, poison, scope, size)


CASES = [
    (name, scope, rule, layout)
    for name, scope, rule, layout in itertools.product(ref.SPLITS, Scope, ScaleRule, LAYOUTS)
    if not (ref.SPLITS[name].kind == "none" and scope == Scope.GROUP)
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "scope", "rule", "layout"), CASES)
def test_quantize(device, context, rng, dtype, name, scope, rule, layout) -> None:
    split = ref.SPLITS[name]
    cols = int(rng.choice([16, 48, 64, 80, 272]))
    x = ref.values(rng, (split.rows, cols), DTYPES[dtype], nasty=bool(rng.integers(2)))
    poison, pad = int(rng.choice([0xA5, 0x5A])), int(rng.choice([0, 16]))
    quantize_guarded(device, context, x, split, scope, rule, layout, poison, pad)


@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("scope", Scope)
def test_static_scales(device, context, rng, scope, rule) -> None:
    split = ref.SPLITS["ends"]
    x = ref.values(rng, (split.rows, 64), np.float32, nasty=True)
    static = np.exp2(rng.uniform(-12, 0, ref.scope_count(scope, split))).astype(np.float32)
    quantize_guarded(device, context, x, split, scope, rule, ScaleLayout.LINEAR, 0xA5, 16, static)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf, np.nan, 1e-42])
def test_a_bad_static_scale_makes_its_rows_nan(device, context, rng, bad) -> None:
    split = ref.single(7)
    x = ref.values(rng, (7, 32), np.float32)
    static = np.full(7, 0.01, np.float32)
    static[3] = bad
    quantize_guarded(device, context, x, split, Scope.ROW, ScaleRule.AMAX, ScaleLayout.LINEAR, 0x5A, 0, static)
    flagged = FaultFlags.BAD_DECODE_SCALE in context.faults().flags
    assert flagged == (bad != 1e-42)


@pytest.mark.parametrize("rule", ScaleRule)
def test_every_edge_value(device, context, rng, rule) -> None:
    """All bf16 magnitudes there are: each of 65536 bit patterns once."""
    bits = rng.permutation(65536).astype(np.uint16).reshape(256, 256)
    x = bits.view(DTYPES["bf16"])
    quantize_guarded(device, context, x, ref.single(256), Scope.ROW, rule, ScaleLayout.LINEAR, 0xA5, 0)
    assert FaultFlags.NON_FINITE in context.faults().flags


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["none", "strided"])
@pytest.mark.parametrize("scope", [Scope.TENSOR, Scope.ROW])
def test_transposed(device, context, rng, dtype, name, scope) -> None:
    """src is [K, rows], or [count, K, rows]."""
    split = ref.SPLITS[name]
    x = ref.values(rng, (split.rows, 48), DTYPES[dtype], nasty=True)
    shape = (len(split.sizes), split.max_tokens, 48) if name == "strided" else x.shape
    src = device.put(np.ascontiguousarray(np.swapaxes(x.reshape(shape), -1, -2)), stride=shape[-2] + 3)
    quantize_guarded(device, context, x, split, scope, ScaleRule.AMAX, ScaleLayout.LINEAR, 0xA5, 0, src=src, transposed=True)


def test_strided_groups_may_share_one_matrix(device, context, rng) -> None:
    split = ref.strided(3, 9)
    one = ref.values(rng, (9, 64), DTYPES["bf16"])
    x = np.concatenate([one] * 3)
    quantize_guarded(device, context, x, split, Scope.ROW, ScaleRule.AMAX, ScaleLayout.TILED_128X4, 0xA5, 0, src=device.put(one))


@pytest.mark.parametrize(("raw", "tokens"), [([4, 2, 9], 10), ([3, 12, 40], 10), ([-1, 5, 10], 10)])
def test_bad_ends_are_clamped_and_reported(device, context, rng, raw, tokens) -> None:
    used, bad = oracle.valid_ends(raw, tokens)
    split = ref.Split("ends", list(np.diff([0, *used])), tail=tokens - used[-1])
    x = ref.values(rng, (tokens, 32), np.float32)
    groups = nvfp4.Groups.by_ends(device.put(np.array(raw, np.int32)))
    codes = Guarded(device, (tokens, 16), np.uint8, 0xA5)
    scales = Guarded(device, (tokens, 2), np.uint8, 0xA5)
    decode = Guarded(device, (3,), np.float32, 0xA5)
    nvfp4.quantize(context, device.put(x), groups=groups, scope=Scope.GROUP, codes=codes.array, scales=scales.array,
                   decode_scales=decode.array)
    expected = ref.quantize(x, Scope.GROUP, 0, split)
    ref.check_output(codes.check(), scales.check(), decode.check(), expected, split, 0, 0xA5, Scope.GROUP, 0)
    context.synchronize()
    assert context.faults().bad_group == bad and FaultFlags.BAD_GROUP in context.faults().flags
    context.clear_faults()
    assert not context.faults()


@pytest.mark.parametrize(("name", "scope"), sorted({case[:2] for case in CASES}))
def test_amax_scale(device, context, rng, name, scope) -> None:
    split = ref.SPLITS[name]
    x = ref.values(rng, (split.rows, 48), DTYPES["f16"], nasty=True)
    decode = Guarded(device, (ref.scope_count(scope, split),), np.float32, 0x5A)
    nvfp4.amax_scale(context, stored(device, x, split, 8), scope=scope, groups=split.groups(device), decode_scales=decode.array)
    got, want = decode.check(), ref.encode(ref.wide(x), scope, split)[1]
    keep = split.used if scope == Scope.ROW else slice(None)
    ref.same(got[keep], want[keep], "decode scales")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ref.SPLITS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_dequantize(device, context, rng, dtype, name, layout) -> None:
    """Every code and every scale byte, NaN scales too."""
    split = ref.SPLITS[name]
    scope = Scope.TENSOR if split.kind == "none" else Scope(int(rng.integers(3)))
    rows, cols = split.rows, 64
    codes = rng.integers(0, 256, (rows, cols // 2), np.uint8)
    linear = rng.integers(0, 128, (rows, cols // 16), np.uint8)
    decode = np.exp2(rng.uniform(-8, 3, ref.scope_count(scope, split))).astype(np.float32)
    groups = split.groups(device)
    scales = linear
    if layout != ScaleLayout.LINEAR:
        size = nvfp4.scales_size(rows, cols, scale_layout=layout, groups=groups)
        scales = ref.layout(linear, split, layout, np.zeros(size, np.uint8))
    shape = (len(split.sizes), split.max_tokens, cols) if split.kind == "strided" else (rows, cols)
    dst = Guarded(device, shape, DTYPES[dtype], 0xA5, cols + 8)
    given = nvfp4.Quantized(device.put(codes, cols // 2 + 3), device.put(scales), device.put(decode), layout, scope, groups)
    nvfp4.dequantize(context, given, dst=dst.array)
    got, used = dst.check().reshape(rows, cols), split.used
    index = ref.scope_rows(scope, split)
    g = decode[np.maximum(index, 0)] if len(decode) else np.ones(rows, np.float32)
    with np.errstate(over="ignore"):
        want = oracle.dequantize(codes, linear, g).astype(DTYPES[dtype]) if rows else np.zeros((0, cols), DTYPES[dtype])
    ref.same(got[used], want[used], "values")
    assert (np.ascontiguousarray(got[~used]).view(np.uint8) == 0xA5).all()


def test_made_outputs_are_of_the_source_library(device, context, rng) -> None:
    x = ref.values(rng, (5, 2, 32), DTYPES["bf16"])
    q = nvfp4.quantize(context, device.put(x), scope=Scope.ROW)
    codes, scales, decode = ref.quantize(ref.wide(x).reshape(10, 32), Scope.ROW)
    ref.same(device.get(q.codes), codes.reshape(5, 2, 16), "codes")
    ref.same(device.get(q.scales), scales.reshape(5, 2, 2), "scales")
    ref.same(device.get(q.decode_scales), decode, "decode scales")
    for dtype, name in ((None, "float32"), (DType.BF16, "bfloat16"), ("f16", "float16")):
        y = nvfp4.dequantize(context, q, dst_dtype=dtype)
        assert device.get(y).dtype.name == name and tuple(y.shape) == (5, 2, 32)
    assert type(q.codes) is type(device.put(x))


def test_float8_views_are_scales(device, context, rng) -> None:
    import ml_dtypes

    x = ref.values(rng, (4, 64), np.float32)
    if not (type(device) is Device or hasattr(device, "torch")):
        pytest.skip("this array library has no float8")
    scales = device.put(np.zeros((4, 4), ml_dtypes.float8_e4m3fn)) if type(device) is Device else None
    if scales is None:
        torch = device.torch
        scales = torch.zeros((4, 4), dtype=torch.uint8, device=device.where).view(torch.float8_e4m3fn)
    nvfp4.quantize(context, device.put(x), scales=scales)
    view = scales.view(np.uint8) if type(device) is Device else scales.view(device.torch.uint8)
    ref.same(device.get(view), ref.quantize(x)[1], "scales")


def test_bits_with_a_named_dtype(context, device, rng) -> None:
    """uint16 arrays hold bfloat16 where the call says so."""
    if type(device) is not Device:
        pytest.skip("numpy only")
    x = ref.values(rng, (4, 64), DTYPES["bf16"])
    q = nvfp4.quantize(context, device.put(x.view(np.uint16)), src_dtype="bf16")
    ref.same(q.codes, ref.quantize(ref.wide(x))[0], "codes")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ScaleRule)
def test_stage_moe_inputs(device, context, rng, dtype, rule) -> None:
    tokens, hidden, routes = 13, 192, 6
    x = ref.values(rng, (tokens, hidden), DTYPES[dtype], nasty=True)
    ids = rng.integers(-1, 500, (tokens, routes), np.int32)
    weights = rng.random((tokens, routes)).astype(np.float32)
    static = np.array([0.002], np.float32)
    out = {
        "codes": Guarded(device, (tokens, hidden // 2), np.uint8, 0xA5),
        "packed_scales": Guarded(device, (tokens, hidden // 64), np.int32, 0xA5),
        "staged_ids": Guarded(device, (tokens, routes), np.int64, 0xA5),
        "staged_weights": Guarded(device, (tokens, routes), np.float32, 0xA5),
    }
    nvfp4.stage_moe_inputs(context, device.put(x, hidden + 8), device.put(ids), device.put(weights), scale_rule=rule,
                           static_decode_scale=device.put(static), **{k: v.array for k, v in out.items()})
    codes, scales, _ = ref.quantize(ref.wide(x), 0, rule, None, static)
    ref.same(out["codes"].check(), codes, "codes")
    ref.same(out["packed_scales"].check(), scales.view("<i4"), "packed scales")
    ref.same(out["staged_ids"].check(), ids.astype(np.int64), "ids")
    ref.same(out["staged_weights"].check(), weights, "weights")
    made = nvfp4.stage_moe_inputs(context, device.put(x))
    ref.same(device.get(made.codes), ref.quantize(ref.wide(x), 0, 0, None, np.ones(1, np.float32))[0], "codes")
    assert made.staged_ids is None
