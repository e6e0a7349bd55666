// The portable grouped product: activations [tokens, K] × units of prepared weights → epilogue, by mma.sync from sm_80 on.
//
// A block owns NT tokens of one group × UNITS · 128 stored weight rows, and the k of its split. Weights are the m side of
// the instruction, so that few tokens waste little of it: warp w of a unit holds 32 rows × NT tokens of accumulators.
// A stage of the pipeline is 64 k: the units' bytes as they lie in memory, and NT rows of activations of 128 bytes, their
// 16-byte chunks exchanged by row & 7 so that ldmatrix meets no bank twice. Weights are decoded in registers, exactly.
// Activations that are codes are decoded to bfloat16, exactly, on their way into shared memory.
// Runs of the tensor cores (runs.cuh) leave their totals in shared memory. k runs upwards in one order whatever the tile, so
// without splits a row's bits depend on nothing but its operands.
// Splits of a tile leave their sums in the workspace; whichever block comes last adds them in order of k.
// Twin of src/backend/cpu/gemm.
#pragma once
#include <type_traits>
#include "epilogue.cuh"
#include "params_gemm.cuh"
#include "ptx_gemm.cuh"
#include "runs.cuh"
#include "tiles.cuh"
#include "unit.cuh"
#include "values.cuh"

namespace nvfp4 {

enum class Operand { BF16, F16, CODES };
template <class S> struct Values;
template <class S> struct Codes;

template <Operand OPERAND_, int TOKENS_, int UNITS_, int STAGES_, int BLOCKS_> struct Shape {
  static constexpr Operand OPERAND = OPERAND_;
  static constexpr bool F16 = OPERAND == Operand::F16;
  static constexpr int TOKENS = TOKENS_, UNITS = UNITS_, STAGES = STAGES_, BLOCKS = BLOCKS_;
  static constexpr int THREADS = 128 * UNITS, ROWS = UNIT_ROWS * UNITS;
  static constexpr int A_BYTES = TOKENS * UNIT_COLS * 2, STAGE_BYTES = A_BYTES + UNITS * UNIT_BYTES;
  static constexpr bool SPLITS = TOKENS <= 64;
  static constexpr bool TOTALS = TOKENS <= 64 || OPERAND != Operand::CODES;  // no registers left there: RUN_STEPS at most
  static constexpr bool WIDE_ROWS = TOKENS > 64;  // rows of a are known to be aligned
  using Activations = std::conditional_t<OPERAND == Operand::CODES, Codes<Shape>, Values<Shape>>;
};

template <class S> using Accumulators = float[2][S::TOKENS / 8][4];

// Stages of 64 k that the tensor cores add up by themselves. Sums of one sign over 8192 k were 1.6 to 2.4 times outside
// of the bound on an H200, in proportion to k; plan::gemm_cuda gives longer splits room for totals.
constexpr int RUN_STEPS = 32;

NVFP4_INLINE uint32_t chunk_address(uint32_t stage, int row, int chunk) {
  return stage + row * 128 + ((chunk ^ (row & 7)) << 4);
}

// ---- weights: global → shared, byte for byte

struct Weights {
  const uint8_t* from;  // the thread's 16 bytes of the next unit
  bool here;            // the thread's unit exists
};

template <class S> NVFP4_INLINE Weights weights_of(const GemmParams& p, const Tile& t, int step) {
  const int unit = threadIdx.x >> 7;
  const uint32_t units = blocks_of(p.weight_rows, UNIT_ROWS), mine = t.features * S::UNITS + unit;
  const int64_t run = static_cast<int64_t>(t.group) * units + mine;
  const int64_t at = (run * blocks_of(p.cols, UNIT_COLS) + step) * UNIT_BYTES + 16 * (threadIdx.x & 127);
  return {p.weights + p.units_at + at, mine < units};
}

template <class S> NVFP4_INLINE void load_weights(Weights& w, uint32_t stage) {
  const int unit = threadIdx.x >> 7, t = threadIdx.x & 127;
  if (w.here) {
    const uint32_t at = stage + S::A_BYTES + unit * UNIT_BYTES + 16 * t;
    ptx::copy_async16(at, w.from, 16);
    ptx::copy_async16(at + UNIT_HALF, w.from + UNIT_HALF, 16);
    if (t < 32) ptx::copy_async16(at + UNIT_SCALES, w.from + UNIT_SCALES, 16);
  }
  w.from += UNIT_BYTES;
}

// ---- activations: the thread's share of every stage, and how it gets there

NVFP4_INLINE bool shares_rows(const GemmParams& p) { return p.grouping == GROUPS_STRIDED && p.a_group_stride == 0; }

// Elements (bytes of codes) before the first row of the tile.
NVFP4_INLINE int64_t a_start(const GemmParams& p, const Tile& t) {
  return (p.grouping == GROUPS_STRIDED ? t.group * p.a_group_stride : t.first_row * p.a_row_stride) + t.row0 * p.a_row_stride;
}

// Values: 16-byte chunks, one column of them a thread. Rows past the group and k past K are zeros.
template <class S> struct Values {
  static constexpr int STEP = S::THREADS / 8, EACH = (S::TOKENS + STEP - 1) / STEP;
  const uint8_t* from;
  int rows, k;  // left for this thread

  NVFP4_INLINE Values(const GemmParams& p, const Tile& t, int step) {
    const int row = threadIdx.x >> 3;
    k = static_cast<int>(p.cols) - step * UNIT_COLS - 8 * static_cast<int>(threadIdx.x & 7);
    rows = row < S::TOKENS ? t.rows - t.row0 - row : 0;
    from = p.a + 2 * (a_start(p, t) + row * p.a_row_stride + step * UNIT_COLS + 8 * (threadIdx.x & 7));
  }
  NVFP4_INLINE void load(const GemmParams& p, uint32_t stage) {
    const int row = threadIdx.x >> 3;
    const uint32_t at = chunk_address(stage, row, threadIdx.x & 7);
    if (S::TOKENS >= STEP || row < S::TOKENS) {
      if (S::WIDE_ROWS || p.a_vectors) {
#pragma unroll
        for (int i = 0; i < EACH; i++)
          ptx::copy_async16(at + i * STEP * 128, from + i * STEP * (2 * p.a_row_stride), i * STEP < rows && k > 0 ? 16 : 0);
      } else {
#pragma unroll 1
        for (int i = 0; i < EACH; i++) {
          uint32_t word[4] = {0, 0, 0, 0};
          const uint16_t* elements = reinterpret_cast<const uint16_t*>(from + i * STEP * (2 * p.a_row_stride));
          if (i * STEP < rows && k > 0)
#pragma unroll
            for (int j = 0; j < 4; j++) word[j] = elements[2 * j] | static_cast<uint32_t>(elements[2 * j + 1]) << 16;
          ptx::store_shared128(at + i * STEP * 128, make_uint4(word[0], word[1], word[2], word[3]));
        }
      }
    }
    from += 2 * UNIT_COLS;
    k -= UNIT_COLS;
  }
  NVFP4_INLINE void store(uint32_t) {}
};

// Codes: one column of blocks a thread, loaded early into registers, decoded into shared memory after the stage's work.
template <class S> struct Codes {
  static constexpr int STEP = S::THREADS / 4, EACH = (S::TOKENS + STEP - 1) / STEP;
  const uint8_t* from;
  const uint8_t* scales;
  int64_t scale_step[EACH > 1 ? EACH - 1 : 1];  // from the thread's first row to its others
  int scale_advance;                            // from a stage to the next
  int rows, k;
  uint2 codes[EACH];
  uint32_t scale[EACH];

  NVFP4_INLINE Codes(const GemmParams& p, const Tile& t, int step) {
    const int row = threadIdx.x >> 2;
    const uint32_t block = step * 4 + (threadIdx.x & 3), blocks = p.cols / 16;
    k = static_cast<int>(blocks) - static_cast<int>(block);
    rows = row < S::TOKENS ? t.rows - t.row0 - row : 0;
    from = p.a + a_start(p, t) + row * p.a_row_stride + 8 * block;
    const int64_t first = (shares_rows(p) ? 0 : p.a_layout == LINEAR ? t.first_row : t.a_scale_row) + t.row0 + row;
    auto offset = [&](int64_t r, uint32_t b) {
      if (p.a_layout == LINEAR) return r * p.a_scales_row_stride + b;
      return static_cast<int64_t>(tiled_offset(p.a_layout, r, b, blocks_of(blocks, 4)));
    };
    scales = p.a_scales + offset(first, block);
    scale_advance = p.a_layout == LINEAR ? 4 : 4 * static_cast<int>(tile_rows(p.a_layout));
#pragma unroll
    for (int i = 1; i < EACH; i++) scale_step[i - 1] = offset(first + i * STEP, block) - offset(first, block);
  }
  NVFP4_INLINE void load(const GemmParams& p, uint32_t) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      codes[i] = make_uint2(0, 0);
      scale[i] = 0;
      if (i * STEP < rows && k > 0) {
        const uint8_t* at = from + i * STEP * p.a_row_stride;
        if (S::WIDE_ROWS || p.a_vectors) {
          codes[i] = *reinterpret_cast<const uint2*>(at);
        } else {
          for (int j = 0; j < 4; j++) {
            codes[i].x |= static_cast<uint32_t>(at[j]) << 8 * j;
            codes[i].y |= static_cast<uint32_t>(at[j + 4]) << 8 * j;
          }
        }
        scale[i] = scales[i ? scale_step[i ? i - 1 : 0] : 0];
      }
    }
    from += UNIT_COLS / 2;
    scales += scale_advance;
    k -= 4;
  }
  NVFP4_INLINE void store(uint32_t stage) {
    const int row = threadIdx.x >> 2, chunk = (threadIdx.x & 3) * 2;
    if (S::TOKENS < STEP && row >= S::TOKENS) return;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const uint32_t wide = widen_scale(scale[i]);
      ptx::store_shared128(chunk_address(stage, row + i * STEP, chunk), decode_codes(codes[i].x, wide));
      ptx::store_shared128(chunk_address(stage, row + i * STEP, chunk + 1), decode_codes(codes[i].y, wide));
    }
  }
};

