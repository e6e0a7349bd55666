//! Measured choices of kernels and their file.

use std::ffi::{CString, c_void};
use std::fs;
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, Ordering};

use nvfp4::api::context::*;
use nvfp4::api::gemm::*;
use nvfp4::api::stream::*;
use nvfp4::error::*;
use nvfp4::ffi::*;

use crate::mock::mock;
use crate::product::{Product, tell_sizes};
use crate::{Gpu, message, ok, refused};

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
