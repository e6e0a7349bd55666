//! The same random calls on a device and on the CPU: every byte alike, products within the contract's bound.
//!
//! NVFP4_TEST_DEVICE=cuda runs them on GPU 0, from as many threads as there are cores; without it they take the way of
//! device memory on the CPU, a few of them. NVFP4_RANDOM_CALLS is the number of seeds, each of which calls every operation,
//! with both poisons; NVFP4_RANDOM_SEED the first one; NVFP4_RANDOM_ONLY=grouped_gemm takes that operation of every seed and
//! no regular call; NVFP4_RANDOM_PRODUCTS is the number of sets of weights with eight products each. NVFP4_TEST_THREADS sets the threads, NVFP4_TEST_SHORT=1 looks less closely, NVFP4_TEST_STEP and
//! NVFP4_TEST_PRODUCT_STEP leave regular calls out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use nvfp4::api::context::*;
use nvfp4::api::gemm::*;
use nvfp4::api::linear::*;
use nvfp4::api::operation::*;
use nvfp4::api::quantize::*;
use nvfp4::api::tuning::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::reference::*;
use crate::support::{Library, Memory, check};
use crate::{Call, OPERATIONS, Prepared, WORKSPACE, prepare, set_workspace};
use crate::{products, regular, regular_moe, spread};

/// The operations of a seed with their numbers, which choose their random arguments.
fn operations() -> impl Iterator<Item = (usize, &'static (&'static str, crate::Make))> {
    let products = OPERATIONS.iter().filter(|(name, _)| *name == "grouped_gemm").cycle().take(PRODUCTS - 1);
    let only = only();
    OPERATIONS
        .iter()
        .chain(products)
        .enumerate()
        .filter(move |(_, (name, _))| only.as_deref().is_none_or(|only| only == *name))
}

fn only() -> Option<String> {
    std::env::var("NVFP4_RANDOM_ONLY").ok()
}

/// What a thread works with: the CPU, the device, and their memory.
struct Bench {
    libraries: [Library; 2],
    storage: [Memory; 2],
    workspace: Memory,
    scratch: Memory,
    arenas: [Arena; 2],
    /// Regular calls with one poison, and fewer of the long products: what slow tools watch.
    short: bool,
    /// The largest part of its bound that a product took, and elements compared.
    worst: f64,
    elements: u64,
}

const POISONS: [u8; 2] = [0xA5, 0x5A];
/// Products of the same weights, four a seed: they have the most forms.
const PRODUCTS: usize = 4;
/// Regular calls of rows, then those of a mixture of experts, then sets of weights with all their products.
const REGULAR: usize = LAYER_CALLS + regular::WEIGHT_SETS;
const LAYER_CALLS: usize = regular::ROW_CALLS + regular_moe::CALLS;
/// Compared with a bound in place of bit for bit.
const PRODUCT_NAMES: [&str; 2] = ["grouped_gemm", "grouped_linear"];
const CPU: usize = 0;
const DEVICE: usize = 1;

impl Bench {
    fn new(device: Library) -> Bench {
        let workspace = Memory::poisoned(WORKSPACE, 0x5A);
        workspace.stage_only(1 << 16);
        Bench {
            libraries: [Library::new(NVFP4_ISA_BEST, 1).expect("a CPU context"), device],
            storage: [Memory::poisoned(4 << 20, 0), Memory::poisoned(4 << 20, 0)],
            workspace,
            scratch: Memory::poisoned(4 << 20, 0),
            arenas: POISONS.map(Arena::new),
            short: number("NVFP4_TEST_SHORT", 0) != 0,
            worst: 0.0,
            elements: 0,
        }
    }

    /// All operations of a seed; what was wrong.
    fn seed(&mut self, seed: u64) -> Vec<String> {
        let mut weights = prepare(&mut Rng::new(seed ^ 0x77), &self.libraries, &mut self.storage);
        let canonical = self.canonical(&weights);
        let mut problems = Vec::new();
        for (i, (name, make)) in operations() {
            for (poison, byte) in POISONS.into_iter().enumerate() {
                self.arenas[poison].clear(byte);
                weights.which = CPU;
                let mut rng = Rng::new(seed * 31 + 5 + ((i as u64) << 40)).wide(seed % 8 == 7);
                let call = make(&mut rng, &mut self.arenas[poison], &weights).expect("a legal call");
                if let Err(problem) = self.compare(name, &call, poison, &weights, &canonical) {
                    problems.push(format!("{name} seed {seed} poison {byte:#x}: {problem}"));
                    break;
                }
            }
        }
        for handle in weights.handles {
            // SAFETY: a live handle.
            check(unsafe { nvfp4_weights_destroy(handle) }).unwrap();
        }
        problems
    }

