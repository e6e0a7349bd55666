"""A checkpoint of `nvfp4 quantize` -> its linear layers as products of libnvfp4."""
import pathlib
import sys

import ml_dtypes
import numpy as np

try:
    import nvfp4
except ModuleNotFoundError:  # not installed: the one of this checkout
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "bindings" / "python"))
    import nvfp4


class Products:
    """Every weight of `names` that the file holds as NVFP4, prepared for the library's kernels."""

    def __init__(self, checkpoint, names):
        self.context = nvfp4.Context()
        self.layers = {}
        self.bytes = 0
        for name in names:
            weight = f"{name}.weight"
            if f"{weight}_scale_2" in checkpoint:
                parts = checkpoint[weight], checkpoint[f"{weight}_scale"], checkpoint[f"{weight}_scale_2"].reshape(1)
                codes, scales, decode_scale = parts
                weights = nvfp4.Weights.prepare(self.context, codes=codes, scales=scales, decode_scales=decode_scale)
                self.layers[name] = weights, checkpoint.floats(f"{name}.bias")
                self.bytes += sum(part.nbytes for part in parts)

    def backend(self):
        return f"libnvfp4 {nvfp4.version_string()} on {self.context.info().name}"

    def linear(self, quantized_activations):
        """A function (name, x float32 [tokens, K]) -> x W^T + b as float32 [tokens, N]."""

        def multiply(name, x):
            weights, bias = self.layers[name]
            a = x.astype(ml_dtypes.bfloat16)
            if quantized_activations:
                a = nvfp4.quantize(self.context, a, scope=nvfp4.Scope.ROW, scale_rule=nvfp4.ScaleRule.FOUR_OVER_SIX)
            return nvfp4.gemm(self.context, a, weights, bias=bias, out_dtype=np.float32)

        return multiply
