// Rows → NVFP4: what the kernels of quantize.cu, norm.cu and swiglu.cu share. Twin of src/backend/cpu/rows.rs.
//
// Three ways through a call, chosen by src/backend/cuda/rows.rs:
//  tile_pass    a block a thread, no row ever seen as a whole: known decode scales, or the amax of larger scopes.
//               A warp takes one row (linear) or the rows and columns whose scales fill one 32-byte sector (tiled).
//  cached_rows  a CTA holds whole rows in registers: scales per row, norms. Up to 1024 blocks a row.
//  general_rows a CTA walks a row chunk by chunk and looks again where it must: any length, alignment, dtype, producer.
// All three walk the padded row space of groups.cuh, so that the padding of tiles has an owner: who owns the row.
#pragma once
#include "format.cuh"
#include "groups.cuh"

namespace nvfp4 {

// ---------------------------------------------------------------- memory

enum class Reuse { ONCE, SOON, OURS };  // read once; read again by the next pass; written by this kernel

template <Reuse REUSE, class D>
NVFP4_INLINE void load_block(Block<D>& b, const void* base, uint64_t element) {
  const char* at = static_cast<const char*>(base) + element * D::BYTES;
#pragma unroll
  for (int i = 0; i < Block<D>::WORDS / 4; i++) {
    uint4 v;
    if constexpr (REUSE == Reuse::ONCE) v = ptx::load_once(at + 16 * i);
    else if constexpr (REUSE == Reuse::SOON) v = ptx::load_keep(at + 16 * i);
    else v = *reinterpret_cast<const uint4*>(at + 16 * i);
    b.w[4 * i] = v.x;
    b.w[4 * i + 1] = v.y;
    b.w[4 * i + 2] = v.z;
    b.w[4 * i + 3] = v.w;
  }
}

// The 8 values that start at `element`, as the half `half` of a 16-bit block or of an f32 one.
template <class D>
NVFP4_INLINE void load_half(Block<D>& b, int half, const void* base, uint64_t element) {
  const char* at = static_cast<const char*>(base) + element * D::BYTES;
#pragma unroll
  for (int i = 0; i < Block<D>::WORDS / 8; i++) {
    const uint4 v = ptx::load_once(at + 16 * i);
    uint32_t* w = b.w + half * (Block<D>::WORDS / 2) + 4 * i;
    w[0] = v.x;
    w[1] = v.y;
    w[2] = v.z;
    w[3] = v.w;
  }
}

// Stores a copy of a block; NaNs leave as the canonical one.
template <class D>
NVFP4_INLINE void store_block(const Block<D>& b, void* base, uint64_t element, uint32_t magnitude) {
  Block<D> out = b;
  if (magnitude >= INFINITY_BITS) out.canonicalise();
  char* at = static_cast<char*>(base) + element * D::BYTES;
#pragma unroll
  for (int i = 0; i < Block<D>::WORDS / 4; i++)
    *reinterpret_cast<uint4*>(at + 16 * i) = make_uint4(out.w[4 * i], out.w[4 * i + 1], out.w[4 * i + 2], out.w[4 * i + 3]);
}

template <class D>
NVFP4_INLINE void clear(Block<D>& b) {
#pragma unroll
  for (int i = 0; i < Block<D>::WORDS; i++) b.w[i] = 0;
}

// Where the scale byte of row `r` of a span, column `c` lies; `tiles` = ceil(blocks / 4).
NVFP4_INLINE uint8_t* scale_address(const ScalesParams& s, const Span& span, uint64_t r, uint64_t c, uint64_t tiles) {
  return s.layout == LINEAR ? s.base + (span.first_row + r) * s.row_stride + c
                            : s.base + tiled_offset(s.layout, span.first_scale_row + r, c, tiles);
}

NVFP4_INLINE Encode encode_of(const RowsParams& p, uint32_t group, uint64_t logical) {
  const uint64_t i = p.scope == SCOPE_TENSOR ? 0 : p.scope == SCOPE_GROUP ? group : logical;
  if (p.mode == MODE_STATIC) return encode_from_static(p.decode ? p.decode[i] : 1.f);
  return encode_from_amax(p.decode[i]);
}

// Joins the amax of a CTA's rows into a slot: by one thread, and only where it raises it.
NVFP4_INLINE void raise_slot(float* slot, uint32_t bits) {
  uint32_t* p = reinterpret_cast<uint32_t*>(slot);
  if (bits > *reinterpret_cast<volatile uint32_t*>(p)) atomicMax(p, bits);
}

NVFP4_INLINE uint64_t min_u64(uint64_t a, uint64_t b) { return a < b ? a : b; }

// Largest value of the CTA, for all its threads. `shared`: 32 words.
NVFP4_INLINE uint32_t cta_max(uint32_t v, uint32_t* shared) {
  const uint32_t lane = threadIdx.x & 31, warps = blockDim.x >> 5;
  v = ptx::warp_max(v);
  __syncthreads();
  if (lane == 0) shared[threadIdx.x >> 5] = v;
  __syncthreads();
  return ptx::warp_max(lane < warps ? shared[lane] : 0);
}

// ---------------------------------------------------------------- producers of blocks

// Values as they stand.
template <class D>
struct PlainBlock {
  static constexpr uint32_t PRODUCER = PLAIN;
  Block<D> x;
  NVFP4_INLINE void load(const RowsParams& p, uint64_t row, uint32_t b) {
    if (p.mode == MODE_FIND_AMAX) load_block<Reuse::SOON>(x, p.src.base, row + 16ull * b);
    else load_block<Reuse::ONCE>(x, p.src.base, row + 16ull * b);
  }
  NVFP4_INLINE const Block<D>& make(const RowsParams&, uint64_t, uint32_t) { return x; }
};

// Gate and up, or what else an activation takes; `make` turns them into its result.
template <class D>
struct GatedBlock {
  static constexpr uint32_t PRODUCER = SWIGLU;
  Block<D> x, up;
  NVFP4_INLINE void load(const RowsParams& p, uint64_t row, uint32_t b) {
    const uint64_t col = 16ull * b;
    if (p.producer == SWIGLU && p.interleaved) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        load_half(x, h, p.src.base, row + 2 * col + 16 * h);
        load_half(up, h, p.src.base, row + 2 * col + 16 * h + 8);
      }
    } else if (p.producer == IDENTITY && p.interleaved) {
      const uint64_t width = p.cols / 2;
      const uint64_t at = row + (col < width ? 2 * col : 2 * (col - width) + 8);
      load_half(x, 0, p.src.base, at);
      load_half(x, 1, p.src.base, at + 16);
    } else {
      load_block<Reuse::ONCE>(x, p.src.base, row + col);
      if (p.producer == SWIGLU) load_block<Reuse::ONCE>(up, p.src.base, row + p.cols + col);
    }
  }
  NVFP4_INLINE const Block<D>& make(const RowsParams& p, uint64_t logical, uint32_t b) {
    if (p.producer == SWIGLU) {
      const SwiGlu s{p.limit, p.alpha, p.beta};
      if (is_tame(x, s)) {
#pragma unroll
        for (int i = 0; i < 8; i++)
          x.set(i, swiglu_tame(x.value(2 * i), up.value(2 * i), s), swiglu_tame(x.value(2 * i + 1), up.value(2 * i + 1), s));
      } else {
        slow(s);
      }
    } else if (p.producer == RELU2) {
#pragma unroll
      for (int i = 0; i < 8; i++) x.set(i, relu2(x.value(2 * i)), relu2(x.value(2 * i + 1)));
    }
    if (p.first && p.copy.base)
      store_block(x, p.copy.base, logical * p.copy.row_stride + 16ull * b, x.magnitude());
    return x;
  }

 private:
  // Any gates. Out of line, so that the rare case costs the others no registers.
  NVFP4_INLINE void slow(const SwiGlu& s) {
#pragma unroll
    for (int i = 0; i < 8; i++)
      x.set(i, plain(x.value(2 * i), up.value(2 * i), s.limit, s.alpha, s.beta),
            plain(x.value(2 * i + 1), up.value(2 * i + 1), s.limit, s.alpha, s.beta));
  }
  static NVFP4_NOINLINE float plain(float gate, float up, float limit, float alpha, float beta) {
    return swiglu(gate, up, SwiGlu{limit, alpha, beta});
  }
};

