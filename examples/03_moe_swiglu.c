/* The two products of a mixture-of-experts block, all in NVFP4: L1 with SwiGLU in its epilogue writes quantized rows,
 * L2 reads them. No bf16 activations of width 2I ever exist. */
#include <nvfp4.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXPERTS = 2, TOKENS = 16, HIDDEN = 128, INNER = 64 };
static _Alignas(16) float w1[EXPERTS * 2 * INNER * HIDDEN], w2[EXPERTS * HIDDEN * INNER], x[TOKENS * HIDDEN], y[TOKENS * HIDDEN];
static _Alignas(16) uint8_t x_codes[TOKENS * HIDDEN / 2], x_scales[TOKENS * HIDDEN / 16], h_codes[TOKENS * INNER / 2], h_scales[TOKENS * INNER / 16];
static float x_decode[TOKENS], h_decode[TOKENS];
static int32_t counts[EXPERTS] = {6, 10}, ends[EXPERTS];

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

static nvfp4_weights *prepare(nvfp4_context *context, nvfp4_stream *stream, const float *values, int64_t n, int64_t k, uint32_t gate_up, void **storage) {
    nvfp4_weights *weights;
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = EXPERTS, .rows = n, .cols = k, .gate_up = gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = values, .src_dtype = NVFP4_DTYPE_F32};
    must(nvfp4_weights_storage_size(context, &args, &args.storage_size));
    *storage = args.storage = scratch(args.storage_size);
    must(nvfp4_weights_prepare(context, &args, stream, &weights));
    return weights;
}

static void run(nvfp4_context *context, nvfp4_stream *stream, nvfp4_grouped_gemm_args *args) {
    must(nvfp4_grouped_gemm_workspace_size(context, args, &args->workspace_size));
    args->workspace = scratch(args->workspace_size);
    must(nvfp4_grouped_gemm(context, args, stream));
    must(nvfp4_stream_synchronize(stream));
    free(args->workspace);
}

/* The same block in double, from the unquantized values. */
static double relative_error(void) {
    double error = 0, norm = 0, h[INNER];
    for (int t = 0; t < TOKENS; t++) {
        int e = t >= ends[0];
        for (int i = 0; i < INNER; i++) {
            double gate = 0, up = 0;
            for (int k = 0; k < HIDDEN; k++) {
                gate += (double)x[t * HIDDEN + k] * w1[(e * 2 * INNER + i) * HIDDEN + k];
                up += (double)x[t * HIDDEN + k] * w1[(e * 2 * INNER + INNER + i) * HIDDEN + k];
            }
            h[i] = gate / (1 + exp(-gate)) * up;
        }
        for (int n = 0; n < HIDDEN; n++) {
            double sum = 0;
            for (int i = 0; i < INNER; i++) sum += h[i] * w2[(e * HIDDEN + n) * INNER + i];
            error += pow(y[t * HIDDEN + n] - sum, 2), norm += sum * sum;
        }
    }
    return sqrt(error / norm);
}

int main(void) {
    nvfp4_context *context;
    nvfp4_stream *stream;
    void *storage1, *storage2;
    must(nvfp4_context_create(NULL, &context));
    must(nvfp4_stream_create(context, &stream));
    for (int i = 0; i < EXPERTS * 2 * INNER * HIDDEN; i++) w1[i] = 0.2f * noise();
    for (int i = 0; i < EXPERTS * HIDDEN * INNER; i++) w2[i] = 0.1f * noise();
    for (int i = 0; i < TOKENS * HIDDEN; i++) x[i] = noise();

    /* [gate; up] goes in as it is; the prepared weight interleaves it as the kernel likes. */
    nvfp4_weights *l1 = prepare(context, stream, w1, 2 * INNER, HIDDEN, 1, &storage1);
    nvfp4_weights *l2 = prepare(context, stream, w2, HIDDEN, INNER, 0, &storage2);

    nvfp4_group_ends_args group_ends = {.struct_size = sizeof group_ends, .counts = counts, .ends = ends, .count = EXPERTS};
    must(nvfp4_group_ends(context, &group_ends, stream));
    nvfp4_quantize_args quantize = {.struct_size = sizeof quantize, .src = x, .src_dtype = NVFP4_DTYPE_F32, .rows = TOKENS, .cols = HIDDEN,
                                    .out = {.codes = x_codes, .scales = x_scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = x_decode}};
    must(nvfp4_quantize(context, &quantize, stream));

    nvfp4_groups groups = {.grouping = NVFP4_GROUPING_ENDS, .count = EXPERTS, .ends = ends};
    nvfp4_grouped_gemm_args first = {
        .struct_size = sizeof first, .weights = l1, .rows = TOKENS, .groups = groups, .a_dtype = NVFP4_DTYPE_NVFP4,
        .a_quantized = {.codes = x_codes, .scales = x_scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = x_decode},
        .activation = NVFP4_ACTIVATION_SWIGLU, .out_dtype = NVFP4_DTYPE_NVFP4,
        .out_quantized = {.codes = h_codes, .scales = h_scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = h_decode}};
    nvfp4_grouped_gemm_args second = {
        .struct_size = sizeof second, .weights = l2, .rows = TOKENS, .groups = groups, .a_dtype = NVFP4_DTYPE_NVFP4,
        .a_quantized = {.codes = h_codes, .scales = h_scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = h_decode},
        .out = y, .out_dtype = NVFP4_DTYPE_F32};
    run(context, stream, &first);
    run(context, stream, &second);
    printf("%d tokens through two 4-bit products: relative error %.3f\n", TOKENS, relative_error());

    must(nvfp4_weights_destroy(l1));
    must(nvfp4_weights_destroy(l2));
    free(storage1);
    free(storage2);
    must(nvfp4_stream_destroy(stream));
    must(nvfp4_context_destroy(context));
    return 0;
}
