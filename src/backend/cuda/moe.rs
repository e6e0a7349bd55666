//! Mixture of experts → launches of moe.cu. Twin of backend/cpu/moe.rs.
//!
//! The planners are pure: `steps` has routing, the sort and combining, `gather` the ways into expert order. Inside of a layer few
//! slots are sorted and gathered by one launch.

mod gather;
mod steps;

use super::context::DeviceFacts;
use super::launch::{Kernel, Queue};
use super::params::{self, address, mode};
use super::params_moe::*;
use crate::error::Result;
use crate::format::layout::ScaleLayout;
use crate::plan::memory::Matrix;
use crate::plan::moe::{
    CombineProblem, DispatchProblem, GatherProblem, PermuteProblem, RoundProblem, RouteProblem,
};
use crate::plan::quantize::Scales;
pub use gather::{DispatchLaunch, DispatchPlan, GatherLaunch, plan_dispatch, plan_gather, plan_round};
pub use steps::{plan_combine, plan_permute, plan_route};

const fn kernel(name: &'static str, registers: u32, threads: u32) -> Kernel {
    Kernel { file: "moe", name, registers, threads }
}

/// In the order of the constants below.
pub static KERNELS: &[Kernel] = &[
    kernel("nvfp4_moe_route", 80, 128),
    kernel("nvfp4_moe_route_many", 168, 128),
    kernel("nvfp4_moe_count", 64, 256),
    kernel("nvfp4_moe_place", 64, 256),
    kernel("nvfp4_moe_sources", 64, 256),
    kernel("nvfp4_moe_route_few", 64, 1024),
    kernel("nvfp4_moe_gather_codes", 64, 128),
    kernel("nvfp4_moe_scatter", 64, 128),
    kernel("nvfp4_moe_scatter_codes", 64, 128),
    kernel("nvfp4_moe_scatter_bf16", 64, 512),
    kernel("nvfp4_moe_scatter_f16", 64, 512),
    kernel("nvfp4_moe_scatter_any", 128, 256),
    kernel("nvfp4_moe_tokens_bf16", 48, 256),
    kernel("nvfp4_moe_tokens_f16", 48, 256),
    kernel("nvfp4_moe_tokens_bf16_each", 64, 512),
    kernel("nvfp4_moe_tokens_f16_each", 64, 512),
    kernel("nvfp4_moe_turn_128x4", 64, 1024),
    kernel("nvfp4_moe_turn_8x4", 64, 1024),
    kernel("nvfp4_moe_round_bf16", 80, 256),
    kernel("nvfp4_moe_dispatch", 128, 256),
    kernel("nvfp4_moe_dispatch_codes", 128, 256),
    kernel("nvfp4_moe_dispatch_bf16", 128, 256),
    kernel("nvfp4_moe_dispatch_f16", 128, 256),
    kernel("nvfp4_moe_dispatch_any", 128, 256),
    kernel("nvfp4_moe_combine_bf16", 102, 128),
    kernel("nvfp4_moe_combine_f16", 102, 128),
    kernel("nvfp4_moe_combine_any", 64, 256),
];

const ROUTE: usize = 0;
const ROUTE_MANY: usize = 1;
const COUNT: usize = 2;
const PLACE: usize = 3;
const SOURCES: usize = 4;
const ROUTE_FEW: usize = 5;
const GATHER_CODES: usize = 6;
const SCATTER: usize = 7;
const SCATTER_CODES: usize = 8;
/// Kernels that quantize, of bf16; those of f16 and of anything follow.
const SCATTER_QUANTIZE: usize = 9;
/// Of bf16, then of f16: rows that share a scale, then scales one an expert.
const TOKENS: usize = 12;
const TOKENS_EACH: usize = 14;
const TURN_128X4: usize = 16;
const TURN_8X4: usize = 17;
const ROUND: usize = 18;
const DISPATCH: usize = 19;
const DISPATCH_CODES: usize = 20;
const DISPATCH_QUANTIZE: usize = 21;
const COMBINE_BF16: usize = 24;
const COMBINE_F16: usize = 25;
const COMBINE_ANY: usize = 26;

/// One launch.
#[derive(Clone, Copy)]
pub struct Launch<P> {
    pub kernel: &'static Kernel,
    pub grid: (u32, u32),
    pub threads: u32,
    pub params: P,
}

impl<P: Copy> Launch<P> {
    fn new(kernel: usize, grid: (usize, usize), threads: usize, params: P) -> Launch<P> {
        Launch {
            kernel: &KERNELS[kernel],
            grid: (grid.0 as u32, grid.1 as u32),
            threads: threads as u32,
            params,
        }
    }

    /// # Safety
    /// The addresses in the parameters are valid on the device.
    unsafe fn run(&self, queue: &Queue) -> Result<()> {
        // SAFETY: the caller's promise; the struct is the kernel's.
        unsafe { queue.launch(self.kernel, (self.grid.0, self.grid.1, 1), self.threads, 0, &self.params) }
    }

