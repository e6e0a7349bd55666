// Tokens → NVFP4 rows in expert order, or those rows as the bfloat16 values that products multiply with: a CTA reads a token
// once, and quantizes it once unless static scales are one an expert, however many experts it goes to. Without an inverse
// rows are the experts' already and stay where they are. Twin of gather and round in src/backend/cpu/moe.rs.
#pragma once
#include "general_rows.cuh"
#include "moe_permute.cuh"
#include "values.cuh"

namespace nvfp4 {

// A block of a row of `dtype` values at `element`; as floats where anything may be unaligned.
template <class D>
NVFP4_INLINE void load_gathered(Block<D>& x, const RowsParams& p, uint64_t element) {
  load_block<Reuse::SOON>(x, p.src.base, element);
}
template <>
NVFP4_INLINE void load_gathered(Block<F32>& x, const RowsParams& p, uint64_t element) {
  float v[16];
  load_values(v, p.dtype, p.src.base, element);
#pragma unroll
  for (int i = 0; i < 16; i++) x.w[i] = __float_as_uint(v[i]);
}

// A token on its way: the thread's block of it, and the row of the lane's slot.
template <class D> struct Gathered {
  Block<D> x;
  int32_t row;
};

// `rows`: of the token's slots, −1 for none; NULL: the token is a row.
template <class D>
NVFP4_INLINE void load_token(Gathered<D>& t, const GatherRowsParams& g, const int32_t* rows, uint64_t token) {
  const uint32_t lane = threadIdx.x & 31;
  t.row = lane < g.topk ? (rows ? rows[lane] : int32_t(token)) : -1;
  if (threadIdx.x < g.rows.cols / 16) load_gathered(t.x, g.rows, token * g.rows.src.row_stride + 16 * threadIdx.x);
}

// The expert of a row: as many as have ended before it. Whole warps.
NVFP4_INLINE uint32_t expert_of(const GroupsParams& groups, int32_t row) {
  uint32_t before = 0;
#pragma unroll 1
  for (uint32_t base = 0; base < groups.count; base += 32) {
    const uint32_t lane = threadIdx.x & 31, e = base + lane;
    before += __popc(ptx::warp_or(uint32_t(e < groups.count && groups.index[e] <= row) << lane));
  }
  return before;
}

constexpr uint32_t NAN_PAIR = Bf16::NAN_CODE | Bf16::NAN_CODE << 16;

// Lane j has the scales of slot j; find_ties for all of them. Whole warps.
template <class D>
NVFP4_INLINE void find_ties_of_slots(Encode& mine, uint32_t topk) {
  if constexpr (CUTS<D>) {
    const uint32_t lane = threadIdx.x & 31, mantissa = lane & 7;
#pragma unroll 1
    for (uint32_t first = 0; first < topk; first += 4) {
      Encode other{__shfl_sync(0xFFFFFFFFu, mine.inverse, first + lane / 8), 0.f, false};
      uint32_t ties = tie_class(other, mantissa) << 4 * mantissa;
#pragma unroll
      for (uint32_t d = 1; d < 8; d *= 2) ties |= __shfl_xor_sync(0xFFFFFFFFu, ties, d);
      ties = __shfl_sync(0xFFFFFFFFu, ties, (lane & 3) * 8);
      if (lane - first < 4) mine.ties = ties;
    }
  }
}

NVFP4_INLINE Encode encode_of_slot(const Encode& mine, uint32_t slot) {
  Encode e{__shfl_sync(0xFFFFFFFFu, mine.inverse, slot), __shfl_sync(0xFFFFFFFFu, mine.sixth, slot),
           __shfl_sync(0xFFFFFFFFu, uint32_t(mine.invalid), slot) != 0};
  e.ties = __shfl_sync(0xFFFFFFFFu, mine.ties, slot);
  return e;
}

// cta_max with one meeting: calls take turns with two buffers of 16 words.
NVFP4_INLINE uint32_t token_max(uint32_t v, uint32_t* shared, uint32_t& turn) {
  uint32_t* const buffer = shared + 16 * (turn & 1);
  turn++;
  const uint32_t lane = threadIdx.x & 31, most = ptx::warp_max(v);
  if (lane == 0) buffer[threadIdx.x >> 5] = most;
  __syncthreads();
  return ptx::warp_max(lane < blockDim.x >> 5 ? buffer[lane] : 0);
}

// What the thread leaves of its block: 16 bytes each, or words of codes and the scale.
struct Left {
  uint4 first, second;  // decoded: a part of its pair's even block, one of the odd block; else the codes
  uint32_t scale;       // tiled: of the block and the three behind it
};

template <class D>
NVFP4_INLINE Left quantize_gathered(const GatherRowsParams& g, const Block<D>& x, const Encode& encode, bool here, uint32_t& faults) {
  const RowsParams& p = g.rows;
  uint2 codes = make_uint2(0, 0);
  Left left{};
  if (here) {
    if constexpr (D::BYTES == 4) left.scale = quantize_block_any(p.rule, x, encode, codes, faults);
    else left.scale = quantize_block<AMAX, true>(x, encode, codes, faults);
  }
  if (g.decoded) {
    // Two lanes share their blocks, so that each store fills sectors.
    const uint32_t wide = widen_scale(left.scale), odd = threadIdx.x & 1;
    uint4 low = decode_codes(codes.x, wide), high = decode_codes(codes.y, wide);
    if (left.scale == E4M3_NAN) low = high = make_uint4(NAN_PAIR, NAN_PAIR, NAN_PAIR, NAN_PAIR);
    const uint4 sent = odd ? low : high;
    const uint4 other = make_uint4(__shfl_xor_sync(0xFFFFFFFFu, sent.x, 1), __shfl_xor_sync(0xFFFFFFFFu, sent.y, 1),
                                   __shfl_xor_sync(0xFFFFFFFFu, sent.z, 1), __shfl_xor_sync(0xFFFFFFFFu, sent.w, 1));
    left.first = odd ? other : low;
    left.second = odd ? high : other;
    return left;
  }
  left.first = make_uint4(codes.x, codes.y, 0, 0);
  if (p.scales.layout != LINEAR) {
    left.scale |= __shfl_xor_sync(0xFFFFFFFFu, left.scale, 1) << 8;
    left.scale |= __shfl_xor_sync(0xFFFFFFFFu, left.scale, 2) << 16;
  }
  return left;
}

// Block `b` of row `row`; `tiled_row`: where its scales lie, if they are tiled.
template <class D>
NVFP4_INLINE void store_gathered(const GatherRowsParams& g, uint64_t row, uint32_t tiled_row, uint32_t b, const Left& left) {
  const RowsParams& p = g.rows;
  const uint32_t blocks = uint32_t(p.cols / 16);
  if (g.decoded) {
    uint8_t* const at = p.codes + row * p.codes_row_stride + 32ull * (b & ~1u) + 16 * (b & 1);
    if ((b & ~1u) < blocks) *reinterpret_cast<uint4*>(at) = left.first;
    if ((b | 1) < blocks) *reinterpret_cast<uint4*>(at + 32) = left.second;
    return;
  }
  if (p.scales.layout != LINEAR && b < blocks && (b & 3) == 0)
    *reinterpret_cast<uint32_t*>(p.scales.base + tiled_offset(p.scales.layout, tiled_row, b, (blocks + 3) / 4)) = left.scale;
  if (b >= blocks) return;
  uint8_t* const at = p.codes + row * p.codes_row_stride + 8ull * b;
  if (D::BYTES == 4 && reinterpret_cast<uintptr_t>(at) & 7) {
    for (int i = 0; i < 8; i++) at[i] = uint8_t((i < 4 ? left.first.x : left.first.y) >> 8 * (i & 3));
  } else {
    *reinterpret_cast<uint2*>(at) = make_uint2(left.first.x, left.first.y);
  }
  if (p.scales.layout == LINEAR) p.scales.base[row * p.scales.row_stride + b] = uint8_t(left.scale);
}

// Up to a block a thread stays in registers between the amax and the codes. D = F32: any dtype, alignment and rule.
// `ids`: of the token's slots. `shared`: 32 words, `turn`: of them. `tiles`: find_tiles'.
template <class D>
NVFP4_INLINE void scatter_quantize(const GatherRowsParams& g, Gathered<D>& t, uint64_t token, const int32_t* ids, uint32_t* shared,
                                   uint32_t& turn, const uint32_t* tiles, uint32_t& faults) {
  const RowsParams& p = g.rows;
  if (!ptx::warp_or(t.row >= 0)) return;
  const uint32_t blocks = uint32_t(p.cols / 16);
  const uint64_t row = token * p.src.row_stride;
  // All rows of the token have one scale.
  const bool common = p.mode == MODE_ROW || p.scope == SCOPE_TENSOR;
  uint32_t expert = 0;  // of the lane's slot
  if (tiles || !common) {
    if (!g.inverse) expert = expert_of(p.groups, int32_t(token));
    else if (t.row >= 0) expert = uint32_t(ids[threadIdx.x & 31]) - g.first_expert;
  }
  Encode encode{1.f, 0.f, false};
  if (p.mode == MODE_ROW) {
    uint32_t m = 0;
    if (threadIdx.x < blocks) m = finite_magnitude(t.x, t.x.magnitude());
#pragma unroll 1
    for (uint32_t b = threadIdx.x + blockDim.x; b < blocks; b += blockDim.x) {
      Block<D> next;
      load_gathered(next, p, row + 16ull * b);
      m = max(m, finite_magnitude(next, next.magnitude()));
    }
    const float amax = __uint_as_float(token_max(m, shared, turn));
    if (threadIdx.x < 32 && t.row >= 0) p.decode[t.row] = decode_scale_from_amax(amax);
    encode = encode_from_amax(amax);
  } else if (common) {
    encode = encode_of(p, 0, 0);
  } else {
    if (t.row >= 0) encode = encode_of(p, expert, uint32_t(t.row));  // of the lane's slot
  }
  if (common) find_ties<D>(encode);
  else find_ties_of_slots<D>(encode, g.topk);
  const uint32_t tiled_row = tiles && t.row >= 0 ? uint32_t(t.row) + tiles[expert] : 0;
  // Whole warps, for lanes are asked.
#pragma unroll 1
  for (uint32_t first = 0; first < blocks; first += blockDim.x) {
    const uint32_t b = first + threadIdx.x;
    const bool here = b < blocks;
    if (first > 0 && here) load_gathered(t.x, p, row + 16ull * b);
    Left left{};
    if (common) left = quantize_gathered(g, t.x, encode, here, faults);
#pragma unroll 1
    for (uint32_t j = 0; j < g.topk; j++) {
      const int32_t to = __shfl_sync(0xFFFFFFFFu, t.row, j);
      const uint32_t at = __shfl_sync(0xFFFFFFFFu, tiled_row, j);
      if (to < 0) continue;
      if (!common) left = quantize_gathered(g, t.x, encode_of_slot(encode, j), here, faults);
      store_gathered<D>(g, uint32_t(to), at, b, left);
    }
  }
}

// ---- a launch of its own behind the sort or a product: CTAs walk over tokens

// Of every local expert what its rows are away from those of the padded row space; the zeros of the padding, a row a warp, where
// this launch writes them.
NVFP4_INLINE void find_tiles(const RowsParams& p, uint32_t* tiles, bool pads = true) {
  const uint32_t lane = threadIdx.x & 31, height = tile_rows(p.scales.layout), count = p.groups.count;
  if (threadIdx.x < 32) {
    uint32_t end = 0, scale_row = 0;
#pragma unroll 1
    for (uint32_t base = 0; base < count; base += 32) {
      const uint32_t e = base + lane, here = e < count ? uint32_t(p.groups.index[e]) : 0, to = max(end, warp_scan<true>(here));
      uint32_t from = __shfl_up_sync(0xFFFFFFFFu, to, 1);
      if (lane == 0) from = end;
      const uint32_t padded = uint32_t(round_up(to - from, height)), sum = warp_scan<false>(padded);
      if (e < count) tiles[e] = scale_row + sum - padded - from;
      end = __shfl_sync(0xFFFFFFFFu, to, 31);
      scale_row += __shfl_sync(0xFFFFFFFFu, sum, 31);
    }
  }
  __syncthreads();
  if (!pads) return;
  const uint32_t words = uint32_t(p.cols / 16 + 3) / 4, warps = blockDim.x / 32;
#pragma unroll 1
  for (uint32_t unit = blockIdx.x * warps + threadIdx.x / 32; unit < count * height; unit += gridDim.x * warps) {
    const uint32_t e = unit / height, from = e ? uint32_t(p.groups.index[e - 1]) : 0, end = uint32_t(p.groups.index[e]);
    const uint32_t row = end + unit % height;
    if (row - from >= round_up(end - from, height)) continue;
    for (uint32_t c = lane; c < words; c += 32)
      *reinterpret_cast<uint32_t*>(p.scales.base + tiled_offset(p.scales.layout, row + tiles[e], 4 * c, words)) = 0;
  }
}

// The next token is loaded while this one is stored.
template <class D>
NVFP4_INLINE void scatter_all(const GatherRowsParams& g) {
  __shared__ uint32_t shared[32], tiles[MOST_EXPERTS];
  // Behind a layer's product who starts then relies on what stood before that; behind a sort on what the sort has written.
  if (!g.inverse) ptx::allow_dependents();
  ptx::wait_for_launches();
  if (g.inverse) ptx::allow_dependents();
  const auto load = [&](Gathered<D>& t, uint32_t token) {
    load_token(t, g, g.inverse ? g.inverse + uint64_t(token) * g.topk : nullptr, token);
  };
  uint32_t faults = 0, turn = 0;
  Gathered<D> t;
  uint32_t token = blockIdx.x;
  if (token < g.tokens) load(t, token);
  // Rows that stay are as many as the experts have.
  const uint32_t tokens = g.inverse ? uint32_t(g.tokens) : uint32_t(g.rows.groups.index[g.rows.groups.count - 1]);
  const bool tiled = !g.decoded && g.rows.scales.layout != LINEAR;
  if (tiled) find_tiles(g.rows, tiles);
#pragma unroll 1
  while (token < tokens) {
    const uint32_t after = token + gridDim.x;
    Gathered<D> next;
    if (after < tokens) load(next, after);
    scatter_quantize(g, t, token, g.ids + uint64_t(token) * g.topk, shared, turn, tiled ? tiles : nullptr, faults);
    t = next;
    token = after;
  }
  raise_fault_warp(g.rows.fault, faults);
}

}  // namespace nvfp4
