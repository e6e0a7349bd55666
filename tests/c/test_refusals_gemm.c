/* Every refusal of the products and of prepared weights: shapes, scopes, activations, workspace, storage. */
#include "harness.h"

enum { ROWS = 6, N = 32, K = 64, GROUPS = 2 };
#define INVALID NVFP4_STATUS_INVALID_ARGUMENT

OPERATION(grouped_gemm, nvfp4_grouped_gemm_args)
QUERY(grouped_gemm_workspace_size, nvfp4_grouped_gemm_args)
OPERATION(gemm, nvfp4_gemm_args)
QUERY(gemm_workspace_size, nvfp4_gemm_args)
OPERATION(weights_export, nvfp4_weights_export_args)
QUERY(weights_storage_size, nvfp4_weights_prepare_args)

static nvfp4_context *context;
static nvfp4_stream *stream;

/* weights_prepare as an operation: what it makes is destroyed at once, and nothing may be made by a refusal. */
static nvfp4_status call_weights_prepare(nvfp4_context *c, const void *args, nvfp4_stream *s) {
    nvfp4_weights *weights = NULL;
    nvfp4_status status = nvfp4_weights_prepare(c, (const nvfp4_weights_prepare_args *)args, s, &weights);
    CHECK((status == NVFP4_STATUS_SUCCESS) == (weights != NULL));
    if (weights) MUST(nvfp4_weights_destroy(weights) == NVFP4_STATUS_SUCCESS);
    return status;
}

static nvfp4_weights *make_weights(nvfp4_context *c, nvfp4_stream *s, int64_t groups, int64_t rows, int64_t cols, uint32_t gate_up) {
    nvfp4_weights *weights = NULL;
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = groups, .rows = rows, .cols = cols, .gate_up = gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = mem_in((size_t)(groups * rows * cols) * 2)};
    MUST(nvfp4_weights_storage_size(c, &args, &args.storage_size) == NVFP4_STATUS_SUCCESS);
    args.storage = mem_in(args.storage_size); /* outlives the tables, which poison outputs */
    MUST(nvfp4_weights_prepare(c, &args, s, &weights) == NVFP4_STATUS_SUCCESS);
    return weights;
}

