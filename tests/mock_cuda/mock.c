/*
 * A libcuda.so.1 without a GPU, for tests of the driver paths. Work runs on the host as it is submitted, captures are
 * recorded, every object is counted, and any call can be made to fail. Kernels do nothing, or what mock_emulate is told.
 *
 * Rules that a real driver has and that are checked here: a current context where one is needed, streams and events of
 * that context, capture state, graphs of the same topology. mock_* are the controls.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t R;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700,
       CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903, CAPTURE_UNJOINED = 904,
       CAPTURE_ISOLATION = 905, CAPTURED_EVENT = 907, UPDATE_FAILURE = 910 };

/* ---- objects ---- */

enum kind { CONTEXT = 1, STREAM, EVENT, MODULE, FUNCTION, POOL, GRAPH, EXEC, KINDS };
static const char *kind_names[KINDS] = {"", "contexts", "streams", "events", "modules", "functions", "pools", "graphs", "execs"};

struct object { uint32_t magic; enum kind kind; struct context *context; };
struct context { struct object o; int device; int retained; };
enum node_kind { KERNEL, COPY, SET, CHILD };
struct node {
  enum node_kind kind;
  struct function *function;
  unsigned char parameters[4096];
  size_t bytes;
  uint32_t grid[3], threads;
  void *dst; const void *src; uint32_t value;
  int dependent;
  struct graph *child;
};
struct graph { struct object o; struct node *nodes; size_t count; };
struct capture { uint64_t id; struct graph *graph; struct stream *origin; int invalid; };
struct stream { struct object o; struct capture *capture; int unjoined; struct stream *next; };
struct event { struct object o; int recorded; uint64_t capture; struct stream *in; };
struct module { struct object o; struct function *functions; };
struct function { struct object o; char name[64]; size_t parameter_bytes; int loaded; struct function *next; };
struct pool { struct object o; uint64_t used, reserved; };
struct block { void *memory; size_t bytes; struct pool *pool; struct block *next; };

static pthread_mutex_t big = PTHREAD_MUTEX_INITIALIZER;
static long live[KINDS], live_blocks, live_host, live_retains;
static struct stream *streams;
static struct block *blocks;
static struct context *primary[2];
static uint64_t next_capture = 1;
static int initialised, version = 13000, devices = 2, capability_major = 9, capability_minor = 0, no_image;
static R sticky;
static size_t sized;
static long launches, dependent_launches;
static char last_kernel[64];
static void (*emulate)(const char *name, const uint32_t grid[3], uint32_t threads, const void *parameters);

static _Thread_local struct context *stack[16];
static _Thread_local int depth;
static _Thread_local uint32_t thread_mode; /* 0: global */

/* ---- trace and injection ---- */

enum { MOST = 65536 };
static const char *trace[MOST];
static size_t traced;
static char fail_name[64];
static long fail_nth, fail_seen;
static R fail_code;

static int is_sticky(R code) { return code == 214 || code == 700 || code == 719; }

/* Notes the call. The result is what it must fail with, or 0. `always`: works also on a broken context. */
static pthread_mutex_t tracing = PTHREAD_MUTEX_INITIALIZER;
static R enter(const char *name, int always) {
  pthread_mutex_lock(&tracing);
  R result = always ? OK : sticky;
  if (traced < MOST) trace[traced++] = name;
  if (fail_name[0] && !strcmp(name, fail_name) && fail_seen++ == fail_nth) {
    if (is_sticky(fail_code)) sticky = fail_code;
    result = fail_code;
  }
  pthread_mutex_unlock(&tracing);
  return result;
}
#define CALL(name) R failed = enter(name, 0); if (failed) return failed
#define LOCK pthread_mutex_lock(&big)
#define UNLOCK(r) do { R result_ = (r); pthread_mutex_unlock(&big); return result_; } while (0)

static void *make(enum kind kind, size_t bytes, struct context *context) {
  struct object *o = calloc(1, bytes);
  o->magic = 0x4d4f434b; o->kind = kind; o->context = context;
  live[kind]++;
  return o;
}
static void drop(void *p) {
  struct object *o = p;
  live[o->kind]--; o->magic = 0;
  free(o);
}
static int is(const void *p, enum kind kind) {
  const struct object *o = p;
  return o && (uintptr_t)p > 4096 && o->magic == 0x4d4f434b && o->kind == kind;
}
static struct context *current(void) { return depth ? stack[depth - 1] : NULL; }

