//! Buffers.

use std::ffi::c_void;

use super::args::{self, Out};
use super::guard::guard;
use super::{context, handle, stream};
use crate::api::buffer::Buffer;
use crate::api::handles::{nvfp4_buffer, nvfp4_context, nvfp4_stream};
use crate::error::{Result, nvfp4_status};

/// Takes `bytes` (1 or more) of device memory from the context's pool, usable by work of `stream` from now on.
/// The contents are undefined. Destroy it with nvfp4_buffer_destroy. Refused while the stream captures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_buffer_create(
    context: *mut nvfp4_context,
    bytes: usize,
    stream: *mut nvfp4_stream,
    buffer: *mut *mut nvfp4_buffer,
) -> nvfp4_status {
    // SAFETY: the host's promise about `buffer`.
    guard("nvfp4_buffer_create", || unsafe {
        let out = Out::check("buffer", buffer)?;
        let created = Buffer::create(&context::get(context)?, bytes, &stream::get(stream)?)?;
        out.set(handle::create(created));
        Ok(())
    })
}

/// Gives a buffer's memory back to the pool. Work that uses it must be done, or be ordered before what reuses it by
/// being on the stream that the buffer was created for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_buffer_destroy(buffer: *mut nvfp4_buffer) -> nvfp4_status {
    guard("nvfp4_buffer_destroy", || handle::destroy::<Buffer>("buffer", buffer, |_| Ok(())))
}

/// Address of a buffer's memory on the device (host memory on the CPU), on a multiple of 256; valid while the buffer is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_buffer_data(
    buffer: *mut nvfp4_buffer,
    data: *mut *mut c_void,
) -> nvfp4_status {
    // SAFETY: the host's promise about `data`.
    guard("nvfp4_buffer_data", || unsafe {
        let out = Out::check("data", data)?;
        out.set(args::buffer_data(&get("buffer", buffer)?));
        Ok(())
    })
}

/// Bytes that a buffer was created with.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_buffer_size(buffer: *mut nvfp4_buffer, bytes: *mut usize) -> nvfp4_status {
    // SAFETY: the host's promise about `bytes`.
    guard("nvfp4_buffer_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(get("buffer", buffer)?.bytes());
        Ok(())
    })
}

/// Copies host memory into a buffer, in stream order. `src` must stay valid until the copy is done; in a graph it is
/// read at every launch.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_buffer_upload(
    buffer: *mut nvfp4_buffer,
    offset: usize,
    src: *const c_void,
    bytes: usize,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `src`.
    guard("nvfp4_buffer_upload", || unsafe {
        get("buffer", buffer)?.upload(offset, src.cast(), bytes, &stream::get(stream)?)
    })
}

/// Copies from a buffer to host memory, in stream order. `dst` holds the bytes once the stream has been waited for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_buffer_download(
    buffer: *mut nvfp4_buffer,
    offset: usize,
    dst: *mut c_void,
    bytes: usize,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `dst`.
    guard("nvfp4_buffer_download", || unsafe {
        get("buffer", buffer)?.download(offset, dst.cast(), bytes, &stream::get(stream)?)
    })
}

/// Copies between buffers of one context, or within one (the ranges may meet), in stream order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_buffer_copy(
    dst: *mut nvfp4_buffer,
    dst_offset: usize,
    src: *const nvfp4_buffer,
    src_offset: usize,
    bytes: usize,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    guard("nvfp4_buffer_copy", || {
        let src = get("src", src)?;
        get("dst", dst)?.copy_from(dst_offset, &src, src_offset, bytes, &stream::get(stream)?)
    })
}

fn get(argument: &'static str, buffer: *const nvfp4_buffer) -> Result<Buffer> {
    let buffer: Buffer = handle::get(argument, buffer)?;
    buffer.context().check_process()?;
    Ok(buffer)
}
