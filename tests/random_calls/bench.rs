//! One call on the CPU and on a device, and what each has written: the same bytes, products within the bound.

use nvfp4::api::context::*;
use nvfp4::api::gemm::*;
use nvfp4::api::linear::*;
use nvfp4::api::quantize::*;
use nvfp4::api::types::*;
use nvfp4::api::weights::*;
use nvfp4::ffi::*;

use crate::arena::*;
use crate::environment::*;
use crate::reference::*;
use crate::support::{Library, Memory};
use crate::{Call, Prepared, WORKSPACE, set_workspace};

/// What a thread works with: the CPU, the device, and their memory.
pub struct Bench {
    pub libraries: [Library; 2],
    pub storage: [Memory; 2],
    pub workspace: Memory,
    pub scratch: Memory,
    pub arenas: [Arena; 2],
    /// Regular calls with one poison, and fewer of the long products: what slow tools watch.
    pub short: bool,
    /// Every so many of the regular products.
    pub step: usize,
    /// The largest part of its bound that a product took, and elements compared.
    pub worst: f64,
    pub elements: u64,
    /// Elements of products that may leave the range of f32.
    unbounded: u64,
    pub calls: u64,
}

pub const POISONS: [u8; 2] = [0xA5, 0x5A];
/// Compared with a bound in place of bit for bit.
pub const PRODUCT_NAMES: [&str; 2] = ["grouped_gemm", "grouped_linear"];
pub const CPU: usize = 0;
pub const DEVICE: usize = 1;

impl Bench {
    pub fn new(device: Library) -> Bench {
        let workspace = Memory::poisoned(WORKSPACE, 0x5A);
        workspace.stage_only(1 << 16);
        Bench {
            libraries: [Library::new(NVFP4_ISA_BEST, 1).expect("a CPU context"), device],
            storage: [Memory::poisoned(4 << 20, 0), Memory::poisoned(4 << 20, 0)],
            workspace,
            scratch: Memory::poisoned(4 << 20, 0),
            arenas: POISONS.map(Arena::new),
            short: number("NVFP4_TEST_SHORT", 0) != 0,
            step: number("NVFP4_TEST_PRODUCT_STEP", 1) as usize,
            worst: 0.0,
            elements: 0,
            unbounded: 0,
            calls: 0,
        }
    }

    /// The weights as the CPU exports them; the export of the device is one of the operations.
    pub fn canonical(&self, w: &Prepared) -> Canonical {
        let count = w.groups * w.rows * w.cols;
        let mut codes = Memory::poisoned(count / 2, 0);
        let mut scales = Memory::poisoned(count / 16, 0);
        let mut decode = Memory::poisoned(w.groups * 4, 0);
        let args = nvfp4_weights_export_args {
            struct_size: size_of::<nvfp4_weights_export_args>(),
            weights: w.handles[CPU],
            codes: codes.ptr_mut(),
            scales: scales.ptr_mut(),
            decode_scales: decode.ptr_mut(),
            ..Default::default()
        };
        self.libraries[CPU].call(nvfp4_weights_export, &args).unwrap();
        Canonical::new(codes.bytes(), scales.bytes(), decode.f32s(), w.rows, w.cols)
    }

    /// Runs on one of the two; `words` with the CPU's handle of the weights.
    pub fn run(
        &mut self,
        which: usize,
        call: &Call,
        weights: &Prepared,
        product: Option<&str>,
    ) -> Result<(), String> {
        let mut call = Call { words: call.words.clone(), run: call.run };
        for word in call.words.iter_mut().filter(|_| !weights.handles.is_empty()) {
            if *word == weights.handles[CPU] as u64 {
                *word = weights.handles[which] as u64;
            }
        }
        if let Some(name) = product {
            set_workspace(name, &self.libraries[which], &mut call, &mut self.workspace);
        }
        let library = &self.libraries[which];
        library.take_faults();
        // SAFETY: a legal call.
        unsafe { library.with_staged(&call.words, |words| (call.run)(library, words)) }
    }

