//! The CUDA driver: libcuda.so.1 opened at run time, its entry points resolved once into a table of our own.
//!
//! The declarations are ours, not cudarc's: there `CUresult` is a Rust enumeration, and an error code that a newer
//! driver has added would be undefined behaviour before anybody could report it; we need fifty functions and three
//! structs of an interface that has been stable for years. `tests/cuda_abi.rs` compares them with cuda.h where there is
//! one. A missing library or symbol is an error of the call that needs it: the CPU backend never comes here.
#![allow(non_snake_case)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{CUDA_OUT_OF_MEMORY, Error, Result};

/// Oldest driver interface that our kernel images and calls need, as cuDriverGetVersion counts: CUDA 13.0, driver R580.
pub const OLDEST: i32 = 13000;

macro_rules! handle {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[repr(transparent)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $name(pub *mut c_void);
        impl $name {
            pub const NULL: $name = $name(std::ptr::null_mut());
            pub fn is_null(self) -> bool {
                self.0.is_null()
            }
        }
        // SAFETY: a handle is a number to us; the driver's functions may be called from any thread.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    )+};
}

handle!(
    CUcontext,
    /// NULL is the legacy default stream.
    CUstream,
    CUevent,
    CUmodule,
    CUfunction,
    CUmemoryPool,
    CUgraph,
    CUgraphNode,
    CUgraphExec,
);

pub type CUresult = u32;
pub type CUdevice = c_int;
pub type CUdeviceptr = u64;

pub const NOT_READY: CUresult = 600;
pub const GRAPH_EXEC_UPDATE_FAILURE: CUresult = 910;

pub const ATTRIBUTE_MULTIPROCESSOR_COUNT: c_int = 16;
pub const ATTRIBUTE_L2_CACHE_SIZE: c_int = 38;
pub const ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: c_int = 75;
pub const ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: c_int = 76;
pub const ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: c_int = 97;
pub const ATTRIBUTE_MEMORY_POOLS_SUPPORTED: c_int = 115;

pub const FUNC_SHARED_SIZE_BYTES: c_int = 1;
pub const FUNC_MAX_DYNAMIC_SHARED_SIZE_BYTES: c_int = 8;

pub const STREAM_NON_BLOCKING: c_uint = 1;
pub const EVENT_DEFAULT: c_uint = 0;
pub const EVENT_DISABLE_TIMING: c_uint = 2;
pub const CAPTURE_NONE: c_uint = 0;
pub const CAPTURE_MODE_RELAXED: c_uint = 2;
pub const CAPTURE_SET_DEPENDENCIES: c_uint = 1;
pub const HOST_ALLOC_PORTABLE: c_uint = 1;
pub const HOST_ALLOC_DEVICEMAP: c_uint = 2;
pub const POOL_RELEASE_THRESHOLD: c_int = 4;
pub const POOL_RESERVED_MEM_CURRENT: c_int = 5;

#[repr(C)]
pub struct CUmemPoolProps {
    pub alloc_type: c_int,
    pub handle_types: c_int,
    pub location_type: c_int,
    pub location_id: c_int,
    pub win32_security_attributes: *mut c_void,
    pub max_size: usize,
    pub usage: u16,
    pub reserved: [u8; 54],
}

impl CUmemPoolProps {
    /// Pinned memory of a device, not shared with other processes.
    pub fn device(device: CUdevice) -> CUmemPoolProps {
        CUmemPoolProps {
            alloc_type: 1,
            handle_types: 0,
            location_type: 1,
            location_id: device,
            win32_security_attributes: std::ptr::null_mut(),
            max_size: 0,
            usage: 0,
            reserved: [0; 54],
        }
    }
}

#[repr(C)]
pub struct CUlaunchAttribute {
    pub id: c_uint,
    pub pad: [u8; 4],
    /// A union of 64 bytes; every member that we set is one int.
    pub value: [u32; 16],
}

impl CUlaunchAttribute {
    /// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 1.
    pub fn dependent_launch() -> CUlaunchAttribute {
        let mut value = [0; 16];
        value[0] = 1;
        CUlaunchAttribute { id: 6, pad: [0; 4], value }
    }
}

#[repr(C)]
pub struct CUlaunchConfig {
    pub grid: [c_uint; 3],
    pub block: [c_uint; 3],
    pub shared_bytes: c_uint,
    pub stream: CUstream,
    pub attributes: *const CUlaunchAttribute,
    pub attribute_count: c_uint,
}

/// How a tensor copy addresses memory; opaque, made on the host, a kernel's parameter.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CUtensorMap(pub [u64; 16]);

pub const TENSOR_MAP_FLOAT16: c_int = 6;
pub const TENSOR_MAP_BFLOAT16: c_int = 9;
pub const TENSOR_MAP_SWIZZLE_128B: c_int = 3;
pub const TENSOR_MAP_L2_256B: c_int = 3;

/// What an edge of a graph says beside that it is there; nothing, where the pointer is NULL.
#[repr(C)]
pub struct CUgraphEdgeData([u8; 8]);

#[repr(C)]
pub struct CUgraphExecUpdateResultInfo {
    pub result: c_uint,
    pub error_node: CUgraphNode,
    pub error_from_node: CUgraphNode,
}

const _: () = assert!(size_of::<CUmemPoolProps>() == 88);
const _: () = assert!(size_of::<CUlaunchAttribute>() == 72);
const _: () = assert!(size_of::<CUlaunchConfig>() == 56);
const _: () = assert!(size_of::<CUtensorMap>() == 128);
const _: () = assert!(size_of::<CUgraphExecUpdateResultInfo>() == 24);

/// Declares the table, and for every entry a method of its name that turns a failure into an [`Error`].
macro_rules! entries {
    ($($name:ident $symbol:literal ($($argument:ident: $type:ty),*);)+) => {
        struct Table {
            $($name: unsafe extern "C" fn($($type),*) -> CUresult,)+
        }

        impl Table {
            fn resolve(library: *mut c_void) -> std::result::Result<Table, &'static str> {
                // SAFETY: the symbols of libcuda have these types; tests/cuda_abi.rs compares them with cuda.h.
                unsafe { Ok(Table { $($name: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> CUresult>(
                    symbol(library, $symbol)?
                ),)+ }) }
            }
        }

        impl Driver {
            $(
                /// # Safety
                /// As the driver's documentation of the function says.
                #[inline]
                pub unsafe fn $name(&self, $($argument: $type),*) -> Result<()> {
                    // SAFETY: the caller's promise.
                    let code = unsafe { (self.table.$name)($($argument),*) };
                    if code == 0 { Ok(()) } else { Err(self.error(stringify!($name), code)) }
                }
            )+
        }

        /// Symbols that the library must have, for tests.
        #[doc(hidden)]
        pub const SYMBOLS: &[&str] = &[$($symbol),+];
    };
}

