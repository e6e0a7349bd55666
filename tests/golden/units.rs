//! Layouts, routing and combine through the C ABI; fma, exp and clamped ends, which the header does not offer, through
//! the crate.

use nvfp4::api::layouts::*;
use nvfp4::api::moe::combine::*;
use nvfp4::api::moe::route::*;
use nvfp4::api::types::*;
use nvfp4::ffi::*;
use nvfp4::format::math;
use nvfp4::plan::groups;

use crate::case::Case;
use crate::support::{Library, Memory};

type Outcome = Result<(), String>;

pub fn swizzle(library: &Library, case: &Case, poison: u8) -> Outcome {
    let linear = case.array("scales");
    for (name, layout) in
        [("scales_128x4", NVFP4_SCALE_LAYOUT_TILED_128X4), ("scales_8x4", NVFP4_SCALE_LAYOUT_TILED_8X4)]
    {
        let want = case.array(name);
        let (mut source, mut tiled) = (linear.memory(), Memory::poisoned(want.bytes.len(), poison));
        let mut args = nvfp4_tile_scales_args {
            struct_size: size_of::<nvfp4_tile_scales_args>(),
            linear: source.ptr_mut(),
            tiled: tiled.ptr_mut(),
            scale_layout: layout,
            rows: linear.shape[0] as i64,
            blocks: linear.shape[1] as i64,
            ..Default::default()
        };
        library.call(nvfp4_tile_scales, &args)?;
        tiled.expect(name, &want.bytes)?;
        let mut back = Memory::poisoned(linear.bytes.len(), poison);
        args.linear = back.ptr_mut();
        library.call(nvfp4_untile_scales, &args)?;
        back.expect("scales", &linear.bytes)?;
    }
    Ok(())
}

pub fn interleave(library: &Library, case: &Case, poison: u8) -> Outcome {
    let (src, want) = (case.array("src"), case.array("dst"));
    let (from, mut to) = (src.memory(), Memory::poisoned(want.bytes.len(), poison));
    let mut back = Memory::poisoned(src.bytes.len(), poison);
    let mut args = nvfp4_interleave_gate_up_args {
        struct_size: size_of::<nvfp4_interleave_gate_up_args>(),
        src: from.ptr(),
        dst: to.ptr_mut(),
        count: 1,
        half_rows: src.shape[0] as i64 / 2,
        row_bytes: src.shape[1] as i64,
        granularity: case.number("granularity").unwrap_or(0.0) as i64,
    };
    library.call(nvfp4_interleave_gate_up, &args)?;
    to.expect("interleaved", &want.bytes)?;
    (args.src, args.dst) = (to.ptr(), back.ptr_mut());
    library.call(nvfp4_deinterleave_gate_up, &args)?;
    back.expect("deinterleaved", &src.bytes)
}

pub fn valid_ends(_: &Library, case: &Case, _: u8) -> Outcome {
    let rows = case.number("tokens").unwrap_or(0.0) as usize;
    let (used, bad) = groups::valid_ends(&case.array("ends").i32s(), rows);
    let bad = bad.map_or(-1, |g| g as i64);
    equal("ends", &used, &case.array("used").i32s())?;
    equal("first bad group", &[bad], &[case.number("first_bad_group").unwrap_or(f64::NAN) as i64])
}

pub fn fma(_: &Library, case: &Case, _: u8) -> Outcome {
    let (a, b, c) = (case.array("a").f32s(), case.array("b").f32s(), case.array("c").f32s());
    let got: Vec<u32> = (0..a.len()).map(|i| math::fma(a[i], b[i], c[i]).to_bits()).collect();
    equal("fma", &got, &bits(&case.array("out").f32s()))
}

pub fn exp(_: &Library, case: &Case, _: u8) -> Outcome {
    let got: Vec<f32> = case.array("z").f32s().into_iter().map(math::exp).collect();
    equal("exp", &bits(&got), &bits(&case.array("out").f32s()))
}

pub fn route(library: &Library, case: &Case, poison: u8) -> Outcome {
    let (logits, bias) = (case.array("logits"), case.find("bias"));
    let (tokens, experts) = (logits.shape[0], logits.shape[1]);
    let topk = case.number("k").unwrap_or(0.0) as usize;
    let number = |name: &str, default: f64| case.number(name).unwrap_or(default);
    let (source, bias) = (logits.memory(), bias.map(|b| b.memory()));
    let mut ids = Memory::poisoned(tokens * topk * 4, poison);
    let mut weights = Memory::poisoned(tokens * topk * 4, poison);
    let groups = number("groups", 1.0) as u32;
    let router = nvfp4_moe_router {
        score: match case.text("score") {
            Some("sigmoid") => NVFP4_MOE_SCORE_SIGMOID,
            Some("sqrt_softplus") => NVFP4_MOE_SCORE_SQRT_SOFTPLUS,
            _ => NVFP4_MOE_SCORE_SOFTMAX,
        },
        renormalise: case.flag("renormalise").unwrap_or(true) as u32,
        groups,
        top_groups: if groups > 1 { number("top_groups", 1.0) as u32 } else { 0 },
        bias: bias.as_ref().map_or(std::ptr::null(), |b| b.ptr()),
        scaling: number("scaling", 1.0) as f32,
        ..Default::default()
    };
    let args = nvfp4_moe_route_args {
        struct_size: size_of::<nvfp4_moe_route_args>(),
        logits: source.ptr(),
        logits_dtype: logits.dtype(),
        topk: topk as u32,
        tokens: tokens as i64,
        experts: experts as i64,
        router,
        topk_ids: ids.ptr_mut(),
        topk_weights: weights.ptr_mut(),
        ..Default::default()
    };
    library.call(nvfp4_moe_route, &args)?;
    ids.expect("ids", &case.array("ids").bytes)?;
    weights.expect("weights", &case.array("weights").bytes)?;
    combine(library, case, poison, topk, weights.ptr())
}

/// The rows of `y` in slot order: row i is slot i's.
fn combine(library: &Library, case: &Case, poison: u8, topk: usize, weights: *const f32) -> Outcome {
    let (y, shared) = (case.array("y"), case.array("shared"));
    let (tokens, cols) = (shared.shape[0], shared.shape[1]);
    let slots: Vec<u8> = (0..(tokens * topk) as i32).flat_map(i32::to_le_bytes).collect();
    let inverse = Memory::from(&slots);
    let (rows, addend) = (y.memory(), shared.memory());
    for (name, shared) in [("combined", std::ptr::null()), ("combined_shared", addend.ptr())] {
        let want = case.array(name);
        let mut out = Memory::poisoned(want.bytes.len(), poison);
        let args = nvfp4_moe_combine_args {
            struct_size: size_of::<nvfp4_moe_combine_args>(),
            tokens: tokens as i64,
            cols: cols as i64,
            topk: topk as u32,
            rows: (tokens * topk) as i64,
            y: rows.ptr(),
            inverse: inverse.ptr(),
            topk_weights: weights,
            shared,
            out: out.ptr_mut(),
            ..Default::default()
        };
        library.call(nvfp4_moe_combine, &args)?;
        out.expect(name, &want.bytes)?;
    }
    Ok(())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: &[T], want: &[T]) -> Outcome {
    if got.len() != want.len() {
        return Err(format!("{what}: {} values, expected {}", got.len(), want.len()));
    }
    match got.iter().zip(want).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => Err(format!("{what}: value {i} is {:?}, expected {:?}", got[i], want[i])),
    }
}
