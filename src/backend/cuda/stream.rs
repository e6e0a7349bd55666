//! Streams of a device, created or borrowed, their captures, and events.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::Device;
use super::driver::*;
use super::graph::Graph;
use super::launch::Queue;
use super::pool::Block;
use crate::backend::Keep;
use crate::error::{Error, Result};
use crate::plan::Job;

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream. Buffers hold it too, so that their memory can be freed in its order.
pub struct Stream {
    device: Arc<Device>,
    native: CUstream,
    owned: bool,
    /// The capture that was begun here.
    capture: Mutex<Option<u64>>,
    retired: Mutex<Retired>,
}

/// A borrowed stream must not be touched once its handle is destroyed.
enum Retired {
    No,
    /// Reached when the work that the stream had been given by then is done; none where the driver refused one.
    At(Option<CUevent>),
}

/// What the jobs of captures that we began need to stay alive, by capture.
#[derive(Default)]
pub struct Captures {
    count: AtomicUsize,
    open: Mutex<Vec<(u64, Vec<Keep>)>>,
}

impl Captures {
    fn begin(&self, id: u64) {
        lock(&self.open).push((id, Vec::new()));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn end(&self, id: u64) -> Vec<Keep> {
        let mut open = lock(&self.open);
        match open.iter().position(|(own, _)| *own == id) {
            Some(at) => {
                self.count.fetch_sub(1, Ordering::Relaxed);
                open.swap_remove(at).1
            }
            None => Vec::new(),
        }
    }

    pub(super) fn keep(&self, id: u64, keeps: impl Iterator<Item = Keep>) {
        if let Some((_, list)) = lock(&self.open).iter_mut().find(|(own, _)| *own == id) {
            list.extend(keeps);
        }
    }
}

/// A capture that a stream is part of.
pub(super) struct Inside {
    pub id: u64,
    pub graph: CUgraph,
    pub dependencies: Vec<CUgraphNode>,
}

/// The capture that a stream is part of, if it is part of one that goes well.
///
/// # Safety
/// The stream is one of the current context.
pub(super) unsafe fn capture_of(driver: &Driver, stream: CUstream) -> Result<Option<Inside>> {
    let (mut status, mut id, mut graph, mut count) = (0, 0, CUgraph::NULL, 0);
    let (mut nodes, mut edges) = (std::ptr::null(), std::ptr::null());
    // SAFETY: valid pointers; the list of nodes is valid until the next call for the stream.
    unsafe {
        driver.cuStreamGetCaptureInfo(
            stream,
            &mut status,
            &mut id,
            &mut graph,
            &mut nodes,
            &mut edges,
            &mut count,
        )?;
        if status == CAPTURE_NONE {
            return Ok(None);
        }
        let dependencies = match nodes.is_null() {
            true => Vec::new(),
            false => std::slice::from_raw_parts(nodes, count).to_vec(),
        };
        Ok(Some(Inside { id, graph, dependencies }))
    }
}

/// # Safety
/// As [`capture_of`].
pub(super) unsafe fn is_capturing(driver: &Driver, stream: CUstream) -> Result<bool> {
    let mut status = 0;
    // SAFETY: a valid pointer.
    unsafe { driver.cuStreamIsCapturing(stream, &mut status)? };
    Ok(status != CAPTURE_NONE)
}

impl Stream {
    pub fn create(device: &Arc<Device>) -> Result<Arc<Stream>> {
        let mut native = CUstream::NULL;
        // SAFETY: a valid pointer.
        device.with(|driver| unsafe { driver.cuStreamCreate(&mut native, STREAM_NON_BLOCKING) })?;
        Ok(Stream::new(device, native, true))
    }

