// Rows of the experts between a layer's products → the bfloat16 values that their codes stand for, in the same rows of another
// matrix: many of them, a warp a row, up to 2048 columns. moe_quantize.cuh has the others.
#pragma once
#include "moe_quantize.cuh"

namespace nvfp4 {

constexpr uint32_t ROUND_WARPS = 8;

// Where a warp keeps 16 bytes `unit` of 64: no eight neighbours and no eight every second meet in a bank.
NVFP4_INLINE uint32_t swizzled(uint32_t unit) { return unit ^ (unit >> 3 & 1); }

template <class D>
NVFP4_INLINE void round_rows(const GatherRowsParams& g) {
  constexpr int NB = 4;
  __shared__ uint4 units[ROUND_WARPS][64];
  const RowsParams& p = g.rows;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x / 32, blocks = uint32_t(p.cols / 16);
  uint4* const mine = units[warp];
  ptx::allow_dependents();  // who starts then relies on what stood before the product in front
  ptx::wait_for_launches();
  const uint32_t rows = uint32_t(p.groups.index[p.groups.count - 1]);
  uint32_t faults = 0;
  Encode encode{};
  if (p.mode != MODE_ROW && p.scope == SCOPE_TENSOR) {
    encode = encode_of(p, 0, 0);
    find_ties<D>(encode);
  }
#pragma unroll 1
  for (uint32_t row = blockIdx.x * ROUND_WARPS + warp; row < rows; row += gridDim.x * ROUND_WARPS) {
    const uint64_t from = row * p.src.row_stride;
    Block<D> x[NB];
#pragma unroll
    for (int n = 0; n < NB; n++) {
      if (n * 32 + lane < blocks) load_block<Reuse::ONCE>(x[n], p.src.base, from + 16 * (n * 32 + lane));
      else clear(x[n]);
    }
    if (p.mode == MODE_ROW) {
      uint32_t m = 0;
#pragma unroll
      for (int n = 0; n < NB; n++) m = max(m, finite_magnitude(x[n], x[n].magnitude()));
      const float amax = __uint_as_float(ptx::warp_max(m));
      if (lane == 0) p.decode[row] = decode_scale_from_amax(amax);
      encode = encode_from_amax(amax);
      find_ties<D>(encode);
    } else if (p.scope != SCOPE_TENSOR) {
      encode = encode_of(p, p.scope == SCOPE_GROUP ? expert_of(p.groups, int32_t(row)) : 0, row);
      find_ties<D>(encode);
    }
    uint8_t* const to = p.codes + row * p.codes_row_stride;
#pragma unroll
    for (int n = 0; n < NB; n++) {
      if (n * 32 >= blocks) break;
      uint2 codes = make_uint2(0, 0);
      uint32_t scale = 0;
      if (n * 32 + lane < blocks) scale = quantize_block<AMAX, true>(x[n], encode, codes, faults);
      const uint32_t wide = widen_scale(scale);
      uint4 low = decode_codes(codes.x, wide), high = decode_codes(codes.y, wide);
      if (scale == E4M3_NAN) low = high = make_uint4(NAN_PAIR, NAN_PAIR, NAN_PAIR, NAN_PAIR);
      __syncwarp();
      mine[swizzled(2 * lane)] = low;
      mine[swizzled(2 * lane + 1)] = high;
      __syncwarp();
#pragma unroll
      for (uint32_t i = 0; i < 64; i += 32)
        if (n * 64 + i + lane < 2 * blocks) *reinterpret_cast<uint4*>(to + 16ull * (n * 64 + i + lane)) = mine[swizzled(i + lane)];
    }
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
