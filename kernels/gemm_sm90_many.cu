// The Hopper product for 32 tokens a group and more: a kernel for each kind of activations and number of tokens a block
// takes. sm90_many.cuh says how; src/plan/gemm_sm90.rs chooses. Dynamic shared memory: ManyForm::SHARED_BYTES.
#include "sm90_many.cuh"

namespace nvfp4 {

// `SIZE` is the tokens, and the units where other tiles of so many tokens have more.
#define KERNEL(NAME, SIZE, F16, UNITS, CONSUMERS, TOKENS, DEPTH, STAGES)                     \
  NVFP4_KERNEL(nvfp4_gemm_many_##NAME##_##SIZE, Sm90ManyParams, 128 * (CONSUMERS + 1), 1) {  \
    NVFP4_DYNAMIC_SHARED(dynamic);                                                          \
    run_many<ManyForm<F16, UNITS, CONSUMERS, TOKENS, DEPTH, STAGES>>(p, dynamic);           \
  }
// Two warpgroups decode too slowly for few tokens: a third one keeps the tensor cores busy. Narrow tiles are for products
// that have too few others to fill the processors.
#define KERNELS(NAME, F16)                     \
  KERNEL(NAME, 32, F16, 3, 3, 32, 2, 5)        \
  KERNEL(NAME, 64, F16, 3, 3, 64, 2, 4)        \
  KERNEL(NAME, 128, F16, 2, 2, 128, 2, 3)      \
  KERNEL(NAME, 256, F16, 1, 2, 256, 1, 4)      \
  KERNEL(NAME, 64x1, F16, 1, 2, 64, 2, 6)      \
  KERNEL(NAME, 128x1, F16, 1, 2, 128, 2, 4)

KERNELS(bf16, false)
KERNELS(f16, true)

}  // namespace nvfp4
