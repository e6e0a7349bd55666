//! Streams, events and graphs: the order of work, and recorded sequences of it.
//!
//! On the CPU work is carried out by the calling thread as it is submitted, so a stream's order is that of the calls.
//! While a stream captures, work is recorded instead, as on a GPU; other streams join a capture by waiting for an event
//! that was recorded inside it, and must be joined back before the capture ends.
#![allow(non_camel_case_types)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::context::Context;
pub use crate::backend::Keep;
use crate::backend::cpu::Cpu;
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

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One recorded piece of work.
enum Node {
    Job { job: Box<Job>, _keep: Keep, _second: Keep },
    Graph(Arc<Vec<Node>>),
}

impl Node {
    /// Whether a graph update may put `other` in this node's place.
    fn same_kind(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Job { job: a, .. }, Node::Job { job: b, .. }) => {
                std::mem::discriminant(&**a) == std::mem::discriminant(&**b)
            }
            (Node::Graph(a), Node::Graph(b)) => same_topology(a, b),
            _ => false,
        }
    }

    fn execute(&self, cpu: &Cpu) {
        match self {
            // SAFETY: whoever captured the call vouched for its addresses until the graph is destroyed.
            Node::Job { job, .. } => unsafe { cpu.execute(job) },
            Node::Graph(nodes) => nodes.iter().for_each(|node| node.execute(cpu)),
        }
    }
}

fn same_topology(a: &[Node], b: &[Node]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_kind(b))
}

/// A capture in progress, shared by the streams in it.
struct Capture {
    state: Mutex<CaptureState>,
}

struct CaptureState {
    nodes: Vec<Node>,
    /// Streams in the capture, the origin first.
    members: Vec<Member>,
}

/// How much of each member's work a point in a capture comes after, by the member's index; what is missing is 0.
type Seen = Vec<usize>;

struct Member {
    stream: Stream,
    /// Nodes that were recorded on the stream.
    work: usize,
    /// What its next node comes after, its own work aside.
    seen: Seen,
}

impl CaptureState {
    fn index_of(&self, stream: &Stream) -> Option<usize> {
        self.members.iter().position(|member| member.stream.same(stream))
    }

    /// The point that a stream of the capture has reached.
    fn point(&self, stream: &Stream) -> Seen {
        let Some(index) = self.index_of(stream) else { return Seen::new() };
        let mut seen = self.members[index].seen.clone();
        seen.resize(seen.len().max(index + 1), 0);
        seen[index] = self.members[index].work;
        seen
    }

    /// The origin comes after all work of all streams.
    fn is_joined(&self) -> bool {
        let seen = &self.members[0].seen;
        self.members.iter().enumerate().skip(1).all(|(i, m)| seen.get(i).copied().unwrap_or(0) >= m.work)
    }
}

impl Member {
    fn wait_for(&mut self, point: &Seen) {
        self.seen.resize(self.seen.len().max(point.len()), 0);
        self.seen.iter_mut().zip(point).for_each(|(own, &other)| *own = (*own).max(other));
    }
}

/// A queue of work. Clones are the same stream.
#[derive(Clone)]
pub struct Stream(Arc<StreamInner>);

struct StreamInner {
    context: Context,
    /// On the CPU: the capture that the stream is in. A GPU's driver knows that itself.
    capture: Mutex<Option<Arc<Capture>>>,
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

