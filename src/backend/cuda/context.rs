//! A GPU in use: its CUDA context, what is known of it, its fault word, pool and kernels.
//!
//! The primary context of a device is retained, never reset; or the caller's current context is adopted and stays the
//! caller's. It is made current around driver calls and the one that was current before is put back. An error after
//! which the context cannot work is latched: later calls are refused before they reach the driver.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::driver::*;
use super::fault::Fault;
use super::launch::Queue;
use super::module::Modules;
use super::pool::Pool;
use super::stream::Captures;
use super::tune::Tunings;
use crate::backend::Work;
use crate::error::{Error, NVFP4_STATUS_CAPTURE, NVFP4_STATUS_DEVICE_POISONED, Result};

/// What planners and kernels need to know of a device.
#[derive(Clone, Copy, Debug)]
pub struct DeviceFacts {
    pub sm_count: u32,
    pub compute_capability: (u32, u32),
    pub shared_per_block_optin: u32,
    pub l2_bytes: usize,
    /// Device address of the fault record: `fault.rs`.
    pub fault: u64,
}

#[cfg(test)]
impl DeviceFacts {
    /// What tests of planners plan for.
    pub const H200: DeviceFacts = DeviceFacts {
        sm_count: 132,
        compute_capability: (9, 0),
        shared_per_block_optin: 227 << 10,
        l2_bytes: 60 << 20,
        fault: 64,
    };
}

/// What can be told of a device without a context on it.
pub struct Description {
    pub count: u32,
    pub name: String,
    pub compute_capability: (u32, u32),
}

/// Oldest architecture that the kernels are written for: Ampere.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

pub struct Device {
    pub(super) driver: &'static Driver,
    context: Held,
    count: u32,
    pub facts: DeviceFacts,
    name: String,
    fault: Fault,
    pub(super) pool: Pool,
    pub(super) modules: Modules,
    pub(super) captures: Captures,
    pub(super) tuning: Tunings,
    /// The process that made it: what the driver holds is not the child's of a fork.
    process: u32,
    /// The error that made the context unusable.
    poisoned: OnceLock<String>,
}

/// The CUDA context and how it is held.
struct Held {
    context: CUcontext,
    device: CUdevice,
    /// The primary context, retained by us; otherwise the host's.
    retained: bool,
}

/// The build's choice, in a message that says what to do.
pub fn check_built_in() -> Result<()> {
    if cfg!(feature = "cuda") {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: "the CUDA backend in this build".into(),
        next: "build with the cargo feature `cuda`, or use NVFP4_BACKEND_CPU",
    })
}

/// What is known of device `ordinal`; creates no context.
pub fn describe(ordinal: u32) -> Result<Description> {
    check_built_in()?;
    let driver = Driver::get()?;
    let (device, count) = find(driver, ordinal)?;
    let compute_capability = check_capability(driver, device)?;
    Ok(Description { count, name: device_name(driver, device)?, compute_capability })
}

/// Why no device can be used, in the few words that nvfp4_backend_info has room for.
pub fn why_missing(error: &Error) -> &'static str {
    match error {
        Error::Unsupported { .. } => "this build has no CUDA (cargo feature `cuda`)",
        Error::Driver { .. } => "no GPU driver of R580 (CUDA 13.0) or newer",
        Error::Device { .. } => "no such GPU of compute capability 8.0 or newer",
        Error::ForkedDriver { .. } => "the GPU driver does not work after a fork",
        _ => "the GPU driver reports an error",
    }
}

fn find(driver: &Driver, ordinal: u32) -> Result<(CUdevice, u32)> {
    let (mut count, mut device) = (0, 0);
    // SAFETY: valid pointers.
    unsafe {
        driver.cuDeviceGetCount(&mut count)?;
        if ordinal as i64 >= count as i64 {
            let what = match count {
                0 => "the GPU driver sees no device; check CUDA_VISIBLE_DEVICES".into(),
                _ => format!("device {ordinal} does not exist; the GPU driver sees 0 to {}", count - 1),
            };
            return Err(Error::Device { what });
        }
        driver.cuDeviceGet(&mut device, ordinal as i32)?;
    }
    Ok((device, count as u32))
}

