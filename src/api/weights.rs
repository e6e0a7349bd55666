//! Prepared weights: the operand B of a product in the layout that the backend's kernels read.
#![allow(non_camel_case_types)]

use std::sync::Arc;

use super::check::{self, CACHE_LINE, MATRIX, Regions};
use super::context::Context;
use super::stream::Stream;
use super::types::*;
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::layout::ScaleLayout;
use crate::plan::Job;
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr};
use crate::plan::quantize::Scales;
use crate::plan::weights::{ExportProblem, PrepareProblem, WeightsShape, WeightsSource};

/// What weights are made from.
pub type nvfp4_weights_source = u32;
/// Canonical NVFP4 codes, block scales and decode scales.
pub const NVFP4_WEIGHTS_SOURCE_CODES: nvfp4_weights_source = 0;
/// BF16, F16 or F32 values, quantized on the way.
pub const NVFP4_WEIGHTS_SOURCE_VALUES: nvfp4_weights_source = 1;

/// What a decode scale of canonical weights belongs to.
pub type nvfp4_weights_scope = u32;
/// Each matrix has its own: float[E].
pub const NVFP4_WEIGHTS_SCOPE_GROUP: nvfp4_weights_scope = 0;
/// All matrices share one: float[1].
pub const NVFP4_WEIGHTS_SCOPE_TENSOR: nvfp4_weights_scope = 1;
/// Each row has its own: float[E, N]. The rows of a matrix must agree, unless `requantize` is 1.
pub const NVFP4_WEIGHTS_SCOPE_ROW: nvfp4_weights_scope = 2;

/// Arguments of nvfp4_weights_prepare and nvfp4_weights_storage_size (which reads the shape alone).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_weights_prepare_args {
    /// sizeof(nvfp4_weights_prepare_args).
    pub struct_size: usize,
    /// E: matrices, 0 to 65535.
    pub groups: i64,
    /// N: rows of each matrix, 1 or more; even when gate_up.
    pub rows: i64,
    /// K: values a row, a positive multiple of 16.
    pub cols: i64,
    /// 1: the first N/2 rows are gate, the others up, for the SWIGLU epilogue; 0: plain.
    pub gate_up: u32,
    /// One of NVFP4_WEIGHTS_SOURCE_*.
    pub source: nvfp4_weights_source,
    /// CODES: [E, N, K/2] dense, 16-byte aligned. Codes under a zero scale are taken as 0.
    pub codes: *const u8,
    /// CODES: block scales of each matrix in scale_layout, matrix after matrix (each tiled on its own), 16-byte aligned.
    /// A scale with its sign bit set is refused.
    pub scales: *const u8,
    /// CODES: one of NVFP4_SCALE_LAYOUT_*.
    pub scale_layout: nvfp4_scale_layout,
    /// VALUES: BF16, F16 or F32.
    pub src_dtype: nvfp4_dtype,
    /// VALUES: [E, N, K], or [E, K, N] when transposed; 16-byte aligned.
    pub src: *const core::ffi::c_void,
    /// VALUES: elements between rows as stored; 0: dense.
    pub src_row_stride: i64,
    /// VALUES: elements between matrices; 0: dense.
    pub src_group_stride: i64,
    /// VALUES: 1 when src is stored [E, K, N].
    pub transposed: u32,
    /// VALUES, and CODES with requantize: one of NVFP4_SCALE_RULE_*.
    pub scale_rule: nvfp4_scale_rule,
    /// float array in device memory. CODES: required, finite and above 0, by decode_scope. VALUES: float[E], static decode
    /// scales, or NULL for amax / 2688 of each matrix.
    pub decode_scales: *const f32,
    /// Caller-owned memory of nvfp4_weights_storage_size bytes, 64-byte aligned; the weights live in it until destroyed.
    pub storage: *mut core::ffi::c_void,
    /// Its bytes.
    pub storage_size: usize,
    /// CODES: one of NVFP4_WEIGHTS_SCOPE_*, what decode_scales is indexed by. ROW waits for
    /// the stream on a GPU too, and refuses with a status what is no decode scale.
    pub decode_scope: nvfp4_weights_scope,
    /// CODES of scope ROW: 1: matrices whose rows have different decode scales are quantized again with one, amax / 2688 of
    /// their values, by scale_rule; the others keep their bytes. 0: they are refused, the first row that differs is named.
    pub requantize: u32,
}

