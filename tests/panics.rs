//! No panic crosses into C: an injected one, in every entry point, becomes INTERNAL with a message; nothing is printed,
//! the host's hook is heard as before, and the library works afterwards. And the floating-point environment of the host
//! neither changes results nor is changed.

mod native;
mod support;

use std::ffi::CStr;
use std::process::Command;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

use nvfp4::api::context::NVFP4_ISA_BEST;
use nvfp4::error::{NVFP4_STATUS_INTERNAL, NVFP4_STATUS_SUCCESS};
use nvfp4::ffi::guard::inject_panic;
use nvfp4::ffi::*;
use support::{Library, check};

/// Every guarded function, called with nothing: the injected panic comes before any argument is looked at.
macro_rules! entries {
    ($($name:ident($($argument:expr),*)),+ $(,)?) => {
        &[$((stringify!($name), || unsafe { $name($($argument),*) })),+]
    };
}

type Entry = (&'static str, fn() -> i32);

const ENTRIES: &[Entry] = entries![
    nvfp4_set_log_callback(None, null_mut(), 0),
    nvfp4_backend_query(0, 0, null_mut()),
    nvfp4_context_create(null(), null_mut()),
    nvfp4_context_destroy(null_mut()),
    nvfp4_context_info(null_mut(), null_mut()),
    nvfp4_context_faults(null_mut(), null_mut()),
    nvfp4_context_clear_faults(null_mut()),
    nvfp4_context_synchronize(null_mut()),
    nvfp4_context_pool_stats(null_mut(), null_mut()),
    nvfp4_context_pool_trim(null_mut(), 0),
    nvfp4_feature_supported(null_mut(), 0, null_mut()),
    nvfp4_prepare(null_mut(), null()),
    nvfp4_stream_create(null_mut(), null_mut()),
    nvfp4_stream_borrow(null_mut(), null_mut(), null_mut()),
    nvfp4_stream_destroy(null_mut()),
    nvfp4_stream_synchronize(null_mut()),
    nvfp4_stream_query(null_mut(), null_mut()),
    nvfp4_event_create(null_mut(), null_mut()),
    nvfp4_event_destroy(null_mut()),
    nvfp4_event_record(null_mut(), null_mut()),
    nvfp4_event_wait(null_mut(), null_mut()),
    nvfp4_event_synchronize(null_mut()),
    nvfp4_event_query(null_mut(), null_mut()),
    nvfp4_event_elapsed_ms(null_mut(), null_mut(), null_mut()),
    nvfp4_graph_begin_capture(null_mut(), 0),
    nvfp4_graph_end_capture(null_mut(), null_mut()),
    nvfp4_graph_instantiate(null_mut()),
    nvfp4_graph_update(null_mut(), null()),
    nvfp4_graph_launch(null_mut(), null_mut()),
    nvfp4_graph_node_count(null_mut(), null_mut()),
    nvfp4_graph_destroy(null_mut()),
    nvfp4_buffer_create(null_mut(), 0, null_mut(), null_mut()),
    nvfp4_buffer_destroy(null_mut()),
    nvfp4_buffer_data(null_mut(), null_mut()),
    nvfp4_buffer_size(null_mut(), null_mut()),
    nvfp4_buffer_upload(null_mut(), 0, null(), 0, null_mut()),
    nvfp4_buffer_download(null_mut(), 0, null_mut(), 0, null_mut()),
    nvfp4_buffer_copy(null_mut(), 0, null_mut(), 0, 0, null_mut()),
    nvfp4_quantize(null_mut(), null(), null_mut()),
    nvfp4_quantize_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_amax_scale(null_mut(), null(), null_mut()),
    nvfp4_amax_scale_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_dequantize(null_mut(), null(), null_mut()),
    nvfp4_rmsnorm_quantize(null_mut(), null(), null_mut()),
    nvfp4_rmsnorm_quantize_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_hc_rmsnorm_quantize(null_mut(), null(), null_mut()),
    nvfp4_hc_rmsnorm_quantize_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_swiglu_quantize(null_mut(), null(), null_mut()),
    nvfp4_swiglu_quantize_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_stage_moe_inputs(null_mut(), null(), null_mut()),
    nvfp4_scales_size(null(), null_mut()),
    nvfp4_tile_scales(null_mut(), null(), null_mut()),
    nvfp4_untile_scales(null_mut(), null(), null_mut()),
    nvfp4_interleave_gate_up(null_mut(), null(), null_mut()),
    nvfp4_deinterleave_gate_up(null_mut(), null(), null_mut()),
    nvfp4_group_ends(null_mut(), null(), null_mut()),
    nvfp4_weights_storage_size(null_mut(), null(), null_mut()),
    nvfp4_weights_prepare(null_mut(), null(), null_mut(), null_mut()),
    nvfp4_weights_export(null_mut(), null(), null_mut()),
    nvfp4_weights_info(null(), null_mut()),
    nvfp4_weights_destroy(null_mut()),
    nvfp4_grouped_gemm(null_mut(), null(), null_mut()),
    nvfp4_grouped_gemm_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_gemm(null_mut(), null(), null_mut()),
    nvfp4_gemm_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_tune(null_mut(), null(), null_mut(), null_mut()),
    nvfp4_tuning_load(null_mut(), null(), null_mut()),
    nvfp4_tuning_save(null_mut(), null()),
    nvfp4_moe_route(null_mut(), null(), null_mut()),
    nvfp4_moe_permute(null_mut(), null(), null_mut()),
    nvfp4_moe_permute_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_moe_combine(null_mut(), null(), null_mut()),
    nvfp4_moe_forward(null_mut(), null(), null_mut()),
    nvfp4_moe_forward_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_linear(null_mut(), null(), null_mut()),
    nvfp4_linear_workspace_size(null_mut(), null(), null_mut()),
    nvfp4_grouped_linear(null_mut(), null(), null_mut()),
    nvfp4_grouped_linear_workspace_size(null_mut(), null(), null_mut()),
];

/// These read a constant or a thread-local and have nothing in them that could panic; nvfp4_api has a test of its own.
const PLAIN: [&str; 6] = [
    "nvfp4_version",
    "nvfp4_version_string",
    "nvfp4_abi_version",
    "nvfp4_status_name",
    "nvfp4_last_message",
    "nvfp4_api",
];

fn message() -> String {
    // SAFETY: never NULL, zero-terminated.
    unsafe { CStr::from_ptr(nvfp4_last_message()) }.to_string_lossy().into_owned()
}

#[test]
fn every_function_is_listed() {
    for function in native::header::parse().functions {
        let name = function.name.as_str();
        let listed = ENTRIES.iter().any(|(entry, _)| *entry == name);
        assert!(listed != PLAIN.contains(&name), "{name} must be in ENTRIES or in PLAIN");
    }
}

/// Runs in a process of its own, see below.
#[test]
fn child_panics_everywhere() {
    if std::env::var_os("NVFP4_PANIC_CHILD").is_none() {
        return;
    }
    static HEARD: AtomicUsize = AtomicUsize::new(0);
    std::panic::set_hook(Box::new(|_| {
        HEARD.fetch_add(1, Ordering::SeqCst);
    }));
    let mut wrong = Vec::new();
    for (name, call) in ENTRIES {
        inject_panic();
        let status = call();
        let message = message();
        if status != NVFP4_STATUS_INTERNAL
            || !message.starts_with(&format!("{name}: "))
            || !message.contains("injected")
        {
            wrong.push(format!("{name}: status {status}, {message:?}"));
        }
        // One shot: the next call fails for its own reason, or succeeds.
        if call() == NVFP4_STATUS_INTERNAL {
            wrong.push(format!("{name}: INTERNAL again"));
        }
    }
    inject_panic();
    if !nvfp4_api(1).is_null() || !message().starts_with("nvfp4_api: ") || nvfp4_api(1).is_null() {
        wrong.push("nvfp4_api".into());
    }
    let library = Library::new(NVFP4_ISA_BEST, 3).expect("the library works after panics");
    // SAFETY: a live handle.
    check(unsafe { nvfp4_stream_synchronize(library.stream) }).unwrap();
    drop(library);
    // Ours were not heard; the host's own still are.
    let ours = HEARD.load(Ordering::SeqCst);
    let own = std::panic::catch_unwind(|| panic!("the host's own"));
    let theirs = HEARD.load(Ordering::SeqCst) - ours;
    let _ = std::panic::take_hook();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(own.is_err());
    assert_eq!((ours, theirs), (0, 1), "panics that the host's hook heard: the library's, its own");
    println!("all refused");
}

#[test]
fn panics_become_a_status_and_nothing_is_printed() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_panics_everywhere", "--nocapture", "--test-threads=1"])
        .env("NVFP4_PANIC_CHILD", "1")
        .output()
        .expect("this executable runs");
    let text = native::text(&output);
    assert!(output.status.success() && text.contains("all refused"), "{text}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "on standard error");
    // Besides what the test harness itself says.
    let ours = text.lines().filter(|l| l.contains("panicked") || l.contains("injected")).count();
    assert_eq!(ours, 0, "{text}");
}

/// Without a hook of the host's, the default one would print; it must not for ours.
#[test]
fn child_panics_with_the_default_hook() {
    if std::env::var_os("NVFP4_PANIC_CHILD").is_some() {
        inject_panic();
        // SAFETY: NULL is refused.
        assert_eq!(unsafe { nvfp4_context_destroy(null_mut()) }, NVFP4_STATUS_INTERNAL);
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_panics_with_the_default_hook", "--nocapture", "--test-threads=1"])
        .env("NVFP4_PANIC_CHILD", "1")
        .output()
        .expect("this executable runs");
    assert!(output.status.success(), "{}", native::text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "on standard error");
}

/// A panic while an operation is recorded or holds locks leaves handles usable.
#[test]
fn handles_survive_a_panic() {
    let library = Library::new(NVFP4_ISA_BEST, 2).expect("a CPU context");
    // SAFETY: live handles.
    unsafe {
        check(nvfp4_graph_begin_capture(library.stream, 0)).unwrap();
        inject_panic();
        assert_eq!(nvfp4_stream_synchronize(library.stream), NVFP4_STATUS_INTERNAL);
        let mut graph = null_mut();
        check(nvfp4_graph_end_capture(library.stream, &mut graph)).unwrap();
        inject_panic();
        assert_eq!(nvfp4_graph_destroy(graph), NVFP4_STATUS_INTERNAL);
        assert_eq!(nvfp4_graph_destroy(graph), NVFP4_STATUS_SUCCESS);
    }
}
