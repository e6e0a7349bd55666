// The product for few tokens a group on sm_90a: one kernel for each kind of activations and number of tokens of a tile.
// sm90_few.cuh says how; plan::gemm_cuda chooses. Dynamic shared memory: FewShape::SHARED_BYTES; grid: one wave.
#include "sm90_few.cuh"

namespace nvfp4 {

#define KERNEL(NAME, OPERAND, TOKENS, UNITS, DEPTH, STAGES, BLOCKS)                                           \
  NVFP4_KERNEL(nvfp4_gemm_few_##NAME##_##TOKENS, Sm90Params, 32 * (4 * UNITS + 3), BLOCKS) {                \
    NVFP4_DYNAMIC_SHARED(dynamic);                                                                            \
    run_few<FewShape<OPERAND, TOKENS, UNITS, DEPTH, STAGES>>(p, dynamic);                                     \
  }
#define KERNELS(NAME, OPERAND)            \
  KERNEL(NAME, OPERAND, 8, 4, 2, 5, 1)    \
  KERNEL(NAME, OPERAND, 16, 4, 2, 5, 1)

KERNELS(bf16, Operand::BF16)
KERNELS(f16, Operand::F16)
KERNELS(codes, Operand::CODES)

}  // namespace nvfp4
