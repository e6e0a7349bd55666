/* The parts of a mixture of experts: routing against the contract written out here, the permutation against its
 * definition, gathered and quantized rows against their parts, combine slot by slot. */
#include "reference.h"

static nvfp4_context *context;
static nvfp4_stream *stream;

/* ---- routing ---- */

static float contract_log1p(float u) {
    volatile float below = 2.0f + u, w = u / below, square = w * w, t = 1.0f / 15.0f, twice = 2.0f * w;
    static const float n[] = {13, 11, 9, 7, 5, 3, 1};
    for (size_t i = 0; i < COUNT(n); i++) {
        volatile float c = 1.0f / n[i];
        t = fmaf(t, square, c);
    }
    volatile float product = twice * t;
    return product;
}

static float ordered_sum(const float *x, size_t count) {
    static float level[1024];
    size_t width = 1;
    memset(level, 0, sizeof level);
    while (width < (count + 15) / 16) width *= 2;
    for (size_t i = 0; i < count; i++) {
        volatile float sum = level[i / 16] + x[i];
        level[i / 16] = sum;
    }
    for (; width > 1; width /= 2)
        for (size_t i = 0; i < width / 2; i++) {
            volatile float sum = level[2 * i] + level[2 * i + 1];
            level[i] = sum;
        }
    return level[0];
}

/* The largest that is not taken yet, the lowest index first. */
static size_t next_largest(const float *x, bool *taken, size_t count) {
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < count; i++) {
        float a = isnan(x[i]) ? -INFINITY : x[i], b = best == SIZE_MAX ? 0 : isnan(x[best]) ? -INFINITY : x[best];
        if (!taken[i] && (best == SIZE_MAX || a > b)) best = i;
    }
    taken[best] = true;
    return best;
}

static void route_one(const float *logits, size_t experts, size_t topk, const nvfp4_moe_router *r, int32_t *ids, float *weights) {
    static float p[1024], choice[1024];
    static bool taken[1024];
    float top = -INFINITY;
    for (size_t e = 0; e < experts; e++) top = isnan(top) || isnan(logits[e]) ? NAN : fmaxf(top, logits[e]);
    for (size_t e = 0; e < experts; e++) {
        volatile float l = logits[e], below, sum, shifted = l - top;
        if (r->score == NVFP4_MOE_SCORE_SOFTMAX) {
            p[e] = contract_exp(shifted);
        } else if (r->score == NVFP4_MOE_SCORE_SIGMOID) {
            below = 1.0f + contract_exp(-l);
            p[e] = 1.0f / below;
        } else {
            sum = (isnan(l) ? l : fmaxf(l, 0.0f)) + contract_log1p(contract_exp(-fabsf(l)));
            p[e] = sqrtf(sum);
        }
    }
    if (r->score == NVFP4_MOE_SCORE_SOFTMAX) {
        volatile float sum = ordered_sum(p, experts);
        for (size_t e = 0; e < experts; e++) p[e] = p[e] / sum;
    }
    for (size_t e = 0; e < experts; e++) {
        volatile float sum = r->bias ? p[e] + r->bias[e] : p[e];
        choice[e] = sum;
    }
    if (r->groups > 1) {
        size_t size = experts / r->groups;
        float rank[1024];
        bool best[1024] = {false};
        for (size_t g = 0; g < r->groups; g++) {
            memset(taken, 0, sizeof taken);
            volatile float sum = choice[g * size + next_largest(choice + g * size, taken, size)];
            if (size > 1) sum = sum + choice[g * size + next_largest(choice + g * size, taken, size)];
            rank[g] = sum;
        }
        for (size_t i = 0; i < r->top_groups; i++) next_largest(rank, best, r->groups);
        for (size_t e = 0; e < experts; e++)
            if (!best[e / size]) choice[e] = -INFINITY;
    }
    memset(taken, 0, sizeof taken);
    volatile float sum = 0;
    for (size_t j = 0; j < topk; j++) {
        ids[j] = (int32_t)next_largest(choice, taken, experts);
        weights[j] = p[ids[j]];
        sum = sum + weights[j];
    }
    for (size_t j = 0; j < topk; j++) {
        volatile float w = r->renormalise ? weights[j] / sum : weights[j];
        w = w * (r->scaling == 0 ? 1.0f : r->scaling);
        weights[j] = isnan(w) ? NAN : w;
    }
}

