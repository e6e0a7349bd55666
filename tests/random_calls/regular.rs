//! Calls as engines make them, dense and aligned, at sizes that each kernel is made for: every producer, dtype, rule, scope
//! and layout of the quantizers; every operand and epilogue of the products from one row a group to hundreds.

use std::ptr::null_mut;

use nvfp4::api::gemm::*;
use nvfp4::api::linear::*;
use nvfp4::api::norm::*;
use nvfp4::api::quantize::*;
use nvfp4::api::swiglu::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::regular_forms::{Form, Grouped};
use crate::support::{Library, Memory};
use crate::{Call, Prepared, call};

/// Rows and columns: few and odd, enough for every SM, longer than a row that is kept in registers.
const SHAPES: [(usize, usize); 4] = [(40, 272), (1100, 512), (2, 16384), (130, 7168)];
/// The same for tools that slow everything down: each form of kernel still has its shape.
const SHORT_SHAPES: [(usize, usize); 4] = [(40, 272), (1100, 64), (2, 16384), (130, 1040)];
/// What quantizes: plain rows, a norm, a norm of mixed streams, a gated activation.
pub const PLAIN: usize = 0;
pub const NORM: usize = 1;
pub const HYPER: usize = 2;
pub const GATED: usize = 3;
const PRODUCERS: usize = 4;
pub const DTYPES: [nvfp4_dtype; 3] = [NVFP4_DTYPE_BF16, NVFP4_DTYPE_F16, NVFP4_DTYPE_F32];
const LAYOUTS: [nvfp4_scale_layout; 3] =
    [NVFP4_SCALE_LAYOUT_LINEAR, NVFP4_SCALE_LAYOUT_TILED_128X4, NVFP4_SCALE_LAYOUT_TILED_8X4];
/// Where decode scales come from.
pub const STATIC: usize = 0;
pub const BY_ROW: usize = 1;
/// Of a tensor, or of groups where there are some.
pub const BY_TENSOR: usize = 2;
const MODES: usize = 3;

/// How many calls [`rows`] knows.
pub const ROW_CALLS: usize = SHAPES.len() * PRODUCERS * DTYPES.len() * 3 * MODES * LAYOUTS.len();

/// Takes the digits of a number apart, one after another.
struct Digits(usize);

impl Digits {
    fn next(&mut self, base: usize) -> usize {
        let digit = self.0 % base;
        self.0 /= base;
        digit
    }
}

fn ordinary(rng: &mut Rng, dtype: nvfp4_dtype, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count * size(dtype));
    for _ in 0..count {
        let sum: i64 = (0..3).map(|_| rng.below(1 << 16) as i64).sum();
        let x = (sum - 98304) as f32 / 32768.0;
        match dtype {
            NVFP4_DTYPE_F32 => bytes.extend(x.to_le_bytes()),
            NVFP4_DTYPE_BF16 => bytes.extend(((x.to_bits() >> 16) as u16).to_le_bytes()),
            _ => bytes.extend(half::f16::from_f32(x).to_le_bytes()),
        }
    }
    bytes
}

/// Memory of a dense, aligned operand.
pub fn input<T>(rng: &mut Rng, arena: &mut Arena, dtype: nvfp4_dtype, count: usize) -> *mut T {
    let bytes = ordinary(rng, dtype, count);
    arena.dense(&bytes)
}

/// Rows in three groups.
fn ends(arena: &mut Arena, ends: [usize; GROUPS]) -> nvfp4_groups {
    let bytes: Vec<u8> = ends.iter().flat_map(|&end| (end as i32).to_le_bytes()).collect();
    nvfp4_groups {
        grouping: NVFP4_GROUPING_ENDS,
        count: GROUPS as u32,
        ends: arena.dense(&bytes),
        ..Default::default()
    }
}

/// Scales per row by the plain rule: these have the most forms of kernels.
pub fn per_row(index: usize) -> bool {
    let mut digits = Digits(index);
    digits.next(PRODUCERS * DTYPES.len());
    (digits.next(3) as u32, digits.next(MODES)) == (NVFP4_SCALE_RULE_AMAX, BY_ROW)
}