    /// Products of one set of weights; what was wrong.
    fn products(&mut self, seed: u64) -> Vec<String> {
        let weights = spread::weights(&mut Rng::new(seed * 31 + 7), &self.libraries, &mut self.storage);
        let canonical = self.canonical(&weights);
        let mut problems = Vec::new();
        for i in 0..spread::CALLS as u64 {
            for (poison, byte) in POISONS.into_iter().enumerate() {
                let arena = &mut self.arenas[poison];
                arena.clear(byte);
                let mut rng = Rng::new(seed * 31 + 11 + (i << 40));
                let (groups, rows) = spread::groups(&mut rng, arena, &weights);
                let call = products::product(&mut rng, arena, &weights, groups, rows);
                let found = self
                    .compare("grouped_gemm", &call, poison, &weights, &canonical)
                    .and_then(|()| self.fewer_rows(&call, poison, &weights));
                if let Err(problem) = found {
                    problems.push(format!("product {i} of weights {seed} poison {byte:#x}: {problem}"));
                    break;
                }
            }
        }
        for handle in weights.handles {
            // SAFETY: a live handle.
            check(unsafe { nvfp4_weights_destroy(handle) }).unwrap();
        }
        problems
    }

    /// A call of `regular`: a number below [`REGULAR`].
    fn regular(&mut self, which: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let none = Prepared {
            handles: Vec::new(),
            which: 0,
            groups: 0,
            rows: 0,
            cols: 0,
            gate_up: false,
            workspace: 0,
        };
        let empty = Canonical::new(&[], &[], Vec::new(), 0, 0);
        if which < LAYER_CALLS {
            for (poison, byte) in POISONS.into_iter().enumerate().take(if self.short { 1 } else { 2 }) {
                self.arenas[poison].clear(byte);
                let arena = &mut self.arenas[poison];
                let (name, call) = match which.checked_sub(regular::ROW_CALLS) {
                    None => regular::rows(which, self.short, arena),
                    Some(which) => regular_moe::call(which, arena),
                };
                if let Err(problem) = self.compare(name, &call, poison, &none, &empty) {
                    problems.push(format!("{name}, regular call {which}: {problem}"));
                    break;
                }
            }
            return problems;
        }
        // The products of one set of weights.
        let weights = regular::weights(which - LAYER_CALLS, &self.libraries, &mut self.storage);
        let canonical = self.canonical(&weights);
        if which == LAYER_CALLS
            && let Err(problem) = self.every_form(&weights)
        {
            problems.push(format!("nvfp4_tune: {problem}"));
        }
        // The long rows look at longer sums.
        let fewer = if self.short { number("NVFP4_TEST_PRODUCT_STEP", 5) as usize } else { 1 };
        let step = if canonical.cols > 256 { fewer } else { 1 };
        for i in (0..regular::PRODUCT_CALLS).step_by(step) {
            let poison = i % POISONS.len();
            self.arenas[poison].clear(POISONS[poison]);
            let call = regular::product(i, &weights, &mut self.arenas[poison]);
            if let Err(problem) = self.compare("grouped_gemm", &call, poison, &weights, &canonical) {
                problems
                    .push(format!("grouped_gemm {i} of regular weights {}: {problem}", which - LAYER_CALLS));
            }
        }
        for handle in weights.handles {
            // SAFETY: a live handle.
            check(unsafe { nvfp4_weights_destroy(handle) }).unwrap();
        }
        problems
    }

    /// The weights as the CPU exports them; the export of the device is one of the operations.
    fn canonical(&self, w: &Prepared) -> Canonical {
        let count = w.groups * w.rows * w.cols;
        let mut codes = Memory::poisoned(count / 2, 0);
        let mut scales = Memory::poisoned(count / 16, 0);
        let mut decode = Memory::poisoned(w.groups * 4, 0);
        let args = nvfp4_weights_export_args {
            struct_size: size_of::<nvfp4_weights_export_args>(),
            weights: w.handles[CPU],
            codes: codes.ptr_mut(),
            scales: scales.ptr_mut(),
            decode_scales: decode.ptr_mut(),
            ..Default::default()
        };
        self.libraries[CPU].call(nvfp4_weights_export, &args).unwrap();
        Canonical::new(codes.bytes(), scales.bytes(), decode.f32s(), w.rows, w.cols)
    }

