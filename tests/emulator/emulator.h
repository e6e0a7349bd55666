// Runs kernels of kernels/ on a CPU, one CTA at a time, every thread a fiber: enough of CUDA for all kernels but Hopper's
// products, so that their indexing, barriers and bits are tested where there is no GPU. Not a model of memory ordering.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <vector>

#define __device__
#define __shared__ static
#define NVFP4_DYNAMIC_SHARED(name) uint8_t* name = emulator::shared_memory
#define NVFP4_INLINE inline
#define NVFP4_NOINLINE __attribute__((noinline))
#define NVFP4_KERNEL(name, Params, threads, ctas)                                                       \
  static void name(const Params& p);                                                                    \
  extern "C" const uint32_t name##_bytes = sizeof(Params);                                              \
  extern "C" void name##_run(const Index* grid, uint32_t block, const void* params) {                   \
    emulator::launch(*grid, block, [=] { name(*static_cast<const Params*>(params)); });                 \
  }                                                                                                     \
  static void name(const Params& p)

struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
struct Index { uint32_t x, y, z; };
extern Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {
void launch(Index grid, uint32_t block, const std::function<void()>& body);
void barrier();
// Every lane's value of a warp, once all have come.
const uint64_t* exchange(uint64_t value);

// What a launch gives beyond the static arrays; NaNs when a CTA starts.
extern uint8_t shared_memory[];
// Asynchronous copies of this thread into it: they land when they are waited for and not before.
struct Copy { uint32_t to; const void* from; uint32_t bytes; int group; };
struct Copies { std::vector<Copy> waiting; int committed; };
Copies& copies();

template <class T>
uint64_t bits(T v) {
  uint64_t b = 0;
  memcpy(&b, &v, sizeof v);
  return b;
}
template <class T>
T lane(const uint64_t* all, uint32_t i) {
  T v;
  memcpy(&v, all + i, sizeof v);
  return v;
}
}  // namespace emulator

inline void __syncthreads() { emulator::barrier(); }
template <class T>
T __shfl_sync(uint32_t, T v, int src) { return emulator::lane<T>(emulator::exchange(emulator::bits(v)), src & 31); }
template <class T>
T __shfl_xor_sync(uint32_t, T v, int d) { return emulator::lane<T>(emulator::exchange(emulator::bits(v)), (threadIdx.x & 31) ^ d); }
template <class T>
T __shfl_up_sync(uint32_t, T v, uint32_t d) {
  const uint32_t me = threadIdx.x & 31;
  return emulator::lane<T>(emulator::exchange(emulator::bits(v)), me >= d ? me - d : me);
}

inline void __syncwarp() { emulator::exchange(0); }
// The lanes with this value.
inline uint32_t __match_any_sync(uint32_t, uint32_t v) {
  const uint64_t* all = emulator::exchange(v);
  uint32_t same = 0;
  for (uint32_t i = 0; i < 32; i++) same |= uint32_t(all[i] == v) << i;
  return same;
}
inline void __threadfence() {}
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcg(T* p, T v) { *p = v; }
inline int __popc(uint32_t v) { return __builtin_popcount(v); }

