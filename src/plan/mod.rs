//! Pure descriptions of work: validated problems with every default resolved, and how they are laid out.
//! Nothing here runs anything; a backend takes a problem and carries it out, a graph keeps a copy of it.

mod cost_sm90;
pub mod dequantize;
pub mod forms_sm90;
pub mod gemm;
pub mod gemm_cuda;
pub mod gemm_sm90;
pub mod groups;
pub mod layouts;
pub mod memory;
pub mod moe;
pub mod quantize;
pub mod scratch;
pub mod tuning;
pub mod weights;

use memory::Ptr;

/// One call's work, ready for a backend: what a stream carries out or a graph records. It lives on the stack of a call: boxing
/// would allocate.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug)]
pub enum Job {
    Quantize(quantize::QuantizeProblem),
    Stage(quantize::StageProblem),
    Dequantize(dequantize::DequantizeProblem),
    MoveScales(layouts::ScaleLayoutProblem),
    Interleave(layouts::InterleaveProblem),
    GroupEnds(layouts::GroupEndsProblem),
    Export(weights::ExportProblem),
    Gemm(gemm::GemmProblem),
    /// A product inside of a layer: as `Gemm`, and its launch may start before the job in front has ended, for which it
    /// then waits before it reads anything.
    ChainedGemm(gemm::GemmProblem),
    /// A quantizer, and the product that alone reads its codes and scales, which a backend may therefore leave out.
    QuantizedGemm(quantize::QuantizeProblem, gemm::GemmProblem),
    Route(moe::RouteProblem),
    Permute(moe::PermuteProblem),
    Dispatch(moe::DispatchProblem),
    Round(moe::RoundProblem),
    Combine(moe::CombineProblem),
    Copy {
        dst: Ptr<u8>,
        src: Ptr<u8>,
        bytes: usize,
    },
}
