// gated_rows: SwiGLU, relu² or the interleaving undone → NVFP4 with a scale per row. 16-bit types, rows of up to NB blocks
// a thread, held in registers between amax and codes. Twin of src/backend/cpu/rows.rs.
#pragma once
#include "gated_pass.cuh"

namespace nvfp4 {

// A row a CTA: block n · blockDim + thread.
template <class D, int NB, bool GROUPED, bool LATE = true>
NVFP4_INLINE void gated_rows(const RowsParams& p) {
  const uint32_t layout = p.scales.layout, blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t scale_limit = layout == LINEAR ? blocks : tiles * 4, rows = uint32_t(p.scale_rows);
  // From four blocks of a row's scales to the next four.
  const uint32_t across = layout == LINEAR ? 4 : layout == TILED_128X4 ? 512 : 32;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const bool gated = p.producer == SWIGLU, stored = p.copy.base;
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
      uint8_t* const scales_at = scale_address(p.scales, span, r, 0, tiles);
      for (uint32_t b = threadIdx.x; b < scale_limit; b += blockDim.x) scales_at[(b >> 2) * across + (b & 3)] = 0;
      continue;
    }
    const GatedShape shape(p);
    const SwiGluBf16 swiglu(SwiGlu{p.limit, p.alpha, p.beta});
    const uint64_t row = GROUPED ? row_offset(p.src, p.groups, span, r) : r * p.src.row_stride;
    const char* src = static_cast<const char*>(p.src.base) + row * D::BYTES;
    Block<D> x[NB], up[NB];
    const auto load = [&](int n) {
      const uint32_t b = n * blockDim.x + threadIdx.x;
      if (b >= blocks) return;
      const uint32_t at = shape.offset(b);
      load_halves(x[n], src + at, shape.half);
      if (gated) load_halves(up[n], src + at + shape.up, shape.half);
    };
    if (!LATE) {
#pragma unroll
      for (int n = 0; n < NB; n++) load(n);
    }
    uint32_t m = 0;
#pragma unroll
    for (int n = 0; n < NB; n++) {
      const uint32_t b = n * blockDim.x + threadIdx.x;
      if (LATE) load(n);
      if (b >= blocks) continue;
      activate(x[n], up[n], p, swiglu, stored);
      if (stored) store_block(x[n], p.copy.base, logical * p.copy.row_stride + 16ull * b, x[n].magnitude());
      m = max(m, finite_magnitude(x[n], x[n].magnitude()));
    }
    m = ptx::warp_max(m);
    if (lane == 0) peaks[warp] = m;
    __syncthreads();
    const float amax = __uint_as_float(ptx::warp_max(lane < warps ? peaks[lane] : 0));
    const Encode encode = encode_from_amax(amax);
    if (threadIdx.x == 0) p.decode[logical] = decode_scale_from_amax(amax);

    uint8_t* const scales_at = scale_address(p.scales, span, r, 0, tiles);
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
    if (gridDim.x < rows) __syncthreads();  // before the next row uses the array
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
