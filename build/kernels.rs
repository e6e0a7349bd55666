//! kernels/*.cu → one compressed fat binary a file, embedded by `src/backend/cuda/module.rs`.
//!
//! Only with the cargo feature `cuda`. The compiler is looked for in NVCC, CUDA_HOME, PATH and the tree's ignored
//! .toolkit folder, which `./run toolkit` fills. `NVFP4_KERNELS` takes the place of a compiler: a folder of images that
//! were built elsewhere (FILE.fatbin), or `placeholder` for images that no GPU runs, to test the driver paths without.
//!
//! Cargo has an OUT_DIR for each set of features and profile, whose images are all the same: those once compiled are kept
//! in the target folder (`kernels/FILE-HASH.fatbin`), where every build finds them. A kept file is complete, for it is
//! renamed to its name when it is; the hash is of all that goes into it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs};

/// Oldest compiler that knows all our targets and whose images the oldest driver takes.
const OLDEST_COMPILER: (u32, u32) = (13, 0);

/// One file of kernels/ and how it is compiled.
struct Unit {
    name: String,
    source: PathBuf,
    targets: Vec<String>,
    flags: Vec<String>,
}

pub fn build(root: &Path, out: &Path) {
    let list = out.join("cuda_images.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return super::write(
            &list,
            "/// Built without the feature `cuda`.\npub static IMAGES: &[Image] = &[];\n",
        );
    }
    let folder = root.join("kernels");
    for name in ["NVCC", "NVCC_CCBIN", "CUDA_HOME", "NVFP4_KERNELS"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed={}", folder.display());
    let units = units(&folder);
    let images = match env::var("NVFP4_KERNELS").ok().filter(|v| !v.is_empty()) {
        Some(word) if word == "placeholder" => placeholders(&units, out),
        Some(given) => prebuilt(&units, &root.join(given)),
        None => compile(&units, &folder, root, out),
    };
    let mut text = String::from(
        "/// The driver reads images in words of 8 bytes.\n#[repr(C, align(16))]\nstruct Aligned<T: ?Sized>(T);\n\n/// The fat binaries of kernels/.\npub static IMAGES: &[Image] = &[\n",
    );
    for (unit, image) in units.iter().zip(images) {
        let targets =
            if image.1 { unit.targets.join(" ") } else { "placeholders only (NVFP4_KERNELS)".into() };
        writeln!(
            text,
            "    Image {{ file: {:?}, targets: {targets:?}, bytes: &Aligned(*include_bytes!({:?})).0 }},",
            unit.name, image.0
        )
        .expect("strings take text");
    }
    super::write(&list, &(text + "];\n"));
}

/// The files of the folder with the settings of targets.toml.
fn units(folder: &Path) -> Vec<Unit> {
    let path = folder.join("targets.toml");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let settings: toml::Table = text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let strings = |section: &str, key: &str| -> Option<Vec<String>> {
        let list = settings.get(section)?.get(key)?.as_array();
        let list = list.unwrap_or_else(|| panic!("targets.toml: {section}.{key} is no list"));
        let text = |v: &toml::Value| v.as_str().map(String::from);
        let list: Option<Vec<String>> = list.iter().map(text).collect();
        Some(list.unwrap_or_else(|| panic!("targets.toml: {section}.{key} is no list of strings")))
    };
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut sources: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    sources.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    sources.sort();
    let units: Vec<Unit> = sources
        .into_iter()
        .map(|source| {
            let name = source.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let default = || strings("defaults", "targets").expect("targets.toml has defaults.targets");
            let targets = strings(&name, "targets").unwrap_or_else(default);
            let mut flags = strings("defaults", "flags").unwrap_or_default();
            flags.extend(strings(&name, "flags").unwrap_or_default());
            Unit { name, source, targets, flags }
        })
        .collect();
    for section in settings.keys().filter(|s| *s != "defaults") {
        assert!(
            units.iter().any(|u| u.name == *section),
            "targets.toml names {section}, but there is no {section}.cu"
        );
    }
    units
}

