//! The wall clock: the CMOS real-time clock, read once at boot, before dom0 owns it.
//!
//! Source: Motorola MC146818A; the century's register is named by the FADT.

use crate::{port, time};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATE_IN_PROGRESS: u8 = 0x80;
const IS_BINARY: u8 = 0x04;
const IS_24_HOURS: u8 = 0x02;
const IS_AFTERNOON: u8 = 0x80;
/// How often a pending update is waited for; an update takes 2 ms of each second.
const MOST_READS: u32 = 1_000_000;

/// The clock's registers, as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Fields {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u8,
    century: Option<u8>,
    status_b: u8,
}

/// Seconds since 1970, UTC assumed, and the TSC at that reading. `century` is the CMOS register of the century, where
/// the FADT names one.
#[must_use]
pub fn read(century: Option<u8>) -> (u64, u64) {
    let mut fields = read_fields(century);
    // Two readings that agree were not torn by an update.
    for _ in 0..4 {
        let again = read_fields(century);
        if again == fields {
            break;
        }
        fields = again;
    }
    (fields.seconds_since_1970(), time::now())
}

fn read_fields(century: Option<u8>) -> Fields {
    for _ in 0..MOST_READS {
        if register(STATUS_A) & UPDATE_IN_PROGRESS == 0 {
            break;
        }
    }
    Fields {
        second: register(0),
        minute: register(2),
        hour: register(4),
        day: register(7),
        month: register(8),
        year: register(9),
        century: century.map(register),
        status_b: register(STATUS_B),
    }
}

fn register(index: u8) -> u8 {
    port::write8(INDEX, index);
    port::read8(DATA)
}

impl Fields {
    fn seconds_since_1970(&self) -> u64 {
        let number = |raw: u8| {
            if self.status_b & IS_BINARY != 0 {
                u64::from(raw)
            } else {
                u64::from(raw >> 4) * 10 + u64::from(raw & 0x0f)
            }
        };
        let mut hour = number(self.hour & !IS_AFTERNOON);
        if self.status_b & IS_24_HOURS == 0 {
            hour = hour % 12 + if self.hour & IS_AFTERNOON != 0 { 12 } else { 0 };
        }
        let century = self
            .century
            .map(number)
            .filter(|century| (19..=22).contains(century))
            .unwrap_or(20);
        let year = century * 100 + number(self.year);
        let days = days_since_1970(year, number(self.month), number(self.day));
        days * 86_400 + hour * 3600 + number(self.minute) * 60 + number(self.second)
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; a nonsensical date counts from its nearest sensible one.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (month, day) = (month.clamp(1, 12), day.clamp(1, 31));
    // Years that begin in March put the leap day last, and months then follow a 153-day rhythm of five.
    let (year, month) = if month <= 2 {
        (year - 1, month + 9)
    } else {
        (year, month - 3)
    };
    let days_of_months = (153 * month + 2) / 5;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + days_of_months + day - 1;
    days.saturating_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON_IN_BCD: Fields = Fields {
        second: 0x59,
        minute: 0x30,
        hour: 0x92,
        day: 0x29,
        month: 0x02,
        year: 0x24,
        century: Some(0x20),
        status_b: 0,
    };

    #[test]
    fn dates_are_counted_in_the_gregorian_calendar() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        assert_eq!(days_since_1970(2024, 2, 29), 19_782);
    }

    #[test]
    fn twelve_hour_bcd_and_binary_clocks_agree() {
        let noon = NOON_IN_BCD.seconds_since_1970();
        assert_eq!(noon, 19_782 * 86_400 + 12 * 3600 + 30 * 60 + 59);
        let binary = Fields {
            second: 59,
            minute: 30,
            hour: 12,
            day: 29,
            month: 2,
            year: 24,
            century: None,
            status_b: IS_BINARY | IS_24_HOURS,
        };
        assert_eq!(binary.seconds_since_1970(), noon);
    }
}
