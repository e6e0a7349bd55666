//! Addresses in the caller's memory, on the host or on a device. Their validity is the caller's promise.

use crate::format::dtype::Dtype;

/// An address that problems carry between threads; reading or writing through it is the backend's `unsafe`.
#[derive(Debug, PartialEq, Eq)]
pub struct Ptr<T>(*mut T);

impl<T> Clone for Ptr<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Ptr<T> {}

// SAFETY: a Ptr is a number; the header makes callers keep the memory valid and unshared for the length of a call.
unsafe impl<T> Send for Ptr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Ptr<T> {}

impl<T> Ptr<T> {
    pub const NULL: Ptr<T> = Ptr(std::ptr::null_mut());

    pub fn new(p: *const T) -> Self {
        Ptr(p.cast_mut())
    }
    pub fn from_mut(p: *mut T) -> Self {
        Ptr(p)
    }
    pub fn get(self) -> *const T {
        self.0
    }
    pub fn get_mut(self) -> *mut T {
        self.0
    }
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }
    pub fn cast<U>(self) -> Ptr<U> {
        Ptr(self.0.cast())
    }
    /// `None` for NULL.
    pub fn some(self) -> Option<Self> {
        (!self.is_null()).then_some(self)
    }
}

/// Rows of values in memory; strides in elements. `group_stride` counts only for strided groups.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    pub base: Ptr<u8>,
    pub dtype: Dtype,
    pub row_stride: usize,
    pub group_stride: usize,
}

/// An array of floats of any dtype, such as a norm's weight or a bias.
#[derive(Clone, Copy, Debug)]
pub struct Vector {
    pub base: Ptr<u8>,
    pub dtype: Dtype,
}

impl Vector {
    /// # Safety
    /// The array must hold more than `i` readable elements.
    #[inline]
    pub unsafe fn get(&self, i: usize) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { self.dtype.load(self.base.get(), i) }
    }
}