// ---------------------------------------------------------------- tile_pass

constexpr uint32_t FIND_AMAX = 0xFF;  // in place of a rule: nothing is quantized

// A block a thread. grid.x: CTAs across one tile's rows and columns, grid.y: tiles (walked on by gridDim.y).
// 128x4: a warp takes rows 2i, 2i+1 of each 32-row quarter × 4 columns: 128-byte lines in, 32-byte sectors out, the
// scales one whole sector. 8x4: 8 rows × 4 columns, a sector again. Linear: one row × 32 columns.
template <class Source, class D, uint32_t RULE, int STEPS>
NVFP4_INLINE void tile_pass(const RowsParams& p) {
  const uint32_t lane = threadIdx.x & 31, layout = RULE == FIND_AMAX ? uint32_t(LINEAR) : p.scales.layout;
  const uint32_t height = tile_rows(layout), blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2;
  const uint32_t columns = layout == LINEAR ? (blocks + 31) >> 5 : tiles, lane_shift = layout == LINEAR ? 5 : 2;
  const uint32_t chunks = (columns + p.steps - 1) / p.steps;
  const uint32_t w = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5);
  const uint32_t rows_index = w / chunks, chunk = w - rows_index * chunks;
  const bool active = rows_index < (layout == TILED_128X4 ? 16u : 1u);
  const uint32_t in_lane = lane >> lane_shift;
  const uint32_t in_tile = layout == TILED_128X4 ? (in_lane >> 1) * 32 + 2 * rows_index + (in_lane & 1) : in_lane;
  const uint32_t first_column = chunk * p.steps;
  const uint64_t count = p.scale_rows / height;

  SpanFinder finder(p.groups, height);
  if (p.fault && blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
  uint32_t faults = 0, largest = 0;
  __shared__ uint32_t shared[32];

#pragma unroll 1
  for (uint64_t t = blockIdx.y; t < count; t += gridDim.y) {
    // The second look at a tensor starts where the first ended: that part still is in the L2 cache.
    const uint64_t tile = p.mode == MODE_FROM_AMAX && p.groups.kind == GROUPS_NONE ? count - 1 - t : t;
    Span span;
    if (!finder.find(tile * height, span)) continue;
    const uint64_t r = tile * height + in_tile - span.first_scale_row;
    const bool valid = active && r < span.rows;
    const uint64_t row = row_offset(p.src, p.groups, span, r);

    Source source[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const uint32_t b = (first_column + s << lane_shift) + (lane & ((1u << lane_shift) - 1));
      if (s < p.steps && valid && b < blocks) source[s].load(p, row, b);
    }
    Encode encode{};
    if (RULE != FIND_AMAX && valid) encode = encode_of(p, span.group, span.first_row + r);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const uint32_t b = (first_column + s << lane_shift) + (lane & ((1u << lane_shift) - 1));
      if (s >= p.steps || !active) continue;
      const bool here = valid && b < blocks;
      if constexpr (RULE == FIND_AMAX) {
        if (here) {
          const Block<D>& x = source[s].make(p, span.first_row + r, b);
          largest = max(largest, finite_magnitude(x, x.magnitude()));
        }
      } else {
        uint32_t scale = 0;
        if (here) {
          uint2 codes;
          scale = quantize_block<RULE>(source[s].make(p, span.first_row + r, b), encode, codes, faults);
          *reinterpret_cast<uint2*>(p.codes + (span.first_row + r) * p.codes_row_stride + 8ull * b) = codes;
        }
        if (layout == LINEAR ? here : b < tiles * 4) *scale_address(p.scales, span, r, b, tiles) = uint8_t(scale);
      }
    }
    if constexpr (RULE == FIND_AMAX) {
      if (p.scope == SCOPE_GROUP) {  // the next row may belong to another group
        const uint32_t m = cta_max(largest, shared);
        if (threadIdx.x == 0) raise_slot(p.decode + span.group, m);
        largest = 0;
      }
    }
  }
  if constexpr (RULE == FIND_AMAX) {
    const uint32_t m = cta_max(largest, shared);
    if (threadIdx.x == 0 && p.scope == SCOPE_TENSOR) raise_slot(p.decode, m);
  } else {
    raise_fault_warp(p.fault, faults);
  }
}

