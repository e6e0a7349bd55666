// Runs of the tensor cores.
//
// They cut the low bits of every sum off, the more the larger it is: a long run would leave the contract's bound. So a run
// ends after some k. The upper half of each sum, a bfloat16 in 32 bits, then joins the total of the runs so far, and what
// is left of it, exactly, is where the next run begins. Totals are 16 bits wide that way, and nothing is rounded
// but the one addition. All kernels of products do the same, which gives a batch-invariant one the same bits in each.
#pragma once
#include "dtype.cuh"

namespace nvfp4 {

NVFP4_INLINE float upper_half(float x) { return __uint_as_float(__float_as_uint(x) & 0xFFFF0000u); }

// A run ends: the total so far and the run's sum → the new total, and what the next run begins with. An infinity or a NaN
// is the total's alone: taken from itself it would be a NaN.
NVFP4_INLINE void end_run(float& total, float& sum) {
  const float all = __fadd_rn(total, sum);
  total = upper_half(all);
  sum = fabsf(all) < __uint_as_float(INFINITY_BITS) ? __fadd_rn(all, -total) : 0.f;
}

}  // namespace nvfp4
