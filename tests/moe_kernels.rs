//! The mixture-of-experts kernels, and dequantization as products use it, on the CPU emulator against the CPU backend, bit for
//! bit, launched as the planner says.
//!
//! A case is made twice from one seed, each in memory of its own whose outputs are poisoned; in the end all bytes of both must
//! agree, so stray and missing writes show like wrong ones. NVFP4_MOE_CASES sets how many of each kind.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

#[path = "emulator/mod.rs"]
mod emulator;

use emulator::Emulator;
use nvfp4::backend::cpu::Cpu;
use nvfp4::backend::cuda::context::DeviceFacts;
use nvfp4::backend::cuda::layouts;
use nvfp4::backend::cuda::moe::{self, DispatchLaunch, GatherLaunch, Launch};
use nvfp4::format::block::ScaleRule;
use nvfp4::format::dtype::Dtype;
use nvfp4::format::layout::ScaleLayout;
use nvfp4::format::route::Score;
use nvfp4::plan::Job;
use nvfp4::plan::dequantize::{DequantizeProblem, QuantIn};
use nvfp4::plan::groups::Groups;
use nvfp4::plan::memory::{Matrix, Ptr};
use nvfp4::plan::moe::*;
use nvfp4::plan::quantize::{DecodeScales, DecodedOut, QuantOut, Scales, Scope};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
    fn dtype(&mut self) -> Dtype {
        self.pick(&[Dtype::Bf16, Dtype::F16, Dtype::F32])
    }
    /// About normal; small whole numbers where `ties`; where `wild`, sometimes no number at all.
    fn float(&mut self, ties: bool, wild: bool) -> f32 {
        if wild && self.chance(40) {
            return self.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e30]);
        }
        if ties {
            return self.below(7) as f32 - 3.0;
        }
        (0..6).map(|_| self.below(2001) as f32 / 1000.0 - 1.0).sum::<f32>() * 3.0
    }
}

/// Memory of one side. Words of 64 bytes, so that both sides have the same alignment.
struct Arena {
    memory: Vec<[u64; 8]>,
    next: usize,
}

