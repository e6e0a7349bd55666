//! The kernel images that the build embedded, and the cache of what a context has loaded of them.
//!
//! nvfp4_prepare loads everything, or what a given call takes; the first call outside of a capture loads what it needs.
//! A file's image is loaded with the first of its kernels. One lock is held while anything is loaded; what is loaded is
//! read without.

use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::context::{Device, DeviceFacts, Undisturbing};
use super::driver::*;
use super::launch::Kernel;
use super::stream::is_capturing;
use crate::error::{Error, NVFP4_STATUS_UNSUPPORTED_DEVICE, Result};

/// A fat binary of one file in kernels/.
pub struct Image {
    pub file: &'static str,
    /// What is in it, for messages: "sm_80 sm_90a … compute_90".
    pub targets: &'static str,
    pub bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/cuda_images.rs"));

/// A loaded kernel.
#[derive(Clone, Copy)]
pub struct Function {
    pub function: CUfunction,
    pub parameter_bytes: usize,
}

struct Slot {
    kernel: &'static Kernel,
    function: OnceLock<Function>,
}

/// A power of two above the number of kernels that one model launches.
const ASKED: usize = 256;

pub struct Modules {
    /// Every kernel of the backend, in the order of their names.
    slots: Vec<Slot>,
    /// What launches have asked for: address of the kernel << 16 | slot, at a place that follows from the address. Names
    /// have the last word, since a constant table may have copies; comparing them at every launch would be dear.
    asked: [AtomicU64; ASKED],
    loaded: Mutex<Vec<(&'static str, CUmodule)>>,
}

impl Default for Modules {
    fn default() -> Modules {
        let kernels = super::KERNELS.iter().copied().flatten();
        let mut slots: Vec<Slot> = kernels.map(|kernel| Slot { kernel, function: OnceLock::new() }).collect();
        slots.sort_by_key(|slot| slot.kernel.name);
        assert!(slots.len() < 1 << 16);
        Modules { slots, asked: [const { AtomicU64::new(0) }; ASKED], loaded: Mutex::default() }
    }
}

impl Modules {
    #[inline]
    fn slot(&self, kernel: &Kernel) -> Result<&Slot> {
        let address = (&raw const *kernel).addr() as u64;
        let asked = &self.asked[address as usize / size_of::<Kernel>() % ASKED];
        let known = asked.load(Ordering::Relaxed);
        if known >> 16 == address {
            return Ok(&self.slots[known as usize & 0xFFFF]);
        }
        let at = self.slot_by_name(kernel)?;
        // Addresses of more than 48 bits are not kept, and looked up by name.
        asked.store(address << 16 | at as u64, Ordering::Relaxed);
        Ok(&self.slots[at])
    }

    #[cold]
    fn slot_by_name(&self, kernel: &Kernel) -> Result<usize> {
        self.slots.binary_search_by_key(&kernel.name, |slot| slot.kernel.name).map_err(|_| Error::Internal {
            message: format!("{} is in no table of backend::cuda::KERNELS", kernel.name),
        })
    }

    /// The function of a kernel; loads it where that is allowed. The device's context is current.
    #[inline]
    pub fn function(&self, device: &Device, stream: CUstream, kernel: &'static Kernel) -> Result<Function> {
        let slot = self.slot(kernel)?;
        match slot.function.get() {
            Some(function) => Ok(*function),
            None => self.load_lazily(device, stream, slot),
        }
    }

    #[cold]
    fn load_lazily(&self, device: &Device, stream: CUstream, slot: &Slot) -> Result<Function> {
        // SAFETY: the stream of a queue is alive. The question does not disturb a capture.
        if unsafe { is_capturing(device.driver, stream)? } {
            return Err(Error::NotPrepared {
                what: slot.kernel.name,
                next: "call nvfp4_prepare once before the capture",
            });
        }
        let _mode = Undisturbing::enter(device.driver)?;
        self.load(device.driver, &device.facts, slot, &mut self.loaded())
    }

