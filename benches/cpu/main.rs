//! The CPU backend beside its peers in one process: memcpy and a pure read for bandwidth, OpenBLAS for products.
//!
//!     ./run bench [--json FILE] [--threads N] [words of names]
//!
//! Every figure is a median; every ratio compares with a peer timed just before and after in the same run. Products
//! with few tokens run over weights larger than the caches.

mod peers;
mod products;
mod report;
mod rows;
#[path = "../../tests/support/mod.rs"]
mod support;

use report::Report;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (mut json, mut threads, mut words) = (None, 0, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = arguments.next(),
            "--threads" => threads = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            _ => words.push(argument),
        }
    }
    let threads =
        if threads == 0 { std::thread::available_parallelism().map_or(1, |n| n.get()) } else { threads };
    let mut report = Report::new(words);
    rows::run(&mut report);
    products::run(&mut report, threads);
    if let Some(path) = json {
        report.write(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
}
