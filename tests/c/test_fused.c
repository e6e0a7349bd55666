/* The fused producers give the bits of their parts: the part that makes rows is written out here, its quantization is
 * nvfp4_quantize itself (held to the reference by test_quantize.c). Also the staging of MoE inputs. */
#include "reference.h"

static nvfp4_context *context;
static nvfp4_stream *stream;
static const size_t widths[] = {16, 64, 272, 1040};

typedef struct {
    unsigned char *codes, *scales;
    float *decode;
    size_t rows, cols;
} quantized;

static quantized room(size_t rows, size_t cols) {
    return (quantized){mem_out(rows * cols / 2), mem_out(rows * cols / 16), mem_out(rows * 4), rows, cols};
}
static nvfp4_quantized into(const quantized *q, nvfp4_scale_rule rule) {
    return (nvfp4_quantized){.codes = q->codes, .scales = q->scales, .scale_rule = rule, .scope = NVFP4_SCOPE_ROW, .decode_scales = q->decode};
}
static void same(const quantized *got, const void *rows, nvfp4_dtype dtype, nvfp4_scale_rule rule) {
    quantized want = room(got->rows, got->cols);
    nvfp4_quantize_args args = {.struct_size = sizeof args, .src = rows, .src_dtype = dtype, .rows = (int64_t)got->rows, .cols = (int64_t)got->cols, .out = into(&want, rule)};
    OK(nvfp4_quantize(context, &args, stream));
    CHECK(memcmp(got->codes, want.codes, got->rows * got->cols / 2) == 0);
    CHECK(memcmp(got->scales, want.scales, got->rows * got->cols / 16) == 0);
    CHECK(memcmp(got->decode, want.decode, got->rows * 4) == 0);
}

/* Sum of squares: blocks of 16 by fma, then adjacent pairs up a tree padded with zeros. */
static float square_sum(const float *x, size_t count) {
    static float level[4096];
    size_t width = 1;
    memset(level, 0, sizeof level);
    while (width < count / 16) width *= 2;
    for (size_t i = 0; i < count; i++) level[i / 16] = fmaf(x[i], x[i], level[i / 16]);
    for (; width > 1; width /= 2)
        for (size_t i = 0; i < width / 2; i++) {
            volatile float sum = level[2 * i] + level[2 * i + 1];
            level[i] = sum;
        }
    return level[0];
}

static void normalise(const float *x, size_t cols, const void *weight, nvfp4_dtype weight_dtype, float offset, float eps, nvfp4_dtype dtype,
                      void *y, size_t row, float *inv) {
    volatile float mean = square_sum(x, cols) / (float)cols, shifted = mean + eps, root = sqrtf(shifted), inverse = 1.0f / root;
    for (size_t k = 0; k < cols; k++) {
        volatile float w = load(weight, weight_dtype, k) + offset, scaled = x[k] * inverse, product = scaled * w;
        store(y, dtype, row * cols + k, product);
    }
    *inv = inverse;
}

