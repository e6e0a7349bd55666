/* The same programs on a GPU: NVFP4_TEST_DEVICE=cuda puts their contexts there, staged keeps them on the CPU and goes the
 * same way with device memory that is host memory, to test what is below.
 *
 * The programs know host memory alone. All of what mem_in and mem_out hand out lies in one arena, which has a twin on the
 * device at the same alignment. A call that reads or writes memory goes through `staged`: the arena is brought to the
 * device, every word of the arguments that points into it is moved to the twin, the work is waited for, and the arena is
 * brought back, guards included. While a stream captures, the words are moved and nothing else; launches of graphs bring
 * the arena there and back. Refused calls are staged too, so that what they wrote would be seen. */
#ifndef DEVICE_H
#define DEVICE_H

#include <nvfp4.h>

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ARENA_BYTES = 1 << 28 };

static struct {
    bool on, cuda;
    unsigned char *host, *twin;
    size_t used;
    nvfp4_context *context; /* of its own: the programs destroy theirs, and count what theirs hold */
    nvfp4_stream *stream;
    nvfp4_buffer *buffer;
    int captures;
} device;

static inline void device_must(nvfp4_status status) {
    if (status == NVFP4_STATUS_SUCCESS) return;
    printf("FAILED staging: %s\n", nvfp4_last_message());
    exit(2);
}

/* Reads NVFP4_TEST_DEVICE at the first use; says `skipped` and ends the program where there is no such device. */
static inline bool on_device(void) {
    static bool asked;
    if (asked) return device.on;
    asked = true;
    const char *name = getenv("NVFP4_TEST_DEVICE");
    if (!name || strcmp(name, "cpu") == 0) return false;
    device.cuda = strcmp(name, "cuda") == 0;
    if (!device.cuda && strcmp(name, "staged") != 0) {
        printf("FAILED NVFP4_TEST_DEVICE is cpu, staged or cuda, not %s\n", name);
        exit(2);
    }
    nvfp4_context_options options = {.struct_size = sizeof options, .threads = device.cuda ? 0 : 1,
                                     .backend = device.cuda ? NVFP4_BACKEND_CUDA : NVFP4_BACKEND_CPU};
    if (device.cuda) {
        nvfp4_backend_info info = {.struct_size = sizeof info};
        device_must(nvfp4_backend_query(NVFP4_BACKEND_CUDA, 0, &info));
        if (!info.available) {
            printf("skipped: no GPU: %s\n", info.name);
            exit(0);
        }
    }
    void *data = NULL;
    device_must(nvfp4_context_create(&options, &device.context));
    device_must(nvfp4_stream_create(device.context, &device.stream));
    device_must(nvfp4_buffer_create(device.context, ARENA_BYTES, device.stream, &device.buffer));
    device_must(nvfp4_buffer_data(device.buffer, &data));
    device_must(nvfp4_stream_synchronize(device.stream));
    device.twin = data;
    device.host = aligned_alloc(4096, ARENA_BYTES);
    return device.on = device.host != NULL;
}

/* True where the program's contexts are on a GPU: what is about the CPU alone asks this. */
static inline bool on_gpu(void) { return on_device() && device.cuda; }

static inline unsigned char *arena_take(size_t bytes) {
    if (bytes > ARENA_BYTES - device.used) return NULL;
    device.used += bytes; /* multiples of 64 */
    return device.host + device.used - bytes;
}

static inline void arena_move(bool up) {
    if (device.used == 0) return;
    if (up)
        device_must((nvfp4_buffer_upload)(device.buffer, 0, device.host, device.used, device.stream));
    else
        device_must((nvfp4_buffer_download)(device.buffer, 0, device.host, device.used, device.stream));
    device_must(nvfp4_stream_synchronize(device.stream));
}

/* After work of any stream: all contexts of the tests share the device's CUDA context. */
static inline void arena_settle(void) {
    if (device.cuda) device_must(nvfp4_context_synchronize(device.context));
}