pub fn rows(index: usize, short: bool, arena: &mut Arena) -> (&'static str, Call) {
    let mut digits = Digits(index);
    let (producer, dtype) = (digits.next(PRODUCERS), DTYPES[digits.next(3)]);
    let (rule, mode, layout) =
        (digits.next(3) as u32, digits.next(MODES), LAYOUTS[digits.next(LAYOUTS.len())]);
    let (rows, mut cols) = if short { SHORT_SHAPES } else { SHAPES }[digits.next(SHAPES.len())];
    // The arena takes so much of the others; a rule that tries many scales takes its time on the CPU.
    if rule == NVFP4_SCALE_RULE_MIN_MSE && rows * cols > 100_000 {
        cols = 288;
    }
    of_form(
        &Form { producer, rule, mode, layout, shape: (rows, cols), grouped: Grouped::No },
        dtype,
        index,
        arena,
    )
}

/// The call of a form with values of a dtype; `index` varies what has no part in the choice of a kernel.
pub fn of_form(form: &Form, dtype: nvfp4_dtype, index: usize, arena: &mut Arena) -> (&'static str, Call) {
    let rng = &mut Rng::new(index as u64 + 1);
    let &Form { producer, rule, mode, layout, shape: (rows, cols), grouped } = form;
    let groups = match grouped {
        Grouped::No => nvfp4_groups::default(),
        Grouped::ByEnds => ends(arena, [rows / 3, rows / 2, rows - 1]),
    };
    let mut out = nvfp4_quantized {
        codes: arena.dense_output(rows * cols / 2),
        scales: arena.dense_output(scale_bytes(layout, rows, cols, 0, &groups)),
        scale_layout: layout,
        scale_rule: rule,
        scope: match (mode, grouped) {
            (BY_ROW, _) => NVFP4_SCOPE_ROW,
            (BY_TENSOR, Grouped::ByEnds) => NVFP4_SCOPE_GROUP,
            _ => NVFP4_SCOPE_TENSOR,
        },
        ..Default::default()
    };
    if mode == STATIC {
        out.static_decode_scales = arena.dense(&0.0011f32.to_le_bytes());
    } else {
        out.decode_scales = arena.dense_output(4 * scope_entries(out.scope, &groups, rows));
    }
    let (rows_, cols_) = (rows as i64, cols as i64);
    match producer {
        PLAIN => (
            "quantize",
            call!(
                nvfp4_quantize,
                nvfp4_quantize_args {
                    struct_size: size_of::<nvfp4_quantize_args>(),
                    src: input(rng, arena, dtype, rows * cols),
                    src_dtype: dtype,
                    rows: rows_,
                    cols: cols_,
                    groups,
                    out,
                    ..Default::default()
                }
            ),
        ),
        NORM => (
            "rmsnorm_quantize",
            call!(
                nvfp4_rmsnorm_quantize,
                nvfp4_rmsnorm_quantize_args {
                    struct_size: size_of::<nvfp4_rmsnorm_quantize_args>(),
                    src: input(rng, arena, dtype, rows * cols),
                    src_dtype: dtype,
                    weight_dtype: dtype,
                    rows: rows_,
                    cols: cols_,
                    weight: input(rng, arena, dtype, cols),
                    eps: 1e-6,
                    inv_rms: if index.is_multiple_of(2) { null_mut() } else { arena.dense_output(rows * 4) },
                    out,
                    ..Default::default()
                }
            ),
        ),
        HYPER => {
            let streams = if rows * cols > 500_000 { 2 } else { 1 + index % 4 };
            (
                "hc_rmsnorm_quantize",
                call!(
                    nvfp4_hc_rmsnorm_quantize,
                    nvfp4_hc_rmsnorm_quantize_args {
                        struct_size: size_of::<nvfp4_hc_rmsnorm_quantize_args>(),
                        streams: input(rng, arena, dtype, rows * streams * cols),
                        src_dtype: dtype,
                        weight_dtype: dtype,
                        stream_count: streams as u32,
                        mix: input(rng, arena, NVFP4_DTYPE_F32, rows * streams),
                        rows: rows_,
                        cols: cols_,
                        weight: input(rng, arena, dtype, cols),
                        eps: 1e-6,
                        out,
                        ..Default::default()
                    }
                ),
            )
        }
        _ => (
            "swiglu_quantize",
            call!(
                nvfp4_swiglu_quantize,
                nvfp4_swiglu_quantize_args {
                    struct_size: size_of::<nvfp4_swiglu_quantize_args>(),
                    src: input(rng, arena, dtype, rows * cols * 2),
                    src_dtype: dtype,
                    interleave: 8 * (index as u32 / 7 % 2),
                    rows: rows_,
                    width: cols_,
                    activation: NVFP4_ACTIVATION_SWIGLU,
                    limit: 2.0,
                    groups,
                    out,
                    ..Default::default()
                }
            ),
        ),
    }
}

