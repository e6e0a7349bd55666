// Accumulators of a tile → output: decode scales, bias, activation, rounding, and codes with static scales by
// the plain rule; other rules and dynamic scales take bfloat16 rows through the workspace.
//
// The sums pass through shared memory, up to 32 tokens at a time, so that a warp then writes whole stretches of a row: a
// thread takes four neighbouring stored rows (two gate/up pairs) of a token. Codes pass through it once more, as
// bfloat16, for a thread to take a whole block.
// The order of roundings is that of docs/numerics.md; twin of src/backend/cpu/gemm/epilogue.rs.
#pragma once
#include "format.cuh"
#include "params_gemm.cuh"
#include "tiles.cuh"
#include "unit.cuh"

namespace nvfp4 {

// A value as the bits of a 16-bit dtype, NaN canonical.
NVFP4_INLINE uint32_t half_bits(uint32_t dtype, float x) {
  const uint32_t bits = (dtype == DTYPE_F16 ? ptx::pack_f16(x, 0.f) : ptx::pack_bf16(x, 0.f)) & 0xFFFFu;
  return x != x ? dtype == DTYPE_F16 ? F16::NAN_CODE : Bf16::NAN_CODE : bits;
}

struct Outputs {
  uint32_t cols, first;  // of the whole row; the thread's first column
  int count;             // 4, or 2 behind a gate
};

// Of four stored rows from `stored` on.
NVFP4_INLINE Outputs outputs_of(const GemmParams& p, uint32_t stored) {
  const bool gated = p.activation == ACTIVATION_SWIGLU;
  return {gated ? p.weight_rows / 2 : p.weight_rows, gated ? stored / 2 : stored, gated ? 2 : 4};
}

NVFP4_INLINE void load_bias(const GemmParams& p, uint32_t group, uint32_t stored, float (&bias)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    bias[i] = 0.f;
    const uint32_t row = stored + i;
    const int64_t at =
        static_cast<int64_t>(group) * p.weight_rows + canonical_row(row, p.weight_rows, p.activation == ACTIVATION_SWIGLU);
    if (p.bias && row < p.weight_rows) bias[i] = load_element(p.bias_dtype, p.bias, at);
  }
}

// Element of the output's first row of the group.
NVFP4_INLINE int64_t out_start(const GemmParams& p, const Tile& t) {
  return p.grouping == GROUPS_STRIDED ? t.group * p.out_group_stride : t.first_row * p.out_row_stride;
}

NVFP4_INLINE float a_decode_scale(const GemmParams& p, const Tile& t, int row) {
  if (!p.a_decode) return 1.f;
  const bool shared_rows = p.grouping == GROUPS_STRIDED && p.a_group_stride == 0;
  if (p.a_scope == SCOPE_TENSOR) return p.a_decode[0];
  return p.a_decode[p.a_scope == SCOPE_GROUP ? t.group : (shared_rows ? 0 : t.first_row) + row];
}

// Four sums → v of the contract.
NVFP4_INLINE void scale_sums(const GemmParams& p, float (&v)[4], float undo, float g_a, float g_b, const float (&bias)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v[i] = __fmul_rn(__fmul_rn(__fmul_rn(v[i], undo), g_a), g_b);
    if (p.bias) v[i] = __fadd_rn(v[i], bias[i]);
  }
}

// Four scaled products → what the output holds, before its last rounding.
NVFP4_INLINE void activate(const GemmParams& p, float (&v)[4]) {
  if (p.activation == ACTIVATION_NONE) return;
  const uint32_t inner = p.out_dtype == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16;
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = round_to(inner, v[i]);
  if (p.activation == ACTIVATION_SWIGLU) {
#pragma unroll
    for (int i = 0; i < 2; i++)
      v[i] = round_to(inner, swiglu(v[2 * i], v[2 * i + 1], SwiGlu{p.limit, p.alpha, p.beta}));
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = round_to(inner, relu2(v[i]));
  }
}

