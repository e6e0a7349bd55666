//! What the operations of this backend write their launches against.
//!
//! A kernel takes one struct by value. Its C twin in kernels/ and the Rust struct have the same fields; that their sizes
//! agree is checked against the loaded image at every launch.

use std::ffi::c_void;

use super::context::{Device, DeviceFacts};
use super::driver::*;
use crate::error::{Error, Result};

/// A kernel as a backend's table names it.
pub struct Kernel {
    /// The file in kernels/ that holds it, without `.cu`.
    pub file: &'static str,
    /// Its symbol, `nvfp4_…`.
    pub name: &'static str,
    /// Registers a thread that it may use; tests read the images.
    pub registers: u32,
    /// Most threads a block that it is launched with.
    pub threads: u32,
}

/// A stream that launches go to, inside one call of the API.
pub struct Queue<'a> {
    pub facts: &'a DeviceFacts,
    pub(super) device: &'a Device,
    pub(super) stream: CUstream,
    /// Nothing is put on the stream: kernels are loaded in place of being launched.
    pub(super) loads_only: bool,
}

impl Queue<'_> {
    /// Launches a kernel. A grid without blocks is no launch.
    ///
    /// # Safety
    /// `P` is the kernel's parameter struct and its addresses are valid on the device until the kernel is done.
    pub unsafe fn launch<P: Copy>(
        &self,
        kernel: &'static Kernel,
        grid: (u32, u32, u32),
        block: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            self.launch_with(
                kernel,
                grid,
                block,
                shared_bytes,
                (&raw const *params).cast(),
                size_of::<P>(),
                false,
            )
        }
    }

    /// As [`launch`](Self::launch); the kernel may start before the one before it in the stream has ended, and waits for
    /// it itself (griddepcontrol.wait). On architectures without that, a plain launch.
    ///
    /// # Safety
    /// As [`launch`](Self::launch); the kernel reads nothing of its predecessor before it has waited.
    pub unsafe fn launch_dependent<P: Copy>(
        &self,
        kernel: &'static Kernel,
        grid: (u32, u32, u32),
        block: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<()> {
        let dependent = self.device.has_dependent_launch();
        // SAFETY: the caller's promise.
        unsafe {
            self.launch_with(
                kernel,
                grid,
                block,
                shared_bytes,
                (&raw const *params).cast(),
                size_of::<P>(),
                dependent,
            )
        }
    }

    unsafe fn launch_with(
        &self,
        kernel: &'static Kernel,
        grid: (u32, u32, u32),
        block: u32,
        shared_bytes: u32,
        params: *const c_void,
        size: usize,
        dependent: bool,
    ) -> Result<()> {
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        let modules = &self.device.modules;
        let function = match self.loads_only {
            false => modules.function(self.device, self.stream, kernel)?,
            true => modules.load_one(self.device, kernel)?,
        };
        if size != function.parameter_bytes || block > kernel.threads {
            return Err(mismatch(kernel, size, function.parameter_bytes, block));
        }
        if self.loads_only {
            return Ok(());
        }
        let attribute = CUlaunchAttribute::dependent_launch();
        let config = CUlaunchConfig {
            grid: [grid.0, grid.1, grid.2],
            block: [block, 1, 1],
            shared_bytes,
            stream: self.stream,
            attributes: if dependent { &raw const attribute } else { std::ptr::null() },
            attribute_count: dependent as u32,
        };
        let mut parameters = [params.cast_mut()];
        // SAFETY: the driver copies the parameters, whose size was checked; the rest is the caller's promise.
        unsafe {
            self.device.driver.cuLaunchKernelEx(
                &config,
                function.function,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
    }

    /// Sets words of 32 bits.
    ///
    /// # Safety
    /// `dst` is writable on the device for `words`.
    pub unsafe fn memset32(&self, dst: u64, value: u32, words: usize) -> Result<()> {
        match words {
            _ if self.loads_only => Ok(()),
            0 => Ok(()),
            // SAFETY: the caller's promise.
            _ => unsafe { self.device.driver.cuMemsetD32Async(dst, value, words, self.stream) },
        }
    }

    /// Copies bytes; the driver sees from the addresses which side is host memory.
    ///
    /// # Safety
    /// Both ranges are valid for `bytes` and do not meet.
    pub unsafe fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<()> {
        match bytes {
            _ if self.loads_only => Ok(()),
            0 => Ok(()),
            // SAFETY: the caller's promise.
            _ => unsafe { self.device.driver.cuMemcpyAsync(dst, src, bytes, self.stream) },
        }
    }

    /// Reads an array back, which waits for the stream; none where nothing is put on it.
    ///
    /// # Safety
    /// `src` is readable for `count` values; the stream does not capture.
    pub unsafe fn read_back(&self, src: u64, count: usize) -> Result<Option<Vec<f32>>> {
        if self.loads_only {
            return Ok(None);
        }
        let mut values = Vec::new();
        let bytes = count * size_of::<f32>();
        values.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { bytes })?;
        values.resize(count, 0f32);
        // SAFETY: the caller's promise; the values stay until the copy is done.
        unsafe {
            self.copy(values.as_mut_ptr().addr() as u64, src, bytes)?;
            self.device.driver.cuStreamSynchronize(self.stream)?;
        }
        Ok(Some(values))
    }
}

#[cold]
fn mismatch(kernel: &Kernel, given: usize, expected: usize, block: u32) -> Error {
    Error::Internal {
        message: format!(
            "{} is launched with {given} bytes of parameters and {block} threads; its image takes {expected} and at most {}",
            kernel.name, kernel.threads
        ),
    }
}
