//! Grouped products beside OpenBLAS on the same number of float32 weights, and beside a pure read of the weights.

use std::ptr::null_mut;

use nvfp4::api::context::nvfp4_isa;
use nvfp4::api::gemm::nvfp4_grouped_gemm_args;
use nvfp4::api::handles::nvfp4_weights;
use nvfp4::api::types::*;
use nvfp4::api::weights::nvfp4_weights_prepare_args;
use nvfp4::ffi::*;

use crate::peers::{OpenBlas, read_all};
use crate::report::{Report, race};
use crate::support::{Library, Memory, check};

/// Weights of the products with few tokens: 1.6 GB of codes and scales, more than any cache.
const STREAMED: (usize, usize, usize) = (64, 6144, 7168);
/// Weights of the products with many tokens.
const DENSE: (usize, usize, usize) = (1, 4096, 4096);

pub fn run(report: &mut Report, isa: nvfp4_isa, threads: usize) {
    let Some(blas) = OpenBlas::load(threads) else {
        println!("products: skipped, NVFP4_OPENBLAS names no OpenBLAS");
        return;
    };
    let library = Library::new(isa, threads as u32).expect("a context");
    streamed(report, &library, &blas, threads);
    dense(report, &library, &blas, threads);
}

/// One token for each of many experts: bound by the bytes of the weights.
fn streamed(report: &mut Report, library: &Library, blas: &OpenBlas, threads: usize) {
    let (groups, n, k) = STREAMED;
    if ["bf16", "NVFP4"].iter().all(|a| [1, 4, 16].iter().all(|m| !report.wants(&streamed_name(a, *m)))) {
        return;
    }
    let weights = Weights::new(library, STREAMED);
    let count = (groups * n * k) as f64;
    let bytes = count * 4.5 / 8.0;
    // The same kind of matrix in float32, as many experts as make 1.4 GB.
    let experts = 8;
    let floats = vec![0.5f32; experts * n * k];
    let (x, mut y) = (vec![1.0f32; k], vec![0f32; n]);
    for activations in ["bf16", "NVFP4"] {
        for tokens in [1, 4, 16] {
            let name = streamed_name(activations, tokens);
            if !report.wants(&name) {
                continue;
            }
            let mut product = Product::new(library, &weights, tokens, activations == "NVFP4");
            let (ours, read) = race(|| product.run(library), || read_all(weights.storage.bytes(), threads));
            let read_rate = weights.storage.bytes().len() as f64 / read / 1e9;
            report.add(
                &name,
                "GB/s",
                bytes / ours / 1e9,
                &format!("pure read, {threads} threads"),
                read_rate,
            );
            if tokens == 1 {
                let (ours, sgemv) = race(
                    || product.run(library),
                    || floats.chunks(n * k).for_each(|w| blas.sgemv(w, &x, &mut y)),
                );
                let peer = (experts * n * k) as f64 / sgemv / 1e9;
                let reference = format!("OpenBLAS sgemv, {threads} threads");
                report.add(&name, "Gweights/s", count / ours / 1e9, &reference, peer);
            }
        }
    }
}

fn streamed_name(activations: &str, tokens: usize) -> String {
    let (groups, n, k) = STREAMED;
    format!("grouped gemm {groups}x{k}->{n}, {activations}, {tokens} tokens a group")
}

/// Many tokens of one expert: bound by arithmetic.
fn dense(report: &mut Report, library: &Library, blas: &OpenBlas, threads: usize) {
    let (_, n, k) = DENSE;
    let weights = Weights::new(library, DENSE);
    let floats = vec![0.5f32; n * k];
    for tokens in [32, 128, 512, 2048] {
        let (x, mut y) = (vec![1.0f32; tokens * k], vec![0f32; tokens * n]);
        for activations in ["bf16", "NVFP4"] {
            let name = format!("gemm {k}->{n}, {activations}, {tokens} tokens");
            if !report.wants(&name) {
                continue;
            }
            let mut product = Product::new(library, &weights, tokens, activations == "NVFP4");
            let (ours, sgemm) =
                race(|| product.run(library), || blas.sgemm(&x, &floats, &mut y, (tokens, n, k)));
            let flops = 2.0 * (tokens * n * k) as f64;
            let reference = format!("OpenBLAS sgemm, {threads} threads");
            report.add(&name, "GFLOP/s", flops / ours / 1e9, &reference, flops / sgemm / 1e9);
        }
    }
}

