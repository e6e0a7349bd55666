//! What the library is compared with: the machine's own bandwidth, and OpenBLAS on float32 weights.

use std::hint::black_box;

/// OpenBLAS with 64-bit integers, loaded from the file that NVFP4_OPENBLAS names.
pub struct OpenBlas {
    library: libloading::Library,
}

const ROW_MAJOR: i32 = 101;
const NO_TRANSPOSE: i32 = 111;
const TRANSPOSE: i32 = 112;

type Sgemm = unsafe extern "C" fn(
    i32,
    i32,
    i32,
    i64,
    i64,
    i64,
    f32,
    *const f32,
    i64,
    *const f32,
    i64,
    f32,
    *mut f32,
    i64,
);
type Sgemv =
    unsafe extern "C" fn(i32, i32, i64, i64, f32, *const f32, i64, *const f32, i64, f32, *mut f32, i64);

impl OpenBlas {
    pub fn load(threads: usize) -> Option<OpenBlas> {
        let path = std::env::var_os("NVFP4_OPENBLAS")?;
        // SAFETY: OpenBLAS has no initializers that touch this program.
        let library = unsafe { libloading::Library::new(path).ok()? };
        // SAFETY: the symbol has this signature.
        unsafe {
            let set: libloading::Symbol<unsafe extern "C" fn(i32)> =
                library.get(b"scipy_openblas_set_num_threads64_").ok()?;
            set(threads as i32);
        }
        Some(OpenBlas { library })
    }

    /// out [m, n] = a [m, k] · b [n, k]ᵀ.
    pub fn sgemm(&self, a: &[f32], b: &[f32], out: &mut [f32], (m, n, k): (usize, usize, usize)) {
        assert!(a.len() >= m * k && b.len() >= n * k && out.len() >= m * n);
        // SAFETY: the slices cover the shapes.
        unsafe {
            let f: libloading::Symbol<Sgemm> =
                self.library.get(b"scipy_cblas_sgemm64_").expect("OpenBLAS has sgemm");
            let (m, n, k) = (m as i64, n as i64, k as i64);
            let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
            f(ROW_MAJOR, NO_TRANSPOSE, TRANSPOSE, m, n, k, 1.0, a, k, b, k, 0.0, out, n);
        }
    }

    /// out [n] = w [n, k] · x [k].
    pub fn sgemv(&self, w: &[f32], x: &[f32], out: &mut [f32]) {
        let (n, k) = (out.len() as i64, x.len() as i64);
        assert!(w.len() as i64 >= n * k);
        // SAFETY: the slices cover the shapes.
        unsafe {
            let f: libloading::Symbol<Sgemv> =
                self.library.get(b"scipy_cblas_sgemv64_").expect("OpenBLAS has sgemv");
            let (w, x, out) = (w.as_ptr(), x.as_ptr(), out.as_mut_ptr());
            f(ROW_MAJOR, NO_TRANSPOSE, n, k, 1.0, w, k, x, 1, 0.0, out, 1);
        }
    }
}

/// Reads every byte once, split over threads.
pub fn read_all(bytes: &[u8], threads: usize) {
    let chunk = bytes.len().div_ceil(threads).next_multiple_of(64);
    std::thread::scope(|scope| {
        for part in bytes.chunks(chunk) {
            scope.spawn(move || black_box(sum(part)));
        }
    });
}

/// Independent sums keep the loads, not the additions, on the critical path; lines are fetched ahead as the products do.
fn sum(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    let mut sums = [0u64; 32];
    for group in words.chunks_exact(32) {
        fetch_ahead(group.as_ptr().cast());
        for (sum, word) in sums.iter_mut().zip(group) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Asks for the four lines that are read 4 KB later.
fn fetch_ahead(at: *const i8) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..4 {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch touches nothing, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(4096 + 64 * line)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
