//! placeholder
use super::Cpu;
use crate::plan::gemm::GemmProblem;
pub fn workspace_size(_cpu: &Cpu, _p: &GemmProblem) -> usize {
    0
}
/// # Safety
/// x
pub unsafe fn run(_cpu: &Cpu, _p: &GemmProblem) {}
