// gated_pass: SwiGLU, relu² or the interleaving undone → NVFP4 where the decode scales are known. 16-bit types.
//
// A CTA takes a unit of rows and walks along their columns, a block a thread at a step. Tiled layouts: 8 rows whose
// scales lie together (128x4: rows 2i, 2i + 1 of each quarter of a tile), 4 columns a warp: whole 32-byte sectors of codes
// and scales. Linear: 32 blocks of one row a warp; a row a warp, or one row for all where groups may end anywhere.
// grid.x: stretches of p.steps steps. grid.y: units of rows, walked on by gridDim.y.
#pragma once
#include "rows.cuh"

namespace nvfp4 {

// Where a block's inputs lie, relative to the row: all as bytes, the same for all producers and both arrangements.
struct GatedShape {
  uint32_t block;   // from one block to the next
  uint32_t half;    // from the first half of a block's gate to the second, and of its up
  uint32_t up;      // from gate to up
  uint32_t wrap;    // first block of the second half of IDENTITY, which lies `back` before where it would
  uint32_t back;
  NVFP4_INLINE explicit GatedShape(const RowsParams& p) {
    const uint32_t cols = uint32_t(p.cols);
    const bool mixed = p.interleaved && p.producer != RELU2;
    block = mixed ? 64 : 32;
    half = mixed ? 32 : 16;
    up = mixed ? 16 : 2 * cols;
    wrap = mixed && p.producer == IDENTITY ? cols / 32 : 0xFFFFFFFFu;
    back = 2 * cols - 16;
  }
  NVFP4_INLINE uint32_t offset(uint32_t b) const { return b * block - (b >= wrap ? back : 0); }
};

template <class D>
NVFP4_INLINE void load_halves(Block<D>& x, const char* at, uint32_t half) {
  const uint4 a = ptx::load_once(at), b = ptx::load_once(at + half);
  x = Block<D>{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// x becomes the activation's result. GATES: it is SwiGLU.
template <bool GATES, class D>
NVFP4_INLINE void activate(Block<D>& x, Block<D>& up, const RowsParams& p, const SwiGluBf16& s, bool stored) {
  if constexpr (GATES) {
    if constexpr (D::ID == DTYPE_BF16) swiglu_block(x, up, s, stored);
    else swiglu_block_exact(x, up, s.p);
  } else if (p.producer == RELU2) {
#pragma unroll
    for (int i = 0; i < 8; i++) x.set(i, relu2(x.value(2 * i)), relu2(x.value(2 * i + 1)));
  }
}

// GATES: the producer is SwiGLU.
template <class D, int WARPS, bool GROUPED, bool GATES>
NVFP4_INLINE void gated_units(const RowsParams& p) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, layout = p.scales.layout;
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2, height = tile_rows(layout);
  const bool tiled = layout != LINEAR, one_row = !tiled && GROUPED;
  // Rows of the CTA, the thread's row among them, its first column, and the columns of a step.
  const uint32_t rows = tiled ? 8 : one_row ? 1 : WARPS, in_unit = tiled ? lane >> 2 : one_row ? 0 : warp;
  const uint32_t column = tiled ? 4 * warp + (lane & 3) : one_row ? threadIdx.x : lane, step = tiled ? 4 * WARPS : one_row ? 32 * WARPS : 32;
  const uint32_t in_tile = layout == TILED_128X4 ? (in_unit >> 1) * 32 + (in_unit & 1) : in_unit;
  const uint32_t first = blockIdx.x * p.steps * step + column, end = min(blocks, (blockIdx.x + 1) * p.steps * step);
  const uint32_t written = tiled ? min(4 * tiles, (blockIdx.x + 1) * p.steps * step) : end;  // scales, the padding's too
  const uint32_t scale_step = layout == TILED_128X4 ? 512 * WARPS : layout == TILED_8X4 ? 32 * WARPS : step;
  const uint32_t units = (uint32_t(p.scale_rows) + rows - 1) / rows;
  const GatedShape shape(p);
  const SwiGluBf16 swiglu(SwiGlu{p.limit, p.alpha, p.beta});
  const bool stored = p.first && p.copy.base, shared_scope = p.scope != SCOPE_ROW;

  SpanFinder finder(p.groups, height);
  if (GROUPED && blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint32_t unit = blockIdx.y; unit < units; unit += gridDim.y) {
    const uint32_t tile_row = layout == TILED_128X4 ? (unit >> 4) * 128 : unit * rows;
    Span span{0, p.groups.rows, 0, 0};
    if (GROUPED && !finder.find(tile_row, span)) continue;
    const uint64_t r = tile_row + in_tile + (layout == TILED_128X4 ? 2 * (unit & 15) : 0) - span.first_scale_row;
    const uint64_t logical = span.first_row + r;
    const bool valid = r < span.rows;
    if (!valid && !tiled) continue;
    Encode encode{};
    if (shared_scope) {
      encode = encode_of(p, span.group, 0);
      find_ties<D>(encode);
    } else if (valid) {
      encode = encode_of(p, 0, logical);
    }
    const char* src = static_cast<const char*>(p.src.base) + (GROUPED ? row_offset(p.src, p.groups, span, r) : r * p.src.row_stride) * D::BYTES;
    const char* at = src + uint64_t(first) * shape.block;
    const uint32_t at_step = step * shape.block;
    uint8_t* codes = p.codes + logical * p.codes_row_stride + 8ull * first;
    uint8_t* scales = scale_address(p.scales, span, r, first, tiles);
#pragma unroll 1
    for (uint32_t b = first; b < written; b += step, scales += scale_step, at += at_step, codes += 8 * step) {
      uint32_t scale = 0;
      if (valid && b < end) {
        Block<D> x, up;
        if constexpr (GATES) {
          load_halves(x, at, shape.half);
          load_halves(up, at + shape.up, shape.half);
        } else {
          load_halves(x, src + shape.offset(b), shape.half);
        }
        activate<GATES>(x, up, p, swiglu, stored);
        if (stored) store_block(x, p.copy.base, logical * p.copy.row_stride + 16 * b, x.magnitude());
        uint2 out;
        scale = quantize_block<AMAX, true>(x, encode, out, faults);
        *reinterpret_cast<uint2*>(codes) = out;
      }
      *scales = uint8_t(scale);
    }
  }
  raise_fault_warp(p.fault, faults);
}

template <class D, int WARPS, bool GROUPED>
NVFP4_INLINE void gated_pass(const RowsParams& p) {
  if (p.producer == SWIGLU) gated_units<D, WARPS, GROUPED, true>(p);
  else gated_units<D, WARPS, GROUPED, false>(p);
}

}  // namespace nvfp4