/// Random canonical weights, prepared.
struct Weights {
    handle: *mut nvfp4_weights,
    storage: Memory,
    shape: (usize, usize, usize),
}

impl Weights {
    fn new(library: &Library, (groups, n, k): (usize, usize, usize)) -> Weights {
        let codes = Memory::from(&random_bytes(groups * n * k / 2, 0..=255));
        // Scales around 1, so that sums stay finite in every output type.
        let scales = Memory::from(&random_bytes(groups * n * k / 16, 0x30..=0x3F));
        let decode: Vec<u8> = (0..groups).flat_map(|_| 0.01f32.to_le_bytes()).collect();
        let decode = Memory::from(&decode);
        let mut args = nvfp4_weights_prepare_args {
            struct_size: size_of::<nvfp4_weights_prepare_args>(),
            groups: groups as i64,
            rows: n as i64,
            cols: k as i64,
            codes: codes.ptr(),
            scales: scales.ptr(),
            decode_scales: decode.ptr(),
            ..Default::default()
        };
        let (mut handle, mut bytes) = (null_mut(), 0);
        // SAFETY: the buffers cover the shapes.
        unsafe {
            check(nvfp4_weights_storage_size(library.context, &args, &mut bytes)).unwrap();
            let mut storage = Memory::poisoned(bytes, 0);
            (args.storage, args.storage_size) = (storage.ptr_mut(), bytes);
            check(nvfp4_weights_prepare(library.context, &args, library.stream, &mut handle)).unwrap();
            Weights { handle, storage, shape: (groups, n, k) }
        }
    }
}

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: the handle of this value.
        unsafe { nvfp4_weights_destroy(self.handle) };
    }
}

/// A product with `tokens` rows for each group and everything it reads and writes.
struct Product {
    args: nvfp4_grouped_gemm_args,
    _memory: [Memory; 6],
}

impl Product {
    fn new(library: &Library, weights: &Weights, tokens: usize, quantized: bool) -> Product {
        let (groups, n, k) = weights.shape;
        let rows = groups * tokens;
        let ends: Vec<u8> = (1..=groups).flat_map(|e| ((e * tokens) as i32).to_le_bytes()).collect();
        let values: Vec<u8> =
            random_bytes(rows * k, 0..=255).iter().flat_map(|b| [*b, 0x3F & (b | 0x30)]).collect();
        let mut memory = [
            Memory::from(&ends),
            Memory::from(&values),
            Memory::from(&random_bytes(rows * k / 2, 0..=255)),
            Memory::from(&random_bytes(rows * k / 16, 0x30..=0x3F)),
            Memory::poisoned(rows * n * 2, 0),
            Memory::poisoned(0, 0),
        ];
        let mut args = nvfp4_grouped_gemm_args {
            struct_size: size_of::<nvfp4_grouped_gemm_args>(),
            weights: weights.handle,
            rows: rows as i64,
            groups: nvfp4_groups {
                grouping: NVFP4_GROUPING_ENDS,
                count: groups as u32,
                ends: memory[0].ptr(),
                ..Default::default()
            },
            out: memory[4].ptr_mut(),
            ..Default::default()
        };
        if quantized {
            args.a_dtype = NVFP4_DTYPE_NVFP4;
            args.a_quantized.codes = memory[2].ptr();
            args.a_quantized.scales = memory[3].ptr();
        } else {
            args.a = memory[1].ptr();
        }
        let mut bytes = 0;
        // SAFETY: the buffers cover the shapes.
        unsafe { check(nvfp4_grouped_gemm_workspace_size(library.context, &args, &mut bytes)).unwrap() };
        memory[5] = Memory::poisoned(bytes, 0);
        (args.workspace, args.workspace_size) = (memory[5].ptr_mut(), bytes);
        Product { args, _memory: memory }
    }

    fn run(&mut self, library: &Library) {
        // SAFETY: the buffers live as long as this value.
        unsafe { check(nvfp4_grouped_gemm(library.context, &self.args, library.stream)).unwrap() }
    }
}

fn random_bytes(len: usize, range: std::ops::RangeInclusive<u8>) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let (low, span) = (*range.start() as u64, (*range.end() - *range.start()) as u64 + 1);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (low + (state >> 32) % span) as u8
        })
        .collect()
}