// ---- one stage of tensor-core work

template <class S>
NVFP4_INLINE void multiply_stage(Accumulators<S>& acc, uint32_t a, uint32_t values, uint32_t scales, uint32_t exponent) {
  const uint4 v0 = ptx::load_shared128(values), v1 = ptx::load_shared128(values + UNIT_HALF), s = ptx::load_shared128(scales);
  // unrolled over both pairs the widest tile would not fit into the registers
#pragma unroll(S::TOKENS > 64 ? 1 : 2)
  for (int pair = 0; pair < 2; pair++) {
    const Fragments f0 = decode_words<S::F16>(pair ? v0.z : v0.x, pair ? v0.w : v0.y, pair ? s.y : s.x, exponent);
    const Fragments f1 = decode_words<S::F16>(pair ? v1.z : v1.x, pair ? v1.w : v1.y, pair ? s.w : s.z, exponent);
#pragma unroll
    for (int n = 0; n < S::TOKENS / 8; n++) {
      uint32_t b[4];
      ptx::load_matrices(b, (a ^ (64 * pair)) + n * 1024);
      ptx::mma16816<S::F16>(acc[0][n], f0.even, b[0], b[1]);
      ptx::mma16816<S::F16>(acc[1][n], f1.even, b[0], b[1]);
      ptx::mma16816<S::F16>(acc[0][n], f0.odd, b[2], b[3]);
      ptx::mma16816<S::F16>(acc[1][n], f1.odd, b[2], b[3]);
    }
  }
}

