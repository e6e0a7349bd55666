/* Graphs: capture, instantiate, launch, update; several streams in one capture; what a capture refuses.
 * A replay must give the bits of the eager calls, from the memory as it is at the launch. */
#include "harness.h"

enum { ROWS = 9, COLS = 128, CALLS = 50 };

static nvfp4_context *context;
static nvfp4_stream *stream, *side, *third;
static nvfp4_event *fork_event, *join_event, *third_event;
static uint16_t *src, *eager_values, *values;
static unsigned char *codes, *scales, *eager_codes, *eager_scales;
static float *decode, *eager_decode;

static void fresh_source(void) {
    for (int i = 0; i < ROWS * COLS; i++) src[i] = (uint16_t)(0x3F00 | (random_bits() & 0x80FF)); /* bf16, +-0.5 to 2 */
}

static nvfp4_quantize_args quantize_args(unsigned char *to_codes, unsigned char *to_scales, float *to_decode) {
    return (nvfp4_quantize_args){.struct_size = sizeof(nvfp4_quantize_args), .src = src, .rows = ROWS, .cols = COLS,
                                 .out = {.codes = to_codes, .scales = to_scales, .decode_scales = to_decode, .scope = NVFP4_SCOPE_ROW}};
}
static nvfp4_dequantize_args dequantize_args(unsigned char *from_codes, unsigned char *from_scales, float *from_decode, uint16_t *to) {
    return (nvfp4_dequantize_args){.struct_size = sizeof(nvfp4_dequantize_args), .rows = ROWS, .cols = COLS, .dst = to,
                                   .input = {.codes = from_codes, .scales = from_scales, .decode_scales = from_decode, .scope = NVFP4_SCOPE_ROW}};
}

static void run_eager(void) {
    nvfp4_quantize_args q = quantize_args(eager_codes, eager_scales, eager_decode);
    nvfp4_dequantize_args d = dequantize_args(eager_codes, eager_scales, eager_decode, eager_values);
    OK(nvfp4_quantize(context, &q, stream));
    OK(nvfp4_dequantize(context, &d, stream));
}
static void submit(nvfp4_stream *first, nvfp4_stream *second) {
    nvfp4_quantize_args q = quantize_args(codes, scales, decode);
    nvfp4_dequantize_args d = dequantize_args(codes, scales, decode, values);
    OK(nvfp4_quantize(context, &q, first));
    if (first != second) OK(nvfp4_event_record(fork_event, first)), OK(nvfp4_event_wait(fork_event, second));
    OK(nvfp4_dequantize(context, &d, second));
}
static bool same_as_eager(void) {
    return memcmp(codes, eager_codes, ROWS * COLS / 2) == 0 && memcmp(scales, eager_scales, ROWS * COLS / 16) == 0 &&
           memcmp(decode, eager_decode, ROWS * 4) == 0 && memcmp(values, eager_values, ROWS * COLS * 2) == 0;
}
static nvfp4_graph *captured(nvfp4_capture_mode mode) {
    nvfp4_graph *graph = NULL;
    OK(nvfp4_graph_begin_capture(stream, mode));
    submit(stream, stream);
    OK(nvfp4_graph_end_capture(stream, &graph));
    return graph;
}

