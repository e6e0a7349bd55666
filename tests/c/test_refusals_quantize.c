/* Every refusal of nvfp4_quantize, nvfp4_amax_scale and nvfp4_dequantize: status, message, and memory left as it was. */
#include "harness.h"

enum { ROWS = 6, COLS = 64, GROUPS = 2 };
#define INVALID NVFP4_STATUS_INVALID_ARGUMENT

OPERATION(quantize, nvfp4_quantize_args)
QUERY(quantize_workspace_size, nvfp4_quantize_args)
OPERATION(amax_scale, nvfp4_amax_scale_args)
QUERY(amax_scale_workspace_size, nvfp4_amax_scale_args)
OPERATION(dequantize, nvfp4_dequantize_args)

static nvfp4_context *context;
static nvfp4_stream *stream;
static unsigned char *src, *codes, *scales, *values;
static float *decode, *fixed;
static int32_t *ends, *counts;

static nvfp4_quantize_args quantize_base(void) {
    return (nvfp4_quantize_args){
        .struct_size = sizeof(nvfp4_quantize_args), .src = src, .rows = ROWS, .cols = COLS,
        .out = {.codes = codes, .scales = scales, .decode_scales = decode}};
}

static void refuse_quantize(void) {
    nvfp4_quantize_args base = quantize_base();
#define Q(field, value) AT(nvfp4_quantize_args, field, value)
    const refusal plain[] = {
        {"src NULL", {Q(src, 0)}, INVALID, "src is NULL"},
        {"src misaligned", {Q(src, src + 8)}, INVALID, "src = 0x"},
        {"src_dtype NVFP4", {Q(src_dtype, 3)}, INVALID, "src_dtype = 3"},
        {"src_dtype unknown", {Q(src_dtype, 0xFFFFFFFF)}, INVALID, "src_dtype = 4294967295"},
        {"transposed 2", {Q(transposed, 2)}, INVALID, "transposed = 2"},
        {"src_row_stride small", {Q(src_row_stride, COLS - 1)}, INVALID, "src_row_stride = 63"},
        {"src_row_stride negative", {Q(src_row_stride, -COLS)}, INVALID, "src_row_stride = -64"},
        {"src_row_stride small, transposed", {Q(transposed, 1), Q(src_row_stride, ROWS - 1)}, INVALID, "src_row_stride = 5"},
        {"src_row_stride huge", {Q(src_row_stride, INT64_MAX)}, INVALID, "src spans more than 2^63 - 1"},
        {"src_group_stride without strided groups", {Q(src_group_stride, 1)}, INVALID, "src_group_stride"},
        {"rows negative", {Q(rows, -1)}, INVALID, "rows = -1"},
        {"rows least", {Q(rows, INT64_MIN)}, INVALID, "rows = -9223372036854775808"},
        {"rows huge", {Q(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"rows * cols wraps to 0", {Q(rows, (int64_t)1 << 32), Q(cols, (int64_t)1 << 32)}, INVALID, "spans more than 2^63 - 1"},
        {"rows * cols wraps to a little", {Q(rows, ((int64_t)1 << 58) + 1), Q(cols, 64)}, INVALID, "spans more than 2^63 - 1"},
        {"cols 0", {Q(cols, 0)}, INVALID, "cols = 0"},
        {"cols negative", {Q(cols, -16)}, INVALID, "cols = -16"},
        {"cols ragged", {Q(cols, 100)}, INVALID, "cols = 100 is not a multiple of 16; pad to 112"},
        {"cols huge", {Q(cols, INT64_MAX - 15)}, INVALID, "spans more than 2^63 - 1"},
        {"cols largest", {Q(cols, INT64_MAX)}, INVALID, "cols = 9223372036854775807"},
        {"transposed, rows huge", {Q(transposed, 1), Q(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"transposed, cols huge", {Q(transposed, 1), Q(cols, INT64_MAX - 15)}, INVALID, "spans more than 2^63 - 1"},
        {"tiled, rows huge", {Q(out.scale_layout, 1), Q(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"per-row scales of 2^61 rows", {Q(out.scope, NVFP4_SCOPE_ROW), Q(rows, (int64_t)1 << 61)}, INVALID, "spans more than 2^63 - 1"},
        {"codes NULL", {Q(out.codes, 0)}, INVALID, "codes is NULL"},
        {"codes misaligned", {Q(out.codes, codes + 1)}, INVALID, "codes = 0x"},
        {"codes_row_stride small", {Q(out.codes_row_stride, COLS / 2 - 1)}, INVALID, "codes_row_stride = 31"},
        {"codes_row_stride negative", {Q(out.codes_row_stride, -1)}, INVALID, "codes_row_stride = -1"},
        {"codes_row_stride huge", {Q(out.codes_row_stride, INT64_MAX)}, INVALID, "codes spans more than 2^63 - 1"},
        {"scales NULL", {Q(out.scales, 0)}, INVALID, "scales is NULL"},
        {"scales misaligned", {Q(out.scales, scales + 4)}, INVALID, "scales = 0x"},
        {"scales_row_stride small", {Q(out.scales_row_stride, COLS / 16 - 1)}, INVALID, "scales_row_stride = 3"},
        {"scales_row_stride negative", {Q(out.scales_row_stride, -4)}, INVALID, "scales_row_stride = -4"},
        {"scales_row_stride huge", {Q(out.scales_row_stride, INT64_MAX)}, INVALID, "scales spans more than 2^63 - 1"},
        {"scales_row_stride, tiled", {Q(out.scale_layout, 1), Q(out.scales_row_stride, 4)}, INVALID, "scales_row_stride"},
        {"scale_layout unknown", {Q(out.scale_layout, 3)}, INVALID, "scale_layout = 3"},
        {"scale_rule unknown", {Q(out.scale_rule, 3)}, INVALID, "scale_rule = 3"},
        {"scope unknown", {Q(out.scope, 3)}, INVALID, "scope = 3"},
        {"scope of groups without groups", {Q(out.scope, NVFP4_SCOPE_GROUP)}, INVALID, "scope"},
        {"reserved set", {Q(out.reserved, 1)}, INVALID, "reserved = 1"},
        {"no decode scales", {Q(out.decode_scales, 0)}, INVALID, "decode_scales"},
        {"both decode scales", {Q(out.static_decode_scales, fixed)}, INVALID, "decode_scales"},
        {"decode_scales misaligned", {Q(out.decode_scales, (char *)decode + 2)}, INVALID, "decode_scales = 0x"},
        {"static_decode_scales misaligned", {Q(out.decode_scales, 0), Q(out.static_decode_scales, (char *)fixed + 1)}, INVALID, "static_decode_scales = 0x"},
        {"codes over src", {Q(out.codes, src)}, INVALID, "overlap"},
        {"scales over src", {Q(out.scales, src + 16)}, INVALID, "overlap"},
        {"decode_scales over src", {Q(out.decode_scales, src)}, INVALID, "overlap"},
        {"scales over codes", {Q(out.scales, codes)}, INVALID, "overlap"},
        {"decode_scales over codes", {Q(out.decode_scales, codes + 4)}, INVALID, "overlap"},
        {"codes over the last byte of src", {Q(out.codes, src + ROWS * COLS * 2 - 16)}, INVALID, "overlap"},
        {"codes over static scales", {Q(out.decode_scales, 0), Q(out.static_decode_scales, codes)}, INVALID, "overlap"},
        {"grouping unknown", {Q(groups.grouping, 4)}, INVALID, "grouping = 4"},
        {"count without groups", {Q(groups.count, 1)}, INVALID, "count"},
        {"ends without groups", {Q(groups.ends, ends)}, INVALID, "ends"},
        {"counts without groups", {Q(groups.counts, counts)}, INVALID, "counts"},
        {"max_tokens without groups", {Q(groups.max_tokens, 3)}, INVALID, "max_tokens"},
    };
    refuse_all("quantize", call_quantize, context, stream, &base, sizeof base, plain, COUNT(plain));
    refuse_common("quantize", call_quantize, context, stream, &base, sizeof base, true);
    refuse_common("quantize_workspace_size", call_quantize_workspace_size, context, stream, &base, sizeof base, false);

    base.groups = (nvfp4_groups){.grouping = NVFP4_GROUPING_ENDS, .count = GROUPS, .ends = ends};
    base.out.scope = NVFP4_SCOPE_GROUP;
    const refusal by_ends[] = {
        {"ends NULL", {Q(groups.ends, 0)}, INVALID, "ends is NULL"},
        {"ends misaligned", {Q(groups.ends, (char *)ends + 2)}, INVALID, "ends = 0x"},
        {"too many groups", {Q(groups.count, 65536)}, INVALID, "count = 65536"},
        {"counts beside ends", {Q(groups.counts, counts)}, INVALID, "counts"},
        {"max_tokens beside ends", {Q(groups.max_tokens, 3)}, INVALID, "max_tokens"},
        {"ends over codes", {Q(groups.ends, codes)}, INVALID, "overlap"},
        {"rows past int32", {Q(rows, (int64_t)1 << 31)}, INVALID, "rows = 2147483648"},
    };
    refuse_all("quantize by ends", call_quantize, context, stream, &base, sizeof base, by_ends, COUNT(by_ends));

    base.groups = (nvfp4_groups){.grouping = NVFP4_GROUPING_MASKED, .count = GROUPS, .counts = counts, .max_tokens = ROWS / GROUPS};
    const refusal masked[] = {
        {"counts NULL", {Q(groups.counts, 0)}, INVALID, "counts is NULL"},
        {"counts misaligned", {Q(groups.counts, (char *)counts + 1)}, INVALID, "counts = 0x"},
        {"ends beside counts", {Q(groups.ends, ends)}, INVALID, "ends"},
        {"max_tokens negative", {Q(groups.max_tokens, -1)}, INVALID, "max_tokens = -1"},
        {"rows do not fit", {Q(rows, ROWS - 1)}, INVALID, "rows = 5"},
        {"count * max_tokens wraps", {Q(groups.max_tokens, INT64_MAX), Q(groups.count, 65535)}, INVALID, "max_tokens"},
        {"src_group_stride", {Q(src_group_stride, 192)}, INVALID, "src_group_stride"},
    };
    refuse_all("quantize masked", call_quantize, context, stream, &base, sizeof base, masked, COUNT(masked));

    base.groups = (nvfp4_groups){.grouping = NVFP4_GROUPING_STRIDED, .count = GROUPS, .max_tokens = ROWS / GROUPS};
    base.src_group_stride = ROWS / GROUPS * COLS;
    const refusal strided[] = {
        {"src_group_stride negative", {Q(src_group_stride, -1)}, INVALID, "src_group_stride = -1"},
        {"src_group_stride huge", {Q(src_group_stride, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"max_tokens huge", {Q(groups.count, 1), Q(groups.max_tokens, INT64_MAX), Q(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"ends set", {Q(groups.ends, ends)}, INVALID, "ends"},
        {"counts set", {Q(groups.counts, counts)}, INVALID, "counts"},
        {"rows do not fit", {Q(rows, ROWS + 1)}, INVALID, "rows = 7"},
    };
    refuse_all("quantize strided", call_quantize, context, stream, &base, sizeof base, strided, COUNT(strided));
}

static void refuse_amax_scale(void) {
    nvfp4_amax_scale_args base = {.struct_size = sizeof base, .src = src, .rows = ROWS, .cols = COLS, .decode_scales = decode};
#define A(field, value) AT(nvfp4_amax_scale_args, field, value)
    const refusal rows[] = {
        {"src NULL", {A(src, 0)}, INVALID, "src is NULL"},
        {"src misaligned", {A(src, src + 2)}, INVALID, "src = 0x"},
        {"src_dtype NVFP4", {A(src_dtype, 3)}, INVALID, "src_dtype = 3"},
        {"scope unknown", {A(scope, 9)}, INVALID, "scope = 9"},
        {"scope of groups without groups", {A(scope, NVFP4_SCOPE_GROUP)}, INVALID, "scope"},
        {"src_row_stride small", {A(src_row_stride, 1)}, INVALID, "src_row_stride = 1"},
        {"src_row_stride negative", {A(src_row_stride, -1)}, INVALID, "src_row_stride = -1"},
        {"src_group_stride", {A(src_group_stride, 1)}, INVALID, "src_group_stride"},
        {"rows negative", {A(rows, -5)}, INVALID, "rows = -5"},
        {"rows huge", {A(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"cols 0", {A(cols, 0)}, INVALID, "cols = 0"},
        {"cols ragged", {A(cols, 17)}, INVALID, "cols = 17 is not a multiple of 16; pad to 32"},
        {"decode_scales NULL", {A(decode_scales, 0)}, INVALID, "decode_scales is NULL"},
        {"decode_scales misaligned", {A(decode_scales, (char *)decode + 2)}, INVALID, "decode_scales = 0x"},
        {"decode_scales over src", {A(decode_scales, src + 32)}, INVALID, "overlap"},
        {"grouping unknown", {A(groups.grouping, 77)}, INVALID, "grouping = 77"},
        {"count without groups", {A(groups.count, 2)}, INVALID, "count"},
        {"ends NULL", {A(groups.grouping, 1), A(groups.count, 2)}, INVALID, "ends is NULL"},
        {"counts NULL", {A(groups.grouping, 2), A(groups.count, 2), A(groups.max_tokens, 3)}, INVALID, "counts is NULL"},
        {"too many groups", {A(groups.grouping, 1), A(groups.count, 70000), A(groups.ends, ends)}, INVALID, "count = 70000"},
    };
    refuse_all("amax_scale", call_amax_scale, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("amax_scale", call_amax_scale, context, stream, &base, sizeof base, true);
    refuse_common("amax_scale_workspace_size", call_amax_scale_workspace_size, context, stream, &base, sizeof base, false);
}

static void refuse_dequantize(void) {
    unsigned char *in_codes = mem_in(ROWS * COLS / 2), *in_scales = mem_in(ROWS * COLS / 16);
    nvfp4_dequantize_args base = {.struct_size = sizeof base, .rows = ROWS, .cols = COLS, .dst = values,
                                  .input = {.codes = in_codes, .scales = in_scales, .decode_scales = fixed}};
#define D(field, value) AT(nvfp4_dequantize_args, field, value)
    const refusal rows[] = {
        {"codes NULL", {D(input.codes, 0)}, INVALID, "codes is NULL"},
        {"codes misaligned", {D(input.codes, in_codes + 8)}, INVALID, "codes = 0x"},
        {"codes_row_stride small", {D(input.codes_row_stride, 31)}, INVALID, "codes_row_stride = 31"},
        {"codes_row_stride negative", {D(input.codes_row_stride, -32)}, INVALID, "codes_row_stride = -32"},
        {"scales NULL", {D(input.scales, 0)}, INVALID, "scales is NULL"},
        {"scales misaligned", {D(input.scales, in_scales + 2)}, INVALID, "scales = 0x"},
        {"scales_row_stride small", {D(input.scales_row_stride, 3)}, INVALID, "scales_row_stride = 3"},
        {"scales_row_stride, tiled", {D(input.scale_layout, 2), D(input.scales_row_stride, 4)}, INVALID, "scales_row_stride"},
        {"scale_layout unknown", {D(input.scale_layout, 5)}, INVALID, "scale_layout = 5"},
        {"scope unknown", {D(input.scope, 5)}, INVALID, "scope = 5"},
        {"decode_scales misaligned", {D(input.decode_scales, (char *)fixed + 2)}, INVALID, "decode_scales = 0x"},
        {"rows negative", {D(rows, -1)}, INVALID, "rows = -1"},
        {"rows huge", {D(rows, INT64_MAX / 2)}, INVALID, "spans more than 2^63 - 1"},
        {"cols 0", {D(cols, 0)}, INVALID, "cols = 0"},
        {"cols ragged", {D(cols, 24)}, INVALID, "cols = 24 is not a multiple of 16; pad to 32"},
        {"dst NULL", {D(dst, 0)}, INVALID, "dst is NULL"},
        {"dst misaligned", {D(dst, values + 4)}, INVALID, "dst = 0x"},
        {"dst_dtype NVFP4", {D(dst_dtype, 3)}, INVALID, "dst_dtype = 3"},
        {"dst_row_stride small", {D(dst_row_stride, 63)}, INVALID, "dst_row_stride = 63"},
        {"dst_row_stride negative", {D(dst_row_stride, INT64_MIN)}, INVALID, "dst_row_stride = -9223372036854775808"},
        {"dst_group_stride", {D(dst_group_stride, 1)}, INVALID, "dst_group_stride"},
        {"dst over codes", {D(dst, in_codes)}, INVALID, "overlap"},
        {"dst over scales", {D(dst, in_scales)}, INVALID, "overlap"},
        {"dst over decode_scales", {D(dst, fixed)}, INVALID, "overlap"},
        {"reserved set", {D(reserved, 7)}, INVALID, "reserved = 7"},
        {"grouping unknown", {D(groups.grouping, 4)}, INVALID, "grouping = 4"},
        {"ends NULL", {D(groups.grouping, 1), D(groups.count, 2)}, INVALID, "ends is NULL"},
        {"overlapping groups of dst", {D(groups.grouping, 3), D(groups.count, 2), D(groups.max_tokens, 3), D(dst_group_stride, 64)}, INVALID, "dst_group_stride"},
    };
    refuse_all("dequantize", call_dequantize, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("dequantize", call_dequantize, context, stream, &base, sizeof base, true);
}

int main(void) {
    open_context(&context, &stream, 2);
    src = mem_in(ROWS * COLS * 2);
    codes = mem_out(ROWS * COLS / 2);
    scales = mem_out(ROWS * COLS / 16);
    values = mem_out(ROWS * COLS * 2);
    decode = mem_out(16);
    fixed = mem_in(16);
    ends = mem_in(GROUPS * 4);
    counts = mem_in(GROUPS * 4);
    fixed[0] = fixed[1] = 1.0f;
    ends[0] = 2, ends[1] = ROWS;
    counts[0] = counts[1] = ROWS / GROUPS;
    refuse_quantize();
    refuse_amax_scale();
    refuse_dequantize();
    CASE("refusals set no fault") {
        nvfp4_faults faults = {.struct_size = sizeof faults};
        OK(nvfp4_context_faults(context, &faults));
        CHECK(faults.flags == 0 && faults.bad_group == -1);
    }
    close_context(context, stream);
    return finish();
}
