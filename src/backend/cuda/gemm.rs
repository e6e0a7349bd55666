//! The grouped product on a device: a plan of `plan::gemm_cuda` → one launch of kernels/gemm.cu, with a memset of the
//! counters before it where blocks share a tile's k, or a plan of `plan::gemm_sm90`; and a quantizing pass behind it for
//! requantized outputs that the kernel leaves as bfloat16 rows. Twin: backend/cpu/gemm.

use super::context::{Device, DeviceFacts};
use super::launch::{Kernel, Queue};
use super::params::{address, dtype, layout, scope};
use super::{gemm_sm90, rows, weights};
use crate::error::{Error, Result};
use crate::format::BLOCK;
use crate::format::dtype::Dtype;
use crate::plan::gemm::{Activation, Activations, GemmOut, GemmProblem};
use crate::plan::gemm_cuda::{self, GemmPlan, Machine, TILES};
use crate::plan::gemm_sm90::{Plan, Sm90Plan, plan_any};
use crate::plan::groups::Groups;
use crate::plan::memory::Matrix;
use crate::plan::quantize::{DecodeScales, Producer, QuantizeProblem};

const FILE: &str = "gemm";

const fn kernel(name: &'static str, registers: u32, threads: u32) -> Kernel {
    Kernel { file: FILE, name, registers, threads }
}

/// [operand: bf16, f16, codes][tile], in the order of `TILES`.
pub static KERNELS: &[Kernel] = &[
    kernel("nvfp4_gemm_bf16_8", 80, 128),
    kernel("nvfp4_gemm_bf16_16", 96, 128),
    kernel("nvfp4_gemm_bf16_32", 128, 128),
    kernel("nvfp4_gemm_bf16_64", 192, 128),
    kernel("nvfp4_gemm_bf16_128", 255, 256),
    kernel("nvfp4_gemm_f16_8", 80, 128),
    kernel("nvfp4_gemm_f16_16", 96, 128),
    kernel("nvfp4_gemm_f16_32", 128, 128),
    kernel("nvfp4_gemm_f16_64", 192, 128),
    kernel("nvfp4_gemm_f16_128", 255, 256),
    kernel("nvfp4_gemm_codes_8", 80, 128),
    kernel("nvfp4_gemm_codes_16", 96, 128),
    kernel("nvfp4_gemm_codes_32", 128, 128),
    kernel("nvfp4_gemm_codes_64", 192, 128),
    kernel("nvfp4_gemm_codes_128", 255, 256),
];

/// `struct GemmParams` of kernels/params_gemm.cuh, field by field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct GemmParams {
    pub(super) index: u64,
    pub(super) a: u64,
    pub(super) a_scales: u64,
    pub(super) a_decode: u64,
    pub(super) weights: u64,
    pub(super) bias: u64,
    pub(super) out: u64,
    pub(super) out_scales: u64,
    pub(super) out_decode: u64,
    pub(super) partials: u64,
    pub(super) counters: u64,
    pub(super) fault: u64,
    pub(super) a_row_stride: i64,
    pub(super) a_group_stride: i64,
    pub(super) a_scales_row_stride: i64,
    pub(super) out_row_stride: i64,
    pub(super) out_group_stride: i64,
    pub(super) out_scales_row_stride: i64,
    pub(super) rows: i64,
    pub(super) units_at: u64,
    pub(super) groups: u32,
    pub(super) grouping: u32,
    pub(super) weight_rows: u32,
    pub(super) cols: u32,
    pub(super) splits: u32,
    pub(super) a_layout: u32,
    pub(super) a_scope: u32,
    pub(super) a_vectors: u32,
    pub(super) bias_dtype: u32,
    pub(super) activation: u32,
    pub(super) out_dtype: u32,
    pub(super) out_vectors: u32,
    pub(super) accumulate: u32,
    pub(super) out_layout: u32,
    pub(super) out_scope: u32,
    pub(super) limit: f32,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) batch_invariant: u32,
    pub(super) reserved: u32,
}
const _: () = assert!(size_of::<GemmParams>() == 240);

/// `DTYPE_CODES` of kernels/params_gemm.cuh.
pub(super) const DTYPE_CODES: u32 = 3;

pub fn workspace_size(p: &mut GemmProblem, device: &Device) -> usize {
    p.plan.insert(plan(p, device)).workspace_bytes()
}

