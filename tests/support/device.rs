//! Calls on a device: operands stay in guarded host memory and have twins in buffers of the library.
//!
//! NVFP4_TEST_DEVICE=cuda asks for GPU 0; `staged` for the CPU by the same way, device memory being host memory there.
//! A call brings every piece of memory that its arguments point into to its twin, guards included, moves those words of the
//! arguments, runs, waits, and brings all of it back.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::null_mut;

use nvfp4::api::context::*;
use nvfp4::api::handles::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;

use super::{Library, check};

/// A piece of guarded memory of this thread, by the address of its first guard byte.
struct Piece {
    host: usize,
    /// What addresses belong to it, and how much of that is brought to the device.
    len: usize,
    staged: usize,
    buffer: *mut nvfp4_buffer,
    twin: usize,
}

thread_local! { static PIECES: RefCell<Vec<Piece>> = const { RefCell::new(Vec::new()) }; }

pub fn born(raw: &[u8]) {
    let piece =
        Piece { host: raw.as_ptr() as usize, len: raw.len(), staged: raw.len(), buffer: null_mut(), twin: 0 };
    PIECES.with_borrow_mut(|pieces| pieces.push(piece));
}

pub fn died(raw: &[u8]) {
    // Threads end in any order with their thread-locals: then the process is about to end.
    let _ = PIECES.try_with(|pieces| {
        let mut pieces = pieces.borrow_mut();
        if let Some(i) = pieces.iter().position(|p| p.host == raw.as_ptr() as usize) {
            let piece = pieces.swap_remove(i);
            if !piece.buffer.is_null() {
                // SAFETY: a handle, live or refused.
                unsafe { nvfp4_buffer_destroy(piece.buffer) };
            }
        }
    });
}

/// From now on only the first bytes of a piece are brought to the device.
pub fn stage_only(raw: &[u8], bytes: usize) {
    PIECES.with_borrow_mut(|pieces| {
        let piece =
            pieces.iter_mut().find(|p| p.host == raw.as_ptr() as usize).expect("memory of this thread");
        piece.staged = bytes.min(piece.len);
    });
}

/// What NVFP4_TEST_DEVICE asks for: its name and backend.
pub fn asked() -> Option<(&'static str, nvfp4_backend)> {
    match std::env::var("NVFP4_TEST_DEVICE").as_deref() {
        Ok("cuda") => Some(("cuda", NVFP4_BACKEND_CUDA)),
        Ok("staged") => Some(("staged", NVFP4_BACKEND_CPU)),
        Ok("cpu") | Err(_) => None,
        Ok(other) => panic!("NVFP4_TEST_DEVICE is cpu, staged or cuda, not {other}"),
    }
}

impl Library {
    /// The device that was asked for; the reason where it is not there.
    pub fn on_device() -> Option<Result<Library, String>> {
        let (name, backend) = asked()?;
        Some(Library::with_buffers(name, backend))
    }

    /// The CPU, by the way of a device.
    pub fn staged() -> Library {
        Library::with_buffers("staged", NVFP4_BACKEND_CPU).expect("a CPU context")
    }

    pub fn on_gpu() -> Result<Library, String> {
        Library::with_buffers("cuda", NVFP4_BACKEND_CUDA)
    }

    fn with_buffers(name: &'static str, backend: nvfp4_backend) -> Result<Library, String> {
        let options = nvfp4_context_options {
            struct_size: size_of::<nvfp4_context_options>(),
            backend,
            threads: if backend == NVFP4_BACKEND_CPU { 1 } else { 0 },
            ..Default::default()
        };
        let (mut context, mut stream) = (null_mut(), null_mut());
        // SAFETY: valid pointers.
        let made = unsafe {
            check(nvfp4_context_create(&options, &mut context))
                .and_then(|()| check(nvfp4_prepare(context, std::ptr::null())))
                .and_then(|()| check(nvfp4_stream_create(context, &mut stream)))
        };
        made.map(|()| Library { context, stream, name, staged: true })
    }

