//! What a run call asks of the driver, what nvfp4_prepare loads for a given call, measured choices of kernels and their
//! file, and launches that may start early.

use std::ffi::{CString, c_void};
use std::fs;
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};

use nvfp4::api::context::*;
use nvfp4::api::gemm::*;
use nvfp4::api::handles::*;
use nvfp4::api::linear::*;
use nvfp4::api::moe::forward::*;
use nvfp4::api::operation::*;
use nvfp4::api::quantize::nvfp4_quantize_args;
use nvfp4::api::stream::*;
use nvfp4::api::tuning::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::{Mock, mock};
use crate::{Buffer, Gpu, message, ok, options, refused};

/// What the images say of their parameters: the mock cannot know.
fn tell_sizes(mock: &Mock) {
    for kernel in nvfp4::backend::cuda::KERNELS.iter().copied().flatten() {
        let bytes = match (kernel.file, kernel.name) {
            (_, "nvfp4_finish_scales") => 16,
            ("gemm", _) => 240,
            ("gemm_sm90_few", _) => 256,
            ("gemm_sm90_many", _) => 448,
            ("weights", _) => 112,
            ("values", _) => 272,
            ("quantize", name) if name != "nvfp4_stage_routes" => 272,
            _ => continue,
        };
        mock.set_parameter_bytes(kernel.name, bytes);
    }
}

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

/// Weights of 2 groups and a product with them.
struct Product {
    weights: *mut nvfp4_weights,
    args: nvfp4_grouped_gemm_args,
    _memory: [Buffer; 2],
}

impl Product {
    fn new(gpu: &Gpu, flags: u32) -> Product {
        Product::shaped(gpu, flags, (2, 256, 2048))
    }

    fn shaped(gpu: &Gpu, flags: u32, (groups, n, k): (usize, usize, usize)) -> Product {
        let (storage, data) = (gpu.buffer(groups * n * k), gpu.buffer(32 << 20));
        let at = |bytes: usize| data.data.wrapping_byte_add(bytes);
        let mut prepare = nvfp4_weights_prepare_args {
            struct_size: size_of::<nvfp4_weights_prepare_args>(),
            groups: groups as i64,
            rows: n as i64,
            cols: k as i64,
            source: NVFP4_WEIGHTS_SOURCE_VALUES,
            src: data.data,
            storage: storage.data,
            ..Default::default()
        };
        let mut weights = null_mut();
        // SAFETY: live handles, memory of the mock.
        unsafe {
            ok(nvfp4_weights_storage_size(gpu.context, &prepare, &mut prepare.storage_size));
            ok(nvfp4_weights_prepare(gpu.context, &prepare, gpu.stream, &mut weights));
        }
        let ends = at(16 << 20);
        let args = nvfp4_grouped_gemm_args {
            struct_size: size_of::<nvfp4_grouped_gemm_args>(),
            weights,
            rows: 8,
            groups: nvfp4_groups {
                grouping: NVFP4_GROUPING_ENDS,
                count: groups as u32,
                ends: ends.cast(),
                ..Default::default()
            },
            a: at(8 << 20),
            out: at(12 << 20),
            flags,
            workspace: at(20 << 20),
            workspace_size: 8 << 20,
            ..Default::default()
        };
        Product { weights, args, _memory: [storage, data] }
    }

    /// Runs it; (kernel, bytes of workspace).
    fn run(&self, gpu: &Gpu, mock: &Mock) -> (String, usize) {
        let mut bytes = usize::MAX;
        // SAFETY: live handles, memory of the mock.
        unsafe {
            ok(nvfp4_grouped_gemm_workspace_size(gpu.context, &self.args, &mut bytes));
            ok(nvfp4_grouped_gemm(gpu.context, &self.args, gpu.stream));
        }
        (mock.last_kernel(), bytes)
    }

    fn tune(&self, gpu: &Gpu) -> (i32, nvfp4_tune_result) {
        let args = nvfp4_tune_args {
            struct_size: size_of::<nvfp4_tune_args>(),
            operation: NVFP4_OPERATION_GROUPED_GEMM,
            repeats: 3,
            args: (&raw const self.args).cast(),
        };
        let mut result =
            nvfp4_tune_result { struct_size: size_of::<nvfp4_tune_result>(), ..Default::default() };
        // SAFETY: live handles, memory of the mock.
        (unsafe { nvfp4_tune(gpu.context, &args, gpu.stream, &mut result) }, result)
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        // SAFETY: a handle of this value.
        ok(unsafe { nvfp4_weights_destroy(self.weights) });
    }
}

