//! Byte shuffles.

use super::args::{self, Out};
use super::guard::guard;
use super::{context, stream};
use crate::api::handles::{nvfp4_context, nvfp4_stream};
use crate::api::layouts::{
    self, nvfp4_group_ends_args, nvfp4_interleave_gate_up_args, nvfp4_scales_size_args,
    nvfp4_tile_scales_args,
};
use crate::error::nvfp4_status;

/// Bytes of block scales that suffice for any split of the rows into the groups. Needs no context and reads no device
/// memory: the group arrays may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_scales_size(
    args: *const nvfp4_scales_size_args,
    bytes: *mut usize,
) -> nvfp4_status {
    // SAFETY: the host's promise about both pointers.
    guard("nvfp4_scales_size", || unsafe {
        let out = Out::check("bytes", bytes)?;
        out.set(layouts::scales_size(&args::read("args", args)?)?);
        Ok(())
    })
}

/// Brings linear block scales into a tiled layout; its padding is written as zero. Sets NVFP4_FAULT_BAD_GROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_tile_scales(
    context: *mut nvfp4_context,
    args: *const nvfp4_tile_scales_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_tile_scales", || unsafe {
        layouts::tile_scales(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Brings tiled block scales back into the linear layout. Sets NVFP4_FAULT_BAD_GROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_untile_scales(
    context: *mut nvfp4_context,
    args: *const nvfp4_tile_scales_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_untile_scales", || unsafe {
        layouts::untile_scales(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}

/// Brings rows [gate; up] of weights (or of their scales) into the alternating order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_interleave_gate_up(
    context: *mut nvfp4_context,
    args: *const nvfp4_interleave_gate_up_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_interleave_gate_up", || unsafe {
        layouts::interleave_gate_up(
            &context::get(context)?,
            &args::read("args", args)?,
            &stream::get(stream)?,
            true,
        )
    })
}

/// Brings alternating gate and up rows back into the order [gate; up].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_deinterleave_gate_up(
    context: *mut nvfp4_context,
    args: *const nvfp4_interleave_gate_up_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_deinterleave_gate_up", || unsafe {
        layouts::interleave_gate_up(
            &context::get(context)?,
            &args::read("args", args)?,
            &stream::get(stream)?,
            false,
        )
    })
}

/// Inclusive cumulative sums of counts, on the device. Sets NVFP4_FAULT_BAD_GROUP.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_group_ends(
    context: *mut nvfp4_context,
    args: *const nvfp4_group_ends_args,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    // SAFETY: the host's promise about `args` and what it points to.
    guard("nvfp4_group_ends", || unsafe {
        layouts::group_ends(&context::get(context)?, &args::read("args", args)?, &stream::get(stream)?)
    })
}
