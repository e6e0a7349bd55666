//! Devices and contexts: what is found, what is refused, what a context that breaks or forks does.

use std::ptr::{null, null_mut};

use nvfp4::api::context::*;
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
        assert!(mock.has(name), "the mock lacks {name}");
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
fn an_error_code_of_a_newer_driver_is_told() {
    let (_turn, mock) = mock();
    let gpu = Gpu::new(0);
    mock.fail("cuStreamSynchronize", 0, 54321);
    // SAFETY: a live stream.
    let status = unsafe { nvfp4_stream_synchronize(gpu.stream) };
    refused(status, NVFP4_STATUS_DEVICE_ERROR, "cuStreamSynchronize failed with CUDA error 54321");
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