static void replays(void) {
    for (nvfp4_capture_mode mode = NVFP4_CAPTURE_MODE_GLOBAL; mode <= NVFP4_CAPTURE_MODE_RELAXED; mode++)
        CASE("capture mode %u: recorded, not run; each launch reads memory as it is", mode) {
            size_t nodes = 0;
            fresh_source();
            mem_poison(0x5A);
            mem_snapshot();
            nvfp4_graph *graph = captured(mode);
            CHECK(mem_unchanged());
            OK(nvfp4_graph_node_count(graph, &nodes));
            CHECK(nodes == 2);
            REFUSED(nvfp4_graph_launch(graph, stream), NVFP4_STATUS_NOT_PREPARED, "nvfp4_graph_instantiate");
            CHECK(mem_unchanged());
            OK(nvfp4_graph_instantiate(graph));
            OK(nvfp4_graph_instantiate(graph)); /* once is enough, twice no harm */
            CHECK(mem_unchanged());
            for (int i = 0; i < CALLS; i++) {
                fresh_source();
                mem_poison(i % 2 ? 0xA5 : 0x5A);
                OK(nvfp4_graph_launch(graph, i % 3 ? stream : side));
                run_eager();
                if (!CHECK(same_as_eager())) break;
            }
            CHECK(mem_guards_ok());
            OK(nvfp4_graph_destroy(graph));
            BAD_HANDLE(nvfp4_graph_launch(graph, stream), "graph");
        }
    CASE("an empty graph") {
        nvfp4_graph *graph = NULL;
        size_t nodes = 9;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_graph_node_count(graph, &nodes));
        CHECK(nodes == 0);
        OK(nvfp4_graph_instantiate(graph));
        OK(nvfp4_graph_launch(graph, stream));
        OK(nvfp4_graph_destroy(graph));
    }
    CASE("a graph inside a graph") {
        nvfp4_graph *inner = captured(NVFP4_CAPTURE_MODE_GLOBAL), *outer = NULL;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        REFUSED(nvfp4_graph_launch(inner, stream), NVFP4_STATUS_NOT_PREPARED, "instantiate");
        OK(nvfp4_graph_instantiate(inner));
        OK(nvfp4_graph_launch(inner, stream));
        OK(nvfp4_graph_end_capture(stream, &outer));
        OK(nvfp4_graph_destroy(inner)); /* the outer one has its own hold */
        OK(nvfp4_graph_instantiate(outer));
        fresh_source();
        mem_poison(0xA5);
        OK(nvfp4_graph_launch(outer, stream));
        run_eager();
        CHECK(same_as_eager());
        OK(nvfp4_graph_destroy(outer));
    }
}

static void updates(void) {
    CASE("update: other arguments of the same calls") {
        nvfp4_graph *graph = captured(NVFP4_CAPTURE_MODE_GLOBAL), *from = NULL, *longer = NULL, *swapped = NULL;
        uint16_t *elsewhere = mem_out(ROWS * COLS * 2);
        nvfp4_quantize_args q = quantize_args(codes, scales, decode);
        nvfp4_dequantize_args d = dequantize_args(codes, scales, decode, elsewhere);
        OK(nvfp4_graph_instantiate(graph));
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_quantize(context, &q, stream));
        OK(nvfp4_dequantize(context, &d, stream));
        OK(nvfp4_graph_end_capture(stream, &from));
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_quantize(context, &q, stream));
        OK(nvfp4_graph_end_capture(stream, &longer));
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_dequantize(context, &d, stream));
        OK(nvfp4_quantize(context, &q, stream));
        OK(nvfp4_graph_end_capture(stream, &swapped));
        REFUSED(nvfp4_graph_update(graph, longer), NVFP4_STATUS_UNSUPPORTED, "update");
        if (!on_gpu()) REFUSED(nvfp4_graph_update(graph, swapped), NVFP4_STATUS_UNSUPPORTED, "update"); /* a driver may take it */
        fresh_source();
        mem_poison(0xA5);
        OK(nvfp4_graph_launch(graph, stream)); /* as before the refused updates */
        run_eager();
        CHECK(same_as_eager() && all_bytes(elsewhere, ROWS * COLS * 2, 0xA5));
        OK(nvfp4_graph_update(graph, from));
        OK(nvfp4_graph_destroy(from));
        mem_poison(0x5A);
        OK(nvfp4_graph_launch(graph, stream)); /* stays instantiated */
        run_eager();
        CHECK(memcmp(elsewhere, eager_values, ROWS * COLS * 2) == 0 && all_bytes(values, ROWS * COLS * 2, 0x5A));
        OK(nvfp4_graph_update(graph, graph));
        OK(nvfp4_graph_destroy(graph));
        OK(nvfp4_graph_destroy(longer));
        OK(nvfp4_graph_destroy(swapped));
    }
}

