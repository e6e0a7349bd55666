/* Record calls once, replay them many times: the same program on a CPU and on a GPU. A replay reads the memory as it is
 * then, and gives the bits of the eager calls. */
#include <nvfp4.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 32, COLS = 512, STEPS = 100 };
static _Alignas(16) float x[ROWS * COLS], weight[COLS];
static _Alignas(16) uint8_t codes[ROWS * COLS / 2], scales[ROWS * COLS / 16], again[ROWS * COLS / 2];
static float decode_scales[ROWS];

static void must(nvfp4_status status) {
    if (status == NVFP4_STATUS_SUCCESS) return;
    fprintf(stderr, "%s\n", nvfp4_last_message());
    exit(1);
}

int main(void) {
    nvfp4_context *context;
    nvfp4_stream *stream;
    nvfp4_graph *graph;
    size_t nodes;
    int same = 0;
    must(nvfp4_context_create(NULL, &context));
    must(nvfp4_prepare(context, NULL)); /* nothing is loaded inside a capture */
    must(nvfp4_stream_create(context, &stream));
    for (int k = 0; k < COLS; k++) weight[k] = 1.0f + 0.1f * sinf((float)k);

    nvfp4_rmsnorm_quantize_args norm = {
        .struct_size = sizeof norm, .src = x, .src_dtype = NVFP4_DTYPE_F32, .rows = ROWS, .cols = COLS, .weight = weight,
        .weight_dtype = NVFP4_DTYPE_F32, .eps = 1e-6f,
        .out = {.codes = codes, .scales = scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = decode_scales}};
    must(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_THREAD_LOCAL));
    must(nvfp4_rmsnorm_quantize(context, &norm, stream)); /* recorded, not run */
    must(nvfp4_graph_end_capture(stream, &graph));
    must(nvfp4_graph_instantiate(graph));
    must(nvfp4_graph_node_count(graph, &nodes));

    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < ROWS * COLS; i++) x[i] = sinf((float)(i + step * 7));
        must(nvfp4_graph_launch(graph, stream));
        must(nvfp4_stream_synchronize(stream));
        memcpy(again, codes, sizeof codes);
        must(nvfp4_rmsnorm_quantize(context, &norm, stream));
        must(nvfp4_stream_synchronize(stream));
        same += memcmp(again, codes, sizeof codes) == 0;
    }
    printf("%zu call recorded, %d of %d replays with the bits of the eager call\n", nodes, same, STEPS);
    must(nvfp4_graph_destroy(graph));
    must(nvfp4_stream_destroy(stream));
    must(nvfp4_context_destroy(context));
    return same != STEPS;
}
