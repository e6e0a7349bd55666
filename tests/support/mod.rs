//! What the Rust integration tests share: a library handle per instruction set, poisoned and guarded memory.
#![allow(dead_code)]

pub mod device;

use std::ffi::CStr;
use std::ptr::null_mut;

use nvfp4::api::context::*;
use nvfp4::api::handles::{nvfp4_context, nvfp4_stream};
use nvfp4::ffi::*;

/// A context and a stream of it.
pub struct Library {
    pub context: *mut nvfp4_context,
    pub stream: *mut nvfp4_stream,
    pub name: &'static str,
    /// Its operands go by `device`.
    staged: bool,
}

impl Library {
    /// `None` where this processor lacks the instruction set.
    pub fn new(isa: nvfp4_isa, threads: u32) -> Option<Library> {
        let name = match isa {
            NVFP4_ISA_PORTABLE => "portable",
            NVFP4_ISA_AVX2 => "avx2",
            NVFP4_ISA_AVX512 => "avx512",
            _ => "best",
        };
        let options = nvfp4_context_options {
            struct_size: size_of::<nvfp4_context_options>(),
            isa,
            threads,
            ..Default::default()
        };
        let (mut context, mut stream) = (null_mut(), null_mut());
        // SAFETY: valid pointers.
        unsafe {
            if nvfp4_context_create(&options, &mut context) != 0 {
                return None;
            }
            check(nvfp4_stream_create(context, &mut stream)).ok()?;
        }
        Some(Library { context, stream, name, staged: false })
    }

    /// One per instruction set that this processor has.
    pub fn all(threads: u32) -> Vec<Library> {
        [NVFP4_ISA_PORTABLE, NVFP4_ISA_AVX2, NVFP4_ISA_AVX512]
            .into_iter()
            .filter_map(|isa| Library::new(isa, threads))
            .collect()
    }

    /// (flags, first bad group), cleared on the way.
    pub fn take_faults(&self) -> (u32, i64) {
        let mut faults = nvfp4_faults { struct_size: size_of::<nvfp4_faults>(), ..Default::default() };
        // SAFETY: valid pointers.
        unsafe {
            check(nvfp4_context_faults(self.context, &mut faults)).unwrap();
            check(nvfp4_context_clear_faults(self.context)).unwrap();
        }
        (faults.flags, faults.bad_group)
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: handles of this value.
        unsafe {
            nvfp4_stream_destroy(self.stream);
            nvfp4_context_destroy(self.context);
        }
    }
}

/// The status as a result with the library's message.
pub fn check(status: i32) -> Result<(), String> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: never NULL, zero-terminated.
    let message = unsafe { CStr::from_ptr(nvfp4_last_message()) };
    Err(format!("status {status}: {}", message.to_string_lossy()))
}

const GUARD: usize = 64;
const GUARD_BYTE: u8 = 0xC3;

/// 64-byte aligned memory between guard bytes.
pub struct Memory {
    raw: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    pub fn poisoned(len: usize, poison: u8) -> Memory {
        let mut raw = vec![GUARD_BYTE; len + 3 * GUARD];
        let start = GUARD + raw[GUARD..].as_ptr().align_offset(GUARD);
        raw[start..start + len].fill(poison);
        device::born(&raw);
        Memory { raw, start, len }
    }

    pub fn from(bytes: &[u8]) -> Memory {
        let mut memory = Memory::poisoned(bytes.len(), 0);
        memory.bytes_mut().copy_from_slice(bytes);
        memory
    }

    /// Brings only the first `len` bytes to a device: the others must not matter to it.
    pub fn stage_only(&self, len: usize) {
        device::stage_only(&self.raw, self.start + len + GUARD);
    }

    pub fn bytes(&self) -> &[u8] {
        &self.raw[self.start..self.start + self.len]
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.raw[self.start..self.start + self.len]
    }
    pub fn ptr<T>(&self) -> *const T {
        self.bytes().as_ptr().cast()
    }
    pub fn ptr_mut<T>(&mut self) -> *mut T {
        self.bytes_mut().as_mut_ptr().cast()
    }
    pub fn f32s(&self) -> Vec<f32> {
        self.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Compares with the expected bytes and looks at the guards.
    pub fn expect(&self, what: &str, want: &[u8]) -> Result<(), String> {
        self.guards(what)?;
        if self.len != want.len() {
            return Err(format!("{what}: {} bytes, expected {}", self.len, want.len()));
        }
        match self.bytes().iter().zip(want).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(i) => {
                let wrong = self.bytes().iter().zip(want).filter(|(a, b)| a != b).count();
                Err(format!(
                    "{what}: byte {i} is {:#04x}, expected {:#04x} ({wrong} of {} differ)",
                    self.bytes()[i],
                    want[i],
                    self.len
                ))
            }
        }
    }

    pub fn guards(&self, what: &str) -> Result<(), String> {
        let outside = self.raw[..self.start].iter().chain(&self.raw[self.start + self.len..]);
        match outside.filter(|&&b| b != GUARD_BYTE).count() {
            0 => Ok(()),
            n => Err(format!("{what}: {n} guard bytes overwritten")),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        device::died(&self.raw);
    }
}
