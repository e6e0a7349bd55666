//! A team of threads that carries out one parallel loop at a time without allocating.
//!
//! Not rayon: its injector allocates a block every 63 submissions from outside the pool, and a run call of this library
//! allocates nothing. The caller works too. When the team is busy with another caller's loop, the caller does all the
//! work itself: streams share threads, never wait for each other, and results do not depend on who did what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;

use super::fpmode::FpMode;
use crate::error::{Error, Result};

pub struct Team {
    shared: Arc<Shared>,
    /// Held by the caller whose loop runs.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    /// The process that has the workers: a forked child only has their handles.
    process: u32,
}

struct Shared {
    state: Mutex<State>,
    /// A loop was posted, or the team closes.
    posted: Condvar,
    /// The last worker left a loop.
    finished: Condvar,
    /// Next index of the current loop.
    next: AtomicUsize,
}

struct State {
    /// Counts loops, so that a worker takes part in each at most once.
    round: u64,
    body: Option<Body>,
    /// Workers that may still enter the current loop.
    invited: usize,
    /// Workers inside the current loop.
    active: usize,
    panicked: bool,
    closing: bool,
}

/// The loop body with its lifetime taken off; `run` outlives every use.
#[derive(Clone, Copy)]
struct Body {
    call: *const (dyn Fn(usize) + Sync),
    count: usize,
}
// SAFETY: the pointee is Sync and `run` keeps it alive until no worker is inside the loop.
unsafe impl Send for Body {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Team {
    /// A team of `threads`, the caller counted: `threads` − 1 workers.
    pub fn new(threads: usize) -> Result<Team> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                round: 0,
                body: None,
                invited: 0,
                active: 0,
                panicked: false,
                closing: false,
            }),
            posted: Condvar::new(),
            finished: Condvar::new(),
            next: AtomicUsize::new(0),
        });
        let mut team =
            Team { shared, turn: Mutex::new(()), workers: Vec::new(), process: crate::process::id() };
        for i in 1..threads {
            let shared = Arc::clone(&team.shared);
            let worker = std::thread::Builder::new().name(format!("nvfp4-{i}")).spawn(move || work(&shared));
            match worker {
                Ok(handle) => team.workers.push(handle),
                Err(e) => {
                    return Err(Error::Unsupported {
                        what: format!("a team of {threads} threads ({e})"),
                        next: "ask for fewer threads",
                    });
                }
            }
        }
        Ok(team)
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// The right to post a loop, unless somebody has it.
    fn take_turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            // A loop panicked, but `Finish` has left everything in order.
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Calls `body(i)` for every i below `count`, in any order, and returns when all are done.
    pub fn run(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        let turn = if count > 1 && !self.workers.is_empty() { self.take_turn() } else { None };
        if turn.is_none() {
            return (0..count).for_each(body);
        }
        // SAFETY: only the lifetime changes; `Finish` keeps this frame until every worker has left the loop.
        let call = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync), *const (dyn Fn(usize) + Sync + 'static)>(
                body,
            )
        };
        {
            let mut state = lock(&self.shared.state);
            self.shared.next.store(0, Ordering::Relaxed);
            state.round += 1;
            state.body = Some(Body { call, count });
            state.invited = self.workers.len().min(count - 1);
        }
        if count > self.workers.len() {
            self.shared.posted.notify_all();
        } else {
            (1..count).for_each(|_| self.shared.posted.notify_one());
        }
        let finish = Finish(&self.shared);
        self.shared.drain(count, body);
        drop(finish);
        let panicked = std::mem::take(&mut lock(&self.shared.state).panicked);
        assert!(!panicked, "a worker thread panicked");
    }
}

impl Shared {
    fn drain(&self, count: usize, body: &(dyn Fn(usize) + Sync)) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            body(i);
        }
    }
}

/// Withdraws the loop and waits for the workers inside it, also when the caller's own share panics.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        // After a panic of the caller nobody needs the rest of the loop.
        self.0.next.fetch_add(usize::MAX / 2, Ordering::Relaxed);
        let mut state = lock(&self.0.state);
        state.body = None;
        state.invited = 0;
        while state.active > 0 {
            state = self.0.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(shared: &Shared) {
    let _mode = FpMode::enter();
    let mut seen = 0;
    let mut state = lock(&shared.state);
    loop {
        if state.closing {
            return;
        }
        let Some(body) = state.body.filter(|_| state.round != seen && state.invited > 0) else {
            state = shared.posted.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        seen = state.round;
        state.invited -= 1;
        state.active += 1;
        drop(state);
        // SAFETY: `active` was raised while the body was posted, so its owner waits for this worker.
        let call = unsafe { &*body.call };
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.drain(body.count, call)));
        state = lock(&shared.state);
        state.panicked |= outcome.is_err();
        state.active -= 1;
        if state.active == 0 {
            shared.finished.notify_all();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if self.process != crate::process::id() {
            // There is nobody to join, and a worker may have held the lock when the process forked.
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        lock(&self.shared.state).closing = true;
        self.shared.posted.notify_all();
        for worker in self.workers.drain(..) {
            // A worker never returns an error: its loop catches panics.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn every_index_runs_once() {
        let team = Team::new(3).unwrap();
        for count in [0usize, 1, 2, 3, 100] {
            for _ in 0..200 {
                let seen: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
                team.run(count, &|i| {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn a_busy_team_does_not_block_a_second_caller() {
        let team = Team::new(2).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let sum = AtomicUsize::new(0);
                        team.run(9, &|i| {
                            sum.fetch_add(i, Ordering::Relaxed);
                        });
                        assert_eq!(sum.into_inner(), 36);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::new(2).unwrap();
        for _ in 0..20 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                team.run(8, &|i| {
                    if i == 5 {
                        std::panic::resume_unwind(Box::new("expected"));
                    }
                })
            }));
            assert!(outcome.is_err());
            assert!(team.take_turn().is_some(), "the next loop has to run alone");
            team.run(8, &|_| {});
        }
    }
}
