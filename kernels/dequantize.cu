// NVFP4 rows → values: (e2m1 · e4m3) · g, one rounding. A block a thread; twin of layouts.rs's dequantize.
// A warp takes 8 rows × 4 blocks of tiled scales (a 32-byte sector of them, full sectors of codes, full lines of values)
// or 32 blocks of a row. Rows that are not aligned are read and written element by element.
#include "rows.cuh"

using namespace nvfp4;

namespace {

template <class D>
NVFP4_INLINE void dequantize(const DequantizeParams& p) {
  const uint32_t lane = threadIdx.x & 31, layout = p.scales.layout, height = tile_rows(layout);
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t lane_shift = layout == LINEAR ? 5 : 2, columns = layout == LINEAR ? (blocks + 31) >> 5 : tiles;
  const uint32_t chunks = (columns + p.steps - 1) / p.steps;
  const uint32_t w = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
  const uint32_t rows_index = w / chunks, chunk = w - rows_index * chunks;
  const bool active = rows_index < (layout == TILED_128X4 ? 16u : 1u);
  const uint32_t in_lane = lane >> lane_shift;
  const uint32_t in_tile = layout == TILED_128X4 ? (in_lane >> 1) * 32 + 2 * rows_index + (in_lane & 1) : in_lane;

  SpanFinder finder(p.groups, height);
  if (blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
#pragma unroll 1
  for (uint64_t tile = blockIdx.y; tile < p.scale_rows / height; tile += gridDim.y) {
    Span span;
    if (!finder.find(tile * height, span)) continue;
    const uint64_t r = tile * height + in_tile - span.first_scale_row;
    if (!active || r >= span.rows) continue;
    const float g = p.decode ? p.decode[scope_index(p.scope, span, r)] : 1.f;
    const uint8_t* codes = p.codes + (span.first_row + r) * p.codes_row_stride;
    const uint64_t out = row_offset(p.dst, p.groups, span, r);
#pragma unroll 2
    for (uint32_t s = 0; s < p.steps; s++) {
      const uint32_t b = (chunk * p.steps + s << lane_shift) + (lane & ((1u << lane_shift) - 1));
      if (b >= blocks) continue;
      uint2 c;
      if (p.vector) {
        c = *reinterpret_cast<const uint2*>(codes + 8ull * b);
      } else {
        c = make_uint2(0, 0);
        for (int i = 0; i < 4; i++) {
          c.x |= uint32_t(codes[8ull * b + i]) << 8 * i;
          c.y |= uint32_t(codes[8ull * b + 4 + i]) << 8 * i;
        }
      }
      const float sf = e4m3_decode_any(*scale_address(p.scales, span, r, b, tiles));
      Block<D> x;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const uint32_t pair = (i < 4 ? c.x : c.y) >> 8 * (i & 3);
        x.set(i, __fmul_rn(__fmul_rn(e2m1_decode(pair), sf), g), __fmul_rn(__fmul_rn(e2m1_decode(pair >> 4), sf), g));
      }
      const uint32_t magnitude = x.magnitude();
      if (p.vector) {
        store_block(x, p.dst.base, out + 16ull * b, magnitude);
      } else {
        if (magnitude >= INFINITY_BITS) x.canonicalise();
        for (int i = 0; i < 16; i++) {
          if (D::BYTES == 4) static_cast<uint32_t*>(p.dst.base)[out + 16ull * b + i] = x.w[i & (Block<D>::WORDS - 1)];
          else static_cast<uint16_t*>(p.dst.base)[out + 16ull * b + i] = uint16_t(x.w[i >> 1] >> 16 * (i & 1));
        }
      }
    }
  }
}

}  // namespace

NVFP4_KERNEL(nvfp4_dequantize_bf16, DequantizeParams, 256, 4) { dequantize<Bf16>(p); }
NVFP4_KERNEL(nvfp4_dequantize_f16, DequantizeParams, 256, 4) { dequantize<F16>(p); }
NVFP4_KERNEL(nvfp4_dequantize_f32, DequantizeParams, 256, 4) { dequantize<F32>(p); }
