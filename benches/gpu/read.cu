// The read ceiling: a launch that does nothing but bring bytes into shared memory, by bulk copies through a ring of stages.
// sm_90 and up. Not part of the library.
#include <cstdint>

namespace {
constexpr uint32_t CHUNK = 18432, STAGES = 10;
constexpr uint64_t EVICT_FIRST = 0x12F0000000000000ull;

__device__ uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
}  // namespace

// One thread a block; a block takes a contiguous run of chunks. Dynamic shared memory: STAGES * CHUNK bytes.
extern "C" __global__ void __launch_bounds__(32) nvfp4_bench_read(const uint8_t* src, uint64_t bytes) {
  extern __shared__ __align__(128) uint8_t ring[];
  __shared__ uint64_t full[STAGES];
  if (threadIdx.x != 0) return;
  for (uint32_t i = 0; i < STAGES; i++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(full + i)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  const uint64_t chunks = bytes / CHUNK, first = chunks * blockIdx.x / gridDim.x, count = chunks * (blockIdx.x + 1) / gridDim.x - first;
  const uint8_t* const from = src + first * CHUNK;
  for (uint64_t i = 0; i < count + STAGES; i++) {
    const uint32_t stage = i % STAGES, turn = (i / STAGES) & 1, barrier = shared_address(full + stage);
    // Chunk i - STAGES is there.
    if (i >= STAGES)
      asm volatile(
          "{\n.reg .pred done;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra over;\nbra again;\nover:\n}" ::"r"(
              barrier),
          "r"(turn ^ 1)
          : "memory");
    if (i >= count) continue;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(CHUNK) : "memory");
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
            shared_address(ring + stage * CHUNK)),
        "l"(from + i * CHUNK), "r"(CHUNK), "r"(barrier), "l"(EVICT_FIRST)
        : "memory");
  }
}
