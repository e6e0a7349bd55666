//! Directories of shards: in and out, interrupted and taken up again; experts in one tensor.

mod common;
use common::*;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

const FILES: [&str; 3] = [
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
];

/// A checkpoint of three files with an index, a configuration and a tokenizer.
fn sharded(dir: &Folder) -> PathBuf {
    let path = dir.path("in");
    fs::create_dir(&path).unwrap();
    let shards = [
        vec![
            entry("a.weight", "BF16", &[16, 32], &gauss(512, 1)),
            entry("a.bias", "F32", &[16], &gauss(16, 2)),
        ],
        vec![entry("b.weight", "F32", &[8, 64], &gauss(512, 3))],
        vec![
            entry("embed_tokens.weight", "F32", &[8, 16], &gauss(128, 4)),
            entry("c.weight", "F32", &[4, 16], &gauss(64, 5)),
        ],
    ];
    let mut map = serde_json::Map::new();
    for (file, entries) in FILES.iter().zip(shards) {
        entries.iter().for_each(|e| drop(map.insert(e.name.into(), (*file).into())));
        fs::write(path.join(file), safetensors(&entries, 0)).unwrap();
    }
    let index = json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    fs::write(path.join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    fs::write(path.join("tokenizer.json"), "{}").unwrap();
    path
}

fn run(command: &str, input: &Path, output: &Path, options: &[&str]) -> Output {
    nvfp4(&[&[command, input.to_str().unwrap(), output.to_str().unwrap()], options].concat())
}

fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.file_name().unwrap().to_str().unwrap().to_string(), fs::read(&p).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn shards_in_and_out() {
    let dir = Folder::new();
    let input = sharded(&dir);
    let (q, ct, back) = (dir.path("q"), dir.path("ct"), dir.path("back"));
    succeeded(&run("quantize", &input, &q, &[]));
    let names: Vec<String> = files(&q).into_iter().map(|f| f.0).collect();
    let mut expected = FILES.map(String::from).to_vec();
    expected.extend(
        ["config.json", "hf_quant_config.json", "model.safetensors.index.json", "tokenizer.json"]
            .map(String::from),
    );
    expected.sort();
    assert_eq!(names, expected);
    let index: Value =
        serde_json::from_slice(&fs::read(q.join("model.safetensors.index.json")).unwrap()).unwrap();
    let map = index["weight_map"].as_object().unwrap();
    assert_eq!(map["b.weight_scale_2"], FILES[1]);
    assert_eq!(map.len(), 5 + 3 * 2);
    let mut total = 0;
    for (name, bytes) in files(&q).iter().filter(|f| f.0.ends_with(".safetensors")) {
        let file = SafeTensors::deserialize(bytes).unwrap();
        for (tensor, view) in file.tensors() {
            assert_eq!(map[&tensor], name.as_str());
            total += view.data().len();
        }
    }
    assert_eq!(index["metadata"]["total_size"], total);

    let out = nvfp4(&["inspect", "--json", q.to_str().unwrap()]);
    succeeded(&out);
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((said["nvfp4"].as_array().unwrap().len(), &said["rule"]), (3, &"amax".into()));
    succeeded(&run("convert", &q, &ct, &["--to", "compressed-tensors"]));
    succeeded(&run("convert", &ct, &back, &["--to", "modelopt"]));
    let safe = |p: &Path| files(p).into_iter().filter(|f| f.0.contains("safetensors")).collect::<Vec<_>>();
    assert!(safe(&q) == safe(&back), "files and index come back");
    succeeded(&run("verify", &input, &ct, &[]));

    // One file from many, and a directory from one file.
    let (one, folder) = (dir.path("one.safetensors"), dir.path("folder"));
    succeeded(&run("quantize", &input, &one, &[]));
    succeeded(&run("verify", &input, &one, &[]));
    succeeded(&run("convert", &one, &dir.path("folder/"), &["--to", "compressed-tensors"]));
    assert!(folder.join("model.safetensors").is_file());
    failed(&run("quantize", &input, &q, &[]), &["is not empty"]);
    failed(&run("quantize", &input, &input.join(FILES[0]), &[]), &["is the input itself"]);
}

/// An interrupted run leaves whole shards under a hidden name; the same command takes them up and makes the same bytes.
#[test]
fn resumes() {
    let dir = Folder::new();
    let input = sharded(&dir);
    let (whole, out) = (dir.path("whole"), dir.path("out"));
    succeeded(&run("quantize", &input, &whole, &[]));
    // What a run that was killed after two shards has left: it stops at the third, which is not yet readable.
    let third = input.join(FILES[2]);
    let good = fs::read(&third).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - 4; // the last value of c.weight
    bad[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    let times = fs::metadata(&third).unwrap().modified().unwrap();
    let put = |bytes: &[u8]| {
        fs::write(&third, bytes).unwrap();
        fs::File::options().write(true).open(&third).unwrap().set_modified(times).unwrap();
    };
    put(&bad);
    failed(&run("quantize", &input, &out, &[]), &["c.weight", "NaN"]);
    assert!(!out.exists());
    let staging = dir.path(".out.part");
    let left: Vec<String> = files(&staging).into_iter().map(|f| f.0).collect();
    assert_eq!(left, [".run.json", FILES[0], FILES[1]]);
    let first = fs::metadata(staging.join(FILES[0])).unwrap().modified().unwrap();
    put(&good);

    failed(
        &run("quantize", &input, &out, &["--rule", "min-mse"]),
        &["unfinished output of another command", "--restart"],
    );
    // A shard that is not what is wanted (here: cut short) is written again.
    let cut = fs::read(staging.join(FILES[1])).unwrap();
    fs::write(staging.join(FILES[1]), &cut[..cut.len() - 1]).unwrap();
    let done = run("quantize", &input, &out, &[]);
    succeeded(&done);
    assert!(text(&done.stdout).contains("1 of 3 files were there"), "{}", text(&done.stdout));
    assert!(files(&out) == files(&whole));
    assert_eq!(fs::metadata(out.join(FILES[0])).unwrap().modified().unwrap(), first);
    assert!(!staging.exists());

    put(&bad);
    failed(&run("quantize", &input, &dir.path("again"), &[]), &["NaN"]);
    put(&good);
    succeeded(&run("quantize", &input, &dir.path("again"), &["--rule", "min-mse", "--restart"]));
    assert!(files(&dir.path("again")) != files(&whole));
}

#[test]
fn directories_that_lie() {
    let dir = Folder::new();
    let input = sharded(&dir);
    let index = input.join("model.safetensors.index.json");
    let out = dir.path("out");
    for (text, part) in [
        ("{", "is not valid JSON"),
        ("[]", "weight_map"),
        (r#"{"weight_map":{"a.weight":3}}"#, "names no file"),
        (r#"{"weight_map":{"a.weight":"../x.safetensors"}}"#, "not the name of a safetensors file"),
        (r#"{"weight_map":{"a.weight":"/etc/passwd"}}"#, "not the name of a safetensors file"),
        (r#"{"weight_map":{"a.weight":"none.safetensors"}}"#, "cannot be opened"),
        (r#"{"weight_map":{"z":"model-00001-of-00003.safetensors"}}"#, "holds no tensor z"),
    ] {
        fs::write(&index, text).unwrap();
        failed(&run("quantize", &input, &out, &[]), &[part]);
    }
    fs::remove_file(&index).unwrap();
    failed(&run("quantize", &input, &out, &[]), &["holds neither"]);
    // The same tensor twice.
    fs::copy(input.join(FILES[0]), input.join("twin.safetensors")).unwrap();
    let twice = json!({"weight_map": {"a.weight": FILES[0], "a.bias": "twin.safetensors"}});
    fs::write(&index, twice.to_string()).unwrap();
    failed(&run("quantize", &input, &out, &[]), &["tensor a.", "is in both"]);
}

/// [E, N, K] and [E, K, N] of the same values become the same codes, an expert at a time with a scale of its own.
#[test]
fn experts_in_one_tensor() {
    let dir = Folder::new();
    let (e, n, k) = (3, 24, 32);
    let values: Vec<f32> =
        gauss(e * n * k, 7).iter().enumerate().map(|(i, x)| x * (1 + i / (n * k)) as f32).collect();
    let mut turned = vec![0.0; e * n * k];
    for (i, v) in values.iter().enumerate() {
        let (x, row, col) = (i / (n * k), i / k % n, i % k);
        turned[x * n * k + col * n + row] = *v;
    }
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    let file = |shape: &[usize], v: &[f32]| safetensors(&[entry(name, "F32", shape, v)], 0);
    let nk = dir.file("nk.safetensors", &file(&[e, n, k], &values));
    let kn = dir.file("kn.safetensors", &file(&[e, k, n], &turned));
    let (a, b) = (dir.path("a.safetensors"), dir.path("b.safetensors"));
    succeeded(&quantize(&nk, &a, &["--experts", "nk"]));
    succeeded(&quantize(&kn, &b, &["--experts", "kn"]));
    assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap());
    let bytes = fs::read(&a).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(found.tensor(name).unwrap().shape(), [e, n, k / 2]);
    assert_eq!(found.tensor(&format!("{name}_weight_scale")).unwrap().shape(), [e, n, k / 16]);
    assert_eq!(found.tensor(&format!("{name}_weight_scale_2")).unwrap().shape(), [e]);
    // Each expert is what it would be as a matrix of its own.
    for x in 0..e {
        let alone = safetensors(&[entry("x.weight", "F32", &[n, k], &values[x * n * k..(x + 1) * n * k])], 0);
        let (input, output) = (dir.file("x.safetensors", &alone), dir.path("y.safetensors"));
        succeeded(&quantize(&input, &output, &[]));
        let bytes = fs::read(&output).unwrap();
        let one = SafeTensors::deserialize(&bytes).unwrap();
        let part = |t: &str, of: usize| found.tensor(t).unwrap().data()[x * of..(x + 1) * of].to_vec();
        assert_eq!(one.tensor("x.weight").unwrap().data(), part(name, n * k / 2));
        assert_eq!(
            one.tensor("x.weight_scale").unwrap().data(),
            part(&format!("{name}_weight_scale"), n * k / 16)
        );
        assert_eq!(
            one.tensor("x.weight_scale_2").unwrap().data(),
            part(&format!("{name}_weight_scale_2"), 4)
        );
    }
    for original in [&nk, &kn] {
        succeeded(&run("verify", original, &a, &["--bar", "0.11"]));
    }
    let (ct, back) = (dir.path("ct.safetensors"), dir.path("back.safetensors"));
    succeeded(&run("convert", &a, &ct, &["--to", "compressed-tensors"]));
    succeeded(&run("convert", &ct, &back, &["--to", "modelopt"]));
    assert!(fs::read(&a).unwrap() == fs::read(&back).unwrap());
    let out = quantize(&nk, &dir.path("kept.safetensors"), &[]);
    assert!(text(&out.stdout).contains("--experts says how"), "{}", text(&out.stdout));
}

/// An output head that is the embedding is in no file; engines are told that it is not quantized.
#[test]
fn a_tied_head_is_kept() {
    let dir = Folder::new();
    let input = sharded(&dir);
    let config = input.join("config.json");
    let mut outputs = Vec::new();
    for (said, tied) in [
        (r#"{"tie_word_embeddings":true}"#, true),
        (r#"{"tie_word_embeddings":false}"#, false),
        (r#"{}"#, false),
    ] {
        fs::write(&config, said).unwrap();
        let out = dir.path(&format!("out{}", outputs.len()));
        succeeded(&run("quantize", &input, &out, &[]));
        let words: Value =
            serde_json::from_slice(&fs::read(out.join("hf_quant_config.json")).unwrap()).unwrap();
        let excluded = words["quantization"]["exclude_modules"].as_array().unwrap();
        assert_eq!(excluded.contains(&"lm_head".into()), tied, "{said}: {excluded:?}");
        outputs.push(out);
    }
    let ct = dir.path("ct");
    succeeded(&run("convert", &outputs[0], &ct, &["--to", "compressed-tensors"]));
    let words: Value = serde_json::from_slice(&fs::read(ct.join("config.json")).unwrap()).unwrap();
    assert!(words["quantization_config"]["ignore"].as_array().unwrap().contains(&"lm_head".into()));
}

/// config.json says how experts are stored, where the model is known.
#[test]
fn experts_by_the_models_name() {
    let dir = Folder::new();
    let folder = dir.path("in");
    fs::create_dir(&folder).unwrap();
    let file = safetensors(&[entry("l.experts.down_proj", "F32", &[2, 48, 20], &gauss(2 * 48 * 20, 1))], 0);
    fs::write(folder.join("model.safetensors"), file).unwrap();
    fs::write(folder.join("config.json"), r#"{"model_type":"gpt_oss"}"#).unwrap();
    succeeded(&run("quantize", &folder, &dir.path("out"), &[]));
    let out = nvfp4(&["inspect", dir.path("out").to_str().unwrap()]);
    assert!(text(&out.stdout).contains("[2, 20, 48]"), "{}", text(&out.stdout));
}
