/* Every refusal of the whole layers. */
#include "harness.h"

enum { TOKENS = 6, EXPERTS = 2, TOPK = 1, K = 64, I = 32, N = 48 };
#define INVALID NVFP4_STATUS_INVALID_ARGUMENT

OPERATION(moe_forward, nvfp4_moe_forward_args)
QUERY(moe_forward_workspace_size, nvfp4_moe_forward_args)
OPERATION(linear, nvfp4_linear_args)
QUERY(linear_workspace_size, nvfp4_linear_args)
OPERATION(grouped_linear, nvfp4_grouped_linear_args)
QUERY(grouped_linear_workspace_size, nvfp4_grouped_linear_args)

static nvfp4_context *context;
static nvfp4_stream *stream;

static nvfp4_weights *make_weights(nvfp4_context *c, nvfp4_stream *s, int64_t groups, int64_t rows, int64_t cols, uint32_t gate_up) {
    nvfp4_weights *weights = NULL;
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = groups, .rows = rows, .cols = cols, .gate_up = gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = mem_in((size_t)(groups * rows * cols) * 2)};
    MUST(nvfp4_weights_storage_size(c, &args, &args.storage_size) == NVFP4_STATUS_SUCCESS);
    args.storage = mem_in(args.storage_size);
    MUST(nvfp4_weights_prepare(c, &args, s, &weights) == NVFP4_STATUS_SUCCESS);
    return weights;
}

