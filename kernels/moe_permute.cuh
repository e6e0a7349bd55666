// Ids → expert order, by a stable counting sort without atomics on the order. Twin of permute in src/backend/cpu/moe.rs.
//
// Slots are cut into chunks, a CTA each, and a chunk into one run a warp. `count` leaves every chunk's experts in
// `source_rows`, which nobody needs yet; `place` adds up what stands before a chunk and a warp and walks its run in order, so
// that a slot's row is the rows before its own; `sources` turns the inverse around. Of short calls each CTA counts everything for
// itself, which is less than two more launches, and `place` is all.
#pragma once
#include "groups.cuh"
#include "params_moe.cuh"

namespace nvfp4 {

constexpr uint32_t PERMUTE_THREADS = 256, PERMUTE_WARPS = PERMUTE_THREADS / 32, MOST_EXPERTS = 1024;

struct PermuteMemory {
  int32_t rows[PERMUTE_WARPS][MOST_EXPERTS];
  uint32_t before[MOST_EXPERTS], all[MOST_EXPERTS];  // rows in chunks before this one, and in all
  uint32_t totals[PERMUTE_WARPS];
  uint32_t first_bad;
};

// The local expert of an id, or none.
NVFP4_INLINE uint32_t local_expert(const PermuteParams& p, int32_t id) {
  const uint32_t local = uint32_t(id) - p.first_expert;
  return id >= 0 && uint32_t(id) >= p.first_expert && local < p.local_experts ? local : MOST_EXPERTS;
}

// Calls each(slot or ~0, id) over the warp's run of a chunk, 32 slots at a time in order.
template <class Each>
NVFP4_INLINE void over_run(const PermuteParams& p, Each each) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const uint64_t run = p.chunk / PERMUTE_WARPS, start = blockIdx.x * p.chunk + warp * run;
  const uint64_t end = start + run < p.slots ? start + run : p.slots;
#pragma unroll 1
  for (uint64_t base = start; base < end; base += 32) {
    const uint64_t slot = base + lane;
    each(slot < end ? slot : ~0ull, slot < end ? p.ids[slot] : -1);
  }
}

// Rows of every warp by expert, and the chunk's first slot that holds no id.
NVFP4_INLINE void count_runs(const PermuteParams& p, PermuteMemory& m) {
  for (uint32_t e = threadIdx.x; e < p.local_experts; e += PERMUTE_THREADS) {
#pragma unroll
    for (uint32_t w = 0; w < PERMUTE_WARPS; w++) m.rows[w][e] = 0;
  }
  if (threadIdx.x == 0) m.first_bad = 0xFFFFFFFFu;
  __syncthreads();
  int32_t* const rows = m.rows[threadIdx.x >> 5];
  const uint32_t lane = threadIdx.x & 31;
  uint32_t bad = 0xFFFFFFFFu;
  over_run(p, [&](uint64_t slot, int32_t id) {
    if (id < -1 || id >= int32_t(p.experts)) bad = min(bad, uint32_t(slot));
    const uint32_t expert = local_expert(p, id), same = __match_any_sync(0xFFFFFFFFu, expert);
    if (expert < MOST_EXPERTS && same >> lane == 1) rows[expert] += __popc(same);
    __syncwarp();
  });
  if (bad != 0xFFFFFFFFu) atomicMin(&m.first_bad, bad);
  __syncthreads();
}

// Rows by expert of a short call, and its first slot that holds no id.
NVFP4_INLINE void count_all(const PermuteParams& p, PermuteMemory& m) {
  for (uint32_t e = threadIdx.x; e < p.local_experts; e += PERMUTE_THREADS) m.before[e] = m.all[e] = 0;
  __syncthreads();
  const uint32_t slots = uint32_t(p.slots), start = blockIdx.x * uint32_t(p.chunk);
#pragma unroll 4
  for (uint32_t slot = threadIdx.x; slot < slots; slot += PERMUTE_THREADS) {
    const int32_t id = p.ids[slot];
    if (id < -1 || id >= int32_t(p.experts)) atomicMin(&m.first_bad, slot);
    const uint32_t expert = local_expert(p, id);
    if (expert >= MOST_EXPERTS) continue;
    atomicAdd(&m.all[expert], 1u);
    if (slot < start) atomicAdd(&m.before[expert], 1u);
  }
  __syncthreads();
}

// What is reported of a chunk: 1 + the id (0 for one below), or 0.
NVFP4_INLINE int32_t bad_id(const PermuteParams& p, const PermuteMemory& m) {
  return m.first_bad == 0xFFFFFFFFu ? 0 : max(p.ids[m.first_bad], 0) + 1;
}

NVFP4_INLINE void permute_count(const PermuteParams& p, PermuteMemory& m) {
  ptx::allow_dependents();  // each launch of the sort waits for the one in front
  ptx::wait_for_launches();
  count_runs(p, m);
  int32_t* const out = p.source_rows + uint64_t(blockIdx.x) * (p.local_experts + 1);
  for (uint32_t e = threadIdx.x; e < p.local_experts; e += PERMUTE_THREADS) {
    int32_t sum = 0;
#pragma unroll
    for (uint32_t w = 0; w < PERMUTE_WARPS; w++) sum += m.rows[w][e];
    out[e] = sum;
  }
  if (threadIdx.x == 0) out[p.local_experts] = bad_id(p, m);
}

