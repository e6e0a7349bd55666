/* Memory: of the host, of pools, of the device, all of it the host's. */
#include "mock.h"

static struct block *blocks;

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
