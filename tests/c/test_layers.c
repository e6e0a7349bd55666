/* Whole layers give the bits of the calls that they consist of, eager and replayed, whatever was in the workspace before. */
#include "reference.h"

enum { TOKENS = 45, TOPK = 3, EXPERTS = 6, K = 96, I = 48, N = 80 };

static nvfp4_context *context;
static nvfp4_stream *stream;

static nvfp4_weights *make_weights(int64_t groups, int64_t rows, int64_t cols, uint32_t gate_up) {
    nvfp4_weights *weights = NULL;
    size_t count = (size_t)(groups * rows * cols);
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = groups, .rows = rows, .cols = cols, .gate_up = gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = mem_in(count * 2)};
    fill_normal((void *)(uintptr_t)args.src, NVFP4_DTYPE_BF16, count, 0.1f);
    MUST(nvfp4_weights_storage_size(context, &args, &args.storage_size) == NVFP4_STATUS_SUCCESS);
    args.storage = mem_in(args.storage_size);
    MUST(nvfp4_weights_prepare(context, &args, stream, &weights) == NVFP4_STATUS_SUCCESS);
    return weights;
}

static void product(nvfp4_grouped_gemm_args *args) {
    OK(nvfp4_grouped_gemm_workspace_size(context, args, &args->workspace_size));
    args->workspace = args->workspace_size ? mem_out(args->workspace_size) : NULL;
    OK(nvfp4_grouped_gemm(context, args, stream));
}

/* One call, its arguments captured: eager over both poisons, then replayed. `want` is what `out` must hold. */
static void runs_alike(nvfp4_status (*call)(nvfp4_context *, const void *, nvfp4_stream *), const void *args, void *out, const void *want,
                       size_t bytes, size_t steps) {
    nvfp4_graph *graph;
    size_t count = 0;
    static const unsigned char poisons[] = {0xA5, 0x5A, 0xA5};
    OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
    OK(call(context, args, stream));
    OK(nvfp4_graph_end_capture(stream, &graph));
    OK(nvfp4_graph_node_count(graph, &count));
    /* A step of the layer is a node on the CPU, and some launches on a GPU. */
    CHECK_THAT(on_gpu() ? count > 0 : count == steps, "%zu nodes of %zu steps", count, steps);
    OK(nvfp4_graph_instantiate(graph));
    for (int round = 0; round < 3; round++) {
        mem_poison(poisons[round]);
        if (round < 2) OK(call(context, args, stream));
        else OK(nvfp4_graph_launch(graph, stream));
        CHECK(memcmp(out, want, bytes) == 0);
        CHECK(mem_guards_ok());
    }
    OK(nvfp4_graph_destroy(graph));
}

#define ERASED(verb, type)                                                                              \
    static nvfp4_status call_##verb(nvfp4_context *c, const void *args, nvfp4_stream *s) {              \
        return nvfp4_##verb(c, (const type *)args, s);                                                  \
    }
ERASED(moe_forward, nvfp4_moe_forward_args)
ERASED(linear, nvfp4_linear_args)
ERASED(grouped_linear, nvfp4_grouped_linear_args)

