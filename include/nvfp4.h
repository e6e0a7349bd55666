/*
 * libnvfp4: NVFP4 quantization and matrix products for inference engines.
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * NVFP4 is a 4-bit E2M1 value with an E4M3 scale per 16 values of K and an FP32 decode scale above them:
 * value = e2m1 * e4m3 * decode_scale. docs/numerics.md fixes every bit.
 *
 * Read in this order: constants, then args structs (their fields are the documentation of an operation), then functions.
 *
 * Conventions
 *  - Every function returns an nvfp4_status unless it says otherwise; nvfp4_last_message() tells what was wrong.
 *    A call that fails has not touched its outputs.
 *  - Args structs start with struct_size = sizeof(struct). Zero in any other field means the documented default.
 *    Structs and functions are only ever appended to.
 *  - Handles are tickets, checked on every use: NULL, stale and foreign ones are refused.
 *  - Memory is the caller's. Pointers in args structs are device memory of the context's backend (host memory on the
 *    CPU) and must stay valid until the stream's work is done; matrices are 16-byte aligned, index and decode-scale
 *    arrays naturally. Where there are no elements a pointer may be NULL. Outputs may not overlap
 *    inputs or each other. Matrices with row strides of the same bytes may lie between one another's rows (columns
 *    of one matrix); any other strided matrix counts from its first byte to its last, gaps included.
 *  - A workspace query takes the arguments of the call, pointers too: it checks them all, but follows none.
 *  - Run calls (those with args and a stream) allocate nothing and wait for nothing; they can be captured in graphs.
 *  - Faults that only the device can see (bad group ends, NaN, saturation) set the context's sticky fault word.
 */

#ifndef NVFP4_H
#define NVFP4_H

/* Generated from src/ by cbindgen: edit the Rust doc comments, then run `./run header`. */

#include <stddef.h>
#include <stdint.h>

/** Version of the library: major. */
#define NVFP4_VERSION_MAJOR 0

/** Version of the library: minor. */
#define NVFP4_VERSION_MINOR 1

/** Version of the library: patch. */
#define NVFP4_VERSION_PATCH 0

/** Version of the binary interface. Within one version functions and fields are only added. */
#define NVFP4_ABI_VERSION 1

/** Every function of the header but nvfp4_api, in an order that only ever grows. `struct_size` says how many there are. */
typedef struct nvfp4_api_table nvfp4_api_table;

/** Device memory from the context's pool. May be used from several threads; its contents are the caller's to order. */
typedef struct nvfp4_buffer nvfp4_buffer;

/**
 * One device and what belongs to it: threads or a CUDA context, a memory pool, a fault word.
 * May be used from several threads at once. After nvfp4_context_destroy its streams, buffers and other children can
 * still be destroyed, and only that.
 */
typedef struct nvfp4_context nvfp4_context;

/** A point in a stream. May be used from several threads at once. */
typedef struct nvfp4_event nvfp4_event;

/** A recorded sequence of calls. May be used from several threads; launches of one graph run one after another. */
typedef struct nvfp4_graph nvfp4_graph;

/**
 * An ordered queue of work. May be used from several threads; the order is then that of the calls.
 * On the CPU a call has completed when it returns.
 */
typedef struct nvfp4_stream nvfp4_stream;

/** Weights in the layout that the kernels read. Immutable; may be used from several threads at once. */
typedef struct nvfp4_weights nvfp4_weights;

/** The result of a call. `NVFP4_STATUS_SUCCESS` is 0; every other value left the outputs untouched. */
typedef int32_t nvfp4_status;
/** The call did what it says. */
#define NVFP4_STATUS_SUCCESS 0
/** An argument breaks a rule of its documentation; the message names it. */
#define NVFP4_STATUS_INVALID_ARGUMENT 1
/** A handle is NULL, destroyed, of another kind, of another context, or was never one. */
#define NVFP4_STATUS_INVALID_HANDLE 2
/** The arguments are legal, but this build has no path for them; the message says what is missing. */
#define NVFP4_STATUS_UNSUPPORTED 3
/** The library holds no kernel image for this GPU, or the device does not exist. */
#define NVFP4_STATUS_UNSUPPORTED_DEVICE 4
/** The GPU driver is missing or too old. */
#define NVFP4_STATUS_UNSUPPORTED_DRIVER 5
/** Host or device memory could not be allocated. */
#define NVFP4_STATUS_OUT_OF_MEMORY 6
/** The call needs a kernel that `nvfp4_prepare` has not loaded, or a graph that was not instantiated. */
#define NVFP4_STATUS_NOT_PREPARED 7
/** The call is not allowed in the stream's capture state. */
#define NVFP4_STATUS_CAPTURE 8
/** The driver reported an error. */
#define NVFP4_STATUS_DEVICE_ERROR 9
/** An earlier error left the device context unusable; destroy the context. */
#define NVFP4_STATUS_DEVICE_POISONED 10
/** The handle was made before a fork; create a context in the child process. */
#define NVFP4_STATUS_FORKED 11
/** The workspace is smaller than its query said. */
#define NVFP4_STATUS_WORKSPACE_TOO_SMALL 12
/** A fault inside the library; the message holds its text. */
#define NVFP4_STATUS_INTERNAL 13

/** Severity of a log message: 0 error, 1 warning, 2 information. */
typedef int32_t nvfp4_log_level;
/** A call failed; the message is that of nvfp4_last_message. */
#define NVFP4_LOG_LEVEL_ERROR 0
/** Something works, but not as well as it could. */
#define NVFP4_LOG_LEVEL_WARNING 1
/** What was chosen and why. */
#define NVFP4_LOG_LEVEL_INFO 2

/**
 * Receives log messages, on the thread that caused them. The message is valid during the call only. It may call
 * the library, whose messages are not logged meanwhile, but not nvfp4_set_log_callback.
 */
typedef void (*nvfp4_log_callback)(nvfp4_log_level level, const char *message, void *user_data);

/** Where the work of a context is carried out. */
typedef uint32_t nvfp4_backend;
/** This processor; pointers are host memory. */
#define NVFP4_BACKEND_CPU 0
/** An NVIDIA GPU. */
#define NVFP4_BACKEND_CUDA 1

/** Instruction set of a CPU context. Results do not depend on it. */
typedef uint32_t nvfp4_isa;
/** The best that the processor has. */
#define NVFP4_ISA_BEST 0
/** Plain code, the reference. */
#define NVFP4_ISA_PORTABLE 1
/** AVX2 with FMA and F16C. */
#define NVFP4_ISA_AVX2 2
/** AVX-512 F, BW, DQ, VL and VNNI. */
#define NVFP4_ISA_AVX512 3

/** What nvfp4_backend_query and nvfp4_context_info tell. */
typedef struct nvfp4_backend_info {
  /** sizeof(nvfp4_backend_info), set by the caller. */
  size_t struct_size;
  /** One of NVFP4_BACKEND_*. */
  nvfp4_backend backend;
  /** 1 if a context can be created, else 0 (name says why). */
  uint32_t available;
  /** Devices of this backend. */
  uint32_t device_count;
  /** CPU: threads of the context, or available cores. */
  uint32_t threads;
  /** CPU: one of NVFP4_ISA_*, never BEST. */
  nvfp4_isa isa;
  /** 0. */
  uint32_t reserved;
  /** Zero-terminated description. */
  char name[64];
} nvfp4_backend_info;

/** How a context is made, or'ed. */
typedef uint32_t nvfp4_context_flags;
/**
 * CUDA: use the CUDA context that is current on the calling thread, which must outlive this one, instead of the primary
 * context of options.device (which is then not looked at).
 */
#define NVFP4_CONTEXT_ADOPT_CURRENT 1

/** Options of nvfp4_context_create; zero means the default. */
typedef struct nvfp4_context_options {
  /** sizeof(nvfp4_context_options). */
  size_t struct_size;
  /** One of NVFP4_BACKEND_*. */
  nvfp4_backend backend;
  /** Device ordinal; 0 for the CPU. */
  uint32_t device;
  /** CPU: threads that share the work of a call, the caller counted, up to 1024; 0: one per available core. */
  uint32_t threads;
  /** CPU: one of NVFP4_ISA_*; refused where the processor lacks it. */
  nvfp4_isa isa;
  /** NVFP4_CONTEXT_*, or'ed; 0 for the CPU. */
  nvfp4_context_flags flags;
  /** Must be 0. */
  uint32_t reserved;
} nvfp4_context_options;

/** Bits of the fault word. They are sticky: set by work on any stream, cleared by nvfp4_context_clear_faults. */
typedef uint32_t nvfp4_fault_flags;
/** A group's end or count was out of order or out of bounds, and was clamped; or an id was no expert, and was skipped. */
#define NVFP4_FAULT_BAD_GROUP 1
/** A static decode scale was not finite or not above 0; its values read as NaN. */
#define NVFP4_FAULT_BAD_DECODE_SCALE 2
/** A quantizer met a NaN or an infinity; that block reads as NaN. Or a router met a NaN, or gave a weight that is not finite. */
#define NVFP4_FAULT_NON_FINITE 4
/** A block scale saturated: the static decode scale is too small for the data. */
#define NVFP4_FAULT_SATURATED 8

/** The fault word of a context. */
typedef struct nvfp4_faults {
  /** sizeof(nvfp4_faults), set by the caller. */
  size_t struct_size;
  /** NVFP4_FAULT_* or'ed. */
  nvfp4_fault_flags flags;
  /** 0. */
  uint32_t reserved;
  /** The first group that was clamped, or id that was no expert, since the last clear; or -1. */
  int64_t bad_group;
} nvfp4_faults;

/** What a context's memory pool holds and has done. */
typedef struct nvfp4_pool_stats {
  /** sizeof(nvfp4_pool_stats), set by the caller. */
  size_t struct_size;
  /** Bytes of live buffers, as rounded up by the pool. */
  size_t bytes_in_use;
  /** Bytes taken from the system: in use and kept for reuse. */
  size_t bytes_reserved;
  /** Largest bytes_in_use so far. */
  size_t peak_bytes_in_use;
  /** Buffers created. */
  uint64_t allocations;
  /** Of these, how many took a kept block. */
  uint64_t reuses;
} nvfp4_pool_stats;

/** Something a context may be able to do. */
typedef uint32_t nvfp4_feature;
/** Graph capture and replay. */
#define NVFP4_FEATURE_GRAPH 1
/** Every product gives batch-invariant bits, flag or not. */
#define NVFP4_FEATURE_ALWAYS_BATCH_INVARIANT 2
/** Programmatic dependent launch. */
#define NVFP4_FEATURE_DEPENDENT_LAUNCH 3
/** Block-scaled FP4 tensor cores used by the products. */
#define NVFP4_FEATURE_NATIVE_FP4 4

