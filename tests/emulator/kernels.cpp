// The row and layout kernels as a library of NAME_run functions. Build: tests/gpu/kernels_quant.py --emulate builds it.
#include "../../kernels/quantize.cu"
#include "../../kernels/norm.cu"
#include "../../kernels/swiglu.cu"
#include "../../kernels/dequantize.cu"
#include "../../kernels/layouts.cu"
