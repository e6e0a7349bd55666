/* Every refusal of the byte shuffles: scales_size, tile_scales, untile_scales, the gate/up interleaving, group_ends. */
#include "harness.h"

enum { ROWS = 5, BLOCKS = 4, HALF = 16, ROW_BYTES = 24, GROUPS = 3 };
#define INVALID NVFP4_STATUS_INVALID_ARGUMENT

OPERATION(tile_scales, nvfp4_tile_scales_args)
OPERATION(untile_scales, nvfp4_tile_scales_args)
OPERATION(interleave_gate_up, nvfp4_interleave_gate_up_args)
OPERATION(deinterleave_gate_up, nvfp4_interleave_gate_up_args)
OPERATION(group_ends, nvfp4_group_ends_args)

static nvfp4_context *context;
static nvfp4_stream *stream;

/* scales_size has no context: its own small adapter. */
static nvfp4_status call_scales_size(nvfp4_context *unused, const void *args, nvfp4_stream *unused_too) {
    size_t bytes = 77;
    nvfp4_status status = nvfp4_scales_size((const nvfp4_scales_size_args *)args, &bytes);
    (void)unused, (void)unused_too;
    CHECK((status == NVFP4_STATUS_SUCCESS) == (bytes != 77));
    return status;
}

static void refuse_scales_size(void) {
    static int32_t ends[1];
    nvfp4_scales_size_args base = {.struct_size = sizeof base, .rows = ROWS, .cols = 64};
#define Z(field, value) AT(nvfp4_scales_size_args, field, value)
    const refusal rows[] = {
        {"scale_layout unknown", {Z(scale_layout, 3)}, INVALID, "scale_layout = 3"},
        {"reserved set", {Z(reserved, 1)}, INVALID, "reserved = 1"},
        {"rows negative", {Z(rows, -1)}, INVALID, "rows = -1"},
        {"rows huge", {Z(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"cols 0", {Z(cols, 0)}, INVALID, "cols = 0"},
        {"cols ragged", {Z(cols, 31)}, INVALID, "cols = 31 is not a multiple of 16; pad to 32"},
        {"scales_row_stride small", {Z(scales_row_stride, 3)}, INVALID, "scales_row_stride = 3"},
        {"scales_row_stride, tiled", {Z(scale_layout, 1), Z(scales_row_stride, 4)}, INVALID, "scales_row_stride"},
        {"grouping unknown", {Z(groups.grouping, 4)}, INVALID, "grouping = 4"},
        {"count without groups", {Z(groups.count, 4)}, INVALID, "count"},
        {"too many groups", {Z(groups.grouping, 1), Z(groups.count, 65536)}, INVALID, "count = 65536"},
        {"rows do not fit", {Z(groups.grouping, 2), Z(groups.count, 2), Z(groups.max_tokens, 2)}, INVALID, "rows = 5"},
        {"rows past int32 by ends", {Z(groups.grouping, 1), Z(groups.count, 1), Z(groups.ends, ends), Z(rows, INT64_MAX)}, INVALID, "rows"},
        {"padding past 2^63", {Z(scale_layout, 1), Z(rows, INT64_MAX / 4 + 1)}, INVALID, "spans more than 2^63 - 1"},
    };
    refuse_all("scales_size", call_scales_size, context, stream, &base, sizeof base, rows, COUNT(rows));
    CASE("scales_size: the rest") {
        size_t bytes = 77;
        BAD_ARGUMENT(nvfp4_scales_size(NULL, &bytes), "args is NULL");
        BAD_ARGUMENT(nvfp4_scales_size(&base, NULL), "bytes is NULL");
        base.struct_size = 8;
        BAD_ARGUMENT(nvfp4_scales_size(&base, &bytes), "struct_size = 8");
        CHECK(bytes == 77);
    }
}

static void refuse_tiling(void) {
    unsigned char *linear = mem_out(ROWS * BLOCKS), *tiled = mem_out(512);
    int32_t *ends = mem_in(8);
    nvfp4_tile_scales_args base = {.struct_size = sizeof base, .linear = linear, .tiled = tiled, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4,
                                   .rows = ROWS, .blocks = BLOCKS};
#define T(field, value) AT(nvfp4_tile_scales_args, field, value)
    const refusal rows[] = {
        {"linear NULL", {T(linear, 0)}, INVALID, "linear is NULL"},
        {"linear misaligned", {T(linear, linear + 4)}, INVALID, "linear = 0x"},
        {"linear_row_stride small", {T(linear_row_stride, 3)}, INVALID, "linear_row_stride = 3"},
        {"linear_row_stride negative", {T(linear_row_stride, -4)}, INVALID, "linear_row_stride = -4"},
        {"tiled NULL", {T(tiled, 0)}, INVALID, "tiled is NULL"},
        {"tiled misaligned", {T(tiled, tiled + 8)}, INVALID, "tiled = 0x"},
        {"layout linear", {T(scale_layout, 0)}, INVALID, "scale_layout = 0"},
        {"layout unknown", {T(scale_layout, 3)}, INVALID, "scale_layout = 3"},
        {"reserved set", {T(reserved, 1)}, INVALID, "reserved = 1"},
        {"rows negative", {T(rows, -2)}, INVALID, "rows = -2"},
        {"rows huge", {T(rows, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"blocks 0", {T(blocks, 0)}, INVALID, "blocks = 0"},
        {"blocks negative", {T(blocks, -1)}, INVALID, "blocks = -1"},
        {"blocks huge", {T(blocks, INT64_MAX)}, INVALID, "blocks = 9223372036854775807"},
        {"blocks 2^59", {T(blocks, (int64_t)1 << 58), T(rows, 1 << 10)}, INVALID, "spans more than 2^63 - 1"},
        {"rows 2^61", {T(rows, (int64_t)1 << 61)}, INVALID, "spans more than 2^63 - 1"},
        {"tiled over linear", {T(tiled, linear)}, INVALID, "overlap"},
        {"grouping unknown", {T(groups.grouping, 4)}, INVALID, "grouping = 4"},
        {"ends NULL", {T(groups.grouping, 1), T(groups.count, 2)}, INVALID, "ends is NULL"},
        {"ends misaligned", {T(groups.grouping, 1), T(groups.count, 1), T(groups.ends, (char *)ends + 2)}, INVALID, "ends = 0x"},
    };
    refuse_all("tile_scales", call_tile_scales, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("tile_scales", call_tile_scales, context, stream, &base, sizeof base, true);
    refuse_all("untile_scales", call_untile_scales, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("untile_scales", call_untile_scales, context, stream, &base, sizeof base, true);
}

static void refuse_interleaving(void) {
    unsigned char *src = mem_in(2 * HALF * ROW_BYTES), *dst = mem_out(2 * HALF * ROW_BYTES);
    nvfp4_interleave_gate_up_args base = {.struct_size = sizeof base, .src = src, .dst = dst, .count = 1, .half_rows = HALF, .row_bytes = ROW_BYTES};
#define I(field, value) AT(nvfp4_interleave_gate_up_args, field, value)
    const refusal rows[] = {
        {"src NULL", {I(src, 0)}, INVALID, "src is NULL"},
        {"src misaligned", {I(src, src + 1)}, INVALID, "src = 0x"},
        {"dst NULL", {I(dst, 0)}, INVALID, "dst is NULL"},
        {"dst misaligned", {I(dst, dst + 1)}, INVALID, "dst = 0x"},
        {"count negative", {I(count, -1)}, INVALID, "count = -1"},
        {"count huge", {I(count, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"half_rows 0", {I(half_rows, 0)}, INVALID, "half_rows = 0"},
        {"half_rows negative", {I(half_rows, -8)}, INVALID, "half_rows = -8"},
        {"half_rows ragged", {I(half_rows, 12)}, INVALID, "half_rows = 12 is not a multiple of 8; pad to 16"},
        {"half_rows huge", {I(half_rows, INT64_MAX - 7)}, INVALID, "spans more than 2^63 - 1"},
        {"row_bytes 0", {I(row_bytes, 0)}, INVALID, "row_bytes = 0"},
        {"row_bytes negative", {I(row_bytes, -1)}, INVALID, "row_bytes = -1"},
        {"row_bytes huge", {I(row_bytes, INT64_MAX)}, INVALID, "spans more than 2^63 - 1"},
        {"granularity negative", {I(granularity, -8)}, INVALID, "granularity = -8"},
        {"granularity does not divide", {I(granularity, 5)}, INVALID, "half_rows = 16 is not a multiple of 5; pad to 20"},
        {"granularity huge", {I(granularity, INT64_MAX)}, INVALID, "half_rows = 16 is not a multiple of"},
        {"dst is src", {I(dst, src)}, INVALID, "overlap"},
        {"dst over the end of src", {I(dst, src + 2 * HALF * ROW_BYTES - 16)}, INVALID, "overlap"},
    };
    refuse_all("interleave_gate_up", call_interleave_gate_up, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("interleave_gate_up", call_interleave_gate_up, context, stream, &base, sizeof base, true);
    refuse_all("deinterleave_gate_up", call_deinterleave_gate_up, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("deinterleave_gate_up", call_deinterleave_gate_up, context, stream, &base, sizeof base, true);
}

static void refuse_group_ends(void) {
    int32_t *counts = mem_in(GROUPS * 4 + 4), *ends = mem_out(GROUPS * 4);
    nvfp4_group_ends_args base = {.struct_size = sizeof base, .counts = counts, .ends = ends, .count = GROUPS};
#define G(field, value) AT(nvfp4_group_ends_args, field, value)
    const refusal rows[] = {
        {"counts NULL", {G(counts, 0)}, INVALID, "counts is NULL"},
        {"counts misaligned", {G(counts, (char *)counts + 2)}, INVALID, "counts = 0x"},
        {"ends NULL", {G(ends, 0)}, INVALID, "ends is NULL"},
        {"ends misaligned", {G(ends, (char *)ends + 1)}, INVALID, "ends = 0x"},
        {"count negative", {G(count, -1)}, INVALID, "count = -1"},
        {"count 65536", {G(count, 65536)}, INVALID, "count = 65536"},
        {"count largest", {G(count, INT64_MAX)}, INVALID, "count = 9223372036854775807"},
        {"ends shifted over counts", {G(ends, counts + 1)}, INVALID, "overlap"},
    };
    refuse_all("group_ends", call_group_ends, context, stream, &base, sizeof base, rows, COUNT(rows));
    refuse_common("group_ends", call_group_ends, context, stream, &base, sizeof base, true);
}

int main(void) {
    open_context(&context, &stream, 1);
    refuse_scales_size();
    refuse_tiling();
    refuse_interleaving();
    refuse_group_ends();
    close_context(context, stream);
    return finish();
}
