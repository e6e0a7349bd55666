//! `nvfp4_tune` and the file of its choices: measured kernels for products of a device.
#![allow(non_camel_case_types)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use super::buffer::Buffer;
use super::check::{self, Regions};
use super::context::Context;
use super::gemm;
use super::linear::{self, nvfp4_grouped_linear_args as linear_args};
use super::moe::forward::{self, nvfp4_moe_forward_args as forward_args};
use super::operation::{Call, nvfp4_operation};
use super::stream::Stream;
use super::types::zeroed_default;
use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::plan::Job;
use crate::plan::tuning::{MOST_CHOICES, Tuning};

/// Arguments of nvfp4_tune.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_tune_args {
    /// sizeof(nvfp4_tune_args).
    pub struct_size: usize,
    /// NVFP4_OPERATION_GROUPED_GEMM, _LINEAR, _GROUPED_LINEAR, or _MOE_FORWARD (both of its products).
    pub operation: nvfp4_operation,
    /// Timed runs of each candidate, up to 10000; 0: 20.
    pub repeats: u32,
    /// The call's arguments as it will be made, memory and all. `workspace` is not used: the library takes its own.
    pub args: *const core::ffi::c_void,
}

/// What nvfp4_tune found. Of two products `kernel` and `splits` tell the first one's, and the numbers are sums.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_tune_result {
    /// sizeof(nvfp4_tune_result), set by the caller.
    pub struct_size: usize,
    /// Candidates that were timed; 0: there was nothing to choose.
    pub candidates: u32,
    /// Parts into which the choice cuts the sum over K.
    pub splits: u32,
    /// Microseconds of the kernel that is taken without tuning, median, with a cold cache.
    pub default_us: f32,
    /// Microseconds of the choice.
    pub best_us: f32,
    /// Zero-terminated name of the choice's kernel.
    pub kernel: [core::ffi::c_char; 64],
}

zeroed_default!(nvfp4_tune_args, nvfp4_tune_result);

const MOST_REPEATS: i64 = 10_000;
const DEFAULT_REPEATS: usize = 20;
/// Bytes a file of choices may have.
const MOST_BYTES: u64 = MOST_CHOICES as u64 * 256;

/// Times every way of carrying out a call's products and keeps the best for such problems.
///
/// # Safety
/// The pointers of the call are valid for what their documentation says.
pub unsafe fn tune(
    context: &Context,
    args: &nvfp4_tune_args,
    call: &Option<Call>,
    stream: &Stream,
) -> Result<nvfp4_tune_result> {
    stream.check(context)?;
    let repeats = match check::count("args.repeats", args.repeats as i64, 0, MOST_REPEATS)? {
        0 => DEFAULT_REPEATS,
        repeats => repeats,
    };
    let (_, needed) = jobs(context, args.operation, call, null_mut())?;
    stream.check_not_capturing("nvfp4_tune waits and cannot be captured")?;
    let mut result = nvfp4_tune_result::default();
    let (Backend::Cuda(device), Some(native)) = (context.backend(), stream.native()) else {
        return Ok(result);
    };
    let workspace = Buffer::create(context, needed.max(1), stream)?;
    for job in jobs(context, args.operation, call, workspace.data().cast())?.0 {
        let (before, product) = match job {
            Job::Gemm(product) => (None, Some(product)),
            Job::QuantizedGemm(quantize, product) => (Some(Job::Quantize(quantize)), Some(product)),
            job => (Some(job), None),
        };
        if let Some(job) = before {
            // SAFETY: the caller's promise; the workspace is ours, and its memory is freed in the order of the stream.
            unsafe { stream.submit(job, None, None)? };
        }
        let Some(product) = product else { continue };
        // SAFETY: as above; the stream does not capture.
        let Some(measured) = (unsafe { device.tune(native, &product, repeats)? }) else { continue };
        if result.candidates == 0 {
            result.splits = measured.choice.splits as u32;
            let last = result.kernel.len() - 1;
            for (to, &from) in result.kernel[..last].iter_mut().zip(measured.choice.kernel.as_bytes()) {
                *to = from as core::ffi::c_char;
            }
        }
        result.candidates += measured.candidates as u32;
        result.default_us += measured.default_us;
        result.best_us += measured.best_us;
    }
    Ok(result)
}

