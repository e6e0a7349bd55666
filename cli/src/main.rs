//! The `nvfp4` command: safetensors checkpoints in, NVFP4 checkpoints or tables out.
//!
//! Exit codes: 0 done, 1 the work failed (one line on stderr names the file and the problem), 2 wrong usage.

mod engine;
mod inspect;
mod output;
mod plan;
mod quantize;
mod report;
mod select;
mod source;
mod tune;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Why a command failed, as the sentence that the user reads.
type Result<T> = std::result::Result<T, String>;

#[derive(Parser)]
#[command(name = "nvfp4", version, about = "Quantize checkpoints to NVFP4 and look inside them")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a checkpoint whose linear weights are NVFP4: 4-bit codes, a scale byte for 16, one float for the tensor
    Quantize(quantize::Args),
    /// Show the tensors of a checkpoint and what they cost
    Inspect(inspect::Args),
    /// Measure which kernels are best for products of given shapes on this GPU, and keep the choices in a file
    Tune(tune::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Quantize(args) => quantize::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Tune(args) => tune::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("nvfp4: {problem}");
            ExitCode::FAILURE
        }
    }
}
