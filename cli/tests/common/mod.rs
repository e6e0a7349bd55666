//! Files for the tests of the command: written byte by byte here, so that the command's own writer is not its judge.
#![allow(dead_code)] // each test program uses its part

use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A folder of its own for each test, removed at its end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("nvfp4-cli-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Sorted names, hidden ones too.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub struct Entry {
    pub name: &'static str,
    pub dtype: &'static str,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// `pad` spaces after the header's text, which move the data to any address.
pub fn safetensors(entries: &[Entry], pad: usize) -> Vec<u8> {
    let mut texts = vec![r#""__metadata__":{"format":"pt"}"#.to_string()];
    let mut data = Vec::new();
    for e in entries {
        let start = data.len();
        data.extend(&e.bytes);
        texts.push(format!(
            r#""{}":{{"dtype":"{}","shape":{:?},"data_offsets":[{start},{}]}}"#,
            e.name,
            e.dtype,
            e.shape,
            data.len()
        ));
    }
    with_header(&format!("{{{}}}{}", texts.join(","), " ".repeat(pad)), &data)
}

pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// Roughly normal values, always the same.
pub fn gauss(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect()
}

/// The values as F32, or as BF16 cut to the upper half.
pub fn entry(name: &'static str, dtype: &'static str, shape: &[usize], values: &[f32]) -> Entry {
    let bytes = values
        .iter()
        .flat_map(|v| match dtype {
            "BF16" => v.to_le_bytes()[2..].to_vec(),
            "F64" => (*v as f64).to_le_bytes().to_vec(),
            _ => v.to_le_bytes().to_vec(),
        })
        .collect();
    Entry { name, dtype, shape: shape.to_vec(), bytes }
}

pub fn nvfp4(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nvfp4")).args(arguments).output().unwrap()
}

pub fn quantize(input: &Path, output: &Path, options: &[&str]) -> Output {
    nvfp4(&[&["quantize", input.to_str().unwrap(), output.to_str().unwrap()], options].concat())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Fails the test with the command's own words.
pub fn succeeded(out: &Output) {
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
}

/// Exit code 1 and one line that holds each of `parts`.
pub fn failed(out: &Output, parts: &[&str]) {
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

/// The values that an NVFP4 weight of the file stands for, from the format's definition alone.
pub fn dequantized(file: &SafeTensors, name: &str) -> Vec<f32> {
    let codes = file.tensor(name).unwrap();
    let scales = file.tensor(&format!("{name}_scale")).unwrap();
    let decode = file.tensor(&format!("{name}_scale_2")).unwrap();
    let decode = f32::from_le_bytes(decode.data().try_into().unwrap());
    let e2m1 = |c: u8| {
        [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][c as usize & 7] * if c & 8 == 0 { 1.0 } else { -1.0 }
    };
    let e4m3 = |s: u8| match s >> 3 {
        0 => s as f32 / 512.0,
        e => (8 + (s & 7)) as f32 * (e as f32 - 10.0).exp2(),
    };
    let nibbles = codes.data().iter().flat_map(|b| [b & 15, b >> 4]);
    nibbles.enumerate().map(|(i, c)| e2m1(c) * e4m3(scales.data()[i / 16]) * decode).collect()
}

/// The root of the squared error over the squared values.
pub fn relative_error(approximate: &[f32], exact: &[f32]) -> f64 {
    assert_eq!(approximate.len(), exact.len());
    let error: f64 = approximate.iter().zip(exact).map(|(a, b)| ((a - b) as f64).powi(2)).sum();
    (error / exact.iter().map(|v| (*v as f64).powi(2)).sum::<f64>()).sqrt()
}
