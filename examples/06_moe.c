/* A mixture-of-experts layer in one call: router logits in, the experts' weighted sum out. The same struct with quantize = 1
 * runs both products on NVFP4 activations. One workspace, nothing allocated while it runs, and it can be captured. */
#include <nvfp4.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { EXPERTS = 8, TOPK = 2, TOKENS = 12, HIDDEN = 64, INNER = 48 };
static _Alignas(16) float w1[EXPERTS * 2 * INNER * HIDDEN], w2[EXPERTS * HIDDEN * INNER], logits[TOKENS * EXPERTS], y[2][TOKENS * HIDDEN];
static _Alignas(16) uint16_t x[TOKENS * HIDDEN];
static int32_t ids[TOKENS * TOPK];
static float weights[TOKENS * TOPK];

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

/* bf16 by cutting a float short. */
static uint16_t to_bf16(float value) {
    union { float f; uint32_t u; } bits = {.f = value};
    return (uint16_t)(bits.u >> 16);
}
static double from_bf16(uint16_t half) {
    union { uint32_t u; float f; } bits = {.u = (uint32_t)half << 16};
    return bits.f;
}

static void *scratch(size_t bytes) { return bytes ? aligned_alloc(64, (bytes + 63) / 64 * 64) : NULL; }

static nvfp4_weights *prepare(nvfp4_context *context, nvfp4_stream *stream, const float *values, int64_t n, int64_t k, uint32_t gate_up, void **storage) {
    nvfp4_weights *prepared;
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = EXPERTS, .rows = n, .cols = k, .gate_up = gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = values, .src_dtype = NVFP4_DTYPE_F32};
    must(nvfp4_weights_storage_size(context, &args, &args.storage_size));
    *storage = args.storage = scratch(args.storage_size);
    must(nvfp4_weights_prepare(context, &args, stream, &prepared));
    return prepared;
}

/* The layer in double, from the unquantized weights and the library's routes. */
static double relative_error(const float *out) {
    double error = 0, norm = 0;
    for (int t = 0; t < TOKENS; t++) {
        double want[HIDDEN] = {0}, h[INNER];
        for (int j = 0; j < TOPK; j++) {
            const float *up = w1 + ids[t * TOPK + j] * 2 * INNER * HIDDEN, *down = w2 + ids[t * TOPK + j] * HIDDEN * INNER;
            for (int i = 0; i < INNER; i++) {
                double g = 0, u = 0;
                for (int k = 0; k < HIDDEN; k++) {
                    g += from_bf16(x[t * HIDDEN + k]) * up[i * HIDDEN + k];
                    u += from_bf16(x[t * HIDDEN + k]) * up[(INNER + i) * HIDDEN + k];
                }
                h[i] = g / (1 + exp(-g)) * u;
            }
            for (int n = 0; n < HIDDEN; n++)
                for (int i = 0; i < INNER; i++) want[n] += (double)weights[t * TOPK + j] * h[i] * down[n * INNER + i];
        }
        for (int n = 0; n < HIDDEN; n++) error += pow(out[t * HIDDEN + n] - want[n], 2), norm += want[n] * want[n];
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
    for (int i = 0; i < EXPERTS * HIDDEN * INNER; i++) w2[i] = 0.2f * noise();
    for (int i = 0; i < TOKENS * HIDDEN; i++) x[i] = to_bf16(noise());
    for (int i = 0; i < TOKENS * EXPERTS; i++) logits[i] = 3 * noise();
    nvfp4_weights *l1 = prepare(context, stream, w1, 2 * INNER, HIDDEN, 1, &storage1);
    nvfp4_weights *l2 = prepare(context, stream, w2, HIDDEN, INNER, 0, &storage2);

    nvfp4_moe_router router = {.score = NVFP4_MOE_SCORE_SOFTMAX, .renormalise = 1};
    for (uint32_t quantize = 0; quantize < 2; quantize++) {
        nvfp4_moe_forward_args layer = {
            .struct_size = sizeof layer, .w1 = l1, .w2 = l2, .tokens = TOKENS, .hidden = x, .quantize = quantize, .logits = logits,
            .logits_dtype = NVFP4_DTYPE_F32, .topk = TOPK, .router = router, .activation = NVFP4_ACTIVATION_SWIGLU, .out = y[quantize],
            .out_dtype = NVFP4_DTYPE_F32};
        must(nvfp4_moe_forward_workspace_size(context, &layer, &layer.workspace_size));
        layer.workspace = scratch(layer.workspace_size);
        must(nvfp4_moe_forward(context, &layer, stream));
        must(nvfp4_stream_synchronize(stream));
        free(layer.workspace);
    }

    /* The parts are calls of their own: here the router's. */
    nvfp4_moe_route_args route = {.struct_size = sizeof route, .logits = logits, .logits_dtype = NVFP4_DTYPE_F32, .topk = TOPK, .tokens = TOKENS,
                                  .experts = EXPERTS, .router = router, .topk_ids = ids, .topk_weights = weights};
    must(nvfp4_moe_route(context, &route, stream));
    must(nvfp4_stream_synchronize(stream));
    printf("token 0 goes to experts %d and %d; relative error with bf16 activations %.3f, with 4-bit ones %.3f\n", (int)ids[0], (int)ids[1],
           relative_error(y[0]), relative_error(y[1]));

    must(nvfp4_weights_destroy(l1));
    must(nvfp4_weights_destroy(l2));
    free(storage1);
    free(storage2);
    must(nvfp4_stream_destroy(stream));
    must(nvfp4_context_destroy(context));
    return 0;
}
