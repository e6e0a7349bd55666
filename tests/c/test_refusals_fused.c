/* Every refusal of nvfp4_rmsnorm_quantize, nvfp4_hc_rmsnorm_quantize, nvfp4_swiglu_quantize and nvfp4_stage_moe_inputs. */
#include "harness.h"

enum { ROWS = 4, COLS = 64, STREAMS = 2, ROUTES = 2 };
#define INVALID NVFP4_STATUS_INVALID_ARGUMENT

OPERATION(rmsnorm_quantize, nvfp4_rmsnorm_quantize_args)
QUERY(rmsnorm_quantize_workspace_size, nvfp4_rmsnorm_quantize_args)
OPERATION(hc_rmsnorm_quantize, nvfp4_hc_rmsnorm_quantize_args)
QUERY(hc_rmsnorm_quantize_workspace_size, nvfp4_hc_rmsnorm_quantize_args)
OPERATION(swiglu_quantize, nvfp4_swiglu_quantize_args)
QUERY(swiglu_quantize_workspace_size, nvfp4_swiglu_quantize_args)
OPERATION(stage_moe_inputs, nvfp4_stage_moe_inputs_args)

static nvfp4_context *context;
static nvfp4_stream *stream;
static unsigned char *src, *weight, *codes, *scales, *residual, *normed, *copied;
static float *decode, *fixed, *inv_rms, *mix;

/* The rules of an NVFP4 output are the same wherever one appears. */
#define OUT_RULES(type)                                                                                          \
    {"codes NULL", {AT(type, out.codes, 0)}, INVALID, "codes is NULL"},                                          \
    {"codes misaligned", {AT(type, out.codes, codes + 8)}, INVALID, "codes = 0x"},                               \
    {"codes_row_stride small", {AT(type, out.codes_row_stride, 31)}, INVALID, "codes_row_stride = 31"},          \
    {"scales NULL", {AT(type, out.scales, 0)}, INVALID, "scales is NULL"},                                       \
    {"scales misaligned", {AT(type, out.scales, scales + 1)}, INVALID, "scales = 0x"},                           \
    {"scales_row_stride small", {AT(type, out.scales_row_stride, 1)}, INVALID, "scales_row_stride = 1"},         \
    {"scale_layout unknown", {AT(type, out.scale_layout, 4)}, INVALID, "scale_layout = 4"},                      \
    {"scale_rule unknown", {AT(type, out.scale_rule, 4)}, INVALID, "scale_rule = 4"},                            \
    {"scope unknown", {AT(type, out.scope, 4)}, INVALID, "scope = 4"},                                           \
    {"scope GROUP without groups", {AT(type, out.scope, NVFP4_SCOPE_GROUP)}, INVALID, "scope"},                  \
    {"out.reserved set", {AT(type, out.reserved, 2)}, INVALID, "reserved = 2"},                                  \
    {"no decode scales", {AT(type, out.decode_scales, 0)}, INVALID, "decode_scales"},                            \
    {"both decode scales", {AT(type, out.static_decode_scales, fixed)}, INVALID, "decode_scales"},               \
    {"codes over scales", {AT(type, out.codes, scales)}, INVALID, "overlap"},                                    \
    {"codes over src", {AT(type, out.codes, src)}, INVALID, "overlap"}

