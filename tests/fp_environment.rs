//! A host that flushes subnormals to zero and rounds upwards gets the bits of everybody else, and finds its mode and its
//! exception flags as it left them.
#![cfg(target_arch = "x86_64")]
// Structs grow: what is left out is zero, also where nothing is left out today.
#![allow(clippy::needless_update)]

mod support;

use nvfp4::api::context::*;
use nvfp4::api::dequantize::*;
use nvfp4::api::gemm::*;
use nvfp4::api::norm::*;
use nvfp4::api::quantize::*;
use nvfp4::api::swiglu::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;
use support::{Library, Memory, check};

const ROWS: usize = 40;
const COLS: usize = 64;

fn mode() -> u32 {
    let mut word = 0u32;
    // SAFETY: stores MXCSR to the local.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &mut word, options(nostack)) };
    word
}

fn set_mode(word: u32) {
    // SAFETY: the words below have no reserved bit set and mask all exceptions.
    unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &word, options(nostack, readonly)) };
}

/// (name, MXCSR): all exceptions masked in each.
const MODES: [(&str, u32); 7] = [
    ("as the contract", 0x1F80),
    ("flush to zero", 0x9F80),
    ("subnormals are zero", 0x1FC0),
    ("up", 0x5F80),
    ("down", 0x3F80),
    ("towards zero", 0x7F80),
    ("up, flushing, with flags", 0xDFFF),
];

macro_rules! args {
    ($name:ident { $($field:ident $(: $value:expr)?),* $(,)? }) => {
        $name { struct_size: size_of::<$name>(), $($field $(: $value)?,)* ..Default::default() }
    };
}

/// Values of every size, subnormals and products that become subnormal among them.
fn values(count: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let value = |bits: u64| {
        let exponent = [1, 1, 60, 100, 120, 126, 127, 130][(bits >> 40) as usize % 8];
        f32::from_bits(
            (bits as u32 & 0x807F_FFFF) | if bits & 0x1000_0000 == 0 { exponent << 23 } else { 126 << 23 },
        )
    };
    (0..count)
        .flat_map(|i| (if i % 37 == 0 { value(next()) * 0.01 } else { value(next()) }).to_le_bytes())
        .collect()
}

/// What every operation writes, under the mode that the thread has. The inputs were made in the contract's.
fn outputs(library: &Library, src: &Memory, weight: &Memory) -> Vec<u8> {
    let (context, stream) = (library.context, library.stream);
    let (rows, cols) = (ROWS as i64, COLS as i64);
    let mut outputs: Vec<Memory> = (0..8).map(|_| Memory::poisoned(ROWS * COLS * 4, 0xA5)).collect();
    let [codes, scales, decode, dst, normed, activated, product, storage] = &mut outputs[..] else {
        unreachable!()
    };
    let out = nvfp4_quantized {
        codes: codes.ptr_mut(),
        scales: scales.ptr_mut(),
        decode_scales: decode.ptr_mut(),
        scope: NVFP4_SCOPE_ROW,
        scale_rule: NVFP4_SCALE_RULE_MIN_MSE,
        ..Default::default()
    };
    let src_dtype = NVFP4_DTYPE_F32;
    let mut all = Vec::new();
    // SAFETY: all memory is larger than what the calls write; handles are live.
    unsafe {
        let q = args!(nvfp4_quantize_args { src: src.ptr(), src_dtype, rows, cols, out });
        check(nvfp4_quantize(context, &q, stream)).unwrap();
        let input = nvfp4_quantized_input {
            codes: out.codes,
            scales: out.scales,
            scope: NVFP4_SCOPE_ROW,
            decode_scales: out.decode_scales,
            ..Default::default()
        };
        let d = args!(nvfp4_dequantize_args { input, rows, cols, dst: dst.ptr_mut(), dst_dtype: src_dtype });
        check(nvfp4_dequantize(context, &d, stream)).unwrap();
        let mut weights = std::ptr::null_mut();
        let mut w = args!(nvfp4_weights_prepare_args {
            groups: 1,
            rows: 32,
            cols,
            source: NVFP4_WEIGHTS_SOURCE_VALUES,
            src: src.ptr(),
            src_dtype,
        });
        check(nvfp4_weights_storage_size(context, &w, &mut w.storage_size)).unwrap();
        assert!(w.storage_size <= ROWS * COLS * 4);
        w.storage = storage.ptr_mut();
        check(nvfp4_weights_prepare(context, &w, stream, &mut weights)).unwrap();
        let mut g = args!(nvfp4_grouped_gemm_args {
            weights,
            rows,
            a_dtype: NVFP4_DTYPE_NVFP4,
            a_quantized: input,
            out: product.ptr_mut(),
            out_dtype: NVFP4_DTYPE_F32,
        });
        check(nvfp4_gemm_workspace_size(context, &g, &mut g.workspace_size)).unwrap();
        let mut workspace = Memory::poisoned(g.workspace_size, 0x5A);
        g.workspace = workspace.ptr_mut();
        check(nvfp4_gemm(context, &g, stream)).unwrap();
        check(nvfp4_weights_destroy(weights)).unwrap();
        for memory in [&*codes, scales, decode] {
            all.extend_from_slice(memory.bytes());
        }
        let n = args!(nvfp4_rmsnorm_quantize_args {
            src: src.ptr(),
            src_dtype,
            weight_dtype: src_dtype,
            rows,
            cols,
            weight: weight.ptr(),
            eps: 1e-12,
            normed: normed.ptr_mut(),
            out,
        });
        check(nvfp4_rmsnorm_quantize(context, &n, stream)).unwrap();
        let s = args!(nvfp4_swiglu_quantize_args {
            src: src.ptr(),
            src_dtype,
            rows,
            width: cols,
            activation: NVFP4_ACTIVATION_SWIGLU,
            activated: activated.ptr_mut(),
            out,
        });
        check(nvfp4_swiglu_quantize(context, &s, stream)).unwrap();
    }
    for memory in &outputs {
        all.extend_from_slice(memory.bytes());
    }
    all
}

