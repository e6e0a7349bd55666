/* Buffers: alignment, copies in and out, ranges, overlapping copies, the pool's statistics, reuse and trimming. */
#include "harness.h"

static nvfp4_context *context;
static nvfp4_stream *stream;

static nvfp4_pool_stats stats(void) {
    nvfp4_pool_stats s = {.struct_size = sizeof s};
    MUST(nvfp4_context_pool_stats(context, &s) == NVFP4_STATUS_SUCCESS);
    return s;
}

static void contents(void) {
    CASE("data is aligned, sizes are kept") {
        static const size_t sizes[] = {1, 15, 16, 255, 256, 257, 4096, 1000003};
        for (size_t i = 0; i < COUNT(sizes); i++) {
            nvfp4_buffer *buffer = NULL;
            void *data = NULL;
            size_t bytes = 0;
            OK(nvfp4_buffer_create(context, sizes[i], stream, &buffer));
            OK(nvfp4_buffer_data(buffer, &data));
            OK(nvfp4_buffer_size(buffer, &bytes));
            CHECK(data != NULL && (uintptr_t)data % 256 == 0 && bytes == sizes[i]);
            if (!on_gpu()) memset(data, 0x5A, bytes); /* on the CPU it is host memory, all of it */
            OK(nvfp4_buffer_destroy(buffer));
        }
    }
    CASE("upload, copy, download") {
        enum { BYTES = 1000 };
        nvfp4_buffer *a = NULL, *b = NULL;
        unsigned char *from = mem_in(BYTES), *to = mem_out(BYTES);
        for (int i = 0; i < BYTES; i++) from[i] = (unsigned char)random_bits();
        OK(nvfp4_buffer_create(context, BYTES, stream, &a));
        OK(nvfp4_buffer_create(context, BYTES, stream, &b));
        OK(nvfp4_buffer_upload(a, 0, from, BYTES, stream));
        OK(nvfp4_buffer_copy(b, 3, a, 7, 900, stream));
        OK(nvfp4_buffer_download(b, 3, to + 50, 900, stream));
        OK(nvfp4_stream_synchronize(stream));
        CHECK(memcmp(to + 50, from + 7, 900) == 0);
        CHECK(all_bytes(to, 50, 0xA5) && all_bytes(to + 950, 50, 0xA5) && mem_guards_ok());
        OK(nvfp4_buffer_copy(a, 0, a, 100, 900, stream)); /* onto itself, forwards and backwards */
        OK(nvfp4_buffer_download(a, 0, to, 900, stream));
        CHECK(memcmp(to, from + 100, 900) == 0);
        OK(nvfp4_buffer_upload(a, 0, from, BYTES, stream));
        OK(nvfp4_buffer_copy(a, 100, a, 0, 900, stream));
        OK(nvfp4_buffer_download(a, 100, to, 900, stream));
        CHECK(memcmp(to, from, 900) == 0);
        OK(nvfp4_buffer_upload(a, BYTES, NULL, 0, stream)); /* nothing, at the very end */
        OK(nvfp4_buffer_download(a, 0, NULL, 0, stream));
        OK(nvfp4_buffer_destroy(a));
        OK(nvfp4_buffer_destroy(b));
    }
    CASE("copies in a graph read their memory at each launch") {
        nvfp4_buffer *a = NULL, *b = NULL;
        nvfp4_graph *graph = NULL;
        unsigned char from[64], to[64]; /* host memory on every device */
        memset(to, 0xA5, sizeof to);
        OK(nvfp4_buffer_create(context, 64, stream, &a));
        OK(nvfp4_buffer_create(context, 64, stream, &b));
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        OK(nvfp4_buffer_upload(a, 0, from, 64, stream));
        OK(nvfp4_buffer_copy(b, 0, a, 0, 64, stream));
        OK(nvfp4_buffer_download(b, 0, to, 64, stream));
        OK(nvfp4_graph_end_capture(stream, &graph));
        CHECK(all_bytes(to, 64, 0xA5));
        OK(nvfp4_graph_instantiate(graph));
        OK(nvfp4_buffer_destroy(a)); /* the graph holds both */
        OK(nvfp4_buffer_destroy(b));
        for (int i = 1; i < 20; i++) {
            memset(from, i, 64);
            OK(nvfp4_graph_launch(graph, stream));
            CHECK(all_bytes(to, 64, (unsigned char)i));
        }
        OK(nvfp4_graph_destroy(graph));
    }
}

