// norm_rows: RMSNorm, with a residual added or streams mixed before it, → NVFP4, one block of each row a thread.
// 16-bit types, rows of up to 512 blocks, the plain scale rule, scales static or per row.
//
// A row a CTA: answers soonest. Twin of src/backend/cpu/rows.rs.
#pragma once
#include "cached_rows.cuh"

namespace nvfp4 {

// The tree over 16 values by one thread: fewer dependent steps than five shuffles.
NVFP4_INLINE float sum_of_16(const float (&v)[16], uint32_t count) {
  float s[16];
#pragma unroll
  for (uint32_t i = 0; i < 16; i++) s[i] = i < count ? v[i] : 0.f;
#pragma unroll
  for (int d = 1; d < 16; d *= 2)
#pragma unroll
    for (int i = 0; i < 16; i += 2 * d) s[i] = __fadd_rn(s[i], s[i + d]);
  return s[0];
}

// The weight of a block from `column` on, widened, the offset added.
NVFP4_INLINE void load_weights(float (&weight)[16], const RowsParams& p, uint64_t column) {
  const char* base = static_cast<const char*>(p.weight);
  if (p.weight_dtype == DTYPE_BF16) {
    Block<Bf16> w;
    load_block<Reuse::OURS>(w, base, column);
#pragma unroll
    for (int i = 0; i < 16; i++) weight[i] = __fadd_rn(w.value(i), p.weight_offset);
  } else {
    float half[8];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      load_weight(half, p, column + 8 * h);
#pragma unroll
      for (int i = 0; i < 8; i++) weight[8 * h + i] = half[i];
    }
  }
}

// x of a hyper-connection's block: two streams at a time are on their way.
template <class D>
NVFP4_INLINE void mix_streams(Block<D>& x, const RowsParams& p, uint64_t row, uint64_t column) {
  float acc[16];
  const float* mix = p.mix + row * p.mix_row_stride;
  const uint64_t at = row * p.src.row_stride + column;
#pragma unroll 1
  for (uint32_t first = 0; first < p.streams; first += 2) {
    Block<D> part[2];
    float by[2];
#pragma unroll
    for (uint32_t l = 0; l < 2; l++) {
      const uint32_t stream = min(first + l, p.streams - 1);
      load_block<Reuse::ONCE>(part[l], p.src.base, at + stream * p.stream_stride);
      by[l] = mix[stream];
    }
#pragma unroll
    for (uint32_t l = 0; l < 2; l++) {
      if (first + l >= p.streams) continue;
#pragma unroll
      for (int i = 0; i < 16; i++)
        acc[i] = first + l == 0 ? __fmul_rn(by[l], part[l].value(i)) : __fmaf_rn(by[l], part[l].value(i), acc[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i++) x.set(i, acc[2 * i], acc[2 * i + 1]);
}

// PRODUCER: NORM or HYPER.
template <class D, uint32_t PRODUCER, bool GROUPED>
NVFP4_INLINE void norm_rows(const RowsParams& p) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5, layout = p.scales.layout;
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2, b = threadIdx.x;
  const bool inside = b < blocks;
  const uint64_t column = 16ull * min(b, blocks - 1);  // threads past the row read its last block, and count for nothing
  alignas(16) __shared__ float sums[16];
  __shared__ uint32_t peaks[16];

  SpanFinder finder(p.groups, tile_rows(layout));
  if (GROUPED && blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < p.scale_rows; unit += gridDim.x) {
    Span span{0, p.groups.rows, 0, 0};
    if (GROUPED && !finder.find(unit, span)) continue;
    const uint64_t r = unit - span.first_scale_row, logical = span.first_row + r;
    uint32_t scale = 0;
    if (r < span.rows) {  // else the row pads the group's last tile
      // All loads before the first use of any.
      Block<D> x;
      const float given = p.mode == MODE_ROW ? 0.f : given_scale(p, span.group, logical);
      if constexpr (PRODUCER == NORM) load_block<Reuse::ONCE>(x, p.src.base, logical * p.src.row_stride + column);
      float weight[16];
      if (PRODUCER == NORM && p.copy.base) {
        const uint64_t at = logical * p.copy.row_stride + column;
        Block<D> old;
        load_block<Reuse::OURS>(old, p.copy.base, at);
        load_weights(weight, p, column);
#pragma unroll
        for (int i = 0; i < 8; i++)
          x.set(i, __fadd_rn(old.value(2 * i), x.value(2 * i)), __fadd_rn(old.value(2 * i + 1), x.value(2 * i + 1)));
        if (inside) store_block(x, p.copy.base, at, x.magnitude());
      } else {
        load_weights(weight, p, column);
      }
      if constexpr (PRODUCER == HYPER) {
        mix_streams(x, p, logical, column);
        if (p.copy.base && inside) store_block(x, p.copy.base, logical * p.copy.row_stride + column, x.magnitude());
      }

      const float part = pair_sum(inside ? square_sum(x) : 0.f);
      if (lane == 0) sums[warp] = part;
      __syncthreads();
      const float inv = inverse_rms(sum_of_16(sums, warps), p.cols, p.eps);
      if (p.inv_rms && threadIdx.x == 0) p.inv_rms[logical] = inv;
#pragma unroll
      for (int i = 0; i < 8; i++)
        x.set(i, __fmul_rn(__fmul_rn(x.value(2 * i), inv), weight[2 * i]), __fmul_rn(__fmul_rn(x.value(2 * i + 1), inv), weight[2 * i + 1]));
      if (p.normed.base && inside) store_block(x, p.normed.base, logical * p.normed.row_stride + column, x.magnitude());

      Encode encode;
      if (p.mode == MODE_ROW) {
        const uint32_t peak = ptx::warp_max(inside ? finite_magnitude(x, x.magnitude()) : 0);
        if (lane == 0) peaks[warp] = peak;
        __syncthreads();
        const float amax = __uint_as_float(ptx::warp_max(lane < warps ? peaks[lane & 15] : 0));
        encode = encode_from_amax(amax);
        if (threadIdx.x == 0) p.decode[logical] = decode_scale_from_amax(amax);
      } else {
        encode = encode_given(p, given);
      }
      if (inside) {
        uint2 codes;
        scale = quantize_block<AMAX>(x, encode, codes, faults);
        *reinterpret_cast<uint2*>(p.codes + logical * p.codes_row_stride + 8 * b) = codes;
      }
    }
    if (layout == LINEAR ? inside && r < span.rows : (b >> 2) < tiles) *scale_address(p.scales, span, r, b, tiles) = uint8_t(scale);
    if (gridDim.x < p.scale_rows) __syncthreads();  // before the next row uses the arrays
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