entries! {
    cuInit "cuInit" (flags: c_uint);
    cuDriverGetVersion "cuDriverGetVersion" (version: *mut c_int);
    cuDeviceGetCount "cuDeviceGetCount" (count: *mut c_int);
    cuDeviceGet "cuDeviceGet" (device: *mut CUdevice, ordinal: c_int);
    cuDeviceGetName "cuDeviceGetName" (name: *mut c_char, len: c_int, device: CUdevice);
    cuDeviceGetAttribute "cuDeviceGetAttribute" (value: *mut c_int, attribute: c_int, device: CUdevice);
    cuDevicePrimaryCtxRetain "cuDevicePrimaryCtxRetain" (context: *mut CUcontext, device: CUdevice);
    cuDevicePrimaryCtxRelease "cuDevicePrimaryCtxRelease_v2" (device: CUdevice);
    cuDevicePrimaryCtxGetState "cuDevicePrimaryCtxGetState" (device: CUdevice, flags: *mut c_uint, active: *mut c_int);
    cuCtxGetCurrent "cuCtxGetCurrent" (context: *mut CUcontext);
    cuCtxGetDevice "cuCtxGetDevice" (device: *mut CUdevice);
    cuCtxPushCurrent "cuCtxPushCurrent_v2" (context: CUcontext);
    cuCtxPopCurrent "cuCtxPopCurrent_v2" (context: *mut CUcontext);
    cuCtxSynchronize "cuCtxSynchronize" ();
    cuModuleLoadData "cuModuleLoadData" (module: *mut CUmodule, image: *const c_void);
    cuModuleUnload "cuModuleUnload" (module: CUmodule);
    cuModuleGetFunction "cuModuleGetFunction" (function: *mut CUfunction, module: CUmodule, name: *const c_char);
    cuFuncLoad "cuFuncLoad" (function: CUfunction);
    cuFuncGetAttribute "cuFuncGetAttribute" (value: *mut c_int, attribute: c_int, function: CUfunction);
    cuFuncSetAttribute "cuFuncSetAttribute" (function: CUfunction, attribute: c_int, value: c_int);
    cuFuncGetParamInfo "cuFuncGetParamInfo" (function: CUfunction, index: usize, offset: *mut usize, size: *mut usize);
    cuLaunchKernelEx "cuLaunchKernelEx" (config: *const CUlaunchConfig, function: CUfunction, parameters: *mut *mut c_void, extra: *mut *mut c_void);
    cuMemHostAlloc "cuMemHostAlloc" (memory: *mut *mut c_void, bytes: usize, flags: c_uint);
    cuMemHostGetDevicePointer "cuMemHostGetDevicePointer_v2" (address: *mut CUdeviceptr, memory: *mut c_void, flags: c_uint);
    cuMemFreeHost "cuMemFreeHost" (memory: *mut c_void);
    cuMemPoolCreate "cuMemPoolCreate" (pool: *mut CUmemoryPool, properties: *const CUmemPoolProps);
    cuMemPoolDestroy "cuMemPoolDestroy" (pool: CUmemoryPool);
    cuMemPoolTrimTo "cuMemPoolTrimTo" (pool: CUmemoryPool, keep: usize);
    cuMemPoolGetAttribute "cuMemPoolGetAttribute" (pool: CUmemoryPool, attribute: c_int, value: *mut c_void);
    cuMemPoolSetAttribute "cuMemPoolSetAttribute" (pool: CUmemoryPool, attribute: c_int, value: *mut c_void);
    cuMemAllocFromPoolAsync "cuMemAllocFromPoolAsync" (address: *mut CUdeviceptr, bytes: usize, pool: CUmemoryPool, stream: CUstream);
    cuMemAlloc "cuMemAlloc_v2" (address: *mut CUdeviceptr, bytes: usize);
    cuMemFree "cuMemFree_v2" (address: CUdeviceptr);
    cuMemFreeAsync "cuMemFreeAsync" (address: CUdeviceptr, stream: CUstream);
    cuMemcpyAsync "cuMemcpyAsync" (dst: CUdeviceptr, src: CUdeviceptr, bytes: usize, stream: CUstream);
    cuMemsetD32Async "cuMemsetD32Async" (dst: CUdeviceptr, value: c_uint, words: usize, stream: CUstream);
    cuStreamCreate "cuStreamCreate" (stream: *mut CUstream, flags: c_uint);
    cuStreamDestroy "cuStreamDestroy_v2" (stream: CUstream);
    cuStreamGetCtx "cuStreamGetCtx" (stream: CUstream, context: *mut CUcontext);
    cuStreamSynchronize "cuStreamSynchronize" (stream: CUstream);
    cuStreamQuery "cuStreamQuery" (stream: CUstream);
    cuStreamWaitEvent "cuStreamWaitEvent" (stream: CUstream, event: CUevent, flags: c_uint);
    cuStreamIsCapturing "cuStreamIsCapturing" (stream: CUstream, status: *mut c_uint);
    cuStreamBeginCapture "cuStreamBeginCapture_v2" (stream: CUstream, mode: c_uint);
    cuStreamEndCapture "cuStreamEndCapture" (stream: CUstream, graph: *mut CUgraph);
    cuStreamGetCaptureInfo "cuStreamGetCaptureInfo_v3" (stream: CUstream, status: *mut c_uint, id: *mut u64, graph: *mut CUgraph, dependencies: *mut *const CUgraphNode, edges: *mut *const CUgraphEdgeData, count: *mut usize);
    cuStreamUpdateCaptureDependencies "cuStreamUpdateCaptureDependencies_v2" (stream: CUstream, dependencies: *mut CUgraphNode, edges: *const CUgraphEdgeData, count: usize, flags: c_uint);
    cuThreadExchangeStreamCaptureMode "cuThreadExchangeStreamCaptureMode" (mode: *mut c_uint);
    cuEventCreate "cuEventCreate" (event: *mut CUevent, flags: c_uint);
    cuEventDestroy "cuEventDestroy_v2" (event: CUevent);
    cuEventRecord "cuEventRecord" (event: CUevent, stream: CUstream);
    cuEventQuery "cuEventQuery" (event: CUevent);
    cuEventSynchronize "cuEventSynchronize" (event: CUevent);
    cuEventElapsedTime "cuEventElapsedTime_v2" (milliseconds: *mut f32, start: CUevent, end: CUevent);
    cuTensorMapEncodeTiled "cuTensorMapEncodeTiled" (map: *mut CUtensorMap, dtype: c_int, rank: c_uint, address: *mut c_void, dims: *const u64, strides: *const u64, boxes: *const c_uint, steps: *const c_uint, interleave: c_int, swizzle: c_int, promotion: c_int, fill: c_int);
    cuGraphAddChildGraphNode "cuGraphAddChildGraphNode" (node: *mut CUgraphNode, graph: CUgraph, dependencies: *const CUgraphNode, count: usize, child: CUgraph);
    cuGraphInstantiate "cuGraphInstantiateWithFlags" (exec: *mut CUgraphExec, graph: CUgraph, flags: u64);
    cuGraphLaunch "cuGraphLaunch" (exec: CUgraphExec, stream: CUstream);
    cuGraphExecUpdate "cuGraphExecUpdate_v2" (exec: CUgraphExec, graph: CUgraph, info: *mut CUgraphExecUpdateResultInfo);
    cuGraphGetNodes "cuGraphGetNodes" (graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize);
    cuGraphExecDestroy "cuGraphExecDestroy" (exec: CUgraphExec);
    cuGraphDestroy "cuGraphDestroy" (graph: CUgraph);
}

