//! The parts of a workspace, one after another.

use super::memory::Ptr;

/// Every part starts at a multiple of this.
const ALIGNMENT: usize = 64;

/// Hands out parts of a workspace that starts at `base`, which may still be NULL while only its size is wanted.
pub struct Scratch {
    base: Ptr<u8>,
    /// `None` once the parts pass what can be addressed.
    used: Option<usize>,
}

impl Scratch {
    pub fn new(base: Ptr<u8>) -> Scratch {
        Scratch { base, used: Some(0) }
    }

    /// Room for `count` elements of `bytes` bytes.
    pub fn take<T>(&mut self, count: usize, bytes: usize) -> Ptr<T> {
        let at = self.used.unwrap_or(0);
        self.used = self.used.and_then(|used| {
            let part = count.checked_mul(bytes)?.checked_next_multiple_of(ALIGNMENT)?;
            used.checked_add(part).filter(|&end| end <= i64::MAX as usize)
        });
        Ptr::from_mut(self.base.get_mut().wrapping_add(at)).cast()
    }

    /// Hands out the same memory to two users that never need it at the same time.
    pub fn either<A, B>(&mut self, a: impl FnOnce(&mut Self) -> A, b: impl FnOnce(&mut Self) -> B) -> (A, B) {
        let start = self.used;
        let first = a(self);
        let end = std::mem::replace(&mut self.used, start);
        let second = b(self);
        self.used = end.and_then(|end| self.used.map(|used| used.max(end)));
        (first, second)
    }

    /// All bytes; `None` where they pass what can be addressed.
    pub fn bytes(&self) -> Option<usize> {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_one_another() {
        let mut scratch = Scratch::new(Ptr::NULL);
        assert_eq!(scratch.take::<u8>(3, 1).get().addr(), 0);
        assert_eq!(scratch.take::<f32>(17, 4).get().addr(), 64);
        let (a, b) = scratch.either(|s| s.take::<u8>(1000, 1), |s| s.take::<u8>(10, 1));
        assert_eq!((a.get().addr(), b.get().addr()), (192, 192));
        assert_eq!(scratch.take::<u8>(1, 1).get().addr(), 192 + 1024);
        assert_eq!(scratch.bytes(), Some(192 + 1024 + 64));
        scratch.take::<u8>(usize::MAX, 2);
        assert_eq!(scratch.bytes(), None);
    }
}
