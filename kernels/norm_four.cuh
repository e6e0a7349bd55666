// norm_four: RMSNorm with or without the residual → NVFP4, where rows are many. 16-bit types, no groups, rows of up to 448
// blocks, the plain rule, scales static or per row. The bits are norm_rows'.
//
// CTAs stay: they keep the weight in shared memory and walk over units of four rows (i, i + 32, i + 64, i + 96 of a 128x4
// tile, or four neighbours). A row's registers take the next unit's row as soon as its codes are out, so that loads run
// behind the arithmetic of the rows that are left.
#pragma once
#include "norm_rows.cuh"

namespace nvfp4 {

constexpr uint32_t FOUR_ROWS_THREADS = 448;

// A value a row, four rows, from every lane → the row l % 4 joined over the warp, in lane l. Adjacent pairs level by level:
// a lane hands on the rows that its partner keeps. `join` takes two values in any order.
template <class T, class Join>
NVFP4_INLINE T join_lanes(const T (&v)[4], Join join) {
  const uint32_t lane = threadIdx.x & 31;
  const T a = join(lane & 1 ? v[1] : v[0], __shfl_xor_sync(0xFFFFFFFFu, lane & 1 ? v[0] : v[1], 1));
  const T b = join(lane & 1 ? v[3] : v[2], __shfl_xor_sync(0xFFFFFFFFu, lane & 1 ? v[2] : v[3], 1));
  T mine = join(lane & 2 ? b : a, __shfl_xor_sync(0xFFFFFFFFu, lane & 2 ? a : b, 2));
#pragma unroll
  for (int d = 4; d < 32; d *= 2) mine = join(mine, __shfl_xor_sync(0xFFFFFFFFu, mine, d));
  return mine;
}

// A value a row and warp → the row l % 4 joined over the warps, in lane l of every warp. Up to 16 warps; `parts` is the
// CTA's and not read again by the next call before a barrier.
template <class T, class Join>
NVFP4_INLINE T join_warps(T mine, T (&parts)[4][16], Join join) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  if (lane < 4) parts[lane][warp] = mine;
  __syncthreads();
  const uint32_t row = lane % 4, first = 2 * (lane / 4);
  T v = join(first < warps ? parts[row][first] : T(0), first + 1 < warps ? parts[row][first + 1] : T(0));
#pragma unroll
  for (int d = 4; d < 32; d *= 2) v = join(v, __shfl_xor_sync(0xFFFFFFFFu, v, d));
  return v;
}
template <class T>
NVFP4_INLINE T from_lane(T v, int lane) { return __shfl_sync(0xFFFFFFFFu, v, lane); }

struct Sum { NVFP4_INLINE float operator()(float a, float b) const { return __fadd_rn(a, b); } };
struct Largest { NVFP4_INLINE uint32_t operator()(uint32_t a, uint32_t b) const { return max(a, b); } };

// Lane l works for row l % 4.
template <class D>
NVFP4_INLINE void find_ties_of_four(Encode& mine) {
  if constexpr (CUTS<D>) {
    const uint32_t mantissa = (threadIdx.x & 31) >> 2;
    uint32_t ties = tie_class(mine, mantissa) << 4 * mantissa;
#pragma unroll
    for (int d = 4; d < 32; d *= 2) ties |= __shfl_xor_sync(0xFFFFFFFFu, ties, d);
    mine.ties = ties;
  }
}

