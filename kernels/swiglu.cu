// Gated activations → NVFP4: SwiGLU, relu², or the interleaving undone. tile_pass and cached_rows, as in
// quantize.cu. 16-byte aligned rows; the rest goes through nvfp4_general.
#include "cached_rows.cuh"
#include "tile_pass.cuh"

using namespace nvfp4;

// CTAs an SM that leave enough registers: sm_80 to sm_89 need a few more for f16.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define GATED_CTAS 2
#else
#define GATED_CTAS 3
#endif

NVFP4_KERNEL(nvfp4_gated_bf16, RowsParams, 256, GATED_CTAS) { tile_pass<GatedBlock<Bf16>, Bf16, AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_f16, RowsParams, 256, GATED_CTAS) { tile_pass<GatedBlock<F16>, F16, AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_amax_bf16, RowsParams, 256, 4) { tile_pass<GatedBlock<Bf16>, Bf16, FIND_AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_amax_f16, RowsParams, 256, 4) { tile_pass<GatedBlock<F16>, F16, FIND_AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16, RowsParams, 512, 2) { cached_rows<GatedBlock<Bf16>, Bf16, SWIGLU, AMAX, 1, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16, RowsParams, 512, 2) { cached_rows<GatedBlock<F16>, F16, SWIGLU, AMAX, 1, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16_rule, RowsParams, 512, 1) { cached_rows<GatedBlock<Bf16>, Bf16, SWIGLU, FIND_AMAX, 1, 2>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16_rule, RowsParams, 512, 1) { cached_rows<GatedBlock<F16>, F16, SWIGLU, FIND_AMAX, 1, 2>(p); }
