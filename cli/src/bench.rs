//! `nvfp4 bench`: the quantizer and the product of one shape, timed on this machine's CPU or GPU through the library.
//! A figure to begin with; `./run bench` of the source tree compares with peers in one run.

use crate::report;
use crate::{Result, quantize::pretty};
use nvfp4::api::buffer::Buffer;
use nvfp4::api::context::{
    Context, NVFP4_BACKEND_CPU, NVFP4_BACKEND_CUDA, nvfp4_context_options, nvfp4_prepare_args,
};
use nvfp4::api::gemm::{grouped_gemm, grouped_gemm_workspace_size, nvfp4_grouped_gemm_args};
use nvfp4::api::quantize::{nvfp4_quantize_args, quantize, quantize_workspace_size};
use nvfp4::api::stream::Stream;
use nvfp4::api::types::*;
use nvfp4::api::weights::{NVFP4_WEIGHTS_SOURCE_VALUES, Weights, nvfp4_weights_prepare_args};
use serde_json::{Value, json};
use std::ffi::c_void;
use std::time::Instant;

#[derive(Clone, Copy, clap::ValueEnum)]
enum Device {
    Cpu,
    Cuda,
}

#[derive(clap::Args)]
pub struct Args {
    /// Where
    #[arg(long, value_enum, default_value = "cpu")]
    device: Device,
    /// GPU ordinal
    #[arg(long, default_value_t = 0)]
    ordinal: u32,
    /// Rows of the activations
    #[arg(long, short, default_value_t = 256)]
    m: i64,
    /// Rows of the weight
    #[arg(long, short, default_value_t = 2048)]
    n: i64,
    /// Columns of both, a multiple of 16
    #[arg(long, short, default_value_t = 2048)]
    k: i64,
    /// Runs of each, of which the median counts
    #[arg(long, default_value_t = 11)]
    runs: usize,
    /// CPU threads; 0: all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

struct Bench {
    context: Context,
    stream: Stream,
    runs: usize,
}

pub fn run(args: &Args) -> Result<()> {
    let cells = |a: i64, b: i64| a.checked_mul(b).filter(|&c| a > 0 && b > 0 && c <= 1 << 36);
    if [(args.m, args.k), (args.n, args.k), (args.m, args.n)].iter().any(|&(a, b)| cells(a, b).is_none()) {
        return Err(format!(
            "shape {} x {} x {}: each must be above 0, and a matrix of a size that fits",
            args.m, args.n, args.k
        ));
    }
    let options = nvfp4_context_options {
        struct_size: size_of::<nvfp4_context_options>(),
        backend: match args.device {
            Device::Cpu => NVFP4_BACKEND_CPU,
            Device::Cuda => NVFP4_BACKEND_CUDA,
        },
        device: args.ordinal,
        threads: args.threads,
        ..Default::default()
    };
    let context = Context::create(&options).map_err(|e| e.to_string())?;
    let prepare = nvfp4_prepare_args { struct_size: size_of::<nvfp4_prepare_args>(), ..Default::default() };
    context.prepare(&prepare, None).map_err(|e| e.to_string())?;
    let stream = Stream::create(&context).map_err(|e| e.to_string())?;
    let bench = Bench { context, stream, runs: args.runs.max(1) };
    let (m, n, k) = (args.m, args.n, args.k);
    let a = bench.values(m * k)?;
    let quantizer = bench.quantizer(&a, m, k)?;
    let product = bench.product(&a, m, n, k)?;

    let bytes = (m * k) as f64 * (2.0 + 0.5 + 1.0 / 16.0);
    let operations = 2.0 * (m * n * k) as f64;
    let rows: [(&str, f64, String, f64); 2] = [
        ("quantize", quantizer, format!("[{m}, {k}] bf16, per row"), bytes / quantizer * 1e-9),
        ("gemm", product, format!("[{m}, {k}] bf16 x [{n}, {k}] NVFP4"), operations / product * 1e-12),
    ];
    let info = bench.context.info();
    let device: String = info.name.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect();
    if args.json {
        let one = |r: &(&str, f64, String, f64)| {
            let unit = if r.0 == "gemm" { "tflops" } else { "gigabytes_per_second" };
            json!({ "operation": r.0, "shape": r.2, "microseconds": r.1 * 1e6, unit: r.3 })
        };
        let all: Vec<Value> = rows.iter().map(one).collect();
        report::print(&pretty(&json!({ "device": device, "runs": bench.runs, "results": all })));
    } else {
        let mut table = vec![["operation", "shape", "median µs", "rate"].map(String::from).to_vec()];
        for (name, seconds, shape, rate) in rows {
            let unit = if name == "gemm" { "TFLOP/s" } else { "GB/s" };
            table.push(vec![
                name.into(),
                shape,
                format!("{:.1}", seconds * 1e6),
                format!("{rate:.3} {unit}"),
            ]);
        }
        report::print(&format!("{device}, median of {} runs\n{}", bench.runs, report::table(&table, &[2])));
    }
    Ok(())
}

impl Bench {
    fn buffer(&self, bytes: usize) -> Result<Buffer> {
        Buffer::create(&self.context, bytes.max(1), &self.stream).map_err(|e| e.to_string())
    }

