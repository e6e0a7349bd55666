// Encode scales, and blocks of 16 → a scale and codes by every rule. Twin of src/format/block.rs, bit for bit.
#pragma once
#include "codes.cuh"

namespace nvfp4 {

// Types whose blocks are encoded by cutting products, where the caller has looked for ties.
template <class D>
constexpr bool CUTS = D::ID == DTYPE_BF16 && !NVFP4_HAS_CVT_E2M1;

// See tie_class; and whether a scope has any of a class.
constexpr uint32_t TIES_DOWN = 1, TIES_MIXED = 2, TIES_HARD = 4, TIES_UNKNOWN = 0x44444444u, ANY_MIXED = 0x22222222u, ANY_HARD = 0x44444444u;

// What one scope needs to encode its blocks.
struct Encode {
  float inverse;  // 1 / encode scale
  float sixth;    // encode scale · fl(1/6)
  bool invalid;   // the decode scale was not usable: every block is NaN
  float scaled = 0.f;  // inverse · 2^120 where it is tame, else 0
  uint32_t ties = TIES_UNKNOWN;
};

// Whether sf / G of every scale code but 0 keeps its reciprocal within rcp_normal's range, and sf · 2^-120 · (2^120 / G)
// is sf / G to the bit: what a block without special cases takes. A number of the scope, not of the block: where it does
// not hold `scaled` is 0, whose steps are zero and their reciprocals infinite, so that no block takes the short way.
NVFP4_INLINE Encode encode_from(float encode_scale) {
  const float inverse = __frcp_rn(encode_scale);
  const bool tame = inverse >= 0x1p-100f && inverse <= 0x1p6f;
  return Encode{inverse, __fmul_rn(encode_scale, 1.f / 6.f), false, tame ? __fmul_rn(inverse, 0x1p120f) : 0.f};
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

// sf / G, one rounding, for a tame scope.
NVFP4_INLINE float tame_step(uint32_t scale, const Encode& e) {
  return __fmul_rn(__uint_as_float(scale << 20), e.scaled);
}

// How bfloat16 blocks of one scope and one mantissa of the scale are encoded without rounding to even: four bits for each of the
// eight mantissas, Encode::ties.
//
// A code changes where |x| passes M · step, M one of 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5: d · 2^k with d = 1, 3, 5, 7. Powers
// of two change nothing, so that the bfloat16 value X that is nearest to d · step decides for all: the others are half
// a spacing away, 2^-9 of them, where an error of some ulps is none. On which side X counts is what the contract says:
// above where fl(X · r) is above d, or is d and ties go up (3 and 7). A product that is cut instead needs a reciprocal on the
// right side of fl(1 / step): 6 ulps above where all X that are close are above, 6 below where all are below. With 7.5 ulps
// of error in all a product moves by 16 steps at most; 20 are close.
// Where both are found (step · 1, 3, 5, 7 are whole numbers of a spacing: amax / 2688 often is), the reciprocal below does, and
// a step of float16 more for cut products with their second bit of mantissa set, which is what lies below 3 and 7 and
// nowhere below 1 and 5. It must not lift another X: none within that step of 3 or 7. Values of
// float16 would be too near.
NVFP4_INLINE uint32_t tie_class(const Encode& e, uint32_t mantissa) {
  constexpr uint32_t CLOSE = 20;
  const float scaled = tame_step(0x40 | mantissa, e);
  const float step = __uint_as_float((__float_as_uint(scaled) & 0x007FFFFFu) | 0x3F800000u);
  const float r = ptx::refine(ptx::rcp_approx(step), step);
  const uint32_t x13 = Bf16::pack(step, __fmul_rn(step, 3.f)), x57 = Bf16::pack(__fmul_rn(step, 5.f), __fmul_rn(step, 7.f));
  // Steps of a float from the smallest product that counts above.
  const uint32_t one = __float_as_uint(__fmul_rn(Bf16::low(x13), r)) - 0x3F800001u;
  const uint32_t three = __float_as_uint(__fmul_rn(Bf16::high(x13), r)) - 0x40400000u;
  const uint32_t five = __float_as_uint(__fmul_rn(Bf16::low(x57), r)) - 0x40A00001u;
  const uint32_t seven = __float_as_uint(__fmul_rn(Bf16::high(x57), r)) - 0x40E00000u;
  const bool odd_above = min(one, five) < CLOSE, above = odd_above | (min(three, seven) < CLOSE);
  const bool below = min(min(one + CLOSE, five + CLOSE), min(three + CLOSE, seven + CLOSE)) < CLOSE;
  if (!below) return 0;
  if (!above) return TIES_DOWN;
  constexpr uint32_t STEP_3 = (1u << 14) + CLOSE, STEP_7 = (1u << 13) + CLOSE;
  const bool lifts = !odd_above && three + STEP_3 >= STEP_3 && seven + STEP_7 >= STEP_7;
  return lifts ? TIES_DOWN | TIES_MIXED : TIES_HARD;
}
// For a scope that all lanes of a warp share; all take part.
template <class D>
NVFP4_INLINE void find_ties(Encode& e) {
  if constexpr (CUTS<D>) {
    const uint32_t mantissa = threadIdx.x & 7;
    e.ties = ptx::warp_or(tie_class(e, mantissa) << 4 * mantissa);
  }
}

// What `DoubledBlock` takes for a block of a scope without a hard class, and with a normal scale.
struct Cutting {
  float r;
  uint32_t lift;
  NVFP4_INLINE Cutting(uint32_t ties, uint32_t scale, float near) {
    const uint32_t c = ptx::rotate_right(ties, 4 * scale);
    r = __fmul_rn(__uint_as_float(__float_as_uint(near) + 6 - 12 * (c & TIES_DOWN)), 0x1p-14f);
    lift = (c & TIES_MIXED) * 0x01000100u;
  }
};

// A block of finite values by the plain rule, as quantize_tame has it, where products may be cut: false where they may not.
NVFP4_INLINE bool cut_block(const float (&v)[16], const Encode& e, float amax, uint2& codes, uint32_t& scale) {
  const float t = __fmul_rn(amax, e.sixth);
  scale = e4m3_encode(t);
  const float near = ptx::rcp_approx(tame_step(scale, e));
  if (!((t <= 464.f) & (__fmul_rn(amax, near) < 6.9f) & !(e.ties & ANY_HARD) & (scale >= 8))) return false;
  const Cutting by(e.ties, scale, near);
  codes = DoubledBlock(v, by.r, by.lift, e.ties & ANY_MIXED).codes();
  return true;
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
  constexpr uint32_t HIGH = 0x0C080604u;  // twice the magnitude of a code
  const uint32_t LOW = ptx::opaque<0x03020100u>();
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
template <uint32_t RULE, bool CUT, class D>
NVFP4_INLINE bool quantize_tame(const Block<D>& x, const Encode& e, float amax, uint2& codes, uint32_t& scale) {
  const float t = __fmul_rn(amax, e.sixth);
  scale = e4m3_encode(t);
  const float step = tame_step(scale, e), near = ptx::rcp_approx(step);
  // Zero scales and scopes that are not tame make `near` infinite, infinities and NaNs of the block the product. Up to 6.375
  // stands for itself; an ulp does not matter.
  if (!((t <= 464.f) & (__fmul_rn(amax, near) < 6.9f))) return false;
  if constexpr (RULE == AMAX) {
    if constexpr (CUT) {
      if (__builtin_expect(!(e.ties & ANY_HARD) & (scale >= 8), 1)) {
        const Cutting by(e.ties, scale, near);
        float v[16];
        finite_values(v, x);
        codes = DoubledBlock(v, by.r, by.lift, e.ties & ANY_MIXED).codes();
        return true;
      }
    }
    codes = encode_block<false>(x, ptx::refine(near, step));
    return true;
  } else {
    static_assert(RULE == FOUR_OVER_SIX && D::BYTES == 2, "other blocks have no short way");
    Candidate narrow{scale, step, near}, wide{e4m3_encode(__fmul_rn(t, 1.5f))};
    wide.step = tame_step(wide.scale, e);
    wide.r = ptx::rcp_approx(wide.step);
    const uint32_t bits = __float_as_uint(amax);
    if (!((amax >= 0x1p-50f) & (amax <= 0x1p50f) & (scale >= 8))) return false;
    // Values as integers, and steps (halved, as products are doubled) in their unit.
    const float unit = __uint_as_float((269u << 23) - (bits & INFINITY_BITS)), half = 0.5f * unit;
    float v[16];
    if constexpr (CUT) {
      finite_values(v, x);
    } else {
#pragma unroll
      for (int i = 0; i < 16; i++) v[i] = x.value(i);
    }
    uint32_t fixed[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
      fixed[i] = __byte_perm(__float_as_uint(__fmaf_rn(fabsf(v[2 * i]), unit, 8388608.f)),
                             __float_as_uint(__fmaf_rn(fabsf(v[2 * i + 1]), unit, 8388608.f)), 0x5410);
    uint2 signs;
    if (CUT && __builtin_expect(!(e.ties & ANY_HARD), 1)) {
      const Cutting by(e.ties, narrow.scale, narrow.r), wider(e.ties, wide.scale, wide.r);
      const DoubledBlock first(v, by.r, by.lift, e.ties & ANY_MIXED);
      narrow.magnitudes = first.magnitudes();
      signs = first.signs();
      wide.magnitudes = DoubledBlock(v, wider.r, wider.lift, e.ties & ANY_MIXED).magnitudes();
    } else {
      narrow.magnitudes = block_magnitudes<false>(x, ptx::refine(narrow.r, narrow.step));
      wide.magnitudes = block_magnitudes<false>(x, ptx::refine(wide.r, wide.step));
      signs = with_signs(x, make_uint2(0, 0));
    }
    weigh<D>(narrow, fixed, __fmul_rn(narrow.step, half));
    weigh<D>(wide, fixed, __fmul_rn(wide.step, half));
    const float difference = __fsub_rn(wide.error, narrow.error);
    const bool same = wide.scale == narrow.scale;
    if (!same && !(fabsf(difference) > __fmul_rn(0x1p-20f, __fadd_rn(wide.weight, narrow.weight)))) return false;
    const bool widens = !same && difference < 0.f;
    scale = widens ? wide.scale : narrow.scale;
    codes = make_uint2(ptx::bit_select(0x77777777u, widens ? wide.magnitudes.x : narrow.magnitudes.x, signs.x),
                       ptx::bit_select(0x77777777u, widens ? wide.magnitudes.y : narrow.magnitudes.y, signs.y));
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

// As above; most blocks take the short way. TIES: e.ties says how products may be cut.
template <uint32_t RULE, bool TIES = false, class D>
NVFP4_INLINE uint32_t quantize_block(const Block<D>& x, const Encode& e, uint2& codes, uint32_t& faults) {
  if constexpr (RULE == AMAX || (RULE == FOUR_OVER_SIX && D::BYTES == 2)) {
    uint32_t scale;
    if (quantize_tame<RULE, TIES && CUTS<D>>(x, e, x.amax(), codes, scale)) return scale;
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

}  // namespace nvfp4