// ---- the k loop

// A run ends: the thread's totals, which nobody else touches, are up to date.
template <class S> NVFP4_INLINE void finish_run(Accumulators<S>& acc, float4* totals, bool first) {
#pragma unroll
  for (int i = 0; i < S::TOKENS / 4; i++) {
    float* v = acc[i / (S::TOKENS / 8)][i % (S::TOKENS / 8)];
    float4* total = totals + i * S::THREADS;
    float4 t = first ? make_float4(0.f, 0.f, 0.f, 0.f) : *total;
    end_run(t.x, v[0]), end_run(t.y, v[1]), end_run(t.z, v[2]), end_run(t.w, v[3]);
    *total = t;
  }
}

// The accumulators become the sum of all runs.
template <class S> NVFP4_INLINE void add_runs(Accumulators<S>& acc, const float4* totals) {
#pragma unroll
  for (int i = 0; i < S::TOKENS / 4; i++) {
    float* v = acc[i / (S::TOKENS / 8)][i % (S::TOKENS / 8)];
    const float4 old = totals[i * S::THREADS];
    v[0] = __fadd_rn(old.x, v[0]), v[1] = __fadd_rn(old.y, v[1]), v[2] = __fadd_rn(old.z, v[2]), v[3] = __fadd_rn(old.w, v[3]);
  }
}

