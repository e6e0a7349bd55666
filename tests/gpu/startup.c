/*
 * From dlopen to the first quantized tensor on a GPU, beside what the driver takes for itself, in one fresh process.
 *
 *   startup LIBRARY
 *
 * Prints milliseconds: the driver's initialisation with its primary context, and what comes on top of it. Without a GPU it
 * prints `skipped: REASON`.
 */
#define _GNU_SOURCE
#include <nvfp4.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int main(int argc, char **argv) {
    enum { ROWS = 64, COLS = 7168 };
    double start = now_ms();
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *cuda = NULL;
    int (*initialise)(unsigned), (*retain)(void **, int);
    if (!driver) return printf("skipped: no driver\n"), 0;
    *(void **)&initialise = dlsym(driver, "cuInit"), *(void **)&retain = dlsym(driver, "cuDevicePrimaryCtxRetain");
    if (initialise(0) || retain(&cuda, 0)) return printf("skipped: no GPU\n"), 0;
    double driver_ms = now_ms() - start;

    start = now_ms();
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    const nvfp4_api_table *(*entry)(uint32_t) = NULL;
    if (library) *(void **)&entry = dlsym(library, "nvfp4_api");
    const nvfp4_api_table *nvfp4 = entry ? entry(NVFP4_ABI_VERSION) : NULL;
    if (!nvfp4) return printf("FAILED no library\n"), 1;
    nvfp4_context_options options = {.struct_size = sizeof options, .backend = NVFP4_BACKEND_CUDA};
    nvfp4_context *context = NULL;
    nvfp4_stream *stream = NULL;
    nvfp4_buffer *buffer = NULL;
    void *data = NULL;
    static unsigned char host[ROWS * COLS * 3];
    memset(host, 0x3F, ROWS * COLS * 2);
    int good = !nvfp4->context_create(&options, &context) && !nvfp4->prepare(context, NULL) && !nvfp4->stream_create(context, &stream) &&
               !nvfp4->buffer_create(context, sizeof host, stream, &buffer) && !nvfp4->buffer_data(buffer, &data) &&
               !nvfp4->buffer_upload(buffer, 0, host, ROWS * COLS * 2, stream);
    unsigned char *at = data;
    nvfp4_quantize_args args = {.struct_size = sizeof args, .src = at, .rows = ROWS, .cols = COLS,
                                .out = {.codes = at + ROWS * COLS * 2, .scales = at + ROWS * COLS * 5 / 2, .scope = NVFP4_SCOPE_ROW,
                                        .decode_scales = (float *)(void *)(at + ROWS * COLS * 5 / 2 + ROWS * COLS / 16)}};
    good = good && !nvfp4->quantize(context, &args, stream) && !nvfp4->buffer_download(buffer, 0, host, sizeof host, stream) &&
           !nvfp4->stream_synchronize(stream);
    double ours_ms = now_ms() - start;
    if (!good) return printf("FAILED %s\n", nvfp4->last_message()), 1;
    /* All values are 0x3F3F: the largest of their row, so 6 times 448. */
    for (int i = 0; i < ROWS * COLS / 2; i++)
        if (host[ROWS * COLS * 2 + i] != 0x77) return printf("FAILED code %d is %#x\n", i, host[ROWS * COLS * 2 + i]), 1;
    printf("{\"driver_ms\": %.1f, \"library_ms\": %.1f}\n", driver_ms, ours_ms);
    return 0;
}
