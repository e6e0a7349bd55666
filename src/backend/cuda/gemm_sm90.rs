//! The Hopper products: a plan of `plan::gemm_sm90` → one launch of kernels/gemm_sm90_few.cu or gemm_sm90_many.cu, with a
//! pass before it that decodes activations where the kernel takes none of codes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::driver::*;
use super::gemm::GemmParams;
use super::launch::{Kernel, Queue};
use super::layouts;
use super::params::address;
use crate::error::Result;
use crate::format::dtype::Dtype;
use crate::plan::dequantize::{DequantizeProblem, QuantIn};
use crate::plan::forms_sm90::{FORMS, Family};
use crate::plan::gemm::{Activations, GemmProblem};
use crate::plan::gemm_sm90::Sm90Plan;
use crate::plan::groups::Groups;
use crate::plan::memory::{Matrix, Ptr};

const fn few(name: &'static str, threads: u32) -> Kernel {
    Kernel { file: "gemm_sm90_few", name, registers: 96, threads }
}
const fn many(name: &'static str) -> Kernel {
    Kernel { file: "gemm_sm90_many", name, registers: 168, threads: 384 }
}
/// With a third warpgroup that multiplies.
const fn many_of_three(name: &'static str) -> Kernel {
    Kernel { file: "gemm_sm90_many", name, registers: 128, threads: 512 }
}

/// Forms for few tokens: [operand: bf16, f16, codes][form]; then those for many: [operand: bf16, f16][form].
pub static KERNELS: &[Kernel] = &[
    few("nvfp4_gemm_few_bf16_8x2", 384),
    few("nvfp4_gemm_few_bf16_8x4", 640),
    few("nvfp4_gemm_few_bf16_16x4", 640),
    few("nvfp4_gemm_few_f16_8x2", 384),
    few("nvfp4_gemm_few_f16_8x4", 640),
    few("nvfp4_gemm_few_f16_16x4", 640),
    few("nvfp4_gemm_few_codes_8x2", 384),
    few("nvfp4_gemm_few_codes_8x4", 640),
    few("nvfp4_gemm_few_codes_16x4", 640),
    many_of_three("nvfp4_gemm_many_bf16_32"),
    many_of_three("nvfp4_gemm_many_bf16_64"),
    many("nvfp4_gemm_many_bf16_128"),
    many("nvfp4_gemm_many_bf16_256"),
    many("nvfp4_gemm_many_bf16_64x1"),
    many("nvfp4_gemm_many_bf16_128x1"),
    many_of_three("nvfp4_gemm_many_f16_32"),
    many_of_three("nvfp4_gemm_many_f16_64"),
    many("nvfp4_gemm_many_f16_128"),
    many("nvfp4_gemm_many_f16_256"),
    many("nvfp4_gemm_many_f16_64x1"),
    many("nvfp4_gemm_many_f16_128x1"),
];
const FEW_FORMS: usize = 3;

/// `struct Sm90Params` of kernels/params_gemm.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sm90Params {
    gemm: GemmParams,
    token: u64,
    schedule: u32,
    dependent: u32,
}
const _: () = assert!(size_of::<Sm90Params>() == 256);

/// Widths of a form of `many` at most: `MANY_WIDTHS`.
const MANY_WIDTHS: usize = 3;

/// `struct Sm90ManyParams`.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Sm90ManyParams {
    maps: [CUtensorMap; MANY_WIDTHS],
    common: Sm90Params,
    run_steps: u32,
    reserved: [u32; 15],
}
const _: () = assert!(size_of::<Sm90ManyParams>() == 704);

