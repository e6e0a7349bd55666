//! Grouped products within the contract's bound of the float64 result, with prepared weights from both scale layouts.

use nvfp4::api::gemm::nvfp4_grouped_gemm_args;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;
use nvfp4::format::{e2m1, e4m3};

use crate::case::Case;
use crate::support::{Library, Memory, check};

pub fn grouped(library: &Library, case: &Case, poison: u8) -> Result<(), String> {
    for (suffix, layout) in [("", NVFP4_SCALE_LAYOUT_LINEAR), ("_128x4", NVFP4_SCALE_LAYOUT_TILED_128X4)] {
        with_layout(library, case, poison, suffix, layout)?;
    }
    Ok(())
}

fn with_layout(
    library: &Library,
    case: &Case,
    poison: u8,
    suffix: &str,
    layout: nvfp4_scale_layout,
) -> Result<(), String> {
    let b = case.array("b");
    let (groups, n, k) = (b.shape[0], b.shape[1], b.shape[2] * 2);
    let (codes, scales) = (b.memory(), case.array(&format!("b_scales{suffix}")).memory());
    let decode = case.array("b_decode").memory();
    let mut prepare = nvfp4_weights_prepare_args {
        struct_size: size_of::<nvfp4_weights_prepare_args>(),
        groups: groups as i64,
        rows: n as i64,
        cols: k as i64,
        codes: codes.ptr(),
        scales: scales.ptr(),
        scale_layout: layout,
        decode_scales: decode.ptr(),
        ..Default::default()
    };
    let mut weights = std::ptr::null_mut();
    let mut bytes = 0;
    // SAFETY: all pointers are valid.
    unsafe { check(nvfp4_weights_storage_size(library.context, &prepare, &mut bytes))? };
    let mut storage = Memory::poisoned(bytes, poison);
    (prepare.storage, prepare.storage_size) = (storage.ptr_mut(), bytes);
    library.prepare_weights(&prepare, &mut weights)?;

    let a = case.array("a");
    let rows = a.shape[0];
    let (a_codes, a_scales) = (a.memory(), case.array(&format!("a_scales{suffix}")).memory());
    let (a_decode, ends) = (case.array("a_decode").memory(), case.array("ends").memory());
    let mut out = Memory::poisoned(rows * n * 4, poison);
    let mut args = nvfp4_grouped_gemm_args {
        struct_size: size_of::<nvfp4_grouped_gemm_args>(),
        weights,
        rows: rows as i64,
        groups: nvfp4_groups {
            grouping: NVFP4_GROUPING_ENDS,
            count: groups as u32,
            ends: ends.ptr(),
            ..Default::default()
        },
        a_dtype: NVFP4_DTYPE_NVFP4,
        a_quantized: nvfp4_quantized_input {
            codes: a_codes.ptr(),
            scales: a_scales.ptr(),
            scale_layout: layout,
            scope: NVFP4_SCOPE_ROW,
            decode_scales: a_decode.ptr(),
            ..Default::default()
        },
        out: out.ptr_mut(),
        out_dtype: NVFP4_DTYPE_F32,
        ..Default::default()
    };
    let mut bytes = 0;
    // SAFETY: all pointers are valid.
    unsafe { check(nvfp4_grouped_gemm_workspace_size(library.context, &args, &mut bytes))? };
    let mut workspace = Memory::poisoned(bytes, poison);
    (args.workspace, args.workspace_size) = (workspace.ptr_mut(), bytes);
    library.call(nvfp4_grouped_gemm, &args)?;
    // SAFETY: a live handle.
    unsafe { check(nvfp4_weights_destroy(weights))? };
    for (what, memory) in [("out", &out), ("workspace", &workspace), ("storage", &storage)] {
        memory.guards(what)?;
    }
    within_bound(case, &out.f32s(), n, k)
}

/// |v − exact| ≤ 2^-15 · max(1, K/8192) · g_A·g_B · Σ_k |a·b|, and one rounding to f32.
fn within_bound(case: &Case, got: &[f32], n: usize, k: usize) -> Result<(), String> {
    let want = case.array("out_f64").f64s();
    let (a, b) = (case.array("a"), case.array("b"));
    let (a_scales, b_scales) = (&case.array("a_scales").bytes, &case.array("b_scales").bytes);
    let (a_decode, b_decode) = (case.array("a_decode").f32s(), case.array("b_decode").f32s());
    let value = |codes: &[u8], scales: &[u8], row: usize, i: usize| {
        let byte = codes[(row * k + i) / 2];
        let code = if i.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
        e2m1::decode(code) as f64 * e4m3::decode(scales[row * (k / 16) + i / 16]) as f64
    };
    let mut start = 0;
    for (group, &end) in case.array("ends").i32s().iter().enumerate() {
        for row in start..end as usize {
            for column in 0..n {
                let b_row = group * n + column;
                let absolute: f64 = (0..k)
                    .map(|i| (value(&a.bytes, a_scales, row, i) * value(&b.bytes, b_scales, b_row, i)).abs())
                    .sum();
                let scale = a_decode[row] as f64 * b_decode[group] as f64;
                let exact = want[row * n + column];
                let bound = 2f64.powi(-15) * (k as f64 / 8192.0).max(1.0) * scale * absolute
                    + exact.abs() * 2f64.powi(-23);
                let error = (got[row * n + column] as f64 - exact).abs();
                if error.is_nan() || error > bound {
                    return Err(format!("out[{row}, {column}]: error {error:e} above the bound {bound:e}"));
                }
            }
        }
        start = end as usize;
    }
    Ok(())
}
