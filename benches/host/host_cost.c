/*
 * What a run call costs the host, and what the first one of a process costs.
 *
 *   host_cost LIBNVFP4.so [all|lazy|problem] [CALLS]
 *
 * The driver's context is created first, by itself; then the time from dlopen to the first quantized tensor is taken,
 * with every kernel loaded by nvfp4_prepare (`all`), by nvfp4_prepare for that problem (`problem`), or with what the
 * call loads itself (`lazy`). Then rounds of calls: nvfp4_quantize of one row with static scales, and beside it bare
 * launches of the same kernel with the same parameters (taken from a captured graph) in the forms the driver has.
 * Grouped products follow, by their shapes, whose forms the planner weighs in every call.
 * Medians over rounds of the mean of a round. With null_driver.c in place of the driver what is left is our own part.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <nvfp4.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COLS = 7168, ROUNDS = 41 };
static long calls_a_round = 200;

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec * 1e-3;
}

static void *need(void *library, const char *name) {
  void *f = dlsym(library, name);
  if (!f) { printf("no %s\n", name); exit(1); }
  return f;
}

/* ---- the driver's part, declared as far as it is used ---- */

struct config { unsigned grid[3], block[3], shared; void *stream; const void *attributes; unsigned count; };
struct node { void *function; unsigned grid[3], block[3], shared; void **parameters, **extra; void *kernel, *context; };
static int (*cuStreamSynchronize)(void *);
static int (*cuLaunchKernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
static int (*cuLaunchKernelEx)(const struct config *, void *, void **, void **);
static int (*cuCtxGetCurrent)(void **);
static void *stream;
static struct node node;
static unsigned char parameters[4096];
static size_t parameter_bytes = 272; /* struct RowsParams of kernels/params.cuh */

/* ---- the library's part ---- */

static nvfp4_status (*quantize)(nvfp4_context *, const nvfp4_quantize_args *, nvfp4_stream *);
static nvfp4_context *context;
static nvfp4_stream *borrowed;
static nvfp4_quantize_args args;
static nvfp4_status (*multiply)(nvfp4_context *, const nvfp4_grouped_gemm_args *, nvfp4_stream *);
static nvfp4_grouped_gemm_args product;
static const char *(*last_message)(void);

static void ok(int status, const char *what) {
  if (status) { printf("%s: %d %s\n", what, status, last_message ? last_message() : ""); exit(1); }
}

/* ---- what is timed ---- */

static void call_quantize(void) { quantize(context, &args, borrowed); }
static void call_multiply(void) { multiply(context, &product, borrowed); }
static void call_launch(void) {
  void *list[] = {parameters};
  cuLaunchKernel(node.function, node.grid[0], node.grid[1], node.grid[2], node.block[0], 1, 1, 0, stream, list, NULL);
}
static void call_launch_ex(void) {
  void *list[] = {parameters};
  struct config config = {{node.grid[0], node.grid[1], node.grid[2]}, {node.block[0], 1, 1}, 0, stream, NULL, 0};
  cuLaunchKernelEx(&config, node.function, list, NULL);
}
static void call_launch_buffer(void) {
  void *extra[] = {(void *)1, parameters, (void *)2, &parameter_bytes, (void *)0};
  cuLaunchKernel(node.function, node.grid[0], node.grid[1], node.grid[2], node.block[0], 1, 1, 0, stream, NULL, extra);
}
static void call_current(void) { void *c; cuCtxGetCurrent(&c); }
static void call_getpid(void) { (void)getpid(); }

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* Nanoseconds a call. Every round starts with an idle stream; the queue of the driver is longer than a round. */
static double cost(void (*call)(void)) {
  static double rounds[ROUNDS];
  for (int r = 0; r < ROUNDS; r++) {
    cuStreamSynchronize(stream);
    double t = now_us();
    for (long i = 0; i < calls_a_round; i++) call();
    rounds[r] = (now_us() - t) * 1e3 / calls_a_round;
  }
  cuStreamSynchronize(stream);
  qsort(rounds, ROUNDS, sizeof *rounds, ascending);
  return rounds[ROUNDS / 2];
}

/* Products of weights of nobody's values; the smaller ones are the driver's business more than the device's. */
static void products(void *library) {
  static const struct { int groups, n, k, tokens; } shapes[] = {{1, 512, 512, 1}, {1, 512, 512, 128}, {8, 512, 512, 16}, {8, 512, 512, 256}};
  nvfp4_status (*buffer)(nvfp4_context *, size_t, nvfp4_stream *, nvfp4_buffer **) = need(library, "nvfp4_buffer_create");
  nvfp4_status (*data)(nvfp4_buffer *, void **) = need(library, "nvfp4_buffer_data");
  nvfp4_status (*pack)(nvfp4_context *, const nvfp4_weights_prepare_args *, nvfp4_stream *, nvfp4_weights **) = need(library, "nvfp4_weights_prepare");
  *(void **)&multiply = need(library, "nvfp4_grouped_gemm");
  nvfp4_buffer *memory;
  char *base;
  ok(buffer(context, 128 << 20, borrowed, &memory), "nvfp4_buffer_create");
  ok(data(memory, (void **)&base), "nvfp4_buffer_data");
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    const int groups = shapes[i].groups, n = shapes[i].n, k = shapes[i].k, tokens = shapes[i].tokens;
    nvfp4_weights_prepare_args given = {.struct_size = sizeof given, .groups = groups, .rows = n, .cols = k,
                                        .source = NVFP4_WEIGHTS_SOURCE_VALUES, .src_dtype = NVFP4_DTYPE_BF16, .src = base, .storage = base + (48 << 20), .storage_size = 16 << 20};
    nvfp4_weights *weights;
    ok(pack(context, &given, borrowed, &weights), "nvfp4_weights_prepare");
    product = (nvfp4_grouped_gemm_args){.struct_size = sizeof product, .weights = weights, .rows = groups * tokens,
                                        .a = base + (16 << 20), .a_dtype = NVFP4_DTYPE_BF16, .out = base + (32 << 20), .out_dtype = NVFP4_DTYPE_BF16,
                                        .workspace = base + (64 << 20), .workspace_size = 64 << 20};
    if (groups > 1) {
      product.groups = (nvfp4_groups){.grouping = NVFP4_GROUPING_STRIDED, .count = groups, .max_tokens = tokens};
      product.a_group_stride = (int64_t)tokens * k;
      product.out_group_stride = (int64_t)tokens * n;
    }
    ok(multiply(context, &product, borrowed), "nvfp4_grouped_gemm");
    printf(", \"nvfp4_grouped_gemm %d x %d to %d, %d tokens\": %.0f", groups, k, n, tokens, cost(call_multiply));
  }
}

