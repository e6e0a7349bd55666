"""What goes wrong says what to do: refusals name the argument; faults in the data are read from the context."""

import numpy as np

import nvfp4

with nvfp4.Context() as context:
    try:
        nvfp4.quantize(context, np.ones((4, 100), np.float32))
    except nvfp4.InvalidArgumentError as refused:  # a ValueError
        print(refused.status.name, "-", refused)
        assert "pad to 112" in str(refused)

    x = np.ones((4, 64), np.float32)
    x[2, 5] = np.nan
    q = nvfp4.quantize(context, x)  # the block that holds the NaN reads as NaN, no other
    faults = context.faults()
    print(faults.flags.name, "in", int(np.isnan(nvfp4.dequantize(context, q)).sum()), "values")
    assert nvfp4.FaultFlags.NON_FINITE in faults.flags

    context.clear_faults()
    stream = nvfp4.Stream(context)
    stream.close()
    try:
        nvfp4.quantize(context, x, stream=stream)
    except nvfp4.InvalidHandleError as refused:
        print(refused.status.name, "-", refused)