// ---------------------------------------------------------------- cached_rows

// Eight values of a norm's weight from `at` on, widened, the offset added.
NVFP4_INLINE void load_weight(float (&weight)[8], const RowsParams& p, uint64_t at) {
  const char* base = static_cast<const char*>(p.weight);
  if (p.weight_dtype == DTYPE_F32) {
    const uint4 a = *reinterpret_cast<const uint4*>(base + 4 * at), b = *reinterpret_cast<const uint4*>(base + 4 * at + 16);
    const uint32_t w[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 8; i++) weight[i] = __fadd_rn(__uint_as_float(w[i]), p.weight_offset);
  } else {
    const uint4 a = *reinterpret_cast<const uint4*>(base + 2 * at);
    const uint32_t w[4] = {a.x, a.y, a.z, a.w};
    const bool bf16 = p.weight_dtype == DTYPE_BF16;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      weight[2 * i] = __fadd_rn(bf16 ? Bf16::low(w[i]) : F16::low(w[i]), p.weight_offset);
      weight[2 * i + 1] = __fadd_rn(bf16 ? Bf16::high(w[i]) : F16::high(w[i]), p.weight_offset);
    }
  }
}

// x of one block of a norm: as it is, with the residual added (and written back), or mixed from streams.
template <class D, uint32_t PRODUCER>
NVFP4_INLINE void load_norm_input(Block<D>& x, const RowsParams& p, uint64_t row, uint32_t b) {
  const uint64_t col = 16ull * b;
  if constexpr (PRODUCER == HYPER) {
    float acc[16];
#pragma unroll 1
    for (uint32_t l = 0; l < p.streams; l++) {
      const float mix = p.mix[row * p.mix_row_stride + l];
      load_block<Reuse::SOON>(x, p.src.base, row * p.src.row_stride + l * p.stream_stride + col);
#pragma unroll
      for (int i = 0; i < 16; i++) acc[i] = l == 0 ? __fmul_rn(mix, x.value(i)) : __fmaf_rn(mix, x.value(i), acc[i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++) x.set(i, acc[2 * i], acc[2 * i + 1]);
    if (p.first && p.copy.base) store_block(x, p.copy.base, row * p.copy.row_stride + col, x.magnitude());
  } else if (p.copy.base == nullptr) {
    load_block<Reuse::ONCE>(x, p.src.base, row * p.src.row_stride + col);
  } else {
    const uint64_t at = row * p.copy.row_stride + col;
    Block<D> old;
    load_block<Reuse::OURS>(old, p.copy.base, at);
    if (!p.first) {
      x = old;
      return;
    }
    load_block<Reuse::ONCE>(x, p.src.base, row * p.src.row_stride + col);
#pragma unroll
    for (int i = 0; i < 8; i++)
      x.set(i, __fadd_rn(old.value(2 * i), x.value(2 * i)), __fadd_rn(old.value(2 * i + 1), x.value(2 * i + 1)));
    store_block(x, p.copy.base, at, x.magnitude());
  }
}

// One float a row from one float a warp and chunk, for every lane: by the padded tree, or the largest.
// R rows share a warp: 32 / R lanes a row hold up to 32 / R · LEAVES values. `parts`: [R][32].
template <int R, bool SUM>
NVFP4_INLINE float join_parts(const float (&parts)[R][32], uint32_t count) {
  constexpr int LANES = 32 / R, LEAVES = R == 1 ? 1 : 2;
  const uint32_t lane = threadIdx.x & 31, row = lane / LANES, j = lane % LANES;
  float v = LEAVES * j < count ? parts[row][LEAVES * j] : 0.f;
  if constexpr (LEAVES == 2) {
    const float next = 2 * j + 1 < count ? parts[row][2 * j + 1] : 0.f;
    v = SUM ? __fadd_rn(v, next) : fmaxf(v, next);
  }
#pragma unroll
  for (int d = 1; d < LANES; d *= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, v, d);
    v = SUM ? __fadd_rn(v, other) : fmaxf(v, other);
  }
  return v;
}

template <int R>
NVFP4_INLINE float of_row(float v, int q) {
  return R == 1 ? v : __shfl_sync(0xFFFFFFFFu, v, q * (32 / R));
}

// R rows a CTA, NB blocks a thread: block n · blockDim + thread of each row. R = 4 (128x4 only): rows i, i + 32, i + 64,
// i + 96 of a tile, whose scales lie side by side, 16 bytes a column group. R = 1: any layout.
// PRODUCER: PLAIN, SWIGLU (any gated one), NORM or HYPER. RULE: AMAX, or FIND_AMAX for 'as p.rule says'.
template <class Source, class D, uint32_t PRODUCER, uint32_t RULE, int R, int NB>
NVFP4_INLINE void cached_rows(const RowsParams& p) {
  constexpr bool NORMED = PRODUCER == NORM || PRODUCER == HYPER;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2, layout = p.scales.layout;
  const uint32_t height = R == 4 ? 128 : tile_rows(layout), parts_count = (blocks + 31) >> 5;
  const uint64_t units = p.scale_rows / R;
  __shared__ float sums[R][32], peaks[R][32];

  SpanFinder finder(p.groups, height);
  if (blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint64_t scale_row = R == 4 ? (unit >> 5) * 128 + (unit & 31) : unit;
    Span span;
    if (!finder.find(scale_row, span)) continue;
    // Rows r0 + 32 q, of which the first `have` belong to the group; the others pad its last tile.
    const uint64_t r0 = scale_row - span.first_scale_row, logical = span.first_row + r0;
    const uint32_t have = r0 >= span.rows ? 0 : uint32_t(min_u64((span.rows - r0 + 31) / 32, R));
    const uint32_t group = span.group;
    const uint64_t src_row = PRODUCER == NORM || PRODUCER == HYPER ? 0 : row_offset(p.src, p.groups, span, r0);
    uint8_t* const scales_at = R == 4 ? p.scales.base + tiled_offset(TILED_128X4, scale_row, 0, tiles)
                               : layout == LINEAR ? p.scales.base + logical * p.scales.row_stride
                                                  : p.scales.base + tiled_offset(layout, scale_row, 0, tiles);

    Block<D> x[R][NB];
    if (have) {
#pragma unroll
      for (int n = 0; n < NB; n++) {
        const uint32_t b = n * blockDim.x + threadIdx.x;
        if constexpr (NORMED) {
#pragma unroll
          for (int q = 0; q < R; q++) {
            if (b < blocks && q < have) load_norm_input<D, PRODUCER>(x[q][n], p, logical + 32 * q, b);
            else clear(x[q][n]);
          }
        } else if constexpr (PRODUCER == PLAIN) {
#pragma unroll
          for (int q = 0; q < R; q++) {
            clear(x[q][n]);
            if (b < blocks && q < have) load_block<Reuse::ONCE>(x[q][n], p.src.base, src_row + 32 * q * p.src.row_stride + 16ull * b);
          }
        } else {
          Source source[R];
#pragma unroll
          for (int q = 0; q < R; q++)
            if (b < blocks && q < have) source[q].load(p, src_row + 32 * q * p.src.row_stride, b);
#pragma unroll
          for (int q = 0; q < R; q++) {
            if (b < blocks && q < have) x[q][n] = source[q].make(p, logical + 32 * q, b);
            else clear(x[q][n]);
          }
        }
      }

      if constexpr (NORMED) {
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
          for (int q = 0; q < R; q++) {
            const float part = pair_sum(square_sum(x[q][n]));
            if (lane == 0) sums[q][n * warps + warp] = part;
          }
        __syncthreads();
        const float inv = inverse_rms(join_parts<R, true>(sums, parts_count), p.cols, p.eps);
        if (p.inv_rms && p.first && threadIdx.x % (32 / R) == 0 && threadIdx.x < 32) {
          const uint32_t q = threadIdx.x / (32 / R);
          if (q < have) p.inv_rms[logical + 32 * q] = inv;
        }
#pragma unroll
        for (int n = 0; n < NB; n++) {
          const uint32_t b = n * blockDim.x + threadIdx.x;
#pragma unroll
          for (int h = 0; h < 2; h++) {  // half a block of weights at a time: registers
            float weight[8];
            if (b < blocks) load_weight(weight, p, 16ull * b + 8 * h);
#pragma unroll
            for (int q = 0; q < R; q++) {
              const float mine = of_row<R>(inv, q);
              if (b >= blocks || q >= have) continue;
#pragma unroll
              for (int i = 0; i < 4; i++) {
                Block<D>& y = x[q][n];
                const int j = 4 * h + i;
                y.set(j, __fmul_rn(__fmul_rn(y.value(2 * j), mine), weight[2 * i]),
                      __fmul_rn(__fmul_rn(y.value(2 * j + 1), mine), weight[2 * i + 1]));
              }
            }
          }
          if (p.normed.base && p.first) {
#pragma unroll
            for (int q = 0; q < R; q++)
              if (b < blocks && q < have)
                store_block(x[q][n], p.normed.base, (logical + 32 * q) * p.normed.row_stride + 16ull * b, x[q][n].magnitude());
          }
        }
      }
    }

    // One encode scale a row; lane q · 32/R and its neighbours hold row q's.
    Encode mine{1.f, 0.f, false};
    if (have) {
      const uint32_t row = lane / (32 / R);
      if (p.mode == MODE_ROW) {
#pragma unroll
        for (int q = 0; q < R; q++) {
          uint32_t m = 0;
#pragma unroll
          for (int n = 0; n < NB; n++) m = max(m, finite_magnitude(x[q][n], x[q][n].magnitude()));
          m = ptx::warp_max(m);
          if (lane == 0) peaks[q][warp] = __uint_as_float(m);
        }
        __syncthreads();
        const float amax = join_parts<R, false>(peaks, warps);
        mine = encode_from_amax(amax);
        if (threadIdx.x < 32 && lane % (32 / R) == 0 && row < have) p.decode[logical + 32 * row] = decode_scale_from_amax(amax);
      } else if (row < have) {
        mine = encode_of(p, group, logical + 32 * row);
      }
    }

#pragma unroll
    for (int n = 0; n < NB; n++) {
      const uint32_t b = n * blockDim.x + threadIdx.x;
      uint32_t scales = 0;  // byte q: row q's
#pragma unroll
      for (int q = 0; q < R; q++) {
        const Encode e{of_row<R>(mine.inverse, q), of_row<R>(mine.sixth, q),
                       R == 1 ? mine.invalid : bool(__shfl_sync(0xFFFFFFFFu, int(mine.invalid), q * (32 / R)))};
        if (b >= blocks || q >= have) continue;
        uint2 codes;
        uint32_t scale;
        if constexpr (RULE == AMAX) scale = quantize_block<AMAX>(x[q][n], e, codes, faults);
        else scale = quantize_block_any(p.rule, x[q][n], e, codes, faults);
        *reinterpret_cast<uint2*>(p.codes + (logical + 32 * q) * p.codes_row_stride + 8ull * b) = codes;
        scales |= scale << 8 * q;
      }
      if constexpr (R == 1) {
        const uint64_t across = layout == TILED_128X4 ? (b >> 2) * 512ull : (b >> 2) * 32ull;
        if (layout == LINEAR ? b < blocks && have : b < tiles * 4)
          scales_at[layout == LINEAR ? b : across + (b & 3)] = uint8_t(scales);
      } else {
        // Four lanes hold 4 × 4 bytes, a column each: turned over, a lane holds a row's four.
        const uint32_t one = __shfl_xor_sync(0xFFFFFFFFu, scales, 1);
        const uint32_t pair = lane & 1 ? __byte_perm(one, scales, 0x7351) : __byte_perm(scales, one, 0x6240);
        const uint32_t two = __shfl_xor_sync(0xFFFFFFFFu, pair, 2);
        const uint32_t word = lane & 2 ? __byte_perm(two, pair, 0x7632) : __byte_perm(pair, two, 0x5410);
        // Lanes hold rows 0, 1, 2, 3 of their group in order.
        if ((b & ~3u) < tiles * 4)
          *reinterpret_cast<uint32_t*>(scales_at + (b >> 2) * 512ull + (lane & 3) * 4) = word;
      }
    }
    if (p.groups.kind != GROUPS_NONE || gridDim.x < units) __syncthreads();  // before the next rows use the arrays
  }
  raise_fault_warp(p.fault, faults);
}

// ---------------------------------------------------------------- general_rows

// 16 values of any dtype at any element, widened; 16 bytes at a time where they lie so.
NVFP4_INLINE void load_values(float (&v)[16], uint32_t dtype, const void* base, uint64_t element) {
  const char* at = static_cast<const char*>(base) + element * (dtype == DTYPE_F32 ? 4 : 2);
  if (reinterpret_cast<uintptr_t>(at) & 15) {
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = load_element(dtype, base, element + i);
  } else if (dtype == DTYPE_F32) {
    Block<F32> b;
    load_block<Reuse::OURS>(b, at, 0);
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = b.value(i);
  } else {
    Block<Bf16> b;
    load_block<Reuse::OURS>(b, at, 0);
#pragma unroll
    for (int i = 0; i < 16; i++)
      v[i] = dtype == DTYPE_BF16 ? b.value(i) : i & 1 ? F16::high(b.w[i >> 1]) : F16::low(b.w[i >> 1]);
  }
}

NVFP4_INLINE void store_values(const float (&v)[16], uint32_t dtype, void* base, uint64_t element) {
#pragma unroll
  for (int i = 0; i < 16; i++) store_element(dtype, base, element + i, v[i]);
}

// What a norm is taken of: row `row`, block `b`. `first`: make it and store what is stored; else read or repeat it.
NVFP4_INLINE void norm_input(float (&v)[16], const RowsParams& p, uint64_t row, uint64_t b, bool first) {
  const uint64_t col = 16 * b, at = row * p.copy.row_stride + col;
  if (p.producer == HYPER) {
    for (uint32_t l = 0; l < p.streams; l++) {
      const float mix = p.mix[row * p.mix_row_stride + l];
      float x[16];
      load_values(x, p.dtype, p.src.base, row * p.src.row_stride + l * p.stream_stride + col);
#pragma unroll
      for (int i = 0; i < 16; i++) v[i] = l == 0 ? __fmul_rn(mix, x[i]) : __fmaf_rn(mix, x[i], v[i]);
    }
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = round_to(p.dtype, v[i]);
    if (first && p.copy.base) store_values(v, p.dtype, p.copy.base, at);
  } else if (p.copy.base == nullptr) {
    load_values(v, p.dtype, p.src.base, row * p.src.row_stride + col);
  } else {
    load_values(v, p.dtype, p.copy.base, at);
    if (!first) return;
    float x[16];
    load_values(x, p.dtype, p.src.base, row * p.src.row_stride + col);
#pragma unroll
    for (int i = 0; i < 16; i++) v[i] = round_to(p.dtype, __fadd_rn(v[i], x[i]));
    store_values(v, p.dtype, p.copy.base, at);
  }
}

// Column `col` of gate (or up), each `width` columns wide.
NVFP4_INLINE float load_gated(const RowsParams& p, uint64_t row, bool up, uint64_t width, uint64_t col) {
  const uint64_t at = p.interleaved ? col / 8 * 16 + up * 8 + col % 8 : up * width + col;
  return load_element(p.dtype, p.src.base, row + at);
}

// The values of block `b` as they are quantized. `inv`: of a norm's row. `first`: write the copies too.
NVFP4_INLINE void general_block(float (&v)[16], const RowsParams& p, const Span& span, uint64_t r, uint64_t b, float inv, bool first) {
  const uint64_t col = 16 * b, row = row_offset(p.src, p.groups, span, r), logical = span.first_row + r;
  switch (p.producer) {
    case PLAIN:
      return load_values(v, p.dtype, p.src.base, row + col);
    case TRANSPOSED: {
      const uint64_t at = p.groups.kind == GROUPS_STRIDED ? span.group * p.src.group_stride + r : logical;
#pragma unroll
      for (int i = 0; i < 16; i++) v[i] = load_element(p.dtype, p.src.base, at + (col + i) * p.src.row_stride);
      return;
    }
    case NORM:
    case HYPER: {
      norm_input(v, p, logical, b, false);
      float weight[16];
      load_values(weight, p.weight_dtype, p.weight, col);
#pragma unroll
      for (int i = 0; i < 16; i++)
        v[i] = round_to(p.dtype, __fmul_rn(__fmul_rn(v[i], inv), __fadd_rn(weight[i], p.weight_offset)));
      if (first && p.normed.base) store_values(v, p.dtype, p.normed.base, logical * p.normed.row_stride + col);
      return;
    }
    default: {
      const SwiGlu s{p.limit, p.alpha, p.beta};
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const uint64_t c = col + i, width = p.cols / 2;
        float x;
        if (p.producer == SWIGLU) x = swiglu(load_gated(p, row, false, p.cols, c), load_gated(p, row, true, p.cols, c), s);
        else if (p.producer == RELU2) x = relu2(load_element(p.dtype, p.src.base, row + c));
        else x = load_gated(p, row, c >= width, width, c >= width ? c - width : c);
        v[i] = round_to(p.dtype, x);
      }
      if (first && p.copy.base) store_values(v, p.dtype, p.copy.base, logical * p.copy.row_stride + col);
    }
  }
}

