/*
 * Grouped products of every family over and over: few and many rows a group, values and codes, whole tiles and cut ones,
 * sums in one run and in several, each chain half with NVFP4_GEMM_DEPENDENT_LAUNCH.
 *
 *   products [REPLAYS = 100000] [CHAINS = 5000]
 *
 * Two chains with different activations write the same outputs by turns, so a replay that leaves a byte out shows. All
 * replays on one stream are looked at; then 8 threads run replays and eager calls on streams, workspaces and outputs of
 * their own at once. Every chain must give the bits of the first eager one.
 * Ends with `N passed, N failed`; without a GPU with `skipped: REASON`.
 */
#define _GNU_SOURCE
#include "common.h"
#include <pthread.h>

enum { THREADS = 8, PRODUCTS = 7, MOST_GROUPS = 8, INPUTS = 2 };

static const struct {
    int32_t groups, rows, n, k; /* rows of all groups */
    int codes, gate_up, flags;
} shapes[PRODUCTS] = {
    {8, 24, 256, 2048, 0, 0, NVFP4_GEMM_DEPENDENT_LAUNCH},   /* few: 8 tokens a tile */
    {8, 100, 128, 1024, 1, 0, NVFP4_GEMM_DEPENDENT_LAUNCH},  /* few: 16, codes */
    {6, 150, 384, 1024, 0, 1, 0},                            /* many: 32, SwiGLU to codes */
    {3, 150, 130, 2048, 1, 0, 0},                            /* 64, decoded codes */
    {2, 200, 128, 2880, 0, 0, NVFP4_GEMM_BATCH_INVARIANT},   /* 128, whole tiles, two runs */
    {2, 420, 40, 8192, 0, 0, NVFP4_GEMM_DEPENDENT_LAUNCH},   /* 256, cut, two runs */
    {8, 40, 512, 512, 0, 1, NVFP4_GEMM_DEPENDENT_LAUNCH},    /* few again, behind many */
};

static struct {
    nvfp4_weights *weights;
    nvfp4_groups groups;
    const void *values[INPUTS];
    nvfp4_quantized_input codes[INPUTS];
    size_t out, scales, bytes; /* of the outputs: offset, of the scales in them, all */
} products[PRODUCTS];
static const float *decode; /* static, of outputs */
static size_t bytes;        /* of all outputs of a chain */
static unsigned char *want[INPUTS];

static void *upload(nvfp4_stream *stream, const void *from, size_t size) {
    nvfp4_buffer *buffer;
    void *data = device(stream, size, &buffer);
    MUST(nvfp4_buffer_upload(buffer, 0, from, size, stream));
    MUST(nvfp4_stream_synchronize(stream));
    return data;
}

static void make_product(int i, nvfp4_stream *stream) {
    int32_t groups = shapes[i].groups, rows = shapes[i].rows, k = shapes[i].k, cols = shapes[i].n / (shapes[i].gate_up ? 2 : 1);
    int32_t ends[MOST_GROUPS];
    for (int32_t g = 0; g < groups; g++) /* the second group is hot, the first empty where others are left, one row is of none */
        ends[g] = g == 0 && groups > 2 ? 0 : g == groups - 1 ? rows - 1 : rows / 2 + g * (rows / 3) / groups;
    products[i].groups = (nvfp4_groups){.grouping = NVFP4_GROUPING_ENDS, .count = (uint32_t)groups, .ends = upload(stream, ends, sizeof ends)};
    products[i].weights = weights(stream, groups, shapes[i].n, k, (uint32_t)shapes[i].gate_up);
    for (int j = 0; j < INPUTS; j++) {
        products[i].values[j] = values(stream, (size_t)rows * k);
        if (!shapes[i].codes) continue;
        nvfp4_buffer *buffer;
        size_t codes = (size_t)rows * k / 2, scales = ((size_t)rows + 127 * groups + 128) * (k / 16);
        unsigned char *at = device(stream, codes + scales + rows * 4, &buffer);
        nvfp4_quantize_args args = {.struct_size = sizeof args, .src = products[i].values[j], .rows = rows, .cols = k, .groups = products[i].groups,
                                    .out = {.codes = at, .scales = at + codes, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4, .scope = NVFP4_SCOPE_ROW,
                                            .decode_scales = (float *)(void *)(at + codes + scales)}};
        MUST(nvfp4_quantize(context, &args, stream));
        products[i].codes[j] = (nvfp4_quantized_input){.codes = at, .scales = at + codes, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4,
                                                       .scope = NVFP4_SCOPE_ROW, .decode_scales = args.out.decode_scales};
    }
    size_t codes = ((size_t)rows * cols / 2 + 63) / 64 * 64, half = (size_t)rows * cols * 2;
    products[i].out = bytes, products[i].scales = codes;
    bytes += ((shapes[i].gate_up ? codes + (size_t)rows * cols / 16 : half) + 63) / 64 * 64;
}

/* ---- chains ---- */

typedef struct {
    nvfp4_stream *stream;
    nvfp4_buffer *outputs;
    nvfp4_grouped_gemm_args args[INPUTS][PRODUCTS];
    nvfp4_graph *graphs[INPUTS];
    unsigned char *got;
    long count, wrong, refused;
} chain;

