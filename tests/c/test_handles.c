/* Handles: NULL, destroyed, destroyed twice, of another kind, of another context, and bits that were never a handle.
 * Every function that takes a handle refuses each with INVALID_HANDLE, names the argument and touches nothing. */
#include "harness.h"

static nvfp4_context *context, *other;
static nvfp4_stream *stream, *other_stream;
static nvfp4_event *event, *other_event;
static nvfp4_graph *graph, *other_graph;
static nvfp4_buffer *buffer, *other_buffer;
static nvfp4_weights *weights, *other_weights;
static unsigned char *memory;

typedef nvfp4_status (*call_with)(void *handle);
typedef struct {
    const char *name, *argument;
    call_with call;
} entry;

#define ENTRY(name, type, expression)                             \
    static nvfp4_status name(void *handle) {                      \
        type *h = handle;                                         \
        void *made = NULL;                                        \
        nvfp4_status status = expression;                         \
        CHECK(made == NULL);                                      \
        return status;                                            \
    }
#define MADE(type) (type **)(void *)&made

static nvfp4_backend_info info = {.struct_size = sizeof info};
static nvfp4_faults faults = {.struct_size = sizeof faults};
static nvfp4_pool_stats stats = {.struct_size = sizeof stats};
static nvfp4_weights_shape shape = {.struct_size = sizeof shape};
static int32_t number;
static size_t size;
static float ms;
static nvfp4_weights_export_args export_args = {.struct_size = sizeof export_args};
static nvfp4_grouped_gemm_args gemm_args = {.struct_size = sizeof gemm_args};

ENTRY(context_destroy, nvfp4_context, nvfp4_context_destroy(h))
ENTRY(context_info, nvfp4_context, nvfp4_context_info(h, &info))
ENTRY(context_faults, nvfp4_context, nvfp4_context_faults(h, &faults))
ENTRY(context_clear_faults, nvfp4_context, nvfp4_context_clear_faults(h))
ENTRY(context_synchronize, nvfp4_context, nvfp4_context_synchronize(h))
ENTRY(context_pool_stats, nvfp4_context, nvfp4_context_pool_stats(h, &stats))
ENTRY(context_pool_trim, nvfp4_context, nvfp4_context_pool_trim(h, 0))
ENTRY(feature_supported, nvfp4_context, nvfp4_feature_supported(h, NVFP4_FEATURE_GRAPH, &number))
ENTRY(prepare, nvfp4_context, nvfp4_prepare(h, NULL))
ENTRY(stream_create, nvfp4_context, nvfp4_stream_create(h, MADE(nvfp4_stream)))
ENTRY(stream_borrow, nvfp4_context, nvfp4_stream_borrow(h, NULL, MADE(nvfp4_stream)))
ENTRY(event_create, nvfp4_context, nvfp4_event_create(h, MADE(nvfp4_event)))
ENTRY(buffer_create_c, nvfp4_context, nvfp4_buffer_create(h, 64, stream, MADE(nvfp4_buffer)))

ENTRY(stream_destroy, nvfp4_stream, nvfp4_stream_destroy(h))
ENTRY(stream_synchronize, nvfp4_stream, nvfp4_stream_synchronize(h))
ENTRY(stream_query, nvfp4_stream, nvfp4_stream_query(h, &number))
ENTRY(event_record_s, nvfp4_stream, nvfp4_event_record(event, h))
ENTRY(event_wait_s, nvfp4_stream, nvfp4_event_wait(event, h))
ENTRY(graph_begin_capture, nvfp4_stream, nvfp4_graph_begin_capture(h, NVFP4_CAPTURE_MODE_GLOBAL))
ENTRY(graph_end_capture, nvfp4_stream, nvfp4_graph_end_capture(h, MADE(nvfp4_graph)))
ENTRY(graph_launch_s, nvfp4_stream, nvfp4_graph_launch(graph, h))
ENTRY(buffer_create_s, nvfp4_stream, nvfp4_buffer_create(context, 64, h, MADE(nvfp4_buffer)))
ENTRY(buffer_upload_s, nvfp4_stream, nvfp4_buffer_upload(buffer, 0, memory, 16, h))
ENTRY(buffer_download_s, nvfp4_stream, nvfp4_buffer_download(buffer, 0, memory, 16, h))
ENTRY(buffer_copy_s, nvfp4_stream, nvfp4_buffer_copy(buffer, 0, buffer, 64, 16, h))

