// Values → what their NVFP4 codes stand for without the decode scale, e2m1 · e4m3 as bfloat16: the input of a product that
// takes bfloat16, in one pass where codes would take two. Bits of codes and scales are the quantizers', by the plain rule.
// Rows are [logical row] from p.codes on, p.codes_row_stride bytes apart; p.scales is not used.
// nvfp4_values_*: tile_pass, known decode scales. nvfp4_rows_values_*: plain_rows, scales per row (few: a block a thread).
#include "plain_rows.cuh"
#include "tile_pass.cuh"

using namespace nvfp4;

NVFP4_KERNEL(nvfp4_values_bf16, RowsParams, 256, 3) { value_pass<PlainBlock<Bf16>, Bf16, 4>(p); }
NVFP4_KERNEL(nvfp4_values_f16, RowsParams, 256, 3) { value_pass<PlainBlock<F16>, F16, 4>(p); }
NVFP4_KERNEL(nvfp4_rows_values_bf16, RowsParams, 256, 4) { plain_rows<Bf16, 4, 1, true, true>(p); }
NVFP4_KERNEL(nvfp4_rows_values_f16, RowsParams, 256, 4) { plain_rows<F16, 4, 1, true, true>(p); }
NVFP4_KERNEL(nvfp4_rows_values_bf16_few, RowsParams, 512, 2) { plain_rows<Bf16, 1, 1, true, true>(p); }
NVFP4_KERNEL(nvfp4_rows_values_f16_few, RowsParams, 512, 2) { plain_rows<F16, 1, 1, true, true>(p); }