impl Arena {
    fn new() -> Arena {
        Arena { memory: vec![[0xA5A5_A5A5_A5A5_A5A5; 8]; 1 << 18], next: 64 }
    }
    fn bytes(&self) -> &[u8] {
        // SAFETY: plain words.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.next + 64) }
    }
    /// Room for so many bytes with a guard behind it, `shift` bytes off a multiple of 64.
    fn take<T>(&mut self, bytes: usize, shift: usize) -> Ptr<T> {
        let at = self.next + shift;
        self.next = (at + bytes).next_multiple_of(64) + 64;
        assert!(self.next + 64 < self.memory.len() * 64, "a larger arena");
        // SAFETY: inside the memory.
        Ptr::from_mut(unsafe { self.memory.as_mut_ptr().cast::<u8>().add(at) }.cast())
    }
    fn input<T: Copy>(&mut self, values: &[T]) -> Ptr<T> {
        let p: Ptr<T> = self.take(size_of_val(values), 0);
        // SAFETY: room for the values.
        unsafe { p.get_mut().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
        p
    }
    /// Rows of values, or of poison where `fill` is none.
    fn matrix(
        &mut self,
        rng: &mut Rng,
        rows: usize,
        cols: usize,
        dtype: Dtype,
        fill: Option<bool>,
    ) -> Matrix {
        let aligned = 16 / dtype.bytes();
        let row_stride = cols + rng.pick(&[0, 0, aligned, 1]);
        let shift = rng.pick(&[0, 0, 0, 16]);
        let base: Ptr<u8> = self.take(rows * row_stride * dtype.bytes(), shift);
        if let Some(wild) = fill {
            for i in 0..rows * row_stride {
                // SAFETY: room for the values.
                unsafe { dtype.store(base.get_mut(), i, rng.float(false, wild)) };
            }
        }
        Matrix { base, dtype, row_stride, group_stride: 0 }
    }
    fn scales(&mut self, rng: &mut Rng, rows: impl Fn(usize) -> usize, blocks: usize, fill: bool) -> Scales {
        let layout = rng.pick(&[ScaleLayout::Linear, ScaleLayout::Tiled128x4, ScaleLayout::Tiled8x4]);
        let row_stride = blocks + rng.pick(&[0, 0, 3]);
        let bytes = match layout {
            ScaleLayout::Linear => rows(1) * row_stride,
            _ => rows(layout.tile_rows()) * blocks.next_multiple_of(4),
        };
        let base: Ptr<u8> = self.take(bytes, 0);
        if fill {
            // SAFETY: room for the bytes.
            (0..bytes).for_each(|i| unsafe { base.get_mut().add(i).write(rng.below(127) as u8) });
        }
        Scales { base, layout, row_stride }
    }
}

fn route(rng: &mut Rng, arena: &mut Arena) -> Vec<Job> {
    let (groups, size) = rng.pick(&[
        (1, 1),
        (1, 2),
        (1, 31),
        (1, 64),
        (1, 128),
        (1, 256),
        (1, 257),
        (1, 384),
        (1, 1000),
        (1, 1024),
        (8, 32),
        (8, 16),
        (4, 2),
        (16, 1),
        (3, 5),
        (300, 1),
        (33, 3),
        (4, 160),
    ]);
    let (top_groups, tokens) = (1 + rng.below(groups.min(40)), rng.pick(&[0, 1, 3, 5, 13, 1030]));
    let tokens = if groups * size > 64 { tokens.min(13) } else { tokens };
    let topk = 1 + rng.below((top_groups * size).min(32));
    vec![Job::Route(route_of(rng, arena, (tokens, topk), (groups, size), top_groups))]
}

fn route_of(
    rng: &mut Rng,
    arena: &mut Arena,
    (tokens, topk): (usize, usize),
    (groups, size): (usize, usize),
    top_groups: usize,
) -> RouteProblem {
    let experts = groups * size;
    let (ties, wild, dtype) = (rng.chance(3), rng.chance(4), rng.dtype());
    let logits = arena.matrix(rng, tokens, experts, dtype, Some(wild));
    if ties {
        for i in 0..tokens * logits.row_stride {
            // SAFETY: inside the matrix.
            unsafe { dtype.store(logits.base.get_mut(), i, rng.float(true, wild)) };
        }
    }
    let bias: Vec<f32> = (0..experts).map(|_| rng.float(ties, false)).collect();
    let mask: Vec<u8> = (0..tokens).map(|_| rng.below(4) as u8).collect();
    let router = Router {
        score: rng.pick(&[Score::Softmax, Score::Sigmoid, Score::SqrtSoftplus]),
        bias: if rng.chance(2) { arena.input(&bias) } else { Ptr::NULL },
        renormalise: rng.chance(2),
        scaling: rng.pick(&[1.0, 2.5]),
        groups,
        top_groups,
    };
    let mask = if rng.chance(3) { arena.input(&mask) } else { Ptr::NULL };
    let (ids, weights) = (arena.take(tokens * topk * 4, 0), arena.take(tokens * topk * 4, 0));
    RouteProblem { tokens, experts, topk, logits, router, mask, ids, weights }
}

fn permutation(rng: &mut Rng, arena: &mut Arena, tokens: usize, topk: usize) -> PermuteProblem {
    let slots = tokens * topk;
    let experts = rng.pick(&[0, 1, 2, 8, 40, 256, 257, 1024]);
    let first_expert = if rng.chance(2) { 0 } else { rng.below(experts + 1) };
    let local_experts =
        experts - first_expert - if rng.chance(2) { 0 } else { rng.below(experts - first_expert) };
    let (wild, few) = (rng.chance(4), rng.chance(3));
    let ids: Vec<i32> = (0..slots)
        .map(|_| match wild && rng.chance(1 + slots / 3) {
            true => rng.pick(&[-7, -2, i32::MIN, i32::MAX, experts as i32, experts as i32 + 9]),
            false => rng.below(if few { 3.min(experts + 1) } else { experts + 1 }) as i32 - 1,
        })
        .collect();
    PermuteProblem {
        tokens,
        topk,
        experts,
        first_expert,
        local_experts,
        ids: arena.input(&ids),
        ends: arena.take(local_experts * 4, 0),
        source_rows: arena.take(slots * 4, 0),
        inverse: arena.take(slots * 4, 0),
    }
}

fn permute(rng: &mut Rng, arena: &mut Arena) -> Vec<Job> {
    let (tokens, topk) = (rng.pick(&[0, 1, 7, 300, 512, 1700, 4097, 9000]), rng.pick(&[1, 2, 5, 8]));
    vec![Job::Permute(permutation(rng, arena, tokens, topk))]
}

/// A whole way into expert order, with ids that are given or routed.
fn dispatch(rng: &mut Rng, arena: &mut Arena) -> Vec<Job> {
    let (tokens, topk) = (rng.pick(&[0, 1, 1, 2, 3, 9, 40, 90, 270]), rng.pick(&[1, 2, 6, 8]));
    let mut permute = permutation(rng, arena, tokens, topk);
    let route = rng.chance(2) && permute.experts >= topk;
    let route = route.then(|| {
        let groups = if permute.experts.is_multiple_of(8) && topk < 3 { rng.pick(&[1, 8]) } else { 1 };
        route_of(rng, arena, (tokens, topk), (groups, permute.experts / groups), groups.min(3))
    });
    if let Some(route) = &route {
        permute.ids = route.ids;
    }
    let gather = gather_of(rng, arena, permute);
    vec![Job::Dispatch(DispatchProblem { route, gather, dependent_launch: rng.chance(2) })]
}

fn gather_of(rng: &mut Rng, arena: &mut Arena, permute: PermuteProblem) -> GatherProblem {
    let (tokens, slots) = (permute.tokens, permute.tokens * permute.topk);
    let (dtype, wild) = (rng.dtype(), rng.chance(4));
    let groups = permute.groups();
    let kind = rng.below(5);
    let widths = [1, 2, 4, 16, 17, 32, 48, 130, if tokens < 10 { 1030 } else { 8 }];
    let cols = 16 * rng.pick(&widths[..if slots > 560 { 5 } else { widths.len() }]);
    let blocks = cols / 16;
    let what = match kind {
        0 => {
            let src = arena.matrix(rng, tokens, cols, dtype, Some(wild));
            Gather::Values { src, dst: arena.matrix(rng, slots, cols, dtype, None) }
        }
        1 => {
            let pitch = cols / 2 + rng.pick(&[0, 0, 5, 16]);
            let codes: Vec<u8> = (0..tokens * pitch).map(|_| rng.next() as u8).collect();
            let codes = arena.input(&codes);
            let scales = arena.scales(rng, |tile| tokens.next_multiple_of(tile), blocks, true);
            let given: Vec<f32> = (0..tokens.max(1)).map(|_| rng.float(false, false)).collect();
            let scope = rng.pick(&[Scope::Tensor, Scope::Row]);
            let decode = if rng.chance(3) { Ptr::NULL } else { arena.input(&given) };
            let src =
                QuantIn { codes, codes_row_stride: pitch, codes_group_stride: 0, scales, scope, decode };
            let codes_row_stride = cols / 2 + rng.pick(&[0, 0, 3, 16]);
            Gather::Codes {
                src,
                codes: arena.take(slots * codes_row_stride, 0),
                codes_row_stride,
                scales: arena.scales(rng, |tile| groups.scale_rows(tile), blocks, false),
                decode: arena.take(slots * 4, 0),
            }
        }
        2 => {
            let src = arena.matrix(rng, tokens, cols, dtype, Some(wild));
            Gather::Decode { src, out: decoded(rng, arena, slots, cols) }
        }
        _ => {
            let src = arena.matrix(rng, tokens, cols, dtype, Some(wild));
            let codes_row_stride = cols / 2 + rng.pick(&[0, 0, 3, 8]);
            let (rule, scope, decode) = rounding(rng, arena, slots);
            let out = QuantOut {
                codes: arena.take(slots * codes_row_stride, 0),
                codes_row_stride,
                scales: arena.scales(rng, |tile| groups.scale_rows(tile), blocks, false),
                rule,
                scope,
                decode,
            };
            Gather::Quantize { src, out }
        }
    };
    GatherProblem { permute, cols, what }
}

/// What kernels with a warp a token, or a row, take: rows of whole words, the plain rule.
fn many(rng: &mut Rng, arena: &mut Arena) -> Vec<Job> {
    let (tokens, topk) = (rng.pick(&[44, 70]), rng.pick(&[6, 8]));
    let permute = permutation(rng, arena, tokens, topk);
    let slots = tokens * topk;
    let cols = 64 * rng.pick(&[1, 4, 12, 36]);
    let (dtype, wild) = (rng.pick(&[Dtype::Bf16, Dtype::F16]), rng.chance(4));
    let (_, scope, decode) = rounding(rng, arena, slots);
    let rule = ScaleRule::Amax;
    let mut src = |rows| loop {
        let src = arena.matrix(rng, rows, cols, dtype, Some(wild));
        if (src.row_stride * dtype.bytes()).is_multiple_of(16) {
            return (src, rng.chance(2), rng.pick(&[0, 16]));
        }
    };
    if wild && topk == 8 {
        let (src, ..) = src(slots);
        let rows = Matrix {
            base: arena.take(slots * cols * 2, 0),
            dtype: Dtype::Bf16,
            row_stride: cols,
            group_stride: 0,
        };
        let out = DecodedOut { rows, rule, scope, decode };
        return vec![Job::Permute(permute), Job::Round(RoundProblem { rows: permute, cols, src, out })];
    }
    let (src, linear, pad) = src(tokens);
    let groups = permute.groups();
    let mut scales = arena.scales(rng, |tile| groups.scale_rows(tile), cols / 16, false);
    if linear {
        let row_stride = cols / 16 + pad;
        scales = Scales { base: arena.take(slots * row_stride, 0), layout: ScaleLayout::Linear, row_stride };
    }
    let codes_row_stride = cols / 2 + pad;
    let codes = arena.take(slots * codes_row_stride, 0);
    let out = QuantOut { codes, codes_row_stride, scales, rule, scope, decode };
    let gather = GatherProblem { permute, cols, what: Gather::Quantize { src, out } };
    vec![Job::Dispatch(DispatchProblem { route: None, gather, dependent_launch: false })]
}

fn rounding(rng: &mut Rng, arena: &mut Arena, rows: usize) -> (ScaleRule, Scope, DecodeScales) {
    let rule = rng.pick(&[ScaleRule::Amax, ScaleRule::Amax, ScaleRule::FourOverSix, ScaleRule::MinMse]);
    let scope = rng.pick(&[Scope::Row, Scope::Row, Scope::Tensor, Scope::Group]);
    let given: Vec<f32> = (0..rows + 1024)
        .map(|i| if i % 50 == 7 { -1.0 } else { 0.002 * (1 + rng.below(9)) as f32 })
        .collect();
    let decode = match scope == Scope::Row && rng.chance(2) {
        true => DecodeScales::Dynamic(arena.take(rows * 4, 0)),
        false => DecodeScales::Static(if rng.chance(4) { Ptr::NULL } else { arena.input(&given) }),
    };
    (rule, scope, decode)
}

fn decoded(rng: &mut Rng, arena: &mut Arena, rows: usize, cols: usize) -> DecodedOut {
    let (rule, scope, decode) = rounding(rng, arena, rows);
    let row_stride = cols + rng.pick(&[0, 8]);
    let base = arena.take(rows * row_stride * 2, 0);
    let rows = Matrix { base, dtype: Dtype::Bf16, row_stride, group_stride: 0 };
    DecodedOut { rows, rule, scope, decode }
}

/// Rows in the order of a sort, whose launch stands in front.
fn round(rng: &mut Rng, arena: &mut Arena) -> Vec<Job> {
    let (tokens, topk) = (rng.pick(&[0, 1, 2, 9, 40]), rng.pick(&[1, 2, 6]));
    let rows = permutation(rng, arena, tokens, topk);
    let cols = 16 * rng.pick(&[1, 2, 17, 130, 600]);
    let (dtype, wild) = (rng.dtype(), rng.chance(4));
    let src = arena.matrix(rng, tokens * topk, cols, dtype, Some(wild));
    let out = decoded(rng, arena, tokens * topk, cols);
    vec![Job::Permute(rows), Job::Round(RoundProblem { rows, cols, src, out })]
}

fn combine(rng: &mut Rng, arena: &mut Arena) -> Vec<Job> {
    let (tokens, topk) = (rng.below(20), rng.pick(&[1, 2, 4, 6, 8, 32]));
    let (rows, cols) = (rng.below(60), rng.pick(&[1, 15, 64, 72, 1025, 2880]));
    let wild = rng.chance(4);
    let inverse: Vec<i32> = (0..tokens * topk)
        .map(|_| if wild && rng.chance(9) { rng.next() as i32 } else { rng.below(rows + 1) as i32 - 1 })
        .collect();
    let weights: Vec<f32> = (0..tokens * topk).map(|_| rng.float(false, false) / 8.0).collect();
    let dtypes = [rng.dtype(), rng.dtype(), rng.dtype()];
    let y = arena.matrix(rng, rows, cols, dtypes[0], Some(wild));
    let shared = rng.chance(2).then(|| arena.matrix(rng, tokens, cols, dtypes[1], Some(wild)));
    let (inverse, weights) = (arena.input(&inverse), arena.input(&weights));
    let scaling = rng.pick(&[1.0, 2.5]);
    let out = arena.matrix(rng, tokens, cols, dtypes[2], None);
    vec![Job::Combine(CombineProblem {
        tokens,
        topk,
        cols,
        rows,
        y,
        inverse,
        weights,
        scaling,
        shared,
        out,
        in_layer: rng.chance(2),
    })]
}

/// Rows of strided groups whose codes, like a product's, lie any number of bytes apart.
fn dequantize(rng: &mut Rng, arena: &mut Arena) -> Vec<Job> {
    let (count, rows) = (rng.pick(&[1, 2, 5]), rng.pick(&[1, 7, 17, 130]));
    let groups = Groups::Strided { count, rows };
    let cols = 16 * rng.pick(&[1, 3, 8, 17, 33]);
    let codes_row_stride = cols / 2 + rng.pick(&[0, 0, 8, 3]);
    let codes_group_stride = rows * codes_row_stride + rng.pick(&[0, 8, 21]);
    let codes: Vec<u8> = (0..count * codes_group_stride).map(|_| rng.next() as u8).collect();
    let codes = arena.input(&codes);
    let scales = arena.scales(rng, |tile| groups.scale_rows(tile), cols / 16, true);
    let input = QuantIn {
        codes,
        codes_row_stride,
        codes_group_stride,
        scales,
        scope: Scope::Tensor,
        decode: Ptr::NULL,
    };
    let mut dst = arena.matrix(rng, count * rows, cols, Dtype::Bf16, None);
    dst.group_stride = rows * dst.row_stride;
    vec![Job::Dequantize(DequantizeProblem { groups, cols, input, dst })]
}

impl Emulator {
    fn launch<P>(&self, launch: &Launch<P>) {
        assert!(launch.grid.0 > 0 && launch.grid.1 > 0 && launch.threads.is_multiple_of(32));
        assert!(launch.threads <= launch.kernel.threads);
        let (run, _) = self.kernel(launch.kernel.name).expect("the emulator has every kernel");
        // SAFETY: the kernel has this struct; the addresses are those of the arena.
        unsafe {
            run(&[launch.grid.0, launch.grid.1, 1], launch.threads, (&raw const launch.params).cast());
        }
    }

