//! bindings/cpp/nvfp4.hpp: compiles as C++17 with warnings as errors, its program passes on the CPU, and that program
//! reaches every function of the library; the C++ examples compile, where their headers are there.

mod native;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn compile(source: &Path, extra: &[&str]) -> (PathBuf, Output) {
    let program = native::scratch().join(source.file_stem().expect("a file has a name"));
    let lib = native::library_dir();
    let output = native::compiler(true)
        .args(["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-pedantic", "-Werror"])
        .args(
            [native::root().join("include"), native::root().join("bindings/cpp")]
                .map(|p| format!("-I{}", p.display())),
        )
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args(extra)
        .arg(format!("-L{}", lib.display()))
        .arg("-lnvfp4")
        .arg(format!("-Wl,-rpath,{}", lib.display()))
        .output()
        .expect("a C++ compiler runs");
    (program, output)
}

#[test]
fn the_wrapper_reaches_every_function() {
    let (program, output) = compile(&native::root().join("tests/cpp/test_wrapper.cpp"), &[]);
    assert!(output.status.success(), "{}", native::text(&output));
    let run = Command::new(&program).output().expect("the program runs");
    let text = native::text(&run);
    assert!(run.status.success() && text.trim_end().ends_with(" passed, 0 failed"), "{text}");
    // Inline functions that nothing calls leave no symbol behind.
    let symbols = native::tool("nm", &["-u"], &program);
    let called: Vec<&str> =
        symbols.split_whitespace().map(|s| s.split('@').next().unwrap_or_default()).collect();
    let table = native::read("src/ffi/api_table.txt");
    for function in table.lines().filter(|l| l.starts_with("nvfp4_")) {
        assert!(
            called.contains(&function),
            "{function} is not in bindings/cpp/nvfp4.hpp, or tests/cpp does not call it"
        );
    }
}

#[test]
fn a_header_of_its_own() {
    let alone = native::scratch().join("alone.cpp");
    std::fs::write(
        &alone,
        "#include \"nvfp4.hpp\"\n#include \"nvfp4.hpp\"\nint main() { return nvfp4::version() == 0; }\n",
    )
    .expect("the scratch folder is writable");
    let (program, output) = compile(&alone, &[]);
    assert!(output.status.success(), "{}", native::text(&output));
    assert!(Command::new(program).status().expect("it runs").success());
}

#[test]
fn example() {
    let (program, output) = compile(&native::root().join("examples/06_layer.cpp"), &[]);
    assert!(output.status.success(), "{}", native::text(&output));
    let run = Command::new(&program).output().expect("the example runs");
    let text = native::text(&run);
    assert!(run.status.success() && run.stderr.is_empty(), "{text}");
    let error: f64 =
        text.trim().rsplit(' ').next().and_then(|e| e.parse().ok()).expect("a figure at the end");
    assert!(error > 0.1 && error < 0.35, "{text}");
}

/// TensorRT's headers are where TENSORRT_HOME or the system has them, CUDA's also in CUDA_HOME or the tree; without them nothing
/// is claimed.
#[test]
fn tensorrt_plugin() {
    let source = native::root().join("examples/engines/tensorrt_plugin.cpp");
    let homes = ["TENSORRT_HOME", "CUDA_HOME"].into_iter().filter_map(|home| std::env::var(home).ok());
    let tree = native::root().join(".toolkit/nvidia/cu13").display().to_string();
    let include: Vec<String> = homes.chain([tree]).map(|home| format!("-I{home}/include")).collect();
    let probe = native::scratch().join("probe.cpp");
    std::fs::write(&probe, "#include <NvInferRuntime.h>\n#include <cuda_runtime_api.h>\n").expect("writable");
    let checks = |file: &Path| {
        let arguments = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Wno-deprecated-declarations"];
        let folders = ["include", "bindings/cpp"].map(|f| format!("-I{}", native::root().join(f).display()));
        native::compiler(true)
            .args(arguments)
            .args(folders)
            .args(&include)
            .arg(file)
            .output()
            .expect("it runs")
    };
    if !checks(&probe).status.success() {
        println!(
            "TensorRT's or CUDA's headers are not here: examples/engines/tensorrt_plugin.cpp is NOT compiled"
        );
        return;
    }
    let output = checks(&source);
    assert!(output.status.success(), "{}", native::text(&output));
}