static void rmsnorm(size_t cols, nvfp4_dtype dtype, bool with_residual, nvfp4_scale_rule rule) {
    enum { ROWS = 5 };
    float row[1040], inv, offset = rule ? 1.0f : 0.0f;
    nvfp4_dtype weight_dtype = with_residual ? NVFP4_DTYPE_F32 : NVFP4_DTYPE_BF16;
    unsigned char *src = mem_in(ROWS * cols * 4), *residual = mem_out(ROWS * cols * 4), *weight = mem_in(cols * 4), *normed = mem_out(ROWS * cols * 4);
    unsigned char *want = mem_in(ROWS * cols * 4), *want_residual = mem_in(ROWS * cols * 4);
    float *inv_rms = mem_out(ROWS * 4);
    fill_normal(src, dtype, ROWS * cols, 2.0f);
    fill_normal(weight, weight_dtype, cols, 0.3f);
    fill_normal(residual, dtype, ROWS * cols, 1.0f);
    memcpy(want_residual, residual, ROWS * cols * 4);
    quantized out = room(ROWS, cols);
    nvfp4_rmsnorm_quantize_args args = {
        .struct_size = sizeof args, .src = src, .src_dtype = dtype, .weight_dtype = weight_dtype, .rows = ROWS, .cols = (int64_t)cols,
        .residual = with_residual ? residual : NULL, .weight = weight, .weight_offset = offset, .eps = 1e-5f, .normed = normed, .inv_rms = inv_rms, .out = into(&out, rule)};
    size_t bytes = 77;
    OK(nvfp4_rmsnorm_quantize_workspace_size(context, &args, &bytes));
    if (bytes) args.workspace = mem_out(bytes), args.workspace_size = bytes;
    OK(nvfp4_rmsnorm_quantize(context, &args, stream));
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t k = 0; k < cols; k++) {
            row[k] = load(src, dtype, r * cols + k);
            if (with_residual) {
                volatile float sum = row[k] + load(want_residual, dtype, r * cols + k);
                store(want_residual, dtype, r * cols + k, sum);
                row[k] = load(want_residual, dtype, r * cols + k);
            }
        }
        normalise(row, cols, weight, weight_dtype, offset, args.eps, dtype, want, r, &inv);
        CHECK(memcmp(&inv, &inv_rms[r], 4) == 0);
    }
    CHECK(memcmp(normed, want, ROWS * cols * dtype_bytes(dtype)) == 0);
    CHECK(memcmp(residual, want_residual, ROWS * cols * dtype_bytes(dtype)) == 0);
    same(&out, normed, dtype, rule);
    CHECK(mem_guards_ok());
    mem_free();
}

static void hyper(size_t cols, nvfp4_dtype dtype, uint32_t streams) {
    enum { ROWS = 4 };
    float row[1040], inv;
    unsigned char *src = mem_in(ROWS * streams * cols * 4), *weight = mem_in(cols * 4), *mixed = mem_out(ROWS * cols * 4), *normed = mem_out(ROWS * cols * 4);
    unsigned char *want = mem_in(ROWS * cols * 4), *want_mixed = mem_in(ROWS * cols * 4);
    float *mix = mem_in(ROWS * streams * 4), *inv_rms = mem_out(ROWS * 4);
    fill_normal(src, dtype, ROWS * streams * cols, 1.0f);
    fill_normal(mix, NVFP4_DTYPE_F32, ROWS * streams, 1.0f);
    fill_normal(weight, dtype, cols, 1.0f);
    quantized out = room(ROWS, cols);
    nvfp4_hc_rmsnorm_quantize_args args = {
        .struct_size = sizeof args, .streams = src, .src_dtype = dtype, .weight_dtype = dtype, .stream_count = streams, .mix = mix, .rows = ROWS, .cols = (int64_t)cols,
        .mixed = mixed, .weight = weight, .eps = 1e-6f, .normed = normed, .inv_rms = inv_rms, .out = into(&out, NVFP4_SCALE_RULE_AMAX)};
    size_t bytes = 77;
    OK(nvfp4_hc_rmsnorm_quantize_workspace_size(context, &args, &bytes));
    if (bytes) args.workspace = mem_out(bytes), args.workspace_size = bytes;
    OK(nvfp4_hc_rmsnorm_quantize(context, &args, stream));
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t k = 0; k < cols; k++) {
            volatile float acc = mix[r * streams] * load(src, dtype, r * streams * cols + k);
            for (uint32_t l = 1; l < streams; l++) acc = fmaf(mix[r * streams + l], load(src, dtype, (r * streams + l) * cols + k), acc);
            store(want_mixed, dtype, r * cols + k, acc);
            row[k] = load(want_mixed, dtype, r * cols + k);
        }
        normalise(row, cols, weight, dtype, 0.0f, args.eps, dtype, want, r, &inv);
        CHECK(memcmp(&inv, &inv_rms[r], 4) == 0);
    }
    CHECK(memcmp(mixed, want_mixed, ROWS * cols * dtype_bytes(dtype)) == 0);
    CHECK(memcmp(normed, want, ROWS * cols * dtype_bytes(dtype)) == 0);
    same(&out, normed, dtype, NVFP4_SCALE_RULE_AMAX);
    CHECK(mem_guards_ok());
    mem_free();
}