/// Arguments of nvfp4_weights_export. The bytes are those that canonical weights were prepared from, or the ones that
/// nvfp4_quantize gives for the same values.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_weights_export_args {
    /// sizeof(nvfp4_weights_export_args).
    pub struct_size: usize,
    /// The weights.
    pub weights: *const super::handles::nvfp4_weights,
    /// [E, N, K/2] dense, written; 16-byte aligned.
    pub codes: *mut u8,
    /// Block scales, matrix after matrix in scale_layout, written, padding as zero; 16-byte aligned.
    pub scales: *mut u8,
    /// float[E], written; 4-byte aligned.
    pub decode_scales: *mut f32,
    /// One of NVFP4_SCALE_LAYOUT_*.
    pub scale_layout: nvfp4_scale_layout,
    /// Must be 0.
    pub reserved: u32,
}

/// What nvfp4_weights_info tells.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_weights_shape {
    /// sizeof(nvfp4_weights_shape), set by the caller.
    pub struct_size: usize,
    /// E.
    pub groups: i64,
    /// N.
    pub rows: i64,
    /// K.
    pub cols: i64,
    /// 1 for gate/up pairs.
    pub gate_up: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of storage in use.
    pub storage_size: usize,
}

zeroed_default!(nvfp4_weights_prepare_args, nvfp4_weights_export_args, nvfp4_weights_shape);

/// Prepared weights in the caller's storage. Clones are the same weights.
#[derive(Clone)]
pub struct Weights(Arc<Inner>);

struct Inner {
    context: Context,
    weights: crate::plan::weights::Weights,
    storage_size: usize,
}

impl Weights {
    /// Brings E matrices into the layout of the backend's kernels.
    ///
    /// # Safety
    /// The pointers of `args` are valid for what their documentation says; `storage` outlives the weights.
    pub unsafe fn prepare(
        context: &Context,
        args: &nvfp4_weights_prepare_args,
        stream: &Stream,
    ) -> Result<Weights> {
        stream.check(context)?;
        stream.check_not_capturing("nvfp4_weights_prepare cannot be captured")?;
        let (problem, storage_size) = Weights::plan_prepare(context, args, Regions::default())?;
        // SAFETY: the caller's promise.
        unsafe { stream.prepare_weights(&problem)? };
        let weights = problem.weights;
        Ok(Weights(Arc::new(Inner { context: context.clone(), weights, storage_size })))
    }

    pub(super) fn plan_prepare(
        context: &Context,
        args: &nvfp4_weights_prepare_args,
        mut regions: Regions,
    ) -> Result<(PrepareProblem, usize)> {
        let shape = shape(args)?;
        let storage_size = storage_size(context, &shape)?;
        let source = source(args, &shape, &mut regions)?;
        if args.storage_size < storage_size && !(regions.is_of_shapes() && args.storage.is_null()) {
            return Err(Error::Mismatch {
                argument: "storage_size",
                value: args.storage_size.to_string(),
                expected: format!("at least {storage_size}, as nvfp4_weights_storage_size says"),
            });
        }
        let storage = regions.write("storage", args.storage.cast::<u8>(), storage_size, CACHE_LINE)?;
        regions.check_overlap()?;
        let weights = crate::plan::weights::Weights { shape, storage };
        Ok((PrepareProblem { source, weights }, storage_size))
    }

    /// Bytes of storage for weights of this shape.
    pub fn storage_size(context: &Context, args: &nvfp4_weights_prepare_args) -> Result<usize> {
        context.check_process()?;
        storage_size(context, &shape(args)?)
    }

    /// Writes the canonical codes, scales and decode scales.
    ///
    /// # Safety
    /// The pointers of `args` are valid for what their documentation says.
    pub unsafe fn export(
        &self,
        context: &Context,
        args: &nvfp4_weights_export_args,
        stream: &Stream,
    ) -> Result<()> {
        stream.check(context)?;
        self.check(context, "weights")?;
        let problem = self.plan_export(args, Regions::default())?;
        // SAFETY: the caller's promise.
        unsafe { stream.submit(Job::Export(problem), self.keep(), None) }
    }

