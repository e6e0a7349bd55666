/* The products against double precision, within the contract's bound: every grouping, operand, epilogue and output;
 * determinism over streams, threads and graphs; batch invariance; accumulation; rows of no group left alone. */
#include "reference.h"

static nvfp4_context *context;
static nvfp4_stream *stream;

enum { MANY = 1024 };
typedef struct {
    const char *name;
    size_t rows, n, k, groups;
    nvfp4_grouping grouping;
    int32_t split[MANY];
    int64_t max_tokens;
} problem;
static problem problems[] = {
    {"1 x 16 x 16", 1, 16, 16, 1, 0, {0}, 0},
    {"33 x 48 x 96", 33, 48, 96, 1, 0, {0}, 0},
    {"130 x 17 x 272", 130, 17, 272, 1, 0, {0}, 0},
    {"ends", 140, 48, 96, 4, NVFP4_GROUPING_ENDS, {5, 5, 135, 136}, 0},
    {"decode", 4, 272, 320, 6, NVFP4_GROUPING_ENDS, {1, 2, 2, 2, 2, 4}, 0},
    {"nothing", 0, 32, 64, 2, NVFP4_GROUPING_ENDS, {0, 0}, 0},
    {"masked", 27, 32, 48, 3, NVFP4_GROUPING_MASKED, {9, 0, 4}, 9},
    {"strided", 14, 32, 112, 2, NVFP4_GROUPING_STRIDED, {0}, 7},
    {"1024 groups", 0, 32, 16, MANY, NVFP4_GROUPING_ENDS, {0}, 0},
    {"1024 masked groups", 2 * MANY, 16, 16, MANY, NVFP4_GROUPING_MASKED, {0}, 2},
    {"1024 strided groups", MANY, 16, 16, MANY, NVFP4_GROUPING_STRIDED, {0}, 1},
};

/* Most groups of very many have no row or one, and one of them is hot. */
static void spread(problem *p) {
    if (p->groups < MANY) return;
    int32_t rows = 0;
    for (size_t g = 0; g < p->groups; g++) {
        rows += g == 700 ? 150 : g % 3 == 1;
        p->split[g] = p->grouping == NVFP4_GROUPING_ENDS ? rows : (int32_t)(g % 5 % 3);
    }
    if (p->grouping == NVFP4_GROUPING_ENDS) p->rows = (size_t)rows + 3; /* the last ones are of no group */
}

static int group_of(const problem *p, size_t row) {
    if (p->grouping == NVFP4_GROUPING_NONE) return 0;
    if (p->grouping == NVFP4_GROUPING_ENDS) {
        for (size_t g = 0; g < p->groups; g++)
            if (row < (size_t)p->split[g]) return (int)g;
        return -1;
    }
    size_t g = row / (size_t)p->max_tokens;
    return p->grouping == NVFP4_GROUPING_STRIDED || row % (size_t)p->max_tokens < (size_t)p->split[g] ? (int)g : -1;
}

typedef struct {
    const problem *p;
    nvfp4_weights *weights;
    double *w;     /* [groups, n, k], decode scale left out */
    float *g_b;
    double *a;     /* [rows, k] */
    float *g_a;    /* [rows] */
    float *bias;   /* [groups, n] or NULL */
    int32_t *split;
    nvfp4_grouped_gemm_args args;
} fixture;

/* Weights from values, exported again so that the reference multiplies what the product does. */
static void make_weights(fixture *f, uint32_t gate_up) {
    const problem *p = f->p;
    size_t count = p->groups * p->n * p->k;
    unsigned char *values = mem_in(count * 2), *codes = mem_out(count / 2), *scales = mem_out(count / 16);
    fill_normal(values, NVFP4_DTYPE_BF16, count, 0.05f);
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = (int64_t)p->groups, .rows = (int64_t)p->n, .cols = (int64_t)p->k, .gate_up = gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = values};
    MUST(nvfp4_weights_storage_size(context, &args, &args.storage_size) == 0);
    args.storage = mem_in(args.storage_size);
    MUST(nvfp4_weights_prepare(context, &args, stream, &f->weights) == 0);
    f->g_b = mem_out(p->groups * 4);
    nvfp4_weights_export_args e = {.struct_size = sizeof e, .weights = f->weights, .codes = codes, .scales = scales, .decode_scales = f->g_b};
    MUST(nvfp4_weights_export(context, &e, stream) == 0);
    f->w = malloc((count + 1) * sizeof(double));
    for (size_t i = 0; i < count; i++) f->w[i] = (double)e2m1_value(codes[i / 2] >> i % 2 * 4 & 15) * (double)e4m3_value(scales[i / 16]);
}

