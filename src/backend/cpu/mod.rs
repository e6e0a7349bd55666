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
pub mod moe;
mod output;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod parity_rows;
pub mod pool;
mod portable;
pub mod rows;
mod sources;
pub mod team;
pub mod weights;

use crate::error::Result;
use crate::plan::Job;
use fault::Faults;
use fpmode::FpMode;
use kernels::{Isa, Kernels};
use pool::Pool;
use team::Team;

/// A CPU "device": its threads and the kernels chosen for it.
pub struct Cpu {
    pub team: Team,
    pub kernels: &'static Kernels,
    pub faults: Faults,
    pub pool: Pool,
}

impl Cpu {
    /// `threads` 0: one per core this process may run on. `isa` None: the best that this processor has.
    pub fn new(threads: usize, isa: Option<Isa>) -> Result<Cpu> {
        let threads = if threads == 0 { available_threads() } else { threads };
        Ok(Cpu {
            team: Team::new(threads)?,
            kernels: Kernels::for_isa(isa)?,
            faults: Faults::default(),
            pool: Pool::default(),
        })
    }

    /// Brings weights into this backend's layout.
    ///
    /// # Safety
    /// Every address of the problem is valid for what its documentation says.
    pub unsafe fn prepare_weights(&self, problem: &crate::plan::weights::PrepareProblem) -> Result<()> {
        let _mode = FpMode::enter();
        // SAFETY: the caller's promise.
        unsafe { weights::prepare(self, problem) }
    }

    /// Carries out a job on this thread and the team.
    ///
    /// # Safety
    /// Every address of the job is valid for what its documentation says.
    pub unsafe fn execute(&self, job: &Job) {
        let _mode = FpMode::enter();
        // SAFETY: the caller's promise.
        unsafe {
            match job {
                Job::Quantize(p) => rows::run(self, p),
                Job::Stage(p) => rows::stage(self, p),
                Job::Dequantize(p) => layouts::dequantize(self, p),
                Job::MoveScales(p) => layouts::move_scales(self, p),
                Job::Interleave(p) => layouts::interleave(self, p),
                Job::GroupEnds(p) => layouts::group_ends(self, p),
                Job::Export(p) => weights::export(self, p),
                Job::Gemm(p) | Job::ChainedGemm(p) => gemm::run(self, p),
                Job::QuantizedGemm(quantize, p) => {
                    rows::run(self, quantize);
                    gemm::run(self, p);
                }
                Job::Route(p) => moe::route(self, p),
                Job::Permute(p) => moe::permute(self, p),
                Job::Dispatch(p) => moe::dispatch(self, p),
                Job::Round(p) => moe::round(self, p),
                Job::Combine(p) => moe::combine(self, p),
                // Buffers may be copied onto themselves, so the ranges may meet.
                Job::Copy { dst, src, bytes } => std::ptr::copy(src.get(), dst.get_mut(), *bytes),
            }
        }
    }
}

fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}