static void routes(size_t experts, size_t topk, nvfp4_dtype dtype, nvfp4_moe_router router, bool with_bias, bool coarse) {
    enum { TOKENS = 37 };
    size_t stride = experts + 3;
    unsigned char *logits = mem_in(TOKENS * stride * 4), *mask = mem_in(TOKENS);
    float *bias = mem_in(experts * 4), *weights = mem_out(TOKENS * topk * 4), want[32], row[1024];
    int32_t *ids = mem_out(TOKENS * topk * 4), want_ids[32];
    for (size_t i = 0; i < TOKENS * stride; i++) store(logits, dtype, i, coarse ? (float)(random_bits() % 3) : 3.0f * random_normal());
    for (size_t i = 0; i < experts; i++) bias[i] = coarse ? (float)(random_bits() % 2) : 0.2f * random_normal();
    memset(mask, 1, TOKENS);
    mask[5] = 0;
    store(logits, dtype, 7 * stride + 2 % experts, NAN);
    store(logits, dtype, 8 * stride, INFINITY);
    router.bias = with_bias ? bias : NULL;
    nvfp4_moe_route_args args = {.struct_size = sizeof args, .logits = logits, .logits_dtype = dtype, .topk = (uint32_t)topk,
                                 .logits_row_stride = (int64_t)stride, .tokens = TOKENS, .experts = (int64_t)experts, .router = router,
                                 .token_mask = mask, .topk_ids = ids, .topk_weights = weights};
    OK(nvfp4_context_clear_faults(context));
    OK(nvfp4_moe_route(context, &args, stream));
    for (size_t t = 0; t < TOKENS; t++) {
        for (size_t e = 0; e < experts; e++) row[e] = load(logits, dtype, t * stride + e);
        route_one(row, experts, topk, &router, want_ids, want);
        for (size_t j = 0; j < topk; j++) {
            int32_t id = mask[t] ? want_ids[j] : -1;
            float w = mask[t] ? want[j] : 0.0f;
            CHECK_THAT(ids[t * topk + j] == id, "token %zu slot %zu: id %d, expected %d", t, j, ids[t * topk + j], id);
            CHECK_THAT(memcmp(&weights[t * topk + j], &w, 4) == 0, "token %zu slot %zu: weight %a, expected %a", t, j,
                       (double)weights[t * topk + j], (double)w);
        }
    }
    nvfp4_faults faults = {.struct_size = sizeof faults};
    OK(nvfp4_context_faults(context, &faults));
    CHECK(faults.flags == NVFP4_FAULT_NON_FINITE);
    OK(nvfp4_context_clear_faults(context));
    CHECK(mem_guards_ok());
}

