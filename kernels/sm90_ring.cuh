// The ring of stages between one producer, whose copies fill shared memory, and the consumers, who read it.
//
// Each stage has a `full` barrier, which ends a phase when the producers have arrived and the bytes they announced are
// there, and a `free` barrier, on which each consumer thread arrives when it has read the stage. Everybody walks the
// stages in the same order with a Cursor of its own, over all segments of a block's work without a restart.
//
//   Ring<STAGES, BYTES> ring(shared, barriers);       // any thread; the barriers are 16 · STAGES bytes of shared memory
//   if (one thread) ring.init(producers, consumers);  // then __syncthreads()
//   producer: ring.wait_free(c); ring.expect(c, bytes); copies to ring.stage(c) that count on ring.full(c); c.advance();
//   consumer: ring.wait_full(c); … ring.stage(c) …; ring.release(c); c.advance();
#pragma once
#include "ptx_sm90.cuh"

namespace nvfp4 {

template <int STAGES_, int STAGE_BYTES_> class Ring {
 public:
  static constexpr int STAGES = STAGES_, STAGE_BYTES = STAGE_BYTES_, BYTES = STAGES * STAGE_BYTES, BARRIER_BYTES = 16 * STAGES;

  struct Cursor {
    uint32_t stage = 0, round = 0;  // round: parity of the times around
    NVFP4_INLINE void advance() {
      if (++stage == STAGES) stage = 0, round ^= 1;
    }
  };

  NVFP4_INLINE Ring(uint32_t shared, uint32_t barriers) : shared(shared), barriers(barriers) {}

  // `producers` arrivals fill a stage (expect() is one), `consumers` warps release it.
  NVFP4_INLINE void init(uint32_t producers, uint32_t consumers) const {
    for (int i = 0; i < STAGES; i++) {
      ptx::barrier_init(barriers + 8 * i, producers);
      ptx::barrier_init(barriers + 8 * (STAGES + i), 32 * consumers);
    }
    ptx::barrier_init_fence();
  }

  NVFP4_INLINE uint32_t stage(const Cursor& c) const { return shared + c.stage * STAGE_BYTES; }
  NVFP4_INLINE uint32_t full(const Cursor& c) const { return barriers + 8 * c.stage; }
  NVFP4_INLINE uint32_t free(const Cursor& c) const { return barriers + 8 * STAGES + 8 * c.stage; }

  // ---- producers; the first round finds every stage free

  NVFP4_INLINE void wait_free(const Cursor& c) const { ptx::barrier_wait(free(c), c.round ^ 1); }
  NVFP4_INLINE void expect(const Cursor& c, uint32_t bytes) const { ptx::barrier_arrive_expect(full(c), bytes); }
  // An arrival without bytes: of each thread that writes the stage by itself.
  NVFP4_INLINE void arrive(const Cursor& c) const { ptx::barrier_arrive(full(c)); }
  // By every thread of a producer that fills the stage with copy_async16(): an arrival each.
  NVFP4_INLINE void arrive_copies(const Cursor& c) const { ptx::barrier_arrive_copies(full(c)); }

  // ---- consumers

  NVFP4_INLINE void wait_full(const Cursor& c) const { ptx::barrier_wait(full(c), c.round); }
  // By a whole warp, after its last read of the stage. Every lane arrives: one for all behind a __syncwarp() orders as much,
  // but racecheck does not follow that.
  NVFP4_INLINE void release(const Cursor& c) const {
    ptx::barrier_arrive(free(c));
  }

 private:
  uint32_t shared, barriers;
};

}  // namespace nvfp4
