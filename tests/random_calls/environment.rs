//! What the environment asks of `device.rs`, which says what the names mean.

use std::time::Instant;

/// Says what has taken how long, where NVFP4_TEST_TRACE asks for it.
pub fn trace(begun: Instant, what: impl Fn() -> String) {
    if number("NVFP4_TEST_TRACE", 0) != 0 {
        println!("{}: {:.2} s", what(), begun.elapsed().as_secs_f32());
    }
}

pub fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

/// Whether NVFP4_TEST_CORPUS lists this kind of calls.
pub fn wanted(kind: &str) -> bool {
    std::env::var("NVFP4_TEST_CORPUS").map_or(true, |all| all.split(',').any(|one| one == kind))
}
