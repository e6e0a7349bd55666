// Byte shuffles: scales between layouts, gate/up rows in and out of the interleaved order.
// Twin of src/backend/cpu/layouts.rs.
#include "rows.cuh"

using namespace nvfp4;

// A CTA a row of the padded row space of the taller layout, four columns a thread. A tiled destination gets its padding.
NVFP4_KERNEL(nvfp4_move_scales, MoveScalesParams, 256, 4) {
  const uint64_t tiles = (p.blocks + 3) / 4;
  const uint32_t height = max(tile_rows(p.src.layout), tile_rows(p.dst.layout));
  SpanFinder finder(p.groups, height);
  if (blockIdx.x == 0) finder.report(p.fault);
#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < p.scale_rows; unit += gridDim.x) {
    Span span;
    if (!finder.find(unit, span)) continue;
    const uint64_t r = unit - span.first_scale_row;
    const bool valid = r < span.rows;
    if (!valid && p.dst.layout == LINEAR) continue;
    for (uint64_t c = 4 * threadIdx.x; c < p.blocks; c += 4 * blockDim.x) {
      for (uint32_t i = 0; i < 4; i++) {
        const bool here = valid && c + i < p.blocks;
        const uint8_t byte = here ? *scale_address(p.src, span, r, c + i, tiles) : 0;
        if (here || p.dst.layout != LINEAR) *scale_address(p.dst, span, r, c + i, tiles) = byte;
      }
    }
  }
}

// A warp a row.
NVFP4_KERNEL(nvfp4_interleave, InterleaveParams, 256, 4) {
  const uint32_t lane = threadIdx.x & 31;
  const uint64_t warps = uint64_t(gridDim.x) * (blockDim.x >> 5);
  for (uint64_t i = blockIdx.x * uint64_t(blockDim.x >> 5) + (threadIdx.x >> 5); i < p.rows; i += warps) {
    const uint64_t matrix = i / (2 * p.half), row = i - matrix * 2 * p.half;
    const uint64_t up = row >= p.half, in_half = up ? row - p.half : row;
    const uint64_t mixed = (in_half / p.granularity * 2 + up) * p.granularity + in_half % p.granularity;
    const uint64_t start = matrix * 2 * p.half;
    const uint8_t* from = p.src + (start + (p.forward ? row : mixed)) * p.row_bytes;
    uint8_t* to = p.dst + (start + (p.forward ? mixed : row)) * p.row_bytes;
    if (p.vector) {
      for (uint64_t at = 16 * lane; at < p.row_bytes; at += 512)
        *reinterpret_cast<uint4*>(to + at) = ptx::load_once(from + at);
    } else {
      for (uint64_t at = lane; at < p.row_bytes; at += 32) to[at] = from[at];
    }
  }
}