template <class D>
NVFP4_INLINE void norm_four(const RowsParams& p) {
  const uint32_t lane = threadIdx.x & 31, layout = p.scales.layout, b = threadIdx.x;
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const bool inside = b < blocks;  // the other threads of a row's last warp count for nothing
  const uint32_t apart = layout == TILED_128X4 ? 32 : 1;
  const uint32_t units = (uint32_t(p.scale_rows) + 3) / 4;
  const auto first_row = [&](uint32_t unit) { return layout == TILED_128X4 ? (unit >> 5) * 128 + (unit & 31) : unit * 4; };
  __shared__ float sums[4][16];
  __shared__ uint32_t peaks[4][16];
  __shared__ float4 weights[4][FOUR_ROWS_THREADS];  // a column a thread: its own alone

  {
    float weight[16];
    load_weights(weight, p, 16ull * min(b, blocks - 1));
#pragma unroll
    for (int i = 0; i < 4; i++)
      weights[i][b] = make_float4(weight[4 * i], weight[4 * i + 1], weight[4 * i + 2], weight[4 * i + 3]);
  }
  const auto load = [&](Block<D>& x, uint32_t row) {
    if (inside && row < uint32_t(p.groups.rows)) load_block<Reuse::ONCE>(x, p.src.base, row * p.src.row_stride + 16 * b);
  };
  Encode mine{1.f, 0.f, false};
  const bool uniform = p.mode == MODE_STATIC && p.scope == SCOPE_TENSOR;
  if (uniform) {
    mine = encode_of(p, 0, 0);
    find_ties<D>(mine);
  }
  uint32_t faults = 0;

  Block<D> x[4];
#pragma unroll
  for (int q = 0; q < 4; q++) {
    clear(x[q]);
    load(x[q], first_row(blockIdx.x) + apart * q);
  }
#pragma unroll 1
  for (uint32_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint32_t r0 = first_row(unit);
    if (p.mode == MODE_STATIC && p.scope != SCOPE_TENSOR) {
      mine = encode_of(p, 0, min(r0 + apart * (lane & 3), uint32_t(p.groups.rows) - 1));
      find_ties_of_four<D>(mine);
    }
    if (p.copy.base) {
#pragma unroll
      for (int q = 0; q < 4; q++) {
        if (!inside || r0 + apart * q >= uint32_t(p.groups.rows)) continue;
        const uint64_t at = (r0 + apart * q) * p.copy.row_stride + 16 * b;
        Block<D> old;
        load_block<Reuse::OURS>(old, p.copy.base, at);
#pragma unroll
        for (int i = 0; i < 8; i++)
          x[q].set(i, __fadd_rn(old.value(2 * i), x[q].value(2 * i)), __fadd_rn(old.value(2 * i + 1), x[q].value(2 * i + 1)));
        store_block(x[q], p.copy.base, at, x[q].magnitude());
      }
    }
    float parts[4];
#pragma unroll
    for (int q = 0; q < 4; q++) parts[q] = inside ? square_sum(x[q]) : 0.f;
    const float sum = join_warps(join_lanes(parts, Sum()), sums, Sum());
    const float inv = inverse_rms(sum, p.cols, p.eps);
    const float by[4] = {from_lane(inv, 0), from_lane(inv, 1), from_lane(inv, 2), from_lane(inv, 3)};
    if (p.inv_rms && b < 4 && r0 + apart * b < uint32_t(p.groups.rows)) p.inv_rms[r0 + apart * b] = inv;
#pragma unroll
    for (int h = 0; h < 4; h++) {
      const float4 w = weights[h][b];
#pragma unroll
      for (int q = 0; q < 4; q++) {
        x[q].set(2 * h, __fmul_rn(__fmul_rn(x[q].value(4 * h), by[q]), w.x), __fmul_rn(__fmul_rn(x[q].value(4 * h + 1), by[q]), w.y));
        x[q].set(2 * h + 1, __fmul_rn(__fmul_rn(x[q].value(4 * h + 2), by[q]), w.z), __fmul_rn(__fmul_rn(x[q].value(4 * h + 3), by[q]), w.w));
      }
    }
    if (p.normed.base) {
#pragma unroll
      for (int q = 0; q < 4; q++)
        if (inside && r0 + apart * q < uint32_t(p.groups.rows))
          store_block(x[q], p.normed.base, (r0 + apart * q) * p.normed.row_stride + 16 * b, x[q].magnitude());
    }
    if (p.mode == MODE_ROW) {
      uint32_t peak[4];
#pragma unroll
      for (int q = 0; q < 4; q++) peak[q] = inside ? finite_magnitude(x[q], x[q].magnitude()) : 0;
      const float amax = __uint_as_float(join_warps(join_lanes(peak, Largest()), peaks, Largest()));
      mine = encode_from_amax(amax);
      find_ties_of_four<D>(mine);
      if (b < 4 && r0 + apart * b < uint32_t(p.groups.rows)) p.decode[r0 + apart * b] = decode_scale_from_amax(amax);
    } else {
      __syncthreads();  // the next unit writes the sums; with two barriers a unit it cannot come too early
    }

    uint8_t* codes_at = p.codes + r0 * p.codes_row_stride + 8 * b;
    uint32_t scales = 0;  // byte q: row q's
#pragma unroll
    for (int q = 0; q < 4; q++, codes_at += apart * p.codes_row_stride) {
      Encode e = mine;
      if (!uniform) {
        e = Encode{from_lane(mine.inverse, q), from_lane(mine.sixth, q), false, from_lane(mine.scaled, q), from_lane(mine.ties, q)};
        e.invalid = e.sixth == 0.f;  // what encode_from_static says so
      }
      if (inside && r0 + apart * q < uint32_t(p.groups.rows)) {
        uint2 codes;
        scales |= quantize_block<AMAX, true>(x[q], e, codes, faults) << 8 * q;
        *reinterpret_cast<uint2*>(codes_at) = codes;
      }
      if (unit + gridDim.x < units) load(x[q], first_row(unit + gridDim.x) + apart * q);
    }
    if (layout != LINEAR) {
      const uint32_t word = turn_scales(scales);
      uint8_t* const at = p.scales.base + tiled_offset(layout, r0, b & ~3u, tiles);
      if ((b >> 2) < tiles) *reinterpret_cast<uint32_t*>(at + (lane & 3) * 4) = word;
    } else {
      uint8_t* at = p.scales.base + r0 * p.scales.row_stride + b;
#pragma unroll
      for (int q = 0; q < 4; q++, at += p.scales.row_stride)
        if (inside && r0 + q < uint32_t(p.groups.rows)) *at = uint8_t(scales >> 8 * q);
    }
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
