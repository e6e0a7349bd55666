// The grouped product for few tokens a group on sm_90a: a stream of weights through mma.sync, as fast as memory gives them.
//
// A tile is TOKENS rows of one group × UNITS · 128 stored weight rows. A stage of the ring is DEPTH · 64 k of it: the
// units' bytes as they lie in memory, one bulk copy a row of units, and the activations in rows of A_PITCH bytes, whose
// padding keeps ldmatrix off one bank. Blocks share the work by stream-K (sm90_schedule.cuh).
// Roles, a warp or more each, which meet only at the barriers of the two rings, jobs and stages:
//   planner      finds the block's segments and their tiles
//   weights      copies units; starts before the launch in front is over where the caller promised that it may
//   activations  one copies rows, or all load, decode and store them: NVFP4 codes, and rows that no bulk copy can address
//   consumers    warp w of a unit owns 32 of its rows × TOKENS: decodes weights in registers, multiplies, joins cut tiles,
//                writes its outputs straight from registers
// A run of the tensor cores (runs.cuh) ends after RUN k; registers hold the totals.
// The judge is the portable kernel, gemm.cuh.
#pragma once
#include "gemm.cuh"
#include "sm90_ring.cuh"
#include "sm90_schedule.cuh"
#include "swiglu_bf16.cuh"