/* NULL is the default stream of the current context. */
static struct stream default_streams[2];
static struct stream *stream_of(struct stream *s) {
  if (!s) return current() ? &default_streams[current()->device] : NULL;
  return is(s, STREAM) && s->o.context == current() ? s : NULL;
}

/* ---- controls ---- */

void mock_reset(void) {
  LOCK;
  traced = 0; sized = 0; emulate = NULL; fail_name[0] = 0; sticky = 0; version = 13000; devices = 2; capability_major = 9; capability_minor = 0; no_image = 0;
  pthread_mutex_unlock(&big);
}
void mock_fail(const char *name, long nth, R code) {
  LOCK;
  snprintf(fail_name, sizeof fail_name, "%s", name);
  fail_nth = nth; fail_seen = 0; fail_code = code;
  pthread_mutex_unlock(&big);
}
size_t mock_call_count(void) { return traced; }
const char *mock_call_name(size_t i) { return i < traced ? trace[i] : ""; }
void mock_set_version(int v) { version = v; }
void mock_set_devices(int n) { devices = n; }
void mock_set_capability(int major, int minor) { capability_major = major; capability_minor = minor; }
void mock_set_no_image(int on) { no_image = on; }
void mock_emulate(void (*run)(const char *, const uint32_t[3], uint32_t, const void *)) { emulate = run; }
void mock_break_context(R code) { sticky = code; }
long mock_launches(void) { return launches; }
long mock_dependent_launches(void) { return dependent_launches; }
const char *mock_last_kernel(void) { return last_kernel; }
void *mock_current(void) { return current(); }
int mock_depth(void) { return depth; }
uint32_t mock_thread_mode(void) { return thread_mode; }
/* A context as a host makes one with cuCtxCreate; current on no thread. */
void *mock_create_context(int device) {
  struct context *c = make(CONTEXT, sizeof *c, NULL);
  c->device = device;
  live[CONTEXT]--; /* the host's */
  return c;
}
void mock_set_thread_mode(uint32_t mode) { thread_mode = mode; }
/* What was left behind on purpose does not count any more. */
void mock_forget(void) {
  memset(live, 0, sizeof live);
  live_blocks = live_host = 0;
}
void *mock_primary(int device) { return primary[device]; }
/* What is alive, in words; empty when nothing is. */
const char *mock_leaks(void) {
  static char text[512];
  size_t at = 0;
  text[0] = 0;
  for (int k = 1; k < KINDS; k++)
    if (live[k] && k != FUNCTION) at += snprintf(text + at, sizeof text - at, "%ld %s ", live[k], kind_names[k]);
  if (live_blocks) at += snprintf(text + at, sizeof text - at, "%ld blocks ", live_blocks);
  if (live_host) at += snprintf(text + at, sizeof text - at, "%ld host allocations ", live_host);
  if (live_retains) at += snprintf(text + at, sizeof text - at, "%ld retained primary contexts ", live_retains);
  return text;
}

/* ---- errors, devices, contexts ---- */

