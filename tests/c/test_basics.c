/* Versions, status names, messages, backends, contexts: their options, their refusals and the structs they fill. */
#define _POSIX_C_SOURCE 200809L
#include "harness.h"
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static nvfp4_context *context;
static nvfp4_stream *stream;

static void versions(void) {
    CASE("versions agree") {
        char text[32];
        snprintf(text, sizeof text, "%d.%d.%d", NVFP4_VERSION_MAJOR, NVFP4_VERSION_MINOR, NVFP4_VERSION_PATCH);
        CHECK(strcmp(nvfp4_version_string(), text) == 0);
        CHECK(nvfp4_version() == NVFP4_VERSION_MAJOR * 10000 + NVFP4_VERSION_MINOR * 100 + NVFP4_VERSION_PATCH);
        CHECK(nvfp4_abi_version() == NVFP4_ABI_VERSION);
    }
    CASE("status names") {
        for (int status = -3; status < 40; status++) {
            const char *name = nvfp4_status_name(status);
            CHECK((name != NULL) == (status >= NVFP4_STATUS_SUCCESS && status <= NVFP4_STATUS_INTERNAL));
            if (name) CHECK(strncmp(name, "NVFP4_STATUS_", 13) == 0);
        }
        CHECK(strcmp(nvfp4_status_name(NVFP4_STATUS_CAPTURE), "NVFP4_STATUS_CAPTURE") == 0);
        CHECK(strcmp(nvfp4_status_name(NVFP4_STATUS_INTERNAL), "NVFP4_STATUS_INTERNAL") == 0);
        CHECK(nvfp4_status_name(INT32_MIN) == NULL && nvfp4_status_name(INT32_MAX) == NULL);
    }
}

static void *message_of_a_new_thread(void *before) {
    *(bool *)before = strcmp(nvfp4_last_message(), "") == 0;
    (void)nvfp4_context_destroy(NULL);
    return strstr(nvfp4_last_message(), "nvfp4_context_destroy: context") ? before : NULL;
}

static void messages(void) {
    CASE("messages: empty at first, kept after successes, one a thread") {
        pthread_t thread;
        bool empty = false;
        void *good = NULL;
        CHECK(strcmp(nvfp4_last_message(), "") == 0);
        BAD_HANDLE(nvfp4_stream_destroy(NULL), "nvfp4_stream_destroy: stream");
        OK(nvfp4_context_synchronize(context));
        CHECK(strstr(nvfp4_last_message(), "nvfp4_stream_destroy: stream") != NULL);
        MUST(pthread_create(&thread, NULL, message_of_a_new_thread, &empty) == 0 && pthread_join(thread, &good) == 0);
        CHECK(empty && good == &empty);
        CHECK(strstr(nvfp4_last_message(), "nvfp4_stream_destroy: stream") != NULL);
        CHECK(strlen(nvfp4_last_message()) < 512);
    }
}

static void backends(void) {
    nvfp4_backend_info info = {.struct_size = sizeof info};
    CASE("backends") {
        OK(nvfp4_backend_query(NVFP4_BACKEND_CPU, 0, &info));
        CHECK(info.backend == NVFP4_BACKEND_CPU && info.available == 1 && info.device_count == 1 && info.threads >= 1);
        CHECK(info.isa >= NVFP4_ISA_PORTABLE && info.isa <= NVFP4_ISA_AVX512 && info.reserved == 0);
        CHECK(info.name[0] != 0 && memchr(info.name, 0, sizeof info.name) != NULL && info.struct_size == sizeof info);
        OK(nvfp4_backend_query(NVFP4_BACKEND_CUDA, 0, &info));
        CHECK(info.backend == NVFP4_BACKEND_CUDA);
        if (!info.available) CHECK(info.name[0] != 0); /* says why */
        mem_snapshot();
        BAD_ARGUMENT(nvfp4_backend_query(7, 0, &info), "backend = 7");
        BAD_ARGUMENT(nvfp4_backend_query(NVFP4_BACKEND_CPU, 1, &info), "device = 1");
        BAD_ARGUMENT(nvfp4_backend_query(NVFP4_BACKEND_CPU, 0, NULL), "info is NULL");
        info.struct_size = 8;
        BAD_ARGUMENT(nvfp4_backend_query(NVFP4_BACKEND_CPU, 0, &info), "struct_size = 8");
        OK(nvfp4_context_info(context, &(nvfp4_backend_info){.struct_size = sizeof info}));
    }
    CASE("features") {
        if (cpu_alone("these are the CPU's")) continue;
        int32_t supported = 77;
        OK(nvfp4_feature_supported(context, NVFP4_FEATURE_GRAPH, &supported));
        CHECK(supported == 1);
        OK(nvfp4_feature_supported(context, NVFP4_FEATURE_ALWAYS_BATCH_INVARIANT, &supported));
        CHECK(supported == 1);
        OK(nvfp4_feature_supported(context, NVFP4_FEATURE_DEPENDENT_LAUNCH, &supported));
        CHECK(supported == 0);
        OK(nvfp4_feature_supported(context, NVFP4_FEATURE_NATIVE_FP4, &supported));
        CHECK(supported == 0);
        supported = 77;
        BAD_ARGUMENT(nvfp4_feature_supported(context, 0, &supported), "feature = 0");
        BAD_ARGUMENT(nvfp4_feature_supported(context, 1000, &supported), "feature = 1000");
        BAD_ARGUMENT(nvfp4_feature_supported(context, NVFP4_FEATURE_GRAPH, NULL), "supported is NULL");
        CHECK(supported == 77);
    }
}

