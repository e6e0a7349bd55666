//! What the environment asks of `device.rs`, which says what the names mean.

use std::time::Instant;

/// Says that something begins and, when this is dropped, how long it took, where NVFP4_TEST_TRACE asks for it: what has begun
/// and has no time is what a process hangs in.
pub struct Traced(Option<(String, Instant)>);

impl Traced {
    pub fn begin(what: impl Fn() -> String) -> Traced {
        let asked = number("NVFP4_TEST_TRACE", 0) != 0;
        Traced(asked.then(|| {
            println!("{} begins", what());
            (what(), Instant::now())
        }))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if let Some((what, begun)) = &self.0 {
            println!("{what}: {:.2} s", begun.elapsed().as_secs_f32());
        }
    }
}

pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Whether NVFP4_TEST_CORPUS lists this kind of calls.
pub fn wanted(kind: &str) -> bool {
    std::env::var("NVFP4_TEST_CORPUS").map_or(true, |all| all.split(',').any(|one| one == kind))
}
