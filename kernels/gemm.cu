// The portable product: one kernel for each kind of activations and number of tokens a block takes.
// gemm.cuh says how; src/backend/cuda/gemm.rs chooses. Dynamic shared memory: STAGES · STAGE_BYTES.
#include "gemm.cuh"

namespace nvfp4 {

#define KERNEL(NAME, OPERAND, TOKENS, UNITS, STAGES, BLOCKS)                                            \
  NVFP4_KERNEL(nvfp4_gemm_##NAME##_##TOKENS, GemmParams, 128 * UNITS, BLOCKS) {                         \
    NVFP4_DYNAMIC_SHARED(dynamic);                                                                      \
    run_gemm<Shape<OPERAND, TOKENS, UNITS, STAGES, BLOCKS>>(p, dynamic);                                \
  }
#define KERNELS(NAME, OPERAND)          \
  KERNEL(NAME, OPERAND, 8, 1, 6, 4)     \
  KERNEL(NAME, OPERAND, 16, 1, 6, 4)    \
  KERNEL(NAME, OPERAND, 32, 1, 5, 3)    \
  KERNEL(NAME, OPERAND, 64, 1, 4, 2)    \
  KERNEL(NAME, OPERAND, 128, 2, 3, 1)

KERNELS(bf16, Operand::BF16)
KERNELS(f16, Operand::F16)
KERNELS(codes, Operand::CODES)

}  // namespace nvfp4
