"""NVFP4 quantization and grouped matrix products: ctypes bindings of libnvfp4.

    import nvfp4
    with nvfp4.Context() as context:
        q = nvfp4.quantize(context, x, scope=nvfp4.Scope.ROW)
        y = nvfp4.dequantize(context, q)
"""

from ._call import Groups, Quantized, scales_size
from .context import (
    BackendInfo, Buffer, Context, Event, Faults, PoolStats, Stream, abi_version, backend_query, last_message, set_log_callback,
    status_name, version, version_string,
)
from .enums import (
    Activation, Backend, CaptureMode, DType, FaultFlags, Feature, GemmFlags, Grouping, Isa, LogLevel, ScaleLayout, ScaleRule, Scope, Status,
    WeightsSource,
)
from .errors import (
    CaptureError, DeviceError, DevicePoisonedError, ForkedError, InternalError, InvalidArgumentError, InvalidHandleError,
    LibraryError, NotPreparedError, NvFp4Error, OutOfMemoryError, UnsupportedDeviceError, UnsupportedDriverError,
    UnsupportedError, WorkspaceTooSmallError,
)
from .graph import Graph, Recording
from .layouts import deinterleave_gate_up, group_ends, interleave_gate_up, tile_scales, untile_scales
from .products import Weights, WeightsInfo, gemm, grouped_gemm
from .quantize import (
    ActivationQuantized, NormQuantized, StagedInputs, amax_scale, dequantize, hc_rmsnorm_quantize, quantize, rmsnorm_quantize,
    stage_moe_inputs, swiglu_quantize,
)

__version__ = "0.1.0"

__all__ = [name for name in dir() if not name.startswith("_")]
