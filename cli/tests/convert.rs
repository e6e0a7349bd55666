//! `nvfp4 convert`: both forms and back, byte for byte; what it refuses; scales that engines want equal.

mod common;
use common::*;
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

fn convert(input: &Path, output: &Path, to: &str, options: &[&str]) -> Output {
    let paths = [input.to_str().unwrap(), output.to_str().unwrap()];
    nvfp4(&[&["convert", paths[0], paths[1], "--to", to], options].concat())
}

/// One weight [N, K] in ModelOpt's names with chosen scales.
fn modelopt(scale: &[u8], decode: &[f32], input: Option<f32>) -> Vec<u8> {
    let (n, k) = (4, 32);
    let codes = (0..n * k / 2).map(|i| (i * 37 + 11) as u8).collect();
    let scales = (0..n * k / 16).map(|i| scale[i % scale.len()]).collect();
    let shape = if decode.len() == 1 { vec![] } else { vec![decode.len()] };
    let mut entries = vec![
        Entry { name: "a.weight", dtype: "U8", shape: vec![n, k / 2], bytes: codes },
        Entry { name: "a.weight_scale", dtype: "F8_E4M3", shape: vec![n, k / 16], bytes: scales },
        entry("a.weight_scale_2", "F32", &shape, decode),
        entry("a.bias", "F32", &[4], &gauss(4, 1)),
    ];
    entries.extend(input.map(|x| entry("a.input_scale", "F32", &[], &[x])));
    safetensors(&entries, 0)
}

fn tensors(path: &Path) -> Vec<(String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> =
        file.tensors().into_iter().map(|(n, t)| (n, t.shape().to_vec(), t.data().to_vec())).collect();
    all.sort();
    all
}

fn float(path: &Path, name: &str) -> f32 {
    let found = tensors(path).into_iter().find(|t| t.0 == name).unwrap();
    f32::from_le_bytes(found.2.try_into().unwrap())
}

#[test]
fn both_ways_for_any_scale() {
    let dir = Folder::new();
    // Values whose reciprocal's reciprocal is another, powers of two, the smallest and the largest that have one.
    let mut decode: Vec<f32> = (0..200).map(|i| 1.0e-4 * (1.0 + i as f32 / 173.0)).collect();
    decode.extend([0.25, 1.0, f32::MIN_POSITIVE, 3.0e-39, 8.5e37, f32::MAX]);
    for (i, g) in decode.into_iter().enumerate() {
        let input = dir.file(
            "in.safetensors",
            &modelopt(&[0, 1, 0x38, 0x7E], &[g], Some(if i < 200 { g * 0.37 } else { g })),
        );
        let (there, back) = (dir.path("ct.safetensors"), dir.path("back.safetensors"));
        let there_and_back = || {
            succeeded(&convert(&input, &there, "compressed-tensors", &["--quiet"]));
            succeeded(&convert(&there, &back, "modelopt", &["--quiet"]));
            assert_eq!(tensors(&input), tensors(&back), "{g}");
        };
        there_and_back();
        assert_eq!(float(&there, "a.weight_global_scale"), 1.0 / g);
        if i > 0 {
            continue;
        }
        // Other producers leave no note: then a divisor must survive the way through ModelOpt.
        succeeded(&convert(&back, &there, "compressed-tensors", &["--quiet"]));
        let names: Vec<String> = tensors(&there).into_iter().map(|t| t.0).collect();
        assert_eq!(
            names,
            ["a.bias", "a.input_global_scale", "a.weight_global_scale", "a.weight_packed", "a.weight_scale"]
        );
    }
}

