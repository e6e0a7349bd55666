//! The same calls on a GPU that is none: the library's CUDA backend over the mock driver, its kernels on the CPU emulator.
//! The device is not a Hopper, so products are the portable ones: those of `gemm_sm90_*.cu` need a GPU.

use std::collections::BTreeSet;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, OnceLock};

use nvfp4::backend::cuda::KERNELS;

use crate::bench::Bench;
use crate::device::{CHOICES, LAYER_CALLS, REGULAR, SHORT_PRODUCTS};
use crate::emulator::Emulator;
use crate::mock::mock;
use crate::regular::ROW_CALLS;
use crate::support::Library;

static EMULATOR: OnceLock<Emulator> = OnceLock::new();
static LAUNCHED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

unsafe extern "C" fn emulate(
    name: *const c_char,
    grid: *const [u32; 3],
    threads: u32,
    parameters: *const c_void,
) {
    // SAFETY: the mock's name, zero-terminated.
    let name = unsafe { CStr::from_ptr(name) }.to_str().expect("ASCII");
    let (run, _) =
        EMULATOR.get().and_then(|e| e.kernel(name)).unwrap_or_else(|| panic!("{name} is not emulated"));
    LAUNCHED.lock().unwrap().insert(name.into());
    // SAFETY: the launch that the library asked for; the mock's device memory is the host's.
    unsafe { run(grid, threads, parameters) };
}

#[test]
fn an_emulated_device_agrees_with_the_cpu() {
    if crate::support::device::asked().is_some() {
        return; // this process is about another driver
    }
    let (_turn, driver) = mock();
    let emulator = EMULATOR.get_or_init(Emulator::build);
    let names: Vec<&str> = KERNELS.iter().copied().flatten().map(|kernel| kernel.name).collect();
    for name in &names {
        if let Some((_, bytes)) = emulator.kernel(name) {
            driver.set_parameter_bytes(name, bytes as usize);
        }
    }
    driver.set_capability(8, 0);
    driver.emulate(emulate);
    let mut bench = Bench::new(Library::on_gpu().unwrap());
    (bench.short, bench.step) = (true, 11);
    let mut problems = Vec::new();
    for which in (ROW_CALLS..LAYER_CALLS).chain(SHORT_PRODUCTS).chain(CHOICES..REGULAR) {
        problems.extend(bench.regular(which));
    }
    for seed in 0..8 {
        problems.extend(bench.seed(seed));
    }
    assert!(problems.is_empty(), "{problems:#?}");
    let launched = LAUNCHED.lock().unwrap();
    // Only a layer on Hopper rounds between its products (tests/moe_kernels.rs launches that), and only Hopper's products leave
    // static codes to a pass behind them.
    const HOPPER: [&str; 2] = ["nvfp4_moe_round_bf16", "nvfp4_flat_bf16"];
    let emulated = |name: &&str| !HOPPER.contains(name) && emulator.kernel(name).is_some();
    let never: Vec<&str> =
        names.into_iter().filter(emulated).filter(|name| !launched.contains(*name)).collect();
    assert!(never.is_empty(), "never launched: {never:?}");
}
