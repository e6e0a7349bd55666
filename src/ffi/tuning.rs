//! Measured choices of kernels.

use core::ffi::{CStr, c_char};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::args::{self, Out};
use super::guard::guard;
use super::version::{NVFP4_LOG_LEVEL_INFO, NVFP4_LOG_LEVEL_WARNING, log};
use super::{context, operation, stream};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::tuning::{self, nvfp4_tune_args, nvfp4_tune_result};
use crate::error::{Error, Result, nvfp4_status};

/// Times every kernel that can carry out a product, on this device and with these arguments, and uses the fastest from
/// now on for products of the same operand type, groups, N, K and epilogue with about as many rows a group (to the next
/// power of two). A layer's other steps are run once in their order, so that its products are timed on what they will get. Not a run call: it allocates, launches and waits, and is refused while the stream captures. The output
/// is written many times; with NVFP4_GEMM_ACCUMULATE it is useless afterwards. A choice can change a product's bits within
/// its bound and its workspace size, so tune before workspaces are asked for and graphs are captured; the same choices
/// give the same bits. Products with NVFP4_GEMM_BATCH_INVARIANT take no choices. On the CPU there is nothing to choose.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_tune(
    context: *mut nvfp4_context,
    args: *const nvfp4_tune_args,
    stream: *mut nvfp4_stream,
    result: *mut nvfp4_tune_result,
) -> nvfp4_status {
    // SAFETY: the host's promise about all pointers.
    guard("nvfp4_tune", || unsafe {
        args::check_writable("result", result)?;
        let args = args::read("args", args)?;
        let call = operation::read_call(args.operation, args.args)?;
        let found = tuning::tune(&context::get(context)?, &args, &call, &stream::get(stream)?)?;
        args::write("result", result, &found)
    })
}

/// Takes the choices of a file that nvfp4_tuning_save wrote, in place of those in use; `path` NULL forgets all. Sets
/// `choices` to their number. A file that is missing, damaged, or of another library version, device or driver is ignored
/// as a whole: `choices` is 0 then, no choice is in use, and the reason goes to the log (level warning). A choice that is
/// not legal for a problem is passed over. Choices can change a product's bits and workspace size (see nvfp4_tune), so
/// load before workspaces are asked for and graphs are captured; graphs keep what they captured. On the CPU it does
/// nothing and `choices` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_tuning_load(
    context: *mut nvfp4_context,
    path: *const c_char,
    choices: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about both pointers.
    guard("nvfp4_tuning_load", || unsafe {
        let out = Out::check("choices", choices)?;
        let path = if path.is_null() { None } else { Some(read_path(path)?) };
        let (count, problem) = context::get(context)?.load_tuning(path)?;
        match (problem, path) {
            (Some(problem), _) => log(NVFP4_LOG_LEVEL_WARNING, format!("{problem}\0").as_bytes()),
            (None, Some(path)) => {
                log(
                    NVFP4_LOG_LEVEL_INFO,
                    format!("{}: {count} choices of kernels\0", path.display()).as_bytes(),
                );
            }
            (None, None) => {}
        }
        out.set(count);
        Ok(())
    })
}

/// Writes the choices in use to a file, in one step: whoever reads `path` meanwhile gets the old file or the new one.
/// UNSUPPORTED on the CPU, which has no choices.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_tuning_save(context: *mut nvfp4_context, path: *const c_char) -> nvfp4_status {
    // SAFETY: the host's promise about `path`.
    guard("nvfp4_tuning_save", || unsafe {
        let path = read_path(path)?;
        context::get(context)?.save_tuning(path)
    })
}

/// # Safety
/// NULL, or a zero-terminated text that outlives the path.
unsafe fn read_path<'a>(path: *const c_char) -> Result<&'a Path> {
    if path.is_null() {
        return Err(Error::Null { argument: "path" });
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(path) }.to_bytes();
    if bytes.is_empty() {
        return Err(Error::Conflict { argument: "path", problem: "empty; name a file".into() });
    }
    Ok(Path::new(OsStr::from_bytes(bytes)))
}
