// The unit of prepared weights: 128 rows × 64 k in 4608 bytes, and its way into tensor-core fragments.
//
// Storage: f32[groups] decode scales, padded; then units [group][rows / 128][cols / 64], so that the run along k of 128
// rows is contiguous. A unit is [values of half 0: 2048][values of half 1: 2048][scales 512]. Thread t of 128, in warp
// w = t/32 with lane l, owns four neighbouring rows 32w + 4(l/4) + 2·half + h; h selects row l/4 or l/4 + 8 of the
// m16 fragment. For gate/up weights stored row 2j is gate j and 2j + 1 is up j, so a pair meets in one thread.
//
// Words 0…3 at half·2048 + 16t: (2p, 2p + 1) = (A, B) carry the k16 steps 2p and 2p + 1 of that half. Register q of a
// step holds h = q&1 and k = 2(l%4) + {0, 1} + 8(q>>1), each code as sign at bit 15 and magnitude at bits 8:6 of its
// 16-bit half (mask VALUE_BITS), which is the bfloat16 e2m1 · 2^-126. The words hold them rotated so that
//   step 2p:     A<<6, A<<2, A rotated by 28, Z         Z = A where Z_MASK is set, else B
//   step 2p + 1: B<<4, B by 30, B by 24, Z by 26
// are the registers under the mask. Scales are unsigned e5m3 with bias 22, which holds every e4m3 exactly; 16 bytes at
// 4096 + 16(8w + l/4) are words [half·2 + p]: the even step at bits 11:4 (h = 0) and 27:20 (h = 1), the odd step at the
// same place after a rotation by 8. A zero scale has zero codes. A NaN scale is 0xFF: NaN in both decodes below.
// Rows past N and k past K are zero.
#pragma once
#include "ptx_gemm.cuh"

