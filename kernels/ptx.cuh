// All inline assembly, one wrapper an instruction, with the reason why the language has no better word for it.
// NVFP4_EMULATED: the same functions in plain C++, for the emulator under tests/emulator that runs kernels on a CPU.
#pragma once
#include <stdint.h>

#ifdef NVFP4_EMULATED
#include "emulator.h"
#else
#define NVFP4_INLINE __device__ __forceinline__
#define NVFP4_NOINLINE __device__ __noinline__
// A kernel: its name, its parameter struct, its threads and the CTAs an SM should hold; `p` in the body.
#define NVFP4_KERNEL(name, Params, threads, ctas) \
  extern "C" __global__ void __launch_bounds__(threads, ctas) name(const __grid_constant__ Params p)
#endif

// e2m1 conversions exist in the architecture-specific feature sets from sm_100 on.
#if !defined(NVFP4_EMULATED) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000 && \
    (defined(__CUDA_ARCH_FAMILY_SPECIFIC__) || defined(__CUDA_ARCH_SPECIFIC__))
#define NVFP4_HAS_CVT_E2M1 1
#else
#define NVFP4_HAS_CVT_E2M1 0
#endif

namespace nvfp4::ptx {

#ifndef NVFP4_EMULATED

// Reads 16 bytes once: first to leave the caches. `nc` promises that the kernel does not write them.
NVFP4_INLINE uint4 load_once(const void* p) {
  uint4 v;
  asm volatile("ld.global.cs.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

// Reads 16 bytes that another pass reads again soon. They stay in L1 too: the other half of a sector is asked for next.
NVFP4_INLINE uint4 load_keep(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}

// Brings the line of an address into L2, for later: no register waits for it.
NVFP4_INLINE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Largest value of a warp in one instruction (sm_80); the intrinsic needs a header that hides this.
NVFP4_INLINE uint32_t warp_max(uint32_t v) { return __reduce_max_sync(0xFFFFFFFFu, v); }
NVFP4_INLINE uint32_t warp_or(uint32_t v) { return __reduce_or_sync(0xFFFFFFFFu, v); }

// min and max that pass a NaN on, which fminf and fmaxf do not.
NVFP4_INLINE float min_nan(float a, float b) {
  float d;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}
NVFP4_INLINE float max_nan(float a, float b) {
  float d;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
}

// The smallest of three as one VIMNMX3 where the chip has it.
NVFP4_INLINE int32_t min3(int32_t a, int32_t b, int32_t c) { return __vimin3_s32(a, b, c); }
NVFP4_INLINE uint32_t max_u16x2(uint32_t a, uint32_t b) { return __vmaxu2(a, b); }
NVFP4_INLINE uint32_t min_u16x2(uint32_t a, uint32_t b) { return __vminu2(a, b); }

// Two floats to a packed pair, nearest even; a NaN comes out as 0x7FFF.
NVFP4_INLINE uint32_t pack_bf16(float low, float high) {
  uint32_t d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
NVFP4_INLINE uint32_t pack_f16(float low, float high) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
// The same without rounding: towards zero.
NVFP4_INLINE uint32_t cut_f16(float low, float high) {
  uint32_t d;
  asm("cvt.rz.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
// A constant that the compiler does not know (no CTA has a depth): in a register, without the copies and the shifts in the
// busier pipe that it would make of one that it knows.
template <uint32_t VALUE>
NVFP4_INLINE uint32_t opaque() {
  uint32_t d;
  asm("{ .reg .b32 t; mov.u32 t, %%tid.z; or.b32 %0, t, %1; }" : "=r"(d) : "n"(VALUE));
  return d;
}
// What stays in its registers: the compiler would make it again wherever it is used.
NVFP4_INLINE float keep(float v) {
  asm("" : "+f"(v));
  return v;
}
template <class T>
NVFP4_INLINE T* keep_global(T* p) {
  asm("" : "+l"(p));
  __builtin_assume(__isGlobal(p));
  return p;
}
template <class T>
NVFP4_INLINE T* keep_shared(T* p) {
  asm("" : "+l"(p));
  __builtin_assume(__isShared(p));
  return p;
}
// The high of a pair, where the low is finite: low · 0 + 0 and high · 1 − 0, in the pipe that is less busy than the masks'.
NVFP4_INLINE uint32_t high_bf16(uint32_t w) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(w), "r"(0x3F800000u), "r"(opaque<0x80000000u>()));
  return d;
}
NVFP4_INLINE float f16_to_f32(uint32_t bits) {
  float d;
  asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(d) : "r"(bits));
  return d;
}

// Reciprocal within an ulp: the seed of a division whose range is known.
NVFP4_INLINE float rcp_approx(float x) {
  float d;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// 2^x within two ulps, the tiniest results zero.
NVFP4_INLINE float ex2_approx(float x) {
  float d;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(d) : "f"(x));
  return d;
}

// Pairs of bfloat16; a NaN is passed on.
NVFP4_INLINE uint32_t min_nan_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("min.NaN.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
NVFP4_INLINE uint32_t max_nan_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
// Pairs: the larger magnitude, a NaN where one is, under a sign that means nothing.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 860
#define NVFP4_LARGER(type) "max.NaN.xorsign.abs." type " %0, %1, %2;"
#else
#define NVFP4_LARGER(type) "{ .reg .b32 s, t; abs." type " s, %1; abs." type " t, %2; max.NaN." type " %0, s, t; }"
#endif
NVFP4_INLINE uint32_t larger_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm(NVFP4_LARGER("bf16x2") : "=r"(d) : "r"(a), "r"(b));
  return d;
}
// The smaller magnitude; likewise.
NVFP4_INLINE uint32_t smaller_bf16x2(uint32_t a, uint32_t b) {
  uint32_t d;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 860
  asm("min.NaN.xorsign.abs.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
#else
  asm("{ .reg .b32 s, t; abs.bf16x2 s, %1; abs.bf16x2 t, %2; min.NaN.bf16x2 %0, s, t; }" : "=r"(d) : "r"(a), "r"(b));
#endif
  return d;
}
NVFP4_INLINE uint32_t larger_f16x2(uint32_t a, uint32_t b) {
  uint32_t d;
  asm(NVFP4_LARGER("f16x2") : "=r"(d) : "r"(a), "r"(b));
  return d;
}
// min(a + b, c) of unsigned halves, sums modulo 2^16: one instruction from sm_90 on.
NVFP4_INLINE uint32_t add_min_u16x2(uint32_t a, uint32_t b, uint32_t c) { return __viaddmin_u16x2(a, b, c); }
NVFP4_INLINE uint32_t add_max_u16x2(uint32_t a, uint32_t b, uint32_t c) { return __viaddmax_u16x2(a, b, c); }
NVFP4_INLINE uint32_t lowest_bit(uint32_t v) { return __ffs(int(v)) - 1; }
// 1 / x, nearest, from rcp_approx(x), for 2^-110 <= x <= 2^110: what __frcp_rn does behind a range check and a branch,
// without them.
NVFP4_INLINE float refine(float seed, float x) { return __fmaf_rn(seed, __fmaf_rn(-x, seed, 1.f), seed); }

// a where the mask is set, else b.
NVFP4_INLINE uint32_t bit_select(uint32_t mask, uint32_t a, uint32_t b) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xE2;" : "=r"(r) : "r"(a), "r"(mask), "r"(b));
  return r;
}

NVFP4_INLINE uint32_t rotate_right(uint32_t x, uint32_t by) { return __funnelshift_r(x, x, by); }
// Bytes of a pair by the low four nibbles of `s`, each below 8: __byte_perm would mask them first.
NVFP4_INLINE uint32_t permute(uint32_t a, uint32_t b, uint32_t s) {
  uint32_t d;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(s));
  return d;
}

// c + Σ a_i · b_i of unsigned parts: two halves of a with the low or high two bytes of b, or four bytes with four.
NVFP4_INLINE uint32_t dot2_low(uint32_t a, uint32_t b, uint32_t c) { return __dp2a_lo(a, b, c); }
NVFP4_INLINE uint32_t dot2_high(uint32_t a, uint32_t b, uint32_t c) { return __dp2a_hi(a, b, c); }
NVFP4_INLINE uint32_t dot4(uint32_t a, uint32_t b, uint32_t c) { return __dp4a(a, b, c); }

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
// E4M3 of t >= 0, nearest even, saturating at 448.
NVFP4_INLINE uint32_t e4m3_encode(float t) {
  uint32_t d;
  asm("{ .reg .b16 c, z; cvt.rn.satfinite.e4m3x2.f32 c, %1, %2; mov.b16 z, 0; mov.b32 %0, {c, z}; }" : "=r"(d) : "f"(0.f), "f"(t));
  return d;
}
#define NVFP4_HAS_CVT_E4M3 1
#else
#define NVFP4_HAS_CVT_E4M3 0
#endif

#if NVFP4_HAS_CVT_E2M1
// Two floats to a byte of E2M1, nearest even, saturating at 6, sign of zero kept; `low` in the low nibble.
NVFP4_INLINE uint32_t e2m1_pair(float low, float high) {
  uint32_t d;
  asm("{ .reg .b8 b; cvt.rn.satfinite.e2m1x2.f32 b, %1, %2; cvt.u32.u8 %0, b; }" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
#endif

// Programmatic dependent launches: both do nothing in an ordinary launch, and are nothing before sm_90.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool HAS_DEPENDENT_LAUNCH = true;
#else
constexpr bool HAS_DEPENDENT_LAUNCH = false;
#endif
// The next launch may start as soon as processors have room.
NVFP4_INLINE void allow_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
// All launches before this one are over and their writes visible.
NVFP4_INLINE void wait_for_launches() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Device scope, also for words in host memory: system scope needs a link that has atomics (over PCIe memcheck calls it an
// error), and the host only loads and clears such a word.
NVFP4_INLINE uint32_t atomic_or(uint32_t* p, uint32_t bits) { return atomicOr(p, bits); }
NVFP4_INLINE bool set_if_zero(uint32_t* p, uint32_t value) { return atomicCAS(p, 0u, value) == 0; }

#endif  // NVFP4_EMULATED

}  // namespace nvfp4::ptx
