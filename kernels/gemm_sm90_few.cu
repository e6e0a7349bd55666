// The product for few tokens a group on sm_90a: a kernel for each kind of activations, number of tokens of a tile and number
// of units beside one another. sm90_few.cuh says how; plan::gemm_sm90 chooses. Dynamic shared memory:
// FewShape::SHARED_BYTES; grid: BLOCKS a processor.
#include "sm90_few.cuh"

namespace nvfp4 {

#define KERNEL(NAME, OPERAND, TOKENS, UNITS, STAGES, BLOCKS)                                          \
  NVFP4_KERNEL(nvfp4_gemm_few_##NAME##_##TOKENS##x##UNITS, Sm90Params, 128 * (UNITS + 1), BLOCKS) {    \
    NVFP4_DYNAMIC_SHARED(dynamic);                                                                    \
    run_few<FewShape<OPERAND, TOKENS, UNITS, 2, STAGES>>(p, dynamic);                                 \
  }
// Two narrow blocks on a processor overlap their starts and ends, which short streams gain from.
#define KERNELS(NAME, OPERAND)        \
  KERNEL(NAME, OPERAND, 8, 2, 5, 2)   \
  KERNEL(NAME, OPERAND, 8, 4, 5, 1)   \
  KERNEL(NAME, OPERAND, 16, 4, 5, 1)

KERNELS(bf16, Operand::BF16)
KERNELS(f16, Operand::F16)
KERNELS(codes, Operand::CODES)

}  // namespace nvfp4
