// plain_rows: values as they stand → NVFP4 with a scale per row, in one pass over memory. Rows of up to 1024 blocks.
#pragma once
#include "rows.cuh"

namespace nvfp4 {

// A row a CTA, NB blocks a thread: block n · blockDim + thread, held in registers between amax and codes. CTAs are small
// and share nothing but one barrier, so that the loads of some run behind the arithmetic of others.
template <class D, int NB, bool GROUPED>
NVFP4_INLINE void plain_rows(const RowsParams& p) {
  const uint32_t layout = p.scales.layout, blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t scale_limit = layout == LINEAR ? blocks : tiles * 4, rows = uint32_t(p.scale_rows);
  // Byte of block b in a row of scales: b (linear), or 4 bytes a tile.
  const uint32_t across = layout == LINEAR ? 4 : layout == TILED_128X4 ? 512 : 32;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  __shared__ uint32_t peaks[32];

  SpanFinder finder(p.groups, tile_rows(layout));
  if (GROUPED && blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint32_t unit = blockIdx.x; unit < rows; unit += gridDim.x) {
    Span span{0, p.groups.rows, 0, 0};
    if (GROUPED && !finder.find(unit, span)) continue;
    const uint64_t r = unit - span.first_scale_row, logical = span.first_row + r;
    uint8_t* const scales_at = scale_address(p.scales, span, r, 0, tiles);
    if (r >= span.rows) {  // the row pads a tile
      for (uint32_t b = threadIdx.x; b < scale_limit; b += blockDim.x) scales_at[(b >> 2) * across + (b & 3)] = 0;
      continue;
    }
    const uint64_t row = GROUPED ? row_offset(p.src, p.groups, span, r) : r * p.src.row_stride;
    Block<D> x[NB];
#pragma unroll
    for (int n = 0; n < NB; n++) {
      const uint32_t b = n * blockDim.x + threadIdx.x;
      if (b < blocks) load_block<Reuse::ONCE>(x[n], p.src.base, row + 16ull * b);
      else clear(x[n]);
    }
    uint32_t m = 0;
#pragma unroll
    for (int n = 0; n < NB; n++) m = max(m, finite_magnitude(x[n], x[n].magnitude()));
    m = ptx::warp_max(m);
    if (lane == 0) peaks[warp] = m;
    __syncthreads();
    const float amax = __uint_as_float(ptx::warp_max(lane < warps ? peaks[lane] : 0));
    const Encode encode = encode_from_amax(amax);
    if (threadIdx.x == 0) p.decode[logical] = decode_scale_from_amax(amax);

    uint8_t* const codes_at = p.codes + logical * p.codes_row_stride;
#pragma unroll
    for (int n = 0; n < NB; n++) {
      const uint32_t b = n * blockDim.x + threadIdx.x;
      uint32_t scale = 0;
      if (b < blocks) {
        uint2 codes;
        scale = quantize_block<AMAX>(x[n], encode, codes, faults);
        *reinterpret_cast<uint2*>(codes_at + 8ull * b) = codes;
      }
      if (b < scale_limit) scales_at[(b >> 2) * across + (b & 3)] = uint8_t(scale);
    }
    if (!GROUPED) break;  // a CTA for every row
    if (gridDim.x < rows) __syncthreads();  // before the next row uses the array
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
