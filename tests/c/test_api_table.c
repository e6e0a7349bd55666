/* The table of all functions: its size, its refusals, that each entry is the exported function, and that it works. */
#include "harness.h"

#define SAME(name) CHECK(table->name == nvfp4_##name)

int main(void) {
    const nvfp4_api_table *table = nvfp4_api(NVFP4_ABI_VERSION);
    MUST(table != NULL);
    program_of_the_cpu("the table is the same on every device");
    CASE("unknown versions") {
        CHECK(nvfp4_api(0) == NULL);
        CHECK(strstr(nvfp4_last_message(), "nvfp4_api: abi_version = 0") != NULL);
        CHECK(nvfp4_api(NVFP4_ABI_VERSION + 1) == NULL);
        CHECK(nvfp4_api(UINT32_MAX) == NULL);
        CHECK(strstr(nvfp4_last_message(), "abi_version = 4294967295") != NULL);
        CHECK(nvfp4_api(NVFP4_ABI_VERSION) == table);
    }
    CASE("the size is the header's") CHECK(table->struct_size == sizeof *table);
    CASE("no entry is empty") {
        void *const *entries = (void *const *)(const void *)table;
        for (size_t i = 1; i < table->struct_size / sizeof(void *); i++) CHECK_THAT(entries[i] != NULL, "entry %zu", i);
    }
    CASE("entries are the exported functions") {
        SAME(version); SAME(version_string); SAME(abi_version); SAME(status_name); SAME(last_message); SAME(set_log_callback);
        SAME(backend_query); SAME(context_create); SAME(context_destroy); SAME(context_info); SAME(context_faults);
        SAME(context_clear_faults); SAME(context_synchronize); SAME(context_pool_stats); SAME(context_pool_trim);
        SAME(feature_supported); SAME(prepare);
        SAME(stream_create); SAME(stream_borrow); SAME(stream_destroy); SAME(stream_synchronize); SAME(stream_query);
        SAME(event_create); SAME(event_destroy); SAME(event_record); SAME(event_wait); SAME(event_synchronize);
        SAME(event_query); SAME(event_elapsed_ms);
        SAME(graph_begin_capture); SAME(graph_end_capture); SAME(graph_instantiate); SAME(graph_update); SAME(graph_launch);
        SAME(graph_node_count); SAME(graph_destroy);
        SAME(buffer_create); SAME(buffer_destroy); SAME(buffer_data); SAME(buffer_size); SAME(buffer_upload);
        SAME(buffer_download); SAME(buffer_copy);
        SAME(quantize); SAME(quantize_workspace_size); SAME(amax_scale); SAME(amax_scale_workspace_size); SAME(dequantize);
        SAME(rmsnorm_quantize); SAME(rmsnorm_quantize_workspace_size); SAME(hc_rmsnorm_quantize);
        SAME(hc_rmsnorm_quantize_workspace_size); SAME(swiglu_quantize); SAME(swiglu_quantize_workspace_size);
        SAME(stage_moe_inputs); SAME(scales_size); SAME(tile_scales); SAME(untile_scales); SAME(interleave_gate_up);
        SAME(deinterleave_gate_up); SAME(group_ends);
        SAME(weights_storage_size); SAME(weights_prepare); SAME(weights_export); SAME(weights_info); SAME(weights_destroy);
        SAME(grouped_gemm); SAME(grouped_gemm_workspace_size); SAME(gemm); SAME(gemm_workspace_size);
        SAME(tune); SAME(tuning_load); SAME(tuning_save);
        SAME(moe_route); SAME(moe_permute); SAME(moe_permute_workspace_size); SAME(moe_combine); SAME(moe_forward);
        SAME(moe_forward_workspace_size);
        SAME(linear); SAME(linear_workspace_size); SAME(grouped_linear); SAME(grouped_linear_workspace_size);
    }
    CASE("calls through the table") {
        nvfp4_context *context = NULL;
        nvfp4_stream *stream = NULL;
        OK(table->context_create(NULL, &context));
        OK(table->stream_create(context, &stream));
        OK(table->stream_synchronize(stream));
        OK(table->stream_destroy(stream));
        OK(table->context_destroy(context));
        BAD_HANDLE(table->context_destroy(context), "context");
    }
    return finish();
}
