// norm_rows: RMSNorm, with a residual added or streams mixed before it, → NVFP4, one block of each row a thread.
// 16-bit types, rows of up to 512 blocks, the plain scale rule, scales static or per row.
//
// A CTA holds R rows in registers. What a row needs once (its sum's tree, the square root, its encode scale) is done
// for all R rows by one sequence of instructions: lane l of every warp works for row l % R. R = 4: rows i, i + 32, i + 64,
// i + 96 of a 128x4 tile, or four neighbours. R = 1: answers soonest. Twin of src/backend/cpu/rows.rs.
#pragma once
#include "cached_rows.cuh"

namespace nvfp4 {

// One value a row, R rows, from every lane → the row l % R joined over the warp, in lane l. Adjacent pairs level by level:
// a lane hands on the rows that its partner keeps. `join` takes two values in any order.
template <int R, class T, class Join>
NVFP4_INLINE T join_lanes(const T (&v)[R], Join join) {
  const uint32_t lane = threadIdx.x & 31;
  T mine;
  if constexpr (R == 1) {
    mine = join(v[0], __shfl_xor_sync(0xFFFFFFFFu, v[0], 1));
    mine = join(mine, __shfl_xor_sync(0xFFFFFFFFu, mine, 2));
  } else if constexpr (R == 2) {
    mine = join(lane & 1 ? v[1] : v[0], __shfl_xor_sync(0xFFFFFFFFu, lane & 1 ? v[0] : v[1], 1));
    mine = join(mine, __shfl_xor_sync(0xFFFFFFFFu, mine, 2));
  } else {
    const T a = join(lane & 1 ? v[1] : v[0], __shfl_xor_sync(0xFFFFFFFFu, lane & 1 ? v[0] : v[1], 1));
    const T b = join(lane & 1 ? v[3] : v[2], __shfl_xor_sync(0xFFFFFFFFu, lane & 1 ? v[2] : v[3], 1));
    mine = join(lane & 2 ? b : a, __shfl_xor_sync(0xFFFFFFFFu, lane & 2 ? a : b, 2));
  }
#pragma unroll
  for (int d = 4; d < 32; d *= 2) mine = join(mine, __shfl_xor_sync(0xFFFFFFFFu, mine, d));
  return mine;
}

// One value a row and warp → the row l % R joined over the warps, in lane l of every warp. Up to 16 warps; `parts` is the
// CTA's and not read again by the next call before a barrier.
// The tree over 16 values by one thread: fewer dependent steps than five shuffles.
NVFP4_INLINE float sum_of_16(const float (&v)[16], uint32_t count) {
  float s[16];
#pragma unroll
  for (uint32_t i = 0; i < 16; i++) s[i] = i < count ? v[i] : 0.f;
#pragma unroll
  for (int d = 1; d < 16; d *= 2)
#pragma unroll
    for (int i = 0; i < 16; i += 2 * d) s[i] = __fadd_rn(s[i], s[i + d]);
  return s[0];
}
template <int R, class T, class Join>
NVFP4_INLINE T join_warps(T mine, T (&parts)[R][16], Join join) {
  const uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
  if (lane < R) parts[lane][warp] = mine;
  __syncthreads();
  constexpr int LEAVES = R == 4 ? 2 : 1;
  const uint32_t row = lane % R, first = LEAVES * (lane / R);
  T v = first < warps ? parts[row][first & 15] : T(0);
  if constexpr (LEAVES == 2) v = join(v, first + 1 < warps ? parts[row][first + 1 & 15] : T(0));
#pragma unroll
  for (int d = R; d < 32; d *= 2) v = join(v, __shfl_xor_sync(0xFFFFFFFFu, v, d));
  return v;
}
template <class T>
NVFP4_INLINE T from_lane(T v, int lane) { return __shfl_sync(0xFFFFFFFFu, v, lane); }

struct Sum { NVFP4_INLINE float operator()(float a, float b) const { return __fadd_rn(a, b); } };
struct Largest { NVFP4_INLINE uint32_t operator()(uint32_t a, uint32_t b) const { return max(a, b); } };

// The weight of a block, widened, the offset added.
NVFP4_INLINE void load_weights(float (&weight)[16], const RowsParams& p, uint32_t b) {
  const char* base = static_cast<const char*>(p.weight);
  if (p.weight_dtype == DTYPE_BF16) {
    Block<Bf16> w;
    load_block<Reuse::OURS>(w, base, 16ull * b);
#pragma unroll
    for (int i = 0; i < 16; i++) weight[i] = __fadd_rn(w.value(i), p.weight_offset);
  } else {
    float half[8];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      load_weight(half, p, 16ull * b + 8 * h);
#pragma unroll
      for (int i = 0; i < 8; i++) weight[8 * h + i] = half[i];
    }
  }
}

