//! Every entry of every table against the plain one, bit for bit. Chunks that a later step rounds may hold any NaN;
//! what is stored must be the canonical one.

use super::kernels::{CHUNK, Isa, Kernels};
use super::portable;
use crate::format::BLOCK;
use crate::format::block::{Encode, ScaleRule};
use crate::format::dtype::{Dtype, canonical};
use crate::format::math::SwiGlu;
use crate::format::{e2m1, e4m3};

const DTYPES: [Dtype; 3] = [Dtype::Bf16, Dtype::F16, Dtype::F32];
const RULES: [ScaleRule; 3] = [ScaleRule::Amax, ScaleRule::FourOverSix, ScaleRule::MinMse];

/// Calls `check` with every table that this processor can run.
fn with_tables(check: impl Fn(&Kernels)) {
    for isa in [Isa::Avx2, Isa::Avx512] {
        match Kernels::for_isa(Some(isa)) {
            Ok(kernels) => {
                check(kernels);
            }
            Err(_) => println!("{}: skipped, this processor lacks it", isa.name()),
        }
    }
}

/// Lengths on both sides of every vector width, and a whole chunk.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=40).chain([CHUNK])
}

/// Numbers of blocks on both sides of every group of lanes.
fn block_counts() -> impl Iterator<Item = usize> {
    (0..=17).chain([33])
}

struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z >> 32) as u32
    }

    fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// Roughly normal.
    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.bits() as f32 / u32::MAX as f32 - 0.5).sum::<f32>() * 1.7
    }

    /// A row of one kind: ordinary, tiny, huge, subnormal, ties and specials among ordinary ones, any bits at all.
    fn row(&mut self, kind: usize, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| match kind {
                0 => self.normal(),
                1 => self.normal() * 1e-6,
                2 => self.normal() * 1e37,
                3 => self.normal() * 1e-38,
                4 if self.below(4) == 0 => EDGES[self.below(EDGES.len())],
                4 => self.normal(),
                5 if self.below(40) == 0 => SPECIALS[self.below(SPECIALS.len())],
                5 => self.normal() * 1e4,
                6 => f32::from_bits(self.bits()),
                7 => EDGES[self.below(EDGES.len())],
                _ => 2f32.powi(self.below(40) as i32 - 24),
            })
            .collect()
    }
}

const KINDS: usize = 9;

const EDGES: [f32; 24] = [
    0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5.0, -6.0, 0.0,
    -0.0, 1e-30, 0.1, -87.5, 88.5, 1e-45, -1e-39,
];

const SPECIALS: [f32; 6] =
    [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(0xFF81_2345)];

fn encodes() -> Vec<Encode> {
    let fixed =
        [0.00173, 1.0, 1.0 / 2688.0, 1e-42, 1e-38, 1e30, f32::MAX, f32::MIN_POSITIVE, 0.0, -1.0, f32::NAN];
    let dynamic = [0.0, 1e-45, 1e-38, 1e-3, 1.0, 5.3, 448.0, 1e20, f32::MAX];
    fixed.map(Encode::from_static).into_iter().chain(dynamic.map(Encode::from_amax)).collect()
}

#[track_caller]
fn assert_same(isa: Isa, what: &str, plain: &[f32], fast: &[f32]) {
    for (i, (&a, &b)) in plain.iter().zip(fast).enumerate() {
        let (a, b) = (canonical(a).to_bits(), canonical(b).to_bits());
        assert_eq!(a, b, "{what} on {}: value {i} of {}: {a:#x}, {b:#x}", isa.name(), plain.len());
    }
}

#[track_caller]
fn check_quantize(kernels: &Kernels, encode: &Encode, rule: ScaleRule, x: &[f32]) {
    let blocks = x.len() / BLOCK;
    let run = |kernels: &Kernels| {
        // The guards behind both outputs must survive.
        let (mut codes, mut scales) = (vec![0xA5u8; blocks * 8 + 64], vec![0x5Au8; blocks + 64]);
        // SAFETY: the table was checked against this processor.
        let flags =
            unsafe { (kernels.quantize)(x, encode, rule, &mut codes[..blocks * 8], &mut scales[..blocks]) };
        (flags, scales, codes)
    };
    let (plain, fast) = (run(&portable::KERNELS), run(kernels));
    assert!(plain == fast, "{} {rule:?} {encode:?}\n{x:?}\n{plain:?}\n{fast:?}", kernels.isa.name());
}

