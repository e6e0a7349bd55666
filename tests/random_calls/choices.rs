//! Products with every kernel that can take them, also those that the planner keeps for others: by a file of choices, as
//! `nvfp4_tuning_save` writes it.

use std::ffi::CString;
use std::ptr::null;

use nvfp4::api::types::*;
use nvfp4::backend::cuda::KERNELS;
use nvfp4::ffi::*;
use nvfp4::plan::tuning::{Choice, Epilogue, Key, Machine, Operand, Tuning};

use crate::Prepared;
use crate::bench::*;
use crate::environment::Traced;
use crate::reference::Canonical;
use crate::regular::{self, PRODUCT_CALLS};
use crate::support::check;

/// Ways of cutting a sum that are tried.
const SPLITS: std::ops::RangeInclusive<usize> = 1..=4;

impl Bench {
    /// What was wrong with a set of weights.
    pub fn every_choice(&mut self, weights: &Prepared, canonical: &Canonical) -> Vec<String> {
        let path = std::env::temp_dir().join(format!(
            "nvfp4-choices-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut problems = Vec::new();
        let done = self
            .choices_by(path.to_str().expect("UTF-8"), weights, canonical, &mut problems)
            .and_then(|()| self.load_choices(None));
        problems.extend(done.err());
        let _ = std::fs::remove_file(path);
        problems
    }

    fn choices_by(
        &mut self,
        path: &str,
        weights: &Prepared,
        canonical: &Canonical,
        problems: &mut Vec<String>,
    ) -> Result<(), String> {
        let file = CString::new(path).expect("no zero inside");
        // SAFETY: a live context.
        check(unsafe { nvfp4_tuning_save(self.libraries[DEVICE].context, file.as_ptr()) })?;
        let machine =
            machine(&std::fs::read_to_string(path).map_err(|e| e.to_string())?).ok_or("no such file")?;
        let short = self.short;
        for i in 0..PRODUCT_CALLS {
            let Some((tokens, dtype)) = regular::typical(i, weights.gate_up) else { continue };
            let operand = match dtype {
                NVFP4_DTYPE_BF16 => Operand::Bf16,
                NVFP4_DTYPE_F16 => Operand::F16,
                _ => Operand::Codes,
            };
            let key = Key {
                operand,
                groups: weights.groups,
                tokens: tokens.next_power_of_two(),
                rows: weights.rows,
                cols: weights.cols,
                epilogue: if weights.gate_up { Epilogue::SwiGluCodes } else { Epilogue::Plain },
            };
            let here = |name: &&str| {
                machine.compute_capability == (9, 0) || !name.contains("_few_") && !name.contains("_many_")
            };
            for (at, kernel) in kernels_of(operand).filter(here).enumerate() {
                // Slow tools watch two: some kernels take no whole tiles, some cannot cut so few.
                for splits in SPLITS.take(if short { 2 } else { SPLITS.count() }) {
                    let _traced = Traced::begin(|| format!("product {i} by {kernel}, splits {splits}"));
                    let mut tuning = Tuning::default();
                    tuning.set(key, Choice { kernel: kernel.into(), splits });
                    std::fs::write(path, tuning.to_text(&machine)).map_err(|e| e.to_string())?;
                    self.load_choices(Some(&file))?;
                    self.calls += 1;
                    let poison = at % POISONS.len();
                    self.arenas[poison].clear(POISONS[poison]);
                    let call = regular::product(i, weights, &mut self.arenas[poison]);
                    if let Err(problem) = self.compare("grouped_gemm", &call, poison, weights, canonical) {
                        problems.push(format!("product {i} by {kernel}, splits {splits}: {problem}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn load_choices(&self, file: Option<&CString>) -> Result<(), String> {
        let mut choices = 0;
        let path = file.map_or(null(), |file| file.as_ptr());
        // SAFETY: a live context, a path or NULL, a valid pointer.
        check(unsafe { nvfp4_tuning_load(self.libraries[DEVICE].context, path, &mut choices) })?;
        let expected = usize::from(file.is_some());
        if choices == expected {
            Ok(())
        } else {
            Err(format!("{choices} choices were loaded, not {expected}"))
        }
    }
}

/// The kernels with a product's operand in their names, as files name them: values of codes are bfloat16, and where codes are
/// written `many` has a kernel for that.
fn kernels_of(operand: Operand) -> impl Iterator<Item = &'static str> {
    let values = if operand == Operand::F16 { "f16" } else { "bf16" };
    let starts = [
        format!("nvfp4_gemm_few_{}_", operand.name()),
        format!("nvfp4_gemm_many_{values}_"),
        format!("nvfp4_gemm_{}_", operand.name()),
    ];
    let names = KERNELS.iter().copied().flatten().map(|kernel| kernel.name);
    names.filter(move |name| {
        let sizes = starts.iter().find_map(|start| name.strip_prefix(start.as_str()));
        sizes.is_some_and(|sizes| sizes.starts_with(|first: char| first.is_ascii_digit()))
    })
}

/// Where the choices of a file hold.
fn machine(text: &str) -> Option<Machine> {
    let of = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let (major, minor) = of("compute")?.split_once('.')?;
    Some(Machine {
        library: of("library")?.into(),
        device: of("device")?.into(),
        compute_capability: (major.parse().ok()?, minor.parse().ok()?),
        processors: of("processors")?.parse().ok()?,
        driver: of("driver")?.parse().ok()?,
    })
}
