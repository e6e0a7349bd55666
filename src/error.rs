//! Every way a call can fail: one enum, the status each failure has in C, and the text of every message.
//!
//! A message names the argument, its value and the next step, so that a caller can act on it without the source.

use std::fmt;

/// The result of a call. `NVFP4_STATUS_SUCCESS` is 0; every other value left the outputs untouched.
#[allow(non_camel_case_types)]
pub type nvfp4_status = i32;

/// The call did what it says.
pub const NVFP4_STATUS_SUCCESS: nvfp4_status = 0;
/// An argument breaks a rule of its documentation; the message names it.
pub const NVFP4_STATUS_INVALID_ARGUMENT: nvfp4_status = 1;
/// A handle is NULL, destroyed, of another kind, of another context, or was never one.
pub const NVFP4_STATUS_INVALID_HANDLE: nvfp4_status = 2;
/// The arguments are legal, but this build has no path for them; the message says what is missing.
pub const NVFP4_STATUS_UNSUPPORTED: nvfp4_status = 3;
/// The library holds no kernel image for this GPU, or the device does not exist.
pub const NVFP4_STATUS_UNSUPPORTED_DEVICE: nvfp4_status = 4;
/// The GPU driver is missing or too old.
pub const NVFP4_STATUS_UNSUPPORTED_DRIVER: nvfp4_status = 5;
/// Host or device memory could not be allocated.
pub const NVFP4_STATUS_OUT_OF_MEMORY: nvfp4_status = 6;
/// The call needs a kernel that `nvfp4_prepare` has not loaded, or a graph that was not instantiated.
pub const NVFP4_STATUS_NOT_PREPARED: nvfp4_status = 7;
/// The call is not allowed in the stream's capture state.
pub const NVFP4_STATUS_CAPTURE: nvfp4_status = 8;
/// The driver reported an error.
pub const NVFP4_STATUS_DEVICE_ERROR: nvfp4_status = 9;
/// An earlier error left the device context unusable; destroy the context.
pub const NVFP4_STATUS_DEVICE_POISONED: nvfp4_status = 10;
/// The handle was made before a fork; create a context in the child process.
pub const NVFP4_STATUS_FORKED: nvfp4_status = 11;
/// The workspace is smaller than its query said.
pub const NVFP4_STATUS_WORKSPACE_TOO_SMALL: nvfp4_status = 12;
/// A fault inside the library; the message holds its text.
pub const NVFP4_STATUS_INTERNAL: nvfp4_status = 13;

/// The name of a status, or `None` for a number that is none.
pub fn status_name(status: nvfp4_status) -> Option<&'static std::ffi::CStr> {
    Some(match status {
        NVFP4_STATUS_SUCCESS => c"NVFP4_STATUS_SUCCESS",
        NVFP4_STATUS_INVALID_ARGUMENT => c"NVFP4_STATUS_INVALID_ARGUMENT",
        NVFP4_STATUS_INVALID_HANDLE => c"NVFP4_STATUS_INVALID_HANDLE",
        NVFP4_STATUS_UNSUPPORTED => c"NVFP4_STATUS_UNSUPPORTED",
        NVFP4_STATUS_UNSUPPORTED_DEVICE => c"NVFP4_STATUS_UNSUPPORTED_DEVICE",
        NVFP4_STATUS_UNSUPPORTED_DRIVER => c"NVFP4_STATUS_UNSUPPORTED_DRIVER",
        NVFP4_STATUS_OUT_OF_MEMORY => c"NVFP4_STATUS_OUT_OF_MEMORY",
        NVFP4_STATUS_NOT_PREPARED => c"NVFP4_STATUS_NOT_PREPARED",
        NVFP4_STATUS_CAPTURE => c"NVFP4_STATUS_CAPTURE",
        NVFP4_STATUS_DEVICE_ERROR => c"NVFP4_STATUS_DEVICE_ERROR",
        NVFP4_STATUS_DEVICE_POISONED => c"NVFP4_STATUS_DEVICE_POISONED",
        NVFP4_STATUS_FORKED => c"NVFP4_STATUS_FORKED",
        NVFP4_STATUS_WORKSPACE_TOO_SMALL => c"NVFP4_STATUS_WORKSPACE_TOO_SMALL",
        NVFP4_STATUS_INTERNAL => c"NVFP4_STATUS_INTERNAL",
        _ => return None,
    })
}

pub type Result<T> = std::result::Result<T, Error>;

