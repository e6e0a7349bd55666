//! Contexts: one device with its threads, memory pool and fault word; and what backends and features there are.
#![allow(non_camel_case_types)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::info::{cpu_info, cuda_info};
use super::operation::Call;
use super::types::zeroed_default;
use crate::backend::cpu::Cpu;
use crate::backend::cpu::kernels::Isa;
use crate::backend::{Backend, cuda};
use crate::error::{Error, Result};

/// Where the work of a context is carried out.
pub type nvfp4_backend = u32;
/// This processor; pointers are host memory.
pub const NVFP4_BACKEND_CPU: nvfp4_backend = 0;
/// An NVIDIA GPU.
pub const NVFP4_BACKEND_CUDA: nvfp4_backend = 1;

/// Instruction set of a CPU context. Results do not depend on it.
pub type nvfp4_isa = u32;
/// The best that the processor has.
pub const NVFP4_ISA_BEST: nvfp4_isa = 0;
/// Plain code, the reference.
pub const NVFP4_ISA_PORTABLE: nvfp4_isa = 1;
/// AVX2 with FMA and F16C.
pub const NVFP4_ISA_AVX2: nvfp4_isa = 2;
/// AVX-512 F, BW, DQ, VL and VNNI.
pub const NVFP4_ISA_AVX512: nvfp4_isa = 3;

/// How a context is made, or'ed.
pub type nvfp4_context_flags = u32;
/// CUDA: use the CUDA context that is current on the calling thread, which must outlive this one, instead of the primary
/// context of options.device (which is then not looked at).
pub const NVFP4_CONTEXT_ADOPT_CURRENT: nvfp4_context_flags = 1;

/// Something a context may be able to do.
pub type nvfp4_feature = u32;
/// Graph capture and replay.
pub const NVFP4_FEATURE_GRAPH: nvfp4_feature = 1;
/// Every product gives batch-invariant bits, flag or not.
pub const NVFP4_FEATURE_ALWAYS_BATCH_INVARIANT: nvfp4_feature = 2;
/// Programmatic dependent launch.
pub const NVFP4_FEATURE_DEPENDENT_LAUNCH: nvfp4_feature = 3;
/// Block-scaled FP4 tensor cores used by the products.
pub const NVFP4_FEATURE_NATIVE_FP4: nvfp4_feature = 4;

/// Options of nvfp4_context_create; zero means the default.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_context_options {
    /// sizeof(nvfp4_context_options).
    pub struct_size: usize,
    /// One of NVFP4_BACKEND_*.
    pub backend: nvfp4_backend,
    /// Device ordinal; 0 for the CPU.
    pub device: u32,
    /// CPU: threads that share the work of a call, the caller counted, up to 1024; 0: one per available core.
    pub threads: u32,
    /// CPU: one of NVFP4_ISA_*; refused where the processor lacks it.
    pub isa: nvfp4_isa,
    /// NVFP4_CONTEXT_*, or'ed; 0 for the CPU.
    pub flags: nvfp4_context_flags,
    /// Must be 0.
    pub reserved: u32,
}

/// What nvfp4_backend_query and nvfp4_context_info tell.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_backend_info {
    /// sizeof(nvfp4_backend_info), set by the caller.
    pub struct_size: usize,
    /// One of NVFP4_BACKEND_*.
    pub backend: nvfp4_backend,
    /// 1 if a context can be created, else 0 (name says why).
    pub available: u32,
    /// Devices of this backend.
    pub device_count: u32,
    /// CPU: threads of the context, or available cores.
    pub threads: u32,
    /// CPU: one of NVFP4_ISA_*, never BEST.
    pub isa: nvfp4_isa,
    /// 0.
    pub reserved: u32,
    /// Zero-terminated description.
    pub name: [core::ffi::c_char; 64],
}

/// Bits of the fault word. They are sticky: set by work on any stream, cleared by nvfp4_context_clear_faults.
pub type nvfp4_fault_flags = u32;
/// A group's end or count was out of order or out of bounds, and was clamped; or an id was no expert, and was skipped.
pub const NVFP4_FAULT_BAD_GROUP: nvfp4_fault_flags = 1;
/// A static decode scale was not finite or not above 0; its values read as NaN.
pub const NVFP4_FAULT_BAD_DECODE_SCALE: nvfp4_fault_flags = 2;
/// A quantizer met a NaN or an infinity; that block reads as NaN. Or a router met a NaN, or gave a weight that is not finite.
pub const NVFP4_FAULT_NON_FINITE: nvfp4_fault_flags = 4;
/// A block scale saturated: the static decode scale is too small for the data.
pub const NVFP4_FAULT_SATURATED: nvfp4_fault_flags = 8;

