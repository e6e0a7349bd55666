//! What the tests that speak C share: the C compiler, the shared object that cargo has just built, the header's
//! declarations.
#![allow(dead_code)]

pub mod header;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of this test binary's own.
pub fn scratch() -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
    std::fs::create_dir_all(&path).expect("the target folder is writable");
    path
}

pub fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The shared object that belongs to this test executable.
pub fn shared_object() -> PathBuf {
    let exe = std::env::current_exe().expect("a test has a path");
    let deps = exe.parent().expect("which has a folder");
    let candidates = [deps.join("libnvfp4.so"), deps.join("../libnvfp4.so")];
    let found = candidates.iter().find(|path| path.exists());
    found.unwrap_or_else(|| panic!("no libnvfp4.so in {}", deps.display())).canonicalize().expect("it exists")
}

/// A folder that holds the shared object under the names that the linker and the loader look for.
pub fn library_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch().join("lib");
        std::fs::create_dir_all(&dir).expect("the target folder is writable");
        for name in ["libnvfp4.so", "libnvfp4.so.1"] {
            let link = dir.join(name);
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(shared_object(), &link).expect("links can be made");
        }
        dir
    })
}

/// The host's C or C++ compiler; `cc` finds it, `CC` and `CXX` override it.
pub fn compiler(cpp: bool) -> Command {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cc::Build::new()
        .target(&target)
        .host(&target)
        .opt_level(1)
        .cpp(cpp)
        .warnings(false)
        .cargo_metadata(false)
        .get_compiler()
        .to_command()
}

/// Compiles one C file to a program, warnings being errors, and links it against the library.
pub fn build(source: &Path) -> PathBuf {
    let program = scratch().join(source.file_stem().expect("a file has a name"));
    let lib = library_dir();
    let output = compiler(false)
        .args(["-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .arg("-I")
        .arg(root().join("include"))
        .arg("-I")
        .arg(root().join("tests/c"))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(lib)
        .arg("-lnvfp4")
        .arg(format!("-Wl,-rpath,{}", lib.display()))
        .args(["-lm", "-lpthread", "-ldl"])
        .output()
        .expect("a C compiler runs");
    assert!(output.status.success(), "{} does not compile\n{}", source.display(), text(&output));
    program
}

/// Standard output, then standard error.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What a tool such as `nm` prints.
pub fn tool(name: &str, args: &[&str], file: &Path) -> String {
    let output = Command::new(name).args(args).arg(file).output().unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(output.status.success(), "{name} failed\n{}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// All files below a folder with an extension, sorted.
pub fn files(folder: impl AsRef<Path>, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
