// The row and layout kernels as a library of NAME_run functions. tests/gpu/kernels_quant.py --emulate and tests/moe_kernels.rs build it.
#include "../../kernels/quantize.cu"
#include "../../kernels/norm.cu"
#include "../../kernels/swiglu.cu"
#include "../../kernels/dequantize.cu"
#include "../../kernels/layouts.cu"
#include "../../kernels/moe.cu"