/// Rows a group on the average; the groups have more and fewer.
const TOKENS: [usize; 8] = [1, 3, 10, 24, 40, 70, 130, 260];
const WEIGHTS: [(usize, usize); 3] = [(256, 256), (416, 2112), (32, 4160)];
const OPERANDS: [nvfp4_dtype; 3] = [NVFP4_DTYPE_BF16, NVFP4_DTYPE_F16, NVFP4_DTYPE_NVFP4];
const GROUPS: usize = 3;
/// Plain, accumulated, batch-invariant; and with gate and up SwiGLU to values, to codes with static and dynamic scales.
const EPILOGUES: usize = 3;

/// How many calls [`product`] knows for each of [`WEIGHT_SETS`] weights.
pub const PRODUCT_CALLS: usize = TOKENS.len() * OPERANDS.len() * EPILOGUES;
pub const WEIGHT_SETS: usize = WEIGHTS.len() * 2;
/// The sets that come first, whose sums are short: plain, and with gate and up.
pub const SHORT_SETS: usize = 2;

/// Weights from canonical codes on both libraries.
pub fn weights(index: usize, libraries: &[Library; 2], storage: &mut [Memory; 2]) -> Prepared {
    let rng = &mut Rng::new(index as u64 + 77);
    let ((n, k), gate_up) = (WEIGHTS[index / 2], index % 2 == 1);
    let values = Memory::from(&ordinary(rng, NVFP4_DTYPE_BF16, GROUPS * n * k));
    let mut codes = Memory::poisoned(GROUPS * n * k / 2, 0);
    let mut scales = Memory::poisoned(GROUPS * n * k / 16, 0);
    let mut decode = Memory::poisoned(GROUPS * 4, 0);
    let quantize = nvfp4_quantize_args {
        struct_size: size_of::<nvfp4_quantize_args>(),
        src: values.ptr(),
        src_group_stride: (n * k) as i64,
        rows: (GROUPS * n) as i64,
        cols: k as i64,
        groups: nvfp4_groups {
            grouping: NVFP4_GROUPING_STRIDED,
            count: GROUPS as u32,
            max_tokens: n as i64,
            ..Default::default()
        },
        out: nvfp4_quantized {
            codes: codes.ptr_mut(),
            scales: scales.ptr_mut(),
            scope: NVFP4_SCOPE_GROUP,
            decode_scales: decode.ptr_mut(),
            ..Default::default()
        },
        ..Default::default()
    };
    libraries[0].call(nvfp4_quantize, &quantize).unwrap();
    let args = nvfp4_weights_prepare_args {
        groups: GROUPS as i64,
        rows: n as i64,
        cols: k as i64,
        gate_up: gate_up as u32,
        codes: codes.ptr(),
        scales: scales.ptr(),
        decode_scales: decode.ptr(),
        ..Default::default()
    };
    Prepared::in_all(libraries, storage, &args)
}

/// Rows a group and operand of a call with which every kernel is tried: many rows, an operand each with nothing behind the
/// sum; or the two values, which is what codes become, with codes behind gate and up.
pub fn typical(index: usize, gate_up: bool) -> Option<(usize, nvfp4_dtype)> {
    let mut digits = Digits(index);
    let (tokens, operand) = (digits.next(TOKENS.len()), OPERANDS[digits.next(OPERANDS.len())]);
    let tried = tokens == TOKENS.len() - 2
        && digits.next(EPILOGUES) == usize::from(gate_up)
        && !(gate_up && operand == NVFP4_DTYPE_NVFP4);
    tried.then_some((TOKENS[tokens], operand))
}