namespace nvfp4 {

constexpr int UNIT_ROWS = 128, UNIT_COLS = 64, UNIT_BYTES = 4608, UNIT_HALF = 2048, UNIT_SCALES = 4096;
constexpr uint32_t VALUE_BITS = 0x81C081C0u, Z_MASK = 0xC180C180u;
constexpr uint32_t STORED_NAN = 0xFF;

// What the accumulator of a product of decoded weights must be multiplied by: exact.
constexpr float DECODE_UNDO = 128.f;

// The row of the caller's matrix that is stored as `row`; rows from N on are padding and stay where they are.
NVFP4_INLINE uint32_t canonical_row(uint32_t row, uint32_t rows, bool gate_up) {
  return gate_up && row < rows ? (row >> 1) + (row & 1) * (rows >> 1) : row;
}

struct Fragments {
  uint32_t even[4], odd[4];
};

template <bool F16> NVFP4_INLINE uint32_t decode_register(uint32_t x) {
  if constexpr (F16) {
    return (x & 0x80008000u) | ((x << 3) & 0x0E000E00u);  // e2m1 · 2^-14: sign at bit 15, magnitude at bits 11:9
  } else {
    return x & VALUE_BITS;
  }
}

// Two words and their scale word → fragments of two k16 steps, e2m1 · e4m3 · 2^-7. That is exact: products are whole
// multiples of 2^-10, and 2^-24 is where float16 ends. The bias of the scales makes them no smaller: tensor cores align a
// float16 below 2^-14 like one of that size, and cut off what then hangs over (K = 16 was past the bound with 2^-14).
// `exponent` is 0x70007000, which makes a stored scale the bfloat16 s · 2^119 and leaves it the float16 s · 2^7.
template <bool F16> NVFP4_INLINE Fragments decode_words(uint32_t a, uint32_t b, uint32_t scales, uint32_t exponent) {
  uint32_t even, odd;
  if constexpr (F16) {
    even = (scales << 3) & 0x7F807F80u;
    odd = ptx::rotate_left(scales, 11) & 0x7F807F80u;
  } else {
    even = ptx::and_or(scales, 0x0FF00FF0u, exponent);
    odd = ptx::and_or(ptx::rotate_left(scales, 8), 0x0FF00FF0u, exponent);
  }
  const uint32_t z = ptx::bit_select(Z_MASK, a, b);
  Fragments f;
  f.even[0] = ptx::multiply_pair<F16, false>(decode_register<F16>(a << 6), even);
  f.even[1] = ptx::multiply_pair<F16, true>(decode_register<F16>(a << 2), even);
  f.even[2] = ptx::multiply_pair<F16, false>(decode_register<F16>(ptx::rotate_left(a, 28)), even);
  f.even[3] = ptx::multiply_pair<F16, true>(decode_register<F16>(z), even);
  f.odd[0] = ptx::multiply_pair<F16, false>(decode_register<F16>(b << 4), odd);
  f.odd[1] = ptx::multiply_pair<F16, true>(decode_register<F16>(ptx::rotate_left(b, 30)), odd);
  f.odd[2] = ptx::multiply_pair<F16, false>(decode_register<F16>(ptx::rotate_left(b, 24)), odd);
  f.odd[3] = ptx::multiply_pair<F16, true>(decode_register<F16>(ptx::rotate_left(z, 26)), odd);
  return f;
}

// Rotations of registers 0…2 of each step; register 3 lies in Z, rotated by 26 for the odd step.
NVFP4_INLINE int even_rotation(int q) { return q == 0 ? 6 : q == 1 ? 2 : 28; }
NVFP4_INLINE int odd_rotation(int q) { return q == 0 ? 4 : q == 1 ? 30 : 24; }
constexpr int Z_ROTATION = 26;

// A code pair (even k in the low nibble) ↔ its 32-bit register.
NVFP4_INLINE uint32_t spread_pair(uint32_t pair) {
  return (pair & 8) << 12 | (pair & 7) << 6 | (pair & 0x80) << 24 | (pair & 0x70) << 18;
}
NVFP4_INLINE uint32_t gather_pair(uint32_t bits) {
  return (bits >> 12 & 8) | (bits >> 6 & 7) | (bits >> 24 & 0x80) | (bits >> 18 & 0x70);
}

// pairs[step][q] of one half and two steps ↔ words A, B.
NVFP4_INLINE void pack_words(const uint32_t (&pairs)[2][4], uint32_t& a, uint32_t& b) {
  a = b = 0;
#pragma unroll
  for (int q = 0; q < 3; q++) {
    a |= ptx::rotate_left(spread_pair(pairs[0][q]), 32 - even_rotation(q));
    b |= ptx::rotate_left(spread_pair(pairs[1][q]), 32 - odd_rotation(q));
  }
  const uint32_t z0 = spread_pair(pairs[0][3]), z1 = ptx::rotate_left(spread_pair(pairs[1][3]), 32 - Z_ROTATION);
  a |= (z0 | z1) & Z_MASK;
  b |= (z0 | z1) & ~Z_MASK;
}
NVFP4_INLINE void unpack_words(uint32_t (&pairs)[2][4], uint32_t a, uint32_t b) {
#pragma unroll
  for (int q = 0; q < 3; q++) {
    pairs[0][q] = gather_pair(ptx::rotate_left(a, even_rotation(q)));
    pairs[1][q] = gather_pair(ptx::rotate_left(b, odd_rotation(q)));
  }
  const uint32_t z = (a & Z_MASK) | (b & ~Z_MASK);
  pairs[0][3] = gather_pair(z);
  pairs[1][3] = gather_pair(ptx::rotate_left(z, Z_ROTATION));
}

// e4m3 without its sign ↔ e5m3 with bias 22; subnormals become normal, exactly.
NVFP4_INLINE uint32_t store_scale(uint32_t e4m3) {
  if (e4m3 == 0x7F) return STORED_NAN;
  const uint32_t exponent = e4m3 >> 3, mantissa = e4m3 & 7;
  if (exponent) return (exponent + 15) << 3 | mantissa;
  if (!mantissa) return 0;
  const uint32_t top = mantissa >= 4 ? 2 : mantissa >= 2 ? 1 : 0;
  return (13 + top) << 3 | (mantissa << (3 - top) & 7);
}
NVFP4_INLINE uint32_t load_scale(uint32_t e5m3) {
  if (e5m3 == STORED_NAN) return 0x7F;
  if (e5m3 == 0) return 0;
  const uint32_t exponent = e5m3 >> 3, mantissa = e5m3 & 7;
  return exponent > 15 ? (exponent - 15) << 3 | mantissa : (8 | mantissa) >> (16 - exponent);
}
// Four stored scales [h][step] ↔ their word.
NVFP4_INLINE uint32_t pack_scales(const uint32_t (&s)[2][2]) {
  return s[0][0] << 4 | s[1][0] << 20 | ptx::rotate_left(s[0][1] << 4 | s[1][1] << 20, 24);
}
NVFP4_INLINE uint32_t unpack_scale(uint32_t word, int h, int step) {
  return ptx::rotate_left(word, step * 8) >> (4 + 16 * h) & 0xFF;
}

}  // namespace nvfp4