static void contexts(void) {
    CASE("context options") {
        static const struct {
            const char *name;
            nvfp4_context_options options;
            nvfp4_status status;
            const char *message;
        } rows[] = {
            {"backend", {sizeof(nvfp4_context_options), 9, 0, 0, 0, 0, 0}, NVFP4_STATUS_INVALID_ARGUMENT, "options.backend = 9"},
            {"device", {sizeof(nvfp4_context_options), 0, 1, 0, 0, 0, 0}, NVFP4_STATUS_INVALID_ARGUMENT, "options.device = 1"},
            {"threads", {sizeof(nvfp4_context_options), 0, 0, 1025, 0, 0, 0}, NVFP4_STATUS_INVALID_ARGUMENT, "options.threads = 1025"},
            {"isa", {sizeof(nvfp4_context_options), 0, 0, 0, 4, 0, 0}, NVFP4_STATUS_INVALID_ARGUMENT, "options.isa = 4"},
            {"struct_size 0", {0, 0, 0, 0, 0, 0, 0}, NVFP4_STATUS_INVALID_ARGUMENT, "struct_size = 0"},
            {"struct_size large", {SIZE_MAX, 0, 0, 0, 0, 0, 0}, NVFP4_STATUS_INVALID_ARGUMENT, "struct_size"},
        };
        nvfp4_context *made = NULL;
        for (size_t i = 0; i < COUNT(rows); i++) {
            REFUSED(nvfp4_context_create(&rows[i].options, &made), rows[i].status, rows[i].message);
            CHECK(made == NULL);
        }
        BAD_ARGUMENT(nvfp4_context_create(NULL, NULL), "context is NULL");
        OK(nvfp4_context_create(NULL, &made)); /* all defaults */
        OK(nvfp4_context_destroy(made));
        nvfp4_context_options cuda = {.struct_size = sizeof cuda, .backend = NVFP4_BACKEND_CUDA};
        nvfp4_backend_info info = {.struct_size = sizeof info};
        OK(nvfp4_backend_query(NVFP4_BACKEND_CUDA, 0, &info));
        made = NULL;
        if (!info.available) {
            nvfp4_status status = nvfp4_context_create(&cuda, &made);
            CHECK(status >= NVFP4_STATUS_UNSUPPORTED && status <= NVFP4_STATUS_UNSUPPORTED_DRIVER && made == NULL);
            CHECK(strstr(nvfp4_last_message(), "CUDA") != NULL);
        }
    }
    CASE("every instruction set is created or refused by name") {
        nvfp4_backend_info best = {.struct_size = sizeof best}, info = {.struct_size = sizeof info};
        OK(nvfp4_backend_query(NVFP4_BACKEND_CPU, 0, &best));
        for (nvfp4_isa isa = NVFP4_ISA_PORTABLE; isa <= NVFP4_ISA_AVX512; isa++) {
            nvfp4_context_options options = {.struct_size = sizeof options, .threads = 2, .isa = isa};
            nvfp4_context *made = NULL;
            nvfp4_status status = nvfp4_context_create(&options, &made);
            if (isa > best.isa) {
                CHECK(status != NVFP4_STATUS_SUCCESS && made == NULL);
                continue;
            }
            CHECK(status == NVFP4_STATUS_SUCCESS);
            OK(nvfp4_context_info(made, &info));
            CHECK(info.isa == isa && info.threads == 2);
            OK(nvfp4_context_destroy(made));
        }
    }
    CASE("contexts come and go") {
        for (int i = 0; i < 50; i++) {
            nvfp4_context *made;
            nvfp4_stream *own;
            open_context(&made, &own, 3);
            OK(nvfp4_stream_destroy(own));
            OK(nvfp4_context_destroy(made));
        }
    }
    CASE("prepare") {
        nvfp4_prepare_args args = {.struct_size = sizeof args};
        OK(nvfp4_prepare(context, NULL));
        OK(nvfp4_prepare(context, &args));
        args.reserved = 1;
        BAD_ARGUMENT(nvfp4_prepare(context, &args), "reserved = 1");
        args = (nvfp4_prepare_args){.struct_size = 9};
        BAD_ARGUMENT(nvfp4_prepare(context, &args), "struct_size = 9");
    }
}

