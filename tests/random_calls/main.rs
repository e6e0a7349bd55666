//! Random small calls of every operation, legal ones and torn ones.
//!
//! A legal call gives the same bytes on every instruction set, on one thread and on several; what it writes does not
//! depend on what was there before; inputs and the gaps between the operands stay as they are. A torn call, with one word
//! of its arguments replaced, is accepted or refused, but is never INTERNAL: it goes to a capturing stream, which checks
//! it in full and carries nothing out. `device.rs` makes the legal calls on a GPU.

mod arena;
mod bench;
mod choices;
mod device;
#[cfg(all(feature = "cuda", target_arch = "x86_64", target_os = "linux"))]
mod emulated;
#[cfg(all(feature = "cuda", target_arch = "x86_64", target_os = "linux"))]
#[path = "../emulator/mod.rs"]
mod emulator;
mod environment;
#[cfg(all(feature = "cuda", target_arch = "x86_64", target_os = "linux"))]
#[path = "../mock_cuda/mock.rs"]
mod mock;
mod moe;
mod prepared;
mod products;
mod reference;
mod regular;
mod regular_forms;
mod regular_moe;
mod rows;
mod spread;
#[path = "../support/mod.rs"]
mod support;

use std::ptr::null_mut;

use arena::*;
use nvfp4::api::context::*;
use nvfp4::api::weights::*;
use nvfp4::error::NVFP4_STATUS_INTERNAL;
use nvfp4::ffi::*;
use prepared::Prepared;
use products::{export, gemm};
use rows::*;
use support::{Library, Memory, check};

/// Calls of each operation; NVFP4_RANDOM_CALLS asks for more.
fn rounds() -> u64 {
    std::env::var("NVFP4_RANDOM_CALLS").ok().and_then(|n| n.parse().ok()).unwrap_or(150)
}

/// A call: its arguments as words, and the function that takes them.
pub struct Call {
    pub words: Vec<u64>,
    pub run: fn(&Library, *const u64) -> i32,
}

macro_rules! call {
    ($name:ident, $args:expr) => {{
        let args = $args;
        let words = size_of_val(&args) / 8;
        // SAFETY: a struct without padding of whole words.
        let words = unsafe { std::slice::from_raw_parts((&raw const args).cast::<u64>(), words) }.to_vec();
        // SAFETY: a call that was made to be legal, or one that is only checked.
        $crate::Call { words, run: |lib, args| unsafe { $name(lib.context, args.cast(), lib.stream) } }
    }};
}
pub(crate) use call;

type Make = fn(&mut Rng, &mut Arena, &Prepared) -> Option<Call>;

const OPERATIONS: &[(&str, Make)] = &[
    ("quantize", quantize),
    ("amax_scale", amax),
    ("dequantize", dequantize),
    ("rmsnorm_quantize", rmsnorm),
    ("hc_rmsnorm_quantize", hyper),
    ("swiglu_quantize", swiglu),
    ("stage_moe_inputs", stage),
    ("tile_scales", tiles),
    ("interleave_gate_up", interleave),
    ("group_ends", group_ends),
    ("weights_export", export),
    ("grouped_gemm", gemm),
    ("moe_route", moe::route),
    ("moe_permute", moe::permute),
    ("moe_combine", moe::combine),
    ("grouped_linear", moe::linear),
];

/// Workspace beside the arena: on a GPU room for the sums of a wave of blocks.
const WORKSPACE: usize = 64 << 20;

/// Prepares the same random weights in every library.
fn prepare(rng: &mut Rng, libraries: &[Library], storage: &mut [Memory]) -> Prepared {
    let gate_up = rng.chance(2);
    let groups = rng.pick(&[0usize, 1, 1, 2, 3]);
    let rows = if gate_up { 2 } else { 1 } * rng.pick(&[1usize, 2, 7, 8, 9, 16, 17, 32, 48, 64]);
    let cols = 16 * rng.pick(&[1usize, 2, 3, 4, 5, 8, 15, 17, 33, 40, 150]);
    let dtype = float(rng);
    let bytes = values(rng, dtype, groups * rows * cols);
    let src = Memory::from(&bytes);
    let transposed = rng.chance(2) as u32;
    let rule = rng.below(3) as u32;
    let args = nvfp4_weights_prepare_args {
        groups: groups as i64,
        rows: rows as i64,
        cols: cols as i64,
        gate_up: gate_up as u32,
        source: NVFP4_WEIGHTS_SOURCE_VALUES,
        src: src.ptr(),
        src_dtype: dtype,
        transposed,
        scale_rule: rule,
        ..Default::default()
    };
    Prepared::in_all(libraries, storage, &args)
}