int main(int count, char **words) {
  if (count < 2) { printf("host_cost LIBNVFP4.so [all|lazy|problem] [CALLS]\n"); return 2; }
  const char *mode = count > 2 ? words[2] : "all";
  if (count > 3) calls_a_round = atol(words[3]);
  void *driver = dlopen("libcuda.so.1", RTLD_NOW);
  if (!driver) { printf("%s\n", dlerror()); return 1; }
  cuStreamSynchronize = need(driver, "cuStreamSynchronize");
  cuLaunchKernel = dlsym(driver, "cuLaunchKernel");
  cuLaunchKernelEx = need(driver, "cuLaunchKernelEx");
  cuCtxGetCurrent = need(driver, "cuCtxGetCurrent");
  int (*init)(unsigned) = need(driver, "cuInit");
  int (*retain)(void **, int) = need(driver, "cuDevicePrimaryCtxRetain");
  int (*push)(void *) = need(driver, "cuCtxPushCurrent_v2");
  int (*create)(void **, unsigned) = need(driver, "cuStreamCreate");
  int (*begin)(void *, unsigned) = dlsym(driver, "cuStreamBeginCapture_v2");
  int (*end)(void *, void **) = dlsym(driver, "cuStreamEndCapture");
  int (*nodes)(void *, void **, size_t *) = dlsym(driver, "cuGraphGetNodes");
  int (*node_parameters)(void *, struct node *) = dlsym(driver, "cuGraphKernelNodeGetParams_v2");

  double t0 = now_us();
  void *primary = NULL;
  ok(init(0), "cuInit");
  ok(retain(&primary, 0), "cuDevicePrimaryCtxRetain");
  ok(push(primary), "cuCtxPushCurrent");
  ok(create(&stream, 1), "cuStreamCreate");
  double driver_us = now_us() - t0;

  /* Dense, aligned memory of the pool; what is in it does not matter for the time. */
  t0 = now_us();
  void *library = dlopen(words[1], RTLD_NOW);
  if (!library) { printf("%s\n", dlerror()); return 1; }
  double opened = now_us();
  last_message = need(library, "nvfp4_last_message");
  nvfp4_status (*context_create)(const nvfp4_context_options *, nvfp4_context **) = need(library, "nvfp4_context_create");
  nvfp4_status (*borrow)(nvfp4_context *, void *, nvfp4_stream **) = need(library, "nvfp4_stream_borrow");
  nvfp4_status (*prepare)(nvfp4_context *, const nvfp4_prepare_args *) = need(library, "nvfp4_prepare");
  nvfp4_status (*buffer)(nvfp4_context *, size_t, nvfp4_stream *, nvfp4_buffer **) = need(library, "nvfp4_buffer_create");
  nvfp4_status (*data)(nvfp4_buffer *, void **) = need(library, "nvfp4_buffer_data");
  quantize = (nvfp4_status (*)(nvfp4_context *, const nvfp4_quantize_args *, nvfp4_stream *))need(library, "nvfp4_quantize");
  nvfp4_context_options options = {.struct_size = sizeof options, .backend = NVFP4_BACKEND_CUDA};
  ok(context_create(&options, &context), "nvfp4_context_create");
  ok(borrow(context, stream, &borrowed), "nvfp4_stream_borrow");
  double created = now_us();
  nvfp4_buffer *memory;
  char *base;
  ok(buffer(context, 1 << 20, borrowed, &memory), "nvfp4_buffer_create");
  ok(data(memory, (void **)&base), "nvfp4_buffer_data");
  args = (nvfp4_quantize_args){.struct_size = sizeof args, .src = base, .rows = 1, .cols = COLS};
  args.out.codes = (uint8_t *)base + 65536;
  args.out.scales = (uint8_t *)base + 131072;
  args.out.scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4;
  args.out.static_decode_scales = (float *)(base + 524288);
  double allocated = now_us();
  if (!strcmp(mode, "all")) ok(prepare(context, NULL), "nvfp4_prepare");
  if (!strcmp(mode, "problem")) {
    nvfp4_prepare_args one = {.struct_size = sizeof one, .operation = NVFP4_OPERATION_QUANTIZE, .args = &args};
    ok(prepare(context, &one), "nvfp4_prepare");
  }
  double prepared = now_us();
  ok(quantize(context, &args, borrowed), "nvfp4_quantize");
  ok(cuStreamSynchronize(stream), "cuStreamSynchronize");
  double done = now_us();
  printf("{\"start\": \"%s\", \"driver_ms\": %.2f, \"dlopen_ms\": %.2f, \"create_ms\": %.2f, \"buffer_ms\": %.2f, \"prepare_ms\": %.2f, \"first_call_ms\": %.2f, \"sum_ms\": %.2f}\n",
         mode, driver_us * 1e-3, (opened - t0) * 1e-3, (created - opened) * 1e-3, (allocated - created) * 1e-3,
         (prepared - allocated) * 1e-3, (done - prepared) * 1e-3, (done - t0) * 1e-3);

  int bare = cuLaunchKernel && begin && end && nodes && node_parameters;
  if (bare) {
    void *graph = NULL, *first = NULL;
    size_t length = 1;
    ok(begin(stream, 2), "cuStreamBeginCapture");
    ok(quantize(context, &args, borrowed), "nvfp4_quantize, captured");
    ok(end(stream, &graph), "cuStreamEndCapture");
    ok(nodes(graph, &first, &length), "cuGraphGetNodes");
    ok(node_parameters(first, &node), "cuGraphKernelNodeGetParams");
    memcpy(parameters, node.parameters[0], parameter_bytes);
  }
  printf("{\"host_ns\": {\"nvfp4_quantize\": %.0f", cost(call_quantize));
  if (bare) {
    printf(", \"cuLaunchKernel\": %.0f", cost(call_launch));
    printf(", \"cuLaunchKernelEx\": %.0f", cost(call_launch_ex));
    printf(", \"cuLaunchKernel, buffer form\": %.0f", cost(call_launch_buffer));
    printf(", \"nvfp4_quantize again\": %.0f, \"cuLaunchKernel again\": %.0f", cost(call_quantize), cost(call_launch));
    printf(", \"cuLaunchKernelEx again\": %.0f", cost(call_launch_ex));
  }
  printf(", \"cuCtxGetCurrent\": %.0f, \"getpid\": %.0f", cost(call_current), cost(call_getpid));
  products(library);
  printf("}}\n");
  return 0;
}
