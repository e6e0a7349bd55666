// The Hopper product for 32 tokens a group and more: bf16 or f16 activations [tokens, K] × units of prepared weights →
// epilogue, by wgmma.
//
// A block stays on its processor and works through tiles of 256 stored weight rows × TOKENS (sm90_schedule.cuh). Weights
// are the register operand: each of two consumer warpgroups takes one unit of 128 rows, decodes it from shared memory
// into fragments and multiplies them with the tokens that both share. Fragments of 32 k are double-buffered, so decoding
// goes on while the tensor cores work on the half before. One thread of a third warpgroup keeps a ring of stages full:
// 64 k of both units as they lie in memory, and of the tokens by a tensor copy, which swizzles them as wgmma wants them
// and writes zeros past K. Tokens past the group's end are multiplied and not written.
// One warpgroup starts a few steps late: then it multiplies while the other one writes its tile, and the other way round.
// Tensor cores cut the low bits of every sum off: with RUN_STEPS, a run of them ends after so many stages and its sums
// are added to totals in the workspace.
#pragma once
#include "sm90_epilogue.cuh"
#include "sm90_ring.cuh"
#include "sm90_schedule.cuh"
#include "wgmma.cuh"

namespace nvfp4 {

template <bool F16_, int TOKENS_, int STAGES_> struct ManyForm {
  static constexpr bool F16 = F16_;
  static constexpr int TOKENS = TOKENS_, STAGES = STAGES_;
  static constexpr int CONSUMERS = 2, WARPS = 4 * CONSUMERS, FEATURES = UNIT_ROWS * CONSUMERS, THREADS = 128 * CONSUMERS + 128;
  static constexpr int A_BYTES = TOKENS * UNIT_COLS * 2, STAGE_BYTES = A_BYTES + CONSUMERS * UNIT_BYTES;
  static constexpr int FOURS = TOKENS / 4;  // of a thread's sums
  // Registers of a thread, which add up to the launch's 168.
  static constexpr int CONSUMER_REGISTERS = 232, PRODUCER_REGISTERS = 40;
  using Stages = Ring<STAGES, STAGE_BYTES>;
  using Staging = WarpgroupStaging<TOKENS>;
  using Shares = Partials<WARPS, FOURS>;
  static constexpr int BARRIERS_AT = Stages::BYTES, STAGING_AT = BARRIERS_AT + (Stages::BARRIER_BYTES + 127) / 128 * 128;
  static constexpr int SHARED_BYTES = STAGING_AT + CONSUMERS * Staging::BYTES + 1024;  // the ring starts at a multiple of 1024
  // Token tiles that follow one another with the same weights. Few tokens: a group has one or two.
  static constexpr uint32_t SHARE = TOKENS > 64 ? 64 : 1;
  static_assert(STAGE_BYTES % 1024 == 0 && SHARED_BYTES <= 232448);
};

// Steps that the second warpgroup starts later.
constexpr uint32_t LATE_STEPS = 3;
// Meetings: 1 and 2 are the warpgroups' own.
constexpr uint32_t LATE_START = 3;

// ---- the producer

NVFP4_INLINE void produce_stage(uint32_t stage, uint32_t full, const void* map, const uint8_t* weights, uint32_t units, int64_t unit_stride,
                                uint32_t a_bytes, int k, int row, int group, uint64_t policy) {
  for (uint32_t unit = 0; unit < units; unit++)
    ptx::bulk_load(stage + a_bytes + unit * UNIT_BYTES, weights + unit * unit_stride, UNIT_BYTES, full, policy);
  ptx::tensor_load(stage, map, k, row, group, full, ptx::EVICT_LAST);
}

template <class F>
NVFP4_INLINE void produce(const Sm90ManyParams& params, const typename F::Stages& ring) {
  const GemmParams& p = params.common.gemm;
  const GroupTable groups(p, F::TOKENS, F::FEATURES);
  const uint32_t steps = blocks_of(p.cols, UNIT_COLS);
  Work work(groups.tiles(), steps, params.common.schedule);
  const uint32_t across = blocks_of(p.weight_rows, UNIT_ROWS);
  const bool strided = p.grouping == GROUPS_STRIDED, leader = (threadIdx.x & 31) == 0;
  const int64_t unit_stride = static_cast<int64_t>(steps) * UNIT_BYTES;
  // Weights that no other tile wants leave the cache first.
  const uint64_t policy = F::TOKENS <= 64 ? ptx::EVICT_FIRST : ptx::KEEP_NORMAL;
  typename F::Stages::Cursor cursor;
  for (Segment s; work.next(s);) {
    const Tile t = groups.find<F::SHARE>(s.tile);
    const uint32_t first = t.features * F::CONSUMERS, units = min(static_cast<uint32_t>(F::CONSUMERS), across - first);
    const uint8_t* weights = p.weights + p.units_at + ((static_cast<int64_t>(t.group) * across + first) * steps + s.begin) * UNIT_BYTES;
    const int row = static_cast<int>(strided ? t.row0 : t.first_row + t.row0);
    const int group = strided && p.a_group_stride ? static_cast<int>(t.group) : 0;
    if (leader) {
#pragma unroll 1
      for (uint32_t step = s.begin; step < s.end; step++) {
        ring.wait_free(cursor);
        ring.expect(cursor, F::A_BYTES + units * UNIT_BYTES);
        produce_stage(ring.stage(cursor), ring.full(cursor), params.map, weights, units, unit_stride, F::A_BYTES, static_cast<int>(step) * UNIT_COLS,
                      row, group, policy);
        weights += UNIT_BYTES;
        cursor.advance();
      }
    }
    __syncwarp();
  }
}

// ---- consumers

// The thread's share of a unit: words of both halves, and the scales of its rows.
struct PackedWords {
  uint4 values[2], scales;
};

NVFP4_INLINE PackedWords load_words(uint32_t unit) {
  const uint32_t thread = threadIdx.x & 127;
  PackedWords w;
  w.values[0] = ptx::load_shared128(unit + 16 * thread);
  w.values[1] = ptx::load_shared128(unit + UNIT_HALF + 16 * thread);
  w.scales = ptx::load_shared128(unit + UNIT_SCALES + 16 * (thread >> 2));
  return w;
}

template <class F> struct Consumer {
  using Cursor = typename F::Stages::Cursor;
  const typename F::Stages& ring;
  uint32_t unit_at, exponent;  // of the warpgroup's unit in a stage; decode_words' constant
  Cursor cursor, behind;       // the next stage, and the one before it, which products may still read
  bool holding = false;        // `behind` is not yet released
  PackedWords words;           // of the next stage, where `loaded`
  bool loaded = false;

  NVFP4_INLINE Consumer(const typename F::Stages& ring, int warpgroup)
      : ring(ring), unit_at(F::A_BYTES + warpgroup * UNIT_BYTES), exponent(ptx::opaque(0x70007000u)) {}

  NVFP4_INLINE void load() {
    ring.wait_full(cursor);
    words = load_words(ring.stage(cursor) + unit_at);
  }

  // acc += `count` > 0 stages; `add` 0: the first product overwrites. `more`: another call follows for the same tile.
  NVFP4_INLINE void multiply(float (&acc)[2][F::TOKENS / 2], uint32_t count, uint32_t& add, bool more) {
#pragma unroll 1
    for (; count > 0; count--) {
      const uint64_t tokens = ptx::wgmma_descriptor(ring.stage(cursor));
      Cursor ahead = cursor;
      ahead.advance();
      Fragments fragments[2][2];
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const uint4& v = words.values[half];
          const uint32_t scales = half ? (pair ? words.scales.w : words.scales.z) : (pair ? words.scales.y : words.scales.x);
          fragments[pair][half] = decode_words<F::F16>(pair ? v.z : v.x, pair ? v.w : v.y, scales, exponent);
        }
        ptx::wgmma_fence();
#pragma unroll
        for (int half = 0; half < 2; half++) ptx::wgmma<F::F16>(acc[half], fragments[pair][half].even, tokens + 4 * pair, add);
        add = 1;
#pragma unroll
        for (int half = 0; half < 2; half++) ptx::wgmma<F::F16>(acc[half], fragments[pair][half].odd, tokens + 4 * pair + 2, add);
        ptx::wgmma_commit();
        if (pair == 1 && (count > 1 || more)) {  // the next words while the tensor cores work
          ring.wait_full(ahead);
          words = load_words(ring.stage(ahead) + unit_at);
        }
        ptx::wgmma_wait<1>();
        if (pair == 0 && holding) ring.release(behind);
      }
      behind = cursor;
      holding = true;
      cursor = ahead;
    }
  }

  // The accumulators are complete and every stage is the producer's again.
  NVFP4_INLINE void finish(float (&acc)[2][F::TOKENS / 2]) {
    ptx::wgmma_wait<0>();
    ptx::wgmma_pin(acc[0]);
    ptx::wgmma_pin(acc[1]);
    ring.release(behind);
    holding = false;
  }
};