    /// Behind a launch of the same call, which may still be at work: the kernel waits for it.
    ///
    /// # Safety
    /// As [`run`](Self::run).
    unsafe fn run_early(&self, queue: &Queue) -> Result<()> {
        let grid = (self.grid.0, self.grid.1, 1);
        // SAFETY: the caller's promise; the struct is the kernel's.
        unsafe { queue.launch_dependent(self.kernel, grid, self.threads, 0, &self.params) }
    }
}

/// # Safety
/// Every address of the problem is valid on the device for what its documentation says.
pub unsafe fn route(queue: &Queue, p: &RouteProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    plan_route(p, queue.facts).map_or(Ok(()), |launch| unsafe { launch.run(queue) })
}

/// # Safety
/// As [`route`].
pub unsafe fn permute(queue: &Queue, p: &PermuteProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { sort(queue, p, false) }
}

/// `early`: behind [`route`] of the same call, which may still be at work.
///
/// # Safety
/// As [`route`].
unsafe fn sort(queue: &Queue, p: &PermuteProblem, early: bool) -> Result<()> {
    // SAFETY: the caller's promise.
    let launches = plan_permute(p, queue.facts);
    launches.iter().flatten().enumerate().try_for_each(|(i, launch)| unsafe {
        if early || i > 0 { launch.run_early(queue) } else { launch.run(queue) }
    })
}

/// Behind [`permute`], which may still be at work.
///
/// # Safety
/// As [`route`]; the permutation was made by [`permute`].
unsafe fn gather(queue: &Queue, p: &GatherProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        match plan_gather(p, queue.facts) {
            None => Ok(()),
            Some(GatherLaunch::Values(launch)) => launch.run_early(queue),
            Some(GatherLaunch::Codes(launch)) => launch.run_early(queue),
            Some(GatherLaunch::Quantize(launch, turn)) => {
                launch.run_early(queue)?;
                turn.map_or(Ok(()), |turn| turn.run_early(queue))
            }
        }
    }
}

/// Behind the first product of a layer, which may still be at work.
///
/// # Safety
/// As [`route`].
pub unsafe fn round(queue: &Queue, p: &RoundProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    plan_round(p, queue.facts).map_or(Ok(()), |launch| unsafe { launch.run_early(queue) })
}

/// # Safety
/// As [`route`].
pub unsafe fn combine(queue: &Queue, p: &CombineProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    plan_combine(p, queue.facts).map_or(Ok(()), |launch| unsafe {
        if p.in_layer { launch.run_early(queue) } else { launch.run(queue) }
    })
}

/// # Safety
/// As [`route`].
pub unsafe fn dispatch(queue: &Queue, p: &DispatchProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let run_route = |launch: &Launch<RouteParams>| match p.dependent_launch {
            true => launch.run_early(queue),
            false => launch.run(queue),
        };
        let Some(plan) = plan_dispatch(p, queue.facts) else {
            let route = p.route.and_then(|route| plan_route(&route, queue.facts));
            route.as_ref().map_or(Ok(()), run_route)?;
            sort(queue, &p.gather.permute, p.dependent_launch || route.is_some())?;
            return gather(queue, &p.gather);
        };
        plan.route.as_ref().map_or(Ok(()), run_route)?;
        // Behind nothing of this call it is an ordinary launch, unless it may start early there too.
        match (&plan.gather, p.dependent_launch || plan.route.is_some()) {
            (DispatchLaunch::Values(launch), false) => launch.run(queue),
            (DispatchLaunch::Codes(launch), false) => launch.run(queue),
            (DispatchLaunch::Quantize(launch), false) => launch.run(queue),
            (DispatchLaunch::Values(launch), true) => launch.run_early(queue),
            (DispatchLaunch::Codes(launch), true) => launch.run_early(queue),
            (DispatchLaunch::Quantize(launch), true) => launch.run_early(queue),
        }
    }
}

/// CTAs that walk `units`, at most `each` of them an SM.
fn walkers(units: usize, each: usize, facts: &DeviceFacts) -> usize {
    units.min(each * facts.sm_count as usize)
}

fn all_multiples(of: usize, addresses: &[u64], sizes: &[usize]) -> bool {
    addresses.iter().all(|a| a.is_multiple_of(of as u64)) && sizes.iter().all(|s| s.is_multiple_of(of))
}

fn in_16_bytes(m: &Matrix) -> bool {
    all_multiples(16, &[address(m.base)], &[m.row_stride * m.dtype.bytes()])
}

/// Whether four neighbouring scales of a row, from a column that is a multiple of four on, are an aligned word.
fn in_words(s: &Scales) -> bool {
    let strides = if s.layout == ScaleLayout::Linear { s.row_stride } else { 0 };
    all_multiples(4, &[address(s.base)], &[strides])
}

#[cfg(test)]
mod tests;
