//! Address space identifiers: a vCPU's tag in the TLB of the CPU that runs it.
//!
//! Each CPU gives them out in turn. Where a tag's translations are to be forgotten, its vCPU takes the next, and the
//! old one is used by nobody; where all have been given out, a new round begins: the TLB is flushed once, and whoever
//! has a tag of an earlier round takes another. So a few tags serve any number of vCPUs, and no CPU waits for another.
//!
//! Source: AMD APM vol. 2, "TLB Control", "Address Space Identifiers (ASID)".

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::percpu::{self, MAX_CPUS};

/// TLB_CONTROL: nothing is flushed.
pub(super) const FLUSH_NOTHING: u32 = 0;
/// TLB_CONTROL: everything is flushed, of all tags.
pub(super) const FLUSH_ALL: u32 = 1;
/// TLB_CONTROL: what has the guest's tag is flushed.
pub(super) const FLUSH_GUEST: u32 = 3;

/// The tags of a CPU.
#[derive(Debug)]
pub(super) struct Asids {
    /// Which tags are in order: those that were given out under this number.
    epoch: AtomicU64,
    /// The next to be given out.
    next: AtomicU32,
}

static ASIDS: [Asids; MAX_CPUS] = [const { Asids::new() }; MAX_CPUS];

impl Asids {
    const fn new() -> Self {
        Self {
            epoch: AtomicU64::new(1),
            next: AtomicU32::new(1),
        }
    }

    /// Those of this CPU, which alone changes them.
    pub(super) fn of_this_cpu() -> &'static Self {
        usize::try_from(percpu::cpu_id())
            .ok()
            .and_then(|cpu| ASIDS.get(cpu))
            .expect("no more than MAX_CPUS CPUs run")
    }

    /// Has each vCPU take a new tag before it runs here again.
    pub(super) fn forget_all(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// Has the next tag begin a new round: whether the CPU flushed what it was last asked for is not known.
    #[cold]
    pub(super) fn start_over(&self) {
        self.next.store(u32::MAX, Ordering::Relaxed);
        self.forget_all();
    }

    #[inline(always)]
    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Gives out a tag below `end`; with it, what VMRUN has to flush.
    fn take(&self, end: u32) -> (u32, u32) {
        let next = self.next.load(Ordering::Relaxed);
        if next < end {
            self.next.store(next + 1, Ordering::Relaxed);
            return (next, FLUSH_NOTHING);
        }
        self.forget_all();
        self.next.store(2, Ordering::Relaxed);
        (1, FLUSH_ALL)
    }
}

/// A vCPU's tag on the CPU that it was last loaded on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asid {
    /// Under which number it was given out; 0 where the vCPU has none.
    epoch: u64,
}

impl Asid {
    /// Has the vCPU take a new one before it runs again.
    #[inline]
    pub(super) fn forget(&mut self) {
        self.epoch = 0;
    }

    #[inline(always)]
    pub(super) fn is_current(&self, asids: &Asids) -> bool {
        self.epoch == asids.epoch()
    }

    /// Takes one below `end`, which is above 1; returns it, and what VMRUN has to flush.
    pub(super) fn renew(&mut self, asids: &Asids, end: u32) -> (u32, u32) {
        let (number, flush) = asids.take(end);
        self.epoch = asids.epoch();
        (number, flush)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Act {
        Run(usize),
        Forget(usize),
        ForgetAll,
        StartOver,
    }

    const VCPUS: usize = 5;

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            6 => (0..VCPUS).prop_map(Act::Run),
            1 => (0..VCPUS).prop_map(Act::Forget),
            1 => Just(Act::ForgetAll),
            1 => Just(Act::StartOver),
        ]
    }

    /// The TLB as a set of (tag, whose translations, of which time). A vCPU that runs must find only its own, and none
    /// from before it was told to forget.
    fn check(acts: &[Act], end: u32) {
        let asids = Asids::new();
        let mut tags = [Asid::default(); VCPUS];
        let mut numbers = [0; VCPUS];
        let mut times = [0; VCPUS];
        let mut tlb: Vec<(u32, usize, u64)> = Vec::new();
        for act in acts {
            match *act {
                Act::Run(vcpu) => {
                    if !tags[vcpu].is_current(&asids) {
                        let (number, flush) = tags[vcpu].renew(&asids, end);
                        assert!((1..end).contains(&number));
                        numbers[vcpu] = number;
                        if flush == FLUSH_ALL {
                            tlb.clear();
                        }
                    }
                    let tag = numbers[vcpu];
                    for entry in tlb.iter().filter(|entry| entry.0 == tag) {
                        assert_eq!((entry.1, entry.2), (vcpu, times[vcpu]));
                    }
                    tlb.push((tag, vcpu, times[vcpu]));
                }
                Act::Forget(vcpu) => {
                    tags[vcpu].forget();
                    times[vcpu] += 1;
                }
                Act::ForgetAll | Act::StartOver => {
                    if matches!(act, Act::ForgetAll) {
                        asids.forget_all();
                    } else {
                        asids.start_over();
                    }
                    times = times.map(|time| time + 1);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nobody_finds_what_is_anothers_or_was_to_be_forgotten(
            acts in proptest::collection::vec(act(), 0..200), end in 2u32..9,
        ) {
            check(&acts, end);
        }
    }
}
