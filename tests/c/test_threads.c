/* Threads: two threads on two streams of one context give the bits of one thread, 10^4 calls each; handles come and go
 * beside them; one graph may be launched from both. */
#include "harness.h"
#include <pthread.h>

enum { ROWS = 8, COLS = 128, CALLS = 10000, INPUTS = 16 };

static nvfp4_context *context;
static uint16_t inputs[INPUTS][ROWS * COLS] __attribute__((aligned(64)));
static unsigned char want_codes[INPUTS][ROWS * COLS / 2], want_scales[INPUTS][ROWS * COLS / 16];
static float want_decode[INPUTS][ROWS];
static uint16_t want_values[INPUTS][ROWS * COLS];

typedef struct {
    _Alignas(64) unsigned char codes[ROWS * COLS / 2];
    _Alignas(64) unsigned char scales[ROWS * COLS / 16];
    _Alignas(64) float decode[16];
    _Alignas(64) uint16_t values[ROWS * COLS];
} scratch;

typedef struct {
    nvfp4_stream *stream;
    nvfp4_graph *graph;
    scratch room;
    unsigned seed;
    size_t calls, wrong, refused;
} worker;

static bool round_trip(worker *w, size_t i) {
    nvfp4_quantize_args q = {.struct_size = sizeof q, .src = inputs[i], .rows = ROWS, .cols = COLS,
                             .out = {.codes = w->room.codes, .scales = w->room.scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = w->room.decode}};
    nvfp4_dequantize_args d = {.struct_size = sizeof d, .rows = ROWS, .cols = COLS, .dst = w->room.values,
                               .input = {.codes = w->room.codes, .scales = w->room.scales, .scope = NVFP4_SCOPE_ROW, .decode_scales = w->room.decode}};
    return nvfp4_quantize(context, &q, w->stream) == NVFP4_STATUS_SUCCESS && nvfp4_dequantize(context, &d, w->stream) == NVFP4_STATUS_SUCCESS;
}

static void *work(void *argument) {
    worker *w = argument;
    for (size_t call = 0; call < CALLS; call++) {
        size_t i = (call * 7 + w->seed) % INPUTS;
        memset(&w->room, call % 2 ? 0xA5 : 0x5A, sizeof w->room);
        if (!round_trip(w, i)) w->refused++;
        w->wrong += memcmp(w->room.codes, want_codes[i], sizeof want_codes[i]) != 0 || memcmp(w->room.scales, want_scales[i], sizeof want_scales[i]) != 0 ||
                    memcmp(w->room.decode, want_decode[i], sizeof want_decode[i]) != 0 || memcmp(w->room.values, want_values[i], sizeof want_values[i]) != 0;
        w->calls++;
    }
    return NULL;
}

static void *churn(void *argument) {
    worker *w = argument;
    for (size_t call = 0; call < CALLS; call++) {
        nvfp4_event *event = NULL;
        nvfp4_buffer *buffer = NULL;
        bool good = nvfp4_event_create(context, &event) == 0 && nvfp4_event_record(event, w->stream) == 0 && nvfp4_event_destroy(event) == 0 &&
                    nvfp4_buffer_create(context, 64 + call % 1000, w->stream, &buffer) == 0 && nvfp4_buffer_destroy(buffer) == 0;
        /* A refusal of this thread must show its own message. */
        good = good && nvfp4_event_destroy(event) == NVFP4_STATUS_INVALID_HANDLE && strstr(nvfp4_last_message(), "nvfp4_event_destroy") != NULL;
        w->refused += !good;
        w->calls++;
    }
    return NULL;
}

static void *launch(void *argument) {
    worker *w = argument;
    for (size_t call = 0; call < CALLS / 10; call++, w->calls++) w->refused += nvfp4_graph_launch(w->graph, w->stream) != NVFP4_STATUS_SUCCESS;
    return NULL;
}

static void together(const char *name, void *(*run)(void *), worker workers[2], size_t calls, void *(*second)(void *)) {
    CASE("%s", name) {
        pthread_t threads[2];
        for (int t = 0; t < 2; t++) {
            workers[t].calls = workers[t].wrong = workers[t].refused = 0;
            MUST(pthread_create(&threads[t], NULL, t ? second : run, &workers[t]) == 0);
        }
        for (int t = 0; t < 2; t++) {
            MUST(pthread_join(threads[t], NULL) == 0);
            CHECK_THAT(workers[t].calls == calls && workers[t].wrong == 0 && workers[t].refused == 0, "thread %d: %zu calls, %zu wrong, %zu refused", t,
                       workers[t].calls, workers[t].wrong, workers[t].refused);
        }
    }
}

int main(void) {
    static worker workers[2], alone;
    program_of_the_cpu("its calls work on host memory; threads on a GPU are tests/gpu/runtime.c's");
    open_context(&context, &alone.stream, 3);
    for (int t = 0; t < 2; t++) {
        MUST(nvfp4_stream_create(context, &workers[t].stream) == 0);
        workers[t].seed = (unsigned)t * 5;
    }
    for (size_t i = 0; i < INPUTS; i++) {
        for (int k = 0; k < ROWS * COLS; k++) inputs[i][k] = (uint16_t)(0x3E00 | (random_bits() & 0x81FF));
        MUST(round_trip(&alone, i));
        memcpy(want_codes[i], alone.room.codes, sizeof want_codes[i]), memcpy(want_scales[i], alone.room.scales, sizeof want_scales[i]);
        memcpy(want_decode[i], alone.room.decode, sizeof want_decode[i]), memcpy(want_values[i], alone.room.values, sizeof want_values[i]);
    }
    together("two threads, two streams, the bits of one", work, workers, CALLS, work);
    together("work beside handles that come and go", work, workers, CALLS, churn);
    together("handles that come and go in two threads", churn, workers, CALLS, churn);
    MUST(nvfp4_graph_begin_capture(alone.stream, NVFP4_CAPTURE_MODE_THREAD_LOCAL) == 0 && round_trip(&alone, 3));
    MUST(nvfp4_graph_end_capture(alone.stream, &alone.graph) == 0 && nvfp4_graph_instantiate(alone.graph) == 0);
    workers[0].graph = workers[1].graph = alone.graph;
    memset(&alone.room, 0, sizeof alone.room);
    together("one graph launched from two threads", launch, workers, CALLS / 10, launch);
    CASE("and it has run") CHECK(memcmp(alone.room.values, want_values[3], sizeof want_values[3]) == 0);
    CASE("other contexts in other threads") {
        worker others[2] = {0};
        nvfp4_context *kept = context, *own;
        open_context(&own, &others[0].stream, 2);
        context = own; /* both workers run on the second context while the first stays alive */
        MUST(nvfp4_stream_create(own, &others[1].stream) == 0);
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, work, &others[0]) == 0);
        (void)work(&others[1]);
        MUST(pthread_join(thread, NULL) == 0);
        CHECK(others[0].wrong == 0 && others[1].wrong == 0 && others[0].refused == 0 && others[1].refused == 0);
        MUST(nvfp4_stream_destroy(others[0].stream) == 0 && nvfp4_stream_destroy(others[1].stream) == 0 && nvfp4_context_destroy(own) == 0);
        context = kept;
    }
    MUST(nvfp4_graph_destroy(alone.graph) == 0 && nvfp4_stream_destroy(workers[0].stream) == 0 && nvfp4_stream_destroy(workers[1].stream) == 0);
    close_context(context, alone.stream);
    return finish();
}
