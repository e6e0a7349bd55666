"""A gated MLP in three calls: norm + quantize, product + SwiGLU + quantize, product; only NVFP4 in between."""

import numpy as np

import nvfp4

rng = np.random.default_rng(0)
tokens, hidden, inner = 16, 256, 384
x = rng.standard_normal((tokens, hidden)).astype(np.float32)
norm = np.ones(hidden, np.float32)
gate_up = (rng.standard_normal((2 * inner, hidden)) * 0.06).astype(np.float32)
down = (rng.standard_normal((hidden, inner)) * 0.06).astype(np.float32)
ROW, TILED = nvfp4.Scope.ROW, nvfp4.ScaleLayout.TILED_128X4

with nvfp4.Context() as context:
    w1 = nvfp4.Weights.prepare(context, gate_up, gate_up=True)
    w2 = nvfp4.Weights.prepare(context, down)
    a = nvfp4.rmsnorm_quantize(context, x, norm, 1e-6, scope=ROW, scale_layout=TILED)
    h = nvfp4.gemm(context, a, w1, activation=nvfp4.Activation.SWIGLU, out_dtype=nvfp4.DType.NVFP4, scope=ROW, scale_layout=TILED)
    y = nvfp4.gemm(context, h, w2)

z = x / np.sqrt((x * x).mean(axis=1, keepdims=True))
g, u = np.split(z @ gate_up.T, 2, axis=1)
exact = (g / (1 + np.exp(-g)) * u) @ down.T
error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
print(f"relative error of the whole MLP in 4 bits: {error:.3f}")
assert error < 0.25
