/*
 * The CUDA runtime of the library on a real GPU: contexts, streams, events, pool, captures, graphs, threads, the
 * host's current context; with nvfp4_group_ends as the work, since its result is easy to know. Then what calls cost.
 *
 *   runtime [GROUP_ENDS.fatbin]
 *
 * With the image file the bare driver launch of the same kernel is timed beside nvfp4_group_ends. Prints one line per
 * case and one JSON line per measurement; the last line counts passes and failures, and the exit status is 0 only
 * without failures.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <nvfp4.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int passed, failed;
static const char *current_case = "";

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}
static void report(int good, int line, const char *what) {
  if (good) { __atomic_fetch_add(&passed, 1, __ATOMIC_RELAXED); return; }
  __atomic_fetch_add(&failed, 1, __ATOMIC_RELAXED);
  printf("FAILED %s, line %d: %s\n  last message: %s\n", current_case, line, what, nvfp4_last_message());
}
#define OK(call) report((call) == NVFP4_STATUS_SUCCESS, __LINE__, #call)
#define IS(call, status) report((call) == (status), __LINE__, #call " is " #status)
#define TRUE(condition) report((condition), __LINE__, #condition)
#define CASE(name) do { current_case = name; printf("case %s\n", name); fflush(stdout); } while (0)

/* ---- the driver, for what a host does on its own ---- */

typedef int (*fn)();
static void *driver;
static fn cu(const char *name) {
  fn f = (fn)(intptr_t)dlsym(driver, name);
  if (!f) { printf("FAILED no %s in libcuda.so.1\n", name); exit(1); }
  return f;
}
static void *current(void) {
  void *c = NULL;
  cu("cuCtxGetCurrent")(&c);
  return c;
}

/* ---- reference ---- */

static uint32_t seed = 12345;
static uint32_t next(void) { return seed = seed * 1664525u + 1013904223u; }

static int reference(const int32_t *counts, int32_t *ends, int n) {
  int64_t end = 0;
  int bad = -1;
  for (int i = 0; i < n; i++) {
    int64_t to = end + (counts[i] < 0 ? 0 : counts[i]);
    if (to > INT32_MAX) to = INT32_MAX;
    if (to != end + counts[i] && bad < 0) bad = i;
    ends[i] = (int32_t)(end = to);
  }
  return bad;
}

static nvfp4_status run(nvfp4_context *c, nvfp4_stream *s, const void *counts, void *ends, int n) {
  nvfp4_group_ends_args a = {.struct_size = sizeof a, .counts = counts, .ends = ends, .count = n};
  return nvfp4_group_ends(c, &a, s);
}
static void *address(nvfp4_buffer *b) { void *p = NULL; OK(nvfp4_buffer_data(b, &p)); return p; }

static void compare(const char *what, const int32_t *got, const int32_t *want, int n) {
  for (int i = 0; i < n; i++)
    if (got[i] != want[i]) {
      char text[128];
      snprintf(text, sizeof text, "%s: element %d of %d is %d, expected %d", what, i, n, got[i], want[i]);
      report(0, __LINE__, text);
      return;
    }
  report(1, __LINE__, what);
}

/* ---- cases ---- */

static const int sizes[] = {0, 1, 2, 31, 32, 33, 127, 128, 129, 1023, 1024, 1025, 2048, 4097, 65535};
#define SIZES (int)(sizeof sizes / sizeof *sizes)