/// A file as compressed-tensors writes it: divisors, shape [1], no words of ours.
#[test]
fn a_foreign_divisor_survives() {
    let dir = Folder::new();
    for i in 0..50 {
        let divisor = 2688.0 / (0.7 + i as f32 / 71.0);
        let entries = [
            Entry { name: "m.weight_packed", dtype: "U8", shape: vec![2, 8], bytes: (0..16).collect() },
            Entry { name: "m.weight_scale", dtype: "F8_E4M3", shape: vec![2, 1], bytes: vec![0x38, 0x40] },
            entry("m.weight_global_scale", "F32", &[1], &[divisor]),
            entry("m.input_global_scale", "F32", &[1], &[divisor * 1.1]),
        ];
        let input = dir.file("ct.safetensors", &safetensors(&entries, 0));
        let (there, back) = (dir.path("mo.safetensors"), dir.path("back.safetensors"));
        succeeded(&convert(&input, &there, "modelopt", &["--quiet"]));
        assert_eq!(float(&there, "m.weight_scale_2"), 1.0 / divisor);
        succeeded(&convert(&there, &back, "compressed-tensors", &["--quiet"]));
        assert_eq!(tensors(&input), tensors(&back), "{divisor}");
    }
}

#[test]
fn bad_scales_are_named() {
    let dir = Folder::new();
    for (scales, decode, input, parts) in [
        (vec![0x38, 0x7F], 1.0, None, ["a.weight_scale at [0, 1]", "NaN (0x7f)"]),
        (vec![0x38, 0x38, 0x38, 0xFF], 1.0, None, ["a.weight_scale at [1, 1]", "NaN (0xff)"]),
        (vec![0x38, 0x38, 0xB8], 1.0, None, ["a.weight_scale at [1, 0]", "negative (0xb8)"]),
        (vec![0x80], 1.0, None, ["a.weight_scale at [0, 0]", "negative (0x80)"]),
        (vec![0x38], 0.0, None, ["a.weight_scale_2 is 0", "above 0"]),
        (vec![0x38], -1.5, None, ["a.weight_scale_2 is -1.5", "above 0"]),
        (vec![0x38], f32::NAN, None, ["a.weight_scale_2 is NaN", "finite"]),
        (vec![0x38], f32::INFINITY, None, ["a.weight_scale_2 is inf", "finite"]),
        (vec![0x38], 1.0, Some(f32::NAN), ["a.input_scale is NaN", "finite"]),
        (vec![0x38], 1.0e-39, None, ["a.weight_scale_2 is 0.000", "whose reciprocal is inf"]),
    ] {
        let input = dir.file("in.safetensors", &modelopt(&scales, &[decode], input));
        let out = convert(&input, &dir.path("out.safetensors"), "compressed-tensors", &[]);
        failed(&out, &["in.safetensors", parts[0], parts[1]]);
        assert_eq!(dir.names(), ["in.safetensors"]);
    }
    let vector = modelopt(&[0x38], &[1.0, -2.0], None);
    let input = dir.file("in.safetensors", &vector);
    let out = convert(&input, &dir.path("out.safetensors"), "compressed-tensors", &[]);
    failed(&out, &["a.weight_scale_2 at [1] is -2"]);
}

#[test]
fn bad_divisors_are_named() {
    let dir = Folder::new();
    for (block, divisor, input, parts) in [
        (0x7F, 1.0, 1.0, ["m.weight_scale at [1, 0]", "NaN (0x7f)"]),
        (0x80, 1.0, 1.0, ["m.weight_scale at [1, 0]", "negative (0x80)"]),
        (0x38, 0.0, 1.0, ["m.weight_global_scale at [0] is 0", "above 0"]),
        (0x38, -2.0, 1.0, ["m.weight_global_scale at [0] is -2", "above 0"]),
        (0x38, f32::INFINITY, 1.0, ["m.weight_global_scale at [0] is inf", "finite"]),
        (0x38, f32::NAN, 1.0, ["m.weight_global_scale at [0] is NaN", "finite"]),
        (0x38, 1.0e-39, 1.0, ["m.weight_global_scale at [0] is 0.000", "whose reciprocal is inf"]),
        (0x38, 1.0, 0.0, ["m.input_global_scale at [0] is 0", "above 0"]),
        (0x38, 1.0, f32::NAN, ["m.input_global_scale at [0] is NaN", "finite"]),
    ] {
        let entries = [
            Entry { name: "m.weight_packed", dtype: "U8", shape: vec![2, 8], bytes: (0..16).collect() },
            Entry { name: "m.weight_scale", dtype: "F8_E4M3", shape: vec![2, 1], bytes: vec![0x38, block] },
            entry("m.weight_global_scale", "F32", &[1], &[divisor]),
            entry("m.input_global_scale", "F32", &[1], &[input]),
        ];
        let file = dir.file("ct.safetensors", &safetensors(&entries, 0));
        for form in ["modelopt", "compressed-tensors"] {
            let out = convert(&file, &dir.path("out.safetensors"), form, &[]);
            failed(&out, &["ct.safetensors", parts[0], parts[1]]);
        }
        assert_eq!(dir.names(), ["ct.safetensors"]);
    }
}

