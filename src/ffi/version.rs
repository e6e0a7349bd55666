//! Versions, status names, messages, logging.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{PoisonError, RwLock};

use super::guard::{guard, last_message};
use crate::error::{Error, nvfp4_status, status_name};

/// Version of the library: major.
pub const NVFP4_VERSION_MAJOR: u32 = 0;
/// Version of the library: minor.
pub const NVFP4_VERSION_MINOR: u32 = 1;
/// Version of the library: patch.
pub const NVFP4_VERSION_PATCH: u32 = 0;
/// Version of the binary interface. Within one version functions and fields are only added.
pub const NVFP4_ABI_VERSION: u32 = 1;

/// Severity of a log message: 0 error, 1 warning, 2 information.
pub type nvfp4_log_level = i32;
/// A call failed; the message is that of nvfp4_last_message.
pub const NVFP4_LOG_LEVEL_ERROR: nvfp4_log_level = 0;
/// Something works, but not as well as it could.
pub const NVFP4_LOG_LEVEL_WARNING: nvfp4_log_level = 1;
/// What was chosen and why.
pub const NVFP4_LOG_LEVEL_INFO: nvfp4_log_level = 2;

/// Receives log messages, on the thread that caused them. The message is valid during the call only. It may call
/// the library, whose messages are not logged meanwhile, but not nvfp4_set_log_callback.
pub type nvfp4_log_callback =
    Option<unsafe extern "C" fn(level: nvfp4_log_level, message: *const c_char, user_data: *mut c_void)>;

/// The library's version as major * 10000 + minor * 100 + patch.
#[unsafe(no_mangle)]
pub extern "C" fn nvfp4_version() -> u32 {
    NVFP4_VERSION_MAJOR * 10000 + NVFP4_VERSION_MINOR * 100 + NVFP4_VERSION_PATCH
}

/// The library's version as text, "major.minor.patch". Static memory.
#[unsafe(no_mangle)]
pub extern "C" fn nvfp4_version_string() -> *const c_char {
    const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    TEXT.as_ptr().cast()
}

/// NVFP4_ABI_VERSION of the library that is loaded; compare it with the header's.
#[unsafe(no_mangle)]
pub extern "C" fn nvfp4_abi_version() -> u32 {
    NVFP4_ABI_VERSION
}

/// The name of a status, "NVFP4_STATUS_...", or NULL for a number that is none. Static memory.
#[unsafe(no_mangle)]
pub extern "C" fn nvfp4_status_name(status: nvfp4_status) -> *const c_char {
    status_name(status).map_or(std::ptr::null(), CStr::as_ptr)
}

/// What went wrong in the last call on this thread that failed, UTF-8: the function, the argument, its value and the
/// next step. Empty before the first failure. Valid until the next failure on this thread; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn nvfp4_last_message() -> *const c_char {
    last_message()
}

struct Log {
    callback: unsafe extern "C" fn(nvfp4_log_level, *const c_char, *mut c_void),
    user_data: *mut c_void,
    level: nvfp4_log_level,
}
// SAFETY: the header asks for a callback that may be called from any thread.
unsafe impl Send for Log {}
// SAFETY: as above.
unsafe impl Sync for Log {}

thread_local! {
    static INSIDE_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

static LOG: RwLock<Option<Log>> = RwLock::new(None);

/// Sets or, with NULL, removes the process-wide log callback. It gets messages up to `level` (NVFP4_LOG_LEVEL_*).
/// Without one the library is silent. The callback may run on any thread that calls the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_set_log_callback(
    callback: nvfp4_log_callback,
    user_data: *mut c_void,
    level: nvfp4_log_level,
) -> nvfp4_status {
    guard("nvfp4_set_log_callback", || {
        if !(NVFP4_LOG_LEVEL_ERROR..=NVFP4_LOG_LEVEL_INFO).contains(&level) {
            let range = "0 (error) to 2 (information)".into();
            return Err(Error::OutOfRange { argument: "level", value: level.to_string(), range });
        }
        *LOG.write().unwrap_or_else(PoisonError::into_inner) =
            callback.map(|callback| Log { callback, user_data, level });
        Ok(())
    })
}

/// Sends a zero-terminated message to the callback, if one wants it.
pub fn log(level: nvfp4_log_level, message: &[u8]) {
    // Again inside a callback, the lock could wait for a thread that waits for this one, and the messages never end.
    if INSIDE_CALLBACK.get() {
        return;
    }
    let log = LOG.read().unwrap_or_else(PoisonError::into_inner);
    if let Some(log) = log.as_ref().filter(|log| level <= log.level) {
        INSIDE_CALLBACK.set(true);
        // SAFETY: the host promised a callback with this signature; the message ends in zero.
        unsafe { (log.callback)(level, message.as_ptr().cast(), log.user_data) };
        INSIDE_CALLBACK.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_constants_are_the_package_version() {
        let text = format!("{NVFP4_VERSION_MAJOR}.{NVFP4_VERSION_MINOR}.{NVFP4_VERSION_PATCH}");
        assert_eq!(text, env!("CARGO_PKG_VERSION"));
    }
}
