// NVFP4 as docs/numerics.md writes it, on the device: values, block scales, codes, ordered sums, exp and SwiGLU.
// Bits in, bits out; no memory but the values handed in. Twin of src/format, bit for bit.
// Compile with -fmad=false: every fused multiply-add below is written as one.
#pragma once
#include "params.cuh"
#include "ptx.cuh"

namespace nvfp4 {

constexpr uint32_t INFINITY_BITS = 0x7F800000u, NAN_BITS = 0x7FC00000u, E4M3_NAN = 0x7F;
constexpr float FLOAT_MAX = 3.402823466e38f;

// ---------------------------------------------------------------- values

// How 16-bit types are told apart: two values a word.
struct Bf16 {
  static constexpr uint32_t ID = DTYPE_BF16, BYTES = 2, INF = 0x7F80, NAN_CODE = 0x7FC0;
  // The two values of a word, whatever stands in the other half.
  static NVFP4_INLINE float low(uint32_t w) { return __uint_as_float(w << 16); }
  static NVFP4_INLINE float high(uint32_t w) { return __uint_as_float(w & 0xFFFF0000u); }
  static NVFP4_INLINE uint32_t pack(float l, float h) { return ptx::pack_bf16(l, h); }
};
struct F16 {
  static constexpr uint32_t ID = DTYPE_F16, BYTES = 2, INF = 0x7C00, NAN_CODE = 0x7E00;
  static NVFP4_INLINE float low(uint32_t w) { return ptx::f16_to_f32(w & 0xFFFFu); }
  static NVFP4_INLINE float high(uint32_t w) { return ptx::f16_to_f32(w >> 16); }
  static NVFP4_INLINE uint32_t pack(float l, float h) { return ptx::pack_f16(l, h); }
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
  NVFP4_INLINE uint32_t magnitude() const {
    const uint32_t m = peak();
    return m >= D::INF ? INFINITY_BITS : __float_as_uint(D::low(m));
  }
  // The largest magnitude; an infinity or a NaN where there is one.
  NVFP4_INLINE float amax() const { return D::low(peak()); }
  // Replaces NaNs as they come out of conversions by the canonical one.
  NVFP4_INLINE void canonicalise() {
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
      if ((w[i] & 0x7FFFu) > D::INF) w[i] = (w[i] & 0xFFFF0000u) | D::NAN_CODE;
      if ((w[i] >> 16 & 0x7FFFu) > D::INF) w[i] = (w[i] & 0xFFFFu) | D::NAN_CODE << 16;
    }
  }

