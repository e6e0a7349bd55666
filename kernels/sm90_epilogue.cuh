// Accumulators of a warpgroup, 64 or 128 stored weight rows × TOKENS → output, as epilogue.cuh does it for whole blocks.
//
// A warpgroup leaves what it has in its Box in shared memory, rounded, and goes on with its next tile; a warp that does not
// multiply (a writer) takes rows out of the box with bulk copies, or through SwiGLU, meanwhile. What needs more (f32, sums
// with the old output, relu², rows that are not whole vectors) the warpgroup writes by itself, piece after piece
// through the same memory, with two buffers that alternate. Codes are made of bfloat16 rows by a pass behind the product.
// What an activation sees is v rounded to the inner dtype (docs/numerics.md), so that rounding comes first; only f32
// outputs and sums with the old output keep f32. Rows of a box lie 16 bytes more than a multiple of 64 apart: a warp's four
// token rows then meet no bank twice.
#pragma once
#include "epilogue.cuh"
#include "ptx_sm90.cuh"
#include "swiglu_bf16.cuh"

namespace nvfp4 {

template <int TOKENS_, int HALVES_> struct Crew {
  static constexpr int TOKENS = TOKENS_, HALVES = HALVES_;  // halves of a unit that a thread has accumulators of
  static constexpr int THREADS = 128, ROWS = 2 * HALVES;    // stored rows of a thread
  static constexpr int WIDTH = 64 * HALVES;                 // of the warpgroup
  static constexpr int HALF_PIECE = 64 / HALVES < TOKENS / 2 ? 64 / HALVES : TOKENS / 2, FLOAT_PIECE = HALF_PIECE / 2;  // tokens
  static constexpr int HALF_PITCH = 2 * WIDTH + 16, FLOAT_PITCH = 4 * WIDTH + 16;
  static constexpr int BUFFER = HALF_PIECE * HALF_PITCH;
  static constexpr int BOX_BYTES = TOKENS * HALF_PITCH;
  static constexpr int SCALES_AT = BOX_BYTES;  // decode scales of the tile's rows
  static constexpr int BIAS_AT = SCALES_AT + TOKENS * 4;
  static constexpr int BYTES = BIAS_AT + WIDTH * 4;
  // k of a tile that lasts as long as its gate/up pairs take two writers.
  static constexpr uint32_t ENOUGH_COLS = 2048;
  using Sums = float[HALVES][TOKENS / 2];
  static_assert(FLOAT_PIECE * FLOAT_PITCH <= BUFFER && 2 * BUFFER <= BOX_BYTES && TOKENS % HALF_PIECE == 0);

  static NVFP4_INLINE int thread() { return threadIdx.x % THREADS; }
  // The first of the thread's neighbouring rows of those of the warpgroup.
  static NVFP4_INLINE int row() {
    const int warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31;
    return HALVES == 2 ? warp * 32 + 4 * (lane >> 2) : warp * 16 + 4 * (lane >> 2 & 3) + 2 * (lane >> 4);
  }
};

// Whether v is the sum times one factor: the power of two that decoded weights lack joins g_b, which is exact but where it
// runs out of exponents. Sums beyond f32 are infinite where it does not join them, and finite where it does; so batch
// invariance, which the other kernels share, goes without.
NVFP4_INLINE bool is_plain(const GemmParams& p, float g_b) {
  return !p.a_decode && !p.bias && !p.batch_invariant && fabsf(g_b) <= 0x1p120f;
}

// What v takes beside the sums; scales and bias lie in shared memory, at the thread's first token and row.
struct Factors {
  float g_b;
  const float *g_a, *bias;
};

template <bool PLAIN> NVFP4_INLINE float scaled(const GemmParams& p, const Factors& f, float sum, float g_a, int row) {
  if constexpr (PLAIN) return __fmul_rn(sum, f.g_b * DECODE_UNDO);
  const float v = __fmul_rn(__fmul_rn(__fmul_rn(sum, DECODE_UNDO), g_a), f.g_b);
  return p.bias ? __fadd_rn(v, f.bias[row]) : v;
}

enum class Keep { BF16, F16, F32 };

template <Keep KEEP> struct Kept {
  static constexpr bool HALF = KEEP != Keep::F32, IS_F16 = KEEP == Keep::F16;
  static constexpr int SIZE = HALF ? 2 : 4;
  template <class C> static constexpr int PIECE = HALF ? C::HALF_PIECE : C::FLOAT_PIECE;
  template <class C> static constexpr int PITCH = HALF ? C::HALF_PITCH : C::FLOAT_PITCH;
  static NVFP4_INLINE uint32_t pack(float low, float high) { return IS_F16 ? ptx::pack_f16(low, high) : ptx::pack_bf16(low, high); }
};

// The thread's part of a piece → its buffer. `to` and `g_a` are those of the thread's first row and token.
template <class C, Keep KEEP, bool PLAIN, int PIECE>
NVFP4_INLINE void stage_piece(const GemmParams& p, const typename C::Sums& acc, const Factors& f, uint8_t* to) {
  using K = Kept<KEEP>;
  constexpr int EACH = K::template PIECE<C> / 8, PITCH = K::template PITCH<C>;
  uint32_t seen = 0;
#pragma unroll
  for (int n = PIECE * EACH; n < (PIECE + 1) * EACH; n++) {
    float2 g = make_float2(1.f, 1.f);
    if (!PLAIN) g = *reinterpret_cast<const float2*>(f.g_a + n * 8);
#pragma unroll
    for (int c = 0; c < 2; c++) {
      uint8_t* at = to + (n % EACH * 8 + c) * PITCH;
      uint32_t pair[C::HALVES];
#pragma unroll
      for (int half = 0; half < C::HALVES; half++) {
        float v[2];
#pragma unroll
        for (int h = 0; h < 2; h++) v[h] = scaled<PLAIN>(p, f, acc[half][n * 4 + 2 * h + c], c ? g.y : g.x, 2 * half + h);
        if constexpr (K::HALF) {
          pair[half] = K::pack(v[0], v[1]);
          seen = ptx::see_nan<K::IS_F16>(seen, pair[half]);
        } else {
          reinterpret_cast<float2*>(at)[half] = make_float2(v[0], v[1]);
        }
      }
      if constexpr (K::HALF && C::HALVES == 2) *reinterpret_cast<uint2*>(at) = make_uint2(pair[0], pair[1]);
      if constexpr (K::HALF && C::HALVES == 1) *reinterpret_cast<uint32_t*>(at) = pair[0];
    }
  }
  // Packing leaves a NaN as 0x7FFF; the contract's has no payload.
  if (K::HALF && seen != 0) {
#pragma unroll 1
    for (int i = 0; i < EACH * 2 * C::ROWS; i++) {
      const int token = i / C::ROWS;
      uint16_t* half = reinterpret_cast<uint16_t*>(to + (token / 2 * 8 + token % 2) * PITCH) + i % C::ROWS;
      if ((*half & 0x7FFFu) == 0x7FFFu) *half = K::IS_F16 ? F16::NAN_CODE : Bf16::NAN_CODE;
    }
  }
}

// Accumulators have no index at run time: one branch a piece finds its code.
template <class C, Keep KEEP, int FIRST, int END>
NVFP4_INLINE void stage_one_of(const GemmParams& p, const typename C::Sums& acc, int piece, const Factors& f, uint8_t* to) {
  if constexpr (END - FIRST == 1) {
    stage_piece<C, KEEP, false, FIRST>(p, acc, f, to);
  } else {
    constexpr int MIDDLE = (FIRST + END) / 2;
    if (piece < MIDDLE)
      stage_one_of<C, KEEP, FIRST, MIDDLE>(p, acc, piece, f, to);
    else
      stage_one_of<C, KEEP, MIDDLE, END>(p, acc, piece, f, to);
  }
}

// A piece in shared memory and where it belongs.
struct Piece {
  const uint8_t* staged;
  int first, count;   // tokens of the tile
  uint32_t first_row; // stored weight row that the warpgroup begins with
  int64_t base;       // element of the output's first row of the group
};

template <Keep KEEP> NVFP4_INLINE void load_staged(float (&v)[4], const uint8_t* row, int column) {
  if constexpr (KEEP == Keep::F32) {
    const float4 x = *reinterpret_cast<const float4*>(row + 4 * column);
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
  } else {
    const uint2 x = *reinterpret_cast<const uint2*>(row + 2 * column);
    using D = std::conditional_t<KEEP == Keep::F16, F16, Bf16>;
    v[0] = D::low(x.x), v[1] = D::low(x.x >> 16), v[2] = D::low(x.y), v[3] = D::low(x.y >> 16);
  }
}

// Rows through activation, the old output, or strides that are not whole vectors: four stored rows a lane.
template <class C, Keep KEEP> NVFP4_INLINE void write_rows(const GemmParams& p, const Tile& t, const Piece& piece) {
  constexpr int PITCH = Kept<KEEP>::template PITCH<C>;
  constexpr int LANES = C::WIDTH / 4;  // of a token
  const int local = 4 * (C::thread() % LANES);
  const uint32_t stored = piece.first_row + local;
  const Outputs o = outputs_of(p, stored);
  if (o.first >= o.cols) return;
#pragma unroll 1
  for (int token = C::thread() / LANES; token < piece.count; token += C::THREADS / LANES) {
    float v[4];
    load_staged<KEEP>(v, piece.staged + token * PITCH, local);
    activate(p, v);
    store_values(p, o, piece.base + (t.row0 + piece.first + token) * p.out_row_stride, v);
  }
}

// ---- what writers do

// The output's rows take whole 16-byte vectors.
NVFP4_INLINE bool takes_vectors(const GemmParams& p) {
  const int64_t group = p.grouping == GROUPS_STRIDED ? p.out_group_stride : 0;
  return ((p.out_row_stride | group | p.weight_rows) & 7) == 0;
}

// Who writes the outputs of a launch: writers, the rows as they are or gate/up pairs; or the warpgroups, piece after piece.
enum class Route { ROWS, GATES, PIECES };

NVFP4_INLINE Route route_of(const GemmParams& p) {
  if (p.out_dtype == DTYPE_F32 || p.accumulate || !takes_vectors(p)) return Route::PIECES;
  return p.activation == ACTIVATION_NONE ? Route::ROWS : p.activation == ACTIVATION_SWIGLU ? Route::GATES : Route::PIECES;
}

// By warp `part` of `parts`: rows of a box as they are, 16 bytes a lane. (A bulk copy a row takes a warp 110 cycles, and as
// long for 128 bytes as for 256: with K = 768 writers then were slower than the tensor cores.)
template <class C> NVFP4_INLINE void send_rows(const GemmParams& p, const Tile& t, uint32_t first_row, const uint8_t* box, int part, int parts) {
  constexpr int LANES = C::WIDTH / 8, STEP = 32 / LANES, TOGETHER = 4;  // lanes of a token, tokens at a time
  static_assert(C::TOKENS % (STEP * TOGETHER) == 0);
  const int lane = threadIdx.x & 31, chunk = lane % LANES, here = t.count;
  const uint32_t column = first_row + chunk * 8;
  if (column >= p.weight_rows) return;
  const uint8_t* from = box + chunk * 16;
  uint16_t* to = reinterpret_cast<uint16_t*>(p.out) + out_start(p, t) + t.row0 * p.out_row_stride + column;
#pragma unroll 1
  for (int token = part * STEP * TOGETHER + lane / LANES; token < here; token += parts * STEP * TOGETHER) {
    uint4 v[TOGETHER];
#pragma unroll
    for (int i = 0; i < TOGETHER; i++) v[i] = *reinterpret_cast<const uint4*>(from + (token + i * STEP) * C::HALF_PITCH);
#pragma unroll
    for (int i = 0; i < TOGETHER; i++)
      if (token + i * STEP < here) *reinterpret_cast<uint4*>(to + (token + i * STEP) * p.out_row_stride) = v[i];
  }
}

// Four gate/up pairs each of two tokens, of a box.
NVFP4_INLINE void load_pairs(uint32_t (&pairs)[8], uint32_t from, uint32_t apart) {
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const uint4 four = ptx::load_shared128(from + r * apart);
    pairs[4 * r] = four.x, pairs[4 * r + 1] = four.y, pairs[4 * r + 2] = four.z, pairs[4 * r + 3] = four.w;
  }
}

