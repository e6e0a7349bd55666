// NVFP4 rows → values: (e2m1 · e4m3) · g, one rounding. Twin of layouts.rs's dequantize, and the pass that decodes
// activations before a product that takes bfloat16.
//
// A warp takes a unit of 8 rows × steps of 256 columns, 8 of a row a lane: whole lines of codes in, of values out. The rows of a
// unit are those whose tiled scales share sectors: 2i and 2i + 1 of each quarter of a tile (128x4), or a tile (8x4). Linear
// scales have units of 8 rows in a row, as if tiles were 8 high. One word of four scales a lane serves all rows of a step.
// Rows that are not aligned are read and written element by element.
#include "rows.cuh"
#include "values.cuh"

using namespace nvfp4;

namespace {

constexpr uint32_t ROWS = 8, EIGHTS = 32, ALL = 0xFFFFFFFFu;  // rows of a unit; eights of columns of a step
constexpr uint32_t NAN_PAIR = 0x7FC07FC0u;

// Four scale bytes from column `block` on; those past the row are zeros. `row` counts in the layout's own rows.
NVFP4_INLINE uint32_t load_scales(const ScalesParams& s, uint64_t row, uint32_t block, uint32_t blocks) {
  if (block >= blocks) return 0;
  if (s.layout != LINEAR)
    return *reinterpret_cast<const uint32_t*>(s.base + tiled_offset(s.layout, row, block, (blocks + 3) >> 2));
  const uint8_t* at = s.base + row * s.row_stride + block;
  if (((reinterpret_cast<uint64_t>(at) | blocks) & 3) == 0) return *reinterpret_cast<const uint32_t*>(at);
  uint32_t word = 0;
#pragma unroll
  for (uint32_t i = 0; i < 4; i++)
    if (block + i < blocks) word |= uint32_t(at[i]) << 8 * i;
  return word;
}

// EXACT: bfloat16 without decode scales, all aligned. ALIGNED: any type and scales. LOOSE: rows that start anywhere.
enum class Form { EXACT, ALIGNED, LOOSE };

template <Form FORM> NVFP4_INLINE uint32_t load_codes(const uint8_t* at) {
  if (FORM != Form::LOOSE) return *reinterpret_cast<const uint32_t*>(at);
  return at[0] | uint32_t(at[1]) << 8 | uint32_t(at[2]) << 16 | uint32_t(at[3]) << 24;
}

// Eight exact values, which are bfloat16, times g as the output type, from element `at` on.
template <class D, Form FORM>
NVFP4_INLINE void store_eight(char* to, uint4 exact, float g) {
  constexpr int WORDS = 2 * D::BYTES;
  const uint32_t pairs[4] = {exact.x, exact.y, exact.z, exact.w};
  uint32_t out[WORDS];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float low = __fmul_rn(Bf16::low(pairs[i]), g), high = __fmul_rn(Bf16::high(pairs[i]), g);
    if constexpr (D::BYTES == 4) {
      out[2 * i] = low != low ? NAN_BITS : __float_as_uint(low);
      out[2 * i + 1] = high != high ? NAN_BITS : __float_as_uint(high);
    } else {
      out[i] = D::pack(low, high);
      if (low != low) out[i] = (out[i] & 0xFFFF0000u) | D::NAN_CODE;
      if (high != high) out[i] = (out[i] & 0xFFFFu) | D::NAN_CODE << 16;
    }
  }
  if constexpr (FORM != Form::LOOSE) {
#pragma unroll
    for (int i = 0; i < WORDS; i += 4)
      *reinterpret_cast<uint4*>(to + 4 * i) = make_uint4(out[i], out[i + 1], out[i + 2], out[i + 3]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if constexpr (D::BYTES == 4) reinterpret_cast<uint32_t*>(to)[i] = out[i];
      else reinterpret_cast<uint16_t*>(to)[i] = uint16_t(out[i >> 1] >> 16 * (i & 1));
    }
  }
}

