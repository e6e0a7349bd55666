// cached_rows: whole rows held in the registers of a CTA → NVFP4. Scales per row, and norms; up to 1024 blocks a row.
#pragma once
#include "rows.cuh"

namespace nvfp4 {

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

}  // namespace nvfp4