    /// Launches every kernel that could take a product, also those that the planner keeps for larger ones.
    fn every_form(&mut self, weights: &Prepared) -> Result<(), String> {
        for i in (0..regular::PRODUCT_CALLS).filter(|i| regular::is_plain(*i)) {
            self.arenas[0].clear(POISONS[0]);
            let mut call = regular::product(i, weights, &mut self.arenas[0]);
            for word in call.words.iter_mut().filter(|word| **word == weights.handles[CPU] as u64) {
                *word = weights.handles[DEVICE] as u64;
            }
            let library = &self.libraries[DEVICE];
            let mut found =
                nvfp4_tune_result { struct_size: size_of::<nvfp4_tune_result>(), ..Default::default() };
            // SAFETY: a legal call on memory that lives through it.
            unsafe {
                library.with_staged(&call.words, |words| {
                    let args = nvfp4_tune_args {
                        struct_size: size_of::<nvfp4_tune_args>(),
                        operation: NVFP4_OPERATION_GROUPED_GEMM,
                        repeats: 1,
                        args: words.cast(),
                    };
                    nvfp4_tune(library.context, &args, library.stream, &mut found)
                })?;
                // What was measured here is nobody's choice.
                let mut choices = 0;
                check(nvfp4_tuning_load(library.context, std::ptr::null(), &mut choices))?;
            }
        }
        Ok(())
    }

    /// Runs on one of the two; `words` with the CPU's handle of the weights.
    fn run(
        &mut self,
        which: usize,
        call: &Call,
        weights: &Prepared,
        product: Option<&str>,
    ) -> Result<(), String> {
        let mut call = Call { words: call.words.clone(), run: call.run };
        for word in call.words.iter_mut().filter(|_| !weights.handles.is_empty()) {
            if *word == weights.handles[CPU] as u64 {
                *word = weights.handles[which] as u64;
            }
        }
        if let Some(name) = product {
            set_workspace(name, &self.libraries[which], &mut call, &mut self.workspace);
        }
        let library = &self.libraries[which];
        library.take_faults();
        // SAFETY: a legal call.
        unsafe { library.with_staged(&call.words, |words| (call.run)(library, words)) }
    }

