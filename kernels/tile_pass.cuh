// tile_pass: blocks → NVFP4 where no row has to be seen as a whole. Known decode scales, or the amax of larger scopes.
#pragma once
#include "rows.cuh"

namespace nvfp4 {

// A block a thread. grid.x: CTAs across one tile's rows and columns, grid.y: tiles (walked on by gridDim.y).
// 128x4: a warp takes rows 2i, 2i+1 of each 32-row quarter × 4 columns: 128-byte lines in, 32-byte sectors out, the
// scales one whole sector. 8x4: 8 rows × 4 columns, a sector again. Linear: one row × 32 columns.
template <class Source, class D, uint32_t RULE, int STEPS>
NVFP4_INLINE void tile_pass(const RowsParams& p) {
  const uint32_t lane = threadIdx.x & 31, layout = RULE == FIND_AMAX ? uint32_t(LINEAR) : p.scales.layout;
  const uint32_t height = tile_rows(layout), blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t columns = layout == LINEAR ? (blocks + 31) >> 5 : tiles, lane_shift = layout == LINEAR ? 5 : 2;
  const uint32_t chunks = (columns + p.steps - 1) / p.steps;
  const uint32_t w = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
  const uint32_t rows_index = w / chunks, chunk = w - rows_index * chunks;
  const bool active = rows_index < (layout == TILED_128X4 ? 16u : 1u);
  const uint32_t in_lane = lane >> lane_shift;
  const uint32_t in_tile = layout == TILED_128X4 ? (in_lane >> 1) * 32 + 2 * rows_index + (in_lane & 1) : in_lane;
  const uint32_t first_column = chunk * p.steps;
  const uint64_t count = p.scale_rows / height;

  SpanFinder finder(p.groups, height);
  if (p.fault && blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
  uint32_t faults = 0, largest = 0;
  __shared__ uint32_t shared[32];

#pragma unroll 1
  for (uint64_t t = blockIdx.y; t < count; t += gridDim.y) {
    // The second look at a tensor starts where the first ended: that part still is in the L2 cache.
    const uint64_t tile = p.mode == MODE_FROM_AMAX && p.groups.kind == GROUPS_NONE ? count - 1 - t : t;
    Span span;
    if (!finder.find(tile * height, span)) continue;
    const uint64_t r = tile * height + in_tile - span.first_scale_row;
    const bool valid = active && r < span.rows;
    const uint64_t row = row_offset(p.src, p.groups, span, r);

    Source source[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const uint32_t b = (first_column + s << lane_shift) + (lane & ((1u << lane_shift) - 1));
      if (s < p.steps && valid && b < blocks) source[s].load(p, row, b);
    }
    Encode encode{};
    if (RULE != FIND_AMAX && valid) encode = encode_of(p, span.group, span.first_row + r);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const uint32_t b = (first_column + s << lane_shift) + (lane & ((1u << lane_shift) - 1));
      if (s >= p.steps || !active) continue;
      const bool here = valid && b < blocks;
      if constexpr (RULE == FIND_AMAX) {
        if (here) {
          const Block<D>& x = source[s].make(p, span.first_row + r, b);
          largest = max(largest, finite_magnitude(x, x.magnitude()));
        }
      } else {
        uint32_t scale = 0;
        if (here) {
          uint2 codes;
          scale = quantize_block<RULE>(source[s].make(p, span.first_row + r, b), encode, codes, faults);
          *reinterpret_cast<uint2*>(p.codes + (span.first_row + r) * p.codes_row_stride + 8ull * b) = codes;
        }
        if (layout == LINEAR ? here : b < tiles * 4) *scale_address(p.scales, span, r, b, tiles) = uint8_t(scale);
      }
    }
    if constexpr (RULE == FIND_AMAX) {
      if (p.scope == SCOPE_GROUP) {  // the next row may belong to another group
        const uint32_t m = cta_max(largest, shared);
        if (threadIdx.x == 0) raise_slot(p.decode + span.group, m);
        largest = 0;
      }
    }
  }
  if constexpr (RULE == FIND_AMAX) {
    const uint32_t m = cta_max(largest, shared);
    if (threadIdx.x == 0 && p.scope == SCOPE_TENSOR) raise_slot(p.decode, m);
  } else {
    raise_fault_warp(p.fault, faults);
  }
}

}  // namespace nvfp4
