//! The local APIC's modes as the core has them: registers in memory in the one, MSRs in the other, who is reached by
//! what, and what the hardware is told.

use crate::domain::vcpu::Requests;
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::vcpu_state::VcpuState;
use crate::exit;
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;
use crate::pcpu::hand_off::HandOff;
use crate::runner::{Activity, Runner, inject, make};
use crate::tests::common::{RIP, domain, fake, give_ram, guest_config, vcpu_of};
use hv_core::addr::{Gpa, Gva};
use hv_core::device::lapic::InterruptStatus;
use hv_core::device::message::LogicalId;
use hv_core::mem::GuestMem;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{ApicAssist, Event, SEGMENT_CS, Stage2Access, Stage2Fault, VcpuHw, VmExit};

type Machine = (Runner<FakeVcpu>, Pcpu);

const APIC_BASE: u32 = 0x1B;
const XAPIC: u64 = 0xFEE0_0800;
const X2APIC: u64 = 0xFEE0_0C00;
const BSP: u64 = 1 << 8;
const PAGE: u64 = 0xFEE0_0000;
const TPR: u64 = 0x80;
const EOI: u64 = 0xB0;
const LDR: u64 = 0xD0;
const SVR: u64 = 0xF0;
const ICR: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const VERSION: u64 = 0x30;
/// Of RBX, in the encoding's order.
const RBX: usize = 3;
/// mov eax, [ebx]
const LOAD: [u8; 2] = [0x8B, 0x03];
/// mov [ebx], eax
const STORE: [u8; 2] = [0x89, 0x03];

/// The first vCPU of a guest of two, in 32-bit code.
fn guest() -> Machine {
    let domain = domain(9, guest_config(2));
    drop(give_ram(&domain, 8));
    let (mut runner, pcpu) = vcpu_of(domain);
    in_32_bit_code(&mut runner);
    (runner, pcpu)
}

fn second_of(first: &Runner<FakeVcpu>, pcpu: &mut Pcpu) -> Runner<FakeVcpu> {
    let hand_off = HandOff {
        domain: first.domain.clone(),
        index: 1,
        parts: VcpuFrames::alloc().unwrap(),
    };
    let mut runner = make::runner(hand_off, pcpu, fake);
    runner.activity = Activity::Ready;
    in_32_bit_code(&mut runner);
    runner
}

fn in_32_bit_code(runner: &mut Runner<FakeVcpu>) {
    let hw = &mut runner.hw;
    hw.system.cr0 = 0x11;
    hw.system.efer = 0;
    hw.system.segments[SEGMENT_CS].access = 0xC09B;
}

/// Executes an instruction of two bytes whose operand is the register at `offset`.
fn access(runner: &mut Runner<FakeVcpu>, pcpu: &mut Pcpu, code: [u8; 2], offset: u64) {
    let at = PAGE + offset;
    {
        let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
        memory.write(Gpa::new(RIP), &code).unwrap();
    }
    runner.hw.system.rip = RIP;
    runner.hw.registers.gpr[RBX] = at;
    let fault = Stage2Fault {
        gpa: Gpa::new(at),
        linear: Some(Gva::new(at)),
        access: if code == LOAD {
            Stage2Access::READ
        } else {
            Stage2Access::WRITE
        },
    };
    let _ = exit::handle(runner, pcpu, VmExit::Stage2Fault(fault));
    assert_eq!((runner.hw.rip(), runner.raised), (RIP + 2, None));
}

fn load(runner: &mut Runner<FakeVcpu>, pcpu: &mut Pcpu, offset: u64) -> u64 {
    access(runner, pcpu, LOAD, offset);
    runner.hw.regs().rax()
}

fn store(runner: &mut Runner<FakeVcpu>, pcpu: &mut Pcpu, offset: u64, value: u64) {
    runner.hw.registers.set_rax(value);
    access(runner, pcpu, STORE, offset);
}

