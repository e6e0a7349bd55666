//! Measured choices of kernels for products, and the file that keeps them: problem key → kernel and parameters.
//!
//! A choice may change a product's bits (how many parts a sum is cut into), never its bound, so choices come by an
//! explicit call alone, and the same file gives the same bits. The file is text: who measured on what, a line a choice,
//! a checksum over all of it. A file of another library, device or driver, or one that is damaged in any way, is
//! rejected as a whole; a choice that the planner calls illegal for a problem is passed over when that problem comes.

use std::fmt::Write as _;

use super::gemm::{Activation, Activations, GemmOut, GemmProblem};
use super::groups::Groups;
use crate::format::dtype::Dtype;

/// Version of the format. Raise it with the meaning of a key or a parameter.
const HEAD: &str = "nvfp4 tuning 1";
/// Choices a file may hold; more than any model has shapes.
pub const MOST_CHOICES: usize = 65536;
/// Bytes of a name of a kernel.
const LONGEST_NAME: usize = 63;

/// Where choices were measured. They hold nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub library: String,
    pub device: String,
    pub compute_capability: (u32, u32),
    pub processors: u32,
    pub driver: i32,
}

/// Type of the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operand {
    Bf16,
    F16,
    Codes,
}

const OPERANDS: [(Operand, &str); 3] =
    [(Operand::Bf16, "bf16"), (Operand::F16, "f16"), (Operand::Codes, "codes")];

impl Operand {
    pub fn of(p: &GemmProblem) -> Operand {
        match p.a {
            Activations::Values { a, .. } if a.dtype == Dtype::F16 => Operand::F16,
            Activations::Values { .. } => Operand::Bf16,
            Activations::Codes(_) => Operand::Codes,
        }
    }

    pub fn name(self) -> &'static str {
        OPERANDS[self as usize].1
    }
}

/// What happens on the way out: the activation, and whether values or codes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Epilogue {
    Plain,
    SwiGlu,
    Relu2,
    PlainCodes,
    SwiGluCodes,
    Relu2Codes,
}

const EPILOGUES: [(Epilogue, &str); 6] = [
    (Epilogue::Plain, "plain"),
    (Epilogue::SwiGlu, "swiglu"),
    (Epilogue::Relu2, "relu2"),
    (Epilogue::PlainCodes, "plain_codes"),
    (Epilogue::SwiGluCodes, "swiglu_codes"),
    (Epilogue::Relu2Codes, "relu2_codes"),
];

/// Problems that share a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub operand: Operand,
    pub groups: usize,
    /// Rows a group that can have rows, on average, rounded up to a power of two.
    pub tokens: usize,
    pub rows: usize,
    pub cols: usize,
    pub epilogue: Epilogue,
}

impl Key {
    pub fn of(p: &GemmProblem) -> Key {
        let (rows, active) = match p.groups {
            Groups::None { rows } => (rows, 1),
            Groups::Ends { rows, count, .. } => (rows, count.min(rows)),
            Groups::Masked { max_rows: rows, .. } | Groups::Strided { rows, .. } => (rows, 1),
        };
        let tokens = rows.div_ceil(active.max(1));
        let codes = matches!(p.out, GemmOut::Codes(_));
        let epilogue = match (p.activation, codes) {
            (Activation::None, false) => Epilogue::Plain,
            (Activation::SwiGlu(_), false) => Epilogue::SwiGlu,
            (Activation::Relu2, false) => Epilogue::Relu2,
            (Activation::None, true) => Epilogue::PlainCodes,
            (Activation::SwiGlu(_), true) => Epilogue::SwiGluCodes,
            (Activation::Relu2, true) => Epilogue::Relu2Codes,
        };
        let shape = &p.weights.shape;
        Key {
            operand: Operand::of(p),
            groups: shape.groups,
            tokens: tokens.checked_next_power_of_two().unwrap_or(tokens),
            rows: shape.rows,
            cols: shape.cols,
            epilogue,
        }
    }
}

/// A kernel by its name, and how it is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub kernel: String,
    /// Parts into which the sum over k is cut.
    pub splits: usize,
}

/// All choices of a context, ascending by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    choices: Vec<(Key, Choice)>,
}

impl Tuning {
    pub fn len(&self) -> usize {
        self.choices.len()
    }

