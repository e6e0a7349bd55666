//! Pointers to structs and to results, as C hands them over.

use crate::api::buffer::Buffer;
use crate::api::{
    context::*, dequantize::*, gemm::*, layouts::*, norm::*, quantize::*, stage::*, swiglu::*, tuning::*,
    weights::*,
};
use crate::error::{Error, Result};

/// A struct that starts with `struct_size` and only ever grows at its end.
///
/// # Safety
/// `#[repr(C)]`, first field `struct_size: usize`, and every bit pattern of its bytes is a value.
pub unsafe trait Versioned: Copy {
    const NAME: &'static str;
    /// Size of its first published version.
    const LEAST: usize;
}

macro_rules! versioned {
    ($($name:ident $least:literal),+ $(,)?) => {$(
        // SAFETY: integers, floats and raw pointers only; the first field is struct_size.
        unsafe impl Versioned for $name {
            const NAME: &'static str = stringify!($name);
            const LEAST: usize = $least;
        }
        const _: () = assert!(size_of::<$name>() >= $least);
    )+};
}

versioned!(
    nvfp4_context_options 24,
    nvfp4_backend_info 96,
    nvfp4_faults 24,
    nvfp4_pool_stats 48,
    nvfp4_prepare_args 16,
    nvfp4_quantize_args 168,
    nvfp4_amax_scale_args 112,
    nvfp4_dequantize_args 136,
    nvfp4_rmsnorm_quantize_args 184,
    nvfp4_hc_rmsnorm_quantize_args 216,
    nvfp4_swiglu_quantize_args 200,
    nvfp4_stage_moe_inputs_args 112,
    nvfp4_scales_size_args 72,
    nvfp4_tile_scales_args 88,
    nvfp4_interleave_gate_up_args 56,
    nvfp4_group_ends_args 32,
    nvfp4_weights_prepare_args 120,
    nvfp4_weights_export_args 48,
    nvfp4_weights_shape 48,
    nvfp4_grouped_gemm_args 288,
    nvfp4_tune_args 24,
    nvfp4_tune_result 88,
);

/// Structs beyond this are nobody's: struct_size was not set.
const LARGEST: usize = 4096;

/// Copies an arguments struct of any version: what an older caller does not have is zero; what a newer one has beyond
/// this library's fields must be.
///
/// # Safety
/// NULL, or readable for its `struct_size` bytes.
pub unsafe fn read<T: Versioned>(argument: &'static str, p: *const T) -> Result<T> {
    // SAFETY: the caller's promise; `size_of` checks NULL.
    unsafe {
        let size = size_of_struct(argument, p)?;
        let bytes = p.cast::<u8>();
        for at in size_of::<T>()..size {
            if bytes.add(at).read() != 0 {
                return Err(Error::StructTail { name: T::NAME, size, known: size_of::<T>(), at });
            }
        }
        let mut value = std::mem::zeroed::<T>();
        (&raw mut value).cast::<u8>().copy_from_nonoverlapping(bytes, size.min(size_of::<T>()));
        Ok(value)
    }
}

/// As [`read`]; NULL stands for a struct of zeros.
///
/// # Safety
/// As [`read`].
pub unsafe fn read_optional<T: Versioned>(argument: &'static str, p: *const T) -> Result<T> {
    if p.is_null() {
        // SAFETY: every bit pattern is a value.
        return Ok(unsafe { std::mem::zeroed() });
    }
    // SAFETY: the caller's promise.
    unsafe { read(argument, p) }
}

/// Fills a result struct of any version, its `struct_size` kept.
///
/// # Safety
/// NULL, or readable and writable for its `struct_size` bytes.
pub unsafe fn write<T: Versioned>(argument: &'static str, p: *mut T, value: &T) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let size = size_of_struct(argument, p)?;
        let skip = size_of::<usize>();
        let from = (&raw const *value).cast::<u8>().add(skip);
        let to = p.cast::<u8>().add(skip);
        to.copy_from_nonoverlapping(from, size.min(size_of::<T>()) - skip);
        if size > size_of::<T>() {
            p.cast::<u8>().add(size_of::<T>()).write_bytes(0, size - size_of::<T>());
        }
        Ok(())
    }
}

/// Checks that a result struct can be written, before anything else happens.
///
/// # Safety
/// As [`write`].
pub unsafe fn check_writable<T: Versioned>(argument: &'static str, p: *const T) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { size_of_struct(argument, p) }.map(|_| ())
}

unsafe fn size_of_struct<T: Versioned>(argument: &'static str, p: *const T) -> Result<usize> {
    pointer(argument, p)?;
    // SAFETY: the first field is the size.
    let size = unsafe { p.cast::<usize>().read() };
    if !(T::LEAST..=LARGEST).contains(&size) {
        return Err(Error::StructSize { name: T::NAME, size, least: T::LEAST });
    }
    Ok(size)
}

fn pointer<T>(argument: &'static str, p: *const T) -> Result<()> {
    if p.is_null() {
        return Err(Error::Null { argument });
    }
    if !p.is_aligned() {
        return Err(Error::Misaligned { argument, address: p.addr(), alignment: align_of::<T>() });
    }
    Ok(())
}

/// Where a single result goes; checked before the work so that a failure leaves nothing behind.
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    pub fn check(argument: &'static str, p: *mut T) -> Result<Out<T>> {
        pointer(argument, p)?;
        Ok(Out(p))
    }

    /// # Safety
    /// The pointer that was checked is writable.
    pub unsafe fn set(self, value: T) {
        // SAFETY: the caller's promise; not NULL, aligned.
        unsafe { self.0.write(value) };
    }
}

/// Address of a buffer's memory.
pub fn buffer_data(buffer: &Buffer) -> *mut core::ffi::c_void {
    buffer.data().cast()
}
