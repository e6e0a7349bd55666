//! Streams: the order of work.
//!
//! On the CPU work is carried out by the calling thread as it is submitted, so a stream's order is that of the calls.
//! While a stream captures, work is recorded instead, as on a GPU (`capture.rs`).
#![allow(non_camel_case_types)]

use std::sync::{Arc, Mutex};

use super::capture::{Capture, CaptureState, Member, Node, Seen, lock};
use super::context::Context;
use super::graph::Graph;
pub use crate::backend::Keep;
use crate::backend::{Backend, cuda};
use crate::error::{Error, Result};
use crate::plan::Job;
use crate::plan::weights::PrepareProblem;

/// What may disturb a capture, as in cudaStreamBeginCapture. The CPU backend treats all three alike.
pub type nvfp4_capture_mode = u32;
/// Unsafe calls of any thread are errors.
pub const NVFP4_CAPTURE_MODE_GLOBAL: nvfp4_capture_mode = 0;
/// Unsafe calls of this thread are errors.
pub const NVFP4_CAPTURE_MODE_THREAD_LOCAL: nvfp4_capture_mode = 1;
/// No calls are errors for the capture's sake.
pub const NVFP4_CAPTURE_MODE_RELAXED: nvfp4_capture_mode = 2;

/// A queue of work. Clones are the same stream.
#[derive(Clone)]
pub struct Stream(pub(super) Arc<StreamInner>);

pub(super) struct StreamInner {
    context: Context,
    /// On the CPU: the capture that the stream is in. A GPU's driver knows that itself.
    pub(super) capture: Mutex<Option<Arc<Capture>>>,
    native: Option<Arc<cuda::stream::Stream>>,
}

impl Drop for StreamInner {
    fn drop(&mut self) {
        if let Some(native) = &self.native {
            native.retire(Arc::strong_count(native) > 1);
        }
    }
}

impl Stream {
    pub fn create(context: &Context) -> Result<Stream> {
        let native = match context.backend() {
            Backend::Cpu(_) => None,
            Backend::Cuda(device) => Some(cuda::stream::Stream::create(device)?),
        };
        Ok(Stream::new(context, native))
    }

    /// Wraps a stream of the host's. NULL: the default stream, or on the CPU a new one.
    ///
    /// # Safety
    /// `native` is a CUstream, and stays one while this stream lives.
    pub unsafe fn borrow(context: &Context, native: *mut core::ffi::c_void) -> Result<Stream> {
        match context.backend() {
            Backend::Cpu(_) if !native.is_null() => Err(Error::Conflict {
                argument: "native",
                problem: "the CPU has no native streams; pass NULL".into(),
            }),
            Backend::Cpu(_) => Stream::create(context),
            Backend::Cuda(device) => {
                // SAFETY: the caller's promise.
                let native = unsafe { cuda::stream::Stream::borrow(device, cuda::driver::CUstream(native))? };
                Ok(Stream::new(context, Some(native)))
            }
        }
    }

    fn new(context: &Context, native: Option<Arc<cuda::stream::Stream>>) -> Stream {
        Stream(Arc::new(StreamInner { context: context.clone(), capture: Mutex::new(None), native }))
    }

