// Accumulators of a warpgroup, 128 stored weight rows × TOKENS, → output, as epilogue.cuh does it for whole blocks.
//
// A piece of 32 tokens (16 where f32 is kept) goes through shared memory, from which the warpgroup writes whole rows of
// 256 bytes. Two buffers alternate, so a piece costs one meeting of the warpgroup; the other warpgroup of the block goes
// on multiplying. What an activation sees is v rounded to the inner dtype (docs/numerics.md), so that rounding comes
// first; only f32 outputs and sums with the old output keep f32.
// Rows of a piece lie 16 bytes more than a multiple of 64 apart: a warp's four token rows then meet no bank twice.
#pragma once
#include "epilogue.cuh"
#include "ptx_sm90.cuh"

namespace nvfp4 {

template <int TOKENS> struct WarpgroupStaging {
  static constexpr int HALVES = 32, FLOATS = 16;  // tokens of a piece
  static constexpr int HALF_PITCH = 272, FLOAT_PITCH = 528;
  static constexpr int BUFFER = HALVES * HALF_PITCH;
  static constexpr int SCALES_AT = 2 * BUFFER;  // decode scales of the tile's rows
  static constexpr int BYTES = SCALES_AT + TOKENS * 4;
  static_assert(FLOATS * FLOAT_PITCH <= BUFFER && TOKENS % HALVES == 0);
};

// What a thread needs of the tile for its four neighbouring stored rows.
struct RowFactors {
  float g_b, undo;
  bool biased;
  float bias[4];
};

NVFP4_INLINE RowFactors row_factors(const GemmParams& p, const Tile& t, uint32_t stored, float undo) {
  RowFactors f;
  f.g_b = reinterpret_cast<const float*>(p.weights)[t.group];
  f.undo = undo;
  f.biased = p.bias != nullptr;
  load_bias(p, t.group, stored, f.bias);
  return f;
}

NVFP4_INLINE float scaled(float sum, const RowFactors& f, float g_a, int i) {
  const float v = __fmul_rn(__fmul_rn(__fmul_rn(sum, f.undo), g_a), f.g_b);
  return f.biased ? __fadd_rn(v, f.bias[i]) : v;
}

enum class Keep { BF16, F16, F32 };

// The thread's part of a piece → its buffer. `to` and `g_a` are those of the thread's first row and token.
template <int TOKENS, Keep KEEP>
NVFP4_INLINE void stage_piece(const float (&acc)[2][TOKENS / 2], int piece, const RowFactors& f, const float* g_a, uint8_t* to) {
  using Staging = WarpgroupStaging<TOKENS>;
  constexpr int EACH = (KEEP == Keep::F32 ? Staging::FLOATS : Staging::HALVES) / 8;
  constexpr int PITCH = KEEP == Keep::F32 ? Staging::FLOAT_PITCH : Staging::HALF_PITCH;
  float seen = 0.f;
#pragma unroll
  for (int n = 0; n < TOKENS / 8; n++) {
    if (n / EACH != piece) continue;
    const float2 g = *reinterpret_cast<const float2*>(g_a + n * 8);
#pragma unroll
    for (int c = 0; c < 2; c++) {
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; i++) v[i] = scaled(acc[i >> 1][n * 4 + 2 * (i & 1) + c], f, c ? g.y : g.x, i);
      uint8_t* at = to + (n % EACH * 8 + c) * PITCH;
      if constexpr (KEEP == Keep::F32) {
        *reinterpret_cast<float4*>(at) = make_float4(v[0], v[1], v[2], v[3]);
      } else {
        seen = __fadd_rn(seen, __fadd_rn(__fadd_rn(v[0], v[1]), __fadd_rn(v[2], v[3])));
        *reinterpret_cast<uint2*>(at) = KEEP == Keep::F16 ? make_uint2(ptx::pack_f16(v[0], v[1]), ptx::pack_f16(v[2], v[3]))
                                                          : make_uint2(ptx::pack_bf16(v[0], v[1]), ptx::pack_bf16(v[2], v[3]));
      }
    }
  }
  // Packing leaves a NaN as 0x7FFF; the contract's has no payload. Rare, and where it comes a sum has seen it.
  if (KEEP != Keep::F32 && seen != seen) {
    const uint32_t code = KEEP == Keep::F16 ? F16::NAN_CODE : Bf16::NAN_CODE;
#pragma unroll 1
    for (int i = 0; i < 2 * EACH * 4; i++) {
      uint16_t* half = reinterpret_cast<uint16_t*>(to + (i / 8 * 8 + (i / 4 & 1)) * PITCH) + (i & 3);
      if ((*half & 0x7FFFu) == 0x7FFFu) *half = static_cast<uint16_t>(code);
    }
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
template <int TOKENS> NVFP4_INLINE void copy_rows(const GemmParams& p, const Tile& t, const Piece& piece) {
  const int thread = threadIdx.x & 127, chunk = thread & 15;
  const uint32_t column = piece.block * UNIT_ROWS + chunk * 8;
  if (column >= p.weight_rows) return;
  const uint8_t* from = piece.staged + chunk * 16;
  uint16_t* to = reinterpret_cast<uint16_t*>(p.out) + piece.base + (t.row0 + piece.first) * p.out_row_stride + column;
#pragma unroll 4
  for (int token = thread >> 4; token < piece.count; token += 8)
    *reinterpret_cast<uint4*>(to + token * p.out_row_stride) = *reinterpret_cast<const uint4*>(from + token * WarpgroupStaging<TOKENS>::HALF_PITCH);
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
template <int TOKENS, Keep KEEP> NVFP4_INLINE void write_rows(const GemmParams& p, const Tile& t, const Piece& piece) {
  using Staging = WarpgroupStaging<TOKENS>;
  constexpr int PITCH = KEEP == Keep::F32 ? Staging::FLOAT_PITCH : Staging::HALF_PITCH;
  const bool gated = p.activation == ACTIVATION_SWIGLU, codes = p.out_dtype == DTYPE_CODES;
  const int local = 4 * (threadIdx.x & 31);
  const uint32_t stored = piece.block * UNIT_ROWS + local;
  const Outputs o = outputs_of(p, stored);
  if (o.first >= o.cols) return;
#pragma unroll 1
  for (int token = threadIdx.x >> 5 & 3; token < piece.count; token += 4) {
    float v[4];
    load_staged<KEEP>(v, piece.staged + token * PITCH, local);
    activate(p, v);
    if (codes) {
      uint16_t* to = reinterpret_cast<uint16_t*>(piece.spare + token * Staging::HALF_PITCH) + (gated ? local / 2 : local);
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < o.count) to[i] = static_cast<uint16_t>(half_bits(DTYPE_BF16, v[i]));
    } else {
      store_values(p, o, piece.base + (t.row0 + piece.first + token) * p.out_row_stride, v);
    }
  }
}

// The output's rows take whole 16-byte vectors.
NVFP4_INLINE bool takes_vectors(const GemmParams& p) {
  const int64_t group = p.grouping == GROUPS_STRIDED ? p.out_group_stride : 0;
  return ((p.out_row_stride | group | p.weight_rows) & 7) == 0;
}

template <int TOKENS, Keep KEEP>
NVFP4_INLINE void write_pieces(const GemmParams& p, const Tile& t, uint32_t block, const float (&acc)[2][TOKENS / 2], const RowFactors& f,
                               uint8_t* staging, uint32_t barrier) {
  using Staging = WarpgroupStaging<TOKENS>;
  constexpr int PIECE = KEEP == Keep::F32 ? Staging::FLOATS : Staging::HALVES;
  constexpr int PITCH = KEEP == Keep::F32 ? Staging::FLOAT_PITCH : Staging::HALF_PITCH, SIZE = KEEP == Keep::F32 ? 4 : 2;
  const int lane = threadIdx.x & 31, column = (threadIdx.x >> 5 & 3) * 32 + 4 * (lane >> 2);
  const float* g_a = reinterpret_cast<const float*>(staging + Staging::SCALES_AT) + 2 * (lane & 3);
  const int here = min(t.rows - t.row0, TOKENS);
  const bool codes = p.out_dtype == DTYPE_CODES, gated = p.activation == ACTIVATION_SWIGLU;
  const bool plain = KEEP != Keep::F32 && p.activation == ACTIVATION_NONE && !codes && takes_vectors(p);
  const uint32_t cols = gated ? p.weight_rows / 2 : p.weight_rows;
  const int width = gated ? UNIT_ROWS / 2 : UNIT_ROWS;
  int tokens = 0;
#pragma unroll 1
  for (int i = 0; tokens < here; i++, tokens += PIECE) {
    uint8_t* buffer = staging + (i & 1) * Staging::BUFFER;
    stage_piece<TOKENS, KEEP>(acc, i, f, g_a, buffer + 2 * (lane & 3) * PITCH + column * SIZE);
    ptx::meet(barrier, 128);
    Piece piece;
    piece.staged = buffer;
    piece.spare = staging + (~i & 1) * Staging::BUFFER;
    piece.first = tokens;
    piece.count = min(here - tokens, PIECE);
    piece.block = block;
    piece.base = out_start(p, t);
    if (plain) {
      copy_rows<TOKENS>(p, t, piece);
    } else {
      write_rows<TOKENS, KEEP>(p, t, piece);
      if (KEEP == Keep::BF16 && codes) {
        ptx::meet(barrier, 128);
        quantize_rows<128>(p, t, reinterpret_cast<const uint16_t*>(piece.spare), Staging::HALF_PITCH / 2, tokens, tokens + piece.count, cols,
                           block * width / 16, width);
        ptx::meet(barrier, 128);
      }
    }
  }
  if (KEEP == Keep::BF16 && codes && t.row0 + TOKENS >= t.rows) {
    const int padded = static_cast<int>(rounded(t.rows, tile_rows(p.out_layout))) - t.row0;
    quantize_rows<128>(p, t, nullptr, 0, here, padded, cols, block * width / 16, width);
  }
}

// Called by all 128 threads of a warpgroup; `staging` is its WarpgroupStaging, `barrier` a meeting of its own. `undo` is
// the power of two that the decoded weights lack.
template <int TOKENS>
NVFP4_INLINE void write_block(const GemmParams& p, const Tile& t, uint32_t block, const float (&acc)[2][TOKENS / 2], float undo,
                              uint8_t* staging, uint32_t barrier) {
  const int thread = threadIdx.x & 127, lane = thread & 31;
  if (thread < TOKENS) {
    const int row = t.row0 + thread;
    reinterpret_cast<float*>(staging + WarpgroupStaging<TOKENS>::SCALES_AT)[thread] = row < t.rows ? a_decode_scale(p, t, row) : 1.f;
  }
  const RowFactors f = row_factors(p, t, block * UNIT_ROWS + (thread >> 5) * 32 + 4 * (lane >> 2), undo);
  ptx::meet(barrier, 128);
  if (p.activation == ACTIVATION_NONE && (p.out_dtype == DTYPE_F32 || p.accumulate)) {
    write_pieces<TOKENS, Keep::F32>(p, t, block, acc, f, staging, barrier);
  } else if (p.out_dtype == DTYPE_F16) {
    write_pieces<TOKENS, Keep::F16>(p, t, block, acc, f, staging, barrier);
  } else {
    write_pieces<TOKENS, Keep::BF16>(p, t, block, acc, f, staging, barrier);
  }
}

}  // namespace nvfp4
