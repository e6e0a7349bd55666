//! The library of emulated kernels, built once for the test that asks for it.

use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::process::Command;

pub type Run = unsafe extern "C" fn(grid: *const [u32; 3], threads: u32, parameters: *const c_void);

pub struct Emulator(libloading::Library);

impl Emulator {
    pub fn build() -> Emulator {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("tests/emulator");
        let library =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(concat!(env!("CARGO_CRATE_NAME"), ".so"));
        let mut compiler = Command::new(std::env::var_os("CXX").unwrap_or("c++".into()));
        compiler.args(["-std=c++20", "-O2", "-mfma", "-mf16c", "-ffp-contract=off", "-fno-strict-aliasing"]);
        compiler.args(["-shared", "-fPIC", "-DNVFP4_EMULATED", "-o"]).arg(&library);
        compiler.arg("-I").arg(&folder).arg("-I").arg(root.join("kernels"));
        compiler.args([folder.join("kernels.cpp"), folder.join("emulator.cpp")]);
        assert!(compiler.status().expect("a C++ compiler").success());
        // SAFETY: the library has no initializers but those of C++.
        Emulator(unsafe { libloading::Library::new(library) }.expect("it loads"))
    }

    /// How a kernel is run, and the bytes of its parameters; none for those that are not emulated.
    pub fn kernel(&self, name: &str) -> Option<(Run, u32)> {
        // SAFETY: emulator.h gives the symbols these types.
        unsafe {
            let run = self.0.get::<Run>(format!("{name}_run").as_bytes()).ok()?;
            let bytes = self.0.get::<*const u32>(format!("{name}_bytes").as_bytes()).ok()?;
            Some((*run, **bytes))
        }
    }
}
