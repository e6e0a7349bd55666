/* How long a host waits: dlopen, the version, a CPU context, in one fresh process. Prints microseconds.
 * usage: startup LIBRARY */
#define _POSIX_C_SOURCE 200809L
#include <nvfp4.h>

#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

int main(int argc, char **argv) {
    union {
        void *object;
        const nvfp4_api_table *(*function)(uint32_t);
    } entry;
    nvfp4_context *context = NULL;
    double start = now();
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    entry.object = library ? dlsym(library, "nvfp4_api") : NULL;
    const nvfp4_api_table *nvfp4 = entry.object ? entry.function(NVFP4_ABI_VERSION) : NULL;
    if (!nvfp4 || nvfp4->version() == 0 || nvfp4->context_create(NULL, &context) != NVFP4_STATUS_SUCCESS) return 1;
    printf("%.0f\n", now() - start);
    return nvfp4->context_destroy(context) != NVFP4_STATUS_SUCCESS;
}