pub fn product(index: usize, w: &Prepared, arena: &mut Arena) -> Call {
    let rng = &mut Rng::new(index as u64 + 1234);
    let mut digits = Digits(index);
    let (tokens, dtype) = (TOKENS[digits.next(TOKENS.len())], OPERANDS[digits.next(3)]);
    let epilogue = digits.next(EPILOGUES);
    let rows = tokens * GROUPS;
    let first = tokens / 3;
    let cols = if w.gate_up { w.rows / 2 } else { w.rows };
    let mut args = nvfp4_grouped_gemm_args {
        struct_size: size_of::<nvfp4_grouped_gemm_args>(),
        weights: w.handles[0],
        rows: rows as i64,
        groups: ends(arena, [first, first + tokens, rows - usize::from(rows > 8)]),
        a_dtype: dtype,
        out_dtype: DTYPES[(index / 5) % 3],
        ..Default::default()
    };
    if dtype == NVFP4_DTYPE_NVFP4 {
        let bytes =
            |rng: &mut Rng, count: usize| -> Vec<u8> { (0..count).map(|_| rng.next() as u8).collect() };
        let codes = bytes(rng, rows * w.cols / 2);
        let layout = LAYOUTS[index % 2];
        let scales = scale_bytes(layout, rows, w.cols, 0, &args.groups);
        let scales: Vec<u8> = (0..scales).map(|_| 0x28 + rng.below(24) as u8).collect();
        let decode: Vec<u8> = (0..rows).flat_map(|i| (0.01 + i as f32 * 1e-4).to_le_bytes()).collect();
        args.a_quantized = nvfp4_quantized_input {
            codes: arena.dense(&codes),
            scales: arena.dense(&scales),
            scale_layout: layout,
            scope: NVFP4_SCOPE_ROW,
            decode_scales: arena.dense(&decode),
            ..Default::default()
        };
    } else {
        args.a = input(rng, arena, dtype, rows * w.cols);
    }
    if index.is_multiple_of(3) {
        args.bias_dtype = NVFP4_DTYPE_F32;
        args.bias = input(rng, arena, NVFP4_DTYPE_F32, GROUPS * w.rows);
    }
    if w.gate_up {
        args.activation = NVFP4_ACTIVATION_SWIGLU;
        args.limit = 7.0;
    }
    if w.gate_up && epilogue > 0 {
        args.out_dtype = NVFP4_DTYPE_NVFP4;
        let layout = LAYOUTS[index / 8 % 2]; // linear with float16 activations, where a static scale has a pass of its own
        let mut out = nvfp4_quantized {
            codes: arena.dense_output(rows * cols / 2),
            scales: arena.dense_output(scale_bytes(layout, rows, cols, 0, &args.groups)),
            scale_layout: layout,
            scope: NVFP4_SCOPE_ROW,
            ..Default::default()
        };
        if epilogue == 1 {
            out.scope = NVFP4_SCOPE_TENSOR;
            out.static_decode_scales = arena.dense(&0.05f32.to_le_bytes());
        } else {
            out.decode_scales = arena.dense_output(rows * 4);
        }
        args.out_quantized = out;
    } else {
        let bytes = rows * cols * size(args.out_dtype);
        args.out = if !w.gate_up && epilogue == 1 {
            args.flags = NVFP4_GEMM_ACCUMULATE;
            input(rng, arena, args.out_dtype, rows * cols)
        } else {
            args.flags = if epilogue == 2 { NVFP4_GEMM_BATCH_INVARIANT } else { 0 };
            arena.dense_output(bytes)
        };
    }
    call!(nvfp4_grouped_gemm, args)
}

/// How many calls [`linear`] knows.
pub const LINEAR_CALLS: usize = 6;

/// A grouped linear layer that quantizes what it takes: with a scale given, few rows with theirs, and more than a wave of them.
pub fn linear(index: usize, w: &Prepared, arena: &mut Arena) -> Call {
    let rng = &mut Rng::new(index as u64 + 4321);
    let (tokens, by_row) = [(40, false), (40, true), (3500, true)][index / 2];
    let rows = tokens * w.groups;
    let mut args = nvfp4_grouped_linear_args {
        struct_size: size_of::<nvfp4_grouped_linear_args>(),
        weights: w.handles[0],
        tokens: tokens as i64,
        a: input(rng, arena, DTYPES[index % 2], rows * w.cols),
        a_dtype: DTYPES[index % 2],
        quantize: 1,
        out: arena.dense_output(rows * w.rows * 2),
        out_dtype: NVFP4_DTYPE_BF16,
        ..Default::default()
    };
    if by_row {
        args.scope = NVFP4_SCOPE_ROW;
    } else {
        args.static_decode_scales = arena.dense(&0.0011f32.to_le_bytes());
    }
    call!(nvfp4_grouped_linear, args)
}