pub(super) fn machine(facts: &DeviceFacts) -> Machine {
    Machine {
        processors: facts.sm_count as usize,
        shared_per_block: facts.shared_per_block_optin as usize,
        hopper: facts.compute_capability == (9, 0),
    }
}

fn plan(p: &GemmProblem, device: &Device) -> Plan {
    plan_any(p, &machine(&device.facts), device.tuning.get().as_deref())
}

/// The plan that the workspace was measured for.
fn planned(p: &GemmProblem, device: &Device) -> Plan {
    p.plan.unwrap_or_else(|| plan(p, device))
}

/// Multiplies the rows of each group with its weights. `early`: the launch may start before the one in front has ended;
/// unless the problem says more, it waits for that before it reads anything.
///
/// # Safety
/// Every address of the problem is valid on the device; the workspace has [`workspace_size`] bytes.
pub unsafe fn gemm(queue: &Queue, p: &GemmProblem, early: bool) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe { gemm_as(queue, p, &planned(p, queue.device), early) }
}

/// A quantizer's product on a Hopper GPU: it takes what the codes decode to, e2m1 · e4m3, as bfloat16 from its own workspace. The
/// product with those rows, its plan and its bytes; the form and the bits are those of the codes.
fn of_values(
    q: &QuantizeProblem,
    p: &GemmProblem,
    device: &Device,
) -> Option<(GemmProblem, Sm90Plan, usize)> {
    let (Activations::Codes(codes), Plan::Hopper(plan)) = (p.a, planned(p, device)) else { return None };
    if !rows::takes_values(q) {
        return None;
    }
    let cols = p.weights.shape.cols;
    let bytes = p.groups.total_rows() * cols * size_of::<u16>();
    let (at, all) = match plan.decoded {
        true => (plan.decoded_at, plan.workspace_bytes),
        false => {
            let at = plan.workspace_bytes.next_multiple_of(128);
            (at, at + bytes)
        }
    };
    let a = gemm_sm90::decoded(p, at);
    let a = Activations::Values { a, scope: codes.scope, decode: codes.decode };
    Some((GemmProblem { a, ..*p }, Sm90Plan { decoded: false, ..plan }, all))
}

/// Bytes of workspace of [`quantized_gemm`].
pub fn quantized_workspace_size(q: &QuantizeProblem, p: &GemmProblem, device: &Device) -> usize {
    of_values(q, p, device).map_or_else(|| planned(p, device).workspace_bytes(), |(.., bytes)| bytes)
}

/// Quantizes and multiplies; the codes and scales need not be written.
///
/// # Safety
/// As [`gemm`] and [`rows::quantize`]; the workspace has [`quantized_workspace_size`] bytes.
pub unsafe fn quantized_gemm(queue: &Queue, q: &QuantizeProblem, p: &GemmProblem) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        match of_values(q, p, queue.device) {
            Some((p, plan, _)) => {
                if let Activations::Values { a, .. } = p.a {
                    rows::quantize_values(queue, q, &a)?;
                }
                gemm_as(queue, &p, &Plan::Hopper(plan), false)
            }
            None => {
                rows::quantize(queue, q)?;
                gemm(queue, p, false)
            }
        }
    }
}

/// As [`gemm`], as a given plan says.
///
/// # Safety
/// As [`gemm`]; the workspace has the plan's bytes.
pub(super) unsafe fn gemm_as(queue: &Queue, p: &GemmProblem, plan: &Plan, early: bool) -> Result<()> {
    let has_index = matches!(p.groups, Groups::Ends { .. } | Groups::Masked { .. });
    if p.groups.count() == 0 || p.groups.total_rows() == 0 && !has_index {
        return Ok(());
    }
    if p.groups.total_rows() > i32::MAX as usize {
        return Err(Error::TooLarge { argument: "rows" });
    }
    let second_pass = plan.has_second_pass(p);
    let params = params(p, queue.facts, second_pass);
    // SAFETY: the caller's promise, here and below; the struct is the kernel's.
    unsafe {
        match plan {
            Plan::Portable(plan) => multiply(queue, p, plan, params, early)?,
            Plan::Hopper(plan) => gemm_sm90::multiply(queue, p, plan, params, early)?,
        }
        match (p.out, second_pass && p.groups.total_rows() > 0) {
            (GemmOut::Codes(out), true) => rows::quantize_behind(
                queue,
                &QuantizeProblem {
                    groups: p.groups,
                    cols: p.out_cols(),
                    producer: Producer::Plain { src: staged(p) },
                    activated: None,
                    out: Some(out),
                    amax: None,
                },
            ),
            _ => Ok(()),
        }
    }
}

