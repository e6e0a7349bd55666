/* The log callback: levels, user data, removal, threads, and a callback that itself calls the library. */
#define _POSIX_C_SOURCE 200809L
#include "harness.h"
#include <pthread.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int calls;
    int32_t level;
    char last[600];
} record;

static void remember(int32_t level, const char *message, void *user_data) {
    record *r = user_data;
    r->calls++;
    r->level = level;
    snprintf(r->last, sizeof r->last, "%s", message);
}

static void *fail_once(void *unused) {
    (void)nvfp4_event_destroy(NULL);
    return unused;
}

static void rest(long milliseconds) {
    struct timespec time = {0, milliseconds * 1000000};
    nanosleep(&time, NULL);
}

static void failing_callback(int32_t level, const char *message, void *user_data) {
    (void)level, (void)message;
    *(int *)user_data += 1;
    rest(60); /* until the other thread waits to remove the callback */
    (void)nvfp4_context_destroy(NULL);
}

static void *remove_callback(void *unused) {
    rest(20);
    (void)nvfp4_set_log_callback(NULL, NULL, NVFP4_LOG_LEVEL_ERROR);
    return unused;
}

int main(void) {
    record seen = {0}, other = {0};
    CASE("refusals") {
        BAD_ARGUMENT(nvfp4_set_log_callback(remember, &seen, 3), "level = 3");
        BAD_ARGUMENT(nvfp4_set_log_callback(remember, &seen, -1), "level = -1");
        BAD_HANDLE(nvfp4_stream_destroy(NULL), "stream");
        CHECK(seen.calls == 0); /* a refused callback is not set */
    }
    CASE("errors arrive with the message of the call") {
        OK(nvfp4_set_log_callback(remember, &seen, NVFP4_LOG_LEVEL_ERROR));
        BAD_HANDLE(nvfp4_stream_destroy(NULL), "stream");
        CHECK(seen.calls == 1 && seen.level == NVFP4_LOG_LEVEL_ERROR);
        CHECK(strcmp(seen.last, nvfp4_last_message()) == 0);
        BAD_HANDLE(nvfp4_event_destroy(NULL), "event");
        CHECK(seen.calls == 2 && strstr(seen.last, "nvfp4_event_destroy") != NULL);
    }
    CASE("successes are silent at the error level") {
        nvfp4_context *context;
        nvfp4_stream *stream;
        open_context(&context, &stream, 1);
        OK(nvfp4_context_synchronize(context));
        close_context(context, stream);
        CHECK(seen.calls == 2);
    }
    CASE("another thread's failures arrive too") {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, fail_once, NULL) == 0 && pthread_join(thread, NULL) == 0);
        CHECK(seen.calls == 3);
    }
    CASE("replaced and removed") {
        OK(nvfp4_set_log_callback(remember, &other, NVFP4_LOG_LEVEL_INFO));
        BAD_HANDLE(nvfp4_graph_destroy(NULL), "graph");
        CHECK(seen.calls == 3 && other.calls == 1);
        OK(nvfp4_set_log_callback(NULL, NULL, NVFP4_LOG_LEVEL_ERROR));
        BAD_HANDLE(nvfp4_buffer_destroy(NULL), "buffer");
        CHECK(other.calls == 1);
    }
    CASE("a callback may call the library, failing calls included") {
        fflush(stdout);
        pid_t child = fork(); /* so that an abort is one failure, not the end */
        if (child == 0) {
            int calls = 0;
            pthread_t thread;
            alarm(10); /* ends a deadlock */
            (void)!freopen("/dev/null", "w", stderr);
            (void)nvfp4_set_log_callback(failing_callback, &calls, NVFP4_LOG_LEVEL_ERROR);
            (void)pthread_create(&thread, NULL, remove_callback, NULL);
            nvfp4_status status = nvfp4_stream_destroy(NULL);
            bool own = strstr(nvfp4_last_message(), "nvfp4_stream_destroy") != NULL; /* not that of the callback */
            (void)pthread_join(thread, NULL);
            (void)nvfp4_stream_destroy(NULL);
            _exit(status == NVFP4_STATUS_INVALID_HANDLE && own && calls == 1 ? 0 : 1);
        }
        int how = 0;
        MUST(child > 0 && waitpid(child, &how, 0) == child);
        CHECK_THAT(!WIFSIGNALED(how), "the process died of signal %d", WIFSIGNALED(how) ? WTERMSIG(how) : 0);
        CHECK(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    }
    return finish();
}
