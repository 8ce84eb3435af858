//! A cap: the most of a CPU that a vCPU gets, however idle the CPU is.
//!
//! Time is cut into periods. In each the vCPU may run for its part of it; what it overruns is taken off the next. Whoever
//! runs it asks how much is left, charges what was used, and keeps it aside while nothing is.

/// Length of a period in ns: short enough that a capped guest does not stutter.
pub const PERIOD_NS: u64 = 10_000_000;

/// The account of one vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cap {
    /// ns in each period; `None` where it is not capped.
    allowance_ns: Option<u64>,
    period_start_ns: u64,
    used_ns: u64,
}

impl Cap {
    /// No cap.
    pub const NONE: Self = Self {
        allowance_ns: None,
        period_start_ns: 0,
        used_ns: 0,
    };

    /// A cap of `percent` of one CPU for a domain that shares it among `vcpus`; 0 percent is none.
    #[must_use]
    pub fn new(percent: u16, vcpus: u16, now_ns: u64) -> Self {
        if percent == 0 {
            return Self::NONE;
        }
        let of_domain = PERIOD_NS * u64::from(percent) / 100;
        Self {
            allowance_ns: Some((of_domain / u64::from(vcpus.max(1))).max(1)),
            period_start_ns: now_ns,
            used_ns: 0,
        }
    }

    /// True where there is a cap.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.allowance_ns.is_some()
    }

    /// Charges `ns` of CPU time.
    pub fn charge(&mut self, ns: u64) {
        if self.allowance_ns.is_some() {
            self.used_ns = self.used_ns.saturating_add(ns);
        }
    }

    /// How long it may run from now on, at most; `None` without a cap, 0 where its part of the period is used up.
    #[must_use]
    pub fn left_ns(&mut self, now_ns: u64) -> Option<u64> {
        let allowance = self.allowance_ns?;
        let periods = now_ns.saturating_sub(self.period_start_ns) / PERIOD_NS;
        if periods > 0 {
            self.period_start_ns += periods * PERIOD_NS;
            self.used_ns = self
                .used_ns
                .saturating_sub(allowance.saturating_mul(periods));
        }
        Some(allowance.saturating_sub(self.used_ns))
    }

    /// When the next period begins.
    #[must_use]
    pub fn next_period_ns(&self) -> u64 {
        self.period_start_ns.saturating_add(PERIOD_NS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_cap_nothing_is_limited() {
        let mut cap = Cap::new(0, 4, 5);
        cap.charge(u64::MAX);
        assert_eq!(cap.left_ns(1), None);
    }

    proptest! {
        /// A hog that runs as long as it may, or longer by some slack, gets its part of the time.
        #[test]
        fn a_hog_gets_its_part(percent in 1u16..=100, vcpus in 1u16..8, slack in 0u64..100_000) {
            let mut cap = Cap::new(percent, vcpus, 0);
            let (mut now, mut ran) = (0, 0);
            while now < 1000 * PERIOD_NS {
                match cap.left_ns(now) {
                    Some(0) => now = cap.next_period_ns(),
                    Some(left) => {
                        let used = left + slack;
                        cap.charge(used);
                        now += used;
                        ran += used;
                    }
                    None => prop_assert!(false, "there is a cap"),
                }
            }
            let due = 1000 * PERIOD_NS / 100 * u64::from(percent) / u64::from(vcpus);
            prop_assert!(ran <= due + 2 * PERIOD_NS + slack, "{ran} of {due}");
            prop_assert!(ran + 2 * PERIOD_NS + 2000 >= due.min(now), "{ran} of {due}");
        }
    }
}