// Counts of warps → first rows of warps; the first CTA writes the ends.
NVFP4_INLINE void place_runs(const PermuteParams& p, PermuteMemory& m) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint32_t carry = 0;
#pragma unroll 1
  for (uint32_t base = 0; base < p.local_experts; base += PERMUTE_THREADS) {
    const uint32_t e = base + threadIdx.x;
    uint32_t before = 0, all = 0;  // rows of the expert in chunks before this one, and in all
    if (e < p.local_experts) {
      if (p.is_short) {
        before = m.before[e];
        all = m.all[e];
      } else {
#pragma unroll 8
        for (uint32_t c = 0; c < p.chunks; c++) {
          const uint32_t rows = uint32_t(p.source_rows[uint64_t(c) * (p.local_experts + 1) + e]);
          if (c < blockIdx.x) before += rows;
          all += rows;
        }
      }
    }
    const uint32_t scan = warp_scan<false>(all);
    if (lane == 31) m.totals[warp] = scan;
    __syncthreads();
    uint32_t start = carry + scan - all;
#pragma unroll
    for (uint32_t w = 0; w < PERMUTE_WARPS; w++) {
      if (w < warp) start += m.totals[w];
      carry += m.totals[w];
    }
    if (e < p.local_experts) {
      if (blockIdx.x == 0) p.ends[e] = int32_t(start + all);
      uint32_t row = start + before;
#pragma unroll
      for (uint32_t w = 0; w < PERMUTE_WARPS; w++) {
        const uint32_t rows = uint32_t(m.rows[w][e]);
        m.rows[w][e] = int32_t(row);
        row += rows;
      }
    }
    __syncthreads();
  }
  // A short call writes the source rows itself.
  if (p.is_short)
    for (uint64_t row = carry + blockIdx.x * PERMUTE_THREADS + threadIdx.x; row < p.slots; row += gridDim.x * PERMUTE_THREADS)
      p.source_rows[row] = -1;
}

// The first bad id in slot order.
NVFP4_INLINE void report_bad_id(const PermuteParams& p, PermuteMemory& m) {
  if (p.is_short) {
    if (threadIdx.x == 0 && m.first_bad != 0xFFFFFFFFu) report_bad_group(p.fault, uint32_t(bad_id(p, m) - 1));
    return;
  }
  if (threadIdx.x >= 32) return;
  uint32_t first = 0xFFFFFFFFu;
  for (uint32_t c = threadIdx.x; c < p.chunks; c += 32)
    if (p.source_rows[uint64_t(c) * (p.local_experts + 1) + p.local_experts] != 0) first = min(first, c);
  first = ~ptx::warp_max(~first);
  if (threadIdx.x == 0 && first != 0xFFFFFFFFu) {
    const int32_t id = p.source_rows[uint64_t(first) * (p.local_experts + 1) + p.local_experts] - 1;
    report_bad_group(p.fault, uint32_t(id));
  }
}

NVFP4_INLINE void permute_place(const PermuteParams& p, PermuteMemory& m) {
  ptx::allow_dependents();
  ptx::wait_for_launches();
  count_runs(p, m);
  if (p.is_short) count_all(p, m);
  if (blockIdx.x == 0) report_bad_id(p, m);
  place_runs(p, m);
  int32_t* const rows = m.rows[threadIdx.x >> 5];
  const uint32_t lane = threadIdx.x & 31;
  over_run(p, [&](uint64_t slot, int32_t id) {
    const uint32_t expert = local_expert(p, id), same = __match_any_sync(0xFFFFFFFFu, expert);
    const uint32_t before = __popc(same & ((1u << lane) - 1));
    const int32_t row = expert < MOST_EXPERTS ? rows[expert] + int32_t(before) : -1;
    __syncwarp();
    if (expert < MOST_EXPERTS && same >> lane == 1) rows[expert] = row + 1;
    __syncwarp();
    if (slot == ~0ull) return;
    p.inverse[slot] = row;
    if (p.is_short && row >= 0) p.source_rows[row] = int32_t(uint32_t(slot) / p.topk);
  });
}

// The token of each row, −1 behind the last.
NVFP4_INLINE void permute_sources(const PermuteParams& p) {
  ptx::allow_dependents();
  ptx::wait_for_launches();
  const uint64_t used = p.local_experts ? uint64_t(p.ends[p.local_experts - 1]) : 0;
  for (uint64_t slot = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; slot < p.slots; slot += uint64_t(gridDim.x) * blockDim.x) {
    const int32_t row = p.inverse[slot];
    if (row >= 0) p.source_rows[row] = int32_t(uint32_t(slot) / p.topk);
    if (slot >= used) p.source_rows[slot] = -1;
  }
}

}  // namespace nvfp4
