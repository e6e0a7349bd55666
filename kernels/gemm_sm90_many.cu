// The Hopper product for 32 tokens a group and more: a kernel for each kind of activations and number of tokens a block
// takes. sm90_many.cuh says how; src/plan/gemm_cuda.rs chooses. Dynamic shared memory: ManyForm::SHARED_BYTES.
#include "sm90_many.cuh"

namespace nvfp4 {

#define KERNEL(NAME, F16, HALVES, TOKENS, STAGES)                                                            \
  NVFP4_KERNEL(nvfp4_gemm_many_##NAME##_##TOKENS, Sm90ManyParams, 384, 1) {                          \
    NVFP4_DYNAMIC_SHARED(dynamic);                                                                   \
    run_many<ManyForm<F16, HALVES, TOKENS, STAGES>>(p, dynamic);                                             \
  }
#define KERNELS(NAME, F16)      \
  KERNEL(NAME, F16, 2, 32, 14)     \
  KERNEL(NAME, F16, 2, 64, 11)     \
  KERNEL(NAME, F16, 2, 128, 7)   \
  KERNEL(NAME, F16, 1, 256, 5)

KERNELS(bf16, false)
KERNELS(f16, true)

}  // namespace nvfp4
