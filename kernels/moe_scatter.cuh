// Tokens → their rows in expert order as they are: a CTA reads a token once, however many experts it goes to. Twin of gather in
// src/backend/cpu/moe.rs; moe_gather.cuh has codes whose scales are tiled, moe_quantize.cuh what is quantized on the way.
// `rows`: those of the token's slots, −1 for none.
#pragma once
#include "moe_gather.cuh"

namespace nvfp4 {

NVFP4_INLINE bool goes_anywhere(const int32_t* rows, uint32_t topk) {
  bool any = false;
#pragma unroll 1
  for (uint32_t j = 0; j < topk; j++) any |= rows[j] >= 0;
  return any;
}

// Part `part` of `parts` of the columns.
NVFP4_INLINE void scatter_values(const GatherParams& p, const int32_t* rows, uint64_t token, uint32_t part, uint32_t parts) {
  constexpr uint32_t EACH = 4;  // words in flight a thread
  if (!goes_anywhere(rows, p.topk)) return;
  const uint8_t* const from = p.src + token * p.src_row_stride;
  const uint64_t first = uint64_t(part) * blockDim.x + threadIdx.x, threads = uint64_t(parts) * blockDim.x;
  if (!p.vector) {
    for (uint64_t at = 2 * first; at < p.row_bytes; at += 2 * threads) {
      const uint16_t v = *reinterpret_cast<const uint16_t*>(from + at);
      for (uint32_t j = 0; j < p.topk; j++)
        if (rows[j] >= 0) *reinterpret_cast<uint16_t*>(p.dst + uint32_t(rows[j]) * p.dst_row_stride + at) = v;
    }
    return;
  }
  const uint64_t step = 16 * threads;
#pragma unroll 1
  for (uint64_t at = 16 * first; at < p.row_bytes; at += EACH * step) {
    uint4 v[EACH];
#pragma unroll
    for (uint32_t i = 0; i < EACH; i++)
      if (at + i * step < p.row_bytes) v[i] = ptx::load_once(from + at + i * step);
#pragma unroll 1
    for (uint32_t j = 0; j < p.topk; j++) {
      const int32_t row = rows[j];
      if (row < 0) continue;
      uint8_t* const to = p.dst + uint32_t(row) * p.dst_row_stride + at;
#pragma unroll
      for (uint32_t i = 0; i < EACH; i++)
        if (at + i * step < p.row_bytes) *reinterpret_cast<uint4*>(to + i * step) = v[i];
    }
  }
}

NVFP4_INLINE void scatter_codes(const GatherCodesParams& p, const int32_t* rows, uint64_t token) {
  if (!goes_anywhere(rows, p.topk)) return;
  const uint64_t tiles = (p.blocks + 3) / 4;
  const Span tokens{0, p.tokens, 0, 0};
  const uint8_t* const from = p.src_codes + token * p.src_codes_row_stride;
  const uint64_t wide = p.vector ? 16 : 1;
  for (uint64_t at = wide * threadIdx.x; at < 8 * p.blocks; at += wide * blockDim.x) {
    const uint4 word = p.vector ? ptx::load_once(from + at) : make_uint4(from[at], 0, 0, 0);
#pragma unroll 1
    for (uint32_t j = 0; j < p.topk; j++) {
      if (rows[j] < 0) continue;
      uint8_t* const to = p.codes + uint32_t(rows[j]) * p.codes_row_stride + at;
      if (p.vector) *reinterpret_cast<uint4*>(to) = word;
      else *to = uint8_t(word.x);
    }
  }
  const uint64_t each = p.words ? 4 : 1;
#pragma unroll 1
  for (uint64_t c = each * threadIdx.x; c < p.blocks; c += each * blockDim.x) {
    const bool whole = p.words && c + 4 <= p.blocks;
    for (uint64_t i = c; i < c + (whole ? 1 : each) && i < p.blocks; i++) {
      const uint8_t* const at = scale_address(p.src_scales, tokens, token, i, tiles);
      const uint32_t word = whole ? *reinterpret_cast<const uint32_t*>(at) : *at;
#pragma unroll 1
      for (uint32_t j = 0; j < p.topk; j++) {
        if (rows[j] < 0) continue;
        uint8_t* const to = p.scales.base + uint32_t(rows[j]) * p.scales.row_stride + i;
        if (whole) *reinterpret_cast<uint32_t*>(to) = word;
        else *to = uint8_t(word);
      }
    }
  }
  if (threadIdx.x < p.topk && rows[threadIdx.x] >= 0)
    p.decode[rows[threadIdx.x]] = p.src_decode ? p.src_decode[p.src_scope == SCOPE_ROW ? token : 0] : 1.f;
}

// ---- a launch of its own behind the sort: CTAs walk over tokens

NVFP4_INLINE void scatter_all(const GatherParams& p) {
  ptx::wait_for_launches();
  ptx::allow_dependents();  // not earlier: who starts then may rely on the sort
#pragma unroll 1
  for (uint64_t token = blockIdx.x; token < p.tokens; token += gridDim.x)
    scatter_values(p, p.inverse + token * p.topk, token, blockIdx.y, gridDim.y);
}

NVFP4_INLINE void scatter_all(const GatherCodesParams& p) {
  ptx::wait_for_launches();
  ptx::allow_dependents();  // not earlier: who starts then may rely on the sort
#pragma unroll 1
  for (uint64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) scatter_codes(p, p.inverse + token * p.topk, token);
}

}  // namespace nvfp4
