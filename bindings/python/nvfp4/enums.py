"""The numbers of include/nvfp4.h as enumerations. Member X of the class with prefix P is the header's constant PX."""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Status(IntEnum):
    """What a call returned."""

    SUCCESS = 0
    INVALID_ARGUMENT = 1
    INVALID_HANDLE = 2
    UNSUPPORTED = 3
    UNSUPPORTED_DEVICE = 4
    UNSUPPORTED_DRIVER = 5
    OUT_OF_MEMORY = 6
    NOT_PREPARED = 7
    CAPTURE = 8
    DEVICE_ERROR = 9
    DEVICE_POISONED = 10
    FORKED = 11
    WORKSPACE_TOO_SMALL = 12
    INTERNAL = 13


class DType(IntEnum):
    """Type of the values of a tensor."""

    BF16 = 0
    F16 = 1
    F32 = 2
    NVFP4 = 3


class ScaleLayout(IntEnum):
    """Order of the E4M3 block scales in memory."""

    LINEAR = 0
    TILED_128X4 = 1
    TILED_8X4 = 2


class ScaleRule(IntEnum):
    """How a block scale is chosen."""

    AMAX = 0
    FOUR_OVER_SIX = 1
    MIN_MSE = 2


class Scope(IntEnum):
    """Which values share one FP32 decode scale."""

    TENSOR = 0
    GROUP = 1
    ROW = 2


class Grouping(IntEnum):
    """How rows are split into groups (experts)."""

    NONE = 0
    ENDS = 1
    MASKED = 2
    STRIDED = 3


class Activation(IntEnum):
    """An activation function."""

    NONE = 0
    SWIGLU = 1
    RELU2 = 2


class WeightsSource(IntEnum):
    """What weights are made from."""

    CODES = 0
    VALUES = 1


class WeightsScope(IntEnum):
    """What a decode scale of canonical weights belongs to."""

    GROUP = 0
    TENSOR = 1
    ROW = 2


class GemmFlags(IntFlag):
    """Flags of a product."""

    NONE = 0
    ACCUMULATE = 1
    BATCH_INVARIANT = 2
    DEPENDENT_LAUNCH = 4


class Operation(IntEnum):
    """An operation, for calls about calls."""

    ALL = 0
    QUANTIZE = 1
    AMAX_SCALE = 2
    DEQUANTIZE = 3
    RMSNORM_QUANTIZE = 4
    HC_RMSNORM_QUANTIZE = 5
    SWIGLU_QUANTIZE = 6
    STAGE_MOE_INPUTS = 7
    TILE_SCALES = 8
    UNTILE_SCALES = 9
    INTERLEAVE_GATE_UP = 10
    DEINTERLEAVE_GATE_UP = 11
    GROUP_ENDS = 12
    WEIGHTS_PREPARE = 13
    WEIGHTS_EXPORT = 14
    GROUPED_GEMM = 15
    LINEAR = 16
    GROUPED_LINEAR = 17
    MOE_ROUTE = 18
    MOE_PERMUTE = 19
    MOE_COMBINE = 20
    MOE_FORWARD = 21


class MoeScore(IntEnum):
    """How a router turns logits into scores."""

    SOFTMAX = 0
    SIGMOID = 1
    SQRT_SOFTPLUS = 2


class Backend(IntEnum):
    """Where the work of a context is carried out."""

    CPU = 0
    CUDA = 1


class Isa(IntEnum):
    """Instruction set of a CPU context. Results do not depend on it."""

    BEST = 0
    PORTABLE = 1
    AVX2 = 2
    AVX512 = 3


class Feature(IntEnum):
    """Something a context may be able to do."""

    GRAPH = 1
    ALWAYS_BATCH_INVARIANT = 2
    DEPENDENT_LAUNCH = 3
    NATIVE_FP4 = 4


class ContextFlags(IntFlag):
    """Flags of a context."""

    NONE = 0
    ADOPT_CURRENT = 1


class FaultFlags(IntFlag):
    """Bits of the sticky fault word."""

    NONE = 0
    BAD_GROUP = 1
    BAD_DECODE_SCALE = 2
    NON_FINITE = 4
    SATURATED = 8


class CaptureMode(IntEnum):
    """What may disturb a capture."""

    GLOBAL = 0
    THREAD_LOCAL = 1
    RELAXED = 2


class LogLevel(IntEnum):
    """Severity of a log message."""

    ERROR = 0
    WARNING = 1
    INFO = 2


#: Prefix of the header's constants -> their class. The zero of a flags class (NONE) is not in the header.
PREFIXES: dict[str, type[IntEnum] | type[IntFlag]] = {
    "NVFP4_STATUS_": Status,
    "NVFP4_DTYPE_": DType,
    "NVFP4_SCALE_LAYOUT_": ScaleLayout,
    "NVFP4_SCALE_RULE_": ScaleRule,
    "NVFP4_SCOPE_": Scope,
    "NVFP4_GROUPING_": Grouping,
    "NVFP4_ACTIVATION_": Activation,
    "NVFP4_WEIGHTS_SOURCE_": WeightsSource,
    "NVFP4_WEIGHTS_SCOPE_": WeightsScope,
    "NVFP4_GEMM_": GemmFlags,
    "NVFP4_OPERATION_": Operation,
    "NVFP4_MOE_SCORE_": MoeScore,
    "NVFP4_BACKEND_": Backend,
    "NVFP4_CONTEXT_": ContextFlags,
    "NVFP4_ISA_": Isa,
    "NVFP4_FEATURE_": Feature,
    "NVFP4_FAULT_": FaultFlags,
    "NVFP4_CAPTURE_MODE_": CaptureMode,
    "NVFP4_LOG_LEVEL_": LogLevel,
}
