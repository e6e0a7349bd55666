// The Hopper product for 32 tokens a group and more: bf16 or f16 activations [tokens, K] × units of prepared weights →
// epilogue, by wgmma.
//
// A block stays on its processor and works through tiles of 128 to 384 stored weight rows × TOKENS (sm90_schedule.cuh).
// Weights are the register operand: each of two or three consumer warpgroups takes a unit of 128 rows, or a half of one,
// decodes it from shared memory into fragments and multiplies them with the tokens that all share. Fragments of 32 k are
// double-buffered, and words are loaded a half of a unit ahead. A warpgroup still waits while its products read their
// fragments, so what keeps the tensor cores busy is another one's decoding: with few tokens, two others'.
// Of one more warpgroup one warp plans the block's jobs, and one keeps a ring of stages full: 64 or 128 k of the units as
// they lie in memory, and of the tokens by tensor copies, which swizzle them as wgmma wants them and write zeros past K.
// Waiting, releasing and finding addresses cost a warp about 200 cycles a stage: hence 128 k wherever three stages fit.
// Tokens past the group's end are not written; tiles of 128 and 256 load and multiply what they have, rounded up to a width.
// A warpgroup leaves its sums in a box of shared memory, from where two more warps write them, and goes on (sm90_epilogue.cuh):
// nobody waits for the other warpgroups, and the tensor cores for nothing but the leaving.
// A run of the tensor cores ends after run_steps stages (runs.cuh); its totals wait in the box.
#pragma once
#include "runs.cuh"
#include "sm90_epilogue.cuh"
#include "sm90_ring.cuh"
#include "sm90_schedule.cuh"
#include "wgmma.cuh"

