//! placeholder
use super::Cpu;
use crate::error::Result;
use crate::plan::weights::*;
pub fn storage_size(_shape: &WeightsShape) -> Option<usize> {
    Some(0)
}
/// # Safety
/// x
pub unsafe fn prepare(_cpu: &Cpu, _p: &PrepareProblem) -> Result<()> {
    Ok(())
}
/// # Safety
/// x
pub unsafe fn export(_cpu: &Cpu, _p: &ExportProblem) {}