    /// Loads a kernel. The device's context is current, and captures are not disturbed.
    pub fn load_one(&self, device: &Device, kernel: &'static Kernel) -> Result<Function> {
        let slot = self.slot(kernel)?;
        self.load(device.driver, &device.facts, slot, &mut self.loaded())
    }

    pub fn load_all(&self, driver: &Driver, facts: &DeviceFacts) -> Result<()> {
        let mut loaded = self.loaded();
        self.slots.iter().try_for_each(|slot| self.load(driver, facts, slot, &mut loaded).map(|_| ()))
    }

    fn loaded(&self) -> MutexGuard<'_, Vec<(&'static str, CUmodule)>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(
        &self,
        driver: &Driver,
        facts: &DeviceFacts,
        slot: &Slot,
        loaded: &mut Vec<(&'static str, CUmodule)>,
    ) -> Result<Function> {
        if let Some(function) = slot.function.get() {
            return Ok(*function);
        }
        let kernel = slot.kernel;
        let module = match loaded.iter().find(|(file, _)| *file == kernel.file) {
            Some((_, module)) => *module,
            None => {
                let module = load_image(driver, facts, kernel.file)?;
                loaded.push((kernel.file, module));
                module
            }
        };
        let name = CString::new(kernel.name).map_err(|_| Error::Internal { message: kernel.name.into() })?;
        let (mut function, mut own, mut offset, mut parameter_bytes) = (CUfunction::NULL, 0, 0, 0);
        // SAFETY: valid pointers, a live module.
        unsafe {
            driver.cuModuleGetFunction(&mut function, module, name.as_ptr())?;
            // The driver loads lazily by itself; run calls are not to pay for it.
            driver.cuFuncLoad(function)?;
            driver.cuFuncGetAttribute(&mut own, FUNC_SHARED_SIZE_BYTES, function)?;
            let most = facts.shared_per_block_optin as i32 - own;
            driver.cuFuncSetAttribute(function, FUNC_MAX_DYNAMIC_SHARED_SIZE_BYTES, most)?;
            driver.cuFuncGetParamInfo(function, 0, &mut offset, &mut parameter_bytes)?;
        }
        Ok(*slot.function.get_or_init(|| Function { function, parameter_bytes }))
    }

    /// # Safety
    /// Called once, when no kernel runs or will be launched any more.
    pub unsafe fn unload(&self, driver: &Driver) {
        for (_, module) in self.loaded().drain(..) {
            // SAFETY: the caller's promise.
            let _ = unsafe { driver.cuModuleUnload(module) };
        }
    }

    /// (loaded, all): how many kernels.
    pub fn count(&self) -> (usize, usize) {
        (self.slots.iter().filter(|slot| slot.function.get().is_some()).count(), self.slots.len())
    }

    /// What is loaded, for a log: "rows: 3 kernels, layouts: 1 kernel".
    pub fn report(&self) -> String {
        let files = self.loaded();
        let parts = files.iter().map(|(file, _)| {
            let of_file = self.slots.iter().filter(|s| s.kernel.file == *file && s.function.get().is_some());
            format!("{file} ({})", of_file.count())
        });
        parts.collect::<Vec<_>>().join(", ")
    }
}

fn load_image(driver: &Driver, facts: &DeviceFacts, file: &'static str) -> Result<CUmodule> {
    let (major, minor) = facts.compute_capability;
    let Some(image) = IMAGES.iter().find(|image| image.file == file) else {
        let what = format!("this build holds no kernel image of {file}; build the library with its kernels");
        return Err(Error::Device { what });
    };
    let mut module = CUmodule::NULL;
    // SAFETY: a valid pointer; the image is a fat binary, aligned and static.
    unsafe { driver.cuModuleLoadData(&mut module, image.bytes.as_ptr().cast()) }.map_err(|error| {
        if error.status() != NVFP4_STATUS_UNSUPPORTED_DEVICE {
            return error;
        }
        let Error::Cuda { name, .. } = error else { return error };
        Error::Device {
            what: format!(
                "no kernel image of {file} for compute {major}.{minor}: this build holds {}, and the driver says {name}; build the library for this GPU",
                image.targets
            ),
        }
    })?;
    Ok(module)
}
