//! The CPU backend: a plain reference, and SIMD paths held to it bit for bit; work split over a team of threads.
//!
//! Every call has finished when it returns. Results do not depend on the number of threads, nor on the SIMD path.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod fault;
pub mod fpmode;
pub mod gemm;
pub mod kernels;
pub mod layouts;
mod output;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod parity_rows;
mod portable;
pub mod rows;
mod sources;
pub mod team;
pub mod weights;

use fault::Faults;
use kernels::{Isa, Kernels};
use team::Team;

/// A CPU "device": its threads and the kernels chosen for it.
pub struct Cpu {
    pub team: Team,
    pub kernels: &'static Kernels,
    pub faults: Faults,
}

impl Cpu {
    /// `threads` 0: one per core this process may run on. `isa` None: the best that this processor has.
    pub fn new(threads: usize, isa: Option<Isa>) -> crate::error::Result<Cpu> {
        let threads = if threads == 0 { available_threads() } else { threads };
        Ok(Cpu { team: Team::new(threads)?, kernels: Kernels::for_isa(isa)?, faults: Faults::default() })
    }
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
