/* What only the device can see: bad offsets are clamped and named, bad scales and non-finite values set their bits; the
 * word is sticky until it is cleared, and nothing is written out of bounds meanwhile. */
#include "reference.h"

enum { ROWS = 10, COLS = 32 };
static nvfp4_context *context;
static nvfp4_stream *stream;
static uint16_t *src, *values;
static unsigned char *codes, *scales;
static float *decode, *fixed;
static int32_t *index_array;

static nvfp4_faults faults(void) {
    nvfp4_faults f = {.struct_size = sizeof f};
    MUST(nvfp4_context_faults(context, &f) == NVFP4_STATUS_SUCCESS);
    return f;
}

static nvfp4_status quantize(nvfp4_groups groups, nvfp4_scope scope, nvfp4_scale_layout layout, bool is_static) {
    nvfp4_quantize_args q = {.struct_size = sizeof q, .src = src, .rows = ROWS, .cols = COLS, .groups = groups,
                             .out = {.codes = codes, .scales = scales, .scale_layout = layout, .scope = scope,
                                     .static_decode_scales = is_static ? fixed : NULL, .decode_scales = is_static ? NULL : decode}};
    return nvfp4_quantize(context, &q, stream);
}

static void bad_splits(void) {
    static const struct {
        const char *name;
        nvfp4_grouping grouping;
        int32_t given[3];
        int64_t bad;
        int32_t first[3], end[3]; /* rows of each group as they are used */
    } rows[] = {
        {"ends in order", NVFP4_GROUPING_ENDS, {2, 5, 10}, -1, {0, 2, 5}, {2, 5, 10}},
        {"ends short of the rows", NVFP4_GROUPING_ENDS, {2, 5, 6}, -1, {0, 2, 5}, {2, 5, 6}},
        {"ends descending", NVFP4_GROUPING_ENDS, {4, 2, 9}, 1, {0, 4, 4}, {4, 4, 9}},
        {"ends past the rows", NVFP4_GROUPING_ENDS, {3, 12, 40}, 1, {0, 3, 10}, {3, 10, 10}},
        {"ends negative", NVFP4_GROUPING_ENDS, {-1, 5, 10}, 0, {0, 0, 5}, {0, 5, 10}},
        {"ends extreme", NVFP4_GROUPING_ENDS, {INT32_MIN, INT32_MAX, INT32_MIN}, 0, {0, 0, 10}, {0, 10, 10}},
        {"counts too large", NVFP4_GROUPING_MASKED, {5, 6, 0}, 1, {0, 5, 0}, {5, 10, 0}},
        {"counts negative", NVFP4_GROUPING_MASKED, {-3, 2, 0}, 0, {0, 5, 0}, {0, 7, 0}},
        {"counts extreme", NVFP4_GROUPING_MASKED, {INT32_MAX, INT32_MIN, 0}, 0, {0, 5, 0}, {5, 5, 0}},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        for (nvfp4_scale_layout layout = 0; layout <= NVFP4_SCALE_LAYOUT_TILED_8X4; layout++)
            CASE("%s, layout %u", rows[i].name, layout) {
                bool ends = rows[i].grouping == NVFP4_GROUPING_ENDS, used[ROWS] = {false};
                nvfp4_groups groups = {.grouping = rows[i].grouping, .count = ends ? 3 : 2, .max_tokens = ends ? 0 : 5,
                                       .ends = ends ? index_array : NULL, .counts = ends ? NULL : index_array};
                memcpy(index_array, rows[i].given, 12);
                for (uint32_t g = 0; g < groups.count; g++)
                    for (int32_t r = rows[i].first[g]; r < rows[i].end[g]; r++) used[r] = true;
                OK(nvfp4_context_clear_faults(context));
                for (int round = 0; round < 2; round++) {
                    unsigned char poison = round ? 0x5A : 0xA5;
                    mem_poison(poison);
                    OK(quantize(groups, NVFP4_SCOPE_ROW, layout, false));
                    CHECK(mem_guards_ok());
                    for (int r = 0; r < ROWS; r++) {
                        CHECK(all_bytes(codes + r * COLS / 2, COLS / 2, poison) == !used[r]);
                        CHECK(all_bytes(decode + r, 4, poison) == !used[r]);
                    }
                    nvfp4_dequantize_args d = {.struct_size = sizeof d, .rows = ROWS, .cols = COLS, .groups = groups, .dst = values,
                                               .input = {.codes = codes, .scales = scales, .scale_layout = layout, .scope = NVFP4_SCOPE_ROW, .decode_scales = decode}};
                    OK(nvfp4_dequantize(context, &d, stream));
                    CHECK(mem_guards_ok());
                    for (int r = 0; r < ROWS; r++) CHECK(all_bytes(values + r * COLS, COLS * 2, poison) == !used[r]);
                }
                CHECK(faults().bad_group == rows[i].bad);
                CHECK(faults().flags == (rows[i].bad < 0 ? 0u : (uint32_t)NVFP4_FAULT_BAD_GROUP));
            }
}

static void bits(void) {
    nvfp4_groups none = {.grouping = NVFP4_GROUPING_NONE}, ends = {.grouping = NVFP4_GROUPING_ENDS, .count = 2, .ends = index_array};
    CASE("bad static decode scales") {
        static const float bad[] = {0.0f, -0.0f, -1.0f, INFINITY, -INFINITY, NAN};
        for (size_t i = 0; i < COUNT(bad); i++) {
            OK(nvfp4_context_clear_faults(context));
            fixed[0] = bad[i];
            OK(quantize(none, NVFP4_SCOPE_TENSOR, 0, true));
            CHECK(faults().flags == NVFP4_FAULT_BAD_DECODE_SCALE && faults().bad_group == -1);
            CHECK(all_bytes(scales, ROWS * COLS / 16, 0x7F) && all_bytes(codes, ROWS * COLS / 2, 0));
        }
    }
    CASE("a bad decode scale spoils its own scope only") {
        OK(nvfp4_context_clear_faults(context));
        index_array[0] = 4, index_array[1] = ROWS;
        fixed[0] = 0.01f, fixed[1] = NAN;
        OK(quantize(ends, NVFP4_SCOPE_GROUP, 0, true));
        CHECK(faults().flags == NVFP4_FAULT_BAD_DECODE_SCALE);
        for (int i = 0; i < ROWS * COLS / 16; i++) CHECK((scales[i] == 0x7F) == (i >= 4 * COLS / 16));
    }
    CASE("saturation") {
        OK(nvfp4_context_clear_faults(context));
        fixed[0] = 1e-6f;
        OK(quantize(none, NVFP4_SCOPE_TENSOR, 0, true));
        CHECK(faults().flags == NVFP4_FAULT_SATURATED);
        CHECK(all_bytes(scales, ROWS * COLS / 16, 0x7E)); /* 448, the largest */
    }
    CASE("non-finite values spoil their block only; the word is sticky and adds up") {
        uint16_t kept = src[2 * COLS + 20];
        src[2 * COLS + 20] = 0x7F80; /* infinity */
        OK(nvfp4_context_clear_faults(context));
        OK(quantize(none, NVFP4_SCOPE_TENSOR, 0, false));
        CHECK(faults().flags == NVFP4_FAULT_NON_FINITE);
        for (int i = 0; i < ROWS * COLS / 16; i++) CHECK((scales[i] == 0x7F) == (i == 2 * COLS / 16 + 1));
        src[2 * COLS + 20] = kept;
        OK(quantize(none, NVFP4_SCOPE_TENSOR, 0, false)); /* clean work does not clear it */
        CHECK(faults().flags == NVFP4_FAULT_NON_FINITE);
        index_array[0] = 7, index_array[1] = 3;
        OK(quantize(ends, NVFP4_SCOPE_GROUP, 0, false));
        CHECK(faults().flags == (NVFP4_FAULT_NON_FINITE | NVFP4_FAULT_BAD_GROUP) && faults().bad_group == 1);
        index_array[0] = -7;
        OK(quantize(ends, NVFP4_SCOPE_GROUP, 0, false));
        CHECK(faults().bad_group == 1); /* the first since the clear stays */
        OK(nvfp4_context_clear_faults(context));
        CHECK(faults().flags == 0 && faults().bad_group == -1);
    }
    CASE("faults of a graph appear at its launch") {
        nvfp4_graph *graph = NULL;
        index_array[0] = 9, index_array[1] = 1;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(quantize(ends, NVFP4_SCOPE_GROUP, 0, false));
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_graph_instantiate(graph));
        CHECK(faults().flags == 0);
        OK(nvfp4_graph_launch(graph, stream));
        CHECK(faults().flags == NVFP4_FAULT_BAD_GROUP && faults().bad_group == 1);
        OK(nvfp4_graph_destroy(graph));
        OK(nvfp4_context_clear_faults(context));
    }
    CASE("other operations set the same bits") {
        nvfp4_tile_scales_args tile = {.struct_size = sizeof tile, .linear = scales, .tiled = mem_out(4096), .scale_layout = NVFP4_SCALE_LAYOUT_TILED_8X4,
                                       .rows = ROWS, .blocks = COLS / 16, .groups = ends};
        nvfp4_amax_scale_args amax = {.struct_size = sizeof amax, .src = src, .scope = NVFP4_SCOPE_GROUP, .rows = ROWS, .cols = COLS, .groups = ends, .decode_scales = decode};
        nvfp4_swiglu_quantize_args gated = {.struct_size = sizeof gated, .src = src, .rows = ROWS, .width = COLS / 2, .activation = NVFP4_ACTIVATION_SWIGLU,
                                            .groups = ends, .out = {.codes = codes, .scales = scales, .decode_scales = decode}};
        index_array[0] = 11, index_array[1] = 11;
        OK(nvfp4_tile_scales(context, &tile, stream));
        CHECK(faults().flags == NVFP4_FAULT_BAD_GROUP && faults().bad_group == 0);
        OK(nvfp4_context_clear_faults(context));
        OK(nvfp4_untile_scales(context, &tile, stream));
        CHECK(faults().flags == NVFP4_FAULT_BAD_GROUP);
        OK(nvfp4_context_clear_faults(context));
        OK(nvfp4_amax_scale(context, &amax, stream));
        CHECK(faults().flags == NVFP4_FAULT_BAD_GROUP);
        OK(nvfp4_context_clear_faults(context));
        OK(nvfp4_swiglu_quantize(context, &gated, stream));
        CHECK(faults().flags == NVFP4_FAULT_BAD_GROUP);
        OK(nvfp4_context_clear_faults(context));
        CHECK(mem_guards_ok());
    }
}

int main(void) {
    open_context(&context, &stream, 2);
    src = mem_in(ROWS * COLS * 2);
    fill_normal(src, NVFP4_DTYPE_BF16, ROWS * COLS, 1.0f);
    values = mem_out(ROWS * COLS * 2);
    codes = mem_out(ROWS * COLS / 2);
    scales = mem_out(4096);
    decode = mem_out(ROWS * 4);
    fixed = mem_in(ROWS * 4);
    index_array = mem_in(16);
    bad_splits();
    bits();
    close_context(context, stream);
    return finish();
}
