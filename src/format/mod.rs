//! The bits of NVFP4: value formats, rounding, block quantization, scale layouts and the fixed-order arithmetic
//! of docs/numerics.md. Pure functions on values and slices; no memory is owned, nothing is parallel.
//! `kernels/format.cuh` is its twin on the GPU.

pub mod block;
pub mod dtype;
pub mod e2m1;
pub mod e4m3;
pub mod layout;
pub mod math;
pub mod route;

/// Values that share one E4M3 scale.
pub const BLOCK: usize = 16;
