//! `nvfp4 quantize` and `nvfp4 inspect` on good files, and on targets that must be refused.

mod common;
use common::*;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::fs;
use std::path::Path;
use std::process::Command;

const Q: &str = "encoder.layer.0.query.weight";
const V: &str = "encoder.layer.1.value.weight";

/// A small model: what is quantized, and one of everything that is not.
fn model(pad: usize) -> Vec<u8> {
    let ids = Entry { name: "position_ids", dtype: "I64", shape: vec![1, 2], bytes: vec![7; 16] };
    let half = gauss(48 * 32, 2).iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let entries = [
        ids,
        entry("embeddings.word.weight", "F32", &[16, 32], &gauss(512, 1)),
        entry(Q, "F32", &[48, 32], &gauss(48 * 32, 2)),
        entry("encoder.layer.0.query.bias", "F32", &[48], &gauss(48, 3)),
        entry(V, "BF16", &[3, 64], &gauss(192, 4)),
        entry("encoder.layer.0.odd.weight", "F32", &[4, 24], &gauss(96, 5)),
        entry("encoder.layer.0.wide.weight", "F64", &[2, 16], &gauss(32, 6)),
        entry("encoder.layer.0.none.weight", "F32", &[0, 16], &[]),
        Entry { name: "half", dtype: "BF16", shape: vec![48, 32], bytes: half },
        entry("experts.weight", "F32", &[2, 2, 16], &gauss(64, 7)),
        entry("final_norm.weight", "F32", &[16], &gauss(16, 8)),
        entry("lm_head.weight", "F32", &[8, 32], &gauss(256, 9)),
    ];
    safetensors(&entries, pad)
}

#[test]
fn linear_weights_become_nvfp4_and_all_else_stays() {
    let dir = Folder::new();
    let bytes = model(0);
    let (input, output) = (dir.file("in.safetensors", &bytes), dir.path("out.safetensors"));
    let out = quantize(&input, &output, &[]);
    succeeded(&out);
    assert!(out.stderr.is_empty(), "no progress bar where stderr is no terminal: {}", text(&out.stderr));
    assert_eq!(dir.names(), ["in.safetensors", "out.safetensors"]);

    let written = fs::read(&output).unwrap();
    let (before, after) =
        (SafeTensors::deserialize(&bytes).unwrap(), SafeTensors::deserialize(&written).unwrap());
    assert_eq!(after.len(), before.len() + 2 * 2);
    for (name, tensor) in before.tensors() {
        if name == Q || name == V {
            let (n, k) = (tensor.shape()[0], tensor.shape()[1]);
            let shape_of = |name: &str| {
                let t = after.tensor(name).unwrap();
                (t.dtype(), t.shape().to_vec())
            };
            assert_eq!(shape_of(&name), (Dtype::U8, vec![n, k / 2]));
            assert_eq!(shape_of(&format!("{name}_scale")), (Dtype::F8_E4M3, vec![n, k / 16]));
            assert_eq!(shape_of(&format!("{name}_scale_2")), (Dtype::F32, vec![]));
        } else {
            assert_eq!(after.tensor(&name).unwrap(), tensor, "{name}");
        }
    }
    for (name, values) in [(Q, gauss(48 * 32, 2)), (V, gauss(192, 4))] {
        let error = relative_error(&dequantized(&after, name), &values);
        assert!((0.08..0.11).contains(&error), "{name}: {error}");
    }
    let report = text(&out.stdout);
    for line in [
        "embeddings.word.weight         F32   [16, 32]    default exclude *embeddings*",
        "3 dimensions",
        "K = 24 is not a multiple of 16",
        "F64 values",
        "empty",
        "default exclude *lm_head*",
        "2 tensors",
    ] {
        assert!(report.contains(line), "{line} is not in:\n{report}");
    }
}

