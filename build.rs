//! Generates the C header and the table of all functions into OUT_DIR (`./run header` copies the header to include/),
//! and compiles the kernels.

#[path = "build/kernels.rs"]
mod kernels;

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Where the header's declarations come from, in the order in which a reader meets them.
const SOURCES: [&str; 33] = [
    "error.rs",
    "api/handles.rs",
    "api/types.rs",
    "api/context.rs",
    "api/stream.rs",
    "api/quantize.rs",
    "api/dequantize.rs",
    "api/norm.rs",
    "api/swiglu.rs",
    "api/stage.rs",
    "api/layouts.rs",
    "api/weights.rs",
    "api/gemm.rs",
    "api/operation.rs",
    "api/tuning.rs",
    "ffi/version.rs",
    "ffi/table.rs",
    "ffi/context.rs",
    "ffi/stream.rs",
    "ffi/event.rs",
    "ffi/graph.rs",
    "ffi/buffer.rs",
    "ffi/quantize.rs",
    "ffi/dequantize.rs",
    "ffi/norm.rs",
    "ffi/swiglu.rs",
    "ffi/stage.rs",
    "ffi/layouts.rs",
    "ffi/weights.rs",
    "ffi/gemm.rs",
    "ffi/tuning.rs",
    "ffi/api_table.txt",
    "../cbindgen.toml",
];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let source = root.join("src");
    for file in SOURCES {
        println!("cargo:rerun-if-changed={}", source.join(file).display());
    }
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml is readable");
    let mut builder = cbindgen::Builder::new().with_config(config);
    for file in SOURCES.iter().filter(|file| file.ends_with(".rs")) {
        builder = builder.with_src(source.join(file));
    }
    let mut header = Vec::new();
    builder.generate().expect("cbindgen reads the C surface").write(&mut header);
    let header = String::from_utf8(header).expect("the header is UTF-8");
    let header = group_constants(&tidy_comments(&header));

    let list = fs::read_to_string(source.join("ffi/api_table.txt")).expect("api_table.txt is readable");
    let names: Vec<&str> = list.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    write(&out.join("nvfp4.h"), &with_table(&header, &names));
    write(&out.join("api_table.rs"), &table_source(&names));

    kernels::build(&root, &out);

    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libnvfp4.so.1");
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// One-line doc comments on one line, longer ones with a star before each line.
fn tidy_comments(header: &str) -> String {
    let mut out = String::new();
    let mut lines = header.lines().peekable();
    let mut seen_guard = false;
    while let Some(line) = lines.next() {
        seen_guard |= line.starts_with("#ifndef");
        if line.trim() != "/*" || !seen_guard {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let indent = &line[..line.len() - 2];
        let text: Vec<&str> = lines.by_ref().take_while(|l| l.trim() != "*/").map(str::trim).collect();
        match text.as_slice() {
            [one] => out.push_str(&format!("{indent}/** {one} */\n")),
            more => {
                out.push_str(&format!("{indent}/**\n"));
                more.iter().for_each(|l| out.push_str(&format!("{indent} * {l}\n")));
                out.push_str(&format!("{indent} */\n"));
            }
        }
    }
    out
}

/// Moves the values of an enumeration behind its type: cbindgen lists all constants in one place.
fn group_constants(header: &str) -> String {
    let lines: Vec<&str> = header.lines().collect();
    let is_value = |line: &str| line.starts_with("#define NVFP4_") && line.split(' ').count() == 3;
    let types: Vec<String> = lines.iter().filter_map(|line| enumeration(line)).collect();
    let owner = |line: &str| types.iter().position(|prefix| line[8..].starts_with(prefix.as_str()));
    let mut values = vec![String::new(); types.len()];
    let mut rest: Vec<&str> = Vec::new();
    for line in lines {
        match Some(line).filter(|l| is_value(l)).and_then(owner) {
            Some(of) => {
                let start =
                    rest.iter().rposition(|l| l.starts_with("/**")).expect("constants are documented");
                for doc in rest.drain(start..) {
                    values[of].push_str(&format!("{doc}\n"));
                }
                values[of].push_str(&format!("{line}\n"));
            }
            None if line.is_empty() && rest.last().is_some_and(|l| l.is_empty()) => {}
            None => rest.push(line),
        }
    }
    let mut out = String::new();
    for line in rest {
        out.push_str(&format!("{line}\n"));
        if let Some(prefix) = enumeration(line) {
            let of = types.iter().position(|t| *t == prefix).expect("collected above");
            out.push_str(&values[of]);
        }
    }
    out
}

/// The prefix of an enumeration's values, from the line of its type.
fn enumeration(line: &str) -> Option<String> {
    let name = line.strip_prefix("typedef uint32_t ").or(line.strip_prefix("typedef int32_t "))?;
    let name = name.strip_suffix(';')?.to_uppercase();
    Some(format!("{}_", name.strip_suffix("_FLAGS").unwrap_or(&name)))
}

/// The prototypes of a header: (return type, name, parameters).
fn prototypes(header: &str) -> Vec<(String, String, String)> {
    let mut text = String::new();
    let mut rest = header;
    while let Some(start) = rest.find("/*") {
        text.push_str(&rest[..start]);
        rest = rest[start..].find("*/").map_or("", |end| &rest[start + end + 2..]);
    }
    text.push_str(rest);
    let code: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with('#')).collect();
    let code = code.join(" ");
    code.split(';')
        .filter(|statement| !statement.contains("typedef") && !statement.contains('}'))
        .filter_map(|statement| {
            let statement = statement.rsplit('{').next()?.split_whitespace().collect::<Vec<_>>().join(" ");
            let (before, parameters) = statement.split_once('(')?;
            let name = before.rfind("nvfp4_").filter(|&at| !before[at..].contains(' '))?;
            Some((
                before[..name].trim().to_string(),
                before[name..].to_string(),
                parameters.strip_suffix(')')?.to_string(),
            ))
        })
        .collect()
}

/// The header with the struct of function pointers before its end.
fn with_table(header: &str, names: &[&str]) -> String {
    let prototypes = prototypes(header);
    for (_, name, _) in prototypes.iter().filter(|(_, name, _)| name != "nvfp4_api") {
        assert!(names.contains(&name.as_str()), "append {name} to src/ffi/api_table.txt");
    }
    let mut table = String::from(
        "/** Every function of this header but nvfp4_api, in an order that only ever grows. */\nstruct nvfp4_api_table {\n  /** Bytes of the table that the library has. */\n  size_t struct_size;\n",
    );
    for name in names {
        let (result, _, parameters) = prototypes
            .iter()
            .find(|(_, n, _)| n == name)
            .unwrap_or_else(|| panic!("src/ffi/api_table.txt names {name}, which is no function"));
        let space = if result.ends_with('*') { "" } else { " " };
        let member = name.strip_prefix("nvfp4_").expect("functions are nvfp4_*");
        table.push_str(&format!("  {result}{space}(*{member})({parameters});\n"));
    }
    table.push_str("};\n\n");
    let end = header.rfind("#ifdef __cplusplus").expect("the header closes extern \"C\"");
    format!("{}{table}{}", &header[..end], &header[end..])
}

fn table_source(names: &[&str]) -> String {
    let entries: String = names.iter().map(|n| format!("    super::{n} as *const c_void,\n")).collect();
    format!(
        "const COUNT: usize = {};\nconst FUNCTIONS: [*const c_void; COUNT] = [\n{entries}];\n",
        names.len()
    )
}
