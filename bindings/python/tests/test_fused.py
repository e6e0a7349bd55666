"""rmsnorm_quantize, hc_rmsnorm_quantize and swiglu_quantize against the oracle, bit for bit."""

from __future__ import annotations

import numpy as np
import oracle
import pytest

import nvfp4
import reference as ref
from devices import DTYPES, Guarded
from nvfp4 import Activation, ScaleLayout, ScaleRule, Scope

EPS = 1e-6


def plain(rng, shape, dtype):
    """Values whose squares are finite."""
    return rng.standard_normal(shape).astype(np.float32).astype(DTYPES[dtype])


def outputs(device, rows, cols, scope, poison, pad=0):
    return {
        "codes": Guarded(device, (rows, cols // 2), np.uint8, poison, cols // 2 + pad),
        "scales": Guarded(device, (rows, cols // 16), np.uint8, poison, cols // 16 + pad),
        "decode_scales": Guarded(device, (rows if scope == Scope.ROW else 1,), np.float32, poison),
    }


def compare(out, h, scope, rule=0):
    codes, scales, decode = ref.quantize(h, scope, rule)
    ref.same(out["codes"].check(), codes, "codes")
    ref.same(out["scales"].check(), scales, "scales")
    ref.same(out["decode_scales"].check(), decode, "decode scales")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [16, 272, 4096])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("scope", [Scope.TENSOR, Scope.ROW])
def test_rmsnorm_quantize(device, context, rng, dtype, cols, residual, scope) -> None:
    rows, rule, offset = 6, ScaleRule(int(rng.integers(3))), float(rng.choice([0.0, 1.0]))
    kind, pad, poison = DTYPES[dtype], int(rng.choice([0, 16])), int(rng.choice([0xA5, 0x5A]))
    x, add = plain(rng, (rows, cols), dtype), plain(rng, (rows, cols), dtype)
    x[0, 1], x[1], add[1] = np.nan, 0, 0
    x[2, 0] = np.inf
    weight = (1 + rng.standard_normal(cols) * 0.1).astype(np.float32).astype(DTYPES[str(rng.choice(list(DTYPES)))])
    out = outputs(device, rows, cols, scope, poison, pad)
    normed = Guarded(device, (rows, cols), kind, poison, cols + pad)
    inv_rms = Guarded(device, (rows,), np.float32, poison)
    taken = device.put(add, cols + pad) if residual else None
    nvfp4.rmsnorm_quantize(context, device.put(x, cols + pad), device.put(weight), EPS, residual=taken, weight_offset=offset,
                           normed=normed.array, inv_rms=inv_rms.array, scope=scope, scale_rule=rule,
                           **{k: v.array for k, v in out.items()})
    source = oracle.to_dtype(ref.wide(x) + ref.wide(add), kind) if residual else ref.wide(x)
    with np.errstate(all="ignore"):
        y, inv = oracle.rmsnorm(source, ref.wide(weight), EPS, kind, offset)
    if residual:
        ref.same(device.get(taken), source.astype(kind), "residual")
    ref.same(normed.check(), y.astype(kind), "normed")
    ref.same(inv_rms.check(), inv, "1/RMS")
    compare(out, y, scope, rule)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_hc_rmsnorm_quantize(device, context, rng, dtype, count) -> None:
    rows, cols, kind = 5, int(rng.choice([48, 512])), DTYPES[dtype]
    streams, mix = plain(rng, (rows, count, cols), dtype), rng.random((rows, count)).astype(np.float32)
    weight = (1 + rng.standard_normal(cols) * 0.1).astype(np.float32)
    out = outputs(device, rows, cols, Scope.ROW, 0xA5)
    mixed = Guarded(device, (rows, cols), kind, 0xA5, cols + 8)
    normed = Guarded(device, (rows, cols), kind, 0xA5, cols + 8)
    inv_rms = Guarded(device, (rows,), np.float32, 0xA5)
    nvfp4.hc_rmsnorm_quantize(context, device.put(streams, cols + 8), device.put(mix, count + 1), device.put(weight), EPS,
                              mixed=mixed.array, normed=normed.array, inv_rms=inv_rms.array, scope=Scope.ROW,
                              **{k: v.array for k, v in out.items()})
    x = oracle.hyper_connection(ref.wide(streams), mix, kind)
    y, inv = oracle.rmsnorm(x, weight, EPS, kind)
    ref.same(mixed.check(), x.astype(kind), "mixed")
    ref.same(normed.check(), y.astype(kind), "normed")
    ref.same(inv_rms.check(), inv, "1/RMS")
    compare(out, y, Scope.ROW)


def test_norms_make_what_is_asked_for(device, context, rng) -> None:
    x, weight = plain(rng, (3, 64), "bf16"), np.ones(64, np.float32)
    r = nvfp4.rmsnorm_quantize(context, device.put(x), device.put(weight), EPS, normed=True, inv_rms=True, scope=Scope.ROW)
    y, inv = oracle.rmsnorm(ref.wide(x), weight, EPS, DTYPES["bf16"])
    ref.same(device.get(r.normed), y.astype(DTYPES["bf16"]), "normed")
    ref.same(device.get(r.inv_rms), inv, "1/RMS")
    ref.same(device.get(r.codes), ref.quantize(y, Scope.ROW)[0], "codes")
    r = nvfp4.hc_rmsnorm_quantize(context, device.put(x[:, None]), device.put(np.ones((3, 1), np.float32)), device.put(weight), EPS,
                                  mixed=True)
    ref.same(device.get(r.mixed), x, "mixed")
    assert r.normed is None and r.inv_rms is None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kw", [{}, {"limit": 10.0}, {"limit": 7.0, "alpha": 1.702, "beta": 1.0}], ids=["plain", "limit", "gpt_oss"])
@pytest.mark.parametrize("interleave", [0, 8])
@pytest.mark.parametrize("name", ["none", "ends", "masked", "strided", "no_rows"])
def test_swiglu_quantize(device, context, rng, dtype, kw, interleave, name) -> None:
    split, width, kind = ref.SPLITS[name], 48, DTYPES[dtype]
    rows, scope = split.rows, Scope.TENSOR if split.kind == "none" else Scope(int(rng.integers(3)))
    gate, up = ((rng.standard_normal((rows, width)) * 6).astype(np.float32).astype(kind) for _ in range(2))
    if rows:
        gate[0, 0], up[0, 20] = np.nan, -np.inf
    both = np.concatenate([gate, up], axis=1)
    if interleave and rows:
        both = np.ascontiguousarray(oracle.interleave_gate_up(both.T).T)
    h = oracle.swiglu(gate, up, kind, **kw)
    run_activation(device, context, split, both, h, kind, scope, interleave=interleave, **kw)


@pytest.mark.parametrize("name", ["none", "ends"])
def test_relu2_and_none(device, context, rng, name) -> None:
    split, kind = ref.SPLITS[name], DTYPES["bf16"]
    x = (rng.standard_normal((split.rows, 64)) * 4).astype(np.float32).astype(kind)
    run_activation(device, context, split, x, oracle.relu2(x, kind), kind, Scope.ROW, activation=Activation.RELU2)
    mixed = np.ascontiguousarray(oracle.interleave_gate_up(x.T).T)
    run_activation(device, context, split, mixed, ref.wide(x), kind, Scope.ROW, activation=Activation.NONE, interleave=8)


def run_activation(device, context, split, src, h, kind, scope, **kw) -> None:
    rows, cols = h.shape
    shape = (len(split.sizes), split.max_tokens, src.shape[1]) if split.kind == "strided" else src.shape
    groups = split.groups(device)
    layout = ScaleLayout.TILED_128X4 if split.kind == "ends" else ScaleLayout.LINEAR
    size = nvfp4.scales_size(rows, cols, scale_layout=layout, groups=groups)
    codes = Guarded(device, (rows, cols // 2), np.uint8, 0x5A)
    scales = Guarded(device, (rows, cols // 16) if layout == 0 else (size,), np.uint8, 0x5A)
    decode = Guarded(device, (ref.scope_count(scope, split),), np.float32, 0x5A)
    activated = Guarded(device, (rows, cols), kind, 0x5A, cols + 8)
    nvfp4.swiglu_quantize(context, device.put(src.reshape(shape), src.shape[1] + 8), groups=groups, codes=codes.array,
                          scales=scales.array, decode_scales=decode.array, activated=activated.array, scope=scope,
                          scale_layout=layout, **kw)
    got, used = activated.check(), split.used
    ref.same(got[used], h.astype(kind)[used], "activated")
    assert (np.ascontiguousarray(got[~used]).view(np.uint8) == 0x5A).all()
    expected = ref.quantize(np.where(used[:, None], h, 0).astype(np.float32), scope, 0, split)
    ref.check_output(codes.check(), scales.check(), decode.check(), expected, split, layout, 0x5A, scope, size)