static void refuse_forward(nvfp4_weights *w1, nvfp4_weights *w2, nvfp4_weights *three, nvfp4_weights *foreign) {
    unsigned char *hidden = mem_in(TOKENS * K * 4), *shared = mem_in(TOKENS * N * 4), *out = mem_out(TOKENS * N * 4), *codes = mem_in(TOKENS * K / 2),
                  *scales = mem_in(TOKENS * K / 16), *bias = mem_in(EXPERTS * 2 * I * 4), *mask = mem_in(TOKENS);
    float *logits = mem_in(TOKENS * EXPERTS * 4), *given = mem_in(64), *weights = mem_in(TOKENS * TOPK * 4);
    int32_t *ids = mem_in(TOKENS * TOPK * 4);
    given[0] = given[1] = 1.0f;
    nvfp4_moe_forward_args base = {.struct_size = sizeof base, .w1 = w1, .w2 = w2, .tokens = TOKENS, .hidden = hidden, .logits = logits,
                                   .logits_dtype = NVFP4_DTYPE_F32, .topk = TOPK, .bias1 = bias, .activation = NVFP4_ACTIVATION_SWIGLU, .shared = shared, .out = out};
#define F(field, value) AT(nvfp4_moe_forward_args, field, value)
    const refusal rows[] = {
        {"w1 NULL", {F(w1, 0)}, NVFP4_STATUS_INVALID_HANDLE, "w1"},
        {"w2 NULL", {F(w2, 0)}, NVFP4_STATUS_INVALID_HANDLE, "w2"},
        {"w1 of another context", {F(w1, foreign)}, NVFP4_STATUS_INVALID_HANDLE, "w1"},
        {"w2 of three experts", {F(w2, three)}, INVALID, "w2 = 3 groups"},
        {"w2 gated", {F(w2, w1)}, INVALID, "w2 = gate_up = 1"},
        {"w1 plain behind SwiGLU", {F(w1, w2)}, INVALID, "gate_up"},
        {"w2 of another width", {F(w1, w2), F(activation, NVFP4_ACTIVATION_RELU2)}, INVALID, "w2 = K = 32 does not fit; expected the 48 columns"},
        {"tokens negative", {F(tokens, -1)}, INVALID, "tokens = -1"},
        {"tokens huge", {F(tokens, INT64_MAX)}, INVALID, "tokens = 9223372036854775807"},
        {"topk 0", {F(topk, 0)}, INVALID, "topk = 0"},
        {"topk past the experts", {F(topk, 3)}, INVALID, "2 experts that are eligible"},
        {"experts 1025", {F(experts, 1025)}, INVALID, "experts = 1025"},
        {"experts fewer than the weights'", {F(experts, 1)}, INVALID, "first_expert = 0 (of 2 local experts)"},
        {"first_expert past the last", {F(experts, 4), F(first_expert, 3)}, INVALID, "first_expert = 3 (of 2 local experts)"},
        {"hidden NULL", {F(hidden, 0)}, INVALID, "hidden is NULL"},
        {"hidden misaligned", {F(hidden, hidden + 2)}, INVALID, "hidden = 0x"},
        {"hidden_dtype unknown", {F(hidden_dtype, 4)}, INVALID, "hidden_dtype = 4"},
        {"hidden F32 as it is", {F(hidden_dtype, NVFP4_DTYPE_F32)}, INVALID, "hidden_dtype: F32 states are quantized first"},
        {"hidden stride small", {F(hidden_row_stride, K - 1)}, INVALID, "hidden_row_stride = 63"},
        {"codes beside hidden", {F(hidden_quantized.codes, codes)}, INVALID, "hidden_quantized: not used by this hidden_dtype"},
        {"codes without quantize", {F(hidden, 0), F(hidden_dtype, 3), F(hidden_quantized.codes, codes), F(hidden_quantized.scales, scales)}, INVALID, "quantize: 0"},
        {"codes NULL", {F(hidden, 0), F(hidden_dtype, 3), F(quantize, 1), F(hidden_quantized.scales, scales)}, INVALID, "hidden_quantized.codes is NULL"},
        {"quantize 2", {F(quantize, 2)}, INVALID, "quantize = 2"},
        {"no routes", {F(logits, 0)}, INVALID, "logits is NULL"},
        {"logits misaligned", {F(logits, (char *)logits + 4)}, INVALID, "logits = 0x"},
        {"logits_dtype unknown", {F(logits_dtype, 3)}, INVALID, "logits_dtype = 3"},
        {"logits stride small", {F(logits_row_stride, 1)}, INVALID, "logits_row_stride = 1"},
        {"ids beside logits", {F(topk_ids, ids)}, INVALID, "topk_ids: not used beside logits"},
        {"weights beside logits", {F(topk_weights, weights)}, INVALID, "topk_weights: not used beside logits"},
        {"ids without weights", {F(logits, 0), F(topk_ids, ids)}, INVALID, "topk_weights is NULL"},
        {"router without logits", {F(logits, 0), F(topk_ids, ids), F(topk_weights, weights), F(router.renormalise, 1)}, INVALID, "router: not used without logits"},
        {"mask without logits", {F(logits, 0), F(topk_ids, ids), F(topk_weights, weights), F(token_mask, mask)}, INVALID, "token_mask: not used without logits"},
        {"score unknown", {F(router.score, 3)}, INVALID, "router.score = 3"},
        {"router groups too many", {F(router.groups, 3), F(router.top_groups, 1)}, INVALID, "router.groups = 3"},
        {"top_groups without groups", {F(router.top_groups, 2)}, INVALID, "router.top_groups = 2"},
        {"router bias misaligned", {F(router.bias, (char *)given + 2)}, INVALID, "router.bias = 0x"},
        {"router scaling NaN", {F(router.scaling, float_bits(NAN))}, INVALID, "router.scaling = NaN"},
        {"router reserved set", {F(router.reserved, 1)}, INVALID, "router.reserved = 1"},
        {"bias misaligned", {F(bias1, bias + 8)}, INVALID, "bias1 = 0x"},
        {"bias2 misaligned", {F(bias2, bias + 8)}, INVALID, "bias2 = 0x"},
        {"bias_dtype unknown", {F(bias_dtype, 3)}, INVALID, "bias_dtype = 3"},
        {"activation unknown", {F(activation, 3)}, INVALID, "activation"},
        {"limit negative", {F(limit, float_bits(-1))}, INVALID, "limit = -1"},
        {"alpha NaN", {F(alpha, float_bits(NAN))}, INVALID, "alpha = NaN"},
        {"beta infinite", {F(beta, float_bits(INFINITY))}, INVALID, "beta = inf"},
        {"flags unknown", {F(flags, 8)}, INVALID, "flags = 8"},
        {"accumulate", {F(flags, NVFP4_GEMM_ACCUMULATE)}, INVALID, "flags = 1"},
        {"rule without quantize", {F(scale_rule, 1)}, INVALID, "scale_rule: not used when quantize is 0"},
        {"scales without quantize", {F(static_input_scales, given)}, INVALID, "static_input_scales: not used when quantize is 0"},
        {"intermediate scales without quantize", {F(static_intermediate_scales, given)}, INVALID, "static_intermediate_scales: not used"},
        {"static rows", {F(quantize, 1), F(static_scope, NVFP4_SCOPE_ROW)}, INVALID, "static_scope = 2"},
        {"rule unknown", {F(quantize, 1), F(scale_rule, 3)}, INVALID, "scale_rule = 3"},
        {"static scales misaligned", {F(quantize, 1), F(static_input_scales, (char *)given + 2)}, INVALID, "static_input_scales = 0x"},
        {"shared misaligned", {F(shared, shared + 8)}, INVALID, "shared = 0x"},
        {"shared_dtype unknown", {F(shared_dtype, 3)}, INVALID, "shared_dtype = 3"},
        {"shared stride small", {F(shared_row_stride, N - 1)}, INVALID, "shared_row_stride = 47"},
        {"scaling NaN", {F(scaling, float_bits(NAN))}, INVALID, "scaling = NaN"},
        {"out NULL", {F(out, 0)}, INVALID, "out is NULL"},
        {"out_dtype unknown", {F(out_dtype, 3)}, INVALID, "out_dtype = 3"},
        {"out stride small", {F(out_row_stride, N - 1)}, INVALID, "out_row_stride = 47"},
        {"reserved set", {F(reserved, 1)}, INVALID, "reserved = 1"},
    };
    null_is_legal = true;
    refuse_all("moe_forward_workspace_size", call_moe_forward_workspace_size, context, stream, &base, sizeof base, rows, COUNT(rows));
    null_is_legal = false;
    refuse_common("moe_forward_workspace_size", call_moe_forward_workspace_size, context, stream, &base, sizeof base, false);
    MUST(nvfp4_moe_forward_workspace_size(context, &base, &base.workspace_size) == NVFP4_STATUS_SUCCESS);
    MUST(base.workspace_size > 0); /* routes and the rows between the products lie there, on every backend */
    unsigned char *workspace = mem_out(base.workspace_size);
    base.workspace = workspace;
    refuse_all("moe_forward", call_moe_forward, context, stream, &base, sizeof base, rows, COUNT(rows));
    const refusal run[] = {
        {"out over hidden", {F(out, hidden)}, INVALID, "overlap"},
        {"out over shared", {F(out, shared)}, INVALID, "overlap"},
        {"out over logits", {F(out, logits)}, INVALID, "overlap"},
        {"workspace NULL", {F(workspace, 0)}, INVALID, "workspace is NULL"},
        {"workspace misaligned", {F(workspace, workspace + 16)}, INVALID, "workspace = 0x"},
        {"workspace small", {F(workspace_size, base.workspace_size - 1)}, NVFP4_STATUS_WORKSPACE_TOO_SMALL, "workspace_size"},
        {"workspace over hidden", {F(workspace, hidden)}, INVALID, "overlap"},
        {"workspace over out", {F(workspace, out)}, INVALID, "overlap"},
    };
    refuse_all("moe_forward", call_moe_forward, context, stream, &base, sizeof base, run, COUNT(run));
    refuse_common("moe_forward", call_moe_forward, context, stream, &base, sizeof base, true);

    nvfp4_moe_forward_args tokens = base;
    tokens.hidden = NULL, tokens.hidden_dtype = NVFP4_DTYPE_NVFP4, tokens.quantize = 1;
    tokens.hidden_quantized = (nvfp4_quantized_input){.codes = codes, .scales = scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = given};
    MUST(nvfp4_moe_forward_workspace_size(context, &tokens, &tokens.workspace_size) == NVFP4_STATUS_SUCCESS);
    tokens.workspace = mem_out(tokens.workspace_size);
    const refusal of_codes[] = {
        {"hidden set", {F(hidden, hidden)}, INVALID, "hidden: not used when hidden_dtype is NVFP4"},
        {"hidden_row_stride set", {F(hidden_row_stride, K)}, INVALID, "hidden_row_stride: not used when hidden_dtype is NVFP4"},
        {"input scales beside codes", {F(static_input_scales, given)}, INVALID, "static_input_scales: not used when hidden_dtype is NVFP4"},
        {"codes misaligned", {F(hidden_quantized.codes, codes + 8)}, INVALID, "hidden_quantized.codes = 0x"},
        {"codes_row_stride small", {F(hidden_quantized.codes_row_stride, K / 2 - 1)}, INVALID, "hidden_quantized.codes_row_stride = 31"},
        {"scales misaligned", {F(hidden_quantized.scales, scales + 8)}, INVALID, "hidden_quantized.scales = 0x"},
        {"scales_row_stride small", {F(hidden_quantized.scales_row_stride, K / 16 - 1)}, INVALID, "hidden_quantized.scales_row_stride = 3"},
        {"layout unknown", {F(hidden_quantized.scale_layout, 3)}, INVALID, "hidden_quantized.scale_layout = 3"},
        {"scope of groups", {F(hidden_quantized.scope, NVFP4_SCOPE_GROUP)}, INVALID, "hidden_quantized.scope"},
        {"decode scales misaligned", {F(hidden_quantized.decode_scales, (char *)given + 2)}, INVALID, "hidden_quantized.decode_scales = 0x"},
    };
    refuse_all("moe_forward of codes", call_moe_forward, context, stream, &tokens, sizeof tokens, of_codes, COUNT(of_codes));
}

