//! The floating-point environment of a call: round to nearest even, subnormals kept, whatever the host has set.

/// Sets the contract's mode on this thread and restores the host's when dropped.
pub struct FpMode {
    saved: u64,
}

#[cfg(target_arch = "x86_64")]
mod control {
    /// All exceptions masked, nearest even, no flush-to-zero, no denormals-are-zero.
    pub const CONTRACT: u64 = 0x1F80;
    /// Exception flags, which the host may look at and which do not change results.
    pub const STICKY: u64 = 0x3F;

    pub fn read() -> u64 {
        let mut word = 0u32;
        // SAFETY: stores MXCSR to the local.
        unsafe { core::arch::asm!("stmxcsr [{}]", in(reg) &mut word, options(nostack)) };
        word as u64
    }

    pub fn write(word: u64) {
        let word = word as u32;
        // SAFETY: the word is one that was read before, or CONTRACT; reserved bits are clear.
        unsafe { core::arch::asm!("ldmxcsr [{}]", in(reg) &word, options(nostack, readonly)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod control {
    /// Nearest even, no flush-to-zero, no traps.
    pub const CONTRACT: u64 = 0;
    pub const STICKY: u64 = 0;

    pub fn read() -> u64 {
        let word: u64;
        // SAFETY: reads FPCR.
        unsafe { core::arch::asm!("mrs {}, fpcr", out(reg) word, options(nostack, nomem)) };
        word
    }

    pub fn write(word: u64) {
        // SAFETY: writes FPCR with a word that was read before, or CONTRACT.
        unsafe { core::arch::asm!("msr fpcr, {}", in(reg) word, options(nostack, nomem)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod control {
    pub const CONTRACT: u64 = 0;
    pub const STICKY: u64 = 0;
    pub fn read() -> u64 {
        0
    }
    pub fn write(_: u64) {}
}

impl FpMode {
    pub fn enter() -> FpMode {
        let saved = control::read();
        if saved & !control::STICKY != control::CONTRACT {
            control::write(control::CONTRACT);
        }
        FpMode { saved }
    }
}

impl Drop for FpMode {
    fn drop(&mut self) {
        control::write(self.saved);
    }
}