/// A folder of its own for a test.
fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn c_path(path: &std::path::Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

fn load(gpu: &Gpu, path: &std::path::Path) -> usize {
    let mut choices = usize::MAX;
    // SAFETY: live handles, valid pointers.
    ok(unsafe { nvfp4_tuning_load(gpu.context, c_path(path).as_ptr(), &mut choices) });
    choices
}

fn save(gpu: &Gpu, path: &std::path::Path) -> i32 {
    // SAFETY: live handles, valid pointers.
    unsafe { nvfp4_tuning_save(gpu.context, c_path(path).as_ptr()) }
}

/// What the log was told while `body` ran.
fn logged(body: impl FnOnce()) -> String {
    unsafe extern "C" fn append(_: i32, message: *const std::ffi::c_char, to: *mut c_void) {
        // SAFETY: a text of the library's, and the String below.
        unsafe { (*to.cast::<String>()).push_str(&std::ffi::CStr::from_ptr(message).to_string_lossy()) };
    }
    let mut text = String::new();
    // SAFETY: the callback is removed before the text goes.
    unsafe {
        ok(nvfp4_set_log_callback(Some(append), (&raw mut text).cast(), NVFP4_LOG_LEVEL_WARNING));
        body();
        ok(nvfp4_set_log_callback(None, null_mut(), NVFP4_LOG_LEVEL_WARNING));
    }
    text
}

/// Writes a file as the library does, with another kernel in it.
fn edited(text: &str, from: &str, to: &str) -> String {
    let body = &text[..text.rfind("checksum ").unwrap()];
    assert!(body.contains(from), "{body}");
    let body = body.replace(from, to);
    let sum =
        body.bytes().fold(0xcbf2_9ce4_8422_2325u64, |sum, b| (sum ^ b as u64).wrapping_mul(0x0100_0000_01b3));
    format!("{body}checksum {sum:016x}\n")
}

#[test]
fn a_product_is_tuned_saved_and_loaded() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    let (folder, gpu) = (folder("tuning"), Gpu::new(0));
    let product = Product::new(&gpu, 0);
    let own = product.run(&gpu, mock);
    let mut stats = nvfp4_pool_stats { struct_size: size_of::<nvfp4_pool_stats>(), ..Default::default() };
    // SAFETY: valid pointers.
    ok(unsafe { nvfp4_context_pool_stats(gpu.context, &mut stats) });
    let in_use = stats.bytes_in_use;
    let (status, found) = product.tune(&gpu);
    ok(status);
    // The mock's clock gives every candidate the same time, which is no reason to leave the planner's.
    assert!(found.candidates > 5 && found.default_us == 500.0 && found.best_us == 500.0);
    let kernel: String = found.kernel.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect();
    assert_eq!(kernel, own.0);
    assert_eq!(product.run(&gpu, mock), own);
    // SAFETY: valid pointers.
    ok(unsafe { nvfp4_context_pool_stats(gpu.context, &mut stats) });
    assert_eq!(stats.bytes_in_use, in_use, "what the measurement took is given back");

    let file = folder.join("tuning.txt");
    ok(save(&gpu, &file));
    let text = fs::read_to_string(&file).unwrap();
    let entry = format!("{kernel} splits={}", found.splits);
    assert!(text.contains("device Mock GPU 0\n") && text.contains(&entry), "{text}");
    assert_eq!(load(&gpu, &file), 1);
    assert_eq!(product.run(&gpu, mock), own);

    // Another choice changes the kernel and the workspace; without choices all is as it was.
    fs::write(&file, edited(&text, &entry, "nvfp4_gemm_bf16_64 splits=2")).unwrap();
    assert_eq!(load(&gpu, &file), 1);
    let (kernel, bytes) = product.run(&gpu, mock);
    assert_eq!(kernel, "nvfp4_gemm_bf16_64");
    assert_ne!(bytes, own.1);
    let invariant = Product::new(&gpu, NVFP4_GEMM_BATCH_INVARIANT);
    let (kernel, bytes) = invariant.run(&gpu, mock);
    assert!(kernel != "nvfp4_gemm_bf16_64" && bytes == 0, "{kernel} {bytes}");
    assert_eq!(invariant.tune(&gpu).1.candidates, 0);
    let mut choices = 9;
    // SAFETY: live handles, valid pointers.
    ok(unsafe { nvfp4_tuning_load(gpu.context, null(), &mut choices) });
    assert_eq!((choices, product.run(&gpu, mock)), (0, own.clone()));

    // A kernel that nobody has, or splits that are none: loaded, and passed over.
    for wrong in ["nvfp4_gemm_bf16_7 splits=1", "nvfp4_gemm_bf16_8 splits=3", "nvfp4_amax_bf16 splits=1"] {
        fs::write(&file, edited(&text, &entry, wrong)).unwrap();
        assert_eq!((load(&gpu, &file), product.run(&gpu, mock)), (1, own.clone()), "{wrong}");
    }

    // Stale, damaged or missing: ignored as a whole, with the reason in the log.
    let ignored = |words: &str| {
        let log = logged(|| assert_eq!(load(&gpu, &file), 0));
        assert!(log.contains("is ignored") && log.contains(words), "{log:?} does not say {words:?}");
        assert_eq!(product.run(&gpu, mock), own);
    };
    let other = edited(&text, &entry, "nvfp4_gemm_bf16_64 splits=2");
    for (from, to) in [
        ("library 0.1.0", "library 0.0.9"),
        ("Mock GPU 0", "Mock GPU 1"),
        ("processors 132", "processors 131"),
    ] {
        fs::write(&file, edited(&other, from, to)).unwrap();
        ignored(to);
    }
    fs::write(&file, &other).unwrap();
    mock.set_version(13010);
    ignored("driver 13010");
    mock.set_version(13000);
    fs::write(&file, &other[..other.len() / 2]).unwrap();
    ignored("cut off");
    fs::write(&file, other.replacen("splits=2", "splits=4", 1)).unwrap();
    ignored("checksum is wrong");
    fs::remove_file(&file).unwrap();
    ignored("No such file");
    drop((invariant, product, gpu));
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
        ("nvfp4_dequantize_bf16", 144),
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
fn a_file_of_choices_is_never_seen_half_written() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    let (folder, gpu) = (folder("tuning_whole"), Gpu::new(0));
    let product = Product::new(&gpu, 0);
    ok(product.tune(&gpu).0);
    let (file, done) = (folder.join("tuning.txt"), AtomicBool::new(false));
    ok(save(&gpu, &file));
    let whole = fs::read(&file).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                assert_eq!(fs::read(&file).unwrap(), whole);
                reads += 1;
            }
        });
        for _ in 0..50 {
            ok(save(&gpu, &file));
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    // Where it cannot be written the old one stays, and nothing is left beside it.
    let nowhere = folder.join("missing").join("tuning.txt");
    refused(save(&gpu, &nowhere), NVFP4_STATUS_INVALID_ARGUMENT, "cannot be written: No such file");
    fs::create_dir(folder.join("taken")).unwrap();
    refused(save(&gpu, &folder.join("taken")), NVFP4_STATUS_INVALID_ARGUMENT, "cannot be written");
    let mut names: Vec<String> =
        fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["taken", "tuning.txt"]);
    assert_eq!(fs::read(&file).unwrap(), whole);
    drop((product, gpu));
    assert_eq!(mock.leaks(), "");
}