static void refusals(void) {
    CASE("refusals") {
        nvfp4_buffer *buffer = NULL, *other = NULL, *made = NULL;
        unsigned char *host = mem_out(64);
        unsigned char pattern[100];
        void *data = NULL;
        OK(nvfp4_buffer_create(context, 100, stream, &buffer));
        OK(nvfp4_buffer_create(context, 100, stream, &other));
        BAD_ARGUMENT(nvfp4_buffer_create(context, 0, stream, &made), "bytes = 0");
        REFUSED(nvfp4_buffer_create(context, SIZE_MAX, stream, &made), NVFP4_STATUS_OUT_OF_MEMORY, "18446744073709551615 bytes");
        REFUSED(nvfp4_buffer_create(context, SIZE_MAX / 2, stream, &made), NVFP4_STATUS_OUT_OF_MEMORY, "bytes");
        REFUSED(nvfp4_buffer_create(context, (size_t)1 << 60, stream, &made), NVFP4_STATUS_OUT_OF_MEMORY, "bytes");
        BAD_ARGUMENT(nvfp4_buffer_create(context, 64, stream, NULL), "buffer is NULL");
        CHECK(made == NULL);
        mem_snapshot();
        OK(nvfp4_buffer_data(buffer, &data));
        memset(pattern, 0x33, sizeof pattern);
        OK(nvfp4_buffer_upload(buffer, 0, pattern, sizeof pattern, stream));
        BAD_ARGUMENT(nvfp4_buffer_upload(buffer, 101, host, 0, stream), "offset = 101");
        BAD_ARGUMENT(nvfp4_buffer_upload(buffer, 90, host, 11, stream), "offset = 90");
        BAD_ARGUMENT(nvfp4_buffer_upload(buffer, SIZE_MAX, host, 2, stream), "offset = 18446744073709551615");
        BAD_ARGUMENT(nvfp4_buffer_upload(buffer, 4, host, SIZE_MAX - 3, stream), "offset = 4");
        BAD_ARGUMENT(nvfp4_buffer_upload(buffer, 0, NULL, 1, stream), "src is NULL");
        BAD_ARGUMENT(nvfp4_buffer_download(buffer, 60, host, 64, stream), "offset = 60");
        BAD_ARGUMENT(nvfp4_buffer_download(buffer, SIZE_MAX - 1, host, 8, stream), "offset");
        BAD_ARGUMENT(nvfp4_buffer_download(buffer, 0, NULL, 8, stream), "dst is NULL");
        BAD_ARGUMENT(nvfp4_buffer_copy(buffer, 96, other, 0, 8, stream), "dst_offset = 96");
        BAD_ARGUMENT(nvfp4_buffer_copy(buffer, 0, other, 96, 8, stream), "src_offset = 96");
        BAD_ARGUMENT(nvfp4_buffer_copy(buffer, 0, other, SIZE_MAX, 8, stream), "src_offset");
        BAD_ARGUMENT(nvfp4_buffer_data(buffer, NULL), "data is NULL");
        BAD_ARGUMENT(nvfp4_buffer_size(buffer, NULL), "bytes is NULL");
        CHECK(mem_unchanged());
        memset(pattern, 0, sizeof pattern);
        OK(nvfp4_buffer_download(buffer, 0, pattern, sizeof pattern, stream));
        CHECK(all_bytes(pattern, sizeof pattern, 0x33));
        OK(nvfp4_buffer_destroy(buffer));
        OK(nvfp4_buffer_destroy(other));
    }
}

static void pool(void) {
    CASE("the pool counts, reuses and trims") {
        nvfp4_buffer *buffer = NULL, *many[8];
        void *first = NULL, *again = NULL;
        if (cpu_alone("a GPU's pool is the driver's, which rounds and reuses as it sees fit")) continue;
        OK(nvfp4_context_pool_trim(context, 0));
        nvfp4_pool_stats before = stats(), now;
        CHECK(before.bytes_in_use == 0 && before.bytes_reserved == 0);
        OK(nvfp4_buffer_create(context, 10000, stream, &buffer));
        OK(nvfp4_buffer_data(buffer, &first));
        now = stats();
        CHECK(now.bytes_in_use >= 10000 && now.bytes_in_use <= 16384 && now.bytes_reserved == now.bytes_in_use);
        CHECK(now.allocations == before.allocations + 1 && now.reuses == before.reuses);
        OK(nvfp4_buffer_destroy(buffer));
        now = stats();
        CHECK(now.bytes_in_use == 0 && now.bytes_reserved >= 10000);
        for (uint64_t i = 1; i <= 100; i++) {
            OK(nvfp4_buffer_create(context, 10000 - i % 3, stream, &buffer));
            OK(nvfp4_buffer_data(buffer, &again));
            CHECK(again == first);
            OK(nvfp4_buffer_destroy(buffer));
            CHECK(stats().reuses == before.reuses + i);
        }
        for (size_t i = 0; i < COUNT(many); i++) OK(nvfp4_buffer_create(context, (size_t)1 << (10 + i), stream, &many[i]));
        now = stats();
        CHECK(now.peak_bytes_in_use >= now.bytes_in_use && now.bytes_in_use >= 255 * 1024);
        OK(nvfp4_context_pool_trim(context, 0)); /* what is in use stays */
        CHECK(stats().bytes_in_use == now.bytes_in_use && stats().bytes_reserved == now.bytes_in_use);
        for (size_t i = 0; i < COUNT(many); i++) OK(nvfp4_buffer_destroy(many[i]));
        OK(nvfp4_context_pool_trim(context, SIZE_MAX));
        CHECK(stats().bytes_reserved == now.bytes_in_use);
        OK(nvfp4_context_pool_trim(context, 20000));
        CHECK(stats().bytes_reserved <= 20000);
        OK(nvfp4_context_pool_trim(context, 0));
        now = stats();
        CHECK(now.bytes_reserved == 0 && now.bytes_in_use == 0 && now.allocations == before.allocations + 109);
        CHECK(now.peak_bytes_in_use >= 255 * 1024);
    }
}

int main(void) {
    open_context(&context, &stream, 1);
    contents();
    refusals();
    pool();
    close_context(context, stream);
    return finish();
}