#[test]
fn widen_is_exact_for_every_half() {
    let halves: Vec<u16> = (0..=u16::MAX).collect();
    with_tables(|kernels| {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            for n in lengths().chain([halves.len()]) {
                for start in [0, halves.len() - n] {
                    let src = halves[start..].as_ptr().cast();
                    let (mut plain, mut fast) = (vec![7f32; n], vec![9f32; n]);
                    // SAFETY: n elements lie behind the start.
                    unsafe {
                        portable::widen(dtype, src, &mut plain);
                        (kernels.widen)(dtype, src, &mut fast);
                    }
                    assert_same(kernels.isa, "widen", &plain, &fast);
                }
            }
        }
    });
}

fn check_narrow(kernels: &Kernels, dtype: Dtype, x: &[f32]) {
    let size = x.len() * dtype.bytes();
    let (mut plain, mut fast) = (vec![0xA5u8; size + 64], vec![0xA5u8; size + 64]);
    // SAFETY: both buffers hold the elements.
    unsafe {
        portable::narrow(dtype, x, plain.as_mut_ptr());
        (kernels.narrow)(dtype, x, fast.as_mut_ptr());
    }
    assert!(plain == fast, "narrow {dtype:?} on {}", kernels.isa.name());
    let (mut plain, mut fast) = (x.to_vec(), x.to_vec());
    // SAFETY: the table was checked against this processor.
    unsafe {
        portable::round(dtype, &mut plain);
        (kernels.round)(dtype, &mut fast);
    }
    let same = plain.iter().zip(&fast).all(|(a, b)| a.to_bits() == b.to_bits());
    assert!(same, "round {dtype:?} on {}", kernels.isa.name());
}

#[test]
fn narrow_and_round_agree_on_a_dense_set_and_on_all_ties() {
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(1999).map(f32::from_bits).collect();
    let ties = (0..=u16::MAX).flat_map(|half| {
        let next = half.wrapping_add(1);
        let (low, high) = (half::f16::from_bits(half).to_f32(), half::f16::from_bits(next).to_f32());
        [f32::from_bits((half as u32) << 16 | 0x8000), (low + high) / 2.0]
    });
    x.extend(ties.flat_map(|tie| [tie, tie.next_up(), tie.next_down()]));
    with_tables(|kernels| {
        for dtype in DTYPES {
            check_narrow(kernels, dtype, &x);
            for n in lengths() {
                check_narrow(kernels, dtype, &Random(n as u64).row(n % KINDS, n));
            }
        }
    });
}

#[test]
fn whole_value_kernels_agree() {
    with_tables(|kernels| {
        let mut random = Random(1);
        for (n, kind) in lengths().flat_map(|n| (0..KINDS).map(move |kind| (n, kind))) {
            let (x, y) = (random.row(kind, n), random.row((kind + n) % KINDS, n));
            let mix = random.row(kind, 1)[0];
            let each = |what: &str, apply: &dyn Fn(&Kernels, &mut [f32])| {
                let (mut plain, mut fast) = (x.clone(), x.clone());
                apply(&portable::KERNELS, &mut plain);
                apply(kernels, &mut fast);
                assert_same(kernels.isa, what, &plain, &fast);
            };
            // SAFETY: the table was checked against this processor.
            unsafe {
                each("add", &|k, x| (k.add)(x, &y));
                each("scale_rows", &|k, x| (k.scale_rows)(x, mix, &y, 1.0));
                each("mix_first", &|k, x| (k.mix_first)(mix, &y, x));
                each("mix_more", &|k, x| (k.mix_more)(mix, &y, x));
                each("relu2", &|k, x| (k.relu2)(x));
                each("finite_amax", &|k, x| {
                    let amax = (k.finite_amax)(0.5, x);
                    x.iter_mut().for_each(|v| *v = amax);
                });
                for (limit, alpha, beta) in [(0.0, 1.0, 0.0), (7.0, 1.702, 1.0), (10.0, 1.0, 0.0)] {
                    each("swiglu", &|k, x| (k.swiglu)(x, &y, &SwiGlu { limit, alpha, beta }));
                }
            }
        }
    });
}

#[test]
fn square_sums_agree() {
    with_tables(|kernels| {
        let mut random = Random(2);
        for (blocks, kind) in block_counts().flat_map(|n| (0..KINDS).map(move |kind| (n, kind))) {
            let x = random.row(kind, blocks * BLOCK);
            let (mut plain, mut fast) = (vec![7f32; blocks + 16], vec![7f32; blocks + 16]);
            // SAFETY: the table was checked against this processor.
            unsafe {
                portable::square_sums(&x, &mut plain[..blocks]);
                (kernels.square_sums)(&x, &mut fast[..blocks]);
            }
            assert_same(kernels.isa, "square_sums", &plain, &fast);
        }
    });
}

