//! What the structs of all operations share: enumerations as transparent integers, groups, NVFP4 outputs.
#![allow(non_camel_case_types)]

/// Type of the values of a tensor.
pub type nvfp4_dtype = u32;
/// bfloat16.
pub const NVFP4_DTYPE_BF16: nvfp4_dtype = 0;
/// IEEE binary16.
pub const NVFP4_DTYPE_F16: nvfp4_dtype = 1;
/// IEEE binary32.
pub const NVFP4_DTYPE_F32: nvfp4_dtype = 2;
/// E2M1 codes with E4M3 block scales; only where an argument says so.
pub const NVFP4_DTYPE_NVFP4: nvfp4_dtype = 3;

/// Order of the E4M3 block scales in memory (docs/numerics.md, "Scale layouts").
pub type nvfp4_scale_layout = u32;
/// [rows, K/16], row-major.
pub const NVFP4_SCALE_LAYOUT_LINEAR: nvfp4_scale_layout = 0;
/// 512-byte tiles of 128 rows by 4 columns (cuBLASLt, CUTLASS, tcgen05).
pub const NVFP4_SCALE_LAYOUT_TILED_128X4: nvfp4_scale_layout = 1;
/// 32-byte tiles of 8 rows by 4 columns.
pub const NVFP4_SCALE_LAYOUT_TILED_8X4: nvfp4_scale_layout = 2;

/// How a block scale is chosen.
pub type nvfp4_scale_rule = u32;
/// From the block's largest magnitude.
pub const NVFP4_SCALE_RULE_AMAX: nvfp4_scale_rule = 0;
/// AMAX or 1.5 times it, whichever has the smaller squared error.
pub const NVFP4_SCALE_RULE_FOUR_OVER_SIX: nvfp4_scale_rule = 1;
/// AMAX or one of the 14 neighbouring codes, whichever has the smallest squared error.
pub const NVFP4_SCALE_RULE_MIN_MSE: nvfp4_scale_rule = 2;

/// Which values share one FP32 decode scale.
pub type nvfp4_scope = u32;
/// All rows: decode scale array of 1.
pub const NVFP4_SCOPE_TENSOR: nvfp4_scope = 0;
/// The rows of a group: array of groups.count.
pub const NVFP4_SCOPE_GROUP: nvfp4_scope = 1;
/// Each row: array of one per logical row, used or not.
pub const NVFP4_SCOPE_ROW: nvfp4_scope = 2;

/// How rows are split into groups (experts).
pub type nvfp4_grouping = u32;
/// One tensor; count, ends, counts and max_tokens must be 0.
pub const NVFP4_GROUPING_NONE: nvfp4_grouping = 0;
/// Groups one after another, split by `ends`.
pub const NVFP4_GROUPING_ENDS: nvfp4_grouping = 1;
/// [count, max_tokens] rows of which group e uses the first counts[e].
pub const NVFP4_GROUPING_MASKED: nvfp4_grouping = 2;
/// [count, max_tokens] rows, all used; group strides are arguments of their own.
pub const NVFP4_GROUPING_STRIDED: nvfp4_grouping = 3;

/// An activation function.
pub type nvfp4_activation = u32;
/// None.
pub const NVFP4_ACTIVATION_NONE: nvfp4_activation = 0;
/// gate / (1 + exp(-alpha * gate)) * (up + beta), with optional clamps.
pub const NVFP4_ACTIVATION_SWIGLU: nvfp4_activation = 1;
/// max(x, 0) squared.
pub const NVFP4_ACTIVATION_RELU2: nvfp4_activation = 2;