/* The layer from its parts: route, permute with gather or quantization, two products, combine. */
static void moe(int tokens, nvfp4_activation activation, bool quantize, bool routed, int64_t first, int64_t local) {
    const int slots = tokens * TOPK;
    nvfp4_weights *w1 = make_weights(local, activation == NVFP4_ACTIVATION_SWIGLU ? 2 * I : I, K, activation == NVFP4_ACTIVATION_SWIGLU);
    nvfp4_weights *w2 = make_weights(local, N, I, 0);
    unsigned char *hidden = mem_in(tokens * K * 2), *shared = mem_in(tokens * N * 4), *out = mem_out(tokens * N * 4), *want = mem_out(tokens * N * 4);
    unsigned char *rows = mem_out(slots * K * 2), *h = mem_out(slots * I * 2), *y = mem_out(slots * N * 2), *bias1 = mem_in((size_t)local * 2 * I * 4);
    unsigned char *codes = mem_out(slots * K / 2), *scales = mem_out(slots * K / 16), *codes_h = mem_out(slots * I / 2), *scales_h = mem_out(slots * I / 16), *kept;
    float *logits = mem_in(tokens * EXPERTS * 4), *weights = mem_out(slots * 4), *decode = mem_out(slots * 8);
    int32_t *ids = mem_out(slots * 4), *ends = mem_out(EXPERTS * 4), *source = mem_out(slots * 4), *inverse = mem_out(slots * 4);
    fill_normal(hidden, NVFP4_DTYPE_BF16, tokens * K, 1.0f);
    fill_normal(shared, NVFP4_DTYPE_F32, tokens * N, 1.0f);
    fill_normal(bias1, NVFP4_DTYPE_F32, (size_t)local * 2 * I, 0.2f);
    fill_normal(logits, NVFP4_DTYPE_F32, tokens * EXPERTS, 2.0f);
    nvfp4_moe_router router = {.score = NVFP4_MOE_SCORE_SIGMOID, .renormalise = 1, .scaling = 2.5f, .groups = 3, .top_groups = 2};
    nvfp4_moe_route_args route = {.struct_size = sizeof route, .logits = logits, .logits_dtype = NVFP4_DTYPE_F32, .topk = TOPK, .tokens = tokens,
                                  .experts = EXPERTS, .router = router, .topk_ids = ids, .topk_weights = weights};
    OK(nvfp4_moe_route(context, &route, stream));
    nvfp4_quantized to_a = {.codes = codes, .scales = scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = decode};
    nvfp4_quantized to_h = {.codes = codes_h, .scales = scales_h, .scope = NVFP4_SCOPE_ROW, .decode_scales = decode + slots};
    nvfp4_moe_permute_args permute = {.struct_size = sizeof permute, .tokens = tokens, .experts = EXPERTS, .first_expert = first, .local_experts = local,
                                      .topk = TOPK, .topk_ids = ids, .ends = ends, .source_rows = source, .inverse = inverse, .cols = K, .src = hidden};
    if (quantize) permute.out = to_a;
    else permute.gathered = rows;
    OK(nvfp4_moe_permute(context, &permute, stream));
    nvfp4_groups groups = {.grouping = NVFP4_GROUPING_ENDS, .count = (uint32_t)local, .ends = ends};
    nvfp4_grouped_gemm_args l1 = {.struct_size = sizeof l1, .weights = w1, .rows = slots, .groups = groups, .bias = bias1, .bias_dtype = NVFP4_DTYPE_F32,
                                  .activation = activation, .limit = activation == NVFP4_ACTIVATION_SWIGLU ? 1.5f : 0};
    nvfp4_grouped_gemm_args l2 = {.struct_size = sizeof l2, .weights = w2, .rows = slots, .groups = groups, .out = y};
    if (quantize) {
        l1.a_dtype = l2.a_dtype = l1.out_dtype = NVFP4_DTYPE_NVFP4;
        l1.a_quantized = (nvfp4_quantized_input){.codes = to_a.codes, .scales = to_a.scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = to_a.decode_scales};
        l2.a_quantized = (nvfp4_quantized_input){.codes = to_h.codes, .scales = to_h.scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = to_h.decode_scales};
        l1.out_quantized = to_h;
    } else {
        l1.a = rows, l1.out = h, l2.a = h;
    }
    product(&l1);
    product(&l2);
    nvfp4_moe_combine_args combine = {.struct_size = sizeof combine, .tokens = tokens, .cols = N, .topk = TOPK, .rows = slots, .y = y, .inverse = inverse,
                                      .topk_weights = weights, .shared = shared, .shared_dtype = NVFP4_DTYPE_F32, .scaling = 0.5f, .out = want,
                                      .out_dtype = NVFP4_DTYPE_F32};
    OK(nvfp4_moe_combine(context, &combine, stream));
    kept = mem_in(tokens * N * 4);
    memcpy(kept, want, tokens * N * 4);
    int32_t *given_ids = mem_in(slots * 4);
    float *given_weights = mem_in(slots * 4);
    memcpy(given_ids, ids, slots * 4);
    memcpy(given_weights, weights, slots * 4);
    nvfp4_moe_forward_args args = {.struct_size = sizeof args, .w1 = w1, .w2 = w2, .tokens = tokens, .experts = EXPERTS, .first_expert = first,
                                   .hidden = hidden, .quantize = quantize, .topk = TOPK, .bias1 = bias1, .bias_dtype = NVFP4_DTYPE_F32,
                                   .activation = activation, .limit = l1.limit, .shared = shared, .shared_dtype = NVFP4_DTYPE_F32, .scaling = 0.5f,
                                   .out = out, .out_dtype = NVFP4_DTYPE_F32};
    if (routed) args.logits = logits, args.logits_dtype = NVFP4_DTYPE_F32, args.router = router;
    else args.topk_ids = given_ids, args.topk_weights = given_weights;
    OK(nvfp4_moe_forward_workspace_size(context, &args, &args.workspace_size));
    nvfp4_moe_forward_args early = args; /* nothing is allocated yet */
    size_t bytes = 0;
    early.hidden = NULL, early.logits = NULL, early.topk_ids = NULL, early.topk_weights = NULL, early.bias1 = NULL, early.shared = NULL, early.out = NULL;
    OK(nvfp4_moe_forward_workspace_size(context, &early, &bytes));
    CHECK(bytes >= args.workspace_size);
    args.workspace = mem_out(args.workspace_size);
    runs_alike(call_moe_forward, &args, out, kept, tokens * N * 4, 4);
    MUST(nvfp4_weights_destroy(w1) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_weights_destroy(w2) == NVFP4_STATUS_SUCCESS);
    mem_free();
}

