// Other shapes of the hot passes, for timing beside those that ship. Not part of the library.
#include "../../kernels/tile_pass.cuh"

using namespace nvfp4;

NVFP4_KERNEL(try_quantize_2x5, RowsParams, 256, 5) { tile_pass<PlainBlock<Bf16>, Bf16, AMAX, 2>(p); }
NVFP4_KERNEL(try_quantize_2x6, RowsParams, 256, 6) { tile_pass<PlainBlock<Bf16>, Bf16, AMAX, 2>(p); }
NVFP4_KERNEL(try_quantize_4x4, RowsParams, 256, 4) { tile_pass<PlainBlock<Bf16>, Bf16, AMAX, 4>(p); }
NVFP4_KERNEL(try_gated_3, RowsParams, 256, 3) { tile_pass<GatedBlock<Bf16>, Bf16, AMAX, 1>(p); }
NVFP4_KERNEL(try_gated_2x2, RowsParams, 256, 2) { tile_pass<GatedBlock<Bf16>, Bf16, AMAX, 2>(p); }