static void make_activations(fixture *f, bool quantized, bool per_row) {
    const problem *p = f->p;
    size_t count = p->rows * p->k;
    unsigned char *values = mem_in(count * 2);
    nvfp4_groups groups = f->args.groups;
    fill_normal(values, NVFP4_DTYPE_BF16, count, 1.0f);
    f->a = malloc((count + 1) * sizeof(double));
    f->g_a = malloc((p->rows + 1) * 4);
    f->args.a_group_stride = p->grouping == NVFP4_GROUPING_STRIDED ? p->max_tokens * (int64_t)(quantized ? p->k / 2 : p->k) : 0;
    if (quantized) {
        unsigned char *codes = mem_out(count / 2), *scales = mem_out(count / 16);
        float *decode = mem_out(p->rows * 4 + 4);
        nvfp4_quantize_args q = {.struct_size = sizeof q, .src = values, .rows = (int64_t)p->rows, .cols = (int64_t)p->k, .groups = groups,
                                 .src_group_stride = p->grouping == NVFP4_GROUPING_STRIDED ? p->max_tokens * (int64_t)p->k : 0,
                                 .out = {.codes = codes, .scales = scales, .scope = per_row ? NVFP4_SCOPE_ROW : NVFP4_SCOPE_TENSOR, .decode_scales = decode}};
        MUST(nvfp4_quantize(context, &q, stream) == 0);
        for (size_t i = 0; i < count; i++)
            f->a[i] = group_of(p, i / p->k) < 0 ? 0 : (double)e2m1_value(codes[i / 2] >> i % 2 * 4 & 15) * (double)e4m3_value(scales[i / 16]);
        for (size_t r = 0; r < p->rows; r++) f->g_a[r] = decode[per_row ? r : 0];
        f->args.a_dtype = NVFP4_DTYPE_NVFP4;
        f->args.a_quantized = (nvfp4_quantized_input){.codes = codes, .scales = scales, .scope = q.out.scope, .decode_scales = decode};
    } else {
        float *decode = mem_in(p->rows * 4 + 4);
        for (size_t r = 0; r < p->rows; r++) decode[r] = 0.5f + 0.25f * (float)(r % 3);
        for (size_t i = 0; i < count; i++) f->a[i] = (double)load(values, NVFP4_DTYPE_BF16, i);
        for (size_t r = 0; r < p->rows; r++) f->g_a[r] = per_row ? decode[r] : 1.0f;
        f->args.a = values;
        f->args.a_scope = per_row ? NVFP4_SCOPE_ROW : NVFP4_SCOPE_TENSOR;
        f->args.a_decode_scales = per_row ? decode : NULL;
    }
}

static fixture open_fixture(const problem *p, bool quantized, bool per_row, bool biased, uint32_t gate_up) {
    fixture f = {.p = p};
    f.split = mem_in(sizeof p->split);
    memcpy(f.split, p->split, sizeof p->split);
    f.args = (nvfp4_grouped_gemm_args){
        .struct_size = sizeof f.args, .rows = (int64_t)p->rows,
        .groups = {.grouping = p->grouping, .count = p->grouping ? (uint32_t)p->groups : 0, .max_tokens = p->max_tokens,
                   .ends = p->grouping == NVFP4_GROUPING_ENDS ? f.split : NULL, .counts = p->grouping == NVFP4_GROUPING_MASKED ? f.split : NULL}};
    make_weights(&f, gate_up);
    make_activations(&f, quantized, per_row);
    f.args.weights = f.weights;
    if (biased) {
        f.bias = mem_in(p->groups * p->n * 4);
        fill_normal(f.bias, NVFP4_DTYPE_F32, p->groups * p->n, 1.0f);
        f.args.bias = f.bias, f.args.bias_dtype = NVFP4_DTYPE_F32;
    }
    return f;
}
static void close_fixture(fixture *f) {
    OK(nvfp4_weights_destroy(f->weights));
    free(f->w), free(f->a), free(f->g_a);
    mem_free();
}

static nvfp4_status run(fixture *f) {
    bool one = f->p->grouping == NVFP4_GROUPING_NONE;
    MUST((one ? nvfp4_gemm_workspace_size : nvfp4_grouped_gemm_workspace_size)(context, &f->args, &f->args.workspace_size) == 0);
    f->args.workspace = f->args.workspace_size ? mem_out(f->args.workspace_size) : NULL;
    return one ? nvfp4_gemm(context, &f->args, stream) : nvfp4_grouped_gemm(context, &f->args, stream);
}

