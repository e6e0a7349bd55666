//! One matrix of values → codes, linear block scales and the decode scale, computed by the library on the CPU.

use crate::Result;
use clap::ValueEnum;
use nvfp4::api::context::{Context, nvfp4_context_options};
use nvfp4::api::quantize::{nvfp4_quantize_args, quantize};
use nvfp4::api::stream::Stream;
use nvfp4::api::types::*;
use safetensors::tensor::Dtype;

/// How a block's scale is chosen.
#[derive(Clone, Copy, ValueEnum)]
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
        let (source, codes, scales) = Default::default();
        Ok(Engine { context, stream, source, codes, scales, decode_scale: 1.0 })
    }

    /// `values`: [rows, cols] of `dtype`, dense, at any address. The result stays in the engine until the next call.
    pub fn quantize(
        &mut self,
        values: &[u8],
        dtype: Dtype,
        rows: usize,
        cols: usize,
        rule: Rule,
    ) -> Result<()> {
        // A map begins on a page, but a tensor in it begins where its header ended.
        let aligned = if values.as_ptr().addr().is_multiple_of(16) {
            values
        } else {
            self.source.resize(values.len());
            self.source.bytes_mut().copy_from_slice(values);
            self.source.bytes()
        };
        self.codes.resize(rows * cols / 2);
        self.scales.resize(rows * cols / 16);
        let args = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: aligned.as_ptr().cast(),
            src_dtype: match dtype {
                Dtype::BF16 => NVFP4_DTYPE_BF16,
                Dtype::F16 => NVFP4_DTYPE_F16,
                Dtype::F32 => NVFP4_DTYPE_F32,
                other => return Err(format!("{other} values cannot be quantized")),
            },
            rows: rows as i64,
            cols: cols as i64,
            out: nvfp4_quantized {
                codes: self.codes.bytes_mut().as_mut_ptr(),
                scales: self.scales.bytes_mut().as_mut_ptr(),
                scale_layout: NVFP4_SCALE_LAYOUT_LINEAR,
                scale_rule: rule.value(),
                scope: NVFP4_SCOPE_TENSOR,
                decode_scales: &mut self.decode_scale,
                ..Default::default()
            },
            ..Default::default()
        };
        // SAFETY: every pointer is to a live buffer of the stated shape, and the CPU is done when the call returns.
        unsafe { quantize(&self.context, &args, &self.stream) }.map_err(|e| e.to_string())?;
        // The library turns a block with a NaN or an infinity into a NaN block, whose scale is this code.
        match self.scales.bytes().iter().position(|&s| s == 0x7F) {
            Some(at) => Err(format!("row {} holds a NaN or an infinity", at / (cols / 16))),
            None => Ok(()),
        }
    }
}
