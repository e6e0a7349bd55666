/* Prepared weights: what goes in comes out, byte for byte, in every layout; values give the bytes of nvfp4_quantize. */
#include "reference.h"

static nvfp4_context *context;
static nvfp4_stream *stream;

typedef struct {
    size_t groups, rows, cols;
    uint32_t gate_up;
} shape;
static const shape no_matrices = {0, (size_t)1 << 40, (size_t)1 << 20, 0}; /* one would not fit in any memory */
static const shape shapes[] = {{1, 1, 16, 0}, {2, 17, 48, 0}, {3, 130, 272, 0}, {1, 32, 64, 1}, {2, 34, 80, 1}, {2, 128, 128, 1}, {0, 8, 16, 0}};

static size_t layout_bytes(const shape *s, nvfp4_scale_layout layout) { return s->groups * scales_bytes(layout, s->rows, s->cols / 16); }

static nvfp4_weights *prepare(nvfp4_weights_prepare_args *args) {
    nvfp4_weights *weights = NULL;
    MUST(nvfp4_weights_storage_size(context, args, &args->storage_size) == NVFP4_STATUS_SUCCESS);
    args->storage = args->storage_size ? mem_out(args->storage_size) : NULL;
    OK(nvfp4_weights_prepare(context, args, stream, &weights));
    CHECK(mem_guards_ok());
    return weights;
}

static void check_export(const shape *s, nvfp4_weights *weights, const unsigned char *codes, const unsigned char *linear, const float *decode) {
    size_t blocks = s->cols / 16;
    for (nvfp4_scale_layout layout = 0; layout <= NVFP4_SCALE_LAYOUT_TILED_8X4; layout++) {
        size_t bytes = layout_bytes(s, layout), one = scales_bytes(layout, s->rows, blocks);
        unsigned char *got_codes = mem_out(s->groups * s->rows * s->cols / 2), *got = mem_out(bytes), *want = calloc(bytes + 1, 1);
        float *got_decode = mem_out(s->groups * 4);
        for (size_t g = 0; g < s->groups; g++)
            for (size_t r = 0; r < s->rows; r++)
                for (size_t c = 0; c < blocks; c++)
                    want[g * one + scale_offset(layout, r, c, blocks)] = linear[(g * s->rows + r) * blocks + c];
        nvfp4_weights_export_args args = {.struct_size = sizeof args, .weights = weights, .codes = got_codes, .scales = got, .decode_scales = got_decode, .scale_layout = layout};
        OK(nvfp4_weights_export(context, &args, stream));
        CHECK(memcmp(got_codes, codes, s->groups * s->rows * s->cols / 2) == 0);
        CHECK(memcmp(got, want, bytes) == 0);
        CHECK(memcmp(got_decode, decode, s->groups * 4) == 0);
        CHECK(mem_guards_ok());
        free(want);
    }
}

static void check_info(const shape *s, nvfp4_weights *weights, size_t storage) {
    nvfp4_weights_shape info = {.struct_size = sizeof info};
    OK(nvfp4_weights_info(weights, &info));
    CHECK(info.groups == (int64_t)s->groups && info.rows == (int64_t)s->rows && info.cols == (int64_t)s->cols);
    CHECK(info.gate_up == s->gate_up && info.reserved == 0 && info.storage_size == storage);
    info.struct_size = 16;
    BAD_ARGUMENT(nvfp4_weights_info(weights, &info), "struct_size = 16");
    BAD_ARGUMENT(nvfp4_weights_info(weights, NULL), "shape is NULL");
}

