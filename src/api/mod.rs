//! Safe Rust of the header's nouns and verbs: every argument rule lives here, one noun or verb a file.
//! What passes becomes a problem of `plan`, which a stream carries out or records.

pub mod buffer;
mod check;
pub mod context;
pub mod dequantize;
pub mod gemm;
pub mod handles;
pub mod layouts;
pub mod linear;
pub mod moe;
pub mod norm;
mod operand;
pub mod quantize;
pub mod stage;
pub mod stream;
pub mod swiglu;
pub mod types;
pub mod weights;
