//! The memory that a call touches: where its operands lie, and that what is written meets nothing else.

use crate::error::{Error, Result};
use crate::plan::groups::Groups;
use crate::plan::memory::Ptr;

/// The memory a call touches: checked one by one for NULL and alignment, all together for overlap.
#[derive(Default)]
pub struct Regions {
    list: [Region; 16],
    count: usize,
    /// The question is what a call of these shapes needs: a pointer that is not known yet is NULL.
    shapes_only: bool,
}

#[derive(Clone, Copy, Default)]
struct Region {
    argument: &'static str,
    start: usize,
    extent: Extent,
    written: bool,
}

/// The bytes of an operand: `width` of every `stride`, `bytes` from the first to past the last. One piece is all width.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Extent {
    pub bytes: usize,
    stride: usize,
    width: usize,
}

impl From<usize> for Extent {
    fn from(bytes: usize) -> Extent {
        Extent { bytes, stride: bytes, width: bytes }
    }
}

impl Region {
    /// Exact for columns of one matrix, which have one stride; else from the first byte to the last.
    fn meets(&self, other: &Region) -> bool {
        let (a, b) = (self, other);
        if a.start >= b.start + b.extent.bytes || b.start >= a.start + a.extent.bytes {
            return false;
        }
        let stride = a.extent.stride;
        if stride == 0 || stride != b.extent.stride {
            return true;
        }
        // Where b's rows begin between two of a's.
        let at = match b.start.checked_sub(a.start) {
            Some(behind) => behind % stride,
            None => (stride - (a.start - b.start) % stride) % stride,
        };
        at < a.extent.width || at + b.extent.width > stride
    }
}

impl Regions {
    /// For a question about a call that is not made yet: NULL stands for memory that will be there. What is given must
    /// be aligned as the call wants it.
    pub fn of_shapes() -> Regions {
        Regions { shapes_only: true, ..Regions::default() }
    }

    pub fn is_of_shapes(&self) -> bool {
        self.shapes_only
    }

    /// Memory that is read. Without bytes any pointer goes, NULL too.
    pub fn read<T>(
        &mut self,
        argument: &'static str,
        p: *const T,
        extent: impl Into<Extent>,
        align: usize,
    ) -> Result<Ptr<T>> {
        self.add(argument, p.addr(), extent.into(), align, false)?;
        Ok(Ptr::new(p))
    }

    /// Memory that is written.
    pub fn write<T>(
        &mut self,
        argument: &'static str,
        p: *mut T,
        extent: impl Into<Extent>,
        align: usize,
    ) -> Result<Ptr<T>> {
        self.add(argument, p.addr(), extent.into(), align, true)?;
        Ok(Ptr::from_mut(p))
    }

    /// An array of `count` elements at its natural alignment.
    pub fn read_array<T>(&mut self, argument: &'static str, p: *const T, count: usize) -> Result<Ptr<T>> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Error::TooLarge { argument })?;
        self.read(argument, p, bytes, align_of::<T>())
    }

    pub fn write_array<T>(&mut self, argument: &'static str, p: *mut T, count: usize) -> Result<Ptr<T>> {
        let bytes = count.checked_mul(size_of::<T>()).ok_or(Error::TooLarge { argument })?;
        self.write(argument, p, bytes, align_of::<T>())
    }

    fn add(
        &mut self,
        argument: &'static str,
        start: usize,
        extent: Extent,
        align: usize,
        written: bool,
    ) -> Result<()> {
        if extent.bytes == 0 {
            return Ok(());
        }
        if start == 0 {
            return if self.shapes_only { Ok(()) } else { Err(Error::Null { argument }) };
        }
        if !start.is_multiple_of(align) {
            return Err(Error::Misaligned { argument, address: start, alignment: align });
        }
        if start.checked_add(extent.bytes).is_none() {
            return Err(Error::TooLarge { argument });
        }
        self.list[self.count] = Region { argument, start, extent, written };
        self.count += 1;
        Ok(())
    }

    /// Refuses a written region that shares a byte with any other.
    pub fn check_overlap(&self) -> Result<()> {
        let list = &self.list[..self.count];
        for (i, a) in list.iter().enumerate() {
            for b in &list[i + 1..] {
                if (a.written || b.written) && a.meets(b) {
                    return Err(Error::Overlap { first: a.argument, second: b.argument });
                }
            }
        }
        Ok(())
    }
}

/// The bytes of `rows` rows, counted in elements; refused past 2^63 − 1.
pub fn extent(
    argument: &'static str,
    rows: usize,
    stride: usize,
    cols: usize,
    bytes: usize,
) -> Result<Extent> {
    if rows == 0 || cols == 0 {
        return Ok(Extent::default());
    }
    let elements = (rows as u128 - 1) * stride as u128 + cols as u128;
    match elements.checked_mul(bytes as u128) {
        Some(total) if total <= i64::MAX as u128 => {
            let total = total as usize;
            // One row has no stride to speak of.
            let (stride, width) = if rows == 1 { (total, total) } else { (stride * bytes, cols * bytes) };
            Ok(Extent { bytes: total, stride, width })
        }
        _ => Err(Error::TooLarge { argument }),
    }
}