// float16: h by the contract's chain, if all gates are of usual size; else true.
NVFP4_INLINE bool swiglu_pairs_f16(HalfBlock& h, const uint32_t (&pair)[8], const SwiGlu& p) {
  const float most = __fdiv_rn(80.f, fabsf(p.alpha));
  bool tame = true;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const float size = fabsf(F16::low(pair[i]));
    tame &= size >= 0x1p-60f && size <= most;
  }
  if (!tame) return true;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    uint32_t bits[2];
#pragma unroll
    for (int j = 0; j < 2; j++)
      bits[j] = half_bits(DTYPE_F16, swiglu_tame(F16::low(pair[2 * i + j]), F16::low(pair[2 * i + j] >> 16), p));
    h.w[i] = bits[0] | bits[1] << 16;
  }
  return false;
}

// By warp `part` of `parts`: gate/up pairs of the tokens `begin` … `end` of a box → outputs. A lane takes four pairs of two
// tokens at a time. The pairs of a lane for which the short forms do not hold go through the contract's chain again, one a
// lane of eight.
template <class C, bool F16_OUT>
NVFP4_INLINE void gate_rows_as(const GemmParams& p, const Tile& t, uint32_t first_row, const uint8_t* box, int begin, int end, int part, int parts) {
  using D = std::conditional_t<F16_OUT, F16, Bf16>;
  constexpr int LANES = C::WIDTH / 8, STEP = 32 / LANES;  // lanes of a token, tokens at a time
  static_assert(C::TOKENS % (2 * STEP) == 0, "what lies past the end is looked at, and left");
  const SwiGlu parameters{p.limit, p.alpha, p.beta};
  const SwiGluBf16 shared(parameters);
  begin += part * 2 * STEP;
  if (begin >= end) return;
  const int lane = threadIdx.x & 31, chunk = lane % LANES, own = begin + lane / LANES;
  const int64_t stride = p.out_row_stride;
  uint16_t* const out = reinterpret_cast<uint16_t*>(p.out) + out_start(p, t) + t.row0 * stride + first_row / 2;
  int left = first_row / 2 + chunk * 4 < p.weight_rows / 2 ? end - own : 0;
  uint32_t from = ptx::shared_address(box) + own * C::HALF_PITCH + chunk * 16;
  uint16_t* to = out + own * stride + chunk * 4;
  const int step = parts * 2 * STEP;
#pragma unroll 1
  for (int first = begin; first < end; first += step) {
    HalfBlock h, tails;
    uint32_t pairs[8];
    load_pairs(pairs, from, STEP * C::HALF_PITCH);
    bool again, strange = false;
    if constexpr (F16_OUT)
      again = swiglu_pairs_f16(h, pairs, parameters);
    else
      again = swiglu_pairs(h, tails, pairs, shared, strange);
    if (left > 0) *reinterpret_cast<uint2*>(to) = make_uint2(h.w[0], h.w[1]);
    if (left > STEP) *reinterpret_cast<uint2*>(to + STEP * stride) = make_uint2(h.w[2], h.w[3]);
    if (__any_sync(~0u, again || strange)) {
      if constexpr (!F16_OUT) {
        load_pairs(pairs, from, STEP * C::HALF_PITCH);  // once more: not worth registers
        again |= strange && has_tiny(h, tails, pairs, shared);
      }
      uint32_t lanes = __ballot_sync(~0u, again && left > 0);
#pragma unroll 1
      while (lanes) {
        const uint32_t four = ptx::lowest_bit(lanes) & ~3u, which = four + (lane >> 3), i = lane & 7;
        const int token = first + which / LANES + (i < 4 ? 0 : STEP), column = which % LANES * 4 + (i & 3);
        __syncwarp();  // behind the stores of whole rows
        if ((lanes >> which & 1) && token < end) {
          const uint32_t pair = *reinterpret_cast<const uint32_t*>(box + token * C::HALF_PITCH + 4 * column);
          const float value = swiglu(D::low(pair), D::low(pair >> 16), parameters);
          out[token * stride + column] = static_cast<uint16_t>(half_bits(F16_OUT ? DTYPE_F16 : DTYPE_BF16, value));
        }
        lanes &= ~(15u << four);
      }
    }
    left -= step;
    from += step * C::HALF_PITCH;
    to += step * stride;
  }
}

