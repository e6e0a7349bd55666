// Values → NVFP4, and the amax of scopes. Thin: the passes do it; names are those of src/backend/cuda/rows.rs.
// nvfp4_quantize_*: tile_pass, known decode scales. nvfp4_amax_*: tile_pass, amax only. nvfp4_rows_*: plain_rows, scales
// per row by the plain rule (x4: four rows a CTA, few: a block a thread); _rule: cached_rows, by any. nvfp4_general: anything.
// nvfp4_flat: flat_rows, a product's rows. nvfp4_finish_scales: amax bits → decode scales.
#include "cached_rows.cuh"
#include "flat_rows.cuh"
#include "general_rows.cuh"
#include "plain_rows.cuh"
#include "tile_pass.cuh"

using namespace nvfp4;

NVFP4_KERNEL(nvfp4_quantize_bf16_amax, RowsParams, 256, 4) { tile_pass<PlainBlock<Bf16>, Bf16, AMAX, 4, false>(p); }
NVFP4_KERNEL(nvfp4_quantize_bf16_amax_grouped, RowsParams, 256, 3) { tile_pass<PlainBlock<Bf16>, Bf16, AMAX, 4, true>(p); }
NVFP4_KERNEL(nvfp4_quantize_f16_amax, RowsParams, 256, 4) { tile_pass<PlainBlock<F16>, F16, AMAX, 4, false>(p); }
NVFP4_KERNEL(nvfp4_quantize_f16_amax_grouped, RowsParams, 256, 3) { tile_pass<PlainBlock<F16>, F16, AMAX, 4, true>(p); }
NVFP4_KERNEL(nvfp4_quantize_f32_amax, RowsParams, 256, 4) { tile_pass<PlainBlock<F32>, F32, AMAX, 2, false>(p); }
NVFP4_KERNEL(nvfp4_quantize_f32_amax_grouped, RowsParams, 256, 3) { tile_pass<PlainBlock<F32>, F32, AMAX, 2, true>(p); }
NVFP4_KERNEL(nvfp4_quantize_bf16_four_over_six, RowsParams, 256, 3) { tile_pass<PlainBlock<Bf16>, Bf16, FOUR_OVER_SIX, 2, false>(p); }
NVFP4_KERNEL(nvfp4_quantize_bf16_four_over_six_grouped, RowsParams, 256, 2) { tile_pass<PlainBlock<Bf16>, Bf16, FOUR_OVER_SIX, 2, true>(p); }
NVFP4_KERNEL(nvfp4_quantize_f16_four_over_six, RowsParams, 256, 3) { tile_pass<PlainBlock<F16>, F16, FOUR_OVER_SIX, 2, false>(p); }
NVFP4_KERNEL(nvfp4_quantize_f16_four_over_six_grouped, RowsParams, 256, 2) { tile_pass<PlainBlock<F16>, F16, FOUR_OVER_SIX, 2, true>(p); }
NVFP4_KERNEL(nvfp4_quantize_f32_four_over_six, RowsParams, 256, 3) { tile_pass<PlainBlock<F32>, F32, FOUR_OVER_SIX, 1, false>(p); }
NVFP4_KERNEL(nvfp4_quantize_f32_four_over_six_grouped, RowsParams, 256, 2) { tile_pass<PlainBlock<F32>, F32, FOUR_OVER_SIX, 1, true>(p); }
NVFP4_KERNEL(nvfp4_quantize_bf16_min_mse, RowsParams, 256, 4) { tile_pass<PlainBlock<Bf16>, Bf16, MIN_MSE, 1>(p); }
NVFP4_KERNEL(nvfp4_quantize_f16_min_mse, RowsParams, 256, 4) { tile_pass<PlainBlock<F16>, F16, MIN_MSE, 1>(p); }
NVFP4_KERNEL(nvfp4_quantize_f32_min_mse, RowsParams, 256, 4) { tile_pass<PlainBlock<F32>, F32, MIN_MSE, 1>(p); }

