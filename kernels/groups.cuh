// Rows → groups: which group a row of the padded row space belongs to, from ends or counts in device memory.
// The padded row space has every group's rows rounded up to the height of a scale tile, group after group; without
// tiles (height 1) it is the row space itself. Index arrays are read clamped, as the contract says; twin of
// src/plan/groups.rs.
#pragma once
#include "params.cuh"
#include "ptx.cuh"

namespace nvfp4 {

constexpr uint32_t FAULT_BAD_GROUP = 1, FAULT_BAD_DECODE_SCALE = 2, FAULT_NON_FINITE = 4, FAULT_SATURATED = 8;

// The rows of one group.
struct Span {
  uint64_t first_row;
  uint64_t rows;
  uint64_t first_scale_row;
  uint32_t group;
};

// `to` is a power of two: the height of a tile.
NVFP4_INLINE uint64_t round_up(uint64_t x, uint32_t to) { return (x + to - 1) & ~uint64_t(to - 1); }
NVFP4_INLINE uint32_t tile_rows(uint32_t layout) { return layout == TILED_128X4 ? 128 : layout == TILED_8X4 ? 8 : 1; }

// The fault record (src/backend/cuda/fault.rs): flags and 1 + the first bad group in device memory, then the address of
// the same pair in the host's memory, or 0. Only what the record does not have yet goes over the bus.
NVFP4_INLINE uint32_t* host_word(const uint64_t* fault) { return reinterpret_cast<uint32_t*>(fault[1]); }

NVFP4_INLINE void raise_fault(uint64_t* fault, uint32_t flags) {
  uint32_t* seen = reinterpret_cast<uint32_t*>(fault);
  if (!(flags & ~*static_cast<volatile uint32_t*>(seen))) return;
  if (flags & ~ptx::atomic_or(seen, flags))
    if (uint32_t* word = host_word(fault)) ptx::atomic_or(word, flags);
}

// Keeps the first report since the last clear.
NVFP4_INLINE void report_bad_group(uint64_t* fault, uint32_t group) {
  if (ptx::set_if_zero(reinterpret_cast<uint32_t*>(fault) + 1, group + 1))
    if (uint32_t* word = host_word(fault)) ptx::set_if_zero(word + 1, group + 1);
  raise_fault(fault, FAULT_BAD_GROUP);
}

// Flags of a whole warp in one write.
NVFP4_INLINE void raise_fault_warp(uint64_t* fault, uint32_t flags) {
  flags = ptx::warp_or(flags);
  if ((threadIdx.x & 31) == 0) raise_fault(fault, flags);
}

// Inclusive maximum or sum over the lanes of a warp. Ends and their padded sums stay below 2^32.
template <bool MAXIMUM>
NVFP4_INLINE uint32_t warp_scan(uint32_t v) {
#pragma unroll
  for (uint32_t d = 1; d < 32; d *= 2) {
    const uint32_t other = __shfl_up_sync(0xFFFFFFFFu, v, d);
    if ((threadIdx.x & 31) >= d) v = MAXIMUM ? max(v, other) : v + other;
  }
  return v;
}

// Finds spans for rising scale rows. All threads of the CTA call every member together; blockDim.x is whole warps.
// `ends` are taken some groups at a time: end used = min(max(0, ends so far), rows), scale rows by a running sum.
// The walk goes on where it stopped, so the array is read once however many rows are asked for.
class SpanFinder {
 public:
  NVFP4_INLINE SpanFinder(const GroupsParams& groups, uint32_t tile) : g(groups), tile(tile), base(0), end(0), scale(0) {}

  // False: the scale row belongs to no group. A row of the span may still be padding (scale_row - first >= rows).
  NVFP4_INLINE bool find(uint64_t scale_row, Span& span) {
    switch (g.kind) {
      case GROUPS_NONE:
        span = Span{0, g.rows, 0, 0};
        return scale_row < round_up(g.rows, tile);
      case GROUPS_ENDS:
        return find_ends(scale_row, span);
      default: {
        const uint64_t padded = round_up(g.rows, tile);
        if (padded == 0 || scale_row >= padded * g.count) return false;
        span.group = uint32_t(padded >> 32 || scale_row >> 32 ? scale_row / padded : uint32_t(scale_row) / uint32_t(padded));
        span.first_row = span.group * g.rows;
        span.first_scale_row = span.group * padded;
        span.rows = g.kind == GROUPS_STRIDED ? g.rows : clamp_count(g.index[span.group]);
        return scale_row - span.first_scale_row < round_up(span.rows, tile);
      }
    }
  }

  // Rows that belong to some group, of ends: they are the first ones. Every warp looks for itself.
  NVFP4_INLINE uint32_t rows_of_ends() const {
    uint32_t most = 0;
    for (uint32_t i = threadIdx.x & 31; i < g.count; i += 32) most = max(most, uint32_t(clamp_count(g.index[i])));
    return ptx::warp_max(most);
  }

