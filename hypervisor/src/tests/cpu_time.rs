//! Whose CPU time it is: what the clocks of guests cost others, on a CPU whose timer and whose switches take time.

use hv_hw::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{Domain, Policies, registry};
use crate::machine::cpus;
use crate::main_loop::CpuMain;
use crate::pcpu::{Pcpu, hand_off};
use crate::tests::common::{destroy_whole, domain, fake, guest_config, prepare};
use guest_abi::hvm::save::HvmHwLapic;
use hv_core::options::Scheduler;
use hv_hw::irq::vectors;
use hv_hw::percpu::IrqsOff;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{GuestRegs, SystemRegs, VmExit};
use hv_hw::{hosted::Clock, time};

const US: u64 = 1000;
const MS: u64 = 1_000_000;
/// The time that a guest runs at a time, at most: other exits come that often.
const STRETCH_NS: u64 = 50 * US;
/// A switch to another vCPU: about that on bare metal.
const LOAD_NS: u64 = 2 * US;

/// What happens on the machine.
struct Record {
    /// The TSC value that the hardware's timer is set to.
    deadline: AtomicU64,
    /// The TSC value at which the test has the CPU again.
    end: AtomicU64,
    /// Switches to other vCPUs.
    loads: AtomicU64,
    /// ns that each domain was in its guest, by what its configuration calls `ssidref`.
    ran_ns: [AtomicU64; 2],
}

hv_hw::once_a_machine! {
    fn record() -> Record = Record {
        deadline: AtomicU64::new(u64::MAX),
        end: AtomicU64::new(0),
        loads: AtomicU64::new(0),
        ran_ns: [const { AtomicU64::new(0) }; 2],
    };
}

const OTHER: u32 = 0;
const TICKING: u32 = 1;

/// The guest runs until its stretch is over or the timer's interrupt comes.
fn compute<const WHO: usize>(_: u64) -> VmExit {
    let now = time::now();
    let deadline = record().deadline.load(Ordering::Relaxed);
    let ticks = time::ns_to_ticks(STRETCH_NS).min(deadline.saturating_sub(now));
    Clock::advance(ticks);
    record().ran_ns[WHO].fetch_add(time::ticks_to_ns(ticks), Ordering::Relaxed);
    if time::now() >= record().end.load(Ordering::Relaxed) {
        cpus::end_slice(0);
    }
    if time::now() < deadline {
        return VmExit::TprBelowThreshold;
    }
    record().deadline.store(u64::MAX, Ordering::Relaxed);
    VmExit::ExternalInterrupt(vectors::TIMER)
}

fn computing(domain: &Domain, index: usize, parts: &VcpuFrames, policies: &Policies) -> FakeVcpu {
    let mut hw = fake(domain, index, parts, policies);
    hw.endless = Some(if domain.config.ssidref == OTHER {
        compute::<0>
    } else {
        compute::<1>
    });
    hw.must_be_loaded = true;
    hw.on_load = Some(|| {
        record().loads.fetch_add(1, Ordering::Relaxed);
        Clock::advance(time::ns_to_ticks(LOAD_NS));
    });
    hw
}

fn new_cpu() -> CpuMain<FakeVcpu> {
    record().deadline.store(u64::MAX, Ordering::Relaxed);
    let pcpu = Pcpu::new(IrqsOff::for_tests()).with_timer(|deadline| {
        record()
            .deadline
            .store(deadline.unwrap_or(u64::MAX), Ordering::Relaxed)
    });
    CpuMain::new(pcpu, Scheduler::Credit2, computing)
}

/// A guest that runs; so many of its vCPUs are busy.
fn guest(who: u32, (vcpus, busy): (u16, u16), state: &VcpuState) -> Arc<Domain> {
    let number = registry::reserve(None).unwrap();
    let config = crate::domain::create::DomainConfig {
        ssidref: who,
        ..guest_config(vcpus)
    };
    let domain = domain(number.id().get(), config);
    registry::add(domain.clone());
    for index in 0..usize::from(vcpus) {
        if index < usize::from(busy) {
            domain.vcpus[index].set_state(state.clone());
        }
        hand_off::spawn(&domain, index).unwrap();
    }
    domain.unpause().unwrap();
    domain
}