/* `args` with its pointers moved, in `room`. What is no struct of this size stays as it is. */
static inline const void *relocated(const void *args, size_t size, uint64_t *room) {
    if (!args) return args;
    size_t given = *(const size_t *)args, bytes = given > size && given <= 2048 ? given : size;
    memcpy(room, args, bytes);
    for (size_t i = 1; i < bytes / 8; i++)
        if (room[i] - (uintptr_t)device.host < device.used) room[i] += (uintptr_t)device.twin - (uintptr_t)device.host;
    return room;
}

typedef nvfp4_status (*run_call)(nvfp4_context *, const void *, nvfp4_stream *);

static inline nvfp4_status staged(run_call call, size_t size, nvfp4_context *context, const void *args, nvfp4_stream *stream) {
    uint64_t room[256];
    if (!on_device()) return call(context, args, stream);
    if (device.captures) return call(context, relocated(args, size, room), stream);
    arena_move(true);
    nvfp4_status status = call(context, relocated(args, size, room), stream);
    arena_settle();
    arena_move(false);
    return status;
}

/* A run call under the name of its function. */
#define STAGED(verb, args_type)                                                                              \
    static inline nvfp4_status bare_##verb(nvfp4_context *context, const void *args, nvfp4_stream *stream) { \
        return nvfp4_##verb(context, (const args_type *)args, stream);                                       \
    }                                                                                                        \
    static inline nvfp4_status staged_##verb(nvfp4_context *context, const args_type *args, nvfp4_stream *stream) { \
        return staged(bare_##verb, sizeof(args_type), context, args, stream);                                \
    }

STAGED(quantize, nvfp4_quantize_args)
STAGED(amax_scale, nvfp4_amax_scale_args)
STAGED(dequantize, nvfp4_dequantize_args)
STAGED(rmsnorm_quantize, nvfp4_rmsnorm_quantize_args)
STAGED(hc_rmsnorm_quantize, nvfp4_hc_rmsnorm_quantize_args)
STAGED(swiglu_quantize, nvfp4_swiglu_quantize_args)
STAGED(stage_moe_inputs, nvfp4_stage_moe_inputs_args)
STAGED(tile_scales, nvfp4_tile_scales_args)
STAGED(untile_scales, nvfp4_tile_scales_args)
STAGED(interleave_gate_up, nvfp4_interleave_gate_up_args)
STAGED(deinterleave_gate_up, nvfp4_interleave_gate_up_args)
STAGED(group_ends, nvfp4_group_ends_args)
STAGED(weights_export, nvfp4_weights_export_args)
STAGED(grouped_gemm, nvfp4_grouped_gemm_args)
STAGED(gemm, nvfp4_gemm_args)
STAGED(moe_route, nvfp4_moe_route_args)
STAGED(moe_permute, nvfp4_moe_permute_args)
STAGED(moe_combine, nvfp4_moe_combine_args)
STAGED(moe_forward, nvfp4_moe_forward_args)
STAGED(linear, nvfp4_linear_args)
STAGED(grouped_linear, nvfp4_grouped_linear_args)

/* The arguments of a call that nvfp4_tune or nvfp4_prepare is about, moved as the call's own are: they are what points into
 * memory. Those of no operation stay as they are. */
