//! Quantizers, plain and fused: every output bit for bit, in the linear and, where the case has them, tiled layouts.

use nvfp4::api::dequantize::nvfp4_dequantize_args;
use nvfp4::api::norm::*;
use nvfp4::api::quantize::nvfp4_quantize_args;
use nvfp4::api::swiglu::nvfp4_swiglu_quantize_args;
use nvfp4::api::types::*;
use nvfp4::ffi::*;

use crate::case::Case;
use crate::support::{Library, Memory};

type Outcome = Result<(), String>;

/// Poisoned outputs of a case in one scale layout.
struct Outputs {
    codes: Memory,
    scales: Memory,
    decode: Memory,
}

impl Outputs {
    fn new(case: &Case, scales: &str, poison: u8) -> Outputs {
        let len = |name: &str| case.find(name).map_or(0, |a| a.bytes.len());
        Outputs {
            codes: Memory::poisoned(len("packed"), poison),
            scales: Memory::poisoned(len(scales), poison),
            decode: Memory::poisoned(len("decode_scale"), poison),
        }
    }

    fn quantized(&mut self, case: &Case, scales: &str) -> nvfp4_quantized {
        nvfp4_quantized {
            codes: self.codes.ptr_mut(),
            scales: self.scales.ptr_mut(),
            scale_layout: if scales == "scales" {
                NVFP4_SCALE_LAYOUT_LINEAR
            } else {
                NVFP4_SCALE_LAYOUT_TILED_128X4
            },
            scale_rule: case.rule(),
            scope: case.scope(),
            decode_scales: self.decode.ptr_mut(),
            ..Default::default()
        }
    }

    fn expect(&self, case: &Case, scales: &str) -> Outcome {
        self.codes.expect("codes", &case.array("packed").bytes)?;
        self.scales.expect(scales, &case.array(scales).bytes)?;
        match case.find("decode_scale") {
            Some(want) => self.decode.expect("decode scales", &want.bytes),
            None => Ok(()),
        }
    }
}

/// Calls `body` for the linear layout and the tiled one, where the case knows its bytes.
fn each_layout(case: &Case, body: impl Fn(&str) -> Outcome) -> Outcome {
    body("scales")?;
    if case.find("scales_128x4").is_some() { body("scales_128x4") } else { Ok(()) }
}

fn quantize_args(case: &Case, src: &Memory, ends: &Memory) -> nvfp4_quantize_args {
    let array = case.array("src");
    let mut args = nvfp4_quantize_args {
        struct_size: size_of::<nvfp4_quantize_args>(),
        src: src.ptr(),
        src_dtype: array.dtype(),
        rows: array.shape[0] as i64,
        cols: array.shape[1] as i64,
        ..Default::default()
    };
    if let Some(ends_array) = case.find("ends") {
        args.groups.grouping = NVFP4_GROUPING_ENDS;
        args.groups.count = ends_array.shape[0] as u32;
        args.groups.ends = ends.ptr();
    }
    args
}

pub fn dynamic(library: &Library, case: &Case, poison: u8) -> Outcome {
    let src = case.array("src").memory();
    let ends = Memory::from(case.find("ends").map_or(&[], |a| &a.bytes));
    each_layout(case, |scales| {
        let mut out = Outputs::new(case, scales, poison);
        let mut args = quantize_args(case, &src, &ends);
        // Rows of no group stay as they were; the case has bytes for the others only.
        let rows = case.array("packed").shape[0];
        let orphans = args.rows as usize - rows;
        if orphans > 0 {
            let (codes, blocks) = (args.cols as usize / 2, args.cols as usize / 16);
            out.codes = Memory::poisoned((rows + orphans) * codes, poison);
            if scales == "scales" {
                out.scales = Memory::poisoned((rows + orphans) * blocks, poison);
            }
            args.out = out.quantized(case, scales);
            library.call(nvfp4_quantize, &args)?;
            let mut want = case.array("packed").bytes.clone();
            want.resize((rows + orphans) * codes, poison);
            out.codes.expect("codes", &want)?;
            let mut want = case.array(scales).bytes.clone();
            want.resize(out.scales.bytes().len(), poison);
            out.scales.expect(scales, &want)?;
            return out.decode.expect("decode scales", &case.array("decode_scale").bytes);
        }
        args.out = out.quantized(case, scales);
        library.call(nvfp4_quantize, &args)?;
        out.expect(case, scales)
    })
}

