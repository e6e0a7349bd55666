//! Backends carry out the problems of `plan` on one kind of processor.

pub mod cpu;
pub mod cuda;

use std::sync::Arc;

use crate::plan::Job;
use crate::plan::gemm::GemmProblem;
use crate::plan::quantize::QuantizeProblem;
use crate::plan::weights::{PrepareProblem, WeightsShape};

/// What a recorded job needs to stay alive: weights or buffers.
pub type Keep = Option<Arc<dyn Send + Sync>>;

/// What a call would do.
#[allow(clippy::large_enum_variant)]
pub enum Work {
    Job(Job),
    PrepareWeights(PrepareProblem),
}

/// The processor of a context.
pub enum Backend {
    Cpu(cpu::Cpu),
    Cuda(Arc<cuda::Device>),
}

impl Backend {
    /// Bytes of storage for prepared weights, or none where they pass the address space.
    pub fn weights_storage_size(&self, shape: &WeightsShape) -> Option<usize> {
        match self {
            Backend::Cpu(_) => cpu::weights::storage_size(shape),
            Backend::Cuda(device) => device.weights_storage_size(shape),
        }
    }

    /// Whether NVFP4 activations are best given to products as the bfloat16 rows that they stand for, where a layer makes them.
    pub fn decodes_activations(&self) -> bool {
        match self {
            Backend::Cpu(_) => false,
            Backend::Cuda(device) => device.decodes_activations(),
        }
    }

    /// Bytes of workspace that a product needs for any split of its rows. The problem keeps the plan that says so.
    pub fn gemm_workspace_size(&self, problem: &mut GemmProblem) -> Option<usize> {
        match self {
            Backend::Cpu(cpu) => cpu::gemm::workspace_size(cpu, problem),
            Backend::Cuda(device) => {
                // The planner counts rows that exist: as many as their bfloat16 outputs leave room for.
                let whole = problem.groups.total_rows().checked_mul(problem.out_cols())?.checked_mul(2)?;
                (whole <= isize::MAX as usize).then(|| device.gemm_workspace_size(problem))
            }
        }
    }

    /// As [`gemm_workspace_size`](Self::gemm_workspace_size), of a product behind its quantizer (`Job::QuantizedGemm`).
    pub fn quantized_gemm_workspace_size(
        &self,
        quantize: &QuantizeProblem,
        problem: &mut GemmProblem,
    ) -> Option<usize> {
        let alone = self.gemm_workspace_size(problem)?;
        match self {
            Backend::Cpu(_) => Some(alone),
            Backend::Cuda(device) => Some(device.quantized_gemm_workspace_size(quantize, problem)),
        }
    }
}