#[test]
fn tuning_refuses_what_it_cannot_measure() {
    let (_turn, mock) = mock();
    tell_sizes(mock);
    let gpu = Gpu::new(0);
    let product = Product::new(&gpu, 0);
    // SAFETY: live handles, valid pointers.
    unsafe {
        ok(nvfp4_graph_begin_capture(gpu.stream, NVFP4_CAPTURE_MODE_GLOBAL));
        let launches = mock.launches();
        refused(product.tune(&gpu).0, NVFP4_STATUS_CAPTURE, "nvfp4_tune");
        assert_eq!(mock.launches(), launches);
        let mut graph = null_mut();
        ok(nvfp4_graph_end_capture(gpu.stream, &mut graph));
        ok(nvfp4_graph_destroy(graph));
    }
    // A measurement that fails half-way leaves nothing behind.
    for (call, nth) in [
        ("cuEventCreate", 1),
        ("cuEventSynchronize", 3),
        ("cuLaunchKernelEx", 5),
        ("cuMemAllocFromPoolAsync", 1),
    ] {
        mock.fail(call, nth, 999);
        let (status, result) = product.tune(&gpu);
        refused(status, NVFP4_STATUS_DEVICE_ERROR, call);
        assert_eq!(result.candidates, 0);
    }
    mock.fail("", 0, 0);
    ok(product.tune(&gpu).0);
    drop((product, gpu));
    assert_eq!(mock.leaks(), "", "{}", message());
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