    fn execute(&self, job: &Job, facts: &DeviceFacts) {
        match job {
            Job::Route(p) => moe::plan_route(p, facts).iter().for_each(|l| self.launch(l)),
            Job::Permute(p) => {
                moe::plan_permute(p, facts).iter().flatten().for_each(|l| self.launch(l));
            }
            Job::Dispatch(p) => match moe::plan_dispatch(p, facts) {
                Some(plan) => {
                    plan.route.iter().for_each(|l| self.launch(l));
                    match plan.gather {
                        DispatchLaunch::Values(l) => self.launch(&l),
                        DispatchLaunch::Codes(l) => self.launch(&l),
                        DispatchLaunch::Quantize(l) => self.launch(&l),
                    }
                }
                None => {
                    for job in p.route.map(Job::Route).iter() {
                        self.execute(job, facts);
                    }
                    self.execute(&Job::Permute(p.gather.permute), facts);
                    match moe::plan_gather(&p.gather, facts) {
                        Some(GatherLaunch::Values(l)) => self.launch(&l),
                        Some(GatherLaunch::Codes(l)) => self.launch(&l),
                        Some(GatherLaunch::Quantize(l, turn)) => {
                            self.launch(&l);
                            turn.iter().for_each(|l| self.launch(l));
                        }
                        None => {}
                    }
                }
            },
            Job::Round(p) => moe::plan_round(p, facts).iter().for_each(|l| self.launch(l)),
            Job::Combine(p) => moe::plan_combine(p, facts).iter().for_each(|l| self.launch(l)),
            Job::Dequantize(p) => {
                let plan = layouts::plan_dequantize(p, facts);
                plan.iter().for_each(|l| {
                    let (kernel, grid, threads, params) = (l.kernel, l.grid, l.threads, l.params);
                    self.launch(&Launch { kernel, grid, threads, params });
                });
            }
            _ => unreachable!("not a job of this test"),
        }
    }
}

#[test]
fn kernels_agree_with_the_cpu_backend() {
    let emulator = Emulator::build();
    let cpu = Cpu::new(1, None).unwrap();
    let cases = std::env::var("NVFP4_MOE_CASES").map_or(150, |n| n.parse().unwrap());
    type Make = fn(&mut Rng, &mut Arena) -> Vec<Job>;
    // Dispatches have the most forms.
    let kinds: [(&str, Make, u64); 7] = [
        ("route", route, 1),
        ("permute", permute, 1),
        ("dispatch", dispatch, 3),
        ("many", many, 1),
        ("round", round, 1),
        ("combine", combine, 1),
        ("dequantize", dequantize, 1),
    ];
    for (kind, make, times) in kinds {
        for seed in 0..cases * times {
            let mut sides = [Arena::new(), Arena::new()];
            let [want, got] = sides.each_mut().map(|arena| make(&mut Rng(seed), arena));
            // The record of src/backend/cuda/fault.rs, with no word on the host's side.
            let mut fault = [0u64; 2];
            let facts = DeviceFacts {
                sm_count: if seed % 3 == 0 { 1 } else { 132 },
                compute_capability: (9, 0),
                shared_per_block_optin: 227 << 10,
                l2_bytes: 50 << 20,
                fault: (&raw mut fault).addr() as u64,
            };
            cpu.faults.clear();
            for (want, got) in want.iter().zip(&got) {
                // SAFETY: the addresses of the arena.
                unsafe { cpu.execute(want) };
                emulator.execute(got, &facts);
            }
            let (flags, group) = cpu.faults.read();
            let expected = flags as u64 | group.map_or(0, |g| g as u64 + 1) << 32;
            let wrong = sides[0].bytes().iter().zip(sides[1].bytes()).position(|(a, b)| a != b);
            assert!(wrong.is_none(), "{kind} {seed}: byte {wrong:?}; {:?}", want);
            // SAFETY: the kernels have written it through its address.
            let fault = unsafe { (&raw const fault[0]).read_volatile() };
            assert_eq!(fault, expected, "{kind} {seed}: fault word; {want:?}");
        }
    }
}