/// The split of rows into groups. Entries of `ends` and `counts` that are out of order or out of bounds are clamped
/// (ends to [previous end, rows], counts to [0, max_tokens]) and set NVFP4_FAULT_BAD_GROUP.
/// Rows that belong to no group are neither read nor written.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_groups {
    /// One of NVFP4_GROUPING_*.
    pub grouping: nvfp4_grouping,
    /// Number of groups E, 0 to 65535; 0 for NVFP4_GROUPING_NONE. Zero groups are legal.
    pub count: u32,
    /// NVFP4_GROUPING_ENDS: int32[count] in device memory, inclusive cumulative ends, 4-byte aligned.
    pub ends: *const i32,
    /// NVFP4_GROUPING_MASKED: int32[count] in device memory, rows used per group, 4-byte aligned.
    pub counts: *const i32,
    /// NVFP4_GROUPING_MASKED and _STRIDED: rows per group; `rows` must be count * max_tokens.
    pub max_tokens: i64,
}

/// An NVFP4 output: where codes, block scales and decode scales go, and how they are found.
///
/// Logical row i of the call has its codes at codes + i * codes_row_stride. In the tiled layouts each group is tiled on
/// its own: group e starts at scale row sum over i < e of roundup(rows of group i, tile rows) (ends), or
/// e * roundup(max_tokens, tile rows) (masked, strided). Columns are padded to 4 blocks and the used rows of a group to
/// the tile height; that padding is always written as zero.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_quantized {
    /// [rows, K/2] bytes, even k in the low nibble; 16-byte aligned.
    pub codes: *mut u8,
    /// Bytes between rows of codes; 0: K/2.
    pub codes_row_stride: i64,
    /// E4M3 block scales; 16-byte aligned. Size: nvfp4_scales_size.
    pub scales: *mut u8,
    /// Bytes between rows of scales in the linear layout; 0: K/16. Must be 0 in the tiled layouts.
    pub scales_row_stride: i64,
    /// One of NVFP4_SCALE_LAYOUT_*.
    pub scale_layout: nvfp4_scale_layout,
    /// One of NVFP4_SCALE_RULE_*.
    pub scale_rule: nvfp4_scale_rule,
    /// One of NVFP4_SCOPE_*: what shares a decode scale, static or dynamic.
    pub scope: nvfp4_scope,
    /// Must be 0.
    pub reserved: u32,
    /// Static scales: float array in device memory, read. A value that is not finite or not above 0 makes its scope NaN
    /// and sets NVFP4_FAULT_BAD_DECODE_SCALE. Exactly one of the two arrays must be set.
    pub static_decode_scales: *const f32,
    /// Dynamic scales: float array in device memory, written (amax / 2688 of the scope). The entry of a group without
    /// rows is 1; entries of rows of no group are not written.
    pub decode_scales: *mut f32,
}

/// An NVFP4 input: codes, block scales and decode scales.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct nvfp4_quantized_input {
    /// [rows, K/2] bytes, even k in the low nibble; 16-byte aligned.
    pub codes: *const u8,
    /// Bytes between rows of codes; 0: K/2.
    pub codes_row_stride: i64,
    /// E4M3 block scales, laid out as nvfp4_quantized writes them; 16-byte aligned.
    pub scales: *const u8,
    /// Bytes between rows of scales in the linear layout; 0: K/16. Must be 0 in the tiled layouts.
    pub scales_row_stride: i64,
    /// One of NVFP4_SCALE_LAYOUT_*.
    pub scale_layout: nvfp4_scale_layout,
    /// One of NVFP4_SCOPE_*: how decode_scales is indexed.
    pub scope: nvfp4_scope,
    /// Float array in device memory; NULL: all 1.
    pub decode_scales: *const f32,
}

macro_rules! zeroed_default {
    ($($name:ty),+ $(,)?) => {$(
        impl Default for $name {
            fn default() -> Self {
                // SAFETY: integers, floats and raw pointers only, for all of which zero is a value.
                unsafe { std::mem::zeroed() }
            }
        }
    )+};
}
pub(crate) use zeroed_default;

zeroed_default!(nvfp4_groups, nvfp4_quantized, nvfp4_quantized_input);
