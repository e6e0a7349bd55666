/* nvfp4_quantize, nvfp4_amax_scale and nvfp4_dequantize against the plain reference, bit for bit: every dtype, layout,
 * scope and grouping, sizes around 16, 64 and 128, strides, padding, and what must not be written. */
#include "reference.h"

static nvfp4_context *context;
static nvfp4_stream *stream;

typedef struct {
    const char *name;
    size_t rows, cols;
    nvfp4_grouping grouping;
    uint32_t count;
    int32_t split[4]; /* ends, or counts */
    int64_t max_tokens;
} shape;

static const shape shapes[] = {
    {"no rows", 0, 64, 0, 0, {0}, 0},
    {"1 x 16", 1, 16, 0, 0, {0}, 0},
    {"15 x 48", 15, 48, 0, 0, {0}, 0},
    {"17 x 64", 17, 64, 0, 0, {0}, 0},
    {"129 x 272", 129, 272, 0, 0, {0}, 0},
    {"128 x 80", 128, 80, 0, 0, {0}, 0},
    {"ends", 140, 96, NVFP4_GROUPING_ENDS, 4, {5, 5, 135, 136}, 0},
    {"ends, no groups", 3, 32, NVFP4_GROUPING_ENDS, 0, {0}, 0},
    {"ends, no rows", 0, 32, NVFP4_GROUPING_ENDS, 2, {0, 0}, 0},
    {"masked", 3 * 9, 48, NVFP4_GROUPING_MASKED, 3, {9, 0, 4}, 9},
    {"strided", 2 * 7, 112, NVFP4_GROUPING_STRIDED, 2, {0}, 7},
};

/* The group of a row (-1: none), the first row of a group, and its first row in a tiled layout. */
static int group_of(const shape *s, size_t row) {
    if (s->grouping == NVFP4_GROUPING_NONE) return 0;
    if (s->grouping == NVFP4_GROUPING_STRIDED) return (int)(row / (size_t)s->max_tokens);
    if (s->grouping == NVFP4_GROUPING_MASKED) {
        int g = (int)(row / (size_t)s->max_tokens);
        return row % (size_t)s->max_tokens < (size_t)s->split[g] ? g : -1;
    }
    for (uint32_t g = 0; g < s->count; g++)
        if (row < (size_t)s->split[g]) return (int)g;
    return -1;
}
static size_t first_row(const shape *s, int g) {
    if (s->grouping == NVFP4_GROUPING_ENDS) return g ? (size_t)s->split[g - 1] : 0;
    return s->grouping == NVFP4_GROUPING_NONE ? 0 : (size_t)g * (size_t)s->max_tokens;
}
static size_t first_scale_row(const shape *s, int g, size_t tile) {
    size_t start = 0;
    if (s->grouping == NVFP4_GROUPING_NONE) return 0;
    if (s->grouping != NVFP4_GROUPING_ENDS) return (size_t)g * round_up((size_t)s->max_tokens, tile);
    for (int e = 0; e < g; e++) start += round_up((size_t)s->split[e] - first_row(s, e), tile);
    return start;
}
static size_t groups_of(const shape *s) { return s->grouping == NVFP4_GROUPING_NONE ? 1 : s->count; }
static size_t scope_count(const shape *s, nvfp4_scope scope) {
    return scope == NVFP4_SCOPE_TENSOR ? 1 : scope == NVFP4_SCOPE_GROUP ? groups_of(s) : s->rows;
}
static size_t scope_index(nvfp4_scope scope, int group, size_t row) {
    return scope == NVFP4_SCOPE_TENSOR ? 0 : scope == NVFP4_SCOPE_GROUP ? (size_t)group : row;
}

