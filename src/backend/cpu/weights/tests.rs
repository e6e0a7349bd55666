//! Weights there and back: canonical bytes survive, values become what the quantizer makes of them, bad bytes are refused.

use super::*;
use crate::error::NVFP4_STATUS_INVALID_ARGUMENT;
use crate::format::block::ScaleRule;
use crate::format::dtype::Dtype;
use crate::format::layout::ScaleLayout;

const LAYOUTS: [ScaleLayout; 3] = [ScaleLayout::Linear, ScaleLayout::Tiled128x4, ScaleLayout::Tiled8x4];

fn shape(groups: usize, rows: usize, cols: usize, gate_up: bool) -> WeightsShape {
    WeightsShape { groups, rows, cols, gate_up }
}

/// Canonical bytes of some weights.
#[derive(Clone, PartialEq, Debug)]
struct Bytes {
    codes: Vec<u8>,
    scales: Vec<u8>,
    decode: Vec<f32>,
}

fn group_scales(shape: &WeightsShape, layout: ScaleLayout) -> usize {
    layout.tile_row_bytes(shape.cols / BLOCK) * shape.rows.div_ceil(layout.tile_rows())
}

impl Bytes {
    fn filled(shape: &WeightsShape, layout: ScaleLayout, byte: u8) -> Bytes {
        Bytes {
            codes: vec![byte; shape.groups * shape.rows * shape.cols / 2],
            scales: vec![byte; shape.groups * group_scales(shape, layout)],
            decode: vec![f32::from_bits(u32::from_le_bytes([byte; 4])); shape.groups],
        }
    }

    /// Arbitrary codes and scales, NaN among them, padding zero.
    fn arbitrary(shape: &WeightsShape, layout: ScaleLayout) -> Bytes {
        let mut bytes = Bytes::filled(shape, layout, 0);
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        let blocks = shape.cols / BLOCK;
        for group in 0..shape.groups {
            bytes.decode[group] = 1.0 + group as f32;
            for row in 0..shape.rows {
                for block in 0..blocks {
                    let scale = next() & 0x7F;
                    let at = match layout {
                        ScaleLayout::Linear => row * blocks + block,
                        _ => layout.tiled_offset(row, block, blocks),
                    };
                    bytes.scales[group * group_scales(shape, layout) + at] = scale;
                    let at = ((group * shape.rows + row) * blocks + block) * 8;
                    bytes.codes[at..at + 8].iter_mut().for_each(|c| *c = if scale == 0 { 0 } else { next() });
                }
            }
        }
        bytes
    }

    fn scales(&mut self, shape: &WeightsShape, layout: ScaleLayout) -> Scales {
        Scales { base: Ptr::from_mut(self.scales.as_mut_ptr()), layout, row_stride: shape.cols / BLOCK }
    }

    fn source(&mut self, shape: &WeightsShape, layout: ScaleLayout) -> WeightsSource {
        WeightsSource::Codes {
            codes: Ptr::from_mut(self.codes.as_mut_ptr()),
            scales: self.scales(shape, layout),
            decode: Ptr::from_mut(self.decode.as_mut_ptr()),
        }
    }
}

/// Storage with a guard behind it.
struct Storage(Vec<u64>, WeightsShape);

impl Storage {
    fn new(shape: &WeightsShape, poison: u8) -> Storage {
        Storage(vec![u64::from_le_bytes([poison; 8]); storage_size(shape).unwrap() / 8 + 2], *shape)
    }

    fn prepare(&mut self, cpu: &Cpu, source: WeightsSource) -> Result<()> {
        let (guard, problem) = (self.0[self.0.len() - 1], PrepareProblem { source, weights: self.weights() });
        // SAFETY: all buffers have the size that the shape asks for.
        let outcome = unsafe { prepare(cpu, &problem) };
        assert!(self.0[self.0.len() - 2..] == [guard; 2]);
        outcome
    }

    fn weights(&mut self) -> Weights {
        Weights { shape: self.1, storage: Ptr::from_mut(self.0.as_mut_ptr()).cast() }
    }

    fn export(&mut self, cpu: &Cpu, layout: ScaleLayout) -> Bytes {
        let shape = self.1;
        let mut out = Bytes::filled(&shape, layout, 0xA5);
        let scales = out.scales(&shape, layout);
        let codes = Ptr::from_mut(out.codes.as_mut_ptr());
        let decode = Ptr::from_mut(out.decode.as_mut_ptr());
        // SAFETY: as above.
        unsafe { export(cpu, &ExportProblem { weights: self.weights(), codes, scales, decode }) };
        out
    }
}

#[test]
fn canonical_bytes_come_back() {
    let cpu = Cpu::new(2, None).unwrap();
    for shape in [
        shape(0, 4, 16, false),
        shape(1, 1, 16, false),
        shape(2, 16, 64, false),
        shape(3, 33, 80, false),
        shape(2, 130, 272, false),
        shape(1, 2, 16, true),
        shape(2, 16, 48, true),
        shape(2, 262, 80, true),
    ] {
        for layout in LAYOUTS {
            let mut bytes = Bytes::arbitrary(&shape, layout);
            for poison in [0xA5, 0x5A] {
                let mut storage = Storage::new(&shape, poison);
                storage.prepare(&cpu, bytes.source(&shape, layout)).unwrap();
                assert!(storage.export(&cpu, layout) == bytes, "{shape:?} {layout:?}");
                let linear = storage.export(&cpu, ScaleLayout::Linear);
                assert_eq!(linear.codes, bytes.codes);
            }
        }
    }
}