type Describe = unsafe extern "C" fn(CUresult, *mut *const c_char) -> CUresult;

/// The loaded driver of this process.
pub struct Driver {
    table: Table,
    name: Describe,
    text: Describe,
}

/// Why there is no driver.
pub enum Missing {
    Library(String),
    Symbol { name: &'static str, version: Option<i32> },
}

/// # Safety
/// `library` is a handle of dlopen.
unsafe fn symbol(library: *mut c_void, name: &'static str) -> std::result::Result<*mut c_void, &'static str> {
    let mut text = [0u8; 64];
    text[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the caller's promise; the name ends in zero.
    let address = unsafe { libc::dlsym(library, text.as_ptr().cast()) };
    if address.is_null() { Err(name) } else { Ok(address) }
}

fn load() -> std::result::Result<Driver, Missing> {
    // SAFETY: a constant name; libcuda's constructors are the driver vendor's.
    let library = unsafe { libc::dlopen(c"libcuda.so.1".as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        // SAFETY: dlerror gives NULL or a zero-terminated text of this thread.
        let text = unsafe {
            let text = libc::dlerror();
            if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        return Err(Missing::Library(text));
    }
    let resolve = || {
        // SAFETY: a handle of dlopen; both functions have this type in every driver.
        unsafe {
            let name = std::mem::transmute::<*mut c_void, Describe>(symbol(library, "cuGetErrorName")?);
            let text = std::mem::transmute::<*mut c_void, Describe>(symbol(library, "cuGetErrorString")?);
            Ok(Driver { table: Table::resolve(library)?, name, text })
        }
    };
    resolve().map_err(|name| {
        // SAFETY: as above; the library stays open, as somebody else may use it.
        let version = unsafe {
            symbol(library, "cuDriverGetVersion").ok().and_then(|address| {
                let get =
                    std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_int) -> CUresult>(address);
                let mut version = 0;
                (get(&mut version) == 0).then_some(version)
            })
        };
        Missing::Symbol { name, version }
    })
}

/// "13.0" from 13000.
fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn too_old(version: i32) -> Error {
    Error::Driver {
        what: format!(
            "the GPU driver supports CUDA {} and this library needs CUDA {} (driver R580); update the driver",
            dotted(version),
            dotted(OLDEST)
        ),
    }
}

/// The process in which cuInit succeeded; 0 while none.
static INITIALISED_IN: AtomicU32 = AtomicU32::new(0);

impl Driver {
    /// The driver, loaded, new enough and initialised.
    pub fn get() -> Result<&'static Driver> {
        static LOADED: OnceLock<Driver> = OnceLock::new();
        let driver = match LOADED.get() {
            Some(driver) => driver,
            None => {
                let driver = load().map_err(|missing| match missing {
                    Missing::Library(text) => Error::Driver {
                        what: format!(
                            "no CUDA driver: {text}; install the NVIDIA driver R580 (CUDA 13.0) or newer"
                        ),
                    },
                    Missing::Symbol { version: Some(version), .. } if version < OLDEST => too_old(version),
                    Missing::Symbol { name, .. } => Error::Driver {
                        what: format!(
                            "the GPU driver has no {name}; install the NVIDIA driver R580 (CUDA {}) or newer",
                            dotted(OLDEST)
                        ),
                    },
                })?;
                LOADED.get_or_init(|| driver)
            }
        };
        driver.initialise()?;
        Ok(driver)
    }

    fn initialise(&self) -> Result<()> {
        let (created, now) = (INITIALISED_IN.load(Ordering::Relaxed), crate::process::id());
        if created != 0 && created != now {
            return Err(Error::ForkedDriver { created, now });
        }
        let mut version = 0;
        // SAFETY: a valid pointer; the version may be asked for before cuInit.
        unsafe { self.cuDriverGetVersion(&mut version)? };
        if version < OLDEST {
            return Err(too_old(version));
        }
        // SAFETY: zero is the only value of the flags. Repeated calls are cheap.
        unsafe { self.cuInit(0)? };
        INITIALISED_IN.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// CUDA_ERROR_NAME (its text).
    #[cold]
    fn error(&self, call: &'static str, code: CUresult) -> Error {
        let get = |describe: Describe| {
            let mut text = std::ptr::null();
            // SAFETY: a valid pointer; a found text is static and zero-terminated.
            unsafe {
                let found = describe(code, &mut text) == 0 && !text.is_null();
                found.then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let name = match (get(self.name), get(self.text)) {
            (Some(name), Some(text)) => format!("{name} ({text})"),
            (Some(name), None) => name,
            _ => format!("CUDA error {code}"),
        };
        Error::Cuda { call, code, name }
    }
}

/// A failed allocation names what was asked for.
pub fn out_of_memory(error: Error, bytes: usize) -> Error {
    match error {
        Error::Cuda { code: CUDA_OUT_OF_MEMORY, .. } => Error::OutOfMemory { bytes },
        other => other,
    }
}
