// E4M3 and E2M1: values → codes and back. Twin of src/format/e4m3.rs and e2m1.rs, bit for bit.
#pragma once
#include "dtype.cuh"

namespace nvfp4 {

// ---------------------------------------------------------------- E4M3

// The value of a byte 0…0x7E. The byte's fields land in a float's, 120 powers of two too low; subnormals come along.
NVFP4_INLINE float e4m3_decode(uint32_t byte) { return __fmul_rn(__uint_as_float(byte << 20), 0x1p120f); }
// As above for any byte: the sign kept, 0x7F and 0xFF NaN.
NVFP4_INLINE float e4m3_decode_any(uint32_t byte) {
  if ((byte & 0x7F) == E4M3_NAN) return __uint_as_float(NAN_BITS);
  return __uint_as_float(__float_as_uint(e4m3_decode(byte & 0x7F)) | (byte & 0x80) << 24);
}

// Nearest code of t >= 0, ties to even, saturating at 448.
NVFP4_INLINE uint32_t e4m3_encode(float t) {
#if NVFP4_HAS_CVT_E4M3
  return ptx::e4m3_encode(t);
#else
  t = fminf(t, 448.f);
  // Below 2^-6 codes are multiples of 2^-9: adding 1.5 * 2^14 leaves that multiple, rounded to even, in the low bits.
  if (t < 0.015625f) return __float_as_uint(__fadd_rn(t, 24576.f)) & 0xFF;
  const uint32_t bits = __float_as_uint(t);
  return ((bits + 0x0007FFFFu + (bits >> 20 & 1)) >> 20) - (120u << 3);
#endif
}

// ---------------------------------------------------------------- E2M1

// The code of y in 0…7 (7 excluded) as the low bits of 2^23 + code. Magnitude → code is concave and piecewise linear
// (2y, y + 2, y/2 + 4), and rounding is monotone, so the smallest of the three, each rounded once, is the code.
NVFP4_INLINE uint32_t e2m1_biased(float y) {
  const float a = __fmaf_rn(y, 2.f, 8388608.f), b = __fadd_rn(y, 8388610.f), c = __fmaf_rn(y, 0.5f, 8388612.f);
  return uint32_t(ptx::min3(__float_as_int(a), __float_as_int(b), __float_as_int(c)));
}
// Σ of 2^23's bits over eight nibbles, modulo 2^32.
constexpr uint32_t E2M1_BIAS_SUM = 0xFB000000u;

// Magnitudes of the codes of 8 values: |x| · r, saturating where CLAMP says that 7 may be reached.
template <bool CLAMP, class Get>
NVFP4_INLINE uint32_t e2m1_magnitudes(Get get, float r) {
  const uint32_t sixteen = 16;
  uint32_t codes = 0;
#pragma unroll
  for (int i = 7; i >= 0; i--) {
    float y = __fmul_rn(get(i), r);
    if (CLAMP) y = fminf(y, 6.f);
    codes = i == 7 ? e2m1_biased(y) : codes * sixteen + e2m1_biased(y);
  }
  return codes - E2M1_BIAS_SUM;
}

// The nearest E2M1 magnitude of y in 0…6, ties to the even code: one addition at the magnitude's own spacing.
NVFP4_INLINE float e2m1_nearest(float y) {
  const float e = __uint_as_float(__float_as_uint(fmaxf(y, 1.f)) & INFINITY_BITS);
  const float t = __fmaf_rn(e, 6291456.f, y);
  return __fmaf_rn(e, -6291456.f, t);
}

// The value of a code (low four bits), −0 kept.
NVFP4_INLINE float e2m1_decode(uint32_t code) {
  const uint32_t m = code & 7;
  const float v = m < 2 ? 0.5f * float(m) : __uint_as_float((m >> 1) + 126 << 23 | (m & 1) << 22);
  return __uint_as_float(__float_as_uint(v) | (code & 8) << 28);
}

// Magnitudes of the codes of a block: 16 nibbles, even k low. `r`: what values are multiplied with. CLAMP: 7 may be reached.
template <bool CLAMP, class D>
NVFP4_INLINE uint2 block_magnitudes(const Block<D>& x, float r) {
  return make_uint2(e2m1_magnitudes<CLAMP>([&](int i) { return fabsf(x.value(i)); }, r),
                    e2m1_magnitudes<CLAMP>([&](int i) { return fabsf(x.value(8 + i)); }, r));
}

// The codes behind such magnitudes: signs of the values put in.
template <class D>
NVFP4_INLINE uint2 with_signs(const Block<D>& x, uint2 magnitudes) {
  uint32_t out[2] = {magnitudes.x, magnitudes.y};
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const uint32_t* w = x.w + h * (Block<D>::WORDS / 2);
    uint32_t even, odd;  // bytes with the sign of values 0, 2, 4, 6 and 1, 3, 5, 7 on top
    if constexpr (D::BYTES == 4) {
      even = __byte_perm(__byte_perm(w[0], w[2], 0x0073), __byte_perm(w[4], w[6], 0x0073), 0x5410);
      odd = __byte_perm(__byte_perm(w[1], w[3], 0x0073), __byte_perm(w[5], w[7], 0x0073), 0x5410);
    } else {
      const uint32_t a = __byte_perm(w[0], w[1], 0x7351), b = __byte_perm(w[2], w[3], 0x7351);
      even = __byte_perm(a, b, 0x5410);
      odd = __byte_perm(a, b, 0x7632);
    }
    out[h] |= (even >> 4 & 0x08080808u) | (odd & 0x80808080u);
  }
  return make_uint2(out[0], out[1]);
}

