// RMSNorm, with the residual added or streams mixed before it, → NVFP4. 16-byte aligned rows, scales static or per row.
// norm_rows: 16-bit types, up to 512 blocks a row, the plain rule. norm_four (x4): many rows.
// cached_rows (rule): any rule and type, up to 1024 blocks. Everything else: nvfp4_general in quantize.cu.
#include "norm_four.cuh"

using namespace nvfp4;

// CTAs an SM that leave enough registers: sm_90's compiler needs the fewest.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
#define FOUR_ROWS_CTAS 1
#else
#define FOUR_ROWS_CTAS 2
#endif

NVFP4_KERNEL(nvfp4_norm_bf16, RowsParams, 512, 2) { norm_rows<Bf16, NORM, false>(p); }
NVFP4_KERNEL(nvfp4_norm_f16, RowsParams, 512, 2) { norm_rows<F16, NORM, false>(p); }
NVFP4_KERNEL(nvfp4_norm_bf16_x4, RowsParams, 448, FOUR_ROWS_CTAS) { norm_four<Bf16>(p); }
NVFP4_KERNEL(nvfp4_norm_f16_x4, RowsParams, 448, FOUR_ROWS_CTAS) { norm_four<F16>(p); }
NVFP4_KERNEL(nvfp4_norm_bf16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<Bf16>, Bf16, NORM>(p); }
NVFP4_KERNEL(nvfp4_norm_f16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F16>, F16, NORM>(p); }
NVFP4_KERNEL(nvfp4_norm_f32_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F32>, F32, NORM>(p); }
NVFP4_KERNEL(nvfp4_hyper_bf16, RowsParams, 448, FOUR_ROWS_CTAS) { norm_rows<Bf16, HYPER, true>(p); }
NVFP4_KERNEL(nvfp4_hyper_f16, RowsParams, 448, FOUR_ROWS_CTAS) { norm_rows<F16, HYPER, true>(p); }
NVFP4_KERNEL(nvfp4_hyper_bf16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<Bf16>, Bf16, HYPER>(p); }
NVFP4_KERNEL(nvfp4_hyper_f16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F16>, F16, HYPER>(p); }
