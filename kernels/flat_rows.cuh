// flat_rows: a product's bfloat16 rows → NVFP4, behind the product in one call. Linear scales, one known decode scale, and
// rows that lie one behind the other in all three arrays: they are one long row.
#pragma once
#include "rows.cuh"

namespace nvfp4 {

// A warp takes STEPS · 32 columns at a time. The launch starts while the product ends: groups and scale, for which the product
// waited, are read before it is over. Instructions too: all would come from memory while the rows wait, 4 µs long. So a warp
// goes through them once with values of its own.
template <class D, int STEPS>
NVFP4_INLINE void flat_rows(const RowsParams& p) {
  SpanFinder finder(p.groups, 1);
  if (blockIdx.x == 0) finder.report(p.fault);
  const uint32_t rows = p.groups.kind == GROUPS_ENDS ? finder.rows_of_ends() : uint32_t(p.groups.rows);
  const uint32_t warps = blockDim.x >> 5, blocks = rows * uint32_t(p.cols >> 4), step = gridDim.x * warps * (STEPS * 32);
  Encode encode = encode_of(p, 0, 0);
  find_ties<D>(encode);
  uint32_t faults = 0, first = (blockIdx.x * warps + (threadIdx.x >> 5)) * (STEPS * 32);
  bool rehearses = ptx::HAS_DEPENDENT_LAUNCH;
#pragma unroll 1
  do {
    const uint32_t b0 = first + (threadIdx.x & 31);
    Block<D> x[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      if (!rehearses && b0 + s * 32 < blocks) {
        load_block<Reuse::OURS>(x[s], p.src.base, 16ull * b0 + 512 * s);
      } else {
#pragma unroll
        for (int i = 0; i < Block<D>::WORDS; i++) x[s].w[i] = threadIdx.x * 0x10001u + 0x3C003C00u;
      }
    }
    uint8_t *const codes_at = p.codes + 8ull * b0, *const scales_at = p.scales.base + b0;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      if (!rehearses && b0 + s * 32 >= blocks) break;
      uint2 codes;
      const uint32_t scale = quantize_block<AMAX, true>(x[s], encode, codes, faults);
      if (rehearses) continue;
      scales_at[s * 32] = uint8_t(scale);
      *reinterpret_cast<uint2*>(codes_at + 256 * s) = codes;
    }
    if (rehearses) {
      faults = 0;
      ptx::wait_for_launches();
      ptx::allow_dependents();  // who starts behind this launch waits for it before it reads codes
      rehearses = false;
    } else {
      first += step;
    }
  } while (first < blocks);
  raise_fault_warp(p.fault, faults);
}

}  // namespace nvfp4
