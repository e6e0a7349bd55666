//! What kernels_quant.py asks of the library: launches of a problem as the planner makes them, and the same problem
//! carried out by the CPU backend. Problems come as words: integers, addresses, float bits; see `Words`.
//! A cdylib of the test kit, not part of the library.

use std::sync::OnceLock;

use nvfp4::backend::cpu::Cpu;
use nvfp4::backend::cuda::context::DeviceFacts;
use nvfp4::backend::cuda::{layouts, rows};
use nvfp4::format::block::ScaleRule;
use nvfp4::format::dtype::Dtype;
use nvfp4::format::layout::ScaleLayout;
use nvfp4::format::math::SwiGlu;
use nvfp4::plan::Job;
use nvfp4::plan::dequantize::{DequantizeProblem, QuantIn};
use nvfp4::plan::groups::Groups;
use nvfp4::plan::layouts::{InterleaveProblem, ScaleLayoutProblem};
use nvfp4::plan::memory::{Matrix, Ptr, Vector};
use nvfp4::plan::quantize::*;

/// One step: `kind` 0 sets `words` words at `dst` to zero, 1 launches.
#[repr(C)]
pub struct Step {
    kind: u32,
    grid_x: u32,
    grid_y: u32,
    threads: u32,
    dst: u64,
    words: u64,
    param_bytes: u64,
    name: [u8; 64],
    params: [u8; 320],
}

/// The words of a problem in the order in which they are asked for.
struct Words<'a>(std::slice::Iter<'a, u64>);

impl Words<'_> {
    fn next(&mut self) -> u64 {
        *self.0.next().expect("the script gives every word")
    }
    fn size(&mut self) -> usize {
        self.next() as usize
    }
    fn float(&mut self) -> f32 {
        f32::from_bits(self.next() as u32)
    }
    fn ptr<T>(&mut self) -> Ptr<T> {
        Ptr::new(self.next() as usize as *const T)
    }
    fn dtype(&mut self) -> Dtype {
        [Dtype::Bf16, Dtype::F16, Dtype::F32][self.size()]
    }
    fn scope(&mut self) -> Scope {
        [Scope::Tensor, Scope::Group, Scope::Row][self.size()]
    }
    /// base, row stride, group stride; `None` where base is 0.
    fn matrix(&mut self, dtype: Dtype) -> Option<Matrix> {
        let m = Matrix { base: self.ptr(), dtype, row_stride: self.size(), group_stride: self.size() };
        m.base.some().map(|_| m)
    }
    fn scales(&mut self) -> Scales {
        let layout = [ScaleLayout::Linear, ScaleLayout::Tiled128x4, ScaleLayout::Tiled8x4][self.size()];
        Scales { base: self.ptr(), layout, row_stride: self.size() }
    }
    /// kind, index, count, rows (all, or of a group).
    fn groups(&mut self) -> Groups {
        let (kind, index, count, rows) = (self.next(), self.ptr(), self.size(), self.size());
        match kind {
            0 => Groups::None { rows },
            1 => Groups::Ends { ends: index, count, rows },
            2 => Groups::Masked { counts: index, count, max_rows: rows },
            _ => Groups::Strided { count, rows },
        }
    }

    fn quantize(&mut self) -> QuantizeProblem {
        let (groups, cols, kind, dtype) = (self.groups(), self.size(), self.next(), self.dtype());
        let empty = Matrix { base: Ptr::NULL, dtype, row_stride: cols, group_stride: 0 };
        let src = self.matrix(dtype).unwrap_or(empty);
        let (copy, normed) = (self.matrix(dtype), self.matrix(dtype));
        let inv_rms = self.ptr().some();
        let weight = Vector { base: self.ptr(), dtype: self.dtype() };
        let (weight_offset, eps) = (self.float(), self.float());
        let (stream_stride, count, mix, mix_row_stride) = (self.size(), self.size(), self.ptr(), self.size());
        let interleaved = self.next() == 1;
        let swiglu = SwiGlu { limit: self.float(), alpha: self.float(), beta: self.float() };
        let norm = Norm { weight, weight_offset, eps, normed, inv_rms };
        let gated = |activation| Producer::Gated { src, interleaved, activation };
        let producer = match kind {
            0 => Producer::Plain { src },
            1 => Producer::Transposed { src },
            2 => Producer::Norm { input: NormInput::Rows { src, residual: copy }, norm },
            3 => {
                let hc =
                    HyperConnection { streams: src, stream_stride, count, mix, mix_row_stride, mixed: copy };
                Producer::Norm { input: NormInput::Hyper(hc), norm }
            }
            4 => gated(GatedActivation::SwiGlu(swiglu)),
            5 => gated(GatedActivation::Relu2),
            _ => gated(GatedActivation::Identity),
        };
        let (has_out, codes, codes_row_stride) = (self.next() == 1, self.ptr(), self.size());
        let scales = self.scales();
        let rule = [ScaleRule::Amax, ScaleRule::FourOverSix, ScaleRule::MinMse][self.size()];
        let (scope, dynamic, decode) = (self.scope(), self.next() == 1, self.ptr());
        let scales_of = if dynamic { DecodeScales::Dynamic } else { DecodeScales::Static };
        let out = QuantOut { codes, codes_row_stride, scales, rule, scope, decode: scales_of(decode) };
        QuantizeProblem {
            groups,
            cols,
            producer,
            activated: if kind >= 4 { copy } else { None },
            out: has_out.then_some(out),
            amax: (!has_out).then_some((scope, decode)),
        }
    }

    fn dequantize(&mut self) -> DequantizeProblem {
        let (groups, cols) = (self.groups(), self.size());
        let (codes, codes_row_stride, scales) = (self.ptr(), self.size(), self.scales());
        let (scope, decode, dtype) = (self.scope(), self.ptr(), self.dtype());
        let codes_group_stride = match groups {
            Groups::Strided { rows, .. } => rows * codes_row_stride,
            _ => 0,
        };
        let input = QuantIn { codes, codes_row_stride, codes_group_stride, scales, scope, decode };
        DequantizeProblem { groups, cols, input, dst: self.matrix(dtype).expect("a destination") }
    }

    fn move_scales(&mut self) -> ScaleLayoutProblem {
        ScaleLayoutProblem {
            groups: self.groups(),
            blocks: self.size(),
            src: self.scales(),
            dst: self.scales(),
        }
    }

    fn interleave(&mut self) -> InterleaveProblem {
        InterleaveProblem {
            src: self.ptr(),
            dst: self.ptr(),
            count: self.size(),
            half: self.size(),
            row_bytes: self.size(),
            granularity: self.size(),
            forward: self.next() == 1,
        }
    }

    fn stage(&mut self) -> StageProblem {
        StageProblem {
            quantize: self.quantize(),
            routes: self.size(),
            ids_in: self.ptr(),
            ids_out: self.ptr(),
            weights_in: self.ptr(),
            weights_out: self.ptr(),
        }
    }
}