  // Reports the first entry that had to be clamped. One CTA of a launch calls this.
  NVFP4_INLINE void report(uint64_t* fault) {
    if (g.kind != GROUPS_ENDS && g.kind != GROUPS_MASKED) return;
    __shared__ uint32_t first;
    if (threadIdx.x == 0) first = 0xFFFFFFFFu;
    uint32_t carry = 0;
    __syncthreads();
    for (uint32_t at = 0; at < g.count; at += blockDim.x) {
      const uint32_t i = at + threadIdx.x;
      const int64_t raw = i < g.count ? g.index[i] : 0;
      bool bad = i < g.count && (raw < 0 || raw > int64_t(g.rows));
      if (g.kind == GROUPS_ENDS) {
        const uint32_t top = cta_scan<true>(raw > 0 ? uint32_t(raw) : 0, carry);
        bad |= i < g.count && raw < int64_t(top);  // less than one before it
      }
      if (bad) atomicMin(&first, i);
      __syncthreads();
      if (first != 0xFFFFFFFFu) break;
      __syncthreads();
    }
    if (threadIdx.x == 0 && first != 0xFFFFFFFFu) report_bad_group(fault, first);
    __syncthreads();
  }

 private:
  const GroupsParams& g;
  uint32_t tile;
  uint32_t base;        // first group of the chunk
  uint32_t end, scale;  // rows and scale rows before it

  NVFP4_INLINE uint64_t clamp_count(int64_t raw) const {
    return raw < 0 ? 0 : uint64_t(raw) > g.rows ? g.rows : uint64_t(raw);
  }

  // Inclusive scan over the CTA behind `carry`, which becomes the value of the last thread.
  template <bool MAXIMUM>
  NVFP4_INLINE uint32_t cta_scan(uint32_t v, uint32_t& carry) {
    __shared__ uint32_t totals[32];
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    v = warp_scan<MAXIMUM>(v);
    __syncthreads();
    if (lane == 31) totals[warp] = v;
    __syncthreads();
    const uint32_t sums = warp_scan<MAXIMUM>(lane < warps ? totals[lane] : 0);
    const uint32_t below = __shfl_sync(0xFFFFFFFFu, sums, (warp + 31) & 31);
    const uint32_t all = __shfl_sync(0xFFFFFFFFu, sums, warps - 1);
    const uint32_t before = warp == 0 ? carry : MAXIMUM ? max(carry, below) : carry + below;
    carry = MAXIMUM ? max(carry, all) : carry + all;
    return MAXIMUM ? max(before, v) : before + v;
  }

  // Every warp looks for itself, four ends a lane at a time: no barrier, and few registers.
  NVFP4_INLINE bool find_ends(uint64_t scale_row, Span& span) {
    constexpr uint32_t PER_LANE = 4, ALL = 0xFFFFFFFFu;
    const uint32_t lane = threadIdx.x & 31;
#pragma unroll 1
    while (base < g.count) {
      uint32_t used[PER_LANE], top = 0;
#pragma unroll
      for (uint32_t j = 0; j < PER_LANE; j++) {
        const uint32_t i = base + lane * PER_LANE + j;
        const int64_t raw = i < g.count ? g.index[i] : 0;
        top = max(top, raw < 0 ? 0 : min(uint32_t(raw), uint32_t(g.rows)));
        used[j] = top;
      }
      const uint32_t tops = warp_scan<true>(top), below = __shfl_up_sync(ALL, tops, 1);
      const uint32_t first = lane ? max(below, end) : end;  // the end before this lane's
      uint32_t previous = first, padded = 0;
#pragma unroll
      for (uint32_t j = 0; j < PER_LANE; j++) {
        used[j] = max(used[j], first);
        padded += pad(used[j] - previous);
        previous = used[j];
      }
      const uint32_t sums = warp_scan<false>(padded), next_scale = scale + __shfl_sync(ALL, sums, 31);
      if (scale_row < next_scale) {
        uint32_t at = scale + sums - padded, hit = 0, row = 0, rows = 0, start = 0, group = 0;
        previous = first;
#pragma unroll
        for (uint32_t j = 0; j < PER_LANE; j++) {
          const uint32_t mine = used[j] - previous, after = at + pad(mine);
          if (scale_row >= at && scale_row < after) {
            hit = lane;
            row = previous;
            rows = mine;
            start = at;
            group = base + lane * PER_LANE + j;
          }
          previous = used[j];
          at = after;
        }
        const uint32_t from = ptx::warp_max(hit);
        span = Span{__shfl_sync(ALL, row, from), __shfl_sync(ALL, rows, from), __shfl_sync(ALL, start, from),
                    __shfl_sync(ALL, group, from)};
        return true;
      }
      base += 32 * PER_LANE;
      end = max(end, __shfl_sync(ALL, tops, 31));
      scale = next_scale;
    }
    return false;
  }

  NVFP4_INLINE uint32_t pad(uint32_t rows) const { return (rows + tile - 1) & ~(tile - 1); }
};

// Element index of row `r` of a span.
NVFP4_INLINE uint64_t row_offset(const MatrixParams& m, const GroupsParams& g, const Span& span, uint64_t r) {
  return g.kind == GROUPS_STRIDED ? span.group * m.group_stride + r * m.row_stride : (span.first_row + r) * m.row_stride;
}

// Index of a row's decode scale.
NVFP4_INLINE uint64_t scope_index(uint32_t scope, const Span& span, uint64_t r) {
  return scope == SCOPE_TENSOR ? 0 : scope == SCOPE_GROUP ? span.group : span.first_row + r;
}

}  // namespace nvfp4