    pub(super) fn plan_export(
        &self,
        args: &nvfp4_weights_export_args,
        mut regions: Regions,
    ) -> Result<ExportProblem> {
        check::reserved("reserved", args.reserved)?;
        let layout = check::scale_layout("scale_layout", args.scale_layout)?;
        let shape = &self.0.weights.shape;
        let (codes_bytes, scales_bytes) = canonical_bytes(shape, layout)?;
        let codes = regions.write("codes", args.codes, codes_bytes, MATRIX)?;
        let base = regions.write("scales", args.scales, scales_bytes, MATRIX)?;
        let decode = regions.write_array("decode_scales", args.decode_scales, shape.groups)?;
        regions.read("weights", self.0.weights.storage.get(), self.0.storage_size, CACHE_LINE)?;
        regions.check_overlap()?;
        let scales = Scales { base, layout, row_stride: shape.cols / BLOCK };
        Ok(ExportProblem { weights: self.0.weights, codes, scales, decode })
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn info(&self) -> nvfp4_weights_shape {
        let shape = &self.0.weights.shape;
        nvfp4_weights_shape {
            groups: shape.groups as i64,
            rows: shape.rows as i64,
            cols: shape.cols as i64,
            gate_up: shape.gate_up as u32,
            storage_size: self.0.storage_size,
            ..Default::default()
        }
    }

    pub(super) fn check(&self, context: &Context, argument: &'static str) -> Result<()> {
        if !self.0.context.same(context) {
            return Err(Error::Handle {
                argument,
                kind: "weights of this context",
                problem: "they belong to another context",
            });
        }
        Ok(())
    }

    pub(super) fn plan(&self) -> crate::plan::weights::Weights {
        self.0.weights
    }

    pub(super) fn storage_bytes(&self) -> usize {
        self.0.storage_size
    }

    pub(super) fn keep(&self) -> super::stream::Keep {
        Some(Arc::clone(&self.0) as _)
    }
}

fn shape(args: &nvfp4_weights_prepare_args) -> Result<WeightsShape> {
    let groups = check::count("groups", args.groups, 0, check::MAX_GROUPS as i64)?;
    let rows = check::count("rows", args.rows, 1, i64::MAX)?;
    let cols = check::cols("cols", args.cols)?;
    let gate_up = check::flag("gate_up", args.gate_up)?;
    if gate_up && rows % 2 != 0 {
        return Err(Error::NotMultiple { argument: "rows", value: args.rows, multiple: 2 });
    }
    Ok(WeightsShape { groups, rows, cols, gate_up })
}

fn storage_size(context: &Context, shape: &WeightsShape) -> Result<usize> {
    match context.backend().weights_storage_size(shape) {
        Some(bytes) if bytes <= i64::MAX as usize => Ok(bytes),
        _ => Err(Error::TooLarge { argument: "storage" }),
    }
}

/// Bytes of the codes and of the scales of all matrices in the canonical form.
fn canonical_bytes(shape: &WeightsShape, layout: ScaleLayout) -> Result<(usize, usize)> {
    let rows = |rows: usize| rows.checked_mul(shape.groups);
    let code_rows = rows(shape.rows).ok_or(Error::TooLarge { argument: "codes" })?;
    let codes = check::extent("codes", code_rows, shape.cols / 2, shape.cols / 2, 1)?.bytes;
    let blocks = shape.cols / BLOCK;
    let width = if layout.is_tiled() { blocks.next_multiple_of(4) } else { blocks };
    let scale_rows = shape.rows.checked_next_multiple_of(layout.tile_rows()).and_then(rows);
    let scale_rows = scale_rows.ok_or(Error::TooLarge { argument: "scales" })?;
    Ok((codes, check::extent("scales", scale_rows, width, width, 1)?.bytes))
}

fn source(
    args: &nvfp4_weights_prepare_args,
    shape: &WeightsShape,
    regions: &mut Regions,
) -> Result<WeightsSource> {
    let unused = |argument: &'static str, present: bool| match present {
        true => Err(Error::Conflict { argument, problem: "not used by this source; leave it 0".into() }),
        false => Ok(()),
    };
    match args.source {
        NVFP4_WEIGHTS_SOURCE_CODES => {
            unused("src", !args.src.is_null())?;
            unused("src_row_stride", args.src_row_stride != 0)?;
            unused("src_group_stride", args.src_group_stride != 0)?;
            unused("transposed", args.transposed != 0)?;
            let requantize = check::flag("requantize", args.requantize)?;
            unused("scale_rule", args.scale_rule != 0 && !requantize)?;
            let layout = check::scale_layout("scale_layout", args.scale_layout)?;
            let (codes_bytes, scales_bytes) = canonical_bytes(shape, layout)?;
            let codes = regions.read("codes", args.codes, codes_bytes, MATRIX)?;
            let base = regions.read("scales", args.scales, scales_bytes, MATRIX)?;
            let scales = Scales { base, layout, row_stride: shape.cols / BLOCK };
            let mut decode = |count| regions.read_array("decode_scales", args.decode_scales, count);
            let per_row = match args.decode_scope {
                NVFP4_WEIGHTS_SCOPE_GROUP => {
                    unused("requantize", requantize)?;
                    return Ok(WeightsSource::Codes { codes, scales, decode: decode(shape.groups)? });
                }
                NVFP4_WEIGHTS_SCOPE_TENSOR => false,
                NVFP4_WEIGHTS_SCOPE_ROW => true,
                value => {
                    let known = "NVFP4_WEIGHTS_SCOPE_GROUP (0), _TENSOR (1), _ROW (2)";
                    return Err(Error::UnknownValue { argument: "decode_scope", value, known });
                }
            };
            unused("requantize", requantize && !per_row)?;
            let requantize = match requantize {
                true => Some(check::scale_rule("scale_rule", args.scale_rule)?),
                false => None,
            };
            // No more than the codes, which fit.
            let decode = decode(if per_row { shape.groups * shape.rows } else { shape.groups.min(1) })?;
            Ok(WeightsSource::Scoped { codes, scales, decode, per_row, requantize })
        }
        NVFP4_WEIGHTS_SOURCE_VALUES => {
            unused("codes", !args.codes.is_null())?;
            unused("scales", !args.scales.is_null())?;
            unused("scale_layout", args.scale_layout != 0)?;
            unused("decode_scope", args.decode_scope != 0)?;
            unused("requantize", args.requantize != 0)?;
            let dtype = check::float_dtype("src_dtype", args.src_dtype)?;
            let rule = check::scale_rule("scale_rule", args.scale_rule)?;
            let transposed = check::flag("transposed", args.transposed)?;
            let (rows, cols) = if transposed { (shape.cols, shape.rows) } else { (shape.rows, shape.cols) };
            let row_stride = check::stride("src_row_stride", args.src_row_stride, cols)?;
            let one = check::extent("src", rows, row_stride, cols, 1)?.bytes;
            let dense = rows.checked_mul(row_stride).ok_or(Error::TooLarge { argument: "src" })?;
            let group_stride = match args.src_group_stride {
                0 => dense,
                value => check::stride("src_group_stride", value, one)?,
            };
            let stored = Groups::Strided { count: shape.groups, rows };
            let bytes = check::grouped_extent("src", &stored, row_stride, group_stride, cols, dtype.bytes())?;
            let base = regions.read("src", args.src.cast::<u8>(), bytes, MATRIX)?;
            let given = match args.decode_scales.is_null() {
                true => Ptr::NULL,
                false => regions.read_array("decode_scales", args.decode_scales, shape.groups)?,
            };
            let src = Matrix { base, dtype, row_stride, group_stride };
            Ok(WeightsSource::Values { src, transposed, rule, given })
        }
        value => Err(Error::UnknownValue {
            argument: "source",
            value,
            known: "NVFP4_WEIGHTS_SOURCE_CODES (0), _VALUES (1)",
        }),
    }
}
