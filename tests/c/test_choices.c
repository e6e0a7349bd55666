/* Calls about calls: what is prepared for one, sizes asked for before there is memory, and measured choices of kernels. */
#define _POSIX_C_SOURCE 200809L
#include "harness.h"
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 6, N = 32, K = 64, GROUPS = 2 };

static nvfp4_context *context;
static nvfp4_stream *stream;
static nvfp4_weights *weights, *down, *single; /* [GROUPS, N, K], [GROUPS, K, N], [1, N, K] */
static const float one = 1.0f;

static const nvfp4_groups by_ends = {.grouping = NVFP4_GROUPING_ENDS, .count = GROUPS};
static nvfp4_quantize_args quantize = {.struct_size = sizeof quantize, .rows = ROWS, .cols = K};
static nvfp4_amax_scale_args amax = {.struct_size = sizeof amax, .rows = ROWS, .cols = K};
static nvfp4_dequantize_args dequantize = {.struct_size = sizeof dequantize, .rows = ROWS, .cols = K};
static nvfp4_rmsnorm_quantize_args norm = {.struct_size = sizeof norm, .rows = ROWS, .cols = K, .eps = 1e-6f};
static nvfp4_hc_rmsnorm_quantize_args hyper = {.struct_size = sizeof hyper, .rows = ROWS, .cols = K, .eps = 1e-6f, .stream_count = 2};
static nvfp4_swiglu_quantize_args swiglu = {.struct_size = sizeof swiglu, .rows = ROWS, .width = K, .activation = NVFP4_ACTIVATION_SWIGLU};
static nvfp4_stage_moe_inputs_args stage = {.struct_size = sizeof stage, .tokens = ROWS, .hidden = K, .routes = 2};
static nvfp4_tile_scales_args tile = {.struct_size = sizeof tile, .rows = ROWS, .blocks = K / 16, .scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4};
static nvfp4_interleave_gate_up_args interleave = {.struct_size = sizeof interleave, .half_rows = 8, .row_bytes = 16, .count = 1};
static nvfp4_group_ends_args ends = {.struct_size = sizeof ends, .count = GROUPS};
static nvfp4_weights_prepare_args pack = {.struct_size = sizeof pack, .groups = GROUPS, .rows = N, .cols = K, .source = NVFP4_WEIGHTS_SOURCE_VALUES};
static nvfp4_weights_export_args unpack = {.struct_size = sizeof unpack};
static nvfp4_grouped_gemm_args product = {.struct_size = sizeof product, .rows = ROWS};
static nvfp4_linear_args linear = {.struct_size = sizeof linear, .tokens = ROWS, .quantize = 1, .scope = NVFP4_SCOPE_ROW};
static nvfp4_grouped_linear_args layer = {.struct_size = sizeof layer, .tokens = ROWS};
static nvfp4_moe_route_args route = {.struct_size = sizeof route, .topk = 2, .tokens = ROWS, .experts = 4};
static nvfp4_moe_permute_args permute = {.struct_size = sizeof permute, .tokens = ROWS, .experts = 4, .topk = 2, .cols = K};
static nvfp4_moe_combine_args combine = {.struct_size = sizeof combine, .tokens = ROWS, .cols = K, .topk = 2, .rows = 2 * ROWS};
static nvfp4_moe_forward_args moe = {.struct_size = sizeof moe, .tokens = ROWS, .experts = GROUPS, .topk = 1, .activation = NVFP4_ACTIVATION_RELU2};