template <class F>
NVFP4_INLINE void consume(const Sm90ManyParams& params, const typename F::Stages& ring, int warpgroup, uint8_t* staging) {
  const GemmParams& p = params.common.gemm;
  const GroupTable groups(p, F::TOKENS, F::FEATURES);
  Work work(groups.tiles(), blocks_of(p.cols, UNIT_COLS), params.common.schedule);
  Consumer<F> consumer(ring, warpgroup);
  float acc[2][F::TOKENS / 2];
  float(&fours)[F::FOURS][4] = reinterpret_cast<float(&)[F::FOURS][4]>(acc);
  bool first = true;
  for (Segment s; work.next(s);) {
    if (first && warpgroup == 1) ptx::meet(LATE_START, 128 * F::CONSUMERS);
    consumer.load();
    uint32_t left = s.end - s.begin, add = 0;
    while (left > 0) {
      const bool early = first && warpgroup == 0;
      const uint32_t count = early ? min(left, LATE_STEPS) : left;
      left -= count;
      consumer.multiply(acc, count, add, left > 0);
      if (early) ptx::pass(LATE_START, 128 * F::CONSUMERS);
      first = false;
    }
    consumer.finish(acc);
    if (!work.is_whole(s)) {
      typename F::Shares shares(p.partials, reinterpret_cast<uint64_t*>(p.counters), params.common.token, static_cast<int>(threadIdx.x >> 5));
      if (!work.owns(s)) {
        shares.leave(fours);
        shares.publish();
        continue;
      }
      shares.collect(work.first_block(s.tile), fours);
    }
    const Tile t = groups.find<F::SHARE>(s.tile);
    const uint32_t block = t.features * F::CONSUMERS + warpgroup;
    if (block < blocks_of(p.weight_rows, UNIT_ROWS))
      write_block<F::TOKENS>(p, t, block, acc, DECODE_UNDO<F::F16>, staging, 1 + warpgroup);
  }
}