/// WRMSR; the exception that it raised.
fn wrmsr(runner: &mut Runner<FakeVcpu>, pcpu: &mut Pcpu, msr: u32, value: u64) -> Option<Event> {
    runner.hw.registers.set_rcx(u64::from(msr));
    runner.hw.registers.set_edx_eax(value);
    let _ = exit::handle(runner, pcpu, VmExit::Wrmsr);
    runner.raised.take()
}

#[test]
fn vcpu_starts_in_xapic_mode_and_goes_over() {
    let (mut runner, mut pcpu) = guest();
    let (runner, pcpu) = (&mut runner, &mut pcpu);
    assert_eq!(load(runner, pcpu, VERSION), 0x5_0014);
    assert_eq!(wrmsr(runner, pcpu, 0x80F, 0x1FF), Some(Event::PROTECTION));
    store(runner, pcpu, TPR, 0x20);
    assert!(!runner.hw.is_x2apic);
    assert_eq!(wrmsr(runner, pcpu, APIC_BASE, X2APIC | BSP), None);
    assert!(runner.hw.is_x2apic);
    assert_eq!(load(runner, pcpu, VERSION), 0xFFFF_FFFF);
    store(runner, pcpu, TPR, 0x50);
    assert_eq!(runner.lapic.read(0x808, 0), Ok(0x20));
    let back = wrmsr(runner, pcpu, APIC_BASE, XAPIC | BSP);
    assert_eq!(back, Some(Event::PROTECTION));
    assert!(runner.hw.is_x2apic);
    assert_eq!(wrmsr(runner, pcpu, APIC_BASE, PAGE | BSP), None);
    assert!(!runner.hw.is_x2apic);
    assert_eq!(load(runner, pcpu, VERSION), 0xFFFF_FFFF);
    assert_eq!(wrmsr(runner, pcpu, APIC_BASE, XAPIC | BSP), None);
    assert_eq!((load(runner, pcpu, TPR), runner.hw.is_x2apic), (0, false));
}

#[test]
fn apic_cannot_be_moved() {
    let (mut runner, mut pcpu) = guest();
    let moved = wrmsr(&mut runner, &mut pcpu, APIC_BASE, 0xFED0_0800 | BSP);
    assert_eq!(moved, Some(Event::PROTECTION));
    assert_eq!(runner.lapic.base(), XAPIC | BSP);
}

/// By physical and logical destination, between vCPUs in whatever modes; who has not said its logical id has none.
#[test]
fn interrupt_reaches_who_is_meant() {
    let (mut first, mut pcpu) = guest();
    let mut second = second_of(&first, &mut pcpu);
    let (first, second, pcpu) = (&mut first, &mut second, &mut pcpu);
    let id = u64::from(second.vcpu().apic_id);
    for (runner, ldr) in [(&mut *first, 1), (&mut *second, 2)] {
        store(runner, pcpu, SVR, 0x1FF);
        store(runner, pcpu, LDR, ldr << 24);
    }
    let reached = |first: &Runner<FakeVcpu>, second: &Runner<FakeVcpu>| {
        let (first, second) = (first.vcpu().posted.take(), second.vcpu().posted.take());
        [first.edge[1] != 0, second.edge[1] != 0]
    };
    let logical = 1 << 11;
    for (destination, command, expected) in [
        (id, 0, [false, true]),
        (2, logical, [false, true]),
        (3, logical, [true, true]),
        (4, logical, [false, false]),
        (0xFF, 0, [true, true]),
        (0, 3 << 18, [false, true]),
    ] {
        store(first, pcpu, ICR_HIGH, destination << 24);
        store(first, pcpu, ICR, command | 0x41);
        let seen = reached(first, second);
        assert_eq!(seen, expected, "{destination:#x} {command:#x}");
    }
    // a sender in the other mode
    assert_eq!(wrmsr(first, pcpu, APIC_BASE, X2APIC | BSP), None);
    for (destination, command, expected) in [
        (id, 0, [false, true]),
        (1, logical, [true, false]),
        (2, logical, [false, true]),
        (0xFFFF_FFFF, 0, [true, true]),
    ] {
        assert_eq!(
            wrmsr(first, pcpu, 0x830, destination << 32 | command | 0x41),
            None
        );
        let seen = reached(first, second);
        assert_eq!(seen, expected, "{destination:#x} {command:#x}");
    }
    second.vcpu().request(Requests::INIT);
    second.reconsider(pcpu);
    assert_eq!(second.vcpu().apic_address().logical, LogicalId::RESET);
}