pub fn fixed(library: &Library, case: &Case, poison: u8) -> Outcome {
    let src = case.array("src").memory();
    let g = Memory::from(&(case.number("decode_scale").unwrap_or(f64::NAN) as f32).to_le_bytes());
    let mut out = Outputs::new(case, "scales", poison);
    let mut args = quantize_args(case, &src, &g);
    args.out = out.quantized(case, "scales");
    args.out.decode_scales = std::ptr::null_mut();
    args.out.static_decode_scales = g.ptr();
    library.call(nvfp4_quantize, &args)?;
    out.expect(case, "scales")?;
    let Some(want) = case.find("values_bf16") else { return Ok(()) };
    let mut values = Memory::poisoned(want.bytes.len(), poison);
    let args = nvfp4_dequantize_args {
        struct_size: size_of::<nvfp4_dequantize_args>(),
        input: nvfp4_quantized_input {
            codes: out.codes.ptr(),
            scales: out.scales.ptr(),
            decode_scales: g.ptr(),
            ..Default::default()
        },
        rows: args.rows,
        cols: args.cols,
        dst: values.ptr_mut(),
        ..Default::default()
    };
    library.call(nvfp4_dequantize, &args)?;
    values.expect("values", &want.bytes)
}

pub fn rmsnorm(library: &Library, case: &Case, poison: u8) -> Outcome {
    let (src, weight) = (case.array("src"), case.array("weight").memory());
    let x = src.memory();
    let mut residual = case.array("residual").memory();
    let mut normed = Memory::poisoned(src.bytes.len(), poison);
    let mut inv_rms = Memory::poisoned(case.array("inv_rms").bytes.len(), poison);
    let mut out = Outputs::new(case, "scales", poison);
    let with_residual = case.flag("residual") == Some(true);
    let args = nvfp4_rmsnorm_quantize_args {
        struct_size: size_of::<nvfp4_rmsnorm_quantize_args>(),
        src: x.ptr(),
        src_dtype: src.dtype(),
        weight_dtype: NVFP4_DTYPE_F32,
        rows: src.shape[0] as i64,
        cols: src.shape[1] as i64,
        residual: if with_residual { residual.ptr_mut() } else { std::ptr::null_mut() },
        weight: weight.ptr(),
        weight_offset: case.number("weight_offset").unwrap_or(0.0) as f32,
        eps: case.number("eps").unwrap_or(0.0) as f32,
        normed: normed.ptr_mut(),
        inv_rms: inv_rms.ptr_mut(),
        out: out.quantized(case, "scales"),
        ..Default::default()
    };
    library.call(nvfp4_rmsnorm_quantize, &args)?;
    if with_residual {
        residual.expect("residual", &case.array("residual_out").bytes)?;
    }
    normed.expect("normed", &case.array("normed").bytes)?;
    inv_rms.expect("inv_rms", &case.array("inv_rms").bytes)?;
    out.expect(case, "scales")
}

