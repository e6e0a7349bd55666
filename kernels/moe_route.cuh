// Logits → ids and weights, a warp a token: for many tokens; moe_route_wide.cuh for few. Twin of src/format/route.rs.
#pragma once
#include "format.cuh"
#include "groups.cuh"
#include "params_moe.cuh"

namespace nvfp4 {

// An order of floats as integers: −0 is 0, a NaN counts as −inf; 0 stands below all of them.
constexpr uint32_t LOWEST_KEY = 0x007FFFFFu;  // of −inf
NVFP4_INLINE uint32_t order_key(float v) {
  if (v != v) return LOWEST_KEY;
  const uint32_t bits = __float_as_uint(__fadd_rn(v, 0.f));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// Index of the largest key of a warp, ties to the lower index; it is then out of the race. Lane l holds keys l, l + 32, …
template <int EACH>
NVFP4_INLINE uint32_t take_largest(uint32_t (&keys)[EACH]) {
  const uint32_t lane = threadIdx.x & 31;
  uint32_t best = 0;
#pragma unroll
  for (int i = 0; i < EACH; i++) best = max(best, keys[i]);
  best = ptx::warp_max(best);
  uint32_t mine = 0xFFFFFFFFu;
#pragma unroll
  for (int i = EACH - 1; i >= 0; i--)
    if (keys[i] == best) mine = 32 * i + lane;
  const uint32_t index = ~ptx::warp_max(~mine);
#pragma unroll
  for (int i = 0; i < EACH; i++)
    if (32 * i + lane == index) keys[i] = 0;
  return index;
}

// Where a warp keeps value e: a word is left out after every 32, so that lanes with 32 neighbours each meet no bank twice.
NVFP4_INLINE uint32_t skewed(uint32_t e) { return e + (e >> 5); }

// Σ of the first `count` values: blocks of 16 in index order, then adjacent pairs. A lane's 32 are two blocks.
NVFP4_INLINE float ordered_sum(const float* values, uint32_t count) {
  const uint32_t first = 32 * (threadIdx.x & 31), at = skewed(first);
  float sums[2] = {0.f, 0.f};
#pragma unroll 4
  for (uint32_t i = 0; i < 16; i++) {
    if (first + i < count) sums[0] = __fadd_rn(sums[0], values[at + i]);
    if (first + 16 + i < count) sums[1] = __fadd_rn(sums[1], values[at + 16 + i]);
  }
  return pair_sum(__fadd_rn(sums[0], sums[1]));
}

// log(1 + u) on [0, 1].
NVFP4_INLINE float log1p_unit(float u) {
  const float w = __fdiv_rn(u, __fadd_rn(2.f, u)), w2 = __fmul_rn(w, w);
  float t = 1.f / 15.f;
  t = __fmaf_rn(t, w2, 1.f / 13.f);
  t = __fmaf_rn(t, w2, 1.f / 11.f);
  t = __fmaf_rn(t, w2, 1.f / 9.f);
  t = __fmaf_rn(t, w2, 1.f / 7.f);
  t = __fmaf_rn(t, w2, 1.f / 5.f);
  t = __fmaf_rn(t, w2, 1.f / 3.f);
  t = __fmaf_rn(t, w2, 1.f);
  return __fmul_rn(__fmul_rn(2.f, w), t);
}

// What becomes of a logit; `top`: the largest, for softmax, which still has to be divided by the sum.
NVFP4_INLINE float score_of(uint32_t score, float l, float top) {
  if (score == SOFTMAX) return exp_clamped(__fsub_rn(l, top));
  if (score == SIGMOID) return __frcp_rn(__fadd_rn(1.f, exp_clamped(-l)));
  return __fsqrt_rn(__fadd_rn(ptx::max_nan(l, 0.f), log1p_unit(exp_clamped(-fabsf(l)))));
}

// Largest value of a warp; a NaN is passed on.
NVFP4_INLINE float warp_max_nan(float v) {
#pragma unroll
  for (int d = 1; d < 32; d *= 2) v = ptx::max_nan(v, __shfl_xor_sync(0xFFFFFFFFu, v, d));
  return v;
}

// Scores of a token's logits. True where one is NaN, for the lane that made it.
template <int EACH>
NVFP4_INLINE bool score_token(const RouteParams& p, uint64_t token, float* scores) {
  const uint32_t lane = threadIdx.x & 31;
  float logits[EACH];
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const uint32_t e = 32 * i + lane;
    logits[i] = e < p.experts ? load_element(p.dtype, p.logits, token * p.logits_row_stride + e) : 0.f;
  }
  float top = 0.f;
  if (p.score == SOFTMAX) {
    top = __uint_as_float(0xFF800000u);
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (32 * i + lane < p.experts) top = ptx::max_nan(top, logits[i]);
    top = warp_max_nan(top);
  }
  bool nan = false;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const uint32_t e = 32 * i + lane;
    if (e >= p.experts) continue;
    const float s = score_of(p.score, logits[i], top);
    scores[skewed(e)] = s;
    nan |= s != s;
  }
  __syncwarp();
  if (p.score != SOFTMAX) return nan;
  const float sum = ordered_sum(scores, p.experts);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const uint32_t e = 32 * i + lane;
    if (e >= p.experts) continue;
    const float s = __fdiv_rn(scores[skewed(e)], sum);
    scores[skewed(e)] = s;
    nan |= s != s;
  }
  __syncwarp();
  return nan;
}

