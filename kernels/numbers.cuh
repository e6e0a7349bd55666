// What the product and the weight kernels need of the number formats: value types, the contract's exp and activations,
// and the block quantizer. Twin of src/format/{dtype,e2m1,e4m3,block,math}.rs.
#pragma once
#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include "params_gemm.cuh"

constexpr uint32_t FAULT_BAD_DECODE_SCALE = 2, FAULT_NON_FINITE = 4, FAULT_SATURATED = 8;

__device__ __forceinline__ float quiet_nan() { return __uint_as_float(0x7FC00000u); }
__device__ __forceinline__ bool is_nan(float x) { return (__float_as_uint(x) & 0x7FFFFFFFu) > 0x7F800000u; }
__device__ __forceinline__ bool is_finite(float x) { return (__float_as_uint(x) & 0x7F800000u) != 0x7F800000u; }
__device__ __forceinline__ float min_nan(float a, float b) { return is_nan(a) || is_nan(b) ? quiet_nan() : fminf(a, b); }
__device__ __forceinline__ float max_nan(float a, float b) { return is_nan(a) || is_nan(b) ? quiet_nan() : fmaxf(a, b); }

__device__ __forceinline__ uint16_t bf16_bits(float x) {
  if (is_nan(x)) return 0x7FC0;
  const uint32_t bits = __float_as_uint(x);
  return static_cast<uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}
__device__ __forceinline__ uint16_t f16_bits(float x) { return is_nan(x) ? 0x7E00 : __half_as_ushort(__float2half_rn(x)); }
__device__ __forceinline__ float bf16_value(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
__device__ __forceinline__ float f16_value(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

__device__ __forceinline__ float load_value(uint32_t dtype, const uint8_t* base, int64_t i) {
  if (dtype == DTYPE_F32) return reinterpret_cast<const float*>(base)[i];
  const uint16_t bits = reinterpret_cast<const uint16_t*>(base)[i];
  return dtype == DTYPE_BF16 ? bf16_value(bits) : f16_value(bits);
}
__device__ __forceinline__ uint16_t half_bits(uint32_t dtype, float x) { return dtype == DTYPE_F16 ? f16_bits(x) : bf16_bits(x); }
__device__ __forceinline__ float round_half(uint32_t dtype, float x) {
  return dtype == DTYPE_F16 ? f16_value(f16_bits(x)) : bf16_value(bf16_bits(x));
}

// exp on [−87, 88], clamped outside, every operation as the contract writes it.
__device__ __forceinline__ float contract_exp(float z) {
  if (is_nan(z)) return quiet_nan();
  z = fminf(fmaxf(z, -87.f), 88.f);
  const float n = rintf(__fmul_rn(z, 1.44269504f));
  const float r = __fmaf_rn(n, 2.12194440e-4f, __fmaf_rn(n, -0.693359375f, z));
  float q = 1.9875691500e-4f;
  q = __fmaf_rn(q, r, 1.3981999507e-3f);
  q = __fmaf_rn(q, r, 8.3334519073e-3f);
  q = __fmaf_rn(q, r, 4.1665795894e-2f);
  q = __fmaf_rn(q, r, 1.6666665459e-1f);
  q = __fmaf_rn(q, r, 5.0000001201e-1f);
  const float e = __fadd_rn(__fmaf_rn(q, __fmul_rn(r, r), r), 1.f);
  return __fmul_rn(e, __uint_as_float(static_cast<uint32_t>(static_cast<int>(n) + 127) << 23));
}

__device__ __forceinline__ float contract_swiglu(float gate, float up, float limit, float alpha, float beta) {
  if (limit > 0.f) {
    gate = min_nan(gate, limit);
    up = min_nan(max_nan(up, -limit), limit);
  }
  const float sigmoid = __fdiv_rn(gate, __fadd_rn(1.f, contract_exp(-__fmul_rn(gate, alpha))));
  return __fmul_rn(sigmoid, __fadd_rn(up, beta));
}
__device__ __forceinline__ float contract_relu2(float x) {
  const float r = max_nan(x, 0.f);
  return __fmul_rn(r, r);
}

__device__ __forceinline__ float e4m3_value(uint32_t byte) {
  const uint32_t magnitude = byte & 0x7F;
  if (magnitude == 0x7F) return quiet_nan();
  const float x = magnitude < 8 ? __fmul_rn(static_cast<float>(magnitude), 0.001953125f) : __uint_as_float((magnitude + 960) << 20);
  return byte & 0x80 ? -x : x;
}
// Of a value that is zero or above, not NaN.
__device__ __forceinline__ uint32_t e4m3_code(float t) {
  t = fminf(t, 448.f);
  if (t < 0.015625f) return __float_as_uint(__fadd_rn(t, 24576.f)) & 0xFF;
  const uint32_t bits = __float_as_uint(t);
  return ((bits + 0x7FFFFu + (bits >> 20 & 1)) >> 20) - 960;
}
__device__ __forceinline__ float e2m1_value(uint32_t code) {
  const uint32_t m = code & 7;
  const float x = m < 2 ? 0.5f * static_cast<float>(m) : __uint_as_float((m + 252) << 22);
  return code & 8 ? -x : x;
}
__device__ __forceinline__ uint32_t e2m1_code(float y) {
  const float m = fabsf(y);
  const uint32_t code = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) + (m > 5.f);
  return code | __float_as_uint(y) >> 31 << 3;
}

struct Encode {
  float inverse, sixth;
  bool invalid;
};
__device__ __forceinline__ Encode encode_of(float scale) { return {__fdiv_rn(1.f, scale), __fmul_rn(scale, 1.f / 6.f), false}; }
__device__ __forceinline__ Encode encode_static(float decode) {
  if (!(is_finite(decode) && decode > 0.f)) return {1.f, 0.f, true};
  return encode_of(fminf(__fdiv_rn(1.f, decode), 3.402823466e+38f));
}
__device__ __forceinline__ Encode encode_amax(float amax) {
  return amax == 0.f ? encode_of(1.f) : encode_of(fminf(__fdiv_rn(2688.f, amax), 3.402823466e+38f));
}
__device__ __forceinline__ float decode_of_amax(float amax) {
  if (amax == 0.f) return 1.f;
  const float scale = __fdiv_rn(2688.f, amax);
  return scale > 3.402823466e+38f ? __fdiv_rn(1.f, 3.402823466e+38f) : __fdiv_rn(amax, 2688.f);
}

__device__ __forceinline__ float block_reciprocal(uint32_t scale, const Encode& e) {
  return fminf(__fdiv_rn(1.f, __fmul_rn(e4m3_value(scale), e.inverse)), 3.402823466e+38f);
}
__device__ __forceinline__ float block_error(const float (&x)[16], uint32_t scale, const Encode& e) {
  const float r = block_reciprocal(scale, e), sf = e4m3_value(scale);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const uint32_t code = scale ? e2m1_code(__fmul_rn(x[i], r)) : 0;
    const float d = __fsub_rn(__fmul_rn(__fmul_rn(e2m1_value(code), sf), e.inverse), x[i]);
    sum = __fadd_rn(sum, __fmul_rn(d, d));
  }
  return sum;
}

