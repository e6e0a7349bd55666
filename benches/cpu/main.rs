//! The CPU backend beside its peers in one process: memcpy and a pure read for bandwidth, OpenBLAS for products.
//!
//!     ./run bench [--json FILE] [--threads N] [--isa portable|avx2|avx512] [words of names]
//!
//! Every figure is a median; every ratio compares with a peer timed just before and after in the same run. Products
//! with few tokens run over weights larger than the caches.

mod peers;
mod products;
mod report;
mod rows;
#[path = "../../tests/support/mod.rs"]
mod support;

use nvfp4::api::context::*;
use report::Report;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (mut json, mut threads, mut isa, mut words) = (None, 0, NVFP4_ISA_BEST, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = arguments.next(),
            "--threads" => threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            "--isa" => isa = isa_named(&arguments.next().unwrap_or_default()),
            _ => words.push(argument),
        }
    }
    let threads =
        if threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { threads };
    let mut report = Report::new(words);
    rows::run(&mut report, isa);
    products::run(&mut report, isa, threads);
    if let Some(path) = json {
        report.write(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}

fn isa_named(name: &str) -> nvfp4_isa {
    match name {
        "portable" => NVFP4_ISA_PORTABLE,
        "avx2" => NVFP4_ISA_AVX2,
        "avx512" => NVFP4_ISA_AVX512,
        other => panic!("--isa {other:?}: use portable, avx2 or avx512"),
    }
}