/// The portable kernel.
///
/// # Safety
/// As [`gemm_as`].
unsafe fn multiply(
    queue: &Queue,
    p: &GemmProblem,
    plan: &GemmPlan,
    mut params: GemmParams,
    early: bool,
) -> Result<()> {
    let tile = &TILES[plan.tile];
    let blocks = plan.tiles.checked_mul(plan.splits).filter(|&blocks| blocks <= i32::MAX as usize);
    let Some(blocks) = blocks else {
        return Err(Error::TooLarge { argument: "rows" });
    };
    params.splits = plan.splits as u32;
    params.counters = address(p.workspace) + plan.counters_at as u64;
    params.partials = address(p.workspace) + plan.partials_at as u64;
    let operand = match p.a {
        Activations::Values { a, .. } if a.dtype == Dtype::F16 => 1,
        Activations::Values { .. } => 0,
        Activations::Codes(_) => 2,
    };
    let kernel = &KERNELS[operand * TILES.len() + plan.tile];
    // SAFETY: the caller's promise; the struct is the kernel's.
    unsafe {
        if plan.splits > 1 {
            queue.memset32(params.counters, 0, plan.tiles)?;
        }
        let shared = plan.shared_bytes as u32;
        let (grid, threads) = ((blocks as u32, 1, 1), tile.threads() as u32);
        // Behind the memset of the counters there is no kernel to overlap with.
        match (early || p.dependent_launch) && plan.splits == 1 {
            true => queue.launch_dependent(kernel, grid, threads, shared, &params),
            false => queue.launch(kernel, grid, threads, shared, &params),
        }
    }
}

/// The bfloat16 rows of an output before a second pass quantizes them.
fn staged(p: &GemmProblem) -> Matrix {
    let cols = p.out_cols();
    let group_rows = p.groups.total_rows() / p.groups.count().max(1);
    Matrix { base: p.workspace, dtype: Dtype::Bf16, row_stride: cols, group_stride: group_rows * cols }
}

/// All but what a plan decides.
fn params(p: &GemmProblem, facts: &DeviceFacts, second_pass: bool) -> GemmParams {
    let shape = &p.weights.shape;
    let (grouping, index, group_rows) = match p.groups {
        Groups::None { rows } => (0, 0, rows),
        Groups::Ends { ends, rows, .. } => (1, address(ends), rows),
        Groups::Masked { counts, max_rows, .. } => (2, address(counts), max_rows),
        Groups::Strided { rows, .. } => (3, 0, rows),
    };
    let (activation, swiglu) = match p.activation {
        Activation::None => (0, None),
        Activation::SwiGlu(parameters) => (1, Some(parameters)),
        Activation::Relu2 => (2, None),
    };
    let mut g = GemmParams {
        index,
        weights: address(p.weights.storage),
        bias: p.bias.map_or(0, |bias| address(bias.base)),
        bias_dtype: p.bias.map_or(0, |bias| dtype(bias.dtype)),
        fault: facts.fault,
        rows: group_rows as i64,
        units_at: weights::header_bytes(shape.groups) as u64,
        groups: shape.groups as u32,
        grouping,
        weight_rows: shape.rows as u32,
        cols: shape.cols as u32,
        splits: 1,
        a_vectors: gemm_cuda::a_vectors(p) as u32,
        activation,
        limit: swiglu.map_or(0.0, |s| s.limit),
        alpha: swiglu.map_or(1.0, |s| s.alpha),
        beta: swiglu.map_or(0.0, |s| s.beta),
        batch_invariant: p.batch_invariant as u32,
        ..GemmParams::default()
    };
    match p.a {
        Activations::Values { a, scope: of, decode } => {
            g.a = address(a.base);
            g.a_row_stride = a.row_stride as i64;
            g.a_group_stride = a.group_stride as i64;
            (g.a_decode, g.a_scope) = (address(decode), scope(of));
        }
        Activations::Codes(q) => {
            g.a = address(q.codes);
            g.a_row_stride = q.codes_row_stride as i64;
            g.a_group_stride = q.codes_group_stride as i64;
            (g.a_decode, g.a_scope) = (address(q.decode), scope(q.scope));
            (g.a_scales, g.a_layout) = (address(q.scales.base), layout(q.scales.layout));
            g.a_scales_row_stride = q.scales.row_stride as i64;
        }
    }
    match p.out {
        GemmOut::Codes(out) if !second_pass => {
            g.out = address(out.codes);
            g.out_dtype = DTYPE_CODES;
            g.out_row_stride = out.codes_row_stride as i64;
            g.out_vectors = out.codes_row_stride.is_multiple_of(BLOCK / 2) as u32;
            (g.out_scales, g.out_layout) = (address(out.scales.base), layout(out.scales.layout));
            g.out_scales_row_stride = out.scales.row_stride as i64;
            g.out_scope = scope(out.scope);
            if let DecodeScales::Static(given) = out.decode {
                g.out_decode = address(given);
            }
        }
        GemmOut::Codes(_) => set_values(&mut g, &staged(p), &p.groups),
        GemmOut::Values { out, accumulate } => {
            set_values(&mut g, &out, &p.groups);
            g.accumulate = accumulate as u32;
        }
    }
    g
}

