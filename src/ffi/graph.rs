//! Graphs.

use super::args::Out;
use super::guard::guard;
use super::{handle, stream};
use crate::api::graph::Graph;
use crate::api::handles::{nvfp4_graph, nvfp4_stream};
use crate::api::stream::nvfp4_capture_mode;
use crate::error::{Result, nvfp4_status};

/// Begins to record the stream's work instead of carrying it out. Calls that are refused at other times are refused
/// while recording too, with the same messages; calls that would allocate, wait or create are refused as CAPTURE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_graph_begin_capture(
    stream: *mut nvfp4_stream,
    mode: nvfp4_capture_mode,
) -> nvfp4_status {
    guard("nvfp4_graph_begin_capture", || stream::get(stream)?.begin_capture(mode))
}

/// Ends the recording that began on this stream and hands out a graph. Destroy it with nvfp4_graph_destroy.
/// The memory that the recorded calls were given must stay valid while the graph may be launched; weights and buffers
/// of copies are kept alive by the graph.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_graph_end_capture(
    stream: *mut nvfp4_stream,
    graph: *mut *mut nvfp4_graph,
) -> nvfp4_status {
    // SAFETY: the host's promise about `graph`.
    guard("nvfp4_graph_end_capture", || unsafe {
        let out = Out::check("graph", graph)?;
        out.set(handle::create(stream::get(stream)?.end_capture()?));
        Ok(())
    })
}

/// Makes a graph ready for launches. Needed once.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_graph_instantiate(graph: *mut nvfp4_graph) -> nvfp4_status {
    guard("nvfp4_graph_instantiate", || get("graph", graph)?.instantiate())
}

/// Gives a graph the arguments of another one that recorded the same calls; UNSUPPORTED where they differ.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_graph_update(
    graph: *mut nvfp4_graph,
    from: *const nvfp4_graph,
) -> nvfp4_status {
    guard("nvfp4_graph_update", || get("graph", graph)?.update(&get("from", from)?))
}

/// Carries out the recorded calls in the order of the stream. Launches of one graph never overlap. On a capturing
/// stream the graph becomes a part of the new one, up to 64 inside one another.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_graph_launch(
    graph: *mut nvfp4_graph,
    stream: *mut nvfp4_stream,
) -> nvfp4_status {
    guard("nvfp4_graph_launch", || get("graph", graph)?.launch(&stream::get(stream)?))
}

/// How many calls a graph has recorded; on a GPU its nodes, of which a call may have several.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_graph_node_count(graph: *mut nvfp4_graph, count: *mut usize) -> nvfp4_status {
    // SAFETY: the host's promise about `count`.
    guard("nvfp4_graph_node_count", || unsafe {
        let out = Out::check("count", count)?;
        out.set(get("graph", graph)?.node_count()?);
        Ok(())
    })
}

/// Destroys a graph; a launch in progress goes on.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvfp4_graph_destroy(graph: *mut nvfp4_graph) -> nvfp4_status {
    guard("nvfp4_graph_destroy", || handle::destroy::<Graph>("graph", graph, |_| Ok(())))
}

fn get(argument: &'static str, graph: *const nvfp4_graph) -> Result<Graph> {
    let graph: Graph = handle::get(argument, graph)?;
    graph.context().check_process()?;
    Ok(graph)
}
