//! NVFP4 quantization and matrix products for inference engines.
//!
//! The product is the C header `include/nvfp4.h`, generated from `ffi`. Rust programs may use [`api`], the same nouns
//! with handles as types. docs/numerics.md is the contract; docs/architecture.md says what lives where.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("libnvfp4 needs a 64-bit target");

pub mod api;
pub mod backend;
pub mod error;
pub mod ffi;
pub mod format;
pub mod plan;
pub mod process;