fn set_values(g: &mut GemmParams, out: &Matrix, groups: &Groups) {
    let strided = matches!(groups, Groups::Strided { .. });
    g.out = address(out.base);
    g.out_dtype = dtype(out.dtype);
    g.out_row_stride = out.row_stride as i64;
    g.out_group_stride = out.group_stride as i64;
    let vectors = out.row_stride.is_multiple_of(4) && (!strided || out.group_stride.is_multiple_of(4));
    g.out_vectors = vectors as u32;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// (name, bytes) of every field of a struct as kernels/params_gemm.cuh and a file of this folder write it.
    pub fn assert_mirrored(name: &str, rust: &str) {
        let text = include_str!("../../../kernels/params_gemm.cuh");
        let body = |text: &'static str, head: &str| {
            let from = text.find(head).expect("the struct is there") + head.len();
            &text[from..from + text[from..].find("\n}").expect("the struct ends")]
        };
        let mut device = Vec::new();
        for line in body(text, &format!("struct {name} {{")).lines() {
            let code = line.split("//").next().unwrap_or("").trim();
            let Some((kind, names)) = code.trim_end_matches(';').rsplit_once(['*', ' ']).map(|_| {
                let names = code.trim_end_matches(';');
                let cut = names.find("* ").map_or_else(|| names.find(' ').unwrap_or(0), |star| star + 1);
                (&names[..cut], &names[cut..])
            }) else {
                continue;
            };
            let bytes = if kind.ends_with('*') || kind.contains("64") { 8 } else { 4 };
            device.extend(names.split(',').map(|n| {
                let (n, count) = n.trim().split_once('[').map_or((n.trim(), 1), |(n, rest)| {
                    (n, rest.trim_end_matches(']').parse().expect("an array's length"))
                });
                (n.to_string(), bytes * count)
            }));
        }
        let mut host = Vec::new();
        for line in body(Box::leak(rust.to_string().into_boxed_str()), &format!("struct {name} {{")).lines() {
            let line = line.trim().trim_start_matches("pub(super) ").trim_end_matches(',');
            let Some((n, kind)) = line.split_once(": ") else { continue };
            let bytes = match kind {
                "u64" | "i64" => 8,
                _ => 4,
            };
            host.push((n.to_string(), bytes));
        }
        assert!(host.len() > 10);
        assert_eq!(host, device);
    }

    #[test]
    fn the_parameters_are_those_of_the_kernel() {
        assert_mirrored("GemmParams", include_str!("gemm.rs"));
    }

    #[test]
    fn the_table_has_a_kernel_for_every_tile() {
        for (i, kernel) in KERNELS.iter().enumerate() {
            let (operand, tile) = (["bf16", "f16", "codes"][i / TILES.len()], &TILES[i % TILES.len()]);
            assert_eq!(kernel.name, format!("nvfp4_gemm_{operand}_{}", tile.tokens));
            assert_eq!(kernel.threads as usize, tile.threads());
        }
        let text = include_str!("../../../kernels/gemm.cu");
        for tile in TILES {
            let entry = format!(" {}, {}, {}, ", tile.tokens, tile.units, tile.stages);
            assert!(text.contains(&entry), "kernels/gemm.cu lists{entry}");
        }
    }
}
