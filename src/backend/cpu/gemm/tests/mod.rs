//! The product against a float64 reference, and every instruction set and thread count against the plain one.

mod case;
mod reference;

use super::super::fault::BAD_GROUP;
use super::super::kernels::Isa;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout::{Linear, Tiled8x4, Tiled128x4};
use crate::format::math::SwiGlu;
use crate::plan::gemm::Activation;
use crate::plan::quantize::Scope;
use case::{Buffer, Case, Data, In, Out, Random, Split, cpu};

/// The plain product against the reference; every instruction set and thread count against the plain product.
fn check(case: Case, seed: u64) {
    let mut data = case.data(seed);
    if matches!(case.out, Out::Static(_) | Out::Dynamic(_)) {
        let mut seed = seed;
        while data.row_gap != 0 {
            seed += 1;
            data = case.data(seed);
        }
    }
    for poison in [0xA5, 0x5A] {
        let plain = cpu(Isa::Portable, 1);
        let want = case.run(&plain, &mut data, poison);
        match case.out {
            Out::Values(dtype) => case.check_values(dtype, &mut data, &want[0], 0.0),
            Out::Accumulate(dtype) => {
                // SAFETY: one element of poison.
                let old = unsafe { dtype.load([poison; 4].as_ptr(), 0) };
                case.check_values(dtype, &mut data, &want[0], old);
            }
            _ => case.check_codes(&plain, &mut data, &want),
        }
        check_parity(&case, &mut data, &want);
    }
}

fn check_parity(case: &Case, data: &mut Data, want: &[Buffer]) {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
        for threads in [1, 3] {
            let got = case.run(&cpu(isa, threads), data, want.first().map_or(0, |out| out.poison));
            for (want, got) in want.iter().zip(&got) {
                assert!(want.bytes() == got.bytes(), "{case:?}: {} with {threads} threads", isa.name());
            }
        }
    }
}

const SWIGLU: Activation = Activation::SwiGlu(SwiGlu { limit: 0.0, alpha: 1.0, beta: 0.0 });
const GPT_OSS: Activation = Activation::SwiGlu(SwiGlu { limit: 7.0, alpha: 1.702, beta: 1.0 });

const PLAIN: Case = Case {
    split: Split::One(3),
    n: 40,
    k: 272,
    a: In::Bf16,
    scope: Scope::Tensor,
    bias: false,
    activation: Activation::None,
    out: Out::Values(Dtype::Bf16),
    nan: false,
};

