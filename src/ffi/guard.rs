//! The border of every C function: errors become a status and a message, panics become `INTERNAL`, nothing is printed.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::c_char;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use super::version::log;
use crate::error::{Error, NVFP4_STATUS_SUCCESS, Result, nvfp4_status};

/// Bytes a message may have, its terminating zero counted.
const MESSAGE_SIZE: usize = 512;

thread_local! {
    static MESSAGE: RefCell<[u8; MESSAGE_SIZE]> = const { RefCell::new([0; MESSAGE_SIZE]) };
    /// This thread is inside a C function: the panic hook stays silent.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static INJECT: Cell<bool> = const { Cell::new(false) };
}

/// Makes the next guarded C function on this thread panic inside. For tests; not exported to C.
#[doc(hidden)]
pub fn inject_panic() {
    INJECT.set(true);
}

/// Runs the body of a C function.
pub fn guard(function: &'static str, body: impl FnOnce() -> Result<()>) -> nvfp4_status {
    match run(body) {
        Ok(()) => NVFP4_STATUS_SUCCESS,
        Err(error) => fail(function, &error),
    }
}

/// Runs the body of a C function that has no status to return.
pub fn guard_value<T>(function: &'static str, default: T, body: impl FnOnce() -> Result<T>) -> T {
    run(body).unwrap_or_else(|error| {
        fail(function, &error);
        default
    })
}

fn run<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(silence_own_panics);
    let outer = INSIDE.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if INJECT.take() {
            panic!("injected");
        }
        body()
    }));
    INSIDE.set(outer);
    outcome.unwrap_or_else(|payload| Err(Error::Internal { message: panic_text(payload.as_ref()) }))
}

/// The hook that was there before still sees every panic that is not ours.
fn silence_own_panics() {
    let host = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let worker = std::thread::current().name().is_some_and(|name| name.starts_with("nvfp4-"));
        if !INSIDE.get() && !worker {
            host(info);
        }
    }));
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_string()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a text".into()
    }
}

fn fail(function: &'static str, error: &Error) -> nvfp4_status {
    MESSAGE.with_borrow_mut(|buffer| {
        let mut rest = &mut buffer[..MESSAGE_SIZE - 1];
        // A message that does not fit is cut; writing to a slice fails in no other way.
        let _ = write!(rest, "{function}: {error}");
        let end = MESSAGE_SIZE - 1 - rest.len();
        buffer[end] = 0;
        cut_at_character(&mut buffer[..end]);
    });
    // The callback may call the library, and fail there: nothing is borrowed meanwhile, and the message of this call is
    // the one that stays.
    let message = MESSAGE.with_borrow(|buffer| *buffer);
    log(0, &message);
    MESSAGE.set(message);
    error.status()
}

/// A cut in the middle of a UTF-8 character would make the message unreadable for strict decoders.
fn cut_at_character(text: &mut [u8]) {
    if let Err(e) = std::str::from_utf8(text) {
        text[e.valid_up_to()] = 0;
    }
}

/// The message of the last failed call on this thread.
pub fn last_message() -> *const c_char {
    MESSAGE.with_borrow(|buffer| buffer.as_ptr().cast())
}