/* (acc * g_A) * g_B + bias of one element in double, and the contract's bound on it. */
static double exact(const fixture *f, size_t row, size_t group, size_t n, double *bound) {
    const problem *p = f->p;
    double sum = 0, magnitude = 0, scale = (double)f->g_a[row] * (double)f->g_b[group];
    for (size_t k = 0; k < p->k; k++) {
        double product = f->a[row * p->k + k] * f->w[(group * p->n + n) * p->k + k];
        sum += product, magnitude += fabs(product);
    }
    *bound = ldexp(1, -15) * scale * magnitude;
    double value = sum * scale, bias = f->bias ? (double)f->bias[group * p->n + n] : 0;
    *bound += ldexp(fabs(value) + fabs(value + bias), -22); /* the epilogue's own roundings */
    return value + bias;
}

static double unit(nvfp4_dtype dtype) { return ldexp(1, dtype == NVFP4_DTYPE_BF16 ? -8 : dtype == NVFP4_DTYPE_F16 ? -11 : -23); }

static void values_out(const problem *p, bool quantized, nvfp4_dtype dtype, nvfp4_activation activation, bool accumulate) {
    bool gated = activation == NVFP4_ACTIVATION_SWIGLU;
    if (gated && p->n % 2) return;
    fixture f = open_fixture(p, quantized, dtype != NVFP4_DTYPE_F16, dtype != NVFP4_DTYPE_BF16, gated);
    size_t cols = gated ? p->n / 2 : p->n, wrong = 0, stride = cols + 3;
    unsigned char *out = mem_out(p->rows * stride * 4);
    f.args.out = out, f.args.out_dtype = dtype, f.args.activation = activation;
    f.args.out_row_stride = (int64_t)stride;
    f.args.out_group_stride = p->grouping == NVFP4_GROUPING_STRIDED ? p->max_tokens * (int64_t)stride : 0;
    if (accumulate) {
        f.args.flags = NVFP4_GEMM_ACCUMULATE;
        for (size_t i = 0; i < p->rows * stride; i++) store(out, dtype, i, 0.5f);
    }
    OK(run(&f));
    nvfp4_dtype inner = dtype == NVFP4_DTYPE_F32 ? NVFP4_DTYPE_BF16 : dtype;
    for (size_t r = 0; r < p->rows; r++) {
        int g = group_of(p, r);
        for (size_t n = 0; n < cols; n++) {
            if (g < 0) {
                unsigned char old[4];
                store(old, dtype, 0, 0.5f);
                const unsigned char *at = out + (r * stride + n) * dtype_bytes(dtype);
                wrong += accumulate ? memcmp(at, old, dtype_bytes(dtype)) != 0 : !all_bytes(at, dtype_bytes(dtype), 0xA5);
                continue;
            }
            double bound, want = exact(&f, r, (size_t)g, n, &bound), got = (double)load(out, dtype, r * stride + n);
            if (accumulate) want += 0.5;
            if (activation == NVFP4_ACTIVATION_RELU2) {
                double slack = bound + fabs(want) * unit(inner);
                double low = fmax(want - slack, 0), high = fmax(want + slack, 0);
                double least = dtype == NVFP4_DTYPE_F16 ? ldexp(1, -24) : 1e-30; /* f16 runs out of exponents here */
                wrong += !(got >= low * low * (1 - 4 * unit(inner)) - least && got <= high * high * (1 + 4 * unit(inner)) + least);
                continue;
            }
            if (gated) {
                double up_bound, up = exact(&f, r, (size_t)g, n + cols, &up_bound), sigmoid = 1 / (1 + exp(-want)), h = want * sigmoid * up;
                bound = (bound + fabs(want) * unit(inner)) * 1.1 * fabs(up) + (up_bound + fabs(up) * unit(inner)) * fabs(want * sigmoid) + bound * up_bound;
                want = h, bound += fabs(h) * 4 * unit(inner) + 1e-6;
            }
            wrong += !(fabs(got - want) <= bound + (fabs(want) + bound) * unit(dtype) + (dtype == NVFP4_DTYPE_F16 ? ldexp(1, -24) : 0));
        }
        if (r + 1 < p->rows && !accumulate) wrong += !all_bytes(out + (r * stride + cols) * dtype_bytes(dtype), 3 * dtype_bytes(dtype), 0xA5);
    }
    CHECK_THAT(wrong == 0, "%s: %zu of %zu outputs are off (codes %d, dtype %u, activation %u, accumulate %d)", p->name, wrong, p->rows * cols, quantized, dtype, activation, accumulate);
    CHECK(mem_guards_ok());
    close_fixture(&f);
}

