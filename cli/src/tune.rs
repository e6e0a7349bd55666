//! `nvfp4 tune`: measures which kernel carries out products of given shapes best on this machine's GPU, and writes a file
//! for nvfp4_tuning_load. What is multiplied is made up: only shapes decide.

use crate::Result;
use clap::ValueEnum;
use nvfp4::api::buffer::Buffer;
use nvfp4::api::context::{Context, NVFP4_BACKEND_CUDA, nvfp4_context_options};
use nvfp4::api::gemm::nvfp4_grouped_gemm_args;
use nvfp4::api::operation::{Call, NVFP4_OPERATION_GROUPED_GEMM};
use nvfp4::api::stream::Stream;
use nvfp4::api::tuning::{nvfp4_tune_args, nvfp4_tune_result, tune};
use nvfp4::api::types::*;
use nvfp4::api::weights::{NVFP4_WEIGHTS_SOURCE_VALUES, Weights, nvfp4_weights_prepare_args};
use nvfp4::error::Error;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Products as GROUPSxNxK, such as 48x6144x7168 for 48 experts with 6144 output features of 7168 inputs
    #[arg(required = true, value_parser = shape)]
    shapes: Vec<(u32, i64, i64)>,
    /// The file of choices; those for other shapes that it holds already are kept
    #[arg(short, long)]
    output: PathBuf,
    /// Rows a group to tune for
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16, 64, 256, 1024], value_parser = clap::value_parser!(i64).range(1..))]
    tokens: Vec<i64>,
    /// Type of the activations
    #[arg(long, value_enum, default_value = "bf16")]
    activations: Activations,
    /// What follows the product
    #[arg(long, value_enum, default_value = "plain")]
    epilogue: Epilogue,
    /// The GPU
    #[arg(long, default_value_t = 0)]
    device: u32,
    /// Timed runs of each kernel
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    repeats: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Activations {
    Bf16,
    F16,
    Nvfp4,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Epilogue {
    Plain,
    Swiglu,
    Relu2,
}

fn shape(text: &str) -> std::result::Result<(u32, i64, i64), String> {
    let parts: Vec<&str> = text.split('x').collect();
    let number = |text: &str| text.parse::<u32>().ok().filter(|&n| n > 0);
    let [groups, rows, cols] = parts[..] else { return Err("write GROUPSxNxK, such as 48x6144x7168".into()) };
    match (number(groups), number(rows), number(cols)) {
        (Some(groups), Some(rows), Some(cols)) => Ok((groups, rows.into(), cols.into())),
        _ => Err("GROUPS, N and K are whole numbers above 0".into()),
    }
}

fn text(error: Error) -> String {
    error.to_string()
}

pub fn run(args: &Args) -> Result<()> {
    let options = nvfp4_context_options {
        struct_size: size_of::<nvfp4_context_options>(),
        backend: NVFP4_BACKEND_CUDA,
        device: args.device,
        ..Default::default()
    };
    let context = Context::create(&options).map_err(text)?;
    let stream = Stream::create(&context).map_err(text)?;
    if args.output.exists() {
        match context.load_tuning(Some(&args.output)).map_err(text)? {
            (count, None) => println!("{}: {count} choices are kept", args.output.display()),
            (_, Some(why)) => eprintln!("nvfp4: {why}; it will be written anew"),
        }
    }
    println!("{:>24} {:>7}  {:>10} {:>10}  kernel", "product", "tokens", "default", "best");
    for &(groups, rows, cols) in &args.shapes {
        let weights = Made::weights(&context, &stream, args, (groups, rows, cols))?;
        for &tokens in &args.tokens {
            let found = one(&context, &stream, args, &weights, (groups, rows, cols), tokens)?;
            let kernel: String =
                found.kernel.iter().map(|&c| c as u8 as char).take_while(|&c| c != '\0').collect();
            println!(
                "{:>24} {tokens:>7}  {:>7.1} us {:>7.1} us  {kernel}, {} splits",
                format!("{groups}x{rows}x{cols}"),
                found.default_us,
                found.best_us,
                found.splits
            );
            // A long run that is interrupted has not run for nothing.
            context.save_tuning(&args.output).map_err(text)?;
        }
    }
    Ok(())
}

/// Weights, and the memory that they are in.
struct Made {
    weights: Weights,
    _storage: Buffer,
}

impl Made {
    fn weights(
        context: &Context,
        stream: &Stream,
        args: &Args,
        (groups, rows, cols): (u32, i64, i64),
    ) -> Result<Made> {
        let bytes = groups as usize * rows as usize * cols as usize * 2;
        let values = values(context, stream, bytes)?;
        let mut prepare = nvfp4_weights_prepare_args {
            struct_size: size_of::<nvfp4_weights_prepare_args>(),
            groups: groups.into(),
            rows,
            cols,
            gate_up: (args.epilogue == Epilogue::Swiglu) as u32,
            source: NVFP4_WEIGHTS_SOURCE_VALUES,
            src: values.data().cast(),
            ..Default::default()
        };
        prepare.storage_size = Weights::storage_size(context, &prepare).map_err(text)?;
        let storage = Buffer::create(context, prepare.storage_size, stream).map_err(text)?;
        prepare.storage = storage.data().cast();
        // SAFETY: memory of these sizes that outlives the work: the stream is waited for.
        let weights = unsafe { Weights::prepare(context, &prepare, stream) }.map_err(text)?;
        stream.synchronize().map_err(text)?;
        Ok(Made { weights, _storage: storage })
    }
}

/// Tunes for `tokens` rows in every group.
fn one(
    context: &Context,
    stream: &Stream,
    args: &Args,
    weights: &Made,
    (groups, rows, cols): (u32, i64, i64),
    tokens: i64,
) -> Result<nvfp4_tune_result> {
    let total = tokens * i64::from(groups);
    let a = values(context, stream, (total * cols * 2) as usize)?;
    let out = values(context, stream, (total * rows * 2) as usize)?;
    let ends: Vec<u8> = (1..=i64::from(groups)).flat_map(|g| ((g * tokens) as i32).to_ne_bytes()).collect();
    let ends = uploaded(context, stream, &ends)?;
    let scales = uploaded(context, stream, &vec![0x38; (total * cols / 16) as usize])?;
    let mut product = nvfp4_grouped_gemm_args {
        struct_size: size_of::<nvfp4_grouped_gemm_args>(),
        rows: total,
        groups: nvfp4_groups {
            grouping: NVFP4_GROUPING_ENDS,
            count: groups,
            ends: ends.data().cast(),
            ..Default::default()
        },
        activation: match args.epilogue {
            Epilogue::Plain => NVFP4_ACTIVATION_NONE,
            Epilogue::Swiglu => NVFP4_ACTIVATION_SWIGLU,
            Epilogue::Relu2 => NVFP4_ACTIVATION_RELU2,
        },
        out: out.data().cast(),
        ..Default::default()
    };
    match args.activations {
        Activations::Nvfp4 => {
            product.a_dtype = NVFP4_DTYPE_NVFP4;
            product.a_quantized.codes = a.data();
            product.a_quantized.scales = scales.data();
        }
        values => {
            product.a_dtype = if let Activations::F16 = values { NVFP4_DTYPE_F16 } else { NVFP4_DTYPE_BF16 };
            product.a = a.data().cast();
        }
    }
    let call = Some(Call::GroupedGemm(product, weights.weights.clone()));
    let asked = nvfp4_tune_args {
        struct_size: size_of::<nvfp4_tune_args>(),
        operation: NVFP4_OPERATION_GROUPED_GEMM,
        repeats: args.repeats,
        ..Default::default()
    };
    // SAFETY: memory of these sizes that outlives the work: nvfp4_tune waits for it.
    unsafe { tune(context, &asked, &call, stream) }.map_err(text)
}

/// Memory full of values of about one, of either sign; as bytes of codes it is as good as any.
fn values(context: &Context, stream: &Stream, bytes: usize) -> Result<Buffer> {
    let mut state = 1u32;
    let mut pattern = Vec::with_capacity(1 << 20);
    while pattern.len() < 1 << 20 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        pattern.extend([(state >> 24) as u8, 0x3C | (state >> 16 & 0x83) as u8]);
    }
    let buffer = Buffer::create(context, bytes.max(1), stream).map_err(text)?;
    for at in (0..bytes).step_by(pattern.len()) {
        // SAFETY: the pattern outlives the copies: the stream is waited for.
        unsafe { buffer.upload(at, pattern.as_ptr(), pattern.len().min(bytes - at), stream) }
            .map_err(text)?;
    }
    stream.synchronize().map_err(text)?;
    Ok(buffer)
}

fn uploaded(context: &Context, stream: &Stream, bytes: &[u8]) -> Result<Buffer> {
    let buffer = Buffer::create(context, bytes.len().max(1), stream).map_err(text)?;
    // SAFETY: the bytes outlive the copy: the stream is waited for.
    unsafe { buffer.upload(0, bytes.as_ptr(), bytes.len(), stream) }.map_err(text)?;
    stream.synchronize().map_err(text)?;
    Ok(buffer)
}
