//! The mean that vCPUs are ahead of or behind.

use super::entity::{Entity, Vtime};

/// The mean virtual time of the vCPUs that can run, by weight.
#[derive(Clone, Copy)]
pub(super) struct Mean {
    /// A virtual time near it, which keeps the sum small.
    pub(super) base: Vtime,
    /// Σ weight · (virtual time − base).
    pub(super) sum: i128,
    weights: i64,
    /// How many they are.
    count: usize,
    /// The furthest that it has been, as seen when vCPUs joined, since the last time that one was alone.
    pub(super) furthest: Vtime,
}

impl Mean {
    /// Of nobody, at 0.
    pub(super) const NONE: Self = Self {
        base: 0,
        sum: 0,
        weights: 0,
        count: 0,
        furthest: 0,
    };

    /// The mean; with nobody there, what it was last.
    pub(super) fn get(&mut self) -> Vtime {
        if self.count > 0 && self.sum != 0 {
            // the sum fits into 64 bits all but always, and a division of 128 is long
            let step = match i64::try_from(self.sum) {
                Ok(sum) => sum / self.weights,
                Err(_) => narrowed(self.sum / i128::from(self.weights)),
            };
            self.base += step;
            self.sum -= product(step, self.weights);
        }
        self.base
    }

    /// What joining vCPUs are measured against: the mean, had nobody pulled it back.
    pub(super) fn furthest(&mut self) -> Vtime {
        let mean = self.get();
        self.furthest = if self.count < 2 {
            mean
        } else {
            self.furthest.max(mean)
        };
        self.furthest
    }

    pub(super) fn join(&mut self, entity: &Entity) {
        self.count += 1;
        self.weights += entity.share.weight;
        if self.count == 1 {
            self.base = entity.vtime;
        } else {
            self.sum += product(entity.vtime - self.base, entity.share.weight);
        }
    }

    pub(super) fn leave(&mut self, entity: &Entity) {
        self.count -= 1;
        self.weights -= entity.share.weight;
        if self.count == 0 {
            self.base = entity.vtime;
            self.sum = 0;
        } else {
            self.sum -= product(entity.vtime - self.base, entity.share.weight);
        }
    }

    /// A vCPU that can run is at `entity.vtime` now, after `step`.
    pub(super) fn advance(&mut self, entity: &Entity, step: Vtime) {
        if self.count == 1 {
            self.base = entity.vtime;
            self.sum = 0;
        } else {
            self.sum += product(step, entity.share.weight);
        }
    }
}

/// One instruction, as neither factor has more than 64 bits.
pub(super) fn product(vtime: Vtime, weight: i64) -> i128 {
    i128::from(vtime) * i128::from(weight)
}

/// A mean of numbers of 64 bits is one.
fn narrowed(mean: i128) -> Vtime {
    Vtime::try_from(mean).unwrap_or(0)
}
