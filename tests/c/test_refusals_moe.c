/* Every refusal of the parts of a mixture of experts. */
#include "harness.h"

enum { TOKENS = 6, EXPERTS = 8, TOPK = 2, SLOTS = TOKENS * TOPK, COLS = 64 };
#define INVALID NVFP4_STATUS_INVALID_ARGUMENT

OPERATION(moe_route, nvfp4_moe_route_args)
OPERATION(moe_permute, nvfp4_moe_permute_args)
QUERY(moe_permute_workspace_size, nvfp4_moe_permute_args)
OPERATION(moe_combine, nvfp4_moe_combine_args)

static nvfp4_context *context;
static nvfp4_stream *stream;

static void refuse_route(void) {
    unsigned char *logits = mem_in(TOKENS * EXPERTS * 4), *mask = mem_in(TOKENS);
    float *bias = mem_in(EXPERTS * 4), *weights = mem_out(SLOTS * 4);
    int32_t *ids = mem_out(SLOTS * 4);
    memset(mask, 1, TOKENS);
    nvfp4_moe_route_args base = {.struct_size = sizeof base, .logits = logits, .logits_dtype = NVFP4_DTYPE_F32, .topk = TOPK, .tokens = TOKENS,
                                 .experts = EXPERTS, .router = {.bias = bias, .groups = 4, .top_groups = 2}, .token_mask = mask,
                                 .topk_ids = ids, .topk_weights = weights};
#define R(field, value) AT(nvfp4_moe_route_args, field, value)
    const refusal rows[] = {
        {"logits NULL", {R(logits, 0)}, INVALID, "logits is NULL"},
        {"logits misaligned", {R(logits, logits + 4)}, INVALID, "logits = 0x"},
        {"logits of NVFP4", {R(logits_dtype, 3)}, INVALID, "logits_dtype = 3"},
        {"stride small", {R(logits_row_stride, EXPERTS - 1)}, INVALID, "logits_row_stride = 7"},
        {"topk 0", {R(topk, 0)}, INVALID, "topk = 0"},
        {"topk 33", {R(topk, 33)}, INVALID, "topk = 33"},
        {"topk past the eligible", {R(topk, 5)}, INVALID, "4 experts that are eligible"},
        {"tokens negative", {R(tokens, -1)}, INVALID, "tokens = -1"},
        {"tokens huge", {R(tokens, INT32_MAX)}, INVALID, "2^31 - 1 slots"},
        {"experts 0", {R(experts, 0)}, INVALID, "experts = 0"},
        {"experts 1025", {R(experts, 1025)}, INVALID, "experts = 1025"},
        {"score unknown", {R(router.score, 3)}, INVALID, "router.score = 3"},
        {"renormalise 2", {R(router.renormalise, 2)}, INVALID, "router.renormalise = 2"},
        {"groups ragged", {R(router.groups, 3)}, INVALID, "router.groups = 3"},
        {"groups too many", {R(router.groups, 9)}, INVALID, "router.groups = 9"},
        {"top_groups 0", {R(router.top_groups, 0)}, INVALID, "router.top_groups = 0"},
        {"top_groups too many", {R(router.top_groups, 5)}, INVALID, "router.top_groups = 5"},
        {"top_groups without groups", {R(router.groups, 0)}, INVALID, "router.top_groups = 2"},
        {"bias misaligned", {R(router.bias, (char *)bias + 2)}, INVALID, "router.bias = 0x"},
        {"scaling infinite", {R(router.scaling, float_bits(INFINITY))}, INVALID, "router.scaling = inf"},
        {"scaling NaN", {R(router.scaling, float_bits(NAN))}, INVALID, "router.scaling = NaN"},
        {"reserved set", {R(router.reserved, 1)}, INVALID, "router.reserved = 1"},
        {"ids NULL", {R(topk_ids, 0)}, INVALID, "topk_ids is NULL"},
        {"ids misaligned", {R(topk_ids, (char *)ids + 2)}, INVALID, "topk_ids = 0x"},
        {"weights NULL", {R(topk_weights, 0)}, INVALID, "topk_weights is NULL"},
        {"weights over ids", {R(topk_weights, ids)}, INVALID, "overlap"},
        {"ids over logits", {R(topk_ids, logits)}, INVALID, "overlap"},
        {"ids over the mask", {R(token_mask, ids)}, INVALID, "overlap"},
    };
    refuse_all("moe_route", call_moe_route, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("moe_route", call_moe_route, context, stream, &base, sizeof base, true);
}

static void refuse_permute(void) {
    int32_t *ids = mem_in(SLOTS * 4), *ends = mem_out(EXPERTS * 4), *source = mem_out(SLOTS * 4), *inverse = mem_out(SLOTS * 4);
    unsigned char *src = mem_in(TOKENS * COLS * 4), *gathered = mem_out(SLOTS * COLS * 4), *in_codes = mem_in(TOKENS * COLS / 2), *in_scales = mem_in(TOKENS * COLS / 16);
    unsigned char *codes = mem_out(SLOTS * COLS / 2), *scales = mem_out(SLOTS * COLS / 16);
    float *decode = mem_out(SLOTS * 4), *given = mem_in(EXPERTS * 4);
    nvfp4_moe_permute_args base = {.struct_size = sizeof base, .tokens = TOKENS, .experts = EXPERTS, .topk = TOPK, .topk_ids = ids, .ends = ends,
                                   .source_rows = source, .inverse = inverse};
#define P(field, value) AT(nvfp4_moe_permute_args, field, value)
    const refusal rows[] = {
        {"tokens negative", {P(tokens, -1)}, INVALID, "tokens = -1"},
        {"tokens huge", {P(tokens, (int64_t)1 << 30)}, INVALID, "2^31 - 1 slots"},
        {"topk 0", {P(topk, 0)}, INVALID, "topk = 0"},
        {"topk 33", {P(topk, 33)}, INVALID, "topk = 33"},
        {"experts negative", {P(experts, -1)}, INVALID, "experts = -1"},
        {"experts 1025", {P(experts, 1025)}, INVALID, "experts = 1025"},
        {"first_expert negative", {P(first_expert, -1)}, INVALID, "first_expert = -1"},
        {"first_expert past the last", {P(first_expert, 9)}, INVALID, "first_expert = 9"},
        {"local_experts negative", {P(local_experts, -1)}, INVALID, "local_experts = -1"},
        {"local range past the last", {P(first_expert, 4), P(local_experts, 5)}, INVALID, "first_expert = 4 (of 5 local experts)"},
        {"ids NULL", {P(topk_ids, 0)}, INVALID, "topk_ids is NULL"},
        {"ids misaligned", {P(topk_ids, (char *)ids + 1)}, INVALID, "topk_ids = 0x"},
        {"ends NULL", {P(ends, 0)}, INVALID, "ends is NULL"},
        {"source_rows NULL", {P(source_rows, 0)}, INVALID, "source_rows is NULL"},
        {"inverse NULL", {P(inverse, 0)}, INVALID, "inverse is NULL"},
        {"inverse over source_rows", {P(inverse, source)}, INVALID, "overlap"},
        {"ends over ids", {P(ends, ids)}, INVALID, "overlap"},
        {"src without cols", {P(src, src)}, INVALID, "src: not used when cols is 0"},
        {"out without cols", {P(out.codes, codes)}, INVALID, "out: not used when cols is 0"},
        {"gathered without cols", {P(gathered, gathered)}, INVALID, "gathered: not used when cols is 0"},
    };
    refuse_all("moe_permute", call_moe_permute, context, stream, &base, sizeof base, rows, COUNT(rows));
    null_is_legal = true;
    refuse_all("moe_permute_workspace_size", call_moe_permute_workspace_size, context, stream, &base, sizeof base, rows, COUNT(rows));
    null_is_legal = false;
    refuse_common("moe_permute", call_moe_permute, context, stream, &base, sizeof base, true);
    refuse_common("moe_permute_workspace_size", call_moe_permute_workspace_size, context, stream, &base, sizeof base, false);
    base.cols = COLS, base.src = src, base.gathered = gathered;
    const refusal values[] = {
        {"cols negative", {P(cols, -1)}, INVALID, "cols = -1"},
        {"src NULL", {P(src, 0)}, INVALID, "src is NULL"},
        {"src misaligned", {P(src, src + 2)}, INVALID, "src = 0x"},
        {"src_dtype unknown", {P(src_dtype, 4)}, INVALID, "src_dtype = 4"},
        {"src stride small", {P(src_row_stride, COLS - 1)}, INVALID, "src_row_stride = 63"},
        {"gathered NULL", {P(gathered, 0)}, INVALID, "gathered is NULL"},
        {"gathered misaligned", {P(gathered, gathered + 8)}, INVALID, "gathered = 0x"},
        {"gathered stride small", {P(gathered_row_stride, COLS - 1)}, INVALID, "gathered_row_stride = 63"},
        {"gathered over src", {P(gathered, src)}, INVALID, "overlap"},
        {"codes of tokens beside values", {P(src_quantized.codes, in_codes)}, INVALID, "src_quantized: not used by this src_dtype"},
        {"gathered beside out", {P(out.codes, codes)}, INVALID, "gathered: not used beside out"},
    };
    refuse_all("moe_permute of values", call_moe_permute, context, stream, &base, sizeof base, values, COUNT(values));
    base.gathered = NULL;
    base.out = (nvfp4_quantized){.codes = codes, .scales = scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = decode};
    const refusal quantized[] = {
        {"cols ragged", {P(cols, 24)}, INVALID, "cols = 24 is not a multiple of 16; pad to 32"},
        {"scales NULL", {P(out.scales, 0)}, INVALID, "out.scales is NULL"},
        {"codes misaligned", {P(out.codes, codes + 8)}, INVALID, "out.codes = 0x"},
        {"scale_rule unknown", {P(out.scale_rule, 3)}, INVALID, "out.scale_rule = 3"},
        {"both decode scales", {P(out.static_decode_scales, given)}, INVALID, "out.decode_scales"},
        {"dynamic per tensor", {P(out.scope, NVFP4_SCOPE_TENSOR)}, NVFP4_STATUS_UNSUPPORTED, "dynamic scales of scope TENSOR or GROUP"},
        {"dynamic per group", {P(out.scope, NVFP4_SCOPE_GROUP)}, NVFP4_STATUS_UNSUPPORTED, "dynamic scales of scope TENSOR or GROUP"},
        {"codes over src", {P(out.codes, src)}, INVALID, "overlap"},
    };
    refuse_all("moe_permute that quantizes", call_moe_permute, context, stream, &base, sizeof base, quantized, COUNT(quantized));
    base.src = NULL, base.src_dtype = NVFP4_DTYPE_NVFP4;
    base.src_quantized = (nvfp4_quantized_input){.codes = in_codes, .scales = in_scales, .scope = NVFP4_SCOPE_TENSOR, .decode_scales = given};
    const refusal tokens[] = {
        {"src set", {P(src, src)}, INVALID, "src: not used when src_dtype is NVFP4"},
        {"gathered set", {P(gathered, gathered)}, INVALID, "gathered: not used when src_dtype is NVFP4"},
        {"codes NULL", {P(src_quantized.codes, 0)}, INVALID, "src_quantized.codes is NULL"},
        {"scales NULL", {P(src_quantized.scales, 0)}, INVALID, "src_quantized.scales is NULL"},
        {"layout unknown", {P(src_quantized.scale_layout, 3)}, INVALID, "src_quantized.scale_layout = 3"},
        {"scope of groups", {P(src_quantized.scope, NVFP4_SCOPE_GROUP)}, INVALID, "src_quantized.scope"},
        {"out per tensor", {P(out.scope, NVFP4_SCOPE_TENSOR)}, INVALID, "out.scope"},
        {"out static", {P(out.static_decode_scales, given), P(out.decode_scales, 0)}, INVALID, "out.static_decode_scales"},
        {"a rule", {P(out.scale_rule, 1)}, INVALID, "out.scale_rule"},
        {"out NULL", {P(out.codes, 0)}, INVALID, "out.codes is NULL"},
        {"codes over codes", {P(out.codes, in_codes)}, INVALID, "overlap"},
    };
    refuse_all("moe_permute of codes", call_moe_permute, context, stream, &base, sizeof base, tokens, COUNT(tokens));
}

static void refuse_combine(void) {
    unsigned char *y = mem_in(SLOTS * COLS * 4), *shared = mem_in(TOKENS * COLS * 4), *out = mem_out(TOKENS * COLS * 4);
    int32_t *inverse = mem_in(SLOTS * 4);
    float *weights = mem_in(SLOTS * 4);
    nvfp4_moe_combine_args base = {.struct_size = sizeof base, .tokens = TOKENS, .cols = COLS, .topk = TOPK, .rows = SLOTS, .y = y, .inverse = inverse,
                                   .topk_weights = weights, .shared = shared, .out = out};
#define C(field, value) AT(nvfp4_moe_combine_args, field, value)
    const refusal rows[] = {
        {"tokens negative", {C(tokens, -1)}, INVALID, "tokens = -1"},
        {"cols 0", {C(cols, 0)}, INVALID, "cols = 0"},
        {"topk 0", {C(topk, 0)}, INVALID, "topk = 0"},
        {"rows negative", {C(rows, -1)}, INVALID, "rows = -1"},
        {"rows 2^31", {C(rows, (int64_t)1 << 31)}, INVALID, "rows = 2147483648"},
        {"y NULL", {C(y, 0)}, INVALID, "y is NULL"},
        {"y misaligned", {C(y, y + 8)}, INVALID, "y = 0x"},
        {"y_dtype unknown", {C(y_dtype, 3)}, INVALID, "y_dtype = 3"},
        {"y stride small", {C(y_row_stride, COLS - 1)}, INVALID, "y_row_stride = 63"},
        {"inverse NULL", {C(inverse, 0)}, INVALID, "inverse is NULL"},
        {"weights NULL", {C(topk_weights, 0)}, INVALID, "topk_weights is NULL"},
        {"shared misaligned", {C(shared, shared + 8)}, INVALID, "shared = 0x"},
        {"shared_dtype unknown", {C(shared_dtype, 3)}, INVALID, "shared_dtype = 3"},
        {"shared stride small", {C(shared_row_stride, 1)}, INVALID, "shared_row_stride = 1"},
        {"scaling NaN", {C(scaling, float_bits(NAN))}, INVALID, "scaling = NaN"},
        {"out NULL", {C(out, 0)}, INVALID, "out is NULL"},
        {"out_dtype unknown", {C(out_dtype, 3)}, INVALID, "out_dtype = 3"},
        {"out stride small", {C(out_row_stride, 1)}, INVALID, "out_row_stride = 1"},
        {"out over shared", {C(out, shared)}, INVALID, "overlap"},
        {"out over y", {C(out, y)}, INVALID, "overlap"},
        {"reserved set", {C(reserved, 1)}, INVALID, "reserved = 1"},
    };
    refuse_all("moe_combine", call_moe_combine, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("moe_combine", call_moe_combine, context, stream, &base, sizeof base, true);
}

int main(void) {
    open_context(&context, &stream, 2);
    refuse_route();
    refuse_permute();
    refuse_combine();
    close_context(context, stream);
    return finish();
}