static void operation(nvfp4_context *c, nvfp4_stream *s) {
  enum { MOST = 65535 };
  static int32_t counts[MOST], want[MOST], got[MOST + 8];
  nvfp4_buffer *in, *out;
  OK(nvfp4_buffer_create(c, MOST * 4, s, &in));
  OK(nvfp4_buffer_create(c, (MOST + 8) * 4, s, &out));
  for (int kind = 0; kind < 3; kind++)
    for (int k = 0; k < SIZES; k++) {
      int n = sizes[k];
      for (int i = 0; i < n; i++) {
        counts[i] = kind == 2 ? (int32_t)next() / 2 : (int32_t)(next() >> 18);
        if (kind == 1 && next() % 97 == 0) counts[i] = -(int32_t)(next() >> 8);
      }
      int bad = reference(counts, want, n);
      OK(nvfp4_context_clear_faults(c));
      memset(got, 0xA5, sizeof got);
      OK(nvfp4_buffer_upload(out, 0, got, (size_t)(n + 8) * 4, s));
      OK(nvfp4_buffer_upload(in, 0, counts, (size_t)n * 4, s));
      OK(run(c, s, address(in), address(out), n));
      OK(nvfp4_buffer_download(out, 0, got, (size_t)(n + 8) * 4, s));
      OK(nvfp4_stream_synchronize(s));
      compare("ends", got, want, n);
      int clean = 1;
      for (int i = n; i < n + 8; i++) clean &= (uint32_t)got[i] == 0xA5A5A5A5u;
      TRUE(clean);
      nvfp4_faults f = {.struct_size = sizeof f};
      OK(nvfp4_context_faults(c, &f));
      if (f.flags != (bad < 0 ? 0u : NVFP4_FAULT_BAD_GROUP) || f.bad_group != bad) {
        char text[128];
        snprintf(text, sizeof text, "faults of n = %d: flags %u, group %lld, expected group %d", n, f.flags,
                 (long long)f.bad_group, bad);
        report(0, __LINE__, text);
      } else {
        report(1, __LINE__, "faults");
      }
      /* in place */
      OK(run(c, s, address(in), address(in), n));
      OK(nvfp4_buffer_download(in, 0, got, (size_t)n * 4, s));
      OK(nvfp4_stream_synchronize(s));
      compare("ends in place", got, want, n);
    }
  OK(nvfp4_buffer_destroy(in));
  OK(nvfp4_buffer_destroy(out));
  OK(nvfp4_context_clear_faults(c));
}