namespace nvfp4 {

// UNITS side by side: a consumer warpgroup has one each, or two share one and have a half of it each. A stage is DEPTH of
// them along k.
template <bool F16_, int UNITS_, int CONSUMERS_, int TOKENS_, int DEPTH_, int STAGES_> struct ManyForm {
  static constexpr bool F16 = F16_;  // of activations
  static constexpr int UNITS = UNITS_, CONSUMERS = CONSUMERS_, TOKENS = TOKENS_, DEPTH = DEPTH_, STAGES = STAGES_;
  static constexpr int HALVES = 2 * UNITS / CONSUMERS;  // of a unit that a warpgroup takes
  static constexpr int WARPS = 4 * CONSUMERS, FEATURES = UNIT_ROWS * UNITS, THREADS = 128 * CONSUMERS + 128;
  static constexpr int BOX_BYTES = TOKENS * UNIT_COLS * 2, A_BYTES = DEPTH * BOX_BYTES, STRIP_BYTES = DEPTH * UNIT_BYTES;
  static constexpr int STAGE_BYTES = (A_BYTES + UNITS * STRIP_BYTES + 1023) / 1024 * 1024, STEP_COLS = DEPTH * UNIT_COLS;
  static constexpr int FOURS = HALVES * TOKENS / 8;  // of a thread's sums
  static constexpr bool KEEPS_TOTALS = FOURS <= 8;   // of runs, in registers
  // Wide tiles: a group's rows are shared out over its tiles, and a tile loads and multiplies what it has, rounded up
  // to one of the WIDTHS. (Copies of fewer tokens, more of them a stage, are slower.)
  static constexpr bool EVEN = TOKENS >= 128;
  static constexpr int AHEAD = DEPTH > 1;  // words are loaded before those in front of them are decoded to the end
  static constexpr int WIDTHS = !EVEN ? 1 : TOKENS == 256 ? 3 : 2;
  static NVFP4_INLINE constexpr int width(int i) { return !EVEN ? TOKENS : TOKENS == 256 ? (i == 2 ? 256 : 136 + 64 * i) : 72 + 56 * i; }
  static constexpr int WRITERS = 2;                  // warps that empty the warpgroups' boxes
  // Registers of a thread, which add up to the launch's 168 or 128.
  static constexpr int CONSUMER_REGISTERS = CONSUMERS == 3 ? 152 : 224;
  static constexpr int PRODUCER_REGISTERS = 56;
  using Stages = Ring<STAGES, STAGE_BYTES>;
  using Writers = Crew<TOKENS, HALVES>;
  using Sums = typename Writers::Sums;
  // With tokens in them sums are twice as long: more than these lose by it.
  static constexpr bool TAGGED = UNITS == 1 && FOURS <= 8;
  using Shares = std::conditional_t<TAGGED, TaggedPartials<WARPS, FOURS>, Partials<WARPS, FOURS>>;
  using Box = Ring<1, Writers::BYTES>;
  static constexpr int BARRIERS_AT = Stages::BYTES, JOB_BARRIERS_AT = BARRIERS_AT + Stages::BARRIER_BYTES;
  static constexpr int BOX_BARRIERS_AT = JOB_BARRIERS_AT + Jobs::BARRIER_BYTES, JOBS_AT = BOX_BARRIERS_AT + CONSUMERS * Box::BARRIER_BYTES;
  static constexpr int BOXES_AT = (JOBS_AT + Jobs::BYTES + 127) / 128 * 128;
  static constexpr int SHARED_BYTES = BOXES_AT + CONSUMERS * Writers::BYTES + 1024;  // the ring starts at a multiple of 1024
  // Token tiles that follow one another with the same weights. Few tokens: a group has one or two.
  static constexpr uint32_t SHARE = TOKENS > 64 ? 64 : 1;
  static_assert(SHARED_BYTES <= 232448 && JOBS_AT % 16 == 0 && DEPTH <= 2, "a short step has one unit");
};

// ---- the producer

// One thread: the stages of a job.
template <class F>
NVFP4_INLINE void fill_stages(const Sm90ManyParams& params, const Job& job, const typename F::Stages& ring, typename F::Stages::Cursor& cursor) {
  const GemmParams& p = params.common.gemm;
  const Tile& t = job.tile;
  const uint32_t across = blocks_of(p.weight_rows, UNIT_ROWS), first = t.features * F::UNITS, deep = blocks_of(p.cols, UNIT_COLS);
  const uint32_t units = min(static_cast<uint32_t>(F::UNITS), across - first);
  const int64_t run = static_cast<int64_t>(t.group) * across + first, unit_stride = static_cast<int64_t>(deep) * UNIT_BYTES;
  const uint8_t* weights = p.weights + p.units_at + run * unit_stride + static_cast<int64_t>(job.begin) * F::STRIP_BYTES;
  const bool strided = p.grouping == GROUPS_STRIDED;
  const int row = static_cast<int>(strided ? t.row0 : t.first_row + t.row0);
  const int group = strided && p.a_group_stride ? static_cast<int>(t.group) : 0;
  int width = 0;
#pragma unroll
  for (int i = 0; i < F::WIDTHS - 1; i++) width += t.count > F::width(i);
  const uint8_t* map = params.maps[width];
  const uint32_t box_bytes = F::width(width) * UNIT_COLS * 2;
  // Weights that no other tile wants leave the cache first.
  const uint64_t policy = F::TOKENS <= 64 ? ptx::EVICT_FIRST : ptx::KEEP_NORMAL;
#pragma unroll 1
  for (uint32_t step = job.begin, end = job.end; step < end; step++) {
    const uint32_t here = min(static_cast<uint32_t>(F::DEPTH), deep - step * F::DEPTH);
    ring.wait_free(cursor);
    ring.expect(cursor, here * (box_bytes + units * UNIT_BYTES));
    const uint32_t stage = ring.stage(cursor), full = ring.full(cursor);
    for (uint32_t unit = 0; unit < units; unit++)
      ptx::bulk_load(stage + F::A_BYTES + unit * F::STRIP_BYTES, weights + unit * unit_stride, here * UNIT_BYTES, full, policy);
    for (uint32_t box = 0; box < here; box++)
      ptx::tensor_load(stage + box * F::BOX_BYTES, map, static_cast<int>(step * F::DEPTH + box) * UNIT_COLS, row, group, full, ptx::EVICT_LAST);
    weights += F::STRIP_BYTES;
    cursor.advance();
  }
}

template <class F> NVFP4_INLINE void produce(const Sm90ManyParams& params, const typename F::Stages& ring, JobReaderOf<true> jobs) {
  typename F::Stages::Cursor cursor;
  for (; jobs.more(); jobs.done())
    if ((threadIdx.x & 31) == 0) fill_stages<F>(params, *jobs, ring, cursor);
}

// ---- consumers

// The thread's share of a unit: words of its halves, and the scales of its rows.
template <int HALVES> struct PackedWords;
template <> struct PackedWords<2> {
  uint4 values[2], scales;
  NVFP4_INLINE void load(uint32_t values_at, uint32_t scales_at) {
    values[0] = ptx::load_shared128(values_at);
    values[1] = ptx::load_shared128(values_at + UNIT_HALF);
    scales = ptx::load_shared128(scales_at);
  }
  NVFP4_INLINE uint32_t scales_of(int half, int pair) const { return half ? (pair ? scales.w : scales.z) : (pair ? scales.y : scales.x); }
};
template <> struct PackedWords<1> {
  uint4 values[1];
  uint2 scales;
  NVFP4_INLINE void load(uint32_t values_at, uint32_t scales_at) {
    values[0] = ptx::load_shared128(values_at);
    scales = ptx::load_shared64(scales_at);
  }
  NVFP4_INLINE uint32_t scales_of(int, int pair) const { return pair ? scales.y : scales.x; }
};

// What steers the loop over stages is the same in every lane. REDUX (warp_max) says so to the compiler, which then keeps
// cursor and descriptors in uniform registers: without it every product costs two moves and a wait for them.
template <class F> struct Consumer {
  using Cursor = typename F::Stages::Cursor;
  using Words = PackedWords<F::HALVES>;
  const typename F::Stages& ring;
  uint32_t values_at, scales_at;  // of the thread's words, from the start of a stage
  uint32_t exponent;              // decode_words' constant
  Cursor cursor;                  // of the next stage

  NVFP4_INLINE Consumer(const typename F::Stages& ring, int warpgroup)
      : ring(ring), exponent(ptx::opaque(0x70007000u)) {
    // A warpgroup with half a unit takes both halves of 64 threads' words: 64 neighbouring rows, 16 a warp.
    const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5 & 3, whole = F::HALVES == 2;
    const uint32_t unit = F::A_BYTES + whole * warpgroup * F::STRIP_BYTES, half = whole ? 0 : lane >> 4;
    const uint32_t thread = whole ? warp * 32 + lane : warpgroup * 64 + warp * 16 + (lane & 15);
    values_at = ptx::opaque(unit + half * UNIT_HALF + 16 * thread);
    scales_at = unit + UNIT_SCALES + 16 * (thread >> 2) + 8 * half;
  }

  NVFP4_INLINE void load(Words& words, uint32_t stage, uint32_t unit) const {
    words.load(stage + values_at + unit * UNIT_BYTES, stage + scales_at + unit * UNIT_BYTES);
  }

  // acc += the products of `count` > 0 stages, the last of them short by a unit or not, with as many tokens as it has sums
  // for. Every stage is the producer's again.
  template <int SUMS> NVFP4_INLINE void multiply(float (&acc)[F::HALVES][SUMS], uint32_t count, bool is_short) {
#pragma unroll
    for (int half = 0; half < F::HALVES; half++) ptx::wgmma_pin(acc[half]);
    multiply_stages(acc, count, is_short);
    finish(acc);
  }

  template <int SUMS> NVFP4_INLINE void multiply_stages(float (&acc)[F::HALVES][SUMS], uint32_t count, bool is_short) {
    Words words[2];
    bool behind = false;  // a stage is being multiplied still
    ring.wait_full(cursor);
    load(words[0], ring.stage(cursor), 0);
#pragma unroll 1
    for (uint32_t left = count - is_short; left > 0; left--) {
      multiply_stage<F::DEPTH>(acc, words, behind, left > 1 || is_short);
      behind = true;
    }
    if (F::DEPTH > 1 && is_short) multiply_stage<1>(acc, words, behind, false);
  }

  // One stage of UNITS along k; its first words are there, and those of the next stage, if `more`, will be.
  template <int UNITS, int SUMS> NVFP4_INLINE void multiply_stage(float (&acc)[F::HALVES][SUMS], Words (&words)[2], bool behind, bool more) {
    const uint32_t stage = ring.stage(cursor);
    const uint32_t tokens = ptx::warp_max(ptx::wgmma_descriptor_low(stage));
    Cursor ahead = cursor;
    ahead.advance();
#pragma unroll
    for (int unit = 0; unit < UNITS; unit++) {
      constexpr int TURN = F::AHEAD;
      Words &now = words[unit & TURN], &next = words[~unit & TURN];
      Fragments fragments[2][F::HALVES];
#pragma unroll
      for (int pair = 0; pair < 2; pair++) {
#pragma unroll
        for (int half = 0; half < F::HALVES; half++) {
          const uint4& v = now.values[half];
          fragments[pair][half] = decode_words<F::F16>(pair ? v.z : v.x, pair ? v.w : v.y, now.scales_of(half, pair), exponent);
        }
        ptx::wgmma_fence();
        const uint32_t at = tokens + unit * (F::BOX_BYTES / 16) + 4 * pair;
#pragma unroll
        for (int half = 0; half < F::HALVES; half++) ptx::wgmma<F::F16>(acc[half], fragments[pair][half].even, at, 1);
#pragma unroll
        for (int half = 0; half < F::HALVES; half++) ptx::wgmma<F::F16>(acc[half], fragments[pair][half].odd, at + 2, 1);
        ptx::wgmma_commit();
        if (pair == 1 - TURN) {  // the next words while the tensor cores work
          if (unit + 1 < UNITS) {
            load(next, stage, unit + 1);
          } else if (more) {
            ring.wait_full(ahead);
            load(next, ring.stage(ahead), 0);
          }
        }
        ptx::wgmma_wait<1>();
        if (pair == 0 && unit == 0 && behind) release();  // products of the stage before this one are done
      }
    }
    cursor = ahead;
  }

  // The accumulators are complete and every stage is the producer's again.
  template <int SUMS> NVFP4_INLINE void finish(float (&acc)[F::HALVES][SUMS]) {
    ptx::wgmma_wait<0>();
#pragma unroll
    for (int half = 0; half < F::HALVES; half++) ptx::wgmma_pin(acc[half]);
    release();
  }

  // The stage before the next one goes back to the producer.
  NVFP4_INLINE void release() {
    Cursor behind;
    behind.stage = (cursor.stage == 0 ? F::STAGES : cursor.stage) - 1;
    ring.release(behind);
  }
};

// Totals of the runs of a tile, a thread's own, in the warpgroup's box: 16 bytes hold eight of them.
template <int FOURS> class BoxedTotals {
 public:
  explicit NVFP4_INLINE BoxedTotals(uint8_t* box) : halves(reinterpret_cast<uint4*>(box) + (threadIdx.x & 127)) {}

  // end_run() of every sum.
  NVFP4_INLINE void end(float (&acc)[FOURS][4], bool first) {
    first ? end_as<true>(acc) : end_as<false>(acc);
  }
  // acc becomes the total of all runs.
  NVFP4_INLINE void add_to(float (&acc)[FOURS][4]) const {
#pragma unroll
    for (int i = 0; i < FOURS; i += 2) {
      const uint4 h = halves[i * 64];
      const uint32_t words[4] = {h.x, h.y, h.z, h.w};
#pragma unroll
      for (int j = 0; j < (i + 1 < FOURS ? 4 : 2); j++) add_runs(words[j], acc[i + j / 2][j % 2 * 2], acc[i + j / 2][j % 2 * 2 + 1]);
      if (i % 8 == 6) __syncwarp();  // over which ptxas collects no loads until registers run out
    }
  }

 private:
  uint4* halves;

  template <bool FIRST> NVFP4_INLINE void end_as(float (&acc)[FOURS][4]) {
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < FOURS; i += 2) {
      uint4 h = make_uint4(0, 0, 0, 0);
      if (!FIRST) h = halves[i * 64];
      uint32_t* words[4] = {&h.x, &h.y, &h.z, &h.w};
#pragma unroll
      for (int j = 0; j < (i + 1 < FOURS ? 4 : 2); j++) {
        float &a = acc[i + j / 2][j % 2 * 2], &b = acc[i + j / 2][j % 2 * 2 + 1];
        if (!FIRST) a = __fadd_rn(Bf16::low(*words[j]), a), b = __fadd_rn(Bf16::high(*words[j]), b);
        *words[j] = __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x7632);
        most = ptx::larger_bf16x2(most, *words[j]);
        a = __fadd_rn(a, -upper_half(a)), b = __fadd_rn(b, -upper_half(b));
      }
      halves[i * 64] = h;
      if (i % 8 == 6) __syncwarp();
    }
    // Rare: what an infinity or a NaN leaves is nothing, as end_run() has it.
    if ((most & 0x7F80u) == 0x7F80u || (most >> 16 & 0x7F80u) == 0x7F80u) {
#pragma unroll
      for (int i = 0; i < FOURS; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) acc[i][j] = acc[i][j] == acc[i][j] ? acc[i][j] : 0.f;
    }
  }
};

