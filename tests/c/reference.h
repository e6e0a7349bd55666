/* The numerical contract once more in plain C, written for clarity and independent of the library: formats by search,
 * AMAX quantization, dequantization, layouts, activations, products in double. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "harness.h"
#include <float.h>

static const float E2M1[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

UNUSED static float e2m1_value(unsigned code) { return code & 8 ? -E2M1[code & 7] : E2M1[code & 7]; }

UNUSED static float e4m3_value(unsigned byte) {
    unsigned exponent = byte >> 3 & 15, mantissa = byte & 7;
    if ((byte & 127) == 127) return NAN;
    return exponent ? ldexpf(1.0f + (float)mantissa / 8.0f, (int)exponent - 7) : ldexpf((float)mantissa / 8.0f, -6);
}

/* Nearest by trying all; a tie goes to the even code, which is the one that is met with a zero low bit. */
UNUSED static unsigned e4m3_nearest(float t) {
    double best = INFINITY;
    unsigned code = 0;
    for (unsigned c = 0; c < 127; c++) {
        double distance = fabs((double)e4m3_value(c) - (double)t);
        if (distance < best || (distance == best && c % 2 == 0)) best = distance, code = c;
    }
    return code;
}

UNUSED static unsigned e2m1_nearest(float y) {
    double best = INFINITY;
    unsigned code = 0;
    for (unsigned c = 0; c < 8; c++) {
        double distance = fabs((double)E2M1[c] - fabs((double)y));
        if (distance < best || (distance == best && c % 2 == 0)) best = distance, code = c;
    }
    if (isinf(y)) code = 7;
    return code | (signbit(y) ? 8u : 0u);
}

UNUSED static size_t dtype_bytes(nvfp4_dtype dtype) { return dtype == NVFP4_DTYPE_F32 ? 4 : 2; }

UNUSED static float load(const void *base, nvfp4_dtype dtype, size_t i) {
    uint16_t half;
    uint32_t word;
    float value;
    if (dtype == NVFP4_DTYPE_F32) {
        memcpy(&value, (const float *)base + i, 4);
        return value;
    }
    memcpy(&half, (const uint16_t *)base + i, 2);
    if (dtype == NVFP4_DTYPE_BF16) {
        word = (uint32_t)half << 16;
        memcpy(&value, &word, 4);
        return value;
    }
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    if (exponent == 31)
        value = mantissa ? NAN : INFINITY;
    else
        value = exponent ? ldexpf(1.0f + (float)mantissa / 1024.0f, exponent - 15) : ldexpf((float)mantissa, -24);
    return half & 0x8000 ? -value : value;
}

UNUSED static void store(void *base, nvfp4_dtype dtype, size_t i, float x) {
    uint32_t word;
    memcpy(&word, &x, 4);
    uint16_t half;
    if (dtype == NVFP4_DTYPE_F32) {
        if (isnan(x)) word = 0x7FC00000;
        memcpy((uint32_t *)base + i, &word, 4);
        return;
    }
    if (dtype == NVFP4_DTYPE_BF16) {
        half = isnan(x) ? 0x7FC0 : (uint16_t)((word + 0x7FFF + (word >> 16 & 1)) >> 16);
    } else if (isnan(x)) {
        half = 0x7E00;
    } else {
        double magnitude = fabs((double)x);
        int exponent = -100; /* zero is a subnormal */
        if (magnitude > 0) frexp(magnitude, &exponent);
        int step = (exponent - 1 < -14 ? -14 : exponent - 1) - 10;
        double units = isinf(x) ? INFINITY : nearbyint(ldexp(magnitude, -step)); /* the host's mode is nearest even */
        if (isinf(units) || ldexp(units, step) > 65504.0)
            half = 0x7C00;
        else
            half = (uint16_t)((unsigned)(step + 24) * 1024u + (unsigned)units); /* a carry walks into the exponent */
        half |= word >> 16 & 0x8000;
    }
    memcpy((uint16_t *)base + i, &half, 2);
}

UNUSED static float round_to(nvfp4_dtype dtype, float x) {
    float cell;
    store(&cell, dtype, 0, x);
    return load(&cell, dtype, 0);
}

/* ---- quantization ---- */

UNUSED static float encode_from_amax(float amax, float *decode) {
    float q = 2688.0f / amax;
    if (amax == 0) return *decode = 1.0f;
    if (q > FLT_MAX) {
        *decode = 1.0f / FLT_MAX;
        return FLT_MAX;
    }
    *decode = amax / 2688.0f;
    return q;
}

