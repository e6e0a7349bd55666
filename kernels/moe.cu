// Mixture of experts: routing, the permutation into expert order, gathers in that order, and the way back. Thin: the headers
// do it; names are those of src/backend/cuda/moe.rs.
#include "moe_combine.cuh"
#include "moe_dispatch.cuh"
#include "moe_round.cuh"
#include "moe_tokens.cuh"

using namespace nvfp4;

constexpr uint32_t ROUTE_WARPS = 4;

NVFP4_KERNEL(nvfp4_moe_route, RouteParams, 128, 6) {
  __shared__ float memory[ROUTE_WARPS * ROUTE_FLOATS<8>];
  route<8>(p, memory);
}
NVFP4_KERNEL(nvfp4_moe_route_many, RouteParams, 128, 3) {
  __shared__ float memory[ROUTE_WARPS * ROUTE_FLOATS<32>];
  route<32>(p, memory);
}
NVFP4_KERNEL(nvfp4_moe_route_few, RouteParams, 1024, 1) {
  __shared__ WideRoute<32> memory;
  route_few(p, memory);
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

NVFP4_KERNEL(nvfp4_moe_gather_codes, GatherCodesParams, 128, 8) { gather_codes(p); }

NVFP4_KERNEL(nvfp4_moe_scatter, GatherParams, 128, 8) { scatter_all(p); }
NVFP4_KERNEL(nvfp4_moe_scatter_codes, GatherCodesParams, 128, 8) { scatter_all(p); }
NVFP4_KERNEL(nvfp4_moe_scatter_bf16, GatherRowsParams, 512, 2) { scatter_all<Bf16>(p); }
NVFP4_KERNEL(nvfp4_moe_scatter_f16, GatherRowsParams, 512, 2) { scatter_all<F16>(p); }
NVFP4_KERNEL(nvfp4_moe_scatter_any, GatherRowsParams, 256, 2) { scatter_all<F32>(p); }

NVFP4_KERNEL(nvfp4_moe_tokens_bf16, GatherRowsParams, 256, 5) { scatter_shared<Bf16>(p); }
NVFP4_KERNEL(nvfp4_moe_tokens_f16, GatherRowsParams, 256, 5) { scatter_shared<F16>(p); }
NVFP4_KERNEL(nvfp4_moe_tokens_bf16_each, GatherRowsParams, 512, 2) { scatter_each<Bf16>(p); }
NVFP4_KERNEL(nvfp4_moe_tokens_f16_each, GatherRowsParams, 512, 2) { scatter_each<F16>(p); }
NVFP4_KERNEL(nvfp4_moe_turn_128x4, GatherRowsParams, 1024, 1) { turn_tiles<128>(p); }
NVFP4_KERNEL(nvfp4_moe_turn_8x4, GatherRowsParams, 1024, 1) { turn_tiles<8>(p); }
NVFP4_KERNEL(nvfp4_moe_round_bf16, GatherRowsParams, 256, 3) { round_rows<Bf16>(p); }

#define DISPATCH(NAME, Gather, body)                                             \
  NVFP4_KERNEL(nvfp4_moe_dispatch##NAME, DispatchParams<Gather>, 256, 2) {       \
    __shared__ DispatchMemory memory;                                            \
    body(p, memory);                                                             \
  }
DISPATCH(, GatherParams, dispatch_values)
DISPATCH(_codes, GatherCodesParams, dispatch_codes)
DISPATCH(_bf16, GatherRowsParams, dispatch_quantize<Bf16>)
DISPATCH(_f16, GatherRowsParams, dispatch_quantize<F16>)
DISPATCH(_any, GatherRowsParams, dispatch_quantize<F32>)

NVFP4_KERNEL(nvfp4_moe_combine_bf16, CombineParams, 128, 5) { combine_words<Bf16>(p); }
NVFP4_KERNEL(nvfp4_moe_combine_f16, CombineParams, 128, 5) { combine_words<F16>(p); }
NVFP4_KERNEL(nvfp4_moe_combine_any, CombineParams, 256, 4) { combine_columns(p); }