/// (file, holds machine code) of every unit.
type Images = Vec<(PathBuf, bool)>;

fn placeholders(units: &[Unit], out: &Path) -> Images {
    let place = |unit: &Unit| {
        let path = out.join(format!("{}.placeholder", unit.name));
        super::write(&path, &format!("nvfp4 placeholder image of {}\0", unit.name));
        (path, false)
    };
    units.iter().map(place).collect()
}

fn prebuilt(units: &[Unit], folder: &Path) -> Images {
    let find = |unit: &Unit| {
        let path = folder.join(format!("{}.fatbin", unit.name));
        println!("cargo:rerun-if-changed={}", path.display());
        assert!(path.is_file(), "NVFP4_KERNELS: {} is missing", path.display());
        (path.canonicalize().expect("it exists"), true)
    };
    units.iter().map(find).collect()
}

/// Files that are compiled side by side: one for a single target leaves processors to another.
const TOGETHER: usize = 2;

fn compile(units: &[Unit], folder: &Path, root: &Path, out: &Path) -> Images {
    let compiler = Compiler::find(root);
    let headers = headers(folder);
    let kept = kept_images(out);
    let build = |unit: &Unit| {
        let image = out.join(format!("{}.fatbin", unit.name));
        let stamp = out.join(format!("{}.stamp", unit.name));
        let source = fs::read(&unit.source).unwrap_or_else(|e| panic!("{}: {e}", unit.source.display()));
        let settings = format!("{} {:?} {:?}", compiler.version, compiler.host, arguments(unit));
        let wanted = format!("{:016x}", hash(&[settings.as_bytes(), &headers, &source]));
        // Cargo runs this script for changes of any source; a kernel is compiled again only for its own.
        if !image.is_file() || fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
            let shared = kept.join(format!("{}-{wanted}.fatbin", unit.name));
            if fs::copy(&shared, &image).is_err() {
                let fresh = kept.join(format!("{}-{wanted}.{}", unit.name, std::process::id()));
                compiler.compile(unit, folder, &fresh);
                fs::rename(&fresh, &shared).unwrap_or_else(|e| panic!("{}: {e}", shared.display()));
                forget_old(&kept, &unit.name);
                fs::copy(&shared, &image).unwrap_or_else(|e| panic!("{}: {e}", image.display()));
            }
            super::write(&stamp, &wanted);
        }
    };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                    build(unit);
                }
            });
        }
    });
    units.iter().map(|unit| (out.join(format!("{}.fatbin", unit.name)), true)).collect()
}

/// A folder that all builds into this target folder share; OUT_DIR's own where none is found.
fn kept_images(out: &Path) -> PathBuf {
    // Cargo marks its target folder so.
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file()).unwrap_or(out);
    let kept = target.join("kernels");
    fs::create_dir_all(&kept).unwrap_or_else(|e| panic!("{}: {e}", kept.display()));
    kept
}

/// Leaves the newest images of a file: those of a few branches.
fn forget_old(kept: &Path, name: &str) {
    const KEPT: usize = 8;
    let Ok(entries) = fs::read_dir(kept) else { return };
    let mut images: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|e| e.file_name().to_string_lossy().rsplit_once('-').is_some_and(|(of, _)| of == name))
        .filter_map(|e| Some((e.metadata().ok()?.modified().ok()?, e.path())))
        .collect();
    images.sort();
    for (_, path) in images.iter().rev().skip(KEPT) {
        // Another build may have been faster.
        let _ = fs::remove_file(path);
    }
}

