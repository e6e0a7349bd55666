// Accumulators of 128 stored weight rows × TOKENS → output, as epilogue.cuh does it for whole blocks.
//
// A crew of threads has them: a warpgroup with both halves of a unit, or two warpgroups with a half each. A piece of 32 or
// 64 tokens (half of it where f32 is kept) goes through shared memory, from which the crew writes whole rows of 256 bytes.
// Two buffers alternate, so a piece costs one meeting of the crew. What an activation sees is v rounded to the inner dtype (docs/numerics.md), so that rounding comes
// first; only f32 outputs and sums with the old output keep f32.
// Rows of a piece lie 16 bytes more than a multiple of 64 apart: a warp's four token rows then meet no bank twice.
#pragma once
#include "epilogue.cuh"
#include "ptx_sm90.cuh"

namespace nvfp4 {

template <int TOKENS_, int HALVES_> struct Crew {
  static constexpr int TOKENS = TOKENS_, HALVES = HALVES_;  // halves of the unit that a thread has accumulators of
  static constexpr int THREADS = 256 / HALVES, ROWS = 2 * HALVES;  // stored rows of a thread
  static constexpr int HALF_PIECE = 64 / HALVES, FLOAT_PIECE = HALF_PIECE / 2;  // tokens
  static constexpr int HALF_PITCH = 272, FLOAT_PITCH = 528;
  static constexpr int BUFFER = HALF_PIECE * HALF_PITCH;
  static constexpr int SCALES_AT = 2 * BUFFER;  // decode scales of the tile's rows
  static constexpr int BIAS_AT = SCALES_AT + TOKENS * 4;
  static constexpr int BYTES = BIAS_AT + UNIT_ROWS * 4;
  using Sums = float[HALVES][TOKENS / 2];
  static_assert(FLOAT_PIECE * FLOAT_PITCH <= BUFFER && TOKENS % HALF_PIECE == 0);

  static NVFP4_INLINE int thread() { return threadIdx.x % THREADS; }
  // The first of the thread's neighbouring rows in the unit.
  static NVFP4_INLINE int row() {
    return (threadIdx.x >> 5 & 3) * 32 + 4 * (threadIdx.x >> 2 & 7) + (HALVES == 1 ? 2 * (threadIdx.x >> 7) : 0);
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
#pragma unroll
      for (int half = 0; half < C::HALVES; half++) {
        float v[2];
#pragma unroll
        for (int h = 0; h < 2; h++) v[h] = scaled<PLAIN>(p, f, acc[half][n * 4 + 2 * h + c], c ? g.y : g.x, 2 * half + h);
        if constexpr (K::HALF) {
          const uint32_t pair = K::pack(v[0], v[1]);
          reinterpret_cast<uint32_t*>(at)[half] = pair;
          seen = ptx::see_nan<K::IS_F16>(seen, pair);
        } else {
          reinterpret_cast<float2*>(at)[half] = make_float2(v[0], v[1]);
        }
      }
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
template <class C, Keep KEEP, bool PLAIN, int FIRST, int END>
NVFP4_INLINE void stage_one_of(const GemmParams& p, const typename C::Sums& acc, int piece, const Factors& f, uint8_t* to) {
  if constexpr (END - FIRST == 1) {
    stage_piece<C, KEEP, PLAIN, FIRST>(p, acc, f, to);
  } else {
    constexpr int MIDDLE = (FIRST + END) / 2;
    if (piece < MIDDLE)
      stage_one_of<C, KEEP, PLAIN, FIRST, MIDDLE>(p, acc, piece, f, to);
    else
      stage_one_of<C, KEEP, PLAIN, MIDDLE, END>(p, acc, piece, f, to);
  }
}

// A piece in shared memory and where it belongs.
struct Piece {
  const uint8_t* staged;
  uint8_t* spare;     // the other buffer
  int first, count;   // tokens of the tile
  uint32_t block;     // of 128 stored weight rows
  int64_t base;       // element of the output's first row of the group
};

// Rows as they are, where every 16 bytes of them are aligned and whole.
template <class C> NVFP4_INLINE void copy_rows(const GemmParams& p, const Tile& t, const Piece& piece) {
  const int thread = C::thread(), chunk = thread & 15;
  const uint32_t column = piece.block * UNIT_ROWS + chunk * 8;
  if (column >= p.weight_rows) return;
  const uint8_t* from = piece.staged + chunk * 16;
  uint16_t* to = reinterpret_cast<uint16_t*>(p.out) + piece.base + (t.row0 + piece.first) * p.out_row_stride + column;
#pragma unroll 4
  for (int token = thread >> 4; token < piece.count; token += C::THREADS / 16)
    *reinterpret_cast<uint4*>(to + token * p.out_row_stride) = *reinterpret_cast<const uint4*>(from + token * C::HALF_PITCH);
}

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

// Rows through activation, the old output, or strides that are not whole vectors: a warp a token, four stored rows a lane.
// Codes leave the activated rows in the spare buffer as bfloat16.
template <class C, Keep KEEP, bool CODES> NVFP4_INLINE void write_rows(const GemmParams& p, const Tile& t, const Piece& piece) {
  constexpr int PITCH = Kept<KEEP>::template PITCH<C>;
  const bool gated = p.activation == ACTIVATION_SWIGLU;
  const int local = 4 * (threadIdx.x & 31);
  const uint32_t stored = piece.block * UNIT_ROWS + local;
  const Outputs o = outputs_of(p, stored);
  if (o.first >= o.cols) return;
#pragma unroll 1
  for (int token = C::thread() >> 5; token < piece.count; token += C::THREADS / 32) {
    float v[4];
    load_staged<KEEP>(v, piece.staged + token * PITCH, local);
    activate(p, v);
    if constexpr (CODES) {
      uint16_t* to = reinterpret_cast<uint16_t*>(piece.spare + token * C::HALF_PITCH) + (gated ? local / 2 : local);
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < o.count) to[i] = static_cast<uint16_t>(half_bits(DTYPE_BF16, v[i]));
    } else {
      store_values(p, o, piece.base + (t.row0 + piece.first + token) * p.out_row_stride, v);
    }
  }
}

// Gate/up pairs → outputs, where every 8 bytes of them are aligned and whole: a thread takes four pairs at a time. The
// formula has a short form for gates of usual size (format.cuh), with the same bits.
template <class C, Keep KEEP> NVFP4_INLINE void gate_rows(const GemmParams& p, const Tile& t, const Piece& piece) {
  using D = std::conditional_t<KEEP == Keep::F16, F16, Bf16>;
  const SwiGlu parameters{p.limit, p.alpha, p.beta};
  const int thread = C::thread(), chunk = thread & 15;
  const uint32_t column = piece.block * (UNIT_ROWS / 2) + chunk * 4;
  if (column >= p.weight_rows / 2) return;
  const uint8_t* from = piece.staged + chunk * 16;
  uint16_t* to = reinterpret_cast<uint16_t*>(p.out) + piece.base + (t.row0 + piece.first) * p.out_row_stride + column;
  const float most = __fdiv_rn(80.f, fabsf(p.alpha));
  const uint32_t dtype = KEEP == Keep::F16 ? DTYPE_F16 : DTYPE_BF16;
#pragma unroll 1
  for (int token = thread >> 4; token < piece.count; token += C::THREADS / 16) {
    const uint8_t* row = from + token * C::HALF_PITCH;
    uint16_t* out = to + token * p.out_row_stride;
    const uint4 pairs = *reinterpret_cast<const uint4*>(row);
    const uint32_t word[4] = {pairs.x, pairs.y, pairs.z, pairs.w};
    uint32_t h[4];
    bool tame = true;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float size = fabsf(D::low(word[i]));
      tame &= size >= 0x1p-60f && size <= most;
    }
    if (tame) {
#pragma unroll
      for (int i = 0; i < 4; i++) h[i] = half_bits(dtype, swiglu_tame(D::low(word[i]), D::low(word[i] >> 16), parameters));
      *reinterpret_cast<uint2*>(out) = make_uint2(h[0] | h[1] << 16, h[2] | h[3] << 16);
    } else {
#pragma unroll 1
      for (int i = 0; i < 4; i++) {
        const uint32_t pair = reinterpret_cast<const uint32_t*>(row)[i];
        out[i] = static_cast<uint16_t>(half_bits(dtype, swiglu(D::low(pair), D::low(pair >> 16), parameters)));
      }
    }
  }
}

// The output's rows take whole 16-byte vectors.
NVFP4_INLINE bool takes_vectors(const GemmParams& p) {
  const int64_t group = p.grouping == GROUPS_STRIDED ? p.out_group_stride : 0;
  return ((p.out_row_stride | group | p.weight_rows) & 7) == 0;
}

template <class C, Keep KEEP, bool CODES>
NVFP4_INLINE void write_pieces(const GemmParams& p, const Tile& t, uint32_t block, const typename C::Sums& acc, float g_b,
                               uint8_t* staging, uint32_t barrier) {
  using K = Kept<KEEP>;
  constexpr int PIECE = K::template PIECE<C>, PITCH = K::template PITCH<C>;
  const int first_token = 2 * (threadIdx.x & 3);
  const Factors f{g_b, reinterpret_cast<const float*>(staging + C::SCALES_AT) + first_token,
                  reinterpret_cast<const float*>(staging + C::BIAS_AT) + C::row()};
  const int here = min(t.rows - t.row0, C::TOKENS);
  const bool gated = p.activation == ACTIVATION_SWIGLU, plain = is_plain(p, g_b);
  const bool as_they_are = !CODES && K::HALF && p.activation == ACTIVATION_NONE && takes_vectors(p);
  const bool gates = !CODES && K::HALF && gated && p.out_dtype != DTYPE_F32 && !p.accumulate && takes_vectors(p);
  const uint32_t cols = gated ? p.weight_rows / 2 : p.weight_rows;
  const int width = gated ? UNIT_ROWS / 2 : UNIT_ROWS;
  int tokens = 0;
#pragma unroll 1
  for (int i = 0; tokens < here; i++, tokens += PIECE) {
    uint8_t* buffer = staging + (i & 1) * C::BUFFER;
    uint8_t* to = buffer + first_token * PITCH + C::row() * K::SIZE;
    if (plain)
      stage_one_of<C, KEEP, true, 0, C::TOKENS / PIECE>(p, acc, i, f, to);
    else
      stage_one_of<C, KEEP, false, 0, C::TOKENS / PIECE>(p, acc, i, f, to);
    ptx::meet(barrier, C::THREADS);
    Piece piece;
    piece.staged = buffer;
    piece.spare = staging + (~i & 1) * C::BUFFER;
    piece.first = tokens;
    piece.count = min(here - tokens, PIECE);
    piece.block = block;
    piece.base = out_start(p, t);
    if (as_they_are) {
      copy_rows<C>(p, t, piece);
    } else if (gates) {
      gate_rows<C, KEEP>(p, t, piece);
    } else {
      write_rows<C, KEEP, CODES>(p, t, piece);
      if constexpr (CODES) {
        ptx::meet(barrier, C::THREADS);
        quantize_rows<C::THREADS>(p, t, reinterpret_cast<const uint16_t*>(piece.spare), C::HALF_PITCH / 2, tokens, tokens + piece.count, cols,
                                  block * width / 16, width);
        ptx::meet(barrier, C::THREADS);
      }
    }
  }
  if (CODES && t.row0 + C::TOKENS >= t.rows) {
    const int padded = static_cast<int>(rounded(t.rows, tile_rows(p.out_layout))) - t.row0;
    quantize_rows<C::THREADS>(p, t, nullptr, 0, here, padded, cols, block * width / 16, width);
  }
}

// Called by all threads of a crew; `staging` is its C::BYTES, `barrier` a meeting of its own. CODES: the output is codes,
// which takes registers that the rest has not.
template <class C, bool CODES>
NVFP4_INLINE void write_block(const GemmParams& p, const Tile& t, uint32_t block, const typename C::Sums& acc, float g_b, uint8_t* staging,
                              uint32_t barrier) {
  if (!is_plain(p, g_b)) {
    for (int token = C::thread(); token < C::TOKENS; token += C::THREADS) {
      const int row = t.row0 + token;
      reinterpret_cast<float*>(staging + C::SCALES_AT)[token] = row < t.rows ? a_decode_scale(p, t, row) : 1.f;
    }
    for (int row = 4 * C::thread(); row < UNIT_ROWS; row += 4 * C::THREADS)
      load_bias(p, t.group, block * UNIT_ROWS + row, *reinterpret_cast<float(*)[4]>(staging + C::BIAS_AT + 4 * row));
  }
  ptx::meet(barrier, C::THREADS);  // scales and bias are there, and the buffers' last readers done
  if constexpr (CODES) {
    write_pieces<C, Keep::BF16, true>(p, t, block, acc, g_b, staging, barrier);
  } else if (p.activation == ACTIVATION_NONE && (p.out_dtype == DTYPE_F32 || p.accumulate)) {
    write_pieces<C, Keep::F32, false>(p, t, block, acc, g_b, staging, barrier);
  } else if (p.out_dtype == DTYPE_F16) {
    write_pieces<C, Keep::F16, false>(p, t, block, acc, g_b, staging, barrier);
  } else {
    write_pieces<C, Keep::BF16, false>(p, t, block, acc, g_b, staging, barrier);
  }
}

}  // namespace nvfp4