constexpr uint32_t GENERAL_THREADS = 256;

// 1/RMS of a row: a CTA's subtrees of 256 blocks, joined by a binary counter as the padded tree would.
NVFP4_INLINE float general_inverse_rms(const RowsParams& p, uint64_t row, bool first) {
  __shared__ float parts[GENERAL_THREADS / 32], level[40], result;
  const uint32_t lane = threadIdx.x & 31;
  const uint64_t blocks = p.cols / 16;
  uint64_t pushed = 0;
  for (uint64_t base = 0; base < blocks; base += GENERAL_THREADS) {
    float v[16], acc = 0.f;
    if (base + threadIdx.x < blocks) {
      norm_input(v, p, row, base + threadIdx.x, first);
#pragma unroll
      for (int i = 0; i < 16; i++) acc = __fmaf_rn(v[i], v[i], acc);
    }
    acc = pair_sum(acc);
    __syncthreads();
    if (lane == 0) parts[threadIdx.x >> 5] = acc;
    __syncthreads();
    acc = pair_sum<GENERAL_THREADS / 32>(parts[lane % (GENERAL_THREADS / 32)]);
    if (threadIdx.x == 0) {
      int bit = 0;
      for (; pushed >> bit & 1; bit++) acc = __fadd_rn(level[bit], acc);
      level[bit] = acc;
    }
    pushed++;
  }
  if (threadIdx.x == 0) {
    float sum = 0.f;
    bool any = false;
    for (int bit = 0; bit < 40; bit++) {
      if (!(pushed >> bit & 1)) continue;
      sum = any ? __fadd_rn(level[bit], sum) : level[bit];
      any = true;
    }
    result = inverse_rms(sum, p.cols, p.eps);
    if (first && p.inv_rms) p.inv_rms[row] = result;
  }
  __syncthreads();
  const float inv = result;
  __syncthreads();
  return inv;
}

