//! A call for each form of kernel that quantizers and dequantization have, whatever the GPU: the least that has to be
//! watched by tools that slow everything down.

use std::ptr::null;

use nvfp4::api::dequantize::*;
use nvfp4::api::types::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::regular::*;
use crate::{Call, call};

#[derive(Clone, Copy)]
pub enum Grouped {
    No,
    ByEnds,
}
use Grouped::{ByEnds, No};

/// What the planner of a quantizer looks at, beside the dtype of the values.
pub struct Form {
    pub producer: usize,
    pub rule: nvfp4_scale_rule,
    pub mode: usize,
    pub layout: nvfp4_scale_layout,
    pub shape: (usize, usize),
    pub grouped: Grouped,
}

/// Fewer rows than any GPU has SMs.
const FEW: (usize, usize) = (40, 272);
/// Rows of more blocks than a CTA of a block a thread has threads.
const LONG: (usize, usize) = (2, 8256);
/// Rows for 16 on each of 160 SMs.
const MANY: (usize, usize) = (2600, 64);

const AMAX: nvfp4_scale_rule = NVFP4_SCALE_RULE_AMAX;
const MIN_MSE: nvfp4_scale_rule = NVFP4_SCALE_RULE_MIN_MSE;
const FOUR_OVER_SIX: nvfp4_scale_rule = NVFP4_SCALE_RULE_FOUR_OVER_SIX;
const LINEAR: nvfp4_scale_layout = NVFP4_SCALE_LAYOUT_LINEAR;
const TILED: nvfp4_scale_layout = NVFP4_SCALE_LAYOUT_TILED_128X4;
const TILED_8: nvfp4_scale_layout = NVFP4_SCALE_LAYOUT_TILED_8X4;

const fn form(
    producer: usize,
    rule: nvfp4_scale_rule,
    mode: usize,
    layout: nvfp4_scale_layout,
    shape: (usize, usize),
    grouped: Grouped,
) -> Form {
    Form { producer, rule, mode, layout, shape, grouped }
}

/// Each with every dtype.
const FORMS: [Form; 23] = [
    // A block a thread: the amax of tensors and groups, then codes by each rule.
    form(PLAIN, AMAX, BY_TENSOR, LINEAR, FEW, No),
    form(PLAIN, AMAX, BY_TENSOR, TILED, FEW, ByEnds),
    form(PLAIN, FOUR_OVER_SIX, BY_TENSOR, TILED_8, FEW, No),
    form(PLAIN, FOUR_OVER_SIX, BY_TENSOR, LINEAR, FEW, ByEnds),
    form(PLAIN, MIN_MSE, BY_TENSOR, TILED, FEW, No),
    // Rows in registers: few, long, of groups, four a CTA, by a rule that looks again.
    form(PLAIN, AMAX, BY_ROW, LINEAR, FEW, No),
    form(PLAIN, AMAX, BY_ROW, LINEAR, LONG, No),
    form(PLAIN, AMAX, BY_ROW, LINEAR, FEW, ByEnds),
    form(PLAIN, AMAX, BY_ROW, TILED, MANY, No),
    form(PLAIN, AMAX, BY_ROW, TILED, MANY, ByEnds),
    form(PLAIN, FOUR_OVER_SIX, BY_ROW, TILED_8, FEW, No),
    form(PLAIN, MIN_MSE, BY_ROW, TILED, FEW, ByEnds),
    // Norms: a row a CTA, four, a rule that looks again.
    form(NORM, AMAX, BY_ROW, LINEAR, FEW, No),
    form(NORM, AMAX, STATIC, TILED, MANY, No),
    form(NORM, FOUR_OVER_SIX, BY_ROW, TILED_8, FEW, No),
    form(HYPER, AMAX, BY_ROW, TILED, FEW, No),
    form(HYPER, MIN_MSE, BY_ROW, LINEAR, FEW, No),
    // Gated activations: decode scales given, of a tensor, of rows.
    form(GATED, AMAX, STATIC, LINEAR, FEW, No),
    form(GATED, AMAX, STATIC, TILED, FEW, ByEnds),
    form(GATED, AMAX, BY_TENSOR, TILED, FEW, No),
    form(GATED, AMAX, BY_ROW, LINEAR, FEW, No),
    form(GATED, AMAX, BY_ROW, TILED, FEW, ByEnds),
    form(GATED, FOUR_OVER_SIX, BY_ROW, TILED_8, FEW, No),
];
const QUANTIZERS: usize = FORMS.len() * DTYPES.len();
/// How many calls [`call`] knows.
pub const CALLS: usize = QUANTIZERS + 2 * DTYPES.len();

pub fn call(index: usize, arena: &mut Arena) -> (&'static str, Call) {
    let dtype = DTYPES[index % DTYPES.len()];
    match index.checked_sub(QUANTIZERS) {
        None => of_form(&FORMS[index / DTYPES.len()], dtype, index, arena),
        Some(rest) => dequantize(dtype, [LINEAR, TILED][rest / DTYPES.len()], arena),
    }
}

fn dequantize(dtype: nvfp4_dtype, layout: nvfp4_scale_layout, arena: &mut Arena) -> (&'static str, Call) {
    let (rng, (rows, cols)) = (&mut Rng::new(7), FEW);
    let mut bytes = |count: usize| -> Vec<u8> { (0..count).map(|_| rng.next() as u8 & 0x7D).collect() };
    let (codes, scales) =
        (bytes(rows * cols / 2), bytes(scale_bytes(layout, rows, cols, 0, &nvfp4_groups::default())));
    let args = nvfp4_dequantize_args {
        struct_size: size_of::<nvfp4_dequantize_args>(),
        input: nvfp4_quantized_input {
            codes: arena.dense(&codes),
            scales: arena.dense(&scales),
            scale_layout: layout,
            // With none the product is exact, by a kernel of its own.
            decode_scales: if layout == LINEAR { arena.dense(&0.37f32.to_le_bytes()) } else { null() },
            ..Default::default()
        },
        rows: rows as i64,
        cols: cols as i64,
        dst: arena.dense_output(rows * cols * size(dtype)),
        dst_dtype: dtype,
        ..Default::default()
    };
    ("dequantize", call!(nvfp4_dequantize, args))
}