    pub fn compare(
        &mut self,
        name: &str,
        call: &Call,
        poison: usize,
        weights: &Prepared,
        canonical: &Canonical,
    ) -> Result<(), String> {
        let used = self.arenas[poison].next + 64;
        self.arenas[poison].memory.stage_only(used);
        let before = self.arenas[poison].memory.bytes()[..used].to_vec();
        let product = PRODUCT_NAMES.contains(&name).then_some(name);
        let mut after = [Vec::new(), Vec::new()];
        let mut faults = [(0, 0); 2];
        for which in [CPU, DEVICE] {
            self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
            self.run(which, call, weights, product)?;
            faults[which] = self.libraries[which].take_faults();
            self.arenas[poison].memory.guards(name)?;
            after[which] = self.arenas[poison].memory.bytes()[..used].to_vec();
        }
        if product.is_none() {
            self.elements += used as u64;
            same(&self.arenas[poison], &after[DEVICE], &after[CPU])?;
            return expect_faults(faults[DEVICE], faults[CPU]);
        }
        if name == "grouped_linear" {
            expect_faults(faults[DEVICE], faults[CPU])?;
            // SAFETY: the words of these arguments.
            let args = unsafe { call.words.as_ptr().cast::<nvfp4_grouped_linear_args>().read() };
            self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
            let args = self.as_product(&args, canonical)?;
            return self.values(&args, canonical, poison, &before, &after[DEVICE]);
        }
        // SAFETY: the words of these arguments.
        let args = unsafe { call.words.as_ptr().cast::<nvfp4_grouped_gemm_args>().read() };
        if args.out_dtype != NVFP4_DTYPE_NVFP4 {
            expect_faults(faults[DEVICE], faults[CPU])?;
            return self.values(&args, canonical, poison, &before, &after[DEVICE]);
        }
        // Codes are what the CPU makes of the device's own product in bf16.
        self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
        let cols = canonical.rows / if weights.gate_up { 2 } else { 1 };
        let group = if args.groups.grouping == NVFP4_GROUPING_STRIDED {
            args.groups.max_tokens as usize * cols
        } else {
            0
        };
        let bytes = args.rows as usize * cols * 2;
        self.scratch.bytes_mut()[..bytes].fill(POISONS[poison]);
        self.scratch.stage_only(bytes);
        let plain = nvfp4_grouped_gemm_args {
            out: self.scratch.ptr_mut(),
            out_dtype: NVFP4_DTYPE_BF16,
            out_group_stride: group as i64,
            out_quantized: Default::default(),
            ..args
        };
        self.run(DEVICE, &words_of(&plain, call), weights, product)?;
        let unbounded = self.unbounded;
        self.values(&plain, canonical, poison, &[], &[])?;
        if self.unbounded > unbounded {
            return Ok(()); // the two products may have met their infinities at other places
        }
        let quantize = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: self.scratch.ptr(),
            src_group_stride: group as i64,
            rows: args.rows,
            cols: cols as i64,
            groups: args.groups,
            out: args.out_quantized,
            ..Default::default()
        };
        self.arenas[poison].memory.bytes_mut()[..used].copy_from_slice(&before);
        self.libraries[CPU].take_faults();
        self.libraries[CPU].call(nvfp4_quantize, &quantize)?;
        let want = self.arenas[poison].memory.bytes()[..used].to_vec();
        same(&self.arenas[poison], &after[DEVICE], &want)?;
        expect_faults(faults[DEVICE], self.libraries[CPU].take_faults())
    }

    /// Behind `compare`: what must not depend on the batch gives the first rows the same bits without the others.
    pub fn fewer_rows(&mut self, call: &Call, poison: usize, weights: &Prepared) -> Result<(), String> {
        // SAFETY: the words of these arguments.
        let args = unsafe { call.words.as_ptr().cast::<nvfp4_grouped_gemm_args>().read() };
        let cut = [NVFP4_GROUPING_NONE, NVFP4_GROUPING_ENDS].contains(&args.groups.grouping) && args.rows > 1;
        if args.flags & NVFP4_GEMM_BATCH_INVARIANT == 0 || args.out_dtype == NVFP4_DTYPE_NVFP4 || !cut {
            return Ok(());
        }
        let used = self.arenas[poison].next + 64;
        let all = self.arenas[poison].memory.bytes()[..used].to_vec();
        let rows = 1 + (args.rows - 1) % 13.min(args.rows - 1);
        let fewer = nvfp4_grouped_gemm_args { rows, ..args };
        self.run(DEVICE, &words_of(&fewer, call), weights, Some("grouped_gemm"))?;
        let after = &self.arenas[poison].memory.bytes()[..used];
        same(&self.arenas[poison], after, &all)
            .map_err(|e| format!("{rows} of {} rows alone: {e}", args.rows))
    }

    /// The product that a grouped linear layer consists of; where it quantizes first, of what the CPU makes of its input.
    fn as_product(
        &mut self,
        args: &nvfp4_grouped_linear_args,
        canonical: &Canonical,
    ) -> Result<nvfp4_grouped_gemm_args, String> {
        let (tokens, count, k) = (args.tokens as usize, canonical.decode.len(), canonical.cols);
        let n = canonical.rows / if args.activation == NVFP4_ACTIVATION_SWIGLU { 2 } else { 1 };
        let groups = nvfp4_groups {
            grouping: NVFP4_GROUPING_STRIDED,
            count: count as u32,
            max_tokens: args.tokens,
            ..Default::default()
        };
        let mut product = nvfp4_grouped_gemm_args {
            struct_size: size_of::<nvfp4_grouped_gemm_args>(),
            rows: (tokens * count) as i64,
            groups,
            a: args.a,
            a_dtype: args.a_dtype,
            a_row_stride: (count * k) as i64,
            a_group_stride: k as i64,
            activation: args.activation,
            out: args.out,
            out_dtype: args.out_dtype,
            out_row_stride: (count * n) as i64,
            out_group_stride: n as i64,
            ..Default::default()
        };
        if args.quantize == 0 {
            return Ok(product);
        }
        let (rows, base) = (tokens * count, self.scratch.ptr_mut::<u8>());
        let at = |bytes: usize| base.wrapping_add(bytes.next_multiple_of(64));
        let (codes, scales) = (base, at(rows * k / 2));
        let decode = at(rows * k / 2 + rows * k / 16 + 64).cast::<f32>();
        let given = args.static_decode_scales;
        let quantize = nvfp4_quantize_args {
            struct_size: size_of::<nvfp4_quantize_args>(),
            src: args.a,
            src_dtype: args.a_dtype,
            src_row_stride: product.a_row_stride,
            src_group_stride: product.a_group_stride,
            rows: product.rows,
            cols: k as i64,
            groups,
            out: nvfp4_quantized {
                codes,
                scales,
                scope: args.scope,
                scale_rule: args.scale_rule,
                decode_scales: if given.is_null() { decode } else { std::ptr::null_mut() },
                static_decode_scales: given,
                ..Default::default()
            },
            ..Default::default()
        };
        self.libraries[CPU].call(nvfp4_quantize, &quantize)?;
        product.a_dtype = NVFP4_DTYPE_NVFP4;
        product.a_row_stride = 0;
        product.a_group_stride = (tokens * k / 2) as i64;
        product.a_quantized = nvfp4_quantized_input {
            codes,
            scales,
            scope: args.scope,
            decode_scales: if given.is_null() { decode } else { given },
            ..Default::default()
        };
        Ok(product)
    }

    /// Values of a product in the arena, or, where `after` is empty, in the scratch memory.
    fn values(
        &mut self,
        args: &nvfp4_grouped_gemm_args,
        canonical: &Canonical,
        poison: usize,
        before: &[u8],
        after: &[u8],
    ) -> Result<(), String> {
        let product = Product { args, weights: canonical };
        let cols =
            if args.activation == NVFP4_ACTIVATION_SWIGLU { canonical.rows / 2 } else { canonical.rows };
        let accumulate = args.flags & NVFP4_GEMM_ACCUMULATE != 0;
        let bytes = element(args);
        let scratch = after.is_empty();
        let (got, base) = match scratch {
            true => (self.scratch.bytes(), 0),
            false => (after, args.out as usize - self.arenas[poison].memory.ptr::<u8>() as usize),
        };
        let mut written = vec![false; before.len()];
        for span in spans(&args.groups, args.rows as usize, tile(args)) {
            for r in 0..span.rows {
                let at = out_at(args, &span, r, cols);
                // SAFETY: inside the memory of the call.
                let value = |of: &[u8], i| unsafe { load(of[base..].as_ptr(), args.out_dtype, at + i) };
                let old = |i| if accumulate { value(before, i) } else { 0.0 };
                for (i, want) in product.row(&span, r, old).iter().enumerate() {
                    let have = value(got, i);
                    if !want.accepts(have) {
                        return Err(format!(
                            "group {} row {r} of {} column {i}: {have:e} instead of {want}; K = {}, dtype {} to {}, activation {}",
                            span.group,
                            span.rows,
                            canonical.cols,
                            args.a_dtype,
                            args.out_dtype,
                            args.activation
                        ));
                    }
                    self.elements += 1;
                    self.unbounded += want.unbounded() as u64;
                    // An old output that is added may be larger than the product, and so its rounding.
                    let plain = args.activation == NVFP4_ACTIVATION_NONE && !accumulate;
                    if plain && args.out_dtype == NVFP4_DTYPE_F32 {
                        self.worst = self.worst.max(want.share(have));
                    }
                }
                if !scratch {
                    written[base + at * bytes..][..cols * bytes].fill(true);
                }
            }
        }
        let stray = (0..before.len()).find(|&i| !written[i] && before[i] != after[i]);
        stray.map_or(Ok(()), |i| Err(format!("byte {i} outside the rows was written")))
    }
}