// A CTA a row, looked at as often as the mode needs. The first look stores residual and copies, if p.first says so.
NVFP4_INLINE void general_rows(const RowsParams& p) {
  __shared__ uint32_t shared[32];
  const uint64_t blocks = p.cols / 16, tiles = (blocks + 3) / 4;
  const bool quantizes = p.mode <= MODE_ROW;
  const uint32_t layout = quantizes ? p.scales.layout : uint32_t(LINEAR);
  SpanFinder finder(p.groups, tile_rows(layout));
  if (p.fault && blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < p.scale_rows; unit += gridDim.x) {
    Span span;
    if (!finder.find(unit, span)) continue;
    const uint64_t r = unit - span.first_scale_row;
    if (r >= span.rows) {
      for (uint64_t c = threadIdx.x; c < tiles * 4; c += blockDim.x) *scale_address(p.scales, span, r, c, tiles) = 0;
      continue;
    }
    bool first = p.first != 0;
    float inv = 0.f;
    if (p.producer == NORM || p.producer == HYPER) inv = general_inverse_rms(p, span.first_row + r, first);

    Encode encode{1.f, 0.f, false};
    if (p.mode >= MODE_ROW) {
      uint32_t m = 0;
      for (uint64_t b = threadIdx.x; b < blocks; b += blockDim.x) {
        float v[16];
        general_block(v, p, span, r, b, inv, first);
#pragma unroll
        for (int i = 0; i < 16; i++) {
          const uint32_t bits = __float_as_uint(v[i]) & 0x7FFFFFFFu;
          if (bits < INFINITY_BITS) m = max(m, bits);
        }
      }
      first = false;
      m = cta_max(m, shared);
      const float amax = __uint_as_float(m);
      if (threadIdx.x == 0) {
        if (p.mode == MODE_FIND_AMAX) raise_slot(p.decode + scope_index(p.scope, span, r), m);
        else p.decode[scope_index(p.scope, span, r)] = decode_scale_from_amax(amax);
      }
      if (!quantizes) continue;
      encode = encode_from_amax(amax);
    } else {
      encode = encode_of(p, span.group, span.first_row + r);
    }

    for (uint64_t b = threadIdx.x; b < (layout == LINEAR ? blocks : tiles * 4); b += blockDim.x) {
      uint32_t scale = 0;
      if (b < blocks) {
        float v[16];
        general_block(v, p, span, r, b, inv, first);
        Block<F32> x;
#pragma unroll
        for (int i = 0; i < 16; i++) x.w[i] = __float_as_uint(v[i]);
        uint2 codes;
        scale = quantize_block_any(p.rule, x, encode, codes, faults);
        uint8_t* at = p.codes + (span.first_row + r) * p.codes_row_stride + 8 * b;
        if (reinterpret_cast<uintptr_t>(at) & 7) {
          for (int i = 0; i < 8; i++) at[i] = uint8_t((i < 4 ? codes.x : codes.y) >> 8 * (i & 3));
        } else {
          *reinterpret_cast<uint2*>(at) = codes;
        }
      }
      *scale_address(p.scales, span, r, b, tiles) = uint8_t(scale);
    }
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