// The same in registers, where the sums are few.
template <int FOURS> class KeptTotals {
 public:
  explicit NVFP4_INLINE KeptTotals(uint8_t*) {}
  NVFP4_INLINE void end(float (&acc)[FOURS][4], bool first) {
#pragma unroll
    for (int i = 0; i < FOURS; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        if (first) totals[i][j] = 0;
        end_runs(totals[i][j], acc[i][2 * j], acc[i][2 * j + 1]);
      }
  }
  NVFP4_INLINE void add_to(float (&acc)[FOURS][4]) const {
#pragma unroll
    for (int i = 0; i < FOURS; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) add_runs(totals[i][j], acc[i][2 * j], acc[i][2 * j + 1]);
  }

 private:
  uint32_t totals[FOURS][2];
};

// The first of a warpgroup's stored weight rows in a tile; in the last tile it may be past the last one.
template <class F> NVFP4_INLINE uint32_t first_row_of(const Tile& t, uint32_t warpgroup) {
  return t.features * F::FEATURES + warpgroup * F::Writers::WIDTH;
}

// Whether a job takes more than one run: asked anew each time, which costs less than a register.
NVFP4_INLINE bool in_runs(const Sm90ManyParams& params, const Job& job) { return job.end - job.begin > params.run_steps; }
// Of the box; who writes pieces keeps it to himself.
template <class F> NVFP4_INLINE typename F::Box::Cursor box_turn(const Sm90ManyParams& params, const Job& job) {
  return {0, route_of(params.common.gemm) == Route::PIECES ? 0 : job.turn & 1};
}

