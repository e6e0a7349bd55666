/* The byte shuffles and pure queries against the layout formulas: scales_size, tile, untile, interleave, group_ends. */
#include "reference.h"

static nvfp4_context *context;
static nvfp4_stream *stream;

static void tiling(size_t rows, size_t blocks, nvfp4_scale_layout layout, bool strided) {
    size_t bytes = 0, stride = blocks + (strided ? 3 : 0), want_bytes = scales_bytes(layout, rows, blocks);
    nvfp4_scales_size_args sizes = {.struct_size = sizeof sizes, .scale_layout = layout, .rows = (int64_t)rows, .cols = (int64_t)blocks * 16};
    OK(nvfp4_scales_size(&sizes, &bytes));
    CHECK(bytes == want_bytes);
    unsigned char *linear = mem_in(rows * stride), *tiled = mem_out(bytes), *back = mem_out(rows * stride), *want = calloc(want_bytes + 1, 1);
    for (size_t i = 0; i < rows * stride; i++) linear[i] = (unsigned char)random_bits();
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < blocks; c++) want[scale_offset(layout, r, c, blocks)] = linear[r * stride + c];
    nvfp4_tile_scales_args args = {.struct_size = sizeof args, .linear = linear, .linear_row_stride = strided ? (int64_t)stride : 0, .tiled = tiled,
                                   .scale_layout = layout, .rows = (int64_t)rows, .blocks = (int64_t)blocks};
    OK(nvfp4_tile_scales(context, &args, stream));
    CHECK(memcmp(tiled, want, want_bytes) == 0);
    args.linear = back;
    OK(nvfp4_untile_scales(context, &args, stream));
    for (size_t r = 0; r < rows; r++) {
        CHECK(memcmp(back + r * stride, linear + r * stride, blocks) == 0);
        if (r + 1 < rows) CHECK(all_bytes(back + r * stride + blocks, stride - blocks, 0xA5));
    }
    CHECK(mem_guards_ok());
    free(want);
    mem_free();
}

static void grouped_tiling(void) {
    enum { ROWS = 140, BLOCKS = 6, COLUMNS = 8 };
    static const int32_t ends[4] = {5, 5, 135, 136};
    for (nvfp4_scale_layout layout = NVFP4_SCALE_LAYOUT_TILED_128X4; layout <= NVFP4_SCALE_LAYOUT_TILED_8X4; layout++)
        CASE("tile by ends, layout %u", layout) {
            size_t tile = tile_rows(layout), bytes = 0, start = 0, first = 0;
            int32_t *device_ends = mem_in(sizeof ends);
            memcpy(device_ends, ends, sizeof ends);
            nvfp4_groups groups = {.grouping = NVFP4_GROUPING_ENDS, .count = 4, .ends = device_ends};
            nvfp4_scales_size_args sizes = {.struct_size = sizeof sizes, .scale_layout = layout, .rows = ROWS, .cols = BLOCKS * 16, .groups = groups};
            OK(nvfp4_scales_size(&sizes, &bytes));
            CHECK(bytes == round_up(ROWS + (tile - 1) * 4, tile) * COLUMNS); /* enough for any split */
            unsigned char *linear = mem_in(ROWS * BLOCKS), *tiled = mem_out(bytes), *back = mem_out(ROWS * BLOCKS), *want = malloc(bytes);
            memset(want, 0xA5, bytes);
            for (size_t i = 0; i < ROWS * BLOCKS; i++) linear[i] = (unsigned char)(i * 7 + 1);
            for (int g = 0; g < 4; g++) {
                size_t rows = (size_t)ends[g] - first;
                memset(want + start * COLUMNS, 0, round_up(rows, tile) * COLUMNS);
                for (size_t r = 0; r < rows; r++)
                    for (size_t c = 0; c < BLOCKS; c++)
                        want[start * COLUMNS + scale_offset(layout, r, c, BLOCKS)] = linear[(first + r) * BLOCKS + c];
                start += round_up(rows, tile), first = (size_t)ends[g];
            }
            nvfp4_tile_scales_args args = {.struct_size = sizeof args, .linear = linear, .tiled = tiled, .scale_layout = layout, .rows = ROWS,
                                           .blocks = BLOCKS, .groups = groups};
            OK(nvfp4_tile_scales(context, &args, stream));
            CHECK(memcmp(tiled, want, bytes) == 0);
            args.linear = back;
            OK(nvfp4_untile_scales(context, &args, stream));
            CHECK(memcmp(back, linear, 136 * BLOCKS) == 0 && all_bytes(back + 136 * BLOCKS, 4 * BLOCKS, 0xA5)); /* rows of no group */
            CHECK(mem_guards_ok());
            free(want);
            mem_free();
        }
}

