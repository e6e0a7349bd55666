/*
 * A layer of experts on a GPU, over and over: the inputs quantized per row into tiled scales, the first product with SwiGLU
 * back to codes, the second product.
 *
 *   graph [REPLAYS = 100000] [CALLS = 1000]
 *
 * Replays of the captured chain give the bits of the first eager run, looked at every thousand replays over fresh poison,
 * and the device's free memory is what it was. Then 16 threads run it eagerly on streams and outputs of their own.
 * Ends with `N passed, N failed`; without a GPU with `skipped: REASON`.
 */
#define _GNU_SOURCE
#include "common.h"
#include <dlfcn.h>
#include <pthread.h>
#include <unistd.h>

enum { GROUPS = 6, TOKENS = 40, HIDDEN = 512, INNER = 256, THREADS = 16 };

/* ---- the layer ---- */

static struct {
    const void *input;
    const int32_t *ends;
    const float *decode; /* of the second product's activations, static */
    nvfp4_weights *first, *second;
} layer;

static void make_layer(nvfp4_stream *stream) {
    static const int32_t ends[GROUPS] = {1, 1, 9, 26, 27, 38}; /* two rows of no group */
    static const float decode[1] = {0.02f};
    nvfp4_buffer *a, *b;
    layer.input = values(stream, TOKENS * HIDDEN);
    layer.ends = device(stream, sizeof ends, &a), layer.decode = device(stream, sizeof decode, &b);
    MUST(nvfp4_buffer_upload(a, 0, ends, sizeof ends, stream));
    MUST(nvfp4_buffer_upload(b, 0, decode, sizeof decode, stream));
    MUST(nvfp4_stream_synchronize(stream));
    layer.first = weights(stream, GROUPS, 2 * INNER, HIDDEN, 1);
    layer.second = weights(stream, GROUPS, HIDDEN, INNER, 0);
}

/* What a run writes: all of it in one buffer, so that one comparison sees it all. */
enum { CODES = 0, SCALES = CODES + TOKENS * HIDDEN / 2, SCALE_ROWS = TOKENS + 127 * GROUPS + 128, DECODE = SCALES + SCALE_ROWS * HIDDEN / 16,
       CODES_2 = DECODE + (TOKENS * 4 + 63) / 64 * 64, SCALES_2 = CODES_2 + TOKENS * INNER / 2, OUT = SCALES_2 + SCALE_ROWS * INNER / 16,
       BYTES = OUT + TOKENS * HIDDEN * 2 };

typedef struct {
    nvfp4_stream *stream;
    nvfp4_buffer *buffer, *scratch[2];
    unsigned char *data;
    nvfp4_quantize_args quantize;
    nvfp4_grouped_gemm_args first, second;
} chain;

static void make_chain(chain *c) {
    nvfp4_groups groups = {.grouping = NVFP4_GROUPING_ENDS, .count = GROUPS, .ends = layer.ends};
    MUST(nvfp4_stream_create(context, &c->stream));
    unsigned char *d = c->data = device(c->stream, BYTES, &c->buffer);
    c->quantize = (nvfp4_quantize_args){
        .struct_size = sizeof c->quantize, .src = layer.input, .rows = TOKENS, .cols = HIDDEN, .groups = groups,
        .out = {.codes = d + CODES, .scales = d + SCALES, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4, .scope = NVFP4_SCOPE_ROW,
                .decode_scales = (float *)(void *)(d + DECODE)}};
    c->first = (nvfp4_grouped_gemm_args){
        .struct_size = sizeof c->first, .weights = layer.first, .rows = TOKENS, .groups = groups, .a_dtype = NVFP4_DTYPE_NVFP4,
        .a_quantized = {.codes = d + CODES, .scales = d + SCALES, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4, .scope = NVFP4_SCOPE_ROW,
                        .decode_scales = (float *)(void *)(d + DECODE)},
        .activation = NVFP4_ACTIVATION_SWIGLU, .limit = 7.0f, .out_dtype = NVFP4_DTYPE_NVFP4,
        .out_quantized = {.codes = d + CODES_2, .scales = d + SCALES_2, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4, .static_decode_scales = layer.decode}};
    c->second = (nvfp4_grouped_gemm_args){
        .struct_size = sizeof c->second, .weights = layer.second, .rows = TOKENS, .groups = groups, .a_dtype = NVFP4_DTYPE_NVFP4,
        .a_quantized = {.codes = d + CODES_2, .scales = d + SCALES_2, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4, .decode_scales = layer.decode},
        .out = d + OUT};
    nvfp4_grouped_gemm_args *products[2] = {&c->first, &c->second};
    for (int i = 0; i < 2; i++) {
        MUST(nvfp4_grouped_gemm_workspace_size(context, products[i], &products[i]->workspace_size));
        if (products[i]->workspace_size) products[i]->workspace = device(c->stream, products[i]->workspace_size, &c->scratch[i]);
    }
}

static nvfp4_status run(chain *c) {
    nvfp4_status status = nvfp4_quantize(context, &c->quantize, c->stream);
    if (status == NVFP4_STATUS_SUCCESS) status = nvfp4_grouped_gemm(context, &c->first, c->stream);
    return status == NVFP4_STATUS_SUCCESS ? nvfp4_grouped_gemm(context, &c->second, c->stream) : status;
}

static void poison(chain *c, unsigned char byte, unsigned char *room) {
    memset(room, byte, BYTES);
    MUST(nvfp4_buffer_upload(c->buffer, 0, room, BYTES, c->stream));
    MUST(nvfp4_stream_synchronize(c->stream));
}
static void fetch(chain *c, unsigned char *room) {
    MUST(nvfp4_buffer_download(c->buffer, 0, room, BYTES, c->stream));
    MUST(nvfp4_stream_synchronize(c->stream));
}