    fn compare(
        &mut self,
        name: &str,
        call: &Call,
        poison: usize,
        weights: &Prepared,
        canonical: &Canonical,
    ) -> Result<(), String> {
        let used = self.arenas[poison].next + 64;
        self.arenas[poison].memory.stage_only(used);
        let before = self.arenas[poison].memory.bytes()[..used].to_vec();
        let product = PRODUCT_NAMES.contains(&name).then_some(name);
        let mut after = [Vec::new(), Vec::new()];
        let mut faults = [(0, 0); 2];
        for which in [CPU, DEVICE] {
            self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
            self.run(which, call, weights, product)?;
            faults[which] = self.libraries[which].take_faults();
            self.arenas[poison].memory.guards(name)?;
            after[which] = self.arenas[poison].memory.bytes()[..used].to_vec();
        }
        if product.is_none() {
            self.elements += used as u64;
            same(&self.arenas[poison], &after[DEVICE], &after[CPU])?;
            return expect_faults(faults[DEVICE], faults[CPU]);
        }
        if name == "grouped_linear" {
            expect_faults(faults[DEVICE], faults[CPU])?;
            // SAFETY: the words of these arguments.
            let args = unsafe { call.words.as_ptr().cast::<nvfp4_grouped_linear_args>().read() };
            self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
            let args = self.as_product(&args, canonical)?;
            return self.values(&args, canonical, poison, &before, &after[DEVICE]);
        }
        // SAFETY: the words of these arguments.
        let args = unsafe { call.words.as_ptr().cast::<nvfp4_grouped_gemm_args>().read() };
        if args.out_dtype != NVFP4_DTYPE_NVFP4 {
            expect_faults(faults[DEVICE], faults[CPU])?;
            return self.values(&args, canonical, poison, &before, &after[DEVICE]);
        }
        // Codes are what the CPU makes of the device's own product in bf16.
        self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
        let cols = canonical.rows / if weights.gate_up { 2 } else { 1 };
        let group = if args.groups.grouping == NVFP4_GROUPING_STRIDED {
            args.groups.max_tokens as usize * cols
        } else {
            0
        };
        let bytes = args.rows as usize * cols * 2;
        self.scratch.bytes_mut()[..bytes].fill(POISONS[poison]);
        self.scratch.stage_only(bytes);
        let plain = nvfp4_grouped_gemm_args {
            out: self.scratch.ptr_mut(),
            out_dtype: NVFP4_DTYPE_BF16,
            out_group_stride: group as i64,
            out_quantized: Default::default(),
            ..args
        };
        self.run(DEVICE, &words_of(&plain, call), weights, product)?;
        self.values(&plain, canonical, poison, &[], &[])?;
        let quantize = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: self.scratch.ptr(),
            src_group_stride: group as i64,
            rows: args.rows,
            cols: cols as i64,
            groups: args.groups,
            out: args.out_quantized,
            ..Default::default()
        };
        self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
        self.libraries[CPU].take_faults();
        self.libraries[CPU].call(nvfp4_quantize, &quantize)?;
        let want = self.arenas[poison].memory.bytes()[..used].to_vec();
        same(&self.arenas[poison], &after[DEVICE], &want)?;
        expect_faults(faults[DEVICE], self.libraries[CPU].take_faults())
    }

    /// Behind `compare`: what must not depend on the batch gives the first rows the same bits without the others.
    fn fewer_rows(&mut self, call: &Call, poison: usize, weights: &Prepared) -> Result<(), String> {
        // SAFETY: the words of these arguments.
        let args = unsafe { call.words.as_ptr().cast::<nvfp4_grouped_gemm_args>().read() };
        let cut = [NVFP4_GROUPING_NONE, NVFP4_GROUPING_ENDS].contains(&args.groups.grouping) && args.rows > 1;
        if args.flags & NVFP4_GEMM_BATCH_INVARIANT == 0 || args.out_dtype == NVFP4_DTYPE_NVFP4 || !cut {
            return Ok(());
        }
        let used = self.arenas[poison].next + 64;
        let all = self.arenas[poison].memory.bytes()[..used].to_vec();
        let rows = 1 + (args.rows - 1) % 13.min(args.rows - 1);
        let fewer = nvfp4_grouped_gemm_args { rows, ..args };
        self.run(DEVICE, &words_of(&fewer, call), weights, Some("grouped_gemm"))?;
        let after = &self.arenas[poison].memory.bytes()[..used];
        same(&self.arenas[poison], after, &all)
            .map_err(|e| format!("{rows} of {} rows alone: {e}", args.rows))
    }

    /// The product that a grouped linear layer consists of; where it quantizes first, of what the CPU makes of its input.
    fn as_product(
        &mut self,
        args: &nvfp4_grouped_linear_args,
        canonical: &Canonical,
    ) -> Result<nvfp4_grouped_gemm_args, String> {
        let (tokens, count, k) = (args.tokens as usize, canonical.decode.len(), canonical.cols);
        let n = canonical.rows / if args.activation == NVFP4_ACTIVATION_SWIGLU { 2 } else { 1 };
        let groups = nvfp4_groups {
            grouping: NVFP4_GROUPING_STRIDED,
            count: count as u32,
            max_tokens: args.tokens,
            ..Default::default()
        };
        let mut product = nvfp4_grouped_gemm_args {
            struct_size: size_of::<nvfp4_grouped_gemm_args>(),
            rows: (tokens * count) as i64,
            groups,
            a: args.a,
            a_dtype: args.a_dtype,
            a_row_stride: (count * k) as i64,
            a_group_stride: k as i64,
            activation: args.activation,
            out: args.out,
            out_dtype: args.out_dtype,
            out_row_stride: (count * n) as i64,
            out_group_stride: n as i64,
            ..Default::default()
        };
        if args.quantize == 0 {
            return Ok(product);
        }
        let (rows, base) = (tokens * count, self.scratch.ptr_mut::<u8>());
        let at = |bytes: usize| base.wrapping_add(bytes.next_multiple_of(64));
        let (codes, scales) = (base, at(rows * k / 2));
        let decode = at(rows * k / 2 + rows * k / 16 + 64).cast::<f32>();
        let given = args.static_decode_scales;
        let quantize = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: args.a,
            src_dtype: args.a_dtype,
            src_row_stride: product.a_row_stride,
            src_group_stride: product.a_group_stride,
            rows: product.rows,
            cols: k as i64,
            groups,
            out: nvfp4_quantized {
                codes,
                scales,
                scope: args.scope,
                scale_rule: args.scale_rule,
                decode_scales: if given.is_null() { decode } else { std::ptr::null_mut() },
                static_decode_scales: given,
                ..Default::default()
            },
            ..Default::default()
        };
        self.libraries[CPU].call(nvfp4_quantize, &quantize)?;
        product.a_dtype = NVFP4_DTYPE_NVFP4;
        product.a_row_stride = 0;
        product.a_group_stride = (tokens * k / 2) as i64;
        product.a_quantized = nvfp4_quantized_input {
            codes,
            scales,
            scope: args.scope,
            decode_scales: if given.is_null() { decode } else { given },
            ..Default::default()
        };
        Ok(product)
    }

    /// Values of a product in the arena, or, where `after` is empty, in the scratch memory.
    fn values(
        &mut self,
        args: &nvfp4_grouped_gemm_args,
        canonical: &Canonical,
        poison: usize,
        before: &[u8],
        after: &[u8],
    ) -> Result<(), String> {
        let product = Product { args, weights: canonical };
        let cols =
            if args.activation == NVFP4_ACTIVATION_SWIGLU { canonical.rows / 2 } else { canonical.rows };
        let accumulate = args.flags & NVFP4_GEMM_ACCUMULATE != 0;
        let bytes = element(args);
        let scratch = after.is_empty();
        let (got, base) = match scratch {
            true => (self.scratch.bytes(), 0),
            false => (after, args.out as usize - self.arenas[poison].memory.ptr::<u8>() as usize),
        };
        let mut written = vec![false; before.len()];
        for span in spans(&args.groups, args.rows as usize, tile(args)) {
            for r in 0..span.rows {
                let at = out_at(args, &span, r, cols);
                // SAFETY: inside the memory of the call.
                let value = |of: &[u8], i| unsafe { load(of[base..].as_ptr(), args.out_dtype, at + i) };
                let old = |i| if accumulate { value(before, i) } else { 0.0 };
                for (i, want) in product.row(&span, r, old).iter().enumerate() {
                    let have = value(got, i);
                    if !want.accepts(have) {
                        return Err(format!(
                            "group {} row {r} of {} column {i}: {have:e} instead of {want}; K = {}, dtype {} to {}, activation {}",
                            span.group,
                            span.rows,
                            canonical.cols,
                            args.a_dtype,
                            args.out_dtype,
                            args.activation
                        ));
                    }
                    self.elements += 1;
                    // An old output that is added may be larger than the product, and so its rounding.
                    let plain = args.activation == NVFP4_ACTIVATION_NONE && !accumulate;
                    if plain && args.out_dtype == NVFP4_DTYPE_F32 {
                        self.worst = self.worst.max(want.share(have));
                    }
                }
                if !scratch {
                    written[base + at * bytes..][..cols * bytes].fill(true);
                }
            }
        }
        let stray = (0..before.len()).find(|&i| !written[i] && before[i] != after[i]);
        stray.map_or(Ok(()), |i| Err(format!("byte {i} outside the rows was written")))
    }
}