static const struct { R code; const char *name, *text; } errors[] = {
  {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"}, {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
  {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"}, {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
  {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}, {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
  {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
  {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}, {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
  {600, "CUDA_ERROR_NOT_READY", "device not ready"}, {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
  {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
  {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
  {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
  {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began"},
  {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
  {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
  {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
  {910, "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE", "the graph update was not performed"}, {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};
static R describe(R code, const char **text, int name) {
  for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
    if (errors[i].code == code) { *text = name ? errors[i].name : errors[i].text; return OK; }
  *text = NULL;
  return INVALID_VALUE;
}
R cuGetErrorName(R code, const char **text) { return describe(code, text, 1); }
R cuGetErrorString(R code, const char **text) { return describe(code, text, 0); }

R cuInit(unsigned flags) {
  CALL("cuInit");
  initialised = 1;
  return flags ? INVALID_VALUE : OK;
}
R cuDriverGetVersion(int *v) { CALL("cuDriverGetVersion"); *v = version; return OK; }
R cuDeviceGetCount(int *n) { CALL("cuDeviceGetCount"); *n = devices; return initialised ? OK : NOT_INITIALIZED; }
R cuDeviceGet(int *device, int ordinal) {
  CALL("cuDeviceGet");
  if (ordinal < 0 || ordinal >= devices) return INVALID_DEVICE;
  *device = ordinal;
  return OK;
}
R cuDeviceGetName(char *name, int len, int device) {
  CALL("cuDeviceGetName");
  snprintf(name, (size_t)len, "Mock GPU %d", device);
  return OK;
}
R cuDeviceGetAttribute(int *value, int attribute, int device) {
  CALL("cuDeviceGetAttribute");
  (void)device;
  switch (attribute) {
  case 16: *value = 132; break;
  case 38: *value = 50 << 20; break;
  case 75: *value = capability_major; break;
  case 76: *value = capability_minor; break;
  case 97: *value = 232448; break;
  case 115: *value = 1; break;
  default: return INVALID_VALUE;
  }
  return OK;
}
R cuDevicePrimaryCtxRetain(struct context **context, int device) {
  CALL("cuDevicePrimaryCtxRetain");
  LOCK;
  struct context **p = &primary[device];
  if (!*p) {
    *p = make(CONTEXT, sizeof **p, NULL);
    (*p)->device = device;
    default_streams[device].o = (struct object){0x4d4f434b, STREAM, *p};
  }
  (*p)->retained++;
  live_retains++;
  *context = *p;
  UNLOCK(OK);
}
R cuDevicePrimaryCtxRelease_v2(int device) {
  R failed = enter("cuDevicePrimaryCtxRelease", 1);
  LOCK;
  struct context *p = primary[device];
  if (!p) UNLOCK(INVALID_CONTEXT);
  live_retains--;
  if (--p->retained == 0) { drop(p); primary[device] = NULL; }
  UNLOCK(failed);
}
R cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
  CALL("cuDevicePrimaryCtxGetState");
  *flags = 0; *active = primary[device] != NULL;
  return OK;
}
R cuCtxGetCurrent(struct context **context) {
  R failed = enter("cuCtxGetCurrent", 1);
  if (failed) return failed;
  *context = current();
  return OK;
}
R cuCtxGetDevice(int *device) {
  CALL("cuCtxGetDevice");
  if (!current()) return INVALID_CONTEXT;
  *device = current()->device;
  return OK;
}
R cuCtxPushCurrent_v2(struct context *context) {
  R failed = enter("cuCtxPushCurrent", 1);
  if (failed) return failed;
  if (!is(context, CONTEXT)) return INVALID_CONTEXT;
  stack[depth++] = context;
  return OK;
}
R cuCtxPopCurrent_v2(struct context **context) {
  R failed = enter("cuCtxPopCurrent", 1);
  if (!depth) return INVALID_CONTEXT;
  *context = stack[--depth];
  return failed;
}
R cuCtxSynchronize(void) {
  CALL("cuCtxSynchronize");
  if (!current()) return INVALID_CONTEXT;
  for (struct stream *s = streams; s; s = s->next)
    if (s->o.context == current() && s->capture) return CAPTURE_UNSUPPORTED;
  return OK;
}

/* ---- modules ---- */

/* Bytes of the parameters of kernels, as their images would say; 32 where nobody has told. */
static struct { char name[64]; size_t bytes; } sizes[256];
void mock_set_parameter_bytes(const char *name, size_t bytes) {
  if (sized == 256 || bytes > sizeof ((struct node *)0)->parameters) abort();
  snprintf(sizes[sized].name, sizeof sizes[sized].name, "%s", name);
  sizes[sized++].bytes = bytes;
}

R cuModuleLoadData(struct module **module, const void *image) {
  CALL("cuModuleLoadData");
  if (!current()) return INVALID_CONTEXT;
  if (no_image) return NO_BINARY;
  if (!image || (uintptr_t)image % 8) return INVALID_IMAGE;
  LOCK;
  *module = make(MODULE, sizeof **module, current());
  UNLOCK(OK);
}
R cuModuleUnload(struct module *module) {
  R failed = enter("cuModuleUnload", 1);
  LOCK;
  if (!is(module, MODULE)) UNLOCK(INVALID_HANDLE);
  for (struct function *f = module->functions, *next; f; f = next) { next = f->next; drop(f); }
  drop(module);
  UNLOCK(failed);
}
R cuModuleGetFunction(struct function **function, struct module *module, const char *name) {
  CALL("cuModuleGetFunction");
  LOCK;
  if (!is(module, MODULE)) UNLOCK(INVALID_HANDLE);
  if (strncmp(name, "nvfp4_", 6)) UNLOCK(NOT_FOUND);
  struct function *f = make(FUNCTION, sizeof *f, current());
  snprintf(f->name, sizeof f->name, "%s", name);
  f->parameter_bytes = 32;
  for (size_t i = 0; i < sized; i++) if (!strcmp(sizes[i].name, name)) f->parameter_bytes = sizes[i].bytes;
  f->next = module->functions;
  module->functions = f;
  *function = f;
  UNLOCK(OK);
}
R cuFuncLoad(struct function *f) { CALL("cuFuncLoad"); if (!is(f, FUNCTION)) return INVALID_HANDLE; f->loaded = 1; return OK; }
R cuFuncGetAttribute(int *value, int attribute, struct function *f) {
  CALL("cuFuncGetAttribute");
  *value = attribute == 1 ? 264 : 0;
  return is(f, FUNCTION) ? OK : INVALID_HANDLE;
}
R cuFuncSetAttribute(struct function *f, int attribute, int value) {
  CALL("cuFuncSetAttribute");
  if (!is(f, FUNCTION)) return INVALID_HANDLE;
  return attribute == 8 && value + 264 <= 232448 ? OK : INVALID_VALUE;
}
R cuFuncGetParamInfo(struct function *f, size_t index, size_t *offset, size_t *size) {
  CALL("cuFuncGetParamInfo");
  if (!is(f, FUNCTION)) return INVALID_HANDLE;
  if (index) return INVALID_VALUE;
  *offset = 0; *size = f->parameter_bytes;
  return OK;
}

/* ---- work ---- */

/* The record: flags, group, and the address of the host's word. */
struct record { uint32_t flags, group, *word; };
struct group_ends { const int32_t *counts; int32_t *ends; struct record *fault; uint32_t count, reserved; };
static void group_ends(const struct group_ends *p) {
  int64_t end = 0;
  for (uint32_t i = 0; i < p->count; i++) {
    int64_t raw = p->counts[i], next = end + (raw < 0 ? 0 : raw);
    if (next > INT32_MAX) next = INT32_MAX;
    if (next != end + raw) {
      struct record *r = p->fault;
      if (!r->group) r->word[1] = r->group = i + 1;
      if (!(r->flags & 1)) r->word[0] |= 1;
      r->flags |= 1;
    }
    p->ends[i] = (int32_t)(end = next);
  }
}
static void carry_out(const struct node *n) {
  switch (n->kind) {
  case KERNEL:
    __atomic_fetch_add(&launches, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&dependent_launches, n->dependent, __ATOMIC_RELAXED);
    snprintf(last_kernel, sizeof last_kernel, "%s", n->function->name);
    if (!strcmp(n->function->name, "nvfp4_group_ends")) group_ends((const struct group_ends *)n->parameters);
    else if (emulate) emulate(n->function->name, n->grid, n->threads, n->parameters);
    break;
  case COPY: memmove(n->dst, n->src, n->bytes); break;
  case SET: for (size_t i = 0; i < n->bytes; i++) ((uint32_t *)n->dst)[i] = n->value; break;
  case CHILD: for (size_t i = 0; i < n->child->count; i++) carry_out(&n->child->nodes[i]); break;
  }
}
static struct graph *clone_graph(const struct graph *from, enum kind kind);
static void append(struct graph *g, const struct node *n) {
  g->nodes = realloc(g->nodes, (g->count + 1) * sizeof *n);
  g->nodes[g->count] = *n;
  if (n->kind == CHILD) g->nodes[g->count].child = clone_graph(n->child, GRAPH);
  g->count++;
}
static struct graph *clone_graph(const struct graph *from, enum kind kind) {
  struct graph *g = make(kind, sizeof *g, from->o.context);
  for (size_t i = 0; i < from->count; i++) append(g, &from->nodes[i]);
  return g;
}
static void drop_graph(struct graph *g) {
  for (size_t i = 0; i < g->count; i++) if (g->nodes[i].kind == CHILD) drop_graph(g->nodes[i].child);
  free(g->nodes);
  drop(g);
}
static R submit(struct stream *stream, const struct node *n) {
  struct stream *s = stream_of(stream);
  if (!s) return current() ? INVALID_HANDLE : INVALID_CONTEXT;
  if (!s->capture) { carry_out(n); return OK; }
  if (s->capture->invalid) return CAPTURE_INVALIDATED;
  append(s->capture->graph, n);
  if (s != s->capture->origin) s->unjoined = 1;
  return OK;
}

struct attribute { unsigned id; char pad[4]; int value; char rest[60]; };
struct launch { unsigned grid[3], block[3], shared; struct stream *stream; const struct attribute *attributes; unsigned count; };
/* Whether the launch may start early (programmatic stream serialization); -1 for attributes that nobody here knows. */
static int dependent(const struct launch *c) {
  if (c->count == 0) return 0;
  return c->attributes && c->attributes->id == 6 && c->attributes->value == 1 && capability_major >= 9 ? 1 : -1;
}
R cuLaunchKernelEx(const struct launch *c, struct function *f, void **parameters, void **extra) {
  CALL("cuLaunchKernelEx");
  if (!is(f, FUNCTION) || extra || !parameters) return INVALID_VALUE;
  for (int i = 0; i < 3; i++) if (!c->grid[i] || !c->block[i]) return INVALID_VALUE;
  if (c->block[0] > 1024 || c->shared > 232448 || c->count > 1) return INVALID_VALUE;
  struct node n = {.kind = KERNEL, .function = f, .dependent = dependent(c)};
  if (n.dependent < 0) return INVALID_VALUE;
  memcpy(n.grid, c->grid, sizeof n.grid);
  n.threads = c->block[0];
  memcpy(n.parameters, parameters[0], f->parameter_bytes);
  LOCK;
  UNLOCK(submit(c->stream, &n));
}
/* A map is opaque; this one holds what it was made of. */
R cuTensorMapEncodeTiled(uint64_t *map, int dtype, unsigned rank, void *address, const uint64_t *dims, const uint64_t *strides,
                         const unsigned *box, const unsigned *steps, int interleave, int swizzle, int promotion, int fill) {
  CALL("cuTensorMapEncodeTiled");
  if ((uintptr_t)map % 64 || (uintptr_t)address % 16 || rank < 1 || rank > 5 || interleave || fill) return INVALID_VALUE;
  for (unsigned i = 0; i < rank; i++) if (!dims[i] || dims[i] >> 32 || !box[i] || box[i] > 256 || steps[i] != 1) return INVALID_VALUE;
  for (unsigned i = 0; i + 1 < rank; i++) if (strides[i] % 16 || strides[i] >> 40) return INVALID_VALUE;
  if (swizzle == 3 && box[0] * 2 > 128) return INVALID_VALUE;
  memset(map, 0, 128);
  map[0] = (uint64_t)(uintptr_t)address; map[1] = (uint64_t)dtype << 32 | (unsigned)promotion; map[2] = dims[0]; map[3] = box[1];
  return OK;
}
R cuMemcpyAsync(uint64_t dst, uint64_t src, size_t bytes, struct stream *s) {
  CALL("cuMemcpyAsync");
  struct node n = {.kind = COPY, .dst = (void *)dst, .src = (void *)src, .bytes = bytes};
  LOCK;
  if (dst < src + bytes && src < dst + bytes) UNLOCK(INVALID_VALUE); /* undefined there, refused here */
  UNLOCK(submit(s, &n));
}
R cuMemsetD32Async(uint64_t dst, unsigned value, size_t words, struct stream *s) {
  CALL("cuMemsetD32Async");
  struct node n = {.kind = SET, .dst = (void *)dst, .bytes = words, .value = value};
  LOCK;
  UNLOCK(submit(s, &n));
}

/* ---- memory ---- */

R cuMemHostAlloc(void **memory, size_t bytes, unsigned flags) {
  CALL("cuMemHostAlloc");
  if (!current()) return INVALID_CONTEXT;
  if (flags != 3) return INVALID_VALUE;
  LOCK;
  *memory = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  live_host++;
  UNLOCK(OK);
}
R cuMemHostGetDevicePointer_v2(uint64_t *address, void *memory, unsigned flags) {
  CALL("cuMemHostGetDevicePointer");
  (void)flags;
  *address = (uintptr_t)memory;
  return OK;
}
R cuMemFreeHost(void *memory) {
  R failed = enter("cuMemFreeHost", 1);
  LOCK;
  free(memory); live_host--;
  UNLOCK(failed);
}
R cuMemPoolCreate(struct pool **pool, const void *properties) {
  CALL("cuMemPoolCreate");
  if (!properties) return INVALID_VALUE;
  LOCK;
  *pool = make(POOL, sizeof **pool, current());
  UNLOCK(OK);
}
R cuMemPoolDestroy(struct pool *pool) {
  R failed = enter("cuMemPoolDestroy", 1);
  LOCK;
  if (!is(pool, POOL)) UNLOCK(INVALID_VALUE);
  drop(pool);
  UNLOCK(failed);
}
R cuMemPoolTrimTo(struct pool *pool, size_t keep) {
  CALL("cuMemPoolTrimTo");
  if (!is(pool, POOL)) return INVALID_VALUE;
  if (pool->reserved > keep) pool->reserved = pool->used > keep ? pool->used : keep;
  return OK;
}
R cuMemPoolGetAttribute(struct pool *pool, int attribute, void *value) {
  CALL("cuMemPoolGetAttribute");
  if (!is(pool, POOL)) return INVALID_VALUE;
  *(uint64_t *)value = attribute == 5 ? pool->reserved : pool->used;
  return OK;
}
R cuMemPoolSetAttribute(struct pool *pool, int attribute, void *value) {
  CALL("cuMemPoolSetAttribute");
  return is(pool, POOL) && attribute == 4 && *(uint64_t *)value == UINT64_MAX ? OK : INVALID_VALUE;
}
R cuMemAllocFromPoolAsync(uint64_t *address, size_t bytes, struct pool *pool, struct stream *stream) {
  CALL("cuMemAllocFromPoolAsync");
  LOCK;
  if (!is(pool, POOL) || !stream_of(stream)) UNLOCK(INVALID_VALUE);
  if (stream_of(stream)->capture) UNLOCK(CAPTURE_UNSUPPORTED);
  if (bytes > (size_t)1 << 40) UNLOCK(OUT_OF_MEMORY);
  struct block *b = malloc(sizeof *b);
  *b = (struct block){aligned_alloc(512, (bytes + 511) / 512 * 512), bytes, pool, blocks};
  memset(b->memory, 0xA5, bytes);
  blocks = b; live_blocks++;
  pool->used += bytes;
  if (pool->used > pool->reserved) pool->reserved = pool->used;
  *address = (uintptr_t)b->memory;
  UNLOCK(OK);
}
R cuMemAlloc_v2(uint64_t *address, size_t bytes) {
  CALL("cuMemAlloc");
  if (!current()) return INVALID_CONTEXT;
  LOCK;
  struct block *b = malloc(sizeof *b);
  *b = (struct block){aligned_alloc(512, (bytes + 511) / 512 * 512), bytes, NULL, blocks};
  memset(b->memory, 0xA5, bytes);
  blocks = b; live_blocks++;
  *address = (uintptr_t)b->memory;
  UNLOCK(OK);
}
static R release(uint64_t address) {
  for (struct block **p = &blocks; *p; p = &(*p)->next)
    if ((uintptr_t)(*p)->memory == address) {
      struct block *b = *p;
      if (b->pool && is(b->pool, POOL)) b->pool->used -= b->bytes;
      *p = b->next;
      free(b->memory); free(b); live_blocks--;
      return OK;
    }
  return INVALID_VALUE;
}
R cuMemFreeAsync(uint64_t address, struct stream *stream) {
  R failed = enter("cuMemFreeAsync", 1);
  LOCK;
  if (stream && !is(stream, STREAM)) UNLOCK(INVALID_HANDLE);
  R result = release(address);
  UNLOCK(failed ? failed : result);
}
R cuMemFree_v2(uint64_t address) {
  R failed = enter("cuMemFree", 1);
  LOCK;
  R result = release(address);
  UNLOCK(failed ? failed : result);
}

/* ---- streams and captures ---- */

R cuStreamCreate(struct stream **stream, unsigned flags) {
  CALL("cuStreamCreate");
  if (!current()) return INVALID_CONTEXT;
  if (flags > 1) return INVALID_VALUE;
  LOCK;
  struct stream *s = make(STREAM, sizeof *s, current());
  s->next = streams; streams = s;
  *stream = s;
  UNLOCK(OK);
}
R cuStreamDestroy_v2(struct stream *stream) {
  R failed = enter("cuStreamDestroy", 1);
  LOCK;
  if (!is(stream, STREAM)) UNLOCK(INVALID_HANDLE);
  struct capture *c = stream->capture;
  for (struct stream **p = &streams; *p; p = &(*p)->next) if (*p == stream) { *p = stream->next; break; }
  if (c && c->origin == stream) {
    for (struct stream *m = streams; m; m = m->next) if (m->capture == c) m->capture = NULL;
    drop_graph(c->graph);
    free(c);
  }
  drop(stream);
  UNLOCK(failed);
}
R cuStreamGetCtx(struct stream *stream, struct context **context) {
  CALL("cuStreamGetCtx");
  if (stream && !is(stream, STREAM)) return INVALID_HANDLE;
  *context = stream ? stream->o.context : current();
  return OK;
}
static R idle(struct stream *stream) {
  struct stream *s = stream_of(stream);
  if (!s) return INVALID_HANDLE;
  return s->capture ? CAPTURE_UNSUPPORTED : OK;
}
R cuStreamSynchronize(struct stream *s) { CALL("cuStreamSynchronize"); LOCK; UNLOCK(idle(s)); }
R cuStreamQuery(struct stream *s) { CALL("cuStreamQuery"); LOCK; UNLOCK(idle(s)); }
R cuStreamIsCapturing(struct stream *stream, unsigned *status) {
  CALL("cuStreamIsCapturing");
  LOCK;
  struct stream *s = stream_of(stream);
  if (!s) UNLOCK(INVALID_HANDLE);
  *status = !s->capture ? 0 : s->capture->invalid ? 2 : 1;
  UNLOCK(OK);
}
R cuStreamBeginCapture_v2(struct stream *stream, unsigned mode) {
  CALL("cuStreamBeginCapture");
  LOCK;
  struct stream *s = stream_of(stream);
  if (!s || mode > 2) UNLOCK(INVALID_VALUE);
  if (!stream || s->capture) UNLOCK(CAPTURE_UNSUPPORTED);
  struct capture *c = calloc(1, sizeof *c);
  *c = (struct capture){next_capture++, make(GRAPH, sizeof(struct graph), s->o.context), s, 0};
  s->capture = c;
  s->unjoined = 0;
  UNLOCK(OK);
}
R cuStreamEndCapture(struct stream *stream, struct graph **graph) {
  R failed = enter("cuStreamEndCapture", 0);
  LOCK;
  *graph = NULL;
  struct stream *s = stream_of(stream);
  if (!s || !s->capture) UNLOCK(failed ? failed : INVALID_VALUE);
  struct capture *c = s->capture;
  if (c->origin != s) UNLOCK(failed ? failed : CAPTURE_UNMATCHED);
  R result = failed ? failed : c->invalid ? CAPTURE_INVALIDATED : OK;
  for (struct stream *m = streams; m; m = m->next)
    if (m->capture == c) {
      if (m->unjoined && !result) result = CAPTURE_UNJOINED;
      m->capture = NULL; m->unjoined = 0;
    }
  if (result) drop_graph(c->graph); else *graph = c->graph;
  free(c);
  UNLOCK(result);
}
static struct object a_node;
R cuStreamGetCaptureInfo_v3(struct stream *stream, unsigned *status, uint64_t *id, struct graph **graph, void ***dependencies,
                            const void **edges, size_t *count) {
  static void *nodes[1];
  CALL("cuStreamGetCaptureInfo");
  LOCK;
  struct stream *s = stream_of(stream);
  if (!s) UNLOCK(INVALID_HANDLE);
  *status = !s->capture ? 0 : s->capture->invalid ? 2 : 1;
  if (s->capture) {
    nodes[0] = &a_node;
    *id = s->capture->id; *graph = s->capture->graph; *dependencies = nodes; *edges = NULL;
    *count = s->capture->graph->count > 0;
  }
  UNLOCK(OK);
}
R cuStreamUpdateCaptureDependencies_v2(struct stream *stream, void **dependencies, const void *edges, size_t count, unsigned flags) {
  CALL("cuStreamUpdateCaptureDependencies");
  LOCK;
  struct stream *s = stream_of(stream);
  if (!s || !s->capture || edges || count != 1 || flags != 1 || dependencies[0] != &a_node) UNLOCK(INVALID_VALUE);
  if (s != s->capture->origin) s->unjoined = 1;
  UNLOCK(OK);
}
R cuThreadExchangeStreamCaptureMode(unsigned *mode) {
  R failed = enter("cuThreadExchangeStreamCaptureMode", 1);
  if (failed) return failed;
  unsigned old = thread_mode;
  thread_mode = *mode;
  *mode = old;
  return OK;
}

/* ---- events ---- */

R cuEventCreate(struct event **event, unsigned flags) {
  CALL("cuEventCreate");
  if (!current()) return INVALID_CONTEXT;
  (void)flags;
  LOCK;
  *event = make(EVENT, sizeof **event, current());
  UNLOCK(OK);
}
R cuEventDestroy_v2(struct event *event) {
  R failed = enter("cuEventDestroy", 1);
  LOCK;
  if (!is(event, EVENT)) UNLOCK(INVALID_HANDLE);
  drop(event);
  UNLOCK(failed);
}
R cuEventRecord(struct event *event, struct stream *stream) {
  CALL("cuEventRecord");
  LOCK;
  struct stream *s = stream_of(stream);
  if (!is(event, EVENT) || !s) UNLOCK(INVALID_HANDLE);
  event->recorded = 1;
  event->capture = s->capture ? s->capture->id : 0;
  event->in = s;
  UNLOCK(OK);
}
R cuStreamWaitEvent(struct stream *stream, struct event *event, unsigned flags) {
  CALL("cuStreamWaitEvent");
  (void)flags;
  LOCK;
  struct stream *s = stream_of(stream);
  if (!is(event, EVENT) || !s) UNLOCK(INVALID_HANDLE);
  if (!event->capture) {
    if (s->capture) { s->capture->invalid = 1; UNLOCK(CAPTURE_ISOLATION); }
    UNLOCK(OK);
  }
  if (!event->in->capture || event->in->capture->id != event->capture) UNLOCK(CAPTURED_EVENT);
  if (s->capture && s->capture != event->in->capture) { s->capture->invalid = 1; UNLOCK(CAPTURE_ISOLATION); }
  if (!s->capture) { s->capture = event->in->capture; s->unjoined = 0; }
  else event->in->unjoined = 0;
  UNLOCK(OK);
}
static R reached(struct event *event) {
  if (!is(event, EVENT)) return INVALID_HANDLE;
  return event->capture ? CAPTURED_EVENT : OK;
}
R cuEventQuery(struct event *event) { CALL("cuEventQuery"); LOCK; UNLOCK(reached(event)); }
R cuEventSynchronize(struct event *event) { CALL("cuEventSynchronize"); LOCK; UNLOCK(reached(event)); }
R cuEventElapsedTime_v2(float *ms, struct event *start, struct event *end) {
  CALL("cuEventElapsedTime");
  if (!is(start, EVENT) || !is(end, EVENT) || !start->recorded || !end->recorded) return INVALID_HANDLE;
  *ms = 0.5f;
  return OK;
}

/* ---- graphs ---- */

R cuGraphAddChildGraphNode(void **node, struct graph *graph, void *const *dependencies, size_t count, struct graph *child) {
  CALL("cuGraphAddChildGraphNode");
  LOCK;
  if (!is(graph, GRAPH) || !is(child, GRAPH) || (count && dependencies[0] != &a_node)) UNLOCK(INVALID_VALUE);
  struct node n = {.kind = CHILD, .child = child};
  append(graph, &n);
  *node = &a_node;
  UNLOCK(OK);
}
R cuGraphInstantiateWithFlags(struct graph **exec, struct graph *graph, unsigned long long flags) {
  CALL("cuGraphInstantiate");
  LOCK;
  if (!is(graph, GRAPH) || flags) UNLOCK(INVALID_VALUE);
  *exec = clone_graph(graph, EXEC);
  UNLOCK(OK);
}
R cuGraphLaunch(struct graph *exec, struct stream *stream) {
  CALL("cuGraphLaunch");
  LOCK;
  struct stream *s = stream_of(stream);
  if (!is(exec, EXEC) || !s || s->capture) UNLOCK(INVALID_VALUE);
  for (size_t i = 0; i < exec->count; i++) carry_out(&exec->nodes[i]);
  UNLOCK(OK);
}
static int same(const struct graph *a, const struct graph *b) {
  if (a->count != b->count) return 0;
  for (size_t i = 0; i < a->count; i++) {
    const struct node *m = &a->nodes[i], *n = &b->nodes[i];
    if (m->kind != n->kind || m->function != n->function || (m->kind == CHILD && !same(m->child, n->child))) return 0;
  }
  return 1;
}
struct update_info { unsigned result; void *a, *b; };
R cuGraphExecUpdate_v2(struct graph *exec, struct graph *graph, struct update_info *info) {
  CALL("cuGraphExecUpdate");
  LOCK;
  if (!is(exec, EXEC) || !is(graph, GRAPH)) UNLOCK(INVALID_VALUE);
  if (!same(exec, graph)) { info->result = 2; UNLOCK(UPDATE_FAILURE); }
  struct graph *fresh = clone_graph(graph, EXEC);
  struct graph swap = *exec; *exec = *fresh; *fresh = swap;
  drop_graph(fresh);
  UNLOCK(OK);
}
R cuGraphGetNodes(struct graph *graph, void **nodes, size_t *count) {
  CALL("cuGraphGetNodes");
  if (!is(graph, GRAPH) || nodes) return INVALID_VALUE;
  *count = graph->count;
  return OK;
}
R cuGraphExecDestroy(struct graph *exec) {
  R failed = enter("cuGraphExecDestroy", 1);
  LOCK;
  if (!is(exec, EXEC)) UNLOCK(INVALID_HANDLE);
  drop_graph(exec);
  UNLOCK(failed);
}
R cuGraphDestroy(struct graph *graph) {
  R failed = enter("cuGraphDestroy", 1);
  LOCK;
  if (!is(graph, GRAPH)) UNLOCK(INVALID_HANDLE);
  drop_graph(graph);
  UNLOCK(failed);
}
