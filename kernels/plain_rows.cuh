// plain_rows: values as they stand → NVFP4 with a scale per row, in one pass over memory. Rows of up to 1024 blocks.
#pragma once
#include "rows.cuh"
#include "values.cuh"

namespace nvfp4 {

// ROWS rows a CTA, one after another; NB blocks a thread: block n · blockDim + thread, held in registers between amax and
// codes. CTAs are small and share nothing but one barrier a row, so that the loads of some run behind the arithmetic of
// others. ROWS = 4 (tiled): rows whose scales share 16 bytes of a sector leave together: 32 apart (128x4) or adjacent (8x4).
// ROWS = 1: any layout. VALUES: in place of codes and scales, what they decode to, as bfloat16 rows from p.codes on.
template <class D, int NB, int ROWS, bool GROUPED, bool VALUES = false>
NVFP4_INLINE void plain_rows(const RowsParams& p) {
  ptx::allow_dependents();  // a product behind this waits for it before it reads codes
  const uint32_t layout = p.scales.layout, blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t scale_limit = layout == LINEAR ? blocks : tiles * 4, units = uint32_t(p.scale_rows) / ROWS;
  // Byte of block b in a row of scales: b (linear), or 4 bytes a tile.
  const uint32_t across = layout == LINEAR ? 4 : layout == TILED_128X4 ? 512 : 32;
  const uint32_t apart = layout == TILED_128X4 ? 32 : 1;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  __shared__ uint32_t peaks[2][32];

  SpanFinder finder(p.groups, tile_rows(layout));
  if (GROUPED && blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint32_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint32_t scale_row = ROWS == 1 ? unit : layout == TILED_128X4 ? (unit >> 5) * 128 + (unit & 31) : unit * 4;
    Span span{0, p.groups.rows, 0, 0};
    if (GROUPED && !finder.find(scale_row, span)) continue;
    const uint32_t r = scale_row - uint32_t(span.first_scale_row), rows = uint32_t(span.rows);
    const uint64_t logical = span.first_row + r;
    const uint64_t row = GROUPED ? row_offset(p.src, p.groups, span, r) : r * p.src.row_stride;
    uint8_t* const scales_at = scale_address(p.scales, span, r, 0, tiles);
    uint32_t scales[NB] = {};  // byte q: row q's

#pragma unroll 1
    for (uint32_t q = 0; q < ROWS; q++) {
      if (r + q * apart >= rows) break;  // this row and those after it pad a tile
      Block<D> x[NB];
#pragma unroll
      for (int n = 0; n < NB; n++) {
        const uint32_t b = n * blockDim.x + threadIdx.x;
        if (b < blocks) load_block<Reuse::ONCE>(x[n], p.src.base, row + q * apart * p.src.row_stride + 16ull * b);
        else clear(x[n]);
      }
      uint32_t m = 0;
#pragma unroll
      for (int n = 0; n < NB; n++) m = max(m, finite_magnitude(x[n], x[n].magnitude()));
      m = ptx::warp_max(m);
      // Two arrays in turn: a warp may write the next row's while others still read.
      if (lane == 0) peaks[q & 1][warp] = m;
      __syncthreads();
      const float amax = __uint_as_float(ptx::warp_max(lane < warps ? peaks[q & 1][lane] : 0));
      Encode encode = encode_from_amax(amax);
      if constexpr (NB > 1) find_ties<D>(encode);
      if (threadIdx.x == 0) p.decode[logical + q * apart] = decode_scale_from_amax(amax);

      uint8_t* const codes_at = p.codes + (logical + q * apart) * p.codes_row_stride;
#pragma unroll
      for (int n = 0; n < NB; n++) {
        const uint32_t b = n * blockDim.x + threadIdx.x;
        if (b >= blocks) continue;
        uint2 codes;
        const uint32_t scale = quantize_block<AMAX, (NB > 1)>(x[n], encode, codes, faults);
        if constexpr (VALUES) {
          store_decoded(codes_at + 32ull * b, codes, scale);
        } else {
          scales[n] |= scale << 8 * q;
          *reinterpret_cast<uint2*>(codes_at + 8ull * b) = codes;
        }
      }
    }

#pragma unroll
    for (int n = 0; n < (VALUES ? 0 : NB); n++) {
      const uint32_t b = n * blockDim.x + threadIdx.x;
      if constexpr (ROWS == 1) {
        if (b < scale_limit && (layout != LINEAR || r < rows)) scales_at[(b >> 2) * across + (b & 3)] = uint8_t(scales[n]);
      } else {
        const uint32_t word = turn_scales(scales[n]);
        if (b < scale_limit) *reinterpret_cast<uint32_t*>(scales_at + (b >> 2) * across + (b & 3) * 4) = word;
      }
    }
    if (!GROUPED) break;  // a CTA for every unit
    __syncthreads();      // before the next rows use the arrays
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
