// Rows of the experts → tokens: Σ over slots of weight · y by fused multiply-adds in slot order, then the addend. Twin of
// combine in src/backend/cpu/moe.rs. Inside of a layer it may start early: it waits for the product in front before it reads y.
#pragma once
#include "format.cuh"
#include "groups.cuh"
#include "params_moe.cuh"

namespace nvfp4 {

// The row of a slot, or −1; `bad` where it names one that is not there.
NVFP4_INLINE int32_t slot_row(const CombineParams& p, uint64_t slot, bool& bad) {
  const int32_t row = p.inverse[slot];
  if (row >= 0 && uint64_t(row) < p.rows) return row;
  bad |= row != -1;
  return -1;
}

NVFP4_INLINE void report_bad_rows(const CombineParams& p, bool bad) {
  if (ptx::warp_or(bad) && (threadIdx.x & 31) == 0) report_bad_group(p.fault, 0);
}

// A column a thread: any length, alignment and dtype.
NVFP4_INLINE void combine_columns(const CombineParams& p) {
  bool bad = false;
  ptx::wait_for_launches();
#pragma unroll 1
  for (uint64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) {
#pragma unroll 1
    for (uint64_t c = uint64_t(blockIdx.y) * blockDim.x + threadIdx.x; c < p.cols; c += uint64_t(gridDim.y) * blockDim.x) {
      float acc = 0.f;
#pragma unroll 1
      for (uint64_t slot = token * p.topk; slot < (token + 1) * p.topk; slot++) {
        const int32_t row = slot_row(p, slot, bad);
        if (row >= 0) acc = __fmaf_rn(p.weights[slot], load_element(p.y_dtype, p.y, row * p.y_row_stride + c), acc);
      }
      if (p.scaling != 1.f) acc = __fmul_rn(acc, p.scaling);
      if (p.shared) acc = __fadd_rn(acc, load_element(p.shared_dtype, p.shared, token * p.shared_row_stride + c));
      store_element(p.out_dtype, p.out, token * p.out_row_stride + c, acc);
    }
  }
  report_bad_rows(p, bad);
}

// Eight values as 16-byte words.
NVFP4_INLINE void load_eight(float (&v)[8], uint32_t dtype, const void* base, uint64_t element) {
  const char* const at = static_cast<const char*>(base) + element * (dtype == DTYPE_F32 ? 4 : 2);
  const uint4 a = ptx::load_once(at);
  const uint32_t w[4] = {a.x, a.y, a.z, a.w};
  if (dtype == DTYPE_F32) {
    const uint4 b = ptx::load_once(at + 16);
    const uint32_t next[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      v[i] = __uint_as_float(w[i]);
      v[4 + i] = __uint_as_float(next[i]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      v[2 * i] = dtype == DTYPE_BF16 ? Bf16::low(w[i]) : F16::low(w[i]);
      v[2 * i + 1] = dtype == DTYPE_BF16 ? Bf16::high(w[i]) : F16::high(w[i]);
    }
  }
}

template <class D>
NVFP4_INLINE uint32_t pack_pair(float low, float high) {
  const uint32_t w = D::pack(low, high);
  if (low == low && high == high) return w;
  return (low != low ? D::NAN_CODE : w & 0xFFFFu) | (high != high ? D::NAN_CODE << 16 : w & 0xFFFF0000u);
}

NVFP4_INLINE void store_eight(const float (&v)[8], uint32_t dtype, void* base, uint64_t element) {
  char* const at = static_cast<char*>(base) + element * (dtype == DTYPE_F32 ? 4 : 2);
  uint32_t w[8];
  if (dtype == DTYPE_F32) {
#pragma unroll
    for (int i = 0; i < 8; i++) w[i] = v[i] != v[i] ? NAN_BITS : __float_as_uint(v[i]);
    *reinterpret_cast<uint4*>(at + 16) = make_uint4(w[4], w[5], w[6], w[7]);
  } else {
#pragma unroll
    for (int i = 0; i < 4; i++)
      w[i] = dtype == DTYPE_BF16 ? pack_pair<Bf16>(v[2 * i], v[2 * i + 1]) : pack_pair<F16>(v[2 * i], v[2 * i + 1]);
  }
  *reinterpret_cast<uint4*>(at) = make_uint4(w[0], w[1], w[2], w[3]);
}

// Rows and weights of some slots of a token.
template <uint32_t COUNT> struct Slots {
  int32_t row[COUNT];
  float weight[COUNT];
  NVFP4_INLINE void load(const CombineParams& p, uint64_t token, uint32_t first, bool& bad) {
#pragma unroll
    for (uint32_t j = 0; j < COUNT; j++) {
      row[j] = -1;
      if (first + j >= p.topk) continue;
      row[j] = slot_row(p, token * p.topk + first + j, bad);
      weight[j] = p.weights[token * p.topk + first + j];
    }
  }
};

// Eight columns a thread; rows of D, all of up to eight slots in flight.
template <class D>
NVFP4_INLINE void combine_words(const CombineParams& p) {
  constexpr uint32_t BATCH = 8;
  bool bad = false;
  if (!p.early) ptx::wait_for_launches();
#pragma unroll 1
  for (uint64_t token = blockIdx.x; token < p.tokens; token += gridDim.x) {
    Slots<BATCH> slots;
    slots.load(p, token, 0, bad);
    ptx::wait_for_launches();
#pragma unroll 1
    for (uint64_t c = 8 * (uint64_t(blockIdx.y) * blockDim.x + threadIdx.x); c < p.cols; c += 8ull * gridDim.y * blockDim.x) {
      float acc[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
#pragma unroll 1
      for (uint32_t first = 0; first < p.topk; first += BATCH) {
        uint4 words[BATCH];
        if (p.topk > BATCH) slots.load(p, token, first, bad);
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++) {
          if (slots.row[j] < 0) continue;
          words[j] = ptx::load_once(static_cast<const char*>(p.y) + (slots.row[j] * p.y_row_stride + c) * D::BYTES);
        }
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++) {
          if (slots.row[j] < 0) continue;
          const uint32_t w[4] = {words[j].x, words[j].y, words[j].z, words[j].w};
#pragma unroll
          for (int i = 0; i < 4; i++) {
            acc[2 * i] = __fmaf_rn(slots.weight[j], D::low(w[i]), acc[2 * i]);
            acc[2 * i + 1] = __fmaf_rn(slots.weight[j], D::high(w[i]), acc[2 * i + 1]);
          }
        }
      }
      if (p.scaling != 1.f) {
#pragma unroll
        for (int i = 0; i < 8; i++) acc[i] = __fmul_rn(acc[i], p.scaling);
      }
      if (p.shared) {
        float shared[8];
        load_eight(shared, p.shared_dtype, p.shared, token * p.shared_row_stride + c);
#pragma unroll
        for (int i = 0; i < 8; i++) acc[i] = __fadd_rn(acc[i], shared[i]);
      }
      store_eight(acc, p.out_dtype, p.out, token * p.out_row_stride + c);
    }
  }
  report_bad_rows(p, bad);
}

}  // namespace nvfp4