namespace nvfp4 {

template <Operand OPERAND_, int TOKENS_, int UNITS_, int DEPTH_, int STAGES_> struct FewShape {
  static constexpr Operand OPERAND = OPERAND_;
  static constexpr bool F16 = OPERAND == Operand::F16;
  static constexpr int TOKENS = TOKENS_, UNITS = UNITS_, DEPTH = DEPTH_;
  static constexpr int ROWS = UNIT_ROWS * UNITS, STEP_COLS = UNIT_COLS * DEPTH;
  static constexpr int WARPS = 4 * UNITS, PLANNER = WARPS, WEIGHTS = WARPS + 1, ACTIVATIONS = WARPS + 2, CARRIERS = 2;
  static constexpr int THREADS = 32 * (ACTIVATIONS + CARRIERS);
  static constexpr int STRIP_BYTES = DEPTH * UNIT_BYTES, A_PITCH = 2 * STEP_COLS + 16, A_AT = UNITS * STRIP_BYTES;
  static constexpr int FOURS = TOKENS / 4;
  using Stages = Ring<STAGES_, A_AT + TOKENS * A_PITCH>;
  using Sums = TaggedPartials<WARPS, FOURS>;
  // A warp's outputs as bfloat16 on their way to codes: 8 tokens × 32 columns.
  static constexpr int CODES_PITCH = 40, CODES_BYTES = 8 * CODES_PITCH * 2;
  // Shared memory: the ring's stages, slots of jobs, codes of the warps, barriers.
  static constexpr int JOBS_AT = Stages::BYTES, CODES_AT = JOBS_AT + Jobs::BYTES, BARRIERS_AT = CODES_AT + WARPS * CODES_BYTES;
  static constexpr int SHARED_BYTES = BARRIERS_AT + Stages::BARRIER_BYTES + Jobs::BARRIER_BYTES;
  static constexpr uint32_t RUN = 2048 / STEP_COLS;  // k steps that the tensor cores add up by themselves
  static constexpr uint32_t SHARE = 16;
  static constexpr uint32_t IDLE = 2;  // whole tiles need no sums, and memory is busy without a few blocks
};

// Rows of units of the tile that exist.
template <class S> NVFP4_INLINE uint32_t strips_of(const GemmParams& p, const Tile& t) {
  return min(static_cast<uint32_t>(S::UNITS), blocks_of(p.weight_rows, UNIT_ROWS) - t.features * S::UNITS);
}

// ---- weights

template <class S> NVFP4_INLINE void stream_weights(const GemmParams& p, const typename S::Stages& ring, JobReader jobs) {
  const uint32_t lane = threadIdx.x & 31, units = blocks_of(p.cols, UNIT_COLS);
  typename S::Stages::Cursor c;
  for (; jobs.more(); jobs.done()) {
    const Job& s = *jobs;
    const Tile& t = s.tile;
    const uint32_t strips = strips_of<S>(p, t);
    const int64_t strip = static_cast<int64_t>(t.group) * blocks_of(p.weight_rows, UNIT_ROWS) + t.features * S::UNITS + lane;
    const uint8_t* from = p.weights + p.units_at + (strip * units + s.begin * S::DEPTH) * UNIT_BYTES;
    // read once by this launch, unless several token tiles share them
    const uint64_t policy = t.rows <= S::TOKENS ? ptx::EVICT_FIRST : ptx::KEEP_NORMAL;
#pragma unroll 1
    for (uint32_t step = s.begin, end = s.end; step < end; step++, c.advance(), from += S::STRIP_BYTES) {
      const uint32_t bytes = min(static_cast<uint32_t>(S::DEPTH), units - step * S::DEPTH) * UNIT_BYTES;
      ring.wait_free(c);
      if (lane == 0) ring.expect(c, strips * bytes);
      __syncwarp();
      if (lane < strips) ptx::bulk_load(ring.stage(c) + lane * S::STRIP_BYTES, from, bytes, ring.full(c), policy);
    }
  }
}

// ---- activations

// Rows of aligned values, 16 bytes a copy: for so few bytes a row bulk copies are slower. Values past K are zeros.
template <class S>
NVFP4_INLINE void copy_rows(const GemmParams& p, const Job& s, const typename S::Stages& ring, typename S::Stages::Cursor& c) {
  constexpr int ACROSS = S::STEP_COLS / 8, DOWN = 32 / ACROSS, EACH = S::TOKENS / DOWN;
  const int lane = threadIdx.x & 31, row = lane / ACROSS, piece = lane % ACROSS, rows = min(S::TOKENS, s.tile.rows - s.tile.row0) - row;
  const int64_t down = 2 * DOWN * p.a_row_stride;
  const uint8_t* from = p.a + 2 * (a_start(p, s.tile) + row * p.a_row_stride + static_cast<int64_t>(s.begin) * S::STEP_COLS + piece * 8);
  int left = static_cast<int>(p.cols - s.begin * S::STEP_COLS) - piece * 8;
#pragma unroll 1
  for (uint32_t steps = s.end - s.begin; steps > 0; steps--, c.advance(), from += 2 * S::STEP_COLS, left -= S::STEP_COLS) {
    const uint32_t to = ring.stage(c) + S::A_AT + row * S::A_PITCH + piece * 16;
    ring.wait_free(c);
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (i * DOWN < rows) ptx::copy_async16(to + i * DOWN * S::A_PITCH, from + i * down, left > 0 ? 16 : 0);
    ring.arrive_copies(c);
  }
}

// Rows through registers: lanes take (row, 16 k), which is a block of codes. The CARRIERS take the stages in turn, each
// with the loads of its next stage under way, or of its next two (Source::AHEAD). `Source` loads a piece of 16 k and stores it as values; past K it
// gives zeros.
template <class S, class Source>
NVFP4_INLINE void carry_rows(Source source, const Job& s, const typename S::Stages& ring, typename S::Stages::Cursor& c, uint32_t& turn) {
  constexpr int ACROSS = S::STEP_COLS / 16, DOWN = 32 / ACROSS, EACH = (S::TOKENS + DOWN - 1) / DOWN;
  using Pieces = typename Source::Piece[EACH];
  const int lane = threadIdx.x & 31, row = lane / ACROSS, piece = lane % ACROSS, rows = min(S::TOKENS, s.tile.rows - s.tile.row0);
  const uint32_t begin = s.begin, end = s.end;
  const auto load = [&](Pieces& to, uint32_t step) {
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (row + i * DOWN < rows && step < end) to[i] = source.load(row + i * DOWN, step * ACROSS + piece);
  };
  const auto fill = [&](Pieces& from, uint32_t step) {
    const uint32_t to = ring.stage(c) + S::A_AT + row * S::A_PITCH + piece * 32;
    ring.wait_free(c);
#pragma unroll
    for (int i = 0; i < EACH; i++)
      if (row + i * DOWN < rows) Source::store(to + i * DOWN * S::A_PITCH, from[i]);
    ring.arrive(c);
    load(from, step + Source::AHEAD * S::CARRIERS);
  };
  Pieces first, second;
  load(first, begin + turn);
  if (Source::AHEAD == 2) load(second, begin + turn + S::CARRIERS);
  bool odd = false;
#pragma unroll 1
  for (uint32_t step = begin; step < end; step++, c.advance()) {
    if (turn == 0) {
      if (Source::AHEAD == 2 && odd) fill(second, step);
      else fill(first, step);
      odd = !odd;
    }
    turn = turn == 0 ? S::CARRIERS - 1 : turn - 1;
  }
}

// Values in rows of any stride.
struct LooseValues {
  static constexpr uint32_t AHEAD = 1;
  const uint16_t* base;
  int64_t row_stride;
  uint32_t pieces;
  struct Piece {
    uint32_t word[8];
  };
  NVFP4_INLINE LooseValues(const GemmParams& p, const Tile& t)
      : base(reinterpret_cast<const uint16_t*>(p.a) + a_start(p, t)), row_stride(p.a_row_stride), pieces(p.cols / 16) {}
  NVFP4_INLINE Piece load(int row, uint32_t piece) const {
    const uint16_t* from = base + row * row_stride + piece * 16;
    Piece x;
#pragma unroll
    for (int j = 0; j < 8; j++) x.word[j] = piece < pieces ? from[2 * j] | static_cast<uint32_t>(from[2 * j + 1]) << 16 : 0;
    return x;
  }
  static NVFP4_INLINE void store(uint32_t to, const Piece& x) {
    ptx::store_shared128(to, make_uint4(x.word[0], x.word[1], x.word[2], x.word[3]));
    ptx::store_shared128(to + 16, make_uint4(x.word[4], x.word[5], x.word[6], x.word[7]));
  }
};

// `AHEAD_`: as registers allow.
template <uint32_t AHEAD_> struct CodeBlocks {
  static constexpr uint32_t AHEAD = AHEAD_;
  const GemmParams& p;
  const uint8_t* base;
  int64_t scale_row;
  uint32_t blocks;
  struct Piece {
    uint2 codes;
    uint32_t scale;
  };
  NVFP4_INLINE CodeBlocks(const GemmParams& p, const Tile& t)
      : p(p), base(p.a + a_start(p, t)), scale_row((shares_rows(p) ? 0 : p.a_layout == LINEAR ? t.first_row : t.a_scale_row) + t.row0),
        blocks(p.cols / 16) {}
  NVFP4_INLINE Piece load(int row, uint32_t block) const {
    if (block >= blocks) return {make_uint2(0, 0), 0};
    const uint8_t* from = base + row * p.a_row_stride + block * 8;
    uint2 codes = make_uint2(0, 0);
    if (p.a_vectors) {
      codes = *reinterpret_cast<const uint2*>(from);
    } else {
#pragma unroll 1
      for (int j = 0; j < 4; j++) {  // rare, and not worth the registers
        codes.x |= static_cast<uint32_t>(from[j]) << 8 * j;
        codes.y |= static_cast<uint32_t>(from[j + 4]) << 8 * j;
      }
    }
    const int64_t at = p.a_layout == LINEAR ? (scale_row + row) * p.a_scales_row_stride + block
                                            : static_cast<int64_t>(tiled_offset(p.a_layout, scale_row + row, block, blocks_of(blocks, 4)));
    return {codes, p.a_scales[at]};
  }
  static NVFP4_INLINE void store(uint32_t to, const Piece& x) {
    const uint32_t scale = widen_scale(x.scale);
    ptx::store_shared128(to, decode_codes(x.codes.x, scale));
    ptx::store_shared128(to + 16, decode_codes(x.codes.y, scale));
  }
};

template <class S> NVFP4_INLINE void stream_activations(const GemmParams& p, const typename S::Stages& ring, JobReader jobs) {
  ptx::wait_for_launches();
  typename S::Stages::Cursor c;
  uint32_t turn = (threadIdx.x >> 5) - S::ACTIVATIONS;  // stages until this warp's next
  const bool copies = S::OPERAND != Operand::CODES && p.a_vectors;
  for (; jobs.more(); jobs.done()) {
    const Job& s = *jobs;
    if (copies && turn != 0) continue;
    if constexpr (S::OPERAND == Operand::CODES)
      carry_rows<S>(CodeBlocks<S::TOKENS == 8 ? 2 : 1>(p, s.tile), s, ring, c, turn);
    else if (copies)
      copy_rows<S>(p, s, ring, c);
    else
      carry_rows<S>(LooseValues(p, s.tile), s, ring, c, turn);
  }
}

// ---- consumers

// Where a thread finds its operands in a stage.
template <class S> struct Operands {
  uint32_t values, scales, a;
  NVFP4_INLINE Operands() {
    const uint32_t lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3, strip = (threadIdx.x >> 7) * S::STRIP_BYTES;
    values = strip + (threadIdx.x & 127) * 16;
    scales = strip + UNIT_SCALES + (warp * 8 + (lane >> 2)) * 16;
    a = S::A_AT + (lane & 7) * S::A_PITCH + (lane >> 3) * 16;
  }
};

template <class S>
NVFP4_INLINE void multiply_unit(float (&acc)[S::FOURS][4], uint32_t values, uint32_t scales, uint32_t a, uint32_t exponent) {
  constexpr int ACROSS = S::TOKENS / 8;
  const uint4 v0 = ptx::load_shared128(values), v1 = ptx::load_shared128(values + UNIT_HALF), s = ptx::load_shared128(scales);
  uint32_t b[2][ACROSS][4];
#pragma unroll
  for (int n = 0; n < ACROSS; n++) {
    ptx::load_matrices(b[0][n], a + n * 8 * S::A_PITCH);
    ptx::load_matrices(b[1][n], a + n * 8 * S::A_PITCH + 64);
  }
#pragma unroll
  for (int pair = 0; pair < 2; pair++) {
    const Fragments f0 = decode_words<S::F16>(pair ? v0.z : v0.x, pair ? v0.w : v0.y, pair ? s.y : s.x, exponent);
    const Fragments f1 = decode_words<S::F16>(pair ? v1.z : v1.x, pair ? v1.w : v1.y, pair ? s.w : s.z, exponent);
#pragma unroll
    for (int n = 0; n < ACROSS; n++) {
      ptx::mma16816<S::F16>(acc[n], f0.even, b[pair][n][0], b[pair][n][1]);
      ptx::mma16816<S::F16>(acc[ACROSS + n], f1.even, b[pair][n][0], b[pair][n][1]);
      ptx::mma16816<S::F16>(acc[n], f0.odd, b[pair][n][2], b[pair][n][3]);
      ptx::mma16816<S::F16>(acc[ACROSS + n], f1.odd, b[pair][n][2], b[pair][n][3]);
    }
  }
}

// The first DEPTH units of the next stage.
template <class S, int DEPTH>
NVFP4_INLINE void multiply_stage(float (&acc)[S::FOURS][4], const Operands<S>& at, uint32_t exponent, const typename S::Stages& ring,
                                 typename S::Stages::Cursor& c) {
  ring.wait_full(c);
  const uint32_t stage = ring.stage(c);
#pragma unroll
  for (int u = 0; u < DEPTH; u++)
    multiply_unit<S>(acc, stage + at.values + u * UNIT_BYTES, stage + at.scales + u * UNIT_BYTES, stage + at.a + u * 2 * UNIT_COLS, exponent);
  ring.release(c);
  c.advance();
}

// By a warp whose unit is not there: the stages of a segment go past.
template <class S>
NVFP4_INLINE void skip_segment(const Job& s, const typename S::Stages& ring, typename S::Stages::Cursor& c) {
#pragma unroll 1
  for (uint32_t left = s.end - s.begin; left > 0; left--) {
    ring.wait_full(c);
    ring.release(c);
    c.advance();
  }
}

template <class S> NVFP4_INLINE void clear(float (&acc)[S::FOURS][4]) {
#pragma unroll
  for (int i = 0; i < S::FOURS; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) acc[i][j] = 0.f;
}

// The sums of a segment. Only the last step of a tile may have units short of DEPTH; it belongs to the run in front of it,
// as in the other kernels, whose bits a batch-invariant product shares.
template <class S>
NVFP4_INLINE void multiply_segment(float (&acc)[S::FOURS][4], const Job& s, uint32_t units, const Operands<S>& at,
                                   const typename S::Stages& ring, typename S::Stages::Cursor& c) {
  static_assert(S::DEPTH <= 2, "a short step has one unit");
  const uint32_t exponent = ptx::opaque(0x70007000u), end = s.end, full = min(end, units / S::DEPTH);
  uint32_t totals[S::FOURS][2];
#pragma unroll
  for (int i = 0; i < S::FOURS; i++) totals[i][0] = totals[i][1] = 0;
  clear<S>(acc);
#pragma unroll 1
  for (uint32_t step = s.begin; step < end; step += S::RUN) {
    const uint32_t stop = min(end, step + S::RUN);
#pragma unroll 1
    for (uint32_t left = min(full, stop) - step; left > 0; left--) multiply_stage<S, S::DEPTH>(acc, at, exponent, ring, c);
    if (full < stop) multiply_stage<S, 1>(acc, at, exponent, ring, c);
    if (stop == end) break;
#pragma unroll
    for (int i = 0; i < S::FOURS; i++) end_runs(totals[i][0], acc[i][0], acc[i][1]), end_runs(totals[i][1], acc[i][2], acc[i][3]);
  }
#pragma unroll
  for (int i = 0; i < S::FOURS; i++) add_runs(totals[i][0], acc[i][0], acc[i][1]), add_runs(totals[i][1], acc[i][2], acc[i][3]);
}

// The warp's 32 stored rows × TOKENS: a thread has four neighbouring rows of 2 · (lane % 4) + {0, 1} of every 8 tokens.
template <class S>
NVFP4_INLINE void write_warp(const GemmParams& p, const Tile& t, float (&acc)[S::FOURS][4], float g_b, uint16_t* staged) {
  constexpr int ACROSS = S::TOKENS / 8;
  const bool gated = p.activation == ACTIVATION_SWIGLU, codes = p.out_dtype == DTYPE_CODES;
  const int lane = threadIdx.x & 31, width = gated ? 16 : 32;
  const uint32_t first = t.features * S::ROWS + (threadIdx.x >> 5) * 32, stored = first + 4 * (lane >> 2);
  const uint32_t first_column = (gated ? first / 2 : first) / 16;
  const Outputs o = outputs_of(p, stored);
  const int here = min(t.rows - t.row0, S::TOKENS);
  const int64_t base = out_start(p, t);
  float bias[4] = {0.f, 0.f, 0.f, 0.f};
  // The test is worth it, since a tile's end is not hidden; with 16 tokens registers run out by it.
  if (ACROSS == 2 || p.bias) load_bias(p, t.group, stored, bias);
  // Eight gate/up pairs a thread go together by the short form; codes leave no registers for it.
  constexpr bool TOGETHER = ACROSS == 2 && S::OPERAND != Operand::CODES;
  const bool together = TOGETHER && gated && p.out_dtype != DTYPE_F16;
  if (together) {
    HalfBlock gates, ups;
#pragma unroll
    for (int n = 0; n < ACROSS; n++)
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const int token = n * 8 + 2 * (lane & 3) + c;
        float v[4] = {acc[n][c], acc[n][2 + c], acc[ACROSS + n][c], acc[ACROSS + n][2 + c]};
        scale_sums(p, v, DECODE_UNDO, token < here ? a_decode_scale(p, t, t.row0 + token) : 1.f, g_b, bias);
        gates.w[(2 * n + c) % 4] = ptx::pack_bf16(v[0], v[2]), ups.w[(2 * n + c) % 4] = ptx::pack_bf16(v[1], v[3]);
      }
    swiglu_half(gates, ups, SwiGluBf16(SwiGlu{p.limit, p.alpha, p.beta}), true);
#pragma unroll
    for (int n = 0; n < ACROSS; n++)
#pragma unroll
      for (int c = 0; c < 2; c++) acc[n][c] = gates.value(2 * (2 * n + c) % 8), acc[n][2 + c] = gates.value((2 * (2 * n + c) + 1) % 8);
  }
#pragma unroll
  for (int n = 0; n < ACROSS; n++) {
#pragma unroll
    for (int c = 0; c < 2; c++) {
      const int token = n * 8 + 2 * (lane & 3) + c, row = t.row0 + token;
      if (token < here && o.first < o.cols) {
        float v[4] = {acc[n][c], acc[n][2 + c], acc[ACROSS + n][c], acc[ACROSS + n][2 + c]};
        if (!together) {
          scale_sums(p, v, DECODE_UNDO, a_decode_scale(p, t, row), g_b, bias);
          activate(p, v);
        }
        if (codes) {
          uint16_t* to = staged + token % 8 * S::CODES_PITCH + (gated ? 2 : 4) * (lane >> 2);
#pragma unroll
          for (int i = 0; i < 4; i++)
            if (i < o.count) to[i] = static_cast<uint16_t>(half_bits(DTYPE_BF16, v[i]));
        } else {
          store_values(p, o, base + row * p.out_row_stride, v);
        }
      }
    }
    if (codes) {
      // the last tokens of a group take the zero padding of tiled scales behind them along
      const bool last = n * 8 + 8 >= here && t.row0 + S::TOKENS >= t.rows;
      const int end = last ? static_cast<int>(rounded(t.rows, tile_rows(p.out_layout))) - t.row0 : min(here, n * 8 + 8);
      __syncwarp();
      if (n * 8 < here)
        quantize_rows<32>(p, t, staged, S::CODES_PITCH, n * 8, end, o.cols, first_column, width);
      __syncwarp();
    }
  }
}