/* Every operation, its arguments without any memory, and a field that is made wrong. */
static const struct { const char *name; uint32_t operation; void *args; size_t at, bytes; const char *refusal; } calls[] = {
#define CALL(number, args, field, words) {#number, NVFP4_OPERATION_##number, &args, (size_t)((char *)&args.field - (char *)&args), sizeof args.field, words}
    CALL(QUANTIZE, quantize, cols, "cols = "), CALL(AMAX_SCALE, amax, cols, "cols = "), CALL(DEQUANTIZE, dequantize, cols, "cols = "),
    CALL(RMSNORM_QUANTIZE, norm, cols, "cols = "), CALL(HC_RMSNORM_QUANTIZE, hyper, stream_count, "stream_count = "),
    CALL(SWIGLU_QUANTIZE, swiglu, width, "width = "), CALL(STAGE_MOE_INPUTS, stage, hidden, "hidden = "),
    CALL(TILE_SCALES, tile, scale_layout, "scale_layout = "), CALL(UNTILE_SCALES, tile, scale_layout, "scale_layout = "),
    CALL(INTERLEAVE_GATE_UP, interleave, half_rows, "half_rows = "), CALL(DEINTERLEAVE_GATE_UP, interleave, half_rows, "half_rows = "),
    CALL(GROUP_ENDS, ends, count, "count = "), CALL(WEIGHTS_PREPARE, pack, cols, "cols = "),
    CALL(WEIGHTS_EXPORT, unpack, scale_layout, "scale_layout = "), CALL(GROUPED_GEMM, product, a_dtype, "a_dtype = "),
    CALL(LINEAR, linear, scope, "scope = "), CALL(GROUPED_LINEAR, layer, a_dtype, "a_dtype = "), CALL(MOE_ROUTE, route, experts, "experts = "),
    CALL(MOE_PERMUTE, permute, src_dtype, "src_dtype = "), CALL(MOE_COMBINE, combine, out_dtype, "out_dtype = "), CALL(MOE_FORWARD, moe, scale_rule, "scale_rule"),
};

static nvfp4_status prepare(uint32_t operation, const void *args) {
    nvfp4_prepare_args all = {.struct_size = sizeof all, .operation = operation, .args = args};
    return nvfp4_prepare(context, &all);
}

static void prepared_calls(void) {
    for (size_t i = 0; i < COUNT(calls); i++) {
        CASE("prepare %s", calls[i].name) {
            unsigned char saved[8], *field = (unsigned char *)calls[i].args + calls[i].at;
            OK(prepare(calls[i].operation, calls[i].args));
            memcpy(saved, field, calls[i].bytes);
            memset(field, 0x7B, calls[i].bytes);
            BAD_ARGUMENT(prepare(calls[i].operation, calls[i].args), calls[i].refusal);
            memcpy(field, saved, calls[i].bytes);
            size_t size = 9;
            memcpy(saved, calls[i].args, sizeof size);
            memcpy(calls[i].args, &size, sizeof size);
            BAD_ARGUMENT(prepare(calls[i].operation, calls[i].args), "struct_size = 9");
            memcpy(calls[i].args, saved, sizeof size);
            BAD_ARGUMENT(prepare(calls[i].operation, NULL), "args.args is NULL");
            OK(prepare(calls[i].operation, calls[i].args));
        }
    }
    CASE("prepare refuses what is no call") {
        BAD_ARGUMENT(prepare(22, &quantize), "args.operation = 22");
        BAD_ARGUMENT(prepare(NVFP4_OPERATION_ALL, &quantize), "args.args");
        nvfp4_prepare_args args = {.struct_size = sizeof args, .reserved_operation = 1};
        BAD_ARGUMENT(nvfp4_prepare(context, &args), "reserved_operation = 1");
        /* An older caller's struct. */
        args = (nvfp4_prepare_args){.struct_size = 16, .operation = 99};
        OK(nvfp4_prepare(context, &args));
        nvfp4_grouped_gemm_args stale = product;
        stale.weights = NULL;
        BAD_HANDLE(prepare(NVFP4_OPERATION_GROUPED_GEMM, &stale), "weights");
        const nvfp4_weights_export_args none = {.struct_size = sizeof none};
        BAD_HANDLE(prepare(NVFP4_OPERATION_WEIGHTS_EXPORT, &none), "weights");
        nvfp4_linear_args bare = {.struct_size = sizeof bare};
        BAD_HANDLE(prepare(NVFP4_OPERATION_LINEAR, &bare), "weights");
        bare.weights = weights;
        BAD_ARGUMENT(prepare(NVFP4_OPERATION_LINEAR, &bare), "weights = 2 groups");
        nvfp4_moe_forward_args half = moe;
        half.w2 = NULL;
        BAD_HANDLE(prepare(NVFP4_OPERATION_MOE_FORWARD, &half), "w2");
    }
}

