//! The fault word of a device: set by kernels, read by the host without a wait.
//!
//! Two places. The *word* lies in mapped page-locked memory: low half flags, high half 1 + the first bad group. The
//! *record* lies in device memory and is what kernels get: the same word, then the word's device address. A kernel that
//! meets a fault looks at the record and goes over the bus only for news: a tensor where every block saturates would
//! otherwise wait for the host's memory once a warp. Twin: the fault part of kernels/groups.cuh.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use super::driver::*;
use crate::error::Result;

pub(super) struct Fault {
    word: *mut AtomicU64,
    record: CUdeviceptr,
    /// Carries the resets, so that they wait for nobody's work.
    stream: CUstream,
}

// SAFETY: addresses of an atomic and of device memory that live as long as the device does.
unsafe impl Send for Fault {}
// SAFETY: as above.
unsafe impl Sync for Fault {}

/// 32-bit words of the record: flags, group, address.
const WORDS: usize = 4;

impl Fault {
    /// With the context current and the thread's capture mode relaxed.
    pub(super) fn create(driver: &'static Driver) -> Result<Fault> {
        let mut fault = Fault { word: std::ptr::null_mut(), record: 0, stream: CUstream::NULL };
        match fault.fill(driver) {
            Ok(()) => Ok(fault),
            Err(error) => {
                fault.destroy(driver);
                Err(error)
            }
        }
    }

    fn fill(&mut self, driver: &Driver) -> Result<()> {
        let (mut memory, mut address): (*mut c_void, CUdeviceptr) = (std::ptr::null_mut(), 0);
        // SAFETY: valid pointers; the record has room for its words.
        unsafe {
            let bytes = size_of::<AtomicU64>();
            driver.cuMemHostAlloc(&mut memory, bytes, HOST_ALLOC_PORTABLE | HOST_ALLOC_DEVICEMAP)?;
            self.word = memory.cast();
            memory.cast::<u64>().write(0);
            driver.cuMemHostGetDevicePointer(&mut address, memory, 0)?;
            driver.cuMemAlloc(&mut self.record, WORDS * 4)?;
            driver.cuStreamCreate(&mut self.stream, STREAM_NON_BLOCKING)?;
            driver.cuMemsetD32Async(self.record, 0, 2, self.stream)?;
            driver.cuMemsetD32Async(self.record + 8, address as u32, 1, self.stream)?;
            driver.cuMemsetD32Async(self.record + 12, (address >> 32) as u32, 1, self.stream)?;
            driver.cuStreamSynchronize(self.stream)
        }
    }

    /// What kernels get.
    pub(super) fn record(&self) -> CUdeviceptr {
        self.record
    }

    pub(super) fn word(&self) -> &AtomicU64 {
        // SAFETY: allocated with the device, freed with it.
        unsafe { &*self.word }
    }

    /// Forgets what was seen. Kernels at work may report again before or after.
    pub(super) fn clear(&self, driver: &Driver) -> Result<()> {
        // SAFETY: memory and stream of ours.
        let reset = unsafe {
            driver
                .cuMemsetD32Async(self.record, 0, 2, self.stream)
                .and_then(|()| driver.cuStreamSynchronize(self.stream))
        };
        self.word().store(0, Ordering::Relaxed);
        reset
    }

    /// Nobody uses it any more.
    pub(super) fn destroy(&self, driver: &Driver) {
        // SAFETY: made by `fill`; what was not made is skipped.
        unsafe {
            if self.stream != CUstream::NULL {
                let _ = driver.cuStreamDestroy(self.stream);
            }
            if self.record != 0 {
                let _ = driver.cuMemFree(self.record);
            }
            if !self.word.is_null() {
                let _ = driver.cuMemFreeHost(self.word.cast());
            }
        }
    }
}
