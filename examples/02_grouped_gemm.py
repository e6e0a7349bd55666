"""The experts of a mixture: tokens sorted by expert, one product for all of them."""

import numpy as np

import nvfp4

rng = np.random.default_rng(0)
experts, rows, cols = 8, 128, 256
counts = np.array([5, 0, 17, 1, 0, 9, 30, 2], np.int32)  # tokens of each expert
tokens = rng.standard_normal((counts.sum(), cols)).astype(np.float32)
weight = (rng.standard_normal((experts, rows, cols)) * 0.05).astype(np.float32)

with nvfp4.Context() as context:
    weights = nvfp4.Weights.prepare(context, weight)  # once, at load time
    groups = nvfp4.Groups.by_ends(nvfp4.group_ends(context, counts))
    a = nvfp4.quantize(context, tokens, scope=nvfp4.Scope.ROW, groups=groups)
    out = nvfp4.grouped_gemm(context, a, weights, groups=groups)

    # The same by hand, from the dequantized operands.
    x, w = nvfp4.dequantize(context, a), nvfp4.dequantize(context, weights.export())
    expert = np.repeat(np.arange(experts), counts)
    exact = np.einsum("tk,tnk->tn", x.astype(np.float64), w.astype(np.float64)[expert])
    error = np.abs(out - exact).max() / np.abs(exact).max()
    print(f"{len(tokens)} tokens, {experts} experts: largest error {error:.1e} of the largest value")
    assert error < 1e-5