inline uint32_t __float_as_uint(float f) { uint32_t b; memcpy(&b, &f, 4); return b; }
inline int32_t __float_as_int(float f) { return int32_t(__float_as_uint(f)); }
inline float __uint_as_float(uint32_t b) { float f; memcpy(&f, &b, 4); return f; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.f / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s) {
  const uint64_t all = uint64_t(b) << 32 | a;
  uint32_t out = 0;
  for (int i = 0; i < 4; i++) out |= uint32_t(all >> 8 * (s >> 4 * i & 7) & 0xFF) << 8 * i;
  return out;
}
inline uint32_t min(uint32_t a, uint32_t b) { return a < b ? a : b; }
inline uint32_t max(uint32_t a, uint32_t b) { return a > b ? a : b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
template <class T> T atomicMin(T* p, T v) { const T old = *p; *p = min(old, v); return old; }
template <class T> T atomicMax(T* p, T v) { const T old = *p; *p = max(old, v); return old; }
template <class T> T atomicAdd(T* p, T v) { const T old = *p; *p += v; return old; }

namespace nvfp4::ptx {

inline uint4 load_once(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) & 15) __builtin_trap();
  uint4 v;
  memcpy(&v, p, 16);
  return v;
}
inline uint4 load_keep(const void* p) { return load_once(p); }
inline uint32_t warp_max(uint32_t v) {
  const uint64_t* all = emulator::exchange(v);
  uint32_t m = 0;
  for (int i = 0; i < 32; i++) m = max(m, uint32_t(all[i]));
  return m;
}
inline uint32_t warp_or(uint32_t v) {
  const uint64_t* all = emulator::exchange(v);
  uint32_t m = 0;
  for (int i = 0; i < 32; i++) m |= uint32_t(all[i]);
  return m;
}
inline float min_nan(float a, float b) { return a != a || b != b ? __uint_as_float(0x7FFFFFFF) : a < b ? a : b; }
inline float max_nan(float a, float b) { return a != a || b != b ? __uint_as_float(0x7FFFFFFF) : a > b ? a : b; }
inline int32_t min3(int32_t a, int32_t b, int32_t c) { return min(min(a, b), c); }
inline uint32_t max_u16x2(uint32_t a, uint32_t b) { return max(a & 0xFFFF, b & 0xFFFF) | max(a >> 16, b >> 16) << 16; }
inline uint32_t min_u16x2(uint32_t a, uint32_t b) { return min(a & 0xFFFF, b & 0xFFFF) | min(a >> 16, b >> 16) << 16; }

