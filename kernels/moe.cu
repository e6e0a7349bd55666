// Mixture of experts: routing, the permutation into expert order, gathers in that order, and the way back. Thin: the headers
// do it; names are those of src/backend/cuda/moe.rs.
#include "moe_combine.cuh"
#include "moe_gather.cuh"
#include "moe_permute.cuh"
#include "moe_route.cuh"

using namespace nvfp4;

constexpr uint32_t ROUTE_WARPS = 4;

NVFP4_KERNEL(nvfp4_moe_route, RouteParams, 128, 6) {
  __shared__ float memory[ROUTE_WARPS * 2 * 33 * 8];
  route<8>(p, memory);
}
NVFP4_KERNEL(nvfp4_moe_route_many, RouteParams, 128, 3) {
  __shared__ float memory[ROUTE_WARPS * 2 * 33 * 32];
  route<32>(p, memory);
}

NVFP4_KERNEL(nvfp4_moe_count, PermuteParams, 256, 4) {
  __shared__ PermuteMemory memory;
  permute_count(p, memory);
}
NVFP4_KERNEL(nvfp4_moe_place, PermuteParams, 256, 4) {
  __shared__ PermuteMemory memory;
  permute_place(p, memory);
}
NVFP4_KERNEL(nvfp4_moe_sources, PermuteParams, 256, 4) { permute_sources(p); }

NVFP4_KERNEL(nvfp4_moe_gather, GatherParams, 128, 8) { gather_values(p); }
NVFP4_KERNEL(nvfp4_moe_gather_codes, GatherCodesParams, 128, 8) { gather_codes(p); }
NVFP4_KERNEL(nvfp4_moe_quantize_bf16, GatherRowsParams, 512, 2) { gather_quantize<Bf16>(p); }
NVFP4_KERNEL(nvfp4_moe_quantize_f16, GatherRowsParams, 512, 2) { gather_quantize<F16>(p); }
NVFP4_KERNEL(nvfp4_moe_quantize_any, GatherRowsParams, 256, 2) { gather_quantize<F32>(p); }

NVFP4_KERNEL(nvfp4_moe_combine_bf16, CombineParams, 128, 8) { combine_words<Bf16>(p); }
NVFP4_KERNEL(nvfp4_moe_combine_f16, CombineParams, 128, 8) { combine_words<F16>(p); }
NVFP4_KERNEL(nvfp4_moe_combine_any, CombineParams, 256, 4) { combine_columns(p); }
