// Many tokens of bfloat16 or float16 → NVFP4 rows in expert order by the plain rule, where rows are whole words; moe_quantize.cuh
// has the others. Rows that share a scale are quantized once, and their codes turned over to the lanes that store them; static
// scales one an expert quantize a token for each of its rows.
#pragma once
#include "moe_quantize.cuh"

namespace nvfp4 {

constexpr uint32_t EACH_WARPS = 16, SHARED_WARPS = 8;  // most of a CTA, by kernel

// The row and the expert of the lane's slot, and where the row's scales begin. Tiled: four bytes of a row lie apart in a tile;
// here they stand side by side in the memory of its tiles, and a launch behind this one makes tiles of them (turn_tiles).
struct TokenSlot {
  int32_t row;
  uint32_t expert, line;
  NVFP4_INLINE TokenSlot(const GatherRowsParams& g, uint32_t token, const uint32_t* tiles) : row(-1), expert(0), line(0) {
    const uint32_t lane = threadIdx.x & 31;
    const ScalesParams& s = g.rows.scales;
    const uint64_t at = uint64_t(token) * g.topk + lane;
    if (lane < g.topk) row = g.inverse[at];
    if (row < 0) return;
    expert = uint32_t(g.ids[at]) - g.first_expert;
    line = s.layout == LINEAR ? uint32_t(row) * uint32_t(s.row_stride) : (uint32_t(row) + tiles[expert]) * uint32_t(g.rows.cols / 16);
  }
};

// Brings blocks of a token, from `first` on, as far as L2, by a warp.
NVFP4_INLINE void prefetch_blocks(const RowsParams& p, uint32_t token, uint32_t first, uint32_t past) {
  constexpr uint32_t LINE = 4;  // blocks
  const char* const row = static_cast<const char*>(p.src.base) + 2 * (token * p.src.row_stride);
  for (uint32_t b = first + LINE * (threadIdx.x & 31); b < past; b += LINE * 32) ptx::prefetch(row + 32 * b);
}

// Rows that share a scale: a CTA a token, 64 blocks a warp.
template <class D>
NVFP4_INLINE void scatter_shared(const GatherRowsParams& g) {
  constexpr uint32_t NB = 2, BLOCKS = 32 * NB;
  __shared__ uint4 images[SHARED_WARPS][BLOCKS * 9 / 16];
  __shared__ uint32_t shared[32], tiles[MOST_EXPERTS];
  const RowsParams& p = g.rows;
  const uint32_t blocks = uint32_t(p.cols / 16), stride = uint32_t(p.codes_row_stride), lane = threadIdx.x & 31, warp = threadIdx.x / 32;
  const uint32_t first = BLOCKS * warp, past = min(first + BLOCKS, blocks), left = past - first;
  uint4* const words = ptx::keep_shared(images[warp]);
  uint2* const codes = reinterpret_cast<uint2*>(words);
  uint32_t* const quads = reinterpret_cast<uint32_t*>(words + BLOCKS / 2);
  uint8_t* const scales = reinterpret_cast<uint8_t*>(quads);
  ptx::wait_for_launches();
  ptx::allow_dependents();
  if (p.scales.layout != LINEAR) find_tiles(p, tiles, false);
  uint32_t faults = 0, turn = 0;
  Encode encode{};
  if (p.mode != MODE_ROW) {
    encode = encode_of(p, 0, 0);
    find_ties<D>(encode);
  }
#pragma unroll 1
  for (uint32_t token = blockIdx.x; token < g.tokens; token += gridDim.x) {
    if (token + gridDim.x < g.tokens) prefetch_blocks(p, token + gridDim.x, first, past);
    const uint64_t from = token * p.src.row_stride + 16 * first;
    Block<D> x[NB];
#pragma unroll
    for (uint32_t n = 0; n < NB; n++) {
      if (32 * n + lane < left) load_block<Reuse::ONCE>(x[n], p.src.base, from + 16 * (32 * n + lane));
      else clear(x[n]);
    }
    const TokenSlot slot(g, token, tiles);
    const uint32_t goes = ptx::warp_or(uint32_t(slot.row >= 0) << lane);
    if (!goes) continue;
    if (p.mode == MODE_ROW) {
      uint32_t m = 0;
#pragma unroll
      for (uint32_t n = 0; n < NB; n++) m = max(m, finite_magnitude(x[n], x[n].magnitude()));
      const float amax = __uint_as_float(token_max(m, shared, turn));
      if (warp == 0 && slot.row >= 0) p.decode[slot.row] = decode_scale_from_amax(amax);
      encode = encode_from_amax(amax);
      find_ties<D>(encode);
    }
#pragma unroll
    for (uint32_t n = 0; n < NB; n++) {
      const uint32_t c = 32 * n + lane;
      if (c >= left) continue;
      uint2 made;
      scales[c] = uint8_t(quantize_block<AMAX, true>(x[n], encode, made, faults));
      codes[c] = made;
    }
    __syncwarp();
    const uint4 word = words[lane];
    const uint32_t quad = quads[lane % (BLOCKS / 4)];
    uint8_t* const codes_at = p.codes + 8 * first + 16 * lane;
    uint8_t* const scales_at = p.scales.base + first + 4 * lane;
#pragma unroll 1
    for (uint32_t rest = goes; rest; rest &= rest - 1) {
      const uint32_t j = ptx::lowest_bit(rest), to = __shfl_sync(0xFFFFFFFFu, uint32_t(slot.row), j);
      const uint32_t line = __shfl_sync(0xFFFFFFFFu, slot.line, j);
      if (2 * lane < left) *reinterpret_cast<uint4*>(codes_at + uint64_t(to) * stride) = word;
      if (4 * lane < left) *reinterpret_cast<uint32_t*>(scales_at + line) = quad;
    }
    __syncwarp();
  }
  raise_fault_warp(p.fault, faults);
}

// What the scales of every local expert make of blocks: {inverse, sixth, scaled, ties}.
constexpr uint32_t TIES_INVALID = 0x88888888u;
template <class D>
NVFP4_INLINE void encode_experts(const RowsParams& p, uint4* encodes) {
  const uint32_t mantissa = threadIdx.x & 7;
#pragma unroll 1
  for (uint32_t first = 0; first < p.groups.count; first += blockDim.x / 8) {
    const uint32_t e = first + threadIdx.x / 8;
    Encode encode{};
    if (e < p.groups.count) encode = encode_of(p, e, 0);
    uint32_t ties = TIES_UNKNOWN;
    if constexpr (CUTS<D>) {
      ties = tie_class(encode, mantissa) << 4 * mantissa;
#pragma unroll
      for (uint32_t d = 1; d < 8; d *= 2) ties |= __shfl_xor_sync(0xFFFFFFFFu, ties, d);
    }
    if (encode.invalid) ties |= TIES_INVALID;
    if (e < p.groups.count && mantissa == 0)
      encodes[e] = make_uint4(__float_as_uint(encode.inverse), __float_as_uint(encode.sixth), __float_as_uint(encode.scaled), ties);
  }
  __syncthreads();
}

// A block that is encoded more than once: its values as floats where products are cut. `inverse()`: of an Encode without it, for
// the few blocks that take the long way.
template <class D, bool CUT = CUTS<D>> struct Held {
  Block<D> x;
  NVFP4_INLINE Held(const Block<D>& x) : x(x) {}
  template <class Inverse> NVFP4_INLINE uint32_t quantize(Encode e, uint2& codes, uint32_t& faults, Inverse inverse) const {
    e.inverse = inverse();
    e.invalid = e.ties >= TIES_INVALID;
    return quantize_block<AMAX>(x, e, codes, faults);
  }
};
template <class D> struct Held<D, true> {
  float v[16], amax;
  NVFP4_INLINE Held(const Block<D>& x) : amax(x.amax()) {
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = ptx::keep(x.value(i));
  }
  template <class Inverse> NVFP4_INLINE uint32_t quantize(Encode e, uint2& codes, uint32_t& faults, Inverse inverse) const {
    uint32_t scale;
    if (__builtin_expect(cut_block(v, e, amax, codes, scale), 1)) return scale;
    e.inverse = inverse();
    e.invalid = e.ties >= TIES_INVALID;
    Block<D> x;
#pragma unroll
    for (int i = 0; i < 8; i++) x.w[i] = __byte_perm(__float_as_uint(v[2 * i]), __float_as_uint(v[2 * i + 1]), 0x7632);
    return quantize_block<AMAX>(x, e, codes, faults);
  }
};

// What a warp's slots need, those that go anywhere one behind another.
struct SlotsOfWarp {
  uint4 scale[32];  // sixth, scaled, ties, line
  uint32_t row[32], expert[32];
};

// Static scales one an expert: a warp a token.
template <class D>
NVFP4_INLINE void scatter_each(const GatherRowsParams& g) {
  __shared__ uint4 encodes[MOST_EXPERTS];
  __shared__ uint32_t tiles[MOST_EXPERTS];
  __shared__ SlotsOfWarp slots[EACH_WARPS];
  const RowsParams& p = g.rows;
  const uint32_t blocks = uint32_t(p.cols / 16), stride = uint32_t(p.codes_row_stride), lane = threadIdx.x & 31;
  SlotsOfWarp& mine = *ptx::keep_shared(&slots[threadIdx.x / 32]);
  ptx::wait_for_launches();
  ptx::allow_dependents();
  const uint32_t step = gridDim.x * EACH_WARPS;
  uint32_t token = blockIdx.x * EACH_WARPS + threadIdx.x / 32;
  if (token < g.tokens) prefetch_blocks(p, token, 0, blocks);
  if (p.scales.layout != LINEAR) find_tiles(p, tiles, false);
  encode_experts<D>(p, encodes);
  uint32_t faults = 0;
#pragma unroll 1
  for (; token < g.tokens; token += step) {
    if (token + step < g.tokens) prefetch_blocks(p, token + step, 0, blocks);
    const uint64_t from = token * p.src.row_stride;
    const TokenSlot slot(g, token, tiles);
    const uint32_t goes = ptx::warp_or(uint32_t(slot.row >= 0) << lane), count = __popc(goes);
    if (slot.row >= 0) {
      const uint32_t at = __popc(goes & (1u << lane) - 1);
      const uint4 e = encodes[slot.expert];
      mine.scale[at] = make_uint4(e.y, e.z, e.w, slot.line);
      mine.row[at] = uint32_t(slot.row);
      mine.expert[at] = slot.expert;
    }
    __syncwarp();
#pragma unroll 1
    for (uint32_t b = lane; b < blocks && count; b += 32) {
      Block<D> x;
      load_block<Reuse::ONCE>(x, p.src.base, from + 16 * b);
      const Held<D> held(x);
      uint8_t* const codes_at = ptx::keep_global(p.codes + 8 * b);
      uint8_t* const scales_at = ptx::keep_global(p.scales.base + b);
#pragma unroll 1
      for (uint32_t j = 0; j < count; j++) {
        const uint4 s = mine.scale[j];
        uint2 codes;
        const uint32_t scale = held.quantize(Encode{0.f, __uint_as_float(s.x), false, __uint_as_float(s.y), s.z}, codes, faults,
                                             [&] { return __uint_as_float(encodes[mine.expert[j]].x); });
        *reinterpret_cast<uint2*>(codes_at + uint64_t(mine.row[j]) * stride) = codes;
        scales_at[s.w] = uint8_t(scale);
      }
    }
    __syncwarp();
  }
  raise_fault_warp(p.fault, faults);
}

// ---- behind either of them

// Rows of scales → tiles, in place: a CTA holds all rows of a tile's height, a thread four of them × four words of each. Zeros
// behind the rows of an expert.
template <uint32_t HEIGHT>
NVFP4_INLINE void turn_tiles(const GatherRowsParams& g) {
  constexpr uint32_t QUADS = HEIGHT / 4, APART = HEIGHT == 128 ? 32 : 1, EACH = 2;
  const RowsParams& p = g.rows;
  const uint32_t across = uint32_t(p.cols / 64);
  ptx::allow_dependents();
  // The sort had ended before the launch in front began.
  SpanFinder finder(p.groups, HEIGHT);
  Span span;
  const bool here = finder.find(uint64_t(blockIdx.x) * HEIGHT, span);
  ptx::wait_for_launches();
  if (!here) return;
  const uint32_t above = blockIdx.x * HEIGHT - uint32_t(span.first_scale_row), rows = uint32_t(span.rows);
  uint32_t* const base = reinterpret_cast<uint32_t*>(p.scales.base) + uint64_t(blockIdx.x) * HEIGHT * across;
  // The quad of rows and the word of the thread's unit `i`: a warp has whole sectors of both, up to 8 quads × 4 words or more.
  const auto quad_of = [](uint32_t unit) { return QUADS > 8 ? unit % 8 + unit / 32 % (QUADS / 8) * 8 : unit % QUADS; };
  const auto word_of = [](uint32_t unit) { return 4 * (QUADS > 8 ? unit / 8 % 4 + unit / (4 * QUADS) * 4 : unit / QUADS); };
  uint4 v[EACH][4];
#pragma unroll
  for (uint32_t i = 0; i < EACH; i++) {
    const uint32_t unit = i * blockDim.x + threadIdx.x, c = word_of(unit);
#pragma unroll
    for (uint32_t q = 0; q < 4; q++) {
      const uint32_t r = quad_of(unit) * (APART == 1 ? 4 : 1) + q * APART;
      v[i][q] = make_uint4(0, 0, 0, 0);
      if (c < across && above + r < rows) v[i][q] = *reinterpret_cast<const uint4*>(base + r * across + c);
    }
  }
  __syncthreads();
#pragma unroll
  for (uint32_t i = 0; i < EACH; i++) {
    const uint32_t unit = i * blockDim.x + threadIdx.x, c = word_of(unit);
    if (c >= across) continue;
    uint4* const to = reinterpret_cast<uint4*>(base + c * HEIGHT + 4 * quad_of(unit));
    to[0] = make_uint4(v[i][0].x, v[i][1].x, v[i][2].x, v[i][3].x);
    to[HEIGHT / 4] = make_uint4(v[i][0].y, v[i][1].y, v[i][2].y, v[i][3].y);
    to[HEIGHT / 2] = make_uint4(v[i][0].z, v[i][1].z, v[i][2].z, v[i][3].z);
    to[3 * HEIGHT / 4] = make_uint4(v[i][0].w, v[i][1].w, v[i][2].w, v[i][3].w);
  }
}

}  // namespace nvfp4
