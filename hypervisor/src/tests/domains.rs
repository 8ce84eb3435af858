//! Many domains on a CPU without hardware: who runs, who waits, and that a domain's end gives everything back, whenever
//! it comes.

use hv_hw::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use crate::domain::create::DomainConfig;
use crate::domain::lifecycle::PauseError;
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::vcpu_state::VcpuState;
use crate::domain::{
    Domain, Policies, ShutdownReason, grants, info, pod, registry, soft_reset, space,
};
use crate::machine::{cpus, memory};
use crate::main_loop::{CpuMain, Step};
use crate::pcpu::hand_off;
use crate::runner::make;
use crate::tests::common::{destroy_whole, domain, fake, guest_config, known_guest, pcpu, prepare};
use guest_abi::grant_table::GTF_permit_access;
use hv_core::addr::{Gfn, PageOrder};
use hv_core::evtchn::{State, Virq};
use hv_core::grant::{GrantRef, MapRequest, UnmapRequest, Want};
use hv_core::mem::SharedWords;
use hv_core::options::Scheduler;
use hv_core::vcpu::VcpuId;
use hv_hw::direct_map::SharedFrame;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{GuestRegs, SystemRegs, VmExit};
use hv_hw::{hosted::Clock, time};

hv_hw::once_a_machine! {
    /// How often a guest was entered, by domid.
    fn all_entries() -> [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
}

/// Entries until the emulated slice of a guest that never stops is over.
const SLICE: u64 = 50;

fn entries(domain: &Domain) -> u64 {
    all_entries()[usize::from(domain.id.get()) % 8].load(Ordering::Relaxed)
}

/// What an entry of such a guest takes, where the test has the clock.
const ENTRY_NS: u64 = 20_000;

fn looping<const SLOT: usize>(_: u64) -> VmExit {
    Clock::advance(time::ns_to_ticks(ENTRY_NS));
    if all_entries()[SLOT].fetch_add(1, Ordering::Relaxed) % SLICE == SLICE - 1 {
        cpus::end_slice(0);
    }
    VmExit::TprBelowThreshold
}

const LOOPS: [fn(u64) -> VmExit; 8] = [
    looping::<0>,
    looping::<1>,
    looping::<2>,
    looping::<3>,
    looping::<4>,
    looping::<5>,
    looping::<6>,
    looping::<7>,
];

/// A vCPU that never stops by itself.
fn endless(domain: &Domain, index: usize, parts: &VcpuFrames, policies: &Policies) -> FakeVcpu {
    let mut hw = fake(domain, index, parts, policies);
    hw.endless = Some(LOOPS[usize::from(domain.id.get()) % 8]);
    hw.must_be_loaded = true;
    hw
}

/// A vCPU that shuts down by HLT with interrupts off.
fn halting(domain: &Domain, index: usize, parts: &VcpuFrames, policies: &Policies) -> FakeVcpu {
    let mut hw = fake(domain, index, parts, policies);
    hw.exits.push_back(VmExit::Cpuid);
    hw.exits.push_back(VmExit::Hlt);
    hw
}

fn cpu_with(
    make: impl make::MakeVcpu<FakeVcpu> + 'static,
    scheduler: Scheduler,
) -> CpuMain<FakeVcpu> {
    CpuMain::new(pcpu(), scheduler, make)
}

fn start(domain: &Arc<Domain>) {
    let state = VcpuState::starting(GuestRegs::default(), SystemRegs::default());
    domain.vcpus[0].set_state(state);
    hand_off::spawn(domain, 0).unwrap();
}

/// Destroys it, and gives it up.
fn destroy(domain: Arc<Domain>, main: &mut CpuMain<FakeVcpu>) {
    destroy_whole(&domain, main);
}

/// True once where the CPU was to look at zombies.
fn was_to_look() -> bool {
    pcpu().take_zombie_work()
}

fn is_known(domain: &Domain) -> bool {
    registry::find(domain.id).is_some_and(|found| std::ptr::eq(&raw const *found, domain))
}

#[test]
fn looping_domains_share_the_cpu() {
    prepare();
    let _clock = Clock::take_over();
    for scheduler in [Scheduler::Credit2, Scheduler::RoundRobin] {
        let mut main = cpu_with(endless, scheduler);
        let domains: Vec<_> = (0..3).map(|_| known_guest()).collect();
        for domain in &domains {
            start(domain);
            domain.unpause().unwrap();
        }
        let before: Vec<u64> = domains.iter().map(|domain| entries(domain)).collect();
        for _ in 0..3000 {
            assert!(matches!(main.step(), Step::Ran(_)));
        }
        let ran: Vec<u64> = domains
            .iter()
            .zip(before)
            .map(|(domain, before)| entries(domain) - before)
            .collect();
        let all: u64 = ran.iter().sum();
        // to a slice for whoever is in the middle of it, and one for who began
        let least = all / 3 - 2 * SLICE;
        assert!(ran.iter().all(|ran| *ran >= least), "{ran:?}");
        for domain in domains {
            destroy(domain, &mut main);
        }
        assert_eq!(main.step(), Step::Idle);
    }
}

#[test]
fn new_domain_is_paused_and_pauses_are_counted() {
    prepare();
    let mut main = cpu_with(endless, Scheduler::Credit2);
    let domain = known_guest();
    start(&domain);
    assert_eq!(main.step(), Step::Idle);
    domain.pause().unwrap();
    domain.unpause().unwrap();
    assert_eq!(main.step(), Step::Idle);
    domain.unpause().unwrap();
    let id = VcpuId {
        domid: domain.id,
        index: 0,
    };
    assert_eq!(main.step(), Step::Ran(id));
    domain.pause().unwrap();
    assert_eq!(main.step(), Step::Idle);
    domain.unpause().unwrap();
    assert_eq!(domain.unpause(), Err(PauseError::NotPaused));
    assert_eq!(main.step(), Step::Ran(id));
    destroy(domain, &mut main);
}

#[test]
fn domain_that_shuts_down_stays_until_it_is_destroyed() {
    prepare();
    let mut main = cpu_with(halting, Scheduler::Credit2);
    let domain = known_guest();
    start(&domain);
    domain.unpause().unwrap();
    assert!(matches!(main.step(), Step::Ran(_)));
    assert_eq!(main.step(), Step::Idle);
    assert_eq!(domain.shutdown_reason(), Some(ShutdownReason::PowerOff));
    let record = info::describe(&domain);
    assert_eq!(record.flags & guest_abi::domctl::XEN_DOMINF_shutdown, 4);
    assert!(is_known(&domain));
    destroy(domain, &mut main);
}

#[test]
fn crash_of_one_domain_leaves_the_others_running() {
    fn crashing(
        domain: &Domain,
        index: usize,
        parts: &VcpuFrames,
        policies: &Policies,
    ) -> FakeVcpu {
        let mut hw = endless(domain, index, parts, policies);
        if domain.config.ssidref == 1 {
            hw.exits.push_back(VmExit::TripleFault);
        }
        hw
    }
    prepare();
    let mut main = cpu_with(crashing, Scheduler::Credit2);
    let other = known_guest();
    let number = registry::reserve(None).unwrap();
    let config = DomainConfig {
        ssidref: 1,
        ..guest_config(1)
    };
    let bad = domain(number.id().get(), config);
    registry::add(bad.clone());
    for domain in [&other, &bad] {
        start(domain);
        domain.unpause().unwrap();
    }
    let before = entries(&other);
    for _ in 0..10 {
        let _ = main.step();
    }
    assert_eq!(bad.shutdown_reason(), Some(ShutdownReason::Crash));
    assert_eq!(other.shutdown_reason(), None);
    assert!(entries(&other) > before);
    destroy(bad, &mut main);
    destroy(other, &mut main);
}

#[test]
fn registers_are_read_and_set_by_the_vcpus_cpu() {
    prepare();
    let mut main = cpu_with(endless, Scheduler::Credit2);
    let domain = known_guest();
    let vcpu = &domain.vcpus[0];
    hand_off::spawn(&domain, 0).unwrap();
    assert!(vcpu.take_state().is_none());
    let _ = main.step();
    let mut state = vcpu.take_state().unwrap();
    assert!(!state.is_up);
    state.is_up = true;
    state.regs.set_rbx(7);
    vcpu.set_state(*state);
    assert!(vcpu.take_state().is_none());
    let _ = main.step();
    let state = vcpu.take_state().unwrap();
    assert_eq!(state.regs.rbx(), 7);
    assert!(state.is_up);
    assert!(vcpu.take_state().is_none());
    let _ = main.step();
    domain.unpause().unwrap();
    assert!(matches!(main.step(), Step::Ran(_)));
    domain.pause().unwrap();
    assert!(vcpu.take_state().is_none(), "an answer from before it ran");
    destroy(domain, &mut main);
}

/// What happens to a domain, with another one there, on a CPU.
type Event = fn(&Arc<Domain>, &Arc<Domain>, &mut CpuMain<FakeVcpu>);

/// A life, a step at a time.
const LIFE: [Event; 15] = [
    |_, _, _| {},
    // nobody is there to look
    |domain, _, _| domain.vcpus[0].kick(),
    |domain, _, _| domain.limits.max_pages.store(4096, Ordering::Relaxed),
    |domain, _, _| space::populate(domain, Gfn::new(0x200), PageOrder::SIZE_2M).unwrap(),
    |domain, _, _| {
        for page in 0..40 {
            space::populate(domain, Gfn::new(page * 7777), PageOrder::SIZE_4K).unwrap();
        }
    },
    |domain, _, _| {
        pod::mark(domain, Gfn::new(0x4000), PageOrder::SIZE_2M).unwrap();
        pod::mark(domain, Gfn::new(0x4200), PageOrder::SIZE_4K).unwrap();
        let target = domain.pages() + PageOrder::SIZE_2M.frames();
        while !pod::set_target(domain, target).unwrap() {}
    },
    |domain, _, _| {
        let mut p2m = domain.p2m.lock();
        assert!(pod::bring(domain, &mut p2m, Gfn::new(0x4200)));
    },
    |domain, _, _| {
        let mut hw = FakeVcpu::default();
        let mfn = domain.shared_info.mfn();
        space::map_special(&mut hw, domain, mfn, Gfn::new(0x201)).unwrap();
        assert!(grants::frame(domain, 2).is_ok());
    },
    |domain, other, _| {
        let port = domain.events.lock().alloc_unbound(other.id).unwrap();
        let (first, second) = if other.id < domain.id {
            (other, domain)
        } else {
            (domain, other)
        };
        let mut one = first.events.lock();
        let mut two = second.events.lock_second();
        let (own, remote) = if first.id == other.id {
            (&mut one, &mut two)
        } else {
            (&mut two, &mut one)
        };
        let _ = own.bind_interdomain(remote, port).unwrap();
    },
    |domain, _, _| {
        domain
            .events
            .lock()
            .bind_virq(Virq::TIMER, 0)
            .map(|_| ())
            .unwrap();
    },
    |domain, _, _| start(domain),
    |_, _, main| {
        let _ = main.step();
    },
    |domain, _, main| {
        domain.unpause().unwrap();
        let _ = main.step();
        let _ = main.step();
    },
    |domain, _, _| {
        let frame = crate::guest_mem::pin(domain, Gfn::new(7777)).unwrap();
        let notify = domain.events.lock().register_vcpu_info(0, frame, 64);
        domain.notify(notify.unwrap());
    },
    |domain, _, main| {
        let mut hw = FakeVcpu::default();
        // a page that it gives up, and that holds its vcpu_info
        space::release(&mut hw, domain, Gfn::new(7777)).unwrap();
        let _ = main.step();
        domain.end(ShutdownReason::Crash, "by a test");
        let _ = main.step();
    },
];

#[test]
fn a_soft_reset_leaves_nothing_of_the_old_kernel_but_its_memory() {
    prepare();
    let mut main = cpu_with(endless, Scheduler::Credit2);
    let before = memory::free_frames();
    let domain = known_guest();
    let mut hw = FakeVcpu::default();
    let (place, info_gfn) = (Gfn::new(5000), Gfn::new(7777));
    space::set_max_pages(&domain, 2);
    for gfn in [place, info_gfn] {
        space::populate(&domain, gfn, PageOrder::SIZE_4K).unwrap();
    }
    let register = || {
        let frame = crate::guest_mem::pin(&domain, info_gfn).unwrap();
        domain.events.lock().register_vcpu_info(0, frame, 64)
    };
    let _ = register().unwrap();
    assert!(register().is_err(), "it can be moved once");
    let mfn = domain.shared_info.mfn();
    space::map_special(&mut hw, &domain, mfn, place).unwrap();
    assert!(
        space::release(&mut hw, &domain, place).is_err(),
        "it is no RAM"
    );
    domain.callback.set(0xf3);
    domain.vcpus[0].upcall_vector.store(0xf3, Ordering::Relaxed);
    soft_reset::forget_kernel(&domain, &mut hw).unwrap();
    assert_eq!(domain.special_place(mfn), None);
    assert_eq!(domain.callback.vector(), None);
    assert_eq!(domain.vcpus[0].upcall_vector.load(Ordering::Relaxed), 0);
    let _ = register().unwrap();
    // both are its own RAM; the one that held the info is free once that is forgotten
    for gfn in [place, info_gfn] {
        space::release(&mut hw, &domain, gfn).unwrap();
    }
    soft_reset::forget_kernel(&domain, &mut hw).unwrap();
    destroy(domain, &mut main);
    assert_eq!(memory::free_frames(), before);
}

#[test]
fn destruction_at_any_point_of_a_life_gives_everything_back() {
    prepare();
    let mut main = cpu_with(endless, Scheduler::Credit2);
    let other = known_guest();
    // tables and ports of the other that stay
    let before_all = memory::free_frames();
    for steps in 0..=LIFE.len() {
        let domain = known_guest();
        let id = domain.id;
        for step in LIFE.iter().take(steps) {
            step(&domain, &other, &mut main);
        }
        destroy(domain, &mut main);
        assert!(registry::find(id).is_none(), "after {steps} steps");
        assert_eq!(memory::charged(id), 0, "after {steps} steps");
        assert_eq!(memory::free_frames(), before_all, "after {steps} steps");
        let events = other.events.lock();
        let is_free = |state: State| matches!(state, State::Unbound { remote } if remote == id);
        for (port, status) in events.open_ports(hv_core::evtchn::Port::new(1)) {
            assert!(is_free(status.state), "{port} after {steps} steps");
        }
        drop(events);
        let reset = other.events.lock().reset(1000);
        assert!(reset.is_done);
    }
    destroy(other, &mut main);
    assert!(!pcpu().is_anybody_kicked(), "a kick that nobody will take");
}

#[test]
fn page_that_another_domain_maps_keeps_the_dead_as_a_zombie() {
    prepare();
    let mut main = cpu_with(endless, Scheduler::Credit2);
    let (other, domain) = (known_guest(), known_guest());
    let id = domain.id;
    let mut hw = FakeVcpu::default();
    domain.limits.max_pages.store(16, Ordering::Relaxed);
    space::populate(&domain, Gfn::new(1), PageOrder::SIZE_4K).unwrap();
    space::map_foreign(&mut hw, (&other, Gfn::new(5)), (&domain, Gfn::new(1))).unwrap();
    destroy(domain, &mut main);
    let zombie = registry::find(id).unwrap();
    assert_eq!(info::describe(&zombie).flags & 1, 1, "it is told as dying");
    assert_eq!(info::describe(&zombie).tot_pages, 1);
    drop(zombie);
    let _ = main.step();
    assert!(registry::find(id).is_some());
    assert!(!was_to_look(), "it costs nobody anything");
    other.limits.max_pages.store(16, Ordering::Relaxed);
    space::populate(&other, Gfn::new(9), PageOrder::SIZE_4K).unwrap();
    space::release(&mut hw, &other, Gfn::new(9)).unwrap();
    assert!(
        !was_to_look() && !pcpu().is_woken(),
        "that page was another's"
    );
    space::unmap(&mut hw, &other, Gfn::new(5)).unwrap();
    assert!(pcpu().is_woken(), "the CPU looks before it goes on");
    let _ = main.step();
    assert!(registry::find(id).is_none());
    assert_eq!(memory::charged(id), 0);
    assert!(!was_to_look());
    destroy(other, &mut main);
}

#[test]
fn grant_in_use_keeps_the_dead_until_it_is_unmapped() {
    prepare();
    let mut main = cpu_with(endless, Scheduler::Credit2);
    let (other, domain) = (known_guest(), known_guest());
    let id = domain.id;
    let mut hw = FakeVcpu::default();
    domain.limits.max_pages.store(16, Ordering::Relaxed);
    space::populate(&domain, Gfn::new(1), PageOrder::SIZE_4K).unwrap();
    let frame = SharedFrame::new(grants::frame(&domain, 0).unwrap()).unwrap();
    frame.store_u32(4, 1);
    let flags = u32::from(GTF_permit_access);
    frame.store_u32(0, flags | u32::from(other.id.get()) << 16);
    let request = MapRequest {
        granter: id.get(),
        reference: GrantRef::new(0),
        want: Want::Write,
        gfn: Gfn::new(5),
    };
    let handle = grants::map(&mut hw, &other, domain.clone(), &request).unwrap();
    destroy(domain, &mut main);
    let _ = main.step();
    assert!(registry::find(id).is_some());
    assert!(!was_to_look() && !pcpu().is_woken());
    let request = UnmapRequest {
        handle,
        gfn: Gfn::new(5),
    };
    let mut pending = None;
    let unmapped = grants::unmap(&other, &request, &mut pending).unwrap();
    let done = grants::flush(&mut hw, &other, pending);
    unmapped.finish(&other, &done);
    assert!(pcpu().is_woken(), "the CPU looks before it goes on");
    let _ = main.step();
    assert!(registry::find(id).is_none());
    assert_eq!(memory::charged(id), 0);
    destroy(other, &mut main);
}

#[test]
fn numbers_roll_and_are_not_given_twice() {
    prepare();
    let first = registry::reserve(None).unwrap();
    let second = registry::reserve(None).unwrap();
    assert_eq!(second.id().get(), first.id().get() + 1);
    assert!(registry::reserve(Some(first.id())).is_none());
    let freed = first.id();
    drop(first);
    let third = registry::reserve(None).unwrap();
    assert_eq!(third.id().get(), second.id().get() + 1);
    assert_eq!(registry::reserve(Some(freed)).unwrap().id(), freed);
}

#[test]
fn machines_of_one_process_share_no_domain_and_cpus_of_one_machine_all() {
    let machine = || {
        let domain = known_guest();
        let board = hv_hw::hosted::board();
        std::thread::scope(|scope| {
            let cpu = |number| {
                let id = domain.id;
                scope.spawn(move || {
                    board.join(number);
                    (hv_hw::percpu::cpu_id(), registry::find(id))
                })
            };
            for (number, cpu) in [1, 2].map(|number| (number, cpu(number))) {
                let (id, found) = cpu.join().unwrap();
                assert!(id == number && Arc::ptr_eq(&found.unwrap(), &domain));
            }
        });
        (domain.id, memory::free_frames(), domain)
    };
    let one = machine();
    let other = std::thread::spawn(machine).join().unwrap();
    assert_eq!((one.0, one.1), (other.0, other.1));
    assert!(!Arc::ptr_eq(&one.2, &other.2));
}

/// Two who reap the same dead domain: the second must not take the one that has its number by then.
#[test]
fn only_the_domain_itself_is_forgotten_not_its_number() {
    prepare();
    let number = registry::reserve(None).unwrap();
    let id = number.id();
    let (dead, next) = (
        domain(id.get(), guest_config(1)),
        domain(id.get(), guest_config(1)),
    );
    registry::add(dead.clone());
    assert!(registry::remove(&dead));
    registry::add(next.clone());
    assert!(!registry::remove(&dead));
    assert!(is_known(&next));
    assert!(registry::remove(&next));
}
