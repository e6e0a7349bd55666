/* A grouped product, as a mixture-of-experts layer needs it: tokens sorted by expert, one weight matrix an expert.
 * Weights are prepared once, in memory of the caller; the run call takes its scratch from the caller, too. */
#include <nvfp4.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXPERTS = 4, TOKENS = 24, N = 64, K = 128 };
static _Alignas(16) float weights_f32[EXPERTS * N * K], out[TOKENS * N];
static _Alignas(16) uint16_t tokens[TOKENS * K]; /* bf16 */
static int32_t ends[EXPERTS] = {5, 5, 20, 24};   /* expert 1 has no tokens today */

static void must(nvfp4_status status) {
    if (status == NVFP4_STATUS_SUCCESS) return;
    fprintf(stderr, "%s\n", nvfp4_last_message());
    exit(1);
}

/* Noise in [-1, 1), the same on every run. */
static float noise(void) {
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(int32_t)state / 2147483648.0f;
}

static void *scratch(size_t bytes) { return bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL; }

static uint16_t bf16(float x) {
    union { float f; uint32_t u; } bits = {.f = x};
    return (uint16_t)(bits.u >> 16); /* truncated, which is good enough here */
}
static float from_bf16(uint16_t x) {
    union { uint32_t u; float f; } bits = {.u = (uint32_t)x << 16};
    return bits.f;
}

int main(void) {
    nvfp4_context *context;
    nvfp4_stream *stream;
    nvfp4_weights *weights;
    must(nvfp4_context_create(NULL, &context));
    must(nvfp4_stream_create(context, &stream));
    for (int i = 0; i < EXPERTS * N * K; i++) weights_f32[i] = 0.05f * noise();
    for (int i = 0; i < TOKENS * K; i++) tokens[i] = bf16(noise());

    /* Once: quantize and bring into the kernels' layout. */
    nvfp4_weights_prepare_args prepare = {.struct_size = sizeof prepare, .groups = EXPERTS, .rows = N, .cols = K,
                                          .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = weights_f32, .src_dtype = NVFP4_DTYPE_F32};
    must(nvfp4_weights_storage_size(context, &prepare, &prepare.storage_size));
    prepare.storage = scratch(prepare.storage_size);
    must(nvfp4_weights_prepare(context, &prepare, stream, &weights));

    /* Every step: ask for the workspace, run. `ends` is read on the device; any split of the tokens fits. */
    nvfp4_grouped_gemm_args gemm = {.struct_size = sizeof gemm, .weights = weights, .rows = TOKENS,
                                    .groups = {.grouping = NVFP4_GROUPING_ENDS, .count = EXPERTS, .ends = ends},
                                    .a = tokens, .a_dtype = NVFP4_DTYPE_BF16, .out = out, .out_dtype = NVFP4_DTYPE_F32};
    must(nvfp4_grouped_gemm_workspace_size(context, &gemm, &gemm.workspace_size));
    gemm.workspace = scratch(gemm.workspace_size);
    must(nvfp4_grouped_gemm(context, &gemm, stream));
    must(nvfp4_stream_synchronize(stream));

    double error = 0, norm = 0;
    for (int t = 0; t < TOKENS; t++)
        for (int n = 0; n < N; n++) {
            int expert = 0;
            double sum = 0;
            while (t >= ends[expert]) expert++;
            for (int k = 0; k < K; k++) sum += (double)from_bf16(tokens[t * K + k]) * weights_f32[(expert * N + n) * K + k];
            error += pow(out[t * N + n] - sum, 2), norm += sum * sum;
        }
    printf("%d tokens, %d experts: relative error %.3f from 4-bit weights\n", TOKENS, EXPERTS, sqrt(error / norm));
    must(nvfp4_weights_destroy(weights));
    free(prepare.storage);
    free(gemm.workspace);
    must(nvfp4_stream_destroy(stream));
    must(nvfp4_context_destroy(context));
    return 0;
}
