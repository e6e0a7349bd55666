// Canonical weights, or values, → units of prepared weights (unit.cuh), and units → canonical weights, byte for byte.
//
// A block of 128 threads owns a unit: as rows it reads or writes 32 bytes of codes and 4 scales of one stored row a
// thread, as words 2 · 16 bytes and its share of the scales; shared memory turns one into the other. Values are quantized
// a stored row a thread, 4 blocks of 16 each, as nvfp4_quantize would; so are the values of codes whose rows have decode
// scales of their own, under one for the matrix. Grid: (k units, 128-row units, groups up to 65535).
// Twin of src/backend/cpu/weights.rs, whose panels differ.
#include "format.cuh"
#include "params_gemm.cuh"
#include "tiles.cuh"
#include "unit.cuh"

namespace nvfp4 {
namespace {

constexpr int CODE_PITCH = 36;  // bytes of a row of codes in shared memory; 9 words, so that rows lie on all banks

struct UnitRows {
  uint8_t codes[UNIT_ROWS][CODE_PITCH];
  uint8_t scales[UNIT_ROWS][4];
};

struct Place {
  uint32_t group, stored, row;  // this thread's stored row and the canonical row it is
  uint32_t first_block, blocks;
  bool inside;                  // not padding
};

NVFP4_INLINE Place place_of(const WeightsParams& w) {
  Place p;
  p.group = blockIdx.z;
  p.stored = blockIdx.y * UNIT_ROWS + threadIdx.x;
  p.row = canonical_row(p.stored, w.rows, w.gate_up);
  p.first_block = blockIdx.x * 4;
  p.blocks = w.cols / 16;
  p.inside = p.stored < w.rows;
  return p;
}

NVFP4_INLINE uint8_t* unit_of(const WeightsParams& w) {
  const int64_t run = static_cast<int64_t>(blockIdx.z) * gridDim.y + blockIdx.y;
  return w.storage + w.units_at + (run * gridDim.x + blockIdx.x) * UNIT_BYTES;
}

NVFP4_INLINE uint8_t* code_words(const WeightsParams& w, const Place& p, uint32_t block) {
  return w.codes + (static_cast<int64_t>(p.group) * w.rows + p.row) * (w.cols / 2) + static_cast<int64_t>(block) * 8;
}

NVFP4_INLINE uint8_t* scale_byte(const WeightsParams& w, const Place& p, uint32_t block) {
  if (w.scale_layout == LINEAR) return w.scales + (static_cast<int64_t>(p.group) * w.rows + p.row) * p.blocks + block;
  const uint32_t height = tile_rows(w.scale_layout), tiles = blocks_of(p.blocks, 4);
  const int64_t matrix = static_cast<int64_t>(rounded(w.rows, height)) * tiles * 4;
  const int64_t at = tiled_offset(w.scale_layout, p.row, block, tiles);
  return w.scales + p.group * matrix + at;
}

// Rows in shared memory → the unit. A zero scale makes its codes zero.
NVFP4_INLINE void write_unit(const UnitRows& rows, uint8_t* unit) {
  const int t = threadIdx.x, lane = t & 31, first = (t >> 5) * 32 + 4 * (lane >> 2);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    uint32_t word[4];
#pragma unroll
    for (int p = 0; p < 2; p++) {
      uint32_t pairs[2][4];
#pragma unroll
      for (int step = 0; step < 2; step++)
#pragma unroll
        for (int q = 0; q < 4; q++) {
          const int row = first + 2 * half + (q & 1), block = 2 * p + step;
          pairs[step][q] = rows.scales[row][block] ? rows.codes[row][8 * block + (lane & 3) + 4 * (q >> 1)] : 0;
        }
      pack_words(pairs, word[2 * p], word[2 * p + 1]);
    }
    *reinterpret_cast<uint4*>(unit + half * UNIT_HALF + 16 * t) = make_uint4(word[0], word[1], word[2], word[3]);
  }
  if (t < 32) {
    uint32_t word[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      uint32_t s[2][2];
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int step = 0; step < 2; step++) s[h][step] = store_scale(rows.scales[4 * t + 2 * (i >> 1) + h][2 * (i & 1) + step]);
      word[i] = pack_scales(s);
    }
    *reinterpret_cast<uint4*>(unit + UNIT_SCALES + 16 * t) = make_uint4(word[0], word[1], word[2], word[3]);
  }
}

