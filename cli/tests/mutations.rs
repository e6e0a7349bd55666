//! 10^5 mutated headers and configurations through the whole reading side, in this process: no panic, and an error of one
//! line with words in it. The seed is printed; NVFP4_SEED and NVFP4_MUTATIONS choose others.

mod common;
use common::*;
use nvfp4_cli::model::{Model, Shard, parse_index};
use nvfp4_cli::packed::Form;
use nvfp4_cli::source::Source;
use nvfp4_cli::{config, convert};
use serde_json::Value;
use std::path::Path;

/// xorshift64*: the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 11) as usize % bound.max(1)
    }
}

/// Words that a header or a configuration may be made to say.
const WORDS: [&str; 28] = [
    "null",
    "true",
    "-1",
    "0",
    "1",
    "1e999",
    "18446744073709551615",
    "9223372036854775808",
    "4294967296",
    "0.5",
    "[]",
    "{}",
    "\"\"",
    "\"U8\"",
    "\"F4\"",
    "\"F32\"",
    "\"F8_E4M3\"",
    "\"BF16\"",
    "\"a.weight\"",
    "\"a.weight_packed\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "[0,0]",
    "[[[[",
    "NVFP4",
    "16",
    "32",
    "\"re:.*\"",
];

fn mutate(text: &[u8], random: &mut Random) -> Vec<u8> {
    let mut out = text.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(out.len());
        match random.below(8) {
            0 if !out.is_empty() => out[at] ^= 1 << random.below(8),
            1 if !out.is_empty() => out[at] = random.next() as u8,
            2 => out.truncate(at),
            3 => drop(out.splice(at..at, WORDS[random.below(WORDS.len())].bytes())),
            4 => {
                // A run of digits becomes another number.
                let digits = |b: &u8| b.is_ascii_digit();
                if let Some(start) = out.iter().skip(at).position(digits).map(|p| p + at) {
                    let end = start + out[start..].iter().take_while(|b| digits(b)).count();
                    let number = match random.below(3) {
                        0 => random.next().to_string(),
                        1 => random.below(100).to_string(),
                        _ => WORDS[random.below(10)].to_string(),
                    };
                    out.splice(start..end, number.bytes());
                }
            }
            5 => {
                let end = (at + random.below(40)).min(out.len());
                out.drain(at..end);
            }
            6 => {
                let end = (at + random.below(60)).min(out.len());
                let copy = out[at..end].to_vec();
                let to = random.below(out.len());
                out.splice(to..to, copy);
            }
            _ => {
                // A value after a colon becomes another.
                if let Some(colon) = out.iter().skip(at).position(|&b| b == b':').map(|p| p + at + 1) {
                    let end =
                        out[colon..].iter().position(|b| b",}".contains(b)).map_or(out.len(), |p| p + colon);
                    out.splice(colon..end, WORDS[random.below(WORDS.len())].bytes());
                }
            }
        }
    }
    out
}

fn files() -> Vec<Vec<u8>> {
    let codes = |name, shape: &[usize]| Entry {
        name,
        dtype: "U8",
        shape: shape.to_vec(),
        bytes: vec![0x21; shape.iter().product()],
    };
    let scales = |name, shape: &[usize]| Entry {
        name,
        dtype: "F8_E4M3",
        shape: shape.to_vec(),
        bytes: vec![0x38; shape.iter().product()],
    };
    let modelopt = [
        codes("a.q_proj.weight", &[4, 16]),
        scales("a.q_proj.weight_scale", &[4, 2]),
        entry("a.q_proj.weight_scale_2", "F32", &[], &[0.7]),
        entry("a.q_proj.input_scale", "F32", &[], &[0.3]),
        codes("a.k_proj.weight", &[2, 16]),
        scales("a.k_proj.weight_scale", &[2, 2]),
        entry("a.k_proj.weight_scale_2", "F32", &[2], &[0.7, 0.2]),
        entry("norm.weight", "BF16", &[4], &[1.0; 4]),
    ];
    let compressed = [
        codes("a.weight_packed", &[2, 3, 8]),
        scales("a.weight_scale", &[2, 3, 1]),
        entry("a.weight_global_scale", "F32", &[2], &[300.0, 7.0]),
        entry("head.weight", "F32", &[2, 3], &[1.0; 6]),
    ];
    vec![safetensors(&modelopt, 0), safetensors(&compressed, 3)]
}

