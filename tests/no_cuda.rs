//! What a host is told where there is no GPU to use: a build without the feature, or a machine without a driver.

use std::ffi::CStr;
use std::ptr::null_mut;

use nvfp4::api::context::*;
use nvfp4::error::{NVFP4_STATUS_UNSUPPORTED, NVFP4_STATUS_UNSUPPORTED_DRIVER};
use nvfp4::ffi::*;

#[test]
fn the_cpu_works_and_the_message_says_what_is_missing() {
    // SAFETY: a constant name; a driver that is there does no harm by being opened.
    let driver = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW) };
    if cfg!(feature = "cuda") && !driver.is_null() {
        return println!("skipped: this machine has a GPU driver");
    }
    let (mut context, mut info) = (null_mut(), nvfp4_backend_info::default());
    info.struct_size = size_of::<nvfp4_backend_info>();
    let mut options = nvfp4_context_options {
        struct_size: size_of::<nvfp4_context_options>(),
        backend: NVFP4_BACKEND_CUDA,
        ..Default::default()
    };
    // SAFETY: valid pointers.
    unsafe {
        let status = nvfp4_context_create(&options, &mut context);
        let message = CStr::from_ptr(nvfp4_last_message()).to_string_lossy();
        let (expected, words) = match cfg!(feature = "cuda") {
            true => (NVFP4_STATUS_UNSUPPORTED_DRIVER, "libcuda.so.1"),
            false => (NVFP4_STATUS_UNSUPPORTED, "build with the cargo feature `cuda`"),
        };
        assert_eq!(status, expected, "{message}");
        assert!(message.contains(words), "{message}");
        assert_eq!(nvfp4_backend_query(NVFP4_BACKEND_CUDA, 0, &mut info), 0);
        assert_eq!((info.available, info.device_count), (0, 0));
        let name = CStr::from_ptr(info.name.as_ptr()).to_string_lossy();
        let words = if cfg!(feature = "cuda") { "no GPU driver of R580" } else { "cargo feature `cuda`" };
        assert!(name.contains(words), "{name}");
        options.backend = NVFP4_BACKEND_CPU;
        assert_eq!(nvfp4_context_create(&options, &mut context), 0);
        assert_eq!(nvfp4_context_destroy(context), 0);
    }
}