// One warpgroup's sums of a job, run after run, in tiles of at least the job's tokens: by the widths FIRST … LAST, each with
// loops and accumulators of its own, else the compiler waits for every product of every loop.
template <class F, int FIRST = 0, int LAST = F::WIDTHS - 1>
NVFP4_INLINE void multiply_job(const Sm90ManyParams& params, Consumer<F>& consumer, const JobReader& jobs, typename F::Sums& acc,
                               const typename F::Box& box, uint8_t* memory, uint32_t barrier) {
  if constexpr (FIRST < LAST) {
    constexpr int MIDDLE = (FIRST + LAST) / 2;
    if (ptx::warp_max((*jobs).tile.count) <= F::width(MIDDLE))
      multiply_job<F, FIRST, MIDDLE>(params, consumer, jobs, acc, box, memory, barrier);
    else
      multiply_job<F, MIDDLE + 1, LAST>(params, consumer, jobs, acc, box, memory, barrier);
  } else {
    constexpr int SUMS = F::width(FIRST) / 2, FOURS = F::HALVES * SUMS / 4;
    float sums[F::HALVES][SUMS];
    float(&fours)[FOURS][4] = reinterpret_cast<float(&)[FOURS][4]>(sums);
    std::conditional_t<F::KEEPS_TOTALS, KeptTotals<FOURS>, BoxedTotals<FOURS>> totals(memory);
#pragma unroll
    for (int i = 0; i < FOURS; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) fours[i][j] = 0.f;
    const auto steps = [&] { return (*jobs).end - (*jobs).begin; };
    uint32_t left = ptx::warp_max(steps());
    while (true) {
      const uint32_t count = min(left, params.run_steps);
      const bool is_short = left == count && (*jobs).end * F::DEPTH > blocks_of(params.common.gemm.cols, UNIT_COLS);
      consumer.multiply(sums, count, ptx::warp_max(is_short));
      left -= count;
      if (left == 0) break;
      const bool first = left + count == steps();
      if (!F::KEEPS_TOTALS && first) {
        box.wait_free(box_turn<F>(params, *jobs));
        ptx::meet(barrier, 128);  // nobody reads the box as a buffer any more
      }
      totals.end(fours, first);
    }
    if (in_runs(params, *jobs)) totals.add_to(fours);
#pragma unroll
    for (int half = 0; half < F::HALVES; half++)
#pragma unroll
      for (int i = 0; i < F::TOKENS / 2; i++) acc[half][i] = i < SUMS ? sums[half][i] : 0.f;
  }
}