#[test]
fn legal_calls_agree_and_stay_in_their_bounds() {
    let mut libraries = Library::all(1);
    libraries.extend(Library::new(NVFP4_ISA_BEST, 3));
    let mut storage: Vec<Memory> = libraries.iter().map(|_| Memory::poisoned(1 << 20, 0)).collect();
    let mut workspace = Memory::poisoned(WORKSPACE, 0x5A);
    let mut arenas = [0xA5, 0x5A].map(|poison| (poison, Arena::new(poison)));
    for seed in 0..rounds() {
        let mut weights = prepare(&mut Rng::new(seed ^ 0x77), &libraries, &mut storage);
        for (name, make) in OPERATIONS {
            let mut finals: Vec<Vec<u8>> = Vec::new();
            let mut roles = Vec::new();
            for (poison, arena) in &mut arenas {
                let poison = *poison;
                arena.clear(poison);
                weights.which = 0;
                let mut call =
                    make(&mut Rng::new(seed * 31 + 5).wide(seed % 8 == 7), arena, &weights).unwrap();
                let used = arena.next + 64;
                let before = arena.memory.bytes()[..used].to_vec();
                let mut first: Option<(Vec<u8>, (u32, i64))> = None;
                for (i, library) in libraries.iter().enumerate() {
                    for word in &mut call.words {
                        if *word == weights.handles[0] as u64 && i > 0 {
                            *word = weights.handles[i] as u64;
                        }
                    }
                    set_workspace(name, library, &mut call, &mut workspace);
                    arena.memory.bytes_mut()[..used].copy_from_slice(&before);
                    workspace.bytes_mut()[..1 << 16].fill(poison);
                    let status = (call.run)(library, call.words.as_ptr());
                    check(status).unwrap_or_else(|e| panic!("{name} seed {seed} on {}: {e}", library.name));
                    arena.memory.guards(name).unwrap();
                    let after = arena.memory.bytes()[..used].to_vec();
                    let faults = library.take_faults();
                    for (at, (&b, &a)) in before.iter().zip(&after).enumerate() {
                        let fixed = matches!(arena.role[at], INPUT | GAP);
                        assert!(
                            !fixed || a == b,
                            "{name} seed {seed} on {}: byte {at} changed",
                            library.name
                        );
                    }
                    match &first {
                        None => first = Some((after, faults)),
                        Some((want, want_faults)) => {
                            let wrong = want.iter().zip(&after).position(|(w, a)| w != a);
                            assert!(
                                wrong.is_none() && *want_faults == faults,
                                "{name} seed {seed} on {} {}: byte {wrong:?} (of kind {:?}), faults {faults:?} {want_faults:?}",
                                library.name,
                                i,
                                wrong.map(|w| arena.role[w]),
                            );
                        }
                    }
                    if i + 1 == libraries.len() {
                        finals.push(after_of(&first));
                        roles = arena.role[..used].to_vec();
                    }
                    for word in &mut call.words {
                        if *word == weights.handles[i] as u64 {
                            *word = weights.handles[0] as u64;
                        }
                    }
                }
            }
            for (at, (&a, &b)) in finals[0].iter().zip(&finals[1]).enumerate() {
                let same = a == b || (a, b) == (0xA5, 0x5A);
                assert!(roles[at] == GAP || same, "{name} seed {seed}: byte {at} depends on what was there");
            }
        }
    }
}

