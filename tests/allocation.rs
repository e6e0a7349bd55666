//! A run call allocates nothing: a counting allocator, on all threads, around every operation through the C functions.
//!
//! One test, so that nothing else runs in the process meanwhile.

// Structs grow: what is left out is zero, also where nothing is left out today.
#![allow(clippy::needless_update)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nvfp4::api::context::*;
use nvfp4::api::dequantize::*;
use nvfp4::api::gemm::*;
use nvfp4::api::handles::{nvfp4_context, nvfp4_stream, nvfp4_weights};
use nvfp4::api::layouts::*;
use nvfp4::api::linear::*;
use nvfp4::api::moe::forward::*;
use nvfp4::api::norm::*;
use nvfp4::api::quantize::*;
use nvfp4::api::stage::*;
use nvfp4::api::swiglu::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;
use support::{Library, Memory, check};

struct Counting;
static ARMED: AtomicBool = AtomicBool::new(false);
static CALLS: AtomicUsize = AtomicUsize::new(0);

impl Counting {
    fn count() {
        if ARMED.load(Ordering::Relaxed) {
            CALLS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Counting::count();
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Counting::count();
        unsafe { System.realloc(p, layout, size) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        Counting::count();
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations and releases, on all threads, while `body` runs.
fn counted(body: impl FnOnce()) -> usize {
    CALLS.store(0, Ordering::SeqCst);
    ARMED.store(true, Ordering::SeqCst);
    body();
    ARMED.store(false, Ordering::SeqCst);
    CALLS.load(Ordering::SeqCst)
}

const ROWS: usize = 64;
const COLS: usize = 256;
const GROUPS: usize = 4;
const MANY: usize = 10_000;

/// Memory that stays for the whole test.
fn memory(bytes: usize) -> *mut u8 {
    let memory = Box::leak(Box::new(Memory::poisoned(bytes, 0)));
    memory.ptr_mut()
}

fn void(bytes: usize) -> *mut c_void {
    memory(bytes).cast()
}

macro_rules! args {
    ($name:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $name { struct_size: size_of::<$name>(), $($field $(: $value)?,)* ..Default::default() }
    };
}

fn quantized(scope: nvfp4_scope) -> nvfp4_quantized {
    nvfp4_quantized {
        codes: memory(ROWS * COLS),
        scales: memory(128 * (GROUPS + 1) * COLS / 16),
        scope,
        decode_scales: memory(ROWS * 4).cast(),
        ..Default::default()
    }
}

fn grouped() -> nvfp4_groups {
    let ends = memory(GROUPS * 4).cast::<i32>();
    for (e, end) in [10, 10, 50, 60].into_iter().enumerate() {
        // SAFETY: GROUPS entries were allocated.
        unsafe { ends.add(e).write(end) };
    }
    nvfp4_groups { grouping: NVFP4_GROUPING_ENDS, count: GROUPS as u32, ends, ..Default::default() }
}

type Call = (&'static str, Box<dyn Fn() -> i32>);

fn operations(library: &Library) -> Vec<Call> {
    let (context, stream) = (library.context, library.stream);
    let (rows, cols) = (ROWS as i64, COLS as i64);
    let mut calls: Vec<Call> = Vec::new();
    macro_rules! call {
        ($name:literal, $function:ident, $args:expr) => {
            let args = $args;
            // SAFETY: the arguments point to memory that stays.
            calls.push(($name, Box::new(move || unsafe { $function(context, &args, stream) })));
        };
    }
    macro_rules! query {
        ($name:literal, $function:ident, $args:expr) => {
            let args = $args;
            // SAFETY: as above.
            calls.push(($name, Box::new(move || unsafe { $function(context, &args, &mut 0) })));
        };
    }
    let src = void(ROWS * COLS * 8);
    for (name, scope) in [
        ("quantize tensor", NVFP4_SCOPE_TENSOR),
        ("quantize row", NVFP4_SCOPE_ROW),
        ("quantize group", NVFP4_SCOPE_GROUP),
    ] {
        let groups = if scope == NVFP4_SCOPE_GROUP { grouped() } else { Default::default() };
        let args = args!(nvfp4_quantize_args { src, rows, cols, groups, out: quantized(scope) });
        // SAFETY: as above.
        calls.push((name, Box::new(move || unsafe { nvfp4_quantize(context, &args, stream) })));
    }
    let out = quantized(NVFP4_SCOPE_ROW);
    let plain = args!(nvfp4_quantize_args { src, rows, cols, out: out });
    call!("quantize transposed", nvfp4_quantize, nvfp4_quantize_args { transposed: 1, ..plain });
    call!(
        "quantize by error",
        nvfp4_quantize,
        nvfp4_quantize_args {
            out: nvfp4_quantized {
                scale_rule: NVFP4_SCALE_RULE_MIN_MSE,
                scale_layout: NVFP4_SCALE_LAYOUT_TILED_128X4,
                ..out
            },
            ..plain
        }
    );
    query!("quantize_workspace_size", nvfp4_quantize_workspace_size, plain);
    let amax = args!(nvfp4_amax_scale_args { src, rows, cols, decode_scales: out.decode_scales });
    call!("amax_scale", nvfp4_amax_scale, amax);
    query!("amax_scale_workspace_size", nvfp4_amax_scale_workspace_size, amax);
    let input = nvfp4_quantized_input {
        codes: out.codes,
        scales: out.scales,
        scope: NVFP4_SCOPE_ROW,
        decode_scales: out.decode_scales,
        ..Default::default()
    };
    call!(
        "dequantize",
        nvfp4_dequantize,
        args!(nvfp4_dequantize_args { input, rows, cols, dst: void(ROWS * COLS * 2) })
    );
    let (weight, residual) = (void(COLS * 2), void(ROWS * COLS * 2));
    let norm = args!(nvfp4_rmsnorm_quantize_args { src, rows, cols, residual, weight, eps: 1e-6, out: out });
    call!("rmsnorm_quantize", nvfp4_rmsnorm_quantize, norm);
    query!("rmsnorm_quantize_workspace_size", nvfp4_rmsnorm_quantize_workspace_size, norm);
    let mix = memory(ROWS * 16).cast::<f32>();
    let hyper = args!(nvfp4_hc_rmsnorm_quantize_args {
        streams: src,
        stream_count: 4,
        mix,
        rows,
        cols,
        weight,
        eps: 1e-6,
        out: out
    });
    call!("hc_rmsnorm_quantize", nvfp4_hc_rmsnorm_quantize, hyper);
    query!("hc_rmsnorm_quantize_workspace_size", nvfp4_hc_rmsnorm_quantize_workspace_size, hyper);
    let gated = args!(nvfp4_swiglu_quantize_args {
        src,
        rows,
        width: cols,
        activation: NVFP4_ACTIVATION_SWIGLU,
        groups: grouped(),
        out: out
    });
    call!("swiglu_quantize", nvfp4_swiglu_quantize, gated);
    query!("swiglu_quantize_workspace_size", nvfp4_swiglu_quantize_workspace_size, gated);
    call!(
        "stage_moe_inputs",
        nvfp4_stage_moe_inputs,
        args!(nvfp4_stage_moe_inputs_args {
            src,
            tokens: rows,
            hidden: cols,
            codes: out.codes,
            packed_scales: out.scales.cast(),
            routes: 2,
            topk_ids: memory(ROWS * 8).cast(),
            topk_weights: memory(ROWS * 8).cast(),
            staged_ids: memory(ROWS * 16).cast(),
            staged_weights: memory(ROWS * 8).cast(),
        })
    );
    let tiles = args!(nvfp4_tile_scales_args {
        linear: memory(ROWS * 16),
        tiled: memory(GROUPS * 128 * 16),
        scale_layout: NVFP4_SCALE_LAYOUT_TILED_128X4,
        rows,
        blocks: 16,
        groups: grouped(),
    });
    call!("tile_scales", nvfp4_tile_scales, tiles);
    call!("untile_scales", nvfp4_untile_scales, tiles);
    let pairs = args!(nvfp4_interleave_gate_up_args {
        src,
        dst: void(ROWS * COLS),
        count: 1,
        half_rows: rows / 2,
        row_bytes: cols
    });
    call!("interleave_gate_up", nvfp4_interleave_gate_up, pairs);
    call!("deinterleave_gate_up", nvfp4_deinterleave_gate_up, pairs);
    let (counts, ends) = (memory(64).cast(), memory(64).cast());
    call!("group_ends", nvfp4_group_ends, args!(nvfp4_group_ends_args { counts, ends, count: 8 }));
    products(library, input, &mut calls);
    calls
}

fn products(library: &Library, input: nvfp4_quantized_input, calls: &mut Vec<Call>) {
    const N: usize = 96;
    let (context, stream, rows) = (library.context, library.stream, ROWS as i64);
    let weights = |groups: usize, gate_up: u32| {
        let mut weights = null_mut();
        let mut args = args!(nvfp4_weights_prepare_args {
            groups: groups as i64,
            rows: N as i64,
            cols: COLS as i64,
            gate_up,
            source: NVFP4_WEIGHTS_SOURCE_VALUES,
            src: void(groups * N * COLS * 2),
        });
        // SAFETY: valid pointers; the storage stays.
        unsafe {
            check(nvfp4_weights_storage_size(context, &args, &mut args.storage_size)).unwrap();
            args.storage = void(args.storage_size);
            check(nvfp4_weights_prepare(context, &args, stream, &mut weights)).unwrap();
        }
        weights
    };
    let export = args!(nvfp4_weights_export_args {
        weights: weights(1, 0),
        codes: memory(N * COLS),
        scales: memory(N * COLS),
        decode_scales: memory(64).cast(),
    });
    // SAFETY: as above, here and below.
    calls.push((
        "weights_export",
        Box::new(move || unsafe { nvfp4_weights_export(context, &export, stream) }),
    ));
    let plain = args!(nvfp4_grouped_gemm_args { rows, a: void(ROWS * COLS * 2), out: void(ROWS * N * 4) });
    let coded =
        nvfp4_grouped_gemm_args { a: null_mut(), a_dtype: NVFP4_DTYPE_NVFP4, a_quantized: input, ..plain };
    let gated = nvfp4_grouped_gemm_args {
        activation: NVFP4_ACTIVATION_SWIGLU,
        out: null_mut(),
        out_dtype: NVFP4_DTYPE_NVFP4,
        out_quantized: quantized(NVFP4_SCOPE_ROW),
        ..coded
    };
    for (name, args, gate_up) in
        [("values", plain, 0), ("codes", coded, 0), ("codes to gated codes", gated, 1)]
    {
        let mut one = nvfp4_grouped_gemm_args { weights: weights(1, gate_up), ..args };
        let mut many =
            nvfp4_grouped_gemm_args { weights: weights(GROUPS, gate_up), groups: grouped(), ..args };
        // SAFETY: as above.
        unsafe {
            check(nvfp4_gemm_workspace_size(context, &one, &mut one.workspace_size)).unwrap();
            check(nvfp4_grouped_gemm_workspace_size(context, &many, &mut many.workspace_size)).unwrap();
        }
        (one.workspace, many.workspace) = (void(one.workspace_size + 64), void(many.workspace_size + 64));
        let name: &'static str = Box::leak(format!("gemm of {name}").into_boxed_str());
        calls.push((name, Box::new(move || unsafe { nvfp4_gemm(context, &one, stream) })));
        calls.push((name, Box::new(move || unsafe { nvfp4_grouped_gemm(context, &many, stream) })));
        calls.push((name, Box::new(move || unsafe { nvfp4_gemm_workspace_size(context, &one, &mut 0) })));
    }
    layers(library, input, [weights(GROUPS, 0), weights(1, 0)], calls);
}

/// Layers; a weight [GROUPS, N, COLS] is the first of an experts' layer too.
fn layers(
    library: &Library,
    input: nvfp4_quantized_input,
    [many, one]: [*mut nvfp4_weights; 2],
    calls: &mut Vec<Call>,
) {
    const N: usize = 96;
    let (context, stream, tokens) = (library.context, library.stream, ROWS as i64 / 4);
    let a = void(ROWS * COLS * 2);
    let plain = args!(nvfp4_grouped_linear_args { weights: one, tokens, a, out: void(ROWS * N * 4) });
    let coded =
        nvfp4_grouped_linear_args { a: null_mut(), a_dtype: NVFP4_DTYPE_NVFP4, a_quantized: input, ..plain };
    let grouped = nvfp4_grouped_linear_args { weights: many, quantize: 1, scope: NVFP4_SCOPE_ROW, ..plain };
    type Run<T> = unsafe extern "C" fn(*mut nvfp4_context, *const T, *mut nvfp4_stream) -> i32;
    type Size<T> = unsafe extern "C" fn(*mut nvfp4_context, *const T, *mut usize) -> i32;
    type Pair<T> = (Run<T>, Size<T>);
    let single: Pair<_> = (nvfp4_linear, nvfp4_linear_workspace_size);
    let strided: Pair<_> = (nvfp4_grouped_linear, nvfp4_grouped_linear_workspace_size);
    for (mut args, (run, size)) in [(plain, single), (coded, single), (grouped, strided)] {
        // SAFETY: valid pointers to memory that stays, here and below.
        unsafe { check(size(context, &args, &mut args.workspace_size)).unwrap() };
        args.workspace = void(args.workspace_size + 64);
        calls.push(("linear", Box::new(move || unsafe { run(context, &args, stream) })));
        calls.push(("linear_workspace_size", Box::new(move || unsafe { size(context, &args, &mut 0) })));
    }
    let mut w2 = null_mut();
    let mut prepare = args!(nvfp4_weights_prepare_args {
        groups: GROUPS as i64,
        rows: COLS as i64,
        cols: N as i64,
        source: NVFP4_WEIGHTS_SOURCE_VALUES,
        src: void(GROUPS * N * COLS * 2),
    });
    // SAFETY: as above.
    unsafe {
        check(nvfp4_weights_storage_size(context, &prepare, &mut prepare.storage_size)).unwrap();
        prepare.storage = void(prepare.storage_size);
        check(nvfp4_weights_prepare(context, &prepare, stream, &mut w2)).unwrap();
    }
    for quantize in [0, 1] {
        let mut args = args!(nvfp4_moe_forward_args {
            w1: many,
            w2,
            tokens,
            hidden: a,
            quantize,
            logits: void(ROWS * GROUPS * 4),
            topk: 2,
            activation: NVFP4_ACTIVATION_RELU2,
            out: void(ROWS * COLS * 4),
        });
        // SAFETY: as above.
        unsafe { check(nvfp4_moe_forward_workspace_size(context, &args, &mut args.workspace_size)).unwrap() };
        args.workspace = void(args.workspace_size + 64);
        calls.push(("moe_forward", Box::new(move || unsafe { nvfp4_moe_forward(context, &args, stream) })));
        calls.push((
            "moe_forward_workspace_size",
            Box::new(move || unsafe { nvfp4_moe_forward_workspace_size(context, &args, &mut 0) }),
        ));
    }
}

/// Calls on handles that belong to the path of a token, too.
fn handles(library: &Library) -> Vec<Call> {
    let (context, stream) = (library.context, library.stream);
    let (mut event, mut buffer, mut graph) = (null_mut(), null_mut(), null_mut());
    let args = args!(nvfp4_quantize_args {
        src: void(ROWS * COLS * 2),
        rows: ROWS as i64,
        cols: COLS as i64,
        out: quantized(NVFP4_SCOPE_ROW)
    });
    // SAFETY: valid pointers and handles that stay, here and below.
    unsafe {
        check(nvfp4_event_create(context, &mut event)).unwrap();
        check(nvfp4_buffer_create(context, 4096, stream, &mut buffer)).unwrap();
        check(nvfp4_graph_begin_capture(stream, 0)).unwrap();
        check(nvfp4_quantize(context, &args, stream)).unwrap();
        check(nvfp4_graph_end_capture(stream, &mut graph)).unwrap();
        check(nvfp4_graph_instantiate(graph)).unwrap();
    }
    let host = void(4096);
    vec![
        ("event_record", Box::new(move || unsafe { nvfp4_event_record(event, stream) })),
        ("event_wait", Box::new(move || unsafe { nvfp4_event_wait(event, stream) })),
        ("event_query", Box::new(move || unsafe { nvfp4_event_query(event, &mut 0) })),
        ("event_synchronize", Box::new(move || unsafe { nvfp4_event_synchronize(event) })),
        ("stream_synchronize", Box::new(move || unsafe { nvfp4_stream_synchronize(stream) })),
        ("context_synchronize", Box::new(move || unsafe { nvfp4_context_synchronize(context) })),
        ("graph_launch", Box::new(move || unsafe { nvfp4_graph_launch(graph, stream) })),
        ("buffer_upload", Box::new(move || unsafe { nvfp4_buffer_upload(buffer, 0, host, 4096, stream) })),
        (
            "buffer_download",
            Box::new(move || unsafe { nvfp4_buffer_download(buffer, 0, host, 4096, stream) }),
        ),
        (
            "buffer_copy",
            Box::new(move || unsafe { nvfp4_buffer_copy(buffer, 0, buffer, 2048, 2048, stream) }),
        ),
        (
            "context_faults",
            Box::new(move || unsafe { nvfp4_context_faults(context, &mut args!(nvfp4_faults {})) }),
        ),
        ("context_clear_faults", Box::new(move || unsafe { nvfp4_context_clear_faults(context) })),
    ]
}

#[test]
fn run_calls_allocate_nothing() {
    assert!(counted(|| drop(std::hint::black_box(Box::new(1)))) > 0, "the allocator does not count");
    let library = Library::new(NVFP4_ISA_BEST, 3).expect("a CPU context");
    let mut calls = operations(&library);
    calls.extend(handles(&library));
    // SAFETY: a live context.
    check(unsafe { nvfp4_prepare(library.context, std::ptr::null()) }).unwrap();
    // Threads that were only just created still set themselves up, which is the context's doing and not a call's.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let mut wrong = Vec::new();
    for (name, call) in &calls {
        let mut status = 0;
        let first = counted(|| status = call());
        check(status).unwrap_or_else(|e| panic!("{name}: {e}"));
        let many = counted(|| (0..100).for_each(|_| status |= call()));
        if first + many != 0 || status != 0 {
            wrong.push(format!("{name}: {first} in the first call, {many} in 100 more"));
        }
    }
    assert!(wrong.is_empty(), "allocations and releases:\n{}", wrong.join("\n"));
    for (name, call) in &calls {
        let start = std::time::Instant::now();
        assert_eq!(call(), 0);
        // The cheap ones: 10^4 calls of the others would take minutes.
        if start.elapsed().as_micros() < 50 {
            assert_eq!(counted(|| (0..MANY).for_each(|_| assert_eq!(call(), 0))), 0, "{name}, {MANY} calls");
        }
    }
}
