// SwiGLU of bfloat16 blocks: the contract's bits with half the instructions of the contract's chain.
//
// The result is rounded to 8 bits, so a value that is a few float steps off almost always rounds alike. Approximately
//   m = gate * fl(-alpha * log2 e), d = 1 + ex2(m), h' = gate * (rcp(d) * u), u = up + beta as the contract has it,
// and only where h' lies within `window` float steps of the middle between two bfloat16 values the contract's chain.
//
// Why that is enough, for z = alpha * gate, |z| <= 64 and 2^-2 <= |alpha| <= 2^20. Relative errors of h' and of the
// contract's float, in units of 2^-24; a float step is at least one unit of the smaller neighbour:
//   exponent: the product 1, its constant 0.23 (alpha = 1) or 1.23, the contract's z 0 or 1: 1.23 |z| or 3.23 |z|
//   ex2: 2 ulps, 4; the contract's exp: 1.42 (the worst of all floats up to 64). Both weigh exp / (1 + exp), below 1
//   d: 1 + 1; rcp: 1 ulp, 2; rcp * u: 1; the contract's quotient: 1; the last products: 1 + 1
// 13.42 + 1.23 |z| or 3.23 |z|, products of errors below 0.01: `window` is 14.5 + 1.25 |z| or 3.25 |z| or more, |z| the
// half block's largest. Results below 2^-126 are no exception: float steps only grow there, and bfloat16 halves them alike.
// Where no relative bound holds:
//   The contract's quotient below 2^-126: then |gate| < 2^-33, |z| < 2^-13, so d < 4 and |gate| < 2^-124; then |z| < 2^-104,
//   d is 2 on the contract's side, and half of a bfloat16 is exact.
//   rcp * u below 2^-126: then |h| < 2^-118, because |gate| <= 256. Such an h has code 0 and a sign that is right, unless
//   the whole block is that small: half a block without a value of 2^-63 looks at small values one by one, and so does
//   one that is stored as well.
// NaN gates, infinities, |z| > 64 and a limit that is no bfloat16 send half a block through the contract's chain.
#pragma once
#include "format.cuh"

namespace nvfp4 {

constexpr float TAME_EXPONENT = 64.f;
constexpr uint32_t SMALL_BF16 = 0x0900, INFINITE_BF16 = 0x7F80;  // 2^-109

// Eight values: what is computed at a time, and looked at again together.
struct HalfBlock {
  uint32_t w[4];
  NVFP4_INLINE float value(int i) const { return i & 1 ? Bf16::high(w[i >> 1]) : Bf16::low(w[i >> 1]); }
};

// Value i, i not known when compiling: a tree of selections, because registers have no index.
NVFP4_INLINE float select_value(const HalfBlock& x, uint32_t i) {
  const uint32_t a = i & 2 ? x.w[1] : x.w[0], b = i & 2 ? x.w[3] : x.w[2], w = i & 4 ? b : a;
  return __uint_as_float(i & 1 ? w & 0xFFFF0000u : w << 16);
}
template <int J = 0>
NVFP4_INLINE void replace_value(HalfBlock& x, uint32_t i, uint32_t code) {
  if constexpr (J < 4) {
    if (i >> 1 == J) x.w[J] = __byte_perm(x.w[J], code, i & 1 ? 0x5410 : 0x3254);
    replace_value<J + 1>(x, i, code);
  }
}

// The elements of `mask` by the contract's chain.
NVFP4_INLINE void swiglu_exact(HalfBlock& h, const HalfBlock& gate, const HalfBlock& up, uint32_t mask, const SwiGlu& p) {
#pragma unroll 1
  while (mask) {
    const uint32_t i = ptx::lowest_bit(mask);
    mask &= mask - 1;
    replace_value(h, i, Bf16::pack(swiglu(select_value(gate, i), select_value(up, i), p), 0.f));
  }
}

// Elements of `mask` of which neither factor is zero: their magnitude is small for another reason.
NVFP4_INLINE uint32_t nonzero_elements(uint32_t mask, const HalfBlock& gate, const HalfBlock& up, float beta) {
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (gate.value(i) == 0.f || __fadd_rn(up.value(i), beta) == 0.f) mask &= ~(1u << i);
  return mask;
}

// What is the same for all blocks of a launch.
struct SwiGluBf16 {
  SwiGlu p;
  float coefficient;  // fl(-alpha * log2 e)
  float steps;        // of the window, for each unit of |gate|
  float most;         // the largest |gate| that the bound covers; negative: none
  uint32_t limit;     // the limit as a pair; 0: none
  NVFP4_INLINE explicit SwiGluBf16(const SwiGlu& given) : p(given) {
    const float a = fabsf(p.alpha);
    coefficient = __fmul_rn(p.alpha, -1.44269504f);
    steps = p.alpha == 1.f ? 1.25f : __fmul_rn(a, 3.25f);
    const uint32_t bits = __float_as_uint(p.limit);
    const bool clamps = p.limit > 0.f;
    limit = clamps ? bits >> 16 | (bits & 0xFFFF0000u) : 0;
    const bool covered = a >= 0.25f && a <= 0x1p20f && !(clamps && (bits & 0xFFFFu));
    most = covered ? __fmul_rn(__frcp_rn(a), TAME_EXPONENT) : -1.f;
  }
  // Float steps about the middle between two values, for gates of up to `most`: the low bits of 1.5 * 2^23 and a float are
  // the nearest whole number, here of 15 + steps * most.
  NVFP4_INLINE uint32_t window(float most) const { return __float_as_uint(__fmaf_rn(most, steps, 12582912.f + 15.f)) & 0xFFFFu; }
  // Added to a pair of tails, the low halves of floats, it leaves those within the window at most 2 * window.
  static NVFP4_INLINE uint32_t shift(uint32_t window) { return window * 0x10001u + 0x80008000u; }
  // The approximate value, of up + beta.
  NVFP4_INLINE float near(float gate, float u) const {
    const float d = __fadd_rn(1.f, ptx::ex2_approx(__fmul_rn(gate, coefficient)));
    return __fmul_rn(gate, __fmul_rn(ptx::rcp_approx(d), u));
  }
};

// h, by the approximation where it holds; gate and up are clamped. `stored`: h is written somewhere too, so that its smallest
// values and the bits of a NaN matter. The elements that need the contract's chain: bit i for certain, bit 8 + i unless a factor is zero; 0 for
// almost all half blocks.
NVFP4_INLINE uint32_t swiglu_near(HalfBlock& h, HalfBlock& gate, HalfBlock& up, const SwiGluBf16& s, bool stored) {
  if (s.limit && s.most >= 0.f) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      gate.w[i] = ptx::min_nan_bf16x2(gate.w[i], s.limit);
      up.w[i] = ptx::min_nan_bf16x2(ptx::max_nan_bf16x2(up.w[i], s.limit | 0x80008000u), s.limit);
    }
  }
  uint32_t largest = gate.w[0];
