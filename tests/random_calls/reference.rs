//! A product once more in float64 from the operands of the call, and how far a device may be from it.

use nvfp4::api::gemm::*;
use nvfp4::api::types::*;
use nvfp4::format::dtype::Dtype;
use nvfp4::format::math::{self, SwiGlu};
use nvfp4::format::{e2m1, e4m3};

use crate::arena::size;

/// Canonical weights of all groups: e2m1 · e4m3 as [E, N, K], and the decode scales.
pub struct Canonical {
    pub values: Vec<f64>,
    pub decode: Vec<f32>,
    pub rows: usize,
    pub cols: usize,
}

impl Canonical {
    pub fn new(codes: &[u8], scales: &[u8], decode: Vec<f32>, rows: usize, cols: usize) -> Canonical {
        let value = |i: usize| nibble(codes, i) * e4m3::decode(scales[i / 16]) as f64;
        Canonical { values: (0..decode.len() * rows * cols).map(value).collect(), decode, rows, cols }
    }
}

fn nibble(codes: &[u8], i: usize) -> f64 {
    e2m1::decode(codes[i / 2] >> (i % 2 * 4) & 15) as f64
}

/// The rows of a group: its number, its first logical row, how many, its first scale row.
pub struct Span {
    pub group: usize,
    pub first: usize,
    pub rows: usize,
    scale_row: usize,
}

/// Groups as they are used, clamped.
pub fn spans(g: &nvfp4_groups, rows: usize, tile: usize) -> Vec<Span> {
    if g.grouping == NVFP4_GROUPING_NONE {
        return vec![Span { group: 0, first: 0, rows, scale_row: 0 }];
    }
    let (mut end, mut scale_row) = (0, 0);
    let max = g.max_tokens as usize;
    let index = |array: *const i32, e: usize| {
        // SAFETY: an array of the call with `count` entries.
        unsafe { array.add(e).read() }.max(0) as usize
    };
    (0..g.count as usize)
        .map(|group| match g.grouping {
            NVFP4_GROUPING_ENDS => {
                let to = index(g.ends, group).clamp(end, rows);
                let span = Span { group, first: end, rows: to - end, scale_row };
                end = to;
                scale_row += span.rows.next_multiple_of(tile);
                span
            }
            _ => {
                let masked = g.grouping == NVFP4_GROUPING_MASKED;
                let rows = if masked { index(g.counts, group).min(max) } else { max };
                Span { group, first: group * max, rows, scale_row: group * max.next_multiple_of(tile) }
            }
        })
        .collect()
}

fn dtype_of(dtype: nvfp4_dtype) -> Dtype {
    match dtype {
        NVFP4_DTYPE_BF16 => Dtype::Bf16,
        NVFP4_DTYPE_F16 => Dtype::F16,
        _ => Dtype::F32,
    }
}

/// # Safety
/// Element `at` is inside memory of that dtype.
pub unsafe fn load(base: *const u8, dtype: nvfp4_dtype, at: usize) -> f64 {
    // SAFETY: the caller's.
    unsafe { dtype_of(dtype).load(base, at) as f64 }
}

fn or(stride: i64, dense: usize) -> usize {
    if stride == 0 { dense } else { stride as usize }
}

/// Element of row `r` of a span in an output with these strides.
pub fn out_at(args: &nvfp4_grouped_gemm_args, span: &Span, r: usize, cols: usize) -> usize {
    let pitch = or(args.out_row_stride, cols);
    match args.groups.grouping {
        NVFP4_GROUPING_STRIDED => span.group * args.out_group_stride as usize + r * pitch,
        _ => (span.first + r) * pitch,
    }
}

pub struct Product<'a> {
    pub args: &'a nvfp4_grouped_gemm_args,
    pub weights: &'a Canonical,
}

/// What an element must be: within `bound` of `value`; a NaN where that is one; anything where f32 runs out of exponents.
#[derive(Clone, Copy)]
pub struct Expected {
    value: f64,
    bound: f64,
    loose: bool,
}

