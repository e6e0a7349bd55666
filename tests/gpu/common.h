/* What the programs of this folder share that run chains on a GPU: reports, device memory, weights. */
#ifndef COMMON_H
#define COMMON_H

#include <nvfp4.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int passed, failed;
static nvfp4_context *context;

static void report(int good, const char *what) {
    printf("%s %s\n", good ? "ok" : "FAILED", what);
    fflush(stdout);
    *(good ? &passed : &failed) += 1;
}
static void must(nvfp4_status status, int line) {
    if (status == NVFP4_STATUS_SUCCESS) return;
    printf("FAILED line %d: %s\n", line, nvfp4_last_message());
    printf("%d passed, %d failed\n", passed, failed + 1);
    exit(1);
}
#define MUST(call) must((call), __LINE__)

static uint64_t state = 0x9E3779B97F4A7C15u;
static uint64_t bits(void) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static void *device(nvfp4_stream *stream, size_t bytes, nvfp4_buffer **buffer) {
    void *data = NULL;
    MUST(nvfp4_buffer_create(context, bytes, stream, buffer));
    MUST(nvfp4_buffer_data(*buffer, &data));
    return data;
}
/* bf16 values of both signs between 2^-4 and 2 */
static void *values(nvfp4_stream *stream, size_t count) {
    uint16_t *host = malloc(count * 2);
    nvfp4_buffer *buffer;
    void *data = device(stream, count * 2, &buffer);
    for (size_t i = 0; i < count; i++) host[i] = (uint16_t)(0x3D80 + bits() % 0x0280) | (uint16_t)(bits() & 0x8000);
    MUST(nvfp4_buffer_upload(buffer, 0, host, count * 2, stream));
    MUST(nvfp4_stream_synchronize(stream));
    free(host);
    return data;
}

static nvfp4_weights *weights(nvfp4_stream *stream, int64_t groups, int64_t rows, int64_t cols, uint32_t gate_up) {
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = groups, .rows = rows, .cols = cols, .gate_up = gate_up,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = values(stream, (size_t)(groups * rows * cols))};
    nvfp4_buffer *buffer;
    nvfp4_weights *made;
    MUST(nvfp4_weights_storage_size(context, &args, &args.storage_size));
    args.storage = device(stream, args.storage_size, &buffer);
    MUST(nvfp4_weights_prepare(context, &args, stream, &made));
    return made;
}

/* On the GPU, or with NVFP4_TEST_DEVICE=staged on the CPU: the same program without a GPU. 0: skipped, and said so. */
static int open_context(void) {
    nvfp4_backend_info info = {.struct_size = sizeof info};
    int cpu = getenv("NVFP4_TEST_DEVICE") && strcmp(getenv("NVFP4_TEST_DEVICE"), "staged") == 0;
    nvfp4_backend backend = cpu ? NVFP4_BACKEND_CPU : NVFP4_BACKEND_CUDA;
    MUST(nvfp4_backend_query(backend, 0, &info));
    if (!info.available) {
        printf("skipped: no GPU: %s\n", info.name);
        return 0;
    }
    nvfp4_context_options options = {.struct_size = sizeof options, .backend = backend};
    MUST(nvfp4_context_create(&options, &context));
    MUST(nvfp4_prepare(context, NULL));
    return 1;
}

#endif