/* [tokens, G, K] by the strided quantizer and product; G = 1 also as nvfp4_linear. */
static void linear(size_t groups, bool quantize, nvfp4_scope scope, bool is_static) {
    nvfp4_weights *weights = make_weights((int64_t)groups, N, K, 0);
    size_t rows = TOKENS * groups, entries = scope == NVFP4_SCOPE_ROW ? rows : scope == NVFP4_SCOPE_GROUP ? groups : 1;
    unsigned char *a = mem_in(rows * K * 2), *bias = mem_in(groups * N * 2), *out = mem_out(rows * N * 4), *want = mem_out(rows * N * 4), *kept = mem_in(rows * N * 4);
    unsigned char *codes = mem_out(rows * K / 2), *scales = mem_out(rows * K / 16);
    float *decode = mem_out(rows * 4), *given = mem_in(rows * 4);
    for (size_t i = 0; i < entries; i++) given[i] = 0.002f * (float)(i % 3 + 1);
    fill_normal(a, NVFP4_DTYPE_BF16, rows * K, 1.0f);
    fill_normal(bias, NVFP4_DTYPE_BF16, groups * N, 1.0f);
    nvfp4_groups split = {.grouping = NVFP4_GROUPING_STRIDED, .count = (uint32_t)groups, .max_tokens = TOKENS};
    nvfp4_grouped_gemm_args one = {.struct_size = sizeof one, .weights = weights, .rows = (int64_t)rows, .groups = split, .a = a, .a_row_stride = (int64_t)(groups * K),
                                   .a_group_stride = K, .bias = bias, .out = want, .out_dtype = NVFP4_DTYPE_F32, .out_row_stride = (int64_t)(groups * N), .out_group_stride = N};
    if (quantize) {
        nvfp4_quantize_args q = {.struct_size = sizeof q, .src = a, .src_row_stride = (int64_t)(groups * K), .src_group_stride = K, .rows = (int64_t)rows, .cols = K,
                                 .groups = split, .out = {.codes = codes, .scales = scales, .scope = scope, .scale_rule = NVFP4_SCALE_RULE_MIN_MSE}};
        if (is_static) q.out.static_decode_scales = given;
        else q.out.decode_scales = decode;
        OK(nvfp4_quantize(context, &q, stream));
        one.a = NULL, one.a_dtype = NVFP4_DTYPE_NVFP4, one.a_row_stride = 0, one.a_group_stride = TOKENS * K / 2;
        one.a_quantized = (nvfp4_quantized_input){.codes = codes, .scales = scales, .scope = scope, .decode_scales = is_static ? given : decode};
    }
    product(&one);
    memcpy(kept, want, rows * N * 4);
    nvfp4_grouped_linear_args args = {.struct_size = sizeof args, .weights = weights, .tokens = TOKENS, .a = a, .quantize = quantize, .bias = bias, .out = out,
                                      .out_dtype = NVFP4_DTYPE_F32};
    if (quantize) args.scope = scope, args.scale_rule = NVFP4_SCALE_RULE_MIN_MSE, args.static_decode_scales = is_static ? given : NULL;
    OK(nvfp4_grouped_linear_workspace_size(context, &args, &args.workspace_size));
    nvfp4_grouped_linear_args early = args; /* nothing is allocated yet */
    size_t needed = 0;
    early.a = NULL, early.bias = NULL, early.out = NULL;
    if (!is_static) {
        OK(nvfp4_grouped_linear_workspace_size(context, &early, &needed));
        CHECK(needed == args.workspace_size);
    }
    args.workspace = args.workspace_size ? mem_out(args.workspace_size) : NULL;
    runs_alike(call_grouped_linear, &args, out, kept, rows * N * 4, 1);
    if (groups == 1 && scope != NVFP4_SCOPE_GROUP) {
        size_t bytes = 0;
        OK(nvfp4_linear_workspace_size(context, &args, &bytes));
        CHECK(bytes <= args.workspace_size);
        runs_alike(call_linear, &args, out, kept, rows * N * 4, 1);
    }
    MUST(nvfp4_weights_destroy(weights) == NVFP4_STATUS_SUCCESS);
    mem_free();
}

/* The decode scales of a sample are those that the dynamic layer finds in it; with them as static ones encode scales are
 * 1 / g and not 2688 / amax, which may turn a code that lies between two. */