/// What a call with products does, step by step, with a workspace of ours, and the bytes that it needs of that.
fn jobs(
    context: &Context,
    operation: nvfp4_operation,
    call: &Option<Call>,
    workspace: *mut core::ffi::c_void,
) -> Result<(Vec<Job>, usize)> {
    let mut regions = Regions::default();
    let planned = match call {
        Some(Call::GroupedGemm(args, weights)) => {
            weights.check(context, "args.weights")?;
            let (product, looked_at) = gemm::plan(args, weights, regions)?;
            regions = looked_at;
            (vec![Job::Gemm(product)], 0)
        }
        Some(Call::Linear(args, form, weights)) => {
            linear::jobs(context, &linear_args { workspace, ..*args }, *form, weights, &mut regions)?
        }
        Some(Call::MoeForward(args, w1, w2)) => {
            forward::jobs(context, &forward_args { workspace, ..*args }, w1, w2, &mut regions)?
        }
        _ => {
            let known =
                "NVFP4_OPERATION_GROUPED_GEMM (15), _LINEAR (16), _GROUPED_LINEAR (17), _MOE_FORWARD (21)";
            return Err(Error::UnknownValue { argument: "args.operation", value: operation, known });
        }
    };
    regions.check_overlap()?;
    Ok(planned)
}

impl Context {
    /// Takes the choices of a file in place of those in use; `None` forgets all. Gives their number, and why it is 0
    /// where the file does not hold here.
    pub fn load_tuning(&self, path: Option<&Path>) -> Result<(usize, Option<String>)> {
        let Backend::Cuda(device) = self.backend() else { return Ok((0, None)) };
        let Some(path) = path else {
            device.set_tuning(None);
            return Ok((0, None));
        };
        let machine = device.tuning_machine()?;
        let parsed = read(path).map_err(|e| e.to_string()).and_then(|bytes| Tuning::parse(&bytes, &machine));
        let (tuning, problem) = match parsed {
            Ok(tuning) => (tuning, None),
            Err(why) => (Tuning::default(), Some(format!("{} is ignored: {why}", path.display()))),
        };
        let count = tuning.len();
        device.set_tuning(Some(tuning));
        Ok((count, problem))
    }

    /// Writes the choices in use; whoever reads the file meanwhile sees the old one or the new one, whole.
    pub fn save_tuning(&self, path: &Path) -> Result<()> {
        let Backend::Cuda(device) = self.backend() else {
            return Err(Error::Unsupported {
                what: "tuning on the CPU, where there is nothing to choose".into(),
                next: "save the choices of a context of a GPU",
            });
        };
        let text = device.tuning().to_text(&device.tuning_machine()?);
        write_whole(path, text.as_bytes()).map_err(|e| Error::Conflict {
            argument: "path",
            problem: format!("{} cannot be written: {e}", path.display()),
        })
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 <= MOST_BYTES {
        true => Ok(bytes),
        false => Err(io::Error::other("it is too large")),
    }
}

/// A file beside the old one, on the disk before it takes the old one's name.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| io::Error::other("it has no file name"))?;
    let (beside, mut file) = create_beside(folder, name)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, path))
        .and_then(|()| File::open(folder)?.sync_all());
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn create_beside(folder: &Path, name: &std::ffi::OsStr) -> io::Result<(PathBuf, File)> {
    for attempt in 0.. {
        let mut own = std::ffi::OsString::from(".");
        own.push(name);
        own.push(format!(".{}.{attempt}", crate::process::id()));
        let beside = folder.join(own);
        match OpenOptions::new().write(true).create_new(true).open(&beside) {
            Ok(file) => return Ok((beside, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("no name beside it is free"))
}
