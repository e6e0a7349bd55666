//! One matrix of values → codes, linear block scales and the decode scale, and back, computed by the library on the CPU.

use crate::Result;
use clap::ValueEnum;
use nvfp4::api::context::{Context, nvfp4_context_options};
use nvfp4::api::dequantize::{dequantize, nvfp4_dequantize_args};
use nvfp4::api::quantize::{amax_scale, nvfp4_amax_scale_args, nvfp4_quantize_args, quantize};
use nvfp4::api::stream::Stream;
use nvfp4::api::types::*;
use safetensors::tensor::Dtype;

/// How a block's scale is chosen.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Rule {
    /// From the block's largest magnitude (fastest; what most tools write)
    Amax,
    /// That, or 1.5 times it, whichever has the smaller squared error
    FourOverSix,
    /// That, or one of its 14 neighbours, whichever has the smallest squared error (most exact)
    MinMse,
}

impl Rule {
    /// As it stands in the output's metadata.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Amax => "amax",
            Rule::FourOverSix => "four-over-six",
            Rule::MinMse => "min-mse",
        }
    }

    fn value(self) -> nvfp4_scale_rule {
        match self {
            Rule::Amax => NVFP4_SCALE_RULE_AMAX,
            Rule::FourOverSix => NVFP4_SCALE_RULE_FOUR_OVER_SIX,
            Rule::MinMse => NVFP4_SCALE_RULE_MIN_MSE,
        }
    }
}

/// One cache line: the alignment of every buffer here is enough for every argument of the library.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u8; 64]);

/// Bytes that begin on a cache line.
#[derive(Default)]
pub struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(64), Line([0; 64]));
        self.len = len;
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lines hold at least len initialized bytes.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// The context and the buffers, kept from matrix to matrix.
pub struct Engine {
    context: Context,
    stream: Stream,
    source: Aligned,
    other: Aligned,
    values: Aligned,
    pub codes: Aligned,
    pub scales: Aligned,
    pub decode_scale: f32,
}

impl Engine {
    /// `threads` 0: all cores.
    pub fn create(threads: u32) -> Result<Engine> {
        let options = nvfp4_context_options {
            struct_size: size_of::<nvfp4_context_options>(),
            threads,
            ..Default::default()
        };
        let context = Context::create(&options).map_err(|e| e.to_string())?;
        let stream = Stream::create(&context).map_err(|e| e.to_string())?;
        let (source, other, values, codes, scales) = Default::default();
        Ok(Engine { context, stream, source, other, values, codes, scales, decode_scale: 1.0 })
    }

