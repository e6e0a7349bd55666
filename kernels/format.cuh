// NVFP4 as docs/numerics.md writes it, on the device: values, block scales, codes, ordered sums, exp and SwiGLU.
// Bits in, bits out; no memory but the values handed in. Twin of src/format, bit for bit.
// Compile with -fmad=false: every fused multiply-add below is written as one.
#pragma once
#include "block.cuh"
#include "math.cuh"
