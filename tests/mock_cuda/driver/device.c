/* Errors, devices, contexts; modules and their functions. */
#include "mock.h"

static int initialised;

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
    default_streams[device].o = (struct object){MAGIC, STREAM, *p};
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