    /// Runs an operation of the header, staged where this is a device.
    pub fn call<A: Copy>(
        &self,
        operation: unsafe extern "C" fn(*mut nvfp4_context, *const A, *mut nvfp4_stream) -> i32,
        args: &A,
    ) -> Result<(), String> {
        // SAFETY: a struct of whole words without padding; the callers' pointers are valid.
        unsafe {
            let words = std::slice::from_raw_parts((args as *const A).cast::<u64>(), size_of::<A>() / 8);
            self.with_staged(words, |words| operation(self.context, words.cast(), self.stream))
        }
    }

    /// nvfp4_weights_prepare, staged where this is a device.
    pub fn prepare_weights(
        &self,
        args: &nvfp4_weights_prepare_args,
        weights: &mut *mut nvfp4_weights,
    ) -> Result<(), String> {
        // SAFETY: as in `call`.
        unsafe {
            let words = (args as *const nvfp4_weights_prepare_args).cast::<u64>();
            let words = std::slice::from_raw_parts(words, size_of_val(args) / 8);
            self.with_staged(words, |words| {
                nvfp4_weights_prepare(self.context, words.cast(), self.stream, weights)
            })
        }
    }

    /// Brings the operands to the device, calls, and brings them back; on a CPU it only calls.
    ///
    /// # Safety
    /// `words` are the arguments of the call that `run` makes, and their pointers are valid.
    pub unsafe fn with_staged(
        &self,
        words: &[u64],
        run: impl FnOnce(*const u64) -> i32,
    ) -> Result<(), String> {
        if !self.staged {
            return check(run(words.as_ptr()));
        }
        let mut moved = words.to_vec();
        let mut used = Vec::new();
        PIECES.with_borrow_mut(|pieces| {
            for (i, piece) in pieces.iter_mut().enumerate() {
                let (host, len) = (piece.host, piece.len);
                let inside = |word: &u64| (*word as usize).wrapping_sub(host) < len;
                // The first word is struct_size.
                if !words[1..].iter().any(inside) {
                    continue;
                }
                self.twin(piece)?;
                // SAFETY: the piece is live, its twin as long.
                check(unsafe {
                    nvfp4_buffer_upload(
                        piece.buffer,
                        offset(piece),
                        piece.host as *const c_void,
                        piece.staged,
                        self.stream,
                    )
                })?;
                for (to, from) in moved.iter_mut().zip(words).skip(1).filter(|(_, from)| inside(from)) {
                    *to = from.wrapping_sub(piece.host as u64).wrapping_add(piece.twin as u64);
                }
                used.push(i);
            }
            Ok::<(), String>(())
        })?;
        let status = check(run(moved.as_ptr()));
        PIECES.with_borrow(|pieces| {
            for piece in used.iter().map(|&i| &pieces[i]) {
                // SAFETY: as above.
                check(unsafe {
                    nvfp4_buffer_download(
                        piece.buffer,
                        offset(piece),
                        piece.host as *mut c_void,
                        piece.staged,
                        self.stream,
                    )
                })?;
            }
            // SAFETY: a live stream.
            check(unsafe { nvfp4_stream_synchronize(self.stream) })
        })?;
        status
    }

    /// Makes the twin of a piece at its first use, with all that it holds: at the same place within 256 bytes.
    fn twin(&self, piece: &mut Piece) -> Result<(), String> {
        if !piece.buffer.is_null() {
            return Ok(());
        }
        let mut data = null_mut();
        // SAFETY: valid pointers.
        unsafe {
            check(nvfp4_buffer_create(self.context, piece.len + 256, self.stream, &mut piece.buffer))?;
            check(nvfp4_buffer_data(piece.buffer, &mut data))?;
        }
        piece.twin = data as usize + piece.host % 256;
        // What is not brought again is poison all the same: a workspace is polled before anybody has written there.
        let (host, len) = (piece.host as *const c_void, piece.len);
        // SAFETY: the piece is live, its twin as long.
        check(unsafe { nvfp4_buffer_upload(piece.buffer, offset(piece), host, len, self.stream) })
    }
}

/// Where the twin begins in its buffer, whose address is a multiple of 256.
fn offset(piece: &Piece) -> usize {
    piece.host % 256
}
