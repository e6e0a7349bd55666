//! Measured choices of a device: kept here, made here by timing every legal way of carrying out a product.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::context::Device;
use super::driver::*;
use super::gemm;
use super::stream::{Event, Stream};
use crate::error::{Error, Result};
use crate::plan::gemm::GemmProblem;
use crate::plan::gemm_sm90::{self, Plan};
use crate::plan::memory::Ptr;
use crate::plan::tuning::{Choice, Key, Machine, Tuning};

/// The choices that the planner is given; none at first, which costs a call one load.
#[derive(Default)]
pub struct Tunings {
    any: AtomicBool,
    tuning: RwLock<Option<Arc<Tuning>>>,
}

impl Tunings {
    pub fn get(&self) -> Option<Arc<Tuning>> {
        match self.any.load(Ordering::Acquire) {
            false => None,
            true => self.tuning.read().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Takes the place of what was there.
    pub fn replace(&self, tuning: Option<Tuning>) {
        self.change(|old| *old = tuning.filter(|t| !t.is_empty()).map(Arc::new));
    }

    fn add(&self, key: Key, choice: Choice) {
        self.change(|old| Arc::make_mut(old.get_or_insert_default()).set(key, choice));
    }

    fn change(&self, edit: impl FnOnce(&mut Option<Arc<Tuning>>)) {
        let mut tuning = self.tuning.write().unwrap_or_else(PoisonError::into_inner);
        edit(&mut tuning);
        self.any.store(tuning.is_some(), Ordering::Release);
    }
}

/// What a measurement found.
pub struct Measured {
    pub candidates: usize,
    /// Microseconds of what the planner takes by itself, and of the choice.
    pub default_us: f32,
    pub best_us: f32,
    pub choice: Choice,
}

/// A choice has to be this much faster than the planner's own: less is noise, and splits cost workspace.
const WORTH: f32 = 0.98;

impl Device {
    /// Where choices hold: here.
    pub fn tuning_machine(&self) -> Result<Machine> {
        let mut driver = 0;
        // SAFETY: a valid pointer.
        unsafe { self.driver.cuDriverGetVersion(&mut driver)? };
        Ok(Machine {
            library: env!("CARGO_PKG_VERSION").into(),
            device: self.name().into(),
            compute_capability: self.facts.compute_capability,
            processors: self.facts.sm_count,
            driver,
        })
    }

    /// The choices in use.
    pub fn tuning(&self) -> Tuning {
        self.tuning.get().map(|tuning| (*tuning).clone()).unwrap_or_default()
    }

    pub fn set_tuning(&self, tuning: Option<Tuning>) {
        self.tuning.replace(tuning);
    }

    /// Times every legal choice for a product, each with a cold cache, and keeps the best. Allocates and waits. None
    /// where there is nothing to choose.
    ///
    /// # Safety
    /// Every address of the problem is valid on the device for what its documentation says, but for the workspace, which
    /// is not looked at; the stream does not capture.
    pub unsafe fn tune(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        p: &GemmProblem,
        repeats: usize,
    ) -> Result<Option<Measured>> {
        if p.batch_invariant || p.groups.count() == 0 || p.groups.total_rows() == 0 {
            return Ok(None);
        }
        let machine = gemm::machine(&self.facts);
        let choices = gemm_sm90::candidates(p, &machine);
        let plans: Vec<Plan> =
            choices.iter().filter_map(|choice| gemm_sm90::plan_choice(p, &machine, choice)).collect();
        let most = plans.iter().map(|plan| plan.workspace_bytes()).max().unwrap_or(0);
        let workspace = self.allocate(most.max(1), stream)?;
        let times = self.allocate(2 * self.facts.l2_bytes.max(1), stream).and_then(|cache| {
            let p = GemmProblem {
                workspace: Ptr::from_mut(std::ptr::without_provenance_mut(workspace.address as usize)),
                ..*p
            };
            // SAFETY: the caller's promise; the workspace suffices for every plan.
            let times =
                unsafe { time(self, stream, &p, &plans, (cache.address, 2 * self.facts.l2_bytes), repeats) };
            self.free(cache);
            times
        });
        self.free(workspace);
        let times = times?;
        let (mut best, default_us) = (0, times[0]);
        for (at, &us) in times.iter().enumerate() {
            if us < times[best] && us < WORTH * default_us {
                best = at;
            }
        }
        let choice = choices[best].clone();
        self.tuning.add(Key::of(p), choice.clone());
        Ok(Some(Measured { candidates: choices.len(), default_us, best_us: times[best], choice }))
    }
}

/// Medians in microseconds. Rounds go through all plans, so that a clock that drifts drifts for all.
unsafe fn time(
    device: &Arc<Device>,
    stream: &Arc<Stream>,
    p: &GemmProblem,
    plans: &[Plan],
    cache: (CUdeviceptr, usize),
    repeats: usize,
) -> Result<Vec<f32>> {
    let (start, end) = (Event::create(device)?, Event::create(device)?);
    let mut times = vec![Vec::with_capacity(repeats); plans.len()];
    for round in 0..=repeats {
        for (plan, times) in plans.iter().zip(&mut times) {
            stream.run(|driver, queue| {
                // SAFETY: live memory of the pool; the rest is the caller's promise.
                unsafe {
                    driver.cuMemsetD32Async(cache.0, round as u32, cache.1 / 4, queue.stream)?;
                    driver.cuEventRecord(start.native(), queue.stream)?;
                    gemm::gemm_as(queue, p, plan, false)?;
                    driver.cuEventRecord(end.native(), queue.stream)?;
                    driver.cuEventSynchronize(end.native())
                }
            })?;
            let mut milliseconds = 0.0;
            // SAFETY: both events were reached.
            stream.run(|driver, _| unsafe {
                driver.cuEventElapsedTime(&mut milliseconds, start.native(), end.native())
            })?;
            // The first round loads kernels.
            if round > 0 {
                times.push(milliseconds * 1e3);
            }
        }
    }
    let median = |times: &mut Vec<f32>| {
        times.sort_by(f32::total_cmp);
        times.get(times.len() / 2).copied()
    };
    let medians: Option<Vec<f32>> = times.iter_mut().map(median).collect();
    medians.ok_or_else(|| Error::Internal { message: "a measurement without repeats".into() })
}