static void from_codes(const shape *s) {
    size_t blocks = s->cols / 16, rows = s->groups * s->rows;
    unsigned char *codes = mem_in(rows * s->cols / 2), *canonical = mem_in(rows * s->cols / 2), *linear = mem_in(rows * blocks);
    float *decode = mem_in(s->groups * 4);
    for (size_t i = 0; i < rows * s->cols / 2; i++) codes[i] = (unsigned char)random_bits();
    for (size_t i = 0; i < rows * blocks; i++) linear[i] = (unsigned char)(random_bits() % 8 == 0 ? 0 : random_bits() % 127);
    for (size_t g = 0; g < s->groups; g++) decode[g] = 0.001f * (float)(g + 1);
    memcpy(canonical, codes, rows * s->cols / 2);
    for (size_t i = 0; i < rows * blocks; i++)
        if (linear[i] == 0) memset(canonical + i * 8, 0, 8); /* codes under a zero scale are taken as 0 */
    for (nvfp4_scale_layout layout = 0; layout <= NVFP4_SCALE_LAYOUT_TILED_8X4; layout++) {
        size_t one = scales_bytes(layout, s->rows, blocks);
        unsigned char *given = mem_in(layout_bytes(s, layout));
        memset(given, 0xFF, layout_bytes(s, layout)); /* padding of an input may hold anything */
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < blocks; c++) given[r / s->rows * one + scale_offset(layout, r % s->rows, c, blocks)] = linear[r * blocks + c];
        nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = (int64_t)s->groups, .rows = (int64_t)s->rows, .cols = (int64_t)s->cols, .gate_up = s->gate_up,
                                           .codes = codes, .scales = given, .scale_layout = layout, .decode_scales = decode};
        nvfp4_weights *weights = prepare(&args);
        if (!weights) return;
        check_info(s, weights, args.storage_size);
        check_export(s, weights, canonical, linear, decode);
        OK(nvfp4_weights_destroy(weights));
    }
}

/* Decode scales that are not one a matrix. One for all and rows that agree keep every byte; where the rows of a matrix
 * differ, its values are those of nvfp4_dequantize by rows, and its bytes those of nvfp4_quantize. */
static void from_scoped_codes(const shape *s, bool per_row, unsigned differing, nvfp4_scale_rule rule, nvfp4_scale_layout layout) {
    size_t blocks = s->cols / 16, rows = s->groups * s->rows, half = s->rows * s->cols / 2, one = scales_bytes(layout, s->rows, blocks);
    unsigned char *codes = mem_in(rows * s->cols / 2), *linear = mem_in(rows * blocks), *given = mem_in(layout_bytes(s, layout));
    unsigned char *want_codes = mem_out(rows * s->cols / 2), *want = mem_out(rows * blocks);
    float *decode = mem_in(rows * 4), *values = mem_out(rows * s->cols * 4), *want_decode = mem_out((s->groups + 1) * 4);
    for (size_t i = 0; i < rows * blocks; i++) linear[i] = (unsigned char)(random_bits() % 9 == 0 ? 0 : random_bits() % 97 == 0 ? 0x7F : random_bits() % 127);
    for (size_t i = 0; i < rows * s->cols / 2; i++) codes[i] = linear[i / 8] ? (unsigned char)random_bits() : 0;
    for (size_t r = 0; r < rows; r++) {
        size_t g = r / s->rows;
        decode[r] = per_row ? 0.001f * (float)(g + 1) : 0.75f;
        if (differing >> g & 1) decode[r] *= 1.0f + 0.125f * (float)(random_bits() % 8);
        for (size_t c = 0; c < blocks; c++) given[g * one + scale_offset(layout, r % s->rows, c, blocks)] = linear[r * blocks + c];
    }
    for (size_t g = 0; g < s->groups; g++)
        if (differing >> g & 1) decode[g * s->rows + s->rows - 1] = 0.5f * decode[g * s->rows]; /* at the least this one differs */
    nvfp4_groups split = {.grouping = NVFP4_GROUPING_STRIDED, .count = (uint32_t)s->groups, .max_tokens = (int64_t)s->rows};
    nvfp4_dequantize_args d = {.struct_size = sizeof d, .rows = (int64_t)rows, .cols = (int64_t)s->cols, .dst = values, .dst_dtype = NVFP4_DTYPE_F32,
                               .input = {.codes = codes, .scales = linear, .scope = NVFP4_SCOPE_ROW, .decode_scales = decode}};
    OK(nvfp4_dequantize(context, &d, stream));
    nvfp4_quantize_args q = {.struct_size = sizeof q, .src = values, .src_dtype = NVFP4_DTYPE_F32, .rows = (int64_t)rows, .cols = (int64_t)s->cols,
                             .src_group_stride = (int64_t)(s->rows * s->cols), .groups = split,
                             .out = {.codes = want_codes, .scales = want, .scale_rule = rule, .scope = NVFP4_SCOPE_GROUP, .decode_scales = want_decode}};
    OK(nvfp4_quantize(context, &q, stream));
    for (size_t g = 0; g < s->groups; g++) {
        if (differing >> g & 1) continue;
        memcpy(want_codes + g * half, codes + g * half, half);
        memcpy(want + g * s->rows * blocks, linear + g * s->rows * blocks, s->rows * blocks);
        want_decode[g] = decode[g * s->rows];
    }
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = (int64_t)s->groups, .rows = (int64_t)s->rows, .cols = (int64_t)s->cols, .gate_up = s->gate_up,
                                       .codes = codes, .scales = given, .scale_layout = layout, .decode_scales = decode,
                                       .decode_scope = per_row ? NVFP4_WEIGHTS_SCOPE_ROW : NVFP4_WEIGHTS_SCOPE_TENSOR, .requantize = differing != 0, .scale_rule = rule};
    if (!differing) args.scale_rule = 0;
    nvfp4_weights *weights = prepare(&args);
    if (!weights) return;
    check_export(s, weights, want_codes, want, want_decode);
    OK(nvfp4_weights_destroy(weights));
}

