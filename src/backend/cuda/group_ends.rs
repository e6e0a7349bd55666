//! nvfp4_group_ends: counts → inclusive cumulative ends, by one block. Twin: backend/cpu/layouts.rs.

use super::launch::{Kernel, Queue};
use crate::error::Result;
use crate::plan::layouts::GroupEndsProblem;

pub static KERNELS: &[Kernel] =
    &[Kernel { file: "group_ends", name: "nvfp4_group_ends", registers: 32, threads: THREADS }];

const THREADS: u32 = 1024;

/// `struct GroupEndsParams` of kernels/group_ends.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Params {
    counts: u64,
    ends: u64,
    fault: u64,
    count: u32,
    reserved: u32,
}

/// # Safety
/// Both arrays of the problem are valid on the device for `count` entries.
pub unsafe fn group_ends(queue: &Queue, p: &GroupEndsProblem) -> Result<()> {
    let params = Params {
        counts: p.counts.get().addr() as u64,
        ends: p.ends.get().addr() as u64,
        fault: queue.facts.fault,
        count: p.count as u32,
        reserved: 0,
    };
    let blocks = (p.count > 0) as u32;
    // SAFETY: the caller's promise; the struct is the kernel's.
    unsafe { queue.launch(&KERNELS[0], (blocks, 1, 1), THREADS, 0, &params) }
}
