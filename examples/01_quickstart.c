/* Quantize a matrix to NVFP4 and back, and print the error.   cc 01_quickstart.c -lnvfp4 -lm */
#include <nvfp4.h>

#include <math.h>
#include <stdio.h>

enum { ROWS = 64, COLS = 256 };
static _Alignas(16) float x[ROWS * COLS], back[ROWS * COLS];
static _Alignas(16) uint8_t codes[ROWS * COLS / 2], scales[ROWS * COLS / 16];
static float decode_scale;

static int failed(nvfp4_status status) {
    if (status != NVFP4_STATUS_SUCCESS) fprintf(stderr, "%s\n", nvfp4_last_message());
    return status != NVFP4_STATUS_SUCCESS;
}

int main(void) {
    nvfp4_context *context;
    nvfp4_stream *stream;
    if (failed(nvfp4_context_create(NULL, &context)) || failed(nvfp4_stream_create(context, &stream))) return 1;
    for (int i = 0; i < ROWS * COLS; i++) x[i] = sinf((float)i) * cosf(0.37f * (float)i);

    nvfp4_quantize_args quantize = {.struct_size = sizeof quantize, .src = x, .src_dtype = NVFP4_DTYPE_F32, .rows = ROWS, .cols = COLS,
                                    .out = {.codes = codes, .scales = scales, .decode_scales = &decode_scale}};
    nvfp4_dequantize_args dequantize = {.struct_size = sizeof dequantize, .rows = ROWS, .cols = COLS, .dst = back, .dst_dtype = NVFP4_DTYPE_F32,
                                        .input = {.codes = codes, .scales = scales, .decode_scales = &decode_scale}};
    if (failed(nvfp4_quantize(context, &quantize, stream)) || failed(nvfp4_dequantize(context, &dequantize, stream))) return 1;
    if (failed(nvfp4_stream_synchronize(stream))) return 1;

    double error = 0, norm = 0;
    for (int i = 0; i < ROWS * COLS; i++) error += pow(back[i] - x[i], 2), norm += pow(x[i], 2);
    printf("relative error %.4f in %.2f bits a value\n", sqrt(error / norm), 8.0 * sizeof codes / (ROWS * COLS) + 8.0 * sizeof scales / (ROWS * COLS));
    return failed(nvfp4_stream_destroy(stream)) || failed(nvfp4_context_destroy(context));
}