#[test]
fn quantize_agrees_on_every_kind_of_row() {
    with_tables(|kernels| {
        let mut random = Random(3);
        for (encode, rule) in encodes().iter().flat_map(|e| RULES.map(|rule| (e, rule))) {
            for (blocks, kind) in block_counts().flat_map(|n| (0..KINDS).map(move |kind| (n, kind))) {
                check_quantize(kernels, encode, rule, &random.row(kind, blocks * BLOCK));
            }
        }
        // Dynamic scales of the rows themselves, where values spread over all codes.
        for (seed, rule) in (0..300).flat_map(|seed| RULES.map(|rule| (seed, rule))) {
            let x = Random(seed).row(seed as usize % KINDS, CHUNK);
            // SAFETY: the plain kernel works on a slice.
            let amax = unsafe { portable::finite_amax(0.0, &x) };
            check_quantize(kernels, &Encode::from_amax(amax), rule, &x);
        }
    });
}

#[test]
fn quantize_from_every_dtype_agrees() {
    with_tables(|kernels| {
        let mut random = Random(4);
        for (dtype, rule) in DTYPES.into_iter().flat_map(|d| RULES.map(|rule| (d, rule))) {
            for (blocks, kind) in block_counts().flat_map(|n| (0..KINDS).map(move |kind| (n, kind))) {
                let x = random.row(kind, blocks * BLOCK);
                let mut src = vec![0u8; x.len() * dtype.bytes()];
                // SAFETY: the buffer holds the values.
                unsafe { portable::narrow(dtype, &x, src.as_mut_ptr()) };
                for encode in [0.00173, 1.0, 1e-38, 0.0].map(Encode::from_static) {
                    let run = |kernels: &Kernels| {
                        let (mut codes, mut scales) =
                            (vec![0xA5u8; blocks * 8 + 64], vec![0x5Au8; blocks + 64]);
                        let (fill, bytes) = (&mut codes[..blocks * 8], &mut scales[..blocks]);
                        // SAFETY: the source holds the blocks; the table was checked against this processor.
                        let flags = unsafe {
                            (kernels.quantize_from)(dtype, src.as_ptr(), &encode, rule, fill, bytes)
                        };
                        (flags, scales, codes)
                    };
                    assert!(
                        run(&portable::KERNELS) == run(kernels),
                        "{} {dtype:?} {rule:?}",
                        kernels.isa.name()
                    );
                }
            }
        }
    });
}

#[test]
fn quantize_agrees_on_every_scale_and_tie() {
    let ties: Vec<f32> = (1..8).map(|c| (e2m1::MAGNITUDE[c - 1] + e2m1::MAGNITUDE[c]) / 2.0).collect();
    with_tables(|kernels| {
        for (g, rule) in [1.0, 0.00173, 3e-39].into_iter().flat_map(|g| RULES.map(|rule| (g, rule))) {
            let encode = Encode::from_static(g);
            for nudge in [f32::next_down, |v| v, f32::next_up] {
                let mut x = Vec::new();
                for byte in 0..=0x7Eu8 {
                    let sf = e4m3::decode(byte) * encode.inverse;
                    x.extend([6.0 * sf, nudge(-6.0 * sf)]);
                    x.extend(ties.iter().flat_map(|tie| [nudge(tie * sf), nudge(-tie * sf)]));
                }
                check_quantize(kernels, &encode, rule, &x);
                // The same with the scale itself at a tie between two bytes.
                for block in x.as_chunks_mut::<BLOCK>().0 {
                    block[0] = nudge(block[0] * 1.0625);
                }
                check_quantize(kernels, &encode, rule, &x);
            }
        }
    });
}

#[test]
fn dequantize_agrees_on_every_code_and_scale() {
    let codes: Vec<u8> = (0..=255).collect();
    with_tables(|kernels| {
        for g in [1.0, 0.00173, 1e-42, f32::MAX, f32::INFINITY, f32::NAN, 0.0, -2.0] {
            for scale in 0..=255u8 {
                for blocks in [0, 1, 2, 3, 32] {
                    let (codes, scales) = (&codes[..blocks * 8], vec![scale; blocks]);
                    let (mut plain, mut fast) = (vec![7f32; blocks * BLOCK], vec![9f32; blocks * BLOCK]);
                    // SAFETY: the table was checked against this processor.
                    unsafe {
                        portable::dequantize(codes, &scales, g, &mut plain);
                        (kernels.dequantize)(codes, &scales, g, &mut fast);
                    }
                    let same = plain.iter().zip(&fast).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} scale {scale:#x} g {g}", kernels.isa.name());
                }
            }
        }
    });
}
