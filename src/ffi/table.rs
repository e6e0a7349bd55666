//! All functions in one table, for hosts that load the library with dlopen.

use std::ffi::c_void;

use super::guard::guard_value;
use super::version::NVFP4_ABI_VERSION;
use crate::error::Error;

/// Every function of the header but nvfp4_api, in an order that only ever grows. `struct_size` says how many there are.
pub struct nvfp4_api_table {
    _opaque: [u8; 0],
}

/// The table as C sees it; the build script writes the list from `api_table.txt` and the header's prototypes.
#[repr(C)]
struct Table {
    struct_size: usize,
    functions: [*const c_void; COUNT],
}
// SAFETY: addresses of functions.
unsafe impl Sync for Table {}

include!(concat!(env!("OUT_DIR"), "/api_table.rs"));

static TABLE: Table = Table { struct_size: size_of::<Table>(), functions: FUNCTIONS };

/// All functions of the library for an ABI version, or NULL (with a message) for a version that it does not have.
/// Static memory. A host that was built against a newer minor version compares struct_size before it uses later entries.
#[unsafe(no_mangle)]
pub extern "C" fn nvfp4_api(abi_version: u32) -> *const nvfp4_api_table {
    guard_value("nvfp4_api", std::ptr::null(), || {
        if abi_version != NVFP4_ABI_VERSION {
            return Err(Error::UnknownValue { argument: "abi_version", value: abi_version, known: "1" });
        }
        Ok((&raw const TABLE).cast())
    })
}
