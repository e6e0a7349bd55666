/*
 * Choices of kernels and dependent launches on a real GPU: a product is tuned, its choices saved and loaded into another
 * context, and the bits compared; then a chain of norm, product and product, captured with and without
 * NVFP4_GEMM_DEPENDENT_LAUNCH and replayed, must give the same bits every time.
 *
 *   tuning [REPLAYS]
 *
 * Prints a line a check and one a measurement; the last line counts, and the exit status is 0 only without failures.
 */
#define _GNU_SOURCE
#include <nvfp4.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int passed, failed;
static void check(int good, const char *what) {
  if (good) { passed++; return; }
  failed++;
  printf("FAILED %s: %s\n", what, nvfp4_last_message());
}
#define OK(call) check((call) == NVFP4_STATUS_SUCCESS, #call)

enum { E = 8, N = 1536, K = 2048, ROWS = 64, SECOND_N = 512 };

struct state {
  nvfp4_context *context;
  nvfp4_stream *stream;
  nvfp4_buffer *buffers[32];
  int count;
};

static void *memory(struct state *s, size_t bytes, const void *from) {
  void *p = NULL;
  nvfp4_buffer **b = &s->buffers[s->count++];
  OK(nvfp4_buffer_create(s->context, bytes, s->stream, b));
  OK(nvfp4_buffer_data(*b, &p));
  if (from) OK(nvfp4_buffer_upload(*b, 0, from, bytes, s->stream));
  OK(nvfp4_stream_synchronize(s->stream));
  return p;
}

static uint32_t seed = 1;
/* bfloat16 values of about one. */
static uint16_t *values(size_t n) {
  uint16_t *v = malloc(2 * n);
  for (size_t i = 0; i < n; i++) {
    seed = seed * 1664525u + 1013904223u;
    v[i] = (uint16_t)((seed >> 31) << 15 | (125 + (seed >> 29 & 3)) << 7 | (seed >> 20 & 127));
  }
  return v;
}

static nvfp4_weights *weights(struct state *s, int64_t groups, int64_t n, int64_t k) {
  nvfp4_weights *w = NULL;
  uint16_t *v = values((size_t)(groups * n * k));
  nvfp4_weights_prepare_args a = {.struct_size = sizeof a, .groups = groups, .rows = n, .cols = k,
                                  .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src = memory(s, (size_t)(groups * n * k) * 2, v)};
  OK(nvfp4_weights_storage_size(s->context, &a, &a.storage_size));
  a.storage = memory(s, a.storage_size, NULL);
  OK(nvfp4_weights_prepare(s->context, &a, s->stream, &w));
  free(v);
  return w;
}

static uint32_t backend = NVFP4_BACKEND_CUDA;

static void begin(struct state *s) {
  nvfp4_context_options options = {.struct_size = sizeof options, .backend = backend};
  memset(s, 0, sizeof *s);
  OK(nvfp4_context_create(&options, &s->context));
  OK(nvfp4_stream_create(s->context, &s->stream));
  OK(nvfp4_prepare(s->context, NULL));
  seed = 1;
}
static void end(struct state *s) {
  OK(nvfp4_stream_synchronize(s->stream));
  while (s->count) OK(nvfp4_buffer_destroy(s->buffers[--s->count]));
  OK(nvfp4_stream_destroy(s->stream));
  OK(nvfp4_context_destroy(s->context));
}

/* x [ROWS, K] → normed → product with groups by ends → second product of its rows, dense. */
struct chain { nvfp4_grouped_gemm_args first, second; nvfp4_rmsnorm_quantize_args norm; nvfp4_buffer *out; size_t bytes; };

static void build(struct state *s, struct chain *c) {
  int32_t ends[E];
  for (int e = 0; e < E; e++) ends[e] = (e + 1) * ROWS / E;
  nvfp4_weights *w1 = weights(s, E, N, K), *w2 = weights(s, 1, SECOND_N, N);
  uint16_t *x = values(ROWS * K);
  void *normed = memory(s, ROWS * K * 2, NULL);
  c->norm = (nvfp4_rmsnorm_quantize_args){.struct_size = sizeof c->norm, .src = memory(s, ROWS * K * 2, x), .rows = ROWS, .cols = K,
                                          .weight = memory(s, K * 2, x), .eps = 1e-6f, .normed = normed};
  c->norm.out.codes = memory(s, ROWS * K / 2, NULL);
  c->norm.out.scales = memory(s, ROWS * K / 16, NULL);
  c->norm.out.scope = NVFP4_SCOPE_ROW;
  c->norm.out.decode_scales = memory(s, ROWS * 4, NULL);
  void *middle = memory(s, ROWS * N * 2, NULL);
  c->first = (nvfp4_grouped_gemm_args){.struct_size = sizeof c->first, .weights = w1, .rows = ROWS, .a = normed, .out = middle,
                                       .workspace = memory(s, 64 << 20, NULL), .workspace_size = 64 << 20};
  c->first.groups = (nvfp4_groups){.grouping = NVFP4_GROUPING_ENDS, .count = E, .ends = memory(s, sizeof ends, ends)};
  c->bytes = ROWS * SECOND_N * 2;
  void *out = memory(s, c->bytes, NULL);
  c->out = s->buffers[s->count - 1];
  c->second = (nvfp4_grouped_gemm_args){.struct_size = sizeof c->second, .weights = w2, .rows = ROWS, .a = middle, .out = out,
                                        .workspace = c->first.workspace, .workspace_size = 64 << 20};
  free(x);
}

