//! How fast a guest may print: so many bytes a period, so that a flood costs dom0 a bounded share; and how often its
//! ring is looked at, because a guest that prints by lines, or rings the bell with nothing to tell, sends an event each
//! time.

use std::time::{Duration, Instant};

/// The length of a period.
const PERIOD: Duration = Duration::from_millis(200);

/// Bytes a period: 30 full rings, what Xen's daemon grants as well.
const ALLOWANCE: usize = 30 * 2048;

/// Looks a period that are taken at once, so that typing is answered without delay.
const PROMPT_LOOKS: u32 = 40;

/// The pause before each further look, in which output gathers.
const GATHERING: Duration = Duration::from_millis(5);

/// What one guest has used of its allowance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    begun: Instant,
    used: usize,
    looks: u32,
    last_look: Instant,
}

impl Rate {
    /// Starts with a full allowance.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            used: 0,
            looks: 0,
            last_look: now,
        }
    }

    /// Says for how long nothing may be taken; `None` if something may be.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.begun);
        if passed >= PERIOD {
            *self = Self::new(now);
        }
        if self.used >= ALLOWANCE {
            return Some(PERIOD.saturating_sub(passed));
        }
        if self.looks < PROMPT_LOOKS {
            return None;
        }
        let rested = now.saturating_duration_since(self.last_look);
        let rest = GATHERING.saturating_sub(rested);
        (!rest.is_zero()).then_some(rest)
    }

    /// Counts a look at the ring, and the bytes that it took.
    pub(crate) fn count(&mut self, bytes: usize, now: Instant) {
        self.used = self.used.saturating_add(bytes);
        self.looks = self.looks.saturating_add(1);
        self.last_look = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_waits_for_the_next_period() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        assert_eq!(rate.wait(start), None);
        rate.count(ALLOWANCE, start);
        let later = start + Duration::from_millis(50);
        assert_eq!(rate.wait(later), Some(Duration::from_millis(150)));
        assert_eq!(rate.wait(start + PERIOD), None);
    }

    #[test]
    fn many_small_events_are_gathered() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for _ in 0..PROMPT_LOOKS {
            assert_eq!(rate.wait(start), None);
            rate.count(1, start);
        }
        assert_eq!(rate.wait(start), Some(GATHERING));
        assert_eq!(rate.wait(start + GATHERING), None);
        rate.count(1, start + GATHERING);
        assert_eq!(rate.wait(start + GATHERING), Some(GATHERING));
        assert_eq!(rate.wait(start + PERIOD), None);
    }

    #[test]
    fn quiet_periods_are_not_saved_up() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let late = start + 100 * PERIOD;
        assert_eq!(rate.wait(late), None);
        rate.count(ALLOWANCE, late);
        assert!(rate.wait(late).is_some());
    }
}