    pub fn is_empty(&self) -> bool {
        self.choices.is_empty()
    }

    /// What was measured to be best for the problems of a key.
    pub fn choice(&self, key: &Key) -> Option<&Choice> {
        self.choices.binary_search_by_key(key, |(own, _)| *own).ok().map(|at| &self.choices[at].1)
    }

    pub fn set(&mut self, key: Key, choice: Choice) {
        match self.choices.binary_search_by_key(&key, |(own, _)| *own) {
            Ok(at) => self.choices[at].1 = choice,
            Err(at) => self.choices.insert(at, (key, choice)),
        }
    }

    /// The file's text.
    pub fn to_text(&self, machine: &Machine) -> String {
        let mut text = head(machine);
        for (key, choice) in &self.choices {
            let Key { operand, groups, tokens, rows, cols, epilogue } = key;
            let (operand, epilogue) = (operand.name(), EPILOGUES[*epilogue as usize].1);
            let Choice { kernel, splits } = choice;
            // Strings take text.
            let _ = writeln!(
                text,
                "gemm {operand} groups={groups} tokens={tokens} n={rows} k={cols} {epilogue} {kernel} splits={splits}"
            );
        }
        let _ = writeln!(text, "checksum {:016x}", checksum(text.as_bytes()));
        text
    }

    /// Reads a file's bytes; or says why it does not hold on this machine.
    pub fn parse(bytes: &[u8], machine: &Machine) -> Result<Tuning, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_string())?;
        if !text.starts_with(HEAD) {
            return Err(format!("it does not begin with \"{HEAD}\""));
        }
        let at = text.rfind("checksum ").ok_or("it has no checksum; it was cut off")?;
        if text[at..] != format!("checksum {:016x}\n", checksum(&text.as_bytes()[..at])) {
            return Err("its checksum is wrong; it was changed or cut off".into());
        }
        let (found, expected) = (text[..at].lines(), head(machine));
        for (found, expected) in found.clone().zip(expected.lines()) {
            if found != expected {
                return Err(format!("it was measured elsewhere: \"{found}\" there, \"{expected}\" here"));
            }
        }
        let mut tuning = Tuning::default();
        for line in found.skip(expected.lines().count()) {
            let (key, choice) = entry(line).ok_or_else(|| format!("no choice: \"{line}\""))?;
            if tuning.len() == MOST_CHOICES {
                return Err(format!("it has more than {MOST_CHOICES} choices"));
            }
            tuning.set(key, choice);
        }
        Ok(tuning)
    }
}

fn head(machine: &Machine) -> String {
    let Machine { library, device, compute_capability: (major, minor), processors, driver } = machine;
    // A name with a line break would end its line.
    let device: String = device.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!(
        "{HEAD}\nlibrary {library}\ndevice {device}\ncompute {major}.{minor}\nprocessors {processors}\ndriver {driver}\n"
    )
}

fn entry(line: &str) -> Option<(Key, Choice)> {
    let mut words = line.split(' ');
    let mut word = || words.next();
    let number = |word: Option<&str>, name: &str| -> Option<usize> {
        let digits = word?.strip_prefix(name)?.strip_prefix('=')?;
        // parse() also takes a sign.
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    if word()? != "gemm" {
        return None;
    }
    let operand = word()?;
    let operand = OPERANDS.iter().find(|(_, name)| *name == operand)?.0;
    let (groups, tokens) = (number(word(), "groups")?, number(word(), "tokens")?);
    let (rows, cols) = (number(word(), "n")?, number(word(), "k")?);
    let epilogue = word()?;
    let epilogue = EPILOGUES.iter().find(|(_, name)| *name == epilogue)?.0;
    let kernel = word()?;
    let named = !kernel.is_empty() && kernel.len() <= LONGEST_NAME;
    if !named || !kernel.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return None;
    }
    let splits = number(word(), "splits")?;
    let key = Key { operand, groups, tokens, rows, cols, epilogue };
    word().is_none().then(|| (key, Choice { kernel: kernel.into(), splits }))
}