    /// A stream of the host's; NULL is the legacy default stream.
    ///
    /// # Safety
    /// `native` is a CUstream of the device's context, and stays one until [`Stream::retire`].
    pub unsafe fn borrow(device: &Arc<Device>, native: CUstream) -> Result<Arc<Stream>> {
        device.with(|driver| {
            let mut context = CUcontext::NULL;
            // SAFETY: the caller's promise.
            unsafe { driver.cuStreamGetCtx(native, &mut context)? };
            if context != device.context() {
                return Err(Error::Conflict {
                    argument: "native",
                    problem: "the stream belongs to another CUDA context; borrow one of this context's device, or create the context with NVFP4_CONTEXT_ADOPT_CURRENT".into(),
                });
            }
            Ok(())
        })?;
        Ok(Stream::new(device, native, false))
    }

    fn new(device: &Arc<Device>, native: CUstream, owned: bool) -> Arc<Stream> {
        Arc::new(Stream {
            device: Arc::clone(device),
            native,
            owned,
            capture: Mutex::new(None),
            retired: Mutex::new(Retired::No),
        })
    }

    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    pub(super) fn native(&self) -> CUstream {
        self.native
    }

    /// The handle is gone: a borrowed stream is the host's alone from now on. `needed`: memory is to be freed in its
    /// order later.
    pub fn retire(&self, needed: bool) {
        // What a capture keeps that can never be ended any more holds the device, and through it this very list.
        let abandoned = lock(&self.capture).take().map(|id| self.device.captures.end(id));
        drop(abandoned);
        let mut retired = lock(&self.retired);
        if self.owned || matches!(*retired, Retired::At(_)) {
            return;
        }
        let mut reached = None;
        if needed {
            self.device.release(|driver| {
                let mut event = CUevent::NULL;
                // SAFETY: valid pointers; the stream is still the host's promise.
                unsafe {
                    if driver.cuEventCreate(&mut event, EVENT_DISABLE_TIMING).is_ok() {
                        match driver.cuEventRecord(event, self.native) {
                            Ok(()) => reached = Some(event),
                            Err(_) => drop(driver.cuEventDestroy(event)),
                        }
                    }
                }
            });
        }
        *retired = Retired::At(reached);
    }

    /// Frees pool memory after the stream's work so far. Failures leave nothing to do.
    ///
    /// # Safety
    /// The address is a block of the pool that nobody uses any more but work of this stream.
    pub(super) unsafe fn free(&self, driver: &Driver, address: CUdeviceptr) {
        let retired = lock(&self.retired);
        // SAFETY: the caller's promise; the stream is alive unless retired.
        unsafe {
            let _ = match *retired {
                Retired::No => driver.cuMemFreeAsync(address, self.native),
                Retired::At(Some(event)) => {
                    driver.cuEventSynchronize(event).and_then(|()| driver.cuMemFree(address))
                }
                Retired::At(None) => driver.cuCtxSynchronize().and_then(|()| driver.cuMemFree(address)),
            };
        }
    }

    pub fn is_capturing(&self) -> Result<bool> {
        // SAFETY: a live stream of the context.
        self.device.with(|driver| unsafe { is_capturing(driver, self.native) })
    }

    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: a live stream.
        self.device.with(|driver| unsafe { driver.cuStreamSynchronize(self.native) })
    }

    pub fn query(&self) -> Result<bool> {
        // SAFETY: a live stream.
        self.device.with(|driver| ready(unsafe { driver.cuStreamQuery(self.native) }))
    }

    /// Gives a job to the stream; what it needs to stay alive is kept by the graph of a capture in progress.
    ///
    /// # Safety
    /// Every address of the job is valid on the device for what its documentation says, until the work is done.
    pub unsafe fn submit(&self, job: &Job, keeps: [Keep; 2]) -> Result<()> {
        let device = &*self.device;
        device.with(|driver| {
            if device.captures.count.load(Ordering::Relaxed) > 0 && keeps.iter().any(Option::is_some) {
                // SAFETY: a live stream.
                if let Some(inside) = unsafe { capture_of(driver, self.native)? } {
                    device.captures.keep(inside.id, keeps.into_iter().filter(Option::is_some));
                }
            }
            // SAFETY: the caller's promise.
            unsafe { device.execute(&device.queue(self.native), job) }
        })
    }