template <class F>
NVFP4_INLINE void consume(const Sm90ManyParams& params, const typename F::Stages& ring, int warpgroup, JobReader jobs,
                          const typename F::Box& box, uint8_t* memory) {
  const GemmParams& p = params.common.gemm;
  Consumer<F> consumer(ring, warpgroup);
  typename F::Sums acc;
  float(&fours)[F::FOURS][4] = reinterpret_cast<float(&)[F::FOURS][4]>(acc);
  const uint32_t barrier = 1 + warpgroup;
  for (; ptx::warp_max(jobs.more()); jobs.done()) {
    multiply_job<F>(params, consumer, jobs, acc, box, memory, barrier);
    const auto turn = [&] { return box_turn<F>(params, *jobs); };
    const auto boxed = [&] { return !F::KEEPS_TOTALS && in_runs(params, *jobs); };
    const Job& job = *jobs;
    if (!job.whole) {
      typename F::Shares shares(p.partials, reinterpret_cast<uint64_t*>(p.counters), params.common.token, static_cast<int>(threadIdx.x >> 5));
      if (!job.owns) {
        shares.leave(fours);
        if (boxed()) ptx::meet(barrier, 128);  // totals are out of the box for what the next tile leaves there
        continue;
      }
      shares.collect(job.first_block, fours);
    }
    if (!boxed()) box.wait_free(turn());
    else ptx::meet(barrier, 128);  // everybody has taken its totals out
    const uint32_t first_row = first_row_of<F>(job.tile, warpgroup);
    if (write_sums<typename F::Writers>(p, job.tile, first_row, acc, job.g_b, memory, barrier)) {
      box.arrive(turn());
      const int own = route_of(p) == Route::GATES ? own_gates<typename F::Writers>(p, job.tile.count, jobs.is_last()) : 0;
      if (own > 0) {
        box.wait_full(turn());
        gate_rows<typename F::Writers>(p, job.tile, first_row, memory, 0, own, threadIdx.x >> 5 & 3, 4);
        ptx::meet(barrier, 128);  // before anybody fills the box again
      }
    }
  }
}