#define NORM_RULES(type)                                                                                         \
    {"src_dtype NVFP4", {AT(type, src_dtype, 3)}, INVALID, "src_dtype = 3"},                                     \
    {"weight_dtype NVFP4", {AT(type, weight_dtype, 3)}, INVALID, "weight_dtype = 3"},                            \
    {"rows negative", {AT(type, rows, -1)}, INVALID, "rows = -1"},                                               \
    {"rows huge", {AT(type, rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},                             \
    {"cols huge", {AT(type, cols, INT64_MAX - 15)}, INVALID, "spans more than 2^63 - 1"},                        \
    {"cols 2^61", {AT(type, cols, (int64_t)1 << 61)}, INVALID, "spans more than 2^63 - 1"},                      \
    {"rows 2^57", {AT(type, rows, (int64_t)1 << 57)}, INVALID, "spans more than 2^63 - 1"},                      \
    {"cols 0", {AT(type, cols, 0)}, INVALID, "cols = 0"},                                                        \
    {"cols ragged", {AT(type, cols, 65)}, INVALID, "cols = 65 is not a multiple of 16; pad to 80"},              \
    {"weight NULL", {AT(type, weight, 0)}, INVALID, "weight is NULL"},                                           \
    {"weight misaligned", {AT(type, weight, weight + 2)}, INVALID, "weight = 0x"},                               \
    {"weight_offset infinite", {AT(type, weight_offset, float_bits(INFINITY))}, INVALID, "weight_offset = inf"}, \
    {"eps 0", {AT(type, eps, 0)}, INVALID, "eps = 0"},                                                           \
    {"eps negative", {AT(type, eps, float_bits(-1e-6f))}, INVALID, "eps = -"},                                   \
    {"eps infinite", {AT(type, eps, float_bits(INFINITY))}, INVALID, "eps = inf"},                               \
    {"eps NaN", {AT(type, eps, float_bits(NAN))}, INVALID, "eps = NaN"},                                         \
    {"normed misaligned", {AT(type, normed, normed + 4)}, INVALID, "normed = 0x"},                               \
    {"normed_row_stride small", {AT(type, normed_row_stride, 63)}, INVALID, "normed_row_stride = 63"},           \
    {"normed over codes", {AT(type, normed, codes)}, INVALID, "overlap"},                                        \
    {"normed over weight", {AT(type, normed, weight)}, INVALID, "overlap"},                                      \
    {"inv_rms misaligned", {AT(type, inv_rms, (char *)inv_rms + 2)}, INVALID, "inv_rms = 0x"},                   \
    {"inv_rms over decode_scales", {AT(type, inv_rms, decode)}, INVALID, "overlap"},                             \
    OUT_RULES(type)

static void refuse_rmsnorm(void) {
    nvfp4_rmsnorm_quantize_args base = {
        .struct_size = sizeof base, .src = src, .rows = ROWS, .cols = COLS, .residual = residual, .weight = weight, .eps = 1e-6f,
        .normed = normed, .inv_rms = inv_rms, .out = {.codes = codes, .scales = scales, .decode_scales = decode}};
#define R(field, value) AT(nvfp4_rmsnorm_quantize_args, field, value)
    const refusal rows[] = {
        NORM_RULES(nvfp4_rmsnorm_quantize_args),
        {"src NULL", {R(src, 0)}, INVALID, "src is NULL"},
        {"src misaligned", {R(src, src + 4)}, INVALID, "src = 0x"},
        {"src_row_stride small", {R(src_row_stride, 63)}, INVALID, "src_row_stride = 63"},
        {"src_row_stride negative", {R(src_row_stride, -64)}, INVALID, "src_row_stride = -64"},
        {"residual misaligned", {R(residual, residual + 8)}, INVALID, "residual = 0x"},
        {"residual_row_stride small", {R(residual_row_stride, 1)}, INVALID, "residual_row_stride = 1"},
        {"residual over src", {R(residual, src)}, INVALID, "overlap"},
        {"residual over normed", {R(residual, normed)}, INVALID, "overlap"},
    };
    refuse_all("rmsnorm_quantize", call_rmsnorm_quantize, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("rmsnorm_quantize", call_rmsnorm_quantize, context, stream, &base, sizeof base, true);
    refuse_common("rmsnorm_quantize_workspace_size", call_rmsnorm_quantize_workspace_size, context, stream, &base, sizeof base, false);
}

static void refuse_hc_rmsnorm(void) {
    nvfp4_hc_rmsnorm_quantize_args base = {
        .struct_size = sizeof base, .streams = src, .stream_count = STREAMS, .mix = mix, .rows = ROWS, .cols = COLS, .mixed = copied,
        .weight = weight, .eps = 1e-6f, .normed = normed, .inv_rms = inv_rms,
        .out = {.codes = codes, .scales = scales, .decode_scales = decode}};
#define H(field, value) AT(nvfp4_hc_rmsnorm_quantize_args, field, value)
    const refusal rows[] = {
        NORM_RULES(nvfp4_hc_rmsnorm_quantize_args),
        {"streams NULL", {H(streams, 0)}, INVALID, "streams is NULL"},
        {"streams misaligned", {H(streams, src + 2)}, INVALID, "streams = 0x"},
        {"stream_count 0", {H(stream_count, 0)}, INVALID, "stream_count = 0"},
        {"stream_count 5", {H(stream_count, 5)}, INVALID, "stream_count = 5"},
        {"reserved set", {H(reserved, 1)}, INVALID, "reserved = 1"},
        {"streams_row_stride huge", {H(streams_row_stride, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"stream_stride huge", {H(stream_stride, INT64_MAX)}, INVALID, "stream"},
        {"mix_row_stride huge", {H(mix_row_stride, INT64_MAX)}, INVALID, "mix spans more than 2^63 - 1"},
        {"streams_row_stride small", {H(streams_row_stride, COLS)}, INVALID, "streams_row_stride = 64"},
        {"stream_stride small", {H(stream_stride, COLS - 1)}, INVALID, "stream_stride = 63"},
        {"stream_stride negative", {H(stream_stride, -64)}, INVALID, "stream_stride = -64"},
        {"mix NULL", {H(mix, 0)}, INVALID, "mix is NULL"},
        {"mix misaligned", {H(mix, (char *)mix + 1)}, INVALID, "mix = 0x"},
        {"mix_row_stride small", {H(mix_row_stride, 1)}, INVALID, "mix_row_stride = 1"},
        {"mixed misaligned", {H(mixed, copied + 2)}, INVALID, "mixed = 0x"},
        {"mixed_row_stride small", {H(mixed_row_stride, 2)}, INVALID, "mixed_row_stride = 2"},
        {"mixed over streams", {H(mixed, src)}, INVALID, "overlap"},
        {"mixed over mix", {H(mixed, mix)}, INVALID, "overlap"},
    };
    refuse_all("hc_rmsnorm_quantize", call_hc_rmsnorm_quantize, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("hc_rmsnorm_quantize", call_hc_rmsnorm_quantize, context, stream, &base, sizeof base, true);
    refuse_common("hc_rmsnorm_quantize_workspace_size", call_hc_rmsnorm_quantize_workspace_size, context, stream, &base, sizeof base, false);
}

static void refuse_swiglu(void) {
    nvfp4_swiglu_quantize_args base = {
        .struct_size = sizeof base, .src = src, .rows = ROWS, .width = COLS, .activation = NVFP4_ACTIVATION_SWIGLU, .activated = copied,
        .out = {.codes = codes, .scales = scales, .decode_scales = decode}};
#define S(field, value) AT(nvfp4_swiglu_quantize_args, field, value)
    const refusal rows[] = {
        OUT_RULES(nvfp4_swiglu_quantize_args),
        {"src NULL", {S(src, 0)}, INVALID, "src is NULL"},
        {"src misaligned", {S(src, src + 8)}, INVALID, "src = 0x"},
        {"src_dtype NVFP4", {S(src_dtype, 3)}, INVALID, "src_dtype = 3"},
        {"interleave 4", {S(interleave, 4)}, INVALID, "interleave = 4"},
        {"interleave behind relu2", {S(interleave, 8), S(activation, NVFP4_ACTIVATION_RELU2)}, INVALID, "interleave"},
        {"src_row_stride small", {S(src_row_stride, 2 * COLS - 1)}, INVALID, "src_row_stride = 127"},
        {"src_group_stride", {S(src_group_stride, 2)}, INVALID, "src_group_stride"},
        {"rows negative", {S(rows, -1)}, INVALID, "rows = -1"},
        {"width 0", {S(width, 0)}, INVALID, "width = 0"},
        {"width negative", {S(width, -16)}, INVALID, "width = -16"},
        {"width ragged", {S(width, 40)}, INVALID, "width = 40 is not a multiple of 16; pad to 48"},
        {"width huge", {S(width, (int64_t)1 << 60)}, INVALID, "src spans more than 2^63 - 1"},
        {"rows huge", {S(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"rows 2^56", {S(rows, (int64_t)1 << 56)}, INVALID, "spans more than 2^63 - 1"},
        {"interleaved rows 2^61", {S(rows, (int64_t)1 << 61), S(interleave, 8)}, INVALID, "spans more than 2^63 - 1"},
        {"src_row_stride huge", {S(src_row_stride, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"width largest", {S(width, INT64_MAX - 15)}, INVALID, "width = 9223372036854775792"},
        {"activation unknown", {S(activation, 3)}, INVALID, "activation = 3"},
        {"limit negative", {S(limit, float_bits(-1))}, INVALID, "limit = -1"},
        {"limit NaN", {S(limit, float_bits(NAN))}, INVALID, "limit = NaN"},
        {"alpha infinite", {S(alpha, float_bits(INFINITY))}, INVALID, "alpha = inf"},
        {"beta NaN", {S(beta, float_bits(NAN))}, INVALID, "beta = NaN"},
        {"activated misaligned", {S(activated, copied + 8)}, INVALID, "activated = 0x"},
        {"activated_row_stride small", {S(activated_row_stride, 63)}, INVALID, "activated_row_stride = 63"},
        {"activated over src", {S(activated, src)}, INVALID, "overlap"},
        {"activated over codes", {S(activated, codes)}, INVALID, "overlap"},
        {"grouping unknown", {S(groups.grouping, 4)}, INVALID, "grouping = 4"},
        {"ends NULL", {S(groups.grouping, 1), S(groups.count, 1)}, INVALID, "ends is NULL"},
    };
    refuse_all("swiglu_quantize", call_swiglu_quantize, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("swiglu_quantize", call_swiglu_quantize, context, stream, &base, sizeof base, true);
    refuse_common("swiglu_quantize_workspace_size", call_swiglu_quantize_workspace_size, context, stream, &base, sizeof base, false);
}

static void refuse_stage(void) {
    int32_t *ids = mem_in(ROWS * ROUTES * 4), *packed = mem_out(ROWS * COLS / 16);
    float *weights = mem_in(ROWS * ROUTES * 4), *out_weights = mem_out(ROWS * ROUTES * 4);
    int64_t *out_ids = mem_out(ROWS * ROUTES * 8);
    nvfp4_stage_moe_inputs_args base = {
        .struct_size = sizeof base, .src = src, .tokens = ROWS, .hidden = COLS, .static_decode_scale = fixed, .codes = codes,
        .packed_scales = packed, .routes = ROUTES, .topk_ids = ids, .topk_weights = weights, .staged_ids = out_ids, .staged_weights = out_weights};
#define M(field, value) AT(nvfp4_stage_moe_inputs_args, field, value)
    const refusal rows[] = {
        {"src NULL", {M(src, 0)}, INVALID, "src is NULL"},
        {"src misaligned", {M(src, src + 2)}, INVALID, "src = 0x"},
        {"src_dtype NVFP4", {M(src_dtype, 3)}, INVALID, "src_dtype = 3"},
        {"scale_rule unknown", {M(scale_rule, 3)}, INVALID, "scale_rule = 3"},
        {"src_row_stride small", {M(src_row_stride, 63)}, INVALID, "src_row_stride = 63"},
        {"tokens negative", {M(tokens, -1)}, INVALID, "tokens = -1"},
        {"tokens huge", {M(tokens, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"hidden huge", {M(hidden, INT64_MAX - 63)}, INVALID, "spans more than 2^63 - 1"},
        {"tokens 2^61", {M(tokens, (int64_t)1 << 61), M(hidden, 64)}, INVALID, "spans more than 2^63 - 1"},
        {"hidden 0", {M(hidden, 0)}, INVALID, "hidden = 0"},
        {"hidden a multiple of 16 only", {M(hidden, 48)}, INVALID, "hidden = 48 is not a multiple of 64; pad to 64"},
        {"static_decode_scale misaligned", {M(static_decode_scale, (char *)fixed + 2)}, INVALID, "static_decode_scale = 0x"},
        {"codes NULL", {M(codes, 0)}, INVALID, "codes is NULL"},
        {"codes misaligned", {M(codes, codes + 8)}, INVALID, "codes = 0x"},
        {"packed_scales NULL", {M(packed_scales, 0)}, INVALID, "packed_scales is NULL"},
        {"packed_scales misaligned", {M(packed_scales, (char *)packed + 4)}, INVALID, "packed_scales = 0x"},
        {"routes 65", {M(routes, 65)}, INVALID, "routes = 65"},
        {"reserved set", {M(reserved, 1)}, INVALID, "reserved = 1"},
        {"topk_ids NULL", {M(topk_ids, 0)}, INVALID, "topk_ids is NULL"},
        {"topk_ids misaligned", {M(topk_ids, (char *)ids + 2)}, INVALID, "topk_ids = 0x"},
        {"topk_weights NULL", {M(topk_weights, 0)}, INVALID, "topk_weights is NULL"},
        {"topk_weights misaligned", {M(topk_weights, (char *)weights + 2)}, INVALID, "topk_weights = 0x"},
        {"staged_ids NULL", {M(staged_ids, 0)}, INVALID, "staged_ids is NULL"},
        {"staged_ids misaligned", {M(staged_ids, (char *)out_ids + 4)}, INVALID, "staged_ids = 0x"},
        {"staged_weights NULL", {M(staged_weights, 0)}, INVALID, "staged_weights is NULL"},
        {"staged_weights misaligned", {M(staged_weights, (char *)out_weights + 1)}, INVALID, "staged_weights = 0x"},
        {"codes over src", {M(codes, src)}, INVALID, "overlap"},
        {"packed_scales over codes", {M(packed_scales, codes)}, INVALID, "overlap"},
        {"staged_ids over topk_ids", {M(staged_ids, ids)}, INVALID, "overlap"},
        {"staged_weights over topk_weights", {M(staged_weights, weights)}, INVALID, "overlap"},
    };
    refuse_all("stage_moe_inputs", call_stage_moe_inputs, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("stage_moe_inputs", call_stage_moe_inputs, context, stream, &base, sizeof base, true);
}

int main(void) {
    open_context(&context, &stream, 2);
    src = mem_in(ROWS * COLS * STREAMS * 2);
    weight = mem_in(COLS * 2);
    mix = mem_in(ROWS * STREAMS * 4);
    fixed = mem_in(16);
    fixed[0] = 1.0f;
    codes = mem_out(ROWS * COLS / 2);
    scales = mem_out(ROWS * COLS / 16);
    decode = mem_out(ROWS * 4);
    normed = mem_out(ROWS * COLS * 2);
    copied = mem_out(ROWS * COLS * 2);
    residual = mem_out(ROWS * COLS * 2);
    inv_rms = mem_out(ROWS * 4);
    refuse_rmsnorm();
    refuse_hc_rmsnorm();
    refuse_swiglu();
    refuse_stage();
    close_context(context, stream);
    return finish();
}