static void one(const shape *s, nvfp4_dtype dtype, nvfp4_scale_layout layout, nvfp4_scope scope, bool fixed, bool padded) {
    size_t rows = s->rows, cols = s->cols, blocks = cols / 16, entries = scope_count(s, scope), bytes = 0, tile = tile_rows(layout);
    size_t src_stride = cols + (padded ? 5 : 0), codes_stride = cols / 2 + (padded ? 3 : 0);
    size_t scales_stride = blocks + (padded && layout == NVFP4_SCALE_LAYOUT_LINEAR ? 1 : 0);
    nvfp4_scales_size_args sizes = {.struct_size = sizeof sizes, .scale_layout = layout, .rows = (int64_t)rows, .cols = (int64_t)cols,
                                    .scales_row_stride = scales_stride == blocks ? 0 : (int64_t)scales_stride,
                                    .groups = {.grouping = s->grouping, .count = s->count, .max_tokens = s->max_tokens}};
    MUST(nvfp4_scales_size(&sizes, &bytes) == NVFP4_STATUS_SUCCESS);
    unsigned char *src = mem_in(rows * src_stride * 4), *codes = mem_out(rows * codes_stride), *scales = mem_out(bytes);
    unsigned char *want_codes = malloc(rows * codes_stride + 1), *want_scales = malloc(bytes + 1);
    float *decode = mem_out(entries * 4), *given = mem_in(entries * 4), *found = mem_out(entries * 4), *amax = calloc(entries + 1, 4);
    unsigned char *values = mem_out(rows * cols * 4);
    int32_t *split = mem_in(sizeof s->split);
    memcpy(split, s->split, sizeof s->split);
    fill_normal(src, dtype, rows * src_stride, 3.0f);
    if (rows > 2 && cols >= 48) { /* a block of zeros, one of tiny values, a NaN and infinities in one block each */
        for (size_t k = 0; k < 16; k++) store(src, dtype, src_stride + k, k % 2 ? -0.0f : 0.0f), store(src, dtype, src_stride + 16 + k, 1e-7f);
        store(src, dtype, 2 * src_stride + 3, NAN), store(src, dtype, 2 * src_stride + 17, INFINITY), store(src, dtype, 2 * src_stride + 40, -INFINITY);
    }

    /* The reference. Everything that it does not write stays poison. */
    memset(want_codes, 0xA5, rows * codes_stride + 1), memset(want_scales, 0xA5, bytes + 1);
    float *want_decode = malloc(entries * 4 + 4), *encode = malloc(entries * 4 + 4);
    memset(want_decode, 0xA5, entries * 4 + 4);
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; group_of(s, r) >= 0 && k < cols; k++) {
            float x = fabsf(load(src, dtype, r * src_stride + k)), *m = &amax[scope_index(scope, group_of(s, r), r)];
            if (isfinite(x) && x > *m) *m = x;
        }
    for (size_t i = 0; i < entries; i++) {
        given[i] = 0.002f + 0.001f * (float)(i % 7);
        if (fixed) {
            encode[i] = encode_from_static(given[i]);
        } else {
            float g;
            encode[i] = encode_from_amax(amax[i], &g);
            if (scope != NVFP4_SCOPE_ROW || group_of(s, i) >= 0) want_decode[i] = g;
        }
    }
    if (layout != NVFP4_SCALE_LAYOUT_LINEAR)
        for (size_t g = 0; g < groups_of(s); g++) { /* the padding of a used group is zero */
            size_t used = 0, start = first_scale_row(s, (int)g, tile) * round_up(blocks, 4);
            for (size_t r = 0; r < rows; r++) used += group_of(s, r) == (int)g;
            memset(want_scales + start, 0, round_up(used, tile) * round_up(blocks, 4));
        }
    for (size_t r = 0; r < rows; r++) {
        int g = group_of(s, r);
        for (size_t b = 0; g >= 0 && b < blocks; b++) {
            float x[16];
            for (size_t k = 0; k < 16; k++) x[k] = load(src, dtype, r * src_stride + b * 16 + k);
            unsigned sf = quantize_block(x, encode[scope_index(scope, g, r)], want_codes + r * codes_stride + b * 8);
            size_t at = layout == NVFP4_SCALE_LAYOUT_LINEAR ? r * scales_stride + b
                      : first_scale_row(s, g, tile) * round_up(blocks, 4) + scale_offset(layout, r - first_row(s, g), b, blocks);
            want_scales[at] = (unsigned char)sf;
        }
    }

    nvfp4_groups groups = {.grouping = s->grouping, .count = s->count, .max_tokens = s->max_tokens,
                           .ends = s->grouping == NVFP4_GROUPING_ENDS ? split : NULL, .counts = s->grouping == NVFP4_GROUPING_MASKED ? split : NULL};
    int64_t group_stride = s->grouping == NVFP4_GROUPING_STRIDED ? s->max_tokens * (int64_t)src_stride : 0;
    nvfp4_quantize_args q = {
        .struct_size = sizeof q, .src = src, .src_dtype = dtype, .src_row_stride = padded ? (int64_t)src_stride : 0, .src_group_stride = group_stride,
        .rows = (int64_t)rows, .cols = (int64_t)cols, .groups = groups,
        .out = {.codes = codes, .codes_row_stride = padded ? (int64_t)codes_stride : 0, .scales = scales, .scales_row_stride = sizes.scales_row_stride,
                .scale_layout = layout, .scope = scope, .static_decode_scales = fixed ? given : NULL, .decode_scales = fixed ? NULL : decode}};
    nvfp4_quantize_args plan = q;
    size_t workspace = 77;
    OK(nvfp4_quantize_workspace_size(context, &plan, &workspace));
    if (workspace) q.workspace = mem_out(workspace), q.workspace_size = workspace;
    OK(nvfp4_quantize(context, &q, stream));
    CHECK(memcmp(codes, want_codes, rows * codes_stride) == 0);
    CHECK(memcmp(scales, want_scales, bytes) == 0);
    if (!fixed) CHECK(memcmp(decode, want_decode, entries * 4) == 0);

    if (!fixed) {
        nvfp4_amax_scale_args a = {.struct_size = sizeof a, .src = src, .src_dtype = dtype, .scope = scope, .src_row_stride = q.src_row_stride,
                                   .src_group_stride = group_stride, .rows = q.rows, .cols = q.cols, .groups = groups, .decode_scales = found};
        OK(nvfp4_amax_scale_workspace_size(context, &a, &workspace));
        if (workspace) a.workspace = mem_out(workspace), a.workspace_size = workspace;
        OK(nvfp4_amax_scale(context, &a, stream));
        CHECK(memcmp(found, want_decode, entries * 4) == 0);
    }
    const float *scale = fixed ? given : decode;
    nvfp4_dequantize_args d = {
        .struct_size = sizeof d, .rows = q.rows, .cols = q.cols, .groups = groups, .dst = values, .dst_dtype = dtype,
        .dst_group_stride = s->grouping == NVFP4_GROUPING_STRIDED ? s->max_tokens * (int64_t)cols : 0,
        .input = {.codes = codes, .codes_row_stride = q.out.codes_row_stride, .scales = scales, .scales_row_stride = sizes.scales_row_stride,
                  .scale_layout = layout, .scope = scope, .decode_scales = scale}};
    OK(nvfp4_dequantize(context, &d, stream));
    size_t wrong = 0;
    for (size_t r = 0; r < rows; r++) {
        int g = group_of(s, r);
        for (size_t k = 0; k < cols; k++) {
            unsigned char *got = values + (r * cols + k) * dtype_bytes(dtype), want[4];
            memset(want, 0xA5, 4);
            if (g >= 0) {
                size_t at = layout == NVFP4_SCALE_LAYOUT_LINEAR ? r * scales_stride + k / 16
                          : first_scale_row(s, g, tile) * round_up(blocks, 4) + scale_offset(layout, r - first_row(s, g), k / 16, blocks);
                store(want, dtype, 0, dequantize_one(want_codes + r * codes_stride, k, want_scales[at], scale[scope_index(scope, g, r)]));
            }
            wrong += memcmp(got, want, dtype_bytes(dtype)) != 0;
        }
    }
    CHECK_THAT(wrong == 0, "%zu of %zu values differ", wrong, rows * cols);
    CHECK(mem_guards_ok());
    free(want_codes), free(want_scales), free(want_decode), free(encode), free(amax);
    mem_free();
}

