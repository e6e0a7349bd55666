// The Hopper product for 32 tokens a group and more: a kernel for each kind of activations, of outputs (values, or codes
// with static scales) and number of tokens a block takes. sm90_many.cuh says how; src/plan/gemm_sm90.rs chooses. Dynamic
// shared memory: ManyForm::SHARED_BYTES.
#include "sm90_many.cuh"

namespace nvfp4 {

#define KERNEL(NAME, F16, CODES, UNITS, CONSUMERS, TOKENS, DEPTH, STAGES)                          \
  NVFP4_KERNEL(nvfp4_gemm_many_##NAME##_##TOKENS, Sm90ManyParams, 128 * (CONSUMERS + 1), 1) {        \
    NVFP4_DYNAMIC_SHARED(dynamic);                                                                 \
    run_many<ManyForm<F16, CODES, UNITS, CONSUMERS, TOKENS, DEPTH, STAGES>>(p, dynamic);           \
  }
// Two warpgroups decode too slowly for few tokens: a third one keeps the tensor cores busy.
#define KERNELS(NAME, F16, CODES)              \
  KERNEL(NAME, F16, CODES, 3, 3, 32, 2, 5)     \
  KERNEL(NAME, F16, CODES, 3, 3, 64, 2, 4)     \
  KERNEL(NAME, F16, CODES, 2, 2, 128, 2, 3)    \
  KERNEL(NAME, F16, CODES, 1, 2, 256, 1, 4)

#define NARROW_KERNEL(NAME, F16, UNITS, CONSUMERS, TOKENS, DEPTH, STAGES)                                          \
  NVFP4_KERNEL(nvfp4_gemm_many_##NAME##_##TOKENS##x##UNITS, Sm90ManyParams, 128 * (CONSUMERS + 1), 1) {              \
    NVFP4_DYNAMIC_SHARED(dynamic);                                                                                  \
    run_many<ManyForm<F16, false, UNITS, CONSUMERS, TOKENS, DEPTH, STAGES>>(p, dynamic);                            \
  }
NARROW_KERNEL(bf16, false, 1, 2, 64, 2, 6)
NARROW_KERNEL(bf16, false, 1, 2, 128, 2, 4)
NARROW_KERNEL(f16, true, 1, 2, 64, 2, 6)
NARROW_KERNEL(f16, true, 1, 2, 128, 2, 4)

KERNELS(bf16, false, false)
KERNELS(f16, true, false)
KERNELS(bf16_codes, false, true)
KERNELS(f16_codes, true, true)

}  // namespace nvfp4