// `totals`: the thread's first slot behind the stages; there for splits of more than RUN_STEPS.
template <class S> NVFP4_INLINE void accumulate(const GemmParams& p, const Tile& t, Accumulators<S>& acc, uint32_t shared, float4* totals) {
  const int64_t all = blocks_of(p.cols, UNIT_COLS);
  const int begin = static_cast<int>(all * t.split / p.splits);
  const int steps = static_cast<int>(all * (t.split + 1) / p.splits) - begin;
  Weights weights = weights_of<S>(p, t, begin);
  typename S::Activations activations(p, t, begin);
#pragma unroll 1
  for (int i = 0; i < S::STAGES - 1; i++) {
    if (i < steps) {
      const uint32_t to = shared + i * S::STAGE_BYTES;
      load_weights<S>(weights, to);
      activations.load(p, to);
      activations.store(to);
    }
    ptx::copy_async_commit();
  }
  const int lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3, unit = threadIdx.x >> 7;
  const uint32_t a_at = (lane & 7) * 128 + (((lane >> 3) ^ (lane & 7)) << 4);
  const uint32_t values_at = S::A_BYTES + unit * UNIT_BYTES + (threadIdx.x & 127) * 16;
  const uint32_t scales_at = S::A_BYTES + unit * UNIT_BYTES + UNIT_SCALES + (warp * 8 + (lane >> 2)) * 16;
  const uint32_t exponent = ptx::opaque(0x70007000u);
  uint32_t from = shared, to = shared + (S::STAGES - 1) * S::STAGE_BYTES;
#pragma unroll 1
  for (int left = steps; left > 0; left--) {
    ptx::copy_async_wait<S::STAGES - 2>();
    __syncthreads();  // this stage is there for all, and the one before it is free
    const bool more = left > S::STAGES - 1;
    if (more) {
      load_weights<S>(weights, to);
      activations.load(p, to);
    }
    ptx::copy_async_commit();
    if (weights.here) multiply_stage<S>(acc, from + a_at, from + values_at, from + scales_at, exponent);
    if (more) activations.store(to);
    const int done = steps - left + 1;
    if (S::TOTALS && done % RUN_STEPS == 0 && left > 1) finish_run<S>(acc, totals, done == RUN_STEPS);
    to = from;
    from = from == shared + (S::STAGES - 1) * S::STAGE_BYTES ? shared : from + S::STAGE_BYTES;
  }
  if (S::TOTALS && steps > RUN_STEPS) add_runs<S>(acc, totals);
  ptx::copy_async_wait<0>();
  __syncthreads();
}

// ---- splits of k

// Leaves this split's sums behind; true for the block that comes last, whose accumulators then hold the total, added in
// the order of the splits whoever that is.
template <class S> NVFP4_INLINE bool join_splits(const GemmParams& p, const Tile& t, Accumulators<S>& acc, uint32_t* ticket) {
  constexpr int EACH = S::TOKENS / 4;
  const int64_t first = static_cast<int64_t>(t.index) * p.splits * EACH * S::THREADS + threadIdx.x;
  float4* slab = reinterpret_cast<float4*>(p.partials) + first;
  float4* mine = slab + static_cast<int64_t>(t.split) * EACH * S::THREADS;
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    const float* v = acc[i / (EACH / 2)][i % (EACH / 2)];
    __stcg(mine + i * S::THREADS, make_float4(v[0], v[1], v[2], v[3]));
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) *ticket = atomicAdd(p.counters + t.index, 1u);
  __syncthreads();
  if (*ticket != p.splits - 1) return false;
  __threadfence();
#pragma unroll 1
  for (uint32_t split = 0; split < p.splits; split++) {
    const float4* part = slab + static_cast<int64_t>(split) * EACH * S::THREADS;
#pragma unroll
    for (int i = 0; i < EACH; i++) {
      const float4 x = __ldcg(part + i * S::THREADS);
      float* v = acc[i / (EACH / 2)][i % (EACH / 2)];
      v[0] = split ? __fadd_rn(v[0], x.x) : x.x;
      v[1] = split ? __fadd_rn(v[1], x.y) : x.y;
      v[2] = split ? __fadd_rn(v[2], x.z) : x.z;
      v[3] = split ? __fadd_rn(v[3], x.w) : x.w;
    }
  }
  return true;
}

// ---- the kernel

template <class S> NVFP4_INLINE void run_gemm(const GemmParams& p, uint8_t* dynamic) {
  static_assert(Staging<S::TOKENS, S::UNITS>::BYTES <= S::STAGES * S::STAGE_BYTES, "the epilogue reuses the pipeline");
  __shared__ TileSearch<S::THREADS> search;
  __shared__ uint32_t ticket;
  ptx::wait_for_predecessor();
  if (!find_tile<S::THREADS>(p, S::TOKENS, S::ROWS, search)) return;
  const Tile& t = search.tile;
  Accumulators<S> acc;
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int n = 0; n < S::TOKENS / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) acc[half][n][i] = 0.f;
  float4* totals = reinterpret_cast<float4*>(dynamic + S::STAGES * S::STAGE_BYTES) + threadIdx.x;
  accumulate<S>(p, t, acc, ptx::shared_address(dynamic), totals);
  if constexpr (S::SPLITS) {
    if (p.splits > 1 && !join_splits<S>(p, t, acc, &ticket)) return;
  }
  write_tile<S::TOKENS, S::UNITS>(p, t, acc, DECODE_UNDO, dynamic);
}

}  // namespace nvfp4