/* NaN: no usable decode scale. */
UNUSED static float encode_from_static(float decode) {
    if (!(isfinite(decode) && decode > 0)) return NAN;
    float q = 1.0f / decode;
    return q > FLT_MAX ? FLT_MAX : q;
}

/* AMAX rule. */
UNUSED static unsigned quantize_block(const float x[16], float G, unsigned char codes[8]) {
    float largest = 0;
    memset(codes, 0, 8);
    if (isnan(G)) return 0x7F;
    for (int i = 0; i < 16; i++) {
        if (!isfinite(x[i])) return 0x7F;
        largest = fmaxf(largest, fabsf(x[i]));
    }
    volatile float sixth = 1.0f / 6.0f, scaled = G * sixth, inverse = 1.0f / G; /* one rounding a step */
    volatile float t = largest * scaled;
    unsigned scale = e4m3_nearest(fminf(t, 448.0f));
    if (scale == 0) return 0;
    volatile float step = e4m3_value(scale) * inverse, r = 1.0f / step;
    if (r > FLT_MAX) r = FLT_MAX;
    for (int i = 0; i < 16; i++) {
        volatile float y = x[i] * r;
        codes[i / 2] = (unsigned char)(codes[i / 2] | e2m1_nearest(y) << i % 2 * 4);
    }
    return scale;
}

UNUSED static float dequantize_one(const unsigned char *codes, size_t k, unsigned scale, float decode) {
    volatile float exact = e2m1_value(codes[k / 2] >> k % 2 * 4 & 15) * e4m3_value(scale);
    volatile float value = exact * decode;
    return value;
}

/* ---- layouts ---- */

UNUSED static size_t tile_rows(nvfp4_scale_layout layout) {
    return layout == NVFP4_SCALE_LAYOUT_TILED_128X4 ? 128 : layout == NVFP4_SCALE_LAYOUT_TILED_8X4 ? 8 : 1;
}
UNUSED static size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

UNUSED static size_t scale_offset(nvfp4_scale_layout layout, size_t r, size_t c, size_t blocks) {
    size_t C = (blocks + 3) / 4;
    if (layout == NVFP4_SCALE_LAYOUT_TILED_128X4)
        return (r / 128 * C + c / 4) * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4;
    if (layout == NVFP4_SCALE_LAYOUT_TILED_8X4) return (r / 8 * C + c / 4) * 32 + r % 8 * 4 + c % 4;
    return r * blocks + c;
}

UNUSED static size_t scales_bytes(nvfp4_scale_layout layout, size_t rows, size_t blocks) {
    return layout == NVFP4_SCALE_LAYOUT_LINEAR ? rows * blocks : round_up(rows, tile_rows(layout)) * round_up(blocks, 4);
}

/* ---- activations ---- */

UNUSED static float contract_exp(float z) {
    static const float c[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    if (isnan(z)) return z;
    z = fminf(fmaxf(z, -87.0f), 88.0f);
    volatile float scaled = z * 1.44269504f;
    float n = rintf(scaled), r = fmaf(n, -0.693359375f, z), q = 1.9875691500e-4f;
    r = fmaf(n, 2.12194440e-4f, r);
    for (size_t i = 0; i < COUNT(c); i++) q = fmaf(q, r, c[i]);
    volatile float square = r * r, e = fmaf(q, square, r);
    e = e + 1.0f;
    return ldexpf(e, (int)n);
}

UNUSED static float swiglu(float gate, float up, float limit, float alpha, float beta, nvfp4_dtype dtype) {
    if (limit > 0 && !isnan(gate)) gate = fminf(gate, limit);
    if (limit > 0 && !isnan(up)) up = fmaxf(-limit, fminf(up, limit));
    volatile float inner = gate * alpha, below = 1.0f + contract_exp(-inner), left = gate / below, right = up + beta;
    volatile float h = left * right;
    return round_to(dtype, h);
}

UNUSED static float relu2(float x, nvfp4_dtype dtype) {
    volatile float r = isnan(x) ? x : fmaxf(x, 0.0f);
    volatile float h = r * r;
    return round_to(dtype, h);
}

UNUSED static void fill_normal(void *base, nvfp4_dtype dtype, size_t count, float spread) {
    for (size_t i = 0; i < count; i++) store(base, dtype, i, random_normal() * spread);
}

#endif
