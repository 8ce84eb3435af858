//! `dom0_mem`: how much of the host's memory dom0 gets.
//!
//! `dom0_mem=<amount>[,min:<amount>][,max:<amount>]`, an amount being `<size>`, `<percent>%` of the host's memory or
//! `<size>+<percent>%`. A negative size means all memory but that much. What the amounts come to on a given host is
//! [`Dom0Mem::pages`]; where that memory lies is the business of [`crate::image::dom0_memory`].

use super::value;
use crate::addr::PAGE_SIZE;

/// An amount of memory as written: bytes, and a share of the host's memory on top.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Amount {
    /// Bytes to take; with `is_negative`, bytes to leave.
    pub bytes: u64,
    /// Percent of the host's memory, 0 to 100, added to `bytes`.
    pub percent: u8,
    /// True where all memory but `bytes` is meant.
    pub is_negative: bool,
}

impl Amount {
    /// An amount of so many bytes.
    #[cfg(test)]
    pub(crate) const fn of_bytes(bytes: u64) -> Self {
        Self {
            bytes,
            percent: 0,
            is_negative: false,
        }
    }

    /// Reads `<size>`, `-<size>`, `<percent>%` or `<size>+<percent>%`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (text, is_negative) = match text.strip_prefix('-') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let Some(shares) = text.strip_suffix('%') else {
            return value::size(text).map(|bytes| Self {
                bytes,
                percent: 0,
                is_negative,
            });
        };
        let (bytes, percent) = match shares.split_once('+') {
            Some((size, percent)) => (value::size(size)?, percent),
            None => (0, shares),
        };
        let percent: u8 = value::number_as(percent)?;
        (percent <= 100 && !is_negative).then_some(Self {
            bytes,
            percent,
            is_negative,
        })
    }

    /// What the amount comes to where `available` bytes are there to be had and the host has `total` bytes.
    fn bytes(self, available: u64, total: u64) -> u64 {
        if self.is_negative {
            return available.saturating_sub(self.bytes);
        }
        let share = total / 100 * u64::from(self.percent);
        self.bytes.saturating_add(share)
    }
}

/// The three amounts of `dom0_mem`, each `None` where not given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dom0Mem {
    pub size: Option<Amount>,
    /// What it gets at least.
    pub min: Option<Amount>,
    /// What it gets at most.
    pub max: Option<Amount>,
}

impl Dom0Mem {
    /// What dom0 gets where `dom0_mem` says no size: this and a twentieth of the host, which is enough for the daemons
    /// and page cache of a host of guests of any size.
    const DEFAULT: Amount = Amount {
        bytes: 1 << 30,
        percent: 5,
        is_negative: false,
    };
    /// On a host where that would leave less than one part in so many to guests, it gets all but that.
    const GUESTS_SHARE: u64 = 4;

    /// Reads an option's value into what was read before, as several `dom0_mem` add up.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn parse(mut self, text: &str) -> Result<Self, &'static str> {
        for part in text.split(',') {
            let (slot, amount) = if let Some(rest) = part.strip_prefix("min:") {
                (&mut self.min, rest)
            } else if let Some(rest) = part.strip_prefix("max:") {
                (&mut self.max, rest)
            } else {
                (&mut self.size, part)
            };
            *slot = Some(Amount::parse(amount).ok_or("is not a size such as 1G, -512M or 25%")?);
        }
        Ok(self)
    }

    /// How many pages dom0 gets out of `available` ones, the host having `total`.
    ///
    /// Never more than `available`: a minimum that cannot be met is for the caller to see and to say.
    #[must_use]
    pub fn pages(&self, available: u64, total: u64) -> u64 {
        let available = available.saturating_mul(PAGE_SIZE);
        let total = total.saturating_mul(PAGE_SIZE);
        let resolve = |amount: Amount| amount.bytes(available, total);
        let most = available.saturating_sub(total / Self::GUESTS_SHARE);
        let default = || resolve(Self::DEFAULT).min(most);
        let mut bytes = self.size.map_or_else(default, resolve);
        if let Some(min) = self.min {
            bytes = bytes.max(resolve(min));
        }
        if let Some(max) = self.max {
            bytes = bytes.min(resolve(max));
        }
        bytes.min(available) / PAGE_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = (1 << 30) / PAGE_SIZE;

    fn pages(text: &str) -> u64 {
        Dom0Mem::default()
            .parse(text)
            .unwrap()
            .pages(4 * GIB, 4 * GIB)
    }

    #[test]
    fn without_option_a_gib_and_a_twentieth_are_dom0s_and_a_quarter_is_left_at_least() {
        let none = Dom0Mem::default();
        assert_eq!(none.pages(64 * GIB, 64 * GIB) >> 8, 1024 + 64 * 1024 / 20);
        assert_eq!(none.pages(GIB, GIB), GIB - GIB / 4);
        assert_eq!(none.pages(GIB / 2, GIB / 2), GIB / 2 - GIB / 8);
        // what the hypervisor took is not dom0's loss alone
        assert_eq!(none.pages(GIB / 2, GIB), GIB / 4);
        assert_eq!(none.pages(0, GIB), 0);
    }

    #[test]
    fn without_option_a_guest_of_512_mib_fits_on_a_host_of_2_gib() {
        // of 2047 MiB, 242 are the hypervisor's and the boot loader's when dom0 is planned
        let mib = 256;
        let left = 1805 * mib - Dom0Mem::default().pages(1805 * mib, 2047 * mib);
        assert!(left > (512 + 64) * mib, "{} MiB", left / mib);
        // with an upper limit that is not reached nothing changes
        let limited = Dom0Mem::default().parse("max:8G").unwrap();
        assert_eq!(
            limited.pages(8 * GIB, 8 * GIB),
            Dom0Mem::default().pages(8 * GIB, 8 * GIB)
        );
    }

    #[test]
    fn amounts_mean_what_xen_means() {
        assert_eq!(pages("1G"), GIB);
        assert_eq!(pages("1048576"), GIB);
        assert_eq!(pages("-1G"), 3 * GIB);
        assert_eq!(pages("25%") / 1000, GIB / 1000);
        assert_eq!(pages("1G+25%") / 1000, 2 * GIB / 1000);
        assert_eq!(pages("1G,min:2G"), 2 * GIB);
        assert_eq!(pages("max:1000M"), 1000 << 8);
        assert_eq!(pages("2G,max:1G"), GIB);
        assert_eq!(pages("9G"), 4 * GIB);
    }

    #[test]
    fn malformed_amounts_are_refused() {
        for text in ["", "x", "1G,", "min:", "101%", "-5%", "1G;2G"] {
            assert!(Dom0Mem::default().parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_more_than_available_and_no_text_panics(text in "[-0-9KMGT%+,minax:]*", available: u64, total: u64) {
            if let Ok(mem) = Dom0Mem::default().parse(&text) {
                prop_assert!(mem.pages(available, total) <= available);
            }
        }
    }
}