// Leaves the experts of the best groups; a group ranks by the sum of its two largest choices.
template <int EACH>
NVFP4_INLINE void limit_groups(const RouteParams& p, float* choice) {
  const uint32_t lane = threadIdx.x & 31, size = p.experts / p.groups;
  const float lowest = __uint_as_float(0xFF800000u);
  uint32_t keys[EACH];
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const uint32_t g = 32 * i + lane;
    keys[i] = 0;
    if (g >= p.groups) continue;
    float first = lowest, second = lowest;
#pragma unroll 1
    for (uint32_t e = g * size; e < (g + 1) * size; e++) {
      const float v = choice[skewed(e)];
      if (v > first) {
        second = first;
        first = v;
      } else if (v > second) {
        second = v;
      }
    }
    keys[i] = order_key(size > 1 ? __fadd_rn(first, second) : first);
  }
#pragma unroll 1
  for (uint32_t j = 0; j < p.top_groups; j++) take_largest(keys);
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const uint32_t g = 32 * i + lane;
    if (g >= p.groups || keys[i] == 0) continue;
#pragma unroll 1
    for (uint32_t e = g * size; e < (g + 1) * size; e++) choice[skewed(e)] = lowest;
  }
  __syncwarp();
}

// The slot of a token that a lane has.
struct Slot {
  int32_t id;
  float weight;
};

// Weights of the chosen experts, `id` that of slot `lane`: by a warp.
NVFP4_INLINE Slot weigh(const RouteParams& p, uint32_t id, const float* scores, uint32_t& faults) {
  const uint32_t lane = threadIdx.x & 31;
  float weight = lane < p.topk ? scores[skewed(id)] : 0.f;
  if (p.renormalise) {
    float sum = 0.f;
#pragma unroll 1
    for (uint32_t j = 0; j < p.topk; j++) sum = __fadd_rn(sum, __shfl_sync(0xFFFFFFFFu, weight, j));
    weight = __fdiv_rn(weight, sum);
  }
  weight = __fmul_rn(weight, p.scaling);
  if (lane < p.topk && !(fabsf(weight) <= FLOAT_MAX)) faults = FAULT_NON_FINITE;
  return Slot{int32_t(id), weight != weight ? __uint_as_float(NAN_BITS) : weight};
}

// Where a warp keeps scores and choices of up to 32 · EACH experts.
template <int EACH> constexpr uint32_t ROUTE_FLOATS = 2 * 33 * EACH;

// Routes a token: a warp does. Lanes up to topk have its slots; `faults` of the lane.
template <int EACH>
NVFP4_INLINE Slot route_token(const RouteParams& p, uint64_t token, float* scores, uint32_t& faults) {
  const uint32_t lane = threadIdx.x & 31;
  float* const choice = scores + 33 * EACH;
  if (p.mask && p.mask[token] == 0) return Slot{-1, 0.f};
  if (score_token<EACH>(p, token, scores)) faults = FAULT_NON_FINITE;
  uint32_t keys[EACH];
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const uint32_t e = 32 * i + lane;
    if (e >= p.experts) continue;
    const float s = scores[skewed(e)];
    choice[skewed(e)] = p.bias ? __fadd_rn(s, p.bias[e]) : s;
  }
  __syncwarp();
  if (p.groups > 1) limit_groups<EACH>(p, choice);
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const uint32_t e = 32 * i + lane;
    keys[i] = e < p.experts ? order_key(choice[skewed(e)]) : 0;
  }
  uint32_t id = 0;  // of slot `lane`
#pragma unroll 1
  for (uint32_t j = 0; j < p.topk; j++) {
    const uint32_t next = take_largest(keys);
    if (j == lane) id = next;
  }
  const Slot slot = weigh(p, id, scores, faults);
  __syncwarp();  // the scores are another token's next
  return slot;
}

NVFP4_INLINE void store_slot(const RouteParams& p, uint64_t token, const Slot& slot) {
  const uint32_t lane = threadIdx.x & 31;
  if (lane >= p.topk) return;
  p.ids[token * p.topk + lane] = slot.id;
  p.weights[token * p.topk + lane] = slot.weight;
}

// Up to 32 · EACH experts; `memory`: ROUTE_FLOATS a warp.
template <int EACH>
NVFP4_INLINE void route(const RouteParams& p, float* memory) {
  const uint32_t warps = blockDim.x >> 5, warp = threadIdx.x >> 5;
  uint32_t faults = 0;
  ptx::allow_dependents();  // who starts behind this launch waits for it before anything else
  ptx::wait_for_launches();
#pragma unroll 1
  for (uint64_t token = uint64_t(blockIdx.x) * warps + warp; token < p.tokens; token += uint64_t(gridDim.x) * warps)
    store_slot(p, token, route_token<EACH>(p, token, memory + ROUTE_FLOATS<EACH> * warp, faults));
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