static void refuse_linear(nvfp4_weights *weights, nvfp4_weights *single, nvfp4_weights *gated, nvfp4_weights *foreign) {
    unsigned char *a = mem_in(TOKENS * 2 * K * 4), *bias = mem_in(2 * N * 4), *out = mem_out(TOKENS * 2 * N * 4), *codes = mem_in(TOKENS * K),
                  *scales = mem_in(TOKENS * K / 8), *out_codes = mem_out(TOKENS * N), *out_scales = mem_out(TOKENS * N / 8);
    float *given = mem_in(TOKENS * 8), *out_decode = mem_out(TOKENS * 8);
    nvfp4_grouped_linear_args base = {.struct_size = sizeof base, .weights = weights, .tokens = TOKENS, .a = a, .bias = bias, .out = out};
#define L(field, value) AT(nvfp4_grouped_linear_args, field, value)
    const refusal rows[] = {
        {"weights NULL", {L(weights, 0)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"weights of another context", {L(weights, foreign)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"weights gated without SwiGLU", {L(weights, gated)}, INVALID, "gate_up"},
        {"tokens negative", {L(tokens, -1)}, INVALID, "tokens = -1"},
        {"tokens huge", {L(tokens, INT64_MAX)}, INVALID, "a spans more than 2^63 - 1"},
        {"tokens 2^57", {L(tokens, (int64_t)1 << 57)}, INVALID, "a spans more than 2^63 - 1"},
        {"a NULL", {L(a, 0)}, INVALID, "a is NULL"},
        {"a misaligned", {L(a, a + 8)}, INVALID, "a = 0x"},
        {"a_dtype unknown", {L(a_dtype, 4)}, INVALID, "a_dtype = 4"},
        {"a F32 as it is", {L(a_dtype, NVFP4_DTYPE_F32)}, INVALID, "a_dtype: F32 values are quantized first"},
        {"quantize 2", {L(quantize, 2)}, INVALID, "quantize = 2"},
        {"a_row_stride small", {L(a_row_stride, K - 1)}, INVALID, "a_row_stride = 63"},
        {"a_group_stride negative", {L(a_group_stride, -1)}, INVALID, "a_group_stride = -1"},
        {"codes beside values", {L(a_quantized.codes, codes)}, INVALID, "a_quantized: not used by this a_dtype"},
        {"a beside codes", {L(a_dtype, 3), L(a_quantized.codes, codes), L(a_quantized.scales, scales)}, INVALID, "a: not used when a_dtype is NVFP4"},
        {"codes quantized again", {L(a, 0), L(a_dtype, 3), L(quantize, 1)}, INVALID, "quantize: not used when a_dtype is NVFP4"},
        {"codes NULL", {L(a, 0), L(a_dtype, 3), L(a_quantized.scales, scales)}, INVALID, "a_quantized.codes is NULL"},
        {"rule without quantize", {L(scale_rule, 1)}, INVALID, "scale_rule: not used when quantize is 0"},
        {"scope without quantize", {L(scope, 2)}, INVALID, "scope: not used when quantize is 0"},
        {"static without quantize", {L(static_decode_scales, given)}, INVALID, "static_decode_scales: not used when quantize is 0"},
        {"rule unknown", {L(quantize, 1), L(scale_rule, 3)}, INVALID, "scale_rule = 3"},
        {"scope unknown", {L(quantize, 1), L(scope, 3)}, INVALID, "scope = 3"},
        {"static misaligned", {L(quantize, 1), L(static_decode_scales, (char *)given + 2)}, INVALID, "static_decode_scales = 0x"},
        {"bias misaligned", {L(bias, bias + 8)}, INVALID, "bias = 0x"},
        {"bias_dtype unknown", {L(bias_dtype, 3)}, INVALID, "bias_dtype = 3"},
        {"activation unknown", {L(activation, 3)}, INVALID, "activation = 3"},
        {"limit negative", {L(weights, gated), L(activation, 1), L(limit, float_bits(-1))}, INVALID, "limit = -1"},
        {"alpha NaN", {L(weights, gated), L(activation, 1), L(alpha, float_bits(NAN))}, INVALID, "alpha = NaN"},
        {"beta NaN", {L(weights, gated), L(activation, 1), L(beta, float_bits(NAN))}, INVALID, "beta = NaN"},
        {"flags unknown", {L(flags, 8)}, INVALID, "flags = 8"},
        {"out NULL", {L(out, 0)}, INVALID, "out is NULL"},
        {"out_dtype unknown", {L(out_dtype, 4)}, INVALID, "out_dtype = 4"},
        {"out_row_stride small", {L(out_row_stride, N - 1)}, INVALID, "out_row_stride = 47"},
        {"out groups meet", {L(out_group_stride, N - 1)}, INVALID, "out_group_stride"},
        {"codes beside values out", {L(out_quantized.codes, out_codes)}, INVALID, "out_quantized"},
        {"codes out without codes", {L(out, 0), L(out_dtype, 3)}, INVALID, "out_quantized.codes is NULL"},
        {"codes out of tensor scope", {L(out, 0), L(out_dtype, 3), L(out_quantized.codes, out_codes), L(out_quantized.scales, out_scales), L(out_quantized.decode_scales, out_decode)}, NVFP4_STATUS_UNSUPPORTED, "scope TENSOR"},
        {"reserved set", {L(reserved, 1)}, INVALID, "reserved = 1"},
    };
    null_is_legal = true;
    refuse_all("grouped_linear_workspace_size", call_grouped_linear_workspace_size, context, stream, &base, sizeof base, rows, COUNT(rows));
    null_is_legal = false;
    refuse_common("grouped_linear_workspace_size", call_grouped_linear_workspace_size, context, stream, &base, sizeof base, false);
    MUST(nvfp4_grouped_linear_workspace_size(context, &base, &base.workspace_size) == NVFP4_STATUS_SUCCESS);
    unsigned char *workspace = mem_out(base.workspace_size);
    base.workspace = workspace;
    refuse_all("grouped_linear", call_grouped_linear, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("grouped_linear", call_grouped_linear, context, stream, &base, sizeof base, true);

    /* A product by itself may need no workspace. What is quantized first lies there, on every backend. */
    nvfp4_grouped_linear_args quantizing = base;
    quantizing.quantize = 1, quantizing.scope = NVFP4_SCOPE_ROW;
    MUST(nvfp4_grouped_linear_workspace_size(context, &quantizing, &quantizing.workspace_size) == NVFP4_STATUS_SUCCESS);
    MUST(quantizing.workspace_size > 0);
    quantizing.workspace = workspace = mem_out(quantizing.workspace_size);
    const refusal run[] = {
        {"out over a", {L(out, a)}, INVALID, "overlap"},
        {"out over bias", {L(out, bias)}, INVALID, "overlap"},
        {"workspace NULL", {L(workspace, 0)}, INVALID, "workspace is NULL"},
        {"workspace misaligned", {L(workspace, workspace + 16)}, INVALID, "workspace = 0x"},
        {"workspace small", {L(workspace_size, quantizing.workspace_size - 1)}, NVFP4_STATUS_WORKSPACE_TOO_SMALL, "workspace_size"},
        {"workspace over a", {L(workspace, a)}, INVALID, "overlap"},
    };
    refuse_all("grouped_linear that quantizes", call_grouped_linear, context, stream, &quantizing, sizeof quantizing, run, COUNT(run));

    /* Codes in, codes out. */
    nvfp4_grouped_linear_args codes_alone = base;
    codes_alone.a = NULL, codes_alone.a_dtype = NVFP4_DTYPE_NVFP4, codes_alone.out = NULL, codes_alone.out_dtype = NVFP4_DTYPE_NVFP4;
    codes_alone.a_quantized = (nvfp4_quantized_input){.codes = codes, .scales = scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = given};
    codes_alone.out_quantized = (nvfp4_quantized){.codes = out_codes, .scales = out_scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = out_decode};
    MUST(nvfp4_grouped_linear_workspace_size(context, &codes_alone, &codes_alone.workspace_size) == NVFP4_STATUS_SUCCESS);
    codes_alone.workspace = mem_out(codes_alone.workspace_size);
    const refusal of_codes[] = {
        {"codes misaligned", {L(a_quantized.codes, codes + 8)}, INVALID, "a_quantized.codes = 0x"},
        {"codes_row_stride small", {L(a_quantized.codes_row_stride, K / 2 - 1)}, INVALID, "a_quantized.codes_row_stride = 31"},
        {"scales misaligned", {L(a_quantized.scales, scales + 8)}, INVALID, "a_quantized.scales = 0x"},
        {"scales_row_stride small", {L(a_quantized.scales_row_stride, K / 16 - 1)}, INVALID, "a_quantized.scales_row_stride = 3"},
        {"layout unknown", {L(a_quantized.scale_layout, 3)}, INVALID, "a_quantized.scale_layout = 3"},
        {"scope unknown", {L(a_quantized.scope, 3)}, INVALID, "a_quantized.scope = 3"},
        {"decode scales misaligned", {L(a_quantized.decode_scales, (char *)given + 2)}, INVALID, "a_quantized.decode_scales = 0x"},
        {"out codes misaligned", {L(out_quantized.codes, out_codes + 8)}, INVALID, "out_quantized.codes = 0x"},
        {"out codes_row_stride small", {L(out_quantized.codes_row_stride, N / 2 - 1)}, INVALID, "out_quantized.codes_row_stride = 23"},
        {"out scales_row_stride small", {L(out_quantized.scales_row_stride, N / 16 - 1)}, INVALID, "out_quantized.scales_row_stride = 2"},
        {"out layout unknown", {L(out_quantized.scale_layout, 3)}, INVALID, "out_quantized.scale_layout = 3"},
        {"out rule unknown", {L(out_quantized.scale_rule, 3)}, INVALID, "out_quantized.scale_rule = 3"},
        {"out scope unknown", {L(out_quantized.scope, 3)}, INVALID, "out_quantized.scope = 3"},
        {"out both decode scales", {L(out_quantized.static_decode_scales, given)}, INVALID, "out_quantized.decode_scales: set it for dynamic scales or"},
        {"out reserved set", {L(out_quantized.reserved, 1)}, INVALID, "out_quantized.reserved = 1"},
        {"out codes over codes", {L(out_quantized.codes, codes)}, INVALID, "overlap"},
    };
    refuse_all("grouped_linear of codes", call_grouped_linear, context, stream, &codes_alone, sizeof codes_alone, of_codes, COUNT(of_codes));

    nvfp4_linear_args one = base;
    one.weights = single;
    MUST(nvfp4_linear_workspace_size(context, &one, &one.workspace_size) == NVFP4_STATUS_SUCCESS);
    one.workspace = mem_out(one.workspace_size);
    const refusal form[] = {
        {"weights of two groups", {L(weights, weights)}, INVALID, "weights = 2 groups does not fit; expected weights of 1 group, or nvfp4_grouped_linear"},
        {"scope of groups", {L(quantize, 1), L(scope, NVFP4_SCOPE_GROUP)}, INVALID, "scope: NVFP4_SCOPE_GROUP needs groups"},
        {"a_group_stride", {L(a_group_stride, K)}, INVALID, "a_group_stride"},
        {"out_group_stride", {L(out_group_stride, N)}, INVALID, "out_group_stride"},
    };
    refuse_all("linear", call_linear, context, stream, &one, sizeof one, form, COUNT(form));
    null_is_legal = true;
    refuse_all("linear_workspace_size", call_linear_workspace_size, context, stream, &one, sizeof one, form, COUNT(form));
    null_is_legal = false;
    refuse_common("linear", call_linear, context, stream, &one, sizeof one, true);
    refuse_common("linear_workspace_size", call_linear_workspace_size, context, stream, &one, sizeof one, false);
}

int main(void) {
    nvfp4_context *other;
    nvfp4_stream *other_stream;
    open_context(&context, &stream, 2);
    open_context(&other, &other_stream, 1);
    nvfp4_weights *w1 = make_weights(context, stream, EXPERTS, 2 * I, K, 1), *w2 = make_weights(context, stream, EXPERTS, N, I, 0);
    nvfp4_weights *three = make_weights(context, stream, 3, N, I, 0), *foreign = make_weights(other, other_stream, EXPERTS, 2 * I, K, 1);
    nvfp4_weights *plain = make_weights(context, stream, 2, N, K, 0), *single = make_weights(context, stream, 1, N, K, 0);
    refuse_forward(w1, w2, three, foreign);
    refuse_linear(plain, single, w1, foreign);
    nvfp4_weights *all[] = {w1, w2, three, foreign, plain, single};
    for (size_t i = 0; i < COUNT(all); i++) MUST(nvfp4_weights_destroy(all[i]) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_stream_destroy(other_stream) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_context_destroy(other) == NVFP4_STATUS_SUCCESS);
    close_context(context, stream);
    return finish();
}