// The unit → rows in shared memory.
NVFP4_INLINE void read_unit(UnitRows& rows, const uint8_t* unit) {
  const int t = threadIdx.x, lane = t & 31, first = (t >> 5) * 32 + 4 * (lane >> 2);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const uint4 v = *reinterpret_cast<const uint4*>(unit + half * UNIT_HALF + 16 * t);
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int p = 0; p < 2; p++) {
      uint32_t pairs[2][4];
      unpack_words(pairs, word[2 * p], word[2 * p + 1]);
#pragma unroll
      for (int step = 0; step < 2; step++)
#pragma unroll
        for (int q = 0; q < 4; q++)
          rows.codes[first + 2 * half + (q & 1)][8 * (2 * p + step) + (lane & 3) + 4 * (q >> 1)] =
              static_cast<uint8_t>(pairs[step][q]);
    }
  }
  if (t < 32) {
    const uint4 v = *reinterpret_cast<const uint4*>(unit + UNIT_SCALES + 16 * t);
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int h = 0; h < 2; h++)
#pragma unroll
        for (int step = 0; step < 2; step++)
          rows.scales[4 * t + 2 * (i >> 1) + h][2 * (i & 1) + step] =
              static_cast<uint8_t>(load_scale(unpack_scale(word[i], h, step)));
  }
}

NVFP4_INLINE void set_codes(UnitRows& rows, int block, uint2 codes) {
  uint32_t* to = reinterpret_cast<uint32_t*>(&rows.codes[threadIdx.x][8 * block]);
  to[0] = codes.x;
  to[1] = codes.y;
}

// A block scale as it was given. One with its sign bit reads as NaN and is a fault.
NVFP4_INLINE uint32_t given_scale(const WeightsParams& w, const Place& p, uint32_t block, uint32_t& flags) {
  const uint32_t scale = *scale_byte(w, p, block);
  if (!(scale & 0x80)) return scale;
  flags = FAULT_BAD_DECODE_SCALE;
  return 0x7F;
}

// What the codes of a block stand for under the decode scale of their row.
NVFP4_INLINE Block<F32> stored_values(const WeightsParams& w, const Place& p, uint32_t block, uint32_t& flags) {
  const uint2 codes = *reinterpret_cast<const uint2*>(code_words(w, p, block));
  const float scale = e4m3_decode_any(given_scale(w, p, block, flags));
  const float g = w.decode[static_cast<int64_t>(p.group) * w.decode_step + p.row];
  Block<F32> x;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const uint32_t pair = (i < 4 ? codes.x : codes.y) >> 8 * (i & 3);
    x.set(i, __fmul_rn(__fmul_rn(e2m1_decode(pair), scale), g), __fmul_rn(__fmul_rn(e2m1_decode(pair >> 4), scale), g));
  }
  return x;
}

NVFP4_INLINE float* header(const WeightsParams& w) { return reinterpret_cast<float*>(w.storage); }

}  // namespace

// Canonical codes and scales → units. A scale with its sign bit, and a decode scale that is not finite or not above 0, is
// a fault; such blocks, and such matrices, read as NaN.
NVFP4_KERNEL(nvfp4_weights_pack, WeightsParams, 128, 1) {
  __shared__ UnitRows rows;
  const Place at = place_of(p);
  uint32_t flags = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t block = at.first_block + i;
    uint2 codes = make_uint2(0, 0);
    uint32_t scale = 0;
    if (at.inside && block < at.blocks) {
      codes = *reinterpret_cast<const uint2*>(code_words(p, at, block));
      scale = given_scale(p, at, block, flags);
    }
    set_codes(rows, i, codes);
    rows.scales[threadIdx.x][i] = static_cast<uint8_t>(scale);
  }
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) {
    const float g = p.decode[static_cast<int64_t>(at.group) * p.decode_step];
    const bool good = g > 0.f && g <= FLOAT_MAX;
    if (!good) flags = FAULT_BAD_DECODE_SCALE;
    header(p)[at.group] = good ? g : __uint_as_float(NAN_BITS);
  }
  __syncthreads();
  write_unit(rows, unit_of(p));
  raise_fault(p.fault, flags);
}

