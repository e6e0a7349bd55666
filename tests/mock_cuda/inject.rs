//! A host's whole life with the library, once for every driver call that it makes × every kind of error: the right
//! status and message, nothing leaked, the host's current context and capture mode as before, and afterwards the
//! handles work or say that they cannot.

use std::collections::HashMap;
use std::ptr::{null, null_mut};

use nvfp4::api::context::nvfp4_pool_stats;
use nvfp4::api::handles::{nvfp4_graph, nvfp4_stream};
use nvfp4::api::layouts::nvfp4_group_ends_args;
use nvfp4::api::stream::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::{Mock, mock};
use crate::{message, options};

/// (error code of the driver, the status it becomes, its name in messages).
const CODES: [(u32, i32, &str); 7] = [
    (1, NVFP4_STATUS_DEVICE_ERROR, "CUDA_ERROR_INVALID_VALUE"),
    (2, NVFP4_STATUS_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"),
    (700, NVFP4_STATUS_DEVICE_POISONED, "CUDA_ERROR_ILLEGAL_ADDRESS"),
    (719, NVFP4_STATUS_DEVICE_POISONED, "CUDA_ERROR_LAUNCH_FAILED"),
    (901, NVFP4_STATUS_CAPTURE, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
    (999, NVFP4_STATUS_DEVICE_ERROR, "CUDA_ERROR_UNKNOWN"),
    (54321, NVFP4_STATUS_DEVICE_ERROR, "CUDA error 54321"),
];

/// Calls that give something back or put something right again; nobody can act on their failures.
const UNREPORTED: [&str; 15] = [
    "cuCtxGetCurrent",
    "cuCtxPushCurrent",
    "cuCtxPopCurrent",
    "cuCtxSynchronize",
    "cuThreadExchangeStreamCaptureMode",
    "cuDevicePrimaryCtxRelease",
    "cuModuleUnload",
    "cuMemFreeHost",
    "cuMemFree",
    "cuMemPoolDestroy",
    "cuMemFreeAsync",
    "cuStreamDestroy",
    "cuEventDestroy",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
];

/// The pool's own count of kept memory is only told, a graph's last launch only awaited, and a stream that is to be
/// destroyed only asked.
const SOMETIMES_UNREPORTED: [&str; 4] =
    ["cuMemPoolGetAttribute", "cuEventSynchronize", "cuEventQuery", "cuStreamIsCapturing"];

#[derive(Default)]
struct Life {
    /// (step, status, message) of every failed try.
    failures: Vec<(&'static str, i32, String)>,
    /// A step failed for good.
    ended: bool,
    poisoned: bool,
    right: bool,
}

type Tried = std::result::Result<(), (i32, String)>;

/// A status with the message that belongs to it.
fn tried(status: i32) -> Tried {
    if status == 0 { Ok(()) } else { Err((status, message())) }
}

impl Life {
    /// Carries a step out; where it fails, once more. Nothing is done any more after a step that failed for good.
    fn step(&mut self, name: &'static str, mut body: impl FnMut() -> Tried) {
        for _ in 0..2 {
            if self.ended {
                return;
            }
            let Err((status, message)) = body() else { return };
            self.failures.push((name, status, message));
            self.poisoned |= status == NVFP4_STATUS_DEVICE_POISONED;
            self.ended |= self.poisoned;
        }
        self.ended = true;
    }
}

/// A capture that is ended whatever happens inside, and drops its graph then.
///
/// # Safety
/// A live stream.
unsafe fn capture(
    stream: *mut nvfp4_stream,
    graph: &mut *mut nvfp4_graph,
    inside: impl FnOnce() -> Tried,
) -> Tried {
    // SAFETY: the caller's promise.
    unsafe {
        tried(nvfp4_graph_begin_capture(stream, NVFP4_CAPTURE_MODE_THREAD_LOCAL))?;
        let inside = inside();
        let mut made = null_mut();
        let ended = tried(nvfp4_graph_end_capture(stream, &mut made));
        if ended.is_err() {
            // Where the driver was not reached the capture goes on; otherwise it has ended, and this is refused.
            nvfp4_graph_end_capture(stream, &mut made);
        }
        let result = inside.and(ended);
        match result {
            Ok(()) => *graph = made,
            Err(_) if !made.is_null() => tried(nvfp4_graph_destroy(made))?,
            Err(_) => {}
        }
        result
    }
}

/// Every kind of call, in an order in which a host may make them.
fn live() -> Life {
    let mut life = Life::default();
    let l = &mut life;
    let (mut context, mut stream, mut second) = (null_mut(), null_mut(), null_mut());
    let (mut a, mut b, mut start, mut end) = (null_mut(), null_mut(), null_mut(), null_mut());
    let (mut graph, mut other, mut outer) = (null_mut(), null_mut(), null_mut());
    let values = [4i32, 3, 2, 1];
    let (mut got, mut data, mut done, mut count, mut ms) = ([0i32; 4], null_mut(), 0, 0, 0.0);
    // SAFETY: handles are live, pointers valid.
    unsafe {
        l.step("context", || tried(nvfp4_context_create(&options(0, 0), &mut context)));
        l.step("stream", || tried(nvfp4_stream_create(context, &mut stream)));
        l.step("second stream", || tried(nvfp4_stream_create(context, &mut second)));
        l.step("buffer a", || tried(nvfp4_buffer_create(context, 16, stream, &mut a)));
        l.step("buffer b", || tried(nvfp4_buffer_create(context, 16, stream, &mut b)));
        l.step("address", || tried(nvfp4_buffer_data(a, &mut data)));
        let upload = || tried(nvfp4_buffer_upload(a, 0, values.as_ptr().cast(), 16, stream));
        let copy = || tried(nvfp4_buffer_copy(b, 0, a, 0, 16, stream));
        let run = || {
            let args = nvfp4_group_ends_args {
                struct_size: size_of::<nvfp4_group_ends_args>(),
                counts: data.cast_const().cast(),
                ends: data.cast(),
                count: 4,
            };
            tried(nvfp4_group_ends(context, &args, stream))
        };
        l.step("upload", upload);
        l.step("run, which loads", run);
        l.step("prepare", || tried(nvfp4_prepare(context, null())));
        l.step("start event", || tried(nvfp4_event_create(context, &mut start)));
        l.step("end event", || tried(nvfp4_event_create(context, &mut end)));
        l.step("record start", || tried(nvfp4_event_record(start, stream)));
        l.step("run", run);
        l.step("record end", || tried(nvfp4_event_record(end, stream)));
        l.step("wait", || tried(nvfp4_event_wait(end, second)));
        l.step("copy", copy);
        l.step("copy within", || tried(nvfp4_buffer_copy(b, 8, b, 4, 8, stream)));
        l.step("synchronize event", || tried(nvfp4_event_synchronize(end)));
        l.step("query event", || tried(nvfp4_event_query(end, &mut done)));
        l.step("elapsed", || tried(nvfp4_event_elapsed_ms(start, end, &mut ms)));
        l.step("query stream", || tried(nvfp4_stream_query(stream, &mut done)));
        l.step("capture", || capture(stream, &mut graph, || run().and_then(|()| copy())));
        l.step("other capture", || capture(stream, &mut other, || run().and_then(|()| copy())));
        l.step("instantiate", || tried(nvfp4_graph_instantiate(graph)));
        l.step("update", || tried(nvfp4_graph_update(graph, other)));
        l.step("update, not instantiated", || tried(nvfp4_graph_update(other, graph)));
        l.step("upload", upload);
        l.step("launch", || tried(nvfp4_graph_launch(graph, stream)));
        l.step("count", || tried(nvfp4_graph_node_count(graph, &mut count)));
        l.step("nested", || capture(stream, &mut outer, || tried(nvfp4_graph_launch(graph, stream))));
        l.step("download", || tried(nvfp4_buffer_download(b, 0, got.as_mut_ptr().cast(), 16, stream)));
        l.step("synchronize", || tried(nvfp4_stream_synchronize(stream)));
        l.step("synchronize context", || tried(nvfp4_context_synchronize(context)));
        let mut stats = nvfp4_pool_stats { struct_size: size_of::<nvfp4_pool_stats>(), ..Default::default() };
        l.step("pool stats", || tried(nvfp4_context_pool_stats(context, &mut stats)));
        l.step("trim", || tried(nvfp4_context_pool_trim(context, 0)));
        // A launch that failed after it had run was made twice; then the sums are of sums.
        l.right = !l.ended && (got == [4, 7, 9, 10] || !l.failures.is_empty());

        // Everything can be given back in any state.
        let given_back = |made: bool, status: &dyn Fn() -> i32| {
            if made {
                assert_eq!(tried(status()), Ok(()));
            }
        };
        for graph in [outer, graph, other] {
            given_back(!graph.is_null(), &|| nvfp4_graph_destroy(graph));
        }
        for event in [start, end] {
            given_back(!event.is_null(), &|| nvfp4_event_destroy(event));
        }
        for buffer in [a, b] {
            given_back(!buffer.is_null(), &|| nvfp4_buffer_destroy(buffer));
        }
        for stream in [second, stream] {
            given_back(!stream.is_null(), &|| nvfp4_stream_destroy(stream));
        }
        given_back(!context.is_null(), &|| nvfp4_context_destroy(context));
    }
    life
}

/// One life in which the nth call of a name fails.
fn check(mock: &Mock, call: &str, nth: usize, (code, status, name): (u32, i32, &str)) {
    let what = format!("{call} number {nth} fails with {name}");
    mock.reset();
    let before = (mock.current(), mock.thread_mode());
    mock.fail(call, nth, code);
    let life = live();
    let leaves_nothing =
        call == "cuCtxSynchronize" && status == NVFP4_STATUS_CAPTURE && life.failures.is_empty();
    if leaves_nothing {
        // Somebody captures on the context as it is given back: what running work may need is left behind.
        assert_ne!(mock.leaks(), "", "{what}");
        mock.forget();
        return;
    }
    assert_eq!(mock.leaks(), "", "{what}");
    assert_eq!(mock.current(), before.0, "{what}: the current context");
    if call != "cuThreadExchangeStreamCaptureMode" {
        assert_eq!(mock.thread_mode(), before.1, "{what}: the capture mode of the thread");
    }
    mock.set_thread_mode(before.1);
    if life.failures.is_empty() {
        assert!(
            UNREPORTED.contains(&call) || SOMETIMES_UNREPORTED.contains(&call),
            "{what}: nothing was reported"
        );
        assert!(life.right, "{what}: nothing was reported and the results are wrong");
        return;
    }
    let [(step, got, message)] = &life.failures[..] else { panic!("{what}: {:?}", life.failures) };
    let expected = match call {
        // The driver has no such image, device or version, whatever the reason that it gives.
        _ if life.poisoned => NVFP4_STATUS_DEVICE_POISONED,
        _ => status,
    };
    assert_eq!(*got, expected, "{what}: {step}: {message}");
    // A broken context is told by the next call where the one that broke it was not reported.
    let later = life.poisoned && (UNREPORTED.contains(&call) || SOMETIMES_UNREPORTED.contains(&call));
    let named = message.contains(&if later { name.into() } else { format!("{call} failed with {name}") });
    let memory = status == NVFP4_STATUS_OUT_OF_MEMORY && message.contains("16 bytes could not be allocated")
        || message.contains("256 bytes could not be allocated")
        || message.contains("8 bytes could not be allocated");
    assert!(named || memory, "{what}: {step}: {message}");
    assert_eq!(life.right, !life.poisoned, "{what}: usable afterwards");
}

#[test]
fn every_call_may_fail_once() {
    let (_turn, mock) = mock();
    let host = mock.create_context(1);
    mock.push(host);
    mock.reset();
    let life = live();
    assert_eq!(life.failures, [], "without failures");
    assert!(life.right, "the results");
    assert_eq!(mock.leaks(), "");
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for call in mock.calls() {
        *numbers.entry(call).or_default() += 1;
    }
    let mut lives = 0;
    for (call, count) in &numbers {
        for nth in 0..*count {
            for code in CODES {
                check(mock, call, nth, code);
                lives += 1;
            }
        }
    }
    println!("{lives} lives, {} functions of the driver", numbers.len());
    assert!(numbers.len() > 45, "the life uses most of the driver: {numbers:?}");
    mock.reset();
    mock.pop();
}