static void refuse_prepare(void) {
    size_t storage_size = 0;
    unsigned char *codes = mem_in(GROUPS * N * K / 2), *scales = mem_in(GROUPS * N * K / 16), *values = mem_in(GROUPS * N * K * 2);
    float *decode = mem_in(GROUPS * 4);
    decode[0] = decode[1] = 1.0f;
    float *row_decode = mem_in(GROUPS * N * 4);
    for (size_t i = 0; i < GROUPS * N; i++) row_decode[i] = 1.0f;
    row_decode[N + 5] = 0.5f;
    nvfp4_weights_prepare_args base = {.struct_size = sizeof base, .groups = GROUPS, .rows = N, .cols = K, .codes = codes, .scales = scales,
                                       .decode_scales = decode};
#define W(field, value) AT(nvfp4_weights_prepare_args, field, value)
    const refusal shape[] = {
        {"groups negative", {W(groups, -1)}, INVALID, "groups = -1"},
        {"groups 65536", {W(groups, 65536)}, INVALID, "groups = 65536"},
        {"rows 0", {W(rows, 0)}, INVALID, "rows = 0"},
        {"rows negative", {W(rows, -32)}, INVALID, "rows = -32"},
        {"rows odd behind gate_up", {W(rows, 31), W(gate_up, 1)}, INVALID, "rows = 31"},
        {"rows huge", {W(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"cols 0", {W(cols, 0)}, INVALID, "cols = 0"},
        {"cols ragged", {W(cols, 20)}, INVALID, "cols = 20 is not a multiple of 16; pad to 32"},
        {"cols huge", {W(cols, INT64_MAX - 15)}, INVALID, "spans more than 2^63 - 1"},
        {"rows 2^58", {W(rows, (int64_t)1 << 58)}, INVALID, "spans more than 2^63 - 1"},
        {"rows 2^62", {W(rows, (int64_t)1 << 62)}, INVALID, "spans more than 2^63 - 1"},
        {"cols 2^60", {W(cols, (int64_t)1 << 60)}, INVALID, "spans more than 2^63 - 1"},
        {"all 2^40", {W(rows, (int64_t)1 << 40), W(cols, (int64_t)1 << 40)}, INVALID, "spans more than 2^63 - 1"},
        {"gate_up 2", {W(gate_up, 2)}, INVALID, "gate_up = 2"},
    };
    refuse_all("weights_storage_size", call_weights_storage_size, context, stream, &base, sizeof base, shape, COUNT(shape));
    refuse_common("weights_storage_size", call_weights_storage_size, context, stream, &base, sizeof base, false);
    MUST(nvfp4_weights_storage_size(context, &base, &storage_size) == NVFP4_STATUS_SUCCESS);
    unsigned char *storage = mem_out(storage_size);
    base.storage = storage;
    base.storage_size = storage_size;
    refuse_in_capture = false;
    refuse_all("weights_prepare", call_weights_prepare, context, stream, &base, sizeof base, shape, COUNT(shape));
    const refusal rows[] = {
        {"source unknown", {W(source, 2)}, INVALID, "source = 2"},
        {"codes NULL", {W(codes, 0)}, INVALID, "codes is NULL"},
        {"codes misaligned", {W(codes, codes + 8)}, INVALID, "codes = 0x"},
        {"scales NULL", {W(scales, 0)}, INVALID, "scales is NULL"},
        {"scales misaligned", {W(scales, scales + 8)}, INVALID, "scales = 0x"},
        {"scale_layout unknown", {W(scale_layout, 3)}, INVALID, "scale_layout = 3"},
        {"decode_scales NULL", {W(decode_scales, 0)}, INVALID, "decode_scales is NULL"},
        {"decode_scales misaligned", {W(decode_scales, (char *)decode + 2)}, INVALID, "decode_scales = 0x"},
        {"decode_scope unknown", {W(decode_scope, 3)}, INVALID, "decode_scope = 3"},
        {"requantize 2", {W(decode_scope, 2), W(requantize, 2)}, INVALID, "requantize = 2"},
        {"requantize one a matrix", {W(requantize, 1)}, INVALID, "requantize: not used"},
        {"requantize one for all", {W(decode_scope, 1), W(requantize, 1)}, INVALID, "requantize: not used"},
        {"requantize, rule unknown", {W(decode_scope, 2), W(decode_scales, row_decode), W(requantize, 1), W(scale_rule, 3)}, INVALID, "scale_rule = 3"},
        {"rule without requantize", {W(decode_scope, 2), W(decode_scales, row_decode), W(scale_rule, 1)}, INVALID, "scale_rule: not used"},
        {"rows that differ", {W(decode_scope, 2), W(decode_scales, row_decode)}, INVALID,
         "decode_scales = 0.5 (group 1, row 5) does not fit; expected the 1 of the group's row 0"},
        {"rows with no decode scale", {W(decode_scope, 2), W(decode_scales, 0)}, INVALID, "decode_scales is NULL"},
        {"scope of values", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values), W(decode_scope, 1)}, INVALID, "decode_scope: not used"},
        {"values quantized again", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values), W(requantize, 1)}, INVALID, "requantize: not used"},
        {"storage NULL", {W(storage, 0)}, INVALID, "storage is NULL"},
        {"storage misaligned", {W(storage, storage + 32)}, INVALID, "storage = 0x"},
        {"storage_size small", {W(storage_size, storage_size - 1)}, INVALID, "storage_size ="},
        {"storage_size 0", {W(storage_size, 0)}, INVALID, "storage_size = 0"},
        {"storage over codes", {W(storage, codes)}, INVALID, "overlap"},
        {"storage over scales", {W(storage, scales)}, INVALID, "overlap"},
        {"values without src", {W(source, 1), W(codes, 0), W(scales, 0)}, INVALID, "src is NULL"},
        {"values misaligned", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values + 2)}, INVALID, "src = 0x"},
        {"values of NVFP4", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values), W(src_dtype, 3)}, INVALID, "src_dtype = 3"},
        {"values, stride small", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values), W(src_row_stride, 63)}, INVALID, "src_row_stride = 63"},
        {"values, group stride negative", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values), W(src_group_stride, -1)}, INVALID, "src_group_stride = -1"},
        {"values, transposed 2", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values), W(transposed, 2)}, INVALID, "transposed = 2"},
        {"values, scale_rule unknown", {W(source, 1), W(codes, 0), W(scales, 0), W(src, values), W(scale_rule, 3)}, INVALID, "scale_rule = 3"},
    };
    refuse_all("weights_prepare", call_weights_prepare, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_in_capture = true;
    refuse_common("weights_prepare", call_weights_prepare, context, stream, &base, sizeof base, true);
    CASE("weights_prepare: scales and decode scales that are no weights") {
        static const float bad[] = {0.0f, -1.0f, INFINITY, NAN};
        if (cpu_alone("a GPU sets the fault word instead")) continue;
        scales[5] = 0x80 | 0x30;
        BAD_ARGUMENT(call_weights_prepare(context, &base, stream), "scales");
        scales[5] = 0x30;
        for (size_t i = 0; i < COUNT(bad); i++) {
            decode[1] = bad[i];
            BAD_ARGUMENT(call_weights_prepare(context, &base, stream), "decode_scales");
        }
        decode[1] = 1.0f;
        OK(call_weights_prepare(context, &base, stream));
        BAD_ARGUMENT(nvfp4_weights_prepare(context, &base, stream, NULL), "weights is NULL");
        CHECK(mem_guards_ok());
    }
}

