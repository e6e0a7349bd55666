//! The memory of a random call, and the operands that any call is made of.

use nvfp4::api::layouts::*;
use nvfp4::api::types::*;
use nvfp4::ffi::*;

use crate::support::{Memory, check};

pub struct Rng(u64, bool);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, false)
    }

    /// Few rows, each longer than the chunks that kernels work in.
    pub fn wide(self, wide: bool) -> Rng {
        Rng(self.0, wide)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

pub const INPUT: u8 = 0;
pub const OUTPUT: u8 = 1;
pub const GAP: u8 = 2;
pub const UPDATED: u8 = 3;

/// One piece of memory that all operands of a call lie in, and what each of its bytes is for.
pub struct Arena {
    pub memory: Memory,
    pub role: Vec<u8>,
    pub next: usize,
}

impl Arena {
    pub fn new(poison: u8) -> Arena {
        const BYTES: usize = 1 << 24;
        Arena { memory: Memory::poisoned(BYTES, poison), role: vec![GAP; BYTES], next: 0 }
    }

    /// Ready for another call with the poison that it was made with.
    pub fn clear(&mut self, poison: u8) {
        let used = (self.next + 64).min(self.role.len());
        self.memory.bytes_mut()[..used].fill(poison);
        self.role[..used].fill(GAP);
        self.next = 0;
    }

    pub fn take(&mut self, rng: &mut Rng, bytes: usize, align: usize, role: u8) -> usize {
        let at = (self.next + rng.below(5) as usize * align).next_multiple_of(align);
        self.next = at + bytes;
        assert!(self.next <= self.role.len(), "a case of {} bytes", self.next);
        self.role[at..at + bytes].fill(role);
        at
    }

    /// A dense operand on a multiple of 64, behind a gap of as much.
    pub fn dense<T>(&mut self, bytes: &[u8]) -> *mut T {
        let at = (self.next + 64).next_multiple_of(64);
        self.next = at + bytes.len();
        assert!(self.next <= self.role.len(), "a case of {} bytes", self.next);
        self.role[at..self.next].fill(INPUT);
        self.memory.bytes_mut()[at..self.next].copy_from_slice(bytes);
        self.address(at)
    }

    pub fn dense_output<T>(&mut self, bytes: usize) -> *mut T {
        let at = (self.next + 64).next_multiple_of(64);
        self.next = at + bytes;
        assert!(self.next <= self.role.len(), "a case of {} bytes", self.next);
        self.role[at..self.next].fill(OUTPUT);
        self.address(at)
    }

    pub fn address<T>(&mut self, at: usize) -> *mut T {
        // SAFETY: inside the memory.
        unsafe { self.memory.ptr_mut::<u8>().add(at).cast() }
    }

    pub fn output<T>(&mut self, rng: &mut Rng, bytes: usize, align: usize) -> *mut T {
        let at = self.take(rng, bytes, align, OUTPUT);
        self.address(at)
    }

    pub fn input<T>(&mut self, rng: &mut Rng, bytes: &[u8], align: usize) -> *mut T {
        let at = self.take(rng, bytes.len(), align, INPUT);
        self.memory.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        self.address(at)
    }

    pub fn i32s(&mut self, rng: &mut Rng, values: &[i32]) -> *mut i32 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.input(rng, &bytes, 4)
    }

    pub fn f32s(&mut self, rng: &mut Rng, values: &[f32]) -> *mut f32 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.input(rng, &bytes, 4)
    }

    /// Values of a dtype: ordinary, tiny, huge, zero, or with NaNs and infinities among them.
    pub fn values(&mut self, rng: &mut Rng, dtype: nvfp4_dtype, count: usize) -> *mut u8 {
        let bytes = values(rng, dtype, count);
        self.input(rng, &bytes, 16)
    }
}

pub fn size(dtype: nvfp4_dtype) -> usize {
    if dtype == NVFP4_DTYPE_F32 { 4 } else { 2 }
}

pub fn values(rng: &mut Rng, dtype: nvfp4_dtype, count: usize) -> Vec<u8> {
    let mood = rng.below(8);
    let mut bytes = Vec::new();
    for _ in 0..count {
        let unit = (rng.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0) * (rng.below(16) as f32 / 4.0);
        let x = match mood {
            0 => unit * 1e-38,
            1 => unit * 1e37,
            2 if rng.chance(60) => rng.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, -f32::NAN]),
            3 if !rng.chance(20) => rng.pick(&[0.0, -0.0]),
            4 => f32::from_bits(rng.next() as u32),
            5 => (unit * 4.0).round() / 2.0,
            _ => unit,
        };
        match dtype {
            NVFP4_DTYPE_F32 => bytes.extend(x.to_le_bytes()),
            NVFP4_DTYPE_BF16 => bytes.extend(((x.to_bits() >> 16) as u16).to_le_bytes()),
            _ if mood == 4 => bytes.extend((rng.next() as u16).to_le_bytes()),
            _ => bytes.extend(half::f16::from_f32(x).to_le_bytes()),
        }
    }
    bytes
}

pub fn float(rng: &mut Rng) -> nvfp4_dtype {
    rng.pick(&[NVFP4_DTYPE_BF16, NVFP4_DTYPE_F16, NVFP4_DTYPE_F32])
}

pub fn row_count(rng: &mut Rng) -> usize {
    if rng.1 {
        return rng.pick(&[0, 1, 2, 3, 9]);
    }
    rng.pick(&[0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 40, 65, 127, 129, 130])
}