static void several_streams(void) {
    CASE("fork and join by events") {
        nvfp4_graph *graph = NULL;
        size_t nodes = 0;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        submit(stream, side);
        OK(nvfp4_event_record(join_event, side));
        OK(nvfp4_event_wait(join_event, stream));
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_graph_node_count(graph, &nodes));
        CHECK(nodes >= 2); /* a backend may count the joins */
        OK(nvfp4_graph_instantiate(graph));
        for (int i = 0; i < CALLS; i++) {
            fresh_source();
            mem_poison(0xA5);
            OK(nvfp4_graph_launch(graph, stream));
            run_eager();
            if (!CHECK(same_as_eager())) break;
        }
        OK(nvfp4_stream_synchronize(side)); /* both streams are free again */
        OK(nvfp4_stream_synchronize(stream));
        OK(nvfp4_graph_destroy(graph));
    }
    CASE("a chain of three streams") {
        nvfp4_graph *graph = NULL;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        submit(stream, side);
        OK(nvfp4_event_record(join_event, side));
        OK(nvfp4_event_wait(join_event, third));
        submit(third, third);
        OK(nvfp4_event_record(third_event, third));
        OK(nvfp4_event_wait(third_event, stream)); /* joins third, and side through it */
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_graph_destroy(graph));
    }
    CASE("a stream that is not joined back") {
        nvfp4_graph *graph = NULL;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        submit(stream, side);
        REFUSED(nvfp4_graph_end_capture(stream, &graph), NVFP4_STATUS_CAPTURE, "joined");
        CHECK(graph == NULL);
        OK(nvfp4_stream_synchronize(stream)); /* the capture is over for all its streams */
        OK(nvfp4_stream_synchronize(side));
        if (on_gpu()) continue; /* the event is as good as never recorded there */
        REFUSED(nvfp4_event_wait(fork_event, stream), NVFP4_STATUS_CAPTURE, "ended");
        REFUSED(nvfp4_event_query(fork_event, &(int32_t){0}), NVFP4_STATUS_CAPTURE, "capture");
    }
    CASE("joined to a stream that is not joined itself") {
        nvfp4_graph *graph = NULL;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_event_record(fork_event, stream));
        OK(nvfp4_event_wait(fork_event, side));
        OK(nvfp4_event_wait(fork_event, third));
        submit(side, side);
        OK(nvfp4_event_record(join_event, side));
        OK(nvfp4_event_wait(join_event, third));
        if (!REFUSED(nvfp4_graph_end_capture(stream, &graph), NVFP4_STATUS_CAPTURE, "joined") && graph) OK(nvfp4_graph_destroy(graph));
        OK(nvfp4_stream_synchronize(third));
    }
    CASE("work behind the event is not joined by it") {
        nvfp4_graph *graph = NULL;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        submit(stream, side);
        OK(nvfp4_event_record(join_event, side));
        submit(side, side); /* after the event */
        OK(nvfp4_event_wait(join_event, stream));
        if (!REFUSED(nvfp4_graph_end_capture(stream, &graph), NVFP4_STATUS_CAPTURE, "joined") && graph) OK(nvfp4_graph_destroy(graph));
    }
    CASE("the end belongs to the stream that began") {
        nvfp4_graph *graph = NULL;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        submit(stream, side);
        REFUSED(nvfp4_graph_end_capture(side, &graph), NVFP4_STATUS_CAPTURE, "stream");
        REFUSED(nvfp4_graph_begin_capture(side, NVFP4_CAPTURE_MODE_GLOBAL), NVFP4_STATUS_CAPTURE, "captures already");
        OK(nvfp4_event_record(join_event, side));
        OK(nvfp4_event_wait(join_event, stream));
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_graph_destroy(graph));
    }
    CASE("two captures do not mix") {
        nvfp4_graph *one = NULL, *two = NULL;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_RELAXED));
        OK(nvfp4_graph_begin_capture(side, NVFP4_CAPTURE_MODE_RELAXED));
        OK(nvfp4_event_record(fork_event, stream));
        REFUSED(nvfp4_event_wait(fork_event, side), NVFP4_STATUS_CAPTURE, "another capture");
        OK(nvfp4_graph_end_capture(side, &two));
        OK(nvfp4_graph_end_capture(stream, &one));
        OK(nvfp4_graph_destroy(one));
        OK(nvfp4_graph_destroy(two));
    }
}

static void nesting(void) {
    CASE("graphs inside one another, 64 deep and no deeper") {
        nvfp4_graph *graph = captured(NVFP4_CAPTURE_MODE_GLOBAL), *next = NULL;
        OK(nvfp4_graph_instantiate(graph));
        for (int depth = 1; depth < 64; depth++) {
            OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
            OK(nvfp4_graph_launch(graph, stream));
            OK(nvfp4_graph_end_capture(stream, &next));
            OK(nvfp4_graph_destroy(graph));
            graph = next, next = NULL;
            OK(nvfp4_graph_instantiate(graph));
        }
        fresh_source();
        OK(nvfp4_graph_launch(graph, stream));
        run_eager();
        CHECK(same_as_eager());
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        if (!on_gpu()) REFUSED(nvfp4_graph_launch(graph, stream), NVFP4_STATUS_UNSUPPORTED, "inside more than 63 others"); /* a driver goes deeper */
        OK(nvfp4_graph_end_capture(stream, &next));
        OK(nvfp4_graph_destroy(next));
        OK(nvfp4_graph_destroy(graph));
    }
}

