//! include/nvfp4.h is what the build generates, and compiles alone in every language that it promises.

mod native;

/// `NVFP4_UPDATE_HEADER=1` (`./run header`) rewrites the committed header.
#[test]
fn the_committed_header_is_the_generated_one() {
    let generated =
        std::fs::read_to_string(concat!(env!("OUT_DIR"), "/nvfp4.h")).expect("the build writes it");
    let path = native::root().join("include/nvfp4.h");
    if std::env::var_os("NVFP4_UPDATE_HEADER").is_some_and(|v| v == "1") {
        std::fs::write(&path, &generated).expect("the header is writable");
        return;
    }
    let committed = native::read("include/nvfp4.h");
    if committed == generated {
        return;
    }
    let line = committed.lines().zip(generated.lines()).position(|(a, b)| a != b);
    let line = line.unwrap_or(committed.lines().count().min(generated.lines().count()));
    panic!(
        "include/nvfp4.h is not what the sources say, first at line {}:\n  committed: {:?}\n  generated: {:?}\nrun `./run header`",
        line + 1,
        committed.lines().nth(line),
        generated.lines().nth(line)
    );
}

fn compiles(name: &str, cpp: bool, standard: &str, body: &str) {
    let file = native::scratch().join(format!("{name}.{}", if cpp { "cpp" } else { "c" }));
    std::fs::write(&file, body).expect("the scratch folder is writable");
    let output = native::compiler(cpp)
        .args([standard, "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", "-I"])
        .arg(native::root().join("include"))
        .arg(&file)
        .output()
        .expect("a compiler runs");
    assert!(output.status.success(), "{standard}\n{}", native::text(&output));
}

const ALONE: &str = "#include <nvfp4.h>\ntypedef int not_empty;\n";
const TWICE: &str = "#include <nvfp4.h>\n#include \"nvfp4.h\"\ntypedef int not_empty;\n";

#[test]
fn compiles_as_c99() {
    compiles("c99", false, "-std=c99", ALONE);
    compiles("c99_twice", false, "-std=c99", TWICE);
}

#[test]
fn compiles_as_c11() {
    compiles("c11", false, "-std=c11", ALONE);
    compiles("c11_twice", false, "-std=c11", TWICE);
}

#[test]
fn compiles_as_cpp17() {
    compiles("cpp17", true, "-std=c++17", ALONE);
    compiles("cpp17_twice", true, "-std=c++17", TWICE);
}

/// Every declaration says what it is for; so does every field of an arguments struct.
#[test]
fn everything_is_documented() {
    let header = native::header::parse();
    let mut bare: Vec<String> = Vec::new();
    bare.extend(header.functions.iter().filter(|f| f.doc.is_empty()).map(|f| f.name.clone()));
    bare.extend(header.constants.iter().filter(|c| c.doc.is_empty()).map(|c| c.name.clone()));
    for s in &header.structs {
        if s.doc.is_empty() {
            bare.push(s.name.clone());
        }
        let table = s.name == "nvfp4_api_table"; // its members are the functions
        let fields = s.fields.iter().filter(|f| f.doc.is_empty() && !table);
        bare.extend(fields.map(|f| format!("{}.{}", s.name, f.name)));
    }
    assert!(bare.is_empty(), "without a documentation comment: {bare:?}");
}

#[test]
fn names_follow_the_rules() {
    let header = native::header::parse();
    for name in header.functions.iter().map(|f| &f.name).chain(header.structs.iter().map(|s| &s.name)) {
        assert!(!name.ends_with("_t") && !name.contains("_get_") && !name.ends_with("_v2"), "{name}");
    }
    for s in header.structs.iter().filter(|s| s.name.ends_with("_args")) {
        assert_eq!(s.fields[0].declaration, "size_t struct_size", "{}", s.name);
    }
}