NVFP4_INLINE void store_values(const GemmParams& p, const Outputs& o, int64_t row, float (&v)[4]) {
  const int64_t at = row + o.first;
  const int count = min(o.count, static_cast<int>(o.cols - o.first));
  if (p.accumulate)
    for (int i = 0; i < 4; i++)
      if (i < count) v[i] = __fadd_rn(v[i], load_element(p.out_dtype, p.out, at + i));
  const bool vector = p.out_vectors && count == o.count;
  if (p.out_dtype == DTYPE_F32) {
    float* to = reinterpret_cast<float*>(p.out) + at;
#pragma unroll
    for (int i = 0; i < 4; i++) v[i] = v[i] != v[i] ? __uint_as_float(NAN_BITS) : v[i];
    if (vector && count == 4) *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    else if (vector) *reinterpret_cast<float2*>(to) = make_float2(v[0], v[1]);
    else
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (i < count) to[i] = v[i];
    return;
  }
  uint16_t* to = reinterpret_cast<uint16_t*>(p.out) + at;
  uint32_t h[4];
#pragma unroll
  for (int i = 0; i < 4; i++) h[i] = half_bits(p.out_dtype, v[i]);
  if (vector && count == 4) *reinterpret_cast<uint2*>(to) = make_uint2(h[0] | h[1] << 16, h[2] | h[3] << 16);
  else if (vector) *reinterpret_cast<uint32_t*>(to) = h[0] | h[1] << 16;
  else
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (i < count) to[i] = static_cast<uint16_t>(h[i]);
}

// Address of a scale byte of the output: row of the group, block column.
NVFP4_INLINE uint8_t* out_scale(const GemmParams& p, const Tile& t, int row, uint32_t column, uint32_t blocks) {
  if (p.out_layout == LINEAR) return p.out_scales + (t.first_row + row) * p.out_scales_row_stride + column;
  return p.out_scales + tiled_offset(p.out_layout, t.out_scale_row + row, column, blocks_of(blocks, 4));
}

// Rows first … end of the tile, as bfloat16 in shared memory [row][pitch] → codes and scales, by THREADS threads. `width`
// columns lie there, from `first_column` · 16 on. Rows past those of the group and columns past the last block are the
// zero padding of tiled scales.
template <int THREADS>
NVFP4_INLINE void quantize_rows(const GemmParams& p, const Tile& t, const uint16_t* staged, int pitch, int first, int end,
                                uint32_t cols, uint32_t first_column, int width) {
  const uint32_t blocks = cols / 16, padded = p.out_layout == LINEAR ? blocks : rounded(blocks, 4);
  const int across = min(static_cast<int>(padded - first_column), width / 16);
  uint32_t flags = 0;
#pragma unroll 1
  for (int item = threadIdx.x % THREADS; item < (end - first) * across; item += THREADS) {
    const int token = item / across, row = t.row0 + first + token;
    const uint32_t column = first_column + item % across;
    uint32_t scale = 0;
    if (row < t.rows && column < blocks) {
      Block<Bf16> x;
      const uint32_t* from = reinterpret_cast<const uint32_t*>(staged + token * pitch + (column - first_column) * 16);
#pragma unroll
      for (int i = 0; i < 8; i++) x.w[i] = from[i];
      const int64_t scope = p.out_scope == SCOPE_TENSOR ? 0 : p.out_scope == SCOPE_GROUP ? t.group : t.first_row + row;
      uint2 codes;
      const float g = p.out_decode ? p.out_decode[scope] : 1.f;
      scale = quantize_block<AMAX>(x, encode_from_static(g), codes, flags);
      uint8_t* to = p.out + (t.first_row + row) * p.out_row_stride + static_cast<int64_t>(column) * 8;
      if (p.out_vectors) {
        *reinterpret_cast<uint2*>(to) = codes;
      } else {
        for (int i = 0; i < 4; i++) {
          to[i] = static_cast<uint8_t>(codes.x >> 8 * i);
          to[i + 4] = static_cast<uint8_t>(codes.y >> 8 * i);
        }
      }
    }
    *out_scale(p, t, row, column, blocks) = static_cast<uint8_t>(scale);
  }
  raise_fault(p.fault, flags);
}