/// A number that no other launch of the process has and that is not 0: the finalizer of splitmix64 is a bijection.
fn token() -> u64 {
    static LAUNCHES: AtomicU64 = AtomicU64::new(1);
    let mut z = LAUNCHES.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// # Safety
/// Every address of the problem is valid on the device; the workspace is as the plan says.
pub(super) unsafe fn multiply(
    queue: &Queue,
    p: &GemmProblem,
    plan: &Sm90Plan,
    mut gemm: GemmParams,
    early: bool,
) -> Result<()> {
    let form = &FORMS[plan.form];
    let workspace = address(p.workspace);
    gemm.counters = workspace + plan.flags_at as u64;
    gemm.partials = workspace + plan.sums_at as u64;
    let operand = match p.a {
        Activations::Values { a, .. } if a.dtype == Dtype::F16 => 1,
        Activations::Codes(_) if !plan.decoded => 2,
        _ => 0,
    };
    let grid = (plan.grid as u32, 1, 1);
    let (threads, shared) = (form.threads() as u32, form.shared_bytes() as u32);
    // A launch that waits before it reads anything may start early behind anything.
    let early = early || p.dependent_launch;
    let a = match p.a {
        Activations::Values { a, .. } => a,
        Activations::Codes(_) => decoded(p, plan.decoded_at),
    };
    // Whether the pass that decodes them is in front, which begins behind all that was there before.
    let mut passes = false;
    if let (true, Activations::Codes(q)) = (plan.decoded, p.a) {
        // SAFETY: the caller's promise.
        passes = unsafe { decode(queue, p, &q, &a, early)? };
        gemm.a = address(a.base);
        (gemm.a_row_stride, gemm.a_group_stride) = (a.row_stride as i64, a.group_stride as i64);
        (gemm.a_scales, gemm.a_layout, gemm.a_scales_row_stride, gemm.a_vectors) = (0, 0, 0, 1);
    }
    // Weights and index may be read before the launch in front is over: that is what the caller promised, or it is the pass.
    let dependent = p.dependent_launch || passes;
    let early = early || passes;
    let common =
        Sm90Params { gemm, token: token(), schedule: plan.schedule as u32, dependent: dependent as u32 };
    if form.family == Family::Few {
        let kernel = &KERNELS[operand * FEW_FORMS + plan.form];
        // SAFETY: the caller's promise; the struct is the kernel's.
        return unsafe { launch(queue, early, kernel, grid, threads, shared, &common) };
    }
    let mut maps = [CUtensorMap([0; 16]); MANY_WIDTHS];
    for (map, &width) in maps.iter_mut().zip(form.widths()) {
        *map = tensor_map(queue, p, &a, width)?;
    }
    let params = Sm90ManyParams { maps, common, run_steps: plan.run_steps as u32, reserved: [0; 15] };
    let forms = FORMS.len() - FEW_FORMS;
    let kernel = &KERNELS[3 * FEW_FORMS + operand * forms + plan.form - FEW_FORMS];
    // SAFETY: the caller's promise; the struct is the kernel's.
    unsafe { launch(queue, early, kernel, grid, threads, shared, &params) }
}

/// The activations as bfloat16 rows so far into the workspace: e2m1 · e4m3, exact.
pub(super) fn decoded(p: &GemmProblem, at: usize) -> Matrix {
    let cols = p.weights.shape.cols;
    let group_stride = match (p.groups, p.a) {
        (Groups::Strided { .. }, Activations::Codes(q)) if q.codes_group_stride == 0 => 0,
        (Groups::Strided { rows, .. }, _) => rows * cols,
        _ => 0,
    };
    // Inside of the workspace, or nothing is there to be decoded.
    let base = Ptr::new(p.workspace.get().wrapping_add(at));
    Matrix { base, dtype: Dtype::Bf16, row_stride: cols, group_stride }
}

/// Whether there was anything to decode.
unsafe fn decode(queue: &Queue, p: &GemmProblem, q: &QuantIn, to: &Matrix, early: bool) -> Result<bool> {
    if p.groups.total_rows() == 0 {
        return Ok(false);
    }
    // Rows that all groups share are one matrix.
    let groups = match p.groups {
        Groups::Strided { rows, .. } if q.codes_group_stride == 0 => Groups::None { rows },
        groups => groups,
    };
    let input = QuantIn { decode: Ptr::NULL, ..*q };
    let problem = DequantizeProblem { groups, cols: p.weights.shape.cols, input, dst: *to };
    // SAFETY: the caller's promise.
    unsafe { layouts::dequantize(queue, &problem, early)? };
    Ok(true)
}

/// [groups][rows][K] from the right, in boxes of 64 k × `tokens`. Groups that lie one after another are one.
fn tensor_map(queue: &Queue, p: &GemmProblem, a: &Matrix, tokens: usize) -> Result<CUtensorMap> {
    let (rows, groups) = match p.groups {
        Groups::Strided { rows, .. } if a.group_stride == 0 => (rows, 1),
        Groups::Strided { count, rows } => (rows, count),
        _ => (p.groups.total_rows(), 1),
    };
    let group_stride = if groups > 1 { a.group_stride } else { a.row_stride };
    let dims = [p.weights.shape.cols as u64, rows.max(1) as u64, groups as u64];
    let strides = [2 * a.row_stride as u64, 2 * group_stride as u64];
    let boxes = [64, tokens as u32, 1];
    let dtype = if a.dtype == Dtype::F16 { TENSOR_MAP_FLOAT16 } else { TENSOR_MAP_BFLOAT16 };
    // Without rows nothing is read, but the driver wants an address.
    let base = if p.groups.total_rows() == 0 { p.weights.storage } else { a.base };
    let mut map = CUtensorMap([0; 16]);
    // SAFETY: valid pointers to as many elements as the rank asks for; the address is only encoded.
    unsafe {
        queue.device.driver.cuTensorMapEncodeTiled(
            &mut map,
            dtype,
            3,
            base.get_mut().cast(),
            dims.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            [1; 3].as_ptr(),
            0,
            TENSOR_MAP_SWIZZLE_128B,
            TENSOR_MAP_L2_256B,
            0,
        )?;
    }
    Ok(map)
}

/// # Safety
/// As [`multiply`]; `P` is the kernel's struct.
unsafe fn launch<P: Copy>(
    queue: &Queue,
    dependent: bool,
    kernel: &'static Kernel,
    grid: (u32, u32, u32),
    threads: u32,
    shared: u32,
    params: &P,
) -> Result<()> {
    // SAFETY: the caller's promise; the kernel waits for its predecessor before it touches what that may write.
    unsafe {
        match dependent {
            true => queue.launch_dependent(kernel, grid, threads, shared, params),
            false => queue.launch(kernel, grid, threads, shared, params),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_kernel_for_every_form() {
        let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
        let mut expected = Vec::new();
        for (family, operands) in
            [(Family::Few, &["bf16", "f16", "codes"][..]), (Family::Many, &["bf16", "f16"])]
        {
            for operand in operands {
                for form in FORMS.iter().filter(|form| form.family == family) {
                    let name = match family {
                        Family::Few => format!("nvfp4_gemm_few_{operand}_{}x{}", form.tokens, form.units),
                        Family::Many => format!("nvfp4_gemm_many_{operand}_{}", form.size()),
                    };
                    let kernel = KERNELS.iter().find(|kernel| kernel.name == name).expect("a kernel a form");
                    assert_eq!(kernel.threads as usize, form.threads());
                    expected.push(name);
                }
            }
        }
        assert_eq!(names, expected);
    }

    #[test]
    fn tokens_do_not_come_twice() {
        let mut tokens: Vec<u64> = (0..1000).map(|_| token()).collect();
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 1000);
        assert!(!tokens.contains(&0));
    }
}
