//! Streams, events and graphs: the order of work, and recorded sequences of it.
//!
//! On the CPU work is carried out by the calling thread as it is submitted, so a stream's order is that of the calls.
//! While a stream captures, work is recorded instead, as on a GPU; other streams join a capture by waiting for an event
//! that was recorded inside it, and must be joined back before the capture ends.
#![allow(non_camel_case_types)]

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::context::Context;
use crate::error::{Error, Result};
use crate::plan::Job;

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

/// What a recorded job needs to stay alive: weights or buffers.
pub type Keep = Option<Arc<dyn Send + Sync>>;

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

    fn execute(&self, context: &Context) {
        match self {
            // SAFETY: whoever captured the call vouched for its addresses until the graph is destroyed.
            Node::Job { job, .. } => unsafe { context.cpu().execute(job) },
            Node::Graph(nodes) => nodes.iter().for_each(|node| node.execute(context)),
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
    /// Streams in the capture, the origin first, and whether each has work that the origin has not waited for.
    members: Vec<(Stream, bool)>,
}

/// A queue of work. Clones are the same stream.
#[derive(Clone)]
pub struct Stream(Arc<StreamInner>);

struct StreamInner {
    context: Context,
    capture: Mutex<Option<Arc<Capture>>>,
}

impl Stream {
    pub fn create(context: &Context) -> Stream {
        Stream(Arc::new(StreamInner { context: context.clone(), capture: Mutex::new(None) }))
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
        match self.capture() {
            Some(_) => Err(Error::Capture { what, next: "end the capture first" }),
            None => Ok(()),
        }
    }

    /// Carries out a job, or records it together with what it needs to stay alive.
    ///
    /// # Safety
    /// Every address of the job is valid for what its documentation says, while it runs or the graph lives.
    pub unsafe fn submit(&self, job: Job, keep: Keep, second: Keep) {
        match self.capture() {
            None => {
                // SAFETY: the caller's promise.
                unsafe { self.context().cpu().execute(&job) }
            }
            Some(capture) => {
                self.record(&capture, Node::Job { job: Box::new(job), _keep: keep, _second: second })
            }
        }
    }

    fn record(&self, capture: &Capture, node: Node) {
        let mut state = lock(&capture.state);
        state.nodes.push(node);
        if let Some((_, unjoined)) = state.members.iter_mut().skip(1).find(|(s, _)| s.same(self)) {
            *unjoined = true;
        }
    }

    pub fn begin_capture(&self, mode: nvfp4_capture_mode) -> Result<()> {
        if mode > NVFP4_CAPTURE_MODE_RELAXED {
            let known = "NVFP4_CAPTURE_MODE_GLOBAL (0), _THREAD_LOCAL (1), _RELAXED (2)";
            return Err(Error::UnknownValue { argument: "mode", value: mode, known });
        }
        let mut slot = lock(&self.0.capture);
        if slot.is_some() {
            return Err(Error::Capture {
                what: "the stream captures already",
                next: "end that capture first",
            });
        }
        let state = CaptureState { nodes: Vec::new(), members: vec![(self.clone(), false)] };
        *slot = Some(Arc::new(Capture { state: Mutex::new(state) }));
        Ok(())
    }

    /// Ends the capture for all its streams, also where it fails.
    pub fn end_capture(&self) -> Result<Graph> {
        let not_begun = Error::Capture {
            what: "the stream does not capture",
            next: "call nvfp4_graph_begin_capture on it first",
        };
        let capture = self.capture().ok_or(not_begun)?;
        let (nodes, members) = {
            let mut state = lock(&capture.state);
            if !state.members[0].0.same(self) {
                return Err(Error::Capture {
                    what: "the stream joined the capture of another stream",
                    next: "end the capture on the stream that began it",
                });
            }
            (std::mem::take(&mut state.nodes), std::mem::take(&mut state.members))
        };
        for (member, _) in &members {
            *lock(&member.0.capture) = None;
        }
        if members.iter().any(|(_, unjoined)| *unjoined) {
            return Err(Error::Capture {
                what: "a stream of the capture has work that was not joined back; the capture is dropped",
                next: "record an event on it and wait for that on the first stream before the end",
            });
        }
        Ok(Graph(Arc::new(GraphInner {
            context: self.context().clone(),
            state: Mutex::new(GraphState { nodes: Arc::new(nodes), instantiated: false }),
            running: Mutex::new(()),
        })))
    }
}

/// A point in a stream. Clones are the same event.
#[derive(Clone)]
pub struct Event(Arc<EventInner>);

struct EventInner {
    context: Context,
    state: Mutex<EventState>,
}

enum EventState {
    Never,
    At(Instant),
    /// Recorded inside a capture, on this stream.
    Captured(Arc<Capture>, Stream),
}

const CAPTURED: Error = Error::Capture {
    what: "the event was last recorded inside a capture, where it is no point in time",
    next: "record it outside of a capture",
};

impl Event {
    pub fn create(context: &Context) -> Event {
        Event(Arc::new(EventInner { context: context.clone(), state: Mutex::new(EventState::Never) }))
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn record(&self, stream: &Stream) -> Result<()> {
        stream.check(&self.0.context)?;
        *lock(&self.0.state) = match stream.capture() {
            Some(capture) => EventState::Captured(capture, stream.clone()),
            None => EventState::At(Instant::now()),
        };
        Ok(())
    }

    /// Makes `stream` wait for the event; inside a capture, lets it join or joins the event's stream back.
    pub fn wait(&self, stream: &Stream) -> Result<()> {
        stream.check(&self.0.context)?;
        let state = lock(&self.0.state);
        let own = stream.capture();
        match (&*state, own) {
            (EventState::Captured(capture, source), own) => {
                let mut inside = lock(&capture.state);
                if inside.members.is_empty() {
                    return Err(Error::Capture {
                        what: "the event was recorded inside a capture that has ended",
                        next: "record it again",
                    });
                }
                match own {
                    Some(own) if Arc::ptr_eq(&own, capture) => {
                        if let Some(member) = inside.members.iter_mut().find(|(s, _)| s.same(source)) {
                            member.1 = false;
                        }
                    }
                    Some(_) => {
                        return Err(Error::Capture {
                            what: "the event belongs to another capture than the stream",
                            next: "capture both in one graph",
                        });
                    }
                    None => {
                        inside.members.push((stream.clone(), false));
                        *lock(&stream.0.capture) = Some(Arc::clone(capture));
                    }
                }
                Ok(())
            }
            (_, Some(_)) => Err(Error::Capture {
                what: "a capturing stream cannot wait for an event from outside the capture",
                next: "wait before the capture begins",
            }),
            (_, None) => Ok(()),
        }
    }

    /// Whether the work before the event is done; an event that was never recorded is.
    pub fn query(&self) -> Result<bool> {
        match *lock(&self.0.state) {
            EventState::Captured(..) => Err(CAPTURED),
            EventState::Never | EventState::At(_) => Ok(true),
        }
    }

    pub fn elapsed_ms(&self, end: &Event) -> Result<f32> {
        let (from, to) = (self.instant("start")?, end.instant("end")?);
        let ms = |later: Instant, earlier: Instant| (later - earlier).as_secs_f64() * 1e3;
        Ok(if to >= from { ms(to, from) as f32 } else { -(ms(from, to) as f32) })
    }

    fn instant(&self, argument: &'static str) -> Result<Instant> {
        match *lock(&self.0.state) {
            EventState::At(instant) => Ok(instant),
            EventState::Captured(..) => Err(CAPTURED),
            EventState::Never => Err(Error::Conflict {
                argument,
                problem: "the event was never recorded; record it first".into(),
            }),
        }
    }
}

/// A recorded sequence of calls. Clones are the same graph.
#[derive(Clone)]
pub struct Graph(Arc<GraphInner>);

struct GraphInner {
    context: Context,
    state: Mutex<GraphState>,
    /// Held while a launch runs: launches of one graph never overlap.
    running: Mutex<()>,
}

struct GraphState {
    nodes: Arc<Vec<Node>>,
    instantiated: bool,
}

impl Graph {
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    pub fn instantiate(&self) {
        lock(&self.0.state).instantiated = true;
    }

    pub fn node_count(&self) -> usize {
        lock(&self.0.state).nodes.len()
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
        let nodes = Arc::clone(&lock(&from.0.state).nodes);
        let mut state = lock(&self.0.state);
        if !same_topology(&state.nodes, &nodes) {
            return Err(Error::Unsupported {
                what: "an update from a graph with other calls in it".into(),
                next: "instantiate that graph and launch it instead",
            });
        }
        state.nodes = nodes;
        Ok(())
    }

    pub fn launch(&self, stream: &Stream) -> Result<()> {
        stream.check(&self.0.context)?;
        let nodes = {
            let state = lock(&self.0.state);
            if !state.instantiated {
                return Err(Error::NotPrepared {
                    what: "the graph",
                    next: "call nvfp4_graph_instantiate once",
                });
            }
            Arc::clone(&state.nodes)
        };
        match stream.capture() {
            Some(capture) => stream.record(&capture, Node::Graph(nodes)),
            None => {
                let _turn = lock(&self.0.running);
                nodes.iter().for_each(|node| node.execute(&self.0.context));
            }
        }
        Ok(())
    }
}