static void routing(void) {
    static const struct {
        size_t experts, topk;
        nvfp4_moe_router router;
        bool bias, coarse;
    } cases[] = {
        {1, 1, {.renormalise = 1}, false, false},
        {2, 2, {.score = NVFP4_MOE_SCORE_SIGMOID, .renormalise = 1}, false, false},
        {8, 2, {.score = NVFP4_MOE_SCORE_SOFTMAX, .renormalise = 1}, false, true},
        {33, 32, {.score = NVFP4_MOE_SCORE_SQRT_SOFTPLUS, .scaling = 1.5f}, true, true},
        {128, 8, {.score = NVFP4_MOE_SCORE_SOFTMAX, .renormalise = 1}, false, false},
        {256, 8, {.score = NVFP4_MOE_SCORE_SIGMOID, .renormalise = 1, .groups = 8, .top_groups = 4, .scaling = 2.5f}, true, false},
        {256, 6, {.score = NVFP4_MOE_SCORE_SQRT_SOFTPLUS, .renormalise = 1, .scaling = 1.5f}, true, false},
        {12, 3, {.score = NVFP4_MOE_SCORE_SIGMOID, .renormalise = 1, .groups = 12, .top_groups = 5}, false, true},
        {96, 12, {.score = NVFP4_MOE_SCORE_SOFTMAX, .groups = 4, .top_groups = 1}, true, true},
        {1024, 32, {.score = NVFP4_MOE_SCORE_SOFTMAX, .renormalise = 1}, true, true},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        for (nvfp4_dtype dtype = 0; dtype < 3; dtype++)
            CASE("route %zu experts, top %zu, score %u, groups %u, dtype %u", cases[i].experts, cases[i].topk, cases[i].router.score,
                 cases[i].router.groups, dtype)
            routes(cases[i].experts, cases[i].topk, dtype, cases[i].router, cases[i].bias, cases[i].coarse);
}

/* ---- permutation ---- */

typedef struct {
    size_t tokens, topk, experts, first, local, slots;
    int32_t *ids, *ends, *source, *inverse;
} order;

/* kind 0: random; 1: all to one expert; 2: all masked; 3: duplicates inside a token; 4: ids that are no experts. */
static order make_order(size_t tokens, size_t topk, size_t experts, size_t first, size_t local, int kind) {
    order o = {tokens, topk, experts, first, local, tokens * topk, NULL, NULL, NULL, NULL};
    o.ids = mem_in(o.slots * 4), o.ends = mem_out(local * 4), o.source = mem_out(o.slots * 4), o.inverse = mem_out(o.slots * 4);
    for (size_t i = 0; i < o.slots; i++) {
        int32_t id = experts ? (int32_t)(random_bits() % experts) : -1;
        if (kind == 0 && random_bits() % 7 == 0) id = -1;
        if (kind == 1) id = (int32_t)experts - 1;
        if (kind == 2) id = -1;
        if (kind == 3) id = experts ? (int32_t)(i / topk % experts) : -1;
        if (kind == 4 && random_bits() % 3 == 0) id = random_bits() % 2 ? (int32_t)experts : -2;
        o.ids[i] = id;
    }
    return o;
}

static nvfp4_moe_permute_args order_args(const order *o) {
    return (nvfp4_moe_permute_args){.struct_size = sizeof(nvfp4_moe_permute_args), .tokens = (int64_t)o->tokens, .experts = (int64_t)o->experts,
                                    .first_expert = (int64_t)o->first, .local_experts = (int64_t)o->local, .topk = (uint32_t)o->topk,
                                    .topk_ids = o->ids, .ends = o->ends, .source_rows = o->source, .inverse = o->inverse};
}

static void check_order(const order *o) {
    int32_t row = 0;
    for (size_t e = 0; e < o->local; e++) {
        for (size_t slot = 0; slot < o->slots; slot++)
            if (o->ids[slot] == (int32_t)(o->first + e)) {
                CHECK(o->source[row] == (int32_t)(slot / o->topk));
                CHECK(o->inverse[slot] == row);
                row++;
            }
        CHECK(o->ends[e] == row);
    }
    for (size_t slot = 0; slot < o->slots; slot++) {
        int64_t at = (int64_t)o->ids[slot] - (int64_t)o->first;
        if (o->ids[slot] < 0 || at < 0 || at >= (int64_t)o->local) CHECK(o->inverse[slot] == -1);
    }
    for (size_t r = (size_t)row; r < o->slots; r++) CHECK(o->source[r] == -1);
}

static void permutation(void) {
    static const size_t shapes[][5] = {{0, 1, 4, 0, 4},  {1, 1, 1, 0, 1},    {1, 32, 40, 0, 40},  {7, 3, 2, 0, 2},       {64, 6, 48, 16, 16}, {300, 8, 128, 0, 128},
                                       {65, 4, 9, 8, 1}, {5, 2, 0, 0, 0},    {33, 8, 1024, 0, 1024}, {130, 2, 6, 2, 3}};
    for (size_t i = 0; i < COUNT(shapes); i++)
        for (int kind = 0; kind < 5; kind++)
            CASE("permute %zu tokens, top %zu, %zu experts from %zu on %zu, kind %d", shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], shapes[i][4], kind) {
                nvfp4_faults faults = {.struct_size = sizeof faults};
                order o = make_order(shapes[i][0], shapes[i][1], shapes[i][2], shapes[i][3], shapes[i][4], kind);
                nvfp4_moe_permute_args args = order_args(&o);
                bool bad = false;
                size_t bytes = 77;
                for (size_t s = 0; s < o.slots; s++) bad |= o.ids[s] < -1 || o.ids[s] >= (int32_t)o.experts;
                mem_poison(kind % 2 ? 0x5A : 0xA5);
                OK(nvfp4_moe_permute_workspace_size(context, &args, &bytes));
                CHECK(bytes == 0);
                OK(nvfp4_moe_permute(context, &args, stream));
                check_order(&o);
                OK(nvfp4_context_faults(context, &faults));
                CHECK(faults.flags == (bad ? NVFP4_FAULT_BAD_GROUP : 0u));
                OK(nvfp4_context_clear_faults(context));
                CHECK(mem_guards_ok());
                mem_free();
            }
    CASE("permute: local_experts 0 means all from first_expert on") {
        order o = make_order(20, 2, 6, 2, 4, 0);
        nvfp4_moe_permute_args args = order_args(&o);
        args.local_experts = 0;
        OK(nvfp4_moe_permute(context, &args, stream));
        check_order(&o);
        mem_free();
    }
}

