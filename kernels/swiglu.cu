// Gated activations → NVFP4: SwiGLU, relu², or the interleaving undone. 16-byte aligned rows.
// gated_pass: decode scales that are known, the plain rule. gated_rows: scales per row, the plain rule, up to 512 blocks.
// tile_pass: the amax of larger scopes. cached_rows (rule): any rule, up to 1024 blocks.
// The rest: nvfp4_general in quantize.cu.
#include "gated_rows.cuh"
#include "cached_rows.cuh"
#include "tile_pass.cuh"

using namespace nvfp4;

// CTAs an SM that leave enough registers: sm_80 to sm_89 need a few more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define GATED_CTAS 4
#define GATED_ROWS_CTAS 1
#else
#define GATED_CTAS 6
#define GATED_ROWS_CTAS 2
#endif

NVFP4_KERNEL(nvfp4_gated_bf16, RowsParams, 128, GATED_CTAS) { gated_pass<Bf16, 4, false>(p); }
NVFP4_KERNEL(nvfp4_gated_f16, RowsParams, 128, GATED_CTAS) { gated_pass<F16, 4, false>(p); }
NVFP4_KERNEL(nvfp4_gated_bf16_grouped, RowsParams, 128, GATED_CTAS) { gated_pass<Bf16, 4, true>(p); }
NVFP4_KERNEL(nvfp4_gated_f16_grouped, RowsParams, 128, GATED_CTAS) { gated_pass<F16, 4, true>(p); }
NVFP4_KERNEL(nvfp4_gated_amax_bf16, RowsParams, 256, 2) { tile_pass<GatedBlock<Bf16>, Bf16, FIND_AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_amax_f16, RowsParams, 256, 4) { tile_pass<GatedBlock<F16>, F16, FIND_AMAX, 1>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16, RowsParams, 512, GATED_ROWS_CTAS) { gated_rows<Bf16, false>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16, RowsParams, 512, GATED_ROWS_CTAS) { gated_rows<F16, false>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16_grouped, RowsParams, 512, GATED_ROWS_CTAS) { gated_rows<Bf16, true>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16_grouped, RowsParams, 512, GATED_ROWS_CTAS) { gated_rows<F16, true>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_bf16_rule, RowsParams, 512, 1) { cached_rows<GatedBlock<Bf16>, Bf16, SWIGLU>(p); }
NVFP4_KERNEL(nvfp4_gated_rows_f16_rule, RowsParams, 512, 1) { cached_rows<GatedBlock<F16>, F16, SWIGLU>(p); }
