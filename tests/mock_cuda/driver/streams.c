/* Streams and what they capture; events. */
#include "mock.h"

static uint64_t next_capture = 1;

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