#[test]
fn metadata_says_how_it_was_made() {
    let dir = Folder::new();
    let (input, output) = (dir.file("in.safetensors", &model(0)), dir.path("out.safetensors"));
    succeeded(&quantize(&input, &output, &["--rule", "min-mse"]));
    let written = fs::read(&output).unwrap();
    let (_, index) = SafeTensors::read_metadata(&written).unwrap();
    let metadata = index.metadata().clone().unwrap();
    assert_eq!(metadata["format"], "pt", "what the input said stays");
    assert_eq!(metadata["quantization"], "NVFP4");
    let config: serde_json::Value = serde_json::from_str(&metadata["hf_quant_config"]).unwrap();
    assert_eq!(config["producer"]["name"], "nvfp4");
    assert_eq!(config["producer"]["version"], env!("CARGO_PKG_VERSION"));
    let q = &config["quantization"];
    assert_eq!((&q["quant_algo"], &q["group_size"]), (&"NVFP4".into(), &16.into()));
    assert_eq!(q["scale_rule"], "min-mse");
    let excluded: Vec<&str> =
        q["exclude_modules"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    assert!(excluded.contains(&"lm_head") && excluded.contains(&"embeddings.word"), "{excluded:?}");
    assert!(!excluded.contains(&"encoder.layer.0.query"), "{excluded:?}");
}

#[test]
fn better_rules_err_less() {
    let dir = Folder::new();
    let values = gauss(256 * 256, 1);
    let file = safetensors(&[entry("a.weight", "F32", &[256, 256], &values)], 0);
    let input = dir.file("in.safetensors", &file);
    // The contract's figures for normal values.
    for (rule, expected) in [("amax", 0.0952), ("four-over-six", 0.0871), ("min-mse", 0.0813)] {
        let output = dir.path(rule);
        succeeded(&quantize(&input, &output, &["--rule", rule]));
        let written = fs::read(&output).unwrap();
        let error =
            relative_error(&dequantized(&SafeTensors::deserialize(&written).unwrap(), "a.weight"), &values);
        assert!((error - expected).abs() < 0.001, "{rule}: {error}");
    }
}

#[test]
fn same_bytes_for_any_thread_count_and_address() {
    let dir = Folder::new();
    let output = dir.path("out.safetensors");
    let mut first = None;
    for (pad, threads) in [(0, "1"), (0, "2"), (1, "0"), (2, "1"), (7, "3"), (16, "2")] {
        let input = dir.file("in.safetensors", &model(pad));
        succeeded(&quantize(&input, &output, &["--threads", threads]));
        let written = fs::read(&output).unwrap();
        assert_eq!(*first.get_or_insert_with(|| written.clone()), written, "pad {pad}, {threads} threads");
    }
}

#[test]
fn pieces_lie_on_multiples_of_their_granularity() {
    let dir = Folder::new();
    let (input, output) = (dir.file("in.safetensors", &model(0)), dir.path("out.safetensors"));
    succeeded(&quantize(&input, &output, &[]));
    let written = fs::read(&output).unwrap();
    let file = SafeTensors::deserialize(&written).unwrap();
    for (name, tensor) in file.tensors() {
        let at = tensor.data().as_ptr() as usize - written.as_ptr() as usize;
        let granularity = 1 << tensor.data().len().trailing_zeros().min(6);
        assert!(at.is_multiple_of(granularity) || tensor.data().is_empty(), "{name} at {at}");
    }
}

#[test]
fn patterns_choose() {
    let dir = Folder::new();
    let input = dir.file("in.safetensors", &model(0));
    let output = dir.path("out.safetensors");
    let head = "lm_head.weight";
    for (options, quantized) in [
        (vec![], vec![Q, V]),
        (vec!["--exclude", "*query*"], vec![V]),
        (vec!["--exclude", "encoder.layer.?.query"], vec![V]),
        (vec!["--exclude", Q, "--exclude", V], vec![]),
        (vec!["--include", "*value*"], vec![V]),
        (vec!["--include", "lm_head", "--include", "*.query.*"], vec![Q, head]),
        (vec!["--include", "*", "--exclude", "*emb*"], vec![Q, V, head]),
    ] {
        let out = quantize(&input, &output, &options);
        succeeded(&out);
        let written = fs::read(&output).unwrap();
        let mut found: Vec<String> = SafeTensors::deserialize(&written)
            .unwrap()
            .names()
            .iter()
            .filter_map(|n| n.strip_suffix("_scale_2").map(String::from))
            .collect();
        found.sort();
        assert_eq!(found, quantized, "{options:?}");
        assert_eq!(text(&out.stdout).contains("the output is a copy"), quantized.is_empty());
    }
}

#[test]
fn refuses_to_destroy() {
    let dir = Folder::new();
    let bytes = model(0);
    let input = dir.file("in.safetensors", &bytes);
    fs::hard_link(&input, dir.path("hard")).unwrap();
    std::os::unix::fs::symlink(&input, dir.path("soft")).unwrap();
    for same in ["in.safetensors", "hard", "soft", "../in.safetensors"] {
        let target = match same.strip_prefix("../") {
            Some(name) => dir.0.join("..").join(dir.0.file_name().unwrap()).join(name),
            None => dir.path(same),
        };
        failed(&quantize(&input, &target, &[]), &["is the input itself"]);
    }
    failed(&quantize(&input, &dir.0, &[]), &["not a regular file"]);
    failed(&quantize(&input, "/dev/null".as_ref(), &[]), &["/dev/null", "not a regular file"]);
    failed(&quantize(&input, &dir.path("none/out"), &[]), &["none/out", "cannot be created"]);
    assert_eq!(fs::read(&input).unwrap(), bytes);
    assert_eq!(dir.names(), ["hard", "in.safetensors", "soft"]);
}

#[test]
fn replaces_an_old_output_only_by_a_complete_one() {
    let dir = Folder::new();
    let input = dir.file("in.safetensors", &model(0));
    let output = dir.file("out.safetensors", b"old");
    let mut values = gauss(64, 1);
    values[40] = f32::NAN;
    let bad = dir.file("nan.safetensors", &safetensors(&[entry("a.weight", "F32", &[4, 16], &values)], 0));
    failed(&quantize(&bad, &output, &[]), &["nan.safetensors", "a.weight", "row 2", "NaN", "--exclude"]);
    assert_eq!(fs::read(&output).unwrap(), b"old");
    // A link keeps pointing at the file that is replaced.
    std::os::unix::fs::symlink("out.safetensors", dir.path("link")).unwrap();
    succeeded(&quantize(&input, &dir.path("link"), &["--quiet"]));
    assert!(SafeTensors::deserialize(&fs::read(&output).unwrap()).is_ok());
    assert!(dir.path("link").is_symlink());
    assert_eq!(dir.names(), ["in.safetensors", "link", "nan.safetensors", "out.safetensors"]);
}

#[test]
fn a_sample_gives_input_scales() {
    let dir = Folder::new();
    let (input, output) = (dir.file("in.safetensors", &model(1)), dir.path("out.safetensors"));
    let mut seen = gauss(3 * 2 * 32, 11);
    (seen[40], seen[41]) = (-26.88, f32::INFINITY);
    let entries = [
        entry("encoder.layer.0.query.input", "F32", &[3, 2, 32], &seen),
        entry("lm_head.input", "F32", &[1, 7], &gauss(7, 1)),
    ];
    let sample = dir.file("sample", &safetensors(&entries, 3));
    let given = ["--sample", sample.to_str().unwrap()];
    let out = quantize(&input, &output, &given);
    succeeded(&out);
    assert!(text(&out.stdout).contains("1 of 2 have an input scale, from a sample of 2 tensors"));
    let written = fs::read(&output).unwrap();
    let file = SafeTensors::deserialize(&written).unwrap();
    let scale = file.tensor("encoder.layer.0.query.input_scale").unwrap();
    assert_eq!((scale.dtype(), scale.shape()), (Dtype::F32, &[][..]));
    assert_eq!(scale.data(), (26.88f32 / 2688.0).to_le_bytes());
    assert!(file.tensor("encoder.layer.1.value.input_scale").is_err());
    // All else is as without it, and the form goes there and back.
    let plain = dir.path("plain");
    succeeded(&quantize(&input, &plain, &[]));
    let without = fs::read(&plain).unwrap();
    for (name, tensor) in SafeTensors::deserialize(&without).unwrap().tensors() {
        assert_eq!(file.tensor(&name).unwrap(), tensor, "{name}");
    }
    let (ct, back) = (dir.path("ct.safetensors"), dir.path("back.safetensors"));
    let convert = |from: &Path, to: &Path, form| {
        nvfp4(&["convert", from.to_str().unwrap(), to.to_str().unwrap(), "--to", form])
    };
    succeeded(&convert(&output, &ct, "compressed-tensors"));
    succeeded(&convert(&ct, &back, "modelopt"));
    assert!(fs::read(&back).unwrap() == written);

    let refused = |entries: &[Entry], words: &[&str]| {
        dir.file("sample", &safetensors(entries, 0));
        fs::remove_file(&output).ok();
        failed(&quantize(&input, &output, &given), words);
        assert!(!output.exists());
    };
    let name = "encoder.layer.0.query.input";
    refused(
        &[entry(name, "F32", &[2, 16], &gauss(32, 1))],
        &["query.input has the shape [2, 16]", "[..., 32]"],
    );
    refused(&[entry(name, "F64", &[1, 32], &gauss(32, 1))], &["query.input is F64"]);
    refused(&[entry(name, "F32", &[2, 32], &[-0.0; 64])], &["query.input holds zeros alone"]);
    fs::write(&sample, b"no safetensors").unwrap();
    failed(&quantize(&input, &output, &given), &["sample"]);
    fs::remove_file(&sample).unwrap();
    failed(&quantize(&input, &output, &given), &["sample", "cannot be opened"]);
}

/// An interrupted run leaves its file and a note beside the target; the same command goes on behind what is there.
#[test]
fn a_large_file_is_taken_up_again() {
    let dir = Folder::new();
    let good = model(0);
    let values = gauss(256, 9);
    let at = good.windows(4).rposition(|w| w == values[255].to_le_bytes()).unwrap();
    let mut bad = good.clone();
    bad[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let input = dir.file("in.safetensors", &good);
    let (whole, output) = (dir.path("whole"), dir.path("out.safetensors"));
    let options =
        ["--include", "*query*", "--include", "*value*", "--include", "lm_head", "--resume-above", "0"];
    succeeded(&quantize(&input, &whole, &options));
    assert_eq!(dir.names(), ["in.safetensors", "whole"]);
    let modified = fs::metadata(&input).unwrap().modified().unwrap();
    let put = |bytes: &[u8]| {
        fs::write(&input, bytes).unwrap();
        fs::File::options().write(true).open(&input).unwrap().set_modified(modified).unwrap();
    };
    let stop = || {
        put(&bad);
        failed(&quantize(&input, &output, &options), &["lm_head.weight", "NaN"]);
        put(&good);
    };
    stop();
    let left = [".out.safetensors.part", ".out.safetensors.part.run", "in.safetensors", "whole"];
    assert_eq!(dir.names(), left);
    failed(&quantize(&input, &output, &["--resume-above", "0"]), &["another command or input", "--restart"]);
    let done = quantize(&input, &output, &options);
    succeeded(&done);
    assert!(
        text(&done.stdout).contains("11 tensors of an unfinished one were there"),
        "{}",
        text(&done.stdout)
    );
    assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
    assert_eq!(dir.names(), ["in.safetensors", "out.safetensors", "whole"]);

    // What is noted is not written again; a note that was cut off counts up to its last whole line.
    stop();
    let (part, note) = (dir.path(left[0]), dir.path(left[1]));
    let said = fs::read_to_string(&note).unwrap();
    assert!(said.ends_with("\n11\n") && said.lines().count() == 2, "{said}");
    fs::write(&note, format!("{said}12")).unwrap();
    let mut bytes = fs::read(&part).unwrap();
    let codes =
        SafeTensors::deserialize(&fs::read(&whole).unwrap()).unwrap().tensor(Q).unwrap().data().to_vec();
    let first = bytes.windows(codes.len()).position(|w| w == codes).unwrap();
    bytes[first] ^= 0xFF;
    fs::write(&part, &bytes).unwrap();
    succeeded(&quantize(&input, &output, &options));
    let written = fs::read(&output).unwrap();
    let mut expected = fs::read(&whole).unwrap();
    expected[first] ^= 0xFF;
    assert!(written == expected);

    // A file that is not what the note speaks of, and a fresh start.
    stop();
    fs::write(&part, b"short").unwrap();
    succeeded(&quantize(&input, &output, &options));
    assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
    stop();
    succeeded(&quantize(&input, &output, &["--resume-above", "0", "--restart"]));
    assert_eq!(dir.names(), ["in.safetensors", "out.safetensors", "whole"]);
}

#[test]
fn a_disk_that_takes_no_more_leaves_nothing() {
    let dir = Folder::new();
    let file = safetensors(&[entry("big", "F32", &[65536], &gauss(65536, 1))], 0);
    let (input, output) = (dir.file("in.safetensors", &file), dir.path("out.safetensors"));
    // A limit on the size of files stands in for a full disk: 8 blocks of 512 or 1024 bytes.
    let script = "trap '' XFSZ; ulimit -f 8; exec \"$0\" quantize \"$1\" \"$2\"";
    let out = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_nvfp4")])
        .args([&input, &output])
        .output()
        .unwrap();
    failed(&out, &["out.safetensors", "cannot be written"]);
    assert_eq!(dir.names(), ["in.safetensors"]);
}

#[test]
fn a_second_quantization_changes_nothing_and_name_clashes_are_refused() {
    let dir = Folder::new();
    let (input, once, twice) = (dir.file("in.safetensors", &model(0)), dir.path("once"), dir.path("twice"));
    succeeded(&quantize(&input, &once, &[]));
    let out = quantize(&once, &twice, &[]);
    succeeded(&out);
    assert!(text(&out.stdout).contains("U8 values"));
    let clash =
        [entry("a.weight", "F32", &[1, 16], &[1.0; 16]), entry("a.weight_scale", "F32", &[1], &[1.0])];
    let clash = dir.file("clash", &safetensors(&clash, 0));
    failed(&quantize(&clash, &dir.path("out"), &[]), &["clash", "already holds a tensor a.weight_scale"]);
}

#[test]
fn inspect_shows_weights_as_one_tensor() {
    let dir = Folder::new();
    let (input, output) = (dir.file("in.safetensors", &model(0)), dir.path("out.safetensors"));
    let quiet = quantize(&input, &output, &["--rule", "four-over-six", "--quiet"]);
    succeeded(&quiet);
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty());
    let out = nvfp4(&["inspect", output.to_str().unwrap()]);
    succeeded(&out);
    let shown = text(&out.stdout);
    let line = shown.lines().find(|l| l.starts_with(Q)).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[1..8], ["nvfp4", "[48,", "32]", "E2M1", "+", "E4M3", "868"], "{line}"); // 768 + 96 + 4
    assert!(cells[8].parse::<f32>().unwrap() > 0.0 && cells[9] == "four-over-six", "{line}");
    assert!(!shown.contains("weight_scale"), "{shown}");
    // (868 + 96 + 12 + 4) bytes of 1536 + 192 values
    assert!(shown.contains("4.54"), "{shown}");
    succeeded(&nvfp4(&["inspect", input.to_str().unwrap()]));
}

