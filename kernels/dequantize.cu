// NVFP4 rows → values: (e2m1 · e4m3) · g, one rounding. A block a thread; twin of layouts.rs's dequantize.
// A warp takes 8 rows × 4 blocks of tiled scales (a 32-byte sector of them, full sectors of codes, full lines of values)
// or 32 blocks of a row. Rows that are not aligned are read and written element by element.
#include "rows.cuh"

using namespace nvfp4;

namespace {

template <class D, bool TILED>
NVFP4_INLINE void dequantize_units(const DequantizeParams& p) {
  constexpr uint32_t WIDTH = TILED ? 4 : 32;
  const uint32_t lane = threadIdx.x & 31, layout = TILED ? p.scales.layout : uint32_t(LINEAR);
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t first_column = (blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * p.steps * WIDTH;
  const uint32_t b0 = first_column + (lane & (WIDTH - 1));
  const uint64_t units = p.scale_rows >> (TILED ? 3 : 0);

  SpanFinder finder(p.groups, tile_rows(layout));
  if (blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
#pragma unroll 1
  for (uint64_t unit = blockIdx.y; unit < units; unit += gridDim.y) {
    uint64_t tile_row = unit;
    uint32_t in_tile = 0;
    if constexpr (TILED) {
      const uint32_t l = lane >> 2;
      tile_row = layout == TILED_128X4 ? (unit >> 4) * 128 : unit * 8;
      in_tile = layout == TILED_128X4 ? (l >> 1) * 32 + uint32_t(unit & 15) * 2 + (l & 1) : l;
    }
    Span span;
    if (!finder.find(tile_row, span)) continue;
    const uint64_t r = tile_row + in_tile - span.first_scale_row;
    if (r >= span.rows) continue;
    const float g = p.decode ? p.decode[scope_index(p.scope, span, r)] : 1.f;
    const uint8_t* codes = p.codes + (p.groups.kind == GROUPS_STRIDED ? span.group * p.codes_group_stride + r * p.codes_row_stride
                                                                    : (span.first_row + r) * p.codes_row_stride);
    const uint8_t* scales = scale_address(p.scales, span, r, b0, tiles);
    const uint32_t scale_step = !TILED ? WIDTH : layout == TILED_128X4 ? 512 : 32;
    const uint64_t out = row_offset(p.dst, p.groups, span, r);
#pragma unroll 2
    for (uint32_t s = 0; s < p.steps; s++) {
      const uint32_t b = b0 + s * WIDTH;
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
      const float sf = e4m3_decode_any(scales[s * scale_step]);
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

template <class D>
NVFP4_INLINE void dequantize(const DequantizeParams& p) {
  if (p.scales.layout == LINEAR) dequantize_units<D, false>(p);
  else dequantize_units<D, true>(p);
}

}  // namespace

NVFP4_KERNEL(nvfp4_dequantize_bf16, DequantizeParams, 256, 4) { dequantize<Bf16>(p); }
NVFP4_KERNEL(nvfp4_dequantize_f16, DequantizeParams, 256, 4) { dequantize<F16>(p); }
NVFP4_KERNEL(nvfp4_dequantize_f32, DequantizeParams, 256, 3) { dequantize<F32>(p); }
