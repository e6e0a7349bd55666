//! What a distributor sees of libnvfp4.so: symbols, dependencies, name, start-up time; and that every function of the
//! header is exported, in the changelog and reached by a C test.

mod native;

use std::process::Command;

fn exported() -> Vec<String> {
    let symbols = native::tool("nm", &["-D", "--defined-only"], &native::shared_object());
    let names = symbols.lines().filter_map(|line| line.split_whitespace().last());
    names.map(|name| name.split('@').next().unwrap_or(name).to_string()).collect()
}

/// Values in brackets of the dynamic section's entries of one kind.
fn dynamic(kind: &str) -> Vec<String> {
    let section = native::tool("readelf", &["-d", "-W"], &native::shared_object());
    let lines = section.lines().filter(|line| line.contains(kind));
    lines.filter_map(|l| l.split_once('[')?.1.split_once(']').map(|(name, _)| name.to_string())).collect()
}

#[test]
fn exports_its_functions_and_nothing_else() {
    let exported = exported();
    let foreign: Vec<_> = exported.iter().filter(|name| !name.starts_with("nvfp4_")).collect();
    assert!(foreign.is_empty(), "exported, but not ours: {foreign:?}");
    let functions: Vec<_> = native::header::parse().functions.into_iter().map(|f| f.name).collect();
    let missing: Vec<_> = functions.iter().filter(|name| !exported.contains(name)).collect();
    assert!(missing.is_empty(), "in the header, but not exported: {missing:?}");
    let hidden: Vec<_> = exported.iter().filter(|name| !functions.contains(name)).collect();
    assert!(hidden.is_empty(), "exported, but not in the header: {hidden:?}");
}

#[test]
fn needs_the_c_library_only() {
    const ALLOWED: [&str; 6] =
        ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "ld-linux"];
    for needed in dynamic("(NEEDED)") {
        assert!(ALLOWED.iter().any(|name| needed.starts_with(name)), "needs {needed}");
    }
    assert!(dynamic("(RUNPATH)").is_empty() && dynamic("(RPATH)").is_empty());
}

#[test]
fn carries_its_name() {
    assert_eq!(dynamic("(SONAME)"), ["libnvfp4.so.1"]);
}

/// The release build where there is one; the other has checks on.
#[test]
fn starts_in_ten_milliseconds() {
    let program = native::build(&native::root().join("tests/c/startup.c"));
    let release =
        native::shared_object().ancestors().nth(2).map(|target| target.join("../release/libnvfp4.so"));
    let library = release.filter(|path| path.exists()).unwrap_or_else(native::shared_object);
    let best = (0..10)
        .map(|_| {
            let output = Command::new(&program).arg(&library).output().expect("the program runs");
            assert!(output.status.success(), "{}", native::text(&output));
            native::text(&output).trim().parse::<f64>().expect("microseconds")
        })
        .fold(f64::INFINITY, f64::min);
    println!("{}: {:.2} ms", library.display(), best / 1e3);
    assert!(best < 10_000.0, "dlopen, version and context take {:.1} ms", best / 1e3);
}

/// Whether `name` stands in `text` as a word of its own.
fn names(text: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(word) && !text[at + name.len()..].starts_with(word))
}

#[test]
fn every_function_is_in_the_changelog() {
    let changelog = native::read("CHANGELOG.md");
    let functions = native::header::parse().functions;
    let missing: Vec<_> = functions.iter().map(|f| &f.name).filter(|name| !names(&changelog, name)).collect();
    assert!(missing.is_empty(), "not in CHANGELOG.md: {missing:?}");
}

#[test]
fn every_function_is_reached_by_a_c_test() {
    let tests: String = native::files("tests/c", "c").iter().map(native::read).collect();
    let functions = native::header::parse().functions;
    // The tables name operations by their verb: OPERATION(quantize, ...) calls nvfp4_quantize.
    let reached = |name: &str| {
        let verb = name.strip_prefix("nvfp4_").unwrap();
        tests.match_indices(&format!("{name}(")).any(|(at, _)| !tests[..at].ends_with(char::is_alphanumeric))
            || tests.contains(&format!("OPERATION({verb},"))
            || tests.contains(&format!("QUERY({verb},"))
    };
    let missing: Vec<_> = functions.iter().map(|f| &f.name).filter(|name| !reached(name)).collect();
    assert!(missing.is_empty(), "no C test calls {missing:?}");
}
