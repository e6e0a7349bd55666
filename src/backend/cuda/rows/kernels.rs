//! The kernels of quantize.cu, values.cu, norm.cu and swiglu.cu, with the registers and threads that each may use.

use super::super::launch::Kernel;

const fn kernel(file: &'static str, name: &'static str, registers: u32, threads: u32) -> Kernel {
    Kernel { file, name, registers, threads }
}

/// By what they do; `find` looks them up by name.
pub static KERNELS: &[Kernel] = &[
    kernel("quantize", "nvfp4_quantize_bf16_amax", 64, 256),
    kernel("quantize", "nvfp4_quantize_bf16_amax_grouped", 80, 256),
    kernel("quantize", "nvfp4_quantize_f16_amax", 64, 256),
    kernel("quantize", "nvfp4_quantize_f16_amax_grouped", 80, 256),
    kernel("quantize", "nvfp4_quantize_f32_amax", 64, 256),
    kernel("quantize", "nvfp4_quantize_f32_amax_grouped", 80, 256),
    kernel("quantize", "nvfp4_quantize_bf16_four_over_six", 80, 256),
    kernel("quantize", "nvfp4_quantize_bf16_four_over_six_grouped", 128, 256),
    kernel("quantize", "nvfp4_quantize_f16_four_over_six", 80, 256),
    kernel("quantize", "nvfp4_quantize_f16_four_over_six_grouped", 128, 256),
    kernel("quantize", "nvfp4_quantize_f32_four_over_six", 80, 256),
    kernel("quantize", "nvfp4_quantize_f32_four_over_six_grouped", 128, 256),
    kernel("quantize", "nvfp4_quantize_bf16_min_mse", 64, 256),
    kernel("quantize", "nvfp4_quantize_f16_min_mse", 64, 256),
    kernel("quantize", "nvfp4_quantize_f32_min_mse", 64, 256),
    kernel("quantize", "nvfp4_amax_bf16", 48, 256),
    kernel("quantize", "nvfp4_amax_bf16_grouped", 48, 256),
    kernel("quantize", "nvfp4_amax_f16", 48, 256),
    kernel("quantize", "nvfp4_amax_f16_grouped", 48, 256),
    kernel("quantize", "nvfp4_amax_f32", 48, 256),
    kernel("quantize", "nvfp4_amax_f32_grouped", 48, 256),
    kernel("quantize", "nvfp4_rows_bf16", 64, 256),
    kernel("quantize", "nvfp4_rows_bf16_grouped", 64, 256),
    kernel("quantize", "nvfp4_rows_bf16_x4", 64, 256),
    kernel("quantize", "nvfp4_rows_bf16_x4_grouped", 80, 256),
    kernel("quantize", "nvfp4_rows_bf16_few", 64, 512),
    kernel("quantize", "nvfp4_rows_f16", 64, 256),
    kernel("quantize", "nvfp4_rows_f16_grouped", 64, 256),
    kernel("quantize", "nvfp4_rows_f16_x4", 64, 256),
    kernel("quantize", "nvfp4_rows_f16_x4_grouped", 80, 256),
    kernel("quantize", "nvfp4_rows_f16_few", 64, 512),
    kernel("quantize", "nvfp4_rows_f32", 64, 512),
    kernel("quantize", "nvfp4_rows_f32_grouped", 128, 512),
    kernel("quantize", "nvfp4_rows_bf16_rule", 128, 512),
    kernel("quantize", "nvfp4_rows_f16_rule", 128, 512),
    kernel("quantize", "nvfp4_rows_f32_rule", 128, 512),
    kernel("quantize", "nvfp4_flat_bf16", 80, 128),
    kernel("quantize", "nvfp4_general", 128, 256),
    kernel("quantize", "nvfp4_finish_scales", 32, 256),
    kernel("quantize", "nvfp4_stage_routes", 32, 256),
    kernel("values", "nvfp4_values_bf16", 80, 256),
    kernel("values", "nvfp4_values_f16", 80, 256),
    kernel("values", "nvfp4_rows_values_bf16", 64, 256),
    kernel("values", "nvfp4_rows_values_f16", 64, 256),
    kernel("values", "nvfp4_rows_values_bf16_few", 64, 512),
    kernel("values", "nvfp4_rows_values_f16_few", 64, 512),
    kernel("norm", "nvfp4_norm_bf16", 64, 512),
    kernel("norm", "nvfp4_norm_f16", 64, 512),
    kernel("norm", "nvfp4_norm_bf16_x4", 144, 448),
    kernel("norm", "nvfp4_norm_f16_x4", 144, 448),
    kernel("norm", "nvfp4_norm_bf16_rule", 128, 512),
    kernel("norm", "nvfp4_norm_f16_rule", 128, 512),
    kernel("norm", "nvfp4_norm_f32_rule", 128, 512),
    kernel("norm", "nvfp4_hyper_bf16", 144, 448),
    kernel("norm", "nvfp4_hyper_f16", 144, 448),
    kernel("norm", "nvfp4_hyper_bf16_rule", 128, 512),
    kernel("norm", "nvfp4_hyper_f16_rule", 128, 512),
    kernel("swiglu", "nvfp4_gated_bf16", 128, 128),
    kernel("swiglu", "nvfp4_gated_f16", 128, 128),
    kernel("swiglu", "nvfp4_gated_bf16_grouped", 128, 128),
    kernel("swiglu", "nvfp4_gated_f16_grouped", 128, 128),
    kernel("swiglu", "nvfp4_gated_amax_bf16", 80, 256),
    kernel("swiglu", "nvfp4_gated_amax_f16", 64, 256),
    kernel("swiglu", "nvfp4_gated_rows_bf16", 128, 512),
    kernel("swiglu", "nvfp4_gated_rows_f16", 128, 512),
    kernel("swiglu", "nvfp4_gated_rows_bf16_grouped", 128, 512),
    kernel("swiglu", "nvfp4_gated_rows_f16_grouped", 128, 512),
    kernel("swiglu", "nvfp4_gated_rows_bf16_rule", 128, 512),
    kernel("swiglu", "nvfp4_gated_rows_f16_rule", 128, 512),
];

pub(super) fn find<const N: usize>(parts: [&str; N]) -> &'static Kernel {
    // Asked at every launch: names of another length, or with another end, are most of them.
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let matches = |k: &&Kernel| {
        let mut rest = k.name;
        rest.len() == length && parts.iter().rev().all(|p| rest.strip_suffix(p).map(|r| rest = r).is_some())
    };
    KERNELS.iter().find(matches).expect("the planner names kernels of its table")
}