fn device_name(driver: &Driver, device: CUdevice) -> Result<String> {
    let mut name = [0; 128];
    // SAFETY: valid for its length.
    unsafe { driver.cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device)? };
    let bytes: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn attribute(driver: &Driver, device: CUdevice, attribute: i32) -> Result<u32> {
    let mut value = 0;
    // SAFETY: a valid pointer.
    unsafe { driver.cuDeviceGetAttribute(&mut value, attribute, device)? };
    Ok(value as u32)
}

fn capability(driver: &Driver, device: CUdevice) -> Result<(u32, u32)> {
    Ok((
        attribute(driver, device, ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(driver, device, ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

impl Held {
    fn primary(driver: &Driver, device: CUdevice) -> Result<Held> {
        let mut context = CUcontext::NULL;
        // SAFETY: a valid pointer.
        unsafe { driver.cuDevicePrimaryCtxRetain(&mut context, device)? };
        Ok(Held { context, device, retained: true })
    }

    /// The caller's current context. Where that is a primary context we retain it too.
    fn adopt(driver: &Driver) -> Result<Held> {
        let (mut context, mut device) = (CUcontext::NULL, 0);
        // SAFETY: valid pointers.
        unsafe {
            driver.cuCtxGetCurrent(&mut context)?;
            if context.is_null() {
                return Err(Error::Conflict {
                    argument: "options.flags",
                    problem:
                        "NVFP4_CONTEXT_ADOPT_CURRENT needs a CUDA context that is current on this thread; make one current or clear the flag"
                            .into(),
                });
            }
            driver.cuCtxGetDevice(&mut device)?;
            let (mut flags, mut active) = (0, 0);
            driver.cuDevicePrimaryCtxGetState(device, &mut flags, &mut active)?;
            if active != 0 {
                let held = Held::primary(driver, device)?;
                if held.context == context {
                    return Ok(held);
                }
                held.release(driver);
            }
        }
        Ok(Held { context, device, retained: false })
    }

    fn release(self, driver: &Driver) {
        if self.retained {
            // SAFETY: retained by us, once. A failure leaves nothing to do.
            let _ = unsafe { driver.cuDevicePrimaryCtxRelease(self.device) };
        }
    }
}

/// The context made current on this thread; puts the old one back.
struct Current<'a> {
    driver: &'a Driver,
    pushed: bool,
}

impl<'a> Current<'a> {
    fn enter(driver: &'a Driver, context: CUcontext) -> Result<Current<'a>> {
        let mut current = CUcontext::NULL;
        // SAFETY: a valid pointer, a live context.
        unsafe {
            driver.cuCtxGetCurrent(&mut current)?;
            let pushed = current != context;
            if pushed {
                driver.cuCtxPushCurrent(context)?;
            }
            Ok(Current { driver, pushed })
        }
    }
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if self.pushed {
            let mut ours = CUcontext::NULL;
            // SAFETY: we pushed it. A failure leaves nothing to do.
            let _ = unsafe { self.driver.cuCtxPopCurrent(&mut ours) };
        }
    }
}

/// This thread's calls do not disturb captures on other streams; puts the host's mode back.
pub(super) struct Undisturbing<'a> {
    driver: &'a Driver,
    mode: u32,
}

impl<'a> Undisturbing<'a> {
    pub(super) fn enter(driver: &'a Driver) -> Result<Undisturbing<'a>> {
        let mut mode = CAPTURE_MODE_RELAXED;
        // SAFETY: a valid pointer.
        unsafe { driver.cuThreadExchangeStreamCaptureMode(&mut mode)? };
        Ok(Undisturbing { driver, mode })
    }
}

impl Drop for Undisturbing<'_> {
    fn drop(&mut self) {
        // SAFETY: a valid pointer to the mode that was set before.
        let _ = unsafe { self.driver.cuThreadExchangeStreamCaptureMode(&mut self.mode) };
    }
}

impl Device {
    /// Takes the primary context of device `ordinal`, or adopts the caller's current one.
    pub fn create(ordinal: u32, adopt: bool) -> Result<Device> {
        check_built_in()?;
        let driver = Driver::get()?;
        let (device, count) = find(driver, if adopt { 0 } else { ordinal })?;
        let held = if adopt {
            Held::adopt(driver)?
        } else {
            check_capability(driver, device)?;
            Held::primary(driver, device)?
        };
        let made = Current::enter(driver, held.context).and_then(|_current| {
            check_capability(driver, held.device)?;
            let _mode = Undisturbing::enter(driver)?;
            Parts::create(driver, held.device)
        });
        match made {
            Ok(Parts { facts, name, fault, pool }) => Ok(Device {
                driver,
                context: held,
                count,
                facts,
                name,
                fault,
                pool,
                modules: Modules::default(),
                captures: Captures::default(),
                tuning: Tunings::default(),
                process: crate::process::id(),
                poisoned: OnceLock::new(),
            }),
            Err(error) => {
                held.release(driver);
                Err(error)
            }
        }
    }

    /// Runs driver calls with the context current. Latches an error that leaves the context unusable.
    #[inline]
    pub(super) fn with<T>(&self, body: impl FnOnce(&'static Driver) -> Result<T>) -> Result<T> {
        self.check_usable()?;
        let result = Current::enter(self.driver, self.context.context).and_then(|_current| body(self.driver));
        if let Err(error) = &result {
            self.latch(error);
        }
        result
    }

    /// As [`with`](Self::with) for giving things back: goes on after failures, also on an unusable context.
    pub(super) fn release(&self, body: impl FnOnce(&'static Driver)) {
        if !self.is_ours() {
            return;
        }
        // Most destroying calls do not need the context to be current, so they are worth a try in any case.
        let _current = Current::enter(self.driver, self.context.context);
        let _mode = Undisturbing::enter(self.driver);
        body(self.driver);
    }

    /// Whether this is the process that made it. In another one the driver must not be called.
    pub fn is_ours(&self) -> bool {
        crate::process::id() == self.process
    }

    /// Refuses to go on after an error that left the context unusable.
    #[inline]
    pub fn check_usable(&self) -> Result<()> {
        match self.poisoned.get() {
            None => Ok(()),
            Some(by) => Err(Error::Poisoned { by: by.clone() }),
        }
    }

    #[cold]
    fn latch(&self, error: &Error) {
        if let Error::Cuda { call, name, .. } = error
            && error.status() == NVFP4_STATUS_DEVICE_POISONED
        {
            let _ = self.poisoned.set(format!("{call} failed with {name}"));
        }
    }

    pub(super) fn context(&self) -> CUcontext {
        self.context.context
    }

    /// Devices that the driver saw when this one was taken.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// (loaded, all): how many kernels.
    pub fn loaded_kernels(&self) -> (usize, usize) {
        self.modules.count()
    }

    /// What has been loaded, for a log.
    pub fn loaded_report(&self) -> String {
        let (loaded, all) = self.modules.count();
        format!("{}: {loaded} of {all} kernels loaded: {}", self.description(), self.modules.report())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// "NVIDIA H200, compute 9.0".
    pub fn description(&self) -> String {
        let (major, minor) = self.facts.compute_capability;
        format!("{}, compute {major}.{minor}", self.name)
    }

    /// (flags, first bad group). Reads host memory, waits for nothing.
    pub fn faults(&self) -> (u32, Option<usize>) {
        let word = self.fault.word().load(Ordering::Relaxed);
        (word as u32, ((word >> 32) as usize).checked_sub(1))
    }

    pub fn clear_faults(&self) -> Result<()> {
        self.with(|driver| {
            let _mode = Undisturbing::enter(driver)?;
            self.fault.clear(driver)
        })
    }

    /// Whether kernels may start before the ones that they depend on have ended.
    pub fn has_dependent_launch(&self) -> bool {
        self.facts.compute_capability >= (9, 0)
    }

    /// Waits for all work of the CUDA context, the host's too.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the context is current.
        self.with(|driver| unsafe { driver.cuCtxSynchronize() })
    }

    /// Loads every kernel.
    pub fn prepare(&self) -> Result<()> {
        self.with(|driver| {
            let _mode = Undisturbing::enter(driver)?;
            self.modules.load_all(driver, &self.facts)
        })
    }

    /// Loads the kernels that a piece of work takes.
    pub fn prepare_for(&self, work: &Work) -> Result<()> {
        self.with(|driver| {
            let _mode = Undisturbing::enter(driver)?;
            let queue = Queue { loads_only: true, ..self.queue(CUstream::NULL) };
            // SAFETY: a queue that only loads looks at no address.
            unsafe {
                match work {
                    Work::Job(job) => self.execute(&queue, job),
                    Work::PrepareWeights(problem) => self.prepare_weights(&queue, problem),
                }
            }
        })
    }

    /// A queue of launches on a stream, for the operations of this backend.
    pub(super) fn queue(&self, stream: CUstream) -> Queue<'_> {
        Queue { facts: &self.facts, device: self, stream, loads_only: false }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Nothing of ours may be in use any more when it is given back. Where the wait is refused (somebody captures
        // on the context), memory and modules are left behind rather than taken away from running work.
        self.release(|driver| {
            // SAFETY: the context is current; nobody else has these handles any more.
            unsafe {
                let waited = driver.cuCtxSynchronize();
                if !waited.is_err_and(|error| error.status() == NVFP4_STATUS_CAPTURE) {
                    self.modules.unload(driver);
                    self.pool.destroy(driver);
                    self.fault.destroy(driver);
                }
            }
        });
        if self.context.retained && self.is_ours() {
            // SAFETY: retained by us, once.
            let _ = unsafe { self.driver.cuDevicePrimaryCtxRelease(self.context.device) };
        }
    }
}

fn check_capability(driver: &Driver, device: CUdevice) -> Result<(u32, u32)> {
    let (major, minor) = capability(driver, device)?;
    if (major, minor) < OLDEST_CAPABILITY {
        let name = device_name(driver, device)?;
        let what = format!(
            "{name} has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or newer; use another device or NVFP4_BACKEND_CPU"
        );
        return Err(Error::Device { what });
    }
    Ok((major, minor))
}

/// What is made with the context current, before the device is whole.
struct Parts {
    facts: DeviceFacts,
    name: String,
    fault: Fault,
    pool: Pool,
}

impl Parts {
    fn create(driver: &'static Driver, device: CUdevice) -> Result<Parts> {
        let name = device_name(driver, device)?;
        if attribute(driver, device, ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? == 0 {
            return Err(Error::Device {
                what: format!("{name} has no stream-ordered memory pools; use another device"),
            });
        }
        let mut facts = DeviceFacts {
            sm_count: attribute(driver, device, ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            compute_capability: capability(driver, device)?,
            shared_per_block_optin: attribute(driver, device, ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            l2_bytes: attribute(driver, device, ATTRIBUTE_L2_CACHE_SIZE)? as usize,
            fault: 0,
        };
        let fault = Fault::create(driver)?;
        facts.fault = fault.record();
        match Pool::create(driver, device) {
            Ok(pool) => Ok(Parts { facts, name, fault, pool }),
            Err(error) => {
                fault.destroy(driver);
                Err(error)
            }
        }
    }
}
