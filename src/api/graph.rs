//! Graphs: recorded sequences of work.

use std::sync::{Arc, Mutex};

use super::capture::{MAX_DEPTH, Node, Recorded, lock, same_topology};
use super::context::Context;
use super::stream::{Stream, no_native};
use crate::backend::{Backend, cuda};
use crate::error::{Error, Result};

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
    recorded: Arc<Recorded>,
    instantiated: bool,
}

impl Graph {
    pub(super) fn native(context: &Context, graph: cuda::graph::Graph) -> Graph {
        Graph::new(context, Kind::Native(graph))
    }

    /// A graph of calls, not instantiated.
    pub(super) fn recorded(context: &Context, nodes: Vec<Node>) -> Graph {
        let state = Mutex::new(GraphState { recorded: Arc::new(Recorded::new(nodes)), instantiated: false });
        Graph::new(context, Kind::Recorded { state, running: Mutex::new(()) })
    }

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
            Kind::Recorded { state, .. } => Ok(lock(state).recorded.nodes.len()),
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
                let recorded = Arc::clone(&lock(other).recorded);
                let mut state = lock(state);
                if !same_topology(&state.recorded.nodes, &recorded.nodes) {
                    return Err(Error::graphs_differ());
                }
                state.recorded = recorded;
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
        let recorded = {
            let state = lock(state);
            if !state.instantiated {
                return Err(Error::GRAPH_NOT_INSTANTIATED);
            }
            Arc::clone(&state.recorded)
        };
        match stream.capture() {
            Some(_) if recorded.depth >= MAX_DEPTH => {
                return Err(Error::Unsupported {
                    what: format!("a graph inside more than {} others", MAX_DEPTH - 1),
                    next: "capture the calls themselves",
                });
            }
            Some(capture) => stream.record(&capture, Node::Graph(recorded)),
            None => {
                let _turn = lock(running);
                recorded.nodes.iter().for_each(|node| node.execute(cpu));
            }
        }
        Ok(())
    }
}
