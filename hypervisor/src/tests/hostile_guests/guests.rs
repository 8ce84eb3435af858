//! Lives of two guests that do anything, beside a tool that maps and unmaps their pages.

use std::sync::Arc;

use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{Domain, Policies, ShutdownReason, grants, registry, space};
use crate::guest_mem::DomainMemory;
use crate::machine::memory;
use crate::main_loop::CpuMain;
use crate::runner::{Activity, Runner};
use guest_abi::sched::SCHEDOP_shutdown;
use guest_abi::xen::{__HYPERVISOR_multicall, __HYPERVISOR_sched_op};
use hv_core::addr::{Gfn, Gpa, PageOrder};
use hv_core::domid::DomId;
use hv_core::mem::GuestMem;
use hv_core::options::Scheduler;
use hv_hw::irq::vectors;
use hv_hw::virt::fake::{Course, FakeVcpu};
use hv_hw::virt::{GuestRegs, SEGMENT_CS, SEGMENT_LONG, SystemRegs, VcpuHw, VmExit};
use hv_hw::{hosted::Clock, time};

use super::random::Random;
use super::{calls, exits, oracle};
use crate::main_loop::run_loop;
use crate::pcpu::hand_off;
use crate::tests::common;
use crate::tests::common::{LENGTH, code, fake, guest_config, known_guest, pcpu};

/// Exits in a life.
const EXITS: u64 = 400;
/// Pages of RAM from guest frame 0 on.
const PAGES: u64 = 64;
/// Where its grant table (two frames) and its shared info lie.
const GRANT_TABLE: u64 = 60;
const SHARED_INFO: u64 = 62;

/// An entry of a vCPU that has nothing to do: its time is over.
fn ticking(_: u64) -> VmExit {
    crate::machine::cpus::end_slice(0);
    VmExit::TprBelowThreshold
}

/// A vCPU that only ticks where no exit is scripted.
pub(crate) fn endless(
    domain: &Domain,
    index: usize,
    parts: &VcpuFrames,
    policies: &Policies,
) -> FakeVcpu {
    let mut hw = fake(domain, index, parts, policies);
    hw.endless = Some(ticking);
    hw.must_be_loaded = true;
    hw
}

/// A guest of two vCPUs that runs.
pub(crate) fn new_guest() -> Arc<Domain> {
    let number = registry::reserve(None).unwrap();
    let mut config = guest_config(2);
    config.max_grant_frames = 4;
    config.max_maptrack_frames = 4;
    let domain = common::domain(number.id().get(), config);
    registry::add(domain.clone());
    space::set_max_pages(&domain, PAGES + 200);
    for page in 0..PAGES {
        space::populate(&domain, Gfn::new(page), PageOrder::SIZE_4K).unwrap();
    }
    for vcpu in 0..2 {
        let state = VcpuState::starting(GuestRegs::default(), SystemRegs::default());
        domain.vcpus[vcpu].set_state(state);
        hand_off::spawn(&domain, vcpu).unwrap();
    }
    domain.unpause().unwrap();
    domain
}

/// Puts grant table and shared info where the guest can write to them.
fn map_shared(guest: &Domain) {
    let mut hw = FakeVcpu::default();
    for frame in 0..2 {
        let mfn = grants::frame(guest, frame).unwrap();
        let gfn = Gfn::new(GRANT_TABLE + u64::from(frame));
        let _ = space::vacate(&mut hw, guest, gfn);
        space::map_special(&mut hw, guest, mfn, gfn).unwrap();
    }
    let gfn = Gfn::new(SHARED_INFO);
    let _ = space::vacate(&mut hw, guest, gfn);
    space::map_special(&mut hw, guest, guest.shared_info.mfn(), gfn).unwrap();
}

/// Puts the instruction that exits where it is executed, or another.
fn write_code(random: &mut Random, runner: &Runner<FakeVcpu>, exit: &VmExit, is_16_bit: bool) {
    let mut bytes = random.bytes(&[0; 2], 16);
    if !random.one_in(8) {
        bytes = code::of(exit, is_16_bit).unwrap_or(bytes);
    }
    let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
    let _ = memory.write(Gpa::new(runner.hw.rip()), &bytes);
}

/// Two guests and what runs them.
struct Machine {
    random: Random,
    main: CpuMain<FakeVcpu>,
    guests: [Arc<Domain>; 2],
    /// Maps pages of theirs.
    tool: Arc<Domain>,
    ids: [u64; 2],
}

