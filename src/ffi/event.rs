//! Events.

use super::args::Out;
use super::guard::guard;
use super::{context, handle, stream};
use crate::api::event::Event;
use crate::api::handles::{nvfp4_context, nvfp4_event, nvfp4_stream};
use crate::error::{Result, nvfp4_status};

/// Creates an event. Destroy it with nvfp4_event_destroy.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_event_create(
    context: *mut nvfp4_context,
    event: *mut *mut nvfp4_event,
) -> nvfp4_status {
    // SAFETY: the host's promise about `event`.
    guard("nvfp4_event_create", || unsafe {
        let out = Out::check("event", event)?;
        out.set(handle::create(Event::create(&context::get(context)?)?));
        Ok(())
    })
}

/// Destroys an event.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_event_destroy(event: *mut nvfp4_event) -> nvfp4_status {
    guard("nvfp4_event_destroy", || handle::destroy::<Event>("event", event, |_| Ok(())))
}

/// Marks the end of the work that the stream has been given so far. Inside a capture the event marks a place in it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_event_record(
    event: *mut nvfp4_event,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    guard("nvfp4_event_record", || get("event", event)?.record(&stream::get(stream)?))
}

/// Makes later work of the stream wait for the event. Waiting for an event that was recorded inside a capture brings the
/// stream into that capture, or, on a stream of it, joins the event's stream back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_event_wait(
    event: *mut nvfp4_event,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    guard("nvfp4_event_wait", || get("event", event)?.wait(&stream::get(stream)?))
}

/// Waits on the host until the event has been reached. An event that was never recorded counts as reached.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_event_synchronize(event: *mut nvfp4_event) -> nvfp4_status {
    guard("nvfp4_event_synchronize", || get("event", event)?.synchronize())
}

/// Sets `done` to 1 if the event has been reached, else to 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_event_query(event: *mut nvfp4_event, done: *mut i32) -> nvfp4_status {
    // SAFETY: the host's promise about `done`.
    guard("nvfp4_event_query", || unsafe {
        let out = Out::check("done", done)?;
        out.set(get("event", event)?.query()? as i32);
        Ok(())
    })
}

/// Milliseconds between two reached events of one context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_event_elapsed_ms(
    start: *mut nvfp4_event,
    end: *mut nvfp4_event,
    milliseconds: *mut f32,
) -> nvfp4_status {
    // SAFETY: the host's promise about `milliseconds`.
    guard("nvfp4_event_elapsed_ms", || unsafe {
        let out = Out::check("milliseconds", milliseconds)?;
        out.set(get("start", start)?.elapsed_ms(&get("end", end)?)?);
        Ok(())
    })
}

fn get(argument: &'static str, event: *const nvfp4_event) -> Result<Event> {
    let event: Event = handle::get(argument, event)?;
    event.context().check_process()?;
    Ok(event)
}