template <class C>
NVFP4_INLINE void gate_rows(const GemmParams& p, const Tile& t, uint32_t first_row, const uint8_t* box, int begin, int end, int part, int parts) {
  if (p.out_dtype == DTYPE_F16)
    gate_rows_as<C, true>(p, t, first_row, box, begin, end, part, parts);
  else
    gate_rows_as<C, false>(p, t, first_row, box, begin, end, part, parts);
}

// Tokens of a box whose gate/up pairs the warpgroup takes itself: what the writers have no time for while the next tile is
// multiplied, and the last tile.
template <class C> NVFP4_INLINE int own_gates(const GemmParams& p, int here, bool last) {
  const uint32_t enough = p.out_dtype == DTYPE_F16 ? C::ENOUGH_COLS * 12 / 5 : C::ENOUGH_COLS;
  if (last || p.cols >= enough) return last ? here : 0;
  return max(here - static_cast<int>(C::TOKENS * p.cols / enough), 0) & ~(32 / C::HALVES - 1);  // whole steps of all four warps
}

// ---- what warpgroups do

template <class C, Keep KEEP>
NVFP4_INLINE void write_pieces(const GemmParams& p, const Tile& t, uint32_t first_row, const typename C::Sums& acc, const Factors& f,
                               uint8_t* staging, uint32_t barrier) {
  using K = Kept<KEEP>;
  constexpr int PIECE = K::template PIECE<C>, PITCH = K::template PITCH<C>;
  const int first_token = 2 * (threadIdx.x & 3), here = t.count;
  int tokens = 0;
#pragma unroll 1
  for (int i = 0; tokens < here; i++, tokens += PIECE) {
    uint8_t* buffer = staging + (i & 1) * C::BUFFER;
    uint8_t* to = buffer + first_token * PITCH + C::row() * K::SIZE;
    stage_one_of<C, KEEP, 0, C::TOKENS / PIECE>(p, acc, i, f, to);
    ptx::meet(barrier, C::THREADS);
    Piece piece;
    piece.staged = buffer;
    piece.first = tokens;
    piece.count = min(here - tokens, PIECE);
    piece.first_row = first_row;
    piece.base = out_start(p, t);
    write_rows<C, KEEP>(p, t, piece);
  }
}

