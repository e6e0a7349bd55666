// gated_rows: SwiGLU, relu² or the interleaving undone → NVFP4 with a scale per row. 16-bit types, rows of up to 512
// blocks, held in registers between amax and codes. Twin of src/backend/cpu/rows.rs.
#pragma once
#include "gated_pass.cuh"

namespace nvfp4 {

// A row a CTA, a block a thread.
template <class D, bool GROUPED>
NVFP4_INLINE void gated_rows(const RowsParams& p) {
  const uint32_t layout = p.scales.layout, blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t scale_limit = layout == LINEAR ? blocks : tiles * 4, rows = uint32_t(p.scale_rows);
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const uint32_t b = threadIdx.x;
  const bool inside = b < blocks, stored = p.copy.base;
  __shared__ uint32_t peaks[32];

  SpanFinder finder(p.groups, tile_rows(layout));
  if (GROUPED && blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint32_t unit = blockIdx.x; unit < rows; unit += gridDim.x) {
    Span span{0, p.groups.rows, 0, 0};
    if (GROUPED && !finder.find(unit, span)) continue;
    const uint64_t r = unit - span.first_scale_row, logical = span.first_row + r;
    if (r >= span.rows) {  // the row pads a tile
      if (b < scale_limit) *scale_address(p.scales, span, r, b, tiles) = 0;
      continue;
    }
    const GatedShape shape(p);
    const SwiGluBf16 swiglu(SwiGlu{p.limit, p.alpha, p.beta});
    const uint64_t row = GROUPED ? row_offset(p.src, p.groups, span, r) : r * p.src.row_stride;
    const char* src = static_cast<const char*>(p.src.base) + row * D::BYTES;
    Block<D> x;
    uint32_t m = 0;
    if (inside) {
      Block<D> up;
      const uint32_t at = shape.offset(b);
      load_halves(x, src + at, shape.half);
      if (p.producer == SWIGLU) {
        load_halves(up, src + at + shape.up, shape.half);
        activate<true>(x, up, p, swiglu, stored);
      } else {
        activate<false>(x, up, p, swiglu, stored);
      }
      if (stored) store_block(x, p.copy.base, logical * p.copy.row_stride + 16 * b, x.magnitude());
      m = finite_magnitude(x, x.magnitude());
    }
    m = ptx::warp_max(m);
    if (lane == 0) peaks[warp] = m;
    __syncthreads();
    const float amax = __uint_as_float(ptx::warp_max(lane < warps ? peaks[lane] : 0));
    const Encode encode = encode_from_amax(amax);
    if (threadIdx.x == 0) p.decode[logical] = decode_scale_from_amax(amax);

    uint32_t scale = 0;
    if (inside) {
      uint2 codes;
      scale = quantize_block<AMAX>(x, encode, codes, faults);
      *reinterpret_cast<uint2*>(p.codes + logical * p.codes_row_stride + 8 * b) = codes;
    }
    if (b < scale_limit) *scale_address(p.scales, span, r, b, tiles) = uint8_t(scale);
    if (gridDim.x < rows) __syncthreads();  // before the next row uses the array
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