/* ---- gathered rows ---- */

static void gathered_values(void) {
    for (nvfp4_dtype dtype = 0; dtype < 3; dtype++)
        CASE("permute gathers values of dtype %u", dtype) {
            enum { TOKENS = 29, COLS = 21, SRC = 24, DST = 40 };
            order o = make_order(TOKENS, 3, 7, 1, 5, 0);
            size_t bytes = dtype_bytes(dtype), rows;
            unsigned char *src = mem_in(TOKENS * SRC * bytes), *dst = mem_out(o.slots * DST * bytes);
            fill_normal(src, dtype, TOKENS * SRC, 1.0f);
            nvfp4_moe_permute_args args = order_args(&o);
            args.src = src, args.src_dtype = dtype, args.src_row_stride = SRC, args.cols = COLS;
            args.gathered = dst, args.gathered_row_stride = DST;
            OK(nvfp4_moe_permute(context, &args, stream));
            check_order(&o);
            rows = (size_t)o.ends[o.local - 1];
            for (size_t r = 0; r < o.slots; r++) {
                bool used = r < rows;
                if (used) CHECK(memcmp(dst + r * DST * bytes, src + (size_t)o.source[r] * SRC * bytes, COLS * bytes) == 0);
                CHECK(all_bytes(dst + (r * DST + (used ? COLS : 0)) * bytes, (r + 1 < o.slots ? DST - (used ? COLS : 0) : used ? 0 : COLS) * bytes, 0xA5));
            }
            CHECK(mem_guards_ok());
            mem_free();
        }
}

typedef struct {
    unsigned char *codes, *scales;
    float *decode;
    size_t codes_bytes, scales_bytes;
} quantized;

static quantized room(size_t rows, size_t cols, nvfp4_scale_layout layout, nvfp4_groups groups) {
    quantized q = {.codes_bytes = rows * cols / 2};
    nvfp4_scales_size_args size = {.struct_size = sizeof size, .scale_layout = layout, .rows = (int64_t)rows, .cols = (int64_t)cols, .groups = groups};
    OK(nvfp4_scales_size(&size, &q.scales_bytes));
    q.codes = mem_out(q.codes_bytes), q.scales = mem_out(q.scales_bytes), q.decode = mem_out(rows * 4);
    return q;
}

