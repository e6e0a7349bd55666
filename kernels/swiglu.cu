// Gated activations → NVFP4: SwiGLU, relu², or the interleaving undone. 16-byte aligned rows.
// gated_pass: decode scales that are known, the plain rule. fused_rows (gated_rows): scales per row, the plain rule, up to
// 512 blocks; x2: two rows a CTA. tile_pass: the amax of larger scopes. cached_rows (rule): any rule, up to 1024 blocks.
// The rest: nvfp4_general in quantize.cu.
#include "fused_rows.cuh"
#include "tile_pass.cuh"

using namespace nvfp4;

// CTAs an SM that leave enough registers: sm_80 to sm_89 need a few more for f16.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define GATED_CTAS 2
#else
#define GATED_CTAS 3
#endif

NVFP4_KERNEL(nvfp4_gated_bf16, RowsParams, 256, GATED_CTAS) { gated_pass<Bf16>(p); }
NVFP4_KERNEL(nvfp4_gated_f16, RowsParams, 256, GATED_CTAS) { gated_pass<F16>(p); }
NVFP4_KERNEL(nvfp4_gated_amax_bf16, RowsParams, 256, 3) { tile_pass<GatedBlock<Bf16>, Bf16, FIND_AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_amax_f16, RowsParams, 256, 4) { tile_pass<GatedBlock<F16>, F16, FIND_AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16, RowsParams, 512, 1) { fused_rows<Bf16, SWIGLU, 1, true>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16, RowsParams, 512, 1) { fused_rows<F16, SWIGLU, 1, true>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16_x2, RowsParams, 448, 1) { fused_rows<Bf16, SWIGLU, 2, true>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16_x2, RowsParams, 448, 1) { fused_rows<F16, SWIGLU, 2, true>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16_rule, RowsParams, 512, 1) { cached_rows<GatedBlock<Bf16>, Bf16, SWIGLU, FIND_AMAX, 1, 2>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16_rule, RowsParams, 512, 1) { cached_rows<GatedBlock<F16>, F16, SWIGLU, FIND_AMAX, 1, 2>(p); }
