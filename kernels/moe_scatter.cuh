// Tokens → their rows in expert order, scales linear: a CTA reads a token once, and quantizes it once, however many experts it
// goes to. Twin of gather in src/backend/cpu/moe.rs; moe_gather.cuh has the tiled scales.
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

template <class D>
NVFP4_INLINE uint32_t quantize_gathered(const RowsParams& p, const Block<D>& x, const Encode& encode, uint2& codes, uint32_t& faults) {
  if constexpr (D::BYTES == 4) return quantize_block_any(p.rule, x, encode, codes, faults);
  else return quantize_block<AMAX>(x, encode, codes, faults);
}

template <class D>
NVFP4_INLINE void store_gathered(const RowsParams& p, uint64_t row, uint64_t b, uint32_t scale, const uint2& codes) {
  uint8_t* const at = p.codes + row * p.codes_row_stride + 8 * b;
  if (D::BYTES == 4 && reinterpret_cast<uintptr_t>(at) & 7) {
    for (int i = 0; i < 8; i++) at[i] = uint8_t((i < 4 ? codes.x : codes.y) >> 8 * (i & 3));
  } else {
    *reinterpret_cast<uint2*>(at) = codes;
  }
  p.scales.base[row * p.scales.row_stride + b] = uint8_t(scale);
}

// A token on its way: the thread's block of it, and of the lane's slot the row and the id (where scales are per group).
template <class D> struct Gathered {
  Block<D> x;
  int32_t row, id;
};

template <class D>
NVFP4_INLINE void load_token(Gathered<D>& t, const GatherRowsParams& g, const int32_t* rows, const int32_t* ids, uint64_t token) {
  const uint32_t lane = threadIdx.x & 31;
  t.row = lane < g.topk ? rows[lane] : -1;
  t.id = lane < g.topk && g.rows.scope == SCOPE_GROUP ? ids[lane] : 0;
  if (threadIdx.x < g.rows.cols / 16) load_gathered(t.x, g.rows, token * g.rows.src.row_stride + 16 * threadIdx.x);
}

// Up to a block a thread stays in registers between the amax and the codes. D = F32: any dtype, alignment and rule.
// `shared`: 32 words.
template <class D>
NVFP4_INLINE void scatter_quantize(const GatherRowsParams& g, Gathered<D>& t, uint64_t token, uint32_t* shared, uint32_t& faults) {
  const RowsParams& p = g.rows;
  if (!ptx::warp_or(t.row >= 0)) return;
  const uint64_t blocks = p.cols / 16, row = token * p.src.row_stride;
  // All rows of the token have one scale.
  const bool common = p.mode == MODE_ROW || p.scope == SCOPE_TENSOR;
  Encode encode;
  if (p.mode == MODE_ROW) {
    uint32_t m = 0;
    if (threadIdx.x < blocks) m = finite_magnitude(t.x, t.x.magnitude());
#pragma unroll 1
    for (uint64_t b = threadIdx.x + blockDim.x; b < blocks; b += blockDim.x) {
      Block<D> next;
      load_gathered(next, p, row + 16 * b);
      m = max(m, finite_magnitude(next, next.magnitude()));
    }
    const float amax = __uint_as_float(cta_max(m, shared));
    if (threadIdx.x < 32 && t.row >= 0) p.decode[t.row] = decode_scale_from_amax(amax);
    encode = encode_from_amax(amax);
  } else if (common) {
    encode = encode_of(p, 0, 0);
  }
  // Whole warps, for rows and ids are asked of lanes.
#pragma unroll 1
  for (uint64_t first = 0; first < blocks; first += blockDim.x) {
    const uint64_t b = first + threadIdx.x;
    const bool here = b < blocks;
    if (first > 0 && here) load_gathered(t.x, p, row + 16 * b);
    uint2 codes;
    uint32_t scale = 0;
    if (common && here) scale = quantize_gathered(p, t.x, encode, codes, faults);
#pragma unroll 1
    for (uint32_t j = 0; j < g.topk; j++) {
      const int32_t to = __shfl_sync(0xFFFFFFFFu, t.row, j), id = __shfl_sync(0xFFFFFFFFu, t.id, j);
      if (to < 0 || !here) continue;
      if (!common) scale = quantize_gathered(p, t.x, encode_of(p, uint32_t(id) - g.first_expert, to), codes, faults);
      store_gathered<D>(p, uint32_t(to), b, scale, codes);
    }
  }
}

// ---- a launch of its own behind the sort: CTAs walk over tokens

NVFP4_INLINE void scatter_all(const GatherParams& p) {
  ptx::wait_for_launches();
#pragma unroll 1
  for (uint64_t token = blockIdx.x; token < p.tokens; token += gridDim.x)
    scatter_values(p, p.inverse + token * p.topk, token, blockIdx.y, gridDim.y);
}

NVFP4_INLINE void scatter_all(const GatherCodesParams& p) {
  ptx::wait_for_launches();
#pragma unroll 1
  for (uint64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) scatter_codes(p, p.inverse + token * p.topk, token);
}

// The next token is loaded while this one is stored.
template <class D>
NVFP4_INLINE void scatter_all(const GatherRowsParams& p) {
  __shared__ uint32_t shared[32];
  ptx::wait_for_launches();
  uint32_t faults = 0;
  Gathered<D> t;
  uint64_t token = blockIdx.x;
  if (token < p.tokens) load_token(t, p, p.inverse + token * p.topk, p.ids + token * p.topk, token);
#pragma unroll 1
  while (token < p.tokens) {
    const uint64_t after = token + gridDim.x;
    Gathered<D> next;
    if (after < p.tokens) load_token(next, p, p.inverse + after * p.topk, p.ids + after * p.topk, after);
    scatter_quantize(p, t, token, shared, faults);
    t = next;
    token = after;
  }
  raise_fault_warp(p.rows.fault, faults);
}

}  // namespace nvfp4