// ---- writers

template <class F, class BoxOf>
NVFP4_INLINE void write_boxes(const Sm90ManyParams& params, int writer, JobReader jobs, BoxOf box_of, const uint8_t* boxes) {
  using C = typename F::Writers;
  const GemmParams& p = params.common.gemm;
  const Route route = route_of(p);
  for (; jobs.more(); jobs.done()) {
    const Job& job = *jobs;
    if (route == Route::PIECES || !job.owns) continue;
    const bool last = route == Route::GATES && jobs.is_last();
#pragma unroll 1
    for (int warpgroup = 0; warpgroup < F::CONSUMERS; warpgroup++) {
      const uint32_t first_row = first_row_of<F>(job.tile, warpgroup);
      const typename F::Box box = box_of(warpgroup);
      const typename F::Box::Cursor c{0, job.turn & 1};
      const uint8_t* memory = boxes + warpgroup * C::BYTES;
      box.wait_full(c);
      if (route == Route::ROWS)
        send_rows<C>(p, job.tile, first_row, memory, writer, F::WRITERS);
      else
        gate_rows<C>(p, job.tile, first_row, memory, own_gates<C>(p, job.tile.count, last), job.tile.count, writer, F::WRITERS);
      box.release(c);
    }
  }
}

// ---- the kernel