// Signs and doubled values of 8 codes: bytes s000vvvv of values 0, 2, 4, 6 and 1, 3, 5, 7.
struct Doubled {
  uint32_t even, odd;
  // Magnitudes of the codes: 8 nibbles, with a bit of their neighbours in bit 3.
  NVFP4_INLINE uint32_t magnitudes() const { return ptx::bit_select(0x0F0F0F0Fu, even, odd * 16) + 0x11111111u >> 1; }
  NVFP4_INLINE uint32_t signs() const { return ptx::bit_select(0x08080808u, even >> 4, odd); }
  NVFP4_INLINE uint32_t codes() const { return ptx::bit_select(0x77777777u, magnitudes(), signs()); }
};
// 16 values times a reciprocal and 2^-14 (1 is the least normal number of float16), cut to doubled values. `lifts`: the scope
// has blocks whose products `lift` raises; a branch, because most have none.
struct DoubledBlock {
  Doubled low, high;
  NVFP4_INLINE DoubledBlock(const float (&x)[16], float r, uint32_t lift, bool lifts) {
    uint32_t h[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int at = (i >> 2) * 8 + (i & 2) * 2 + (i & 1);  // beside the value after the next
      h[i] = ptx::cut_f16(__fmul_rn(x[at], r), __fmul_rn(x[at + 2], r));
    }
    if (__builtin_expect(lifts, 0)) {
#pragma unroll
      for (int i = 0; i < 8; i++) h[i] += (h[i] & lift) >> 9;
    }
    low = Doubled{__byte_perm(h[0], h[2], 0x7531), __byte_perm(h[1], h[3], 0x7531)};
    high = Doubled{__byte_perm(h[4], h[6], 0x7531), __byte_perm(h[5], h[7], 0x7531)};
  }
  NVFP4_INLINE uint2 codes() const { return make_uint2(low.codes(), high.codes()); }
  NVFP4_INLINE uint2 magnitudes() const { return make_uint2(low.magnitudes() & 0x77777777u, high.magnitudes() & 0x77777777u); }
  NVFP4_INLINE uint2 signs() const { return make_uint2(low.signs(), high.signs()); }
};
// The values of a block without infinities and NaNs.
NVFP4_INLINE void finite_values(float (&v)[16], const Block<Bf16>& x) {
#pragma unroll
  for (int i = 0; i < 16; i++) v[i] = i & 1 ? Bf16::finite_high(x.w[i >> 1]) : Bf16::low(x.w[i >> 1]);
}

// Codes of a block.
template <bool CLAMP, class D>
NVFP4_INLINE uint2 encode_block(const Block<D>& x, float r) {
#if NVFP4_HAS_CVT_E2M1
  uint32_t out[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    out[h] = 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
      out[h] |= ptx::e2m1_pair(__fmul_rn(x.value(8 * h + 2 * i), r), __fmul_rn(x.value(8 * h + 2 * i + 1), r)) << 8 * i;
  }
  return make_uint2(out[0], out[1]);
#else
  return with_signs(x, block_magnitudes<CLAMP>(x, r));
#endif
}

}  // namespace nvfp4