ENTRY(event_destroy, nvfp4_event, nvfp4_event_destroy(h))
ENTRY(event_record, nvfp4_event, nvfp4_event_record(h, stream))
ENTRY(event_wait, nvfp4_event, nvfp4_event_wait(h, stream))
ENTRY(event_synchronize, nvfp4_event, nvfp4_event_synchronize(h))
ENTRY(event_query, nvfp4_event, nvfp4_event_query(h, &number))
ENTRY(event_elapsed_start, nvfp4_event, nvfp4_event_elapsed_ms(h, event, &ms))
ENTRY(event_elapsed_end, nvfp4_event, nvfp4_event_elapsed_ms(event, h, &ms))

ENTRY(graph_instantiate, nvfp4_graph, nvfp4_graph_instantiate(h))
ENTRY(graph_update, nvfp4_graph, nvfp4_graph_update(h, graph))
ENTRY(graph_update_from, nvfp4_graph, nvfp4_graph_update(graph, h))
ENTRY(graph_launch, nvfp4_graph, nvfp4_graph_launch(h, stream))
ENTRY(graph_node_count, nvfp4_graph, nvfp4_graph_node_count(h, &size))
ENTRY(graph_destroy, nvfp4_graph, nvfp4_graph_destroy(h))

ENTRY(buffer_destroy, nvfp4_buffer, nvfp4_buffer_destroy(h))
ENTRY(buffer_data, nvfp4_buffer, nvfp4_buffer_data(h, &made))
ENTRY(buffer_size, nvfp4_buffer, nvfp4_buffer_size(h, &size))
ENTRY(buffer_upload, nvfp4_buffer, nvfp4_buffer_upload(h, 0, memory, 16, stream))
ENTRY(buffer_download, nvfp4_buffer, nvfp4_buffer_download(h, 0, memory, 16, stream))
ENTRY(buffer_copy_dst, nvfp4_buffer, nvfp4_buffer_copy(h, 0, buffer, 0, 16, stream))
ENTRY(buffer_copy_src, nvfp4_buffer, nvfp4_buffer_copy(buffer, 0, h, 0, 16, stream))

static nvfp4_status weights_export(void *handle) {
    export_args.weights = handle;
    return nvfp4_weights_export(context, &export_args, stream);
}
static nvfp4_status grouped_gemm(void *handle) {
    gemm_args.weights = handle;
    return nvfp4_grouped_gemm(context, &gemm_args, stream);
}
static nvfp4_status gemm(void *handle) {
    gemm_args.weights = handle;
    return nvfp4_gemm(context, &gemm_args, stream);
}
ENTRY(weights_info, nvfp4_weights, nvfp4_weights_info(h, &shape))
ENTRY(weights_destroy, nvfp4_weights, nvfp4_weights_destroy(h))

static const entry of_context[] = {
    {"context_destroy", "context", context_destroy}, {"context_info", "context", context_info},
    {"context_faults", "context", context_faults}, {"context_clear_faults", "context", context_clear_faults},
    {"context_synchronize", "context", context_synchronize}, {"context_pool_stats", "context", context_pool_stats},
    {"context_pool_trim", "context", context_pool_trim}, {"feature_supported", "context", feature_supported},
    {"prepare", "context", prepare}, {"stream_create", "context", stream_create}, {"stream_borrow", "context", stream_borrow},
    {"event_create", "context", event_create}, {"buffer_create", "context", buffer_create_c}};
static const entry of_stream[] = {
    {"stream_destroy", "stream", stream_destroy}, {"stream_synchronize", "stream", stream_synchronize},
    {"stream_query", "stream", stream_query}, {"event_record", "stream", event_record_s}, {"event_wait", "stream", event_wait_s},
    {"graph_begin_capture", "stream", graph_begin_capture}, {"graph_end_capture", "stream", graph_end_capture},
    {"graph_launch", "stream", graph_launch_s}, {"buffer_create", "stream", buffer_create_s},
    {"buffer_upload", "stream", buffer_upload_s}, {"buffer_download", "stream", buffer_download_s},
    {"buffer_copy", "stream", buffer_copy_s}};
static const entry of_event[] = {
    {"event_destroy", "event", event_destroy}, {"event_record", "event", event_record}, {"event_wait", "event", event_wait},
    {"event_synchronize", "event", event_synchronize}, {"event_query", "event", event_query},
    {"event_elapsed_ms", "start", event_elapsed_start}, {"event_elapsed_ms", "end", event_elapsed_end}};
static const entry of_graph[] = {
    {"graph_instantiate", "graph", graph_instantiate}, {"graph_update", "graph", graph_update}, {"graph_update", "from", graph_update_from},
    {"graph_launch", "graph", graph_launch}, {"graph_node_count", "graph", graph_node_count}, {"graph_destroy", "graph", graph_destroy}};