#[test]
fn table_of_cases() {
    use Dtype::{Bf16, F16, F32};
    let codes = In::Codes(Linear);
    let cases = [
        PLAIN,
        Case { k: 16, n: 1, split: Split::One(1), ..PLAIN },
        Case { split: Split::One(0), ..PLAIN },
        Case { a: In::F16, out: Out::Values(F16), bias: true, scope: Scope::Row, ..PLAIN },
        Case { a: codes, out: Out::Values(F32), bias: true, scope: Scope::Row, ..PLAIN },
        Case { split: Split::Ends(&[], 5), ..PLAIN },
        Case { split: Split::Ends(&[2, 2, 21, 23], 25), k: 528, n: 65, nan: true, ..PLAIN },
        Case {
            split: Split::Ends(&[2, 2, 21, 23], 25),
            k: 1040,
            a: In::Codes(Tiled128x4),
            nan: true,
            ..PLAIN
        },
        Case {
            split: Split::Ends(&[7, 3, -5, 99], 17),
            a: In::Codes(Tiled8x4),
            scope: Scope::Group,
            ..PLAIN
        },
        Case {
            split: Split::Masked(&[5, 0, 9, 99, -1], 9),
            a: In::Codes(Tiled8x4),
            scope: Scope::Row,
            ..PLAIN
        },
        Case { split: Split::Masked(&[1, 0, 4], 4), scope: Scope::Group, out: Out::Values(F32), ..PLAIN },
        Case { split: Split::Strided(3, 5), scope: Scope::Row, bias: true, ..PLAIN },
        Case { split: Split::Strided(2, 9), a: In::Codes(Tiled128x4), scope: Scope::Row, ..PLAIN },
        Case { split: Split::Shared(3, 5), scope: Scope::Row, bias: true, ..PLAIN },
        Case { split: Split::Shared(3, 2), a: In::Codes(Tiled128x4), scope: Scope::Row, ..PLAIN },
        Case { split: Split::Shared(2, 9), a: codes, scope: Scope::Row, ..PLAIN },
        Case { out: Out::Accumulate(Bf16), bias: true, ..PLAIN },
        Case { out: Out::Accumulate(F32), a: codes, ..PLAIN },
        Case { activation: SWIGLU, n: 70, split: Split::One(19), ..PLAIN },
        Case { activation: GPT_OSS, n: 64, bias: true, out: Out::Values(F32), nan: true, ..PLAIN },
        Case { activation: SWIGLU, n: 34, a: codes, out: Out::Values(F16), bias: true, ..PLAIN },
        Case { activation: Activation::Relu2, a: codes, out: Out::Values(F32), ..PLAIN },
        Case { activation: Activation::Relu2, nan: true, ..PLAIN },
        Case { n: 48, out: Out::Static(Tiled128x4), bias: true, ..PLAIN },
        Case { n: 160, activation: SWIGLU, out: Out::Dynamic(Tiled128x4), ..PLAIN },
        Case { n: 544, activation: GPT_OSS, out: Out::Dynamic(Linear), a: codes, nan: true, ..PLAIN },
        Case {
            n: 96,
            activation: SWIGLU,
            out: Out::Dynamic(Tiled8x4),
            split: Split::Ends(&[2, 2, 21, 23], 25),
            a: codes,
            ..PLAIN
        },
        Case {
            n: 80,
            out: Out::Static(Tiled128x4),
            scope: Scope::Row,
            split: Split::Masked(&[1, 0, 4], 4),
            activation: Activation::Relu2,
            ..PLAIN
        },
        Case { n: 64, out: Out::Dynamic(Tiled8x4), split: Split::Strided(2, 9), ..PLAIN },
        Case { n: 64, out: Out::Static(Linear), scope: Scope::Group, split: Split::Shared(2, 3), ..PLAIN },
        // Tasks of many panels, for few tokens.
        Case { split: Split::Strided(4, 1), n: 290, ..PLAIN },
        Case { split: Split::Strided(4, 1), n: 290, k: 528, a: codes, ..PLAIN },
        Case { split: Split::Masked(&[1, 2, 3, 4, 5, 6, 7, 8], 8), n: 150, nan: true, ..PLAIN },
        Case { split: Split::Masked(&[1, 2, 3, 4, 5, 6, 7, 8], 8), n: 150, a: In::Codes(Tiled8x4), ..PLAIN },
        Case { split: Split::Strided(4, 6), n: 270, activation: SWIGLU, ..PLAIN },
        // More k than a pass of few tokens holds.
        Case { split: Split::One(8), n: 20, k: 2320, ..PLAIN },
        Case { split: Split::One(7), n: 70, k: 5200, a: codes, ..PLAIN },
        // More tokens and rows than a task holds.
        Case { split: Split::One(267), n: 290, k: 32, ..PLAIN },
        Case { split: Split::One(521), n: 17, k: 48, a: codes, ..PLAIN },
    ];
    for (i, case) in cases.into_iter().enumerate() {
        check(case, 1000 + i as u64);
    }
}

#[test]
fn random_shapes() {
    let mut random = Random(7);
    for i in 0..30 {
        let layouts = [Linear, Tiled128x4, Tiled8x4];
        let activation = [Activation::None, SWIGLU, Activation::Relu2][random.below(3)];
        let case = Case {
            split: Split::One(1 + random.below(36)),
            n: (1 + random.below(150)) * 2,
            k: 16 * (1 + random.below(68)),
            a: [In::Bf16, In::F16, In::Codes(layouts[random.below(3)])][random.below(3)],
            scope: [Scope::Tensor, Scope::Row][random.below(2)],
            bias: random.below(2) == 0,
            activation,
            out: Out::Values([Dtype::Bf16, Dtype::F16, Dtype::F32][random.below(3)]),
            nan: random.below(4) == 0,
        };
        check(case, i);
    }
}

#[test]
fn arbitrary_bits_give_the_same_bits_everywhere() {
    // NaN, infinities, subnormals and values that overflow a product, in activations and scales alike.
    for a in [In::Bf16, In::F16, In::Codes(Linear)] {
        for rows in [1, 2, 4, 7, 27] {
            let case =
                Case { split: Split::One(rows), n: 70, k: 48, a, out: Out::Values(Dtype::F32), ..PLAIN };
            let (mut data, mut random) = (case.data(9), Random(rows as u64));
            for buffer in [&mut data.a, &mut data.a_scales] {
                for i in 0..buffer.len {
                    // SAFETY: inside the buffer.
                    unsafe { buffer.ptr::<u8>().get_mut().add(i).write(random.next() as u8) };
                }
            }
            data.scales.iter_mut().for_each(|s| *s = random.next() as u8 & 0x7F);
            let want = case.run(&cpu(Isa::Portable, 1), &mut data, 0xA5);
            check_parity(&case, &mut data, &want);
        }
    }
}

