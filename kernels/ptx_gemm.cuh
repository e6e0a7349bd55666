// The inline assembly of the product, each wrapper with its reason. Shared memory is addressed by 32-bit offsets.
// Under NVFP4_EMULATED tests/emulator has the same functions in plain C++.
#pragma once
#include "ptx.cuh"
#ifndef NVFP4_EMULATED
#include <cuda_bf16.h>
#include <cuda_fp16.h>

// The shared memory whose size the launch gives.
#define NVFP4_DYNAMIC_SHARED(name) extern __shared__ __align__(128) uint8_t name[]

namespace nvfp4::ptx {

// Where the launch let this grid start early (programmatic dependent launch): waits until the grid before it is done and
// its writes are seen, then lets the one behind it start its own prologue. In that order, so that whoever starts behind
// this grid knows everything before it to be done. Does nothing otherwise, and is nothing before sm_90.
NVFP4_INLINE void wait_for_predecessor() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

NVFP4_INLINE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// 16 bytes from global to shared memory without a register; `bytes` 0 writes zeros and reads nothing.
// The L2 hint fetches the neighbours of a line that will be wanted next.
NVFP4_INLINE void copy_async16(uint32_t to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
NVFP4_INLINE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> NVFP4_INLINE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

NVFP4_INLINE uint4 load_shared128(uint32_t at) {
  uint4 r;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "r"(at));
  return r;
}
NVFP4_INLINE void store_shared128(uint32_t at, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(at), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}

// Four 8x8 matrices of 16-bit elements; lane 8i + r gives the address of row r of matrix i.
NVFP4_INLINE void load_matrices(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at));
}

// d += a · b: 16 weight rows × 16 k by 16 k × 8 tokens, f32 accumulation.
template <bool F16> NVFP4_INLINE void mma16816(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (F16)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// LOP3s written out: the compiler does not find the three-input forms of these by itself.
NVFP4_INLINE uint32_t and_or(uint32_t x, uint32_t mask, uint32_t y) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(r) : "r"(x), "r"(mask), "r"(y));
  return r;
}
// A constant the compiler must keep in a register, for three-input operations with two masks.
NVFP4_INLINE uint32_t opaque(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

NVFP4_INLINE uint32_t rotate_left(uint32_t x, int n) { return __funnelshift_l(x, x, n); }

// Byte i of the result is the byte of b:a that nibble i of s names, or eight times its sign where the nibble has bit 3,
// which __byte_perm() would ignore.
NVFP4_INLINE uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t s) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(s));
  return r;
}

// Both halves of x times the low (high) half of s; the selection is free in the instruction.
template <bool F16, bool HIGH> NVFP4_INLINE uint32_t multiply_pair(uint32_t x, uint32_t s) {
  if constexpr (F16) {
    __half2 a = *reinterpret_cast<__half2*>(&x), b = *reinterpret_cast<__half2*>(&s);
    __half2 r = __hmul2(a, HIGH ? __high2half2(b) : __low2half2(b));
    return *reinterpret_cast<uint32_t*>(&r);
  } else {
    __nv_bfloat162 a = *reinterpret_cast<__nv_bfloat162*>(&x), b = *reinterpret_cast<__nv_bfloat162*>(&s);
    __nv_bfloat162 r = __hmul2(a, HIGH ? __high2bfloat162(b) : __low2bfloat162(b));
    return *reinterpret_cast<uint32_t*>(&r);
  }
}

}  // namespace nvfp4::ptx
#endif
