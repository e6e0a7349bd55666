// Logits → ids and weights, a thread an expert: what a token waits for is short, where moe_route.cuh has a warp walk through
// all of its experts. Same bits. Up to 32 groups of experts.
#pragma once
#include "moe_route.cuh"

namespace nvfp4 {

// Up to 32 · WARPS experts.
template <int WARPS> struct WideRoute {
  float raw[33 * WARPS], scores[33 * WARPS], choice[33 * WARPS];
  uint32_t keys[32 * WARPS], ids[32 * WARPS];  // the best topk of each 32 experts
  uint32_t best[32];
  float top[32];
};

// Routes a token; the CTA has a thread an expert at least. Warp 0 has the slots.
template <int WARPS>
NVFP4_INLINE Slot route_wide(const RouteParams& p, uint64_t token, WideRoute<WARPS>& m, uint32_t& faults) {
  const uint32_t e = threadIdx.x, lane = e & 31, warp = e >> 5, warps = (p.experts + 31) / 32;
  const float lowest = __uint_as_float(0xFF800000u);
  if (p.mask && p.mask[token] == 0) return Slot{-1, 0.f};
  const bool here = e < p.experts;
  const float l = here ? load_element(p.dtype, p.logits, token * p.logits_row_stride + e) : lowest;
  const float bias = here && p.bias ? p.bias[e] : 0.f;
  float top = 0.f;
  if (p.score == SOFTMAX) {
    top = warp_max_nan(l);
    if (lane == 0) m.top[warp] = top;
    __syncthreads();
    top = warp_max_nan(lane < warps ? m.top[lane] : lowest);
  }
  float s = here ? score_of(p.score, l, top) : 0.f;
  bool nan = s != s;
  if (p.score == SOFTMAX) {
    if (here) m.raw[skewed(e)] = s;
    __syncthreads();
    s = __fdiv_rn(s, ordered_sum(m.raw, p.experts));
    nan |= here && s != s;
  }
  if (nan) faults = FAULT_NON_FINITE;
  if (here) m.scores[skewed(e)] = s;
  float choice = p.bias ? __fadd_rn(s, bias) : s;
  if (p.groups > 1) {
    if (here) m.choice[skewed(e)] = choice;
    __syncthreads();
    if (warp == 0) limit_groups<1>(p, m.choice);
    __syncthreads();
    if (here) choice = m.choice[skewed(e)];
  }
  // The rank among 32, then among the best of each 32; ties to the lower id.
  const uint32_t key = here ? order_key(choice) : 0;
  uint32_t rank = 0;
#pragma unroll 8
  for (uint32_t d = 1; d < 32; d++) {
    const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, key, d);
    rank += other > key || (other == key && (lane ^ d) < lane);
  }
  if (warp < warps && rank < p.topk) {
    m.keys[warp * p.topk + rank] = key;
    m.ids[warp * p.topk + rank] = e;
  }
  __syncthreads();
#pragma unroll 1
  for (uint32_t c = e; c < warps * p.topk; c += blockDim.x) {
    const uint32_t mine = m.keys[c];
    uint32_t before = 0;
#pragma unroll 8
    for (uint32_t j = 0; j < warps * p.topk; j++) before += m.keys[j] > mine || (m.keys[j] == mine && j < c);
    if (before < p.topk) m.best[before] = m.ids[c];
  }
  __syncthreads();
  return warp == 0 ? weigh(p, lane < p.topk ? m.best[lane] : 0, m.scores, faults) : Slot{0, 0.f};
}

// A CTA a token.
template <int WARPS>
NVFP4_INLINE void route_few(const RouteParams& p, WideRoute<WARPS>& m) {
  ptx::allow_dependents();  // who starts behind this launch waits for it before anything else
  ptx::wait_for_launches();
  uint32_t faults = 0;
#pragma unroll 1
  for (uint64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) {
    const Slot slot = route_wide(p, token, m, faults);
    if (threadIdx.x < 32) store_slot(p, token, slot);
    __syncthreads();  // the memory is another token's next
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
