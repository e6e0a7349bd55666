//! What each call does when the driver works, and what it refuses.

use std::ptr::{null, null_mut};

use nvfp4::api::context::*;
use nvfp4::api::stream::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::mock;
use crate::{Gpu, message, ok, options, refused};

fn create(options: &nvfp4_context_options) -> i32 {
    let mut context = null_mut();
    // SAFETY: valid pointers.
    unsafe { nvfp4_context_create(options, &mut context) }
}

fn query(device: u32) -> (u32, u32, String) {
    let mut info = nvfp4_backend_info { struct_size: size_of::<nvfp4_backend_info>(), ..Default::default() };
    // SAFETY: a valid pointer.
    ok(unsafe { nvfp4_backend_query(NVFP4_BACKEND_CUDA, device, &mut info) });
    let name = info.name.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect();
    (info.available, info.device_count, name)
}

#[test]
fn the_mock_has_every_symbol() {
    let (_turn, mock) = mock();
    for name in nvfp4::backend::cuda::driver::SYMBOLS {
        assert!(mock.has(name), "mock.c lacks {name}");
    }
}

#[test]
fn an_old_driver_is_refused_with_both_versions() {
    let (_turn, mock) = mock();
    mock.set_version(12080);
    refused(create(&options(0, 0)), NVFP4_STATUS_UNSUPPORTED_DRIVER, "CUDA 12.8");
    assert!(message().contains("13.0 (driver R580)"), "{}", message());
    assert_eq!(query(0), (0, 0, "no GPU driver of R580 (CUDA 13.0) or newer".into()));
    mock.set_version(13010);
    assert_eq!(query(0), (1, 2, "Mock GPU 0, compute 9.0".into()));
    drop(Gpu::new(0));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn devices_that_are_not_there_or_too_old_are_refused() {
    let (_turn, mock) = mock();
    refused(
        create(&options(2, 0)),
        NVFP4_STATUS_UNSUPPORTED_DEVICE,
        "device 2 does not exist; the GPU driver sees 0 to 1",
    );
    assert_eq!(query(2), (0, 0, "no such GPU of compute capability 8.0 or newer".into()));
    mock.set_devices(0);
    refused(create(&options(0, 0)), NVFP4_STATUS_UNSUPPORTED_DEVICE, "sees no device");
    mock.set_devices(2);
    mock.set_capability(7, 5);
    refused(create(&options(0, 0)), NVFP4_STATUS_UNSUPPORTED_DEVICE, "compute capability 7.5");
    assert_eq!(query(0).0, 0);
    assert_eq!(mock.leaks(), "");
}

#[test]
fn options_of_the_other_backend_are_refused() {
    let (_turn, mock) = mock();
    let mut wrong = options(0, 2);
    refused(create(&wrong), NVFP4_STATUS_INVALID_ARGUMENT, "options.flags = 2");
    wrong.flags = 0;
    wrong.threads = 4;
    refused(create(&wrong), NVFP4_STATUS_INVALID_ARGUMENT, "options.threads = 4");
    wrong.threads = 0;
    wrong.reserved = 1;
    refused(create(&wrong), NVFP4_STATUS_INVALID_ARGUMENT, "options.reserved");
    wrong = nvfp4_context_options { backend: NVFP4_BACKEND_CPU, ..options(0, NVFP4_CONTEXT_ADOPT_CURRENT) };
    refused(create(&wrong), NVFP4_STATUS_INVALID_ARGUMENT, "options.flags = 1");
    assert_eq!(mock.calls().len(), 0);
    // An older caller's struct, without flags.
    let old = nvfp4_context_options { struct_size: 24, ..options(0, 99) };
    let mut context = null_mut();
    // SAFETY: valid pointers.
    unsafe {
        ok(nvfp4_context_create(&old, &mut context));
        ok(nvfp4_context_destroy(context));
    }
}

#[test]
fn no_image_for_the_device_names_what_is_there() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    mock.set_no_image(true);
    // SAFETY: a live context.
    let status = unsafe { nvfp4_prepare(gpu.context, null()) };
    refused(status, NVFP4_STATUS_UNSUPPORTED_DEVICE, "compute 9.0: this build holds ");
    assert!(message().contains("CUDA_ERROR_NO_BINARY_FOR_GPU"), "{}", message());
    mock.set_no_image(false);
    // SAFETY: a live context.
    ok(unsafe { nvfp4_prepare(gpu.context, null()) });
    drop(gpu);
    assert_eq!(mock.leaks(), "");
}