/// A life from `seed`: exits, hypercalls, those of them that succeeded, those that were executed again, those of 32-bit
/// code that succeeded.
pub(crate) fn life(seed: u64) -> [u64; 5] {
    let before = memory::free_frames();
    let guests = [new_guest(), new_guest()];
    let mut machine = Machine {
        random: Random::new(seed),
        main: CpuMain::new(pcpu(), Scheduler::Credit2, endless),
        ids: guests.each_ref().map(|guest| u64::from(guest.id.get())),
        tool: known_guest(),
        guests,
    };
    for _ in 0..6 {
        let _ = machine.main.step();
    }
    machine.guests.iter().for_each(|guest| map_shared(guest));
    let mut counts = [0; 5];
    for op in 0..EXITS {
        let what = format!("seed {seed}, exit {op}");
        let Some(more) = machine.turn(&what) else {
            break;
        };
        for (sum, count) in counts.iter_mut().zip(more) {
            *sum += count;
        }
        machine.meanwhile(&what);
    }
    let ids = machine.end(seed);
    for id in ids {
        assert!(
            registry::find(id).is_none(),
            "seed {seed}: {id} is a zombie"
        );
        assert_eq!(memory::charged(id), 0, "seed {seed}: {id} keeps frames");
    }
    assert_eq!(
        memory::free_frames(),
        before,
        "seed {seed}: frames are lost"
    );
    oracle::check_log(seed);
    counts
}

impl Machine {
    /// One of the guests does something; `None` once one has ended, which only some of what they do can bring about.
    fn turn(&mut self, what: &str) -> Option<[u64; 5]> {
        let (at, vcpu) = (self.random.below(2) as usize, self.random.below(2) as usize);
        let guest = self.guests[at].clone();
        self.prepare_memory(at);
        let Self {
            random, main, ids, ..
        } = self;
        let (runner, pcpu) = main.part(&guest, vcpu)?;
        let hw = &mut runner.hw;
        hw.system.rip = 0x3000 + random.below(64);
        hw.registers.gpr = std::array::from_fn(|_| random.value(ids));
        if random.one_in(10) {
            hw.system.rflags ^= 1 << 9;
        }
        let mut exit = exits::any(random, ids, hw);
        if random.one_in(2) {
            let bytes = calls::sound(random, ids, at, 0x2000, hw.regs());
            let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
            let _ = memory.write(Gpa::new(0x2000), &bytes);
            exit = VmExit::Hypercall;
        } else if random.one_in(2) {
            calls::any(random, ids, hw.regs());
            exit = VmExit::Hypercall;
        }
        let is_narrow = random.one_in(3);
        hw.system.segments[SEGMENT_CS].access = if is_narrow { 0 } else { SEGMENT_LONG };
        let mut call = (hw.registers.rax(), hw.registers.rdi() & 0xFFFF_FFFF);
        if is_narrow && exit == VmExit::Hypercall {
            calls::narrow(random, ids, &mut hw.registers);
            let low = |register: u64| register & 0xFFFF_FFFF;
            call = (low(hw.registers.rax()), low(hw.registers.rbx()));
        }
        if call == (__HYPERVISOR_sched_op, u64::from(SCHEDOP_shutdown)) {
            return Some([0; 5]);
        }
        hw.instruction_length = random.one_in(2).then_some(LENGTH);
        hw.course = exits::course(random);
        hw.is_in_shadow = false;
        hw.interrupt_at = Some((hw.entries + 1 + random.below(3), vectors::KICK));
        let (rip, is_call) = (hw.system.rip, exit == VmExit::Hypercall);
        // SCHEDOP_shutdown may be among the calls of a multicall; a delivery that faults again and again is a triple
        // fault
        let may_end = (is_call
            && [__HYPERVISOR_multicall, __HYPERVISOR_sched_op].contains(&call.0))
            || matches!(hw.course, Course::InDelivery(_));
        write_code(random, runner, &exit, is_narrow);
        let mut turns = 0;
        loop {
            runner.hw.exits.push_back(exit);
            while !runner.hw.exits.is_empty() && guest.shutdown_reason().is_none() {
                if runner.activity == Activity::Polling {
                    runner.wake(pcpu);
                }
                runner.activity = Activity::Ready;
                let _ = run_loop::run(runner, pcpu);
            }
            turns += 1;
            let is_again = is_call && runner.hw.rip() == rip;
            if !is_again || turns > 40 || guest.shutdown_reason().is_some() {
                break;
            }
        }
        runner.hw.course = Course::Boundaries;
        runner.activity = Activity::Ready;
        if guest.shutdown_reason().is_some() {
            // its watchdog may have expired, or its last vCPU have been taken down
            let is_crash = guest.shutdown_reason() == Some(ShutdownReason::Crash);
            assert!(
                may_end || !is_crash,
                "{what}: {exit:?} {call:?} ended {}",
                guest.id
            );
            return None;
        }
        let rax = runner.hw.registers.rax();
        let is_fine = is_call && rax < if is_narrow { 0xFFFF_F000 } else { 1 << 40 };
        Some([
            1,
            u64::from(is_call),
            u64::from(is_fine),
            turns - 1,
            u64::from(is_fine && is_narrow),
        ])
    }

