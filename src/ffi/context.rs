//! Contexts and what can be asked about backends.

use super::args::{self, Out};
use super::guard::guard;
use super::handle;
use super::operation;
use super::version::{NVFP4_LOG_LEVEL_INFO, log};
use crate::api::context::*;
use crate::api::handles::nvfp4_context;
use crate::api::info::backend_info;
use crate::error::{Result, nvfp4_status};

/// Tells what is known of device `device` of a backend, without creating a context.
/// `available` 0 is a success: `name` then says what is missing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_backend_query(
    backend: nvfp4_backend,
    device: u32,
    info: *mut nvfp4_backend_info,
) -> nvfp4_status {
    // SAFETY: the host's promise about `info`.
    guard("nvfp4_backend_query", || unsafe { args::write("info", info, &backend_info(backend, device)?) })
}

/// Creates a context: takes the device, starts the threads. `options` NULL: all defaults (the CPU, all cores).
/// Destroy it with nvfp4_context_destroy. UNSUPPORTED where this build lacks the backend or the processor the instruction
/// set, UNSUPPORTED_DRIVER without a GPU driver of CUDA 13.0 (R580) or newer, UNSUPPORTED_DEVICE without such a GPU.
/// On a GPU the device's primary CUDA context is retained (see NVFP4_CONTEXT_ADOPT_CURRENT); no call changes the CUDA
/// context that is current on the calling thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_create(
    options: *const nvfp4_context_options,
    context: *mut *mut nvfp4_context,
) -> nvfp4_status {
    // SAFETY: the host's promise about both pointers.
    guard("nvfp4_context_create", || unsafe {
        let out = Out::check("context", context)?;
        let options = args::read_optional("options", options)?;
        out.set(handle::create(Context::create(&options)?));
        Ok(())
    })
}

/// Destroys a context. Its children (streams, events, graphs, buffers, weights) keep the device alive until they are
/// destroyed too, which is all that can be done with them from now on. On a GPU the last of them waits until the
/// CUDA context's work is done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_destroy(context: *mut nvfp4_context) -> nvfp4_status {
    guard("nvfp4_context_destroy", || {
        handle::destroy::<Context>("context", context, |c| {
            c.close();
            Ok(())
        })
    })
}

/// Tells what a context runs on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_info(
    context: *mut nvfp4_context,
    info: *mut nvfp4_backend_info,
) -> nvfp4_status {
    // SAFETY: the host's promise about `info`.
    guard("nvfp4_context_info", || unsafe { args::write("info", info, &get(context)?.info()) })
}

/// Reads the fault word: what work on this context has met since the last clear. Does not wait for anything: work that
/// still runs may add to it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_faults(
    context: *mut nvfp4_context,
    faults: *mut nvfp4_faults,
) -> nvfp4_status {
    // SAFETY: the host's promise about `faults`.
    guard("nvfp4_context_faults", || unsafe { args::write("faults", faults, &get(context)?.faults()) })
}

/// Clears the fault word. On a GPU it waits for a write of a few bytes, and for no other work: what kernels that run
/// meanwhile meet may be reported before or after. Not part of a capture; DEVICE_POISONED on a broken context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_clear_faults(context: *mut nvfp4_context) -> nvfp4_status {
    guard("nvfp4_context_clear_faults", || get(context)?.clear_faults())
}

/// Waits until all work of the context is done. On the CPU it always is; on a GPU work of the host's in the same CUDA
/// context is waited for too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_synchronize(context: *mut nvfp4_context) -> nvfp4_status {
    guard("nvfp4_context_synchronize", || get(context)?.synchronize())
}

/// Tells what the context's memory pool holds and has done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_pool_stats(
    context: *mut nvfp4_context,
    stats: *mut nvfp4_pool_stats,
) -> nvfp4_status {
    // SAFETY: the host's promise about `stats`.
    guard("nvfp4_context_pool_stats", || unsafe { args::write("stats", stats, &get(context)?.pool_stats()?) })
}

/// Gives kept memory back to the system until at most `keep_bytes` are kept for reuse.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_context_pool_trim(
    context: *mut nvfp4_context,
    keep_bytes: usize,
) -> nvfp4_status {
    guard("nvfp4_context_pool_trim", || get(context)?.pool_trim(keep_bytes))
}

/// Tells whether a context has a feature (NVFP4_FEATURE_*): 1 or 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_feature_supported(
    context: *mut nvfp4_context,
    feature: nvfp4_feature,
    supported: *mut i32,
) -> nvfp4_status {
    // SAFETY: the host's promise about `supported`.
    guard("nvfp4_feature_supported", || unsafe {
        let out = Out::check("supported", supported)?;
        out.set(get(context)?.supports(feature)? as i32);
        Ok(())
    })
}

/// Loads what run calls need, so that they allocate, load and synchronise nothing. `args` NULL: everything, for every
/// call. With an operation and its arguments only what that call takes: a host that knows its calls starts sooner.
/// Other sizes may take other kernels; outside of a capture a call loads what is missing, inside it is NOT_PREPARED.
/// On the CPU there is nothing to load. May be called from several threads, and while streams capture. What is loaded is
/// told to the log (level information) and, in numbers, by nvfp4_context_info.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_prepare(
    context: *mut nvfp4_context,
    args: *const nvfp4_prepare_args,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args`.
    guard("nvfp4_prepare", || unsafe {
        let context = get(context)?;
        let args = args::read_optional("args", args)?;
        let call = operation::read_call(args.operation, args.args)?;
        context.prepare(&args, call.as_ref())?;
        if let Some(report) = context.loaded_report() {
            log(NVFP4_LOG_LEVEL_INFO, format!("{report}\0").as_bytes());
        }
        Ok(())
    })
}

/// A live context of this process.
pub(super) fn get(context: *const nvfp4_context) -> Result<Context> {
    let context: Context = handle::get("context", context)?;
    context.check_process()?;
    Ok(context)
}
