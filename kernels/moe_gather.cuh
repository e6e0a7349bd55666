// Tokens → rows in expert order whose scales are tiled: NVFP4, or quantized on the way. Twin of gather in src/backend/cpu/moe.rs.
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

// A block of a row of `dtype` values at `element`; as floats where anything may be unaligned.
template <class D>
NVFP4_INLINE void load_gathered(Block<D>& x, const RowsParams& p, uint64_t element) {
  load_block<Reuse::SOON>(x, p.src.base, element);
}
template <>
NVFP4_INLINE void load_gathered(Block<F32>& x, const RowsParams& p, uint64_t element) {
  float v[16];
  load_values(v, p.dtype, p.src.base, element);
#pragma unroll
  for (int i = 0; i < 16; i++) x.w[i] = __float_as_uint(v[i]);
}

// A CTA a row of the padded row space; up to a block a thread stays in registers between the amax and the codes.
// D = F32: any dtype, alignment and rule.
template <class D>
NVFP4_INLINE void gather_quantize(const GatherRowsParams& g) {
  const RowsParams& p = g.rows;
  __shared__ uint32_t shared[32];
  const uint64_t blocks = p.cols / 16, tiles = (blocks + 3) / 4;
  const uint32_t layout = p.scales.layout;
  ptx::wait_for_launches();
  SpanFinder finder(p.groups, tile_rows(layout));
  uint32_t faults = 0;
#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < p.scale_rows; unit += gridDim.x) {
    Span span;
    if (!finder.find(unit, span)) break;
    const uint64_t r = unit - span.first_scale_row, logical = span.first_row + r;
    if (r >= span.rows) {
      for (uint64_t c = threadIdx.x; c < tiles * 4; c += blockDim.x) *scale_address(p.scales, span, r, c, tiles) = 0;
      continue;
    }
    const uint64_t row = uint32_t(g.source_rows[logical]) * p.src.row_stride;
    Block<D> x;
    if (threadIdx.x < blocks) load_gathered(x, p, row + 16 * threadIdx.x);
    Encode encode;
    if (p.mode == MODE_ROW) {
      uint32_t m = 0;
      if (threadIdx.x < blocks) m = finite_magnitude(x, x.magnitude());
#pragma unroll 1
      for (uint64_t b = threadIdx.x + blockDim.x; b < blocks; b += blockDim.x) {
        Block<D> next;
        load_gathered(next, p, row + 16 * b);
        m = max(m, finite_magnitude(next, next.magnitude()));
      }
      const float amax = __uint_as_float(cta_max(m, shared));
      if (threadIdx.x == 0) p.decode[logical] = decode_scale_from_amax(amax);
      encode = encode_from_amax(amax);
    } else {
      encode = encode_of(p, span.group, logical);
    }
#pragma unroll 1
    for (uint64_t b = threadIdx.x; b < (layout == LINEAR ? blocks : tiles * 4); b += blockDim.x) {
      uint32_t scale = 0;
      if (b < blocks) {
        if (b != threadIdx.x) load_gathered(x, p, row + 16 * b);
        uint8_t* const at = p.codes + logical * p.codes_row_stride + 8 * b;
        uint2 codes;
        if constexpr (D::BYTES == 4) scale = quantize_block_any(p.rule, x, encode, codes, faults);
        else scale = quantize_block<AMAX>(x, encode, codes, faults);
        if (D::BYTES == 4 && reinterpret_cast<uintptr_t>(at) & 7) {
          for (int i = 0; i < 8; i++) at[i] = uint8_t((i < 4 ? codes.x : codes.y) >> 8 * (i & 3));
        } else {
          *reinterpret_cast<uint2*>(at) = codes;
        }
      }
      *scale_address(p.scales, span, r, b, tiles) = uint8_t(scale);
    }
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
