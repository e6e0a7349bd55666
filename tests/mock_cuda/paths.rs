//! What the calls on streams, graphs and buffers do when the driver works, and what they refuse.

use std::ptr::{null, null_mut};

use nvfp4::api::context::*;
use nvfp4::api::stream::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::mock;
use crate::{Gpu, ok, refused};

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