    /// The stream of a GPU; none on the CPU.
    pub(super) fn native(&self) -> Option<&Arc<cuda::stream::Stream>> {
        self.0.native.as_ref()
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub(super) fn same(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn capture(&self) -> Option<Arc<Capture>> {
        lock(&self.0.capture).clone()
    }

    /// Refuses a stream of another context, or of another process.
    pub fn check(&self, context: &Context) -> Result<()> {
        context.check_process()?;
        if !self.context().same(context) {
            return Err(Error::Handle {
                argument: "stream",
                kind: "stream of this context",
                problem: "it belongs to another context",
            });
        }
        Ok(())
    }

    /// Refuses a call that cannot be recorded.
    pub fn check_not_capturing(&self, what: &'static str) -> Result<()> {
        let capturing = match self.native() {
            Some(native) => native.is_capturing()?,
            None => self.capture().is_some(),
        };
        match capturing {
            true => Err(Error::Capture { what, next: "end the capture first" }),
            false => Ok(()),
        }
    }

    /// Refuses a stream that captures. After its context nobody can end the capture any more: it is dropped. Where the
    /// driver cannot tell any more, a stream of its own does not capture.
    pub fn check_destroy(&self) -> Result<()> {
        let capturing = match self.native() {
            Some(native) => native.device().is_ours() && native.is_capturing().unwrap_or(false),
            None => self.capture().is_some(),
        };
        match (capturing, self.context().check_process().is_ok()) {
            (false, _) => Ok(()),
            (true, true) => Err(Error::Capture {
                what: "a capturing stream cannot be destroyed",
                next: "end the capture first",
            }),
            (true, false) => {
                if let Some(capture) = self.capture() {
                    CaptureState::end(lock(&capture.state));
                }
                Ok(())
            }
        }
    }

    /// Waits until the work is done. On the CPU it is.
    pub fn synchronize(&self) -> Result<()> {
        self.check_not_capturing("a capturing stream cannot be waited for")?;
        self.native().map_or(Ok(()), |native| native.synchronize())
    }

    /// Whether the work is done.
    pub fn query(&self) -> Result<bool> {
        self.check_not_capturing("a capturing stream cannot be queried")?;
        self.native().map_or(Ok(true), |native| native.query())
    }

    /// Carries out a job, or records it together with what it needs to stay alive.
    ///
    /// # Safety
    /// Every address of the job is valid for what its documentation says, while it runs or the graph lives.
    pub unsafe fn submit(&self, job: Job, keep: Keep, second: Keep) -> Result<()> {
        if let Some(native) = self.native() {
            // SAFETY: the caller's promise.
            return unsafe { native.submit(&job, [keep, second]) };
        }
        match (self.capture(), self.context().backend()) {
            (None, Backend::Cpu(cpu)) => {
                // SAFETY: the caller's promise.
                unsafe { cpu.execute(&job) }
            }
            (Some(capture), _) => {
                self.record(&capture, Node::Job { job: Box::new(job), _keep: keep, _second: second })
            }
            (None, Backend::Cuda(_)) => return Err(no_native()),
        }
        Ok(())
    }

    /// Brings weights into the backend's layout. On the CPU it is done on return.
    ///
    /// # Safety
    /// Every address of the problem is valid for what its documentation says.
    pub unsafe fn prepare_weights(&self, problem: &PrepareProblem) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.native(), self.context().backend()) {
                (Some(native), _) => native.prepare_weights(problem),
                (None, Backend::Cpu(cpu)) => cpu.prepare_weights(problem),
                (None, Backend::Cuda(_)) => Err(no_native()),
            }
        }
    }

    pub(super) fn record(&self, capture: &Capture, node: Node) {
        let mut state = lock(&capture.state);
        state.nodes.push(node);
        if let Some(index) = state.index_of(self) {
            state.members[index].work += 1;
        }
    }

    pub fn begin_capture(&self, mode: nvfp4_capture_mode) -> Result<()> {
        if mode > NVFP4_CAPTURE_MODE_RELAXED {
            let known = "NVFP4_CAPTURE_MODE_GLOBAL (0), _THREAD_LOCAL (1), _RELAXED (2)";
            return Err(Error::UnknownValue { argument: "mode", value: mode, known });
        }
        if let Some(native) = self.native() {
            return native.begin_capture(mode);
        }
        let mut slot = lock(&self.0.capture);
        if slot.is_some() {
            return Err(Error::CAPTURES_ALREADY);
        }
        let origin = Member { stream: self.clone(), work: 0, seen: Seen::new() };
        let state = CaptureState { nodes: Vec::new(), members: vec![origin] };
        *slot = Some(Arc::new(Capture { state: Mutex::new(state) }));
        Ok(())
    }

    /// Ends the capture for all its streams, also where it fails.
    pub fn end_capture(&self) -> Result<Graph> {
        if let Some(native) = self.native() {
            return Ok(Graph::native(self.context(), native.end_capture()?));
        }
        let capture = self.capture().ok_or(Error::CAPTURES_NOT)?;
        let state = lock(&capture.state);
        if !state.members.first().is_some_and(|origin| origin.stream.same(self)) {
            return Err(Error::CAPTURE_BEGAN_ELSEWHERE);
        }
        let joined = state.is_joined();
        let nodes = CaptureState::end(state);
        if !joined {
            return Err(Error::Capture {
                what: "a stream of the capture has work that was not joined back; the capture is dropped",
                next: "record an event on it and wait for that on the first stream before the end",
            });
        }
        Ok(Graph::recorded(self.context(), nodes))
    }
}

pub(super) fn no_native() -> Error {
    Error::Internal { message: "a stream of a GPU without a native one".into() }
}
