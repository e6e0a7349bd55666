//! Dependencies point down only: a room of src/ may use its own rank and what lies below, never what lies above.
//! And what belongs in one place stays there.

mod native;

const RANKS: [(&str, u32); 7] =
    [("error", 0), ("process", 0), ("format", 1), ("plan", 2), ("backend", 3), ("api", 4), ("ffi", 5)];

fn rank(room: &str) -> Option<u32> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// Source lines without comments, numbered from 1. Good enough for sources that rustfmt has seen.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default()))
}

/// (file relative to src, text) of every source file.
fn sources() -> Vec<(String, String)> {
    let src = native::root().join("src");
    let relative = |path: &std::path::Path| path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
    native::files("src", "rs").iter().map(|path| (relative(path), native::read(path))).collect()
}

/// The rooms that a line names after `crate::`, also inside braces: `use crate::{api::x, error::y}`.
fn rooms(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for part in line.split("crate::").skip(1) {
        let word =
            |s: &str| s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match part.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let mut item = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        ',' if depth == 0 => out.push(word(&std::mem::take(&mut item))),
                        _ => {}
                    }
                    if c != ',' || depth > 0 {
                        item.push(c);
                    }
                    if depth < 0 {
                        break;
                    }
                }
                out.push(word(&item));
            }
            None => out.push(word(part)),
        }
    }
    out
}

#[test]
fn dependencies_point_down() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let room = file.split(['/', '.']).next().unwrap();
        let Some(own) = rank(room) else {
            assert_eq!(file, "lib.rs", "src/{file} is in no known room");
            continue;
        };
        // A use of several lines is one statement.
        let mut statement = String::new();
        for (number, line) in code(&text) {
            statement.push_str(line);
            if statement.trim_start().trim_start_matches("pub ").starts_with("use ") && !line.contains(';') {
                continue;
            }
            for used in rooms(&statement) {
                match rank(&used) {
                    Some(rank) if rank <= own => {}
                    Some(_) => {
                        wrong.push(format!("src/{file}:{number}: {room} uses {used}, which lies above it"))
                    }
                    None if used.is_empty() => {}
                    None => wrong.push(format!("src/{file}:{number}: crate::{used} is no room")),
                }
            }
            statement.clear();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn only_in(word: &str, allowed: &[&str]) {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (number, line) in code(&text).filter(|(_, line)| line.contains(word)) {
            if !allowed.contains(&file.as_str()) {
                wrong.push(format!("src/{file}:{number}: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{word} belongs in {allowed:?} only:\n{}", wrong.join("\n"));
}

#[test]
fn panics_are_caught_in_two_places() {
    only_in("catch_unwind", &["ffi/guard.rs", "backend/cpu/team.rs"]);
}

#[test]
fn c_symbols_are_made_in_ffi_only() {
    for (file, text) in sources().iter().filter(|(file, _)| !file.starts_with("ffi/")) {
        assert!(!text.contains("no_mangle"), "src/{file} exports a symbol");
    }
}

#[test]
fn nothing_is_printed() {
    // parity.rs is compiled for tests only.
    for word in ["println!", "eprintln!", "print!", "eprint!", "dbg!"] {
        only_in(word, &["backend/cpu/parity.rs"]);
    }
}

#[test]
fn nothing_is_left_undone() {
    let mut wrong = Vec::new();
    let folders = ["src", "tests", "cli", "benches"];
    for path in folders.iter().flat_map(|folder| native::files(folder, "rs")) {
        let here = path.ends_with("tests/layering.rs");
        for (number, line) in code(&native::read(&path)) {
            if !here && ["todo!(", "unimplemented!(", "#[ignore"].iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The limit is for readers; generated tables may be longer.
#[test]
fn files_can_be_read_in_one_sitting() {
    const MOST: usize = 600;
    let sources = native::files("src", "rs").into_iter().chain(native::files("tests", "rs"));
    for path in sources.chain(native::files("tests/c", "c")).chain(native::files("tests/c", "h")) {
        let lines = native::read(&path).lines().count();
        assert!(lines <= MOST, "{} has {lines} lines; split it by what it says", path.display());
    }
}