/// FNV-1a: finds damage, does not stop forgers; a wrong choice is a slow product, not a wrong one.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &b| (sum ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn machine() -> Machine {
        Machine {
            library: "0.1.0".into(),
            device: "Some GPU".into(),
            compute_capability: (9, 0),
            processors: 132,
            driver: 13000,
        }
    }

    fn key(tokens: usize) -> Key {
        Key {
            operand: Operand::Bf16,
            groups: 48,
            tokens,
            rows: 6144,
            cols: 7168,
            epilogue: Epilogue::SwiGluCodes,
        }
    }

    fn sample() -> Tuning {
        let mut tuning = Tuning::default();
        for tokens in [64, 1, 16, 4] {
            tuning.set(key(tokens), Choice { kernel: format!("nvfp4_gemm_bf16_{tokens}"), splits: 2 });
        }
        tuning
    }

    #[test]
    fn a_file_says_what_was_written() {
        let text = sample().to_text(&machine());
        assert_eq!(Tuning::parse(text.as_bytes(), &machine()), Ok(sample()));
        assert_eq!(sample().choice(&key(16)).map(|c| c.kernel.as_str()), Some("nvfp4_gemm_bf16_16"));
        assert_eq!(sample().choice(&key(32)), None);
        let empty = Tuning::default().to_text(&machine());
        assert_eq!(Tuning::parse(empty.as_bytes(), &machine()), Ok(Tuning::default()));
        let odd = Machine { device: "two\nlines".into(), ..machine() };
        assert_eq!(Tuning::parse(sample().to_text(&odd).as_bytes(), &odd), Ok(sample()));
    }

    #[test]
    fn a_file_of_another_machine_is_rejected_with_the_line() {
        let text = sample().to_text(&machine());
        let check = |other: Machine, words: &str| {
            let why = Tuning::parse(text.as_bytes(), &other).unwrap_err();
            assert!(why.contains("measured elsewhere") && why.contains(words), "{why}");
        };
        check(Machine { library: "0.2.0".into(), ..machine() }, "library 0.2.0");
        check(Machine { device: "Other".into(), ..machine() }, "device Other");
        check(Machine { compute_capability: (10, 0), ..machine() }, "compute 10.0");
        check(Machine { processors: 114, ..machine() }, "processors 114");
        check(Machine { driver: 13010, ..machine() }, "driver 13010");
    }

    /// A body under a right checksum.
    fn sealed(lines: &str) -> String {
        let body = head(&machine()) + lines;
        let sum = checksum(body.as_bytes());
        format!("{body}checksum {sum:016x}\n")
    }

    #[test]
    fn lines_that_are_no_choice_are_rejected_under_a_right_checksum() {
        let good = "gemm bf16 groups=1 tokens=1 n=64 k=64 plain nvfp4_x splits=1";
        assert_eq!(
            Tuning::parse(sealed(&format!("{good}\n")).as_bytes(), &machine()).map(|t| t.len()),
            Ok(1)
        );
        for (from, to) in [
            ("gemm", "gemv"),
            ("bf16", "fp8"),
            ("groups=1", "groups=-1"),
            ("groups=1", "groups=+1"),
            ("groups=1", "groups="),
            ("groups=1", "tokens=1"),
            ("n=64", "n=99999999999999999999999"),
            ("plain", "gelu"),
            ("nvfp4_x", "../x"),
            ("nvfp4_x", ""),
            ("splits=1", "splits=1 more=2"),
            ("splits=1", ""),
        ] {
            let line = sealed(&format!("{}\n", good.replacen(from, to, 1)));
            assert!(Tuning::parse(line.as_bytes(), &machine()).is_err(), "{from} -> {to}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_file_is_rejected(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = sample().to_text(&machine()).into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Tuning::parse(&bytes, &machine()).is_err());
        }

        #[test]
        fn a_file_that_was_cut_off_is_rejected(keep in 0usize..10_000) {
            let bytes = sample().to_text(&machine()).into_bytes();
            prop_assert!(Tuning::parse(&bytes[..keep % bytes.len()], &machine()).is_err());
        }

        #[test]
        fn any_lines_under_a_right_checksum_are_read_or_rejected(lines in "(gemm |bf16 |groups=|[0-9]{1,25}| |n=|k=|\n|\\PC){0,60}") {
            let _ = Tuning::parse(sealed(&lines).as_bytes(), &machine());
        }

        #[test]
        fn any_bytes_are_read_or_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Tuning::parse(&bytes, &machine()).is_err());
        }
    }
}