static void interleaving(void) {
    static const struct {
        size_t count, half, row_bytes, granularity;
    } rows[] = {{1, 32, 24, 0}, {3, 16, 7, 8}, {2, 5, 3, 1}, {1, 6, 1000, 3}, {1, 16, 33, 16}, {0, 8, 8, 0}};
    for (size_t i = 0; i < COUNT(rows); i++)
        CASE("interleave %zu x 2 x %zu rows of %zu bytes by %zu", rows[i].count, rows[i].half, rows[i].row_bytes, rows[i].granularity) {
            size_t half = rows[i].half, width = rows[i].row_bytes, bytes = rows[i].count * 2 * half * width;
            size_t step = rows[i].granularity ? rows[i].granularity : 8;
            unsigned char *src = mem_in(bytes), *dst = mem_out(bytes), *back = mem_out(bytes);
            for (size_t b = 0; b < bytes; b++) src[b] = (unsigned char)random_bits();
            nvfp4_interleave_gate_up_args args = {.struct_size = sizeof args, .src = src, .dst = dst, .count = (int64_t)rows[i].count,
                                                  .half_rows = (int64_t)half, .row_bytes = (int64_t)width, .granularity = (int64_t)rows[i].granularity};
            OK(nvfp4_interleave_gate_up(context, &args, stream));
            for (size_t m = 0; m < rows[i].count; m++)
                for (size_t r = 0; r < half; r++) {
                    size_t gate = r / step * 2 * step + r % step;
                    CHECK(memcmp(dst + (m * 2 * half + gate) * width, src + (m * 2 * half + r) * width, width) == 0);
                    CHECK(memcmp(dst + (m * 2 * half + gate + step) * width, src + (m * 2 * half + half + r) * width, width) == 0);
                }
            args.src = dst, args.dst = back;
            OK(nvfp4_deinterleave_gate_up(context, &args, stream));
            CHECK(memcmp(back, src, bytes) == 0 && mem_guards_ok());
            mem_free();
        }
}

static void sizes(void) {
    CASE("scales_size: groups and strides") {
        size_t bytes = 0;
        nvfp4_scales_size_args args = {.struct_size = sizeof args, .rows = 10, .cols = 48, .scales_row_stride = 5};
        OK(nvfp4_scales_size(&args, &bytes));
        CHECK(bytes == 9 * 5 + 3 || bytes == 50);
        args = (nvfp4_scales_size_args){.struct_size = sizeof args, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4, .rows = 3 * 130, .cols = 80,
                                        .groups = {.grouping = NVFP4_GROUPING_MASKED, .count = 3, .max_tokens = 130}};
        OK(nvfp4_scales_size(&args, &bytes)); /* the arrays may be NULL */
        CHECK(bytes == 3 * 256 * 8);
        args.groups.grouping = NVFP4_GROUPING_STRIDED;
        args.scale_layout = NVFP4_SCALE_LAYOUT_TILED_8X4;
        OK(nvfp4_scales_size(&args, &bytes));
        CHECK(bytes == 3 * 136 * 8);
        args = (nvfp4_scales_size_args){.struct_size = sizeof args, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4, .rows = 2, .cols = 64,
                                        .groups = {.grouping = NVFP4_GROUPING_ENDS, .count = 100}};
        OK(nvfp4_scales_size(&args, &bytes)); /* at most one group a row */
        CHECK(bytes == 256 * 4);
        args.rows = 0;
        OK(nvfp4_scales_size(&args, &bytes));
        CHECK(bytes == 0);
    }
}

static void group_ends(void) {
    static const struct {
        const char *name;
        int32_t counts[4], ends[4];
        int64_t bad;
    } rows[] = {
        {"plain", {3, 0, 5, 1}, {3, 3, 8, 9}, -1},
        {"negative counts are 0", {3, -2, 5, INT32_MIN}, {3, 3, 8, 8}, 1},
        {"sums stay at 2^31 - 1", {INT32_MAX, 1, 0, 7}, {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}, 1},
        {"just fits", {INT32_MAX - 1, 1, 0, 0}, {INT32_MAX - 1, INT32_MAX, INT32_MAX, INT32_MAX}, -1},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int in_place = 0; in_place < 2; in_place++)
            CASE("group_ends: %s%s", rows[i].name, in_place ? ", in place" : "") {
                nvfp4_faults faults = {.struct_size = sizeof faults};
                int32_t *counts = mem_in(16), *ends = in_place ? counts : mem_out(16);
                memcpy(counts, rows[i].counts, 16);
                nvfp4_group_ends_args args = {.struct_size = sizeof args, .counts = counts, .ends = ends, .count = 4};
                OK(nvfp4_context_clear_faults(context));
                OK(nvfp4_group_ends(context, &args, stream));
                CHECK(memcmp(ends, rows[i].ends, 16) == 0 && mem_guards_ok());
                OK(nvfp4_context_faults(context, &faults));
                CHECK(faults.bad_group == rows[i].bad && faults.flags == (rows[i].bad < 0 ? 0u : (uint32_t)NVFP4_FAULT_BAD_GROUP));
                args.count = 0, args.counts = NULL, args.ends = NULL;
                OK(nvfp4_group_ends(context, &args, stream));
                mem_free();
            }
    OK(nvfp4_context_clear_faults(context));
}

int main(void) {
    static const size_t rows[] = {0, 1, 7, 8, 31, 32, 127, 128, 129, 300}, blocks[] = {1, 3, 4, 5, 17};
    open_context(&context, &stream, 2);
    for (nvfp4_scale_layout layout = NVFP4_SCALE_LAYOUT_TILED_128X4; layout <= NVFP4_SCALE_LAYOUT_TILED_8X4; layout++)
        for (size_t r = 0; r < COUNT(rows); r++)
            CASE("tile and untile %zu rows, layout %u", rows[r], layout)
                for (size_t b = 0; b < COUNT(blocks); b++) tiling(rows[r], blocks[b], layout, false), tiling(rows[r], blocks[b], layout, true);
    grouped_tiling();
    interleaving();
    sizes();
    group_ends();
    close_context(context, stream);
    return finish();
}
