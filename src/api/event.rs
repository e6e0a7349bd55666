//! Events: points in a stream. Inside a capture, how streams join it and are joined back.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::capture::{Capture, Member, Seen, lock};
use super::context::Context;
use super::stream::Stream;
use crate::backend::{Backend, cuda};
use crate::error::{Error, Result};

/// A point in a stream. Clones are the same event.
#[derive(Clone)]
pub struct Event(Arc<EventInner>);

struct EventInner {
    context: Context,
    /// On the CPU.
    state: Mutex<EventState>,
    native: Option<cuda::stream::Event>,
}

enum EventState {
    Never,
    At(Instant),
    /// Recorded inside a capture, at this point.
    Captured(Arc<Capture>, Seen),
}

impl Event {
    pub fn create(context: &Context) -> Result<Event> {
        let native = match context.backend() {
            Backend::Cpu(_) => None,
            Backend::Cuda(device) => Some(cuda::stream::Event::create(device)?),
        };
        let state = Mutex::new(EventState::Never);
        Ok(Event(Arc::new(EventInner { context: context.clone(), state, native })))
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn record(&self, stream: &Stream) -> Result<()> {
        stream.check(&self.0.context)?;
        if let (Some(event), Some(stream)) = (&self.0.native, stream.native()) {
            return event.record(stream);
        }
        *lock(&self.0.state) = match stream.capture() {
            Some(capture) => {
                let point = lock(&capture.state).point(stream);
                EventState::Captured(capture, point)
            }
            None => EventState::At(Instant::now()),
        };
        Ok(())
    }

    /// Makes `stream` wait for the event; inside a capture, lets it join or joins the event's stream back.
    pub fn wait(&self, stream: &Stream) -> Result<()> {
        stream.check(&self.0.context)?;
        if let (Some(event), Some(stream)) = (&self.0.native, stream.native()) {
            return event.wait(stream);
        }
        let state = lock(&self.0.state);
        let own = stream.capture();
        match (&*state, own) {
            (EventState::Captured(capture, point), own) => {
                let mut inside = lock(&capture.state);
                if inside.members.is_empty() {
                    return Err(Error::Capture {
                        what: "the event was recorded inside a capture that has ended",
                        next: "record it again",
                    });
                }
                match own {
                    Some(own) if Arc::ptr_eq(&own, capture) => {
                        if let Some(index) = inside.index_of(stream) {
                            inside.members[index].wait_for(point);
                        }
                    }
                    Some(_) => {
                        return Err(Error::EVENT_OF_ANOTHER_CAPTURE);
                    }
                    None => {
                        inside.members.push(Member { stream: stream.clone(), work: 0, seen: point.clone() });
                        *lock(&stream.0.capture) = Some(Arc::clone(capture));
                    }
                }
                Ok(())
            }
            (_, Some(_)) => Err(Error::EVENT_FROM_OUTSIDE),
            (_, None) => Ok(()),
        }
    }

    /// Whether the work before the event is done; an event that was never recorded is.
    pub fn query(&self) -> Result<bool> {
        if let Some(event) = &self.0.native {
            return event.query();
        }
        match *lock(&self.0.state) {
            EventState::Captured(..) => Err(Error::EVENT_CAPTURED),
            EventState::Never | EventState::At(_) => Ok(true),
        }
    }

    /// Waits on the host until the event has been reached.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0.native {
            Some(event) => event.synchronize(),
            None => self.query().map(|_| ()),
        }
    }

    pub fn elapsed_ms(&self, end: &Event) -> Result<f32> {
        if !self.0.context.same(&end.0.context) {
            return Err(Error::Handle {
                argument: "end",
                kind: "event of the same context",
                problem: "it belongs to another context",
            });
        }
        if let (Some(start), Some(end)) = (&self.0.native, &end.0.native) {
            start.check_recorded("start")?;
            end.check_recorded("end")?;
            return start.elapsed_ms(end);
        }
        let (from, to) = (self.instant("start")?, end.instant("end")?);
        let ms = |later: Instant, earlier: Instant| (later - earlier).as_secs_f64() * 1e3;
        Ok(if to >= from { ms(to, from) as f32 } else { -(ms(from, to) as f32) })
    }

    fn instant(&self, argument: &'static str) -> Result<Instant> {
        match *lock(&self.0.state) {
            EventState::At(instant) => Ok(instant),
            EventState::Captured(..) => Err(Error::EVENT_CAPTURED),
            EventState::Never => Err(Error::event_never_recorded(argument)),
        }
    }
}