#[test]
fn results_and_the_hosts_mode_do_not_meet() {
    let (src, weight) = (Memory::from(&values(ROWS * COLS * 2)), Memory::from(&values(COLS)));
    for library in Library::all(3) {
        let expected = outputs(&library, &src, &weight);
        for (name, word) in MODES {
            let before = mode();
            set_mode(word);
            // Only calls of the library between here and the reading of the mode: the test's own floats come before.
            // SAFETY: NULL is refused, a live handle synchronised.
            unsafe {
                nvfp4_context_destroy(std::ptr::null_mut());
                nvfp4_stream_synchronize(library.stream);
            }
            let after_plain = mode();
            set_mode(before);
            assert_eq!(
                after_plain, word,
                "{}: {name}: the mode after calls that compute nothing",
                library.name
            );

            set_mode(word);
            let got = outputs(&library, &src, &weight);
            let after = mode();
            set_mode(before);
            assert_eq!(after & !0x3F, word & !0x3F, "{}: {name}: the mode afterwards", library.name);
            let differs = got.iter().zip(&expected).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{}: {name}: first byte that differs", library.name);
        }
    }
}

/// One call alone, so that not even a flag of the test's own arithmetic is between the two readings.
#[test]
fn flags_are_kept() {
    let library = Library::new(NVFP4_ISA_BEST, 2).expect("a CPU context");
    let src = Memory::from(&values(64));
    let (mut codes, mut scales, mut decode) =
        (Memory::poisoned(32, 0), Memory::poisoned(4, 0), Memory::poisoned(4, 0));
    let out = nvfp4_quantized {
        codes: codes.ptr_mut(),
        scales: scales.ptr_mut(),
        decode_scales: decode.ptr_mut(),
        ..Default::default()
    };
    let q = args!(nvfp4_quantize_args { src: src.ptr(), src_dtype: NVFP4_DTYPE_F32, rows: 1, cols: 64, out });
    let before = mode();
    for (_, word) in MODES {
        set_mode(word);
        // SAFETY: valid arguments.
        let status = unsafe { nvfp4_quantize(library.context, &q, library.stream) };
        let after = mode();
        set_mode(before);
        assert_eq!((status, after), (0, word));
    }
}