    /// Random bf16 of magnitudes between 2^-8 and 2.
    fn values(&self, count: i64) -> Result<Buffer> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let bits = (0..count).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let random = (state >> 40) as u16;
            ((random & 0x807F) | ((119 + ((state >> 58) & 7) as u16) << 7)).to_le_bytes()
        });
        let host: Vec<u8> = bits.collect();
        let buffer = self.buffer(host.len())?;
        // SAFETY: the host bytes live until the synchronisation below.
        unsafe { buffer.upload(0, host.as_ptr(), host.len(), &self.stream) }.map_err(|e| e.to_string())?;
        self.stream.synchronize().map_err(|e| e.to_string())?;
        Ok(buffer)
    }

    /// The median of several runs in seconds, after one to warm up.
    fn time(&self, mut run: impl FnMut() -> nvfp4::error::Result<()>) -> Result<f64> {
        let mut times = Vec::new();
        for i in 0..=self.runs {
            let began = Instant::now();
            run().and_then(|()| self.stream.synchronize()).map_err(|e| e.to_string())?;
            if i > 0 {
                times.push(began.elapsed().as_secs_f64());
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    fn quantizer(&self, a: &Buffer, m: i64, k: i64) -> Result<f64> {
        let (codes, scales, decode) = (
            self.buffer((m * k / 2) as usize)?,
            self.buffer((m * k / 16) as usize)?,
            self.buffer(m as usize * 4)?,
        );
        let mut args = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: a.data().cast::<c_void>(),
            src_dtype: NVFP4_DTYPE_BF16,
            rows: m,
            cols: k,
            out: nvfp4_quantized {
                codes: codes.data(),
                scales: scales.data(),
                scope: NVFP4_SCOPE_ROW,
                decode_scales: decode.data().cast(),
                ..Default::default()
            },
            ..Default::default()
        };
        args.workspace_size = quantize_workspace_size(&self.context, &args).map_err(|e| e.to_string())?;
        let workspace = self.buffer(args.workspace_size)?;
        if args.workspace_size > 0 {
            args.workspace = workspace.data().cast();
        }
        // SAFETY: buffers of the stated shapes, alive until the work is done.
        self.time(|| unsafe { quantize(&self.context, &args, &self.stream) })
    }

    fn product(&self, a: &Buffer, m: i64, n: i64, k: i64) -> Result<f64> {
        let values = self.values(n * k)?;
        let mut prepare = nvfp4_weights_prepare_args {
            struct_size: size_of::<nvfp4_weights_prepare_args>(),
            groups: 1,
            rows: n,
            cols: k,
            source: NVFP4_WEIGHTS_SOURCE_VALUES,
            src_dtype: NVFP4_DTYPE_BF16,
            src: values.data().cast::<c_void>(),
            ..Default::default()
        };
        prepare.storage_size = Weights::storage_size(&self.context, &prepare).map_err(|e| e.to_string())?;
        let storage = self.buffer(prepare.storage_size)?;
        prepare.storage = storage.data().cast();
        // SAFETY: as above; the storage outlives the weights.
        let weights = unsafe { Weights::prepare(&self.context, &prepare, &self.stream) };
        let weights = weights.map_err(|e| e.to_string())?;
        let out = self.buffer((m * n * 2) as usize)?;
        let mut args = nvfp4_grouped_gemm_args {
            struct_size: size_of::<nvfp4_grouped_gemm_args>(),
            rows: m,
            a: a.data().cast::<c_void>(),
            a_dtype: NVFP4_DTYPE_BF16,
            out: out.data().cast(),
            out_dtype: NVFP4_DTYPE_BF16,
            ..Default::default()
        };
        args.workspace_size =
            grouped_gemm_workspace_size(&self.context, &args, &weights).map_err(|e| e.to_string())?;
        let workspace = self.buffer(args.workspace_size)?;
        if args.workspace_size > 0 {
            args.workspace = workspace.data().cast();
        }
        // SAFETY: as above.
        self.time(|| unsafe { grouped_gemm(&self.context, &args, &weights, &self.stream) })
    }
}