fn tile(args: &nvfp4_grouped_gemm_args) -> usize {
    let codes = args.a_dtype == NVFP4_DTYPE_NVFP4;
    if codes { [1, 128, 8][args.a_quantized.scale_layout as usize] } else { 1 }
}

fn words_of(args: &nvfp4_grouped_gemm_args, like: &Call) -> Call {
    // SAFETY: a struct of whole words without padding.
    let words = unsafe {
        std::slice::from_raw_parts((args as *const nvfp4_grouped_gemm_args).cast::<u64>(), like.words.len())
    };
    Call { words: words.to_vec(), run: like.run }
}

fn same(arena: &Arena, got: &[u8], want: &[u8]) -> Result<(), String> {
    match got.iter().zip(want).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => {
            let wrong = got.iter().zip(want).filter(|(a, b)| a != b).count();
            let kind = ["input", "output", "gap", "updated"][arena.role[i] as usize];
            Err(format!("byte {i} ({kind}) is {:#04x}, on the CPU {:#04x}; {wrong} differ", got[i], want[i]))
        }
    }
}

fn expect_faults(got: (u32, i64), want: (u32, i64)) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("faults {got:?}, on the CPU {want:?}")) }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn a_device_agrees_with_the_cpu() {
    let asked = crate::support::device::asked().is_some();
    if let Some(Err(reason)) = Library::on_device() {
        println!("skipped: {reason}");
        return;
    }
    let (first, seeds) = (number("NVFP4_RANDOM_SEED", 0), number("NVFP4_RANDOM_CALLS", 60));
    let products = number("NVFP4_RANDOM_PRODUCTS", if asked { 0 } else { 4 });
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get().min(16)) as u64;
    let threads = if asked { number("NVFP4_TEST_THREADS", cores) } else { 1 };
    // Regular calls first: the products take longest.
    // Every so many of the calls of rows; the number is to have no factor in common with what `regular` counts by.
    let step = number("NVFP4_TEST_STEP", if asked { 1 } else { 41 }) as usize;
    let sets = (LAYER_CALLS..REGULAR).rev().take(if asked { REGULAR } else { 1 });
    let regular: Vec<usize> = sets
        .chain(regular::ROW_CALLS..LAYER_CALLS)
        .chain((0..regular::ROW_CALLS).filter(|&i| i % step == 0 || asked && regular::per_row(i)))
        .filter(|_| only().is_none())
        .collect();
    let most = number("NVFP4_TEST_FAILURES", 20) as usize;
    let next = AtomicU64::new(0);
    let (problems, totals) = (Mutex::new(Vec::new()), Mutex::new((0u64, 0u64, 0f64)));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let device = if asked { Library::on_device().unwrap().unwrap() } else { Library::staged() };
                let mut bench = Bench::new(device);
                let mut calls = 0;
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= regular.len() as u64 + seeds + products
                        || problems.lock().unwrap().len() > most
                    {
                        break;
                    }
                    let found = match regular.get(turn as usize) {
                        Some(&number) => {
                            calls += if number < LAYER_CALLS { 1 } else { regular::PRODUCT_CALLS as u64 };
                            bench.regular(number)
                        }
                        None => {
                            let turn = turn - regular.len() as u64;
                            match turn.checked_sub(products) {
                                None => {
                                    calls += spread::CALLS as u64;
                                    bench.products(first + turn)
                                }
                                Some(turn) => {
                                    calls += operations().count() as u64;
                                    bench.seed(first + turn)
                                }
                            }
                        }
                    };
                    problems.lock().unwrap().extend(found);
                }
                let mut totals = totals.lock().unwrap();
                *totals = (totals.0 + calls, totals.1 + bench.elements, totals.2.max(bench.worst));
            });
        }
    });
    let (problems, (calls, elements, worst)) = (problems.into_inner().unwrap(), totals.into_inner().unwrap());
    println!(
        "{calls} problems, {elements} bytes and elements compared, {} failed; f32 products at worst {worst:.1e} of the bound; seeds {first} to {}",
        problems.len(),
        first + seeds.max(products).max(1) - 1
    );
    for problem in &problems {
        println!("FAILED {problem}");
    }
    assert!(problems.is_empty());
}

/// A reference that accepts anything would agree with everything.
#[test]
fn the_reference_refuses_a_wrong_element() {
    let mut bench = Bench::new(Library::staged());
    let mut refused = 0;
    for seed in 0..60 {
        let weights = prepare(&mut Rng::new(seed ^ 0x77), &bench.libraries, &mut bench.storage);
        let mut canonical = bench.canonical(&weights);
        canonical.values.iter_mut().for_each(|v| *v = *v * 1.5 + 1.0);
        bench.arenas[0].clear(POISONS[0]);
        let call =
            crate::products::gemm(&mut Rng::new(seed * 31 + 5), &mut bench.arenas[0], &weights).unwrap();
        refused += bench.compare("grouped_gemm", &call, 0, &weights, &canonical).is_err() as u32;
        for handle in weights.handles {
            // SAFETY: a live handle.
            check(unsafe { nvfp4_weights_destroy(handle) }).unwrap();
        }
    }
    assert!(refused >= 15, "{refused} of 60");
}