#pragma unroll
  for (int i = 1; i < 4; i++) largest = ptx::larger_bf16x2(largest, gate.w[i]);
  largest &= 0x7FFF7FFFu;
  const float most = __uint_as_float(max(largest & 0xFFFF0000u, largest << 16));  // NaN where a gate is
  const uint32_t window = s.window(most), shift = SwiGluBf16::shift(window);
  uint32_t closest = 0xFFFFFFFFu, exponents = 0;
  HalfBlock tails;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float u[2] = {__fadd_rn(up.value(2 * i), s.p.beta), __fadd_rn(up.value(2 * i + 1), s.p.beta)};
    const float v[2] = {s.near(gate.value(2 * i), u[0]), s.near(gate.value(2 * i + 1), u[1])};
    h.w[i] = Bf16::pack(v[0], v[1]);
    tails.w[i] = __byte_perm(__float_as_uint(v[0]), __float_as_uint(v[1]), 0x5410);
    closest = ptx::add_min_u16x2(tails.w[i], shift, closest);
    exponents |= h.w[i];
  }
  const bool close = min(closest & 0xFFFFu, closest >> 16) <= 2 * window, tame = most <= s.most;
  bool small = !(exponents & 0x60006000u);
  if (stored) {  // magnitudes less SMALL_BF16, of 16 bits: small ones are the largest then, and NaNs follow
    uint32_t farthest = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) farthest = ptx::add_max_u16x2(h.w[i] & 0x7FFF7FFFu, (0x10000u - SMALL_BF16) * 0x10001u, farthest);
    small = max(farthest & 0xFFFFu, farthest >> 16) > INFINITE_BF16 - SMALL_BF16;
  }
  if (!(close || small) && tame) return 0;
  uint32_t found = 0xFFu;
  if (tame) {
    found = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      if ((tails.w[i] + shift & 0xFFFFu) <= 2 * window) found |= 1u << 2 * i;
      if (((tails.w[i] & 0xFFFF0000u) + shift >> 16) <= 2 * window) found |= 2u << 2 * i;
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const uint32_t magnitude = h.w[i] >> 16 * j & 0x7FFFu;
        if (magnitude < SMALL_BF16) found |= 0x100u << 2 * i + j;
        if (magnitude > INFINITE_BF16) found |= 1u << 2 * i + j;
      }
    }
  }
  return found;
}

