"""An attention output's first half, "bhr,hdr->bhd": a linear layer a group on the strided view, calibrated on a sample."""

import ml_dtypes
import numpy as np

import nvfp4

rng = np.random.default_rng(0)
tokens, groups, k, n = 64, 4, 128, 96


def activations():
    return (rng.standard_normal((tokens, groups, k)) * np.arange(1, groups + 1)[:, None]).astype(ml_dtypes.bfloat16)


weight = (rng.standard_normal((groups, n, k)) / np.sqrt(k)).astype(np.float32)
x = activations()
exact = np.einsum("tgk,gnk->tgn", x.astype(np.float64), weight)


def error(y):
    return np.linalg.norm(y - exact) / np.linalg.norm(exact)


with nvfp4.Context() as context:
    layer = nvfp4.GroupedLinear.from_values(context, weight, weight_rule=nvfp4.ScaleRule.MIN_MSE)
    values = error(layer(x, out_dtype="f32"))
    layer.quantize = True  # 4-bit activations, a decode scale for each token of each group
    rows = error(layer(x, out_dtype="f32"))
    scales = layer.calibrate(activations())  # static ones, one a group
    static = error(layer(x, out_dtype="f32"))

print(f"relative error: bf16 activations {values:.3f}, 4-bit by rows {rows:.3f}, static {static:.3f}; scales {scales}")
assert values < 0.1 and max(rows, static) < 0.15 and (np.diff(scales) > 0).all()