template <class S>
NVFP4_INLINE void consume(const Sm90Params& params, const typename S::Stages& ring, JobReader jobs, uint16_t* staged) {
  const GemmParams& p = params.gemm;
  ptx::wait_for_launches();
  ptx::allow_dependents();  // not earlier: who then starts may rely on what was there before the launch in front of this one
  const int warp = threadIdx.x >> 5;
  typename S::Sums sums(p.partials, nullptr, params.token, warp);
  const Operands<S> at;
  const uint32_t units = blocks_of(p.cols, UNIT_COLS);
  typename S::Stages::Cursor c;
  for (; jobs.more(); jobs.done()) {
    const Job& s = *jobs;
    const bool here = static_cast<uint32_t>(warp / 4) < strips_of<S>(p, s.tile);
    const float g_b = reinterpret_cast<const float*>(p.weights)[s.tile.group];
    if (!here) {
      skip_segment<S>(s, ring, c);
      continue;
    }
    float acc[S::FOURS][4];
    multiply_segment<S>(acc, s, units, at, ring, c);
    if (!s.owns) {
      sums.leave(acc);
    } else {
      if (!s.whole) sums.collect(s.first_block, acc);
      write_warp<S>(p, s.tile, acc, g_b, staged);
    }
  }
}

// ---- the kernel

