// Byte shuffles: scales between layouts, gate/up rows in and out of the interleaved order, counts → ends.
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

// One CTA. Negative counts are 0; a sum past 2^31 - 1 stays there; the first of either is reported.
NVFP4_KERNEL(nvfp4_group_ends, GroupEndsParams, 1024, 1) {
  __shared__ uint64_t totals[32];
  __shared__ uint32_t first_bad;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (threadIdx.x == 0) first_bad = 0xFFFFFFFFu;
  uint64_t carry = 0;
  for (uint64_t at = 0; at < p.count; at += blockDim.x) {
    const uint64_t i = at + threadIdx.x;
    const int32_t raw = i < p.count ? p.counts[i] : 0;
    uint64_t sum = raw > 0 ? raw : 0;
    const bool positive = raw > 0;
    for (uint32_t d = 1; d < 32; d *= 2) {
      const uint64_t other = __shfl_up_sync(0xFFFFFFFFu, (unsigned long long)sum, d);
      if (lane >= d) sum += other;
    }
    __syncthreads();
    if (lane == 31) totals[warp] = sum;
    __syncthreads();
    uint64_t before = carry;
    for (uint32_t w = 0; w < blockDim.x >> 5; w++) {
      if (w == warp) before = carry;
      carry += totals[w];
    }
    sum += before;
    if (i < p.count) {
      if (raw < 0 || (positive && sum > 0x7FFFFFFFu)) atomicMin(&first_bad, uint32_t(i));
      p.ends[i] = int32_t(sum > 0x7FFFFFFFu ? 0x7FFFFFFFu : uint32_t(sum));
    }
  }
  __syncthreads();
  if (threadIdx.x == 0 && first_bad != 0xFFFFFFFFu) report_bad_group(p.fault, first_bad);
}