    /// Runs work on the stream that is no job of the API's.
    pub(super) fn run<T>(&self, body: impl FnOnce(&'static Driver, &Queue) -> Result<T>) -> Result<T> {
        self.device.with(|driver| body(driver, &self.device.queue(self.native)))
    }

    /// Gives weights to the stream to be brought into this backend's layout.
    ///
    /// # Safety
    /// As [`submit`](Self::submit).
    pub unsafe fn prepare_weights(&self, problem: &crate::plan::weights::PrepareProblem) -> Result<()> {
        // SAFETY: the caller's promise.
        self.device.with(|_| unsafe { self.device.prepare_weights(&self.device.queue(self.native), problem) })
    }

    /// A copy whose ranges may meet, for buffers: by way of other memory.
    ///
    /// # Safety
    /// As [`submit`](Self::submit).
    pub unsafe fn copy_overlapping(self: &Arc<Self>, dst: u64, src: u64, bytes: usize) -> Result<()> {
        if self.is_capturing()? {
            return Err(Error::Capture {
                what: "a copy within a buffer whose ranges meet needs memory, which cannot be captured",
                next: "copy by way of another buffer",
            });
        }
        let between: Block = self.device.allocate(bytes, self)?;
        // SAFETY: the caller's promise.
        let copied = self.device.with(|driver| unsafe {
            driver.cuMemcpyAsync(between.address, src, bytes, self.native)?;
            driver.cuMemcpyAsync(dst, between.address, bytes, self.native)
        });
        self.device.free(between);
        copied
    }

    pub fn begin_capture(&self, mode: u32) -> Result<()> {
        let mut own = lock(&self.capture);
        self.device.with(|driver| {
            // SAFETY: a live stream.
            unsafe {
                if is_capturing(driver, self.native)? {
                    return Err(Error::CAPTURES_ALREADY);
                }
                driver.cuStreamBeginCapture(self.native, mode)?;
                let id = match capture_of(driver, self.native) {
                    Ok(Some(inside)) => inside.id,
                    other => {
                        let mut graph = CUgraph::NULL;
                        if driver.cuStreamEndCapture(self.native, &mut graph).is_ok() && !graph.is_null() {
                            let _ = driver.cuGraphDestroy(graph);
                        }
                        other?;
                        return Err(Error::Capture {
                            what: "the driver did not begin the capture",
                            next: "use a stream other than the default one",
                        });
                    }
                };
                self.device.captures.begin(id);
                *own = Some(id);
                Ok(())
            }
        })
    }

    /// Ends the capture for all its streams, also where it fails.
    pub fn end_capture(&self) -> Result<Graph> {
        let mut own = lock(&self.capture);
        let mut graph = CUgraph::NULL;
        let ended = self.device.with(|driver| {
            // SAFETY: a live stream, a valid pointer.
            unsafe {
                if own.is_none() {
                    return Err(match is_capturing(driver, self.native)? {
                        true => Error::CAPTURE_BEGAN_ELSEWHERE,
                        false => Error::CAPTURES_NOT,
                    });
                }
                let keeps = own.take().map(|id| self.device.captures.end(id)).unwrap_or_default();
                driver.cuStreamEndCapture(self.native, &mut graph)?;
                Ok(keeps)
            }
        });
        Ok(Graph::new(&self.device, graph, ended?))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let retired = std::mem::replace(&mut *lock(&self.retired), Retired::No);
        self.device.release(|driver| {
            // SAFETY: nobody has the stream or the event any more; work in progress goes on.
            unsafe {
                if self.owned {
                    let _ = driver.cuStreamDestroy(self.native);
                }
                if let Retired::At(Some(event)) = retired {
                    let _ = driver.cuEventDestroy(event);
                }
            }
        });
    }
}

/// An event, with timing.
pub struct Event {
    device: Arc<Device>,
    native: CUevent,
    recorded: Mutex<Recorded>,
}

/// Where an event was last recorded.
#[derive(Clone, Copy)]
enum Recorded {
    Never,
    InTime,
    InCapture(u64),
}

impl Event {
    pub fn create(device: &Arc<Device>) -> Result<Event> {
        let mut native = CUevent::NULL;
        // SAFETY: a valid pointer.
        device.with(|driver| unsafe { driver.cuEventCreate(&mut native, EVENT_DEFAULT) })?;
        Ok(Event { device: Arc::clone(device), native, recorded: Mutex::new(Recorded::Never) })
    }