static void refuse_export(nvfp4_weights *weights, nvfp4_weights *foreign) {
    unsigned char *codes = mem_out(GROUPS * N * K / 2), *scales = mem_out(GROUPS * N * K / 16);
    float *decode = mem_out(GROUPS * 4);
    nvfp4_weights_export_args base = {.struct_size = sizeof base, .weights = weights, .codes = codes, .scales = scales, .decode_scales = decode};
#define E(field, value) AT(nvfp4_weights_export_args, field, value)
    const refusal rows[] = {
        {"weights NULL", {E(weights, 0)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"weights a stream", {E(weights, stream)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"weights of another context", {E(weights, foreign)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"codes NULL", {E(codes, 0)}, INVALID, "codes is NULL"},
        {"codes misaligned", {E(codes, codes + 4)}, INVALID, "codes = 0x"},
        {"scales NULL", {E(scales, 0)}, INVALID, "scales is NULL"},
        {"scales misaligned", {E(scales, scales + 4)}, INVALID, "scales = 0x"},
        {"decode_scales NULL", {E(decode_scales, 0)}, INVALID, "decode_scales is NULL"},
        {"decode_scales misaligned", {E(decode_scales, (char *)decode + 2)}, INVALID, "decode_scales = 0x"},
        {"scale_layout unknown", {E(scale_layout, 3)}, INVALID, "scale_layout = 3"},
        {"reserved set", {E(reserved, 1)}, INVALID, "reserved = 1"},
        {"codes over scales", {E(codes, scales)}, INVALID, "overlap"},
    };
    refuse_all("weights_export", call_weights_export, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("weights_export", call_weights_export, context, stream, &base, sizeof base, true);
}

static void refuse_products(nvfp4_weights *weights, nvfp4_weights *single, nvfp4_weights *gated, nvfp4_weights *foreign) {
    unsigned char *a = mem_in(ROWS * K * 2), *codes = mem_in(ROWS * K / 2), *scales = mem_in(ROWS * K / 16), *bias = mem_in(GROUPS * N * 4);
    unsigned char *out = mem_out(ROWS * N * 4), *out_codes = mem_out(ROWS * N / 2), *out_scales = mem_out(ROWS * N / 16);
    float *decode = mem_in(ROWS * 4), *out_decode = mem_out(ROWS * 4);
    int32_t *ends = mem_in(GROUPS * 4);
    ends[0] = 1, ends[1] = ROWS;
    nvfp4_grouped_gemm_args base = {
        .struct_size = sizeof base, .weights = weights, .rows = ROWS,
        .groups = {.grouping = NVFP4_GROUPING_ENDS, .count = GROUPS, .ends = ends}, .a = a, .bias = bias, .out = out};
    MUST(nvfp4_grouped_gemm_workspace_size(context, &base, &base.workspace_size) == NVFP4_STATUS_SUCCESS);
    unsigned char *workspace = base.workspace_size ? mem_out(base.workspace_size) : NULL;
    base.workspace = workspace;
#define P(field, value) AT(nvfp4_grouped_gemm_args, field, value)
    const refusal values[] = {
        {"weights NULL", {P(weights, 0)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"weights a context", {P(weights, context)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"weights of another context", {P(weights, foreign)}, NVFP4_STATUS_INVALID_HANDLE, "weights"},
        {"weights of one group", {P(weights, single)}, INVALID, "count = 2"},
        {"weights plain behind SwiGLU", {P(activation, 1)}, INVALID, "gate_up"},
        {"weights gated without SwiGLU", {P(weights, gated)}, INVALID, "gate_up"},
        {"rows negative", {P(rows, -1)}, INVALID, "rows = -1"},
        {"rows past int32", {P(rows, INT64_MAX)}, INVALID, "rows = 9223372036854775807"},
        {"grouping unknown", {P(groups.grouping, 4), P(groups.ends, 0)}, INVALID, "grouping = 4"},
        {"no groups but two matrices", {P(groups.grouping, 0), P(groups.count, 0), P(groups.ends, 0)}, INVALID, "groups.count = 1"},
        {"count 3", {P(groups.count, 3)}, INVALID, "count = 3"},
        {"ends NULL", {P(groups.ends, 0)}, INVALID, "ends is NULL"},
        {"ends misaligned", {P(groups.ends, (char *)ends + 2)}, INVALID, "ends = 0x"},
        {"a NULL", {P(a, 0)}, INVALID, "a is NULL"},
        {"a misaligned", {P(a, a + 8)}, INVALID, "a = 0x"},
        {"a_dtype F32", {P(a_dtype, 2)}, INVALID, "a_dtype = 2"},
        {"a_dtype unknown", {P(a_dtype, 4)}, INVALID, "a_dtype = 4"},
        {"a_scope unknown", {P(a_scope, 3)}, INVALID, "a_scope = 3"},
        {"a_row_stride small", {P(a_row_stride, K - 1)}, INVALID, "a_row_stride = 63"},
        {"a_row_stride negative", {P(a_row_stride, -K)}, INVALID, "a_row_stride = -64"},
        {"a_group_stride without strided groups", {P(a_group_stride, K)}, INVALID, "a_group_stride"},
        {"a_decode_scales misaligned", {P(a_decode_scales, (char *)decode + 2)}, INVALID, "a_decode_scales = 0x"},
        {"a_quantized beside values", {P(a_quantized.codes, codes)}, INVALID, "a_quantized"},
        {"bias misaligned", {P(bias, bias + 4)}, INVALID, "bias = 0x"},
        {"bias_dtype NVFP4", {P(bias_dtype, 3)}, INVALID, "bias_dtype = 3"},
        {"activation unknown", {P(activation, 3)}, INVALID, "activation = 3"},
        {"limit negative", {P(weights, gated), P(activation, 1), P(limit, float_bits(-1))}, INVALID, "limit = -1"},
        {"alpha NaN", {P(weights, gated), P(activation, 1), P(alpha, float_bits(NAN))}, INVALID, "alpha = NaN"},
        {"flags unknown", {P(flags, 8)}, INVALID, "flags = 8"},
        {"accumulate behind relu2", {P(flags, NVFP4_GEMM_ACCUMULATE), P(activation, 2)}, INVALID, "flags"},
        {"out NULL", {P(out, 0)}, INVALID, "out is NULL"},
        {"out misaligned", {P(out, out + 8)}, INVALID, "out = 0x"},
        {"out_dtype unknown", {P(out_dtype, 4)}, INVALID, "out_dtype = 4"},
        {"out_row_stride small", {P(out_row_stride, N - 1)}, INVALID, "out_row_stride = 31"},
        {"out_group_stride without strided groups", {P(out_group_stride, 1)}, INVALID, "out_group_stride"},
        {"out_quantized beside values", {P(out_quantized.codes, out_codes)}, INVALID, "out_quantized"},
        {"out over a", {P(out, a)}, INVALID, "overlap"},
        {"out over bias", {P(out, bias)}, INVALID, "overlap"},
        {"out over ends", {P(out, ends)}, INVALID, "overlap"},
        {"reserved set", {P(reserved, 1)}, INVALID, "reserved = 1"},
        {"dynamic codes of tensor scope", {P(out, 0), P(out_dtype, 3), P(out_quantized.codes, out_codes), P(out_quantized.scales, out_scales), P(out_quantized.decode_scales, out_decode)}, NVFP4_STATUS_UNSUPPORTED, "scope TENSOR"},
        {"codes without codes", {P(out, 0), P(out_dtype, 3)}, INVALID, "codes is NULL"},
    };
    refuse_all("grouped_gemm", call_grouped_gemm, context, stream, &base, sizeof base, values, COUNT(values));
    refuse_common("grouped_gemm", call_grouped_gemm, context, stream, &base, sizeof base, true);
    refuse_common("grouped_gemm_workspace_size", call_grouped_gemm_workspace_size, context, stream, &base, sizeof base, false);

    /* A product of values may need no workspace. Rows that are requantized with scales of their own lie there first, on
     * every backend. */
    nvfp4_grouped_gemm_args requantized = base;
    requantized.out = NULL;
    requantized.out_dtype = NVFP4_DTYPE_NVFP4;
    requantized.out_quantized = (nvfp4_quantized){.codes = out_codes, .scales = out_scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = out_decode};
    MUST(nvfp4_grouped_gemm_workspace_size(context, &requantized, &requantized.workspace_size) == NVFP4_STATUS_SUCCESS);
    MUST(requantized.workspace_size > 0);
    requantized.workspace = workspace = mem_out(requantized.workspace_size);
    const refusal scratch[] = {
        {"workspace NULL", {P(workspace, 0)}, INVALID, "workspace is NULL"},
        {"workspace misaligned", {P(workspace, workspace + 16)}, INVALID, "workspace = 0x"},
        {"workspace small", {P(workspace_size, requantized.workspace_size - 1)}, NVFP4_STATUS_WORKSPACE_TOO_SMALL, "workspace_size"},
        {"workspace_size 0", {P(workspace_size, 0)}, NVFP4_STATUS_WORKSPACE_TOO_SMALL, "workspace_size = 0 is smaller than"},
        {"workspace over a", {P(workspace, a)}, INVALID, "overlap"},
        {"workspace over codes", {P(workspace, out_codes)}, INVALID, "overlap"},
    };
    refuse_all("grouped_gemm that requantizes", call_grouped_gemm, context, stream, &requantized, sizeof requantized, scratch, COUNT(scratch));

    nvfp4_grouped_gemm_args quantized = base;
    quantized.a = NULL;
    quantized.a_dtype = NVFP4_DTYPE_NVFP4;
    quantized.a_quantized = (nvfp4_quantized_input){.codes = codes, .scales = scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = decode};
    MUST(nvfp4_grouped_gemm_workspace_size(context, &quantized, &quantized.workspace_size) == NVFP4_STATUS_SUCCESS);
    quantized.workspace = mem_out(quantized.workspace_size);
    const refusal coded[] = {
        {"a beside codes", {P(a, a)}, INVALID, "a"},
        {"codes NULL", {P(a_quantized.codes, 0)}, INVALID, "codes is NULL"},
        {"codes misaligned", {P(a_quantized.codes, codes + 1)}, INVALID, "codes = 0x"},
        {"codes_row_stride small", {P(a_quantized.codes_row_stride, 31)}, INVALID, "codes_row_stride = 31"},
        {"scales NULL", {P(a_quantized.scales, 0)}, INVALID, "scales is NULL"},
        {"scales misaligned", {P(a_quantized.scales, scales + 1)}, INVALID, "scales = 0x"},
        {"scales_row_stride small", {P(a_quantized.scales_row_stride, 3)}, INVALID, "scales_row_stride = 3"},
        {"scale_layout unknown", {P(a_quantized.scale_layout, 3)}, INVALID, "scale_layout = 3"},
        {"scope unknown", {P(a_quantized.scope, 3)}, INVALID, "scope = 3"},
        {"decode_scales misaligned", {P(a_quantized.decode_scales, (char *)decode + 2)}, INVALID, "decode_scales = 0x"},
        {"a_decode_scales beside codes", {P(a_decode_scales, decode)}, INVALID, "a_decode_scales"},
        {"out over codes", {P(out, codes)}, INVALID, "overlap"},
    };
    refuse_all("grouped_gemm of codes", call_grouped_gemm, context, stream, &quantized, sizeof quantized, coded, COUNT(coded));

    nvfp4_gemm_args one = base;
    one.weights = single;
    one.groups = (nvfp4_groups){.grouping = NVFP4_GROUPING_NONE};
    one.workspace = NULL;
    MUST(nvfp4_gemm_workspace_size(context, &one, &one.workspace_size) == NVFP4_STATUS_SUCCESS);
    one.workspace = one.workspace_size ? mem_out(one.workspace_size) : NULL;
    const refusal grouped[] = {
        {"weights of two groups", {P(weights, weights)}, INVALID, "weights"},
        {"groups given", {P(groups.grouping, 1), P(groups.count, 1), P(groups.ends, ends)}, INVALID, "groups"},
        {"rows huge", {P(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"rows 2^57", {P(rows, (int64_t)1 << 57)}, INVALID, "spans more than 2^63 - 1"},
        {"a_row_stride huge", {P(a_row_stride, INT64_MAX)}, INVALID, "a spans more than 2^63 - 1"},
        {"out_row_stride huge", {P(out_row_stride, INT64_MAX)}, INVALID, "out spans more than 2^63 - 1"},
    };
    refuse_all("gemm", call_gemm, context, stream, &one, sizeof one, grouped, COUNT(grouped));
    nvfp4_gemm_args wide = one; /* every operand fits, but not the bf16 rows between product and codes */
    wide.weights = make_weights(context, stream, 1, 512, 16, 0);
    wide.out = NULL;
    wide.out_dtype = NVFP4_DTYPE_NVFP4;
    wide.out_quantized = (nvfp4_quantized){.codes = mem_out(ROWS * 256), .scales = mem_out(ROWS * 32), .scope = NVFP4_SCOPE_ROW, .decode_scales = mem_out(ROWS * 4)};
    MUST(nvfp4_gemm_workspace_size(context, &wide, &wide.workspace_size) == NVFP4_STATUS_SUCCESS);
    wide.workspace = mem_out(wide.workspace_size);
    const refusal between[] = {
        {"rows 2^53", {P(rows, (int64_t)1 << 53)}, INVALID, "workspace spans more than 2^63 - 1"},
        {"rows 2^54", {P(rows, (int64_t)1 << 54)}, INVALID, "workspace spans more than 2^63 - 1"},
    };
    refuse_all("gemm", call_gemm, context, stream, &wide, sizeof wide, between, COUNT(between));
    refuse_all("gemm_workspace_size", call_gemm_workspace_size, context, stream, &wide, sizeof wide, between, COUNT(between));
    MUST(nvfp4_weights_destroy((nvfp4_weights *)wide.weights) == NVFP4_STATUS_SUCCESS);
    refuse_common("gemm", call_gemm, context, stream, &one, sizeof one, true);
    refuse_common("gemm_workspace_size", call_gemm_workspace_size, context, stream, &one, sizeof one, false);
}

int main(void) {
    nvfp4_context *other;
    nvfp4_stream *other_stream;
    open_context(&context, &stream, 2);
    open_context(&other, &other_stream, 1);
    nvfp4_weights *weights = make_weights(context, stream, GROUPS, N, K, 0), *single = make_weights(context, stream, 1, N, K, 0);
    nvfp4_weights *gated = make_weights(context, stream, GROUPS, N, K, 1), *foreign = make_weights(other, other_stream, GROUPS, N, K, 0);
    refuse_prepare();
    refuse_export(weights, foreign);
    refuse_products(weights, single, gated, foreign);
    nvfp4_weights *all[] = {weights, single, gated, foreign};
    for (size_t i = 0; i < COUNT(all); i++) MUST(nvfp4_weights_destroy(all[i]) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_stream_destroy(other_stream) == NVFP4_STATUS_SUCCESS);
    MUST(nvfp4_context_destroy(other) == NVFP4_STATUS_SUCCESS);
    close_context(context, stream);
    return finish();
}
