//! The opaque types that C holds pointers to. A pointer is a ticket of `ffi::handle`'s table, never an address.
#![allow(non_camel_case_types)]

/// One device and what belongs to it: threads or a CUDA context, a memory pool, a fault word.
/// May be used from several threads at once. After nvfp4_context_destroy its streams, buffers and other children can
/// still be destroyed, and only that.
pub struct nvfp4_context {
    _opaque: [u8; 0],
}

/// An ordered queue of work. May be used from several threads; the order is then that of the calls.
/// On the CPU a call has completed when it returns.
pub struct nvfp4_stream {
    _opaque: [u8; 0],
}

/// A point in a stream. May be used from several threads at once.
pub struct nvfp4_event {
    _opaque: [u8; 0],
}

/// A recorded sequence of calls. May be used from several threads; launches of one graph run one after another.
pub struct nvfp4_graph {
    _opaque: [u8; 0],
}

/// Device memory from the context's pool. May be used from several threads; its contents are the caller's to order.
pub struct nvfp4_buffer {
    _opaque: [u8; 0],
}

/// Weights in the layout that the kernels read. Immutable; may be used from several threads at once.
pub struct nvfp4_weights {
    _opaque: [u8; 0],
}