// Values, or codes by rows, → units. The header holds amax bits of every matrix, unless decode scales of values are given:
// it receives those.
NVFP4_KERNEL(nvfp4_weights_quantize, WeightsParams, 128, 2) {
  __shared__ UnitRows rows;
  const Place at = place_of(p);
  const bool given = p.decode && !p.codes;
  const Encode encode = given ? encode_from_static(p.decode[at.group]) : encode_from_amax(header(p)[at.group]);
  uint32_t flags = 0;
#pragma unroll 1
  for (int i = 0; i < 4; i++) {
    const uint32_t block = at.first_block + i;
    uint2 codes = make_uint2(0, 0);
    uint32_t scale = 0;
    if (at.inside && block < at.blocks) {
      Block<F32> x;
      if (p.codes) {
        x = stored_values(p, at, block, flags);
      } else {
        const int64_t row = p.transposed ? at.row : static_cast<int64_t>(at.row) * p.row_stride;
        const int64_t step = p.transposed ? p.row_stride : 1;
        const int64_t base = at.group * p.group_stride + row + static_cast<int64_t>(block) * 16 * step;
#pragma unroll
        for (int k = 0; k < 16; k++) x.w[k] = __float_as_uint(load_element(p.dtype, p.values, base + k * step));
      }
      scale = quantize_block_any(p.rule, x, encode, codes, flags);
    }
    set_codes(rows, i, codes);
    rows.scales[threadIdx.x][i] = static_cast<uint8_t>(scale);
  }
  if (given && blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) header(p)[at.group] = p.decode[at.group];
  __syncthreads();
  write_unit(rows, unit_of(p));
  raise_fault(p.fault, flags);
}

// The largest finite magnitude of every matrix, as bits, into the header, which starts as zeros. Grid: (parts, groups).
NVFP4_KERNEL(nvfp4_weights_amax, WeightsParams, 256, 1) {
  const uint32_t down = p.transposed ? p.cols : p.rows, across = p.transposed ? p.rows : p.cols;
  uint32_t amax = 0, unused = 0;
  const auto take = [&](float x) {
    const uint32_t bits = __float_as_uint(x) & 0x7FFFFFFFu;
    if (bits < INFINITY_BITS) amax = max(amax, bits);
  };
  for (uint32_t r = blockIdx.x; r < down; r += gridDim.x) {
    if (p.codes) {
      const Place at = {blockIdx.y, r, r, 0, p.cols / 16, true};
      for (uint32_t block = threadIdx.x; block < at.blocks; block += 256) {
        const Block<F32> x = stored_values(p, at, block, unused);
#pragma unroll
        for (int k = 0; k < 16; k++) take(x.value(k));
      }
      continue;
    }
    const int64_t base = blockIdx.y * p.group_stride + r * p.row_stride;
    for (uint32_t c = threadIdx.x; c < across; c += 256) take(load_element(p.dtype, p.values, base + c));
  }
#pragma unroll
  for (int d = 16; d; d >>= 1) amax = max(amax, __shfl_xor_sync(~0u, amax, d));
  if ((threadIdx.x & 31) == 0) atomicMax(reinterpret_cast<uint32_t*>(p.storage) + blockIdx.y, amax);
}

// Amax bits in the header → decode scales.
NVFP4_KERNEL(nvfp4_weights_finish, WeightsParams, 256, 1) {
  const uint32_t group = blockIdx.x * 256 + threadIdx.x;
  if (group < p.groups) header(p)[group] = decode_scale_from_amax(header(p)[group]);
}

// Units → canonical codes, scales with their padding, and decode scales.
NVFP4_KERNEL(nvfp4_weights_unpack, WeightsParams, 128, 1) {
  __shared__ UnitRows rows;
  const Place at = place_of(p);
  read_unit(rows, unit_of(p));
  if (blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0) p.decode[at.group] = header(p)[at.group];
  __syncthreads();
  const uint32_t padded_rows = rounded(p.rows, tile_rows(p.scale_layout));
  const uint32_t padded_blocks = p.scale_layout == LINEAR ? at.blocks : rounded(at.blocks, 4);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const uint32_t block = at.first_block + i;
    if (at.inside && block < at.blocks) {
      const uint32_t* from = reinterpret_cast<const uint32_t*>(&rows.codes[threadIdx.x][8 * i]);
      *reinterpret_cast<uint2*>(code_words(p, at, block)) = make_uint2(from[0], from[1]);
    }
    if (at.stored < padded_rows && block < padded_blocks) *scale_byte(p, at, block) = rows.scales[threadIdx.x][i];
  }
}

}  // namespace nvfp4