static void sizes_without_memory(void) {
    CASE("workspace sizes are told before there is memory") {
        size_t bytes;
#define NONE(call, args) bytes = 99; OK(call(context, &args, &bytes)); CHECK(bytes == 0)
        NONE(nvfp4_quantize_workspace_size, quantize);
        NONE(nvfp4_amax_scale_workspace_size, amax);
        NONE(nvfp4_rmsnorm_quantize_workspace_size, norm);
        NONE(nvfp4_hc_rmsnorm_quantize_workspace_size, hyper);
        NONE(nvfp4_swiglu_quantize_workspace_size, swiglu);
        size_t bare = 99, given = 98;
        OK(nvfp4_grouped_gemm_workspace_size(context, &product, &bare));
        nvfp4_grouped_gemm_args full = product;
        full.a = mem_in(ROWS * K * 2);
        full.out = mem_out(ROWS * N * 4);
        full.groups.ends = mem_in(GROUPS * 4);
        OK(nvfp4_grouped_gemm_workspace_size(context, &full, &given));
        CHECK(bare == given);
    }
    CASE("what is given is checked, and what the size depends on must be said") {
        size_t bytes = 77;
        nvfp4_quantize_args odd = quantize;
        odd.src = (char *)mem_in(ROWS * K * 4) + 8;
        BAD_ARGUMENT(nvfp4_quantize_workspace_size(context, &odd, &bytes), "src");
        odd = quantize;
        odd.out.static_decode_scales = NULL;
        BAD_ARGUMENT(nvfp4_quantize_workspace_size(context, &odd, &bytes), "decode_scales");
        CHECK(bytes == 77);
        BAD_ARGUMENT(nvfp4_quantize(context, &quantize, stream), "src is NULL");
    }
}

static nvfp4_status tune(nvfp4_context *c, const nvfp4_tune_args *args, nvfp4_stream *s, nvfp4_tune_result *result) {
    memset((char *)result + sizeof(size_t), 0x5A, sizeof *result - sizeof(size_t));
    nvfp4_status status = nvfp4_tune(c, args, s, result);
    bool touched = false;
    for (size_t i = sizeof(size_t); i < sizeof *result; i++) touched |= ((unsigned char *)result)[i] != 0x5A;
    CHECK(touched == (status == NVFP4_STATUS_SUCCESS));
    return status;
}

/* The CPU has nothing to choose; a GPU times what it can take. */
static void check_found(const nvfp4_tune_result *result) {
    if (on_gpu())
        CHECK(result->candidates > 0 && result->kernel[0] != 0 && result->best_us > 0 && result->best_us <= result->default_us);
    else
        CHECK(result->candidates == 0 && result->kernel[0] == 0 && result->best_us == 0);
}

