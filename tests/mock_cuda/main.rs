//! The CUDA backend over a mock driver: every path to the driver without a GPU.
// Handles are tickets, checked on every use, not addresses.
#![allow(clippy::not_unsafe_ptr_arg_deref)]

mod choices;
mod contexts;
mod inject;
mod mock;
mod moe;
mod paths;
mod prepared;
mod product;

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use nvfp4::api::context::*;
use nvfp4::api::handles::*;
use nvfp4::api::layouts::nvfp4_group_ends_args;
use nvfp4::ffi::*;

pub fn message() -> String {
    // SAFETY: never NULL, zero-terminated.
    unsafe { CStr::from_ptr(nvfp4_last_message()) }.to_string_lossy().into_owned()
}

#[track_caller]
pub fn ok(status: i32) {
    assert_eq!(status, 0, "{}", message());
}

/// The call fails with this status and its message has these words.
#[track_caller]
pub fn refused(status: i32, expected: i32, words: &str) {
    let message = message();
    assert_eq!(status, expected, "{message}");
    assert!(message.contains(words), "{message:?} does not say {words:?}");
}

pub fn options(device: u32, flags: u32) -> nvfp4_context_options {
    nvfp4_context_options {
        struct_size: size_of::<nvfp4_context_options>(),
        backend: NVFP4_BACKEND_CUDA,
        device,
        flags,
        ..Default::default()
    }
}

/// A context with a stream.
pub struct Gpu {
    pub context: *mut nvfp4_context,
    pub stream: *mut nvfp4_stream,
}

impl Gpu {
    pub fn new(device: u32) -> Gpu {
        Gpu::with(&options(device, 0))
    }

    pub fn with(options: &nvfp4_context_options) -> Gpu {
        let (mut context, mut stream) = (null_mut(), null_mut());
        // SAFETY: valid pointers.
        unsafe {
            ok(nvfp4_context_create(options, &mut context));
            ok(nvfp4_stream_create(context, &mut stream));
        }
        Gpu { context, stream }
    }

    pub fn prepared(device: u32) -> Gpu {
        let gpu = Gpu::new(device);
        // SAFETY: a live context.
        ok(unsafe { nvfp4_prepare(gpu.context, std::ptr::null()) });
        gpu
    }

    pub fn buffer(&self, bytes: usize) -> Buffer {
        let (mut buffer, mut data) = (null_mut(), null_mut());
        // SAFETY: live handles, valid pointers.
        unsafe {
            ok(nvfp4_buffer_create(self.context, bytes, self.stream, &mut buffer));
            ok(nvfp4_buffer_data(buffer, &mut data));
        }
        Buffer { buffer, data }
    }

    pub fn group_ends(
        &self,
        stream: *mut nvfp4_stream,
        counts: *mut c_void,
        ends: *mut c_void,
        count: usize,
    ) -> i32 {
        let args = nvfp4_group_ends_args {
            struct_size: size_of::<nvfp4_group_ends_args>(),
            counts: counts.cast(),
            ends: ends.cast(),
            count: count as i64,
        };
        // SAFETY: memory of the mock.
        unsafe { nvfp4_group_ends(self.context, &args, stream) }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: handles of this value.
        unsafe {
            nvfp4_stream_destroy(self.stream);
            nvfp4_context_destroy(self.context);
        }
    }
}

pub struct Buffer {
    pub buffer: *mut nvfp4_buffer,
    pub data: *mut c_void,
}

impl Buffer {
    pub fn upload(&self, values: &[i32], stream: *mut nvfp4_stream) {
        // SAFETY: live handles; the mock copies at once.
        ok(unsafe {
            nvfp4_buffer_upload(self.buffer, 0, values.as_ptr().cast(), size_of_val(values), stream)
        });
    }

    pub fn read(&self, count: usize, stream: *mut nvfp4_stream) -> Vec<i32> {
        let mut values = vec![0i32; count];
        // SAFETY: live handles, memory of the right length.
        unsafe {
            ok(nvfp4_buffer_download(self.buffer, 0, values.as_mut_ptr().cast(), 4 * count, stream));
            ok(nvfp4_stream_synchronize(stream));
        }
        values
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: a handle of this value.
        unsafe { nvfp4_buffer_destroy(self.buffer) };
    }
}