/* Quantized straight into expert order, and codes gathered after one quantization a token: both are nvfp4_quantize of the
 * gathered rows. */
static void gathered_codes(nvfp4_scale_layout layout, nvfp4_scale_rule rule, bool is_static) {
    enum { TOKENS = 150, COLS = 80 };
    order o = make_order(TOKENS, 3, 7, 1, 5, 0);
    unsigned char *src = mem_in(TOKENS * COLS * 2), *rows = mem_out(o.slots * COLS * 2);
    float *given = mem_in(4);
    *given = 0.013f;
    fill_normal(src, NVFP4_DTYPE_BF16, TOKENS * COLS, 1.0f);
    nvfp4_moe_permute_args args = order_args(&o);
    args.src = src, args.cols = COLS, args.gathered = rows;
    OK(nvfp4_moe_permute(context, &args, stream));
    nvfp4_groups groups = {.grouping = NVFP4_GROUPING_ENDS, .count = (uint32_t)o.local, .ends = o.ends};
    quantized want = room(o.slots, COLS, layout, groups), direct = room(o.slots, COLS, layout, groups);
    nvfp4_quantized out = {.codes = want.codes, .scales = want.scales, .scale_layout = layout, .scale_rule = rule};
    out.scope = is_static ? NVFP4_SCOPE_TENSOR : NVFP4_SCOPE_ROW;
    if (is_static) out.static_decode_scales = given;
    else out.decode_scales = want.decode;
    nvfp4_quantize_args quantize = {.struct_size = sizeof quantize, .src = rows, .rows = (int64_t)o.slots, .cols = COLS, .groups = groups, .out = out};
    OK(nvfp4_quantize(context, &quantize, stream));
    args.gathered = NULL, args.out = out;
    args.out.codes = direct.codes, args.out.scales = direct.scales;
    if (!is_static) args.out.decode_scales = direct.decode;
    OK(nvfp4_moe_permute(context, &args, stream));
    CHECK(memcmp(direct.codes, want.codes, want.codes_bytes) == 0);
    CHECK(memcmp(direct.scales, want.scales, want.scales_bytes) == 0);
    CHECK(memcmp(direct.decode, want.decode, o.slots * 4) == 0);
    for (nvfp4_scale_layout from = 0; from < 3; from++) {
        quantized once = room(TOKENS, COLS, from, (nvfp4_groups){0}), moved = room(o.slots, COLS, layout, groups);
        nvfp4_quantize_args tokens = {.struct_size = sizeof tokens, .src = src, .rows = TOKENS, .cols = COLS, .out = out};
        tokens.out.codes = once.codes, tokens.out.scales = once.scales, tokens.out.scale_layout = from;
        if (!is_static) tokens.out.decode_scales = once.decode;
        OK(nvfp4_quantize(context, &tokens, stream));
        nvfp4_moe_permute_args gather = order_args(&o);
        gather.src_dtype = NVFP4_DTYPE_NVFP4, gather.cols = COLS;
        gather.src_quantized = (nvfp4_quantized_input){.codes = once.codes, .scales = once.scales, .scale_layout = from, .scope = out.scope,
                                                       .decode_scales = is_static ? given : once.decode};
        gather.out = (nvfp4_quantized){.codes = moved.codes, .scales = moved.scales, .scale_layout = layout, .scope = NVFP4_SCOPE_ROW, .decode_scales = moved.decode};
        OK(nvfp4_moe_permute(context, &gather, stream));
        CHECK(memcmp(moved.codes, want.codes, want.codes_bytes) == 0);
        CHECK(memcmp(moved.scales, want.scales, want.scales_bytes) == 0);
        for (size_t r = 0; r < (size_t)o.ends[o.local - 1]; r++) CHECK(is_static ? moved.decode[r] == *given : memcmp(&moved.decode[r], &want.decode[r], 4) == 0);
    }
    CHECK(mem_guards_ok());
    mem_free();
}