/// The bytes of rows that may lie in strided groups; `group_stride` counts for those only.
pub fn grouped_extent(
    argument: &'static str,
    groups: &Groups,
    row_stride: usize,
    group_stride: usize,
    cols: usize,
    bytes: usize,
) -> Result<Extent> {
    match *groups {
        Groups::Strided { count, rows } => {
            let one = extent(argument, rows, row_stride, cols, bytes)?;
            if one.bytes == 0 || count == 0 {
                return Ok(Extent::default());
            }
            let steps = (count as u128 - 1) * group_stride as u128;
            let total = match steps.checked_mul(bytes as u128).and_then(|s| s.checked_add(one.bytes as u128))
            {
                Some(total) if total <= i64::MAX as u128 => total as usize,
                _ => return Err(Error::TooLarge { argument }),
            };
            let across = steps as usize + cols;
            Ok(match one {
                _ if rows == 1 => total.into(),
                // [rows, groups, cols], and groups in the same columns below one another.
                one if across <= row_stride => Extent { bytes: total, width: across * bytes, ..one },
                one if group_stride.is_multiple_of(row_stride) => Extent { bytes: total, ..one },
                _ => total.into(),
            })
        }
        _ => extent(argument, groups.total_rows(), row_stride, cols, bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Places of every byte of strided groups of rows.
    fn bytes(groups: &Groups, row_stride: usize, group_stride: usize, width: usize) -> Vec<usize> {
        let Groups::Strided { count, rows } = *groups else { unreachable!() };
        let one = |g, r| (0..width).map(move |b| g * group_stride + r * row_stride + b);
        (0..count).flat_map(|g| (0..rows).flat_map(move |r| one(g, r))).collect()
    }

    #[test]
    fn columns_of_one_matrix_do_not_meet() {
        let meet = |start: usize, width: usize| {
            let mut regions = Regions::default();
            let matrix = |width| extent("m", 5, 64, width, 1).unwrap();
            let base = 4096 as *const u8;
            regions.read("a", base, matrix(16), 16).unwrap();
            regions.write("b", base.wrapping_add(start).cast_mut(), matrix(width), 1).unwrap();
            regions.check_overlap().is_err()
        };
        assert!(!meet(16, 48) && !meet(32, 8) && !meet(63, 1) && !meet(16 + 64, 48));
        assert!(meet(15, 8) && meet(16, 49) && meet(63, 2) && meet(64, 1) && meet(0, 16));
        // Below the last row there is room.
        assert!(!meet(5 * 64 - 48, 64) && meet(5 * 64 - 49, 64));
    }

    proptest! {
        #[test]
        fn what_meets_is_found(
            a in (1usize..4, 1usize..4, 1usize..20, 0usize..40, 1usize..16),
            b in (1usize..4, 1usize..4, 1usize..20, 0usize..40, 1usize..16),
            same in any::<bool>(),
            start in 0usize..160,
        ) {
            let region = |(count, rows, stride, group_stride, width): (usize, usize, usize, usize, usize), start| {
                let groups = Groups::Strided { count, rows };
                let stride = stride.max(width);
                let extent = grouped_extent("m", &groups, stride, group_stride, width, 1).unwrap();
                let places: Vec<usize> =
                    bytes(&groups, stride, group_stride, width).iter().map(|at| at + start).collect();
                (Region { argument: "m", start, extent, written: true }, places, count == 1 && rows > 1)
            };
            let b = if same { (b.0, b.1, a.2.max(a.4), b.3, b.4.min(a.2.max(a.4))) } else { b };
            let ((a, at_a, one_a), (b, at_b, one_b)) = (region(a, 80), region(b, start));
            let really = at_a.iter().any(|at| at_b.contains(at));
            prop_assert!(a.meets(&b) || !really);
            prop_assert_eq!(a.meets(&b), b.meets(&a));
            if one_a && one_b && a.extent.stride == b.extent.stride {
                // The boxes are all that may be wrong: rows that would meet if there were more of them.
                let boxes = a.start < b.start + b.extent.bytes && b.start < a.start + a.extent.bytes;
                let lanes = |at: &[usize]| at.iter().map(|at| at % a.extent.stride).collect::<Vec<_>>();
                let (a_lanes, b_lanes) = (lanes(&at_a), lanes(&at_b));
                prop_assert_eq!(a.meets(&b), boxes && a_lanes.iter().any(|lane| b_lanes.contains(lane)));
            }
        }
    }
}
