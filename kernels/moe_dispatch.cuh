// The sort and the way into expert order in one launch, for few slots, and the routing too for a token or two: what costs
// there are launches. A CTA has a token (and a part of its columns); each routes and sorts everything for itself, which is less
// than waiting for another one, and the first one writes what later launches read. Twin of the steps in src/backend/cpu/moe.rs.
#pragma once
#include "moe_quantize.cuh"
#include "moe_route_wide.cuh"
#include "moe_scatter.cuh"

namespace nvfp4 {

constexpr uint32_t DISPATCH_THREADS = 256, DISPATCH_SLOTS = 256;

struct DispatchMemory {
  WideRoute<DISPATCH_THREADS / 32> route;
  int32_t ids[DISPATCH_SLOTS];
  uint32_t keys[DISPATCH_SLOTS];  // local expert, then slot: unique
  int32_t rows[DISPATCH_SLOTS];
  uint32_t shared[32];
  uint32_t first_bad;
};

// Slots whose key is below `key`.
NVFP4_INLINE uint32_t count_below(const DispatchMemory& m, uint32_t slots, uint32_t key) {
  uint32_t count = 0;
#pragma unroll 8
  for (uint32_t j = 0; j < slots; j++) count += m.keys[j] < key;
  return count;
}

// The ids of all slots; `writes`: this CTA stores the routes.
NVFP4_INLINE void find_ids(const RouteParams& route, const PermuteParams& p, bool routed, bool writes, DispatchMemory& m) {
  if (!routed) {
    if (threadIdx.x < p.slots) m.ids[threadIdx.x] = p.ids[threadIdx.x];
    return;
  }
  uint32_t faults = 0;
#pragma unroll 1
  for (uint32_t token = 0; token < route.tokens; token++) {
    const Slot slot = route_wide(route, token, m.route, faults);
    if (threadIdx.x < p.topk) m.ids[token * p.topk + threadIdx.x] = slot.id;
    if (writes && threadIdx.x < 32) store_slot(route, token, slot);
    __syncthreads();  // the memory is another token's next
  }
  if (writes) raise_fault_warp(route.fault, faults);
}

// Rows of all slots, a thread a slot.
NVFP4_INLINE void find_rows(const PermuteParams& p, DispatchMemory& m) {
  const uint32_t slot = threadIdx.x, slots = uint32_t(p.slots);
  uint32_t key = ~0u;
  if (slot < slots) key = m.keys[slot] = local_expert(p, m.ids[slot]) << 8 | slot;
  __syncthreads();
  const int32_t row = key < MOST_EXPERTS << 8 ? int32_t(count_below(m, slots, key)) : -1;
  if (slot < slots) m.rows[slot] = row;
  __syncthreads();
}

// What later launches read.
NVFP4_INLINE void write_order(const PermuteParams& p, DispatchMemory& m) {
  const uint32_t slot = threadIdx.x, slots = uint32_t(p.slots);
  if (slot == 0) m.first_bad = ~0u;
  for (uint32_t e = threadIdx.x; e < p.local_experts; e += blockDim.x) p.ends[e] = int32_t(count_below(m, slots, (e + 1) << 8));
  __syncthreads();
  if (slot < slots) {
    const int32_t row = m.rows[slot];
    p.inverse[slot] = row;
    if (row >= 0) p.source_rows[row] = int32_t(slot / p.topk);
    if (slot >= count_below(m, slots, MOST_EXPERTS << 8)) p.source_rows[slot] = -1;
    if (m.ids[slot] < -1 || m.ids[slot] >= int32_t(p.experts)) atomicMin(&m.first_bad, slot);
  }
  __syncthreads();
  if (slot == 0 && m.first_bad != ~0u) report_bad_group(p.fault, uint32_t(max(m.ids[m.first_bad], 0)));
}

// Of grid.y the last writes the routes and the order (one CTA); the others scatter a token each, and a part of its columns:
// `prepare(token)` while other launches may still be at work, then `scatter(rows, ids, token)`, of the token's slots.
template <class Gather, class Prepare, class Scatter>
NVFP4_INLINE void dispatch(const DispatchParams<Gather>& p, DispatchMemory& m, Prepare prepare, Scatter scatter) {
  ptx::allow_dependents();  // who starts behind this launch waits for it before anything else
  const bool writes = blockIdx.y == gridDim.y - 1;
  if (writes && blockIdx.x > 0) return;
  if (!writes) prepare(blockIdx.x);
  ptx::wait_for_launches();
  find_ids(p.route, p.permute, p.routed, writes, m);
  __syncthreads();
  find_rows(p.permute, m);
  if (writes) return write_order(p.permute, m);
  const uint32_t first = blockIdx.x * p.permute.topk;
  scatter(m.rows + first, m.ids + first, blockIdx.x);
}

NVFP4_INLINE void dispatch_values(const DispatchParams<GatherParams>& p, DispatchMemory& m) {
  const GatherParams& g = p.gather;
  dispatch(
      p, m,
      [&](uint64_t token) {
        const uint64_t at = 16 * (uint64_t(blockIdx.y) * blockDim.x + threadIdx.x);
        if (at < g.row_bytes && (threadIdx.x & 7) == 0) ptx::prefetch(g.src + token * g.src_row_stride + at);
      },
      [&](const int32_t* rows, const int32_t*, uint64_t token) { scatter_values(g, rows, token, blockIdx.y, gridDim.y - 1); });
}

NVFP4_INLINE void dispatch_codes(const DispatchParams<GatherCodesParams>& p, DispatchMemory& m) {
  dispatch(p, m, [](uint64_t) {}, [&](const int32_t* rows, const int32_t*, uint64_t token) { scatter_codes(p.gather, rows, token); });
}

template <class D> NVFP4_INLINE void dispatch_quantize(const DispatchParams<GatherRowsParams>& p, DispatchMemory& m) {
  uint32_t faults = 0, turn = 0;
  dispatch(
      p, m,
      [&](uint64_t token) {
        const RowsParams& r = p.gather.rows;
        const uint64_t bytes = r.dtype == DTYPE_F32 ? 4 : 2;
        for (uint64_t at = 128ull * threadIdx.x; at < r.cols * bytes; at += 128ull * blockDim.x)
          ptx::prefetch(static_cast<const char*>(r.src.base) + token * r.src.row_stride * bytes + at);
      },
      [&](const int32_t* rows, const int32_t* ids, uint64_t token) {
        Gathered<D> t;
        load_token(t, p.gather, rows, token);
        scatter_quantize(p.gather, t, token, ids, m.shared, turn, nullptr, faults);
      });
  raise_fault_warp(p.gather.rows.fault, faults);
}

}  // namespace nvfp4
