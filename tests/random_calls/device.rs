//! The same random calls on a device and on the CPU: every byte alike, products within the contract's bound.
//!
//! NVFP4_TEST_DEVICE=cuda runs them on GPU 0, from as many threads as there are cores; without it they take the way of
//! device memory on the CPU, a few of them. NVFP4_RANDOM_CALLS is the number of seeds, each of which calls every operation,
//! with both poisons; NVFP4_RANDOM_SEED the first one; NVFP4_RANDOM_ONLY=grouped_gemm takes that operation of every seed and
//! no regular call; NVFP4_RANDOM_PRODUCTS is the number of sets of weights with eight products each. NVFP4_TEST_THREADS sets
//! the threads, NVFP4_TEST_SHORT=1 looks less closely, NVFP4_TEST_STEP and NVFP4_TEST_PRODUCT_STEP leave regular calls out,
//! NVFP4_TEST_CORPUS lists the kinds of calls to make (`rows`, `forms`, `moe`, `products`, `long`, `choices`,
//! `seeds`), NVFP4_TEST_TRACE=1 prints each and its time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::arena::*;
use crate::bench::*;
use crate::environment::*;
use crate::reference::*;
use crate::support::Library;
use crate::{OPERATIONS, Prepared, prepare};
use crate::{products, regular, regular_forms, regular_moe, spread};

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

/// Products of the same weights, four a seed: they have the most forms.
const PRODUCTS: usize = 4;
/// Regular calls of rows, of a mixture of experts, of each form of kernel, then sets of weights with all their products, then
/// the first of them with every choice for a few.
pub const REGULAR: usize = CHOICES + regular::SHORT_SETS;
pub const CHOICES: usize = LAYER_CALLS + regular::WEIGHT_SETS;
pub const LAYER_CALLS: usize = FORMS + regular_forms::CALLS;
const FORMS: usize = regular::ROW_CALLS + regular_moe::CALLS;
/// Products of short sums.
pub const SHORT_PRODUCTS: std::ops::Range<usize> = LAYER_CALLS..LAYER_CALLS + regular::SHORT_SETS;

impl Bench {
    /// All operations of a seed; what was wrong.
    pub fn seed(&mut self, seed: u64) -> Vec<String> {
        let mut weights = prepare(&mut Rng::new(seed ^ 0x77), &self.libraries, &mut self.storage);
        let canonical = self.canonical(&weights);
        let mut problems = Vec::new();
        for (i, (name, make)) in operations() {
            self.calls += 1;
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
        problems
    }

    /// Products of one set of weights; what was wrong.
    fn products(&mut self, seed: u64) -> Vec<String> {
        let weights = spread::weights(&mut Rng::new(seed * 31 + 7), &self.libraries, &mut self.storage);
        let canonical = self.canonical(&weights);
        let mut problems = Vec::new();
        for i in 0..spread::CALLS as u64 {
            self.calls += 1;
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
        problems
    }

    /// A call of `regular`: a number below [`REGULAR`].
    pub fn regular(&mut self, which: usize) -> Vec<String> {
        let mut problems = Vec::new();
        let none = Prepared::none();
        let empty = Canonical::new(&[], &[], Vec::new(), 0, 0);
        if which < LAYER_CALLS {
            self.calls += 1;
            for (poison, byte) in POISONS.into_iter().enumerate().take(if self.short { 1 } else { 2 }) {
                self.arenas[poison].clear(byte);
                let arena = &mut self.arenas[poison];
                let (name, call) = match which {
                    FORMS.. => regular_forms::call(which - FORMS, arena),
                    regular::ROW_CALLS.. => regular_moe::call(which - regular::ROW_CALLS, arena),
                    _ => regular::rows(which, self.short, arena),
                };
                if let Err(problem) = self.compare(name, &call, poison, &none, &empty) {
                    problems.push(format!("{name}, regular call {which}: {problem}"));
                    break;
                }
            }
            return problems;
        }
        // The products of one set of weights.
        let set = (which - LAYER_CALLS) % regular::WEIGHT_SETS;
        let weights = regular::weights(set, &self.libraries, &mut self.storage);
        let canonical = self.canonical(&weights);
        if which >= CHOICES {
            problems = self.every_choice(&weights, &canonical);
        }
        for i in 0..if which == CHOICES { regular::LINEAR_CALLS } else { 0 } {
            self.calls += 1;
            let _traced = Traced::begin(|| format!("linear layer {i}"));
            self.arenas[0].clear(POISONS[0]);
            let call = regular::linear(i, &weights, &mut self.arenas[0]);
            if let Err(problem) = self.compare("grouped_linear", &call, 0, &weights, &canonical) {
                problems.push(format!("grouped_linear, regular call {i}: {problem}"));
            }
        }
        // The long rows look at longer sums.
        let step = if self.short && canonical.cols > 256 { 5 * self.step } else { self.step };
        let calls = if which < CHOICES { regular::PRODUCT_CALLS } else { 0 };
        for i in (0..calls).step_by(step) {
            self.calls += 1;
            let _traced = Traced::begin(|| format!("product {i} of weights {set}"));
            let poison = i % POISONS.len();
            self.arenas[poison].clear(POISONS[poison]);
            let call = regular::product(i, &weights, &mut self.arenas[poison]);
            if let Err(problem) = self.compare("grouped_gemm", &call, poison, &weights, &canonical) {
                problems.push(format!("grouped_gemm {i} of regular weights {set}: {problem}"));
            }
        }
        problems
    }
}

/// What NVFP4_TEST_CORPUS calls a regular call or a set of products.
fn kind(which: usize) -> &'static str {
    match which {
        CHOICES.. => "choices",
        LAYER_CALLS.. if SHORT_PRODUCTS.contains(&which) => "products",
        LAYER_CALLS.. => "long",
        FORMS.. => "forms",
        regular::ROW_CALLS.. => "moe",
        _ => "rows",
    }
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
    let sets = (LAYER_CALLS..REGULAR).rev().filter(|&which| asked || which == CHOICES - 1);
    let regular: Vec<usize> = sets
        .chain(regular::ROW_CALLS..LAYER_CALLS)
        .chain((0..regular::ROW_CALLS).filter(|&i| i % step == 0 || asked && regular::per_row(i)))
        .filter(|&which| only().is_none() && wanted(kind(which)))
        .collect();
    let seeds = if wanted("seeds") { seeds } else { 0 };
    let most = number("NVFP4_TEST_FAILURES", 20) as usize;
    let next = AtomicU64::new(0);
    let (problems, totals) = (Mutex::new(Vec::new()), Mutex::new((0u64, 0u64, 0f64)));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let device = if asked { Library::on_device().unwrap().unwrap() } else { Library::staged() };
                let mut bench = Bench::new(device);
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= regular.len() as u64 + seeds + products
                        || problems.lock().unwrap().len() > most
                    {
                        break;
                    }
                    let which = regular.get(turn as usize);
                    let kind = which.map_or("seeds", |&which| kind(which));
                    let traced = Traced::begin(|| format!("turn {turn}, {kind}"));
                    let found = match which {
                        Some(&number) => bench.regular(number),
                        None => {
                            let turn = turn - regular.len() as u64;
                            match turn.checked_sub(products) {
                                None => bench.products(first + turn),
                                Some(turn) => bench.seed(first + turn),
                            }
                        }
                    };
                    drop(traced);
                    problems.lock().unwrap().extend(found);
                }
                let mut totals = totals.lock().unwrap();
                *totals = (totals.0 + bench.calls, totals.1 + bench.elements, totals.2.max(bench.worst));
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
    }
    assert!(refused >= 15, "{refused} of 60");
}