static void refusals(void) {
    CASE("what a capture refuses, and goes on") {
        nvfp4_graph *graph = NULL;
        nvfp4_buffer *buffer = NULL;
        nvfp4_weights *weights = NULL;
        int32_t done = 77;
        size_t nodes = 0;
        nvfp4_weights_prepare_args prepare = {.struct_size = sizeof prepare, .groups = 1, .rows = 16, .cols = 16, .source = NVFP4_WEIGHTS_SOURCE_VALUES,
                                              .src = mem_in(512)};
        OK(nvfp4_weights_storage_size(context, &prepare, &prepare.storage_size));
        prepare.storage = mem_out(prepare.storage_size + 1);
        OK(nvfp4_event_record(third_event, side));
        BAD_ARGUMENT(nvfp4_graph_begin_capture(stream, 3), "mode = 3");
        REFUSED(nvfp4_graph_end_capture(stream, &graph), NVFP4_STATUS_CAPTURE, "does not capture");
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        REFUSED(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL), NVFP4_STATUS_CAPTURE, "captures already");
        REFUSED(nvfp4_stream_synchronize(stream), NVFP4_STATUS_CAPTURE, "captur");
        REFUSED(nvfp4_stream_query(stream, &done), NVFP4_STATUS_CAPTURE, "captur");
        REFUSED(nvfp4_stream_destroy(stream), NVFP4_STATUS_CAPTURE, "captur");
        REFUSED(nvfp4_buffer_create(context, 64, stream, &buffer), NVFP4_STATUS_CAPTURE, "captur");
        REFUSED(nvfp4_weights_prepare(context, &prepare, stream, &weights), NVFP4_STATUS_CAPTURE, "captur");
        REFUSED(nvfp4_event_wait(third_event, stream), NVFP4_STATUS_CAPTURE, "outside");
        BAD_ARGUMENT(nvfp4_graph_end_capture(stream, NULL), "graph is NULL");
        CHECK(done == 77 && buffer == NULL && weights == NULL && graph == NULL);
        submit(stream, stream);
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_graph_node_count(graph, &nodes));
        CHECK(nodes == 2);
        BAD_ARGUMENT(nvfp4_graph_node_count(graph, NULL), "count is NULL");
        OK(nvfp4_graph_destroy(graph));
    }
    CASE("a graph outlives the streams it was captured on") {
        nvfp4_graph *graph = NULL;
        nvfp4_stream *brief;
        OK(nvfp4_stream_create(context, &brief));
        OK(nvfp4_graph_begin_capture(brief, NVFP4_CAPTURE_MODE_GLOBAL));
        submit(brief, brief);
        OK(nvfp4_graph_end_capture(brief, &graph));
        OK(nvfp4_stream_destroy(brief));
        OK(nvfp4_graph_instantiate(graph));
        fresh_source();
        OK(nvfp4_graph_launch(graph, stream));
        run_eager();
        CHECK(same_as_eager());
        OK(nvfp4_graph_destroy(graph));
    }
}

int main(void) {
    open_context(&context, &stream, 2);
    MUST(nvfp4_stream_create(context, &side) == 0 && nvfp4_stream_create(context, &third) == 0);
    MUST(nvfp4_event_create(context, &fork_event) == 0 && nvfp4_event_create(context, &join_event) == 0 && nvfp4_event_create(context, &third_event) == 0);
    src = mem_in(ROWS * COLS * 2);
    codes = mem_out(ROWS * COLS / 2), eager_codes = mem_out(ROWS * COLS / 2);
    scales = mem_out(ROWS * COLS / 16), eager_scales = mem_out(ROWS * COLS / 16);
    decode = mem_out(ROWS * 4), eager_decode = mem_out(ROWS * 4);
    values = mem_out(ROWS * COLS * 2), eager_values = mem_out(ROWS * COLS * 2);
    replays();
    updates();
    several_streams();
    nesting();
    refusals();
    MUST(nvfp4_event_destroy(fork_event) == 0 && nvfp4_event_destroy(join_event) == 0 && nvfp4_event_destroy(third_event) == 0);
    MUST(nvfp4_stream_destroy(side) == 0 && nvfp4_stream_destroy(third) == 0);
    close_context(context, stream);
    return finish();
}
