/*
 * What a run call costs the host, beside a bare driver launch of an empty kernel with as many bytes of parameters.
 *
 * Prints one JSON line: medians in microseconds over rounds of calls with an idle stream at the start of each round.
 * Without a GPU it prints `skipped: REASON`.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <nvfp4.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROWS = 64, COLS = 7168, CALLS = 64, ROUNDS = 300, PARAMETER_BYTES = 256 };

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}
static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static void must(int status, int line) {
    if (status == 0) return;
    printf("FAILED line %d: %d %s\n", line, status, nvfp4_last_message());
    exit(1);
}
#define MUST(call) must((call), __LINE__)

typedef int (*entry)();
static void *driver;
static entry cu(const char *name) {
    entry found = (entry)(intptr_t)dlsym(driver, name);
    if (!found) printf("FAILED no %s\n", name), exit(1);
    return found;
}

static const char *empty_kernel =
    ".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry empty(.param .align 16 .b8 p[256]) { ret; }\n";

int main(void) {
    nvfp4_backend_info info = {.struct_size = sizeof info};
    MUST(nvfp4_backend_query(NVFP4_BACKEND_CUDA, 0, &info));
    if (!info.available) return printf("skipped: no GPU: %s\n", info.name), 0;
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    nvfp4_context_options options = {.struct_size = sizeof options, .backend = NVFP4_BACKEND_CUDA};
    nvfp4_context *context;
    nvfp4_stream *stream;
    nvfp4_buffer *buffer;
    void *data, *cuda, *module, *function, *native;
    MUST(nvfp4_context_create(&options, &context));
    MUST(nvfp4_prepare(context, NULL));
    MUST(cu("cuDevicePrimaryCtxRetain")(&cuda, 0));
    MUST(cu("cuCtxPushCurrent_v2")(cuda));
    MUST(cu("cuStreamCreate")(&native, 1));
    MUST(nvfp4_stream_borrow(context, native, &stream));
    MUST(nvfp4_buffer_create(context, ROWS * COLS * 3, stream, &buffer));
    MUST(nvfp4_buffer_data(buffer, &data));
    MUST(cu("cuModuleLoadData")(&module, empty_kernel));
    MUST(cu("cuModuleGetFunction")(&function, module, "empty"));
    unsigned char *at = data;
    nvfp4_quantize_args args = {.struct_size = sizeof args, .src = at, .rows = ROWS, .cols = COLS,
                                .out = {.codes = at + ROWS * COLS * 2, .scales = at + ROWS * COLS * 5 / 2, .scope = NVFP4_SCOPE_ROW,
                                        .decode_scales = (float *)(void *)(at + ROWS * COLS * 5 / 2 + ROWS * COLS / 16)}};
    unsigned char parameters[PARAMETER_BYTES] = {0};
    void *pointers[] = {parameters};
    int (*launch)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
    *(void **)&launch = dlsym(driver, "cuLaunchKernel");
    static double times[2][ROUNDS];
    for (int round = 0; round < ROUNDS; round++)
        for (int ours = 0; ours < 2; ours++) {
            MUST(nvfp4_stream_synchronize(stream));
            double start = now_us();
            for (int i = 0; i < CALLS; i++)
                if (ours)
                    MUST(nvfp4_quantize(context, &args, stream));
                else
                    MUST(launch(function, ROWS, 1, 1, 256, 1, 1, 0, native, pointers, NULL));
            times[ours][round] = (now_us() - start) / CALLS;
        }
    MUST(nvfp4_stream_synchronize(stream));
    for (int ours = 0; ours < 2; ours++) qsort(times[ours], ROUNDS, sizeof(double), ascending);
    printf("{\"call_us\": %.2f, \"bare_launch_us\": %.2f}\n", times[1][ROUNDS / 2], times[0][ROUNDS / 2]);
    return 0;
}