#[test]
fn sets_that_do_not_fit_are_named() {
    let dir = Folder::new();
    let codes = |shape: &[usize]| Entry {
        name: "m.weight_packed",
        dtype: "U8",
        shape: shape.to_vec(),
        bytes: vec![0; shape.iter().product()],
    };
    let scales = |shape: &[usize]| Entry {
        name: "m.weight_scale",
        dtype: "F8_E4M3",
        shape: shape.to_vec(),
        bytes: vec![0x38; shape.iter().product()],
    };
    let global = |count: usize| entry("m.weight_global_scale", "F32", &[count], &vec![1.0; count]);
    for (entries, part) in [
        (vec![codes(&[2, 8]), scales(&[2, 1])], "m.weight_packed has no tensor m.weight_global_scale"),
        (vec![codes(&[2, 8]), global(1)], "m.weight_packed has no tensor m.weight_scale"),
        (vec![codes(&[2, 8]), scales(&[1, 2]), global(1)], "the codes need F8_E4M3 [2, 1]"),
        (vec![codes(&[2, 4]), scales(&[2, 1]), global(1)], "multiple of 16"),
        (vec![codes(&[2, 8]), scales(&[2, 1]), global(3)], "equal runs of the 2 rows"),
        (vec![codes(&[16]), scales(&[2, 1]), global(1)], "codes are [N, K/2] or [E, N, K/2]"),
        (vec![entry("a.weight", "F32", &[1, 16], &[1.0; 16])], "holds no NVFP4 weight"),
    ] {
        let input = dir.file("in.safetensors", &safetensors(&entries, 0));
        failed(&convert(&input, &dir.path("out.safetensors"), "modelopt", &[]), &["in.safetensors", part]);
    }
}

/// A model directory of one file, and its configuration.
fn directory(dir: &Folder, name: &str, file: &[u8], config: &str) -> PathBuf {
    let path = dir.path(name);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("model.safetensors"), file).unwrap();
    fs::write(path.join("config.json"), config).unwrap();
    path
}

