//! The `nvfp4` command: safetensors checkpoints in, NVFP4 checkpoints or tables out.
//!
//! Exit codes: 0 done, 1 the work failed (one line on stderr names the file and the problem), 2 wrong usage.

use clap::{Parser, Subcommand};
use nvfp4_cli::{bench, convert, doctor, inspect, quantize, report, tune, verify};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "nvfp4", version, about = "Make, convert, check and look inside NVFP4 checkpoints")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a checkpoint whose linear weights are NVFP4: 4-bit codes, a scale byte for 16, one float for the tensor
    Quantize(quantize::Args),
    /// Translate an NVFP4 checkpoint between ModelOpt's form and that of compressed-tensors, bytes unchanged
    Convert(convert::Args),
    /// Show the tensors of a checkpoint and what they cost
    Inspect(inspect::Args),
    /// Measure what an NVFP4 checkpoint lost against the original, tensor by tensor
    Verify(verify::Args),
    /// Time the quantizer and the product on this machine
    Bench(bench::Args),
    /// Tell what this machine, driver and build can do, and what is missing
    Doctor(doctor::Args),
    /// Measure which kernels are best for products of given shapes on this GPU, and keep the choices in a file
    Tune(tune::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Quantize(args) => quantize::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Tune(args) => tune::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("nvfp4: {}", report::shown(&problem));
            ExitCode::FAILURE
        }
    }
}
