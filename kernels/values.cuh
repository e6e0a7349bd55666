// Codes of a block → values e2m1 · e4m3 as bfloat16, which holds them exactly: what products multiply with.
#pragma once
#include "codes.cuh"
#include "ptx_gemm.cuh"

namespace nvfp4 {

// The scale byte as a bfloat16, exact, in both halves of a word; a NaN where it is one. The byte's fields land in a bfloat16's,
// 120 powers of two too low; subnormals come along.
NVFP4_INLINE uint32_t widen_scale(uint32_t byte) {
  const uint32_t both = byte | byte << 16, low = (both << 4 & 0x07F007F0u) | (both << 8 & 0x80008000u);
  return (byte & 0x7F) == E4M3_NAN ? 0x7FC07FC0u : ptx::multiply_pair<false, false>(low, 0x7B80u);
}

// Eight codes → eight bfloat16 e2m1 · e4m3. The bytes of a bfloat16 e2m1 come from tables that the codes index; a byte
// permutation with bit 3 set repeats the sign of the table's byte instead.
NVFP4_INLINE uint4 decode_codes(uint32_t codes, uint32_t scale) {
  uint32_t word[4];
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const uint32_t four = codes >> 16 * i, magnitude = four & 0x7777u;
    const uint32_t low = ptx::permute_bytes(0xC0800000u, 0xC0804000u, magnitude), high = ptx::permute_bytes(0x3F3F3F00u, 0x40404040u, magnitude);
    const uint32_t sign = ptx::permute_bytes(0x80808080u, 0x80808080u, four & 0xFFFFu) << 7 & 0x80808080u;
    word[2 * i] = ptx::multiply_pair<false, false>(ptx::permute_bytes(low, high | sign, 0x5140), scale);
    word[2 * i + 1] = ptx::multiply_pair<false, false>(ptx::permute_bytes(low, high | sign, 0x7362), scale);
  }
  return make_uint4(word[0], word[1], word[2], word[3]);
}

// A block as 32 bytes at `to`, 16-byte aligned.
NVFP4_INLINE void store_decoded(void* to, uint2 codes, uint32_t scale) {
  const uint32_t wide = widen_scale(scale);
  uint4* at = static_cast<uint4*>(to);
  at[0] = decode_codes(codes.x, wide);
  at[1] = decode_codes(codes.y, wide);
}

}  // namespace nvfp4