// x of a hyper-connection's block: two streams at a time are on their way.
template <class D>
NVFP4_INLINE void mix_streams(Block<D>& x, const RowsParams& p, uint64_t row, uint32_t b) {
  float acc[16];
  const float* mix = p.mix + row * p.mix_row_stride;
  const uint64_t at = row * p.src.row_stride + 16ull * b;
#pragma unroll 1
  for (uint32_t first = 0; first < p.streams; first += 2) {
    Block<D> part[2];
    float by[2];
#pragma unroll
    for (uint32_t l = 0; l < 2; l++) {
      const uint32_t stream = min(first + l, p.streams - 1);
      load_block<Reuse::ONCE>(part[l], p.src.base, at + stream * p.stream_stride);
      by[l] = mix[stream];
    }
#pragma unroll
    for (uint32_t l = 0; l < 2; l++) {
      if (first + l >= p.streams) continue;
#pragma unroll
      for (int i = 0; i < 16; i++)
        acc[i] = first + l == 0 ? __fmul_rn(by[l], part[l].value(i)) : __fmaf_rn(by[l], part[l].value(i), acc[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i++) x.set(i, acc[2 * i], acc[2 * i + 1]);
}

// PRODUCER: NORM or HYPER.
template <class D, uint32_t PRODUCER, int R, bool GROUPED>
NVFP4_INLINE void norm_rows(const RowsParams& p) {
  const uint32_t lane = threadIdx.x & 31, layout = p.scales.layout;
  const uint32_t blocks = uint32_t(p.cols >> 4), tiles = (blocks + 3) >> 2, b = threadIdx.x;
  const bool inside = b < blocks;
  const uint32_t column = min(b, blocks - 1);  // threads past the row read its last block, and count for nothing
  const uint32_t apart = layout == TILED_128X4 ? 32 : 1, mine_q = lane % R;
  const uint64_t units = (p.scale_rows + R - 1) / R;
  alignas(16) __shared__ float sums[R][16];
  __shared__ uint32_t peaks[R][16];

  SpanFinder finder(p.groups, tile_rows(layout));
  if (GROUPED && blockIdx.x == 0) finder.report(p.fault);
  uint32_t faults = 0;

#pragma unroll 1
  for (uint64_t unit = blockIdx.x; unit < units; unit += gridDim.x) {
    const uint64_t scale_row = R != 1 && layout == TILED_128X4 ? (unit >> 5) * (32 * R) + (unit & 31) : unit * R;
    Span span{0, p.groups.rows, 0, 0};
    if (GROUPED && !finder.find(scale_row, span)) continue;
    // Rows r0 + apart · q, of which the first `have` are the group's; the others pad its last tile.
    const uint64_t r0 = scale_row - span.first_scale_row, logical = span.first_row + r0;
    const uint32_t have = r0 >= span.rows ? 0 : R == 1 ? 1 : uint32_t(min_u64((span.rows - r0 + apart - 1) / apart, R));
    Block<D> x[R];
    float weight[16];
    Encode mine{1.f, 0.f, false};
    if (have) {
      if (p.mode != MODE_ROW) mine = encode_of(p, span.group, logical + apart * min(mine_q, have - 1));
      if constexpr (PRODUCER == NORM) {
        const bool added = p.copy.base != nullptr;
        if (R == 1) load_weights(weight, p, column);
#pragma unroll
        for (int q = 0; q < R; q++)
          load_block<Reuse::ONCE>(x[q], p.src.base, (logical + apart * min(uint32_t(q), have - 1)) * p.src.row_stride + 16ull * column);
        if (added) {
#pragma unroll
          for (int q = 0; q < R; q++) {
            const uint64_t at = (logical + apart * min(uint32_t(q), have - 1)) * p.copy.row_stride + 16ull * column;
            Block<D> old;
            load_block<Reuse::OURS>(old, p.copy.base, at);
#pragma unroll
            for (int i = 0; i < 8; i++)
              x[q].set(i, __fadd_rn(old.value(2 * i), x[q].value(2 * i)), __fadd_rn(old.value(2 * i + 1), x[q].value(2 * i + 1)));
            if (inside && q < have) store_block(x[q], p.copy.base, at, x[q].magnitude());
          }
        }
      } else {
        if (R == 1) load_weights(weight, p, column);
#pragma unroll
        for (int q = 0; q < R; q++) {
          mix_streams(x[q], p, logical + apart * min(uint32_t(q), have - 1), column);
          if (p.copy.base && inside && q < have)
            store_block(x[q], p.copy.base, (logical + apart * q) * p.copy.row_stride + 16ull * b, x[q].magnitude());
        }
      }

      float parts[R];
#pragma unroll
      for (int q = 0; q < R; q++) parts[q] = inside ? square_sum(x[q]) : 0.f;
      const float part = join_lanes<R>(parts, Sum());
      float sum;
      if constexpr (R == 1) {
        if (lane == 0) sums[0][threadIdx.x >> 5] = part;
        __syncthreads();
        sum = sum_of_16(sums[0], blockDim.x >> 5);
      } else {
        sum = join_warps<R>(part, sums, Sum());
      }
      const float inv = inverse_rms(sum, p.cols, p.eps);
      if (p.inv_rms && threadIdx.x < have) p.inv_rms[logical + apart * threadIdx.x] = inv;
      // Half a block of weights at a time where rows share them: registers.
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float part[8];
        if (R != 1) load_weight(part, p, 16ull * column + 8 * h);
#pragma unroll
        for (int q = 0; q < R; q++) {
          const float by = R == 1 ? inv : from_lane(inv, q);
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int j = 4 * h + i;
            const float w0 = R == 1 ? weight[2 * j] : part[2 * i], w1 = R == 1 ? weight[2 * j + 1] : part[2 * i + 1];
            x[q].set(j, __fmul_rn(__fmul_rn(x[q].value(2 * j), by), w0), __fmul_rn(__fmul_rn(x[q].value(2 * j + 1), by), w1));
          }
        }
      }
#pragma unroll
      for (int q = 0; q < R; q++)
        if (p.normed.base && inside && q < have)
          store_block(x[q], p.normed.base, (logical + apart * q) * p.normed.row_stride + 16ull * b, x[q].magnitude());

      if (p.mode == MODE_ROW) {
        uint32_t peak[R];
#pragma unroll
        for (int q = 0; q < R; q++) peak[q] = inside ? finite_magnitude(x[q], x[q].magnitude()) : 0;
        uint32_t most;
        if constexpr (R == 1) {
          most = ptx::warp_max(peak[0]);
          if (lane == 0) peaks[0][threadIdx.x >> 5] = most;
          __syncthreads();
          most = ptx::warp_max(lane < blockDim.x >> 5 ? peaks[0][lane & 15] : 0);
        } else {
          most = join_warps<R>(join_lanes<R>(peak, Largest()), peaks, Largest());
        }
        const float amax = __uint_as_float(most);
        mine = encode_from_amax(amax);
        if (threadIdx.x < have) p.decode[logical + apart * threadIdx.x] = decode_scale_from_amax(amax);
      }
    }

    uint8_t* const scales_at = scale_address(p.scales, span, r0, b, tiles);
    uint8_t* codes_at = p.codes + logical * p.codes_row_stride + 8 * b;
    uint32_t scales = 0;  // byte q: row q's
#pragma unroll
    for (int q = 0; q < R; q++) {
      Encode e = mine;
      if (R != 1) {
        e.inverse = from_lane(mine.inverse, q);
        e.sixth = from_lane(mine.sixth, q);
        e.invalid = e.sixth == 0.f;  // what encode_from_static says so
      }
      if (inside && q < have) {
        uint2 codes;
        scales |= quantize_block<AMAX>(x[q], e, codes, faults) << 8 * q;
        *reinterpret_cast<uint2*>(codes_at) = codes;
      }
      codes_at += apart * p.codes_row_stride;
    }
    if (R == 4 && layout != LINEAR) {
      // Four lanes hold 4 × 4 bytes, a column each: turned over, a lane holds a row's four.
      const uint32_t one = __shfl_xor_sync(0xFFFFFFFFu, scales, 1);
      const uint32_t pair = lane & 1 ? __byte_perm(one, scales, 0x7351) : __byte_perm(scales, one, 0x6240);
      const uint32_t two = __shfl_xor_sync(0xFFFFFFFFu, pair, 2);
      const uint32_t word = lane & 2 ? __byte_perm(two, pair, 0x7632) : __byte_perm(pair, two, 0x5410);
      if ((b >> 2) < tiles) *reinterpret_cast<uint32_t*>(scales_at - (b & 3) + (lane & 3) * 4) = word;
    } else if (layout == LINEAR) {
#pragma unroll
      for (int q = 0; q < R; q++)
        if (inside && q < have) scales_at[q * p.scales.row_stride] = uint8_t(scales >> 8 * q);
    } else {
#pragma unroll
      for (int q = 0; q < R; q++)
        if ((b >> 2) < tiles) scales_at[4 * q] = uint8_t(scales >> 8 * q);
    }
    if (gridDim.x < units) __syncthreads();  // before the next rows use the arrays
  }
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
