/* Work: launches, copies and sets, carried out at once or appended to a capture's graph; graphs. */
#include "mock.h"

struct object a_node;

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
void drop_graph(struct graph *g) {
  for (size_t i = 0; i < g->count; i++) if (g->nodes[i].kind == CHILD) drop_graph(g->nodes[i].child);
  free(g->nodes);
  drop(g);
}
R submit(struct stream *stream, const struct node *n) {
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
