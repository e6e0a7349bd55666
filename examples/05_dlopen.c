/* Load the library at run time: one symbol gives a table of all functions, so that a host need not link.
 * usage: 05_dlopen [libnvfp4.so.1] */
#include <nvfp4.h>

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    const nvfp4_api_table *(*entry)(uint32_t) = NULL;
    void *library = dlopen(argc > 1 ? argv[1] : "libnvfp4.so.1", RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, "nvfp4_api") : NULL;
    if (!symbol) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    memcpy(&entry, &symbol, sizeof entry); /* ISO C has no cast from object to function pointers */

    const nvfp4_api_table *nvfp4 = entry(NVFP4_ABI_VERSION);
    if (!nvfp4) {
        fprintf(stderr, "the library has another binary interface\n");
        return 1;
    }
    /* An older library has a shorter table: look before using an entry that this header added later. */
    if (nvfp4->struct_size < offsetof(nvfp4_api_table, gemm) + sizeof nvfp4->gemm) return 1;

    nvfp4_backend_info info = {.struct_size = sizeof info};
    nvfp4_context *context;
    if (nvfp4->context_create(NULL, &context) != NVFP4_STATUS_SUCCESS || nvfp4->context_info(context, &info) != NVFP4_STATUS_SUCCESS) {
        fprintf(stderr, "%s\n", nvfp4->last_message());
        return 1;
    }
    printf("libnvfp4 %s on %s\n", nvfp4->version_string(), info.name);
    return nvfp4->context_destroy(context) != NVFP4_STATUS_SUCCESS; /* the library stays loaded: it has threads */
}