static void gated(size_t width, nvfp4_dtype dtype, nvfp4_activation activation, uint32_t interleave, float limit, float alpha, float beta) {
    enum { ROWS = 6 };
    size_t in_cols = activation == NVFP4_ACTIVATION_RELU2 ? width : 2 * width, cols = activation == NVFP4_ACTIVATION_NONE ? 2 * width : width;
    unsigned char *src = mem_in(ROWS * in_cols * 4), *activated = mem_out(ROWS * cols * 4), *want = mem_in(ROWS * cols * 4);
    fill_normal(src, dtype, ROWS * in_cols, 6.0f);
    store(src, dtype, 0, NAN), store(src, dtype, 20 % in_cols, INFINITY), store(src, dtype, in_cols + 3, -INFINITY), store(src, dtype, in_cols + 4, -0.0f);
    store(src, dtype, 2 * in_cols, 300.0f), store(src, dtype, 2 * in_cols + 1, -300.0f);
    quantized out = room(ROWS, cols);
    nvfp4_swiglu_quantize_args args = {.struct_size = sizeof args, .src = src, .src_dtype = dtype, .interleave = interleave, .rows = ROWS, .width = (int64_t)width,
                                       .activation = activation, .limit = limit, .alpha = alpha, .beta = beta, .activated = activated, .out = into(&out, NVFP4_SCALE_RULE_AMAX)};
    size_t bytes = 77;
    OK(nvfp4_swiglu_quantize_workspace_size(context, &args, &bytes));
    if (bytes) args.workspace = mem_out(bytes), args.workspace_size = bytes;
    OK(nvfp4_swiglu_quantize(context, &args, stream));
    for (size_t r = 0; r < ROWS; r++)
        for (size_t c = 0; c < width; c++) {
            size_t gate = interleave ? c / 8 * 16 + c % 8 : c, up = interleave ? gate + 8 : width + c;
            float g = load(src, dtype, r * in_cols + gate), u = activation == NVFP4_ACTIVATION_RELU2 ? 0.0f : load(src, dtype, r * in_cols + up);
            if (activation == NVFP4_ACTIVATION_NONE)
                store(want, dtype, r * cols + c, g), store(want, dtype, r * cols + width + c, u);
            else
                store(want, dtype, r * cols + c, activation == NVFP4_ACTIVATION_RELU2 ? relu2(g, dtype) : swiglu(g, u, limit, alpha != 0 ? alpha : 1.0f, beta, dtype));
        }
    CHECK(memcmp(activated, want, ROWS * cols * dtype_bytes(dtype)) == 0);
    same(&out, activated, dtype, NVFP4_SCALE_RULE_AMAX);
    CHECK(mem_guards_ok());
    mem_free();
}