/// A vCPU whose local APIC's timer ticks as fast as it can.
fn ticking() -> VcpuState {
    const ON_X2APIC: u64 = 0xFEE0_0C00;
    const PERIODIC: u32 = 1 << 17;
    let mut page = Box::new([0; _]);
    let registers = [
        (0xF0, 0x1FFu32),
        (0x320, PERIODIC | 0x40),
        (0x380, 1),
        (0x390, 1),
    ];
    for (offset, value) in registers {
        page[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
    let lapic = HvmHwLapic {
        apic_base_msr: ON_X2APIC,
        disabled: 0,
        timer_divisor: 2,
        tdt_msr: 0,
    };
    VcpuState {
        lapic: Some((lapic, page)),
        ..still()
    }
}

/// A vCPU without a clock.
fn still() -> VcpuState {
    VcpuState::starting(GuestRegs::default(), SystemRegs::default())
}

fn run_for(main: &mut CpuMain<FakeVcpu>, ns: u64) {
    let end = time::now() + time::ns_to_ticks(ns);
    record().end.store(end, Ordering::Relaxed);
    while time::now() < end {
        let _ = main.step();
    }
}

/// What share of a second, in percent, the other guest has of the CPU once this happened to one with so many vCPUs that
/// tick, and how many switches that took.
fn left_to_the_other(vcpus: u16, happens: impl Fn(&Domain)) -> (u64, u64) {
    let mut main = new_cpu();
    let other = guest(OTHER, (1, 1), &still());
    let victim = guest(TICKING, (vcpus, vcpus), &ticking());
    // all have had the CPU, so that all tick
    run_for(&mut main, 2 * u64::from(vcpus) * 12 * MS);
    assert_ne!(record().ran_ns[1].load(Ordering::Relaxed), 0);
    happens(&victim);
    run_for(&mut main, 20 * MS);
    let loads = record().loads.load(Ordering::Relaxed);
    let before = record().ran_ns[0].load(Ordering::Relaxed);
    run_for(&mut main, 1000 * MS);
    let ran_ns = record().ran_ns[0].load(Ordering::Relaxed) - before;
    let loads = record().loads.load(Ordering::Relaxed) - loads;
    destroy_whole(&victim, &mut main);
    destroy_whole(&other, &mut main);
    (ran_ns / (10 * MS), loads)
}

#[test]
fn timers_of_a_paused_guest_take_no_time_from_others() {
    prepare();
    let _clock = Clock::take_over();
    for vcpus in [1, 128] {
        let (percent, loads) = left_to_the_other(vcpus, |guest| guest.pause().unwrap());
        assert!(percent >= 99 && loads < 10, "{vcpus}: {percent} %, {loads}");
    }
}

#[test]
fn timers_of_a_guest_that_ended_take_no_time_from_others() {
    prepare();
    let _clock = Clock::take_over();
    let crash = |guest: &Domain| guest.end(crate::domain::ShutdownReason::Crash, "by a test");
    let (percent, loads) = left_to_the_other(32, crash);
    assert!(percent >= 99 && loads < 10, "{percent} %, {loads}");
}

#[test]
fn timers_of_a_capped_guest_take_no_more_than_its_cap() {
    prepare();
    let _clock = Clock::take_over();
    let (percent, _) = left_to_the_other(32, |guest| {
        guest.cap.store(1, Ordering::Relaxed);
        guest.kick_all();
    });
    assert!(percent >= 95, "{percent} %");
}

/// A cap is a domain's, in percent of one CPU, however many of its vCPUs are busy.
#[test]
fn busy_vcpus_have_the_whole_cap_of_their_domain() {
    prepare();
    let _clock = Clock::take_over();
    for (percent, vcpus, busy) in [(25, 4, 1), (50, 8, 1), (50, 8, 8), (100, 4, 1), (5, 2, 2)] {
        let mut main = new_cpu();
        let other = guest(OTHER, (1, 1), &still());
        let capped = guest(TICKING, (vcpus, busy), &still());
        capped.weight.store(u16::MAX, Ordering::Relaxed);
        capped.cap.store(percent, Ordering::Relaxed);
        capped.kick_all();
        run_for(&mut main, 100 * MS);
        let before = record().ran_ns[1].load(Ordering::Relaxed);
        run_for(&mut main, 2000 * MS);
        let ran_ns = record().ran_ns[1].load(Ordering::Relaxed) - before;
        let ran = ran_ns / (20 * MS);
        let due = u64::from(percent);
        assert!(
            (due - 1..=due).contains(&ran),
            "{ran} of {due}, {busy} of {vcpus} busy"
        );
        // without it, the weight decides
        capped.cap.store(0, Ordering::Relaxed);
        capped.kick_all();
        run_for(&mut main, 100 * MS);
        let before = record().ran_ns[1].load(Ordering::Relaxed);
        run_for(&mut main, 100 * MS);
        assert!(record().ran_ns[1].load(Ordering::Relaxed) - before >= 90 * MS);
        destroy_whole(&capped, &mut main);
        destroy_whole(&other, &mut main);
    }
}

/// What a kick of one costs does not grow with the others: beside it only who has looked of its own accord is looked
/// at.
#[test]
fn kick_of_one_looks_at_few_others() {
    prepare();
    let _clock = Clock::take_over();
    let mut main = new_cpu();
    let other = guest(OTHER, (1, 1), &still());
    // halted: none of them has anything to run
    let halted = guest(TICKING, (32, 0), &still());
    run_for(&mut main, 100 * MS);
    for vcpu in [31, 0, 17] {
        let before = main.looks;
        halted.vcpus[vcpu].kick();
        let _ = main.step();
        let looks = main.looks - before;
        assert!((1..=2).contains(&looks), "vCPU {vcpu}: {looks}");
    }
    destroy_whole(&halted, &mut main);
    destroy_whole(&other, &mut main);
}