/// Why a call was refused or failed.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A required pointer is NULL.
    Null {
        argument: &'static str,
    },
    /// A required pointer is NULL, or a forbidden one is set, given what the other arguments ask for.
    Conflict {
        argument: &'static str,
        problem: String,
    },
    Misaligned {
        argument: &'static str,
        address: usize,
        alignment: usize,
    },
    NotMultiple {
        argument: &'static str,
        value: i64,
        multiple: i64,
    },
    OutOfRange {
        argument: &'static str,
        value: String,
        range: String,
    },
    UnknownValue {
        argument: &'static str,
        value: u32,
        known: &'static str,
    },
    StrideTooSmall {
        argument: &'static str,
        value: i64,
        least: i64,
    },
    TooLarge {
        argument: &'static str,
    },
    Overlap {
        first: &'static str,
        second: &'static str,
    },
    Mismatch {
        argument: &'static str,
        value: String,
        expected: String,
    },
    StructSize {
        name: &'static str,
        size: usize,
        least: usize,
    },
    StructTail {
        name: &'static str,
        size: usize,
        known: usize,
        at: usize,
    },
    Reserved {
        argument: &'static str,
        value: u64,
    },
    Handle {
        argument: &'static str,
        kind: &'static str,
        problem: &'static str,
    },
    Workspace {
        given: usize,
        needed: usize,
    },
    Unsupported {
        what: String,
        next: &'static str,
    },
    Device {
        what: String,
    },
    Driver {
        what: String,
    },
    OutOfMemory {
        bytes: usize,
    },
    NotPrepared {
        what: &'static str,
        next: &'static str,
    },
    Capture {
        what: &'static str,
        next: &'static str,
    },
    Forked {
        created: u32,
        now: u32,
    },
    /// The CUDA driver does not survive a fork.
    ForkedDriver {
        created: u32,
        now: u32,
    },
    /// A call of the CUDA driver failed; `name` is its error's name and text.
    Cuda {
        call: &'static str,
        code: u32,
        name: String,
    },
    /// An earlier [`Error::Cuda`] left the context unusable.
    Poisoned {
        by: String,
    },
    Internal {
        message: String,
    },
}

/// CUDA_ERROR_OUT_OF_MEMORY.
pub const CUDA_OUT_OF_MEMORY: u32 = 2;

/// The status that an error code of the CUDA driver becomes.
pub fn cuda_status(code: u32) -> nvfp4_status {
    match code {
        CUDA_OUT_OF_MEMORY => NVFP4_STATUS_OUT_OF_MEMORY,
        // not initialised, stub library, needs a newer driver, mismatches of kernel module and library
        3 | 34 | 36 | 803 | 804 => NVFP4_STATUS_UNSUPPORTED_DRIVER,
        // no device, no such device, no image, image refused or not compilable for it
        100 | 101 | 200 | 209 | 218 | 221..=223 => NVFP4_STATUS_UNSUPPORTED_DEVICE,
        // Errors after which every call of the context fails: memory or link failures, contained faults, illegal
        // addresses, timeouts, a destroyed context, assertions, illegal instructions, launch failures
        214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 911 => NVFP4_STATUS_DEVICE_POISONED,
        900..=908 => NVFP4_STATUS_CAPTURE,
        _ => NVFP4_STATUS_DEVICE_ERROR,
    }
}

/// Refusals that both backends make in the same words.
impl Error {
    pub const CAPTURES_ALREADY: Error =
        Error::Capture { what: "the stream captures already", next: "end that capture first" };
    pub const CAPTURES_NOT: Error = Error::Capture {
        what: "the stream does not capture",
        next: "call nvfp4_graph_begin_capture on it first",
    };
    pub const CAPTURE_BEGAN_ELSEWHERE: Error = Error::Capture {
        what: "the stream joined the capture of another stream",
        next: "end the capture on the stream that began it",
    };
    pub const EVENT_CAPTURED: Error = Error::Capture {
        what: "the event was last recorded inside a capture, where it is no point in time",
        next: "record it outside of a capture",
    };
    pub const EVENT_OF_ANOTHER_CAPTURE: Error = Error::Capture {
        what: "the event belongs to another capture than the stream",
        next: "capture both in one graph",
    };
    pub const EVENT_FROM_OUTSIDE: Error = Error::Capture {
        what: "a capturing stream cannot wait for an event from outside the capture",
        next: "wait before the capture begins",
    };
    pub const GRAPH_NOT_INSTANTIATED: Error =
        Error::NotPrepared { what: "the graph", next: "call nvfp4_graph_instantiate once" };

    pub fn event_never_recorded(argument: &'static str) -> Error {
        Error::Conflict { argument, problem: "the event was never recorded; record it first".into() }
    }

    pub fn graphs_differ() -> Error {
        Error::Unsupported {
            what: "an update from a graph with other calls in it".into(),
            next: "instantiate that graph and launch it instead",
        }
    }
}