#[test]
fn one_huge_product_among_tiny_ones_stays_inside_the_bound() {
    for (a, huge) in [(In::Bf16, 0x4B00u16), (In::F16, 0x7B00), (In::Codes(Linear), 0)] {
        for n in [1, 17] {
            let case = Case { split: Split::One(2), n, k: 16384, a, out: Out::Values(Dtype::F32), ..PLAIN };
            let mut data = case.data(5);
            data.codes.fill(0x22);
            data.scales.fill(0x38);
            // SAFETY: the buffers are that long.
            unsafe {
                if let In::Codes(_) = a {
                    data.a.ptr::<u8>().get_mut().write_bytes(0x11, data.a.len);
                    data.a_scales.ptr::<u8>().get_mut().write_bytes(0x01, data.a_scales.len);
                    data.a_scales.ptr::<u8>().get_mut().write(0x7E);
                } else {
                    let one = if a == In::F16 { 0x3C01 } else { 0x3F81 };
                    (0..data.a.len / 2).for_each(|i| data.a.ptr::<u16>().get_mut().add(i).write(one));
                    data.a.ptr::<u16>().get_mut().write(huge);
                }
            }
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                let out = case.run(&cpu(isa, 2), &mut data, 0xA5);
                case.check_values(Dtype::F32, &mut data, &out[0], 0.0);
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    for a in [In::Bf16, In::Codes(Linear)] {
        let all = Case { split: Split::One(263), n: 50, k: 1040, a, out: Out::Values(Dtype::F32), ..PLAIN };
        let cpu = cpu(Isa::detect(), 2);
        let mut data = all.data(3);
        let row = (data.row_gap + all.n) * 4;
        let want = all.run(&cpu, &mut data, 0xA5).remove(0);
        for rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 40] {
            let got = Case { split: Split::One(rows), ..all }.run(&cpu, &mut data, 0xA5).remove(0);
            assert!(got.bytes() == &want.bytes()[..rows * row], "{a:?}: {rows} rows");
        }
    }
}

#[test]
fn callers_that_share_a_team_get_the_same_bits() {
    let case = Case { split: Split::One(9), n: 300, k: 1024, ..PLAIN };
    let cpu = cpu(Isa::detect(), 2);
    let want = case.run(&cpu, &mut case.data(1), 0xA5).remove(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let got = case.run(&cpu, &mut case.data(1), 0xA5).remove(0);
                    assert!(got.bytes() == want.bytes());
                }
            });
        }
    });
}

#[test]
fn a_bad_group_is_named() {
    let cpu = cpu(Isa::detect(), 1);
    for (split, bad) in [
        (Split::Ends(&[1, 5, 3, 9], 9), Some(2)),
        (Split::Ends(&[1, 5], 4), Some(1)),
        (Split::Ends(&[-1], 0), Some(0)),
        (Split::Masked(&[2, 0, 3], 2), Some(2)),
        (Split::Masked(&[2, 0, 2], 2), None),
    ] {
        let case = Case { split, ..PLAIN };
        case.run(&cpu, &mut case.data(1), 0x5A);
        assert_eq!(cpu.faults.read(), (if bad.is_some() { BAD_GROUP } else { 0 }, bad), "{split:?}");
        cpu.faults.clear();
    }
}

#[test]
fn every_pair_of_codes_and_every_scale() {
    // Row n of the weights holds code n everywhere, token t code t: all 256 products, under every finite scale.
    for scale in (0..=0x7F).step_by(5).chain([1, 7, 8, 0x7E, 0x7F]) {
        let case = Case {
            split: Split::One(16),
            n: 16,
            k: 16,
            a: In::Codes(Linear),
            out: Out::Values(Dtype::F32),
            ..PLAIN
        };
        let mut data = case.data(1);
        let row = 8 + data.row_gap;
        for code in 0..16u8 {
            let byte = code << 4 | code;
            data.codes[code as usize * 8..][..8].fill(if scale == 0 { 0 } else { byte });
            // SAFETY: inside the buffer.
            unsafe { data.a.ptr::<u8>().get_mut().add(code as usize * row).write_bytes(byte, 8) };
        }
        data.scales.fill(scale);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let out = case.run(&cpu(isa, 1), &mut data, 0xA5);
            case.check_values(Dtype::F32, &mut data, &out[0], 0.0);
        }
    }
}
