/*
 * A libcuda.so.1 that does nothing and says yes: what a call through it takes is the library's own part.
 * Addresses and handles are counted up, so that they differ; nothing may be read through them.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef uint32_t R;
static uintptr_t next_handle = 0x10000, next_address = 0x7f0000000000;
static uint64_t host_word[8];
static void *primary = (void *)0x1000;
static R make(void **p) { *p = (void *)(next_handle += 64); return 0; }

#define YES(name) R name() { return 0; }
YES(cuInit) YES(cuDevicePrimaryCtxRelease_v2) YES(cuCtxPushCurrent_v2) YES(cuCtxSynchronize) YES(cuModuleUnload)
YES(cuFuncLoad) YES(cuFuncSetAttribute) YES(cuLaunchKernel) YES(cuLaunchKernelEx) YES(cuMemFreeHost) YES(cuMemPoolDestroy)
YES(cuMemPoolTrimTo) YES(cuMemPoolSetAttribute) YES(cuMemFree_v2) YES(cuMemFreeAsync) YES(cuMemcpyAsync)
YES(cuMemsetD32Async) YES(cuStreamDestroy_v2) YES(cuStreamSynchronize) YES(cuStreamQuery) YES(cuStreamWaitEvent)
YES(cuStreamBeginCapture_v2) YES(cuStreamUpdateCaptureDependencies_v2) YES(cuThreadExchangeStreamCaptureMode)
YES(cuEventDestroy_v2) YES(cuEventRecord) YES(cuEventQuery) YES(cuEventSynchronize) YES(cuEventElapsedTime_v2)
YES(cuGraphAddChildGraphNode) YES(cuGraphLaunch) YES(cuGraphExecUpdate_v2) YES(cuGraphGetNodes) YES(cuGraphExecDestroy)
YES(cuGraphDestroy) YES(cuTensorMapEncodeTiled)

R cuDriverGetVersion(int *v) { *v = 13000; return 0; }
R cuDeviceGetCount(int *n) { *n = 1; return 0; }
R cuDeviceGet(int *d, int ordinal) { *d = ordinal; return 0; }
R cuDeviceGetName(char *name, int n, int d) { (void)n; (void)d; name[0] = '0'; name[1] = 0; return 0; }
R cuDeviceGetAttribute(int *v, int a, int d) {
  (void)d;
  *v = a == 16 ? 132 : a == 75 ? 9 : a == 76 ? 0 : a == 115 ? 1 : a == 97 ? 232448 : 60 << 20;
  return 0;
}
R cuDevicePrimaryCtxRetain(void **c, int d) { (void)d; *c = primary; return 0; }
R cuDevicePrimaryCtxGetState(int d, unsigned *f, int *a) { (void)d; *f = 0; *a = 1; return 0; }
R cuCtxGetCurrent(void **c) { *c = primary; return 0; }
R cuCtxGetDevice(int *d) { *d = 0; return 0; }
R cuCtxPopCurrent_v2(void **c) { *c = primary; return 0; }
R cuModuleLoadData(void **m, const void *i) { (void)i; return make(m); }
/* A handle ends in what its kernel takes. */
static const struct { const char *begin; unsigned bytes; } PARAMETERS[] = {
    {"nvfp4_gemm_many", 448}, {"nvfp4_gemm_few", 256}, {"nvfp4_gemm", 240}, {"nvfp4_weights", 112}, {"", 272}};
R cuModuleGetFunction(void **f, void *m, const char *n) {
  (void)m;
  unsigned kind = 0;
  while (strncmp(n, PARAMETERS[kind].begin, strlen(PARAMETERS[kind].begin))) kind++;
  make(f);
  *f = (char *)*f + kind;
  return 0;
}
R cuFuncGetAttribute(int *v, int a, void *f) { (void)a; (void)f; *v = 0; return 0; }
/* Quantizers and products alone are launched here. */
R cuFuncGetParamInfo(void *f, size_t i, size_t *o, size_t *s) { (void)i; *o = 0; *s = PARAMETERS[(uintptr_t)f % 64].bytes; return 0; }
R cuMemHostAlloc(void **p, size_t n, unsigned f) { (void)n; (void)f; *p = host_word; return 0; }
R cuMemHostGetDevicePointer_v2(uint64_t *a, void *p, unsigned f) { (void)f; *a = (uintptr_t)p; return 0; }
R cuMemPoolCreate(void **p, const void *q) { (void)q; return make(p); }
R cuMemPoolGetAttribute(void *p, int a, uint64_t *v) { (void)p; (void)a; *v = 0; return 0; }
R cuMemAllocFromPoolAsync(uint64_t *a, size_t n, void *p, void *s);
R cuMemAlloc_v2(uint64_t *a, size_t n) { return cuMemAllocFromPoolAsync(a, n, 0, 0); }
R cuMemAllocFromPoolAsync(uint64_t *a, size_t n, void *p, void *s) {
  (void)p; (void)s;
  *a = next_address;
  next_address += (n + 511) & ~511ull;
  return 0;
}
R cuStreamCreate(void **s, unsigned f) { (void)f; return make(s); }
R cuStreamGetCtx(void *s, void **c) { (void)s; *c = primary; return 0; }
R cuStreamIsCapturing(void *s, unsigned *v) { (void)s; *v = 0; return 0; }
R cuStreamEndCapture(void *s, void **g) { (void)s; return make(g); }
R cuStreamGetCaptureInfo_v3(void *s, unsigned *v) { (void)s; *v = 0; return 0; }
R cuEventCreate(void **e, unsigned f) { (void)f; return make(e); }
R cuGraphInstantiateWithFlags(void **e, void *g, uint64_t f) { (void)g; (void)f; return make(e); }
R cuGetErrorName(R c, const char **t) { (void)c; *t = "E"; return 0; }
R cuGetErrorString(R c, const char **t) { (void)c; *t = "error"; return 0; }