inline uint32_t bf16_bits(float x) {
  const uint32_t b = __float_as_uint(x);
  return x != x ? 0x7FFF : (b + 0x7FFF + (b >> 16 & 1)) >> 16;
}
inline uint32_t f16_bits(float x) {
  if (x != x) return 0x7FFF;
  const _Float16 h = _Float16(x);
  uint16_t b;
  memcpy(&b, &h, 2);
  return b;
}
inline float f16_to_f32(uint32_t bits) {
  const uint16_t b = uint16_t(bits);
  _Float16 h;
  memcpy(&h, &b, 2);
  return float(h);
}
inline uint32_t f16_bits_cut(float x) {
  const uint32_t h = f16_bits(x);
  return x != x ? h : h - (fabsf(f16_to_f32(h)) > fabsf(x));
}
inline uint32_t cut_f16(float low, float high) { return f16_bits_cut(low) | f16_bits_cut(high) << 16; }
inline uint32_t pack_bf16(float low, float high) { return bf16_bits(low) | bf16_bits(high) << 16; }
inline uint32_t pack_f16(float low, float high) { return f16_bits(low) | f16_bits(high) << 16; }
// Wrong by up to an ulp, as the instruction is.
inline float rcp_approx(float x) {
  const uint32_t b = __float_as_uint(1.f / x);
  if ((b & 0x7FFFFFFF) >= 0x7F800000u) return __uint_as_float(b);
  return __uint_as_float(b + __float_as_uint(x) % 3 - 1);
}
// Wrong by up to two ulps, either way.
inline float ex2_approx(float x) {
  if (x < -126.f) return 0.f;
  if (x >= 128.f) return __uint_as_float(0x7F800000u);
  if (x != x) return x;
  const uint32_t b = __float_as_uint(float(exp2(double(x))));
  const uint32_t wrong = b + (__float_as_uint(x) * 2654435761u >> 16) % 5 - 2;
  return wrong < 0x00800000u || wrong > 0x7F800000u ? __uint_as_float(b) : __uint_as_float(wrong);
}
template <class Op>
uint32_t each_bf16(uint32_t a, uint32_t b, Op op) {
  const auto half = [&](uint32_t x, uint32_t y) { return __float_as_uint(op(__uint_as_float(x), __uint_as_float(y))) >> 16; };
  return half(a << 16, b << 16) | half(a & 0xFFFF0000u, b & 0xFFFF0000u) << 16;
}
inline uint32_t min_nan_bf16x2(uint32_t a, uint32_t b) { return each_bf16(a, b, min_nan); }
inline uint32_t max_nan_bf16x2(uint32_t a, uint32_t b) { return each_bf16(a, b, max_nan); }
inline uint32_t larger(uint32_t a, uint32_t b, uint32_t inf) {
  const auto half = [&](uint32_t x, uint32_t y) { const uint32_t m = max(x & 0x7FFFu, y & 0x7FFFu); return (m > inf ? 0x7FFFu : m) | ((x ^ y) & 0x8000u); };
  return half(a & 0xFFFF, b & 0xFFFF) | half(a >> 16, b >> 16) << 16;
}
inline uint32_t larger_bf16x2(uint32_t a, uint32_t b) { return larger(a, b, 0x7F80); }
inline uint32_t smaller_bf16x2(uint32_t a, uint32_t b) {
  const auto half = [&](uint32_t x, uint32_t y) {
    const uint32_t one = x & 0x7FFFu, other = y & 0x7FFFu;
    return (max(one, other) > 0x7F80u ? 0x7FFFu : min(one, other)) | ((x ^ y) & 0x8000u);
  };
  return half(a & 0xFFFF, b & 0xFFFF) | half(a >> 16, b >> 16) << 16;
}
inline uint32_t larger_f16x2(uint32_t a, uint32_t b) { return larger(a, b, 0x7C00); }
inline uint32_t add_min_u16x2(uint32_t a, uint32_t b, uint32_t c) {
  return min((a + b) & 0xFFFFu, c & 0xFFFFu) | min((a >> 16) + (b >> 16) & 0xFFFFu, c >> 16) << 16;
}
inline uint32_t add_max_u16x2(uint32_t a, uint32_t b, uint32_t c) {
  return max((a + b) & 0xFFFFu, c & 0xFFFFu) | max((a >> 16) + (b >> 16) & 0xFFFFu, c >> 16) << 16;
}
inline uint32_t lowest_bit(uint32_t v) { return uint32_t(__builtin_ctz(v)); }
inline float refine(float, float x) { return 1.f / x; }
template <uint32_t VALUE>
uint32_t opaque() { return VALUE; }
inline float keep(float v) { return v; }
template <class T>
T* keep_global(T* p) { return p; }
template <class T>
T* keep_shared(T* p) { return p; }
inline uint32_t bit_select(uint32_t mask, uint32_t a, uint32_t b) { return (a & mask) | (b & ~mask); }
inline uint32_t rotate_right(uint32_t x, uint32_t by) { return x >> (by & 31) | x << (-by & 31); }
inline uint32_t high_bf16(uint32_t w) { return w & 0xFFFF0000u; }
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t s) { return s & 0x8888 ? 0 : __byte_perm(a, b, s); }
inline uint32_t dot2(uint32_t a, uint32_t b, uint32_t c) { return c + (a & 0xFFFF) * (b & 0xFF) + (a >> 16) * (b >> 8 & 0xFF); }
inline uint32_t dot2_low(uint32_t a, uint32_t b, uint32_t c) { return dot2(a, b, c); }
inline uint32_t dot2_high(uint32_t a, uint32_t b, uint32_t c) { return dot2(a, b >> 16, c); }
inline uint32_t dot4(uint32_t a, uint32_t b, uint32_t c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 0xFF) * (b >> i & 0xFF);
  return c;
}
inline void prefetch(const void*) {}
constexpr bool HAS_DEPENDENT_LAUNCH = true;
inline void allow_dependents() {}
inline void wait_for_launches() {}
inline uint32_t atomic_or(uint32_t* p, uint32_t bits) {
  const uint32_t old = *p;
  *p |= bits;
  return old;
}
inline bool set_if_zero(uint32_t* p, uint32_t value) { return *p == 0 && ((*p = value), true); }

// ---- the products' (ptx_gemm.cuh)