impl Expected {
    pub fn accepts(&self, got: f64) -> bool {
        if self.value.is_nan() {
            return got.is_nan();
        }
        self.loose || (got - self.value).abs() <= self.bound
    }
    /// Sums leave the range of f32 on the way, or may: what comes of that depends on where scales are multiplied.
    pub fn unbounded(&self) -> bool {
        self.loose && !self.value.is_nan()
    }
    /// The error in parts of what is allowed, where both are ordinary numbers.
    pub fn share(&self, got: f64) -> f64 {
        let share = (got - self.value).abs() / self.bound;
        if self.loose || !share.is_finite() { 0.0 } else { share }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:e} ± {:e}", self.value, self.bound)
    }
}

impl Product<'_> {
    /// e2m1 · e4m3 or values of one row, and its decode scale.
    fn activations(&self, span: &Span, r: usize) -> (Vec<f64>, f64) {
        let (a, k) = (self.args, self.weights.cols);
        let strided = a.groups.grouping == NVFP4_GROUPING_STRIDED;
        let shared = strided && a.a_group_stride == 0;
        let logical = if shared { r } else { span.first + r };
        let start = |pitch: usize| {
            if strided { span.group * a.a_group_stride as usize + r * pitch } else { logical * pitch }
        };
        let entry = |scope| match scope {
            NVFP4_SCOPE_TENSOR => 0,
            NVFP4_SCOPE_GROUP => span.group,
            _ => logical,
        };
        // SAFETY: operands of a call that was made to be legal.
        let scale = |array: *const f32, scope| match array.is_null() {
            true => 1.0,
            false => unsafe { array.add(entry(scope)).read() as f64 },
        };
        if a.a_dtype != NVFP4_DTYPE_NVFP4 {
            let at = start(or(a.a_row_stride, k));
            // SAFETY: as above.
            let row = (0..k).map(|i| unsafe { load(a.a.cast(), a.a_dtype, at + i) }).collect();
            return (row, scale(a.a_decode_scales, a.a_scope));
        }
        let (q, blocks) = (&a.a_quantized, k / 16);
        let at = start(or(q.codes_row_stride, k / 2));
        let scale_row = if shared { r } else { span.scale_row + r };
        let scale_at = |block: usize| match q.scale_layout {
            NVFP4_SCALE_LAYOUT_LINEAR => logical * or(q.scales_row_stride, blocks) + block,
            layout => tiled_offset(layout, scale_row, block, blocks),
        };
        // SAFETY: as above.
        let row = unsafe {
            let codes = std::slice::from_raw_parts(q.codes.add(at), k / 2);
            (0..k).map(|i| nibble(codes, i) * e4m3::decode(*q.scales.add(scale_at(i / 16))) as f64).collect()
        };
        (row, scale(q.decode_scales, q.scope))
    }

    /// v of every weight row for row `r` of a span.
    fn exact(&self, span: &Span, r: usize) -> Vec<Expected> {
        let (n, k) = (self.weights.rows, self.weights.cols);
        let (a, g_a) = self.activations(span, r);
        let g_b = self.weights.decode[span.group] as f64;
        let least = 2f64.powi(-126);
        (0..n)
            .map(|column| {
                let b = &self.weights.values[(span.group * n + column) * k..][..k];
                let (mut sums, mut magnitudes) = ([0f64; 16], [0f64; 16]);
                for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
                    for i in 0..16 {
                        sums[i] += a[i] * b[i];
                        magnitudes[i] += (a[i] * b[i]).abs();
                    }
                }
                let (sum, magnitude) = (sums.iter().sum::<f64>(), magnitudes.iter().sum::<f64>());
                let bias = if self.args.bias.is_null() {
                    0.0
                } else {
                    // SAFETY: as above.
                    unsafe { load(self.args.bias.cast(), self.args.bias_dtype, span.group * n + column) }
                };
                let (scaled, scale) = (sum * g_a, (g_a * g_b).abs());
                let value = scaled * g_b + bias;
                let bound = 2f64.powi(-15) * (k as f64 / 8192.0).max(1.0) * magnitude * scale
                    + (scaled * g_b).abs() * 2f64.powi(-22)
                    + value.abs() * 2f64.powi(-23)
                    // Products and sums below the normal numbers of f32.
                    + least * (k as f64 * (scale + g_b.abs()) + 1.0);
                let large = [magnitude, magnitude * g_a, scaled * g_b, value, bound, bias];
                let loose = !large.iter().all(|x| below(x.abs(), 1e38));
                // The order of a sum that does not fit chooses its sign, and whether it then meets an infinity of its own.
                let value = if magnitude.is_finite() && !below(magnitude, 1e38) { 0.0 } else { value };
                Expected { value, bound, loose }
            })
            .collect()
    }

    /// The output row of row `r`, with the epilogue; `old` gives what stood in the output.
    pub fn row(&self, span: &Span, r: usize, old: impl Fn(usize) -> f64) -> Vec<Expected> {
        let args = self.args;
        let exact = self.exact(span, r);
        // Half a unit in the last place; of what goes into an activation, too.
        let (half, least) = match args.out_dtype {
            NVFP4_DTYPE_BF16 => (2f64.powi(-8), 1e-38),
            NVFP4_DTYPE_F16 => (2f64.powi(-11), 2f64.powi(-24)),
            _ => (2f64.powi(-24), 1e-38),
        };
        let inner = if args.out_dtype == NVFP4_DTYPE_F16 { half } else { 2f64.powi(-8) };
        let most = if args.out_dtype == NVFP4_DTYPE_F16 { 65000.0 } else { 1e38 };
        let finish = |value: f64, bound: f64, loose: bool| {
            let loose = loose || !below(value.abs() + bound, most);
            Expected { value, bound: bound + value.abs() * half + least, loose }
        };
        let rounded =
            |e: &Expected| (e.bound + e.value.abs() * inner + least, e.loose || !below(e.value.abs(), most));
        match args.activation {
            NVFP4_ACTIVATION_RELU2 => {
                let of = |e: &Expected| {
                    let (d, loose) = rounded(e);
                    let x = if e.value.is_nan() { e.value } else { e.value.max(0.0) };
                    finish(x * x, (2.0 * e.value.abs() + d) * d + 4.0 * inner * x * x, loose)
                };
                exact.iter().map(of).collect()
            }
            NVFP4_ACTIVATION_SWIGLU => {
                let alpha = if args.alpha == 0.0 { 1.0 } else { args.alpha };
                let p = SwiGlu { limit: args.limit, alpha, beta: args.beta };
                let (gates, ups) = exact.split_at(exact.len() / 2);
                let of = |(gate, up): (&Expected, &Expected)| {
                    let ((d_gate, loose_gate), (d_up, loose_up)) = (rounded(gate), rounded(up));
                    let value = if gate.value.is_nan() || up.value.is_nan() {
                        f64::NAN
                    } else {
                        math::swiglu(gate.value as f32, up.value as f32, &p) as f64
                    };
                    let d = 1.1 * alpha.max(1.0) as f64 * d_gate * (up.value.abs() + p.beta as f64 + d_up)
                        + d_up * gate.value.abs();
                    let loose = loose_gate || loose_up;
                    // One that may be anything beside an infinity: 0 · inf here, something else there.
                    let value = if value.is_nan() && loose && !gate.value.is_nan() && !up.value.is_nan() {
                        0.0
                    } else {
                        value
                    };
                    finish(value, d + 4.0 * inner * value.abs(), loose)
                };
                gates.iter().zip(ups).map(of).collect()
            }
            _ => {
                let of = |(i, e): (usize, &Expected)| finish(e.value + old(i), e.bound, e.loose);
                exact.iter().enumerate().map(of).collect()
            }
        }
    }
}

/// False for a NaN.
fn below(x: f64, most: f64) -> bool {
    x < most
}

fn tiled_offset(layout: nvfp4_scale_layout, row: usize, block: usize, blocks: usize) -> usize {
    let wide = blocks.div_ceil(4);
    match layout {
        NVFP4_SCALE_LAYOUT_TILED_128X4 => {
            ((row / 128) * wide + block / 4) * 512 + row % 32 * 16 + row % 128 / 32 * 4 + block % 4
        }
        _ => ((row / 8) * wide + block / 4) * 32 + row % 8 * 4 + block % 4,
    }
}

/// Bytes of an element of an output.
pub fn element(args: &nvfp4_grouped_gemm_args) -> usize {
    size(args.out_dtype)
}
