//! The driver's declarations in src/backend/cuda/driver.rs against the vendor's cuda.h, where a toolkit is found.

use std::path::PathBuf;
use std::process::Command;

/// Folders that may hold cuda.h.
fn include() -> Option<PathBuf> {
    let home = std::env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("include"));
    let nvcc = std::env::var_os("NVCC").map(|nvcc| PathBuf::from(nvcc).join("../../include"));
    let tree = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".toolkit/nvidia/cu13/include");
    let found = [home, nvcc, Some(tree), Some("/usr/local/cuda/include".into())];
    found.into_iter().flatten().find(|folder| folder.join("cuda.h").is_file())
}

/// Rust's types of the table as C types.
fn c_type(rust: &str) -> &str {
    match rust {
        "c_uint" => "unsigned int",
        "c_int" => "int",
        "u64" => "cuuint64_t",
        "usize" => "size_t",
        "f32" => "float",
        "c_char" => "char",
        "c_void" => "void",
        other => other,
    }
}

/// `*mut *const T` as `T const * *`.
fn c_pointer(rust: &str) -> String {
    match (rust.strip_prefix("*mut "), rust.strip_prefix("*const ")) {
        (Some(inner), _) => format!("{} *", c_pointer(inner)),
        (_, Some(inner)) => format!("{} const *", c_pointer(inner)),
        _ => c_type(rust).into(),
    }
}

/// (symbol, parameters) of every entry of the table.
fn entries() -> Vec<(String, Vec<String>)> {
    let source = include_str!("../src/backend/cuda/driver.rs");
    let body = source.split("\nentries! {").nth(1).expect("the table").split("\n}").next().unwrap();
    body.split(';')
        .filter_map(|entry| {
            let (head, parameters) = entry.trim().split_once('(')?;
            let symbol = head.split('"').nth(1)?.to_string();
            let parameters = parameters.trim().strip_suffix(')')?;
            let types =
                parameters.split(',').filter_map(|p| p.split_once(':').map(|(_, t)| t.trim().to_string()));
            Some((symbol, types.collect()))
        })
        .collect()
}

/// A C program that compiles only if cuda.h agrees in the size and pointer depth of every parameter, the layout of every
/// struct and the value of every constant.
fn program() -> String {
    let mut text = String::from(
        "#define CUDA_API_VERSION_INTERNAL\n#define __CUDA_API_VERSION_INTERNAL\n#include <cuda.h>\n#include <stddef.h>\n\
         #define SAME(a, b) _Static_assert((a) == (b), #a \" is not \" #b)\n",
    );
    for (symbol, types) in entries() {
        // A call with parameters of our types: their number, kind and signedness, and what pointers point to.
        let list: Vec<String> =
            types.iter().enumerate().map(|(i, t)| format!("{} p{i}", c_pointer(t))).collect();
        let list = if list.is_empty() { "void".into() } else { list.join(", ") };
        let given: Vec<String> = (0..types.len()).map(|i| format!("p{i}")).collect();
        text.push_str(&format!("CUresult check_{symbol}({list}); CUresult check_{symbol}({list}) {{ "));
        text.push_str(&format!("return {symbol}({}); }}\n", given.join(", ")));
    }
    for (rust, c) in [
        ("CUmemPoolProps", "88"),
        ("CUlaunchAttribute", "72"),
        ("CUlaunchConfig", "56"),
        ("CUgraphExecUpdateResultInfo", "24"),
        ("CUtensorMap", "128"),
    ] {
        text.push_str(&format!("SAME(sizeof({rust}), {c});\n"));
    }
    text.push_str(
        "SAME(offsetof(CUmemPoolProps, location), 8); SAME(offsetof(CUmemPoolProps, maxSize), 24);\n\
         SAME(offsetof(CUlaunchAttribute, value), 8);\n\
         SAME(offsetof(CUlaunchConfig, blockDimX), 12); SAME(offsetof(CUlaunchConfig, sharedMemBytes), 24);\n\
         SAME(offsetof(CUlaunchConfig, hStream), 32); SAME(offsetof(CUlaunchConfig, attrs), 40);\n\
         SAME(offsetof(CUlaunchConfig, numAttrs), 48);\n\
         SAME(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 6); SAME(CU_MEM_ALLOCATION_TYPE_PINNED, 1);\n\
         SAME(CU_MEM_LOCATION_TYPE_DEVICE, 1); SAME(CU_MEM_HANDLE_TYPE_NONE, 0);\n\
         SAME(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 16); SAME(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 38);\n\
         SAME(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 75); SAME(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 76);\n\
         SAME(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 97); SAME(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 115);\n\
         SAME(CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, 1); SAME(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 8);\n\
         SAME(CU_STREAM_NON_BLOCKING, 1); SAME(CU_EVENT_DISABLE_TIMING, 2); SAME(CU_STREAM_CAPTURE_STATUS_NONE, 0);\n\
         SAME(CU_STREAM_CAPTURE_MODE_GLOBAL, 0); SAME(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, 1);\n\
         SAME(CU_STREAM_CAPTURE_MODE_RELAXED, 2); SAME(CU_STREAM_SET_CAPTURE_DEPENDENCIES, 1);\n\
         SAME(CU_MEMHOSTALLOC_PORTABLE, 1); SAME(CU_MEMHOSTALLOC_DEVICEMAP, 2);\n\
         SAME(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, 4); SAME(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, 5);\n\
         SAME(CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 6); SAME(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 9);\n\
         SAME(CU_TENSOR_MAP_SWIZZLE_128B, 3); SAME(CU_TENSOR_MAP_L2_PROMOTION_L2_256B, 3);\n\
         SAME(CUDA_ERROR_NOT_READY, 600); SAME(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, 910); SAME(CUDA_ERROR_OUT_OF_MEMORY, 2);\n\
         int main(void) { return 0; }\n",
    );
    text
}

#[test]
fn the_declarations_are_those_of_cuda_h() {
    assert!(entries().len() > 50, "the table was read");
    let Some(include) = include() else {
        println!("skipped: no cuda.h in CUDA_HOME, beside NVCC, in .toolkit or /usr/local/cuda");
        return;
    };
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let source = folder.join("cuda_abi.c");
    std::fs::write(&source, program()).expect("the target folder is writable");
    let output = Command::new(std::env::var_os("CC").unwrap_or("cc".into()))
        .args(["-std=c11", "-fsyntax-only", "-Wall", "-Wextra", "-Wconversion", "-Werror"])
        .arg("-I")
        .arg(include)
        .arg(&source)
        .output()
        .expect("a C compiler runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
