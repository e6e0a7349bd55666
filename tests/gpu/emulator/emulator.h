// CUDA in plain C++ for one block at a time, enough to run the kernels of this tree on a CPU: every thread is a fiber,
// warp-wide operations meet at a barrier, asynchronous copies land when they are waited for and not before, and shared
// memory starts as NaNs. ptx.cuh and ptx_gemm.cuh include this in place of their assembly.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <algorithm>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static
#define NVFP4_INLINE inline
#define NVFP4_KERNEL(name, Params, threads, ctas)                                                                     \
  static void name##_body(const Params& p);                                                                           \
  static const emulator::Kernel name##_entry(#name, [](const void* p) { name##_body(*static_cast<const Params*>(p)); }); \
  static void name##_body([[maybe_unused]] const Params& p)
#define NVFP4_DYNAMIC_SHARED(name) uint8_t* name = emulator::shared_memory

struct uint2 { uint32_t x, y; };
struct uint3 { uint32_t x, y, z; };
struct uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct float4 { float x, y, z, w; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;

namespace emulator {

struct Kernel {
  Kernel(const char* name, void (*body)(const void*));
};
struct Copy { uint32_t to; const void* from; uint32_t bytes; int group; };
struct Thread {
  uint3 index;
  int number;
  std::vector<Copy> copies;
  int committed = 0;
};
struct Lanes { alignas(16) uint8_t slot[2][32][64]; int turn = 0, arrived = 0, phase = 0; };

extern Thread* thread;
extern uint3 block, grid, block_size;
extern uint8_t shared_memory[];
Lanes& warp();
int next_turn();  // of this lane's exchanges
void warp_barrier();
void block_barrier();

// Every lane's value, in order.
template <class T> struct All { const uint8_t (*slots)[64]; T operator[](int i) const { T v; std::memcpy(&v, slots[i], sizeof(T)); return v; } };
template <class T> All<T> exchange(const T& mine) {
  static_assert(sizeof(T) <= 64);
  Lanes& w = warp();
  const int turn = next_turn();
  std::memcpy(w.slot[turn][thread->number & 31], &mine, sizeof(T));
  warp_barrier();
  return {w.slot[turn]};
}

}  // namespace emulator

#define threadIdx (emulator::thread->index)
#define blockIdx (emulator::block)
#define gridDim (emulator::grid)
#define blockDim (emulator::block_size)

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::warp_barrier(); }
inline void __threadfence() {}
template <class T> T __shfl_up_sync(uint32_t, T v, int d) { auto all = emulator::exchange(v); int l = emulator::thread->number & 31; return l >= d ? all[l - d] : v; }
template <class T> T __shfl_xor_sync(uint32_t, T v, int d) { auto all = emulator::exchange(v); return all[(emulator::thread->number & 31) ^ d]; }
template <class T> T __shfl_sync(uint32_t, T v, int from) { auto all = emulator::exchange(v); return all[from]; }
template <class T> T atomicMin(T* p, T v) { T old = *p; *p = std::min(old, v); return old; }
template <class T> T atomicMax(T* p, T v) { T old = *p; *p = std::max(old, v); return old; }
template <class T> T atomicAdd(T* p, T v) { T old = *p; *p = old + v; return old; }
template <class T> void __stcg(T* p, T v) { *p = v; }
template <class T> T __ldcg(const T* p) { return *p; }
inline uint32_t __float_as_uint(float x) { uint32_t b; std::memcpy(&b, &x, 4); return b; }
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __uint_as_float(uint32_t b) { float x; std::memcpy(&x, &b, 4); return x; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1.f / a; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t s) {
  const uint64_t x = uint64_t(b) << 32 | a;
  uint32_t r = 0;
  for (int i = 0; i < 4; i++) r |= uint32_t(x >> 8 * (s >> 4 * i & 7) & 0xFF) << 8 * i;
  return r;
}