template <class F> NVFP4_INLINE void run_many(const Sm90ManyParams& params, uint8_t* dynamic) {
  ptx::wait_for_launches();
  ptx::allow_dependents();  // not earlier: who starts then may rely on what was there before the launch in front of this one
  uint8_t* base = dynamic + (-ptx::shared_address(dynamic) & 1023);
  const uint32_t shared = ptx::shared_address(base);
  const typename F::Stages ring(shared, shared + F::BARRIERS_AT);
  const Jobs jobs(0, shared + F::JOB_BARRIERS_AT);
  Job* slots = reinterpret_cast<Job*>(base + F::JOBS_AT);
  const auto box_of = [&](int warpgroup) {
    return typename F::Box(shared + F::BOXES_AT + warpgroup * F::Writers::BYTES, shared + F::BOX_BARRIERS_AT + warpgroup * F::Box::BARRIER_BYTES);
  };
  if (threadIdx.x == F::CONSUMERS * 128) {
#pragma unroll
    for (int i = 0; i < F::WIDTHS; i++) ptx::tensor_prefetch(params.maps[i]);
    ring.init(1, F::WARPS);
    jobs.init(1, F::WARPS + 1 + F::WRITERS);
    for (int i = 0; i < F::CONSUMERS; i++) box_of(i).init(128, F::WRITERS);
  }
  __syncthreads();
  const int warpgroup = static_cast<int>(ptx::warp_max(threadIdx.x >> 7));
  uint8_t* boxes = base + F::BOXES_AT;
  if (warpgroup == F::CONSUMERS) {
    ptx::lower_registers<F::PRODUCER_REGISTERS>();
    const int warp = static_cast<int>(ptx::warp_max(threadIdx.x >> 5 & 3));
    if (warp == 0) {
      produce<F>(params, ring, JobReaderOf<true>(jobs, slots));
    } else if (warp == 1) {
      plan_jobs<F::SHARE, true, F::EVEN>(params.common, F::TOKENS, F::FEATURES, F::STEP_COLS, jobs, slots);
    } else {
      write_boxes<F>(params, warp - 2, JobReader(jobs, slots), box_of, boxes);
    }
  } else {
    ptx::raise_registers<F::CONSUMER_REGISTERS>();
    // An address that the compiler would keep in a uniform register, and move out of it at every stage.
    const uint32_t at = F::CONSUMERS == 2 && F::DEPTH == 2 ? ptx::opaque(shared) : shared;
    consume<F>(params, typename F::Stages(at, at + F::BARRIERS_AT), warpgroup, JobReader(jobs, slots), box_of(warpgroup), boxes + warpgroup * F::Writers::BYTES);
  }
}

}  // namespace nvfp4