    pub(super) fn native(&self) -> CUevent {
        self.native
    }

    pub fn record(&self, stream: &Stream) -> Result<()> {
        let mut recorded = lock(&self.recorded);
        *recorded = self.device.with(|driver| {
            // SAFETY: a live stream and event of one context.
            unsafe {
                let capture = capture_of(driver, stream.native)?;
                driver.cuEventRecord(self.native, stream.native)?;
                Ok(capture.map_or(Recorded::InTime, |inside| Recorded::InCapture(inside.id)))
            }
        })?;
        Ok(())
    }

    /// Makes a stream wait, refused by us where the driver would end a capture over it.
    pub fn wait(&self, stream: &Stream) -> Result<()> {
        let recorded = *lock(&self.recorded);
        self.device.with(|driver| {
            // SAFETY: a live stream and event of one context.
            unsafe {
                match (recorded, capture_of(driver, stream.native)?) {
                    (Recorded::InCapture(id), Some(inside)) if id != inside.id => {
                        return Err(Error::EVENT_OF_ANOTHER_CAPTURE);
                    }
                    (Recorded::Never | Recorded::InTime, Some(_)) => return Err(Error::EVENT_FROM_OUTSIDE),
                    _ => {}
                }
                driver.cuStreamWaitEvent(stream.native, self.native, 0)
            }
        })
    }

    fn check_in_time(&self) -> Result<()> {
        match *lock(&self.recorded) {
            Recorded::InCapture(_) => Err(Error::EVENT_CAPTURED),
            _ => Ok(()),
        }
    }

    pub fn query(&self) -> Result<bool> {
        self.check_in_time()?;
        // SAFETY: a live event.
        self.device.with(|driver| ready(unsafe { driver.cuEventQuery(self.native) }))
    }

    pub fn synchronize(&self) -> Result<()> {
        self.check_in_time()?;
        // SAFETY: a live event.
        self.device.with(|driver| unsafe { driver.cuEventSynchronize(self.native) })
    }

    /// Refuses an event that is no point in time.
    pub fn check_recorded(&self, argument: &'static str) -> Result<()> {
        self.check_in_time()?;
        match *lock(&self.recorded) {
            Recorded::Never => Err(Error::event_never_recorded(argument)),
            _ => Ok(()),
        }
    }

    pub fn elapsed_ms(&self, end: &Event) -> Result<f32> {
        let mut milliseconds = 0.0;
        // SAFETY: live events of one context.
        self.device
            .with(|driver| unsafe { driver.cuEventElapsedTime(&mut milliseconds, self.native, end.native) })
            .map_err(|error| match error {
                Error::Cuda { code: NOT_READY, .. } => Error::Conflict {
                    argument: "end",
                    problem: "the events have not been reached yet; wait for the end first".into(),
                },
                other => other,
            })?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.device.release(|driver| {
            // SAFETY: nobody has the event any more.
            let _ = unsafe { driver.cuEventDestroy(self.native) };
        });
    }
}

/// Done, not yet, or a failure.
fn ready(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Error::Cuda { code: NOT_READY, .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