static inline const void *relocated_call(nvfp4_operation operation, const void *args, uint64_t *room) {
    static const size_t sizes[] = {
        [NVFP4_OPERATION_QUANTIZE] = sizeof(nvfp4_quantize_args),
        [NVFP4_OPERATION_AMAX_SCALE] = sizeof(nvfp4_amax_scale_args),
        [NVFP4_OPERATION_DEQUANTIZE] = sizeof(nvfp4_dequantize_args),
        [NVFP4_OPERATION_RMSNORM_QUANTIZE] = sizeof(nvfp4_rmsnorm_quantize_args),
        [NVFP4_OPERATION_HC_RMSNORM_QUANTIZE] = sizeof(nvfp4_hc_rmsnorm_quantize_args),
        [NVFP4_OPERATION_SWIGLU_QUANTIZE] = sizeof(nvfp4_swiglu_quantize_args),
        [NVFP4_OPERATION_STAGE_MOE_INPUTS] = sizeof(nvfp4_stage_moe_inputs_args),
        [NVFP4_OPERATION_TILE_SCALES] = sizeof(nvfp4_tile_scales_args),
        [NVFP4_OPERATION_UNTILE_SCALES] = sizeof(nvfp4_tile_scales_args),
        [NVFP4_OPERATION_INTERLEAVE_GATE_UP] = sizeof(nvfp4_interleave_gate_up_args),
        [NVFP4_OPERATION_DEINTERLEAVE_GATE_UP] = sizeof(nvfp4_interleave_gate_up_args),
        [NVFP4_OPERATION_GROUP_ENDS] = sizeof(nvfp4_group_ends_args),
        [NVFP4_OPERATION_WEIGHTS_PREPARE] = sizeof(nvfp4_weights_prepare_args),
        [NVFP4_OPERATION_WEIGHTS_EXPORT] = sizeof(nvfp4_weights_export_args),
        [NVFP4_OPERATION_GROUPED_GEMM] = sizeof(nvfp4_grouped_gemm_args),
        [NVFP4_OPERATION_LINEAR] = sizeof(nvfp4_linear_args),
        [NVFP4_OPERATION_GROUPED_LINEAR] = sizeof(nvfp4_grouped_linear_args),
        [NVFP4_OPERATION_MOE_ROUTE] = sizeof(nvfp4_moe_route_args),
        [NVFP4_OPERATION_MOE_PERMUTE] = sizeof(nvfp4_moe_permute_args),
        [NVFP4_OPERATION_MOE_COMBINE] = sizeof(nvfp4_moe_combine_args),
        [NVFP4_OPERATION_MOE_FORWARD] = sizeof(nvfp4_moe_forward_args),
    };
    bool known = operation < sizeof sizes / sizeof sizes[0] && sizes[operation] != 0;
    return known ? relocated(args, sizes[operation], room) : args;
}

/* What is prepared for is not touched: the pointers alone are moved. */
static inline nvfp4_status staged_prepare(nvfp4_context *context, const nvfp4_prepare_args *args) {
    uint64_t room[256];
    if (!on_device() || !args) return nvfp4_prepare(context, args);
    nvfp4_prepare_args moved = *args;
    moved.args = relocated_call(args->operation, args->args, room);
    return nvfp4_prepare(context, &moved);
}

static inline nvfp4_status staged_tune(nvfp4_context *context, const nvfp4_tune_args *args, nvfp4_stream *stream, nvfp4_tune_result *result) {
    uint64_t room[256];
    if (!on_device() || !args) return nvfp4_tune(context, args, stream, result);
    nvfp4_tune_args moved = *args;
    moved.args = relocated_call(args->operation, args->args, room);
    if (device.captures == 0) arena_move(true);
    nvfp4_status status = nvfp4_tune(context, &moved, stream, result);
    if (device.captures == 0) arena_settle(), arena_move(false);
    return status;
}

static inline nvfp4_status staged_weights_prepare(nvfp4_context *context, const nvfp4_weights_prepare_args *args,
                                                  nvfp4_stream *stream, nvfp4_weights **weights) {
    uint64_t room[256];
    if (!on_device()) return nvfp4_weights_prepare(context, args, stream, weights);
    if (device.captures == 0) arena_move(true);
    nvfp4_status status = nvfp4_weights_prepare(context, relocated(args, sizeof *args, room), stream, weights);
    if (device.captures == 0) arena_settle(), arena_move(false);
    return status;
}

static inline nvfp4_status staged_graph_launch(nvfp4_graph *graph, nvfp4_stream *stream) {
    if (!on_device() || device.captures) return nvfp4_graph_launch(graph, stream);
    arena_move(true);
    nvfp4_status status = nvfp4_graph_launch(graph, stream);
    arena_settle();
    arena_move(false);
    return status;
}

