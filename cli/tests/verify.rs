//! `nvfp4 verify`, `bench` and `doctor`: figures, drawings, and what makes them fail.

mod common;
use common::*;
use safetensors::SafeTensors;
use serde_json::Value;
use std::fs;

#[test]
fn errors_are_those_of_the_formats_definition() {
    let dir = Folder::new();
    let values = gauss(64 * 48, 3);
    let entries =
        [entry("l.0.a.weight", "F32", &[64, 48], &values), entry("norm.weight", "F32", &[8], &gauss(8, 1))];
    let bytes = safetensors(&entries, 0);
    let (original, quantized) = (dir.file("in.safetensors", &bytes), dir.path("q.safetensors"));
    succeeded(&quantize(&original, &quantized, &[]));
    let (figures, drawing) = (dir.path("v.json"), dir.path("v.svg"));
    let paths = [&original, &quantized, &figures, &drawing].map(|p| p.to_str().unwrap().to_string());
    let out = nvfp4(&["verify", &paths[0], &paths[1], "--json", &paths[2], "--plot", &paths[3]]);
    succeeded(&out);
    let written = fs::read(&quantized).unwrap();
    let exact = dequantized(&SafeTensors::deserialize(&written).unwrap(), "l.0.a.weight");
    let said: Value = serde_json::from_slice(&fs::read(&figures).unwrap()).unwrap();
    let weight = &said["weights"][0];
    assert_eq!((&weight["name"], &said["changed"]), (&"l.0.a.weight".into(), &Value::Array(vec![])));
    let error = relative_error(&exact, &values);
    assert!((weight["relative_error"].as_f64().unwrap() - error).abs() < 1e-12, "{weight} {error}");
    let largest = exact.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!((weight["largest_error"].as_f64().unwrap() - largest as f64).abs() < 1e-6, "{weight} {largest}");
    let svg = fs::read_to_string(&drawing).unwrap();
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    assert!(svg.matches("<circle").count() >= 2, "a point and its legend");
    failed(
        &nvfp4(&["verify", &paths[0], &paths[1], "--bar", "0.01", "--quiet"]),
        &["l.0.a.weight", "above 0.01"],
    );
}

#[test]
fn other_tensors_must_be_the_originals() {
    let dir = Folder::new();
    let weight = || entry("a.weight", "F32", &[16, 16], &gauss(256, 1));
    let original =
        dir.file("in.safetensors", &safetensors(&[weight(), entry("n", "F32", &[2], &[1.0, 2.0])], 0));
    let other =
        dir.file("other.safetensors", &safetensors(&[weight(), entry("n", "F32", &[2], &[1.0, 3.0])], 0));
    let fewer = dir.file("fewer.safetensors", &safetensors(&[weight()], 0));
    let more = [weight(), entry("n", "F32", &[2], &[1.0, 2.0]), entry("m", "F32", &[1], &[1.0])];
    let more = dir.file("more.safetensors", &safetensors(&more, 0));
    let quantized = dir.path("q.safetensors");
    for (input, part) in
        [(&other, "n has other bytes"), (&fewer, "n is missing"), (&more, "m is not in the original")]
    {
        succeeded(&quantize(input, &quantized, &["--quiet"]));
        let out = nvfp4(&["verify", original.to_str().unwrap(), quantized.to_str().unwrap(), "--quiet"]);
        failed(&out, &["1 of the other tensors differ", part]);
    }
    let shape =
        dir.file("shape.safetensors", &safetensors(&[entry("a.weight", "F32", &[8, 32], &gauss(256, 1))], 0));
    succeeded(&quantize(&fewer, &quantized, &["--quiet"]));
    let out = nvfp4(&["verify", shape.to_str().unwrap(), quantized.to_str().unwrap()]);
    failed(&out, &["shape.safetensors", "a.weight has shape [8, 32]", "[16, 16]"]);
    let plain = nvfp4(&["verify", original.to_str().unwrap(), fewer.to_str().unwrap()]);
    failed(&plain, &["holds no NVFP4 weight"]);
}

#[test]
fn the_machine_is_described() {
    let out = nvfp4(&["doctor"]);
    succeeded(&out);
    let said = text(&out.stdout);
    for part in [env!("CARGO_PKG_VERSION"), "CPU", "kernel images", "driver", "GPU", "environment"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let out = nvfp4(&["doctor", "--json"]);
    let all: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(all.as_array().unwrap().iter().all(|l| l["good"] == true || l["next"].is_string()), "{all}");
}

#[test]
fn times_are_told() {
    let out = nvfp4(&["bench", "-m", "16", "-n", "32", "-k", "64", "--runs", "3", "--json"]);
    succeeded(&out);
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    let results = said["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    assert!(results.iter().all(|r| r["microseconds"].as_f64().unwrap() > 0.0), "{said}");
    failed(&nvfp4(&["bench", "-k", "17"]), &["17", "16"]);
    failed(&nvfp4(&["bench", "-m", "0"]), &["above 0"]);
}
