// RMSNorm, with the residual added or streams mixed before it, → NVFP4. cached_rows; up to 1024 blocks a row,
// 16-byte aligned rows, scales static or per row. Everything else: nvfp4_general in quantize.cu.
#include "cached_rows.cuh"

using namespace nvfp4;

// CTAs an SM that leave enough registers: from sm_100 on the compiler pairs floats and needs more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
#define FOUR_ROWS_CTAS 1
#else
#define FOUR_ROWS_CTAS 2
#endif

NVFP4_KERNEL(nvfp4_norm_bf16, RowsParams, 512, 2) { cached_rows<PlainBlock<Bf16>, Bf16, NORM, AMAX, 1, 1>(p); }
NVFP4_KERNEL(nvfp4_norm_f16, RowsParams, 512, 2) { cached_rows<PlainBlock<F16>, F16, NORM, AMAX, 1, 1>(p); }
NVFP4_KERNEL(nvfp4_norm_bf16_x4, RowsParams, 448, FOUR_ROWS_CTAS) { cached_rows<PlainBlock<Bf16>, Bf16, NORM, AMAX, 4, 1>(p); }
NVFP4_KERNEL(nvfp4_norm_f16_x4, RowsParams, 448, FOUR_ROWS_CTAS) { cached_rows<PlainBlock<F16>, F16, NORM, AMAX, 4, 1>(p); }
NVFP4_KERNEL(nvfp4_norm_bf16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<Bf16>, Bf16, NORM, FIND_AMAX, 1, 2>(p); }
NVFP4_KERNEL(nvfp4_norm_f16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F16>, F16, NORM, FIND_AMAX, 1, 2>(p); }
NVFP4_KERNEL(nvfp4_norm_f32_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F32>, F32, NORM, FIND_AMAX, 1, 2>(p); }
NVFP4_KERNEL(nvfp4_hyper_bf16, RowsParams, 512, 1) { cached_rows<PlainBlock<Bf16>, Bf16, HYPER, AMAX, 1, 1>(p); }
NVFP4_KERNEL(nvfp4_hyper_f16, RowsParams, 512, 1) { cached_rows<PlainBlock<F16>, F16, HYPER, AMAX, 1, 1>(p); }
NVFP4_KERNEL(nvfp4_hyper_bf16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<Bf16>, Bf16, HYPER, FIND_AMAX, 1, 2>(p); }
NVFP4_KERNEL(nvfp4_hyper_f16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F16>, F16, HYPER, FIND_AMAX, 1, 2>(p); }