// The whole tile → the box, as far as it has tokens.
template <class C, Keep KEEP, bool PLAIN, int PIECE = 0>
NVFP4_INLINE void fill_box(const GemmParams& p, const typename C::Sums& acc, const Factors& f, uint8_t* to, int here) {
  if constexpr (PIECE * C::HALF_PIECE < C::TOKENS) {
    if (PIECE * C::HALF_PIECE >= here) return;
    stage_piece<C, KEEP, PLAIN, PIECE>(p, acc, f, to + PIECE * C::HALF_PIECE * C::HALF_PITCH);
    fill_box<C, KEEP, PLAIN, PIECE + 1>(p, acc, f, to, here);
  }
}

// Called by all threads of a warpgroup, which owns its box; `memory` is C::BYTES, `barrier` a meeting of its own. True: the
// box is full, and a writer has to empty it.
template <class C>
NVFP4_INLINE bool write_sums(const GemmParams& p, const Tile& t, uint32_t first_row, const typename C::Sums& acc, float g_b, uint8_t* memory,
                             uint32_t barrier) {
  const Route route = route_of(p);
  const bool plain = route != Route::PIECES && is_plain(p, g_b);
  if (!plain) {
    ptx::meet(barrier, C::THREADS);  // the last readers of scales and buffers are done
    const int thread = ptx::opaque(C::thread());  // what comes of it is not worth registers meanwhile
    for (int token = thread; token < C::TOKENS; token += C::THREADS) {
      const int row = t.row0 + token;
      reinterpret_cast<float*>(memory + C::SCALES_AT)[token] = row < t.rows ? a_decode_scale(p, t, row) : 1.f;
    }
    for (int row = 4 * thread; row < C::WIDTH; row += 4 * C::THREADS)
      load_bias(p, t.group, first_row + row, *reinterpret_cast<float(*)[4]>(memory + C::BIAS_AT + 4 * row));
    ptx::meet(barrier, C::THREADS);
  }
  const int first_token = 2 * (threadIdx.x & 3);
  const Factors f{g_b, reinterpret_cast<const float*>(memory + C::SCALES_AT) + first_token,
                  reinterpret_cast<const float*>(memory + C::BIAS_AT) + C::row()};
  if (route == Route::PIECES) {
    if (p.activation == ACTIVATION_NONE && (p.out_dtype == DTYPE_F32 || p.accumulate))
      write_pieces<C, Keep::F32>(p, t, first_row, acc, f, memory, barrier);
    else if (p.out_dtype == DTYPE_F16)
      write_pieces<C, Keep::F16>(p, t, first_row, acc, f, memory, barrier);
    else
      write_pieces<C, Keep::BF16>(p, t, first_row, acc, f, memory, barrier);
    return false;
  }
  uint8_t* to = memory + first_token * C::HALF_PITCH + 2 * C::row();
  const int here = t.count;
  if (p.out_dtype == DTYPE_F16) {
    plain ? fill_box<C, Keep::F16, true>(p, acc, f, to, here) : fill_box<C, Keep::F16, false>(p, acc, f, to, here);
  } else {
    plain ? fill_box<C, Keep::BF16, true>(p, acc, f, to, here) : fill_box<C, Keep::BF16, false>(p, acc, f, to, here);
  }
  return true;
}

}  // namespace nvfp4
