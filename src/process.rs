//! Which process this is, at the price of one load.
//!
//! Every call asks, because threads and devices do not survive a fork; asking the kernel each time costs a run call more
//! than everything else that it does. So the number is kept in a page that the kernel hands to the child of a fork filled
//! with zeros. Where there are no such pages (Linux before 4.14) the kernel is asked after all. A child that shares its
//! parent's memory (vfork) may only exec, and is not told apart.

use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// NULL until the first call, [`UNAVAILABLE`] where there are no pages that a fork wipes.
static PAGE: AtomicPtr<AtomicU32> = AtomicPtr::new(std::ptr::null_mut());
/// Its own word stays zero, which means "ask the kernel".
static UNAVAILABLE: AtomicU32 = AtomicU32::new(0);

/// The number of this process.
#[inline]
pub fn id() -> u32 {
    let page = PAGE.load(Ordering::Acquire);
    if !page.is_null() {
        // SAFETY: a word of a page that is never given back, or a static.
        let known = unsafe { (*page).load(Ordering::Relaxed) };
        if known != 0 {
            return known;
        }
    }
    ask(page)
}

#[cold]
fn ask(mut page: *mut AtomicU32) -> u32 {
    let unavailable = (&raw const UNAVAILABLE).cast_mut();
    if page.is_null() {
        let made = wiped_page().unwrap_or(unavailable);
        // A page of a thread that was slower stays behind: once, and of one page.
        page = match PAGE.compare_exchange(page, made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => made,
            Err(first) => first,
        };
    }
    let now = std::process::id();
    if page != unavailable {
        // SAFETY: as above.
        unsafe { (*page).store(now, Ordering::Relaxed) };
    }
    now
}

/// A page of zeros that is zeros again in the child of a fork.
#[cfg(target_os = "linux")]
fn wiped_page() -> Option<*mut AtomicU32> {
    const BYTES: usize = 4096;
    // SAFETY: new memory, which nobody else knows.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        if page == libc::MAP_FAILED {
            return None;
        }
        if libc::madvise(page, BYTES, libc::MADV_WIPEONFORK) != 0 {
            libc::munmap(page, BYTES);
            return None;
        }
        Some(page.cast())
    }
}

#[cfg(not(target_os = "linux"))]
fn wiped_page() -> Option<*mut AtomicU32> {
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_child_and_its_child_know_who_they_are() {
        let own = super::id();
        assert_eq!(own, std::process::id());
        // SAFETY: the children only ask for their number and leave.
        unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                let known = super::id() == libc::getpid() as u32 && super::id() != own;
                let parent = super::id();
                let grandchild = libc::fork();
                if grandchild == 0 {
                    libc::_exit((super::id() != libc::getpid() as u32 || super::id() == parent) as i32);
                }
                let mut status = 1;
                libc::waitpid(grandchild, &mut status, 0);
                libc::_exit((!known || status != 0) as i32);
            }
            let mut status = 1;
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
            assert_eq!(status, 0);
        }
        assert_eq!(super::id(), own);
    }
}