pub fn hyper(library: &Library, case: &Case, poison: u8) -> Outcome {
    let (streams, mix, weight) = (case.array("streams"), case.array("mix"), case.array("weight").memory());
    let (x, mix_memory) = (streams.memory(), mix.memory());
    let mut mixed = Memory::poisoned(case.array("mixed").bytes.len(), poison);
    let mut normed = Memory::poisoned(case.array("normed").bytes.len(), poison);
    let mut inv_rms = Memory::poisoned(case.array("inv_rms").bytes.len(), poison);
    let mut out = Outputs::new(case, "scales", poison);
    let args = nvfp4_hc_rmsnorm_quantize_args {
        struct_size: size_of::<nvfp4_hc_rmsnorm_quantize_args>(),
        streams: x.ptr(),
        src_dtype: streams.dtype(),
        weight_dtype: NVFP4_DTYPE_F32,
        stream_count: mix.shape[1] as u32,
        mix: mix_memory.ptr(),
        rows: streams.shape[0] as i64,
        cols: streams.shape[2] as i64,
        mixed: mixed.ptr_mut(),
        weight: weight.ptr(),
        eps: case.number("eps").unwrap_or(0.0) as f32,
        normed: normed.ptr_mut(),
        inv_rms: inv_rms.ptr_mut(),
        out: out.quantized(case, "scales"),
        ..Default::default()
    };
    library.call(nvfp4_hc_rmsnorm_quantize, &args)?;
    mixed.expect("mixed", &case.array("mixed").bytes)?;
    normed.expect("normed", &case.array("normed").bytes)?;
    inv_rms.expect("inv_rms", &case.array("inv_rms").bytes)?;
    out.expect(case, "scales")
}

pub fn swiglu(library: &Library, case: &Case, poison: u8) -> Outcome {
    for (name, interleave) in [("gate_up", 0), ("gate_up_interleaved_8", 8)] {
        let src = case.array(name);
        let x = src.memory();
        let mut activated = Memory::poisoned(case.array("activated").bytes.len(), poison);
        let mut out = Outputs::new(case, "scales", poison);
        let number = |name| case.number(name).unwrap_or(0.0) as f32;
        let args = nvfp4_swiglu_quantize_args {
            struct_size: size_of::<nvfp4_swiglu_quantize_args>(),
            src: x.ptr(),
            src_dtype: src.dtype(),
            interleave,
            rows: src.shape[0] as i64,
            width: src.shape[1] as i64 / 2,
            activation: NVFP4_ACTIVATION_SWIGLU,
            limit: number("limit"),
            alpha: number("alpha"),
            beta: number("beta"),
            activated: activated.ptr_mut(),
            out: out.quantized(case, "scales"),
            ..Default::default()
        };
        library.call(nvfp4_swiglu_quantize, &args)?;
        activated.expect("activated", &case.array("activated").bytes)?;
        out.expect(case, "scales")?;
    }
    Ok(())
}

/// The case knows the activated values alone; the codes must be those of quantizing them.
pub fn relu2(library: &Library, case: &Case, poison: u8) -> Outcome {
    let (src, want) = (case.array("src"), case.array("out"));
    let (rows, cols) = (src.shape[0], src.shape[1]);
    let (x, h) = (src.memory(), want.memory());
    let mut activated = Memory::poisoned(want.bytes.len(), poison);
    let new = || {
        let poisoned = |len| Memory::poisoned(len, poison);
        Outputs { codes: poisoned(rows * cols / 2), scales: poisoned(rows * cols / 16), decode: poisoned(4) }
    };
    let (mut fused, mut parts) = (new(), new());
    let args = nvfp4_swiglu_quantize_args {
        struct_size: size_of::<nvfp4_swiglu_quantize_args>(),
        src: x.ptr(),
        src_dtype: src.dtype(),
        rows: rows as i64,
        width: cols as i64,
        activation: NVFP4_ACTIVATION_RELU2,
        activated: activated.ptr_mut(),
        out: fused.quantized(case, "scales"),
        ..Default::default()
    };
    let parts_args = nvfp4_quantize_args {
        struct_size: size_of::<nvfp4_quantize_args>(),
        src: h.ptr(),
        src_dtype: src.dtype(),
        rows: rows as i64,
        cols: cols as i64,
        out: parts.quantized(case, "scales"),
        ..Default::default()
    };
    library.call(nvfp4_swiglu_quantize, &args)?;
    library.call(nvfp4_quantize, &parts_args)?;
    activated.expect("activated", &want.bytes)?;
    fused.codes.expect("codes", parts.codes.bytes())?;
    fused.scales.expect("scales", parts.scales.bytes())?;
    fused.decode.expect("decode scale", parts.decode.bytes())
}