/// The fault word of a context.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_faults {
    /// sizeof(nvfp4_faults), set by the caller.
    pub struct_size: usize,
    /// NVFP4_FAULT_* or'ed.
    pub flags: nvfp4_fault_flags,
    /// 0.
    pub reserved: u32,
    /// The first group that was clamped, or id that was no expert, since the last clear; or -1.
    pub bad_group: i64,
}

/// What a context's memory pool holds and has done.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_pool_stats {
    /// sizeof(nvfp4_pool_stats), set by the caller.
    pub struct_size: usize,
    /// Bytes of live buffers, as rounded up by the pool.
    pub bytes_in_use: usize,
    /// Bytes taken from the system: in use and kept for reuse.
    pub bytes_reserved: usize,
    /// Largest bytes_in_use so far.
    pub peak_bytes_in_use: usize,
    /// Buffers created.
    pub allocations: u64,
    /// Of these, how many took a kept block.
    pub reuses: u64,
}

/// Arguments of nvfp4_prepare.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_prepare_args {
    /// sizeof(nvfp4_prepare_args).
    pub struct_size: usize,
    /// Must be 0.
    pub reserved: u64,
    /// What is prepared: NVFP4_OPERATION_ALL, or the operation of one call.
    pub operation: super::operation::nvfp4_operation,
    /// Must be 0.
    pub reserved_operation: u32,
    /// The call's arguments, as its operation says; NULL for NVFP4_OPERATION_ALL. Their memory is not touched, and
    /// pointers in them may be NULL, except where NULL itself says something: of static_decode_scales and decode_scales
    /// exactly one is set, and an optional array is there or not. What is set must be as aligned as in the call.
    pub args: *const core::ffi::c_void,
}

zeroed_default!(
    nvfp4_context_options,
    nvfp4_backend_info,
    nvfp4_faults,
    nvfp4_pool_stats,
    nvfp4_prepare_args
);

/// A device in use. Clones are the same context.
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    backend: Backend,
    /// The process that made it: threads and devices do not survive a fork.
    process: u32,
    /// Its C handle was destroyed: children may still be, and nothing else.
    closed: AtomicBool,
}

const MAX_THREADS: u32 = 1024;
pub(super) const BACKENDS: &str = "NVFP4_BACKEND_CPU (0), NVFP4_BACKEND_CUDA (1)";

impl Context {
    pub fn create(options: &nvfp4_context_options) -> Result<Context> {
        if options.reserved != 0 {
            let value = options.reserved as u64;
            return Err(Error::Reserved { argument: "options.reserved", value });
        }
        match options.backend {
            NVFP4_BACKEND_CPU => {}
            NVFP4_BACKEND_CUDA => return Context::create_cuda(options),
            value => return Err(Error::UnknownValue { argument: "options.backend", value, known: BACKENDS }),
        }
        if options.device != 0 {
            return Err(Error::OutOfRange {
                argument: "options.device",
                value: options.device.to_string(),
                range: "0 for the CPU".into(),
            });
        }
        if options.flags != 0 {
            let known = "0 for the CPU";
            return Err(Error::UnknownValue { argument: "options.flags", value: options.flags, known });
        }
        if options.threads > MAX_THREADS {
            return Err(Error::OutOfRange {
                argument: "options.threads",
                value: options.threads.to_string(),
                range: format!("0 to {MAX_THREADS}"),
            });
        }
        let isa = match options.isa {
            NVFP4_ISA_BEST => None,
            NVFP4_ISA_PORTABLE => Some(Isa::Portable),
            NVFP4_ISA_AVX2 => Some(Isa::Avx2),
            NVFP4_ISA_AVX512 => Some(Isa::Avx512),
            value => {
                let known = "NVFP4_ISA_BEST (0), _PORTABLE (1), _AVX2 (2), _AVX512 (3)";
                return Err(Error::UnknownValue { argument: "options.isa", value, known });
            }
        };
        let cpu = Cpu::new(options.threads as usize, isa)?;
        Ok(Context::new(Backend::Cpu(cpu)))
    }

