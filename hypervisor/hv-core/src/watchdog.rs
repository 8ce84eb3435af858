//! A domain's watchdogs: who does not come back in time has its domain shut down.
//!
//! Source: `public/sched.h`, SCHEDOP_watchdog; Xen's `common/sched/core.c, domain_watchdog`.

/// Watchdogs that a domain has (Xen's `NR_DOMAIN_WATCHDOG_TIMERS`).
pub const WATCHDOGS: usize = 2;
const NS_PER_S: u64 = 1_000_000_000;

/// A domain's watchdogs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watchdogs {
    /// When each ends the domain, in ns of system time; `None` where it is free.
    deadlines_ns: [Option<u64>; WATCHDOGS],
}

/// Why a watchdog is not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchdogError {
    /// All are in use.
    NoneFree,
    /// It is not in use.
    NotSet,
}

impl Watchdogs {
    /// Sets watchdog `id`, counted from 1, to `timeout_s` seconds from `now_ns`, or frees it where that is 0; takes a
    /// free one for `id` 0. Returns the number of the one that was taken, else 0.
    ///
    /// # Errors
    /// [`WatchdogError`].
    pub fn set(&mut self, id: u32, timeout_s: u32, now_ns: u64) -> Result<u32, WatchdogError> {
        let deadline = now_ns.saturating_add(u64::from(timeout_s) * NS_PER_S);
        let Some(index) = id.checked_sub(1) else {
            let mut all = (1..).zip(&mut self.deadlines_ns);
            let free = all.find(|(_, deadline)| deadline.is_none());
            let (id, free) = free.ok_or(WatchdogError::NoneFree)?;
            *free = Some(deadline);
            return Ok(id);
        };
        let mut all = (0..).zip(&mut self.deadlines_ns);
        let named = all.find(|(at, _)| *at == index).map(|(_, named)| named);
        let named = named.filter(|named| named.is_some());
        let named = named.ok_or(WatchdogError::NotSet)?;
        *named = (timeout_s != 0).then_some(deadline);
        Ok(0)
    }

    /// When the first of them ends the domain.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.deadlines_ns.iter().flatten().min().copied()
    }

    /// True where one of them ends the domain at `now_ns`.
    #[must_use]
    pub fn has_expired(&self, now_ns: u64) -> bool {
        self.next_ns().is_some_and(|deadline| deadline <= now_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_are_had_and_no_more() {
        let mut dogs = Watchdogs::default();
        assert_eq!(dogs.set(1, 5, 0), Err(WatchdogError::NotSet));
        assert_eq!([dogs.set(0, 9, 0), dogs.set(0, 5, 0)], [Ok(1), Ok(2)]);
        assert_eq!(dogs.set(0, 9, 0), Err(WatchdogError::NoneFree));
        assert_eq!(dogs.set(3, 9, 0), Err(WatchdogError::NotSet));
        assert_eq!(dogs.set(u32::MAX, 9, 0), Err(WatchdogError::NotSet));
        assert!(!dogs.has_expired(5 * NS_PER_S - 1) && dogs.has_expired(5 * NS_PER_S));
        assert_eq!(dogs.set(2, 0, 0), Ok(0));
        assert_eq!(dogs.next_ns(), Some(9 * NS_PER_S));
        assert_eq!(dogs.set(0, 1, 0), Ok(2));
    }

    proptest! {
        /// Whoever is kicked before it expires, always, never does; one that is not, does.
        #[test]
        fn one_that_is_kicked_in_time_does_not_expire(kicks in prop::collection::vec(0..5_000_000_000u64, 0..50)) {
            let mut dogs = Watchdogs::default();
            let mut now = 0;
            prop_assert_eq!(dogs.set(0, 5, now), Ok(1));
            for wait in kicks {
                now += wait;
                prop_assert!(!dogs.has_expired(now));
                prop_assert_eq!(dogs.set(1, 5, now), Ok(0));
            }
            prop_assert!(dogs.has_expired(now + 5 * NS_PER_S));
        }
    }
}
