// A block's place in the work: from the group index in device memory to (group, rows, features, part of k).
//
// Blocks are numbered [group][16 token tiles][features][token tile][split of k]: the tiles of a group follow one another,
// and inside it up to 16 token tiles share a stretch of weights while it is near. The grid is sized from bounds on the
// host; blocks behind the last tile have nothing to do. `ends` and `counts` are read as the contract says: clamped,
// never out of bounds; block 0 reads all of them and reports the first that had to be clamped.
// Twin of src/plan/groups.rs.
#pragma once
#include "groups.cuh"
#include "params_gemm.cuh"

namespace nvfp4 {

struct Tile {
  uint32_t index;        // among all tiles of the launch
  uint32_t split;
  uint32_t group;
  uint32_t features;     // feature tile
  int rows;              // of the group
  int row0;              // first row of the tile in its group
  int count;             // rows of the tile (sm90_schedule.cuh alone)
  int64_t first_row;     // of the group among the logical rows
  int64_t a_scale_row;   // first row of the group in the tiled scales of a
  int64_t out_scale_row; // likewise of the output
};

NVFP4_INLINE uint32_t rounded(uint32_t x, uint32_t to) { return (x + to - 1) / to * to; }
NVFP4_INLINE uint32_t blocks_of(uint32_t x, uint32_t size) { return (x + size - 1) / size; }

// Sums of the groups before one: what its place depends on.
struct Counts {
  uint32_t tiles, a_scale_rows, out_scale_rows;
};

template <int THREADS> struct TileSearch {
  static constexpr int WARPS = THREADS / 32, EACH = 4;
  int last_end[WARPS];
  Counts counts[WARPS];
  Tile tile;
  int found, bad_group;
};

NVFP4_INLINE Counts operator+(const Counts& a, const Counts& b) {
  return {a.tiles + b.tiles, a.a_scale_rows + b.a_scale_rows, a.out_scale_rows + b.out_scale_rows};
}

// Splits the number inside a group into (features, row0).
NVFP4_INLINE void place(Tile& t, uint32_t local, int tokens, uint32_t across) {
  constexpr uint32_t SHARE = 16;
  const uint32_t down = blocks_of(t.rows, tokens);
  const uint32_t first = local / (SHARE * across) * SHARE;
  const uint32_t height = min(SHARE, down - first);
  local -= first * across;
  t.features = local / height;
  t.row0 = static_cast<int>(first + local % height) * tokens;
}

// Puts the block's tile into `search`, which is shared memory; false where there is none. Called by all threads.
template <int THREADS> __device__ bool find_tile(const GemmParams& p, int tokens, int features, TileSearch<THREADS>& search) {
  const uint32_t across = blocks_of(p.weight_rows, features);
  const uint32_t index = blockIdx.x / p.splits, target = index / across;
  const uint32_t a_height = tile_rows(p.a_layout), out_height = tile_rows(p.out_layout);
  Tile out;
  out.index = index;
  out.split = blockIdx.x % p.splits;
  if (p.grouping == GROUPS_NONE || p.grouping == GROUPS_STRIDED) {
    const uint32_t rows = static_cast<uint32_t>(p.rows), down = blocks_of(rows, tokens);
    if (down == 0) return false;
    out.group = target / down;
    if (out.group >= p.groups) return false;
    out.rows = rows;
    out.first_row = static_cast<int64_t>(out.group) * rows;
    out.a_scale_row = static_cast<int64_t>(out.group) * rounded(rows, a_height);
    out.out_scale_row = static_cast<int64_t>(out.group) * rounded(rows, out_height);
    place(out, index - out.group * down * across, tokens, across);
    if (threadIdx.x == 0) search.tile = out;
    __syncthreads();
    return true;
  }
  const int tid = threadIdx.x, lane = tid & 31, warp = tid >> 5;
  constexpr int WARPS = TileSearch<THREADS>::WARPS, EACH = TileSearch<THREADS>::EACH;
  if (tid == 0) search.found = 0, search.bad_group = INT32_MAX;
  const bool masked = p.grouping == GROUPS_MASKED;
  int carry_end = 0;
  Counts carry = {0, 0, 0};
  for (uint32_t base = 0; base < p.groups; base += THREADS * EACH) {
    const uint32_t first = base + tid * EACH;
    // a running maximum of the ends, each cut to the number of rows
    int raw[EACH], end[EACH], rows[EACH];
    int most = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      raw[i] = first + i < p.groups ? p.index[first + i] : 0;
      most = max(most, static_cast<int>(min(static_cast<int64_t>(raw[i]), p.rows)));
      end[i] = most;
    }
    int before = most;
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
      const int other = __shfl_up_sync(~0u, before, d);
      if (lane >= d) before = max(before, other);
    }
    if (lane == 31) search.last_end[warp] = before;
    before = __shfl_up_sync(~0u, before, 1);
    if (lane == 0) before = 0;
    __syncthreads();
    int last = carry_end;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      if (w < warp) before = max(before, search.last_end[w]);
      last = max(last, search.last_end[w]);
    }
    before = max(before, carry_end);
    Counts sum = {0, 0, 0}, each[EACH];
    int64_t first_row = before;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      int used;
      if (masked) {
        used = static_cast<int>(min(static_cast<int64_t>(max(raw[i], 0)), p.rows));
        rows[i] = used;
      } else {
        end[i] = max(end[i], before);
        used = end[i];
        rows[i] = end[i] - (i ? end[i - 1] : before);
      }
      if (first + i < p.groups && used != raw[i]) atomicMin(&search.bad_group, static_cast<int>(first + i));
      each[i] = {blocks_of(rows[i], tokens), rounded(rows[i], a_height), rounded(rows[i], out_height)};
      if (first + i >= p.groups) each[i] = {0, 0, 0};
      sum = sum + each[i];
    }
    Counts to = sum;
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
      const Counts other = {__shfl_up_sync(~0u, to.tiles, d), __shfl_up_sync(~0u, to.a_scale_rows, d),
                            __shfl_up_sync(~0u, to.out_scale_rows, d)};
      if (lane >= d) to = to + other;
    }
    if (lane == 31) search.counts[warp] = to;
    Counts at = {to.tiles - sum.tiles, to.a_scale_rows - sum.a_scale_rows, to.out_scale_rows - sum.out_scale_rows};
    __syncthreads();
    Counts total = carry;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      if (w < warp) at = at + search.counts[w];
      total = total + search.counts[w];
    }
    at = at + carry;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      if (target >= at.tiles && target - at.tiles < each[i].tiles) {
        Tile t = out;
        const int64_t group = first + i;
        t.group = first + i;
        t.rows = rows[i];
        t.first_row = masked ? group * p.rows : first_row;
        t.a_scale_row = masked ? group * rounded(static_cast<uint32_t>(p.rows), a_height) : at.a_scale_rows;
        t.out_scale_row = masked ? group * rounded(static_cast<uint32_t>(p.rows), out_height) : at.out_scale_rows;
        place(t, index - at.tiles * across, tokens, across);
        search.tile = t;
        search.found = 1;
      }
      at = at + each[i];
      first_row += rows[i];
    }
    carry = total;
    carry_end = last;
    __syncthreads();
    if (blockIdx.x != 0 && search.found) break;
  }
  if (p.groups == 0) __syncthreads();
  if (blockIdx.x == 0 && tid == 0 && search.bad_group != INT32_MAX) report_bad_group(p.fault, search.bad_group);
  return search.found;
}

}  // namespace nvfp4