    /// `values`: the matrix, dense, at any address. The result stays in the engine until the next call.
    pub fn quantize(&mut self, values: &[u8], what: &Matrix, rule: Rule) -> Result<()> {
        let &Matrix { dtype, rows, cols, transposed, decode_scale } = what;
        self.codes.resize(rows * cols / 2);
        self.scales.resize(rows * cols / 16);
        let mut made = 1.0;
        let args = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: aligned(values, &mut self.source).cast(),
            src_dtype: number_of(dtype)?,
            transposed: transposed.into(),
            rows: rows as i64,
            cols: cols as i64,
            out: nvfp4_quantized {
                codes: self.codes.bytes_mut().as_mut_ptr(),
                scales: self.scales.bytes_mut().as_mut_ptr(),
                scale_layout: NVFP4_SCALE_LAYOUT_LINEAR,
                scale_rule: rule.value(),
                scope: NVFP4_SCOPE_TENSOR,
                static_decode_scales: decode_scale.as_ref().map_or(std::ptr::null(), std::ptr::from_ref),
                decode_scales: if decode_scale.is_some() { std::ptr::null_mut() } else { &mut made },
                ..Default::default()
            },
            ..Default::default()
        };
        // SAFETY: every pointer is to a live buffer of the stated shape, and the CPU is done when the call returns.
        unsafe { quantize(&self.context, &args, &self.stream) }.map_err(|e| e.to_string())?;
        self.decode_scale = decode_scale.unwrap_or(made);
        // The library turns a block with a NaN or an infinity into a NaN block, whose scale is this code.
        match self.scales.bytes().iter().position(|&s| s == 0x7F) {
            Some(at) => Err(format!("row {} holds a NaN or an infinity", at / (cols / 16))),
            None => Ok(()),
        }
    }

    /// The decode scale of values, at any address, from the largest magnitude.
    pub fn amax_scale(&mut self, values: &[u8], dtype: Dtype, rows: usize, cols: usize) -> Result<f32> {
        let mut found = 0.0;
        let args = nvfp4_amax_scale_args {
            struct_size: size_of::<nvfp4_amax_scale_args>(),
            src: aligned(values, &mut self.source).cast(),
            src_dtype: number_of(dtype)?,
            scope: NVFP4_SCOPE_TENSOR,
            rows: rows as i64,
            cols: cols as i64,
            decode_scales: &mut found,
            ..Default::default()
        };
        // SAFETY: as above; on the CPU no workspace is needed.
        unsafe { amax_scale(&self.context, &args, &self.stream) }.map_err(|e| e.to_string())?;
        Ok(found)
    }

    /// Codes and scales that are right as they are, as if they had just been made.
    pub fn take(&mut self, codes: &[u8], scales: &[u8]) {
        for (to, from) in [(&mut self.codes, codes), (&mut self.scales, scales)] {
            to.resize(from.len());
            to.bytes_mut().copy_from_slice(from);
        }
    }

    /// The values that rows of codes, linear scales and one decode scale stand for.
    pub fn dequantize(
        &mut self,
        codes: &[u8],
        scales: &[u8],
        decode_scale: f32,
        rows: usize,
        cols: usize,
    ) -> Result<&[f32]> {
        self.values.resize(rows * cols * 4);
        let args = nvfp4_dequantize_args {
            struct_size: size_of::<nvfp4_dequantize_args>(),
            input: nvfp4_quantized_input {
                codes: aligned(codes, &mut self.source),
                scales: aligned(scales, &mut self.other),
                scale_layout: NVFP4_SCALE_LAYOUT_LINEAR,
                scope: NVFP4_SCOPE_TENSOR,
                decode_scales: &decode_scale,
                ..Default::default()
            },
            rows: rows as i64,
            cols: cols as i64,
            dst: self.values.bytes_mut().as_mut_ptr().cast(),
            dst_dtype: NVFP4_DTYPE_F32,
            ..Default::default()
        };
        // SAFETY: as above.
        unsafe { dequantize(&self.context, &args, &self.stream) }.map_err(|e| e.to_string())?;
        // SAFETY: the library has written rows * cols floats on a cache line.
        Ok(unsafe { std::slice::from_raw_parts(self.values.bytes().as_ptr().cast(), rows * cols) })
    }
}

fn number_of(dtype: Dtype) -> Result<nvfp4_dtype> {
    match dtype {
        Dtype::BF16 => Ok(NVFP4_DTYPE_BF16),
        Dtype::F16 => Ok(NVFP4_DTYPE_F16),
        Dtype::F32 => Ok(NVFP4_DTYPE_F32),
        other => Err(format!("{other} values cannot be quantized")),
    }
}

/// One matrix to be quantized.
pub struct Matrix {
    pub dtype: Dtype,
    pub rows: usize,
    pub cols: usize,
    /// Stored [cols, rows].
    pub transposed: bool,
    /// None: from the largest magnitude.
    pub decode_scale: Option<f32>,
}

/// A map begins on a page, but a tensor in it begins where its header ended: copied where that is off the mark.
fn aligned(bytes: &[u8], copy: &mut Aligned) -> *const u8 {
    if bytes.as_ptr().addr().is_multiple_of(16) {
        return bytes.as_ptr();
    }
    copy.resize(bytes.len());
    copy.bytes_mut().copy_from_slice(bytes);
    copy.bytes().as_ptr()
}
