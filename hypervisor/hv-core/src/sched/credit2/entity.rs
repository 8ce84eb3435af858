//! A vCPU as the policy knows it: its virtual time, its share, what it does.

/// How far a vCPU may be ahead of or behind the mean, in ns of its own CPU time.
pub(in crate::sched) const MAX_LAG_NS: u64 = 10_000_000;
/// Virtual time that a vCPU of weight 1 takes a ns; others take that by their weight. The finer, the truer are shares.
const RATE_OF_ONE: u64 = 1 << 24;

/// A virtual time, or a stretch of it.
///
/// 64 bits do not overflow: the mean is put back to 0 once it is [`FAR`] (which weight 1 takes 34 s to, and the usual
/// weight two hours), no vCPU that can run is taken for more than `FAR` ahead of it, and none for more than `FAR`
/// behind it when it is put back; one step is `FAR` at most. So all are within 4 · `FAR`, and a difference of two
/// within 8.
pub(super) type Vtime = i64;

/// Further apart than that are no two vCPUs that can run: [`MAX_LAG_NS`] at weight 1 is not a thousandth of it.
pub(super) const FAR: Vtime = 1 << 59;

/// A vCPU as the run queue has it.
#[derive(Clone, Copy)]
pub(super) struct Entity {
    pub(super) vtime: Vtime,
    pub(super) share: Share,
    pub(super) activity: Activity,
}

/// A weight, and what follows from it.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) weight: i64,
    /// Virtual time that passes in a ns of its CPU time.
    rate: u64,
    /// [`MAX_LAG_NS`] in virtual time.
    pub(super) max_lag: Vtime,
}

/// Whether it wants the CPU, and has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Activity {
    Blocked,
    /// In the queue, or standing back from it.
    Queued,
    Running {
        /// Its virtual time is that of then.
        since_ns: u64,
        /// When it got the CPU.
        start_ns: u64,
        /// No timer ends its turn.
        is_open_ended: bool,
    },
}

impl Share {
    pub(super) fn new(weight: u16) -> Self {
        let weight = weight.max(1);
        let rate = RATE_OF_ONE / u64::from(weight);
        Self {
            weight: weight.into(),
            rate,
            max_lag: (MAX_LAG_NS * rate).cast_signed(),
        }
    }

    /// Virtual time in `ns` of its CPU time, [`FAR`] at most.
    pub(super) fn vtime_in(&self, ns: u64) -> Vtime {
        let most = FAR.cast_unsigned();
        ns.saturating_mul(self.rate).min(most).cast_signed()
    }
}

impl Entity {
    pub(super) fn is_runnable(&self) -> bool {
        self.activity != Activity::Blocked
    }

    /// Its CPU time in ns until its virtual time is `vtime`; 0 where it is past that.
    pub(super) fn ns_until(&self, vtime: Vtime) -> u64 {
        (vtime - self.vtime).max(0).cast_unsigned() / self.share.rate
    }

    /// Forgets by how much more than [`MAX_LAG_NS`] it is ahead of `mean` or behind it.
    pub(super) fn bound(&mut self, mean: Vtime) {
        let most = self.share.max_lag;
        self.vtime = self.vtime.clamp(mean - most, mean + most);
    }
}