// The steps of a unit whose rows lie `behind` its first, `left` of them there. `codes` and `out` begin at that one.
template <class D, Form FORM, bool QUARTERS>
NVFP4_INLINE void decode_unit(const DequantizeParams& p, const Span& span, uint64_t r0, const uint8_t* codes, char* out) {
  constexpr int UNROLL = FORM == Form::LOOSE ? 1 : ROWS;
  // Row q of a unit lies so far behind its first.
  const auto behind = [](uint32_t q) { return QUARTERS ? (q >> 1) * 32 + (q & 1) : q; };
  const uint32_t lane = threadIdx.x & 31, mine = behind(lane & 7), blocks = uint32_t(p.cols >> 4);
  const uint32_t left = uint32_t(span.rows - r0 < 128 ? span.rows - r0 : 128);
  // What this lane holds for all: four scales of row `mine`, and its decode scale.
  const uint64_t scale_row = (p.scales.layout == LINEAR ? span.first_row : span.first_scale_row) + r0 + mine;
  const float own = FORM != Form::EXACT && p.decode && mine < left ? p.decode[scope_index(p.scope, span, r0 + mine)] : 1.f;
  uint32_t first = blockIdx.x * p.steps * EIGHTS;
  codes += 4ull * (first + lane);
  out += 8ull * D::BYTES * (first + lane);
#pragma unroll 1
  for (uint32_t s = 0; s < p.steps && first < 2 * blocks; s++) {
    const uint32_t scales = mine < left ? load_scales(p.scales, scale_row, first / 2 + (lane >> 3) * 4, blocks) : 0;
    const uint32_t rows = first + lane < 2 * blocks ? left : 0;
    const auto load = [&](uint32_t q) { return behind(q) < rows ? load_codes<FORM>(codes + behind(q) * p.codes_row_stride) : 0; };
    uint32_t word[ROWS];
    if constexpr (FORM != Form::LOOSE) {
#pragma unroll
      for (uint32_t q = 0; q < ROWS; q++) word[q] = load(q);
    }
#pragma unroll(UNROLL)
    for (uint32_t q = 0; q < ROWS; q++) {
      if (behind(q) < left) {
        const uint32_t wide = widen_scale(__shfl_sync(ALL, scales, (lane & 24) + q) >> 8 * (lane >> 1 & 3) & 0xFF);
        uint4 exact = decode_codes(FORM == Form::LOOSE ? load(q) : word[q], wide);
        char* const to = out + behind(q) * p.dst.row_stride * D::BYTES;
        if constexpr (FORM == Form::EXACT) {
          if (wide == NAN_PAIR) exact = make_uint4(wide, wide, wide, wide);
          if (rows) *reinterpret_cast<uint4*>(to) = exact;
        } else {
          const float g = __shfl_sync(ALL, own, q);
          if (rows) store_eight<D, FORM>(to, exact, g);
        }
      }
    }
    first += EIGHTS;
    codes += 4 * EIGHTS;
    out += 8 * D::BYTES * EIGHTS;
  }
}

template <class D, Form FORM, bool QUARTERS>
NVFP4_INLINE void decode_units(const DequantizeParams& p) {
  const uint32_t warps = blockDim.x >> 5;
  const uint64_t units = p.scale_rows / ROWS;
  SpanFinder finder(p.groups, QUARTERS ? 128 : ROWS);
  if (blockIdx.x == 0 && blockIdx.y == 0) finder.report(p.fault);
#pragma unroll 1
  for (uint64_t unit = blockIdx.y * warps + (threadIdx.x >> 5); unit < units; unit += gridDim.y * warps) {
    const uint64_t tile_row = QUARTERS ? (unit >> 4) * 128 : unit * ROWS;
    Span span;
    if (!finder.find(tile_row, span)) continue;
    const uint64_t r0 = tile_row - span.first_scale_row + (QUARTERS ? (unit & 15) * 2 : 0);
    if (r0 >= span.rows) continue;
    const uint64_t codes = p.groups.kind == GROUPS_STRIDED ? span.group * p.codes_group_stride + r0 * p.codes_row_stride
                                                           : (span.first_row + r0) * p.codes_row_stride;
    char* const out = static_cast<char*>(p.dst.base) + row_offset(p.dst, p.groups, span, r0) * D::BYTES;
    decode_unit<D, FORM, QUARTERS>(p, span, r0, p.codes + codes, out);
  }
}

// One branch for all of a launch.
template <class D, Form FORM>
NVFP4_INLINE void decode_rows(const DequantizeParams& p) {
  if (p.scales.layout == TILED_128X4) decode_units<D, FORM, true>(p);
  else decode_units<D, FORM, false>(p);
}

template <class D, Form FORM>
NVFP4_INLINE void dequantize(const DequantizeParams& p) {
  ptx::wait_for_launches();
  ptx::allow_dependents();  // not earlier: who then starts may rely on what was there before the launch in front of this one
  if (FORM != Form::EXACT && !p.vector) decode_rows<D, Form::LOOSE>(p);
  else decode_rows<D, FORM>(p);
}

}  // namespace

NVFP4_KERNEL(nvfp4_decode_bf16, DequantizeParams, 256, 4) { dequantize<Bf16, Form::EXACT>(p); }
NVFP4_KERNEL(nvfp4_dequantize_bf16, DequantizeParams, 256, 4) { dequantize<Bf16, Form::ALIGNED>(p); }
NVFP4_KERNEL(nvfp4_dequantize_f16, DequantizeParams, 256, 4) { dequantize<F16, Form::ALIGNED>(p); }
NVFP4_KERNEL(nvfp4_dequantize_f32, DequantizeParams, 256, 3) { dequantize<F32, Form::ALIGNED>(p); }
