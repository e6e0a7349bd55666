// Parameter structs of the row and layout kernels: plain C, 8-byte fields first, no implicit padding.
// Twin of src/backend/cuda/params.rs, field by field; both sides assert the sizes.
#pragma once
#include <stdint.h>

namespace nvfp4 {

// Values of `kind`, `layout`, `scope`, `rule`, `dtype`, `producer` and `mode` below; the Rust side casts its enums to these.
enum Grouping : uint32_t { GROUPS_NONE = 0, GROUPS_ENDS = 1, GROUPS_MASKED = 2, GROUPS_STRIDED = 3 };
enum Layout : uint32_t { LINEAR = 0, TILED_128X4 = 1, TILED_8X4 = 2 };
enum Scope : uint32_t { SCOPE_TENSOR = 0, SCOPE_GROUP = 1, SCOPE_ROW = 2 };
enum Rule : uint32_t { AMAX = 0, FOUR_OVER_SIX = 1, MIN_MSE = 2 };
enum Dtype : uint32_t { DTYPE_BF16 = 0, DTYPE_F16 = 1, DTYPE_F32 = 2 };
enum ProducerId : uint32_t { PLAIN = 0, TRANSPOSED = 1, NORM = 2, HYPER = 3, SWIGLU = 4, RELU2 = 5, IDENTITY = 6 };
// Where the decode scales of a pass come from or go to.
enum Mode : uint32_t {
  MODE_STATIC = 0,     // read from `decode`; NULL is 1
  MODE_FROM_AMAX = 1,  // `decode` holds the bits of the scope's amax
  MODE_ROW = 2,        // found per row in this kernel and written to `decode`
  MODE_FIND_AMAX = 3,  // nothing is quantized: the amax of every scope is max'ed into `decode` as bits
  MODE_ROW_AMAX = 4,   // nothing is quantized: decode scales of rows are written
};

// The split of rows into groups; `rows` counts all rows (none, ends) or those of one group (masked, strided).
struct GroupsParams {
  const int32_t* index;  // ends or counts
  uint64_t rows;
  uint32_t kind;
  uint32_t count;
};
static_assert(sizeof(GroupsParams) == 24, "mirrored in params.rs");

// Rows of values; strides in elements.
struct MatrixParams {
  void* base;
  uint64_t row_stride;
  uint64_t group_stride;  // strided groups only
};
static_assert(sizeof(MatrixParams) == 24, "mirrored in params.rs");

struct ScalesParams {
  uint8_t* base;
  uint64_t row_stride;  // bytes; linear only
  uint32_t layout;
  uint32_t reserved;
};
static_assert(sizeof(ScalesParams) == 24, "mirrored in params.rs");

// Every kernel that ends in codes, or in the amax of what would be quantized.
struct RowsParams {
  GroupsParams groups;
  uint64_t scale_rows;  // rows of the padded row space that are looked at: a bound for any split
  uint64_t cols;        // values a row after the producer
  MatrixParams src;     // hyper-connections: the streams
  MatrixParams copy;    // residual (in and out), mixed, or activated; base NULL: none
  MatrixParams normed;  // base NULL: none
  uint64_t stream_stride;
  const float* mix;
  uint64_t mix_row_stride;
  const void* weight;
  float* inv_rms;
  uint8_t* codes;
  uint64_t codes_row_stride;  // bytes
  ScalesParams scales;
  float* decode;
  uint64_t* fault;
  uint32_t dtype;
  uint32_t producer;
  uint32_t rule;
  uint32_t scope;
  uint32_t mode;
  uint32_t first;  // 1: this pass writes the copies and the residual; 0: an earlier pass has
  uint32_t interleaved;
  uint32_t streams;
  uint32_t weight_dtype;
  uint32_t steps;  // tile kernels: column steps of a warp, 1 to 4
  float weight_offset;
  float eps;
  float limit;
  float alpha;
  float beta;
  uint32_t reserved;
};
static_assert(sizeof(RowsParams) == 272, "mirrored in params.rs");

// Amax bits → decode scales, in place.
struct FinishParams {
  float* decode;
  uint64_t count;
};
static_assert(sizeof(FinishParams) == 16, "mirrored in params.rs");

struct RoutesParams {
  const int32_t* ids_in;
  int64_t* ids_out;
  const float* weights_in;
  float* weights_out;
  uint64_t count;
};
static_assert(sizeof(RoutesParams) == 40, "mirrored in params.rs");

struct DequantizeParams {
  GroupsParams groups;
  uint64_t scale_rows;
  uint64_t cols;
  const uint8_t* codes;
  uint64_t codes_row_stride;
  uint64_t codes_group_stride;  // strided groups
  ScalesParams scales;
  const float* decode;  // NULL: 1
  MatrixParams dst;
  uint64_t* fault;
  uint32_t scope;
  uint32_t dtype;
  uint32_t vector;
  uint32_t steps;
};
static_assert(sizeof(DequantizeParams) == 144, "mirrored in params.rs");

struct MoveScalesParams {
  GroupsParams groups;
  uint64_t scale_rows;
  uint64_t blocks;
  ScalesParams src;
  ScalesParams dst;
  uint64_t* fault;
};
static_assert(sizeof(MoveScalesParams) == 96, "mirrored in params.rs");

struct InterleaveParams {
  const uint8_t* src;
  uint8_t* dst;
  uint64_t rows;  // of all matrices: count * 2 * half
  uint64_t half;
  uint64_t row_bytes;
  uint64_t granularity;
  uint32_t forward;
  uint32_t vector;  // 1 where rows are whole 16-byte words
};
static_assert(sizeof(InterleaveParams) == 56, "mirrored in params.rs");

}  // namespace nvfp4