pub fn blocks(rng: &mut Rng) -> usize {
    if rng.1 {
        return rng.pick(&[63, 64, 65, 70, 129, 256, 257, 511, 513, 521]);
    }
    rng.pick(&[1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 31, 33])
}

pub fn decode_scale(rng: &mut Rng) -> f32 {
    match rng.below(16) {
        0 => rng.pick(&[0.0, -1.0, f32::NAN, f32::INFINITY, -0.0]),
        1 => rng.pick(&[1e-45, f32::MAX, 1e-38, f32::MIN_POSITIVE]),
        _ => rng.below(1000) as f32 / 500_000.0 + 1e-5,
    }
}

pub fn stride(rng: &mut Rng, dense: usize) -> (i64, usize) {
    match rng.below(3) {
        0 => {
            let s = dense + rng.below(20) as usize;
            (s as i64, s)
        }
        _ => (0, dense),
    }
}

/// Groups and the number of logical rows.
pub fn groups(rng: &mut Rng, arena: &mut Arena, kinds: &[u32]) -> (nvfp4_groups, usize) {
    let kind = rng.pick(kinds);
    let mut g = nvfp4_groups { grouping: kind, ..Default::default() };
    let rows = row_count(rng);
    if kind == NVFP4_GROUPING_NONE {
        return (g, rows);
    }
    let count = rng.pick(&[0usize, 1, 2, 3, 5]);
    g.count = count as u32;
    let odd = rng.chance(6);
    if kind == NVFP4_GROUPING_ENDS {
        let mut ends: Vec<i32> = (0..count).map(|_| rng.below(rows as u64 + 1) as i32).collect();
        ends.sort();
        if odd && count > 0 {
            ends[rng.below(count as u64) as usize] = rng.pick(&[-1, i32::MIN, i32::MAX, rows as i32 + 1, 0]);
        }
        g.ends = arena.i32s(rng, &ends);
        return (g, rows);
    }
    let max = if rng.1 { rng.below(4) as usize } else { rng.pick(&[0usize, 1, 2, 7, 9, 17, 33]) };
    g.max_tokens = max as i64;
    if kind == NVFP4_GROUPING_MASKED {
        let mut counts: Vec<i32> = (0..count).map(|_| rng.below(max as u64 + 1) as i32).collect();
        if odd && count > 0 {
            counts[rng.below(count as u64) as usize] = rng.pick(&[-1, i32::MIN, i32::MAX, max as i32 + 1]);
        }
        g.counts = arena.i32s(rng, &counts);
    }
    (g, count * max)
}

pub const ANY: &[u32] =
    &[NVFP4_GROUPING_NONE, NVFP4_GROUPING_ENDS, NVFP4_GROUPING_MASKED, NVFP4_GROUPING_STRIDED];

pub fn scope_entries(scope: u32, g: &nvfp4_groups, rows: usize) -> usize {
    match scope {
        NVFP4_SCOPE_TENSOR => 1,
        NVFP4_SCOPE_GROUP => g.count as usize,
        _ => rows,
    }
}

pub fn scope(rng: &mut Rng, g: &nvfp4_groups) -> u32 {
    match g.grouping {
        NVFP4_GROUPING_NONE => rng.pick(&[NVFP4_SCOPE_TENSOR, NVFP4_SCOPE_ROW]),
        _ => rng.pick(&[NVFP4_SCOPE_TENSOR, NVFP4_SCOPE_GROUP, NVFP4_SCOPE_ROW]),
    }
}

pub fn scale_bytes(layout: u32, rows: usize, cols: usize, stride: i64, g: &nvfp4_groups) -> usize {
    let args = nvfp4_scales_size_args {
        struct_size: size_of::<nvfp4_scales_size_args>(),
        scale_layout: layout,
        rows: rows as i64,
        cols: cols as i64,
        scales_row_stride: stride,
        groups: *g,
        ..Default::default()
    };
    let mut bytes = 0;
    // SAFETY: valid pointers.
    check(unsafe { nvfp4_scales_size(&args, &mut bytes) }).unwrap();
    bytes
}

pub fn extent(rows: usize, stride: usize, cols: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + cols }
}

pub fn quantized(
    rng: &mut Rng,
    arena: &mut Arena,
    g: &nvfp4_groups,
    rows: usize,
    cols: usize,
    dynamic_rows_only: bool,
) -> nvfp4_quantized {
    let layout = rng.below(3) as u32;
    let (codes_stride, pitch) = stride(rng, cols / 2);
    let scales_stride = if layout == 0 { stride(rng, cols / 16).0 } else { 0 };
    let mut q = nvfp4_quantized {
        codes: arena.output(rng, extent(rows, pitch, cols / 2), 16),
        codes_row_stride: codes_stride,
        scales: arena.output(rng, scale_bytes(layout, rows, cols, scales_stride, g), 16),
        scales_row_stride: scales_stride,
        scale_layout: layout,
        scale_rule: rng.below(3) as u32,
        scope: scope(rng, g),
        ..Default::default()
    };
    let entries = scope_entries(q.scope, g, rows);
    if rng.chance(2) || dynamic_rows_only && q.scope != NVFP4_SCOPE_ROW {
        let scales: Vec<f32> = (0..entries).map(|_| decode_scale(rng)).collect();
        q.static_decode_scales = arena.f32s(rng, &scales);
    } else {
        q.decode_scales = arena.output(rng, entries * 4, 4);
    }
    q
}