/* What is refused names the row, and leaves the storage as it was. */
static void refused_rows(void) {
    enum { G = 2, N = 40, K = 32 };
    unsigned char *codes = mem_in(G * N * K / 2), *scales = mem_in(G * N * K / 16);
    float *decode = mem_in(G * N * 4);
    memset(codes, 0x22, G * N * K / 2), memset(scales, 0x38, G * N * K / 16);
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = G, .rows = N, .cols = K, .codes = codes, .scales = scales, .decode_scales = decode,
                                       .decode_scope = NVFP4_WEIGHTS_SCOPE_ROW};
    OK(nvfp4_weights_storage_size(context, &args, &args.storage_size));
    args.storage = mem_out(args.storage_size);
    static const struct {
        float value;
        uint32_t requantize;
        const char *words;
    } cases[] = {{0.5f, 0, "decode_scales = 0.5 (group 1, row 7) does not fit; expected the 2 of the group's row 0"},
                 {-1.0f, 1, "decode_scales = -1 (group 1, row 7)"}, {0.0f, 1, "decode_scales = 0 (group 1, row 7)"}, {INFINITY, 0, "(group 1, row 7)"}, {NAN, 1, "(group 1, row 7)"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        nvfp4_weights *weights = NULL;
        for (size_t r = 0; r < G * N; r++) decode[r] = r < N ? 1.0f : 2.0f;
        decode[N + 7] = cases[i].value;
        args.requantize = cases[i].requantize;
        BAD_ARGUMENT(nvfp4_weights_prepare(context, &args, stream, &weights), cases[i].words);
        CHECK(weights == NULL && all_bytes(args.storage, args.storage_size, 0xA5) && mem_guards_ok());
    }
}

