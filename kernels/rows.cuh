// Rows → NVFP4: what the passes of tile_pass.cuh, cached_rows.cuh and general_rows.cuh share: memory, and the producers of
// blocks. Twin of src/backend/cpu/rows.rs.
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
#include "swiglu_bf16.cuh"

namespace nvfp4 {

constexpr uint32_t FIND_AMAX = 0xFF;  // in place of a rule: nothing is quantized

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

// Four lanes hold four bytes each, of rows 0 to 3 and a column each. Turned over, a lane holds its row's four columns.
NVFP4_INLINE uint32_t turn_scales(uint32_t scales) {
  const uint32_t lane = threadIdx.x & 31;
  const uint32_t one = __shfl_xor_sync(0xFFFFFFFFu, scales, 1);
  const uint32_t pair = lane & 1 ? __byte_perm(one, scales, 0x7351) : __byte_perm(scales, one, 0x6240);
  const uint32_t two = __shfl_xor_sync(0xFFFFFFFFu, pair, 2);
  return lane & 2 ? __byte_perm(two, pair, 0x7632) : __byte_perm(pair, two, 0x5410);
}

// The decode scale, or the amax, that a scope was given; and what it makes of blocks.
NVFP4_INLINE float given_scale(const RowsParams& p, uint32_t group, uint64_t logical) {
  const uint64_t i = p.scope == SCOPE_TENSOR ? 0 : p.scope == SCOPE_GROUP ? group : logical;
  return p.decode ? p.decode[i] : 1.f;
}
NVFP4_INLINE Encode encode_given(const RowsParams& p, float given) {
  return p.mode == MODE_STATIC ? encode_from_static(given) : encode_from_amax(given);
}
NVFP4_INLINE Encode encode_of(const RowsParams& p, uint32_t group, uint64_t logical) {
  return encode_given(p, given_scale(p, group, logical));
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
  template <bool FINDS = false>
  NVFP4_INLINE void load(const RowsParams& p, uint64_t row, uint64_t b) {
    load_block<FINDS ? Reuse::SOON : Reuse::ONCE>(x, p.src.base, row + 16 * b);
  }
  NVFP4_INLINE const Block<D>& make(const RowsParams&, uint64_t, uint32_t) { return x; }
};

// Gate and up, or what else an activation takes; `make` turns them into its result.
template <class D>
struct GatedBlock {
  static constexpr uint32_t PRODUCER = SWIGLU;
  Block<D> x, up;
  template <bool FINDS = false>
  NVFP4_INLINE void load(const RowsParams& p, uint64_t row, uint64_t b) {
    const uint64_t col = 16 * b;
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
      if constexpr (D::ID == DTYPE_BF16) swiglu_block(x, up, SwiGluBf16(s), p.first && p.copy.base);
      else swiglu_block_exact(x, up, s);
    } else if (p.producer == RELU2) {
#pragma unroll
      for (int i = 0; i < 8; i++) x.set(i, relu2(x.value(2 * i)), relu2(x.value(2 * i + 1)));
    }
    if (p.first && p.copy.base)
      store_block(x, p.copy.base, logical * p.copy.row_stride + 16ull * b, x.magnitude());
    return x;
  }
};

}  // namespace nvfp4