static void stage(size_t tokens, size_t hidden, uint32_t routes, bool with_scale) {
    unsigned char *src = mem_in(tokens * hidden * 2), *codes = mem_out(tokens * hidden / 2), *want_codes = mem_out(tokens * hidden / 2), *want_scales = mem_out(tokens * hidden / 16);
    int32_t *packed = mem_out(tokens * hidden / 16), *ids = mem_in(tokens * routes * 4);
    float *weights = mem_in(tokens * routes * 4), *out_weights = mem_out(tokens * routes * 4), *scale = mem_in(4);
    int64_t *out_ids = mem_out(tokens * routes * 8);
    fill_normal(src, NVFP4_DTYPE_BF16, tokens * hidden, 1.0f);
    *scale = with_scale ? 0.004f : 1.0f;
    for (size_t i = 0; i < tokens * routes; i++) ids[i] = (int32_t)(random_bits() % 400) - 1, weights[i] = random_normal();
    nvfp4_stage_moe_inputs_args args = {.struct_size = sizeof args, .src = src, .tokens = (int64_t)tokens, .hidden = (int64_t)hidden, .static_decode_scale = with_scale ? scale : NULL,
                                        .codes = codes, .packed_scales = packed, .routes = routes, .topk_ids = ids, .topk_weights = weights, .staged_ids = out_ids, .staged_weights = out_weights};
    OK(nvfp4_stage_moe_inputs(context, &args, stream));
    nvfp4_quantize_args q = {.struct_size = sizeof q, .src = src, .rows = (int64_t)tokens, .cols = (int64_t)hidden,
                             .out = {.codes = want_codes, .scales = want_scales, .static_decode_scales = scale}};
    OK(nvfp4_quantize(context, &q, stream));
    CHECK(memcmp(codes, want_codes, tokens * hidden / 2) == 0);
    for (size_t i = 0; i < tokens * hidden / 64; i++)
        for (size_t b = 0; b < 4; b++) CHECK(((uint32_t)packed[i] >> 8 * b & 255) == want_scales[4 * i + b]);
    for (size_t i = 0; i < tokens * routes; i++) CHECK(out_ids[i] == ids[i] && memcmp(&out_weights[i], &weights[i], 4) == 0);
    CHECK(mem_guards_ok());
    mem_free();
}

int main(void) {
    open_context(&context, &stream, 2);
    for (size_t i = 0; i < COUNT(widths); i++)
        for (nvfp4_dtype dtype = 0; dtype <= NVFP4_DTYPE_F32; dtype++) {
            CASE("rmsnorm of %zu columns, dtype %u", widths[i], dtype)
                for (int residual = 0; residual < 2; residual++)
                    for (nvfp4_scale_rule rule = 0; rule <= NVFP4_SCALE_RULE_MIN_MSE; rule++) rmsnorm(widths[i], dtype, residual, rule);
            CASE("hyper-connections of %zu columns, dtype %u", widths[i], dtype)
                for (uint32_t streams = 1; streams <= 4; streams++) hyper(widths[i], dtype, streams);
            CASE("activations of %zu columns, dtype %u", widths[i], dtype)
                for (uint32_t interleave = 0; interleave <= 8; interleave += 8) {
                    gated(widths[i], dtype, NVFP4_ACTIVATION_SWIGLU, interleave, 0, 0, 0);
                    gated(widths[i], dtype, NVFP4_ACTIVATION_SWIGLU, interleave, 7.0f, 1.702f, 1.0f);
                    gated(widths[i], dtype, NVFP4_ACTIVATION_NONE, interleave, 0, 0, 0);
                    if (!interleave) gated(widths[i], dtype, NVFP4_ACTIVATION_RELU2, 0, 0, 0, 0);
                }
        }
    CASE("no rows") {
        nvfp4_rmsnorm_quantize_args r = {.struct_size = sizeof r, .cols = 16, .eps = 1.0f, .weight = mem_in(64), .out = {.scope = NVFP4_SCOPE_ROW}};
        nvfp4_swiglu_quantize_args s = {.struct_size = sizeof s, .width = 16, .activation = NVFP4_ACTIVATION_SWIGLU, .out = {.scope = NVFP4_SCOPE_ROW}};
        nvfp4_stage_moe_inputs_args m = {.struct_size = sizeof m, .hidden = 64, .routes = 4};
        OK(nvfp4_rmsnorm_quantize(context, &r, stream));
        OK(nvfp4_swiglu_quantize(context, &s, stream));
        OK(nvfp4_stage_moe_inputs(context, &m, stream));
        mem_free();
    }
    CASE("stage_moe_inputs") {
        stage(1, 64, 0, false);
        stage(33, 128, 8, true);
        stage(7, 448, 1, false);
        stage(2, 64, 64, true);
    }
    close_context(context, stream);
    return finish();
}
