//! The C surface: one noun or verb a file, each function a few lines over `api`.
//!
//! `guard` is the only place that catches panics, `args` the only one that follows pointers to structs, `handle` the
//! only one that turns a C handle into an object. The doc comments here are the header's.
#![allow(non_camel_case_types)]

pub mod args;
pub mod guard;
pub mod handle;
mod operation;

pub mod buffer;
pub mod context;
pub mod dequantize;
pub mod event;
pub mod gemm;
pub mod graph;
pub mod layouts;
pub mod norm;
pub mod quantize;
pub mod stage;
pub mod stream;
pub mod swiglu;
pub mod table;
pub mod tuning;
pub mod version;
pub mod weights;

pub use buffer::*;
pub use context::*;
pub use dequantize::*;
pub use event::*;
pub use gemm::*;
pub use graph::*;
pub use layouts::*;
pub use norm::*;
pub use quantize::*;
pub use stage::*;
pub use stream::*;
pub use swiglu::*;
pub use table::*;
pub use tuning::*;
pub use version::*;
pub use weights::*;
