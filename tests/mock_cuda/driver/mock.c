/*
 * A libcuda.so.1 without a GPU, for tests of the driver paths. Work runs on the host as it is submitted, captures are
 * recorded, every object is counted, and any call can be made to fail. Kernels do nothing, or what mock_emulate is told.
 *
 * Rules that a real driver has and that are checked here: a current context where one is needed, streams and events of
 * that context, capture state, graphs of the same topology. mock_* are the controls.
 * Here: objects, the trace of calls and those that are made to fail, the controls. device.c, memory.c, streams.c, work.c:
 * what the driver exports.
 */
#include "mock.h"

static const char *kind_names[KINDS] = {"", "contexts", "streams", "events", "modules", "functions", "pools", "graphs", "execs"};

pthread_mutex_t big = PTHREAD_MUTEX_INITIALIZER;
long live[KINDS], live_blocks, live_host, live_retains;
struct stream *streams;
struct context *primary[2];
int version = 13000, devices = 2, capability_major = 9, capability_minor = 0, no_image;
size_t sized;
long launches, dependent_launches;
char last_kernel[64];
void (*emulate)(const char *name, const uint32_t grid[3], uint32_t threads, const void *parameters);
_Thread_local struct context *stack[16];
_Thread_local int depth;
_Thread_local uint32_t thread_mode;
static R sticky;

/* ---- trace and injection ---- */

enum { MOST = 65536 };
static const char *trace[MOST];
static size_t traced;
static char fail_name[64];
static long fail_nth, fail_seen;
static R fail_code;

static int is_sticky(R code) { return code == 214 || code == 700 || code == 719; }

static pthread_mutex_t tracing = PTHREAD_MUTEX_INITIALIZER;
R enter(const char *name, int always) {
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

void *make(enum kind kind, size_t bytes, struct context *context) {
  struct object *o = calloc(1, bytes);
  o->magic = MAGIC; o->kind = kind; o->context = context;
  live[kind]++;
  return o;
}
void drop(void *p) {
  struct object *o = p;
  live[o->kind]--; o->magic = 0;
  free(o);
}
int is(const void *p, enum kind kind) {
  const struct object *o = p;
  return o && (uintptr_t)p > 4096 && o->magic == MAGIC && o->kind == kind;
}
struct context *current(void) { return depth ? stack[depth - 1] : NULL; }

struct stream default_streams[2];
struct stream *stream_of(struct stream *s) {
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