template <int TOKENS, int UNITS> struct Staging {
  static constexpr int WIDTH = 128 * UNITS, PIECE = TOKENS < 32 ? TOKENS : 32;
  static constexpr int PITCH = WIDTH + 4;         // floats; keeps the 16-byte stores of a quarter warp on different banks
  static constexpr int HALF_PITCH = WIDTH + 8;    // bfloat16
  static constexpr int BYTES = PIECE * (PITCH * 4 + HALF_PITCH * 2);
};

// `undo` is the power of two that the decoded weights lack. Called by all threads of the block, when nobody uses the
// pipeline's shared memory any more; `t` lies in shared memory.
template <int TOKENS, int UNITS>
NVFP4_INLINE void write_tile(const GemmParams& p, const Tile& t, float (&acc)[2][TOKENS / 8][4], float undo, uint8_t* dynamic) {
  using Stage = Staging<TOKENS, UNITS>;
  constexpr int WIDTH = Stage::WIDTH, THREADS = 128 * UNITS, PIECE = Stage::PIECE, FOURS = WIDTH / 4;
  const bool gated = p.activation == ACTIVATION_SWIGLU, codes = p.out_dtype == DTYPE_CODES;
  const int width = gated ? WIDTH / 2 : WIDTH;  // output columns
  float* sums = reinterpret_cast<float*>(dynamic);
  uint16_t* halves = reinterpret_cast<uint16_t*>(sums + PIECE * Stage::PITCH);

  // a thread keeps its four stored rows for every token
  const int local = threadIdx.x % FOURS * 4;
  const uint32_t stored = t.features * WIDTH + local;
  const Outputs o = outputs_of(p, stored);
  const bool inside = o.first < o.cols;
  const float g_b = reinterpret_cast<const float*>(p.weights)[t.group];
  float bias[4];
  load_bias(p, t.group, stored, bias);
  const int64_t base = out_start(p, t);
  const int here = min(t.rows - t.row0, TOKENS);
#pragma unroll 1
  for (int piece = 0; piece * PIECE < here; piece++) {
    const int lane = threadIdx.x & 31, column = (threadIdx.x >> 5) * 32 + 4 * (lane >> 2);
#pragma unroll
    for (int n = 0; n < TOKENS / 8; n++)
      if (n * 8 / PIECE == piece)
#pragma unroll
        for (int c = 0; c < 2; c++) {
          const int token = n * 8 % PIECE + 2 * (lane & 3) + c;
          *reinterpret_cast<float4*>(sums + token * Stage::PITCH + column) =
              make_float4(acc[0][n][c], acc[0][n][2 + c], acc[1][n][c], acc[1][n][2 + c]);
        }
    __syncthreads();
    const int first = piece * PIECE, end = min(here, first + PIECE);
    if (inside)
#pragma unroll 1
      for (int token = threadIdx.x / FOURS; token < end - first; token += THREADS / FOURS) {
        const int row = t.row0 + first + token;
        const float4 sum = *reinterpret_cast<const float4*>(sums + token * Stage::PITCH + local);
        float v[4] = {sum.x, sum.y, sum.z, sum.w};
        scale_sums(p, v, undo, a_decode_scale(p, t, row), g_b, bias);
        activate(p, v);
        if (codes) {
          uint16_t* to = halves + token * Stage::HALF_PITCH + (gated ? local / 2 : local);
#pragma unroll
          for (int i = 0; i < 4; i++)
            if (i < o.count) to[i] = static_cast<uint16_t>(half_bits(DTYPE_BF16, v[i]));
        } else {
          store_values(p, o, base + row * p.out_row_stride, v);
        }
      }
    __syncthreads();
    if (codes) quantize_rows<THREADS>(p, t, halves, Stage::HALF_PITCH, first, end, o.cols, t.features * width / 16, width);
  }
  if (codes && t.row0 + TOKENS >= t.rows) {
    const int padded = static_cast<int>(rounded(t.rows, tile_rows(p.out_layout))) - t.row0;
    quantize_rows<THREADS>(p, t, halves, Stage::HALF_PITCH, here, padded, o.cols, t.features * width / 16, width);
  }
}

}  // namespace nvfp4
