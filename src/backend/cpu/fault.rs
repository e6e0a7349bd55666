//! The sticky fault word of a context, as a GPU keeps it in mapped memory.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bits of the fault word; the header's NVFP4_FAULT_* are these.
pub const BAD_GROUP: u32 = 1;
pub const BAD_DECODE_SCALE: u32 = 2;
pub const NON_FINITE: u32 = 4;
pub const SATURATED: u32 = 8;

/// Flags seen since the last clear, and the first group index that had to be clamped.
#[derive(Default)]
pub struct Faults {
    flags: AtomicU32,
    /// 1 + group; 0 while none.
    bad_group: AtomicU64,
}

impl Faults {
    pub fn raise(&self, flags: u32) {
        if flags != 0 {
            self.flags.fetch_or(flags, Ordering::Relaxed);
        }
    }

    /// Keeps the first report since the last clear.
    pub fn bad_group(&self, group: usize) {
        let _ = self.bad_group.compare_exchange(0, group as u64 + 1, Ordering::Relaxed, Ordering::Relaxed);
        self.raise(BAD_GROUP);
    }

    /// (flags, first bad group).
    pub fn read(&self) -> (u32, Option<usize>) {
        let group = self.bad_group.load(Ordering::Relaxed);
        (self.flags.load(Ordering::Relaxed), group.checked_sub(1).map(|g| g as usize))
    }

    pub fn clear(&self) {
        self.flags.store(0, Ordering::Relaxed);
        self.bad_group.store(0, Ordering::Relaxed);
    }
}
