//! How much a domain may have: what is allocated on its behalf is charged here first.

/// A count with a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    used: u64,
    max: u64,
}

/// The charge would pass the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverQuota;

impl Quota {
    /// Nothing used of `max`.
    #[must_use]
    pub const fn new(max: u64) -> Self {
        Self { used: 0, max }
    }
    /// How much is used.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.used
    }
    /// The limit.
    #[must_use]
    pub const fn max(&self) -> u64 {
        self.max
    }
    /// Moves the limit, below what is used as well: then nothing more is granted until enough was given back.
    pub fn set_max(&mut self, max: u64) {
        self.max = max;
    }
    /// Charges `amount`.
    ///
    /// # Errors
    /// [`OverQuota`], and nothing is charged.
    pub fn charge(&mut self, amount: u64) -> Result<(), OverQuota> {
        match self.used.checked_add(amount) {
            Some(used) if used <= self.max => {
                self.used = used;
                Ok(())
            }
            _ => Err(OverQuota),
        }
    }
    /// Gives `amount` back.
    ///
    /// # Panics
    /// Where more is given back than was charged.
    pub fn uncharge(&mut self, amount: u64) {
        self.used = self
            .used
            .checked_sub(amount)
            .expect("what is given back was charged");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charging_stops_at_the_limit_and_changes_nothing_then() {
        let mut quota = Quota::new(10);
        assert_eq!(quota.charge(10), Ok(()));
        assert_eq!(quota.charge(1), Err(OverQuota));
        assert_eq!(quota.charge(u64::MAX), Err(OverQuota));
        quota.uncharge(4);
        assert_eq!(quota.used(), 6);
    }

    #[test]
    fn a_limit_below_the_use_refuses_until_enough_came_back() {
        let mut quota = Quota::new(10);
        assert_eq!(quota.charge(8), Ok(()));
        quota.set_max(5);
        assert_eq!(quota.charge(1), Err(OverQuota));
        quota.uncharge(4);
        assert_eq!(quota.charge(1), Ok(()));
    }
}
