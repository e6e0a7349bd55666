//! Where the scale byte of (row, block column) lies in each layout, and how many bytes a layout takes.

/// How the E4M3 bytes of a matrix are ordered in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleLayout {
    /// [rows, K/16], row-major, with a row stride.
    Linear,
    /// 512-byte tiles of 128 rows × 4 columns, as cuBLASLt, CUTLASS and tcgen05 read them.
    Tiled128x4,
    /// 32-byte tiles of 8 rows × 4 columns.
    Tiled8x4,
}

impl ScaleLayout {
    /// Rows are padded to a multiple of this.
    pub const fn tile_rows(self) -> usize {
        match self {
            ScaleLayout::Linear => 1,
            ScaleLayout::Tiled128x4 => 128,
            ScaleLayout::Tiled8x4 => 8,
        }
    }

    pub const fn is_tiled(self) -> bool {
        !matches!(self, ScaleLayout::Linear)
    }

    /// Bytes of a row group `tile_rows` high, for `blocks` scale columns; a linear row's bytes when dense.
    pub const fn tile_row_bytes(self, blocks: usize) -> usize {
        match self {
            ScaleLayout::Linear => blocks,
            _ => blocks.div_ceil(4) * 4 * self.tile_rows(),
        }
    }

    /// Byte offset of (row, column) in a tiled layout with `blocks` scale columns.
    ///
    /// 128x4: `((r/128)·C + c/4)·512 + (r%32)·16 + ((r%128)/32)·4 + c%4`; 8x4: `((r/8)·C + c/4)·32 + (r%8)·4 + c%4`,
    /// with C = ceil(blocks / 4).
    #[inline]
    pub const fn tiled_offset(self, row: usize, column: usize, blocks: usize) -> usize {
        let tiles = blocks.div_ceil(4);
        match self {
            ScaleLayout::Tiled128x4 => {
                ((row / 128) * tiles + column / 4) * 512 + (row % 32) * 16 + (row % 128) / 32 * 4 + column % 4
            }
            _ => ((row / 8) * tiles + column / 4) * 32 + (row % 8) * 4 + column % 4,
        }
    }
}
