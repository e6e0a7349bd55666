// Ordered sums, exp, SwiGLU and relu². Twin of src/format/math.rs, bit for bit.
#pragma once
#include "dtype.cuh"

namespace nvfp4 {

// Σ x² of a block in index order.
template <class D>
NVFP4_INLINE float square_sum(const Block<D>& x) {
  float acc = 0.f;
#pragma unroll
  for (int i = 0; i < 16; i++) acc = __fmaf_rn(x.value(i), x.value(i), acc);
  return acc;
}

// The padded tree over the lanes of a warp, or of aligned parts of it: adjacent pairs, level by level.
template <int LANES = 32>
NVFP4_INLINE float pair_sum(float v) {
#pragma unroll
  for (int d = 1; d < LANES; d *= 2) v = __fadd_rn(v, __shfl_xor_sync(0xFFFFFFFFu, v, d));
  return v;
}

// 1 / sqrt(sum / cols + eps), NaN canonical.
NVFP4_INLINE float inverse_rms(float sum, uint64_t cols, float eps) {
  const float v = __frcp_rn(__fsqrt_rn(__fadd_rn(__fdiv_rn(sum, float(cols)), eps)));
  return v != v ? __uint_as_float(NAN_BITS) : v;
}

// e·2^n with n and the reduced polynomial of exp(z); z within [−87, 88].
NVFP4_INLINE void exp_parts(float z, float& e, float& power) {
  // 1.5·2^23 added: the sum's low bits are the nearest whole number, ties to even.
  const float shifted = __fadd_rn(__fmul_rn(z, 1.44269504f), 12582912.f);
  const float n = __fsub_rn(shifted, 12582912.f);
  const float r = __fmaf_rn(n, 2.12194440e-4f, __fmaf_rn(n, -0.693359375f, z));
  float q = 1.9875691500e-4f;
  q = __fmaf_rn(q, r, 1.3981999507e-3f);
  q = __fmaf_rn(q, r, 8.3334519073e-3f);
  q = __fmaf_rn(q, r, 4.1665795894e-2f);
  q = __fmaf_rn(q, r, 1.6666665459e-1f);
  q = __fmaf_rn(q, r, 5.0000001201e-1f);
  e = __fadd_rn(__fmaf_rn(q, __fmul_rn(r, r), r), 1.f);
  power = __uint_as_float((__float_as_uint(shifted) << 23) + 0x3F800000u);
}

// exp on [−87, 88], clamped outside; NaN stays NaN.
NVFP4_INLINE float exp_clamped(float z) {
  z = ptx::min_nan(ptx::max_nan(z, -87.f), 88.f);
  float e, power;
  exp_parts(z, e, power);
  return z != z ? z : __fmul_rn(e, power);
}

struct SwiGlu {
  float limit, alpha, beta;
};

// (gate / (1 + exp(−(alpha · gate)))) · (up + beta), before the rounding to the tensor's dtype.
NVFP4_INLINE float swiglu(float gate, float up, const SwiGlu& p) {
  if (p.limit > 0.f) {
    gate = ptx::min_nan(gate, p.limit);
    up = ptx::min_nan(ptx::max_nan(up, -p.limit), p.limit);
  }
  const float d = __fadd_rn(1.f, exp_clamped(-__fmul_rn(gate, p.alpha)));
  return __fmul_rn(__fdiv_rn(gate, d), __fadd_rn(up, p.beta));
}

// The same for gates whose quotient needs no care: 2^-60 <= |gate| and |alpha · gate| <= 80, so that nothing is clamped,
// 1 + exp < 2^117, and neither quotient nor remainder leaves the normal range. exp's scaling is exact, so it joins the
// addition; the division is the usual one (a refined reciprocal, one remainder) without its range check.
NVFP4_INLINE float swiglu_tame(float gate, float up, const SwiGlu& p) {
  if (p.limit > 0.f) {
    gate = fminf(gate, p.limit);
    up = ptx::min_nan(ptx::max_nan(up, -p.limit), p.limit);
  }
  float e, power;
  exp_parts(-__fmul_rn(gate, p.alpha), e, power);
  const float d = __fmaf_rn(e, power, 1.f);
  const float seed = ptx::rcp_approx(d);
  const float r = __fmaf_rn(seed, __fmaf_rn(-d, seed, 1.f), seed);
  const float q = __fmul_rn(gate, r);
  const float quotient = __fmaf_rn(r, __fmaf_rn(-d, q, gate), q);
  return __fmul_rn(quotient, __fadd_rn(up, p.beta));
}

// Whether every gate of a block is fit for swiglu_tame.
template <class D>
NVFP4_INLINE bool is_tame(const Block<D>& gate, const SwiGlu& p) {
  float least, most;
  if constexpr (D::BYTES == 4) {
    uint32_t lo = 0xFFFFFFFFu, hi = 0;
#pragma unroll
    for (int i = 0; i < 16; i++) {
      const uint32_t a = gate.w[i] & 0x7FFFFFFFu;
      lo = min(lo, a);
      hi = max(hi, a);
    }
    least = __uint_as_float(lo);
    most = __uint_as_float(hi);
  } else {
    uint32_t lo = 0x7FFF7FFFu, hi = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t a = gate.w[i] & 0x7FFF7FFFu;
      lo = ptx::min_u16x2(lo, a);
      hi = ptx::max_u16x2(hi, a);
    }
    least = D::low(min(lo & 0xFFFFu, lo >> 16));
    most = D::low(max(hi & 0xFFFFu, hi >> 16));
  }
  const bool limit_tame = !(p.limit > 0.f) || p.limit >= 0x1p-60f;
  return least >= 0x1p-60f && __fmul_rn(most, fabsf(p.alpha)) <= 80.f && limit_tame;  // false for NaN
}

// As the contract has it, for one value: out of line, so that the rare gates cost the others no registers.
static NVFP4_NOINLINE float swiglu_any(float gate, float up, float limit, float alpha, float beta) {
  return swiglu(gate, up, SwiGlu{limit, alpha, beta});
}

// gate becomes h, by the contract's chain. What bfloat16 does instead: swiglu_bf16.cuh.
template <class D>
NVFP4_INLINE void swiglu_block_exact(Block<D>& gate, const Block<D>& up, const SwiGlu& p) {
  const bool tame = is_tame(gate, p);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const float g[2] = {gate.value(2 * i), gate.value(2 * i + 1)}, u[2] = {up.value(2 * i), up.value(2 * i + 1)};
    if (tame) gate.set(i, swiglu_tame(g[0], u[0], p), swiglu_tame(g[1], u[1], p));
    else gate.set(i, swiglu_any(g[0], u[0], p.limit, p.alpha, p.beta), swiglu_any(g[1], u[1], p.limit, p.alpha, p.beta));
  }
}

// max(x, 0)², before the rounding.
NVFP4_INLINE float relu2(float x) {
  const float r = ptx::max_nan(x, 0.f);
  return __fmul_rn(r, r);
}

}  // namespace nvfp4
