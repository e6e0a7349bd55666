// counts[E] -> inclusive cumulative ends[E], one block of 1024 threads. Twin: group_ends in src/backend/cpu/layouts.rs.
//
// Thread t of a tile owns count tile + t. A negative count is taken as 0; a sum past 2^31 - 1 stays there; both report
// the lowest such group. Sums are 64-bit: 65535 counts below 2^31 fit. counts and ends may be one array: a thread reads
// its entry before it writes it, and nobody else touches it.
#include "groups.cuh"

struct GroupEndsParams {
  const int32_t *counts;
  int32_t *ends;
  uint64_t *fault;
  uint32_t count;
  uint32_t reserved;
};
static_assert(sizeof(GroupEndsParams) == 32, "mirrored by Params in src/backend/cuda/group_ends.rs");

constexpr unsigned kThreads = 1024;
constexpr unsigned kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffffu;
constexpr int64_t kMost = INT32_MAX;
constexpr uint32_t kNone = 0xffffffffu;

__device__ __forceinline__ int64_t warp_scan(int64_t value, unsigned lane) {
  for (unsigned step = 1; step < 32; step *= 2) {
    const int64_t below = __shfl_up_sync(kAll, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

extern "C" __global__ void __launch_bounds__(kThreads) nvfp4_group_ends(const __grid_constant__ GroupEndsParams p) {
  __shared__ int64_t sums[kWarps];
  __shared__ uint32_t first_bad;
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) first_bad = kNone;
  int64_t before = 0;  // sum of all tiles so far
  for (uint32_t tile = 0; tile < p.count; tile += kThreads) {
    const uint32_t group = tile + threadIdx.x;
    const int64_t raw = group < p.count ? p.counts[group] : 0;
    const int64_t own = raw < 0 ? 0 : raw;
    const int64_t in_warp = warp_scan(own, lane);
    if (lane == 31) sums[warp] = in_warp;
    __syncthreads();
    if (warp == 0) sums[lane] = warp_scan(sums[lane], lane);
    __syncthreads();
    const int64_t end = before + (warp == 0 ? 0 : sums[warp - 1]) + in_warp;
    if (group < p.count) {
      p.ends[group] = int32_t(end < kMost ? end : kMost);
      const int64_t previous = end - own < kMost ? end - own : kMost;
      if (raw < 0 || previous + own > kMost) atomicMin(&first_bad, group);
    }
    before += sums[kWarps - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0 && first_bad != kNone) {
    nvfp4::report_bad_group(p.fault, first_bad);
  }
}
