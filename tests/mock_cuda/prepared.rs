//! What a run call asks of the driver, what nvfp4_prepare loads for a given call, and launches that may start early.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use nvfp4::api::context::*;
use nvfp4::api::gemm::*;
use nvfp4::api::linear::*;
use nvfp4::api::moe::forward::*;
use nvfp4::api::operation::*;
use nvfp4::api::quantize::nvfp4_quantize_args;
use nvfp4::api::stream::*;
use nvfp4::api::tuning::*;
use nvfp4::api::types::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::mock;
use crate::product::{Product, tell_sizes};
use crate::{Gpu, ok, options, refused};

fn quantize_args(base: *mut c_void) -> nvfp4_quantize_args {
    let at = |offset: usize| base.wrapping_byte_add(if base.is_null() { 0 } else { offset });
    nvfp4_quantize_args {
        struct_size: size_of::<nvfp4_quantize_args>(),
        src: base,
        rows: 1,
        cols: 64,
        out: nvfp4_quantized {
            codes: at(1024).cast(),
            scales: at(2048).cast(),
            // Which of the two arrays is set says what is asked for.
            static_decode_scales: if base.is_null() { 4096 as *const f32 } else { at(3072).cast() },
            ..Default::default()
        },
        ..Default::default()
    }
}

fn prepare(gpu: &Gpu, operation: u32, args: *const c_void) -> i32 {
    let struct_size = size_of::<nvfp4_prepare_args>();
    let prepare = nvfp4_prepare_args { struct_size, operation, args, ..Default::default() };
    // SAFETY: live handles, valid pointers.
    unsafe { nvfp4_prepare(gpu.context, &prepare) }
}

fn loaded(gpu: &Gpu) -> String {
    let mut info = nvfp4_backend_info { struct_size: size_of::<nvfp4_backend_info>(), ..Default::default() };
    // SAFETY: valid pointers.
    ok(unsafe { nvfp4_context_info(gpu.context, &mut info) });
    let name: String = info.name.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect();
    name.rsplit(", ").next().unwrap().split('/').next().unwrap().into()
}