static inline nvfp4_status counted_begin_capture(nvfp4_stream *stream, nvfp4_capture_mode mode) {
    (void)on_device(); /* the arena is not made inside a capture */
    nvfp4_status status = nvfp4_graph_begin_capture(stream, mode);
    device.captures += status == NVFP4_STATUS_SUCCESS;
    return status;
}

static inline nvfp4_status counted_end_capture(nvfp4_stream *stream, nvfp4_graph **graph) {
    nvfp4_status status = nvfp4_graph_end_capture(stream, graph);
    device.captures -= status == NVFP4_STATUS_SUCCESS || (status == NVFP4_STATUS_CAPTURE && (strstr(nvfp4_last_message(), "not joined back") || strstr(nvfp4_last_message(), "UNJOINED"))) ||
                       (status == NVFP4_STATUS_INVALID_HANDLE && device.captures && strstr(nvfp4_last_message(), "context"));
    return status;
}

/* On the CPU a copy has happened when its call returns; the programs count on it. */
static inline nvfp4_status settled(nvfp4_status status) {
    if (on_device() && status == NVFP4_STATUS_SUCCESS && device.captures == 0) arena_settle();
    return status;
}

#define nvfp4_quantize(...) staged_quantize(__VA_ARGS__)
#define nvfp4_amax_scale(...) staged_amax_scale(__VA_ARGS__)
#define nvfp4_dequantize(...) staged_dequantize(__VA_ARGS__)
#define nvfp4_rmsnorm_quantize(...) staged_rmsnorm_quantize(__VA_ARGS__)
#define nvfp4_hc_rmsnorm_quantize(...) staged_hc_rmsnorm_quantize(__VA_ARGS__)
#define nvfp4_swiglu_quantize(...) staged_swiglu_quantize(__VA_ARGS__)
#define nvfp4_stage_moe_inputs(...) staged_stage_moe_inputs(__VA_ARGS__)
#define nvfp4_tile_scales(...) staged_tile_scales(__VA_ARGS__)
#define nvfp4_untile_scales(...) staged_untile_scales(__VA_ARGS__)
#define nvfp4_interleave_gate_up(...) staged_interleave_gate_up(__VA_ARGS__)
#define nvfp4_deinterleave_gate_up(...) staged_deinterleave_gate_up(__VA_ARGS__)
#define nvfp4_group_ends(...) staged_group_ends(__VA_ARGS__)
#define nvfp4_weights_export(...) staged_weights_export(__VA_ARGS__)
#define nvfp4_grouped_gemm(...) staged_grouped_gemm(__VA_ARGS__)
#define nvfp4_gemm(...) staged_gemm(__VA_ARGS__)
#define nvfp4_moe_route(...) staged_moe_route(__VA_ARGS__)
#define nvfp4_moe_permute(...) staged_moe_permute(__VA_ARGS__)
#define nvfp4_moe_combine(...) staged_moe_combine(__VA_ARGS__)
#define nvfp4_moe_forward(...) staged_moe_forward(__VA_ARGS__)
#define nvfp4_linear(...) staged_linear(__VA_ARGS__)
#define nvfp4_grouped_linear(...) staged_grouped_linear(__VA_ARGS__)
#define nvfp4_prepare(...) staged_prepare(__VA_ARGS__)
#define nvfp4_tune(...) staged_tune(__VA_ARGS__)
#define nvfp4_weights_prepare(...) staged_weights_prepare(__VA_ARGS__)
#define nvfp4_graph_launch(...) staged_graph_launch(__VA_ARGS__)
#define nvfp4_graph_begin_capture(...) counted_begin_capture(__VA_ARGS__)
#define nvfp4_graph_end_capture(...) counted_end_capture(__VA_ARGS__)
#define nvfp4_buffer_upload(...) settled((nvfp4_buffer_upload)(__VA_ARGS__))
#define nvfp4_buffer_download(...) settled((nvfp4_buffer_download)(__VA_ARGS__))

#endif
