//! The core's answers to exits, over a vCPU without hardware: what the guest finds in its registers, and whether its
//! domain lives on.

use crate::domain::ShutdownReason;
use crate::domain::vcpu::Requests;
use crate::exit;
use crate::main_loop::run_loop::{self, Descheduled};
use crate::pcpu::Pcpu;
use crate::runner::{Activity, Next, Runner};
use crate::tests::common::{LENGTH, RIP, domain, guest_config, one_vcpu, vcpu_of};
use guest_abi::errno::Errno;
use guest_abi::xen::{__HYPERVISOR_sched_op, __HYPERVISOR_xen_version};
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{Event, SEGMENT_CS, SEGMENT_SS, VcpuHw, VmExit};

fn hypercall(number: u64) -> (u64, u64) {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.regs().set_rax(number);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    (runner.hw.regs().rax(), runner.hw.rip())
}

#[test]
fn cpuid_shows_xen_and_steps_over_the_instruction() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.regs().set_rax(0x4000_0000);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Cpuid);
    let regs = *runner.hw.regs();
    let name =
        [regs.rbx(), regs.rcx(), regs.rdx()].map(|word| u32::try_from(word).unwrap().to_le_bytes());
    assert_eq!(name.as_flattened(), b"XenVMMXenVMM");
    assert_eq!(runner.hw.rip(), RIP + LENGTH);
}

#[test]
fn cpuid_of_an_application_faults_where_the_guest_asked_for_that() {
    const MISC_FEATURES_ENABLES: u64 = 0x140;
    for (asked, cpl, faults) in [(0, 3, false), (1, 0, false), (1, 3, true)] {
        let mut machine = one_vcpu();
        access_msr(&mut machine, MISC_FEATURES_ENABLES, Some(asked));
        let (runner, pcpu) = &mut machine;
        runner.hw.system.rip = RIP;
        runner.hw.system.segments[SEGMENT_SS].access = cpl << 5;
        let _ = exit::handle(runner, pcpu, VmExit::Cpuid);
        let expected = faults.then_some(Event::PROTECTION);
        assert_eq!(runner.raised, expected, "{asked} at CPL {cpl}");
        assert_eq!(runner.hw.rip() == RIP, faults);
    }
}

#[test]
fn unknown_msr_raises_protection_fault_at_the_instruction() {
    for access in [VmExit::Rdmsr, VmExit::Wrmsr] {
        let (mut runner, mut pcpu) = one_vcpu();
        runner.hw.regs().set_rcx(0x1234_5678);
        let _ = exit::handle(&mut runner, &mut pcpu, access);
        assert_eq!(runner.raised, Some(Event::PROTECTION));
        assert_eq!(runner.hw.rip(), RIP);
    }
}

#[test]
fn hypercall_that_does_not_exist_is_refused() {
    assert_eq!(hypercall(63), (Errno::ENOSYS.to_rax(), RIP + LENGTH));
    assert_eq!(hypercall(u64::MAX), (Errno::ENOSYS.to_rax(), RIP + LENGTH));
}

#[test]
fn hypercall_of_an_application_is_refused() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.system.segments[SEGMENT_SS].access = 3 << 5;
    runner.hw.system.segments[SEGMENT_CS].access |= 3 << 5;
    runner.hw.regs().set_rax(__HYPERVISOR_xen_version);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    assert_eq!(runner.hw.regs().rax(), Errno::EPERM.to_rax());
}

#[test]
fn pointer_to_nowhere_is_refused() {
    let (mut runner, mut pcpu) = one_vcpu();
    let regs = runner.hw.regs();
    regs.set_rax(__HYPERVISOR_sched_op);
    regs.set_rdi(u64::from(guest_abi::sched::SCHEDOP_poll));
    regs.set_rsi(u64::MAX - 1);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    assert_eq!(runner.hw.regs().rax(), Errno::EFAULT.to_rax());
}

#[test]
fn halt_of_the_only_vcpu_with_interrupts_off_is_power_off() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.exits.push_back(VmExit::Hlt);
    assert_eq!(run_loop::run(&mut runner, &mut pcpu), Descheduled::Yield);
    assert_eq!(
        runner.domain.shutdown_reason(),
        Some(ShutdownReason::PowerOff)
    );
}

#[test]
fn vcpu_that_is_taken_down_stops_and_goes_on_when_it_is_up() {
    use hv_hw::sync::atomic::Ordering;
    let (mut runner, mut pcpu) = one_vcpu();
    runner.vcpu().is_up.store(false, Ordering::Release);
    runner.vcpu().request(Requests::UP_OR_DOWN);
    assert_eq!(run_loop::run(&mut runner, &mut pcpu), Descheduled::Waiting);
    assert_eq!(runner.activity, Activity::Down);
    runner.vcpu().is_up.store(true, Ordering::Release);
    runner.vcpu().request(Requests::UP_OR_DOWN);
    runner.reconsider(&mut pcpu);
    assert_eq!(runner.activity, Activity::Ready);
}

#[test]
fn long_mode_keeps_pae() {
    const PAE: u64 = 1 << 5;
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.system.efer = 0x500;
    runner.hw.system.cr0 = 0x8000_0011;
    runner.hw.system.cr4 = PAE;
    let write = VmExit::ControlWrite {
        register: hv_hw::virt::ControlRegister::Cr4,
        value: Some(0),
    };
    let _ = exit::handle(&mut runner, &mut pcpu, write);
    assert_eq!(runner.raised, Some(Event::PROTECTION));
    assert_eq!(runner.hw.system.cr4, PAE);
}