fn tile(args: &nvfp4_grouped_gemm_args) -> usize {
    let codes = args.a_dtype == NVFP4_DTYPE_NVFP4;
    if codes { [1, 128, 8][args.a_quantized.scale_layout as usize] } else { 1 }
}

fn words_of(args: &nvfp4_grouped_gemm_args, like: &Call) -> Call {
    // SAFETY: a struct of whole words without padding.
    let words = unsafe {
        std::slice::from_raw_parts((args as *const nvfp4_grouped_gemm_args).cast::<u64>(), like.words.len())
    };
    Call { words: words.to_vec(), run: like.run }
}

fn same(arena: &Arena, got: &[u8], want: &[u8]) -> Result<(), String> {
    match got.iter().zip(want).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => {
            let wrong = got.iter().zip(want).filter(|(a, b)| a != b).count();
            let kind = ["input", "output", "gap", "updated"][arena.role[i] as usize];
            Err(format!("byte {i} ({kind}) is {:#04x}, on the CPU {:#04x}; {wrong} differ", got[i], want[i]))
        }
    }
}

fn expect_faults(got: (u32, i64), want: (u32, i64)) -> Result<(), String> {
    if got == want { Ok(()) } else { Err(format!("faults {got:?}, on the CPU {want:?}")) }
}
