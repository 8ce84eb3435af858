//! The time of day in UTC, for names and logs.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// A time as xl appends it to the name of a domain set aside: `-20260704T1213Z`.
pub(super) fn suffix(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "-{year:04}{month:02}{day:02}T{:02}{:02}Z",
        rest / 3600,
        rest / 60 % 60
    )
}

/// A time as a log has it: `2026-07-04T12:13:05Z`.
pub(super) fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// The date `days` after 1970-01-01. Years are taken to start in March, so that leap days come last.
fn date(days: u64) -> (u64, u64, u64) {
    // from 0000-03-01, in eras of 400 years
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(suffix(0), "-19700101T0000Z");
        assert_eq!(suffix(951_782_400 + 3600 + 120), "-20000229T0102Z");
        assert_eq!(suffix(1_798_761_599), "-20261231T2359Z");
        assert_eq!(stamp(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