#[test]
fn kick_after_the_wait_began_is_left_for_the_one_who_wakes() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.activity = Activity::Halted;
    runner.vcpu().post_edge(0x40);
    assert_eq!(run_loop::run(&mut runner, &mut pcpu), Descheduled::Waiting);
    assert!(runner.vcpu().take_kick());
    runner.reconsider(&mut pcpu);
    assert_eq!(runner.activity, Activity::Ready);
}

#[test]
fn init_forgets_the_event_in_whose_delivery_it_came() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.interrupted = Some(Event::Interrupt(0x40));
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::ExternalInterrupt(0));
    runner.vcpu().request(Requests::INIT);
    assert_eq!(run_loop::run(&mut runner, &mut pcpu), Descheduled::Waiting);
    runner.vcpu().request_startup(0x10);
    runner.reconsider(&mut pcpu);
    while run_loop::run(&mut runner, &mut pcpu) == Descheduled::Look {}
    assert_eq!(runner.hw.injected, []);
}

#[test]
fn interrupt_whose_delivery_was_cut_short_is_saved_as_pending() {
    const VECTOR: u8 = 0x40;
    let (mut runner, mut pcpu) = one_vcpu();
    runner.vcpu().post_edge(VECTOR);
    let _ = runner.lapic.sync(&runner.vcpu.posted);
    runner.lapic.acknowledge(VECTOR);
    runner.hw.interrupted = Some(Event::Interrupt(VECTOR));
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::ExternalInterrupt(0));
    runner.answer_state(Requests::SAVE_STATE, &mut pcpu);
    let saved = runner.vcpu().state.lock().saved.take().unwrap();
    let (_, page) = saved.lapic.unwrap();
    let has = |first: usize| {
        let at = first + usize::from(VECTOR / 32) * 16;
        page[at..at + 4] == [1, 0, 0, 0]
    };
    assert_eq!(
        (has(0x200), has(0x100)),
        (true, false),
        "requested, in service"
    );
    assert_eq!(runner.interrupted, None);
}

#[test]
fn of_two_startups_the_first_counts() {
    let (runner, _) = one_vcpu();
    let _ = runner.vcpu().take_requests(Requests::all());
    runner.vcpu().request_startup(0x12);
    runner.vcpu().request_startup(0x21);
    let (requests, vector) = runner.vcpu().take_requests(Requests::all());
    assert_eq!((requests, vector), (Requests::STARTUP, 0x12));
}

/// RDMSR, or WRMSR of `value`; what is in EDX:EAX then.
fn access_msr((runner, pcpu): &mut (Runner<FakeVcpu>, Pcpu), msr: u64, value: Option<u64>) -> u64 {
    runner.hw.regs().set_rcx(msr);
    if let Some(value) = value {
        runner.hw.regs().set_edx_eax(value);
    }
    let exit = value.map_or(VmExit::Rdmsr, |_| VmExit::Wrmsr);
    let _ = exit::handle(runner, pcpu, exit);
    assert_eq!(runner.raised, None);
    runner.hw.regs().edx_eax()
}

#[test]
fn written_tsc_runs_on_from_there_and_the_clock_does_not_jump() {
    const TSC: u64 = 0x10;
    const MINUTE: u64 = 60 * 2_000_000_000;
    let mut machine = one_vcpu();
    let clock = |machine: &(Runner<FakeVcpu>, Pcpu)| machine.0.vcpu().clock(&machine.0.domain);
    let old = access_msr(&mut machine, TSC, None) - clock(&machine).tsc_timestamp;
    access_msr(&mut machine, TSC, Some(1 << 60));
    let new = access_msr(&mut machine, TSC, None);
    assert!((1 << 60..(1 << 60) + MINUTE).contains(&new));
    assert!(new.wrapping_sub(clock(&machine).tsc_timestamp) - old < MINUTE);
    assert!(!clock(&machine).is_tsc_stable);
}

#[test]
fn vcpu_that_spins_steps_over_its_pause_and_lets_others_run() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.exits.push_back(VmExit::PauseLoop);
    assert_eq!(run_loop::run(&mut runner, &mut pcpu), Descheduled::Yield);
    assert_eq!(runner.hw.rip(), RIP + LENGTH);
    assert_eq!(runner.activity, Activity::Ready);
}

#[test]
fn cache_flush_of_a_guest_does_nothing_but_end() {
    let (mut runner, mut pcpu) = vcpu_of(domain(7, guest_config(1)));
    // carried out, it would be a fault of this program's
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::CacheFlush);
    assert_eq!(runner.hw.rip(), RIP + LENGTH);
}

#[test]
fn what_is_no_doing_of_the_guests_leaves_it_as_it_was() {
    for exit in [
        VmExit::BusLock,
        VmExit::InstructionTimeout,
        VmExit::Nothing,
        VmExit::Nmi,
    ] {
        let (mut runner, mut pcpu) = one_vcpu();
        let _ = exit::handle(&mut runner, &mut pcpu, exit);
        assert_eq!((runner.hw.rip(), runner.raised), (RIP, None), "{exit:?}");
        assert_eq!(runner.domain.shutdown_reason(), None, "{exit:?}");
    }
}

/// Of two vCPUs that touch a page for the first time together, the second finds it there: it tries again, and its write
/// is not lost to an emulation.
#[test]
fn access_to_what_is_there_by_now_is_tried_again() {
    let (mut runner, mut pcpu) = one_vcpu();
    let _ram = crate::tests::common::give_ram(&runner.domain, 4);
    let fault = |access| {
        VmExit::Stage2Fault(hv_hw::virt::Stage2Fault {
            gpa: hv_core::addr::Gpa::new(0x2000),
            linear: None,
            access,
        })
    };
    let write = hv_hw::virt::Stage2Access::WRITE;
    let next = exit::handle(&mut runner, &mut pcpu, fault(write));
    assert_eq!(next, Next::Resume);
    assert_eq!((runner.raised, runner.hw.rip()), (None, RIP));
}