/* Structs that the library fills: each size that is no struct is refused and nothing is written; a larger one is zeroed. */
static nvfp4_status fill_info(void *p) { return nvfp4_context_info(context, p); }
static nvfp4_status fill_query(void *p) { return nvfp4_backend_query(NVFP4_BACKEND_CPU, 0, p); }
static nvfp4_status fill_faults(void *p) { return nvfp4_context_faults(context, p); }
static nvfp4_status fill_stats(void *p) { return nvfp4_context_pool_stats(context, p); }

static void filled_structs(void) {
    static const struct {
        const char *name, *argument;
        nvfp4_status (*fill)(void *);
        size_t size;
    } rows[] = {
        {"context_info", "info", fill_info, sizeof(nvfp4_backend_info)}, {"backend_query", "info", fill_query, sizeof(nvfp4_backend_info)},
        {"context_faults", "faults", fill_faults, sizeof(nvfp4_faults)}, {"context_pool_stats", "stats", fill_stats, sizeof(nvfp4_pool_stats)}};
    static const size_t bad[] = {0, 1, 7, 8, 15, SIZE_MAX, SIZE_MAX / 2};
    for (size_t i = 0; i < COUNT(rows); i++)
        CASE("%s fills its struct", rows[i].name) {
            uint64_t words[32];
            unsigned char *bytes = (unsigned char *)words;
            for (size_t b = 0; b < COUNT(bad); b++) {
                memset(words, 0xA5, sizeof words);
                memcpy(words, &bad[b], sizeof bad[b]);
                BAD_ARGUMENT(rows[i].fill(words), "struct_size");
                CHECK(all_bytes(bytes + 8, sizeof words - 8, 0xA5));
            }
            BAD_ARGUMENT(rows[i].fill(NULL), rows[i].argument);
            memset(words, 0x5A, sizeof words);
            words[0] = rows[i].size;
            OK(rows[i].fill(words));
            CHECK(words[0] == rows[i].size && all_bytes(bytes + rows[i].size, sizeof words - rows[i].size, 0x5A));
            memset(words, 0x5A, sizeof words);
            words[0] = rows[i].size + 16; /* a newer caller: its fields read as zero */
            OK(rows[i].fill(words));
            CHECK(all_bytes(bytes + rows[i].size, 16, 0) && bytes[rows[i].size + 16] == 0x5A);
        }
}

static void forks(void) {
    CASE("a fork is refused by name") {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            nvfp4_status status = nvfp4_context_synchronize(context), other = nvfp4_stream_synchronize(stream);
            bool named = strstr(nvfp4_last_message(), "fork") != NULL;
            alarm(20); /* the threads are not there: waiting for them would never end */
            (void)nvfp4_stream_destroy(stream);
            (void)nvfp4_context_destroy(context);
            nvfp4_context *made = NULL;
            nvfp4_status fresh = nvfp4_context_create(NULL, &made);
            bool gone = nvfp4_context_destroy(made) == NVFP4_STATUS_SUCCESS;
            _exit(gone && status == NVFP4_STATUS_FORKED && other == NVFP4_STATUS_FORKED && named && fresh == NVFP4_STATUS_SUCCESS ? 0 : 1);
        }
        int how = 0;
        MUST(child > 0 && waitpid(child, &how, 0) == child);
        CHECK_THAT(!WIFSIGNALED(how), "the child died of signal %d", WIFSIGNALED(how) ? WTERMSIG(how) : 0);
        CHECK(WIFEXITED(how) && WEXITSTATUS(how) == 0);
        OK(nvfp4_context_synchronize(context));
    }
}

int main(void) {
    versions();
    open_context(&context, &stream, 2);
    messages();
    backends();
    contexts();
    filled_structs();
    forks();
    close_context(context, stream);
    return finish();
}