/* ---- the two tests ---- */

static unsigned char want[2][BYTES]; /* by poison: what is not written keeps it */

/* Free bytes of the device, once they have stood still for a second. */
static size_t still_free(int (*free_memory)(size_t *, size_t *)) {
    size_t before = 0, now = 0, total = 0;
    free_memory(&now, &total);
    for (int still = 0, polls = 0; still < 10 && polls < 300; polls++) {
        before = now;
        usleep(100000);
        free_memory(&now, &total);
        still = now == before ? still + 1 : 0;
    }
    return now;
}

static void replays(chain *c, long count) {
    static unsigned char got[BYTES];
    int (*free_memory)(size_t *, size_t *) = NULL;
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (driver) *(void **)&free_memory = dlsym(driver, "cuMemGetInfo_v2");
    int (*push)(void *) = NULL, (*pop)(void **) = NULL, (*retain)(void **, int) = NULL;
    void *cuda = NULL, *popped = NULL;
    if (driver) {
        *(void **)&push = dlsym(driver, "cuCtxPushCurrent_v2"), *(void **)&pop = dlsym(driver, "cuCtxPopCurrent_v2");
        *(void **)&retain = dlsym(driver, "cuDevicePrimaryCtxRetain");
        if (retain(&cuda, 0) || push(cuda)) free_memory = NULL;
    }
    nvfp4_graph *graph;
    MUST(nvfp4_graph_begin_capture(c->stream, NVFP4_CAPTURE_MODE_GLOBAL));
    MUST(run(c));
    MUST(nvfp4_graph_end_capture(c->stream, &graph));
    MUST(nvfp4_graph_instantiate(graph));
    for (int i = 0; i < 100; i++) MUST(nvfp4_graph_launch(graph, c->stream)); /* the driver takes what it takes at first */
    MUST(nvfp4_stream_synchronize(c->stream));
    size_t before = 0, after = 0;
    long wrong = 0, looked = 0, round = 0;
    do { /* again where more is free in the end: another process has ended meanwhile */
        if (free_memory) before = still_free(free_memory);
        for (long i = 0; i < count; i++) {
            int look = i % 1000 == 999 || i + 1 == count;
            if (look) poison(c, i / 1000 % 2 ? 0x5A : 0xA5, got);
            MUST(nvfp4_graph_launch(graph, c->stream));
            if (!look) continue;
            fetch(c, got);
            wrong += memcmp(got, want[i / 1000 % 2], BYTES) != 0, looked++;
        }
        MUST(nvfp4_stream_synchronize(c->stream));
        if (free_memory) after = still_free(free_memory);
    } while (++round < 4 && after > before);
    if (free_memory) pop(&popped);
    MUST(nvfp4_graph_destroy(graph));
    char text[200];
    snprintf(text, sizeof text, "%ld replays, %ld looked at, %ld differ", count * round, looked, wrong);
    report(wrong == 0, text);
    snprintf(text, sizeof text, "free memory %zu before, %zu after", before, after);
    if (free_memory) report(before == after, text);
}

static long calls = 1000;
typedef struct {
    chain c;
    long wrong, refused;
} worker;

static void *work(void *argument) {
    worker *w = argument;
    unsigned char *got = malloc(BYTES);
    for (long i = 0; i < calls; i++) {
        int look = i % 100 == 99;
        if (look) poison(&w->c, i / 100 % 2 ? 0x5A : 0xA5, got);
        w->refused += run(&w->c) != NVFP4_STATUS_SUCCESS;
        if (!look) continue;
        fetch(&w->c, got);
        w->wrong += memcmp(got, want[i / 100 % 2], BYTES) != 0;
    }
    free(got);
    return NULL;
}

static void threads(void) {
    static worker workers[THREADS];
    pthread_t ids[THREADS];
    long wrong = 0, refused = 0;
    for (int i = 0; i < THREADS; i++) make_chain(&workers[i].c), MUST(nvfp4_stream_synchronize(workers[i].c.stream));
    for (int i = 0; i < THREADS; i++) pthread_create(&ids[i], NULL, work, &workers[i]);
    for (int i = 0; i < THREADS; i++) pthread_join(ids[i], NULL), wrong += workers[i].wrong, refused += workers[i].refused;
    char text[200];
    snprintf(text, sizeof text, "%d threads of %ld chains on streams of their own, %ld differ, %ld refused", THREADS, calls, wrong, refused);
    report(wrong == 0 && refused == 0, text);
}

int main(int argc, char **argv) {
    if (!open_context()) return 0;
    static chain c;
    nvfp4_stream *stream;
    MUST(nvfp4_stream_create(context, &stream));
    make_layer(stream);
    make_chain(&c);
    for (int i = 0; i < 2; i++) {
        poison(&c, i ? 0x5A : 0xA5, want[i]);
        MUST(run(&c));
        fetch(&c, want[i]);
    }
    size_t written = 0;
    for (size_t i = 0; i < TOKENS * HIDDEN * 2; i++) written += want[0][OUT + i] == want[1][OUT + i];
    report(written >= 38 * HIDDEN * 2, "outputs do not depend on what was there");
    if (argc > 2) calls = atol(argv[2]);
    replays(&c, argc > 1 ? atol(argv[1]) : 100000);
    threads();
    printf("%d passed, %d failed\n", passed, failed);
    return failed != 0;
}
