//! Captures on the CPU: what is recorded while streams capture, and which work of which stream comes after which.
//!
//! A stream joins a capture by waiting for an event that was recorded inside it, and must be joined back before the end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stream::Stream;
use crate::backend::Keep;
use crate::backend::cpu::Cpu;
use crate::plan::Job;

pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One recorded piece of work.
pub(super) enum Node {
    Job { job: Box<Job>, _keep: Keep, _second: Keep },
    Graph(Arc<Recorded>),
}

/// The nodes of a graph.
pub(super) struct Recorded {
    pub(super) nodes: Vec<Node>,
    /// Graphs inside one another, this one counted.
    pub(super) depth: usize,
}

/// Graphs that may stand inside one another: each takes a part of the stack when it is launched or dropped.
pub(super) const MAX_DEPTH: usize = 64;

impl Node {
    /// Whether a graph update may put `other` in this node's place.
    pub(super) fn same_kind(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Job { job: a, .. }, Node::Job { job: b, .. }) => {
                std::mem::discriminant(&**a) == std::mem::discriminant(&**b)
            }
            (Node::Graph(a), Node::Graph(b)) => Arc::ptr_eq(a, b) || same_topology(&a.nodes, &b.nodes),
            _ => false,
        }
    }

    pub(super) fn depth(&self) -> usize {
        match self {
            Node::Job { .. } => 0,
            Node::Graph(graph) => graph.depth,
        }
    }

    pub(super) fn execute(&self, cpu: &Cpu) {
        match self {
            // SAFETY: whoever captured the call vouched for its addresses until the graph is destroyed.
            Node::Job { job, .. } => unsafe { cpu.execute(job) },
            Node::Graph(graph) => graph.nodes.iter().for_each(|node| node.execute(cpu)),
        }
    }
}

impl Recorded {
    pub(super) fn new(nodes: Vec<Node>) -> Recorded {
        let depth = 1 + nodes.iter().map(Node::depth).max().unwrap_or(0);
        Recorded { nodes, depth }
    }
}

pub(super) fn same_topology(a: &[Node], b: &[Node]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_kind(b))
}

/// A capture in progress, shared by the streams in it.
pub(super) struct Capture {
    pub(super) state: Mutex<CaptureState>,
}

pub(super) struct CaptureState {
    pub(super) nodes: Vec<Node>,
    /// Streams in the capture, the origin first.
    pub(super) members: Vec<Member>,
}

/// How much of each member's work a point in a capture comes after, by the member's index; what is missing is 0.
pub(super) type Seen = Vec<usize>;

pub(super) struct Member {
    pub(super) stream: Stream,
    /// Nodes that were recorded on the stream.
    pub(super) work: usize,
    /// What its next node comes after, its own work aside.
    pub(super) seen: Seen,
}

impl CaptureState {
    /// Lets the streams out of the capture and hands out what they recorded.
    pub(super) fn end(mut state: MutexGuard<CaptureState>) -> Vec<Node> {
        let (nodes, members) = (std::mem::take(&mut state.nodes), std::mem::take(&mut state.members));
        drop(state);
        for member in &members {
            *lock(&member.stream.0.capture) = None;
        }
        nodes
    }

    pub(super) fn index_of(&self, stream: &Stream) -> Option<usize> {
        self.members.iter().position(|member| member.stream.same(stream))
    }

    /// The point that a stream of the capture has reached.
    pub(super) fn point(&self, stream: &Stream) -> Seen {
        let Some(index) = self.index_of(stream) else { return Seen::new() };
        let mut seen = self.members[index].seen.clone();
        seen.resize(seen.len().max(index + 1), 0);
        seen[index] = self.members[index].work;
        seen
    }

    /// The origin comes after all work of all streams.
    pub(super) fn is_joined(&self) -> bool {
        let seen = &self.members[0].seen;
        self.members.iter().enumerate().skip(1).all(|(i, m)| seen.get(i).copied().unwrap_or(0) >= m.work)
    }
}

impl Member {
    pub(super) fn wait_for(&mut self, point: &Seen) {
        self.seen.resize(self.seen.len().max(point.len()), 0);
        self.seen.iter_mut().zip(point).for_each(|(own, &other)| *own = (*own).max(other));
    }
}