static void tuning(void) {
    nvfp4_tune_result result = {.struct_size = sizeof result};
    nvfp4_grouped_gemm_args full = product;
    full.a = mem_in(ROWS * K * 2);
    full.out = mem_out(ROWS * N * 2);
    full.groups.ends = mem_in(GROUPS * 4);
    nvfp4_tune_args args = {.struct_size = sizeof args, .operation = NVFP4_OPERATION_GROUPED_GEMM, .args = &full};
    CASE("the CPU has nothing to choose, a GPU times what it can take") {
        OK(tune(context, &args, stream, &result));
        check_found(&result);
        const unsigned char *out = full.out;
        CHECK(on_gpu() || (out[0] == out[1] && (out[0] == 0xA5 || out[0] == 0x5A)));
        CHECK(mem_guards_ok());
    }
    CASE("tune takes layers") {
        unsigned char *out = mem_out(ROWS * GROUPS * K * 4);
        nvfp4_linear_args one_group = linear;
        nvfp4_grouped_linear_args some = layer;
        nvfp4_moe_forward_args whole = moe;
        one_group.a = some.a = whole.hidden = mem_in(ROWS * GROUPS * K * 2);
        one_group.out = some.out = whole.out = out;
        whole.logits = mem_in(ROWS * GROUPS * 2);
        static const uint32_t operations[] = {NVFP4_OPERATION_LINEAR, NVFP4_OPERATION_GROUPED_LINEAR, NVFP4_OPERATION_MOE_FORWARD};
        void *const layers[] = {&one_group, &some, &whole};
        for (size_t i = 0; i < COUNT(layers); i++) {
            nvfp4_tune_args about = {.struct_size = sizeof about, .operation = operations[i], .args = layers[i]};
            OK(tune(context, &about, stream, &result));
            check_found(&result);
            /* What the call would refuse. */
            whole.out = one_group.out = some.out = NULL;
            BAD_ARGUMENT(tune(context, &about, stream, &result), "out is NULL");
            one_group.out = some.out = whole.out = (unsigned char *)(uintptr_t)whole.hidden;
            BAD_ARGUMENT(tune(context, &about, stream, &result), "overlap");
            one_group.out = some.out = whole.out = out;
        }
        CHECK(on_gpu() || all_bytes(out, ROWS * GROUPS * K * 4, 0xA5)); /* a GPU runs the layers */
        CHECK(mem_guards_ok());
    }
    CASE("tune refuses") {
        nvfp4_tune_args wrong = args;
        wrong.operation = NVFP4_OPERATION_ALL;
        wrong.args = NULL;
        BAD_ARGUMENT(tune(context, &wrong, stream, &result), "args.operation = 0");
        wrong.operation = NVFP4_OPERATION_QUANTIZE;
        wrong.args = &quantize;
        BAD_ARGUMENT(tune(context, &wrong, stream, &result), "args.operation = 1");
        wrong.operation = NVFP4_OPERATION_MOE_ROUTE;
        wrong.args = &route;
        BAD_ARGUMENT(tune(context, &wrong, stream, &result), "args.operation = 18");
        wrong = args;
        wrong.repeats = 10001;
        BAD_ARGUMENT(tune(context, &wrong, stream, &result), "args.repeats = 10001");
        wrong = args;
        wrong.args = NULL;
        BAD_ARGUMENT(tune(context, &wrong, stream, &result), "args.args is NULL");
        /* It runs the call, so the memory has to be there. */
        wrong.args = &product;
        BAD_ARGUMENT(tune(context, &wrong, stream, &result), "is NULL");
        BAD_ARGUMENT(nvfp4_tune(context, NULL, stream, &result), "args is NULL");
        BAD_ARGUMENT(nvfp4_tune(context, &args, stream, NULL), "result is NULL");
        result.struct_size = 80;
        BAD_ARGUMENT(tune(context, &args, stream, &result), "struct_size = 80");
        result.struct_size = sizeof result;
        BAD_HANDLE(tune(NULL, &args, stream, &result), "context");
        BAD_HANDLE(tune(context, &args, NULL, &result), "stream");
        nvfp4_graph *graph;
        OK(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_GLOBAL));
        REFUSED(tune(context, &args, stream, &result), NVFP4_STATUS_CAPTURE, "nvfp4_tune");
        OK(nvfp4_graph_end_capture(stream, &graph));
        OK(nvfp4_graph_destroy(graph));
    }
    CASE("files of choices") {
        size_t choices = 55;
        OK(nvfp4_tuning_load(context, "/nowhere", &choices));
        CHECK(choices == 0);
        OK(nvfp4_tuning_load(context, NULL, &choices));
        choices = 55;
        BAD_ARGUMENT(nvfp4_tuning_load(context, "", &choices), "path");
        BAD_HANDLE(nvfp4_tuning_load(NULL, "/nowhere", &choices), "context");
        CHECK(choices == 55);
        BAD_ARGUMENT(nvfp4_tuning_load(context, "/nowhere", NULL), "choices is NULL");
        if (on_gpu()) {
            char path[] = "/tmp/nvfp4-choices-XXXXXX";
            int file = mkstemp(path);
            MUST(file >= 0 && close(file) == 0);
            OK(tune(context, &args, stream, &result));
            OK(nvfp4_tuning_save(context, path));
            OK(nvfp4_tuning_load(context, NULL, &choices));
            OK(nvfp4_tuning_load(context, path, &choices));
            CHECK(choices == 1);
            MUST(unlink(path) == 0);
        } else {
            REFUSED(nvfp4_tuning_save(context, "/nowhere"), NVFP4_STATUS_UNSUPPORTED, "CPU");
        }
        choices = 55;
        BAD_ARGUMENT(nvfp4_tuning_save(context, NULL), "path is NULL");
        BAD_ARGUMENT(nvfp4_tuning_save(context, ""), "path");
        BAD_HANDLE(nvfp4_tuning_save(NULL, "/nowhere"), "context");
    }
    CASE("a product that may start early is the same product") {
        full.flags = NVFP4_GEMM_DEPENDENT_LAUNCH | NVFP4_GEMM_BATCH_INVARIANT;
        OK(nvfp4_grouped_gemm_workspace_size(context, &full, &full.workspace_size));
        full.workspace = mem_out(full.workspace_size);
        OK(nvfp4_grouped_gemm(context, &full, stream));
        full.flags = 8;
        BAD_ARGUMENT(nvfp4_grouped_gemm(context, &full, stream), "_DEPENDENT_LAUNCH (4)");
    }
}

