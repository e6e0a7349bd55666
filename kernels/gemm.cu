// The portable product: one kernel for each kind of activations and number of tokens a block takes.
// gemm.cuh says how; src/backend/cuda/gemm.rs chooses. Dynamic shared memory: STAGES · STAGE_BYTES.
#include "gemm.cuh"

namespace nvfp4 {

#define KERNEL(NAME, OPERAND, TOKENS, UNITS, STAGES, BLOCKS)                                                          \
  extern "C" __global__ void __launch_bounds__(128 * UNITS, BLOCKS) nvfp4_gemm_##NAME##_##TOKENS(const __grid_constant__ GemmParams p) { \
    extern __shared__ __align__(128) uint8_t dynamic[];                                                               \
    run_gemm<Shape<OPERAND, TOKENS, UNITS, STAGES, BLOCKS>>(p, dynamic);                                              \
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