/** An operation of the library. */
typedef uint32_t nvfp4_operation;
/** Every operation. */
#define NVFP4_OPERATION_ALL 0
/** nvfp4_quantize, with nvfp4_quantize_args. */
#define NVFP4_OPERATION_QUANTIZE 1
/** nvfp4_amax_scale, with nvfp4_amax_scale_args. */
#define NVFP4_OPERATION_AMAX_SCALE 2
/** nvfp4_dequantize, with nvfp4_dequantize_args. */
#define NVFP4_OPERATION_DEQUANTIZE 3
/** nvfp4_rmsnorm_quantize, with nvfp4_rmsnorm_quantize_args. */
#define NVFP4_OPERATION_RMSNORM_QUANTIZE 4
/** nvfp4_hc_rmsnorm_quantize, with nvfp4_hc_rmsnorm_quantize_args. */
#define NVFP4_OPERATION_HC_RMSNORM_QUANTIZE 5
/** nvfp4_swiglu_quantize, with nvfp4_swiglu_quantize_args. */
#define NVFP4_OPERATION_SWIGLU_QUANTIZE 6
/** nvfp4_stage_moe_inputs, with nvfp4_stage_moe_inputs_args. */
#define NVFP4_OPERATION_STAGE_MOE_INPUTS 7
/** nvfp4_tile_scales, with nvfp4_tile_scales_args. */
#define NVFP4_OPERATION_TILE_SCALES 8
/** nvfp4_untile_scales, with nvfp4_tile_scales_args. */
#define NVFP4_OPERATION_UNTILE_SCALES 9
/** nvfp4_interleave_gate_up, with nvfp4_interleave_gate_up_args. */
#define NVFP4_OPERATION_INTERLEAVE_GATE_UP 10
/** nvfp4_deinterleave_gate_up, with nvfp4_interleave_gate_up_args. */
#define NVFP4_OPERATION_DEINTERLEAVE_GATE_UP 11
/** nvfp4_group_ends, with nvfp4_group_ends_args. */
#define NVFP4_OPERATION_GROUP_ENDS 12
/** nvfp4_weights_prepare, with nvfp4_weights_prepare_args. */
#define NVFP4_OPERATION_WEIGHTS_PREPARE 13
/** nvfp4_weights_export, with nvfp4_weights_export_args. */
#define NVFP4_OPERATION_WEIGHTS_EXPORT 14
/** nvfp4_grouped_gemm and nvfp4_gemm, with nvfp4_grouped_gemm_args. */
#define NVFP4_OPERATION_GROUPED_GEMM 15
/** nvfp4_linear, with nvfp4_linear_args. */
#define NVFP4_OPERATION_LINEAR 16
/** nvfp4_grouped_linear, with nvfp4_grouped_linear_args. */
#define NVFP4_OPERATION_GROUPED_LINEAR 17
/** nvfp4_moe_route, with nvfp4_moe_route_args. */
#define NVFP4_OPERATION_MOE_ROUTE 18
/** nvfp4_moe_permute, with nvfp4_moe_permute_args. */
#define NVFP4_OPERATION_MOE_PERMUTE 19
/** nvfp4_moe_combine, with nvfp4_moe_combine_args. */
#define NVFP4_OPERATION_MOE_COMBINE 20
/** nvfp4_moe_forward, with nvfp4_moe_forward_args. */
#define NVFP4_OPERATION_MOE_FORWARD 21

/** Arguments of nvfp4_prepare. */
typedef struct nvfp4_prepare_args {
  /** sizeof(nvfp4_prepare_args). */
  size_t struct_size;
  /** Must be 0. */
  uint64_t reserved;
  /** What is prepared: NVFP4_OPERATION_ALL, or the operation of one call. */
  nvfp4_operation operation;
  /** Must be 0. */
  uint32_t reserved_operation;
  /**
   * The call's arguments, as its operation says; NULL for NVFP4_OPERATION_ALL. Their memory is not touched, and
   * pointers in them may be NULL, except where NULL itself says something: of static_decode_scales and decode_scales
   * exactly one is set, and an optional array is there or not. What is set must be as aligned as in the call.
   */
  const void *args;
} nvfp4_prepare_args;

/** What may disturb a capture, as in cudaStreamBeginCapture. The CPU backend treats all three alike. */
typedef uint32_t nvfp4_capture_mode;
/** Unsafe calls of any thread are errors. */
#define NVFP4_CAPTURE_MODE_GLOBAL 0
/** Unsafe calls of this thread are errors. */
#define NVFP4_CAPTURE_MODE_THREAD_LOCAL 1
/** No calls are errors for the capture's sake. */
#define NVFP4_CAPTURE_MODE_RELAXED 2

/** Type of the values of a tensor. */
typedef uint32_t nvfp4_dtype;
/** bfloat16. */
#define NVFP4_DTYPE_BF16 0
/** IEEE binary16. */
#define NVFP4_DTYPE_F16 1
/** IEEE binary32. */
#define NVFP4_DTYPE_F32 2
/** E2M1 codes with E4M3 block scales; only where an argument says so. */
#define NVFP4_DTYPE_NVFP4 3

/** How rows are split into groups (experts). */
typedef uint32_t nvfp4_grouping;
/** One tensor; count, ends, counts and max_tokens must be 0. */
#define NVFP4_GROUPING_NONE 0
/** Groups one after another, split by `ends`. */
#define NVFP4_GROUPING_ENDS 1
/** [count, max_tokens] rows of which group e uses the first counts[e]. */
#define NVFP4_GROUPING_MASKED 2
/** [count, max_tokens] rows, all used; group strides are arguments of their own. */
#define NVFP4_GROUPING_STRIDED 3

/**
 * The split of rows into groups. Entries of `ends` and `counts` that are out of order or out of bounds are clamped
 * (ends to [previous end, rows], counts to [0, max_tokens]) and set NVFP4_FAULT_BAD_GROUP.
 * Rows that belong to no group are neither read nor written.
 */
typedef struct nvfp4_groups {
  /** One of NVFP4_GROUPING_*. */
  nvfp4_grouping grouping;
  /** Number of groups E, 0 to 65535; 0 for NVFP4_GROUPING_NONE. Zero groups are legal. */
  uint32_t count;
  /** NVFP4_GROUPING_ENDS: int32[count] in device memory, inclusive cumulative ends, 4-byte aligned. */
  const int32_t *ends;
  /** NVFP4_GROUPING_MASKED: int32[count] in device memory, rows used per group, 4-byte aligned. */
  const int32_t *counts;
  /** NVFP4_GROUPING_MASKED and _STRIDED: rows per group; `rows` must be count * max_tokens. */
  int64_t max_tokens;
} nvfp4_groups;

/** Order of the E4M3 block scales in memory (docs/numerics.md, "Scale layouts"). */
typedef uint32_t nvfp4_scale_layout;
/** [rows, K/16], row-major. */
#define NVFP4_SCALE_LAYOUT_LINEAR 0
/** 512-byte tiles of 128 rows by 4 columns (cuBLASLt, CUTLASS, tcgen05). */
#define NVFP4_SCALE_LAYOUT_TILED_128X4 1
/** 32-byte tiles of 8 rows by 4 columns. */
#define NVFP4_SCALE_LAYOUT_TILED_8X4 2

/** How a block scale is chosen. */
typedef uint32_t nvfp4_scale_rule;
/** From the block's largest magnitude. */
#define NVFP4_SCALE_RULE_AMAX 0
/** AMAX or 1.5 times it, whichever has the smaller squared error. */
#define NVFP4_SCALE_RULE_FOUR_OVER_SIX 1
/** AMAX or one of the 14 neighbouring codes, whichever has the smallest squared error. */
#define NVFP4_SCALE_RULE_MIN_MSE 2

/** Which values share one FP32 decode scale. */
typedef uint32_t nvfp4_scope;
/** All rows: decode scale array of 1. */
#define NVFP4_SCOPE_TENSOR 0
/** The rows of a group: array of groups.count. */
#define NVFP4_SCOPE_GROUP 1
/** Each row: array of one per logical row, used or not. */
#define NVFP4_SCOPE_ROW 2

/**
 * An NVFP4 output: where codes, block scales and decode scales go, and how they are found.
 * 
 * Logical row i of the call has its codes at codes + i * codes_row_stride. In the tiled layouts each group is tiled on
 * its own: group e starts at scale row sum over i < e of roundup(rows of group i, tile rows) (ends), or
 * e * roundup(max_tokens, tile rows) (masked, strided). Columns are padded to 4 blocks and the used rows of a group to
 * the tile height; that padding is always written as zero.
 */
typedef struct nvfp4_quantized {
  /** [rows, K/2] bytes, even k in the low nibble; 16-byte aligned. */
  uint8_t *codes;
  /** Bytes between rows of codes; 0: K/2. */
  int64_t codes_row_stride;
  /** E4M3 block scales; 16-byte aligned. Size: nvfp4_scales_size. */
  uint8_t *scales;
  /** Bytes between rows of scales in the linear layout; 0: K/16. Must be 0 in the tiled layouts. */
  int64_t scales_row_stride;
  /** One of NVFP4_SCALE_LAYOUT_*. */
  nvfp4_scale_layout scale_layout;
  /** One of NVFP4_SCALE_RULE_*. */
  nvfp4_scale_rule scale_rule;
  /** One of NVFP4_SCOPE_*: what shares a decode scale, static or dynamic. */
  nvfp4_scope scope;
  /** Must be 0. */
  uint32_t reserved;
  /**
   * Static scales: float array in device memory, read. A value that is not finite or not above 0 makes its scope NaN
   * and sets NVFP4_FAULT_BAD_DECODE_SCALE. Exactly one of the two arrays must be set.
   */
  const float *static_decode_scales;
  /**
   * Dynamic scales: float array in device memory, written (amax / 2688 of the scope). The entry of a group without
   * rows is 1; entries of rows of no group are not written.
   */
  float *decode_scales;
} nvfp4_quantized;

