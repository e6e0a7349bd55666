/* Streams and events outside of captures: borrow, query, wait, elapsed time, their refusals. */
#include "harness.h"

int main(void) {
    nvfp4_context *context;
    nvfp4_stream *stream;
    open_context(&context, &stream, 1);
    CASE("streams") {
        nvfp4_stream *made = NULL;
        int32_t done = 77;
        OK(nvfp4_stream_create(context, &made));
        CHECK(made != NULL && made != stream);
        OK(nvfp4_stream_query(made, &done));
        CHECK(done == 1);
        OK(nvfp4_stream_synchronize(made));
        OK(nvfp4_stream_destroy(made));
        BAD_ARGUMENT(nvfp4_stream_create(context, NULL), "stream is NULL");
        BAD_ARGUMENT(nvfp4_stream_query(stream, NULL), "done is NULL");
    }
    CASE("borrowed streams") {
        nvfp4_stream *made = NULL;
        int local = 0;
        if (!on_gpu()) BAD_ARGUMENT(nvfp4_stream_borrow(context, &local, &made), "native"); /* a GPU's driver follows it */
        BAD_ARGUMENT(nvfp4_stream_borrow(context, NULL, NULL), "stream is NULL");
        CHECK(made == NULL);
        OK(nvfp4_stream_borrow(context, NULL, &made));
        OK(nvfp4_stream_synchronize(made));
        OK(nvfp4_stream_destroy(made));
    }
    CASE("events") {
        nvfp4_event *a = NULL, *b = NULL;
        int32_t done = 77;
        float ms = 77.0f;
        OK(nvfp4_event_create(context, &a));
        OK(nvfp4_event_create(context, &b));
        BAD_ARGUMENT(nvfp4_event_create(context, NULL), "event is NULL");
        OK(nvfp4_event_query(a, &done)); /* never recorded counts as reached */
        CHECK(done == 1);
        OK(nvfp4_event_synchronize(a));
        OK(nvfp4_event_wait(a, stream));
        BAD_ARGUMENT(nvfp4_event_elapsed_ms(a, b, &ms), "start");
        OK(nvfp4_event_record(a, stream));
        BAD_ARGUMENT(nvfp4_event_elapsed_ms(a, b, &ms), "end");
        CHECK(ms == 77.0f);
        for (volatile int spin = 0; spin < 3000000; spin++) {
        }
        OK(nvfp4_event_record(b, stream));
        OK(nvfp4_event_synchronize(b));
        OK(nvfp4_event_elapsed_ms(a, b, &ms));
        CHECK(ms > 0.0f && ms < 60000.0f);
        float back = 0;
        OK(nvfp4_event_elapsed_ms(b, a, &back));
        CHECK(back == -ms);
        OK(nvfp4_event_elapsed_ms(a, a, &back));
        CHECK(back == 0.0f);
        BAD_ARGUMENT(nvfp4_event_elapsed_ms(a, b, NULL), "milliseconds is NULL");
        BAD_ARGUMENT(nvfp4_event_query(a, NULL), "done is NULL");
        OK(nvfp4_event_record(a, stream)); /* again: the later point counts */
        OK(nvfp4_event_synchronize(a));
        OK(nvfp4_event_elapsed_ms(b, a, &back));
        CHECK(back >= 0.0f);
        OK(nvfp4_event_destroy(a));
        OK(nvfp4_event_destroy(b));
    }
    close_context(context, stream);
    return finish();
}
