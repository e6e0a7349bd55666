//! Device memory for buffers: a stream-ordered pool of our own, which keeps what is freed until it is trimmed.
//! Run calls never come here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::{Device, Undisturbing};
use super::driver::*;
use super::stream::Stream;
use crate::backend::cpu::pool::{ALIGNMENT, PoolStats};
use crate::error::{Error, Result};

pub struct Pool {
    pool: CUmemoryPool,
    stats: Mutex<PoolStats>,
}

/// Memory of the pool, freed in the order of the stream that it was taken on.
pub struct Block {
    pub address: CUdeviceptr,
    bytes: usize,
    stream: Arc<Stream>,
}

impl Pool {
    pub(super) fn create(driver: &Driver, device: CUdevice) -> Result<Pool> {
        let mut pool = CUmemoryPool::NULL;
        let mut keep = u64::MAX;
        // SAFETY: valid pointers; the attribute is a u64.
        unsafe {
            driver.cuMemPoolCreate(&mut pool, &CUmemPoolProps::device(device))?;
            let set = driver.cuMemPoolSetAttribute(pool, POOL_RELEASE_THRESHOLD, (&raw mut keep).cast());
            if let Err(error) = set {
                let _ = driver.cuMemPoolDestroy(pool);
                return Err(error);
            }
        }
        Ok(Pool { pool, stats: Mutex::default() })
    }

    /// # Safety
    /// Called once, when all blocks are freed and no work is left.
    pub(super) unsafe fn destroy(&self, driver: &Driver) {
        // SAFETY: the caller's promise.
        let _ = unsafe { driver.cuMemPoolDestroy(self.pool) };
    }

    fn stats(&self) -> MutexGuard<'_, PoolStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserved(&self, driver: &Driver) -> Result<usize> {
        let mut bytes = 0u64;
        // SAFETY: the attribute is a u64.
        unsafe {
            driver.cuMemPoolGetAttribute(self.pool, POOL_RESERVED_MEM_CURRENT, (&raw mut bytes).cast())?
        };
        Ok(bytes as usize)
    }
}

impl Device {
    /// Takes memory in the order of a stream.
    pub fn allocate(&self, bytes: usize, stream: &Arc<Stream>) -> Result<Block> {
        let rounded = bytes.checked_next_multiple_of(ALIGNMENT).ok_or(Error::OutOfMemory { bytes })?;
        let address = self.with(|driver| {
            // Another stream may be captured meanwhile, from this thread too.
            let _mode = Undisturbing::enter(driver)?;
            let mut stats = self.pool.stats();
            let before = self.pool.reserved(driver)?;
            let mut address = 0;
            // SAFETY: a valid pointer, a live pool and stream.
            unsafe { driver.cuMemAllocFromPoolAsync(&mut address, rounded, self.pool.pool, stream.native()) }
                .map_err(|error| out_of_memory(error, bytes))?;
            // The count is only told, so it is not worth a failure after the allocation.
            let after = self.pool.reserved(driver).unwrap_or(before);
            stats.allocations += 1;
            stats.reuses += (after <= before) as u64;
            stats.bytes_in_use += rounded;
            stats.peak_bytes_in_use = stats.peak_bytes_in_use.max(stats.bytes_in_use);
            Ok(address)
        })?;
        Ok(Block { address, bytes: rounded, stream: Arc::clone(stream) })
    }

    /// Gives memory back once the work that its stream has been given so far is done.
    pub fn free(&self, block: Block) {
        self.release(|driver| {
            // SAFETY: allocated by `allocate`; the block is the only one and ends here.
            unsafe { block.stream.free(driver, block.address) };
        });
        self.pool.stats().bytes_in_use -= block.bytes;
    }

    pub fn pool_stats(&self) -> Result<PoolStats> {
        let reserved = self.with(|driver| {
            let _mode = Undisturbing::enter(driver)?;
            self.pool.reserved(driver)
        })?;
        let stats = *self.pool.stats();
        Ok(PoolStats { bytes_reserved: reserved.max(stats.bytes_in_use), ..stats })
    }

    /// Gives kept memory back to the system. Memory whose stream is not done with it stays.
    pub fn pool_trim(&self, keep: usize) -> Result<()> {
        let keep = keep.saturating_add(self.pool.stats().bytes_in_use);
        self.with(|driver| {
            let _mode = Undisturbing::enter(driver)?;
            // SAFETY: a live pool.
            unsafe { driver.cuMemPoolTrimTo(self.pool.pool, keep) }
        })
    }
}