namespace nvfp4::ptx {

inline uint32_t bf16_of(float x) {
  if (x != x) return 0x7FFF;
  const uint32_t b = __float_as_uint(x);
  return (b + 0x7FFF + (b >> 16 & 1)) >> 16;
}
inline uint32_t f16_of(float x) {
  if (x != x) return 0x7FFF;
  const _Float16 h = static_cast<_Float16>(x);
  uint16_t b;
  std::memcpy(&b, &h, 2);
  return b;
}
inline float f16_to_f32(uint32_t bits) {
  const uint16_t b = uint16_t(bits);
  _Float16 h;
  std::memcpy(&h, &b, 2);
  return static_cast<float>(h);
}
inline float bf16_to_f32(uint32_t bits) { return __uint_as_float(bits << 16); }

inline uint4 load_once(const void* p) { uint4 v; std::memcpy(&v, p, 16); return v; }
inline uint4 load_keep(const void* p) { return load_once(p); }
inline uint32_t warp_max(uint32_t v) { auto all = emulator::exchange(v); for (int i = 0; i < 32; i++) v = std::max(v, all[i]); return v; }
inline uint32_t warp_or(uint32_t v) { auto all = emulator::exchange(v); for (int i = 0; i < 32; i++) v |= all[i]; return v; }
inline float min_nan(float a, float b) { return a != a || b != b ? __uint_as_float(0x7FFFFFFF) : std::min(a, b); }
inline float max_nan(float a, float b) { return a != a || b != b ? __uint_as_float(0x7FFFFFFF) : std::max(a, b); }
inline int32_t min3(int32_t a, int32_t b, int32_t c) { return std::min(a, std::min(b, c)); }
inline uint32_t max_u16x2(uint32_t a, uint32_t b) { return std::max(a & 0xFFFF, b & 0xFFFF) | std::max(a >> 16, b >> 16) << 16; }
inline uint32_t min_u16x2(uint32_t a, uint32_t b) { return std::min(a & 0xFFFF, b & 0xFFFF) | std::min(a >> 16, b >> 16) << 16; }
inline uint32_t pack_bf16(float low, float high) { return bf16_of(low) | bf16_of(high) << 16; }
inline uint32_t pack_f16(float low, float high) { return f16_of(low) | f16_of(high) << 16; }
inline float rcp_approx(float x) { return 1.f / x; }
#define NVFP4_HAS_CVT_E4M3 0
inline uint32_t atomic_or(uint32_t* p, uint32_t bits) {
  const uint32_t old = *p;
  *p |= bits;
  return old;
}
inline bool set_if_zero(uint32_t* p, uint32_t value) { return *p == 0 && ((*p = value), true); }

inline uint32_t shared_address(const void* p) { return uint32_t(static_cast<const uint8_t*>(p) - emulator::shared_memory); }
inline void copy_async16(uint32_t to, const void* from, uint32_t bytes) { emulator::thread->copies.push_back({to, from, bytes, emulator::thread->committed}); }
// A grid of the emulator starts when the one before it is done.
inline void wait_for_predecessor() {}
inline void copy_async_commit() { emulator::thread->committed++; }
template <int N> void copy_async_wait() {
  auto& copies = emulator::thread->copies;
  size_t kept = 0;
  for (auto& c : copies) {
    if (c.group < emulator::thread->committed - N) {
      std::memset(emulator::shared_memory + c.to, 0, 16);
      if (c.bytes) std::memcpy(emulator::shared_memory + c.to, c.from, c.bytes);
    } else {
      copies[kept++] = c;
    }
  }
  copies.resize(kept);
}
inline uint4 load_shared128(uint32_t at) { return load_once(emulator::shared_memory + at); }
inline void store_shared128(uint32_t at, uint4 v) { std::memcpy(emulator::shared_memory + at, &v, 16); }
inline void load_matrices(uint32_t (&r)[4], uint32_t at) {
  auto all = emulator::exchange(at);
  const int lane = emulator::thread->number & 31;
  for (int i = 0; i < 4; i++) std::memcpy(&r[i], emulator::shared_memory + all[8 * i + lane / 4] + 4 * (lane % 4), 4);
  emulator::warp_barrier();
}
struct Operands { uint32_t a[4], b[2]; };
template <bool F16> void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto all = emulator::exchange(Operands{{a[0], a[1], a[2], a[3]}, {b0, b1}});
  auto value = [](uint32_t word, int half) { const uint32_t bits = word >> 16 * half & 0xFFFF; return F16 ? f16_to_f32(bits) : bf16_to_f32(bits); };
  const int lane = emulator::thread->number & 31;
  for (int i = 0; i < 4; i++) {
    const int row = lane / 4 + 8 * (i >> 1), col = 2 * (lane % 4) + (i & 1);
    double sum = d[i];
    for (int k = 0; k < 16; k++) {
      // a: register h + 2·(k / 8) of lane 4(row % 8) + k % 8 / 2; b: register k / 8 of lane 4·col + k % 8 / 2
      const uint32_t x = all[4 * (row & 7) + (k & 7) / 2].a[(row >> 3) + 2 * (k >> 3)], y = all[4 * col + (k & 7) / 2].b[k >> 3];
      sum += static_cast<double>(value(x, k & 1)) * value(y, k & 1);
    }
    d[i] = static_cast<float>(sum);
  }
}
inline uint32_t and_or(uint32_t x, uint32_t mask, uint32_t y) { return (x & mask) | y; }
inline uint32_t bit_select(uint32_t mask, uint32_t a, uint32_t b) { return (a & mask) | (b & ~mask); }
inline uint32_t opaque(uint32_t x) { return x; }
inline uint32_t rotate_left(uint32_t x, int n) { return (n & 31) ? x << (n & 31) | x >> (32 - (n & 31)) : x; }
inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t s) {
  uint32_t r = __byte_perm(a, b, s);
  for (int i = 0; i < 4; i++)
    if (s >> 4 * i & 8) r = (r & ~(0xFFu << 8 * i)) | (r >> 8 * i & 0x80 ? 0xFFu << 8 * i : 0);
  return r;
}
template <bool F16, bool HIGH> uint32_t multiply_pair(uint32_t x, uint32_t s) {
  const uint32_t f = HIGH ? s >> 16 : s & 0xFFFF;
  if (F16) return pack_f16(f16_to_f32(x & 0xFFFF) * f16_to_f32(f), f16_to_f32(x >> 16) * f16_to_f32(f));
  return pack_bf16(bf16_to_f32(x & 0xFFFF) * bf16_to_f32(f), bf16_to_f32(x >> 16) * bf16_to_f32(f));
}

}  // namespace nvfp4::ptx
