//! Matrix products.

use super::args::{self, Out};
use super::guard::guard;
use super::{context, stream, weights};
use crate::api::gemm::{self, nvfp4_gemm_args, nvfp4_grouped_gemm_args};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::error::nvfp4_status;

/// Multiplies the rows of each group with that group's weights, with bias, activation, accumulation or requantization
/// on the way out. Rows of no group are neither read nor written.
/// Sets NVFP4_FAULT_BAD_GROUP and, where it requantizes, the faults of nvfp4_quantize.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_grouped_gemm(
    context: *mut nvfp4_context,
    args: *const nvfp4_grouped_gemm_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_grouped_gemm", || unsafe {
        let args = args::read("args", args)?;
        let weights = weights::get(args.weights)?;
        gemm::grouped_gemm(&context::get(context)?, &args, &weights, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_grouped_gemm needs with these arguments, for any split of the rows into the groups.
/// Reads no device memory and needs none yet: pointers may be NULL as for nvfp4_prepare.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_grouped_gemm_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_grouped_gemm_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_grouped_gemm_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        let args = args::read("args", args)?;
        let weights = weights::get(args.weights)?;
        out.set(gemm::grouped_gemm_workspace_size(&context::get(context)?, &args, &weights)?);
        Ok(())
    })
}

/// The product with one group's weights: nvfp4_grouped_gemm with groups all zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_gemm(
    context: *mut nvfp4_context,
    args: *const nvfp4_gemm_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_gemm", || unsafe {
        let args = args::read("args", args)?;
        let weights = weights::get(args.weights)?;
        gemm::check_single(&args, &weights)?;
        gemm::grouped_gemm(&context::get(context)?, &args, &weights, &stream::get(stream)?)
    })
}

/// Bytes of workspace that nvfp4_gemm needs with these arguments, for any split of the rows into the groups.
/// Reads no device memory and needs none yet: pointers may be NULL as for nvfp4_prepare.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_gemm_workspace_size(
    context: *mut nvfp4_context,
    args: *const nvfp4_gemm_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and `bytes`.
    guard("nvfp4_gemm_workspace_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        let args = args::read("args", args)?;
        let weights = weights::get(args.weights)?;
        gemm::check_single(&args, &weights)?;
        out.set(gemm::grouped_gemm_workspace_size(&context::get(context)?, &args, &weights)?);
        Ok(())
    })
}
