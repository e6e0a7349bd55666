//! Runs golden cases through the C ABI, on every instruction set and with both poisons, and compares every byte.
//!
//!     cargo test --test golden                      the cases in tests/vectors/golden
//!     NVFP4_GOLDEN=DIR cargo test --test golden     the cases of another directory (`./run golden DIR`)
//!     NVFP4_TEST_DEVICE=cuda …                      on GPU 0, through buffers of the library (`staged`: so on the CPU)

mod case;
mod gemm;
mod quantizers;
#[path = "../support/mod.rs"]
mod support;
mod units;

use case::Case;
use std::path::PathBuf;
use std::process::ExitCode;
use support::{Library, device};

/// What outputs are filled with before a call.
const POISONS: [u8; 2] = [0xA5, 0x5A];

type Check = fn(&Library, &Case, u8) -> Result<(), String>;

/// Operations that the header does not offer: they go through the crate, so a device has nothing to run.
const OF_THE_CRATE: [&str; 3] = ["valid_ends", "fma", "exp"];

/// The operations of the case format.
const CHECKS: [(&str, Check); 13] = [
    ("quantize_dynamic", quantizers::dynamic),
    ("quantize_static", quantizers::fixed),
    ("rmsnorm_quantize", quantizers::rmsnorm),
    ("hc_rmsnorm_quantize", quantizers::hyper),
    ("swiglu_quantize", quantizers::swiglu),
    ("relu2", quantizers::relu2),
    ("grouped_gemm", gemm::grouped),
    ("swizzle", units::swizzle),
    ("interleave_gate_up", units::interleave),
    ("valid_ends", units::valid_ends),
    ("fma", units::fma),
    ("exp", units::exp),
    ("moe_route", units::route),
];

fn main() -> ExitCode {
    let dir = std::env::var_os("NVFP4_GOLDEN").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/golden"),
        PathBuf::from,
    );
    let cases = match case::read(&dir) {
        Ok(cases) => cases,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let libraries = match Library::on_device() {
        None => Library::all(2).into_iter().chain([Library::staged()]).collect(),
        Some(Ok(device)) => vec![device],
        Some(Err(reason)) => {
            println!("skipped: {reason}");
            return ExitCode::SUCCESS;
        }
    };
    let device = device::asked().is_some();
    let names: Vec<&str> = libraries.iter().map(|l| l.name).collect();
    println!("{} cases of {} on {}", cases.len(), dir.display(), names.join(", "));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for case in &cases {
        let Some((_, check)) = CHECKS.iter().find(|(op, _)| *op == case.op) else {
            println!("skipped {}: operation {} is not known", case.name, case.op);
            skipped += 1;
            continue;
        };
        if device && OF_THE_CRATE.contains(&case.op.as_str()) {
            println!("skipped {}: the header has no {}", case.name, case.op);
            skipped += 1;
            continue;
        }
        let mut problems = Vec::new();
        for library in &libraries {
            for poison in POISONS {
                if let Err(problem) = check(library, case, poison) {
                    problems.push(format!("{} poison {poison:#x}: {problem}", library.name));
                }
            }
        }
        // A check that lets a wrong bit pass is none.
        let library = libraries.last().expect("a library");
        if !OF_THE_CRATE.contains(&case.op.as_str())
            && let Some(spoiled) = case.spoiled()
            && check(library, &spoiled, POISONS[0]).is_ok()
        {
            problems.push(format!("{}: a wrong output passes", library.name));
        }
        if problems.is_empty() {
            passed += 1;
        } else {
            failed += 1;
            println!("FAILED {}\n    {}", case.name, problems.join("\n    "));
        }
    }
    let skipped = if skipped == 0 { String::new() } else { format!(", {skipped} skipped") };
    println!("{passed} passed, {failed} failed{skipped}");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
