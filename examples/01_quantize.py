"""Quantize a matrix to NVFP4 and back: what the three scale rules cost in error."""

import numpy as np

import nvfp4

x = np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32)

with nvfp4.Context() as context:
    for rule in nvfp4.ScaleRule:
        q = nvfp4.quantize(context, x, scope=nvfp4.Scope.ROW, scale_rule=rule)
        y = nvfp4.dequantize(context, q)
        error = np.linalg.norm(y - x) / np.linalg.norm(x)
        bits = 8 * (q.codes.nbytes + q.scales.nbytes + q.decode_scales.nbytes) / x.size
        print(f"{rule.name:15} {bits:.2f} bits a value, relative error {error:.4f}")
        assert error < 0.1