static void lost_weights(void) {
    nvfp4_weights_shape shape = {.struct_size = sizeof shape};
    CASE("weights tell nothing in the child of a fork") {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) _exit(nvfp4_weights_info(weights, &shape) == NVFP4_STATUS_FORKED ? 0 : 1);
        int how = 0;
        MUST(child > 0 && waitpid(child, &how, 0) == child);
        CHECK(WIFEXITED(how) && WEXITSTATUS(how) == 0);
        OK(nvfp4_weights_info(weights, &shape));
    }
    CASE("nor after their context") {
        OK(nvfp4_stream_destroy(stream));
        OK(nvfp4_context_destroy(context));
        BAD_HANDLE(nvfp4_weights_info(weights, &shape), "destroyed");
        OK(nvfp4_weights_destroy(weights));
        OK(nvfp4_weights_destroy(down));
        OK(nvfp4_weights_destroy(single));
    }
}

static nvfp4_weights *made_of(int64_t groups, int64_t rows, int64_t cols) {
    nvfp4_weights_prepare_args made = {.struct_size = sizeof made, .groups = groups, .rows = rows, .cols = cols, .source = NVFP4_WEIGHTS_SOURCE_VALUES,
                                       .src = mem_in((size_t)(groups * rows * cols) * 2)};
    nvfp4_weights *found = NULL;
    MUST(nvfp4_weights_storage_size(context, &made, &made.storage_size) == NVFP4_STATUS_SUCCESS);
    made.storage = mem_in(made.storage_size);
    MUST(nvfp4_weights_prepare(context, &made, stream, &found) == NVFP4_STATUS_SUCCESS);
    return found;
}

int main(void) {
    open_context(&context, &stream, 2);
    quantize.out.static_decode_scales = norm.out.static_decode_scales = hyper.out.static_decode_scales = &one;
    swiglu.out.static_decode_scales = &one;
    product.groups = by_ends;
    weights = made_of(GROUPS, N, K), down = made_of(GROUPS, K, N), single = made_of(1, N, K);
    product.weights = unpack.weights = layer.weights = moe.w1 = weights, moe.w2 = down, linear.weights = single;
    prepared_calls();
    sizes_without_memory();
    tuning();
    lost_weights();
    return finish();
}
