//! Files that are not what they claim: a message and exit code 1, never a crash, never an output.

mod common;
use common::*;
use std::path::Path;

fn good() -> Vec<u8> {
    let entries = [
        entry("a.weight", "F32", &[4, 32], &gauss(128, 1)),
        entry("a.bias", "F32", &[4], &gauss(4, 2)),
        entry("b.weight", "BF16", &[2, 16], &gauss(32, 3)),
    ];
    safetensors(&entries, 0)
}

/// Both commands refuse the file with words that hold `part`, and leave nothing.
fn refused(bytes: &[u8], part: &str) {
    let dir = Folder::new();
    let input = dir.file("bad.safetensors", bytes);
    failed(&quantize(&input, &dir.path("out.safetensors"), &[]), &["bad.safetensors", part]);
    failed(&nvfp4(&["inspect", input.to_str().unwrap()]), &["bad.safetensors", part]);
    assert_eq!(dir.names(), ["bad.safetensors"]);
}

#[test]
fn truncated_anywhere() {
    let file = good();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    refused(&file[..0], "is empty");
    for len in (1..8).chain((8..header).step_by(29)).chain([header - 1]) {
        refused(&file[..len], if len < 8 { "header length alone takes 8" } else { "header claims" });
    }
    for len in (header..file.len()).step_by(61).chain([file.len() - 1]) {
        refused(&file[..len], &format!("the tensors take 592 bytes and {} follow", len - header));
    }
    refused(&[&file[..], b"x"].concat(), "the tensors take 592 bytes and 593 follow");
}

#[test]
fn header_lengths_that_lie() {
    let file = good();
    for (length, part) in [
        (u64::MAX, "more than the format allows"),
        (u64::MAX - 7, "more than the format allows"),
        (1 << 63, "more than the format allows"),
        (100_000_001, "more than the format allows"),
        (99_999_999, "header claims 99999999 bytes and only"),
        (file.len() as u64, "header claims"),
        (0, "not that of a safetensors file"),
        (1, "not that of a safetensors file"),
    ] {
        refused(&[&length.to_le_bytes(), &file[8..]].concat(), part);
    }
}

#[test]
fn headers_that_are_no_headers() {
    let good = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    for (header, data, part) in [
        ("", 0, "not that of a safetensors file"),
        ("garbage", 0, "not that of a safetensors file"),
        ("[]", 0, "not that of a safetensors file"),
        ("null", 0, "not that of a safetensors file"),
        (r#"{"a":"#, 0, "not that of a safetensors file"),
        (r#"{"a":1}"#, 0, "not that of a safetensors file"),
        (r#"{"__metadata__":{"a":1}}"#, 0, "not that of a safetensors file"),
        (&format!("{{\"a\":{good}}} {{"), 4, "not that of a safetensors file"),
        (r#"{"a":{"dtype":"F32","shape":[1]}}"#, 0, "data_offsets"),
        (r#"{"a":{"dtype":"F7","shape":[1],"data_offsets":[0,4]}}"#, 4, "F7"),
        (r#"{"a":{"dtype":3,"shape":[1],"data_offsets":[0,4]}}"#, 4, "not that of a safetensors file"),
        (r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4, "-1"),
        (r#"{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}"#, 4, "1.5"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#, 4, "not that of a safetensors file"),
        (
            r#"{"a.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#,
            4,
            "tensor a.weight of type F32 and shape [2] takes 8 bytes, but its offsets hold 4",
        ),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4, "tensor a does not start"),
        (r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8, "tensor a does not start"),
        (&format!(r#"{{"a":{good},"b":{good}}}"#), 4, "does not start where the one before it ends"),
        (
            &format!(r#"{{"a":{good},"b":{{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}}}"#),
            6,
            "tensor b does not start",
        ),
        (
            &format!(r#"{{"a":{good},"b":{{"dtype":"U8","shape":[4],"data_offsets":[5,9]}}}}"#),
            9,
            "tensor b does not start",
        ),
        (&format!(r#"{{"a":{good}}}"#), 0, "the tensors take 4 bytes and 0 follow"),
        (&format!(r#"{{"a":{good}}}"#), 5, "the tensors take 4 bytes and 5 follow"),
        (r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#, 4, "overflow"),
        (
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,18446744073709551615]}}"#,
            4,
            "overflow",
        ),
        (
            r#"{"a":{"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]}}"#,
            1,
            "overflow",
        ),
        (r#"{"a":{"dtype":"F4","shape":[1],"data_offsets":[0,0]}}"#, 0, "byte boundary"),
    ] {
        refused(&with_header(header, &vec![0; data]), part);
    }
    let mut not_text = good_with_byte(9, 0xff);
    refused(&not_text, "not UTF-8");
    not_text[9] = 0;
    refused(&not_text, "not that of a safetensors file");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    refused(&with_header(&format!("{{\"a\":{deep}}}"), &[]), "recursion limit");
}

fn good_with_byte(at: usize, byte: u8) -> Vec<u8> {
    let mut file = good();
    file[at] = byte;
    file
}

/// Odd but legal: no values, and widths of which the double or the product is no number.
#[test]
fn huge_shapes_of_nothing() {
    let header = r#"{"a.weight":{"dtype":"U8","shape":[0,9223372036854775808],"data_offsets":[0,0]},
        "a.weight_scale":{"dtype":"F8_E4M3","shape":[0,1152921504606846976],"data_offsets":[0,0]},
        "a.weight_scale_2":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "b.weight":{"dtype":"F32","shape":[0,18446744073709551600],"data_offsets":[0,0]},
        "c.weight":{"dtype":"F32","shape":[18446744073709551615,0],"data_offsets":[0,0]}}"#;
    let dir = Folder::new();
    let (input, output) = (dir.file("in", &with_header(header, &[0; 4])), dir.path("out"));
    succeeded(&quantize(&input, &output, &[]));
    succeeded(&nvfp4(&["inspect", output.to_str().unwrap()]));
}

#[test]
fn names_cannot_drive_the_terminal() {
    let header = r#"{"\u001b[31ma\nb":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
    refused(&with_header(header, &[0; 4]), "[31ma\u{fffd}b of type");
}

/// Any byte of the header may be any other: the answer is 0 or 1, and an output only with 0.
#[test]
fn flipped_bytes_never_crash() {
    let file = good();
    let header = 8 + u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    for at in (0..header).step_by(3) {
        let dir = Folder::new();
        let input = dir.file("bad", &good_with_byte(at, file[at] ^ (1 << (at % 8))));
        let out = quantize(&input, &dir.path("out"), &[]);
        let code = out.status.code();
        assert!(matches!(code, Some(0 | 1)), "byte {at}: {code:?} {}", text(&out.stderr));
        assert_eq!(dir.names().len(), if code == Some(0) { 2 } else { 1 }, "byte {at}");
    }
}

#[test]
fn files_that_are_no_files() {
    let dir = Folder::new();
    let out = dir.path("out");
    failed(&quantize(&dir.path("missing"), &out, &[]), &["missing", "cannot be opened"]);
    failed(&quantize(&dir.0, &out, &[]), &["holds neither model.safetensors.index.json"]);
    failed(&quantize(Path::new("/dev/zero"), &out, &[]), &["/dev/zero", "not a regular file"]);
    failed(&nvfp4(&["inspect", dir.path("missing").to_str().unwrap()]), &["missing", "cannot be opened"]);
    assert!(dir.names().is_empty());
}