 private:
  NVFP4_INLINE uint32_t peak() const {
    uint32_t m = w[0] & 0x7FFF7FFFu;
#pragma unroll
    for (int i = 1; i < WORDS; i++) m = ptx::max_u16x2(m, w[i] & 0x7FFF7FFFu);
    return max(m & 0xFFFFu, m >> 16);
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
  const uint32_t sixteen = ptx::power(4);
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

// ---------------------------------------------------------------- scales and blocks

// What one scope needs to encode its blocks.
struct Encode {
  float inverse;  // 1 / encode scale
  float sixth;    // encode scale · fl(1/6)
  bool invalid;   // the decode scale was not usable: every block is NaN
};

NVFP4_INLINE Encode encode_from(float encode_scale) {
  return Encode{__frcp_rn(encode_scale), __fmul_rn(encode_scale, 1.f / 6.f), false};
}
NVFP4_INLINE Encode encode_from_static(float decode_scale) {
  if (!(decode_scale > 0.f && decode_scale <= FLOAT_MAX)) return Encode{1.f, 0.f, true};
  return encode_from(fminf(__frcp_rn(decode_scale), FLOAT_MAX));
}
NVFP4_INLINE Encode encode_from_amax(float amax) {
  return encode_from(amax == 0.f ? 1.f : fminf(__fdiv_rn(2688.f, amax), FLOAT_MAX));
}
NVFP4_INLINE float decode_scale_from_amax(float amax) {
  if (amax == 0.f) return 1.f;
  return __fdiv_rn(2688.f, amax) > FLOAT_MAX ? __frcp_rn(FLOAT_MAX) : __fdiv_rn(amax, 2688.f);
}

// What values are multiplied with before they are rounded to E2M1.
NVFP4_INLINE float reciprocal(uint32_t scale, const Encode& e) {
  return fminf(__frcp_rn(__fmul_rn(e4m3_decode(scale), e.inverse)), FLOAT_MAX);
}

// Σ (e2m1 · sf · (1/G) − x)² in index order.
template <class D>
NVFP4_INLINE float square_error(const Block<D>& x, uint32_t scale, const Encode& e) {
  const float sf = e4m3_decode(scale), r = scale ? reciprocal(scale, e) : 0.f;
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < 16; i++) {
    const float a = fabsf(x.value(i));
    const float q = e2m1_nearest(fminf(__fmul_rn(a, r), 6.f));
    const float d = __fsub_rn(__fmul_rn(__fmul_rn(q, sf), e.inverse), a);
    sum = __fadd_rn(sum, __fmul_rn(d, d));
  }
  return sum;
}

// Whether sf / G of every scale code but 0 keeps its reciprocal within rcp_normal's range, and sf · 2^-120 · (2^120 / G)
// is sf / G to the bit: what a block without special cases takes. A number of the scope, not of the block.
NVFP4_INLINE bool is_tame(const Encode& e) { return e.inverse >= 0x1p-100f && e.inverse <= 0x1p6f; }

// sf / G, one rounding, for a tame scope.
NVFP4_INLINE float tame_step(uint32_t scale, const Encode& e) {
  return __fmul_rn(__uint_as_float(scale << 20), __fmul_rn(e.inverse, 0x1p120f));
}

// FOUR_OVER_SIX by integers: which of two candidates has the smaller squared error, without the errors.
//
// For a candidate let s = sf/G, q_i its E2M1 magnitudes, Q = Σ q², P = Σ q·|x|. Then Σ (q·s − |x|)² = F + Σ x² with
// F = s·(s·Q − 2·P), and Σ x² is the same for both. Q and P are exact here: with 2^E <= amax < 2^(E+1), |x| · 2^(15−E) is
// an integer below 2^16 wherever q is not 0: there |x| · r > 1/4 and amax · r < 7, so |x| > amax/32 has its 11 (or 8)
// significant bits at or above 2^(E−15). Subnormals of f16 are multiples of 2^-24, and E < −9 where one of them counts.
// 2q <= 12 fits a byte, Σ 2q · |x| < 2^24.
//
// What the contract compares, in f32 and index order, and F of here both differ from the truth. With u = 2^-24 and
// |q·s − |x|| <= q·s/2 where q > 0 (x within half a spacing), <= s/4 where q = 0, and Q >= 9 (amax · r > 2.5):
//   contract: q·s rounded once more: 2u·Σ|e|·q·s <= u·s²Q; differences, squares and 15 sums: 19u·Σe² <= 19u·s²Q·(1/4 + 1/9)
//   F:        s itself: u·s²Q; the fma: 2u·s²Q; the product: 2u·s²Q                 (P lies in s·Q·[1/2, 3/2])
// less than 14u·s²Q together, and 16u·s²Q with the terms of u² and the subtraction below. Where the F of two candidates
// differ by more than 2^-20 times the sum of both s²Q, they order the errors as the contract does. `amax` within 2^±50
// keeps every term far from over- and underflow. Nearer, the caller computes what the contract says.
struct Candidate {
  uint32_t scale;
  float step, r;
  uint2 magnitudes;
  float error;   // F
  float weight;  // s²Q
};

template <class D>
NVFP4_INLINE void weigh(Candidate& c, const uint32_t (&fixed)[8], float step) {
  constexpr uint32_t LOW = 0x03020100u, HIGH = 0x0C080604u;  // twice the magnitude of a code
  uint32_t squares = 0, products = 0;
#pragma unroll
  for (int h = 0; h < 4; h++) {
    const uint32_t word = h < 2 ? c.magnitudes.x : c.magnitudes.y;
    const uint32_t twice = ptx::permute(LOW, HIGH, h & 1 ? word >> 16 : word);
    squares = ptx::dot4(twice, twice, squares);
    products = ptx::dot2_low(fixed[2 * h], twice, products);
    products = ptx::dot2_high(fixed[2 * h + 1], twice, products);
  }
  const float q = float(squares);  // 4Q, and `products` is 2P: in units of step/2
  c.error = __fmul_rn(step, __fmaf_rn(step, q, -2.f * float(products)));
  c.weight = __fmul_rn(__fmul_rn(step, step), q);
}

// A block with no special case: false where there may be one. Nothing is NaN, zero, clamped or out of range; the codes
// and the scale are final.
template <uint32_t RULE, class D>
NVFP4_INLINE bool quantize_tame(const Block<D>& x, const Encode& e, float amax, uint2& codes, uint32_t& scale) {
  const float t = __fmul_rn(amax, e.sixth);
  scale = e4m3_encode(t);
  const float r = ptx::rcp_normal(tame_step(scale, e));
  // Zero scales make r a NaN, infinities and NaNs of the block the product: none is below 7.
  if (!(is_tame(e) && t <= 464.f && __fmul_rn(amax, r) < 7.f)) return false;
  if constexpr (RULE == AMAX) {
    codes = encode_block<false>(x, r);
    return true;
  } else {
    static_assert(RULE == FOUR_OVER_SIX && D::BYTES == 2, "other blocks have no short way");
    Candidate narrow{scale, tame_step(scale, e), r}, wide{e4m3_encode(__fmul_rn(t, 1.5f))};
    wide.step = tame_step(wide.scale, e);
    wide.r = ptx::rcp_normal(wide.step);
    const uint32_t bits = __float_as_uint(amax);
    if (!(amax >= 0x1p-50f && amax <= 0x1p50f && scale >= 8)) return false;
    // Values as integers, and steps (halved, as products are doubled) in their unit.
    const float unit = __uint_as_float((269u << 23) - (bits & INFINITY_BITS)), half = 0.5f * unit;
    uint32_t fixed[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
      fixed[i] = __byte_perm(__float_as_uint(__fmaf_rn(fabsf(x.value(2 * i)), unit, 8388608.f)),
                             __float_as_uint(__fmaf_rn(fabsf(x.value(2 * i + 1)), unit, 8388608.f)), 0x5410);
    narrow.magnitudes = block_magnitudes<false>(x, narrow.r);
    wide.magnitudes = block_magnitudes<false>(x, wide.r);
    weigh<D>(narrow, fixed, __fmul_rn(narrow.step, half));
    weigh<D>(wide, fixed, __fmul_rn(wide.step, half));
    const float difference = __fsub_rn(wide.error, narrow.error);
    const bool same = wide.scale == narrow.scale;
    if (!same && !(fabsf(difference) > __fmul_rn(0x1p-20f, __fadd_rn(wide.weight, narrow.weight)))) return false;
    const bool widens = !same && difference < 0.f;
    scale = widens ? wide.scale : narrow.scale;
    codes = with_signs(x, make_uint2(widens ? wide.magnitudes.x : narrow.magnitudes.x,
                                     widens ? wide.magnitudes.y : narrow.magnitudes.y));
    return true;
  }
}

// Any block, as the contract says it: codes (two words), the scale byte (returned), and fault bits.
template <uint32_t RULE, class D>
NVFP4_INLINE uint32_t quantize_any(const Block<D>& x, const Encode& e, uint2& codes, uint32_t& faults) {
  const uint32_t magnitude = x.magnitude();
  codes = make_uint2(0, 0);
  if (e.invalid || magnitude >= INFINITY_BITS) {
    faults |= e.invalid ? 2u : 4u;  // FAULT_BAD_DECODE_SCALE, FAULT_NON_FINITE
    return E4M3_NAN;
  }
  const float amax = __uint_as_float(magnitude);
  const float t = __fmul_rn(amax, e.sixth);
  if (t > 464.f) faults |= 8u;  // FAULT_SATURATED: rounds to more than 448
  uint32_t best = e4m3_encode(t);
  if (RULE == FOUR_OVER_SIX) {
    const uint32_t wide = e4m3_encode(__fmul_rn(t, 1.5f));
    if (square_error(x, wide, e) < square_error(x, best, e)) best = wide;
  }
  if (RULE == MIN_MSE) {
    const int base = int(best);
    float least = square_error(x, best, e);
#pragma unroll 1
    for (int i = 0; i < 14; i++) {
      const int step = (i >> 1) + 1;
      const uint32_t candidate = uint32_t(min(max(i & 1 ? base + step : base - step, 0), 126));
      const float error = square_error(x, candidate, e);
      if (error < least) {
        least = error;
        best = candidate;
      }
    }
  }
  if (best != 0) codes = encode_block<true>(x, reciprocal(best, e));
  return best;
}

// As above; most blocks take the short way.
template <uint32_t RULE, class D>
NVFP4_INLINE uint32_t quantize_block(const Block<D>& x, const Encode& e, uint2& codes, uint32_t& faults) {
  if constexpr (RULE == AMAX || (RULE == FOUR_OVER_SIX && D::BYTES == 2)) {
    uint32_t scale;
    if (quantize_tame<RULE>(x, e, x.amax(), codes, scale)) return scale;
  }
  return quantize_any<RULE>(x, e, codes, faults);
}

// The rule as an argument, for kernels where the plain rule is not the hot one.
template <class D>
NVFP4_INLINE uint32_t quantize_block_any(uint32_t rule, const Block<D>& x, const Encode& e, uint2& codes, uint32_t& faults) {
  if (rule == AMAX) return quantize_block<AMAX>(x, e, codes, faults);
  if (rule == FOUR_OVER_SIX) return quantize_block<FOUR_OVER_SIX>(x, e, codes, faults);
  return quantize_block<MIN_MSE>(x, e, codes, faults);
}

// Byte offset of (row, column) in a tiled layout with `tiles` = ceil(blocks / 4) tiles across.
NVFP4_INLINE uint64_t tiled_offset(uint32_t layout, uint64_t row, uint64_t column, uint64_t tiles) {
  return layout == TILED_128X4
             ? ((row >> 7) * tiles + (column >> 2)) * 512 + (row & 31) * 16 + (row >> 5 & 3) * 4 + (column & 3)
             : ((row >> 3) * tiles + (column >> 2)) * 32 + (row & 7) * 4 + (column & 3);
}

// ---------------------------------------------------------------- sums, exp, activations

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
