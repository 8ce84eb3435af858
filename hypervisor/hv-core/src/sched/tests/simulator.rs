//! Physical CPUs without anything else: they pick, let time pass, and preempt as they are told.

use std::vec;
use std::vec::Vec;

use super::super::credit2::Credit2;
use super::super::{MakeRoom, Policy, Unit};

/// CPUs that share one run queue, and what came of it for each vCPU.
pub(super) struct Simulator {
    pub(super) policy: Credit2,
    pub(super) now_ns: u64,
    cpus: Vec<Option<Turn>>,
    vcpus: Vec<Record>,
}

struct Turn {
    unit: Unit,
    until_ns: u64,
}

/// What one vCPU had.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Record {
    pub(super) ran_ns: u64,
    /// The longest time that it could run and did not.
    pub(super) longest_wait_ns: u64,
    waits_since_ns: Option<u64>,
}

impl Simulator {
    /// `cpus` CPUs, and vCPUs of these weights, all blocked.
    pub(super) fn new(cpus: usize, weights: &[u16]) -> Self {
        let mut policy = Credit2::new();
        for (index, weight) in weights.iter().enumerate() {
            policy.add(Unit(index), *weight);
        }
        Self {
            policy,
            now_ns: 0,
            cpus: (0..cpus).map(|_| None).collect(),
            vcpus: vec![Record::default(); weights.len()],
        }
    }

    pub(super) fn record(&self, index: usize) -> Record {
        self.vcpus[index]
    }

    pub(super) fn ran_ns(&self, index: usize) -> u64 {
        self.vcpus[index].ran_ns
    }

    pub(super) fn runs(&self, index: usize) -> bool {
        let mut turns = self.cpus.iter().flatten();
        turns.any(|turn| turn.unit == Unit(index))
    }

    pub(super) fn wake(&mut self, index: usize) {
        if !self.runs(index) {
            self.vcpus[index].waits_since_ns.get_or_insert(self.now_ns);
        }
        let room = self.policy.wake(Unit(index), self.now_ns);
        if self.cpus.iter().all(Option::is_some)
            && let Some(MakeRoom { unit, after_ns }) = room
        {
            let its = |turn: &&mut Turn| turn.unit == unit;
            let turn = self.cpus.iter_mut().flatten().find(its);
            let turn = turn.expect("who is to make room has a CPU");
            turn.until_ns = turn.until_ns.min(self.now_ns + after_ns);
        }
        self.choose();
    }

    pub(super) fn block(&mut self, index: usize) {
        self.policy.block(Unit(index), self.now_ns);
        self.vcpus[index].waits_since_ns = None;
        for turn in &mut self.cpus {
            turn.take_if(|turn| turn.unit == Unit(index));
        }
        self.choose();
    }

    pub(super) fn pass(&mut self, ns: u64) {
        let end_ns = self.now_ns + ns;
        loop {
            let turns = self.cpus.iter().flatten();
            let next_ns = turns.map(|turn| turn.until_ns).fold(end_ns, u64::min);
            for turn in self.cpus.iter().flatten() {
                self.vcpus[turn.unit.0].ran_ns += next_ns - self.now_ns;
            }
            self.now_ns = next_ns;
            if next_ns == end_ns {
                break;
            }
            self.choose();
        }
    }

    /// Ends the turns that are over, and fills the CPUs that have none. After it, `longest_wait_ns` holds for all.
    fn choose(&mut self) {
        let now_ns = self.now_ns;
        for cpu in &mut self.cpus {
            if let Some(turn) = cpu.take_if(|turn| turn.until_ns <= now_ns) {
                self.policy.preempt(turn.unit, now_ns);
                self.vcpus[turn.unit.0].waits_since_ns = Some(now_ns);
            }
        }
        for cpu in self.cpus.iter_mut().filter(|cpu| cpu.is_none()) {
            *cpu = self.policy.pick(now_ns).map(|pick| {
                self.vcpus[pick.unit.0].waits_since_ns = None;
                let until_ns = pick.timeslice_ns.map_or(u64::MAX, |slice| now_ns + slice);
                let unit = pick.unit;
                Turn { unit, until_ns }
            });
        }
        for record in &mut self.vcpus {
            if let Some(since_ns) = record.waits_since_ns {
                record.longest_wait_ns = record.longest_wait_ns.max(now_ns - since_ns);
            }
        }
    }
}
