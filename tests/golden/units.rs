//! Layouts through the C ABI; fma, exp, clamped ends and routing, which the header does not offer yet, through the crate.

use nvfp4::api::layouts::*;
use nvfp4::api::types::*;
use nvfp4::ffi::*;
use nvfp4::format::dtype::Dtype;
use nvfp4::format::math;
use nvfp4::format::route::{self, Router, Score};
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

pub fn route(_: &Library, case: &Case, _: u8) -> Outcome {
    let (logits, bias) = (case.array("logits"), case.find("bias").map(|b| b.f32s()));
    let (experts, k) = (logits.shape[1], case.number("k").unwrap_or(0.0) as usize);
    let router = Router {
        score: match case.text("score") {
            Some("sigmoid") => Score::Sigmoid,
            Some("sqrt_softplus") => Score::SqrtSoftplus,
            _ => Score::Softmax,
        },
        bias: bias.as_deref(),
        renormalise: case.flag("renormalise").unwrap_or(true),
        scaling: case.number("scaling").unwrap_or(1.0) as f32,
        groups: case.number("groups").unwrap_or(1.0) as usize,
        top_groups: case.number("top_groups").unwrap_or(1.0) as usize,
    };
    let (mut ids, mut weights) = (Vec::new(), Vec::new());
    let (mut plain, mut shared) = (Vec::new(), Vec::new());
    let (y, addend) = (case.array("y").bf16s(), case.array("shared").bf16s());
    let width = case.array("shared").shape[1];
    for (t, row) in logits.f32s().chunks(experts).enumerate() {
        let (mut id, mut w) = (vec![0; k], vec![0.0; k]);
        route::route(row, &router, &mut id, &mut w);
        for n in 0..width {
            let slots = || (0..k).map(|j| y[(t * k + j) * width + n]);
            plain.push(Dtype::Bf16.round(route::combine(&w, slots(), None)));
            shared.push(Dtype::Bf16.round(route::combine(&w, slots(), Some(addend[t * width + n]))));
        }
        ids.extend(id);
        weights.extend(w);
    }
    equal("ids", &ids, &case.array("ids").i32s())?;
    equal("weights", &bits(&weights), &bits(&case.array("weights").f32s()))?;
    equal("combined", &bits(&plain), &bits(&case.array("combined").bf16s()))?;
    equal("combined with shared", &bits(&shared), &bits(&case.array("combined_shared").bf16s()))
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
