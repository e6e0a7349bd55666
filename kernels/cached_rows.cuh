// cached_rows: whole rows held in the registers of a CTA → NVFP4 by any rule, scales per row and norms; up to 1024 blocks a row.
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

// One float from one a warp and chunk, for every lane: by the padded tree, or the largest.
template <bool SUM>
NVFP4_INLINE float join_parts(const float (&parts)[32], uint32_t count) {
  const uint32_t lane = threadIdx.x & 31;
  float v = lane < count ? parts[lane] : 0.f;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const float other = __shfl_xor_sync(0xFFFFFFFFu, v, d);
    v = SUM ? __fadd_rn(v, other) : fmaxf(v, other);
  }
  return v;
}

// A row a CTA, two blocks a thread: n · blockDim + thread. PRODUCER: PLAIN, SWIGLU (any gated one), NORM or HYPER.
template <class Source, class D, uint32_t PRODUCER>
NVFP4_INLINE void cached_rows(const RowsParams& p) {
  constexpr int NB = 2;
  constexpr bool NORMED = PRODUCER == NORM || PRODUCER == HYPER;
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2, layout = p.scales.layout;
  const uint32_t height = tile_rows(layout), parts_count = (blocks + 31) >> 5;
  __shared__ float sums[32], peaks[32];

  SpanFinder finder(p.groups, height);
  if (blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < p.scale_rows; unit += gridDim.x) {
    Span span;
    if (!finder.find(unit, span)) continue;
    const uint64_t r = unit - span.first_scale_row, logical = span.first_row + r;
    const bool have = r < span.rows;  // else the row pads the group's last tile
    const uint32_t group = span.group;
    const uint64_t src_row = NORMED ? 0 : row_offset(p.src, p.groups, span, r);
    uint8_t* const scales_at = layout == LINEAR ? p.scales.base + logical * p.scales.row_stride
                                                : p.scales.base + tiled_offset(layout, unit, 0, tiles);

    Block<D> x[NB];
    if (have) {
#pragma unroll
      for (int n = 0; n < NB; n++) {
        const uint32_t b = n * blockDim.x + threadIdx.x;
        if constexpr (NORMED) {
          if (b < blocks) load_norm_input<D, PRODUCER>(x[n], p, logical, b);
          else clear(x[n]);
        } else if constexpr (PRODUCER == PLAIN) {
          clear(x[n]);
          if (b < blocks) load_block<Reuse::ONCE>(x[n], p.src.base, src_row + 16ull * b);
        } else {
          Source source;
          if (b < blocks) source.load(p, src_row, b);
          if (b < blocks) x[n] = source.make(p, logical, b);
          else clear(x[n]);
        }
      }

      if constexpr (NORMED) {
#pragma unroll
        for (int n = 0; n < NB; n++) {
          const float part = pair_sum(square_sum(x[n]));
          if (lane == 0) sums[n * warps + warp] = part;
        }
        __syncthreads();
        const float inv = inverse_rms(join_parts<true>(sums, parts_count), p.cols, p.eps);
        if (p.inv_rms && p.first && threadIdx.x == 0) p.inv_rms[logical] = inv;
#pragma unroll
        for (int n = 0; n < NB; n++) {
          const uint32_t b = n * blockDim.x + threadIdx.x;
#pragma unroll
          for (int h = 0; h < 2; h++) {  // half a block of weights at a time: registers
            float weight[8];
            if (b >= blocks) continue;
            load_weight(weight, p, 16ull * b + 8 * h);
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const int j = 4 * h + i;
              x[n].set(j, __fmul_rn(__fmul_rn(x[n].value(2 * j), inv), weight[2 * i]),
                       __fmul_rn(__fmul_rn(x[n].value(2 * j + 1), inv), weight[2 * i + 1]));
            }
          }
          if (p.normed.base && p.first && b < blocks)
            store_block(x[n], p.normed.base, logical * p.normed.row_stride + 16ull * b, x[n].magnitude());
        }
      }
    }

    Encode encode{1.f, 0.f, false};
    if (have) {
      if (p.mode == MODE_ROW) {
        uint32_t m = 0;
#pragma unroll
        for (int n = 0; n < NB; n++) m = max(m, finite_magnitude(x[n], x[n].magnitude()));
        m = ptx::warp_max(m);
        if (lane == 0) peaks[warp] = __uint_as_float(m);
        __syncthreads();
        const float amax = join_parts<false>(peaks, warps);
        encode = encode_from_amax(amax);
        if (threadIdx.x == 0) p.decode[logical] = decode_scale_from_amax(amax);
      } else {
        encode = encode_of(p, group, logical);
      }
    }

#pragma unroll
    for (int n = 0; n < NB; n++) {
      const uint32_t b = n * blockDim.x + threadIdx.x;
      uint32_t scale = 0;
      if (b < blocks && have) {
        uint2 codes;
        scale = quantize_block_any(p.rule, x[n], encode, codes, faults);
        *reinterpret_cast<uint2*>(p.codes + logical * p.codes_row_stride + 8ull * b) = codes;
      }
      const uint64_t across = layout == TILED_128X4 ? (b >> 2) * 512ull : (b >> 2) * 32ull;
      if (layout == LINEAR ? b < blocks && have : b < tiles * 4)
        scales_at[layout == LINEAR ? b : across + (b & 3)] = uint8_t(scale);
    }
    if (p.groups.kind != GROUPS_NONE || gridDim.x < p.scale_rows) __syncthreads();  // before the next row uses the arrays
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