/* Requantized outputs are nvfp4_quantize of the bf16 output, bit for bit. */
static void codes_out(const problem *p, nvfp4_activation activation, bool fixed) {
    bool gated = activation == NVFP4_ACTIVATION_SWIGLU;
    size_t cols = gated ? p->n / 2 : p->n;
    if (cols % 16 || p->n % 2) return;
    fixture f = open_fixture(p, true, true, true, gated);
    unsigned char *out = mem_out(p->rows * cols * 2), *codes = mem_out(p->rows * cols / 2), *scales = mem_out(p->rows * cols / 16);
    unsigned char *want_codes = mem_out(p->rows * cols / 2), *want_scales = mem_out(p->rows * cols / 16);
    float *decode = mem_out(p->rows * 4 + 4), *want_decode = mem_out(p->rows * 4 + 4), *given = mem_in(4);
    *given = 0.003f;
    f.args.activation = activation, f.args.out = out;
    f.args.out_group_stride = p->grouping == NVFP4_GROUPING_STRIDED ? p->max_tokens * (int64_t)cols : 0;
    OK(run(&f));
    nvfp4_quantized to = {.scope = fixed ? NVFP4_SCOPE_TENSOR : NVFP4_SCOPE_ROW, .static_decode_scales = fixed ? given : NULL};
    nvfp4_quantize_args q = {.struct_size = sizeof q, .src = out, .rows = (int64_t)p->rows, .cols = (int64_t)cols, .groups = f.args.groups, .src_group_stride = f.args.out_group_stride, .out = to};
    q.out.codes = want_codes, q.out.scales = want_scales, q.out.decode_scales = fixed ? NULL : want_decode;
    OK(nvfp4_quantize(context, &q, stream));
    f.args.out = NULL, f.args.out_dtype = NVFP4_DTYPE_NVFP4, f.args.out_group_stride = 0, f.args.out_quantized = to;
    f.args.out_quantized.codes = codes, f.args.out_quantized.scales = scales, f.args.out_quantized.decode_scales = fixed ? NULL : decode;
    OK(run(&f));
    CHECK_THAT(memcmp(codes, want_codes, p->rows * cols / 2) == 0 && memcmp(scales, want_scales, p->rows * cols / 16) == 0, "%s: codes differ", p->name);
    CHECK(memcmp(decode, want_decode, p->rows * 4) == 0);
    CHECK(mem_guards_ok());
    close_fixture(&f);
}

