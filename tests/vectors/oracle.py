"""Independent oracle of the NVFP4 numerical contract (docs/numerics.md), in numpy + ml_dtypes.

Written from the contract alone, for clarity; it shares no code with the library. Every written float32
operation rounds once, to nearest even; no fused multiply-add.

    pip install numpy ml_dtypes
"""
import numpy as np
import ml_dtypes

F32 = np.float32
BLOCK = 16
E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], F32)
SIXTH = F32(1) / F32(6)
FLT_MAX = np.finfo(F32).max
NAN_SCALE = 0x7F


def e2m1_codes(y):
    """float32 -> 4-bit E2M1 codes: round to nearest, ties to the even code, saturate at 6, keep the sign bit."""
    mag = np.abs(y)
    code = np.zeros(y.shape, np.uint8)
    for c in range(1, 8):
        mid = (E2M1[c - 1] + E2M1[c]) / F32(2)
        code = np.where(mag > mid if c % 2 else mag >= mid, np.uint8(c), code)
    return code | (np.signbit(y).astype(np.uint8) << 3)


def e2m1_values(codes):
    return E2M1[codes & 7] * np.where(codes & 8, F32(-1), F32(1))


def e4m3_codes(t):
    """non-negative float32 -> E4M3 byte: round to nearest even, saturate at 448."""
    return np.minimum(t, F32(448)).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)


def e4m3_values(byte):
    return np.asarray(byte, np.uint8).view(ml_dtypes.float8_e4m3fn).astype(F32)


def finite_amax(x, axis=None):
    return np.abs(np.where(np.isfinite(x), x, F32(0))).max(axis=axis).astype(F32)


def encode_from_amax(amax):
    """dynamic: amax -> (encode scale G, stored decode scale g)."""
    amax = np.asarray(amax, F32)
    with np.errstate(all="ignore"):
        q = (F32(2688) / amax).astype(F32)
        G = np.where(amax == 0, F32(1), np.minimum(q, FLT_MAX)).astype(F32)
        g = np.where(amax == 0, F32(1), np.where(q > FLT_MAX, F32(1) / G, amax / F32(2688))).astype(F32)
    return G, g


def encode_from_static(g):
    """static: decode scale g from the caller -> encode scale G; NaN marks an invalid g (not finite, or not above 0)."""
    g = np.asarray(g, F32)
    with np.errstate(all="ignore"):
        G = np.minimum(F32(1) / g, FLT_MAX).astype(F32)
    return np.where(np.isfinite(g) & (g > 0), G, F32(np.nan)).astype(F32)


def canonical(x):
    """every NaN that is written is the quiet NaN with an empty payload and no sign."""
    return np.where(np.isnan(x), F32(np.nan), x).astype(F32)


def _codes_for(xb, sf, d):
    """codes of blocks xb [.., 16] under scale bytes sf and decode scale d."""
    with np.errstate(all="ignore"):
        r = np.minimum(F32(1) / (e4m3_values(sf) * d).astype(F32), FLT_MAX).astype(F32)
        codes = e2m1_codes((xb * r[..., None]).astype(F32))
    return np.where((sf == 0)[..., None], np.uint8(0), codes)


def _square_error(xb, codes, sf, d):
    """sum over the block, in index order, of (value - x)^2, all in float32."""
    v = ((e2m1_values(codes) * e4m3_values(sf)[..., None]).astype(F32) * d[..., None]).astype(F32)
    e = (v - xb).astype(F32)
    e = (e * e).astype(F32)
    acc = np.zeros(e.shape[:-1], F32)
    for i in range(BLOCK):
        acc = (acc + e[..., i]).astype(F32)
    return acc