inline void wait_for_predecessor() {}  // a grid starts when the one before it is done
inline uint32_t shared_address(const void* p) { return uint32_t(static_cast<const uint8_t*>(p) - emulator::shared_memory); }
inline void copy_async16(uint32_t to, const void* from, uint32_t bytes) {
  emulator::Copies& c = emulator::copies();
  c.waiting.push_back({to, from, bytes, c.committed});
}
inline void copy_async_commit() { emulator::copies().committed++; }
template <int N>
void copy_async_wait() {
  emulator::Copies& c = emulator::copies();
  size_t kept = 0;
  for (const emulator::Copy& one : c.waiting) {
    if (one.group >= c.committed - N) {
      c.waiting[kept++] = one;
      continue;
    }
    memset(emulator::shared_memory + one.to, 0, 16);
    if (one.bytes) memcpy(emulator::shared_memory + one.to, one.from, one.bytes);
  }
  c.waiting.resize(kept);
}
inline uint4 load_shared128(uint32_t at) { return load_once(emulator::shared_memory + at); }
inline void store_shared128(uint32_t at, uint4 v) { memcpy(emulator::shared_memory + at, &v, 16); }
inline void load_matrices(uint32_t (&r)[4], uint32_t at) {
  const uint64_t* all = emulator::exchange(at);
  const uint32_t lane = threadIdx.x & 31;
  for (uint32_t i = 0; i < 4; i++) memcpy(&r[i], emulator::shared_memory + all[8 * i + lane / 4] + 4 * (lane % 4), 4);
  __syncwarp();
}
template <bool F16>
void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto value = [](uint64_t words, uint32_t half) {
    const uint32_t bits = words >> 16 * half & 0xFFFF;
    return F16 ? f16_to_f32(bits) : __uint_as_float(bits << 16);
  };
  // Of every lane: the rows below 8, those from 8 on, and b; two words each, of k below 8 and from 8 on.
  float x[2][32][4], y[32][4];
  const auto gather = [&](float (&to)[32][4], uint32_t low, uint32_t high) {
    const uint64_t* all = emulator::exchange(uint64_t(high) << 32 | low);
    for (uint32_t lane = 0; lane < 32; lane++)
      for (uint32_t i = 0; i < 4; i++) to[lane][i] = value(all[lane], i);
  };
  gather(x[0], a[0], a[2]), gather(x[1], a[1], a[3]), gather(y, b0, b1);
  const uint32_t lane = threadIdx.x & 31;
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t row = lane / 4, col = 2 * (lane % 4) + (i & 1);
    double sum = d[i];
    for (uint32_t k = 0; k < 16; k++) {
      const uint32_t from = (k & 7) / 2, half = 2 * (k >> 3) + (k & 1);
      sum += double(x[i >> 1][4 * row + from][half]) * y[4 * col + from][half];
    }
    d[i] = float(sum);
  }
}
inline uint32_t and_or(uint32_t x, uint32_t mask, uint32_t y) { return (x & mask) | y; }
inline uint32_t opaque(uint32_t x) { return x; }
inline uint32_t rotate_left(uint32_t x, int n) { return (n & 31) ? x << (n & 31) | x >> (32 - (n & 31)) : x; }
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t s) {
  uint32_t r = __byte_perm(a, b, s);
  for (int i = 0; i < 4; i++)
    if (s >> 4 * i & 8) r = (r & ~(0xFFu << 8 * i)) | (r >> 8 * i & 0x80 ? 0xFFu << 8 * i : 0);
  return r;
}
template <bool F16, bool HIGH>
uint32_t multiply_pair(uint32_t x, uint32_t s) {
  const uint32_t f = HIGH ? s >> 16 : s & 0xFFFF;
  const auto wide = [](uint32_t bits) { return F16 ? f16_to_f32(bits) : __uint_as_float(bits << 16); };
  const float low = wide(x & 0xFFFF) * wide(f), high = wide(x >> 16) * wide(f);
  return F16 ? pack_f16(low, high) : pack_bf16(low, high);
}

}  // namespace nvfp4::ptx

#define NVFP4_HAS_CVT_E4M3 0
