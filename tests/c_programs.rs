//! The C programs of tests/c, compiled against the header, linked against the shared object and run: one test each.

mod native;

use std::process::Command;

fn run(name: &str) {
    let program = native::build(&native::root().join(format!("tests/c/{name}.c")));
    run_with(name, &mut Command::new(&program));
    // What computes is computed by every instruction set.
    if ["test_fused", "test_gemm", "test_layouts", "test_quantize", "test_threads", "test_weights"]
        .contains(&name)
    {
        for isa in ["1", "2", "3"] {
            run_with(
                &format!("{name} (instruction set {isa})"),
                Command::new(&program).env("NVFP4_TEST_ISA", isa),
            );
        }
    }
}

fn run_with(name: &str, program: &mut Command) {
    let output = program.output().expect("the program runs");
    let text = native::text(&output);
    let failures: String = text.lines().filter(|l| !l.starts_with("ok ")).map(|l| format!("{l}\n")).collect();
    assert!(output.status.success(), "{name}: {}\n{failures}", output.status);
    let last = text.lines().last().unwrap_or_default();
    let passed = last.ends_with(" passed, 0 failed") && !last.starts_with("0 ");
    assert!(passed || last.starts_with("skipped: "), "{name} ended with: {last}");
    println!("{name}: {last}");
}

macro_rules! programs {
    ($($name:ident),+ $(,)?) => {
        $(#[test] fn $name() { run(stringify!($name)); })+

        #[test]
        fn every_program_is_listed() {
            let listed = [$(stringify!($name)),+];
            for file in native::files("tests/c", "c") {
                let name = file.file_stem().unwrap().to_string_lossy().into_owned();
                assert!(listed.contains(&name.as_str()) || !name.starts_with("test_"), "add {name} to tests/c_programs.rs");
            }
        }
    };
}

programs!(
    test_api_table,
    test_basics,
    test_buffers,
    test_choices,
    test_faults,
    test_fused,
    test_gemm,
    test_graph,
    test_handles,
    test_layouts,
    test_log,
    test_quantize,
    test_refusals_fused,
    test_refusals_gemm,
    test_refusals_layouts,
    test_refusals_quantize,
    test_streams,
    test_threads,
    test_weights,
);
