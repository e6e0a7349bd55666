//! The mock driver of driver/, built and loaded before the library looks for one, and its controls.
#![allow(dead_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The mock's exported functions; one user at a time.
pub struct Mock {
    library: *mut c_void,
}
// SAFETY: the mock locks its state.
unsafe impl Send for Mock {}
// SAFETY: as above.
unsafe impl Sync for Mock {}

/// The mock, reset, to the exclusion of the other tests of this process.
pub fn mock() -> (MutexGuard<'static, ()>, &'static Mock) {
    static TURN: Mutex<()> = Mutex::new(());
    static MOCK: OnceLock<Mock> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mock = MOCK.get_or_init(Mock::load);
    mock.reset();
    (turn, mock)
}

fn build() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let library = folder.join("libcuda.so.1");
    let sources = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/mock_cuda/driver");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = cc::Build::new()
        .target(&target)
        .host(&target)
        .opt_level(1)
        .warnings(false)
        .cargo_metadata(false)
        .get_compiler()
        .to_command()
        .args([
            "-std=gnu11",
            "-shared",
            "-fPIC",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wl,-soname,libcuda.so.1",
            "-o",
        ])
        .arg(&library)
        .args(["mock.c", "device.c", "memory.c", "streams.c", "work.c"].map(|file| sources.join(file)))
        .arg("-lpthread")
        .output()
        .expect("a C compiler runs");
    assert!(
        output.status.success(),
        "the mock does not compile\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    library
}

macro_rules! call {
    ($self:ident $name:literal ($($type:ty),*) $(-> $result:ty)?, $($argument:expr),*) => {{
        let address = $self.symbol($name);
        // SAFETY: the mock declares the function with this type.
        unsafe {
            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) $(-> $result)?>(address)($($argument),*)
        }
    }};
}

impl Mock {
    /// The loader gives whoever asks for libcuda.so.1 later the library that is loaded under that name.
    fn load() -> Mock {
        let path = CString::new(build().to_str().expect("UTF-8")).expect("no zero inside");
        // SAFETY: our own library.
        let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!library.is_null(), "the mock does not load");
        Mock { library }
    }

    pub fn has(&self, name: &str) -> bool {
        let name = CString::new(name).unwrap();
        // SAFETY: a live library, a zero-terminated name.
        !unsafe { libc::dlsym(self.library, name.as_ptr()) }.is_null()
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: as above.
        let address = unsafe { libc::dlsym(self.library, name.as_ptr()) };
        assert!(!address.is_null(), "{name:?} is not in the mock");
        address
    }

    pub fn reset(&self) {
        call!(self "mock_reset" (),)
    }
    /// Makes the call of this name with this number (from 0, counted from now) fail.
    pub fn fail(&self, name: &str, nth: usize, code: u32) {
        let name = CString::new(name).unwrap();
        call!(self "mock_fail" (*const c_char, c_long, u32), name.as_ptr(), nth as c_long, code)
    }
    pub fn set_version(&self, version: i32) {
        call!(self "mock_set_version" (c_int), version)
    }
    pub fn set_devices(&self, count: i32) {
        call!(self "mock_set_devices" (c_int), count)
    }
    pub fn set_capability(&self, major: i32, minor: i32) {
        call!(self "mock_set_capability" (c_int, c_int), major, minor)
    }
    /// What the image of a kernel says of its parameters; 32 bytes where nobody has told.
    pub fn set_parameter_bytes(&self, kernel: &str, bytes: usize) {
        let kernel = CString::new(kernel).unwrap();
        call!(self "mock_set_parameter_bytes" (*const c_char, usize), kernel.as_ptr(), bytes)
    }
    /// What kernels do: nothing, until somebody has told.
    pub fn emulate(&self, run: unsafe extern "C" fn(*const c_char, *const [u32; 3], u32, *const c_void)) {
        call!(self "mock_emulate" (unsafe extern "C" fn(*const c_char, *const [u32; 3], u32, *const c_void)), run)
    }
    pub fn set_no_image(&self, on: bool) {
        call!(self "mock_set_no_image" (c_int), on as c_int)
    }
    pub fn break_context(&self, code: u32) {
        call!(self "mock_break_context" (u32), code)
    }
    pub fn launches(&self) -> i64 {
        call!(self "mock_launches" () -> c_long,)
    }
    /// Of these, how many were allowed to start before the launch in front of them had ended.
    pub fn dependent_launches(&self) -> i64 {
        call!(self "mock_dependent_launches" () -> c_long,)
    }
    /// The kernel that was carried out last.
    pub fn last_kernel(&self) -> String {
        let text = call!(self "mock_last_kernel" () -> *const c_char,);
        // SAFETY: a static, zero-terminated text.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
    /// The CUDA context that is current on this thread, and how many are on its stack.
    pub fn current(&self) -> (*mut c_void, i32) {
        (call!(self "mock_current" () -> *mut c_void,), call!(self "mock_depth" () -> c_int,))
    }
    pub fn set_thread_mode(&self, mode: u32) {
        call!(self "mock_set_thread_mode" (u32), mode)
    }
    /// What was left behind on purpose does not count as a leak any more.
    pub fn forget(&self) {
        call!(self "mock_forget" (),)
    }
    pub fn thread_mode(&self) -> u32 {
        call!(self "mock_thread_mode" () -> u32,)
    }
    /// A host's own context, current on no thread.
    pub fn create_context(&self, device: i32) -> *mut c_void {
        call!(self "mock_create_context" (c_int) -> *mut c_void, device)
    }
    /// The primary context of a device, which somebody has retained.
    pub fn primary(&self, device: i32) -> *mut c_void {
        call!(self "mock_primary" (c_int) -> *mut c_void, device)
    }
    pub fn push(&self, context: *mut c_void) {
        assert_eq!(call!(self "cuCtxPushCurrent_v2" (*mut c_void) -> u32, context), 0);
    }
    pub fn pop(&self) -> *mut c_void {
        let mut context = std::ptr::null_mut();
        assert_eq!(call!(self "cuCtxPopCurrent_v2" (*mut *mut c_void) -> u32, &mut context), 0);
        context
    }
    /// A stream of the host's, in the context that is current.
    pub fn create_stream(&self) -> *mut c_void {
        let mut stream = std::ptr::null_mut();
        assert_eq!(call!(self "cuStreamCreate" (*mut *mut c_void, u32) -> u32, &mut stream, 1), 0);
        stream
    }
    pub fn destroy_stream(&self, stream: *mut c_void) {
        assert_eq!(call!(self "cuStreamDestroy_v2" (*mut c_void) -> u32, stream), 0);
    }
    /// The driver calls since the reset.
    pub fn calls(&self) -> Vec<String> {
        let count = call!(self "mock_call_count" () -> usize,);
        let name = |i| {
            let text = call!(self "mock_call_name" (usize) -> *const c_char, i);
            // SAFETY: a static, zero-terminated text.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        (0..count).map(name).collect()
    }
    /// Objects that are alive, in words.
    pub fn leaks(&self) -> String {
        let text = call!(self "mock_leaks" () -> *const c_char,);
        // SAFETY: a static, zero-terminated text.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
}