    fn same(&self, other: &Stream) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn capture(&self) -> Option<Arc<Capture>> {
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

    /// Refuses to destroy a stream that captures. Where the driver cannot tell any more, it does not.
    pub fn check_destroyable(&self) -> Result<()> {
        let capturing = match self.native() {
            Some(native) => native.device().is_ours() && native.is_capturing().unwrap_or(false),
            None => self.capture().is_some(),
        };
        match capturing {
            true => Err(Error::Capture {
                what: "a capturing stream cannot be destroyed",
                next: "end the capture first",
            }),
            false => Ok(()),
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

    fn record(&self, capture: &Capture, node: Node) {
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
            return Ok(Graph::new(self.context(), Kind::Native(native.end_capture()?)));
        }
        let capture = self.capture().ok_or(Error::CAPTURES_NOT)?;
        let (nodes, members, joined) = {
            let mut state = lock(&capture.state);
            if !state.members.first().is_some_and(|origin| origin.stream.same(self)) {
                return Err(Error::CAPTURE_BEGAN_ELSEWHERE);
            }
            let joined = state.is_joined();
            (std::mem::take(&mut state.nodes), std::mem::take(&mut state.members), joined)
        };
        for member in &members {
            *lock(&member.stream.0.capture) = None;
        }
        if !joined {
            return Err(Error::Capture {
                what: "a stream of the capture has work that was not joined back; the capture is dropped",
                next: "record an event on it and wait for that on the first stream before the end",
            });
        }
        let state = Mutex::new(GraphState { nodes: Arc::new(nodes), instantiated: false });
        Ok(Graph::new(self.context(), Kind::Recorded { state, running: Mutex::new(()) }))
    }
}

pub(super) fn no_native() -> Error {
    Error::Internal { message: "a stream of a GPU without a native one".into() }
}

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

/// A recorded sequence of calls. Clones are the same graph.
#[derive(Clone)]
pub struct Graph(Arc<GraphInner>);

struct GraphInner {
    context: Context,
    kind: Kind,
}

enum Kind {
    /// Calls, carried out by the CPU.
    Recorded {
        state: Mutex<GraphState>,
        /// Held while a launch runs: launches of one graph never overlap.
        running: Mutex<()>,
    },
    /// A graph of the driver's.
    Native(cuda::graph::Graph),
}

struct GraphState {
    nodes: Arc<Vec<Node>>,
    instantiated: bool,
}

impl Graph {
    fn new(context: &Context, kind: Kind) -> Graph {
        Graph(Arc::new(GraphInner { context: context.clone(), kind }))
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn instantiate(&self) -> Result<()> {
        match &self.0.kind {
            Kind::Recorded { state, .. } => {
                lock(state).instantiated = true;
                Ok(())
            }
            Kind::Native(graph) => graph.instantiate(),
        }
    }

    pub fn node_count(&self) -> Result<usize> {
        match &self.0.kind {
            Kind::Recorded { state, .. } => Ok(lock(state).nodes.len()),
            Kind::Native(graph) => graph.node_count(),
        }
    }

    /// Takes over the arguments of another graph of the same calls.
    pub fn update(&self, from: &Graph) -> Result<()> {
        if !self.context().same(from.context()) {
            return Err(Error::Handle {
                argument: "from",
                kind: "graph of the same context",
                problem: "it belongs to another context",
            });
        }
        match (&self.0.kind, &from.0.kind) {
            (Kind::Recorded { state, .. }, Kind::Recorded { state: other, .. }) => {
                let nodes = Arc::clone(&lock(other).nodes);
                let mut state = lock(state);
                if !same_topology(&state.nodes, &nodes) {
                    return Err(Error::graphs_differ());
                }
                state.nodes = nodes;
                Ok(())
            }
            (Kind::Native(graph), Kind::Native(from)) => graph.update(from),
            _ => Err(Error::graphs_differ()),
        }
    }

    pub fn launch(&self, stream: &Stream) -> Result<()> {
        stream.check(&self.0.context)?;
        let (state, running, cpu) = match (&self.0.kind, stream.native(), self.context().backend()) {
            (Kind::Native(graph), Some(stream), _) => return graph.launch(stream),
            (Kind::Recorded { state, running }, None, Backend::Cpu(cpu)) => (state, running, cpu),
            _ => return Err(no_native()),
        };
        let nodes = {
            let state = lock(state);
            if !state.instantiated {
                return Err(Error::GRAPH_NOT_INSTANTIATED);
            }
            Arc::clone(&state.nodes)
        };
        match stream.capture() {
            Some(capture) => stream.record(&capture, Node::Graph(nodes)),
            None => {
                let _turn = lock(running);
                nodes.iter().for_each(|node| node.execute(cpu));
            }
        }
        Ok(())
    }
}
