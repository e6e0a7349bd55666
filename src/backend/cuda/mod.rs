//! The CUDA backend: every operation on an NVIDIA GPU through the driver, with kernels compiled ahead of time.
//!
//! Calls give work to a stream and return. The runtime (driver, context, module, pool, stream, graph, launch) knows no
//! operation; each operation is a file that turns a problem of `plan` into launches, and has a twin in `backend::cpu`.
//! Without the cargo feature `cuda` no image is embedded and no device can be created.

pub mod context;
pub mod driver;
mod fault;
pub mod gemm;
pub mod gemm_sm90;
pub mod graph;
pub mod group_ends;
pub mod launch;
pub mod layouts;
pub mod module;
pub mod moe;
pub mod params;
pub mod params_moe;
pub mod pool;
pub mod rows;
pub mod stream;
pub mod tune;
pub mod weights;

use crate::error::Result;
use crate::plan::Job;
use crate::plan::gemm::GemmProblem;
use crate::plan::quantize::QuantizeProblem;
use crate::plan::weights::{PrepareProblem, WeightsShape};
pub use context::Device;
use launch::{Kernel, Queue};

/// The kernels of every operation.
pub static KERNELS: &[&[Kernel]] = &[
    group_ends::KERNELS,
    rows::KERNELS,
    layouts::KERNELS,
    gemm::KERNELS,
    gemm_sm90::KERNELS,
    weights::KERNELS,
    moe::KERNELS,
];

impl Device {
    /// Gives a job to a stream; the context is current.
    ///
    /// # Safety
    /// Every address of the job is valid on the device for what its documentation says.
    pub(super) unsafe fn execute(&self, queue: &Queue, job: &Job) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            match job {
                Job::GroupEnds(p) => group_ends::group_ends(queue, p),
                Job::Copy { dst, src, bytes } => {
                    queue.copy(dst.get_mut().addr() as u64, src.get().addr() as u64, *bytes)
                }
                Job::Quantize(p) => rows::quantize(queue, p),
                Job::Stage(p) => rows::stage(queue, p),
                Job::Dequantize(p) => layouts::dequantize(queue, p, false),
                Job::MoveScales(p) => layouts::move_scales(queue, p),
                Job::Interleave(p) => layouts::interleave(queue, p),
                Job::Export(p) => weights::export(queue, p),
                Job::Gemm(p) => gemm::gemm(queue, p, false),
                Job::ChainedGemm(p) => gemm::gemm(queue, p, true),
                Job::QuantizedGemm(quantize, p) => gemm::quantized_gemm(queue, quantize, p),
                Job::Route(p) => moe::route(queue, p),
                Job::Permute(p) => moe::permute(queue, p),
                Job::Dispatch(p) => moe::dispatch(queue, p),
                Job::Round(p) => moe::round(queue, p),
                Job::Combine(p) => moe::combine(queue, p),
            }
        }
    }

    /// Brings weights into this backend's layout; the context is current.
    ///
    /// # Safety
    /// Every address of the problem is valid on the device for what its documentation says.
    pub(super) unsafe fn prepare_weights(&self, queue: &Queue, problem: &PrepareProblem) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { weights::prepare(queue, problem) }
    }

    /// Bytes of storage for prepared weights, or none where they pass the address space.
    pub fn weights_storage_size(&self, shape: &WeightsShape) -> Option<usize> {
        weights::storage_size(shape)
    }

    /// Whether products multiply NVFP4 activations as the bfloat16 rows that they stand for.
    pub fn decodes_activations(&self) -> bool {
        gemm::machine(&self.facts).hopper
    }

    /// Bytes of workspace of a product, which keeps its plan.
    pub fn gemm_workspace_size(&self, problem: &mut GemmProblem) -> usize {
        gemm::workspace_size(problem, self)
    }

    /// Bytes of workspace of a product behind its quantizer.
    pub fn quantized_gemm_workspace_size(&self, quantize: &QuantizeProblem, problem: &GemmProblem) -> usize {
        gemm::quantized_workspace_size(quantize, problem, self)
    }
}