    fn create_cuda(options: &nvfp4_context_options) -> Result<Context> {
        let unused = |argument: &'static str, value: u32| match value {
            0 => Ok(()),
            value => Err(Error::UnknownValue { argument, value, known: "0 for CUDA" }),
        };
        unused("options.threads", options.threads)?;
        unused("options.isa", options.isa)?;
        if options.flags & !NVFP4_CONTEXT_ADOPT_CURRENT != 0 {
            let known = "NVFP4_CONTEXT_ADOPT_CURRENT (1)";
            return Err(Error::UnknownValue { argument: "options.flags", value: options.flags, known });
        }
        let device = cuda::Device::create(options.device, options.flags & NVFP4_CONTEXT_ADOPT_CURRENT != 0)?;
        Ok(Context::new(Backend::Cuda(Arc::new(device))))
    }

    fn new(backend: Backend) -> Context {
        Context(Arc::new(Inner { backend, process: crate::process::id(), closed: AtomicBool::new(false) }))
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    /// Leaves its children nothing but to be destroyed.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
    }

    /// Refuses to go on in another process than the one that made the context, or after its destruction.
    pub fn check_process(&self) -> Result<()> {
        let now = crate::process::id();
        if now != self.0.process {
            return Err(Error::Forked { created: self.0.process, now });
        }
        if self.0.closed.load(Ordering::Acquire) {
            let problem = "it was destroyed, and its children can only be destroyed too";
            return Err(Error::Handle { argument: "context", kind: "nvfp4_context", problem });
        }
        Ok(())
    }

    pub fn same(&self, other: &Context) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub fn info(&self) -> nvfp4_backend_info {
        match self.backend() {
            Backend::Cpu(cpu) => cpu_info(cpu.kernels.isa, cpu.team.threads()),
            Backend::Cuda(device) => {
                let (loaded, all) = device.loaded_kernels();
                cuda_info(1, device.count(), &format!("{}, {loaded}/{all} kernels", device.description()))
            }
        }
    }

    pub fn faults(&self) -> nvfp4_faults {
        let (flags, group) = match self.backend() {
            Backend::Cpu(cpu) => cpu.faults.read(),
            Backend::Cuda(device) => device.faults(),
        };
        nvfp4_faults { flags, bad_group: group.map_or(-1, |g| g as i64), ..Default::default() }
    }

    pub fn clear_faults(&self) -> Result<()> {
        match self.backend() {
            Backend::Cpu(cpu) => cpu.faults.clear(),
            Backend::Cuda(device) => return device.clear_faults(),
        }
        Ok(())
    }

    /// Waits until all work of the context is done. On the CPU it always is.
    pub fn synchronize(&self) -> Result<()> {
        match self.backend() {
            Backend::Cpu(_) => Ok(()),
            Backend::Cuda(device) => device.synchronize(),
        }
    }

    pub fn pool_stats(&self) -> Result<nvfp4_pool_stats> {
        let s = match self.backend() {
            Backend::Cpu(cpu) => cpu.pool.stats(),
            Backend::Cuda(device) => device.pool_stats()?,
        };
        Ok(nvfp4_pool_stats {
            bytes_in_use: s.bytes_in_use,
            bytes_reserved: s.bytes_reserved,
            peak_bytes_in_use: s.peak_bytes_in_use,
            allocations: s.allocations,
            reuses: s.reuses,
            ..Default::default()
        })
    }

    pub fn pool_trim(&self, keep_bytes: usize) -> Result<()> {
        match self.backend() {
            Backend::Cpu(cpu) => {
                cpu.pool.trim(keep_bytes);
                Ok(())
            }
            Backend::Cuda(device) => device.pool_trim(keep_bytes),
        }
    }

    pub fn supports(&self, feature: nvfp4_feature) -> Result<bool> {
        match feature {
            NVFP4_FEATURE_GRAPH | NVFP4_FEATURE_ALWAYS_BATCH_INVARIANT => Ok(true),
            NVFP4_FEATURE_DEPENDENT_LAUNCH => {
                Ok(matches!(self.backend(), Backend::Cuda(device) if device.has_dependent_launch()))
            }
            NVFP4_FEATURE_NATIVE_FP4 => Ok(false),
            value => Err(Error::UnknownValue {
                argument: "feature",
                value,
                known: "NVFP4_FEATURE_GRAPH (1), _ALWAYS_BATCH_INVARIANT (2), _DEPENDENT_LAUNCH (3), _NATIVE_FP4 (4)",
            }),
        }
    }

    /// Loads what run calls need. The CPU needs nothing: its kernels are code.
    /// `call` none: for every call there is.
    pub fn prepare(&self, args: &nvfp4_prepare_args, call: Option<&Call>) -> Result<()> {
        if args.reserved != 0 {
            return Err(Error::Reserved { argument: "args.reserved", value: args.reserved });
        }
        if args.reserved_operation != 0 {
            let value = args.reserved_operation as u64;
            return Err(Error::Reserved { argument: "args.reserved_operation", value });
        }
        // Wrong arguments are refused on every backend.
        let work = call.map(|call| call.work(self)).transpose()?;
        match (self.backend(), work) {
            (Backend::Cpu(_), _) => Ok(()),
            (Backend::Cuda(device), None) => device.prepare(),
            (Backend::Cuda(device), Some(work)) => work.iter().try_for_each(|work| device.prepare_for(work)),
        }
    }

    /// What has been loaded so far, for a log; none where nothing is ever loaded.
    pub fn loaded_report(&self) -> Option<String> {
        match self.backend() {
            Backend::Cpu(_) => None,
            Backend::Cuda(device) => Some(device.loaded_report()),
        }
    }
}