def quantize(x, G, scale_rule="amax"):
    """x float32 [M, K], K % 16 == 0; G scalar or [M] -> (packed uint8 [M, K/2], scales uint8 [M, K/16])."""
    m, k = x.shape
    G = np.broadcast_to(np.asarray(G, F32), (m,)).reshape(m, 1)
    xb = np.ascontiguousarray(x).reshape(m, k // BLOCK, BLOCK)
    bad = ~np.isfinite(xb).all(axis=2) | np.isnan(G)
    G = np.where(np.isnan(G), F32(1), G)
    xf = np.where(bad[..., None], F32(0), xb)
    b = np.abs(xf).max(axis=2)
    with np.errstate(all="ignore"):
        d = np.broadcast_to((F32(1) / G).astype(F32), b.shape)
        t = (b * (G * SIXTH).astype(F32)).astype(F32)
        sf = e4m3_codes(t)
        codes = _codes_for(xf, sf, d)
        if scale_rule == "four_over_six":
            sf4 = e4m3_codes((t * F32(1.5)).astype(F32))
            codes4 = _codes_for(xf, sf4, d)
            pick = _square_error(xf, codes4, sf4, d) < _square_error(xf, codes, sf, d)
            sf, codes = np.where(pick, sf4, sf), np.where(pick[..., None], codes4, codes)
        elif scale_rule == "min_mse":
            best = _square_error(xf, codes, sf, d)
            base = sf.astype(np.int64)
            for step in (-1, 1, -2, 2, -3, 3, -4, 4, -5, 5, -6, 6, -7, 7):
                cand = np.clip(base + step, 0, 126).astype(np.uint8)
                cc = _codes_for(xf, cand, d)
                err = _square_error(xf, cc, cand, d)
                pick = err < best
                best = np.where(pick, err, best)
                sf, codes = np.where(pick, cand, sf), np.where(pick[..., None], cc, codes)
    codes = np.where(bad[..., None], np.uint8(0), codes).reshape(m, k)
    sf = np.where(bad, np.uint8(NAN_SCALE), sf)
    return (codes[:, 0::2] | (codes[:, 1::2] << 4)).astype(np.uint8), sf


def unpack(packed):
    codes = np.empty((packed.shape[0], packed.shape[1] * 2), np.uint8)
    codes[:, 0::2], codes[:, 1::2] = packed & 15, packed >> 4
    return codes


def dequantize(packed, sf, g):
    """-> float32 [M, K]: e2m1 * e4m3 is exact, then one rounding for * g (scalar or [M])."""
    m = packed.shape[0]
    g = np.broadcast_to(np.asarray(g, F32), (m,)).reshape(m, 1, 1)
    v = (e2m1_values(unpack(packed)).reshape(m, -1, BLOCK) * e4m3_values(sf)[:, :, None]).astype(F32)
    return canonical((v * g).astype(F32).reshape(m, -1))


def swizzle(sf):
    """scales [rows, cols] -> bytes of the 128x4 tiled layout; padding is zero."""
    rows, cols = sf.shape
    rp, cp = -(-rows // 128) * 128, -(-cols // 4) * 4
    out = np.zeros(rp * cp, np.uint8)
    r, c = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    out[((r // 128) * (cp // 4) + c // 4) * 512 + (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4] = sf
    return out


def grouped_swizzle(sf, ends):
    """activation scales of all groups: each group swizzled on its own, 128-row aligned, one after another."""
    parts, start = [], 0
    for end in ends:
        parts.append(swizzle(sf[start:end]) if end > start else np.zeros(0, np.uint8))
        start = end
    return np.concatenate(parts)


def interleave_gate_up(w, granularity=8):
    """rows [gate; up] of an L1 weight [2I, ...] -> granularity gate rows, granularity up rows, alternating."""
    i = w.shape[0] // 2
    gate, up = w[:i].reshape(i // granularity, granularity, *w.shape[1:]), w[i:].reshape(i // granularity, granularity, *w.shape[1:])
    return np.stack([gate, up], axis=1).reshape(w.shape)


def fma(a, b, c):
    """float32 fused multiply-add, one rounding: the product is exact in float64, the sum is rounded there to odd."""
    a, b, c = (np.asarray(v, np.float64) for v in (a, b, c))
    with np.errstate(all="ignore"):
        p = a * b
        s = p + c
        t = s - p
        err = (p - (s - t)) + (c - t)
        bits = np.ascontiguousarray(s).view(np.int64)
        odd = np.where((err != 0) & np.isfinite(s) & (bits & 1 == 0), np.where((err > 0) == (s > 0), bits + 1, bits - 1), bits)
        return odd.view(np.float64).reshape(s.shape).astype(F32)


def to_dtype(x, dtype):
    with np.errstate(all="ignore"):
        return canonical(np.asarray(x, F32)).astype(dtype).astype(F32)


def ordered_sum(x, y):
    """[M, K] -> [M], sum of x*y: blocks of 16 (zeros pad the last) in index order by fma, then adjacent pairs, level by level."""
    m, k = x.shape
    blocks = -(-k // BLOCK)
    xb, yb = (np.pad(v, ((0, 0), (0, blocks * BLOCK - k))).reshape(m, blocks, BLOCK) for v in (x, y))
    acc = np.zeros((m, blocks), F32)
    for i in range(BLOCK):
        acc = fma(xb[:, :, i], yb[:, :, i], acc)
    width = 1
    while width < acc.shape[1]:
        width *= 2
    acc = np.pad(acc, ((0, 0), (0, width - acc.shape[1])))
    while acc.shape[1] > 1:
        acc = (acc[:, 0::2] + acc[:, 1::2]).astype(F32)
    return acc[:, 0]


def rmsnorm(x, weight, eps, dtype, weight_offset=0.0):
    """x float32 [M, K] holding values of dtype -> (y of dtype as float32 [M, K], 1/RMS [M])."""
    mean = (ordered_sum(x, x) / F32(x.shape[1])).astype(F32)
    inv = canonical(F32(1) / np.sqrt((mean + F32(eps)).astype(F32)))
    w = (np.asarray(weight, F32) + F32(weight_offset)).astype(F32)
    return to_dtype((x * inv[:, None]).astype(F32) * w, dtype), inv


def hyper_connection(streams, mix, dtype):
    """streams [M, L, K], mix [M, L] float32 -> sum over l of mix * stream, l ascending by fma, as dtype."""
    acc = (mix[:, 0, None] * streams[:, 0]).astype(F32)
    for l in range(1, streams.shape[1]):
        acc = fma(mix[:, l, None], streams[:, l], acc)
    return to_dtype(acc, dtype)


def exp(z):
    """the contract's exp, on [-87, 88]: two-step reduction, degree-5 polynomial, every step written out."""
    z = np.minimum(np.maximum(np.asarray(z, F32), F32(-87)), F32(88))
    n = np.rint((z * F32(1.44269504)).astype(F32)).astype(F32)
    r = fma(n, F32(2.12194440e-4), fma(n, F32(-0.693359375), z))
    q = np.full(z.shape, F32(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        q = fma(q, r, F32(c))
    e = (fma(q, (r * r).astype(F32), r) + F32(1)).astype(F32)
    with np.errstate(all="ignore"):
        power = ((np.nan_to_num(n).astype(np.int32) + 127) << 23).astype(np.uint32).view(F32)
    return (e * power).astype(F32)


def swiglu(gate, up, dtype, limit=0.0, alpha=1.0, beta=0.0):
    """gate * sigmoid(alpha * gate) * (up + beta) as dtype; limit > 0 clamps gate above and up on both sides first."""
    gate, up = np.asarray(gate, F32), np.asarray(up, F32)
    if limit > 0:
        gate, up = np.minimum(gate, F32(limit)), np.minimum(np.maximum(up, F32(-limit)), F32(limit))
    with np.errstate(all="ignore"):
        d = (F32(1) + exp(-(gate * F32(alpha)).astype(F32))).astype(F32)
        return to_dtype((gate / d).astype(F32) * (up + F32(beta)).astype(F32), dtype)


def relu2(x, dtype):
    r = np.maximum(np.asarray(x, F32), F32(0))
    with np.errstate(all="ignore"):
        return to_dtype(r * r, dtype)


def log1p(u):
    """the contract's log(1 + u) on [0, 1]: 2 atanh(u / (2 + u)) by a fixed polynomial."""
    u = np.asarray(u, F32)
    w = (u / (F32(2) + u).astype(F32)).astype(F32)
    w2 = (w * w).astype(F32)
    t = np.full(u.shape, F32(1) / F32(15))
    for n in (13, 11, 9, 7, 5, 3, 1):
        t = fma(t, w2, F32(1) / F32(n))
    return ((F32(2) * w).astype(F32) * t).astype(F32)


def route(logits, k, score="softmax", bias=None, renormalise=True, scaling=1.0, groups=1, top_groups=1):
    """logits float32 [T, E] -> (ids int32 [T, k], weights float32 [T, k]); NaN logits are not allowed."""
    t, e = logits.shape
    if score == "softmax":
        ex = exp((logits - logits.max(axis=1, keepdims=True)).astype(F32))
        p = (ex / ordered_sum(ex, np.ones_like(ex))[:, None]).astype(F32)
    elif score == "sigmoid":
        p = (F32(1) / (F32(1) + exp(-logits)).astype(F32)).astype(F32)
    else:  # sqrt_softplus
        p = np.sqrt((np.maximum(logits, F32(0)) + log1p(exp(-np.abs(logits)))).astype(F32)).astype(F32)
    choice = p if bias is None else (p + np.asarray(bias, F32)).astype(F32)
    if groups > 1:
        per = choice.reshape(t, groups, e // groups)
        top2 = -np.sort(-per, axis=2, kind="stable")[:, :, :2]
        rank = (top2[:, :, 0] + top2[:, :, 1]).astype(F32) if per.shape[2] > 1 else top2[:, :, 0]
        keep = np.argsort(-rank, axis=1, kind="stable")[:, :top_groups]
        allowed = np.zeros((t, groups), bool)
        np.put_along_axis(allowed, keep, True, axis=1)
        choice = np.where(np.repeat(allowed, e // groups, axis=1), choice, F32(-np.inf))
    ids = np.argsort(-choice, axis=1, kind="stable")[:, :k].astype(np.int32)
    w = np.take_along_axis(p, ids, axis=1)
    if renormalise:
        s = np.zeros(t, F32)
        for j in range(k):
            s = (s + w[:, j]).astype(F32)
        w = (w / s[:, None]).astype(F32)
    return ids, (w * F32(scaling)).astype(F32)


def combine(y, weights, dtype, shared=None):
    """y float32 [T, k, N] (slot order), weights [T, k] -> fma over slots from 0, plus the shared expert last, as dtype."""
    acc = np.zeros((y.shape[0], y.shape[2]), F32)
    for j in range(y.shape[1]):
        acc = fma(weights[:, j, None], y[:, j], acc)
    return to_dtype(acc if shared is None else (acc + shared).astype(F32), dtype)


def epilogue(acc, g_row, g_group, bias=None):
    """float32 accumulators -> scaled values: (acc * g_row) * g_group, then + bias; three roundings."""
    v = ((acc * g_row).astype(F32) * g_group).astype(F32)
    return v if bias is None else (v + bias).astype(F32)


def swizzle_8x4(sf):
    rows, cols = sf.shape
    rp, cp = -(-rows // 8) * 8, -(-cols // 4) * 4
    out = np.zeros(rp * cp, np.uint8)
    r, c = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    out[((r // 8) * (cp // 4) + c // 4) * 32 + (r % 8) * 4 + c % 4] = sf
    return out


def valid_ends(ends, tokens):
    """ends as every backend reads them: each clamped to [previous end, tokens] -> (ends, first clamped group or -1)."""
    out, prev, bad = [], 0, -1
    for e, end in enumerate(ends):
        fixed = min(max(int(end), prev), tokens)
        bad = e if fixed != int(end) and bad < 0 else bad
        out.append(fixed)
        prev = fixed
    return out, bad


def grouped_gemm(a, sfa, ga, b, sfb, gb, ends):
    """float64 reference: a [T, K/2], sfa [T, K/16], ga scalar or [T]; b [E, N, K/2], sfb [E, N, K/16], gb [E]."""
    out, start = np.zeros((a.shape[0], b.shape[1])), 0
    ga = np.broadcast_to(np.asarray(ga, np.float64), (a.shape[0],))
    for e, end in enumerate(ends):
        if end > start:
            av, bv = dequantize(a[start:end], sfa[start:end], 1), dequantize(b[e], sfb[e], 1)
            out[start:end] = av.astype(np.float64) @ bv.astype(np.float64).T * ga[start:end, None] * float(gb[e])
        start = end
    return out