static void graphs(nvfp4_context *c, nvfp4_stream *s) {
  int32_t values[4] = {1, 1, 1, 1}, got[4] = {0};
  nvfp4_buffer *a, *b;
  OK(nvfp4_buffer_create(c, 16, s, &a));
  OK(nvfp4_buffer_create(c, 16, s, &b));
  for (nvfp4_capture_mode mode = 0; mode <= NVFP4_CAPTURE_MODE_RELAXED; mode++) {
    nvfp4_graph *g[2], *outer, *different;
    for (int i = 0; i < 2; i++) {
      OK(nvfp4_graph_begin_capture(s, mode));
      IS(nvfp4_graph_begin_capture(s, mode), NVFP4_STATUS_CAPTURE);
      IS(nvfp4_stream_synchronize(s), NVFP4_STATUS_CAPTURE);
      OK(run(c, s, address(i ? b : a), address(i ? b : a), 4));
      OK(nvfp4_graph_end_capture(s, &g[i]));
    }
    OK(nvfp4_graph_begin_capture(s, mode));
    OK(run(c, s, address(a), address(a), 4));
    OK(run(c, s, address(a), address(a), 4));
    OK(nvfp4_graph_end_capture(s, &different));
    size_t count = 0;
    OK(nvfp4_graph_node_count(different, &count));
    TRUE(count == 2);
    IS(nvfp4_graph_launch(g[0], s), NVFP4_STATUS_NOT_PREPARED);
    OK(nvfp4_graph_instantiate(g[0]));
    OK(nvfp4_buffer_upload(a, 0, values, 16, s));
    OK(nvfp4_buffer_upload(b, 0, values, 16, s));
    OK(nvfp4_graph_launch(g[0], s));
    OK(nvfp4_graph_launch(g[0], s));
    OK(nvfp4_graph_update(g[0], g[1]));
    IS(nvfp4_graph_update(g[0], different), NVFP4_STATUS_UNSUPPORTED);
    OK(nvfp4_graph_launch(g[0], s));
    OK(nvfp4_graph_begin_capture(s, mode)); /* a graph inside another */
    OK(nvfp4_graph_launch(g[0], s));
    OK(run(c, s, address(a), address(a), 4));
    OK(nvfp4_graph_end_capture(s, &outer));
    OK(nvfp4_graph_instantiate(outer));
    OK(nvfp4_graph_launch(outer, s));
    OK(nvfp4_buffer_download(a, 0, got, 16, s));
    OK(nvfp4_stream_synchronize(s));
    compare("a after three replays", got, (int32_t[]){1, 4, 10, 20}, 4);
    OK(nvfp4_buffer_download(b, 0, got, 16, s));
    OK(nvfp4_stream_synchronize(s));
    compare("b after two replays", got, (int32_t[]){1, 3, 6, 10}, 4);
    OK(nvfp4_graph_destroy(g[0]));
    OK(nvfp4_graph_destroy(g[1]));
    OK(nvfp4_graph_destroy(outer));
    OK(nvfp4_graph_destroy(different));
  }
  /* another stream joins */
  nvfp4_stream *second;
  nvfp4_event *fork, *join, *outside;
  nvfp4_graph *g;
  OK(nvfp4_stream_create(c, &second));
  OK(nvfp4_event_create(c, &fork));
  OK(nvfp4_event_create(c, &join));
  OK(nvfp4_event_create(c, &outside));
  OK(nvfp4_event_record(outside, second));
  for (int joined = 0; joined < 2; joined++) {
    OK(nvfp4_graph_begin_capture(s, NVFP4_CAPTURE_MODE_GLOBAL));
    IS(nvfp4_event_wait(outside, s), NVFP4_STATUS_CAPTURE);
    OK(nvfp4_event_record(fork, s));
    OK(nvfp4_event_wait(fork, second));
    OK(run(c, second, address(a), address(a), 4));
    IS(nvfp4_graph_end_capture(second, &g), NVFP4_STATUS_CAPTURE);
    if (joined) {
      OK(nvfp4_event_record(join, second));
      OK(nvfp4_event_wait(join, s));
      OK(nvfp4_graph_end_capture(s, &g));
      OK(nvfp4_graph_destroy(g));
    } else {
      IS(nvfp4_graph_end_capture(s, &g), NVFP4_STATUS_CAPTURE);
    }
  }
  OK(nvfp4_stream_synchronize(second));
  /* a buffer that only a graph knows any more */
  nvfp4_buffer *t;
  OK(nvfp4_buffer_create(c, 16, s, &t));
  OK(nvfp4_buffer_upload(t, 0, values, 16, s));
  OK(nvfp4_graph_begin_capture(s, NVFP4_CAPTURE_MODE_GLOBAL));
  OK(nvfp4_buffer_copy(b, 0, t, 0, 16, s));
  OK(nvfp4_graph_end_capture(s, &g));
  OK(nvfp4_graph_instantiate(g));
  OK(nvfp4_buffer_destroy(t));
  OK(nvfp4_graph_launch(g, s));
  OK(nvfp4_graph_destroy(g));
  OK(nvfp4_buffer_download(b, 0, got, 16, s));
  OK(nvfp4_stream_synchronize(s));
  compare("kept buffer", got, values, 4);
  OK(nvfp4_event_destroy(fork));
  OK(nvfp4_event_destroy(join));
  OK(nvfp4_event_destroy(outside));
  OK(nvfp4_stream_destroy(second));
  OK(nvfp4_buffer_destroy(a));
  OK(nvfp4_buffer_destroy(b));
}

static nvfp4_context *shared;
static void *thread(void *unused) {
  (void)unused;
  nvfp4_stream *s;
  nvfp4_buffer *b;
  OK(nvfp4_stream_create(shared, &s));
  OK(nvfp4_buffer_create(shared, 4096, s, &b));
  int32_t counts[1024], want[1024], got[1024];
  for (int i = 0; i < 1024; i++) counts[i] = (i * 7) % 13;
  reference(counts, want, 1024);
  int wrong = 0;
  for (int round = 0; round < 1000; round++) {
    if (nvfp4_buffer_upload(b, 0, counts, 4096, s) || run(shared, s, address(b), address(b), 1024) ||
        nvfp4_buffer_download(b, 0, got, 4096, s) || nvfp4_stream_synchronize(s) || memcmp(got, want, 4096))
      wrong++;
  }
  TRUE(wrong == 0);
  OK(nvfp4_buffer_destroy(b));
  OK(nvfp4_stream_destroy(s));
  return NULL;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}
static double median(double *v, int n) { qsort(v, (size_t)n, sizeof *v, by_value); return v[n / 2]; }