static nvfp4_status run(chain *c, int input) {
    nvfp4_status status = NVFP4_STATUS_SUCCESS;
    for (int i = 0; i < PRODUCTS && status == NVFP4_STATUS_SUCCESS; i++) status = nvfp4_grouped_gemm(context, &c->args[input][i], c->stream);
    return status;
}

static void make_chain(chain *c) {
    MUST(nvfp4_stream_create(context, &c->stream));
    unsigned char *out = device(c->stream, bytes, &c->outputs);
    c->got = malloc(bytes);
    memset(c->got, 0xA5, bytes);
    MUST(nvfp4_buffer_upload(c->outputs, 0, c->got, bytes, c->stream));
    for (int i = 0; i < PRODUCTS; i++) {
        nvfp4_buffer *buffer;
        void *workspace = NULL;
        for (int j = 0; j < INPUTS; j++) {
            unsigned char *to = out + products[i].out;
            nvfp4_grouped_gemm_args *a = &c->args[j][i];
            *a = (nvfp4_grouped_gemm_args){.struct_size = sizeof *a, .weights = products[i].weights, .rows = shapes[i].rows, .groups = products[i].groups,
                                           .flags = (nvfp4_gemm_flags)shapes[i].flags};
            if (shapes[i].codes) a->a_dtype = NVFP4_DTYPE_NVFP4, a->a_quantized = products[i].codes[j];
            else a->a = products[i].values[j];
            if (shapes[i].gate_up) {
                a->activation = NVFP4_ACTIVATION_SWIGLU, a->out_dtype = NVFP4_DTYPE_NVFP4;
                a->out_quantized = (nvfp4_quantized){.codes = to, .scales = to + products[i].scales, .static_decode_scales = decode};
            } else {
                a->out = to;
            }
            MUST(nvfp4_grouped_gemm_workspace_size(context, a, &a->workspace_size));
            if (!workspace && a->workspace_size) workspace = device(c->stream, a->workspace_size, &buffer);
            a->workspace = workspace;
        }
    }
    for (int j = 0; j < INPUTS; j++) {
        MUST(nvfp4_graph_begin_capture(c->stream, NVFP4_CAPTURE_MODE_THREAD_LOCAL));
        MUST(run(c, j));
        MUST(nvfp4_graph_end_capture(c->stream, &c->graphs[j]));
        MUST(nvfp4_graph_instantiate(c->graphs[j]));
    }
    MUST(nvfp4_stream_synchronize(c->stream));
}

static void fetch(chain *c) {
    MUST(nvfp4_buffer_download(c->outputs, 0, c->got, bytes, c->stream));
    MUST(nvfp4_stream_synchronize(c->stream));
}

/* Every other pair of chains is eager where `mixed`. */
static void repeat(chain *c, int mixed) {
    for (long i = 0; i < c->count; i++) {
        int input = (int)(i % INPUTS);
        nvfp4_status status = mixed && i % 4 / INPUTS ? run(c, input) : nvfp4_graph_launch(c->graphs[input], c->stream);
        c->refused += status != NVFP4_STATUS_SUCCESS;
        fetch(c);
        c->wrong += memcmp(c->got, want[input], bytes) != 0;
    }
}

static void *work(void *argument) { return repeat(argument, 1), NULL; }

int main(int argc, char **argv) {
    static const float given[1] = {0.5f};
    static chain one, chains[THREADS];
    nvfp4_stream *stream;
    char text[200];
    if (!open_context()) return 0;
    MUST(nvfp4_stream_create(context, &stream));
    decode = upload(stream, given, sizeof given);
    for (int i = 0; i < PRODUCTS; i++) make_product(i, stream);
    MUST(nvfp4_stream_synchronize(stream));
    make_chain(&one);
    for (int j = 0; j < INPUTS; j++) {
        MUST(run(&one, j));
        fetch(&one);
        memcpy(want[j] = malloc(bytes), one.got, bytes);
    }
    size_t alike = 0;
    for (size_t i = 0; i < bytes; i++) alike += want[0][i] == want[1][i];
    report(alike < bytes / 4, "the two chains differ");
    one.count = argc > 1 ? atol(argv[1]) : 100000;
    repeat(&one, 0);
    snprintf(text, sizeof text, "%ld replays of %d products, all looked at, %ld differ, %ld refused", one.count, PRODUCTS, one.wrong, one.refused);
    report(one.wrong == 0 && one.refused == 0, text);
    pthread_t ids[THREADS];
    long wrong = 0, refused = 0, count = argc > 2 ? atol(argv[2]) : 5000;
    for (int i = 0; i < THREADS; i++) make_chain(&chains[i]), chains[i].count = count;
    for (int i = 0; i < THREADS; i++) pthread_create(&ids[i], NULL, work, &chains[i]);
    for (int i = 0; i < THREADS; i++) pthread_join(ids[i], NULL), wrong += chains[i].wrong, refused += chains[i].refused;
    snprintf(text, sizeof text, "%d streams at once, %ld chains each, all looked at, %ld differ, %ld refused", THREADS, count, wrong, refused);
    report(wrong == 0 && refused == 0, text);
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