static void transposed(void) {
    for (nvfp4_dtype dtype = 0; dtype <= NVFP4_DTYPE_F32; dtype++)
        CASE("transposed, dtype %u", dtype) {
            enum { N = 37, K = 80 };
            unsigned char *src = mem_in(N * K * 4), *turned = mem_in(N * K * 4), *codes = mem_out(N * K / 2), *scales = mem_out(N * K / 16);
            unsigned char *codes2 = mem_out(N * K / 2), *scales2 = mem_out(N * K / 16);
            float *decode = mem_out(4), *decode2 = mem_out(4);
            fill_normal(src, dtype, N * K, 1.0f);
            for (size_t r = 0; r < N; r++)
                for (size_t k = 0; k < K; k++) memcpy(turned + (k * N + r) * dtype_bytes(dtype), src + (r * K + k) * dtype_bytes(dtype), dtype_bytes(dtype));
            nvfp4_quantize_args q = {.struct_size = sizeof q, .src = src, .src_dtype = dtype, .rows = N, .cols = K,
                                     .out = {.codes = codes, .scales = scales, .decode_scales = decode}};
            OK(nvfp4_quantize(context, &q, stream));
            q.src = turned, q.transposed = 1, q.out.codes = codes2, q.out.scales = scales2, q.out.decode_scales = decode2;
            OK(nvfp4_quantize(context, &q, stream));
            CHECK(memcmp(codes, codes2, N * K / 2) == 0 && memcmp(scales, scales2, N * K / 16) == 0 && *decode == *decode2);
            CHECK(mem_guards_ok());
            mem_free();
        }
}

int main(void) {
    open_context(&context, &stream, 2);
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (nvfp4_scale_layout layout = 0; layout <= NVFP4_SCALE_LAYOUT_TILED_8X4; layout++)
            for (nvfp4_scope scope = 0; scope <= NVFP4_SCOPE_ROW; scope++) {
                if (scope == NVFP4_SCOPE_GROUP && shapes[i].grouping == NVFP4_GROUPING_NONE) continue;
                CASE("quantize %s, layout %u, scope %u", shapes[i].name, layout, scope)
                    for (nvfp4_dtype dtype = 0; dtype <= NVFP4_DTYPE_F32; dtype++)
                        for (int fixed = 0; fixed < 2; fixed++)
                            for (int padded = 0; padded < 2; padded++) one(&shapes[i], dtype, layout, scope, fixed, padded);
            }
    transposed();
    close_context(context, stream);
    return finish();
}