static const entry of_buffer[] = {
    {"buffer_destroy", "buffer", buffer_destroy}, {"buffer_data", "buffer", buffer_data}, {"buffer_size", "buffer", buffer_size},
    {"buffer_upload", "buffer", buffer_upload}, {"buffer_download", "buffer", buffer_download},
    {"buffer_copy", "dst", buffer_copy_dst}, {"buffer_copy", "src", buffer_copy_src}};
static const entry of_weights[] = {
    {"weights_export", "weights", weights_export}, {"grouped_gemm", "weights", grouped_gemm}, {"gemm", "weights", gemm},
    {"weights_info", "weights", weights_info}, {"weights_destroy", "weights", weights_destroy}};

static nvfp4_graph *make_graph(nvfp4_stream *s) {
    nvfp4_graph *made = NULL;
    MUST(nvfp4_graph_begin_capture(s, NVFP4_CAPTURE_MODE_RELAXED) == 0 && nvfp4_graph_end_capture(s, &made) == 0);
    MUST(nvfp4_graph_instantiate(made) == 0);
    return made;
}

static nvfp4_weights *make_weights(nvfp4_context *c, nvfp4_stream *s) {
    nvfp4_weights *made = NULL;
    nvfp4_weights_prepare_args args = {.struct_size = sizeof args, .groups = 1, .rows = 16, .cols = 16,
                                       .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = mem_in(16 * 16 * 2)};
    MUST(nvfp4_weights_storage_size(c, &args, &args.storage_size) == 0);
    args.storage = mem_in(args.storage_size);
    MUST(nvfp4_weights_prepare(c, &args, s, &made) == 0);
    return made;
}

static void refuse(const char *kind, const entry *entries, size_t count, void *live, void *stale) {
    int local = 0;
    struct {
        const char *name;
        void *handle;
    } bad[] = {
        {"NULL", NULL}, {"destroyed", stale}, {"1", (void *)1}, {"all bits", (void *)UINTPTR_MAX}, {"an address", &local},
        {"random", (void *)(uintptr_t)0xDEADBEEFCAFEF00D}, {"a later generation", (char *)live + ((uintptr_t)1 << 32)}, {"an index past the table", (char *)live + 1000000}, {"live ^ the top bit", (void *)((uintptr_t)live ^ ((uintptr_t)1 << 63))},
        {"a context", context}, {"a stream", stream}, {"an event", event}, {"a graph", graph}, {"a buffer", buffer}, {"weights", weights}};
    for (size_t e = 0; e < count; e++)
        CASE("%s refuses a bad %s", entries[e].name, entries[e].argument) {
            mem_snapshot();
            for (size_t b = 0; b < COUNT(bad); b++) {
                if (bad[b].handle == live) continue;
                if (!BAD_HANDLE(entries[e].call(bad[b].handle), entries[e].argument)) printf("  (%s given as %s)\n", bad[b].name, kind);
            }
            CHECK(mem_unchanged());
            CHECK(number == 0 && size == 0 && ms == 0);
        }
}

