//! The binary interface against tests/abi/baseline.txt: numbers of constants, sizes and offsets of structs, prototypes.
//!
//! The facts come from a C program that the header's declarations are turned into, so they are the compiler's. Within an
//! ABI version only functions, constants and fields at a struct's end may be added. `./run header` (that is
//! `NVFP4_UPDATE_ABI=1 cargo test --test abi`) rewrites the baseline.

mod native;

use std::fmt::Write;
use std::process::Command;
use std::sync::OnceLock;

const BASELINE: &str = "tests/abi/baseline.txt";

/// One line a fact: `constant NAME = N`, `type NAME: T, N bytes`, `function PROTOTYPE`, `struct NAME: N bytes`,
/// `field STRUCT + OFFSET: DECLARATION, N bytes`.
fn facts() -> &'static [String] {
    // The tests run at the same time: one of them builds the program.
    static FACTS: OnceLock<Vec<String>> = OnceLock::new();
    FACTS.get_or_init(read_facts)
}

fn read_facts() -> Vec<String> {
    let header = native::header::parse();
    let mut body = String::new();
    let mut say =
        |format: &str, arguments: &str| writeln!(body, "  printf(\"{format}\\n\"{arguments});").unwrap();
    // The release's own numbers change with every release.
    for c in header.constants.iter().filter(|c| !c.name.starts_with("NVFP4_VERSION_")) {
        say(&format!("constant {} = %lld", c.name), &format!(", (long long)({})", c.name));
    }
    for (name, old) in &header.types {
        say(&format!("type {name}: {old}, %zu bytes"), &format!(", sizeof({name})"));
    }
    for s in header.structs.iter().filter(|s| !s.fields.is_empty()) {
        say(&format!("struct {}: %zu bytes", s.name), &format!(", sizeof(struct {})", s.name));
        for f in &s.fields {
            let arguments =
                format!(", offsetof(struct {0}, {1}), sizeof(((struct {0} *)0)->{1})", s.name, f.name);
            say(&format!("field {} + %zu: {}, %zu bytes", s.name, f.declaration), &arguments);
        }
    }
    for f in &header.functions {
        say(&format!("function {}", f.prototype), "");
    }
    let file = native::scratch().join("facts.c");
    let program =
        format!("#include <nvfp4.h>\n#include <stdio.h>\nint main(void) {{\n{body}  return 0;\n}}\n");
    std::fs::write(&file, program).expect("the scratch folder is writable");
    let output = Command::new(native::build(&file)).output().expect("the program runs");
    assert!(output.status.success());
    native::text(&output).lines().map(str::to_string).collect()
}

fn baseline() -> Vec<String> {
    native::read(BASELINE).lines().filter(|l| !l.starts_with('#')).map(str::to_string).collect()
}

fn update() -> bool {
    std::env::var_os("NVFP4_UPDATE_ABI").is_some_and(|v| v == "1")
}

/// (name, bytes) of a `struct` line.
fn size(fact: &str) -> Option<(&str, u64)> {
    let (name, rest) = fact.strip_prefix("struct ")?.split_once(": ")?;
    Some((name, rest.strip_suffix(" bytes")?.parse().ok()?))
}

/// (struct, offset) of a `field` line.
fn place(fact: &str) -> Option<(&str, u64)> {
    let (name, rest) = fact.strip_prefix("field ")?.split_once(" + ")?;
    Some((name, rest.split_once(": ")?.0.parse().ok()?))
}

/// What in `new` an old caller or an old library would not survive.
fn breaks(old: &[String], new: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    for fact in old.iter().filter(|fact| !new.contains(fact)) {
        match size(fact) {
            Some((name, before)) => match new.iter().filter_map(|f| size(f)).find(|(n, _)| *n == name) {
                Some((_, after)) if after > before => {}
                _ => wrong.push(format!("gone or smaller: {fact}")),
            },
            None => wrong.push(format!("gone or changed: {fact}")),
        }
    }
    for fact in new.iter().filter(|fact| !old.contains(fact)) {
        let Some((name, offset)) = place(fact) else { continue };
        let Some((_, end)) = old.iter().filter_map(|f| size(f)).find(|(n, _)| *n == name) else { continue };
        // Callers of the old struct leave its trailing padding as it is.
        if offset < end {
            wrong.push(format!("not at the end of its struct ({end} bytes so far): {fact}"));
        }
    }
    wrong
}

#[test]
fn nothing_that_callers_rely_on_has_changed() {
    if update() {
        return;
    }
    let wrong = breaks(&baseline(), facts());
    assert!(
        wrong.is_empty(),
        "the binary interface has changed:\n  {}\nAppend functions to src/ffi/api_table.txt and fields to the end of \
         their struct instead. If no version with this interface was ever released, `./run header` takes the new one \
         as the baseline; otherwise NVFP4_ABI_VERSION and the SONAME must change.",
        wrong.join("\n  ")
    );
}

#[test]
fn the_baseline_is_current() {
    let facts = facts();
    if update() {
        let text = "# The binary interface as tests/abi.rs reads it from include/nvfp4.h. Rewritten by `./run header`.\n";
        std::fs::write(native::root().join(BASELINE), format!("{text}{}\n", facts.join("\n")))
            .expect("writable");
        return;
    }
    let (old, wrong) = (baseline(), breaks(&baseline(), facts));
    let added: Vec<_> = facts.iter().filter(|f| !old.contains(f)).collect();
    // A break has a test of its own.
    assert!(added.is_empty() || !wrong.is_empty(), "record what was added with `./run header`: {added:#?}");
}

#[test]
fn the_comparison_sees_what_it_must() {
    let lines = |text: &str| text.lines().map(|l| l.trim().to_string()).collect::<Vec<_>>();
    let old = lines(
        "constant A = 1
         struct s: 16 bytes
         field s + 0: size_t struct_size, 8 bytes
         field s + 8: uint32_t a, 4 bytes
         function void f(int a)",
    );
    let with = |from: &str, to: &str| old.iter().map(|l| l.replace(from, to)).collect::<Vec<_>>();
    let plus = |more: &str, from: &str, to: &str| {
        let mut new = with(from, to);
        new.push(more.to_string());
        new
    };
    assert!(breaks(&old, &old).is_empty());
    assert!(breaks(&old, &plus("function void g(void)", "", "")).is_empty());
    assert!(breaks(&old, &plus("constant B = 2", "", "")).is_empty());
    assert!(breaks(&old, &plus("field s + 16: int64_t b, 8 bytes", "16 bytes", "24 bytes")).is_empty());
    for new in [
        with("A = 1", "A = 2"),
        with("int a)", "long a)"),
        with("s + 8: uint32_t a", "s + 12: uint32_t a"),
        with("uint32_t a", "int32_t a"),
        with("16 bytes", "12 bytes"),
        plus("field s + 12: uint32_t b, 4 bytes", "", ""),
        old[1..].to_vec(),
    ] {
        assert!(!breaks(&old, &new).is_empty(), "{new:?}");
    }
}
