//! examples/*.c compile as C11 with warnings as errors, run, and say what they should; so does the README's excerpt.

mod native;

use std::process::Command;

fn run(name: &str, arguments: &[&std::ffi::OsStr]) -> String {
    let program = native::build(&native::root().join(format!("examples/{name}.c")));
    let output = Command::new(&program).args(arguments).output().expect("the example runs");
    assert!(output.status.success(), "{name}: {}\n{}", output.status, native::text(&output));
    assert!(output.stderr.is_empty(), "{name} complains: {}", native::text(&output));
    let text = native::text(&output);
    println!("{text}");
    text
}

/// The number after a word of the output.
fn number(text: &str, word: &str) -> f64 {
    let rest = text.split_once(word).unwrap_or_else(|| panic!("no {word:?} in {text:?}")).1.trim_start();
    let digits: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    digits.parse().unwrap_or_else(|_| panic!("no number after {word:?} in {text:?}"))
}

#[test]
fn quickstart() {
    let text = run("01_quickstart", &[]);
    let error = number(&text, "relative error");
    assert!(error > 0.05 && error < 0.11, "{text}");
    assert!(text.contains("4.50 bits a value"), "{text}");
    assert!(native::read("examples/01_quickstart.c").lines().count() <= 40, "a quickstart fits on a screen");
}

#[test]
fn grouped_gemm() {
    let error = number(&run("02_grouped_gemm", &[]), "relative error");
    assert!(error > 0.04 && error < 0.15, "{error}");
}

#[test]
fn moe_swiglu() {
    let error = number(&run("03_moe_swiglu", &[]), "relative error");
    assert!(error > 0.1 && error < 0.35, "{error}");
}

#[test]
fn graph() {
    assert_eq!(run("04_graph", &[]), "1 call recorded, 100 of 100 replays with the bits of the eager call\n");
}

#[test]
fn dlopen() {
    let text = run("05_dlopen", &[native::shared_object().as_os_str()]);
    assert!(text.starts_with(&format!("libnvfp4 {} on CPU", env!("CARGO_PKG_VERSION"))), "{text}");
}

#[test]
fn moe() {
    let text = run("06_moe", &[]);
    let (values, codes) = (number(&text, "bf16 activations"), number(&text, "4-bit ones"));
    assert!(values > 0.05 && values < 0.2 && codes > values && codes < 0.35, "{text}");
}

#[test]
fn every_example_is_listed() {
    let this = native::read("tests/examples.rs");
    for file in native::files("examples", "c") {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(this.contains(&format!("run(\"{name}\"")), "add {name} to tests/examples.rs");
    }
}

/// The README's first block of C, as the body of a function that has its names.
#[test]
fn the_readme_compiles() {
    let readme = native::read("README.md");
    let block = readme.split_once("```c\n").expect("the README shows C").1.split_once("```").unwrap().0;
    let (includes, body): (Vec<&str>, Vec<&str>) = block.lines().partition(|l| l.starts_with("#include"));
    let program = format!(
        "{}\n#include <stdio.h>\nint main(void) {{\n  static _Alignas(16) uint16_t x[32 * 64];\n  static _Alignas(16) uint8_t \
         codes[32 * 32], scales[32 * 4];\n  int64_t rows = 32, cols = 64;\n  float g = 0;\n{}\n  return g == 1.0f ? 0 : 1;\n}}\n",
        includes.join("\n"),
        body.join("\n")
    );
    let file = native::scratch().join("readme.c");
    std::fs::write(&file, program).expect("the scratch folder is writable");
    let output = Command::new(native::build(&file)).output().expect("the program runs");
    assert!(output.status.success() && native::text(&output).is_empty(), "{}", native::text(&output));
}
