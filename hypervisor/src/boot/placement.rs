//! Finding room in RAM before there is an allocator.

use hv_core::addr::{Mfn, MfnRange};

/// The highest `frames` consecutive frames of `ram` below `limit` that touch none of the `busy` ranges.
pub(super) fn highest_hole(
    ram: &[MfnRange],
    busy: &[MfnRange],
    frames: u64,
    limit: Mfn,
) -> Option<MfnRange> {
    let mut best: Option<MfnRange> = None;
    for range in ram {
        let mut end = range.end.min(limit);
        // The end only moves down, past one busy range at a time.
        while let Some(start) = end
            .as_u64()
            .checked_sub(frames)
            .map(Mfn::new)
            .filter(|&start| start >= range.start)
        {
            let hole = MfnRange::new(start, end);
            match busy
                .iter()
                .filter(|taken| taken.overlaps(hole))
                .map(|taken| taken.start)
                .min()
            {
                Some(lower) => end = lower,
                None => {
                    if best.is_none_or(|best| hole.start > best.start) {
                        best = Some(hole);
                    }
                    break;
                }
            }
        }
    }
    best
}

/// Calls `see` with each part of `range` that is in none of the `busy` ranges, in ascending order.
pub(super) fn gaps(range: MfnRange, busy: &[MfnRange], mut see: impl FnMut(MfnRange)) {
    let mut at = range.start;
    while at < range.end {
        if let Some(taken) = busy.iter().find(|taken| taken.contains(at)) {
            at = taken.end;
            continue;
        }
        let next = busy
            .iter()
            .map(|taken| taken.start)
            .filter(|&start| start > at)
            .min();
        let end = next.map_or(range.end, |next| next.min(range.end));
        see(MfnRange::new(at, end));
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn range(start: u64, end: u64) -> MfnRange {
        MfnRange::new(Mfn::new(start), Mfn::new(end))
    }

    #[test]
    fn hole_is_the_highest_below_the_limit() {
        let ram = [range(1, 100), range(200, 400)];
        let limit = Mfn::new(350);
        assert_eq!(highest_hole(&ram, &[], 50, limit), Some(range(300, 350)));
        assert_eq!(
            highest_hole(&ram, &[range(320, 360)], 50, limit),
            Some(range(270, 320))
        );
        assert_eq!(
            highest_hole(&ram, &[range(200, 400)], 50, limit),
            Some(range(50, 100))
        );
        assert_eq!(highest_hole(&ram, &[range(0, 400)], 1, limit), None);
        assert_eq!(highest_hole(&ram, &[], 151, limit), None);
    }

    #[test]
    fn gaps_are_what_busy_ranges_leave() {
        let mut found = Vec::new();
        gaps(
            range(10, 50),
            &[range(20, 30), range(0, 12), range(25, 33), range(49, 60)],
            |gap| found.push(gap),
        );
        assert_eq!(found, [range(12, 20), range(33, 49)]);
    }
}