// ---- the kernel

template <class F> NVFP4_INLINE void run_many(const Sm90ManyParams& params, uint8_t* dynamic) {
  const GemmParams& p = params.common.gemm;
  ptx::allow_dependents();
  ptx::wait_for_launches();
  uint8_t* base = dynamic + (-ptx::shared_address(dynamic) & 1023);
  const uint32_t shared = ptx::shared_address(base);
  const typename F::Stages ring(shared, shared + F::BARRIERS_AT);
  if (threadIdx.x == F::CONSUMERS * 128) {
    ptx::tensor_prefetch(params.map);
    ring.init(1, F::WARPS);
  }
  __syncthreads();
  const int warpgroup = __shfl_sync(~0u, threadIdx.x >> 7, 0);
  if (warpgroup == F::CONSUMERS) {
    ptx::lower_registers<F::PRODUCER_REGISTERS>();
    const uint32_t warp = threadIdx.x >> 5 & 3;
    if (warp == 0) produce<F>(params, ring);
    if (warp == 1 && blockIdx.x == 0) GroupTable(p, F::TOKENS, F::FEATURES).report();
  } else {
    ptx::raise_registers<F::CONSUMER_REGISTERS>();
    consume<F>(params, ring, warpgroup, base + F::STAGING_AT + warpgroup * F::Staging::BYTES);
  }
}

}  // namespace nvfp4
