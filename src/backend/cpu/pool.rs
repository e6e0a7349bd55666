//! Host memory for buffers: freed blocks are kept by size and handed out again.

use std::alloc::{self, Layout};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Every block starts on a multiple of this.
pub const ALIGNMENT: usize = 256;

/// What the pool holds and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    pub bytes_in_use: usize,
    /// In use and kept for reuse.
    pub bytes_reserved: usize,
    pub peak_bytes_in_use: usize,
    /// Blocks handed out.
    pub allocations: u64,
    /// Of these, how many were kept blocks.
    pub reuses: u64,
}

/// A block of pool memory; give it back with [`Pool::free`].
#[derive(Debug)]
pub struct Block {
    pub data: *mut u8,
    size: usize,
}
// SAFETY: a block is memory that nobody else has.
unsafe impl Send for Block {}
// SAFETY: `data` is only a number until somebody vouches for its use.
unsafe impl Sync for Block {}

#[derive(Default)]
pub struct Pool {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: BTreeMap<usize, Vec<Block>>,
    stats: PoolStats,
}

/// Sizes are rounded up to eighths of a power of two, so that near sizes share blocks.
fn size_class(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(ALIGNMENT);
    let step = (bytes.checked_next_power_of_two()? / 16).max(ALIGNMENT);
    bytes.checked_next_multiple_of(step)
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn allocate(&self, bytes: usize) -> Result<Block> {
        let out_of_memory = Error::OutOfMemory { bytes };
        let size = size_class(bytes).ok_or(out_of_memory.clone())?;
        let mut state = self.state();
        let kept = state.kept.get_mut(&size).and_then(Vec::pop);
        let block = match kept {
            Some(block) => {
                state.stats.reuses += 1;
                block
            }
            None => {
                let layout = Layout::from_size_align(size, ALIGNMENT).map_err(|_| out_of_memory.clone())?;
                // SAFETY: the size is not zero.
                let data = unsafe { alloc::alloc(layout) };
                if data.is_null() {
                    return Err(out_of_memory);
                }
                state.stats.bytes_reserved += size;
                Block { data, size }
            }
        };
        let stats = &mut state.stats;
        stats.allocations += 1;
        stats.bytes_in_use += size;
        stats.peak_bytes_in_use = stats.peak_bytes_in_use.max(stats.bytes_in_use);
        Ok(block)
    }

    pub fn free(&self, block: Block) {
        let mut state = self.state();
        state.stats.bytes_in_use -= block.size;
        state.kept.entry(block.size).or_default().push(block);
    }

    pub fn stats(&self) -> PoolStats {
        self.state().stats
    }

    /// Gives kept blocks back to the system, largest first, until at most `keep` bytes are kept.
    pub fn trim(&self, keep: usize) {
        let mut state = self.state();
        while state.stats.bytes_reserved - state.stats.bytes_in_use > keep {
            let Some(mut last) = state.kept.last_entry() else { return };
            let Some(block) = last.get_mut().pop() else {
                last.remove();
                continue;
            };
            state.stats.bytes_reserved -= block.size;
            release(block);
        }
    }
}

fn release(block: Block) {
    // SAFETY: the block was allocated with this layout and is not used any more.
    unsafe { alloc::dealloc(block.data, Layout::from_size_align_unchecked(block.size, ALIGNMENT)) };
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim(0);
    }
}