#[test]
fn codes_under_a_zero_scale_become_zero() {
    let (cpu, shape) = (Cpu::new(1, None).unwrap(), shape(1, 3, 32, false));
    let mut bytes = Bytes::filled(&shape, ScaleLayout::Linear, 0x38);
    (bytes.scales[3], bytes.decode[0]) = (0, 1.0);
    let mut storage = Storage::new(&shape, 0);
    storage.prepare(&cpu, bytes.source(&shape, ScaleLayout::Linear)).unwrap();
    bytes.codes[24..32].fill(0);
    assert_eq!(storage.export(&cpu, ScaleLayout::Linear), bytes);
}

#[test]
fn bad_bytes_are_refused_before_storage_is_touched() {
    let (cpu, shape, layout) = (Cpu::new(2, None).unwrap(), shape(3, 70, 48, false), ScaleLayout::Tiled128x4);
    let row = layout.tiled_offset(69, 1, 3);
    type Spoil = fn(&mut Bytes, usize);
    let cases: [(Spoil, &[&str]); 4] = [
        (|b, at| b.scales[512 + at] = 0x85, &["scales = 0x85", "group 1", "row 69", "block 1"]),
        (
            |b, at| (b.scales[512 + at], b.scales[512]) = (0x85, 0x80),
            &["scales = 0x80", "group 1", "row 0", "block 0"],
        ),
        (|b, _| b.decode[2] = f32::NAN, &["decode_scales", "NaN", "group 2"]),
        (|b, _| b.decode[1] = 0.0, &["decode_scales", "group 1"]),
    ];
    for (spoil, words) in cases {
        let mut bytes = Bytes::arbitrary(&shape, layout);
        spoil(&mut bytes, row);
        let mut storage = Storage::new(&shape, 0xA5);
        let error = storage.prepare(&cpu, bytes.source(&shape, layout)).unwrap_err();
        assert_eq!(error.status(), NVFP4_STATUS_INVALID_ARGUMENT);
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(storage.0.iter().all(|&word| word == 0xA5A5_A5A5_A5A5_A5A5));
    }
}

#[test]
fn values_become_what_the_quantizer_makes_of_them() {
    let cpu = Cpu::new(2, None).unwrap();
    let shape = shape(2, 34, 80, true);
    let (rows, cols, gap) = (shape.rows, shape.cols, 24);
    for (i, rule) in [ScaleRule::Amax, ScaleRule::FourOverSix, ScaleRule::MinMse].into_iter().enumerate() {
        for transposed in [false, true] {
            for given in [None, Some([0.25f32, f32::NAN])] {
                let (height, width) = if transposed { (cols, rows) } else { (rows, cols) };
                let (row_stride, group_stride) = (width + i, height * (width + i) + gap);
                let mut values = vec![f32::NAN; shape.groups * group_stride];
                for at in (0..shape.groups * height * width).map(|at| (at / width, at % width)) {
                    let (group, row, col) = (at.0 / height, at.0 % height, at.1);
                    let value = ((at.0 * width + col) as f32 * 0.37).sin() * (1 + group) as f32;
                    values[group * group_stride + row * row_stride + col] = value;
                }
                let base = Ptr::new(values.as_ptr()).cast();
                let src = Matrix { base, dtype: Dtype::F32, row_stride, group_stride };
                let layout = ScaleLayout::Tiled128x4;
                let mut want = Bytes::filled(&shape, layout, 0xA5);
                let given_ptr = given.as_ref().map_or(Ptr::NULL, |g| Ptr::new(g.as_ptr()));
                let decode = match given {
                    Some(given) => {
                        want.decode.copy_from_slice(&given);
                        DecodeScales::Static(given_ptr)
                    }
                    None => DecodeScales::Dynamic(Ptr::from_mut(want.decode.as_mut_ptr())),
                };
                let out = QuantOut {
                    codes: Ptr::from_mut(want.codes.as_mut_ptr()),
                    codes_row_stride: cols / 2,
                    scales: want.scales(&shape, layout),
                    rule,
                    scope: Scope::Group,
                    decode,
                };
                let producer =
                    if transposed { Producer::Transposed { src } } else { Producer::Plain { src } };
                let groups = Groups::Strided { count: shape.groups, rows };
                let quantize =
                    QuantizeProblem { groups, cols, producer, activated: None, out: Some(out), amax: None };
                // SAFETY: all buffers have the sizes of the problem.
                unsafe { rows::run(&cpu, &quantize) };
                let mut storage = Storage::new(&shape, 0xA5);
                storage
                    .prepare(&cpu, WeightsSource::Values { src, transposed, rule, given: given_ptr })
                    .unwrap();
                let got = storage.export(&cpu, layout);
                assert!(
                    got.codes == want.codes && got.scales == want.scales,
                    "{rule:?} {transposed} {given:?}"
                );
                let bits = |decode: &[f32]| decode.iter().map(|g| g.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got.decode), bits(&want.decode));
            }
        }
    }
}

#[test]
fn sizes_that_cannot_be_addressed_are_refused() {
    assert_eq!(storage_size(&shape(65535, usize::MAX / 2, 1 << 40, false)), None);
    assert_eq!(storage_size(&shape(2, 17, 80, false)), Some(64 + 2 * 2 * 2 * QUAD_BYTES));
    assert!(storage_size(&shape(0, 4, 16, false)).is_some());
}

#[test]
fn nibbles_come_back() {
    assert_eq!(interleave_nibbles(0x7654_3210), 0x7362_5140);
    for i in 0..10_000u32 {
        let x = i.wrapping_mul(0x9E37_79B9);
        assert_eq!(separate_nibbles(interleave_nibbles(x)), x);
    }
}
