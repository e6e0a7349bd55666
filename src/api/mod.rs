//! Safe Rust of the header's nouns and verbs: every argument rule lives here, one noun or verb a file.
//! What passes becomes a problem of `plan`, which a stream carries out or records.

pub mod buffer;
mod capture;
mod check;
pub mod context;
pub mod dequantize;
pub mod event;
pub mod gemm;
pub mod graph;
pub mod handles;
pub mod info;
pub mod layouts;
pub mod linear;
pub mod moe;
pub mod norm;
mod operand;
pub mod operation;
pub mod quantize;
mod regions;
pub mod stage;
pub mod stream;
pub mod swiglu;
pub mod tuning;
pub mod types;
pub mod weights;