/// What the query of an operation says, (bytes, status); none where no operation here needs a workspace.
fn workspace_size(name: &str, library: &Library, call: &Call) -> Option<(usize, i32)> {
    let (mut bytes, args) = (0, call.words.as_ptr());
    // SAFETY: arguments of the operation, of which a query follows no pointer.
    let status = unsafe {
        match name {
            "grouped_gemm" => nvfp4_grouped_gemm_workspace_size(library.context, args.cast(), &mut bytes),
            "grouped_linear" => nvfp4_grouped_linear_workspace_size(library.context, args.cast(), &mut bytes),
            _ => return None,
        }
    };
    Some((bytes, status))
}

fn after_of(first: &Option<(Vec<u8>, (u32, i64))>) -> Vec<u8> {
    first.as_ref().unwrap().0.clone()
}

/// Asks for the workspace of an operation that needs one and hands it in.
fn set_workspace(name: &str, library: &Library, call: &mut Call, workspace: &mut Memory) {
    let Some((bytes, status)) = workspace_size(name, library, call) else { return };
    check(status).unwrap();
    assert!(bytes <= WORKSPACE, "{bytes}");
    // The last two fields.
    let at = call.words.len() - 2;
    call.words[at] = workspace.ptr_mut::<u8>() as u64;
    call.words[at + 1] = bytes as u64;
}

#[test]
fn torn_calls_are_never_an_internal_fault() {
    let library = [Library::new(NVFP4_ISA_BEST, 2).unwrap()];
    let mut storage = [Memory::poisoned(1 << 20, 0)];
    let mut workspace = Memory::poisoned(WORKSPACE, 0);
    let mut arena = Arena::new(0xA5);
    let odd = [
        0u64,
        1,
        2,
        3,
        8,
        15,
        16,
        17,
        64,
        u64::MAX,
        i64::MAX as u64,
        i64::MAX as u64 & !15,
        i64::MIN as u64,
        1 << 62,
        1 << 61,
        1 << 60,
        1 << 47,
        1 << 46,
        1 << 32,
        u32::MAX as u64,
        0x7FFF_FFFF,
        1 << 31,
        0xFFFF_0000_0001,
    ];
    let (mut accepted, mut refused) = (0u64, 0u64);
    for seed in 0..rounds() * 4 {
        let mut rng = Rng::new(seed ^ 0x1234);
        let weights = prepare(&mut rng, &library, &mut storage);
        for (name, make) in OPERATIONS {
            arena.clear(0xA5);
            let mut call = make(&mut Rng::new(seed * 7 + 3), &mut arena, &weights).unwrap();
            set_workspace(name, &library[0], &mut call, &mut workspace);
            // SAFETY: valid handles; captured calls are checked and not carried out.
            unsafe {
                check(nvfp4_graph_begin_capture(library[0].stream, 0)).unwrap();
                for _ in 0..60 {
                    let mut torn = Call { words: call.words.clone(), run: call.run };
                    for _ in 0..1 + rng.below(3) {
                        let at = 1 + rng.below(torn.words.len() as u64 - 1) as usize;
                        torn.words[at] = match rng.below(4) {
                            0 => torn.words[at].wrapping_add(rng.below(40)).wrapping_sub(20),
                            1 => torn.words[at] ^ 1 << rng.below(64),
                            _ => rng.pick(&odd),
                        };
                    }
                    let status = (torn.run)(&library[0], torn.words.as_ptr());
                    match check(status) {
                        Ok(()) => accepted += 1,
                        Err(e) => {
                            refused += 1;
                            assert!(
                                status != NVFP4_STATUS_INTERNAL,
                                "{name} seed {seed}: {e} {:?}",
                                torn.words
                            );
                        }
                    }
                    if let Some((_, status)) = workspace_size(name, &library[0], &torn) {
                        let what = check(status).err();
                        assert!(
                            status != NVFP4_STATUS_INTERNAL,
                            "{name} seed {seed}: {what:?} {:?}",
                            torn.words
                        );
                    }
                }
                let mut graph = null_mut();
                check(nvfp4_graph_end_capture(library[0].stream, &mut graph)).unwrap();
                check(nvfp4_graph_destroy(graph)).unwrap();
            }
        }
    }
    assert!(accepted > 0 && refused > accepted / 4, "{accepted} accepted, {refused} refused");
}
