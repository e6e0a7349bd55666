/* What the parts of the mock driver share: its objects and their state. Nothing of this is exported but what the files define
 * as cu* and mock_*. */
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

#pragma GCC visibility push(hidden)

/* One lock for all of it. */
extern pthread_mutex_t big;
#define LOCK pthread_mutex_lock(&big)
#define UNLOCK(r) do { R result_ = (r); pthread_mutex_unlock(&big); return result_; } while (0)

/* Of mock.c: the controls' settings and counts. */
extern long live[KINDS], live_blocks, live_host, live_retains;
extern struct stream *streams;
extern struct context *primary[2];
extern int version, devices, capability_major, capability_minor, no_image;
extern size_t sized;
extern long launches, dependent_launches;
extern char last_kernel[64];
extern void (*emulate)(const char *name, const uint32_t grid[3], uint32_t threads, const void *parameters);
extern struct stream default_streams[2];
extern _Thread_local struct context *stack[16];
extern _Thread_local int depth;
extern _Thread_local uint32_t thread_mode; /* 0: global */

/* Notes the call. The result is what it must fail with, or 0. `always`: works also on a broken context. */
R enter(const char *name, int always);
#define CALL(name) R failed = enter(name, 0); if (failed) return failed

enum { MAGIC = 0x4d4f434b };
void *make(enum kind kind, size_t bytes, struct context *context);
void drop(void *p);
int is(const void *p, enum kind kind);
struct context *current(void);
/* NULL is the default stream of the current context. */
struct stream *stream_of(struct stream *s);

/* Of work.c. */
extern struct object a_node; /* stands for every node */
void drop_graph(struct graph *g);
R submit(struct stream *stream, const struct node *n);

#pragma GCC visibility pop