/* ---- combine ---- */

static void combines(nvfp4_dtype y_dtype, nvfp4_dtype out_dtype, size_t cols, size_t topk, bool with_shared, float scaling) {
    enum { TOKENS = 23 };
    size_t rows = TOKENS * topk, y_stride = cols + 5, out_stride = cols + 2;
    unsigned char *y = mem_in(rows * y_stride * 4), *shared = mem_in(TOKENS * cols * 4), *out = mem_out(TOKENS * out_stride * 4);
    float *weights = mem_in(rows * 4);
    int32_t *inverse = mem_in(rows * 4);
    fill_normal(y, y_dtype, rows * y_stride, 1.0f);
    fill_normal(shared, NVFP4_DTYPE_BF16, TOKENS * cols, 1.0f);
    fill_normal(weights, NVFP4_DTYPE_F32, rows, 0.4f);
    for (size_t i = 0; i < rows; i++) inverse[i] = random_bits() % 5 ? (int32_t)(rows - 1 - i) : -1;
    inverse[3 % rows] = -1;
    weights[3 % rows] = NAN; /* not read */
    inverse[rows - 1] = (int32_t)rows; /* no row */
    nvfp4_moe_combine_args args = {.struct_size = sizeof args, .tokens = TOKENS, .cols = (int64_t)cols, .topk = (uint32_t)topk, .y_dtype = y_dtype,
                                   .rows = (int64_t)rows, .y = y, .y_row_stride = (int64_t)y_stride, .inverse = inverse, .topk_weights = weights,
                                   .shared = with_shared ? shared : NULL, .scaling = scaling, .out = out, .out_row_stride = (int64_t)out_stride,
                                   .out_dtype = out_dtype};
    OK(nvfp4_context_clear_faults(context));
    OK(nvfp4_moe_combine(context, &args, stream));
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t n = 0; n < cols; n++) {
            volatile float acc = 0;
            for (size_t slot = t * topk; slot < (t + 1) * topk; slot++)
                if (inverse[slot] >= 0 && inverse[slot] < (int32_t)rows)
                    acc = fmaf(weights[slot], load(y, y_dtype, (size_t)inverse[slot] * y_stride + n), acc);
            if (scaling != 0) acc = acc * scaling;
            if (with_shared) acc = acc + load(shared, NVFP4_DTYPE_BF16, t * cols + n);
            float want = round_to(out_dtype, acc), got = load(out, out_dtype, t * out_stride + n);
            CHECK_THAT(got == want, "token %zu column %zu: %a, expected %a", t, n, (double)got, (double)want);
        }
    nvfp4_faults faults = {.struct_size = sizeof faults};
    OK(nvfp4_context_faults(context, &faults));
    CHECK(faults.flags == NVFP4_FAULT_BAD_GROUP);
    OK(nvfp4_context_clear_faults(context));
    CHECK(mem_guards_ok());
    mem_free();
}

int main(void) {
    open_context(&context, &stream, 3);
    routing();
    mem_free();
    permutation();
    gathered_values();
    for (nvfp4_scale_layout layout = 0; layout < 3; layout++)
        for (nvfp4_scale_rule rule = 0; rule < 3; rule++)
            for (int is_static = 0; is_static < 2; is_static++)
                CASE("codes in expert order, layout %u, rule %u, static %d", layout, rule, is_static) gathered_codes(layout, rule, is_static);
    for (nvfp4_dtype y = 0; y < 3; y++)
        for (nvfp4_dtype out = 0; out < 3; out++)
            CASE("combine %u to %u", y, out) {
                combines(y, out, 1, 1, false, 0);
                combines(y, out, 1031, 3, true, 0);
                combines(y, out, 64, 32, true, 2.5f);
            }
    close_context(context, stream);
    return finish();
}