int main(void) {
    open_context(&context, &stream, 1);
    open_context(&other, &other_stream, 1);
    memory = mem_in(64);
    MUST(nvfp4_event_create(context, &event) == 0 && nvfp4_event_create(other, &other_event) == 0);
    MUST(nvfp4_event_record(event, stream) == 0 && nvfp4_event_record(other_event, other_stream) == 0);
    MUST(nvfp4_buffer_create(context, 256, stream, &buffer) == 0 && nvfp4_buffer_create(other, 256, other_stream, &other_buffer) == 0);
    graph = make_graph(stream), other_graph = make_graph(other_stream);
    weights = make_weights(context, stream), other_weights = make_weights(other, other_stream);

    nvfp4_context *stale_context;
    nvfp4_stream *stale_stream;
    nvfp4_event *stale_event;
    nvfp4_buffer *stale_buffer;
    open_context(&stale_context, &stale_stream, 1);
    MUST(nvfp4_event_create(context, &stale_event) == 0 && nvfp4_buffer_create(context, 256, stream, &stale_buffer) == 0);
    nvfp4_graph *stale_graph = make_graph(stream);
    nvfp4_weights *stale_weights = make_weights(context, stream);
    MUST(nvfp4_stream_destroy(stale_stream) == 0 && nvfp4_context_destroy(stale_context) == 0 && nvfp4_event_destroy(stale_event) == 0);
    MUST(nvfp4_buffer_destroy(stale_buffer) == 0 && nvfp4_graph_destroy(stale_graph) == 0 && nvfp4_weights_destroy(stale_weights) == 0);
    /* Slots may be used again; a stale ticket must not open what took its place. */
    nvfp4_event *taker;
    MUST(nvfp4_event_create(context, &taker) == 0 && (void *)taker != (void *)stale_event);

    refuse("context", of_context, COUNT(of_context), context, stale_context);
    refuse("stream", of_stream, COUNT(of_stream), stream, stale_stream);
    refuse("event", of_event, COUNT(of_event), event, stale_event);
    refuse("graph", of_graph, COUNT(of_graph), graph, stale_graph);
    refuse("buffer", of_buffer, COUNT(of_buffer), buffer, stale_buffer);
    refuse("weights", of_weights, COUNT(of_weights), weights, stale_weights);

    CASE("handles of another context") {
        void *made = NULL;
        BAD_HANDLE(nvfp4_event_record(event, other_stream), "stream");
        BAD_HANDLE(nvfp4_event_wait(event, other_stream), "stream");
        BAD_HANDLE(nvfp4_event_elapsed_ms(event, other_event, &ms), "end");
        BAD_HANDLE(nvfp4_graph_launch(graph, other_stream), "stream");
        BAD_HANDLE(nvfp4_graph_update(graph, other_graph), "from");
        BAD_HANDLE(nvfp4_buffer_create(context, 64, other_stream, MADE(nvfp4_buffer)), "stream");
        BAD_HANDLE(nvfp4_buffer_upload(buffer, 0, memory, 16, other_stream), "stream");
        BAD_HANDLE(nvfp4_buffer_download(buffer, 0, memory, 16, other_stream), "stream");
        BAD_HANDLE(nvfp4_buffer_copy(buffer, 0, other_buffer, 0, 16, stream), "src");
        BAD_HANDLE(nvfp4_buffer_copy(other_buffer, 0, buffer, 0, 16, stream), NULL); /* dst or stream: neither fits the other */
        BAD_HANDLE(weights_export(other_weights), "weights");
        BAD_HANDLE(grouped_gemm(other_weights), "weights");
        CHECK(made == NULL && ms == 0);
    }
    CASE("children outlive their context, to be destroyed only") {
        nvfp4_backend_info after = {.struct_size = sizeof after};
        OK(nvfp4_context_destroy(other));
        BAD_HANDLE(nvfp4_context_destroy(other), "context");
        BAD_HANDLE(nvfp4_context_info(other, &after), "context");
        BAD_HANDLE(nvfp4_stream_synchronize(other_stream), NULL);
        BAD_HANDLE(nvfp4_event_record(other_event, other_stream), NULL);
        BAD_HANDLE(nvfp4_graph_launch(other_graph, other_stream), NULL);
        OK(nvfp4_weights_destroy(other_weights));
        OK(nvfp4_graph_destroy(other_graph));
        OK(nvfp4_buffer_destroy(other_buffer));
        OK(nvfp4_event_destroy(other_event));
        OK(nvfp4_stream_destroy(other_stream));
        BAD_HANDLE(nvfp4_stream_destroy(other_stream), "stream");
    }
    CASE("streams that captured when their context was destroyed") {
        nvfp4_context *brief;
        nvfp4_stream *origin, *joined;
        nvfp4_event *mark;
        nvfp4_graph *none = NULL;
        open_context(&brief, &origin, 1);
        OK(nvfp4_stream_create(brief, &joined));
        OK(nvfp4_event_create(brief, &mark));
        OK(nvfp4_graph_begin_capture(origin, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_event_record(mark, origin));
        OK(nvfp4_event_wait(mark, joined));
        REFUSED(nvfp4_stream_destroy(joined), NVFP4_STATUS_CAPTURE, "captur");
        OK(nvfp4_context_destroy(brief));
        BAD_HANDLE(nvfp4_graph_end_capture(origin, &none), "context");
        OK(nvfp4_stream_destroy(joined));
        OK(nvfp4_stream_destroy(origin));
        OK(nvfp4_event_destroy(mark));
    }
    CASE("a thousand handles, created and destroyed, never the same ticket") {
        static nvfp4_event *seen[1000];
        for (size_t i = 0; i < COUNT(seen); i++) {
            OK(nvfp4_event_create(context, &seen[i]));
            CHECK(seen[i] != NULL && (i == 0 || seen[i] != seen[i - 1]));
            OK(nvfp4_event_destroy(seen[i]));
        }
        for (size_t i = 0; i < COUNT(seen); i++) BAD_HANDLE(nvfp4_event_destroy(seen[i]), "event");
    }
    MUST(nvfp4_weights_destroy(weights) == 0 && nvfp4_graph_destroy(graph) == 0 && nvfp4_buffer_destroy(buffer) == 0);
    MUST(nvfp4_event_destroy(event) == 0 && nvfp4_event_destroy(taker) == 0);
    close_context(context, stream);
    return finish();
}
