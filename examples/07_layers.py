"""A transformer block's second half as layers: norm and quantize once, then a shared expert and a mixture of experts."""

import ml_dtypes
import numpy as np

import nvfp4

rng = np.random.default_rng(0)
tokens, hidden, inner, experts, topk = 16, 128, 64, 8, 2


def weights(*shape):
    return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


x = rng.standard_normal((tokens, hidden)).astype(ml_dtypes.bfloat16)
gate_up, down, gate = weights(experts, 2 * inner, hidden), weights(experts, hidden, inner), weights(experts, hidden)
with nvfp4.Context() as context:
    router = nvfp4.Router(nvfp4.MoeScore.SIGMOID, renormalise=True, scaling=1.5)
    moe = nvfp4.MoE.from_values(context, gate_up, down, topk, router)
    up = nvfp4.Linear.from_values(context, gate_up[0], gate_up=True, activation=nvfp4.Activation.SWIGLU)
    out = nvfp4.Linear.from_values(context, down[0])

    a = nvfp4.QuantizedActivation.rmsnorm(context, x, np.ones(hidden, np.float32), 1e-6, scale_rule=nvfp4.ScaleRule.MIN_MSE)
    logits = (a.values(context) @ gate.T).astype(np.float32)
    y = moe(a, logits, shared=out(up(a, out_dtype="nvfp4"), out_dtype="bf16"), out_dtype="f32")
    ids, routed = nvfp4.moe_route(context, logits, topk, router)

z = x.astype(np.float64)
z /= np.sqrt((z * z).mean(axis=1, keepdims=True))
exact = np.zeros((tokens, hidden))
for t in range(tokens):
    for expert, weight in [(0, 1.0), *zip(ids[t], routed[t])]:
        g, u = np.split(gate_up[expert] @ z[t], 2)
        exact[t] += weight * (down[expert] @ (g / (1 + np.exp(-g)) * u))
error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
print(f"relative error of the block in 4 bits: {error:.3f}")
assert error < 0.3