static void from_values(const shape *s, nvfp4_dtype dtype, nvfp4_scale_rule rule, bool transposed, bool fixed) {
    size_t rows = s->groups * s->rows, blocks = s->cols / 16, width = dtype_bytes(dtype);
    unsigned char *values = mem_in(rows * s->cols * width), *turned = mem_in(rows * s->cols * width), *codes = mem_out(rows * s->cols / 2), *linear = mem_out(rows * blocks);
    float *decode = mem_out(s->groups * 4), *given = mem_in(s->groups * 4);
    fill_normal(values, dtype, rows * s->cols, 0.05f);
    for (size_t g = 0; g < s->groups; g++) given[g] = 0.0001f * (float)(g + 1);
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < s->cols; k++)
            memcpy(turned + (r / s->rows * s->rows * s->cols + k * s->rows + r % s->rows) * width, values + (r * s->cols + k) * width, width);
    nvfp4_quantize_args q = {.struct_size = sizeof q, .src = values, .src_dtype = dtype, .rows = (int64_t)rows, .cols = (int64_t)s->cols, .src_group_stride = (int64_t)(s->rows * s->cols),
                             .groups = {.grouping = NVFP4_GROUPING_STRIDED, .count = (uint32_t)s->groups, .max_tokens = s->groups ? (int64_t)s->rows : 0},
                             .out = {.codes = codes, .scales = linear, .scale_rule = rule, .scope = NVFP4_SCOPE_GROUP, .static_decode_scales = fixed ? given : NULL,
                                     .decode_scales = fixed ? NULL : decode}};
    OK(nvfp4_quantize(context, &q, stream));
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = (int64_t)s->groups, .rows = (int64_t)s->rows, .cols = (int64_t)s->cols, .gate_up = s->gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = transposed ? turned : values, .src_dtype = dtype, .transposed = transposed, .scale_rule = rule,
                                       .decode_scales = fixed ? given : NULL};
    nvfp4_weights *weights = prepare(&args);
    if (!weights) return;
    memset(values, 0, rows * s->cols * width), memset(turned, 0, rows * s->cols * width); /* the source is not needed any more */
    check_export(s, weights, codes, linear, fixed ? given : decode);
    OK(nvfp4_weights_destroy(weights));
}

int main(void) {
    open_context(&context, &stream, 2);
    for (size_t i = 0; i < COUNT(shapes); i++) {
        const shape *s = &shapes[i];
        CASE("codes, %zu x %zu x %zu%s", s->groups, s->rows, s->cols, s->gate_up ? ", gate/up" : "") from_codes(s), mem_free();
        for (nvfp4_dtype dtype = 0; dtype <= NVFP4_DTYPE_F32; dtype++)
            CASE("values, %zu x %zu x %zu%s, dtype %u", s->groups, s->rows, s->cols, s->gate_up ? ", gate/up" : "", dtype)
                for (int variant = 0; variant < 6; variant++) from_values(s, dtype, (nvfp4_scale_rule)(variant % 3), variant % 2, variant >= 3), mem_free();
    }
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (unsigned variant = 0; variant < 10; variant++) {
            const shape *s = &shapes[i];
            unsigned differing = variant < 2 || s->rows == 1 ? 0 : variant & 7;
            CASE("codes by scope, %zu x %zu x %zu%s, variant %u", s->groups, s->rows, s->cols, s->gate_up ? ", gate/up" : "", variant)
                from_scoped_codes(s, variant > 0, differing, (nvfp4_scale_rule)(variant % 3), (nvfp4_scale_layout)(variant / 2 % 3)), mem_free();
        }
    CASE("rows that are refused") refused_rows(), mem_free();
    CASE("no matrices, however large") from_values(&no_matrices, NVFP4_DTYPE_BF16, NVFP4_SCALE_RULE_AMAX, 0, false), mem_free();
    CASE("export can be captured, and the graph keeps the weights") {
        const shape *s = &shapes[1];
        size_t rows = s->groups * s->rows;
        nvfp4_graph *graph = NULL;
        unsigned char *codes = mem_out(rows * s->cols / 2), *scales = mem_out(rows * s->cols / 16);
        float *decode = mem_out(s->groups * 4);
        nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = (int64_t)s->groups, .rows = (int64_t)s->rows, .cols = (int64_t)s->cols,
                                           .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = mem_in(rows * s->cols * 2)};
        nvfp4_weights *weights = prepare(&args);
        nvfp4_weights_export_args e = {.struct_size = sizeof e, .weights = weights, .codes = codes, .scales = scales, .decode_scales = decode};
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_weights_export(context, &e, stream));
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_weights_destroy(weights));
        CHECK(all_bytes(codes, rows * s->cols / 2, 0xA5));
        OK(nvfp4_graph_instantiate(graph));
        OK(nvfp4_graph_launch(graph, stream));
        CHECK(all_bytes(codes, rows * s->cols / 2, 0) && all_bytes(scales, rows * s->cols / 16, 0) && decode[0] == 1.0f && mem_guards_ok());
        OK(nvfp4_graph_destroy(graph));
        mem_free();
    }
    close_context(context, stream);
    return finish();
}