/// The CPU that delivers interrupts ends those of x2APIC mode itself; of this end it has to be told.
#[test]
fn end_of_interrupt_in_memory_is_told_to_the_cpu_that_delivers() {
    let (mut runner, mut pcpu) = guest();
    let (runner, pcpu) = (&mut runner, &mut pcpu);
    runner.hw.assist = ApicAssist::Delivery;
    let in_service = |vector| InterruptStatus {
        requested: 0,
        in_service: vector,
    };
    store(runner, pcpu, SVR, 0x1FF);
    for vector in [0x41, 0x83] {
        runner.vcpu().post_edge(vector);
        let _ = inject::prepare(runner);
        // the CPU delivers it
        assert_eq!(runner.hw.status.requested, vector);
        runner.lapic.acknowledge(vector);
        runner.hw.status = in_service(vector);
    }
    for left in [0x41, 0, 0] {
        store(runner, pcpu, EOI, 0);
        assert_eq!(runner.hw.status, in_service(left));
    }
}

#[test]
fn task_priority_in_memory_holds_interrupts_off() {
    let (mut runner, mut pcpu) = guest();
    let (runner, pcpu) = (&mut runner, &mut pcpu);
    runner.hw.system.rflags |= 1 << 9;
    store(runner, pcpu, SVR, 0x1FF);
    store(runner, pcpu, TPR, 0x50);
    runner.vcpu().post_edge(0x41);
    let _ = inject::prepare(runner);
    assert_eq!(runner.hw.injected, []);
    store(runner, pcpu, TPR, 0x30);
    let _ = inject::prepare(runner);
    assert_eq!(runner.hw.injected, [Event::Interrupt(0x41)]);
}

/// A toolstack gives a vCPU its mode: hardware, registers and destinations follow.
#[test]
fn mode_comes_with_a_loaded_state() {
    let (mut source, mut pcpu) = guest();
    let (mut runner, _other) = guest();
    let (source, runner, pcpu) = (&mut source, &mut runner, &mut pcpu);
    store(source, pcpu, LDR, 4 << 24);
    for base in [XAPIC | BSP, X2APIC | BSP] {
        assert_eq!(wrmsr(source, pcpu, APIC_BASE, base), None);
        let state = saved(source, pcpu);
        runner.vcpu().set_state(state);
        runner.reconsider(pcpu);
        assert_eq!(runner.lapic.base(), base);
        assert_eq!(runner.hw.is_x2apic, base == X2APIC | BSP);
        let logical = source.vcpu().apic_address().logical;
        assert_eq!(runner.vcpu().apic_address().logical, logical);
    }
}

fn saved(runner: &mut Runner<FakeVcpu>, pcpu: &mut Pcpu) -> VcpuState {
    assert!(runner.vcpu().take_state().is_none());
    runner.reconsider(pcpu);
    *runner.vcpu().take_state().unwrap()
}

/// INIT and STARTUP by registers in memory, as a kernel starts its other CPUs.
#[test]
fn vcpu_is_started_by_registers_in_memory() {
    let (mut first, mut pcpu) = guest();
    let mut second = second_of(&first, &mut pcpu);
    second.activity = Activity::Waiting;
    let (first, pcpu) = (&mut first, &mut pcpu);
    let id = u64::from(second.vcpu().apic_id);
    store(first, pcpu, ICR_HIGH, id << 24);
    for command in [0xC500, 0x8500, 0x69A, 0x69A] {
        store(first, pcpu, ICR, command);
        second.reconsider(pcpu);
    }
    assert_eq!(second.activity, Activity::Ready);
    assert_eq!(second.hw.system.segments[SEGMENT_CS].base, 0x9A000);
    assert_eq!(second.lapic.base(), XAPIC);
}
