"""A checkpoint's NVFP4 weight as it is: codes, linear scales and weight_scale_2, prepared without quantizing again."""

import numpy as np

import nvfp4

rng = np.random.default_rng(0)
n, k = 192, 320
weight = (rng.standard_normal((n, k)) * 0.03).astype(np.float32)

with nvfp4.Context() as context:
    stored = nvfp4.quantize(context, weight)  # stands for the file: uint8 [n, k/2], uint8 [n, k/16], float32 [1]
    tiled = nvfp4.tile_scales(context, stored.scales)  # the order that cuBLASLt and CUTLASS read
    assert (nvfp4.untile_scales(context, tiled, n, k // 16) == stored.scales).all()
    print(f"scales: {stored.scales.nbytes} bytes linear, {tiled.nbytes} tiled")

    weights = nvfp4.Weights.prepare(context, codes=stored.codes, scales=stored.scales, decode_scales=stored.decode_scales)
    back = weights.export()
    assert (back.codes[0] == stored.codes).all() and (back.scales[0] == stored.scales).all()
    print(f"prepared in {weights.info.storage_size} bytes; the export is the checkpoint, byte for byte")
