// Parameters of the product and of the weight kernels: plain structs, mirrored field by field by the #[repr(C)] structs
// of src/backend/cuda/gemm.rs and weights.rs; sizes are asserted on both sides. Addresses are 64-bit, strides count
// elements of values, or bytes of codes and scales.
#pragma once
#include "params.cuh"

namespace nvfp4 {

constexpr uint32_t DTYPE_CODES = 3;  // beside the DTYPE_* of values
enum Activation : uint32_t { ACTIVATION_NONE = 0, ACTIVATION_SWIGLU = 1, ACTIVATION_RELU2 = 2 };

struct GemmParams {
  const int32_t* index;        // ends or counts of the groups, where the grouping has them
  const uint8_t* a;            // values, or codes
  const uint8_t* a_scales;     // of codes
  const float* a_decode;       // NULL: 1
  const uint8_t* weights;      // storage: decode scales f32[groups], then units from units_at on
  const uint8_t* bias;         // [groups, rows of weights] in canonical order; NULL: none
  uint8_t* out;                // values, or codes
  uint8_t* out_scales;         // of codes
  const float* out_decode;     // static decode scales of codes; NULL: 1
  float* partials;             // splits > 1: [tile][split][thread's share]
  uint32_t* counters;          // splits > 1: one a tile, zero before the launch
  uint64_t* fault;             // the context's fault record
  int64_t a_row_stride;
  int64_t a_group_stride;      // strided groups; 0: all share the same rows
  int64_t a_scales_row_stride; // linear layout
  int64_t out_row_stride;
  int64_t out_group_stride;
  int64_t out_scales_row_stride;
  int64_t rows;                // of all groups (none, ends), or of each (masked, strided)
  uint64_t units_at;           // bytes before the first unit of the weights
  uint32_t groups;
  uint32_t grouping;
  uint32_t weight_rows;        // N, the canonical rows of a matrix
  uint32_t cols;               // K
  uint32_t splits;             // blocks that share the k of a tile
  uint32_t a_layout;
  uint32_t a_scope;
  uint32_t a_vectors;          // 1: every row of a starts at a multiple of 16 bytes (values) or 8 (codes)
  uint32_t bias_dtype;
  uint32_t activation;
  uint32_t out_dtype;
  uint32_t out_vectors;        // 1: every output row starts at a multiple of 4 elements (values) or 8 bytes (codes)
  uint32_t accumulate;
  uint32_t out_layout;
  uint32_t out_scope;
  float limit, alpha, beta;    // of SwiGLU; limit 0: none
  uint32_t batch_invariant;    // 1: the same bits as in kernels for other numbers of tokens
  uint32_t reserved;
};
static_assert(sizeof(GemmParams) == 240, "src/backend/cuda/gemm.rs mirrors this struct");

// What the kernels of sm_90 take beside: sm90_schedule.cuh.
struct Sm90Params {
  GemmParams gemm;             // partials: [block]…; counters: flags, 64-bit; splits: 1
  uint64_t token;              // of this launch, of no other in the process, not 0
  uint32_t schedule;
  uint32_t dependent;          // 1: index and weights were there before the launch in front of this one began
};
static_assert(sizeof(Sm90Params) == 256, "src/backend/cuda/gemm.rs mirrors this struct");

// With tensor maps of the activations, [groups][rows][cols] from the right, in boxes of 64 k × a width of the form.
constexpr int MANY_WIDTHS = 3;
struct alignas(64) Sm90ManyParams {
  uint8_t maps[MANY_WIDTHS][128];
  Sm90Params common;
  uint32_t run_steps;          // stages that the tensor cores add up by themselves, at least 1
  uint32_t reserved[15];
};
static_assert(sizeof(Sm90ManyParams) == 704, "src/backend/cuda/gemm.rs mirrors this struct");

// Canonical weights, or values, to units; and units back to canonical weights.
struct WeightsParams {
  uint8_t* storage;
  uint8_t* codes;              // [groups, rows, cols / 2], dense
  uint8_t* scales;             // matrix after matrix in scale_layout
  float* decode;               // read (prepare; may be NULL for values), [groups]: written (export)
  const uint8_t* values;       // [groups, rows, cols], or [groups, cols, rows] where transposed
  uint64_t* fault;
  int64_t row_stride;          // of values as stored
  int64_t group_stride;
  uint64_t units_at;
  uint32_t groups;
  uint32_t rows;
  uint32_t cols;
  uint32_t gate_up;
  uint32_t scale_layout;
  uint32_t dtype;
  uint32_t transposed;
  uint32_t rule;
  uint32_t decode_step;        // of codes: entries of decode between matrices, 1, 0 (one for all) or rows
  uint32_t reserved;
};
static_assert(sizeof(WeightsParams) == 112, "src/backend/cuda/weights.rs mirrors this struct");

}  // namespace nvfp4