/// The model that the tests ship: three types of values, and every linear layer of an encoder.
#[test]
fn the_small_bert() {
    let dir = Folder::new();
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/tiny-bert/model.safetensors");
    let output = dir.path("out.safetensors");
    let out = quantize(&input, &output, &["--rule", "min-mse"]);
    succeeded(&out);
    assert!(text(&out.stdout).contains("12 tensors (0.1 million weights) as NVFP4"), "{}", text(&out.stdout));
    let written = fs::read(&output).unwrap();
    let names = SafeTensors::deserialize(&written).unwrap().tensors();
    let linear = |n: &str| n.contains(".dense.") || n.contains(".self.");
    for (name, tensor) in names.iter().filter(|(n, _)| n.ends_with(".weight")) {
        assert_eq!(tensor.dtype() == Dtype::U8, linear(name), "{name}");
    }
}

#[test]
fn threads_are_the_librarys_business() {
    let dir = Folder::new();
    let input = dir.file("in.safetensors", &model(0));
    failed(
        &quantize(&input, &dir.path("out"), &["--threads", "1000000"]),
        &["threads = 1000000", "0 to 1024"],
    );
    assert_eq!(dir.names(), ["in.safetensors"]);
}

#[test]
fn usage_errors_are_code_2() {
    for arguments in [
        &["quantize", "a"][..],
        &["quantize", "a", "b", "--rule", "best"],
        &["verify"],
        &["convert", "a", "b"],
        &[],
    ] {
        assert_eq!(nvfp4(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
