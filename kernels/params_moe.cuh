// Parameter structs of the mixture-of-experts kernels. Twin of src/backend/cuda/params_moe.rs; both sides assert the sizes.
#pragma once
#include "params.cuh"

namespace nvfp4 {

enum Score : uint32_t { SOFTMAX = 0, SIGMOID = 1, SQRT_SOFTPLUS = 2 };

struct RouteParams {
  const void* logits;
  uint64_t logits_row_stride;
  const float* bias;    // NULL: none
  const uint8_t* mask;  // NULL: none
  int32_t* ids;
  float* weights;
  uint64_t* fault;
  uint64_t tokens;
  uint32_t dtype;
  uint32_t score;
  uint32_t experts;
  uint32_t topk;
  uint32_t groups;
  uint32_t top_groups;
  uint32_t renormalise;
  float scaling;
};
static_assert(sizeof(RouteParams) == 96, "mirrored in params_moe.rs");

struct PermuteParams {
  const int32_t* ids;
  int32_t* ends;
  int32_t* source_rows;
  int32_t* inverse;
  uint64_t* fault;
  uint64_t slots;
  uint64_t chunk;  // slots a CTA
  uint32_t chunks;
  uint32_t topk;
  uint32_t experts;
  uint32_t first_expert;
  uint32_t local_experts;
  uint32_t is_short;  // 1: the sort is one launch, whose CTAs count everything themselves
};
static_assert(sizeof(PermuteParams) == 80, "mirrored in params_moe.rs");

// Rows of bytes.
struct GatherParams {
  const int32_t* inverse;
  const uint8_t* src;
  uint8_t* dst;
  uint64_t tokens;
  uint64_t row_bytes;
  uint64_t src_row_stride;
  uint64_t dst_row_stride;
  uint32_t topk;
  uint32_t vector;  // 1 where rows are whole 16-byte words
};
static_assert(sizeof(GatherParams) == 64, "mirrored in params_moe.rs");

struct GatherCodesParams {
  GroupsParams groups;
  uint64_t scale_rows;
  uint64_t blocks;
  const int32_t* source_rows;
  const int32_t* inverse;
  const uint8_t* src_codes;
  uint64_t src_codes_row_stride;
  const float* src_decode;  // NULL: 1
  uint8_t* codes;
  uint64_t codes_row_stride;
  float* decode;
  ScalesParams src_scales;
  ScalesParams scales;
  uint64_t tokens;
  uint32_t src_scope;
  uint32_t vector;  // 1 where rows of codes are whole 16-byte words
  uint32_t words;   // 1 where four scales of a row are a word on both sides
  uint32_t topk;
};
static_assert(sizeof(GatherCodesParams) == 176, "mirrored in params_moe.rs");

struct GatherRowsParams {
  RowsParams rows;
  const int32_t* inverse;  // NULL: tokens are rows of the experts, which stay where they are
  const int32_t* ids;
  uint64_t tokens;
  uint32_t topk;
  uint32_t first_expert;
  uint32_t decoded;  // 1: rows.codes are bfloat16 rows e2m1 * e4m3, and there are no scales
  uint32_t reserved;
};
static_assert(sizeof(GatherRowsParams) == sizeof(RowsParams) + 40, "mirrored in params_moe.rs");

// All of it in one launch.
template <class Gather> struct DispatchParams {
  RouteParams route;
  PermuteParams permute;
  Gather gather;
  uint32_t routed;  // 0: the ids are given
  uint32_t reserved;
};

struct CombineParams {
  const void* y;
  uint64_t y_row_stride;
  const int32_t* inverse;
  const float* weights;
  const void* shared;  // NULL: none
  uint64_t shared_row_stride;
  void* out;
  uint64_t out_row_stride;
  uint64_t* fault;
  uint64_t tokens;
  uint64_t cols;
  uint64_t rows;
  uint32_t topk;
  uint32_t y_dtype;
  uint32_t shared_dtype;
  uint32_t out_dtype;
  float scaling;
  uint32_t early;  // 1: inverse and weights were there before the launch in front
};
static_assert(sizeof(CombineParams) == 120, "mirrored in params_moe.rs");

}  // namespace nvfp4