/// What the compiler is told of a file, but for where it lies.
fn arguments(unit: &Unit) -> Vec<String> {
    let mut arguments: Vec<String> = ["-fatbin", "-Xfatbin=-compress-all"].map(String::from).to_vec();
    for target in &unit.targets {
        let (kind, arch) = target.split_once('_').unwrap_or(("", ""));
        assert!(matches!(kind, "sm" | "compute"), "targets.toml: {target} is neither sm_NN nor compute_NN");
        arguments.push(format!("-gencode=arch=compute_{arch},code={target}"));
    }
    arguments.extend(unit.flags.iter().cloned());
    arguments
}

/// Their names and contents.
fn headers(folder: &Path) -> Vec<u8> {
    let entries = fs::read_dir(folder).expect("read before");
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "cuh" || e == "h"));
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        all.extend(path.file_name().expect("a file has a name").as_encoded_bytes());
        all.push(0);
        all.extend(fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
    all
}

/// FNV-1a.
fn hash(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0u8]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3))
}

struct Compiler {
    path: PathBuf,
    version: String,
    /// The host's compiler, which preprocesses, where one is named.
    host: Option<std::ffi::OsString>,
}

impl Compiler {
    fn find(root: &Path) -> Compiler {
        let in_folder = |folder: PathBuf| Some(folder.join("nvcc")).filter(|p| p.is_file());
        let set = |name: &str| env::var_os(name).filter(|v| !v.is_empty());
        let path = set("NVCC")
            .map(PathBuf::from)
            .or_else(|| set("CUDA_HOME").and_then(|home| in_folder(PathBuf::from(home).join("bin"))))
            .or_else(|| env::split_paths(&set("PATH").unwrap_or_default()).find_map(in_folder))
            .or_else(|| in_folder(root.join(".toolkit/nvidia/cu13/bin")));
        let Some(path) = path else {
            fail(
                "the feature `cuda` needs the CUDA compiler, and there is no nvcc in NVCC, CUDA_HOME, PATH or .toolkit",
                "run `./run toolkit` once to fetch it into the tree, point NVFP4_KERNELS at a folder of built images, or build without the feature",
            );
        };
        let output = Command::new(&path).arg("--version").output();
        let text = match &output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            Ok(output) => fail(&format!("{} --version fails: {}", path.display(), output.status), "set NVCC"),
            Err(e) => fail(&format!("{}: {e}", path.display()), "set NVCC to the compiler's path"),
        };
        let release = text.split("release ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or("");
        let number = |part: Option<&str>| part.and_then(|p| p.trim().parse::<u32>().ok());
        let mut parts = release.split('.');
        let Some(version) = number(parts.next()).zip(number(parts.next())) else {
            fail(&format!("{} does not tell its version", path.display()), "set NVCC to a CUDA compiler");
        };
        if version < OLDEST_COMPILER {
            let what = format!("{} is of CUDA {release}; the kernels need 13.0 or newer", path.display());
            fail(&what, "run `./run toolkit`, and set NVCC=.toolkit/nvidia/cu13/bin/nvcc");
        }
        println!("cargo:rerun-if-changed={}", path.display());
        Compiler { path, version: text, host: set("NVCC_CCBIN") }
    }

    fn compile(&self, unit: &Unit, folder: &Path, image: &Path) {
        let mut command = Command::new(&self.path);
        command.arg("--threads").arg(env::var("NUM_JOBS").unwrap_or_else(|_| "1".into()));
        command.args(arguments(unit)).arg("-I").arg(folder).arg(&unit.source).arg("-o").arg(image);
        let output = command.output().unwrap_or_else(|e| panic!("{}: {e}", self.path.display()));
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            eprintln!("{text}");
            fail(&format!("{}.cu does not compile", unit.name), "see the compiler's messages above");
        }
        for line in String::from_utf8_lossy(&output.stderr).lines().filter(|l| l.contains("warning")) {
            println!("cargo:warning={}: {line}", unit.name);
        }
    }
}

/// Ends the build with one clear line.
fn fail(what: &str, next: &str) -> ! {
    println!("cargo::error={what}; {next}");
    std::process::exit(1)
}