/** Arguments of nvfp4_quantize. */
typedef struct nvfp4_quantize_args {
  /** sizeof(nvfp4_quantize_args). */
  size_t struct_size;
  /** Values, 16-byte aligned; [rows, cols], or [cols, rows] when transposed. */
  const void *src;
  /** BF16, F16 or F32. */
  nvfp4_dtype src_dtype;
  /** 1: src is stored [cols, rows] (a weight as [K, N]); 0: [rows, cols]. */
  uint32_t transposed;
  /** Elements between rows of src as stored; 0: dense. */
  int64_t src_row_stride;
  /** Elements between groups of src; NVFP4_GROUPING_STRIDED only, where 0 means that all groups share one matrix. */
  int64_t src_group_stride;
  /** Rows over all groups, 0 or more. */
  int64_t rows;
  /** K: values a row, a positive multiple of 16. */
  int64_t cols;
  /** The split of rows; all zero for one tensor. */
  struct nvfp4_groups groups;
  /** Where the result goes. */
  struct nvfp4_quantized out;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_quantize_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_quantize_args;

/** Arguments of nvfp4_amax_scale. */
typedef struct nvfp4_amax_scale_args {
  /** sizeof(nvfp4_amax_scale_args). */
  size_t struct_size;
  /** Values, 16-byte aligned; [rows, cols]. */
  const void *src;
  /** BF16, F16 or F32. */
  nvfp4_dtype src_dtype;
  /** One of NVFP4_SCOPE_*. */
  nvfp4_scope scope;
  /** Elements between rows of src; 0: dense. */
  int64_t src_row_stride;
  /** Elements between groups of src; NVFP4_GROUPING_STRIDED only, where 0 means that all groups share one matrix. */
  int64_t src_group_stride;
  /** Rows over all groups, 0 or more. */
  int64_t rows;
  /** Values a row, a positive multiple of 16. */
  int64_t cols;
  /** The split of rows; all zero for one tensor. */
  struct nvfp4_groups groups;
  /** Float array by scope in device memory, written: amax / 2688. */
  float *decode_scales;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_amax_scale_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_amax_scale_args;

/** An NVFP4 input: codes, block scales and decode scales. */
typedef struct nvfp4_quantized_input {
  /** [rows, K/2] bytes, even k in the low nibble; 16-byte aligned. */
  const uint8_t *codes;
  /** Bytes between rows of codes; 0: K/2. */
  int64_t codes_row_stride;
  /** E4M3 block scales, laid out as nvfp4_quantized writes them; 16-byte aligned. */
  const uint8_t *scales;
  /** Bytes between rows of scales in the linear layout; 0: K/16. Must be 0 in the tiled layouts. */
  int64_t scales_row_stride;
  /** One of NVFP4_SCALE_LAYOUT_*. */
  nvfp4_scale_layout scale_layout;
  /** One of NVFP4_SCOPE_*: how decode_scales is indexed. */
  nvfp4_scope scope;
  /** Float array in device memory; NULL: all 1. */
  const float *decode_scales;
} nvfp4_quantized_input;

/** Arguments of nvfp4_dequantize. */
typedef struct nvfp4_dequantize_args {
  /** sizeof(nvfp4_dequantize_args). */
  size_t struct_size;
  /** Codes and scales, laid out as nvfp4_quantize writes them for the same groups. */
  struct nvfp4_quantized_input input;
  /** Rows over all groups, 0 or more. */
  int64_t rows;
  /** K: values a row, a positive multiple of 16. */
  int64_t cols;
  /** The split of rows; all zero for one tensor. */
  struct nvfp4_groups groups;
  /** [rows, cols] values, written; 16-byte aligned. */
  void *dst;
  /** BF16, F16 or F32. */
  nvfp4_dtype dst_dtype;
  /** Must be 0. */
  uint32_t reserved;
  /** Elements between rows of dst; 0: dense. */
  int64_t dst_row_stride;
  /** Elements between groups of dst; NVFP4_GROUPING_STRIDED only, no default: the rows of two groups may not meet. */
  int64_t dst_group_stride;
} nvfp4_dequantize_args;

/** Arguments of nvfp4_rmsnorm_quantize. */
typedef struct nvfp4_rmsnorm_quantize_args {
  /** sizeof(nvfp4_rmsnorm_quantize_args). */
  size_t struct_size;
  /** [rows, cols] values, 16-byte aligned. */
  const void *src;
  /** Dtype of src, residual and normed: BF16, F16 or F32. */
  nvfp4_dtype src_dtype;
  /** Dtype of weight: BF16, F16 or F32. */
  nvfp4_dtype weight_dtype;
  /** Elements between rows of src; 0: dense. */
  int64_t src_row_stride;
  /** Rows, 0 or more. */
  int64_t rows;
  /** K: values a row, a positive multiple of 16. */
  int64_t cols;
  /** [rows, cols], 16-byte aligned; NULL: none. src + residual is normalised and written back here. */
  void *residual;
  /** Elements between rows of residual; 0: dense. */
  int64_t residual_row_stride;
  /** [cols], 16-byte aligned. */
  const void *weight;
  /** Added to every weight (1 where a model stores weight - 1); default 0. */
  float weight_offset;
  /** Added to the mean square; finite and above 0, there is no default. */
  float eps;
  /** [rows, cols]: copy of the normalised rows before quantization, 16-byte aligned; NULL: none. */
  void *normed;
  /** Elements between rows of normed; 0: dense. */
  int64_t normed_row_stride;
  /** float[rows]: 1/RMS of every row, 4-byte aligned; NULL: none. */
  float *inv_rms;
  /** Where the result goes; scope TENSOR or ROW. */
  struct nvfp4_quantized out;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_rmsnorm_quantize_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_rmsnorm_quantize_args;

/** Arguments of nvfp4_hc_rmsnorm_quantize. */
typedef struct nvfp4_hc_rmsnorm_quantize_args {
  /** sizeof(nvfp4_hc_rmsnorm_quantize_args). */
  size_t struct_size;
  /** [rows, stream_count, cols] values, 16-byte aligned. */
  const void *streams;
  /** Dtype of streams, mixed and normed: BF16, F16 or F32. */
  nvfp4_dtype src_dtype;
  /** Dtype of weight: BF16, F16 or F32. */
  nvfp4_dtype weight_dtype;
  /** Elements between rows (tokens); 0: stream_count * cols. */
  int64_t streams_row_stride;
  /** Elements between the streams of a row; 0: cols. */
  int64_t stream_stride;
  /** Streams, 1 to 4. */
  uint32_t stream_count;
  /** Must be 0. */
  uint32_t reserved;
  /** float[rows, stream_count]: the weight of each stream, 4-byte aligned. */
  const float *mix;
  /** Floats between rows of mix; 0: stream_count. */
  int64_t mix_row_stride;
  /** Rows, 0 or more. */
  int64_t rows;
  /** K: values a row, a positive multiple of 16. */
  int64_t cols;
  /** [rows, cols]: copy of the mixed rows, 16-byte aligned; NULL: none. */
  void *mixed;
  /** Elements between rows of mixed; 0: dense. */
  int64_t mixed_row_stride;
  /** [cols], 16-byte aligned. */
  const void *weight;
  /** Added to every weight; default 0. */
  float weight_offset;
  /** Added to the mean square; finite and above 0, there is no default. */
  float eps;
  /** [rows, cols]: copy of the normalised rows before quantization, 16-byte aligned; NULL: none. */
  void *normed;
  /** Elements between rows of normed; 0: dense. */
  int64_t normed_row_stride;
  /** float[rows]: 1/RMS of every row, 4-byte aligned; NULL: none. */
  float *inv_rms;
  /** Where the result goes; scope TENSOR or ROW. */
  struct nvfp4_quantized out;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_hc_rmsnorm_quantize_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_hc_rmsnorm_quantize_args;

/** An activation function. */
typedef uint32_t nvfp4_activation;
/** None. */
#define NVFP4_ACTIVATION_NONE 0
/** gate / (1 + exp(-alpha * gate)) * (up + beta), with optional clamps. */
#define NVFP4_ACTIVATION_SWIGLU 1
/** max(x, 0) squared. */
#define NVFP4_ACTIVATION_RELU2 2

/** Arguments of nvfp4_swiglu_quantize. */
typedef struct nvfp4_swiglu_quantize_args {
  /** sizeof(nvfp4_swiglu_quantize_args). */
  size_t struct_size;
  /** Values, 16-byte aligned. SWIGLU and NONE: [rows, 2 * width], gate and up; RELU2: [rows, width]. */
  const void *src;
  /** Dtype of src and activated: BF16, F16 or F32. */
  nvfp4_dtype src_dtype;
  /** 0: gate columns, then up columns; 8: 8 gate columns, 8 up columns, alternating (width a multiple of 8). */
  uint32_t interleave;
  /** Elements between rows of src; 0: dense. */
  int64_t src_row_stride;
  /** Elements between groups of src; NVFP4_GROUPING_STRIDED only, where 0 means that all groups share one matrix. */
  int64_t src_group_stride;
  /** Rows over all groups, 0 or more. */
  int64_t rows;
  /** I: columns of gate. The output has I columns, with NONE 2 * I (gate, then up); a positive multiple of 16. */
  int64_t width;
  /** SWIGLU, RELU2 (nothing is gated; interleave must be 0), or NONE: undo the interleaving and quantize. */
  nvfp4_activation activation;
  /** Above 0: gate is clamped above and up on both sides first; default 0, none. */
  float limit;
  /** Factor inside the sigmoid; default 0 means 1. */
  float alpha;
  /** Added to up; default 0. */
  float beta;
  /** The split of rows; all zero for one tensor. */
  struct nvfp4_groups groups;
  /** [rows, output columns] by logical row: copy of the values before quantization, 16-byte aligned; NULL: none. */
  void *activated;
  /** Elements between rows of activated; 0: dense. */
  int64_t activated_row_stride;
  /** Where the result goes. */
  struct nvfp4_quantized out;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_swiglu_quantize_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_swiglu_quantize_args;

/** Arguments of nvfp4_stage_moe_inputs. */
typedef struct nvfp4_stage_moe_inputs_args {
  /** sizeof(nvfp4_stage_moe_inputs_args). */
  size_t struct_size;
  /** [tokens, hidden] values, 16-byte aligned. */
  const void *src;
  /** BF16, F16 or F32. */
  nvfp4_dtype src_dtype;
  /** One of NVFP4_SCALE_RULE_*. */
  nvfp4_scale_rule scale_rule;
  /** Elements between rows of src; 0: dense. */
  int64_t src_row_stride;
  /** Rows, 0 or more. */
  int64_t tokens;
  /** Values a row, a positive multiple of 64. */
  int64_t hidden;
  /** float[1]: decode scale of all tokens; NULL: 1. */
  const float *static_decode_scale;
  /** [tokens, hidden/2] bytes, dense, 16-byte aligned. */
  uint8_t *codes;
  /** int32[tokens, hidden/64], dense: four E4M3 scales each, lowest byte first; 16-byte aligned. */
  int32_t *packed_scales;
  /** Experts per token, 0 to 64; 0: no routes. */
  uint32_t routes;
  /** Must be 0. */
  uint32_t reserved;
  /** int32[tokens, routes], 4-byte aligned. */
  const int32_t *topk_ids;
  /** float[tokens, routes], 4-byte aligned. */
  const float *topk_weights;
  /** int64[tokens, routes]: topk_ids widened, 8-byte aligned. */
  int64_t *staged_ids;
  /** float[tokens, routes]: copy of topk_weights, 4-byte aligned. */
  float *staged_weights;
} nvfp4_stage_moe_inputs_args;

/** Arguments of nvfp4_scales_size, a pure query. */
typedef struct nvfp4_scales_size_args {
  /** sizeof(nvfp4_scales_size_args). */
  size_t struct_size;
  /** One of NVFP4_SCALE_LAYOUT_*. */
  nvfp4_scale_layout scale_layout;
  /** Must be 0. */
  uint32_t reserved;
  /** Rows over all groups, 0 or more. */
  int64_t rows;
  /** K: values a row, a positive multiple of 16. */
  int64_t cols;
  /** Bytes between rows in the linear layout; 0: dense. */
  int64_t scales_row_stride;
  /** The split of rows; its arrays may be NULL here. */
  struct nvfp4_groups groups;
} nvfp4_scales_size_args;

/** Arguments of nvfp4_tile_scales and nvfp4_untile_scales. */
typedef struct nvfp4_tile_scales_args {
  /** sizeof(nvfp4_tile_scales_args). */
  size_t struct_size;
  /** [rows, blocks] linear scales by logical row, 16-byte aligned. Read by tile, written by untile. */
  uint8_t *linear;
  /** Bytes between rows of linear; 0: blocks. */
  int64_t linear_row_stride;
  /** Tiled scales, 16-byte aligned. Written by tile, its padding as zero; read by untile. */
  uint8_t *tiled;
  /** TILED_128X4 or TILED_8X4. */
  nvfp4_scale_layout scale_layout;
  /** Must be 0. */
  uint32_t reserved;
  /** Rows over all groups, 0 or more. */
  int64_t rows;
  /** Scale columns a row (K/16), 1 or more. */
  int64_t blocks;
  /** The split of rows; all zero for one tensor. */
  struct nvfp4_groups groups;
} nvfp4_tile_scales_args;

/** Arguments of nvfp4_interleave_gate_up and nvfp4_deinterleave_gate_up. */
typedef struct nvfp4_interleave_gate_up_args {
  /** sizeof(nvfp4_interleave_gate_up_args). */
  size_t struct_size;
  /** [count, 2 * half_rows, row_bytes], dense, 16-byte aligned. */
  const void *src;
  /** The same shape, written; 16-byte aligned. */
  void *dst;
  /** Matrices, 0 or more. */
  int64_t count;
  /** I: rows of gate, and of up; a positive multiple of granularity. */
  int64_t half_rows;
  /** Bytes a row, 1 or more. */
  int64_t row_bytes;
  /** Rows of gate, then of up, that stand together; default 0 means 8. */
  int64_t granularity;
} nvfp4_interleave_gate_up_args;

/** Arguments of nvfp4_group_ends. */
typedef struct nvfp4_group_ends_args {
  /** sizeof(nvfp4_group_ends_args). */
  size_t struct_size;
  /**
   * int32[count] in device memory, 4-byte aligned. A negative count is taken as 0 and sets NVFP4_FAULT_BAD_GROUP;
   * so does a sum past 2^31 - 1, which stays there.
   */
  const int32_t *counts;
  /** int32[count] in device memory, written: inclusive cumulative ends. May be the same array as counts. */
  int32_t *ends;
  /** Number of groups, 0 to 65535. */
  int64_t count;
} nvfp4_group_ends_args;

/** What weights are made from. */
typedef uint32_t nvfp4_weights_source;
/** Canonical NVFP4 codes, block scales and decode scales. */
#define NVFP4_WEIGHTS_SOURCE_CODES 0
/** BF16, F16 or F32 values, quantized on the way. */
#define NVFP4_WEIGHTS_SOURCE_VALUES 1

/** What a decode scale of canonical weights belongs to. */
typedef uint32_t nvfp4_weights_scope;
/** Each matrix has its own: float[E]. */
#define NVFP4_WEIGHTS_SCOPE_GROUP 0
/** All matrices share one: float[1]. */
#define NVFP4_WEIGHTS_SCOPE_TENSOR 1
/** Each row has its own: float[E, N]. The rows of a matrix must agree, unless `requantize` is 1. */
#define NVFP4_WEIGHTS_SCOPE_ROW 2

/** Arguments of nvfp4_weights_prepare and nvfp4_weights_storage_size (which reads the shape alone). */
typedef struct nvfp4_weights_prepare_args {
  /** sizeof(nvfp4_weights_prepare_args). */
  size_t struct_size;
  /** E: matrices, 0 to 65535. */
  int64_t groups;
  /** N: rows of each matrix, 1 or more; even when gate_up. */
  int64_t rows;
  /** K: values a row, a positive multiple of 16. */
  int64_t cols;
  /** 1: the first N/2 rows are gate, the others up, for the SWIGLU epilogue; 0: plain. */
  uint32_t gate_up;
  /** One of NVFP4_WEIGHTS_SOURCE_*. */
  nvfp4_weights_source source;
  /** CODES: [E, N, K/2] dense, 16-byte aligned. Codes under a zero scale are taken as 0. */
  const uint8_t *codes;
  /**
   * CODES: block scales of each matrix in scale_layout, matrix after matrix (each tiled on its own), 16-byte aligned.
   * A scale with its sign bit set is refused.
   */
  const uint8_t *scales;
  /** CODES: one of NVFP4_SCALE_LAYOUT_*. */
  nvfp4_scale_layout scale_layout;
  /** VALUES: BF16, F16 or F32. */
  nvfp4_dtype src_dtype;
  /** VALUES: [E, N, K], or [E, K, N] when transposed; 16-byte aligned. */
  const void *src;
  /** VALUES: elements between rows as stored; 0: dense. */
  int64_t src_row_stride;
  /** VALUES: elements between matrices; 0: dense. */
  int64_t src_group_stride;
  /** VALUES: 1 when src is stored [E, K, N]. */
  uint32_t transposed;
  /** VALUES, and CODES with requantize: one of NVFP4_SCALE_RULE_*. */
  nvfp4_scale_rule scale_rule;
  /**
   * float array in device memory. CODES: required, finite and above 0, by decode_scope. VALUES: float[E], static decode
   * scales, or NULL for amax / 2688 of each matrix.
   */
  const float *decode_scales;
  /** Caller-owned memory of nvfp4_weights_storage_size bytes, 64-byte aligned; the weights live in it until destroyed. */
  void *storage;
  /** Its bytes. */
  size_t storage_size;
  /**
   * CODES: one of NVFP4_WEIGHTS_SCOPE_*, what decode_scales is indexed by. ROW waits for
   * the stream on a GPU too, and refuses with a status what is no decode scale.
   */
  nvfp4_weights_scope decode_scope;
  /**
   * CODES of scope ROW: 1: matrices whose rows have different decode scales are quantized again with one, amax / 2688 of
   * their values, by scale_rule; the others keep their bytes. 0: they are refused, the first row that differs is named.
   */
  uint32_t requantize;
} nvfp4_weights_prepare_args;

/**
 * Arguments of nvfp4_weights_export. The bytes are those that canonical weights were prepared from, or the ones that
 * nvfp4_quantize gives for the same values.
 */
typedef struct nvfp4_weights_export_args {
  /** sizeof(nvfp4_weights_export_args). */
  size_t struct_size;
  /** The weights. */
  const struct nvfp4_weights *weights;
  /** [E, N, K/2] dense, written; 16-byte aligned. */
  uint8_t *codes;
  /** Block scales, matrix after matrix in scale_layout, written, padding as zero; 16-byte aligned. */
  uint8_t *scales;
  /** float[E], written; 4-byte aligned. */
  float *decode_scales;
  /** One of NVFP4_SCALE_LAYOUT_*. */
  nvfp4_scale_layout scale_layout;
  /** Must be 0. */
  uint32_t reserved;
} nvfp4_weights_export_args;

/** What nvfp4_weights_info tells. */
typedef struct nvfp4_weights_shape {
  /** sizeof(nvfp4_weights_shape), set by the caller. */
  size_t struct_size;
  /** E. */
  int64_t groups;
  /** N. */
  int64_t rows;
  /** K. */
  int64_t cols;
  /** 1 for gate/up pairs. */
  uint32_t gate_up;
  /** 0. */
  uint32_t reserved;
  /** Bytes of storage in use. */
  size_t storage_size;
} nvfp4_weights_shape;

/** Flags of a product. */
typedef uint32_t nvfp4_gemm_flags;
/** out = round(v + old out); value outputs without an activation. */
#define NVFP4_GEMM_ACCUMULATE 1
/** A row's bits depend on its own values and its group's weights alone. */
#define NVFP4_GEMM_BATCH_INVARIANT 2
/**
 * GPU, compute capability 9.0 and up (NVFP4_FEATURE_DEPENDENT_LAUNCH): the product may start before the call in front
 * of it in the stream has ended (programmatic dependent launch), which hides the start of few-token products. By setting
 * it the caller promises that the call directly in front of this one, if it is a kernel, has written neither the weights
 * nor groups.ends or groups.counts: they were ready at least one call earlier. Activations, decode scales, bias and what
 * `out` held may come from that call. No bits change. Ignored where the device or the kernel that is taken has no such
 * launch, and inside of a call that needs a second launch in front of the product.
 */
#define NVFP4_GEMM_DEPENDENT_LAUNCH 4

/**
 * Arguments of nvfp4_grouped_gemm and nvfp4_gemm: out = epilogue((a * weights^T) * decode scales + bias).
 * 
 * FP32 accumulation of exact products; the bound is in docs/numerics.md. Deterministic. On the CPU every product is
 * batch-invariant, with or without the flag.
 */
typedef struct nvfp4_grouped_gemm_args {
  /** sizeof(nvfp4_grouped_gemm_args). */
  size_t struct_size;
  /** Prepared weights [E, N, K] of the same context. */
  const struct nvfp4_weights *weights;
  /** Rows of a over all groups, 0 or more. */
  int64_t rows;
  /** The split of rows, count = E. All zero where E is 1. */
  struct nvfp4_groups groups;
  /** Activations [rows, K], 16-byte aligned: BF16 or F16 values. NULL when a_dtype is NVFP4. */
  const void *a;
  /** BF16, F16, or NVFP4 (a_quantized). */
  nvfp4_dtype a_dtype;
  /** Scope of a_decode_scales. */
  nvfp4_scope a_scope;
  /** Elements between rows of a; 0: K. */
  int64_t a_row_stride;
  /**
   * NVFP4_GROUPING_STRIDED: elements between groups of a, or bytes between groups of a_quantized.codes.
   * 0: every group multiplies the same max_tokens rows (their scales and decode scales are shared as well).
   */
  int64_t a_group_stride;
  /** Value activations: float array by a_scope that multiplies the product; NULL: 1. */
  const float *a_decode_scales;
  /** NVFP4 activations; all zero otherwise. */
  struct nvfp4_quantized_input a_quantized;
  /** [E, N] added to the scaled product, 16-byte aligned, in the row order of the canonical weights; NULL: none. */
  const void *bias;
  /** BF16, F16 or F32. */
  nvfp4_dtype bias_dtype;
  /** NONE, SWIGLU (weights prepared with gate_up; N/2 output columns) or RELU2. */
  nvfp4_activation activation;
  /** SWIGLU: above 0, gate is clamped above and up on both sides first; default 0, none. */
  float limit;
  /** SWIGLU: factor inside the sigmoid; default 0 means 1. */
  float alpha;
  /** SWIGLU: added to up; default 0. */
  float beta;
  /** NVFP4_GEMM_* or'ed. */
  nvfp4_gemm_flags flags;
  /** [rows, output columns] values by logical row, written; 16-byte aligned. NULL when out_dtype is NVFP4. */
  void *out;
  /** BF16, F16, F32, or NVFP4 (out_quantized). */
  nvfp4_dtype out_dtype;
  /** Must be 0. */
  uint32_t reserved;
  /** Elements between rows of out; 0: dense. */
  int64_t out_row_stride;
  /** NVFP4_GROUPING_STRIDED: elements between groups of out; no default: the rows of two groups may not meet. */
  int64_t out_group_stride;
  /** NVFP4 output: output columns a multiple of 16; static scales of any scope, or dynamic per ROW. All zero otherwise. */
  struct nvfp4_quantized out_quantized;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_grouped_gemm_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_grouped_gemm_args;

/** Arguments of nvfp4_gemm: those of the grouped product with groups all zero and weights of one group. */
typedef struct nvfp4_grouped_gemm_args nvfp4_gemm_args;

/** Arguments of nvfp4_tune. */
typedef struct nvfp4_tune_args {
  /** sizeof(nvfp4_tune_args). */
  size_t struct_size;
  /** NVFP4_OPERATION_GROUPED_GEMM, _LINEAR, _GROUPED_LINEAR, or _MOE_FORWARD (both of its products). */
  nvfp4_operation operation;
  /** Timed runs of each candidate, up to 10000; 0: 20. */
  uint32_t repeats;
  /** The call's arguments as it will be made, memory and all. `workspace` is not used: the library takes its own. */
  const void *args;
} nvfp4_tune_args;

/** What nvfp4_tune found. Of two products `kernel` and `splits` tell the first one's, and the numbers are sums. */
typedef struct nvfp4_tune_result {
  /** sizeof(nvfp4_tune_result), set by the caller. */
  size_t struct_size;
  /** Candidates that were timed; 0: there was nothing to choose. */
  uint32_t candidates;
  /** Parts into which the choice cuts the sum over K. */
  uint32_t splits;
  /** Microseconds of the kernel that is taken without tuning, median, with a cold cache. */
  float default_us;
  /** Microseconds of the choice. */
  float best_us;
  /** Zero-terminated name of the choice's kernel. */
  char kernel[64];
} nvfp4_tune_result;

/**
 * Arguments of nvfp4_grouped_linear and nvfp4_linear: [tokens, G, K] -> [tokens, G, N], group g by weights g.
 * G is the number of groups of the weights; nvfp4_linear has 1.
 * 
 * Static decode scales come from a checkpoint, or from a sample by nvfp4_amax_scale with the same shape (rows G * tokens,
 * NVFP4_GROUPING_STRIDED, src_row_stride G * K, src_group_stride K, scope TENSOR or GROUP).
 */
typedef struct nvfp4_grouped_linear_args {
  /** sizeof(nvfp4_grouped_linear_args). */
  size_t struct_size;
  /** Prepared weights [G, N, K] of the same context. */
  const struct nvfp4_weights *weights;
  /** Rows, 0 or more. */
  int64_t tokens;
  /** [tokens, G, K] values, 16-byte aligned. NULL when a_dtype is NVFP4. */
  const void *a;
  /** BF16 or F16; F32 where quantize is 1; or NVFP4 (a_quantized). */
  nvfp4_dtype a_dtype;
  /** 1: values are quantized first; 0: they are multiplied as they are. */
  uint32_t quantize;
  /** Elements between tokens of a; 0: G * K. */
  int64_t a_row_stride;
  /** Elements between groups of a; 0: K. */
  int64_t a_group_stride;
  /**
   * NVFP4 activations of any quantizer, [G, tokens, K/2] codes: logical row g * tokens + t, as
   * NVFP4_GROUPING_STRIDED writes them. Decode scales of any scope (GROUP for nvfp4_grouped_linear). All zero otherwise.
   */
  struct nvfp4_quantized_input a_quantized;
  /** quantize 1: one of NVFP4_SCALE_RULE_*. */
  nvfp4_scale_rule scale_rule;
  /** quantize 1: what shares a decode scale; ROW makes a token's codes its own. */
  nvfp4_scope scope;
  /** quantize 1: float array by scope in device memory, row g * tokens + t; NULL: dynamic. */
  const float *static_decode_scales;
  /** [G, N] added to the scaled product, 16-byte aligned, in the row order of the canonical weights; NULL: none. */
  const void *bias;
  /** BF16, F16 or F32. */
  nvfp4_dtype bias_dtype;
  /** NONE, SWIGLU (weights prepared with gate_up; N/2 output columns) or RELU2. */
  nvfp4_activation activation;
  /** SWIGLU: above 0, gate is clamped above and up on both sides first; default 0, none. */
  float limit;
  /** SWIGLU: factor inside the sigmoid; default 0 means 1. */
  float alpha;
  /** SWIGLU: added to up; default 0. */
  float beta;
  /** NVFP4_GEMM_* or'ed; _DEPENDENT_LAUNCH counts where quantize is 0: behind its own quantizer the product starts early. */
  nvfp4_gemm_flags flags;
  /** [tokens, G, output columns] values, written; 16-byte aligned. NULL when out_dtype is NVFP4. */
  void *out;
  /** BF16, F16, F32, or NVFP4 (out_quantized). */
  nvfp4_dtype out_dtype;
  /** Must be 0. */
  uint32_t reserved;
  /** Elements between tokens of out; 0: G * output columns. */
  int64_t out_row_stride;
  /** Elements between groups of out; 0: output columns. */
  int64_t out_group_stride;
  /** NVFP4 output, as of nvfp4_grouped_gemm with strided groups: logical row g * tokens + t. All zero otherwise. */
  struct nvfp4_quantized out_quantized;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_grouped_linear_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_grouped_linear_args;

/** Arguments of nvfp4_linear: those of the grouped layer, with weights of one group. */
typedef struct nvfp4_grouped_linear_args nvfp4_linear_args;

/** How a router turns logits into scores. */
typedef uint32_t nvfp4_moe_score;
/** exp(l - max) / sum over all experts. */
#define NVFP4_MOE_SCORE_SOFTMAX 0
/** 1 / (1 + exp(-l)). */
#define NVFP4_MOE_SCORE_SIGMOID 1
/** sqrt(log(1 + exp(l))). */
#define NVFP4_MOE_SCORE_SQRT_SOFTPLUS 2

/** What a router does with the logits. All zero: softmax over all experts, weights as they are. */
typedef struct nvfp4_moe_router {
  /** One of NVFP4_MOE_SCORE_*. */
  nvfp4_moe_score score;
  /** 1: weights are divided by their sum, in slot order. */
  uint32_t renormalise;
  /** Experts are split into this many groups of equal size, of which only the best are eligible; 0 or 1: none. */
  uint32_t groups;
  /** Groups that stay eligible: those with the largest sum of their two largest selection scores. 0 with no groups. */
  uint32_t top_groups;
  /** float[experts] in device memory, 4-byte aligned, added to the scores for selection only; NULL: none. */
  const float *bias;
  /** Multiplies the weights in the end; default 0 means 1. */
  float scaling;
  /** Must be 0. */
  uint32_t reserved;
} nvfp4_moe_router;

/** Arguments of nvfp4_moe_route. */
typedef struct nvfp4_moe_route_args {
  /** sizeof(nvfp4_moe_route_args). */
  size_t struct_size;
  /** [tokens, experts] values, 16-byte aligned. */
  const void *logits;
  /** BF16, F16 or F32. */
  nvfp4_dtype logits_dtype;
  /** k: experts a token, 1 to 32, and no more than are eligible. */
  uint32_t topk;
  /** Elements between rows of logits; 0: experts. */
  int64_t logits_row_stride;
  /** Rows, 0 or more. */
  int64_t tokens;
  /** E: 1 to 1024. */
  int64_t experts;
  /** Scores, selection, weights. */
  struct nvfp4_moe_router router;
  /**
   * uint8[tokens] in device memory, 0 for tokens that are sent nowhere (padding): their ids are -1, their weights 0.
   * NULL: none.
   */
  const uint8_t *token_mask;
  /** int32[tokens, topk], written, 4-byte aligned: the largest selection score first, ties to the lower id. */
  int32_t *topk_ids;
  /** float[tokens, topk], written, 4-byte aligned: the scores of those experts, renormalised and scaled. */
  float *topk_weights;
} nvfp4_moe_route_args;

/** Arguments of nvfp4_moe_permute. */
typedef struct nvfp4_moe_permute_args {
  /** sizeof(nvfp4_moe_permute_args). */
  size_t struct_size;
  /** Rows, 0 or more; tokens * topk may not pass 2^31 - 1. */
  int64_t tokens;
  /** E: all experts, 0 to 1024. */
  int64_t experts;
  /** The experts of this process are first_expert to first_expert + local_experts - 1; rows of others are skipped. */
  int64_t first_expert;
  /** 0: all from first_expert on. */
  int64_t local_experts;
  /** k: slots a token, 1 to 32. */
  uint32_t topk;
  /** BF16, F16, F32, or NVFP4 (src_quantized). */
  nvfp4_dtype src_dtype;
  /**
   * int32[tokens, topk], 4-byte aligned. -1 is skipped; so is what is no expert, which sets NVFP4_FAULT_BAD_GROUP
   * (bad_group is the id, or 0 where it is negative). An id may stand in several slots of a token.
   */
  const int32_t *topk_ids;
  /**
   * int32[local experts], written, 4-byte aligned: inclusive cumulative ends, as NVFP4_GROUPING_ENDS takes them with
   * rows = tokens * topk.
   */
  int32_t *ends;
  /**
   * int32[tokens * topk], written, 4-byte aligned: the token of each row, expert after expert, in slot order inside an
   * expert; -1 behind the last row.
   */
  int32_t *source_rows;
  /** int32[tokens, topk], written, 4-byte aligned: the row of each slot; -1 where it was skipped. */
  int32_t *inverse;
  /** Values a row; 0: nothing is gathered, and all that follows must be 0. A multiple of 16 where codes are written. */
  int64_t cols;
  /** [tokens, cols] values, 16-byte aligned; NULL when src_dtype is NVFP4. */
  const void *src;
  /** Elements between rows of src; 0: dense. */
  int64_t src_row_stride;
  /** NVFP4 tokens, in scope TENSOR or ROW; all zero otherwise. */
  struct nvfp4_quantized_input src_quantized;
  /** [tokens * topk, cols] values of src_dtype by row, written; 16-byte aligned. NULL: the rows are written to out. */
  void *gathered;
  /** Elements between rows of gathered; 0: dense. */
  int64_t gathered_row_stride;
  /**
   * NVFP4 rows in expert order, as grouped by `ends`, each expert's scales tiled on their own. From values: what
   * nvfp4_quantize gives for the gathered rows; static scales of any scope, or dynamic ones per ROW. From NVFP4 tokens:
   * their codes and scales, with scope ROW, dynamic decode_scales (the token's) and scale_rule 0.
   */
  struct nvfp4_quantized out;
  /** Scratch in device memory, 64-byte aligned; NULL where nvfp4_moe_permute_workspace_size says 0. */
  void *workspace;
  /** Its bytes. */
  size_t workspace_size;
} nvfp4_moe_permute_args;

/** Arguments of nvfp4_moe_combine: out = round((sum over slots j of weight_j * y_j) * scaling + shared). */
typedef struct nvfp4_moe_combine_args {
  /** sizeof(nvfp4_moe_combine_args). */
  size_t struct_size;
  /** Rows of out, 0 or more; tokens * topk may not pass 2^31 - 1. */
  int64_t tokens;
  /** N: values a row, 1 or more. */
  int64_t cols;
  /** k: slots a token, 1 to 32. */
  uint32_t topk;
  /** BF16, F16 or F32. */
  nvfp4_dtype y_dtype;
  /** Rows of y, 0 or more; tokens * topk where nvfp4_moe_permute ordered them. */
  int64_t rows;
  /** [rows, cols] values in expert order, 16-byte aligned. */
  const void *y;
  /** Elements between rows of y; 0: dense. */
  int64_t y_row_stride;
  /**
   * int32[tokens, topk], 4-byte aligned: the row of each slot. -1 contributes nothing; nor does what is no row, which
   * sets NVFP4_FAULT_BAD_GROUP.
   */
  const int32_t *inverse;
  /** float[tokens, topk], 4-byte aligned. Not read where inverse is -1. */
  const float *topk_weights;
  /** [tokens, cols] values, added last, 16-byte aligned (a shared expert, a residual); NULL: none. */
  const void *shared;
  /** Elements between rows of shared; 0: dense. */
  int64_t shared_row_stride;
  /** BF16, F16 or F32. */
  nvfp4_dtype shared_dtype;
  /** Multiplies the sum before shared is added; default 0 means 1. */
  float scaling;
  /** [tokens, cols] values, written, 16-byte aligned. */
  void *out;
  /** Elements between rows of out; 0: dense. */
  int64_t out_row_stride;
  /** BF16, F16 or F32. */
  nvfp4_dtype out_dtype;
  /** Must be 0. */
  uint32_t reserved;
} nvfp4_moe_combine_args;

/** Arguments of nvfp4_moe_forward. E below is the number of local experts: the groups of w1 and w2. */
typedef struct nvfp4_moe_forward_args {
  /** sizeof(nvfp4_moe_forward_args). */
  size_t struct_size;
  /** Prepared weights [E, 2 * I, K] with gate_up for SWIGLU, or plain [E, I, K]. */
  const struct nvfp4_weights *w1;
  /** Prepared weights [E, N, I], plain. */
  const struct nvfp4_weights *w2;
  /** Rows, 0 or more; tokens * topk may not pass 2^31 - 1. */
  int64_t tokens;
  /** All experts, of which w1 and w2 hold those from first_expert on; 0: no others. At most 1024. */
  int64_t experts;
  /** The first local expert. */
  int64_t first_expert;
  /** [tokens, K] values, 16-byte aligned; NULL when hidden_dtype is NVFP4. */
  const void *hidden;
  /** BF16 or F16; F32 where quantize is 1; or NVFP4 (hidden_quantized, quantize 1). */
  nvfp4_dtype hidden_dtype;
  /** 1: both products take NVFP4 activations; 0: they take values, BF16 or F16 as hidden's, which is more accurate. */
  uint32_t quantize;
  /** Elements between rows of hidden; 0: dense. */
  int64_t hidden_row_stride;
  /** NVFP4 tokens, in scope TENSOR or ROW; all zero otherwise. */
  struct nvfp4_quantized_input hidden_quantized;
  /** [tokens, experts] values, 16-byte aligned, routed as nvfp4_moe_route does; NULL: topk_ids and topk_weights are given. */
  const void *logits;
  /** BF16, F16 or F32. */
  nvfp4_dtype logits_dtype;
  /** k: experts a token, 1 to 32. */
  uint32_t topk;
  /** Elements between rows of logits; 0: experts. */
  int64_t logits_row_stride;
  /** With logits: what the router does; all zero otherwise. */
  struct nvfp4_moe_router router;
  /** With logits: uint8[tokens], 0 for tokens that are sent nowhere; NULL: none. */
  const uint8_t *token_mask;
  /** Without logits: int32[tokens, topk], 4-byte aligned; -1 is skipped, and so are other processes' experts. */
  const int32_t *topk_ids;
  /** Without logits: float[tokens, topk], 4-byte aligned. */
  const float *topk_weights;
  /** [E, rows of w1] added to the first product, in the row order of the canonical weights, 16-byte aligned; NULL: none. */
  const void *bias1;
  /** [E, N] added to the second product, 16-byte aligned; NULL: none. */
  const void *bias2;
  /** Of both: BF16, F16 or F32. */
  nvfp4_dtype bias_dtype;
  /** Behind the first product: SWIGLU, RELU2 or NONE. */
  nvfp4_activation activation;
  /** SWIGLU: above 0, gate is clamped above and up on both sides first; default 0, none. */
  float limit;
  /** SWIGLU: factor inside the sigmoid; default 0 means 1. */
  float alpha;
  /** SWIGLU: added to up; default 0. */
  float beta;
  /**
   * NVFP4_GEMM_* or'ed: _BATCH_INVARIANT, a token's bits depend on its own values alone (with scales that are static, per
   * row); _DEPENDENT_LAUNCH, the layer's first launch may start before the work in front has ended, and waits for it.
   */
  nvfp4_gemm_flags flags;
  /** quantize 1: one of NVFP4_SCALE_RULE_*. */
  nvfp4_scale_rule scale_rule;
  /** Of static_input_scales and static_intermediate_scales: TENSOR (one float) or GROUP (one a local expert). */
  nvfp4_scope static_scope;
  /** quantize 1: float array in device memory, decode scales of the first product's input; NULL: dynamic, per row. */
  const float *static_input_scales;
  /** quantize 1: float array in device memory, decode scales of the second product's input; NULL: dynamic, per row. */
  const float *static_intermediate_scales;
  /** [tokens, N] values, added last, 16-byte aligned (a shared expert, a residual); NULL: none. */
  const void *shared;
  /** Elements between rows of shared; 0: dense. */
  int64_t shared_row_stride;
  /** BF16, F16 or F32. */
  nvfp4_dtype shared_dtype;
  /** Multiplies a token's sum before shared is added; default 0 means 1. */
  float scaling;
  /** [tokens, N] values, written, 16-byte aligned. */
  void *out;
  /** Elements between rows of out; 0: dense. */
  int64_t out_row_stride;
  /** BF16, F16 or F32. */
  nvfp4_dtype out_dtype;
  /** Must be 0. */
  uint32_t reserved;
  /** Scratch in device memory, 64-byte aligned. */
  void *workspace;
  /** Its bytes, at least what nvfp4_moe_forward_workspace_size says. */
  size_t workspace_size;
} nvfp4_moe_forward_args;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/** The library's version as major * 10000 + minor * 100 + patch. */
uint32_t nvfp4_version(void);

/** The library's version as text, "major.minor.patch". Static memory. */
const char *nvfp4_version_string(void);

/** NVFP4_ABI_VERSION of the library that is loaded; compare it with the header's. */
uint32_t nvfp4_abi_version(void);

/** The name of a status, "NVFP4_STATUS_...", or NULL for a number that is none. Static memory. */
const char *nvfp4_status_name(nvfp4_status status);

/**
 * What went wrong in the last call on this thread that failed, UTF-8: the function, the argument, its value and the
 * next step. Empty before the first failure. Valid until the next failure on this thread; never NULL.
 */
const char *nvfp4_last_message(void);

/**
 * Sets or, with NULL, removes the process-wide log callback. It gets messages up to `level` (NVFP4_LOG_LEVEL_*).
 * Without one the library is silent. The callback may run on any thread that calls the library.
 */
nvfp4_status nvfp4_set_log_callback(nvfp4_log_callback callback,
                                    void *user_data,
                                    nvfp4_log_level level);

/**
 * All functions of the library for an ABI version, or NULL (with a message) for a version that it does not have.
 * Static memory. A host that was built against a newer minor version compares struct_size before it uses later entries.
 */
const struct nvfp4_api_table *nvfp4_api(uint32_t abi_version);

/**
 * Tells what is known of device `device` of a backend, without creating a context.
 * `available` 0 is a success: `name` then says what is missing.
 */
nvfp4_status nvfp4_backend_query(nvfp4_backend backend, uint32_t device, struct nvfp4_backend_info *info);

/**
 * Creates a context: takes the device, starts the threads. `options` NULL: all defaults (the CPU, all cores).
 * Destroy it with nvfp4_context_destroy. UNSUPPORTED where this build lacks the backend or the processor the instruction
 * set, UNSUPPORTED_DRIVER without a GPU driver of CUDA 13.0 (R580) or newer, UNSUPPORTED_DEVICE without such a GPU.
 * On a GPU the device's primary CUDA context is retained (see NVFP4_CONTEXT_ADOPT_CURRENT); no call changes the CUDA
 * context that is current on the calling thread.
 */
nvfp4_status nvfp4_context_create(const struct nvfp4_context_options *options,
                                  struct nvfp4_context **context);

/**
 * Destroys a context. Its children (streams, events, graphs, buffers, weights) keep the device alive until they are
 * destroyed too, which is all that can be done with them from now on. On a GPU the last of them waits until the
 * CUDA context's work is done.
 */
nvfp4_status nvfp4_context_destroy(struct nvfp4_context *context);

/** Tells what a context runs on. */
nvfp4_status nvfp4_context_info(struct nvfp4_context *context, struct nvfp4_backend_info *info);

/**
 * Reads the fault word: what work on this context has met since the last clear. Does not wait for anything: work that
 * still runs may add to it.
 */
nvfp4_status nvfp4_context_faults(struct nvfp4_context *context,
                                  struct nvfp4_faults *faults);

/**
 * Clears the fault word. On a GPU it waits for a write of a few bytes, and for no other work: what kernels that run
 * meanwhile meet may be reported before or after. Not part of a capture; DEVICE_POISONED on a broken context.
 */
nvfp4_status nvfp4_context_clear_faults(struct nvfp4_context *context);

/**
 * Waits until all work of the context is done. On the CPU it always is; on a GPU work of the host's in the same CUDA
 * context is waited for too.
 */
nvfp4_status nvfp4_context_synchronize(struct nvfp4_context *context);

/** Tells what the context's memory pool holds and has done. */
nvfp4_status nvfp4_context_pool_stats(struct nvfp4_context *context, struct nvfp4_pool_stats *stats);

/** Gives kept memory back to the system until at most `keep_bytes` are kept for reuse. */
nvfp4_status nvfp4_context_pool_trim(struct nvfp4_context *context, size_t keep_bytes);

/** Tells whether a context has a feature (NVFP4_FEATURE_*): 1 or 0. */
nvfp4_status nvfp4_feature_supported(struct nvfp4_context *context,
                                     nvfp4_feature feature,
                                     int32_t *supported);

/**
 * Loads what run calls need, so that they allocate, load and synchronise nothing. `args` NULL: everything, for every
 * call. With an operation and its arguments only what that call takes: a host that knows its calls starts sooner.
 * Other sizes may take other kernels; outside of a capture a call loads what is missing, inside it is NOT_PREPARED.
 * On the CPU there is nothing to load. May be called from several threads, and while streams capture. What is loaded is
 * told to the log (level information) and, in numbers, by nvfp4_context_info.
 */
nvfp4_status nvfp4_prepare(struct nvfp4_context *context,
                           const struct nvfp4_prepare_args *args);

/** Creates a stream. Destroy it with nvfp4_stream_destroy. */
nvfp4_status nvfp4_stream_create(struct nvfp4_context *context, struct nvfp4_stream **stream);

/**
 * Wraps a stream of the host's: a CUstream or cudaStream_t of the context's device, which stays the host's and must
 * outlive the handle; NULL is the legacy default stream. On the CPU `native` must be NULL, and the call is
 * nvfp4_stream_create.
 */
nvfp4_status nvfp4_stream_borrow(struct nvfp4_context *context,
                                 void *native,
                                 struct nvfp4_stream **stream);

/**
 * Destroys a stream; its work goes on. Refused while it captures, unless its context was destroyed: the capture is
 * dropped then.
 */
nvfp4_status nvfp4_stream_destroy(struct nvfp4_stream *stream);

/** Waits until the stream's work is done. Refused while it captures. */
nvfp4_status nvfp4_stream_synchronize(struct nvfp4_stream *stream);

/** Sets `done` to 1 if the stream's work is done, else to 0. Refused while it captures. */
nvfp4_status nvfp4_stream_query(struct nvfp4_stream *stream, int32_t *done);

/** Creates an event. Destroy it with nvfp4_event_destroy. */
nvfp4_status nvfp4_event_create(struct nvfp4_context *context, struct nvfp4_event **event);

/** Destroys an event. */
nvfp4_status nvfp4_event_destroy(struct nvfp4_event *event);

/** Marks the end of the work that the stream has been given so far. Inside a capture the event marks a place in it. */
nvfp4_status nvfp4_event_record(struct nvfp4_event *event,
                                struct nvfp4_stream *stream);

/**
 * Makes later work of the stream wait for the event. Waiting for an event that was recorded inside a capture brings the
 * stream into that capture, or, on a stream of it, joins the event's stream back.
 */
nvfp4_status nvfp4_event_wait(struct nvfp4_event *event,
                              struct nvfp4_stream *stream);

/** Waits on the host until the event has been reached. An event that was never recorded counts as reached. */
nvfp4_status nvfp4_event_synchronize(struct nvfp4_event *event);

/** Sets `done` to 1 if the event has been reached, else to 0. */
nvfp4_status nvfp4_event_query(struct nvfp4_event *event, int32_t *done);

/** Milliseconds between two reached events of one context. */
nvfp4_status nvfp4_event_elapsed_ms(struct nvfp4_event *start, struct nvfp4_event *end, float *milliseconds);

/**
 * Begins to record the stream's work instead of carrying it out. Calls that are refused at other times are refused
 * while recording too, with the same messages; calls that would allocate, wait or create are refused as CAPTURE.
 */
nvfp4_status nvfp4_graph_begin_capture(struct nvfp4_stream *stream,
                                       nvfp4_capture_mode mode);

/**
 * Ends the recording that began on this stream and hands out a graph. Destroy it with nvfp4_graph_destroy.
 * The memory that the recorded calls were given must stay valid while the graph may be launched; weights and buffers
 * of copies are kept alive by the graph.
 */
nvfp4_status nvfp4_graph_end_capture(struct nvfp4_stream *stream,
                                     struct nvfp4_graph **graph);

/** Makes a graph ready for launches. Needed once. */
nvfp4_status nvfp4_graph_instantiate(struct nvfp4_graph *graph);

/** Gives a graph the arguments of another one that recorded the same calls; UNSUPPORTED where they differ. */
nvfp4_status nvfp4_graph_update(struct nvfp4_graph *graph, const struct nvfp4_graph *from);

/**
 * Carries out the recorded calls in the order of the stream. Launches of one graph never overlap. On a capturing
 * stream the graph becomes a part of the new one, up to 64 inside one another.
 */
nvfp4_status nvfp4_graph_launch(struct nvfp4_graph *graph,
                                struct nvfp4_stream *stream);

/** How many calls a graph has recorded; on a GPU its nodes, of which a call may have several. */
nvfp4_status nvfp4_graph_node_count(struct nvfp4_graph *graph, size_t *count);

/** Destroys a graph; a launch in progress goes on. */
nvfp4_status nvfp4_graph_destroy(struct nvfp4_graph *graph);

/**
 * Takes `bytes` (1 or more) of device memory from the context's pool, usable by work of `stream` from now on.
 * The contents are undefined. Destroy it with nvfp4_buffer_destroy. Refused while the stream captures.
 */
nvfp4_status nvfp4_buffer_create(struct nvfp4_context *context,
                                 size_t bytes,
                                 struct nvfp4_stream *stream,
                                 struct nvfp4_buffer **buffer);

/**
 * Gives a buffer's memory back to the pool. Work that uses it must be done, or be ordered before what reuses it by
 * being on the stream that the buffer was created for.
 */
nvfp4_status nvfp4_buffer_destroy(struct nvfp4_buffer *buffer);

/** Address of a buffer's memory on the device (host memory on the CPU), on a multiple of 256; valid while the buffer is. */
nvfp4_status nvfp4_buffer_data(struct nvfp4_buffer *buffer,
                               void **data);

/** Bytes that a buffer was created with. */
nvfp4_status nvfp4_buffer_size(struct nvfp4_buffer *buffer, size_t *bytes);

/**
 * Copies host memory into a buffer, in stream order. `src` must stay valid until the copy is done; in a graph it is
 * read at every launch.
 */
nvfp4_status nvfp4_buffer_upload(struct nvfp4_buffer *buffer,
                                 size_t offset,
                                 const void *src,
                                 size_t bytes,
                                 struct nvfp4_stream *stream);

/** Copies from a buffer to host memory, in stream order. `dst` holds the bytes once the stream has been waited for. */
nvfp4_status nvfp4_buffer_download(struct nvfp4_buffer *buffer,
                                   size_t offset,
                                   void *dst,
                                   size_t bytes,
                                   struct nvfp4_stream *stream);

/** Copies between buffers of one context, or within one (the ranges may meet), in stream order. */
nvfp4_status nvfp4_buffer_copy(struct nvfp4_buffer *dst,
                               size_t dst_offset,
                               const struct nvfp4_buffer *src,
                               size_t src_offset,
                               size_t bytes,
                               struct nvfp4_stream *stream);

/**
 * Quantizes values to NVFP4: one tensor, groups of rows, or a weight stored [K, N]. Bit for bit as docs/numerics.md says.
 * Sets NVFP4_FAULT_BAD_GROUP, _BAD_DECODE_SCALE, _NON_FINITE and _SATURATED in the fault word.
 */
nvfp4_status nvfp4_quantize(struct nvfp4_context *context,
                            const struct nvfp4_quantize_args *args,
                            struct nvfp4_stream *stream);

/**
 * Bytes of workspace that nvfp4_quantize needs with these arguments; 0 means none. Reads no device memory and needs
 * none yet: pointers may be NULL as for nvfp4_prepare.
 */
nvfp4_status nvfp4_quantize_workspace_size(struct nvfp4_context *context,
                                           const struct nvfp4_quantize_args *args,
                                           size_t *bytes);

/**
 * Finds the decode scales that nvfp4_quantize would use (amax / 2688 of each scope) without quantizing.
 * Sets NVFP4_FAULT_BAD_GROUP.
 */
nvfp4_status nvfp4_amax_scale(struct nvfp4_context *context,
                              const struct nvfp4_amax_scale_args *args,
                              struct nvfp4_stream *stream);

/**
 * Bytes of workspace that nvfp4_amax_scale needs with these arguments; 0 means none. Reads no device memory and needs
 * none yet: pointers may be NULL as for nvfp4_prepare.
 */
nvfp4_status nvfp4_amax_scale_workspace_size(struct nvfp4_context *context,
                                             const struct nvfp4_amax_scale_args *args,
                                             size_t *bytes);

/**
 * Writes the values (e2m1 * e4m3) * decode scale of an NVFP4 tensor. A NaN block scale gives NaN values.
 * Sets NVFP4_FAULT_BAD_GROUP.
 */
nvfp4_status nvfp4_dequantize(struct nvfp4_context *context,
                              const struct nvfp4_dequantize_args *args,
                              struct nvfp4_stream *stream);

/**
 * RMSNorm, with an optional residual add before it, and quantization in one pass: the bits of the separate steps.
 * Sets NVFP4_FAULT_BAD_DECODE_SCALE, _NON_FINITE and _SATURATED.
 */
nvfp4_status nvfp4_rmsnorm_quantize(struct nvfp4_context *context,
                                    const struct nvfp4_rmsnorm_quantize_args *args,
                                    struct nvfp4_stream *stream);

/**
 * Bytes of workspace that nvfp4_rmsnorm_quantize needs with these arguments; 0 means none. Reads no device memory and needs
 * none yet: pointers may be NULL as for nvfp4_prepare.
 */
nvfp4_status nvfp4_rmsnorm_quantize_workspace_size(struct nvfp4_context *context,
                                                   const struct nvfp4_rmsnorm_quantize_args *args,
                                                   size_t *bytes);

/**
 * Mixes up to four hyper-connection streams, then RMSNorm and quantization, in one pass.
 * Sets the same faults as nvfp4_rmsnorm_quantize.
 */
nvfp4_status nvfp4_hc_rmsnorm_quantize(struct nvfp4_context *context,
                                       const struct nvfp4_hc_rmsnorm_quantize_args *args,
                                       struct nvfp4_stream *stream);

/**
 * Bytes of workspace that nvfp4_hc_rmsnorm_quantize needs with these arguments; 0 means none. Reads no device memory and needs
 * none yet: pointers may be NULL as for nvfp4_prepare.
 */
nvfp4_status nvfp4_hc_rmsnorm_quantize_workspace_size(struct nvfp4_context *context,
                                                      const struct nvfp4_hc_rmsnorm_quantize_args *args,
                                                      size_t *bytes);

/**
 * SwiGLU or relu2 of a product's output, or only its de-interleaving, and quantization in one pass.
 * Sets the same faults as nvfp4_quantize.
 */
nvfp4_status nvfp4_swiglu_quantize(struct nvfp4_context *context,
                                   const struct nvfp4_swiglu_quantize_args *args,
                                   struct nvfp4_stream *stream);

/**
 * Bytes of workspace that nvfp4_swiglu_quantize needs with these arguments; 0 means none. Reads no device memory and needs
 * none yet: pointers may be NULL as for nvfp4_prepare.
 */
nvfp4_status nvfp4_swiglu_quantize_workspace_size(struct nvfp4_context *context,
                                                  const struct nvfp4_swiglu_quantize_args *args,
                                                  size_t *bytes);

/**
 * Quantizes tokens with scales packed four to an int32, widens top-k ids to int64 and copies their weights.
 * Sets NVFP4_FAULT_BAD_DECODE_SCALE, _NON_FINITE and _SATURATED.
 */
nvfp4_status nvfp4_stage_moe_inputs(struct nvfp4_context *context,
                                    const struct nvfp4_stage_moe_inputs_args *args,
                                    struct nvfp4_stream *stream);

/**
 * Bytes of block scales that suffice for any split of the rows into the groups. Needs no context and reads no device
 * memory: the group arrays may be NULL.
 */
nvfp4_status nvfp4_scales_size(const struct nvfp4_scales_size_args *args,
                               size_t *bytes);

/** Brings linear block scales into a tiled layout; its padding is written as zero. Sets NVFP4_FAULT_BAD_GROUP. */
nvfp4_status nvfp4_tile_scales(struct nvfp4_context *context,
                               const struct nvfp4_tile_scales_args *args,
                               struct nvfp4_stream *stream);

/** Brings tiled block scales back into the linear layout. Sets NVFP4_FAULT_BAD_GROUP. */
nvfp4_status nvfp4_untile_scales(struct nvfp4_context *context,
                                 const struct nvfp4_tile_scales_args *args,
                                 struct nvfp4_stream *stream);

/** Brings rows [gate; up] of weights (or of their scales) into the alternating order. */
nvfp4_status nvfp4_interleave_gate_up(struct nvfp4_context *context,
                                      const struct nvfp4_interleave_gate_up_args *args,
                                      struct nvfp4_stream *stream);

/** Brings alternating gate and up rows back into the order [gate; up]. */
nvfp4_status nvfp4_deinterleave_gate_up(struct nvfp4_context *context,
                                        const struct nvfp4_interleave_gate_up_args *args,
                                        struct nvfp4_stream *stream);

/** Inclusive cumulative sums of counts, on the device. Sets NVFP4_FAULT_BAD_GROUP. */
nvfp4_status nvfp4_group_ends(struct nvfp4_context *context,
                              const struct nvfp4_group_ends_args *args,
                              struct nvfp4_stream *stream);

/** Bytes of storage that nvfp4_weights_prepare needs for weights of this shape (groups, rows, cols, gate_up). */
nvfp4_status nvfp4_weights_storage_size(struct nvfp4_context *context,
                                        const struct nvfp4_weights_prepare_args *args,
                                        size_t *bytes);

/**
 * Brings E matrices [N, K] into the layout of the backend's kernels, in the caller's storage. Destroy the handle with
 * nvfp4_weights_destroy; the storage must outlive it and every graph that uses it. Not a run call: it may allocate and
 * wait. Refused while the stream captures. From VALUES it sets NVFP4_FAULT_BAD_DECODE_SCALE, _NON_FINITE and _SATURATED.
 */
nvfp4_status nvfp4_weights_prepare(struct nvfp4_context *context,
                                   const struct nvfp4_weights_prepare_args *args,
                                   struct nvfp4_stream *stream,
                                   struct nvfp4_weights **weights);

/** Writes prepared weights back in the canonical form, byte for byte. */
nvfp4_status nvfp4_weights_export(struct nvfp4_context *context,
                                  const struct nvfp4_weights_export_args *args,
                                  struct nvfp4_stream *stream);

/** Tells the shape of prepared weights. Refused after a fork, and after the destruction of their context. */
nvfp4_status nvfp4_weights_info(const struct nvfp4_weights *weights, struct nvfp4_weights_shape *shape);

/** Destroys the handle of prepared weights; the storage stays the caller's. Graphs that use them keep working. */
nvfp4_status nvfp4_weights_destroy(struct nvfp4_weights *weights);

/**
 * Multiplies the rows of each group with that group's weights, with bias, activation, accumulation or requantization
 * on the way out. Rows of no group are neither read nor written.
 * Sets NVFP4_FAULT_BAD_GROUP and, where it requantizes, the faults of nvfp4_quantize.
 */
nvfp4_status nvfp4_grouped_gemm(struct nvfp4_context *context,
                                const struct nvfp4_grouped_gemm_args *args,
                                struct nvfp4_stream *stream);

/**
 * Bytes of workspace that nvfp4_grouped_gemm needs with these arguments, for any split of the rows into the groups.
 * Reads no device memory and needs none yet: pointers may be NULL as for nvfp4_prepare.
 */
nvfp4_status nvfp4_grouped_gemm_workspace_size(struct nvfp4_context *context,
                                               const struct nvfp4_grouped_gemm_args *args,
                                               size_t *bytes);

/** The product with one group's weights: nvfp4_grouped_gemm with groups all zero. */
nvfp4_status nvfp4_gemm(struct nvfp4_context *context,
                        const nvfp4_gemm_args *args,
                        struct nvfp4_stream *stream);

/**
 * Bytes of workspace that nvfp4_gemm needs with these arguments, for any split of the rows into the groups.
 * Reads no device memory and needs none yet: pointers may be NULL as for nvfp4_prepare.
 */
nvfp4_status nvfp4_gemm_workspace_size(struct nvfp4_context *context,
                                       const nvfp4_gemm_args *args,
                                       size_t *bytes);

/**
 * Times every kernel that can carry out a product, on this device and with these arguments, and uses the fastest from
 * now on for products of the same operand type, groups, N, K and epilogue with about as many rows a group (to the next
 * power of two). A layer's other steps are run once in their order, so that its products are timed on what they will get. Not a run call: it allocates, launches and waits, and is refused while the stream captures. The output
 * is written many times; with NVFP4_GEMM_ACCUMULATE it is useless afterwards. A choice can change a product's bits within
 * its bound and its workspace size, so tune before workspaces are asked for and graphs are captured; the same choices
 * give the same bits. Products with NVFP4_GEMM_BATCH_INVARIANT take no choices. On the CPU there is nothing to choose.
 */
nvfp4_status nvfp4_tune(struct nvfp4_context *context,
                        const struct nvfp4_tune_args *args,
                        struct nvfp4_stream *stream,
                        struct nvfp4_tune_result *result);

/**
 * Takes the choices of a file that nvfp4_tuning_save wrote, in place of those in use; `path` NULL forgets all. Sets
 * `choices` to their number. A file that is missing, damaged, or of another library version, device or driver is ignored
 * as a whole: `choices` is 0 then, no choice is in use, and the reason goes to the log (level warning). A choice that is
 * not legal for a problem is passed over. Choices can change a product's bits and workspace size (see nvfp4_tune), so
 * load before workspaces are asked for and graphs are captured; graphs keep what they captured. On the CPU it does
 * nothing and `choices` is 0.
 */
nvfp4_status nvfp4_tuning_load(struct nvfp4_context *context,
                               const char *path,
                               size_t *choices);

/**
 * Writes the choices in use to a file, in one step: whoever reads `path` meanwhile gets the old file or the new one.
 * UNSUPPORTED on the CPU, which has no choices.
 */
nvfp4_status nvfp4_tuning_save(struct nvfp4_context *context,
                               const char *path);

/**
 * A linear layer: values, or activations that a quantizer has written, times one group's weights, with bias, activation,
 * accumulation or requantization on the way out. Values can be quantized first: the bits are those of nvfp4_quantize
 * and nvfp4_gemm.
 */
nvfp4_status nvfp4_linear(struct nvfp4_context *context,
                          const nvfp4_linear_args *args,
                          struct nvfp4_stream *stream);

/** Bytes of workspace that nvfp4_linear needs with these arguments. Reads no device memory. */
nvfp4_status nvfp4_linear_workspace_size(struct nvfp4_context *context,
                                         const nvfp4_linear_args *args,
                                         size_t *bytes);

/**
 * Linear layers side by side: "bgk,gnk->bgn" (the first half of an attention output, for one). The strided view is
 * quantized and multiplied where it lies: nothing is permuted, padded or copied. The bits are those of nvfp4_quantize and
 * nvfp4_grouped_gemm with NVFP4_GROUPING_STRIDED.
 */
nvfp4_status nvfp4_grouped_linear(struct nvfp4_context *context,
                                  const struct nvfp4_grouped_linear_args *args,
                                  struct nvfp4_stream *stream);

/** Bytes of workspace that nvfp4_grouped_linear needs with these arguments. Reads no device memory. */
nvfp4_status nvfp4_grouped_linear_workspace_size(struct nvfp4_context *context,
                                                 const struct nvfp4_grouped_linear_args *args,
                                                 size_t *bytes);

/**
 * Routes tokens to experts: logits to scores, the topk largest of (score + bias) among the eligible groups, their scores
 * renormalised and scaled. docs/numerics.md fixes every sum and tie: the same ids and weights on every backend.
 * A score that is NaN ranks last; it sets NVFP4_FAULT_NON_FINITE, as does a weight that is not finite, which stays so.
 */
nvfp4_status nvfp4_moe_route(struct nvfp4_context *context,
                             const struct nvfp4_moe_route_args *args,
                             struct nvfp4_stream *stream);

/**
 * Sorts slots by expert, stably, and gathers the tokens in that order if asked to: as values, as codes that a quantizer
 * wrote before, or quantized on the way. Rows of other processes' experts are skipped.
 * Sets NVFP4_FAULT_BAD_GROUP and, where it quantizes, the faults of nvfp4_quantize. A graph records up to three nodes for the
 * sort and one for the gathering.
 */
nvfp4_status nvfp4_moe_permute(struct nvfp4_context *context,
                               const struct nvfp4_moe_permute_args *args,
                               struct nvfp4_stream *stream);

/** Bytes of workspace that nvfp4_moe_permute needs with these arguments; 0 means none. Reads no device memory. */
nvfp4_status nvfp4_moe_permute_workspace_size(struct nvfp4_context *context,
                                              const struct nvfp4_moe_permute_args *args,
                                              size_t *bytes);

/**
 * Adds up each token's expert rows: acc = fma(weight_j, y_j, acc) in slot order from 0, in f32, then * scaling, then
 * + shared, one rounding in the end. No atomics: a token's bits do not depend on other tokens.
 */
nvfp4_status nvfp4_moe_combine(struct nvfp4_context *context,
                               const struct nvfp4_moe_combine_args *args,
                               struct nvfp4_stream *stream);

/**
 * A whole layer: routes (or takes given ones), brings the tokens of the local experts into their order, multiplies with
 * w1, activates, multiplies with w2 and combines: the bits of nvfp4_moe_route, nvfp4_moe_permute, two calls of
 * nvfp4_grouped_gemm (values between them rounded to BF16, or to F16 where hidden is; or requantized) and
 * nvfp4_moe_combine, one after another. Tokens without local experts get shared, or 0.
 * A graph of the CPU records four nodes: all in front of the products, each of them, the combine. Sets the faults of its parts.
 */
nvfp4_status nvfp4_moe_forward(struct nvfp4_context *context,
                               const struct nvfp4_moe_forward_args *args,
                               struct nvfp4_stream *stream);

/** Bytes of workspace that nvfp4_moe_forward needs with these arguments, for any routes. Reads no device memory. */
nvfp4_status nvfp4_moe_forward_workspace_size(struct nvfp4_context *context,
                                              const struct nvfp4_moe_forward_args *args,
                                              size_t *bytes);

/** Every function of this header but nvfp4_api, in an order that only ever grows. */
struct nvfp4_api_table {
  /** Bytes of the table that the library has. */
  size_t struct_size;
  uint32_t (*version)(void);
  const char *(*version_string)(void);
  uint32_t (*abi_version)(void);
  const char *(*status_name)(nvfp4_status status);
  const char *(*last_message)(void);
  nvfp4_status (*set_log_callback)(nvfp4_log_callback callback, void *user_data, nvfp4_log_level level);
  nvfp4_status (*backend_query)(nvfp4_backend backend, uint32_t device, struct nvfp4_backend_info *info);
  nvfp4_status (*context_create)(const struct nvfp4_context_options *options, struct nvfp4_context **context);
  nvfp4_status (*context_destroy)(struct nvfp4_context *context);
  nvfp4_status (*context_info)(struct nvfp4_context *context, struct nvfp4_backend_info *info);
  nvfp4_status (*context_faults)(struct nvfp4_context *context, struct nvfp4_faults *faults);
  nvfp4_status (*context_clear_faults)(struct nvfp4_context *context);
  nvfp4_status (*context_synchronize)(struct nvfp4_context *context);
  nvfp4_status (*context_pool_stats)(struct nvfp4_context *context, struct nvfp4_pool_stats *stats);
  nvfp4_status (*context_pool_trim)(struct nvfp4_context *context, size_t keep_bytes);
  nvfp4_status (*feature_supported)(struct nvfp4_context *context, nvfp4_feature feature, int32_t *supported);
  nvfp4_status (*prepare)(struct nvfp4_context *context, const struct nvfp4_prepare_args *args);
  nvfp4_status (*stream_create)(struct nvfp4_context *context, struct nvfp4_stream **stream);
  nvfp4_status (*stream_borrow)(struct nvfp4_context *context, void *native, struct nvfp4_stream **stream);
  nvfp4_status (*stream_destroy)(struct nvfp4_stream *stream);
  nvfp4_status (*stream_synchronize)(struct nvfp4_stream *stream);
  nvfp4_status (*stream_query)(struct nvfp4_stream *stream, int32_t *done);
  nvfp4_status (*event_create)(struct nvfp4_context *context, struct nvfp4_event **event);
  nvfp4_status (*event_destroy)(struct nvfp4_event *event);
  nvfp4_status (*event_record)(struct nvfp4_event *event, struct nvfp4_stream *stream);
  nvfp4_status (*event_wait)(struct nvfp4_event *event, struct nvfp4_stream *stream);
  nvfp4_status (*event_synchronize)(struct nvfp4_event *event);
  nvfp4_status (*event_query)(struct nvfp4_event *event, int32_t *done);
  nvfp4_status (*event_elapsed_ms)(struct nvfp4_event *start, struct nvfp4_event *end, float *milliseconds);
  nvfp4_status (*graph_begin_capture)(struct nvfp4_stream *stream, nvfp4_capture_mode mode);
  nvfp4_status (*graph_end_capture)(struct nvfp4_stream *stream, struct nvfp4_graph **graph);
  nvfp4_status (*graph_instantiate)(struct nvfp4_graph *graph);
  nvfp4_status (*graph_update)(struct nvfp4_graph *graph, const struct nvfp4_graph *from);
  nvfp4_status (*graph_launch)(struct nvfp4_graph *graph, struct nvfp4_stream *stream);
  nvfp4_status (*graph_node_count)(struct nvfp4_graph *graph, size_t *count);
  nvfp4_status (*graph_destroy)(struct nvfp4_graph *graph);
  nvfp4_status (*buffer_create)(struct nvfp4_context *context, size_t bytes, struct nvfp4_stream *stream, struct nvfp4_buffer **buffer);
  nvfp4_status (*buffer_destroy)(struct nvfp4_buffer *buffer);
  nvfp4_status (*buffer_data)(struct nvfp4_buffer *buffer, void **data);
  nvfp4_status (*buffer_size)(struct nvfp4_buffer *buffer, size_t *bytes);
  nvfp4_status (*buffer_upload)(struct nvfp4_buffer *buffer, size_t offset, const void *src, size_t bytes, struct nvfp4_stream *stream);
  nvfp4_status (*buffer_download)(struct nvfp4_buffer *buffer, size_t offset, void *dst, size_t bytes, struct nvfp4_stream *stream);
  nvfp4_status (*buffer_copy)(struct nvfp4_buffer *dst, size_t dst_offset, const struct nvfp4_buffer *src, size_t src_offset, size_t bytes, struct nvfp4_stream *stream);
  nvfp4_status (*quantize)(struct nvfp4_context *context, const struct nvfp4_quantize_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*quantize_workspace_size)(struct nvfp4_context *context, const struct nvfp4_quantize_args *args, size_t *bytes);
  nvfp4_status (*amax_scale)(struct nvfp4_context *context, const struct nvfp4_amax_scale_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*amax_scale_workspace_size)(struct nvfp4_context *context, const struct nvfp4_amax_scale_args *args, size_t *bytes);
  nvfp4_status (*dequantize)(struct nvfp4_context *context, const struct nvfp4_dequantize_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*rmsnorm_quantize)(struct nvfp4_context *context, const struct nvfp4_rmsnorm_quantize_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*rmsnorm_quantize_workspace_size)(struct nvfp4_context *context, const struct nvfp4_rmsnorm_quantize_args *args, size_t *bytes);
  nvfp4_status (*hc_rmsnorm_quantize)(struct nvfp4_context *context, const struct nvfp4_hc_rmsnorm_quantize_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*hc_rmsnorm_quantize_workspace_size)(struct nvfp4_context *context, const struct nvfp4_hc_rmsnorm_quantize_args *args, size_t *bytes);
  nvfp4_status (*swiglu_quantize)(struct nvfp4_context *context, const struct nvfp4_swiglu_quantize_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*swiglu_quantize_workspace_size)(struct nvfp4_context *context, const struct nvfp4_swiglu_quantize_args *args, size_t *bytes);
  nvfp4_status (*stage_moe_inputs)(struct nvfp4_context *context, const struct nvfp4_stage_moe_inputs_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*scales_size)(const struct nvfp4_scales_size_args *args, size_t *bytes);
  nvfp4_status (*tile_scales)(struct nvfp4_context *context, const struct nvfp4_tile_scales_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*untile_scales)(struct nvfp4_context *context, const struct nvfp4_tile_scales_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*interleave_gate_up)(struct nvfp4_context *context, const struct nvfp4_interleave_gate_up_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*deinterleave_gate_up)(struct nvfp4_context *context, const struct nvfp4_interleave_gate_up_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*group_ends)(struct nvfp4_context *context, const struct nvfp4_group_ends_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*weights_storage_size)(struct nvfp4_context *context, const struct nvfp4_weights_prepare_args *args, size_t *bytes);
  nvfp4_status (*weights_prepare)(struct nvfp4_context *context, const struct nvfp4_weights_prepare_args *args, struct nvfp4_stream *stream, struct nvfp4_weights **weights);
  nvfp4_status (*weights_export)(struct nvfp4_context *context, const struct nvfp4_weights_export_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*weights_info)(const struct nvfp4_weights *weights, struct nvfp4_weights_shape *shape);
  nvfp4_status (*weights_destroy)(struct nvfp4_weights *weights);
  nvfp4_status (*grouped_gemm)(struct nvfp4_context *context, const struct nvfp4_grouped_gemm_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*grouped_gemm_workspace_size)(struct nvfp4_context *context, const struct nvfp4_grouped_gemm_args *args, size_t *bytes);
  nvfp4_status (*gemm)(struct nvfp4_context *context, const nvfp4_gemm_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*gemm_workspace_size)(struct nvfp4_context *context, const nvfp4_gemm_args *args, size_t *bytes);
  nvfp4_status (*tune)(struct nvfp4_context *context, const struct nvfp4_tune_args *args, struct nvfp4_stream *stream, struct nvfp4_tune_result *result);
  nvfp4_status (*tuning_load)(struct nvfp4_context *context, const char *path, size_t *choices);
  nvfp4_status (*tuning_save)(struct nvfp4_context *context, const char *path);
  nvfp4_status (*moe_route)(struct nvfp4_context *context, const struct nvfp4_moe_route_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*moe_permute)(struct nvfp4_context *context, const struct nvfp4_moe_permute_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*moe_permute_workspace_size)(struct nvfp4_context *context, const struct nvfp4_moe_permute_args *args, size_t *bytes);
  nvfp4_status (*moe_combine)(struct nvfp4_context *context, const struct nvfp4_moe_combine_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*moe_forward)(struct nvfp4_context *context, const struct nvfp4_moe_forward_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*moe_forward_workspace_size)(struct nvfp4_context *context, const struct nvfp4_moe_forward_args *args, size_t *bytes);
  nvfp4_status (*linear)(struct nvfp4_context *context, const nvfp4_linear_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*linear_workspace_size)(struct nvfp4_context *context, const nvfp4_linear_args *args, size_t *bytes);
  nvfp4_status (*grouped_linear)(struct nvfp4_context *context, const struct nvfp4_grouped_linear_args *args, struct nvfp4_stream *stream);
  nvfp4_status (*grouped_linear_workspace_size)(struct nvfp4_context *context, const struct nvfp4_grouped_linear_args *args, size_t *bytes);
};

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NVFP4_H */