static void submit(struct state *s, struct chain *c, uint32_t flags) {
  c->first.flags = c->second.flags = flags;
  OK(nvfp4_rmsnorm_quantize(s->context, &c->norm, s->stream));
  OK(nvfp4_grouped_gemm(s->context, &c->first, s->stream));
  OK(nvfp4_gemm(s->context, &c->second, s->stream));
}

static uint16_t *result(struct state *s, struct chain *c) {
  uint16_t *bits = malloc(c->bytes);
  OK(nvfp4_buffer_download(c->out, 0, bits, c->bytes, s->stream));
  OK(nvfp4_stream_synchronize(s->stream));
  return bits;
}

int main(int count, char **words) {
  long replays = count > 1 ? atol(words[1]) : 10000;
  if (getenv("NVFP4_TEST_CPU")) backend = NVFP4_BACKEND_CPU;
  const char *file = "tuning.txt";
  struct state s;
  struct chain c;
  size_t choices = 99;
  begin(&s);
  build(&s, &c);
  submit(&s, &c, 0);
  uint16_t *untuned = result(&s, &c);
  nvfp4_tune_args tune = {.struct_size = sizeof tune, .operation = NVFP4_OPERATION_GROUPED_GEMM};
  const void *calls[] = {&c.first, &c.second};
  for (int i = 0; i < 2; i++) {
    nvfp4_tune_result found = {.struct_size = sizeof found};
    tune.args = calls[i];
    OK(nvfp4_tune(s.context, &tune, s.stream, &found));
    printf("{\"tune\": %d, \"candidates\": %u, \"default_us\": %.2f, \"best_us\": %.2f, \"kernel\": \"%s\", \"splits\": %u}\n", i,
           found.candidates, found.default_us, found.best_us, found.kernel, found.splits);
    check(backend == NVFP4_BACKEND_CPU ? found.candidates == 0 : found.candidates > 1 && found.best_us > 0, "candidates");
  }
  submit(&s, &c, 0);
  uint16_t *tuned = result(&s, &c);
  if (backend == NVFP4_BACKEND_CUDA) OK(nvfp4_tuning_save(s.context, file));

  /* Dependent launches: the same bits in every replay. Batch-invariant products are one launch each, without a memset in
   * front, so that both of them may start early. */
  submit(&s, &c, NVFP4_GEMM_BATCH_INVARIANT);
  uint16_t *invariant = result(&s, &c);
  nvfp4_event *from, *to;
  OK(nvfp4_event_create(s.context, &from));
  OK(nvfp4_event_create(s.context, &to));
  for (uint32_t flags = 0; flags <= NVFP4_GEMM_DEPENDENT_LAUNCH; flags += NVFP4_GEMM_DEPENDENT_LAUNCH) {
    nvfp4_graph *graph = NULL;
    float ms = 0;
    OK(nvfp4_graph_begin_capture(s.stream, NVFP4_CAPTURE_MODE_RELAXED));
    for (int i = 0; i < 4; i++) submit(&s, &c, flags | NVFP4_GEMM_BATCH_INVARIANT);
    OK(nvfp4_graph_end_capture(s.stream, &graph));
    OK(nvfp4_graph_instantiate(graph));
    OK(nvfp4_graph_launch(graph, s.stream));
    OK(nvfp4_event_record(from, s.stream));
    long bad = 0;
    for (long i = 0; i < replays; i++) {
      if (nvfp4_graph_launch(graph, s.stream)) bad++;
      if (i % (replays / 8 + 1) == 0) {
        uint16_t *now = result(&s, &c);
        bad += memcmp(now, invariant, c.bytes) != 0;
        free(now);
      }
    }
    OK(nvfp4_event_record(to, s.stream));
    OK(nvfp4_event_synchronize(to));
    OK(nvfp4_event_elapsed_ms(from, to, &ms));
    uint16_t *last = result(&s, &c);
    check(!bad && !memcmp(last, invariant, c.bytes), flags ? "dependent replays" : "plain replays");
    printf("{\"dependent\": %u, \"replays\": %ld, \"chain_us\": %.2f}\n", flags != 0, replays, ms * 1e3 / (replays * 4.0));
    free(last);
    OK(nvfp4_graph_destroy(graph));
  }
  OK(nvfp4_event_destroy(from));
  OK(nvfp4_event_destroy(to));
  OK(nvfp4_weights_destroy((nvfp4_weights *)c.first.weights));
  OK(nvfp4_weights_destroy((nvfp4_weights *)c.second.weights));
  end(&s);

  begin(&s);
  OK(nvfp4_tuning_load(s.context, file, &choices));
  check(backend == NVFP4_BACKEND_CPU ? choices == 0 : choices == 2, "choices loaded");
  build(&s, &c);
  submit(&s, &c, 0);
  uint16_t *loaded = result(&s, &c);
  check(!memcmp(loaded, tuned, c.bytes), "the same file gives the same bits");
  OK(nvfp4_tuning_load(s.context, NULL, &choices));
  submit(&s, &c, 0);
  uint16_t *forgotten = result(&s, &c);
  check(!memcmp(forgotten, untuned, c.bytes), "without choices the bits are the planner's");
  printf("tuning changed bits: %s\n", memcmp(tuned, untuned, c.bytes) ? "yes" : "no");
  OK(nvfp4_weights_destroy((nvfp4_weights *)c.first.weights));
  OK(nvfp4_weights_destroy((nvfp4_weights *)c.second.weights));
  end(&s);
  unlink(file);
  free(untuned), free(tuned), free(invariant), free(loaded), free(forgotten);
  printf("tuning: %d passed, %d failed\n", passed, failed);
  return failed != 0;
}