const CONFIGS: [&str; 3] = [
    r#"{"producer":{"name":"modelopt","version":"0.33"},"quantization":{"quant_algo":"NVFP4","kv_cache_quant_algo":"FP8","group_size":16,"exclude_modules":["lm_head","model.vision*"]}}"#,
    r#"{"config_groups":{"group_0":{"format":"nvfp4-pack-quantized","targets":["Linear"],"weights":{"num_bits":4,"type":"float","group_size":16,"symmetric":true}}},"format":"nvfp4-pack-quantized","ignore":["lm_head","re:.*gate$"],"kv_cache_scheme":{"num_bits":8,"type":"float"},"quant_method":"compressed-tensors"}"#,
    r#"{"metadata":{"total_size":12},"weight_map":{"a.weight":"model-00001-of-00002.safetensors","b.weight":"model-00002-of-00002.safetensors"}}"#,
];

/// Whatever an error says, it is a sentence on one line that cannot drive a terminal.
fn told<T>(outcome: Result<T, String>) -> bool {
    if let Err(e) = &outcome {
        assert!(e.len() > 8 && !e.contains(['\n', '\u{1b}', '\0']), "{e:?}");
    }
    outcome.is_ok()
}

/// Everything up to the writing of bytes: header, names, scales, configuration, layout of the other form.
fn read(bytes: Vec<u8>, words: Option<Value>) -> Result<(), String> {
    let source = Source::parse(bytes)?;
    let shards = vec![Shard { file: "m.safetensors".into(), source }];
    let mut model = Model::assemble(Path::new("m"), true, shards)?;
    model.modelopt_config = words;
    for (to, merge) in [(Form::Modelopt, true), (Form::CompressedTensors, false)] {
        convert::plan(&model, &["m.safetensors".into()], true, to, merge)?;
    }
    Ok(())
}

#[test]
fn a_hundred_thousand() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let seed = number("NVFP4_SEED", 20_240_229);
    let count = number("NVFP4_MUTATIONS", 100_000);
    println!("seed {seed}, {count} mutations");
    let mut random = Random(seed | 1);
    let files = files();
    files.iter().for_each(|f| assert_eq!(read(f.clone(), None), Ok(())));
    let (mut good, mut bad) = (0u64, 0u64);
    for i in 0..count {
        let whole = if i % 2 == 0 {
            let file = &files[random.below(files.len())];
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            let header = mutate(&file[8..8 + length], &mut random);
            let claimed =
                if random.below(50) == 0 { random.next() >> random.below(64) } else { header.len() as u64 };
            let mut bytes = claimed.to_le_bytes().to_vec();
            bytes.extend(header);
            let mut data = file[8 + length..].to_vec();
            if random.below(4) == 0 {
                let at = random.below(data.len());
                data[at] = random.next() as u8;
            }
            bytes.extend(data);
            told(read(bytes, None))
        } else {
            let which = random.below(CONFIGS.len());
            let text = mutate(CONFIGS[which].as_bytes(), &mut random);
            match serde_json::from_slice::<Value>(&text) {
                Err(_) => false,
                Ok(value) if which == 2 => told(parse_index(&value)),
                Ok(value) => {
                    told(config::check(&value, &mut config::Found::default()))
                        && told(read(files[0].clone(), Some(value)))
                }
            }
        };
        *(if whole { &mut good } else { &mut bad }) += 1;
    }
    println!("{good} were legal, {bad} refused");
    assert!(bad > count / 2 && good > count / 1000, "the mutations are neither all legal nor all noise");
}
