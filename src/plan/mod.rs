//! Pure descriptions of work: validated problems with every default resolved, and how they are laid out.
//! Nothing here runs anything; a backend takes a problem and carries it out, a graph keeps a copy of it.

pub mod dequantize;
pub mod gemm;
pub mod groups;
pub mod layouts;
pub mod memory;
pub mod quantize;
pub mod weights;
