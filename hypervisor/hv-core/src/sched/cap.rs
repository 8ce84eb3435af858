//! A cap: the most CPU time that a domain gets, however idle the CPUs are.
//!
//! Time is cut into periods, and a domain has a budget of CPU time in each, for all its vCPUs together. A vCPU draws a
//! part of it before it runs and gives back what it did not use, or what it used more, when it has lost the CPU; where
//! nothing is left it is parked until the next period. What a period leaves is not saved; what it overran is taken off
//! the next. The figures are those of Xen's credit2.

/// Length of a period in ns: short enough that a capped guest does not stutter.
pub const PERIOD_NS: u64 = 10_000_000;
/// The least that a vCPU draws, or it would give the CPU up all the time.
const MIN_QUOTA_NS: i64 = 500_000;

/// What a capped domain has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// ns of CPU time in each period.
    total_ns: i64,
    /// What a vCPU draws at a time.
    quota_ns: i64,
    left_ns: i64,
    period_end_ns: u64,
}

impl Budget {
    /// `percent` of one CPU for a domain of `vcpus`; `None` for 0 percent, which is no cap.
    #[must_use]
    pub fn new(percent: u16, vcpus: u16, now_ns: u64) -> Option<Self> {
        if percent == 0 {
            return None;
        }
        let total = PERIOD_NS * u64::from(percent) / 100;
        let total_ns = i64::try_from(total).unwrap_or(i64::MAX);
        Some(Self {
            total_ns,
            quota_ns: (total_ns / i64::from(vcpus.max(1))).max(MIN_QUOTA_NS),
            left_ns: total_ns,
            period_end_ns: now_ns.saturating_add(PERIOD_NS),
        })
    }

    /// True where a vCPU would have to wait for the next period.
    #[must_use]
    pub fn is_used_up(&mut self, now_ns: u64) -> bool {
        let periods = now_ns
            .checked_sub(self.period_end_ns)
            .map_or(0, |late_ns| late_ns / PERIOD_NS + 1);
        if periods > 0 {
            self.period_end_ns += periods * PERIOD_NS;
            let periods = i64::try_from(periods).unwrap_or(i64::MAX);
            let gain = self.total_ns.saturating_mul(periods);
            self.left_ns = self.left_ns.saturating_add(gain).min(self.total_ns);
        }
        self.left_ns <= 0
    }

    /// Takes out what a vCPU may run from now on, in ns; `None` where it is to be parked.
    pub fn draw(&mut self, now_ns: u64) -> Option<u64> {
        if self.is_used_up(now_ns) {
            return None;
        }
        let quota = self.quota_ns.min(self.left_ns);
        self.left_ns -= quota;
        u64::try_from(quota).ok()
    }

    /// Puts back what a vCPU has not used of what it had drawn, or takes off what it has used beyond that.
    pub fn settle(&mut self, drawn_ns: u64, used_ns: u64) {
        let signed = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let left_ns = self.left_ns.saturating_add(signed(drawn_ns));
        self.left_ns = left_ns.saturating_sub(signed(used_ns)).min(self.total_ns);
    }

    /// When the next period begins.
    #[must_use]
    pub fn next_period_ns(&self) -> u64 {
        self.period_end_ns
    }
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_percent_is_no_cap() {
        assert_eq!(Budget::new(0, 4, 5), None);
    }

    /// CPU time of each of so many vCPUs that run whenever they may, each on a CPU of its own, for a thousand periods.
    fn run(percent: u16, vcpus: u16, busy: usize, overrun_ns: u64) -> Vec<u64> {
        let mut budget = Budget::new(percent, vcpus, 0).expect("there is a cap");
        let mut ran = vec![0; busy];
        // (when it is done, what it has drawn, what it will have used); nothing drawn where it was parked
        let mut turns = vec![(0, 0, 0); busy];
        loop {
            let (now_ns, who) = turns
                .iter()
                .enumerate()
                .map(|(who, turn)| (turn.0, who))
                .min()
                .expect("some are busy");
            if now_ns >= 1000 * PERIOD_NS {
                return ran;
            }
            let (_, drawn_ns, used_ns) = turns[who];
            budget.settle(drawn_ns, used_ns);
            ran[who] += used_ns;
            turns[who] = match budget.draw(now_ns) {
                Some(drawn_ns) => {
                    let used_ns = drawn_ns + overrun_ns;
                    (now_ns + used_ns, drawn_ns, used_ns)
                }
                None => (budget.next_period_ns(), 0, 0),
            };
        }
    }

    /// A cap is the domain's, as Xen's is: one busy vCPU of four gets all of it.
    #[test]
    fn one_busy_vcpu_has_the_whole_cap() {
        for (percent, vcpus, due) in [(100, 4, 100), (50, 8, 50), (25, 4, 25), (150, 4, 100)] {
            let ran_ns = run(percent, vcpus, 1, 0)[0];
            let percent_ran = ran_ns / (10 * PERIOD_NS);
            assert!(
                (due - 1..=due).contains(&percent_ran),
                "{percent_ran} of {due}"
            );
        }
    }

    proptest! {
        /// All busy vCPUs together get the cap, whatever they overrun, and none of them stands still.
        #[test]
        fn a_domain_gets_its_cap(percent in 1u16..=400, vcpus in 1u16..8, busy in 1u16..8, overrun_ns in 0u64..100_000) {
            let busy = busy.min(vcpus);
            // there is a quota for each
            let percent = percent.max(10 * busy);
            let ran = run(percent, vcpus, usize::from(busy), overrun_ns);
            let due_ns = 10 * PERIOD_NS * u64::from(percent.min(100 * busy));
            let all_ns: u64 = ran.iter().sum();
            let slack_ns = due_ns / 50 + 20 * PERIOD_NS;
            prop_assert!(all_ns.abs_diff(due_ns) <= slack_ns, "{all_ns} of {due_ns}");
            prop_assert!(ran.iter().all(|ran_ns| *ran_ns >= all_ns / u64::from(busy) / 4), "{ran:?}");
        }
    }
}