static void calibrated(size_t groups, nvfp4_scope scope) {
    nvfp4_weights *weights = make_weights((int64_t)groups, N, K, 0);
    size_t rows = TOKENS * groups, entries = scope == NVFP4_SCOPE_GROUP ? groups : 1;
    unsigned char *a = mem_in(rows * K * 2), *want = mem_out(rows * N * 4), *out = mem_out(rows * N * 4);
    float *decode = mem_out(entries * 4);
    fill_normal(a, NVFP4_DTYPE_BF16, rows * K, 1.0f);
    nvfp4_amax_scale_args sample = {.struct_size = sizeof sample, .src = a, .scope = scope, .src_row_stride = (int64_t)(groups * K), .src_group_stride = K,
                                    .rows = (int64_t)rows, .cols = K, .decode_scales = decode,
                                    .groups = {.grouping = NVFP4_GROUPING_STRIDED, .count = (uint32_t)groups, .max_tokens = TOKENS}};
    OK(nvfp4_amax_scale_workspace_size(context, &sample, &sample.workspace_size));
    sample.workspace = sample.workspace_size ? mem_out(sample.workspace_size) : NULL;
    OK(nvfp4_amax_scale(context, &sample, stream));
    nvfp4_grouped_linear_args args = {.struct_size = sizeof args, .weights = weights, .tokens = TOKENS, .a = a, .quantize = 1, .scope = scope,
                                      .out = want, .out_dtype = NVFP4_DTYPE_F32};
    for (int is_static = 0; is_static < 2; is_static++) {
        if (is_static) args.out = out, args.static_decode_scales = decode;
        OK(nvfp4_grouped_linear_workspace_size(context, &args, &args.workspace_size));
        args.workspace = args.workspace_size ? mem_out(args.workspace_size) : NULL;
        OK(nvfp4_grouped_linear(context, &args, stream));
    }
    double difference = 0, norm = 0;
    for (size_t i = 0; i < rows * N; i++) {
        double w = ((const float *)(const void *)want)[i], d = ((const float *)(const void *)out)[i] - w;
        difference += d * d, norm += w * w;
    }
    CHECK_THAT(difference <= 2.5e-3 * norm && norm > 0, "relative %g", sqrt(difference / norm));
    unsigned char *codes = mem_out(rows * K / 2), *scales = mem_out(rows * K / 16);
    float *found = mem_out(entries * 4);
    nvfp4_quantize_args q = {.struct_size = sizeof q, .src = a, .src_row_stride = (int64_t)(groups * K), .src_group_stride = K, .rows = (int64_t)rows, .cols = K,
                             .groups = sample.groups, .out = {.codes = codes, .scales = scales, .scope = scope, .decode_scales = found}};
    OK(nvfp4_quantize_workspace_size(context, &q, &q.workspace_size));
    q.workspace = q.workspace_size ? mem_out(q.workspace_size) : NULL;
    OK(nvfp4_quantize(context, &q, stream));
    CHECK(memcmp(found, decode, entries * 4) == 0 && mem_guards_ok());
    MUST(nvfp4_weights_destroy(weights) == NVFP4_STATUS_SUCCESS);
    mem_free();
}

int main(void) {
    open_context(&context, &stream, 3);
    for (nvfp4_activation activation = 0; activation < 3; activation++)
        for (int quantize = 0; quantize < 2; quantize++)
            for (int routed = 0; routed < 2; routed++) {
                CASE("moe_forward, activation %u, quantize %d, logits %d", activation, quantize, routed) moe(TOKENS, activation, quantize, routed, 0, EXPERTS);
                CASE("moe_forward, experts 2 to 4, activation %u, quantize %d, logits %d", activation, quantize, routed) moe(TOKENS, activation, quantize, routed, 2, 3);
            }
    /* More rows than have a CTA each between the products. */
    CASE("moe_forward of many tokens") moe(400, NVFP4_ACTIVATION_SWIGLU, true, true, 0, EXPERTS);
    for (size_t groups = 1; groups < 5; groups++) {
        CASE("grouped_linear of values, %zu groups", groups) linear(groups, false, 0, false);
        for (nvfp4_scope scope = 0; scope < 3; scope++)
            for (int is_static = 0; is_static < 2; is_static++)
                CASE("grouped_linear that quantizes, %zu groups, scope %u, static %d", groups, scope, is_static) linear(groups, true, scope, is_static);
    }
    for (size_t groups = 1; groups < 4; groups++)
        for (nvfp4_scope scope = 0; scope < 2; scope++)
            CASE("calibrated on a sample, %zu groups, scope %u", groups, scope) calibrated(groups, scope);
    close_context(context, stream);
    return finish();
}
