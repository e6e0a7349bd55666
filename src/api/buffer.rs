//! Buffers: device memory from the context's pool, and copies in and out of it in stream order.

use std::sync::Arc;

use super::context::Context;
use super::stream::Stream;
use crate::backend::{Backend, cpu, cuda};
use crate::error::{Error, Result};
use crate::plan::Job;
use crate::plan::memory::Ptr;

/// Memory of a context's device. Clones are the same buffer; it returns to the pool with the last one.
#[derive(Clone)]
pub struct Buffer(Arc<Inner>);

struct Inner {
    context: Context,
    block: Option<Block>,
    bytes: usize,
}

enum Block {
    Host(cpu::pool::Block),
    Device(cuda::pool::Block),
}

impl Drop for Inner {
    fn drop(&mut self) {
        match (self.block.take(), self.context.backend()) {
            (Some(Block::Host(block)), Backend::Cpu(cpu)) => cpu.pool.free(block),
            (Some(Block::Device(block)), Backend::Cuda(device)) => device.free(block),
            _ => {}
        }
    }
}

impl Buffer {
    /// Takes `bytes` from the pool, in the order of `stream`. The contents are undefined.
    pub fn create(context: &Context, bytes: usize, stream: &Stream) -> Result<Buffer> {
        stream.check(context)?;
        stream.check_not_capturing("nvfp4_buffer_create cannot be captured")?;
        if bytes == 0 {
            return Err(Error::OutOfRange {
                argument: "bytes",
                value: "0".into(),
                range: "1 or more".into(),
            });
        }
        let block = match (context.backend(), stream.native()) {
            (Backend::Cuda(device), Some(native)) => Block::Device(device.allocate(bytes, native)?),
            (Backend::Cpu(cpu), _) => Block::Host(cpu.pool.allocate(bytes)?),
            (Backend::Cuda(_), None) => return Err(super::stream::no_native()),
        };
        Ok(Buffer(Arc::new(Inner { context: context.clone(), block: Some(block), bytes })))
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn bytes(&self) -> usize {
        self.0.bytes
    }

    /// Address of the memory on the device; on a multiple of 256.
    pub fn data(&self) -> *mut u8 {
        match &self.0.block {
            Some(Block::Host(block)) => block.data,
            Some(Block::Device(block)) => std::ptr::without_provenance_mut(block.address as usize),
            None => std::ptr::null_mut(),
        }
    }

    /// Copies host memory into the buffer. On the CPU the source may be reused at once; inside a capture it is read at
    /// every replay.
    ///
    /// # Safety
    /// `src` is readable for `bytes`.
    pub unsafe fn upload(&self, offset: usize, src: *const u8, bytes: usize, stream: &Stream) -> Result<()> {
        let dst = self.range("offset", offset, bytes, stream)?;
        if bytes > 0 && src.is_null() {
            return Err(Error::Null { argument: "src" });
        }
        // SAFETY: the caller's promise; the range was checked.
        unsafe { self.copy_job(dst, src, bytes, stream, None) }
    }

    /// Copies from the buffer to host memory.
    ///
    /// # Safety
    /// `dst` is writable for `bytes`.
    pub unsafe fn download(&self, offset: usize, dst: *mut u8, bytes: usize, stream: &Stream) -> Result<()> {
        let src = self.range("offset", offset, bytes, stream)?;
        if bytes > 0 && dst.is_null() {
            return Err(Error::Null { argument: "dst" });
        }
        // SAFETY: the caller's promise; the range was checked.
        unsafe { self.copy_job(dst, src, bytes, stream, None) }
    }

    /// Copies from another buffer of the context, or within this one.
    pub fn copy_from(
        &self,
        dst_offset: usize,
        src: &Buffer,
        src_offset: usize,
        bytes: usize,
        stream: &Stream,
    ) -> Result<()> {
        if !src.context().same(self.context()) {
            return Err(Error::Handle {
                argument: "src",
                kind: "buffer of the same context",
                problem: "it belongs to another context than dst",
            });
        }
        let to = self.range("dst_offset", dst_offset, bytes, stream)?;
        let from = src.range("src_offset", src_offset, bytes, stream)?;
        if let Some(native) = stream.native().filter(|_| to.addr().abs_diff(from.addr()) < bytes) {
            // SAFETY: both ranges were checked.
            return unsafe { native.copy_overlapping(to.addr() as u64, from.addr() as u64, bytes) };
        }
        // SAFETY: both ranges were checked, and the job keeps both buffers.
        unsafe { self.copy_job(to, from, bytes, stream, Some(Arc::clone(&src.0) as _)) }
    }

    /// # Safety
    /// Both ranges are valid for `bytes`.
    unsafe fn copy_job(
        &self,
        dst: *mut u8,
        src: *const u8,
        bytes: usize,
        stream: &Stream,
        other: super::stream::Keep,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let job = Job::Copy { dst: Ptr::from_mut(dst), src: Ptr::new(src), bytes };
        // SAFETY: the caller's promise.
        unsafe { stream.submit(job, Some(Arc::clone(&self.0) as _), other) }
    }

    fn range(&self, argument: &'static str, offset: usize, bytes: usize, stream: &Stream) -> Result<*mut u8> {
        stream.check(&self.0.context)?;
        if offset.checked_add(bytes).is_none_or(|end| end > self.0.bytes) {
            return Err(Error::OutOfRange {
                argument,
                value: format!("{offset} with bytes = {bytes}"),
                range: format!("inside the buffer's {} bytes", self.0.bytes),
            });
        }
        Ok(self.data().wrapping_add(offset))
    }
}
