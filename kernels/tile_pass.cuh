// tile_pass: blocks → NVFP4 where no row has to be seen as a whole. Known decode scales, or the amax of larger scopes.
#pragma once
#include "rows.cuh"
#include "values.cuh"

namespace nvfp4 {

constexpr uint32_t SECTOR_STEPS = 4;  // p.steps where a tiled launch goes by sector_units

// A block a thread and step. grid.y: units of rows (walked on by gridDim.y), grid.x: column chunks, one a warp.
// TILED: a unit is the 8 rows whose scales fill 32-byte sectors: rows 2i, 2i+1 of each 32-row quarter (128x4), or a tile
// (8x4); a step is 4 columns: 128-byte lines in, sectors of codes out, the scales one whole sector. Linear: a row, and
// 32 columns a step. What a step adds to an address is a constant, so that addresses are made once.
// VALUES (linear): in place of codes and scales, what they decode to, as bfloat16 rows from p.codes on.
template <class Source, class D, uint32_t RULE, int STEPS, bool GROUPED, bool TILED, bool VALUES = false>
NVFP4_INLINE void tile_units(const RowsParams& p) {
  constexpr bool FINDS = RULE == FIND_AMAX;
  constexpr uint32_t WIDTH = TILED ? 4 : 32;
  const uint32_t lane = threadIdx.x & 31, layout = TILED ? p.scales.layout : uint32_t(LINEAR);
  const uint32_t height = tile_rows(layout), blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t first_column = (blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * p.steps * WIDTH;
  const uint32_t b0 = first_column + (lane & (WIDTH - 1)), past = first_column + p.steps * WIDTH;
  const uint32_t value_limit = min(blocks, past), scale_limit = min(TILED ? tiles * 4 : blocks, past);
  const uint32_t units = uint32_t(p.scale_rows >> (TILED ? 3 : 0));
  // The second look at a tensor starts where the first ended: that part still is in the L2 cache.
  const bool backwards = !GROUPED && !p.first;

  SpanFinder finder(p.groups, height);
  if (GROUPED && p.fault && blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
  uint32_t faults = 0, largest = 0;
  __shared__ uint32_t shared[32];
  // Rows without padding between groups, and nothing else that is a group's: they are the rows of one.
  const bool flat = GROUPED && !TILED && p.groups.kind == GROUPS_ENDS && p.scope != SCOPE_GROUP;
  const uint32_t flat_rows = flat ? finder.rows_of_ends() : 0;

#pragma unroll 1
  for (uint32_t n = blockIdx.y; n < units; n += gridDim.y) {
    const uint32_t unit = backwards ? units - 1 - n : n;
    uint32_t tile_row = unit, in_tile = 0;  // the unit's tile and the lane's row in it
    if constexpr (TILED) {
      const uint32_t l = lane >> 2;
      tile_row = layout == TILED_128X4 ? (unit >> 4) * 128 : unit * 8;
      in_tile = layout == TILED_128X4 ? (l >> 1) * 32 + (unit & 15) * 2 + (l & 1) : l;
    }
    Span span{0, flat ? flat_rows : p.groups.rows, 0, 0};
    if (flat && tile_row >= flat_rows) break;
    if (GROUPED && !flat && !finder.find(tile_row, span)) continue;
    const uint64_t r = tile_row + in_tile - span.first_scale_row, logical = span.first_row + r;
    const uint32_t limit = r < span.rows ? value_limit : 0;
    const uint64_t row = GROUPED ? row_offset(p.src, p.groups, span, r) : r * p.src.row_stride;

    Source source[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++)
      if (b0 + s * WIDTH < limit) source[s].template load<FINDS>(p, row, uint64_t(b0) + s * WIDTH);
    if constexpr (FINDS) {
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        const uint32_t b = b0 + s * WIDTH;
        if (b >= limit) continue;
        const Block<D>& x = source[s].make(p, logical, b);
        largest = max(largest, finite_magnitude(x, x.magnitude()));
      }
      if (p.scope == SCOPE_GROUP) {  // the next row may belong to another group
        const uint32_t m = cta_max(largest, shared);
        if (threadIdx.x == 0) raise_slot(p.decode + span.group, m);
        largest = 0;
      }
    } else {
      Encode encode{};
      if (STEPS > 1 && p.scope != SCOPE_ROW) {
        encode = encode_of(p, span.group, 0);
        find_ties<D>(encode);
      } else if (limit) {
        encode = encode_of(p, span.group, logical);
      }
      uint8_t* const codes_at = p.codes + logical * p.codes_row_stride + (VALUES ? 32ull : 8ull) * b0;
      uint8_t* const scales_at = VALUES ? nullptr : scale_address(p.scales, span, r, b0, tiles);
      const uint32_t scale_step = !TILED ? WIDTH : layout == TILED_128X4 ? 512 : 32;
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        const uint32_t b = b0 + s * WIDTH;
        uint32_t scale = 0;
        if (b < limit) {
          uint2 codes;
          scale = quantize_block<RULE, (STEPS > 1)>(source[s].make(p, logical, b), encode, codes, faults);
          if constexpr (VALUES) store_decoded(codes_at + 32 * s * WIDTH, codes, scale);
          else *reinterpret_cast<uint2*>(codes_at + 8 * s * WIDTH) = codes;
        }
        // Padding has an owner too: tiles are whole.
        if (!VALUES && b < (TILED ? scale_limit : limit)) scales_at[s * scale_step] = uint8_t(scale);
      }
    }
  }
  if constexpr (FINDS) {
    const uint32_t m = cta_max(largest, shared);
    if (threadIdx.x == 0 && p.scope == SCOPE_TENSOR) raise_slot(p.decode, m);
  } else {
    raise_fault_warp(p.fault, faults);
  }
}

// Tiled scales of many rows. A warp takes the 8 rows of a unit × 16 columns, two rows a step: full lines of values and of
// codes. After four steps a lane holds a column's four scales; turned over, they leave as whole sectors.
template <class Source, class D, uint32_t RULE, bool GROUPED>
NVFP4_INLINE void sector_units(const RowsParams& p) {
  constexpr int BATCH = D::BYTES == 4 || RULE != AMAX ? 2 : 4;  // steps whose values are in flight together: registers
  const uint32_t lane = threadIdx.x & 31, half = lane >> 4, layout = p.scales.layout;
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2, units = uint32_t(p.scale_rows >> 3);
  const uint32_t b = (blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * 16 + (lane & 15);
  const bool backwards = !GROUPED && !p.first;
  const uint32_t apart = layout == TILED_128X4 ? 32 : 2;  // rows from a step to the next
  const uint64_t src_step = apart * p.src.row_stride, codes_step = apart * p.codes_row_stride;

  SpanFinder finder(p.groups, tile_rows(layout));
  if (GROUPED && p.fault && blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint32_t n = blockIdx.y; n < units; n += gridDim.y) {
    const uint32_t unit = backwards ? units - 1 - n : n;
    const uint32_t tile_row = layout == TILED_128X4 ? (unit >> 4) * 128 : unit * 8;
    const uint32_t in_tile = layout == TILED_128X4 ? (unit & 15) * 2 + half : half;
    Span span{0, p.groups.rows, 0, 0};
    if (GROUPED && !finder.find(tile_row, span)) continue;
    const uint32_t r = tile_row + in_tile - uint32_t(span.first_scale_row), rows = uint32_t(span.rows);
    const uint64_t logical = span.first_row + r;
    const uint32_t row_limit = b < blocks ? rows : 0;
    const uint64_t row = GROUPED ? row_offset(p.src, p.groups, span, r) : r * p.src.row_stride;
    uint8_t* const codes_at = p.codes + logical * p.codes_row_stride + 8ull * b;
    Encode encode{};
    uint32_t scales = 0;
#pragma unroll
    for (int first = 0; first < 4; first += BATCH) {
      Source source[BATCH];
#pragma unroll
      for (int s = 0; s < BATCH; s++)
        if (r + (first + s) * apart < row_limit) source[s].load(p, row + (first + s) * src_step, b);
      if (first == 0 && p.scope != SCOPE_ROW) {
        encode = encode_of(p, span.group, 0);
        find_ties<D>(encode);
      }
#pragma unroll
      for (int s = 0; s < BATCH; s++) {
        const int q = first + s;
        if (r + q * apart >= row_limit) continue;
        if (p.scope == SCOPE_ROW) encode = encode_of(p, 0, logical + q * apart);
        uint2 codes;
        scales |= quantize_block<RULE, true>(source[s].make(p, logical + q * apart, b), encode, codes, faults) << 8 * q;
        *reinterpret_cast<uint2*>(codes_at + q * codes_step) = codes;
      }
    }
    scales = turn_scales(scales);
    // Lane j of four now has the unit's row j of its half. Padding has an owner too: tiles are whole.
    const uint64_t tile = (layout == TILED_128X4 ? unit >> 4 : unit) * uint64_t(tiles) + (b >> 2);
    const uint32_t j = lane & 3;
    if ((b >> 2) < tiles)
      *reinterpret_cast<uint32_t*>(p.scales.base + (layout == TILED_128X4 ? tile * 512 + in_tile * 16 + j * 4
                                                                          : tile * 32 + (2 * j + half) * 4)) = scales;
  }
  raise_fault_warp(p.fault, faults);
}

// The values of codes by known decode scales, for a product that takes bfloat16.
template <class Source, class D, int STEPS>
NVFP4_INLINE void value_pass(const RowsParams& p) {
  ptx::allow_dependents();  // a product behind this waits for it before it reads them
  tile_units<Source, D, AMAX, STEPS, true, false, true>(p);
}

// One branch for all of a launch; up to STEPS column steps a warp, p.steps of them taken.
// GROUPED: rows are split into groups, which takes registers to find.
template <class Source, class D, uint32_t RULE, int STEPS, bool GROUPED = true>
NVFP4_INLINE void tile_pass(const RowsParams& p) {
  ptx::allow_dependents();  // a product behind this waits for it before it reads codes
  if constexpr (RULE == FIND_AMAX) {
    tile_units<Source, D, RULE, STEPS, GROUPED, false>(p);
  } else if constexpr (STEPS == 1) {
    if (p.scales.layout == LINEAR) tile_units<Source, D, RULE, 1, GROUPED, false>(p);
    else tile_units<Source, D, RULE, 1, GROUPED, true>(p);
  } else {
    if (p.scales.layout == LINEAR) tile_units<Source, D, RULE, STEPS, GROUPED, false>(p);
    else if (p.steps == SECTOR_STEPS) sector_units<Source, D, RULE, GROUPED>(p);
    else tile_units<Source, D, RULE, 1, GROUPED, true>(p);
  }
}

}  // namespace nvfp4