// The same of eight words with a gate below its up, as a product leaves them, for h that is stored. `tails` are the low halves of
// the floats that h was rounded from. True: a value needs the contract's chain; `strange`: has_tiny() says whether one does.
NVFP4_INLINE bool swiglu_pairs(HalfBlock& h, HalfBlock& tails, uint32_t (&pair)[8], const SwiGluBf16& s, bool& strange) {
  if (s.limit && s.most >= 0.f) {
#pragma unroll
    for (int i = 0; i < 8; i++)  // a gate has no lower bound: -infinity
      pair[i] = ptx::max_nan_bf16x2(ptx::min_nan_bf16x2(pair[i], s.limit), (s.limit & 0xFFFF0000u) | 0x8000FF80u);
  }
  float u[8];
#pragma unroll
  for (int i = 0; i < 8; i++) u[i] = Bf16::high(pair[i]);
  if (s.p.beta != 0.f) {
#pragma unroll
    for (int i = 0; i < 8; i++) u[i] = __fadd_rn(u[i], s.p.beta);
  }
  uint32_t largest = pair[0];
#pragma unroll
  for (int i = 1; i < 8; i++) largest = ptx::larger_bf16x2(largest, pair[i]);
  const float most = __uint_as_float(largest << 16 & 0x7FFF0000u);  // NaN where a gate is
  const uint32_t window = s.window(most), shift = SwiGluBf16::shift(window);
  uint32_t closest = 0xFFFFFFFFu, smallest = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float v[2] = {s.near(Bf16::low(pair[2 * i]), u[2 * i]), s.near(Bf16::low(pair[2 * i + 1]), u[2 * i + 1])};
    h.w[i] = Bf16::pack(v[0], v[1]);
    tails.w[i] = __byte_perm(__float_as_uint(v[0]), __float_as_uint(v[1]), 0x5410);
    closest = ptx::add_min_u16x2(tails.w[i], shift, closest);
    smallest = i == 0 ? h.w[0] : ptx::smaller_bf16x2(smallest, h.w[i]);
  }
  // Magnitudes less SMALL_BF16, of 16 bits: small ones are the largest then, and NaNs follow.
  const uint32_t farthest = ptx::add_max_u16x2(smallest & 0x7FFF7FFFu, (0x10000u - SMALL_BF16) * 0x10001u, 0);
  strange = max(farthest & 0xFFFFu, farthest >> 16) > INFINITE_BF16 - SMALL_BF16;
  return min(closest & 0xFFFFu, closest >> 16) <= 2 * window || !(most <= s.most);
}

// Whether a value is NaN, or small for no factor that is zero. A float that is zero stands for less than 2^-141 or for such a
// factor, and is right; but for the sign where an up of -0 was not added to a beta of 0.
NVFP4_INLINE bool has_tiny(const HalfBlock& h, const HalfBlock& tails, const uint32_t (&pair)[8], const SwiGluBf16& s) {
  bool found = false;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const uint32_t magnitude = h.w[i >> 1] >> 16 * (i & 1) & 0x7FFFu, tail = tails.w[i >> 1] >> 16 * (i & 1) & 0xFFFFu;
    found |= magnitude > INFINITE_BF16 || (magnitude < SMALL_BF16 && (magnitude | tail) != 0) ||
             (pair[i] >> 16 == 0x8000u && s.p.beta == 0.f);
  }
  return found;
}

// gate becomes h.
NVFP4_INLINE void swiglu_half(HalfBlock& gate, HalfBlock& up, const SwiGluBf16& s, bool stored) {
  HalfBlock h;
  const uint32_t found = swiglu_near(h, gate, up, s, stored);
  if (found) swiglu_exact(h, gate, up, (found & 0xFFu) | nonzero_elements(found >> 8, gate, up, s.p.beta), s.p);
  gate = h;
}

NVFP4_INLINE void swiglu_block(Block<Bf16>& gate, const Block<Bf16>& up, const SwiGluBf16& s, bool stored) {
#pragma unroll
  for (int k = 0; k < 8; k += 4) {
    HalfBlock g{{gate.w[k], gate.w[k + 1], gate.w[k + 2], gate.w[k + 3]}}, u{{up.w[k], up.w[k + 1], up.w[k + 2], up.w[k + 3]}};
    swiglu_half(g, u, s, stored);
#pragma unroll
    for (int i = 0; i < 4; i++) gate.w[k + i] = g.w[i];
  }
}

}  // namespace nvfp4