#[test]
fn an_operation_runs_and_faults_are_read_without_a_wait() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(1);
    let (counts, ends) = (gpu.buffer(16), gpu.buffer(16));
    counts.upload(&[3, -1, 4, i32::MAX], gpu.stream);
    ok(gpu.group_ends(gpu.stream, counts.data, ends.data, 4));
    assert_eq!(ends.read(4, gpu.stream), [3, 3, 7, i32::MAX]);
    let mut faults = nvfp4_faults { struct_size: size_of::<nvfp4_faults>(), ..Default::default() };
    let before = mock.calls().len();
    // SAFETY: valid pointers.
    unsafe { ok(nvfp4_context_faults(gpu.context, &mut faults)) };
    assert_eq!((faults.flags, faults.bad_group), (NVFP4_FAULT_BAD_GROUP, 1));
    assert_eq!(mock.calls().len(), before);
    // Cleared, the device's record with the host's word, a fault is reported again.
    for _ in 0..2 {
        // SAFETY: valid pointers.
        unsafe {
            ok(nvfp4_context_clear_faults(gpu.context));
            ok(nvfp4_context_faults(gpu.context, &mut faults));
        }
        assert_eq!((faults.flags, faults.bad_group), (0, -1));
        counts.upload(&[3, 1, -4, 2], gpu.stream);
        ok(gpu.group_ends(gpu.stream, counts.data, ends.data, 4));
        assert_eq!(ends.read(4, gpu.stream), [3, 4, 4, 6]);
        // SAFETY: valid pointers.
        unsafe { ok(nvfp4_context_faults(gpu.context, &mut faults)) };
        assert_eq!((faults.flags, faults.bad_group), (NVFP4_FAULT_BAD_GROUP, 2));
    }
    let launches = mock.launches();
    ok(gpu.group_ends(gpu.stream, null_mut(), null_mut(), 0));
    assert_eq!(mock.launches(), launches, "no groups, no launch");
    drop((counts, ends, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn a_run_call_makes_two_driver_calls_or_four() {
    let (_turn, mock) = mock();
    let gpu = Gpu::prepared(0);
    let data = gpu.buffer(16);
    mock.push(mock.primary(0));
    let before = mock.calls().len();
    ok(gpu.group_ends(gpu.stream, data.data, data.data, 4));
    assert_eq!(mock.calls()[before..], ["cuCtxGetCurrent", "cuLaunchKernelEx"]);
    mock.pop();
    let before = mock.calls().len();
    ok(gpu.group_ends(gpu.stream, data.data, data.data, 4));
    assert_eq!(
        mock.calls()[before..],
        ["cuCtxGetCurrent", "cuCtxPushCurrent", "cuLaunchKernelEx", "cuCtxPopCurrent"]
    );
}

#[test]
fn unprepared_work_in_a_capture_is_refused_and_the_capture_goes_on() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    let data = gpu.buffer(16);
    data.upload(&[1, 2, 3, 4], gpu.stream);
    let (mut graph, mut count) = (null_mut(), 9);
    // SAFETY: live handles, valid pointers.
    unsafe {
        ok(nvfp4_graph_begin_capture(gpu.stream, NVFP4_CAPTURE_MODE_GLOBAL));
        let before = mock.calls().len();
        let status = gpu.group_ends(gpu.stream, data.data, data.data, 4);
        refused(status, NVFP4_STATUS_NOT_PREPARED, "nvfp4_group_ends is not prepared; call nvfp4_prepare");
        let harmless = ["cuCtxGetCurrent", "cuCtxPushCurrent", "cuStreamIsCapturing", "cuCtxPopCurrent"];
        assert_eq!(mock.calls()[before..], harmless);
        // Loading on this thread while the stream captures does not disturb the capture.
        ok(nvfp4_prepare(gpu.context, null()));
        ok(gpu.group_ends(gpu.stream, data.data, data.data, 4));
        ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
        ok(nvfp4_graph_node_count(graph, &mut count));
        assert_eq!(count, 1);
        ok(nvfp4_graph_destroy(graph));
    }
    drop((data, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn graphs_are_captured_in_every_mode_replayed_updated_and_nested() {
    let (_turn, mock) = mock();
    let gpu = Gpu::prepared(0);
    for mode in [NVFP4_CAPTURE_MODE_GLOBAL, NVFP4_CAPTURE_MODE_THREAD_LOCAL, NVFP4_CAPTURE_MODE_RELAXED] {
        let (a, b) = (gpu.buffer(16), gpu.buffer(16));
        let capture = |from: &crate::Buffer, copies: usize| {
            let mut graph = null_mut();
            // SAFETY: live handles, valid pointers.
            unsafe {
                ok(nvfp4_graph_begin_capture(gpu.stream, mode));
                refused(
                    nvfp4_graph_begin_capture(gpu.stream, mode),
                    NVFP4_STATUS_CAPTURE,
                    "captures already",
                );
                refused(nvfp4_stream_synchronize(gpu.stream), NVFP4_STATUS_CAPTURE, "cannot be waited for");
                refused(nvfp4_stream_destroy(gpu.stream), NVFP4_STATUS_CAPTURE, "cannot be destroyed");
                ok(gpu.group_ends(gpu.stream, from.data, from.data, 4));
                for _ in 0..copies {
                    ok(nvfp4_buffer_copy(b.buffer, 0, from.buffer, 0, 8, gpu.stream));
                }
                ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
                refused(
                    nvfp4_graph_end_capture(gpu.stream, &mut graph),
                    NVFP4_STATUS_CAPTURE,
                    "does not capture",
                );
            }
            graph
        };
        a.upload(&[1; 4], gpu.stream);
        let graph = capture(&a, 1);
        assert_eq!(a.read(4, gpu.stream), [1; 4], "recorded, not carried out");
        // SAFETY: live handles, valid pointers.
        unsafe {
            refused(
                nvfp4_graph_launch(graph, gpu.stream),
                NVFP4_STATUS_NOT_PREPARED,
                "nvfp4_graph_instantiate",
            );
            ok(nvfp4_graph_instantiate(graph));
            ok(nvfp4_graph_instantiate(graph));
            ok(nvfp4_graph_launch(graph, gpu.stream));
            assert_eq!(a.read(4, gpu.stream), [1, 2, 3, 4]);
            assert_eq!(b.read(2, gpu.stream), [1, 2]);
            ok(nvfp4_graph_launch(graph, gpu.stream));
            assert_eq!(a.read(4, gpu.stream), [1, 3, 6, 10]);
            // Another buffer's arguments; the graph keeps that buffer alive.
            let c = gpu.buffer(16);
            c.upload(&[7; 4], gpu.stream);
            let other = capture(&c, 1);
            drop(c);
            ok(nvfp4_graph_update(graph, other));
            ok(nvfp4_graph_destroy(other));
            ok(nvfp4_graph_launch(graph, gpu.stream));
            assert_eq!(b.read(2, gpu.stream), [7, 14]);
            let different = capture(&a, 2);
            refused(nvfp4_graph_update(graph, different), NVFP4_STATUS_UNSUPPORTED, "other calls");
            refused(nvfp4_graph_update(different, graph), NVFP4_STATUS_UNSUPPORTED, "other calls");
            ok(nvfp4_graph_destroy(different));
            // As a part of another graph.
            let (mut outer, mut count) = (null_mut(), 0);
            ok(nvfp4_graph_begin_capture(gpu.stream, mode));
            ok(nvfp4_graph_launch(graph, gpu.stream));
            ok(nvfp4_buffer_copy(b.buffer, 8, b.buffer, 0, 8, gpu.stream));
            ok(nvfp4_graph_end_capture(gpu.stream, &mut outer));
            ok(nvfp4_graph_node_count(outer, &mut count));
            assert_eq!(count, 2);
            ok(nvfp4_graph_destroy(graph));
            ok(nvfp4_graph_instantiate(outer));
            ok(nvfp4_graph_launch(outer, gpu.stream));
            assert_eq!(b.read(4, gpu.stream), [7, 21, 7, 21]);
            ok(nvfp4_graph_destroy(outer));
        }
    }
    drop(gpu);
    assert_eq!(mock.leaks(), "");
}

#[test]
fn streams_join_a_capture_through_events() {
    let (_turn, mock) = mock();
    let gpu = Gpu::prepared(0);
    let data = gpu.buffer(16);
    let (mut second, mut fork, mut join, mut outside, mut graph) =
        (null_mut(), null_mut(), null_mut(), null_mut(), null_mut());
    // SAFETY: live handles, valid pointers.
    unsafe {
        ok(nvfp4_stream_create(gpu.context, &mut second));
        for event in [&mut fork, &mut join, &mut outside] {
            ok(nvfp4_event_create(gpu.context, event));
        }
        let mut done = 0;
        ok(nvfp4_event_query(fork, &mut done));
        assert_eq!(done, 1, "an event that was never recorded has been reached");
        let mut ms = 0.0;
        refused(nvfp4_event_elapsed_ms(fork, join, &mut ms), NVFP4_STATUS_INVALID_ARGUMENT, "never recorded");
        ok(nvfp4_event_record(outside, second));
        for unjoined in [true, false] {
            ok(nvfp4_graph_begin_capture(gpu.stream, NVFP4_CAPTURE_MODE_GLOBAL));
            refused(nvfp4_event_wait(outside, gpu.stream), NVFP4_STATUS_CAPTURE, "from outside the capture");
            ok(nvfp4_event_record(fork, gpu.stream));
            ok(nvfp4_event_wait(fork, second));
            ok(gpu.group_ends(second, data.data, data.data, 4));
            refused(nvfp4_graph_end_capture(second, &mut graph), NVFP4_STATUS_CAPTURE, "of another stream");
            refused(nvfp4_event_query(fork, &mut done), NVFP4_STATUS_CAPTURE, "inside a capture");
            refused(nvfp4_event_synchronize(fork), NVFP4_STATUS_CAPTURE, "inside a capture");
            if unjoined {
                let status = nvfp4_graph_end_capture(gpu.stream, &mut graph);
                refused(status, NVFP4_STATUS_CAPTURE, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED");
            } else {
                ok(nvfp4_event_record(join, second));
                ok(nvfp4_event_wait(join, gpu.stream));
                ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
                ok(nvfp4_graph_destroy(graph));
            }
        }
        refused(nvfp4_event_wait(fork, gpu.stream), NVFP4_STATUS_CAPTURE, "CUDA_ERROR_CAPTURED_EVENT");
        ok(nvfp4_event_record(fork, gpu.stream));
        ok(nvfp4_event_record(join, gpu.stream));
        ok(nvfp4_event_synchronize(join));
        ok(nvfp4_event_elapsed_ms(fork, join, &mut ms));
        assert_eq!(ms, 0.5);
        for event in [fork, join, outside] {
            ok(nvfp4_event_destroy(event));
        }
        ok(nvfp4_stream_destroy(second));
    }
    drop((data, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn buffers_come_from_a_pool_that_keeps_and_trims() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    let stats = || {
        let mut stats = nvfp4_pool_stats { struct_size: size_of::<nvfp4_pool_stats>(), ..Default::default() };
        // SAFETY: valid pointers.
        ok(unsafe { nvfp4_context_pool_stats(gpu.context, &mut stats) });
        (stats.bytes_in_use, stats.bytes_reserved, stats.peak_bytes_in_use, stats.allocations, stats.reuses)
    };
    assert_eq!(stats(), (0, 0, 0, 0, 0));
    let a = gpu.buffer(1000);
    assert_eq!(a.data.addr() % 256, 0);
    assert_eq!(stats(), (1024, 1024, 1024, 1, 0));
    drop(a);
    assert_eq!(stats(), (0, 1024, 1024, 1, 0));
    let b = gpu.buffer(256);
    assert_eq!(stats(), (256, 1024, 1024, 2, 1));
    // SAFETY: live handles.
    unsafe {
        ok(nvfp4_context_pool_trim(gpu.context, 0));
        assert_eq!(stats(), (256, 256, 1024, 2, 1));
        let mut none = null_mut();
        let status = nvfp4_buffer_create(gpu.context, 1 << 50, gpu.stream, &mut none);
        refused(status, NVFP4_STATUS_OUT_OF_MEMORY, "1125899906842624 bytes");
        ok(nvfp4_graph_begin_capture(gpu.stream, NVFP4_CAPTURE_MODE_RELAXED));
        refused(
            nvfp4_buffer_create(gpu.context, 1, gpu.stream, &mut none),
            NVFP4_STATUS_CAPTURE,
            "cannot be captured",
        );
        // Ranges that meet go by way of other memory, which a capture cannot take.
        refused(
            nvfp4_buffer_copy(b.buffer, 4, b.buffer, 0, 8, gpu.stream),
            NVFP4_STATUS_CAPTURE,
            "ranges meet",
        );
        let mut graph = null_mut();
        ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
        ok(nvfp4_graph_destroy(graph));
        b.upload(&[1, 2, 3, 4], gpu.stream);
        ok(nvfp4_buffer_copy(b.buffer, 4, b.buffer, 0, 8, gpu.stream));
        assert_eq!(b.read(4, gpu.stream), [1, 1, 2, 4]);
    }
    drop((b, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn borrowed_streams_stay_the_hosts() {
    let (_turn, mock) = mock();
    let gpu = Gpu::prepared(0);
    let primary = mock.primary(0);
    mock.push(primary);
    let native = mock.create_stream();
    mock.pop();
    let foreign_context = mock.create_context(0);
    mock.push(foreign_context);
    let foreign = mock.create_stream();
    let mut stream = null_mut();
    // SAFETY: live handles, valid pointers.
    unsafe {
        refused(
            nvfp4_stream_borrow(gpu.context, foreign, &mut stream),
            NVFP4_STATUS_INVALID_ARGUMENT,
            "another CUDA context",
        );
        ok(nvfp4_stream_borrow(gpu.context, null_mut(), &mut stream));
        ok(nvfp4_stream_synchronize(stream));
        ok(nvfp4_stream_destroy(stream));
        ok(nvfp4_stream_borrow(gpu.context, native, &mut stream));
        let mut buffer = null_mut();
        ok(nvfp4_buffer_create(gpu.context, 64, stream, &mut buffer));
        ok(nvfp4_stream_destroy(stream));
        // From here on only the host may touch its stream.
        mock.destroy_stream(native);
        let before = mock.calls().len();
        ok(nvfp4_buffer_destroy(buffer));
        let calls = mock.calls()[before..].join(" ");
        assert!(
            calls.contains("cuEventSynchronize cuMemFree") && !calls.contains("cuMemFreeAsync"),
            "{calls}"
        );
    }
    assert_eq!(mock.current(), (foreign_context, 1));
    mock.destroy_stream(foreign);
    mock.pop();
    drop(gpu);
    assert_eq!(mock.leaks(), "");
}

#[test]
fn the_current_context_is_adopted_or_left_alone() {
    let (_turn, mock) = mock();
    let adopt = options(0, NVFP4_CONTEXT_ADOPT_CURRENT);
    refused(create(&adopt), NVFP4_STATUS_INVALID_ARGUMENT, "current on this thread");
    let host = mock.create_context(1);
    mock.push(host);
    {
        let gpu = Gpu::with(&adopt);
        let data = gpu.buffer(16);
        data.upload(&[5, 6], gpu.stream);
        ok(gpu.group_ends(gpu.stream, data.data, data.data, 2));
        assert_eq!(data.read(2, gpu.stream), [5, 11]);
        assert!(!mock.calls().contains(&"cuDevicePrimaryCtxRetain".to_string()));
        let pushes = mock.calls().iter().filter(|name| *name == "cuCtxPushCurrent").count();
        assert_eq!(pushes, 1, "only the host's");
        // The other kind beside it.
        let own = Gpu::prepared(0);
        assert_eq!(mock.current(), (host, 1));
        drop(own);
        drop(data);
    }
    assert_eq!(mock.current(), (host, 1));
    mock.pop();
    // A primary context that is current is retained as well.
    let first = Gpu::new(0);
    mock.push(mock.primary(0));
    let second = Gpu::with(&adopt);
    mock.pop();
    drop(first);
    ok(unsafe { nvfp4_stream_synchronize(second.stream) });
    drop(second);
    assert_eq!(mock.leaks(), "");
}

#[test]
fn handles_of_other_contexts_are_refused() {
    let (_turn, mock) = mock();
    let (a, b) = (Gpu::prepared(0), Gpu::prepared(1));
    let data = a.buffer(16);
    refused(a.group_ends(b.stream, data.data, data.data, 1), NVFP4_STATUS_INVALID_HANDLE, "another context");
    drop(data);
    drop((a, b));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn a_broken_context_is_latched_and_can_be_given_back() {
    let (_turn, mock) = mock();
    let gpu = Gpu::prepared(0);
    let data = gpu.buffer(16);
    mock.break_context(700);
    // SAFETY: live handles.
    unsafe {
        let status = nvfp4_stream_synchronize(gpu.stream);
        refused(status, NVFP4_STATUS_DEVICE_POISONED, "CUDA_ERROR_ILLEGAL_ADDRESS");
        let before = mock.calls().len();
        let status = gpu.group_ends(gpu.stream, data.data, data.data, 1);
        refused(status, NVFP4_STATUS_DEVICE_POISONED, "unusable since");
        refused(nvfp4_context_synchronize(gpu.context), NVFP4_STATUS_DEVICE_POISONED, "destroy it");
        assert_eq!(mock.calls().len(), before, "refused before the driver");
        // What the device has told already can still be read.
        let mut faults = nvfp4_faults { struct_size: size_of::<nvfp4_faults>(), ..Default::default() };
        ok(nvfp4_context_faults(gpu.context, &mut faults));
    }
    drop((data, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn parameters_of_another_size_than_the_images_are_refused() {
    let (_turn, mock) = mock();
    mock.set_parameter_bytes("nvfp4_group_ends", 40);
    let gpu = Gpu::new(0);
    let data = gpu.buffer(16);
    let launches = mock.launches();
    let status = gpu.group_ends(gpu.stream, data.data, data.data, 4);
    refused(status, NVFP4_STATUS_INTERNAL, "32 bytes of parameters and 1024 threads; its image takes 40");
    assert_eq!(mock.launches(), launches);
}

#[test]
fn an_error_code_of_a_newer_driver_is_told() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    mock.fail("cuStreamSynchronize", 0, 54321);
    // SAFETY: a live stream.
    let status = unsafe { nvfp4_stream_synchronize(gpu.stream) };
    refused(status, NVFP4_STATUS_DEVICE_ERROR, "cuStreamSynchronize failed with CUDA error 54321");
}

#[test]
fn threads_on_streams_of_their_own_do_not_disturb_each_other() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    let context = gpu.context.addr();
    std::thread::scope(|scope| {
        for thread in 0..8i32 {
            scope.spawn(move || {
                let context = std::ptr::without_provenance_mut(context);
                let mut stream = null_mut();
                // SAFETY: live handles.
                ok(unsafe { nvfp4_stream_create(context, &mut stream) });
                let own = std::mem::ManuallyDrop::new(Gpu { context, stream });
                let data = own.buffer(16);
                for round in 0..200 {
                    data.upload(&[thread, round, 1, 2], stream);
                    ok(own.group_ends(stream, data.data, data.data, 4));
                    assert_eq!(data.read(2, stream), [thread, thread + round]);
                }
                drop(data);
                // SAFETY: a live stream.
                ok(unsafe { nvfp4_stream_destroy(stream) });
            });
        }
    });
    let modules = mock.calls().iter().filter(|name| *name == "cuModuleLoadData").count();
    assert_eq!(modules, 1, "loaded once");
    drop(gpu);
    assert_eq!(mock.leaks(), "");
}

#[test]
fn a_context_tells_what_it_has_loaded() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    let name = || {
        let mut info =
            nvfp4_backend_info { struct_size: size_of::<nvfp4_backend_info>(), ..Default::default() };
        // SAFETY: valid pointers.
        ok(unsafe { nvfp4_context_info(gpu.context, &mut info) });
        info.name.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect::<String>()
    };
    let all: usize = nvfp4::backend::cuda::KERNELS.iter().map(|table| table.len()).sum();
    assert_eq!(name(), format!("Mock GPU 0, compute 9.0, 0/{all} kernels"));
    // SAFETY: a live context.
    ok(unsafe { nvfp4_prepare(gpu.context, null()) });
    assert_eq!(name(), format!("Mock GPU 0, compute 9.0, {all}/{all} kernels"));
    let mut supported = -1;
    // SAFETY: valid pointers.
    ok(unsafe { nvfp4_feature_supported(gpu.context, NVFP4_FEATURE_DEPENDENT_LAUNCH, &mut supported) });
    assert_eq!(supported, 1);
    drop(gpu);
    assert_eq!(mock.leaks(), "");
}

#[test]
fn a_forked_child_is_refused_before_the_driver() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    let data = gpu.buffer(16);
    let before = mock.calls().len();
    // SAFETY: the child only calls into the library, whose locks nobody holds, and leaves at once.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut stream = null_mut();
        // SAFETY: handles of the parent.
        let right = unsafe {
            nvfp4_stream_create(gpu.context, &mut stream) == NVFP4_STATUS_FORKED
                && create(&options(0, 0)) == NVFP4_STATUS_FORKED
                // What it inherited it may still destroy: that is nothing to the driver.
                && nvfp4_buffer_destroy(data.buffer) == 0
                && nvfp4_stream_destroy(gpu.stream) == 0
                && nvfp4_context_destroy(gpu.context) == 0
                && mock.calls().len() == before
        };
        // SAFETY: no destructors in the child.
        unsafe { libc::_exit(if right { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: our child.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0, "the child was not refused, or called the driver");
    drop((data, gpu));
    assert_eq!(mock.leaks(), "");
}
