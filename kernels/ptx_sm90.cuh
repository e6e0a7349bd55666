// The inline assembly of Hopper (sm_90a) but for wgmma, each wrapper with its reason: mbarriers, bulk and tensor copies,
// register hand-over, dependent launches, memory order between blocks. Shared memory is addressed by 32-bit offsets.
// PTX ISA 8.0, chapters "mbarrier", "cp.async.bulk", "griddepcontrol", "setmaxnreg".
#pragma once
#include "ptx_gemm.cuh"

namespace nvfp4::ptx {

// ---- mbarriers: 8 bytes of shared memory that count arrivals and bytes

NVFP4_INLINE void barrier_init(uint32_t at, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
// Makes the initial values known to the copy engines; a __syncthreads() makes them known to the block.
NVFP4_INLINE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
// One arrival, and `bytes` more to come from copies.
NVFP4_INLINE void barrier_arrive_expect(uint32_t at, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
NVFP4_INLINE void barrier_arrive(uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
// An arrival that comes when the thread's copy_async16() so far are there.
NVFP4_INLINE void barrier_arrive_copies(uint32_t at) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at) : "memory");
}
// Waits until the phase of this parity is over; the thread sleeps in hardware between tries.
NVFP4_INLINE void barrier_wait(uint32_t at, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra over;\nbra again;\nover:\n}" ::"r"(at),
      "r"(parity)
      : "memory");
}

// ---- copies by the copy engine

// L2 policies as createpolicy.fractional makes them for the whole of an access.
constexpr uint64_t KEEP_NORMAL = 0x1000000000000000ull, EVICT_FIRST = 0x12F0000000000000ull, EVICT_LAST = 0x14F0000000000000ull;

// Global → shared: addresses and `bytes` are multiples of 16; the barrier counts the bytes down.
NVFP4_INLINE void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}
// A box of a tensor map → shared; what lies outside of the tensor arrives as zeros and counts as bytes.
NVFP4_INLINE void tensor_load(uint32_t to, const void* map, int x, int y, int z, uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%3,%4,%5}], [%2], %6;" ::"r"(
          to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "l"(policy)
      : "memory");
}
NVFP4_INLINE void tensor_prefetch(const void* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }


NVFP4_INLINE uint2 load_shared64(uint32_t at) {
  uint2 r;
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(r.x), "=r"(r.y) : "r"(at));
  return r;
}

// ---- threads

// A part of the block (whole warps) meets; ids 1 … 15, 0 is __syncthreads().
NVFP4_INLINE void meet(uint32_t id, uint32_t threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// A warpgroup takes or gives registers; over a block they add up to those of the launch.
template <int N> NVFP4_INLINE void raise_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> NVFP4_INLINE void lower_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// The compiler moves no memory access over this: it would collect loads until registers run out.
NVFP4_INLINE void keep_order() { asm volatile("" ::: "memory"); }

// `seen` stays 0 until a pair of 16-bit values holds a NaN (or an infinity: 0 times it is one).
template <bool F16> NVFP4_INLINE uint32_t see_nan(uint32_t seen, uint32_t pair) {
  uint32_t r;
  if constexpr (F16)
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(pair), "r"(0u), "r"(seen));
  else
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(pair), "r"(0u), "r"(seen));
  return r;
}

// ---- memory order between blocks

NVFP4_INLINE uint64_t load_acquire(const uint64_t* p) {
  uint64_t v;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}
NVFP4_INLINE void store_release(uint64_t* p, uint64_t v) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

// 16 bytes as one access: who sees the second half sees the first.
NVFP4_INLINE void store_whole(void* p, uint64_t a, uint64_t b) {
  asm volatile("{\n.reg .b128 x;\nmov.b128 x, {%1,%2};\nst.relaxed.gpu.global.b128 [%0], x;\n}" ::"l"(p), "l"(a), "l"(b) : "memory");
}
NVFP4_INLINE void load_whole(const void* p, uint64_t& a, uint64_t& b) {
  asm volatile("{\n.reg .b128 x;\nld.relaxed.gpu.global.b128 x, [%2];\nmov.b128 {%0,%1}, x;\n}" : "=l"(a), "=l"(b) : "l"(p) : "memory");
}

}  // namespace nvfp4::ptx
