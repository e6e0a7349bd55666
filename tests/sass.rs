//! The machine code that the build embedded, read with cuobjdump: every kernel of the tables is there for every target,
//! within its stated registers, without local memory, with the instructions that targets.toml asks for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use nvfp4::backend::cuda::KERNELS;
use nvfp4::backend::cuda::launch::Kernel;
use nvfp4::backend::cuda::module::IMAGES;

/// One kernel for one target.
#[derive(Default)]
struct Code {
    registers: u32,
    stack: u32,
    local: u32,
    sass: String,
}

/// By (target, kernel).
type Codes = BTreeMap<(String, String), Code>;

fn cuobjdump() -> Option<PathBuf> {
    let beside = |folder: PathBuf| Some(folder.join("cuobjdump")).filter(|path| path.is_file());
    let nvcc = std::env::var_os("NVCC").and_then(|nvcc| PathBuf::from(nvcc).parent().map(PathBuf::from));
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("bin"));
    let tree = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".toolkit/nvidia/cu13/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = nvcc.into_iter().chain(home).chain(std::env::split_paths(&path)).chain([tree]);
    folders.into_iter().find_map(beside)
}

fn dump(tool: &PathBuf, what: &str, file: &PathBuf) -> String {
    let output = Command::new(tool).arg(what).arg(file).output().expect("cuobjdump runs");
    assert!(output.status.success(), "cuobjdump {what}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn number(line: &str, key: &str) -> u32 {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
    value.and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("no {key} in {line:?}"))
}

fn read(tool: &PathBuf, file: &PathBuf) -> Codes {
    let mut codes = Codes::new();
    let (mut target, mut kernel) = (String::new(), String::new());
    for line in dump(tool, "-res-usage", file).lines() {
        if let Some(arch) = line.strip_prefix("arch = ") {
            target = arch.trim().into();
        } else if let Some(name) = line.trim().strip_prefix("Function ") {
            kernel = name.trim_end_matches(':').into();
        } else if line.trim().starts_with("REG:") {
            let code = codes.entry((target.clone(), kernel.clone())).or_default();
            code.registers = number(line, "REG");
            code.stack = number(line, "STACK");
            code.local = number(line, "LOCAL");
        }
    }
    for line in dump(tool, "-sass", file).lines() {
        if let Some(arch) = line.strip_prefix("arch = ") {
            target = arch.trim().into();
            kernel.clear();
        } else if let Some(name) = line.trim().strip_prefix("Function : ") {
            kernel = name.trim().into();
        } else if !kernel.is_empty() && line.contains("/*") {
            let code = codes.entry((target.clone(), kernel.clone())).or_default();
            code.sass.push_str(line);
            code.sass.push('\n');
        }
    }
    codes
}

/// "target word" or "target kernel word", the target `*` for all.
fn check_required(required: &str, file: &str, codes: &Codes, wrong: &mut Vec<String>) {
    let parts: Vec<&str> = required.split_whitespace().collect();
    let (target, kernel, word) = match parts[..] {
        [target, word] => (target, None, word),
        [target, kernel, word] => (target, Some(kernel), word),
        _ => panic!("targets.toml: {required:?} is neither \"target word\" nor \"target kernel word\""),
    };
    let mut found: BTreeMap<&str, bool> = BTreeMap::new();
    for ((at, name), code) in codes {
        if (target == "*" || target == at) && kernel.is_none_or(|kernel| kernel == name) {
            *found.entry(at).or_default() |= code.sass.contains(word);
        }
    }
    if found.is_empty() {
        wrong.push(format!("{file}: nothing is compiled that {required:?} is about"));
    }
    let lacking = found.iter().filter(|(_, has)| !**has);
    wrong.extend(
        lacking.map(|(at, _)| format!("{file} for {at}: no {word} in {}", kernel.unwrap_or("any kernel"))),
    );
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> = KERNELS.iter().copied().flatten().map(|kernel| kernel.name).collect();
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "two kernels of one name");
    for name in names {
        assert!(name.starts_with("nvfp4_"), "{name}");
    }
}

#[test]
fn the_images_are_what_the_tables_say() {
    let Some(tool) = cuobjdump() else {
        return println!("skipped: no cuobjdump beside NVCC, in CUDA_HOME, PATH or .toolkit");
    };
    if IMAGES.iter().any(|image| image.targets.contains("placeholder")) {
        return println!("skipped: the images of this build are placeholders");
    }
    let settings: toml::Table =
        include_str!("../kernels/targets.toml").parse().expect("targets.toml is TOML");
    let mut wrong = Vec::new();
    for image in IMAGES {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.fatbin", image.file));
        std::fs::write(&path, image.bytes).expect("the target folder is writable");
        let codes = read(&tool, &path);
        let targets: Vec<&str> =
            image.targets.split(' ').filter(|target| target.starts_with("sm_")).collect();
        let table: Vec<&Kernel> =
            KERNELS.iter().copied().flatten().filter(|k| k.file == image.file).collect();
        for kernel in &table {
            for target in &targets {
                let at = format!("{} for {target}", kernel.name);
                match codes.get(&(target.to_string(), kernel.name.into())) {
                    None => wrong.push(format!("{at} is not in the image")),
                    Some(code) => check(&at, kernel, code, &mut wrong),
                }
            }
            let of_kernel = codes.iter().filter(|((_, name), _)| name == kernel.name);
            let most = of_kernel.map(|(_, code)| code.registers).max().unwrap_or(0);
            println!("{}: {most} registers at most, stated {}", kernel.name, kernel.registers);
        }
        for (target, name) in codes.keys() {
            if !table.iter().any(|kernel| kernel.name == name) {
                wrong.push(format!("{name} for {target} is in {}.cu and in no table", image.file));
            }
        }
        let required = settings.get(image.file).and_then(|section| section.get("require"));
        for word in required.and_then(|list| list.as_array()).into_iter().flatten() {
            check_required(word.as_str().expect("a string"), image.file, &codes, &mut wrong);
        }
    }
    for kernel in KERNELS.iter().copied().flatten() {
        if !IMAGES.iter().any(|image| image.file == kernel.file) {
            wrong.push(format!("{} is of {}.cu, which has no image", kernel.name, kernel.file));
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(at: &str, kernel: &Kernel, code: &Code, wrong: &mut Vec<String>) {
    if code.registers > kernel.registers {
        wrong.push(format!("{at} uses {} registers, stated {}", code.registers, kernel.registers));
    }
    if code.stack > 0 || code.local > 0 {
        wrong.push(format!("{at} has {} bytes of stack and {} of local memory", code.stack, code.local));
    }
    // Local memory that the resource report does not show: spills.
    for access in [" LDL", " STL"] {
        if code.sass.contains(access) {
            wrong.push(format!("{at} has{access} instructions"));
        }
    }
    let most = kernel.registers * kernel.threads;
    if most > 65536 {
        wrong
            .push(format!("{} states {most} registers a block, and a multiprocessor has 65536", kernel.name));
    }
}
