// NVFP4 tokens → rows in expert order whose scales are tiled. Twin of gather in src/backend/cpu/moe.rs.
// A CTA a row of the padded row space, whose zeros have an owner so; without tiles moe_scatter.cuh does it, a CTA a token.
#pragma once
#include "general_rows.cuh"
#include "params_moe.cuh"

namespace nvfp4 {

// The scales of a token, in the layout of the rows; what pads a row's last columns is 0.
NVFP4_INLINE void gather_scales(const GatherCodesParams& p, const Span& from, uint64_t token, const Span& to, uint64_t r) {
  const uint64_t tiles = (p.blocks + 3) / 4;
#pragma unroll 1
  for (uint64_t c = 4 * threadIdx.x; c < p.blocks; c += 4 * blockDim.x) {
    if (p.words && c + 4 <= p.blocks) {
      *reinterpret_cast<uint32_t*>(scale_address(p.scales, to, r, c, tiles)) =
          *reinterpret_cast<const uint32_t*>(scale_address(p.src_scales, from, token, c, tiles));
      continue;
    }
    for (uint32_t i = 0; i < 4; i++) {
      const bool here = c + i < p.blocks;
      const uint8_t byte = here ? *scale_address(p.src_scales, from, token, c + i, tiles) : 0;
      if (here || p.scales.layout != LINEAR) *scale_address(p.scales, to, r, c + i, tiles) = byte;
    }
  }
}

// A CTA a row of the padded row space.
NVFP4_INLINE void gather_codes(const GatherCodesParams& p) {
  const uint64_t tiles = (p.blocks + 3) / 4;
  const Span tokens{0, p.tokens, 0, 0};
  ptx::wait_for_launches();
  SpanFinder finder(p.groups, tile_rows(p.scales.layout));
#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < p.scale_rows; unit += gridDim.x) {
    Span span;
    if (!finder.find(unit, span)) return;
    const uint64_t r = unit - span.first_scale_row, row = span.first_row + r;
    if (r >= span.rows) {
      for (uint64_t c = threadIdx.x; c < tiles * 4; c += blockDim.x) *scale_address(p.scales, span, r, c, tiles) = 0;
      continue;
    }
    const uint64_t token = uint32_t(p.source_rows[row]);
    const uint8_t* const from = p.src_codes + token * p.src_codes_row_stride;
    uint8_t* const to = p.codes + row * p.codes_row_stride;
    if (p.vector) {
      for (uint64_t at = 16 * threadIdx.x; at < 8 * p.blocks; at += 16 * blockDim.x)
        *reinterpret_cast<uint4*>(to + at) = ptx::load_keep(from + at);
    } else {
      for (uint64_t at = threadIdx.x; at < 8 * p.blocks; at += blockDim.x) to[at] = from[at];
    }
    gather_scales(p, tokens, token, span, r);
    if (threadIdx.x == 0) p.decode[row] = p.src_decode ? p.src_decode[p.src_scope == SCOPE_ROW ? token : 0] : 1.f;
  }
}

}  // namespace nvfp4