impl Error {
    pub fn status(&self) -> nvfp4_status {
        match self {
            Error::Handle { .. } => NVFP4_STATUS_INVALID_HANDLE,
            Error::Workspace { .. } => NVFP4_STATUS_WORKSPACE_TOO_SMALL,
            Error::Unsupported { .. } => NVFP4_STATUS_UNSUPPORTED,
            Error::Device { .. } => NVFP4_STATUS_UNSUPPORTED_DEVICE,
            Error::Driver { .. } => NVFP4_STATUS_UNSUPPORTED_DRIVER,
            Error::OutOfMemory { .. } => NVFP4_STATUS_OUT_OF_MEMORY,
            Error::NotPrepared { .. } => NVFP4_STATUS_NOT_PREPARED,
            Error::Capture { .. } => NVFP4_STATUS_CAPTURE,
            Error::Forked { .. } | Error::ForkedDriver { .. } => NVFP4_STATUS_FORKED,
            Error::Cuda { code, .. } => cuda_status(*code),
            Error::Poisoned { .. } => NVFP4_STATUS_DEVICE_POISONED,
            Error::Internal { .. } => NVFP4_STATUS_INTERNAL,
            _ => NVFP4_STATUS_INVALID_ARGUMENT,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Null { argument } => write!(f, "{argument} is NULL; pass a valid pointer"),
            Error::Conflict { argument, problem } => write!(f, "{argument}: {problem}"),
            Error::Misaligned { argument, address, alignment } => {
                write!(
                    f,
                    "{argument} = {address:#x} is not aligned to {alignment} bytes; align its allocation"
                )
            }
            Error::NotMultiple { argument, value, multiple } => {
                let up = (*value as i128 + *multiple as i128 - 1) / *multiple as i128 * *multiple as i128;
                write!(f, "{argument} = {value} is not a multiple of {multiple}; pad to {up}")
            }
            Error::OutOfRange { argument, value, range } => {
                write!(f, "{argument} = {value} is out of range; it must be {range}")
            }
            Error::UnknownValue { argument, value, known } => {
                write!(f, "{argument} = {value} is not a known value; use one of {known}")
            }
            Error::StrideTooSmall { argument, value, least } => {
                write!(f, "{argument} = {value} is too small; pass 0 for dense rows or at least {least}")
            }
            Error::TooLarge { argument } => {
                write!(f, "{argument} spans more than 2^63 - 1 bytes; split the call")
            }
            Error::Overlap { first, second } => {
                write!(f, "{first} and {second} overlap; give the output memory of its own")
            }
            Error::Mismatch { argument, value, expected } => {
                write!(f, "{argument} = {value} does not fit; expected {expected}")
            }
            Error::StructSize { name, size, least } => write!(
                f,
                "{name}.struct_size = {size} is not a size of this struct; set it to sizeof({name}) (at least {least})"
            ),
            Error::StructTail { name, size, known, at } => write!(
                f,
                "{name}.struct_size = {size} is newer than this library's {known} and byte {at} is not zero; update the library or clear the unknown fields"
            ),
            Error::Reserved { argument, value } => {
                write!(f, "{argument} = {value} is reserved; set it to 0")
            }
            Error::Handle { argument, kind, problem } => {
                write!(
                    f,
                    "{argument} is not a live {kind}: {problem}; pass a {kind} that this process created and has not destroyed"
                )
            }
            Error::Workspace { given, needed } => write!(
                f,
                "workspace_size = {given} is smaller than the {needed} bytes that this call needs; ask the workspace_size function"
            ),
            Error::Unsupported { what, next } => write!(f, "{what} is not supported; {next}"),
            Error::Device { what } | Error::Driver { what } => f.write_str(what),
            Error::OutOfMemory { bytes } => {
                write!(f, "{bytes} bytes could not be allocated; free memory or trim the pool")
            }
            Error::NotPrepared { what, next } => write!(f, "{what} is not prepared; {next}"),
            Error::Capture { what, next } => write!(f, "{what}; {next}"),
            Error::Forked { created, now } => write!(
                f,
                "the context was created in process {created} and this is process {now}; create a context after the fork"
            ),
            Error::ForkedDriver { created, now } => write!(
                f,
                "process {created} used the GPU driver before it forked process {now}, where the driver cannot work; fork earlier, or start the child with exec"
            ),
            Error::Cuda { call, code, name } => {
                let next = match cuda_status(*code) {
                    NVFP4_STATUS_DEVICE_POISONED => {
                        "the device context is unusable; destroy it and end the process to use the device again"
                    }
                    NVFP4_STATUS_OUT_OF_MEMORY => "free memory or trim the pool",
                    NVFP4_STATUS_CAPTURE => "end the capture, or make the call outside of it",
                    NVFP4_STATUS_UNSUPPORTED_DRIVER => {
                        "install a driver of R580 or newer that fits the device"
                    }
                    NVFP4_STATUS_UNSUPPORTED_DEVICE => "choose another device",
                    _ => "look the error up in the CUDA driver's documentation",
                };
                write!(f, "{call} failed with {name}; {next}")
            }
            Error::Poisoned { by } => write!(
                f,
                "the device context is unusable since {by}; destroy it and end the process to use the device again"
            ),
            Error::Internal { message } => write!(f, "internal fault: {message}; please report it"),
        }
    }
}

impl std::error::Error for Error {}