fn launch<P: Copy>(name: &str, grid: (u32, u32), threads: u32, params: &P) -> Step {
    let mut step = Step {
        kind: 1,
        grid_x: grid.0,
        grid_y: grid.1,
        threads,
        dst: 0,
        words: 0,
        param_bytes: size_of::<P>() as u64,
        name: [0; 64],
        params: [0; 320],
    };
    step.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: parameter structs are plain and smaller than the array.
    unsafe {
        std::ptr::copy_nonoverlapping(
            (&raw const *params).cast::<u8>(),
            step.params.as_mut_ptr(),
            size_of::<P>(),
        );
    }
    step
}

fn quantize_steps(p: &QuantizeProblem, facts: &DeviceFacts) -> Vec<Step> {
    let plan = rows::plan(p, facts);
    let step = |step: &rows::Step| match step {
        rows::Step::Zero { dst, words } => {
            let mut zero = launch("", (0, 0), 0, &());
            (zero.kind, zero.dst, zero.words) = (0, *dst, *words as u64);
            zero
        }
        rows::Step::Rows { kernel, grid, threads, params } => launch(kernel.name, *grid, *threads, params),
        rows::Step::Finish { blocks, params } => launch("nvfp4_finish_scales", (*blocks, 1), 256, params),
    };
    plan.steps().map(step).collect()
}

/// Writes the launches of problem `op` to `steps` (room for `room`) and returns how many there are.
///
/// # Safety
/// `words` holds `count` words; `steps` has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kit_plan(
    op: u32,
    words: *const u64,
    count: usize,
    sm_count: u32,
    fault: u64,
    steps: *mut Step,
    room: usize,
) -> usize {
    let facts = DeviceFacts {
        sm_count,
        compute_capability: (9, 0),
        shared_per_block_optin: 227 << 10,
        l2_bytes: 50 << 20,
        fault,
    };
    // SAFETY: the caller's promise.
    let mut w = Words(unsafe { std::slice::from_raw_parts(words, count) }.iter());
    let list: Vec<Step> = match op {
        0 => quantize_steps(&w.quantize(), &facts),
        1 => layouts::plan_dequantize(&w.dequantize(), &facts)
            .map(|l| launch(l.kernel.name, l.grid, l.threads, &l.params))
            .into_iter()
            .collect(),
        2 => layouts::plan_move_scales(&w.move_scales(), &facts)
            .map(|l| launch(l.kernel.name, l.grid, l.threads, &l.params))
            .into_iter()
            .collect(),
        3 => layouts::plan_interleave(&w.interleave())
            .map(|l| launch(l.kernel.name, l.grid, l.threads, &l.params))
            .into_iter()
            .collect(),
        _ => {
            let p = w.stage();
            let mut list = quantize_steps(&p.quantize, &facts);
            let (kernel, blocks, params) = rows::routes(&p);
            list.push(launch(kernel.name, (blocks, 1), 256, &params));
            list
        }
    };
    assert!(list.len() <= room);
    for (i, step) in list.iter().enumerate() {
        // SAFETY: there is room.
        unsafe { std::ptr::copy_nonoverlapping(step, steps.add(i), 1) };
    }
    list.len()
}

/// Carries problem `op` out on host memory. Returns fault flags | (1 + first bad group) << 32.
///
/// # Safety
/// The addresses in the words are valid host memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kit_cpu(op: u32, words: *const u64, count: usize) -> u64 {
    static CPU: OnceLock<Cpu> = OnceLock::new();
    let cpu = CPU.get_or_init(|| Cpu::new(0, None).expect("threads start"));
    // SAFETY: the caller's promise.
    let mut w = Words(unsafe { std::slice::from_raw_parts(words, count) }.iter());
    let job = match op {
        0 => Job::Quantize(w.quantize()),
        1 => Job::Dequantize(w.dequantize()),
        2 => Job::MoveScales(w.move_scales()),
        3 => Job::Interleave(w.interleave()),
        _ => Job::Stage(w.stage()),
    };
    cpu.faults.clear();
    // SAFETY: the caller's promise.
    unsafe { cpu.execute(&job) };
    let (flags, group) = cpu.faults.read();
    flags as u64 | group.map_or(0, |g| g as u64 + 1) << 32
}

/// The size of a step, so that the script can check its own idea of it.
#[unsafe(no_mangle)]
pub extern "C" fn kit_step_bytes() -> usize {
    size_of::<Step>()
}