static void deterministic(void) {
    CASE("the same bits with every thread count and instruction set") {
        if (cpu_alone("a GPU has neither")) continue;
        nvfp4_context *kept_context = context;
        nvfp4_stream *kept_stream = stream;
        unsigned char *first = NULL;
        uint64_t seed = random_state;
        for (uint32_t threads = 1; threads <= 5; threads += 2)
            for (nvfp4_isa isa = NVFP4_ISA_PORTABLE; isa <= NVFP4_ISA_AVX512; isa++) {
                nvfp4_context_options options = {.struct_size = sizeof options, .threads = threads, .isa = isa};
                if (nvfp4_context_create(&options, &context) != NVFP4_STATUS_SUCCESS) continue; /* not on this processor */
                MUST(nvfp4_stream_create(context, &stream) == 0);
                random_state = seed;
                fixture f = open_fixture(&problems[3], true, true, true, 0);
                size_t bytes = f.p->rows * f.p->n * 4;
                unsigned char *out = mem_out(bytes);
                f.args.out = out, f.args.out_dtype = NVFP4_DTYPE_F32;
                OK(run(&f));
                if (!first) first = memcpy(malloc(bytes), out, bytes);
                CHECK_THAT(memcmp(first, out, bytes) == 0, "%u threads, instruction set %u", threads, isa);
                close_fixture(&f);
                MUST(nvfp4_stream_destroy(stream) == 0 && nvfp4_context_destroy(context) == 0);
            }
        free(first);
        context = kept_context, stream = kept_stream;
    }
    CASE("the same bits on every stream and in graphs") {
        fixture f = open_fixture(&problems[3], true, true, true, 0);
        size_t bytes = f.p->rows * f.p->n * 2;
        unsigned char *out = mem_out(bytes), *first = malloc(bytes);
        nvfp4_stream *other;
        nvfp4_graph *graph = NULL;
        f.args.out = out;
        OK(run(&f));
        memcpy(first, out, bytes);
        OK(nvfp4_stream_create(context, &other));
        OK(nvfp4_graph_begin_capture(other, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_grouped_gemm(context, &f.args, other));
        OK(nvfp4_graph_end_capture(other, &graph));
        OK(nvfp4_graph_instantiate(graph));
        for (int i = 0; i < 20; i++) {
            memset(out, i % 2 ? 0xA5 : 0x5A, bytes);
            memset(out + 136 * f.p->n * 2, 0xA5, 4 * f.p->n * 2);
            OK(i % 4 == 0 ? nvfp4_grouped_gemm(context, &f.args, other) : nvfp4_graph_launch(graph, i % 2 ? stream : other));
            CHECK(memcmp(out, first, bytes) == 0);
        }
        OK(nvfp4_graph_destroy(graph));
        OK(nvfp4_stream_destroy(other));
        free(first);
        close_fixture(&f);
    }
    CASE("a row's bits do not depend on the other rows") {
        fixture f = open_fixture(&problems[1], true, true, false, 0);
        size_t width = f.p->n * 4, cols = f.p->k;
        unsigned char *out = mem_out(f.p->rows * width), *row = mem_out(width);
        f.args.out = out, f.args.out_dtype = NVFP4_DTYPE_F32, f.args.flags = NVFP4_GEMM_BATCH_INVARIANT;
        OK(run(&f));
        unsigned char *codes = mem_in(cols / 2), *scales = mem_in(cols / 16);
        for (size_t r = 0; r < f.p->rows; r++) {
            fixture one = f;
            memcpy(codes, f.args.a_quantized.codes + r * cols / 2, cols / 2), memcpy(scales, f.args.a_quantized.scales + r * cols / 16, cols / 16);
            one.args.rows = 1, one.args.out = row;
            one.args.a_quantized.codes = codes, one.args.a_quantized.scales = scales, one.args.a_quantized.decode_scales = f.args.a_quantized.decode_scales + r;
            OK(nvfp4_gemm(context, &one.args, stream));
            CHECK_THAT(memcmp(row, out + r * width, width) == 0, "row %zu", r);
        }
        close_fixture(&f);
    }
}

/* Columns of one matrix: a, then room, then what is written. */
static void columns(void) {
    fixture f = open_fixture(&problems[1], false, false, true, 0);
    size_t rows = f.p->rows, n = f.p->n, k = f.p->k, width = k + 16 + n;
    uint16_t *want = mem_out(rows * n * 2), *whole = mem_out((rows * width + 8) * 2);
    f.args.out = want;
    OK(run(&f));
    for (size_t r = 0; r < rows; r++) memcpy(whole + r * width, (const uint16_t *)f.args.a + r * k, k * 2);
    f.args.a = whole, f.args.out = whole + k + 16;
    f.args.a_row_stride = f.args.out_row_stride = (int64_t)width;
    OK(run(&f));
    for (size_t r = 0; r < rows; r++)
        CHECK_THAT(memcmp(whole + r * width + k + 16, want + r * n, n * 2) == 0 && all_bytes(whole + r * width + k, 32, 0xA5), "row %zu", r);
    /* One vector to the right it reaches into the next row of a; with another stride it would be hit or missed by luck. */
    f.args.out = whole + k + 24;
    BAD_ARGUMENT(run(&f), "overlap");
    f.args.out = whole + k - 8;
    BAD_ARGUMENT(run(&f), "overlap");
    f.args.out = whole + k + 16, f.args.out_row_stride -= 8;
    BAD_ARGUMENT(run(&f), "overlap");
    CHECK(mem_guards_ok());
    close_fixture(&f);
}

int main(void) {
    open_context(&context, &stream, 3);
    for (size_t i = 0; i < COUNT(problems); i++) spread(&problems[i]);
    for (size_t i = 0; i < COUNT(problems); i++)
        for (int quantized = 0; quantized < 2; quantized++) {
            CASE("%s, a as %s: values", problems[i].name, quantized ? "codes" : "values")
                for (nvfp4_dtype dtype = 0; dtype <= NVFP4_DTYPE_F32; dtype++) {
                    values_out(&problems[i], quantized, dtype, NVFP4_ACTIVATION_NONE, false);
                    values_out(&problems[i], quantized, dtype, NVFP4_ACTIVATION_NONE, true);
                    values_out(&problems[i], quantized, dtype, NVFP4_ACTIVATION_SWIGLU, false);
                    values_out(&problems[i], quantized, dtype, NVFP4_ACTIVATION_RELU2, false);
                }
            if (quantized)
                CASE("%s: requantized", problems[i].name)
                    for (nvfp4_activation activation = 0; activation <= NVFP4_ACTIVATION_RELU2; activation++)
                        codes_out(&problems[i], activation, false), codes_out(&problems[i], activation, true);
        }
    deterministic();
    CASE("columns of one matrix") columns();
    close_context(context, stream);
    return finish();
}