struct config { unsigned grid[3], block[3], shared; void *stream; void *attributes; unsigned count; };
struct parameters { const void *counts; void *ends; void *fault; uint32_t count, reserved; };

static void costs(nvfp4_context *c, nvfp4_stream *s, const char *image) {
  enum { ROUNDS = 2000, BATCH = 50 };
  static double samples[ROUNDS];
  nvfp4_buffer *b;
  int32_t zeros[64] = {0};
  OK(nvfp4_buffer_create(c, 256, s, &b));
  OK(nvfp4_buffer_upload(b, 0, zeros, 256, s));
  void *data = address(b);
  for (int i = 0; i < ROUNDS; i++) {
    double start = now_us();
    run(c, s, data, data, 64);
    samples[i] = now_us() - start;
    if (i % BATCH == BATCH - 1) OK(nvfp4_stream_synchronize(s));
  }
  double library = median(samples, ROUNDS);
  printf("{\"measure\": \"host cost of a run call, no current context\", \"us\": %.3f, \"p90\": %.3f}\n", library,
         samples[ROUNDS * 9 / 10]);
  void *context = NULL;
  cu("cuDevicePrimaryCtxRetain")(&context, 0);
  cu("cuCtxPushCurrent_v2")(context);
  for (int i = 0; i < ROUNDS; i++) {
    double start = now_us();
    run(c, s, data, data, 64);
    samples[i] = now_us() - start;
    if (i % BATCH == BATCH - 1) OK(nvfp4_stream_synchronize(s));
  }
  printf("{\"measure\": \"host cost of a run call, context current\", \"us\": %.3f, \"p90\": %.3f}\n",
         median(samples, ROUNDS), samples[ROUNDS * 9 / 10]);
  FILE *f = image ? fopen(image, "rb") : NULL;
  if (f) {
    static char bytes[1 << 22] __attribute__((aligned(16)));
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    void *module = NULL, *function = NULL, *stream = NULL;
    TRUE(n > 0 && cu("cuModuleLoadData")(&module, bytes) == 0);
    TRUE(cu("cuModuleGetFunction")(&function, module, "nvfp4_group_ends") == 0);
    TRUE(cu("cuStreamCreate")(&stream, 1u) == 0);
    fn launch = cu("cuLaunchKernelEx"), wait = cu("cuStreamSynchronize");
    uint64_t *fault = NULL;
    TRUE(cu("cuMemHostAlloc")(&fault, (size_t)8, 3u) == 0);
    struct parameters p = {data, data, fault, 64, 0};
    void *list[] = {&p};
    struct config config = {{1, 1, 1}, {1024, 1, 1}, 0, stream, NULL, 0};
    for (int i = 0; i < ROUNDS; i++) {
      double start = now_us();
      int r = launch(&config, function, list, NULL);
      samples[i] = now_us() - start;
      if (r) { report(0, __LINE__, "bare launch"); break; }
      if (i % BATCH == BATCH - 1) wait(stream);
    }
    printf("{\"measure\": \"host cost of a bare driver launch\", \"us\": %.3f, \"p90\": %.3f}\n", median(samples, ROUNDS),
           samples[ROUNDS * 9 / 10]);
    cu("cuStreamDestroy_v2")(stream);
    cu("cuModuleUnload")(module);
    cu("cuMemFreeHost")(fault);
  }
  void *popped;
  cu("cuCtxPopCurrent_v2")(&popped);
  cu("cuDevicePrimaryCtxRelease_v2")(0);
  /* a replayed graph of 20 calls */
  nvfp4_graph *g;
  nvfp4_event *from, *to;
  OK(nvfp4_event_create(c, &from));
  OK(nvfp4_event_create(c, &to));
  OK(nvfp4_graph_begin_capture(s, NVFP4_CAPTURE_MODE_GLOBAL));
  for (int i = 0; i < 20; i++) OK(run(c, s, data, data, 64));
  OK(nvfp4_graph_end_capture(s, &g));
  OK(nvfp4_graph_instantiate(g));
  for (int i = 0; i < 100; i++) {
    OK(nvfp4_event_record(from, s));
    OK(nvfp4_graph_launch(g, s));
    OK(nvfp4_event_record(to, s));
    OK(nvfp4_event_synchronize(to));
    float ms = -1;
    OK(nvfp4_event_elapsed_ms(from, to, &ms));
    samples[i] = ms * 1e3 / 20;
  }
  printf("{\"measure\": \"device time of a call in a replayed graph\", \"us\": %.3f}\n", median(samples, 100));
  OK(nvfp4_graph_destroy(g));
  OK(nvfp4_event_destroy(from));
  OK(nvfp4_event_destroy(to));
  OK(nvfp4_buffer_destroy(b));
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  nvfp4_backend_info info = {.struct_size = sizeof info};
  double start = now_us();
  if (nvfp4_backend_query(NVFP4_BACKEND_CUDA, 0, &info) || !info.available) {
    printf("no GPU to test on: %s\n", info.name);
    return 2;
  }
  printf("{\"measure\": \"first query, with the driver's start\", \"us\": %.0f}\n", now_us() - start);
  printf("device 0 of %u: %s\n", info.device_count, info.name);
  driver = dlopen("libcuda.so.1", RTLD_NOW);

  nvfp4_context_options options = {.struct_size = sizeof options, .backend = NVFP4_BACKEND_CUDA};
  nvfp4_context *c;
  nvfp4_stream *s;
  start = now_us();
  OK(nvfp4_context_create(&options, &c));
  printf("{\"measure\": \"context creation\", \"us\": %.0f}\n", now_us() - start);
  if (failed) return 1;
  TRUE(current() == NULL);
  OK(nvfp4_stream_create(c, &s));

  CASE("unprepared work in a capture");
  nvfp4_buffer *b;
  nvfp4_graph *g;
  size_t count = 9;
  OK(nvfp4_buffer_create(c, 16, s, &b));
  OK(nvfp4_graph_begin_capture(s, NVFP4_CAPTURE_MODE_GLOBAL));
  IS(run(c, s, address(b), address(b), 4), NVFP4_STATUS_NOT_PREPARED);
  start = now_us();
  OK(nvfp4_prepare(c, NULL)); /* while this thread captures in the strictest mode */
  printf("{\"measure\": \"nvfp4_prepare\", \"us\": %.0f}\n", now_us() - start);
  OK(run(c, s, address(b), address(b), 4));
  OK(nvfp4_graph_end_capture(s, &g));
  OK(nvfp4_graph_node_count(g, &count));
  TRUE(count == 1);
  OK(nvfp4_graph_destroy(g));
  OK(nvfp4_context_info(c, &info));
  printf("%s\n", info.name);

  CASE("group_ends against the host");
  operation(c, s);
  CASE("graphs");
  graphs(c, s);

  CASE("copies within a buffer");
  int32_t v[4] = {1, 2, 3, 4}, got[4];
  OK(nvfp4_buffer_upload(b, 0, v, 16, s));
  OK(nvfp4_buffer_copy(b, 4, b, 0, 8, s));
  OK(nvfp4_buffer_download(b, 0, got, 16, s));
  OK(nvfp4_stream_synchronize(s));
  compare("overlapping copy", got, (int32_t[]){1, 1, 2, 4}, 4);

  CASE("pool");
  nvfp4_pool_stats before = {.struct_size = sizeof before}, after = before;
  OK(nvfp4_context_pool_stats(c, &before));
  for (int i = 0; i < 100; i++) {
    nvfp4_buffer *t;
    void *p;
    OK(nvfp4_buffer_create(c, (size_t)1 << 20, s, &t));
    OK(nvfp4_buffer_data(t, &p));
    TRUE((uintptr_t)p % 256 == 0);
    OK(nvfp4_buffer_destroy(t));
  }
  OK(nvfp4_stream_synchronize(s));
  OK(nvfp4_context_pool_stats(c, &after));
  TRUE(after.bytes_in_use == before.bytes_in_use && after.allocations == before.allocations + 100);
  TRUE(after.reuses >= before.reuses + 99);
  printf("reserved %zu, then %zu, reuses %llu of %llu\n", before.bytes_reserved, after.bytes_reserved,
         (unsigned long long)after.reuses, (unsigned long long)after.allocations);
  OK(nvfp4_context_pool_trim(c, 0));
  OK(nvfp4_context_pool_stats(c, &after));
  printf("trimmed to %zu\n", after.bytes_reserved);
  nvfp4_buffer *none;
  IS(nvfp4_buffer_create(c, (size_t)1 << 46, s, &none), NVFP4_STATUS_OUT_OF_MEMORY);
  printf("%s\n", nvfp4_last_message());
  OK(run(c, s, address(b), address(b), 4));

  CASE("borrowed streams and the host's context");
  nvfp4_stream *borrowed;
  OK(nvfp4_stream_borrow(c, NULL, &borrowed)); /* the legacy default stream */
  OK(run(c, borrowed, address(b), address(b), 4));
  OK(nvfp4_stream_synchronize(borrowed));
  IS(nvfp4_graph_begin_capture(borrowed, NVFP4_CAPTURE_MODE_GLOBAL), NVFP4_STATUS_CAPTURE);
  OK(nvfp4_stream_destroy(borrowed));
  void *own = NULL, *native = NULL;
  TRUE(cu("cuDevicePrimaryCtxRetain")(&own, 0) == 0 && cu("cuCtxPushCurrent_v2")(own) == 0);
  TRUE(cu("cuStreamCreate")(&native, 1u) == 0);
  OK(nvfp4_stream_borrow(c, native, &borrowed));
  nvfp4_buffer *late;
  OK(nvfp4_buffer_create(c, 64, borrowed, &late));
  OK(run(c, borrowed, address(late), address(late), 4));
  OK(nvfp4_stream_destroy(borrowed));
  TRUE(cu("cuStreamDestroy_v2")(native) == 0);
  OK(nvfp4_buffer_destroy(late));
  TRUE(current() == own);
  nvfp4_context *adopted;
  options.flags = NVFP4_CONTEXT_ADOPT_CURRENT;
  OK(nvfp4_context_create(&options, &adopted));
  OK(nvfp4_context_destroy(adopted));
  void *popped = NULL;
  cu("cuCtxPopCurrent_v2")(&popped);
  IS(nvfp4_context_create(&options, &adopted), NVFP4_STATUS_INVALID_ARGUMENT);
  cu("cuDevicePrimaryCtxRelease_v2")(0);
  TRUE(current() == NULL);
  options.flags = 0;
  options.device = info.device_count;
  IS(nvfp4_context_create(&options, &adopted), NVFP4_STATUS_UNSUPPORTED_DEVICE);
  printf("%s\n", nvfp4_last_message());

  CASE("16 threads on streams of their own");
  shared = c;
  pthread_t threads[16];
  for (int i = 0; i < 16; i++) pthread_create(&threads[i], NULL, thread, NULL);
  for (int i = 0; i < 16; i++) pthread_join(threads[i], NULL);
  TRUE(current() == NULL);

  CASE("costs");
  costs(c, s, argc > 1 ? argv[1] : NULL);

  CASE("end");
  OK(nvfp4_buffer_destroy(b));
  OK(nvfp4_stream_destroy(s));
  OK(nvfp4_context_destroy(c));
  for (int i = 0; i < 20; i++) { /* and again, many times: nothing is left behind */
    options.device = 0;
    OK(nvfp4_context_create(&options, &c));
    OK(nvfp4_prepare(c, NULL));
    OK(nvfp4_context_destroy(c));
  }

  CASE("a broken context, last of all");
  OK(nvfp4_context_create(&options, &c));
  OK(nvfp4_stream_create(c, &s));
  OK(run(c, s, (void *)(uintptr_t)0x10000, (void *)(uintptr_t)0x10000, 4)); /* no memory there */
  IS(nvfp4_stream_synchronize(s), NVFP4_STATUS_DEVICE_POISONED);
  printf("%s\n", nvfp4_last_message());
  IS(run(c, s, NULL, NULL, 0), NVFP4_STATUS_DEVICE_POISONED);
  IS(nvfp4_context_synchronize(c), NVFP4_STATUS_DEVICE_POISONED);
  OK(nvfp4_stream_destroy(s));
  OK(nvfp4_context_destroy(c));
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
