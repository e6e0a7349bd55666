// Values of the input types, one and sixteen at a time. Twin of src/format/dtype.rs.
#pragma once
#include "params.cuh"
#include "ptx.cuh"

namespace nvfp4 {

constexpr uint32_t INFINITY_BITS = 0x7F800000u, NAN_BITS = 0x7FC00000u, E4M3_NAN = 0x7F;
constexpr float FLOAT_MAX = 3.402823466e38f;

// How 16-bit types are told apart: two values a word.
struct Bf16 {
  static constexpr uint32_t ID = DTYPE_BF16, BYTES = 2, INF = 0x7F80, NAN_CODE = 0x7FC0;
  // The two values of a word, whatever stands in the other half.
  static NVFP4_INLINE float low(uint32_t w) { return __uint_as_float(w << 16); }
  static NVFP4_INLINE float high(uint32_t w) { return __uint_as_float(w & 0xFFFF0000u); }
  static NVFP4_INLINE uint32_t pack(float l, float h) { return ptx::pack_bf16(l, h); }
  // The same of a finite pair, without the pipe of masks and shifts.
  static NVFP4_INLINE float finite_high(uint32_t w) { return __uint_as_float(ptx::high_bf16(w)); }
  // Pairs: the larger magnitude, a NaN where one is, under any sign.
  static NVFP4_INLINE uint32_t larger(uint32_t a, uint32_t b) { return ptx::larger_bf16x2(a, b); }
};
struct F16 {
  static constexpr uint32_t ID = DTYPE_F16, BYTES = 2, INF = 0x7C00, NAN_CODE = 0x7E00;
  static NVFP4_INLINE float low(uint32_t w) { return ptx::f16_to_f32(w & 0xFFFFu); }
  static NVFP4_INLINE float high(uint32_t w) { return ptx::f16_to_f32(w >> 16); }
  static NVFP4_INLINE uint32_t pack(float l, float h) { return ptx::pack_f16(l, h); }
  static NVFP4_INLINE uint32_t larger(uint32_t a, uint32_t b) { return ptx::larger_f16x2(a, b); }
};
struct F32 {
  static constexpr uint32_t ID = DTYPE_F32, BYTES = 4;
};

// The 16 values of a block as they stand in memory.
template <class D>
struct Block {
  static constexpr int WORDS = 8;
  uint32_t w[WORDS];
  NVFP4_INLINE float value(int i) const { return i & 1 ? D::high(w[i >> 1]) : D::low(w[i >> 1]); }
  // Both values of pair i, rounded to the type.
  NVFP4_INLINE void set(int i, float l, float h) { w[i] = D::pack(l, h); }
  // The bits of the largest magnitude as a float; infinities and NaNs are the largest.
  NVFP4_INLINE uint32_t magnitude() const { return min(__float_as_uint(amax()), INFINITY_BITS); }
  // The largest magnitude; an infinity or a NaN where there is one.
  NVFP4_INLINE float amax() const {
    uint32_t m = w[0];
#pragma unroll
    for (int i = 1; i < WORDS; i++) m = D::larger(m, w[i]);
    return ptx::max_nan(fabsf(D::low(m)), fabsf(D::high(m)));
  }
  // Replaces NaNs as they come out of conversions by the canonical one.
  NVFP4_INLINE void canonicalise() {
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      if ((w[i] & 0x7FFFu) > D::INF) w[i] = (w[i] & 0xFFFF0000u) | D::NAN_CODE;
      if ((w[i] >> 16 & 0x7FFFu) > D::INF) w[i] = (w[i] & 0xFFFFu) | D::NAN_CODE << 16;
    }
  }
};
template <>
struct Block<F32> {
  static constexpr int WORDS = 16;
  uint32_t w[WORDS];
  NVFP4_INLINE float value(int i) const { return __uint_as_float(w[i]); }
  NVFP4_INLINE void set(int i, float l, float h) {
    w[2 * i] = __float_as_uint(l);
    w[2 * i + 1] = __float_as_uint(h);
  }
  NVFP4_INLINE uint32_t magnitude() const { return min(__float_as_uint(amax()), INFINITY_BITS); }
  NVFP4_INLINE float amax() const {
    uint32_t m = 0;
#pragma unroll
    for (int i = 0; i < WORDS; i++) m = max(m, w[i] & 0x7FFFFFFFu);
    return __uint_as_float(m);
  }
  NVFP4_INLINE void canonicalise() {
#pragma unroll
    for (int i = 0; i < WORDS; i++)
      if ((w[i] & 0x7FFFFFFFu) > INFINITY_BITS) w[i] = NAN_BITS;
  }
};

// Bits of the largest finite magnitude; `magnitude` is the block's.
template <class D>
NVFP4_INLINE uint32_t finite_magnitude(const Block<D>& x, uint32_t magnitude) {
  if (magnitude < INFINITY_BITS) return magnitude;
  uint32_t m = 0;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const uint32_t bits = __float_as_uint(x.value(i)) & 0x7FFFFFFFu;
    if (bits < INFINITY_BITS) m = max(m, bits);
  }
  return m;
}

// Rounds through any dtype and back, NaN canonical.
NVFP4_INLINE float round_to(uint32_t dtype, float x) {
  if (x != x) return __uint_as_float(NAN_BITS);
  return dtype == DTYPE_BF16 ? Bf16::low(ptx::pack_bf16(x, 0.f)) : dtype == DTYPE_F16 ? F16::low(ptx::pack_f16(x, 0.f)) : x;
}

// One element of an array of any dtype; elements are aligned to their own size.
NVFP4_INLINE float load_element(uint32_t dtype, const void* base, uint64_t i) {
  if (dtype == DTYPE_F32) return static_cast<const volatile float*>(base)[i];
  const uint32_t bits = static_cast<const volatile uint16_t*>(base)[i];
  return dtype == DTYPE_BF16 ? Bf16::low(bits) : F16::low(bits);
}
NVFP4_INLINE void store_element(uint32_t dtype, void* base, uint64_t i, float x) {
  if (x != x) {
    if (dtype == DTYPE_F32) static_cast<uint32_t*>(base)[i] = NAN_BITS;
    else static_cast<uint16_t*>(base)[i] = dtype == DTYPE_BF16 ? Bf16::NAN_CODE : F16::NAN_CODE;
  } else if (dtype == DTYPE_F32) {
    static_cast<float*>(base)[i] = x;
  } else {
    static_cast<uint16_t*>(base)[i] = uint16_t(dtype == DTYPE_BF16 ? ptx::pack_bf16(x, 0.f) : ptx::pack_f16(x, 0.f));
  }
}

}  // namespace nvfp4