    /// Scribbles over what the hypervisor may read: arguments, grant entries, shared info, multicalls.
    fn prepare_memory(&mut self, at: usize) {
        let ids = self.ids;
        if self.random.one_in(3) {
            let entry = self.random.below(64);
            let flags = self.random.of(&[1, 1, 1, 5, 0x19, 0, 2, 3]);
            let word: u64 = flags | ids[1 - at] << 16 | self.random.below(70) << 32;
            self.write(at, GRANT_TABLE * 4096 + entry * 8, &word.to_le_bytes());
        }
        if self.random.one_in(20) {
            let bytes = self.random.bytes(&ids, 512);
            self.write(at, SHARED_INFO * 4096, &bytes);
        }
        let page = self.random.below(4);
        let bytes = self.random.bytes(&ids, 256);
        self.write(at, 0x1000 + page * 0x400, &bytes);
        if self.random.one_in(4) {
            self.prepare_multicall(at);
        }
    }

    fn prepare_multicall(&mut self, at: usize) {
        let ids = self.ids;
        let mut entries = Vec::new();
        for _ in 0..8 {
            let mut regs = GuestRegs::default();
            calls::any(&mut self.random, &ids, &mut regs);
            if self.random.one_in(2) {
                let place = 0x1400 + self.random.below(4) * 0x200;
                let bytes = calls::sound(&mut self.random, &ids, at, place, &mut regs);
                self.write(at, place, &bytes);
            }
            if regs.rax() == __HYPERVISOR_sched_op {
                regs.set_rdi(0);
            }
            let [first, second, third] = [regs.rdi(), regs.rsi(), regs.rdx()];
            for word in [
                regs.rax(),
                0,
                first,
                second,
                third,
                regs.r10(),
                regs.r8(),
                0,
            ] {
                entries.extend_from_slice(&word.to_le_bytes());
            }
        }
        self.write(at, 0x1000, &entries);
    }

    fn write(&mut self, at: usize, gpa: u64, bytes: &[u8]) {
        if let Some((runner, _)) = self.main.part(&self.guests[at], 0) {
            let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
            let _ = memory.write(Gpa::new(gpa), bytes);
        }
    }

    /// Time passes, the others run, the tool maps and unmaps, and the books are looked at.
    fn meanwhile(&mut self, what: &str) {
        if self.random.one_in(16) {
            Clock::advance(time::ns_to_ticks(self.random.below(10_000_000)));
            if let Some((_, pcpu)) = self.main.part(&self.guests[0], 0) {
                pcpu.expire_timers();
            }
        }
        if self.random.one_in(8) {
            let _ = self.main.step();
        }
        if self.random.one_in(6) {
            let mut hw = FakeVcpu::default();
            let (to, from) = (
                Gfn::new(self.random.below(20)),
                Gfn::new(self.random.below(100)),
            );
            let of = &self.guests[self.random.below(2) as usize];
            if self.random.one_in(2) {
                let _ = space::map_foreign(&mut hw, (&self.tool, to), (of, from));
            } else {
                let _ = space::unmap(&mut hw, &self.tool, to);
            }
        }
        if self.random.one_in(16) {
            let [first, second] = &self.guests;
            oracle::check_mappings(&[first, second, &self.tool], what);
        }
    }

    /// Ends them one after the other, each in the presence of who is left.
    fn end(self, seed: u64) -> [DomId; 3] {
        let Self {
            mut main,
            guests: [first, second],
            tool,
            ..
        } = self;
        let ids = [first.id, second.id, tool.id];
        let what = format!("seed {seed}, at the end");
        oracle::check_mappings(&[&first, &second, &tool], &what);
        oracle::end(first, &mut main, &[&second, &tool]);
        oracle::end(second, &mut main, &[&tool]);
        oracle::end(tool, &mut main, &[]);
        drop(main);
        crate::domain::destroy::reap();
        ids
    }
}
