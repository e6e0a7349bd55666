// general_rows: any length, alignment, dtype and producer → NVFP4. A CTA walks a row chunk by chunk.
#pragma once
#include "rows.cuh"

namespace nvfp4 {

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
