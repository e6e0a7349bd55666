//! Streams.

use super::args::Out;
use super::context;
use super::guard::guard;
use super::handle;
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::stream::Stream;
use crate::error::{Result, nvfp4_status};

/// Creates a stream. Destroy it with nvfp4_stream_destroy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_stream_create(
    context: *mut nvfp4_context,
    stream: *mut *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `stream`.
    guard("nvfp4_stream_create", || unsafe {
        let out = Out::check("stream", stream)?;
        out.set(handle::create(Stream::create(&context::get(context)?)?));
        Ok(())
    })
}

/// Wraps a stream of the host's: a CUstream or cudaStream_t of the context's device, which stays the host's and must
/// outlive the handle; NULL is the legacy default stream. On the CPU `native` must be NULL, and the call is
/// nvfp4_stream_create.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_stream_borrow(
    context: *mut nvfp4_context,
    native: *mut core::ffi::c_void,
    stream: *mut *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `stream`.
    guard("nvfp4_stream_borrow", || unsafe {
        let out = Out::check("stream", stream)?;
        out.set(handle::create(Stream::borrow(&context::get(context)?, native)?));
        Ok(())
    })
}

/// Destroys a stream; its work goes on. Refused while it captures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_stream_destroy(stream: *mut nvfp4_stream) -> nvfp4_status {
    guard("nvfp4_stream_destroy", || handle::destroy::<Stream>("stream", stream, Stream::check_destroyable))
}

/// Waits until the stream's work is done. Refused while it captures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_stream_synchronize(stream: *mut nvfp4_stream) -> nvfp4_status {
    guard("nvfp4_stream_synchronize", || get(stream)?.synchronize())
}

/// Sets `done` to 1 if the stream's work is done, else to 0. Refused while it captures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_stream_query(stream: *mut nvfp4_stream, done: *mut i32) -> nvfp4_status {
    // SAFETY: the host's promise about `done`.
    guard("nvfp4_stream_query", || unsafe {
        let out = Out::check("done", done)?;
        out.set(get(stream)?.query()? as i32);
        Ok(())
    })
}

/// A live stream of this process.
pub(super) fn get(stream: *const nvfp4_stream) -> Result<Stream> {
    let stream: Stream = handle::get("stream", stream)?;
    stream.context().check_process()?;
    Ok(stream)
}
