"""Writes the golden cases to golden/ beside this file: <case>/<array>.bin (little-endian, C order) and cases.json.

    python generate.py [--seed N] [--out DIR]
"""
import argparse, json, pathlib
import numpy as np
import ml_dtypes
import oracle as o

BF16 = ml_dtypes.bfloat16
SOURCE = {"bf16": BF16, "f16": np.float16, "f32": np.float32}


def edge_values(rng, shape):
    """every rounding tie, zeros of both signs, tiny, huge and non-finite values, in blocks beside ordinary ones."""
    x = rng.standard_normal(shape).astype(np.float32)
    ties = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0], np.float32)
    x[0, :16] = np.concatenate([ties, -ties])
    x[1, :16], x[1, 16:32], x[1, 32:48] = 0.0, -0.0, 1e-30
    x[2, :16] = np.concatenate([[6.0], np.full(15, 0.1)])
    x[3, 3], x[3, 20], x[3, 40] = np.nan, np.inf, -np.inf
    x[4, :] *= 1e-6
    x[5, :] *= 1e4
    x[6, :16] = 2.0 ** np.arange(-20, -4)
    x[7, :] = 0.0
    x[8, :] = x[8, :] * np.float32(3e-37)
    return x


def fma_case(rng):
    a, b = (rng.standard_normal(4096).astype(np.float32) for _ in range(2))
    c = np.where(rng.random(4096) < 0.5, -(a * b) * (1 + rng.standard_normal(4096) * 1e-7), rng.standard_normal(4096)).astype(np.float32)
    return {"a": a, "b": b, "c": c, "out": o.fma(a, b, c)}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--seed", type=int, default=20261121)
    ap.add_argument("--out", default=str(pathlib.Path(__file__).parent / "golden"))
    args = ap.parse_args()
    rng, root, cases = np.random.default_rng(args.seed), pathlib.Path(args.out), []

    def save(name, op, params, **arrays):
        (root / name).mkdir(parents=True, exist_ok=True)
        entry = {"name": name, "op": op, "params": params, "arrays": {}}
        for key, arr in arrays.items():
            arr = np.ascontiguousarray(arr)
            (root / name / f"{key}.bin").write_bytes(arr.tobytes())
            entry["arrays"][key] = {"dtype": str(arr.dtype), "shape": list(arr.shape)}
        cases.append(entry)

    sources = {
        "gauss": lambda s: rng.standard_normal(s), "laplace": lambda s: rng.laplace(size=s),
        "outlier": lambda s: rng.standard_normal(s) * np.where(rng.random(s) < 0.005, 60, 1),
        "edge": lambda s: edge_values(rng, s),
    }
    for kind, make in sources.items():
        for dtype in SOURCE:
            src = make((9, 272) if kind != "gauss" else (130, 208)).astype(SOURCE[dtype])
            x = src.astype(np.float32)
            for scope in ("tensor", "row"):
                G, g = o.encode_from_amax(o.finite_amax(x) if scope == "tensor" else o.finite_amax(x, axis=1))
                for rule in ("amax", "four_over_six", "min_mse"):
                    p, sf = o.quantize(x, G, rule)
                    save(f"quantize_{kind}_{dtype}_{scope}_{rule}", "quantize_dynamic", {"scope": scope, "rule": rule},
                         src=src, packed=p, scales=sf, scales_128x4=o.swizzle(sf), decode_scale=np.atleast_1d(g))
            for tag, bad_g in (("zero", 0.0), ("negative", -1.0), ("inf", np.inf), ("nan", np.nan), ("tiny", 1e-42)) if kind == "edge" and dtype == "f32" else ():
                p, sf = o.quantize(x, o.encode_from_static(np.float32(bad_g)))
                save(f"quantize_static_{tag}_g", "quantize_static", {"decode_scale": str(bad_g)}, src=src, packed=p, scales=sf)
            g = np.float32(0.00173)
            for rule in ("four_over_six", "min_mse"):
                p, sf = o.quantize(x, o.encode_from_static(g), rule)
                save(f"quantize_{kind}_{dtype}_static_{rule}", "quantize_static", {"decode_scale": float(g), "rule": rule}, src=src, packed=p, scales=sf)
            p, sf = o.quantize(x, o.encode_from_static(g))
            save(f"quantize_{kind}_{dtype}_static", "quantize_static", {"decode_scale": float(g)},
                 src=src, packed=p, scales=sf, values_bf16=o.dequantize(p, sf, g).astype(BF16))

    for rows, cols in ((1, 1), (127, 3), (128, 4), (129, 5), (300, 11), (257, 64)):
        sf = rng.integers(0, 127, (rows, cols), np.uint8)
        save(f"swizzle_{rows}x{cols}", "swizzle", {}, scales=sf, scales_128x4=o.swizzle(sf), scales_8x4=o.swizzle_8x4(sf))

    sizes = [5, 0, 130, 1]
    ends, x = np.cumsum(sizes).astype(np.int32), (rng.standard_normal((140, 96)) * 3).astype(np.float32)   # the last 4 rows belong to no group
    src = x.astype(BF16)
    x, start, parts = src.astype(np.float32), 0, []
    for end in ends:
        G, g = o.encode_from_amax(o.finite_amax(x[start:end]) if end > start else np.float32(0))
        parts.append((*o.quantize(x[start:end], G), g) if end > start else (np.zeros((0, 48), np.uint8), np.zeros((0, 6), np.uint8), g))
        start = end
    sf = np.concatenate([q[1] for q in parts])
    save("quantize_group_scope", "quantize_dynamic", {"scope": "group", "rule": "amax"}, src=src, ends=ends, packed=np.concatenate([q[0] for q in parts]), scales=sf,
         scales_128x4=o.grouped_swizzle(sf, ends), decode_scale=np.array([q[2] for q in parts], np.float32))
    for name, raw in (("descending", [4, 2, 9]), ("past_end", [3, 12, 40]), ("negative", [-1, 5, 10])):
        fixed, bad = o.valid_ends(raw, 10)
        save(f"ends_{name}", "valid_ends", {"tokens": 10, "first_bad_group": bad}, ends=np.array(raw, np.int32), used=np.array(fixed, np.int32))
    for name, t, e, k, kw in (("softmax", 33, 128, 8, {}), ("sigmoid_grouped", 17, 256, 8, {"score": "sigmoid", "groups": 8, "top_groups": 4, "scaling": 2.5}),
                              ("sqrt_softplus", 17, 384, 6, {"score": "sqrt_softplus", "scaling": 2.5}), ("plain", 5, 7, 3, {"renormalise": False}), ("ties", 4, 64, 6, {"score": "sigmoid"})):
        logits = (rng.integers(-3, 3, (t, e)) if name == "ties" else rng.standard_normal((t, e)) * 3).astype(np.float32)
        bias = (rng.standard_normal(e) * 0.1).astype(np.float32) if "score" in kw and name != "ties" else None
        ids, w = o.route(logits, k, bias=bias, **kw)
        y, shared = rng.standard_normal((t, k, 64)).astype(BF16), rng.standard_normal((t, 64)).astype(BF16)
        save(f"route_{name}", "moe_route", {"k": k} | kw, logits=logits, **({"bias": bias} if bias is not None else {}), ids=ids, weights=w, y=y, shared=shared,
             combined=o.combine(y.astype(np.float32), w, BF16).astype(BF16), combined_shared=o.combine(y.astype(np.float32), w, BF16, shared.astype(np.float32)).astype(BF16))
    x = (rng.standard_normal((6, 64)) * 4).astype(BF16)
    x[0, 0], x[1, 1] = np.nan, np.inf
    save("relu2", "relu2", {}, src=x, out=o.relu2(x.astype(np.float32), BF16).astype(BF16))

    for name, sizes, n, k in (("plain", [5, 0, 130, 1], 48, 96), ("decode", [1, 1, 0, 0, 0, 2], 272, 320), ("empty", [0, 0], 32, 64)):
        e, t = len(sizes), sum(sizes)
        ends = np.cumsum(sizes).astype(np.int32)
        x, w = rng.standard_normal((t, k)).astype(BF16).astype(np.float32), (rng.standard_normal((e, n, k)) * 0.03).astype(BF16).astype(np.float32)
        Ga, ga = o.encode_from_amax(o.finite_amax(x, axis=1)) if t else (np.zeros(0, np.float32), np.zeros(0, np.float32))
        a, sfa = o.quantize(x, Ga) if t else (np.zeros((0, k // 2), np.uint8), np.zeros((0, k // 16), np.uint8))
        b, sfb, gb = [], [], []
        for i in range(e):
            Gb, g = o.encode_from_amax(o.finite_amax(w[i]))
            q = o.quantize(w[i], Gb)
            b.append(q[0]); sfb.append(q[1]); gb.append(g)
        b, sfb, gb = np.stack(b), np.stack(sfb), np.array(gb, np.float32)
        save(f"grouped_gemm_{name}", "grouped_gemm", {"groups": e, "n": n, "k": k}, a=a, a_scales=sfa, a_decode=ga, ends=ends,
             b=b, b_scales=sfb, b_decode=gb, a_scales_128x4=o.grouped_swizzle(sfa, ends),
             b_scales_128x4=np.stack([o.swizzle(s) for s in sfb]), out_f64=o.grouped_gemm(a, sfa, ga, b, sfb, gb, ends))

    gate_up = rng.integers(0, 256, (64, 24), np.uint8)
    save("interleave_8", "interleave_gate_up", {"granularity": 8}, src=gate_up, dst=o.interleave_gate_up(gate_up))
    save("fma", "fma", {}, **fma_case(rng))
    z = np.concatenate([np.linspace(-90, 90, 4001), rng.standard_normal(4000) * 20]).astype(np.float32)
    save("exp", "exp", {}, z=z, out=o.exp(z))
    for dtype in ("bf16", "f16"):
        t = SOURCE[dtype]
        gate, up = ((rng.standard_normal((40, 192)) * 6).astype(t) for _ in range(2))
        gate[0, 0], gate[0, 20], up[1, 3], gate[2, :4] = np.nan, np.inf, -np.inf, [-0.0, 0.0, -300, 300]
        for name, kw in (("plain", {}), ("limit10", {"limit": 10.0}), ("gpt_oss", {"limit": 7.0, "alpha": 1.702, "beta": 1.0})):
            h = o.swiglu(gate.astype(np.float32), up.astype(np.float32), t, **kw)
            G, g = o.encode_from_amax(o.finite_amax(h, axis=1))
            p, sf = o.quantize(h, G)
            inter = o.interleave_gate_up(np.concatenate([gate, up], axis=1).T).T
            save(f"swiglu_quantize_{dtype}_{name}", "swiglu_quantize", {"scope": "row", "limit": 0.0, "alpha": 1.0, "beta": 0.0} | kw,
                 gate_up=np.concatenate([gate, up], axis=1), gate_up_interleaved_8=inter, activated=h.astype(t), packed=p, scales=sf, decode_scale=g)
        for k in (16, 272, 4096, 7168):
            rows = 7 if k < 4096 else 2
            x, res = rng.standard_normal((rows, k)).astype(t), rng.standard_normal((rows, k)).astype(t)
            w = (1 + rng.standard_normal(k) * 0.1).astype(np.float32)
            x[-1] = 0
            summed = o.to_dtype(x.astype(np.float32) + res.astype(np.float32), t)
            for name, src, off in (("plain", x.astype(np.float32), 0.0), ("residual", summed, 0.0), ("offset", x.astype(np.float32), 1.0)):
                y, inv = o.rmsnorm(src, w, 1e-6, t, off)
                G, g = o.encode_from_amax(o.finite_amax(y, axis=1))
                p, sf = o.quantize(y, G)
                save(f"rmsnorm_quantize_{dtype}_{k}_{name}", "rmsnorm_quantize", {"scope": "row", "eps": 1e-6, "weight_offset": off, "residual": name == "residual"},
                     src=x, residual=res, residual_out=summed.astype(t), weight=w, normed=y.astype(t), inv_rms=inv, packed=p, scales=sf, decode_scale=g)
        for streams in (1, 2, 4):
            xs, mix = rng.standard_normal((5, streams, 512)).astype(t), rng.random((5, streams)).astype(t).astype(np.float32)
            x = o.hyper_connection(xs.astype(np.float32), mix, t)
            w = (1 + rng.standard_normal(512) * 0.1).astype(np.float32)
            y, inv = o.rmsnorm(x, w, 1e-6, t)
            G, g = o.encode_from_amax(o.finite_amax(y, axis=1))
            p, sf = o.quantize(y, G)
            save(f"hc_rmsnorm_quantize_{dtype}_{streams}", "hc_rmsnorm_quantize", {"scope": "row", "eps": 1e-6}, streams=xs, mix=mix, weight=w,
                 mixed=x.astype(t), normed=y.astype(t), inv_rms=inv, packed=p, scales=sf, decode_scale=g)
    (root / "cases.json").write_text(json.dumps({"seed": args.seed, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
