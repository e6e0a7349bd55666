//! How the passes with a block a thread are laid over rows × columns.

use crate::format::layout::ScaleLayout;

/// How a pass with a block a thread covers rows × columns: a unit of rows is a row (linear) or the 8 rows whose scales
/// share sectors (tiled); a warp takes some column steps of one unit.
pub(super) struct TileShape {
    pub steps: usize,
    pub grid_x: usize,
    pub units: usize,
    pub threads: usize,
}

/// Column steps that stand for `sector_units`.
const SECTOR_STEPS: usize = 4;

impl TileShape {
    /// Many rows of tiled scales: a warp takes 16 columns of a unit, two rows a step. None where that leaves SMs or
    /// lanes idle.
    pub(super) fn sectors(blocks: usize, rows: usize, sm_count: usize) -> Option<TileShape> {
        let (warps, units) = (blocks.div_ceil(16), rows / 8);
        (units * warps >= 16 * sm_count && warps * 16 * 8 <= blocks * 9)
            .then(|| TileShape::of_warps(SECTOR_STEPS, warps, units))
    }

    /// The most column steps a warp that still leave every SM work enough.
    pub fn new(
        layout: ScaleLayout,
        blocks: usize,
        rows: usize,
        most_steps: usize,
        sm_count: usize,
    ) -> TileShape {
        let (width, height) = if layout.is_tiled() { (4, 8) } else { (32, 1) };
        let (columns, units) = (blocks.div_ceil(width), rows / height);
        let warps = |steps: usize| columns.div_ceil(steps);
        let mut steps = most_steps;
        // Halved while warps are few, or while a row's last warp would idle through most of its steps.
        while steps > 1 && (units * warps(steps) < 32 * sm_count || warps(steps) * steps * 8 > columns * 9) {
            steps /= 2;
        }
        TileShape::of_warps(steps, warps(steps), units)
    }

    /// CTAs of up to eight warps, of which the fewest idle.
    fn of_warps(steps: usize, warps: usize, units: usize) -> TileShape {
        let per_cta = (4..=8).rev().min_by_key(|w| warps.next_multiple_of(*w)).map_or(8, |w| w.min(warps));
        TileShape { steps, grid_x: warps.div_ceil(per_cta), units, threads: 32 * per_cta }
    }
}