#[test]
fn configurations_of_other_formats_are_refused() {
    let dir = Folder::new();
    for (i, (config, part)) in [
        (r#"{"quantization_config":{"quant_method":"gptq"}}"#, "quant_method is gptq"),
        (r#"{"quantization_config":{"quant_algo":"FP8"}}"#, "quant_algo is FP8"),
        (r#"{"quantization_config":{"format":"pack-quantized"}}"#, "format is pack-quantized"),
        (r#"{"quantization_config":{"group_size":32}}"#, "group_size is 32"),
        (
            r#"{"quantization_config":{"config_groups":{"g":{"weights":{"num_bits":4,"type":"float","group_size":32}}}}}"#,
            "config_groups.g: group_size is 32",
        ),
        (r#"{"quantization_config":{"ignore":"lm_head"}}"#, "ignore is \"lm_head\", not a list"),
        (r#"{"quantization_config":7}"#, "is not a JSON object"),
        (r#"{"quantization_config":{"quant_algo":"MIXED_PRECISION"}"#, "is not valid JSON"),
        (r#"[]"#, "is not a JSON object"),
    ]
    .iter()
    .enumerate()
    {
        let input = directory(&dir, &format!("in{i}"), &modelopt(&[0x38], &[1.0], None), config);
        failed(&convert(&input, &dir.path("out"), "compressed-tensors", &[]), &["config.json", part]);
    }
    let mixed = r#"{"quantization":{"quant_algo":"MIXED_PRECISION"}}"#;
    let input = directory(&dir, "mixed", &modelopt(&[0x38], &[1.0], None), "{}");
    fs::write(input.join("hf_quant_config.json"), mixed).unwrap();
    failed(&convert(&input, &dir.path("out"), "compressed-tensors", &[]), &["MIXED_PRECISION"]);
}

#[test]
fn directories_say_what_they_are() {
    let dir = Folder::new();
    let config =
        r#"{"model_type":"llama","quantization_config":{"quant_method":"modelopt","quant_algo":"NVFP4"}}"#;
    let input = directory(&dir, "in", &modelopt(&[0x38], &[0.5], Some(0.1)), config);
    let words = r#"{"producer":{"name":"modelopt","version":"0.33"},"quantization":{"quant_algo":"NVFP4","kv_cache_quant_algo":"FP8","group_size":16,"exclude_modules":["lm_head","model.vision*"]}}"#;
    fs::write(input.join("hf_quant_config.json"), words).unwrap();
    fs::write(input.join("tokenizer.json"), "{}").unwrap();
    let (there, back) = (dir.path("ct"), dir.path("back"));
    succeeded(&convert(&input, &there, "compressed-tensors", &[]));
    assert!(there.join("tokenizer.json").exists() && !there.join("hf_quant_config.json").exists());
    let read =
        |path: &Path| -> serde_json::Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let said = read(&there.join("config.json"));
    let q = &said["quantization_config"];
    assert_eq!(said["model_type"], "llama");
    assert_eq!(
        (&q["quant_method"], &q["format"]),
        (&"compressed-tensors".into(), &"nvfp4-pack-quantized".into())
    );
    assert_eq!(q["ignore"], serde_json::json!(["lm_head", r"re:model\.vision.*"]));
    assert_eq!(q["kv_cache_scheme"]["num_bits"], 8);
    assert_eq!(q["config_groups"]["group_0"]["input_activations"]["dynamic"], "local");
    succeeded(&convert(&there, &back, "modelopt", &[]));
    assert_eq!(
        read(&back.join("hf_quant_config.json")),
        serde_json::from_str::<serde_json::Value>(words).unwrap()
    );
    assert_eq!(tensors(&input.join("model.safetensors")), tensors(&back.join("model.safetensors")));
    assert!(dir.names().iter().all(|n| !n.starts_with('.')), "{:?}", dir.names());
}

/// gate and up with decode scales of their own: kept without being asked, one when asked, and the loss is said.
#[test]
fn unequal_shards() {
    let dir = Folder::new();
    let gate = gauss(64 * 64, 1);
    let up: Vec<f32> = gauss(64 * 64, 2).iter().map(|x| x * 0.31).collect();
    let entries = [
        entry("l.0.mlp.gate_proj.weight", "F32", &[64, 64], &gate),
        entry("l.0.mlp.up_proj.weight", "F32", &[64, 64], &up),
        entry("l.0.mlp.down_proj.weight", "F32", &[64, 64], &gate),
    ];
    let original = dir.file("in.safetensors", &safetensors(&entries, 0));
    let (quantized, kept, merged) =
        (dir.path("q.safetensors"), dir.path("k.safetensors"), dir.path("m.safetensors"));
    succeeded(&quantize(&original, &quantized, &["--quiet"]));
    let out = convert(&quantized, &kept, "modelopt", &[]);
    succeeded(&out);
    assert!(
        text(&out.stdout).contains("1 groups of layers that engines fuse have unequal decode scales, kept")
    );
    assert_eq!(tensors(&quantized), tensors(&kept));

    let out = convert(&quantized, &merged, "modelopt", &["--merge-scales"]);
    succeeded(&out);
    let report = text(&out.stdout);
    let change: f64 = report
        .lines()
        .find(|l| l.starts_with("Relative change"))
        .unwrap()
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((0.005..0.06).contains(&change), "{report}");
    let scale = |name: &str| float(&merged, name);
    assert_eq!(scale("l.0.mlp.gate_proj.weight_scale_2"), scale("l.0.mlp.up_proj.weight_scale_2"));
    let (before, after) = (tensors(&quantized), tensors(&merged));
    for (b, a) in before.iter().zip(&after) {
        // Its codes may well stay: the block scales take up the new factor.
        let changes = b.0.contains("up_proj.weight_scale");
        assert!(b.0.contains("up_proj.weight") || b == a, "{}: only the smaller scale's weight changes", b.0);
        assert!(!changes || b != a, "{}", b.0);
    }
    let bytes = fs::read(&merged).unwrap();
    let error = relative_error(
        &dequantized(&SafeTensors::deserialize(&bytes).unwrap(), "l.0.mlp.up_proj.weight"),
        &up,
    );
    assert!((0.08..0.12).contains(&error), "{error}");
    // Into the other form and out of it the same is merged.
    let (there, back) = (dir.path("ct.safetensors"), dir.path("back.safetensors"));
    succeeded(&convert(&quantized, &there, "compressed-tensors", &["--merge-scales", "--quiet"]));
    succeeded(&convert(&there, &back, "modelopt", &["--quiet"]));
    assert_eq!(tensors(&merged), tensors(&back));
    succeeded(&convert(&quantized, &there, "compressed-tensors", &["--quiet"]));
    succeeded(&convert(&there, &back, "modelopt", &["--merge-scales", "--quiet"]));
    assert_eq!(tensors(&merged), tensors(&back));
}

/// A fused weight whose halves have scales of their own becomes one matrix with one scale, or stays.
#[test]
fn fused_shards() {
    let dir = Folder::new();
    let input = dir.file("in.safetensors", &modelopt(&[0x30, 0x38], &[0.5, 1.0], None));
    let (there, back, merged) =
        (dir.path("ct.safetensors"), dir.path("back.safetensors"), dir.path("m.safetensors"));
    succeeded(&convert(&input, &there, "compressed-tensors", &["--quiet"]));
    succeeded(&convert(&there, &back, "modelopt", &["--quiet"]));
    assert_eq!(tensors(&input), tensors(&back));
    succeeded(&convert(&input, &merged, "modelopt", &["--quiet", "--merge-scales"]));
    assert_eq!(float(&merged, "a.weight_scale_2"), 1.0);
    let (before, after) = (tensors(&input), tensors(&merged));
    let codes =
        |all: &[(String, Vec<usize>, Vec<u8>)]| all.iter().find(|t| t.0 == "a.weight").unwrap().2.clone();
    assert_eq!(
        codes(&before)[32..],
        codes(&after)[32..],
        "the half that had the largest scale keeps its bytes"
    );
}

/// The chain that the demo's model goes through, on the small model that the tests ship and, where the demo has fetched
/// it, on the real one.
#[test]
fn the_demos_models() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut models = vec![root.join("tests/models/tiny-bert")];
    let fetched = fs::read_dir(root.join("target/demo")).into_iter().flatten().flatten().map(|e| e.path());
    models
        .extend(fetched.filter(|p| p.join("model.safetensors").is_file() && p.join("config.json").is_file()));
    for model in models {
        let dir = Folder::new();
        for rule in ["amax", "min-mse"] {
            let path = |name: &str| dir.path(&format!("{rule}-{name}"));
            let (q, ct, back) = (path("q"), path("ct"), path("back"));
            succeeded(&nvfp4(&["quantize", model.to_str().unwrap(), q.to_str().unwrap(), "--rule", rule]));
            succeeded(&nvfp4(&["inspect", q.to_str().unwrap()]));
            for form in [&q, &ct, &back] {
                if form == &ct {
                    succeeded(&convert(&q, &ct, "compressed-tensors", &[]));
                } else if form == &back {
                    succeeded(&convert(&ct, &back, "modelopt", &[]));
                }
                let out =
                    nvfp4(&["verify", model.to_str().unwrap(), form.to_str().unwrap(), "--bar", "0.11"]);
                succeeded(&out);
                assert!(
                    text(&out.stdout).contains("every other tensor is the original's"),
                    "{}",
                    text(&out.stdout)
                );
            }
            let file = |folder: &Path| fs::read(folder.join("model.safetensors")).unwrap();
            assert!(file(&q) == file(&back), "{}: the whole file comes back", model.display());
            assert_ne!(file(&q), file(&ct));
        }
    }
}
