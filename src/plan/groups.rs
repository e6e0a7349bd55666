//! How the rows of a call are split into groups (experts), and where each group's rows and scale tiles lie.

use super::memory::{Matrix, Ptr};

/// The split of rows into groups. Index arrays live in the memory of the context's device.
#[derive(Clone, Copy, Debug)]
pub enum Groups {
    /// One tensor of `rows` rows.
    None { rows: usize },
    /// Groups one after another; `ends[e]` is the row after group e's last.
    Ends { ends: Ptr<i32>, count: usize, rows: usize },
    /// [count, max_rows] rows of which group e uses the first `counts[e]`.
    Masked { counts: Ptr<i32>, count: usize, max_rows: usize },
    /// [count, rows] rows, all of them used; group e starts at e · group_stride in matrices that have one.
    Strided { count: usize, rows: usize },
}

/// The rows of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    pub group: usize,
    /// Index of the first row among the call's logical rows (of dense outputs and per-row arrays).
    pub first_row: usize,
    pub rows: usize,
    /// First row in a tiled scale layout whose tiles are `tile_rows` high.
    pub first_scale_row: usize,
    /// The group index array held a value that had to be clamped.
    pub clamped: bool,
}

impl Groups {
    pub fn count(&self) -> usize {
        match *self {
            Groups::None { .. } => 1,
            Groups::Ends { count, .. } | Groups::Masked { count, .. } | Groups::Strided { count, .. } => {
                count
            }
        }
    }

    /// Logical rows, used or not: the length of per-row arrays.
    pub fn total_rows(&self) -> usize {
        match *self {
            Groups::None { rows } | Groups::Ends { rows, .. } => rows,
            Groups::Masked { count, max_rows, .. } => count * max_rows,
            Groups::Strided { count, rows } => count * rows,
        }
    }

    /// Rows of a scale buffer in a layout with tiles of `tile_rows` rows that suffice for any split.
    pub fn scale_rows(&self, tile_rows: usize) -> usize {
        let up = |rows: usize| rows.div_ceil(tile_rows) * tile_rows;
        match *self {
            Groups::None { rows } => up(rows),
            Groups::Ends { count, rows, .. } => up(rows + (tile_rows - 1) * count.min(rows)),
            Groups::Masked { count, max_rows: rows, .. } | Groups::Strided { count, rows } => {
                count * up(rows)
            }
        }
    }

    /// The groups in order, their index array read as the contract says: clamped, never out of bounds.
    ///
    /// # Safety
    /// The index array must be readable by the calling processor.
    pub unsafe fn spans(&self, tile_rows: usize) -> Spans {
        Spans { groups: *self, tile_rows, next: 0, row: 0, scale_row: 0 }
    }
}

/// The iterator behind [`Groups::spans`].
pub struct Spans {
    groups: Groups,
    tile_rows: usize,
    next: usize,
    row: usize,
    scale_row: usize,
}

impl Iterator for Spans {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let group = self.next;
        if group >= self.groups.count() {
            return None;
        }
        self.next += 1;
        let up = |rows: usize| rows.div_ceil(self.tile_rows) * self.tile_rows;
        let (first_row, rows, first_scale_row, clamped) = match self.groups {
            Groups::None { rows } => (0, rows, 0, false),
            Groups::Ends { ends, rows: total, .. } => {
                // SAFETY: `spans` promises a readable array of `count` entries.
                let raw = unsafe { ends.get().add(group).read() } as i64;
                let end = raw.clamp(self.row as i64, total as i64);
                (self.row, end as usize - self.row, self.scale_row, end != raw)
            }
            Groups::Masked { counts, max_rows, .. } => {
                // SAFETY: as above.
                let raw = unsafe { counts.get().add(group).read() } as i64;
                let rows = raw.clamp(0, max_rows as i64);
                (group * max_rows, rows as usize, group * up(max_rows), rows != raw)
            }
            Groups::Strided { rows, .. } => (group * rows, rows, group * up(rows), false),
        };
        self.row = first_row + rows;
        self.scale_row = first_scale_row + up(rows);
        Some(Span { group, first_row, rows, first_scale_row, clamped })
    }
}

impl Matrix {
    /// Element index of row `r` of a span.
    #[inline]
    pub fn row(&self, groups: &Groups, span: &Span, r: usize) -> usize {
        match groups {
            Groups::Strided { .. } => span.group * self.group_stride + r * self.row_stride,
            _ => (span.first_row + r) * self.row_stride,
        }
    }
}

/// `ends` as every backend reads them: (each clamped to [previous end, rows], first clamped group).
pub fn valid_ends(ends: &[i32], rows: usize) -> (Vec<i32>, Option<usize>) {
    let groups = Groups::Ends { ends: Ptr::new(ends.as_ptr()), count: ends.len(), rows };
    // SAFETY: the slice is readable for its length.
    let spans: Vec<Span> = unsafe { groups.spans(1) }.collect();
    let used = spans.iter().map(|s| (s.first_row + s.rows) as i32).collect();
    (used, spans.iter().position(|s| s.clamped))
}
