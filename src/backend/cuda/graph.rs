//! Graphs of a device: captured, instantiated, updated, launched; and what they keep alive.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::{Device, Undisturbing};
use super::driver::*;
use super::stream::{Stream, capture_of};
use crate::backend::Keep;
use crate::error::{Error, Result};

/// A captured graph as the driver has it, with what its nodes need. Never changes.
struct Template {
    device: Arc<Device>,
    graph: CUgraph,
    keeps: Vec<Keep>,
}

impl Drop for Template {
    fn drop(&mut self) {
        self.device.release(|driver| {
            // SAFETY: nobody has the graph any more; executable graphs do not need it.
            let _ = unsafe { driver.cuGraphDestroy(self.graph) };
        });
    }
}

pub struct Graph {
    device: Arc<Device>,
    state: Mutex<State>,
}

struct State {
    template: Arc<Template>,
    exec: Option<Exec>,
    /// Templates that launches before an update may still use.
    earlier: Vec<Arc<Template>>,
}

struct Exec {
    exec: CUgraphExec,
    /// Reached when the last launch is done: launches of one graph follow one another.
    launched: CUevent,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Graph {
    pub(super) fn new(device: &Arc<Device>, graph: CUgraph, keeps: Vec<Keep>) -> Graph {
        let template = Arc::new(Template { device: Arc::clone(device), graph, keeps });
        let state = State { template, exec: None, earlier: Vec::new() };
        Graph { device: Arc::clone(device), state: Mutex::new(state) }
    }

    pub fn node_count(&self) -> Result<usize> {
        let graph = lock(&self.state).template.graph;
        let mut count = 0;
        // SAFETY: a live graph; without a list the call counts.
        self.device
            .with(|driver| unsafe { driver.cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count) })?;
        Ok(count)
    }

    pub fn instantiate(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if state.exec.is_none() {
            state.exec = Some(self.device.with(|driver| {
                // The host may be capturing another stream.
                let _mode = Undisturbing::enter(driver)?;
                Exec::create(driver, state.template.graph)
            })?);
        }
        Ok(())
    }

    /// Takes over the arguments of another graph of the same calls.
    pub fn update(&self, from: &Graph) -> Result<()> {
        let next = Arc::clone(&lock(&from.state).template);
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        self.device.with(|driver| {
            // A graph that is not instantiated is compared by way of a passing executable one.
            let passing = match &state.exec {
                Some(_) => None,
                None => Some(Exec::create(driver, state.template.graph)?),
            };
            let exec = state.exec.as_ref().or(passing.as_ref()).map_or(CUgraphExec::NULL, |exec| exec.exec);
            let mut info = CUgraphExecUpdateResultInfo {
                result: 0,
                error_node: CUgraphNode::NULL,
                error_from_node: CUgraphNode::NULL,
            };
            // SAFETY: a live executable graph and graph, a valid pointer.
            let updated = unsafe { driver.cuGraphExecUpdate(exec, next.graph, &mut info) };
            if let Some(passing) = passing {
                passing.destroy(driver);
            }
            updated.map_err(|error| match error {
                Error::Cuda { code: GRAPH_EXEC_UPDATE_FAILURE, .. } => Error::graphs_differ(),
                other => other,
            })?;
            // SAFETY: a live event.
            let idle =
                state.exec.as_ref().is_none_or(|exec| unsafe { driver.cuEventQuery(exec.launched) }.is_ok());
            if idle {
                state.earlier.clear();
            }
            let old = std::mem::replace(&mut state.template, next);
            if !idle && !old.keeps.is_empty() {
                state.earlier.push(old);
            }
            Ok(())
        })
    }

    /// Carries the graph out, or makes it a part of the stream's capture.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        let state = lock(&self.state);
        let exec = state.exec.as_ref().ok_or(Error::GRAPH_NOT_INSTANTIATED)?;
        self.device.with(|driver| {
            // SAFETY: live handles of one context.
            unsafe {
                match capture_of(driver, stream.native())? {
                    Some(inside) => {
                        let mut node = CUgraphNode::NULL;
                        let graph = state.template.graph;
                        let after = &inside.dependencies;
                        driver.cuGraphAddChildGraphNode(
                            &mut node,
                            inside.graph,
                            after.as_ptr(),
                            after.len(),
                            graph,
                        )?;
                        driver.cuStreamUpdateCaptureDependencies(
                            stream.native(),
                            &mut node,
                            std::ptr::null(),
                            1,
                            CAPTURE_SET_DEPENDENCIES,
                        )?;
                        let keep: Keep = Some(Arc::clone(&state.template) as _);
                        self.device.captures.keep(inside.id, std::iter::once(keep));
                        Ok(())
                    }
                    None => {
                        driver.cuGraphLaunch(exec.exec, stream.native())?;
                        match state.template.keeps.is_empty() && state.earlier.is_empty() {
                            true => Ok(()),
                            false => driver.cuEventRecord(exec.launched, stream.native()),
                        }
                    }
                }
            }
        })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        let keeps = !state.template.keeps.is_empty() || !state.earlier.is_empty();
        if let Some(exec) = state.exec.take() {
            self.device.release(|driver| {
                if keeps {
                    // What the graph keeps is given back only when its last launch is done.
                    // SAFETY: a live event.
                    let _ = unsafe { driver.cuEventSynchronize(exec.launched) };
                }
                exec.destroy(driver);
            });
        }
    }
}

impl Exec {
    fn create(driver: &Driver, graph: CUgraph) -> Result<Exec> {
        let (mut exec, mut launched) = (CUgraphExec::NULL, CUevent::NULL);
        // SAFETY: valid pointers, a live graph.
        unsafe {
            driver.cuEventCreate(&mut launched, EVENT_DISABLE_TIMING)?;
            match driver.cuGraphInstantiate(&mut exec, graph, 0) {
                Ok(()) => Ok(Exec { exec, launched }),
                Err(error) => {
                    let _ = driver.cuEventDestroy(launched);
                    Err(error)
                }
            }
        }
    }

    fn destroy(self, driver: &Driver) {
        // SAFETY: nobody has them any more; a launch in progress goes on.
        unsafe {
            let _ = driver.cuGraphExecDestroy(self.exec);
            let _ = driver.cuEventDestroy(self.launched);
        }
    }
}