#[test]
fn a_run_call_asks_the_driver_twice() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    let gpu = Gpu::prepared(0);
    let buffer = gpu.buffer(4096);
    mock.push(mock.primary(0));
    for _ in 0..3 {
        let before = mock.calls().len();
        // SAFETY: live handles, valid pointers.
        ok(unsafe { nvfp4_quantize(gpu.context, &quantize_args(buffer.data), gpu.stream) });
        assert_eq!(mock.calls()[before..], ["cuCtxGetCurrent", "cuLaunchKernelEx"]);
    }
    mock.pop();
    drop((buffer, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn a_given_call_is_prepared_and_nothing_else() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    let gpu = Gpu::new(0);
    let buffer = gpu.buffer(4096);
    let before = (mock.calls().len(), mock.launches());
    // Without any memory of the call's.
    let shapes = quantize_args(null_mut());
    ok(prepare(&gpu, NVFP4_OPERATION_QUANTIZE, (&raw const shapes).cast()));
    assert_eq!(mock.launches(), before.1, "nothing ran");
    let calls = mock.calls()[before.0..].to_vec();
    assert_eq!(calls.iter().filter(|name| *name == "cuModuleLoadData").count(), 1);
    assert!(!calls.iter().any(|name| name.starts_with("cuMem")), "{calls:?}");
    assert_eq!(loaded(&gpu), "1");
    // Again: nothing is loaded twice.
    ok(prepare(&gpu, NVFP4_OPERATION_QUANTIZE, (&raw const shapes).cast()));
    assert_eq!(mock.calls().iter().filter(|name| *name == "cuModuleLoadData").count(), 1);
    // SAFETY: live handles, valid pointers.
    unsafe {
        ok(nvfp4_graph_begin_capture(gpu.stream, NVFP4_CAPTURE_MODE_GLOBAL));
        ok(nvfp4_quantize(gpu.context, &quantize_args(buffer.data), gpu.stream));
        // Dynamic scales take kernels that were not asked for, while somebody captures and outside of it.
        let mut dynamic = quantize_args(buffer.data);
        dynamic.out.decode_scales = dynamic.out.static_decode_scales.cast_mut();
        dynamic.out.static_decode_scales = null();
        let status = nvfp4_quantize(gpu.context, &dynamic, gpu.stream);
        refused(status, NVFP4_STATUS_NOT_PREPARED, "nvfp4_amax_bf16");
        ok(prepare(&gpu, NVFP4_OPERATION_QUANTIZE, (&raw const dynamic).cast()));
        assert_eq!(loaded(&gpu), "3");
        ok(nvfp4_quantize(gpu.context, &dynamic, gpu.stream));
        let mut graph = null_mut();
        ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
        ok(nvfp4_graph_destroy(graph));
    }
    // What the call would refuse is refused, on this and on every backend.
    let wrong = nvfp4_quantize_args { cols: 20, ..shapes };
    let pointer = (&raw const wrong).cast();
    refused(prepare(&gpu, NVFP4_OPERATION_QUANTIZE, pointer), NVFP4_STATUS_INVALID_ARGUMENT, "cols = 20");
    refused(
        prepare(&gpu, NVFP4_OPERATION_QUANTIZE, null()),
        NVFP4_STATUS_INVALID_ARGUMENT,
        "args.args is NULL",
    );
    refused(prepare(&gpu, 22, pointer), NVFP4_STATUS_INVALID_ARGUMENT, "args.operation = 22");
    refused(prepare(&gpu, 0, pointer), NVFP4_STATUS_INVALID_ARGUMENT, "args.args");
    assert_eq!(loaded(&gpu), "3");
    drop((buffer, gpu));
    assert_eq!(mock.leaks(), "");
}

/// A layer's products are timed behind its other steps, and nothing that was taken for it stays.
#[test]
fn layers_are_prepared_and_tuned() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    for (kernel, bytes) in [
        ("nvfp4_moe_route_few", 96),
        ("nvfp4_moe_dispatch", 248),
        ("nvfp4_decode_bf16", 144),
        ("nvfp4_moe_combine_bf16", 120),
    ] {
        mock.set_parameter_bytes(kernel, bytes);
    }
    let gpu = Gpu::new(0);
    let product = Product::new(&gpu, 0);
    let w2 = Product::shaped(&gpu, 0, (2, 64, 256));
    let (a, out) = (product.args.a, product.args.out);
    let layer = nvfp4_grouped_linear_args {
        struct_size: size_of::<nvfp4_grouped_linear_args>(),
        weights: product.weights,
        tokens: 8,
        a,
        quantize: 1,
        scope: NVFP4_SCOPE_ROW,
        out,
        ..Default::default()
    };
    let moe = nvfp4_moe_forward_args {
        struct_size: size_of::<nvfp4_moe_forward_args>(),
        w1: product.weights,
        w2: w2.weights,
        tokens: 8,
        experts: 2,
        hidden: a,
        topk: 2,
        logits: a.wrapping_byte_add(1 << 20),
        out,
        ..Default::default()
    };
    let cases = [
        (NVFP4_OPERATION_GROUPED_LINEAR, (&raw const layer).cast(), 1),
        (NVFP4_OPERATION_MOE_FORWARD, (&raw const moe).cast(), 2),
    ];
    for (operation, args, products) in cases {
        let launches = mock.launches();
        ok(prepare(&gpu, operation, args));
        assert_eq!(mock.launches(), launches, "nothing ran");
        // What the call takes is there now, also inside of a capture.
        // SAFETY: live handles, memory of the mock.
        unsafe {
            let (mut bytes, mut graph) = (0, null_mut());
            let workspace = product.args.workspace;
            ok(nvfp4_graph_begin_capture(gpu.stream, NVFP4_CAPTURE_MODE_GLOBAL));
            if products == 1 {
                ok(nvfp4_grouped_linear_workspace_size(gpu.context, &layer, &mut bytes));
                let args = nvfp4_grouped_linear_args { workspace, workspace_size: bytes, ..layer };
                ok(nvfp4_grouped_linear(gpu.context, &args, gpu.stream));
            } else {
                ok(nvfp4_moe_forward_workspace_size(gpu.context, &moe, &mut bytes));
                let args = nvfp4_moe_forward_args { workspace, workspace_size: bytes, ..moe };
                ok(nvfp4_moe_forward(gpu.context, &args, gpu.stream));
            }
            ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
            ok(nvfp4_graph_destroy(graph));
        }
        let mut stats = nvfp4_pool_stats { struct_size: size_of::<nvfp4_pool_stats>(), ..Default::default() };
        // SAFETY: valid pointers.
        ok(unsafe { nvfp4_context_pool_stats(gpu.context, &mut stats) });
        let in_use = stats.bytes_in_use;
        let struct_size = size_of::<nvfp4_tune_args>();
        let asked = nvfp4_tune_args { struct_size, operation, repeats: 3, args };
        let mut found =
            nvfp4_tune_result { struct_size: size_of::<nvfp4_tune_result>(), ..Default::default() };
        // SAFETY: live handles, memory of the mock.
        unsafe {
            ok(nvfp4_tune(gpu.context, &asked, gpu.stream, &mut found));
            ok(nvfp4_context_pool_stats(gpu.context, &mut stats));
        }
        // Each product of the mock takes the same time.
        assert!(found.candidates > 2 && found.default_us == 500.0 * products as f32, "{found:?}");
        assert_eq!(stats.bytes_in_use, in_use, "what the measurement took is given back");
        mock.fail("cuEventSynchronize", 2, 999);
        // SAFETY: as above.
        let status = unsafe { nvfp4_tune(gpu.context, &asked, gpu.stream, &mut found) };
        refused(status, NVFP4_STATUS_DEVICE_ERROR, "cuEventSynchronize");
        mock.fail("", 0, 0);
    }
    drop((w2, product, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn a_product_may_start_early_where_the_device_can() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    for (major, expected) in [(9, 1), (8, 0)] {
        mock.set_capability(major, 0);
        let gpu = Gpu::with(&options(0, 0));
        // SAFETY: a live context.
        ok(unsafe { nvfp4_prepare(gpu.context, null()) });
        // Batch-invariant: one launch, no memset of counters in front of it.
        for (flags, expected) in [(NVFP4_GEMM_DEPENDENT_LAUNCH, expected), (0, 0)] {
            let product = Product::new(&gpu, flags | NVFP4_GEMM_BATCH_INVARIANT);
            let before = mock.dependent_launches();
            product.run(&gpu, mock);
            assert_eq!(mock.dependent_launches() - before, expected, "compute {major}, flags {flags}");
            // SAFETY: live handles, valid pointers.
            unsafe {
                let mut graph = null_mut();
                ok(nvfp4_graph_begin_capture(gpu.stream, NVFP4_CAPTURE_MODE_GLOBAL));
                ok(nvfp4_grouped_gemm(gpu.context, &product.args, gpu.stream));
                ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
                ok(nvfp4_graph_instantiate(graph));
                let before = mock.dependent_launches();
                ok(nvfp4_graph_launch(graph, gpu.stream));
                ok(nvfp4_graph_launch(graph, gpu.stream));
                assert_eq!(mock.dependent_launches() - before, 2 * expected);
                ok(nvfp4_graph_destroy(graph));
            }
        }
    }
    assert_eq!(mock.leaks(), "");
}
