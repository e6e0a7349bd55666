// All kernels but Hopper's products as a library of NAME_run functions, and NAME_bytes, the sizes of their parameters.
#include "../../kernels/quantize.cu"
#include "../../kernels/norm.cu"
#include "../../kernels/swiglu.cu"
#include "../../kernels/dequantize.cu"
#include "../../kernels/layouts.cu"
#include "../../kernels/moe.cu"
#include "../../kernels/gemm.cu"
#include "../../kernels/weights.cu"