NVFP4_KERNEL(nvfp4_amax_bf16, RowsParams, 256, 5) { tile_pass<PlainBlock<Bf16>, Bf16, FIND_AMAX, 2, false>(p); }
NVFP4_KERNEL(nvfp4_amax_bf16_grouped, RowsParams, 256, 5) { tile_pass<PlainBlock<Bf16>, Bf16, FIND_AMAX, 2, true>(p); }
NVFP4_KERNEL(nvfp4_amax_f16, RowsParams, 256, 5) { tile_pass<PlainBlock<F16>, F16, FIND_AMAX, 2, false>(p); }
NVFP4_KERNEL(nvfp4_amax_f16_grouped, RowsParams, 256, 5) { tile_pass<PlainBlock<F16>, F16, FIND_AMAX, 2, true>(p); }
NVFP4_KERNEL(nvfp4_amax_f32, RowsParams, 256, 5) { tile_pass<PlainBlock<F32>, F32, FIND_AMAX, 1, false>(p); }
NVFP4_KERNEL(nvfp4_amax_f32_grouped, RowsParams, 256, 5) { tile_pass<PlainBlock<F32>, F32, FIND_AMAX, 1, true>(p); }

NVFP4_KERNEL(nvfp4_rows_bf16, RowsParams, 256, 4) { plain_rows<Bf16, 4, 1, false>(p); }
NVFP4_KERNEL(nvfp4_rows_bf16_grouped, RowsParams, 256, 4) { plain_rows<Bf16, 4, 1, true>(p); }
NVFP4_KERNEL(nvfp4_rows_bf16_x4, RowsParams, 256, 4) { plain_rows<Bf16, 4, 4, false>(p); }
NVFP4_KERNEL(nvfp4_rows_bf16_x4_grouped, RowsParams, 256, 3) { plain_rows<Bf16, 4, 4, true>(p); }
NVFP4_KERNEL(nvfp4_rows_bf16_few, RowsParams, 512, 2) { plain_rows<Bf16, 1, 1, false>(p); }
NVFP4_KERNEL(nvfp4_rows_f16, RowsParams, 256, 4) { plain_rows<F16, 4, 1, false>(p); }
NVFP4_KERNEL(nvfp4_rows_f16_grouped, RowsParams, 256, 4) { plain_rows<F16, 4, 1, true>(p); }
NVFP4_KERNEL(nvfp4_rows_f16_x4, RowsParams, 256, 4) { plain_rows<F16, 4, 4, false>(p); }
NVFP4_KERNEL(nvfp4_rows_f16_x4_grouped, RowsParams, 256, 3) { plain_rows<F16, 4, 4, true>(p); }
NVFP4_KERNEL(nvfp4_rows_f16_few, RowsParams, 512, 2) { plain_rows<F16, 1, 1, false>(p); }
NVFP4_KERNEL(nvfp4_rows_f32, RowsParams, 512, 2) { plain_rows<F32, 2, 1, false>(p); }
NVFP4_KERNEL(nvfp4_rows_f32_grouped, RowsParams, 512, 1) { plain_rows<F32, 2, 1, true>(p); }
NVFP4_KERNEL(nvfp4_rows_bf16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<Bf16>, Bf16, PLAIN>(p); }
NVFP4_KERNEL(nvfp4_rows_f16_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F16>, F16, PLAIN>(p); }
NVFP4_KERNEL(nvfp4_rows_f32_rule, RowsParams, 512, 1) { cached_rows<PlainBlock<F32>, F32, PLAIN>(p); }

// Behind a product.
NVFP4_KERNEL(nvfp4_flat_bf16, RowsParams, 128, 6) { flat_rows<Bf16, 4>(p); }

NVFP4_KERNEL(nvfp4_general, RowsParams, 256, 2) { general_rows(p); }

NVFP4_KERNEL(nvfp4_finish_scales, FinishParams, 256, 1) {
  for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < p.count; i += uint64_t(gridDim.x) * blockDim.x)
    p.decode[i] = decode_scale_from_amax(p.decode[i]);
}

// Staging: ids widened, weights copied.
NVFP4_KERNEL(nvfp4_stage_routes, RoutesParams, 256, 1) {
  for (uint64_t i = blockIdx.x * uint64_t(blockDim.x) + threadIdx.x; i < p.count; i += uint64_t(gridDim.x) * blockDim.x) {
    p.ids_out[i] = p.ids_in[i];
    p.weights_out[i] = p.weights_in[i];
  }
}
