"""NVFP4 quantization and grouped matrix products: ctypes bindings of libnvfp4.

    import nvfp4
    with nvfp4.Context() as context:
        q = nvfp4.quantize(context, x, scope=nvfp4.Scope.ROW)
        y = nvfp4.dequantize(context, q)
"""

from ._call import Groups, Quantized, scales_size
from .choices import Tuned, prepare_for, tune
from .context import (
    BackendInfo, Buffer, Context, Event, Faults, PoolStats, Stream, abi_version, backend_query, last_message, set_log_callback,
    status_name, version, version_string,
)
from .enums import (
    Activation, Backend, CaptureMode, ContextFlags, DType, FaultFlags, Feature, GemmFlags, Grouping, Isa, LogLevel, Operation, ScaleLayout, ScaleRule,
    Scope, Status,
    WeightsSource,
)
from .errors import (
    CaptureError, DeviceError, DevicePoisonedError, ForkedError, InternalError, InvalidArgumentError, InvalidHandleError,
    LibraryError, NotPreparedError, NvFp4Error, OutOfMemoryError, UnsupportedDeviceError, UnsupportedDriverError,
    UnsupportedError, WorkspaceTooSmallError,
)
from .fused import ActivationQuantized, NormQuantized, hc_rmsnorm_quantize, rmsnorm_quantize, swiglu_quantize
from .graph import Graph, Recording
from .layouts import deinterleave_gate_up, group_ends, interleave_gate_up, tile_scales, untile_scales
from .products import Weights, WeightsInfo, gemm, grouped_gemm
from .quantizers import StagedInputs, amax_scale, dequantize, quantize, stage_moe_inputs

__version__ = "0.1.0"

__all__ = [
    "Activation", "ActivationQuantized", "Backend", "BackendInfo", "Buffer", "CaptureError", "CaptureMode", "Context",
    "DType", "DeviceError", "DevicePoisonedError", "Event", "ContextFlags", "FaultFlags", "Faults", "Feature", "ForkedError",
    "GemmFlags", "Graph", "Grouping", "Groups", "InternalError", "InvalidArgumentError", "InvalidHandleError", "Isa",
    "LibraryError", "LogLevel", "NormQuantized", "NotPreparedError", "NvFp4Error", "Operation", "OutOfMemoryError", "PoolStats",
    "Quantized", "Recording", "ScaleLayout", "ScaleRule", "Scope", "StagedInputs", "Status", "Stream", "Tuned",
    "UnsupportedDeviceError", "UnsupportedDriverError", "UnsupportedError", "Weights", "WeightsInfo", "WeightsSource",
    "WorkspaceTooSmallError", "abi_version", "amax_scale", "backend_query", "deinterleave_gate_up", "dequantize",
    "gemm", "group_ends", "grouped_gemm", "hc_rmsnorm_quantize", "interleave_gate_up", "last_message", "prepare_for", "quantize",
    "rmsnorm_quantize", "scales_size", "set_log_callback", "stage_moe_inputs", "status_name", "swiglu_quantize",
    "tile_scales", "tune", "untile_scales", "version", "version_string",
]