// By the consumers. Rows past those of a tile are never stored, but multiplied; as zeros they cost the tensor cores less power.
template <class S> NVFP4_INLINE void clear_rows(uint32_t shared) {
  constexpr int PIECES = S::TOKENS * S::A_PITCH / 16;
  for (int i = threadIdx.x; i < S::Stages::STAGES * PIECES; i += 32 * S::WARPS)
    ptx::store_shared128(shared + i / PIECES * S::Stages::STAGE_BYTES + S::A_AT + i % PIECES * 16, make_uint4(0, 0, 0, 0));
}

template <class S> NVFP4_INLINE void run_few(const Sm90Params& p, uint8_t* dynamic) {
  const int warp = threadIdx.x >> 5;
  const uint32_t shared = ptx::shared_address(dynamic);
  const typename S::Stages ring(shared, shared + S::BARRIERS_AT);
  const Jobs jobs(shared + S::JOBS_AT, shared + S::BARRIERS_AT + S::Stages::BARRIER_BYTES);
  Job* slots = reinterpret_cast<Job*>(dynamic + S::JOBS_AT);
  if (threadIdx.x == 0) {
    ring.init(1 + 32, S::WARPS);  // the weights' expect() and each lane of the warp that brings the activations
    jobs.init(1, S::WARPS + 1 + S::CARRIERS);
  }
  GroupTable groups(p.gemm, S::TOKENS, S::ROWS);
  if (warp == S::PLANNER) {
    if (!p.dependent) ptx::wait_for_launches();
    groups.count();  // takes longer than all that the others do before they meet
  }
  if (warp < S::WARPS) clear_rows<S>(shared);
  __syncthreads();
  if (warp < S::WARPS) {
    uint16_t* staged = reinterpret_cast<uint16_t*>(dynamic + S::CODES_AT + warp * S::CODES_BYTES);
    consume<S>(p, ring, JobReader(jobs, slots), staged);
    return;
  }
  if (warp == S::PLANNER) plan_jobs<S::SHARE, false, false, S::IDLE>(p, groups, S::STEP_COLS, jobs, slots);
  if (!p.dependent) ptx::wait_for_launches();
  if (warp == S::WEIGHTS) stream_weights<S>(p.gemm, ring, JobReader(jobs, slots));
  if (warp >= S::ACTIVATIONS) stream_activations<S>(p.gemm, ring, JobReader(jobs, slots));
}

}  // namespace nvfp4