// One block of 16: its codes, scale byte, and the fault flags it raises.
__device__ __forceinline__ uint32_t quantize_block(const float (&x)[16], const Encode& e, uint32_t rule, uint2& codes, uint32_t& flags) {
  codes = make_uint2(0, 0);
  if (e.invalid) {
    flags |= FAULT_BAD_DECODE_SCALE;
    return 0x7F;
  }
  bool finite = true;
  float amax = 0.f;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    finite &= is_finite(x[i]);
    amax = fmaxf(amax, fabsf(x[i]));
  }
  if (!finite) {
    flags |= FAULT_NON_FINITE;
    return 0x7F;
  }
  const float t = __fmul_rn(amax, e.sixth);
  if (t > 464.f) flags |= FAULT_SATURATED;
  uint32_t best = e4m3_code(t);
  if (rule == RULE_FOUR_OVER_SIX) {
    const uint32_t wide = e4m3_code(__fmul_rn(t, 1.5f));
    if (block_error(x, wide, e) < block_error(x, best, e)) best = wide;
  } else if (rule == RULE_MIN_MSE) {
    const int base = best;
    float least = block_error(x, best, e);
#pragma unroll 1
    for (int i = 2; i < 16; i++) {
      const int step = i & 1 ? i / 2 : -(i / 2);
      const uint32_t candidate = min(max(base + step, 0), 126);
      const float error = block_error(x, candidate, e);
      if (error < least) least = error, best = candidate;
    }
  }
  if (best == 0) return 0;
  const float r = block_reciprocal(best, e);
#pragma unroll
  for (int i = 0; i < 8; i++) {
    codes.x |= e2m1_code(__fmul_rn(x[i], r)) << 4 * i;
    codes.y |= e2m1_code(__fmul_rn(x[i + 8], r)) << 4 * i;
  }
  return best;
}

__device__ __forceinline__ void raise_faults(uint64_t* fault, uint32_t flags) {
  if (flags) atomicOr_system(reinterpret_cast<uint32_t*>(fault), flags);
}
