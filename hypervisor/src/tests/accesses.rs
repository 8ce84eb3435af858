//! What a guest gets where it touches memory that it has not: all ones, a write that goes nowhere, or #GP; never its
//! end.

use crate::exit;
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;
use crate::runner::{Runner, inject};
use crate::tests::common::{RIP, domain, give_ram, guest_config, vcpu_of};
use hv_core::addr::{Gpa, Gva};
use hv_core::mem::GuestMem;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{
    Event, IoExit, SEGMENT_CS, SEGMENT_SS, Stage2Access, Stage2Fault, VcpuHw, VmExit,
};

/// Where a guest of these tests has nothing.
const NOWHERE: u64 = 0x4000_0000;
/// Of RBX, in the encoding's order.
const RBX: usize = 3;

/// 32-bit code of a guest, at [`RIP`], whose RBX and RDI point to nothing.
fn guest(code: &[u8]) -> (Runner<FakeVcpu>, Pcpu) {
    let domain = domain(9, guest_config(1));
    drop(give_ram(&domain, 8));
    let (mut runner, pcpu) = vcpu_of(domain);
    write(&runner, RIP, code);
    let hw = &mut runner.hw;
    hw.system.cr0 = 0x11;
    hw.system.efer = 0;
    hw.system.segments[SEGMENT_CS].access = 0xC09B;
    hw.registers.gpr[RBX] = NOWHERE;
    hw.registers.set_rdi(NOWHERE);
    (runner, pcpu)
}

fn write(runner: &Runner<FakeVcpu>, gpa: u64, bytes: &[u8]) {
    let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
    memory.write(Gpa::new(gpa), bytes).unwrap();
}

/// An access of an instruction to [`NOWHERE`].
fn fault(access: Stage2Access) -> Stage2Fault {
    Stage2Fault {
        gpa: Gpa::new(NOWHERE),
        linear: Some(Gva::new(NOWHERE)),
        access,
    }
}

fn touch((runner, pcpu): &mut (Runner<FakeVcpu>, Pcpu), fault: Stage2Fault) {
    let _ = exit::handle(runner, pcpu, VmExit::Stage2Fault(fault));
}

/// mov eax, [ebx]
const LOAD: [u8; 2] = [0x8B, 0x03];

#[test]
fn load_from_nowhere_reads_all_ones() {
    let mut machine = guest(&LOAD);
    touch(&mut machine, fault(Stage2Access::READ));
    let hw = &mut machine.0.hw;
    assert_eq!((hw.regs().rax(), hw.rip()), (0xFFFF_FFFF, RIP + 2));
    assert_eq!(machine.0.raised, None);
}

#[test]
fn violation_in_an_events_delivery_is_no_access_of_the_instruction() {
    for event in [Event::Interrupt(0x40), Event::Nmi, Event::PROTECTION] {
        let mut machine = guest(&LOAD);
        machine.0.hw.interrupted = Some(event);
        touch(&mut machine, fault(Stage2Access::READ));
        let (runner, _) = &mut machine;
        assert_eq!((runner.hw.regs().rax(), runner.hw.rip()), (0, RIP));
        assert_eq!(runner.raised, Some(Event::PROTECTION));
        assert_eq!(runner.domain.shutdown_reason(), None);
    }
}

/// An interrupt table where nothing is: no exception can be delivered either.
#[test]
fn delivery_that_faults_each_time_ends_in_a_triple_fault() {
    let mut machine = guest(&LOAD);
    let mut event = Event::Interrupt(0x40);
    let mut delivered = Vec::new();
    while machine.0.domain.shutdown_reason().is_none() {
        machine.0.hw.interrupted = Some(event);
        touch(&mut machine, fault(Stage2Access::READ));
        let _ = inject::prepare(&mut machine.0);
        if let Some(next) = machine.0.hw.injected.pop() {
            event = next;
            delivered.push(next);
        }
    }
    assert_eq!(delivered, [Event::PROTECTION, Event::DOUBLE_FAULT]);
}

#[test]
fn access_to_another_address_than_the_operands_is_not_emulated() {
    let mut machine = guest(&LOAD);
    let fault = Stage2Fault {
        linear: Some(Gva::new(NOWHERE + 4)),
        ..fault(Stage2Access::READ)
    };
    touch(&mut machine, fault);
    assert_eq!(machine.0.hw.regs().rax(), 0);
    assert_eq!(machine.0.raised, Some(Event::PROTECTION));
}

#[test]
fn walk_or_fetch_through_nothing_is_a_protection_fault() {
    for access in [
        Stage2Access::READ | Stage2Access::WALK,
        Stage2Access::FETCH,
        Stage2Access::FETCH | Stage2Access::PRESENT,
        Stage2Access::WRITE | Stage2Access::PRESENT,
    ] {
        let mut machine = guest(&LOAD);
        touch(&mut machine, fault(access));
        assert_eq!(machine.0.raised, Some(Event::PROTECTION), "{access:?}");
        assert_eq!(machine.0.domain.shutdown_reason(), None);
    }
}

/// Every opcode of one and two bytes with an operand in memory: it is emulated, or refused, and the guest lives.
#[test]
fn no_instruction_that_touches_nothing_ends_its_domain() {
    let mut machine = guest(&LOAD);
    let mut emulated = 0;
    for (prefix, escape) in [
        (&[][..], &[][..]),
        (&[0x66], &[]),
        (&[0xF3], &[]),
        (&[], &[0x0F]),
        (&[0x66], &[0x0F]),
        (&[], &[0x0F, 0x38]),
        (&[0xF0], &[0x0F]),
    ] {
        for (opcode, extension) in (0..=255).flat_map(|op| (0..8).map(move |ext| (op, ext))) {
            // [ebx], and an immediate
            let code = [prefix, escape, &[opcode, extension << 3 | 3, 1, 2, 3, 4]].concat();
            write(&machine.0, RIP, &code);
            machine.0.hw.system.rip = RIP;
            machine.0.raised = None;
            touch(&mut machine, fault(Stage2Access::READ));
            let (runner, _) = &mut machine;
            runner.hw.registers.gpr[RBX] = NOWHERE;
            runner.hw.registers.set_rdi(NOWHERE);
            let has_moved = runner.hw.rip() != RIP || runner.raised.is_none();
            emulated += u32::from(has_moved);
            let is_refused = runner.raised == Some(Event::PROTECTION);
            assert!(has_moved != is_refused, "{code:x?}");
            assert_eq!(runner.domain.shutdown_reason(), None, "{code:x?}");
        }
    }
    assert!(emulated > 450, "{emulated} are emulated");
}

/// As on a CPU that does not know the linear address of an access: the operand is the one that leads to the physical
/// one.
#[test]
fn access_without_a_linear_address_is_told_by_the_physical_one() {
    for (gpa, is_emulated) in [(NOWHERE, true), (NOWHERE + 4, false)] {
        let mut machine = guest(&LOAD);
        let fault = Stage2Fault {
            gpa: Gpa::new(gpa),
            linear: None,
            ..fault(Stage2Access::READ)
        };
        touch(&mut machine, fault);
        let has_moved = machine.0.hw.rip() == RIP + 2;
        assert_eq!(
            (has_moved, machine.0.raised.is_none()),
            (is_emulated, is_emulated)
        );
    }
}

/// A guest that fills what it has not goes on, one repetition an exit.
#[test]
fn repeated_store_to_nowhere_is_executed_again_until_it_is_done() {
    // rep stosd
    let mut machine = guest(&[0xF3, 0xAB]);
    machine.0.hw.registers.set_rcx(3);
    for at in [NOWHERE, NOWHERE + 4, NOWHERE + 8] {
        assert_eq!(machine.0.hw.rip(), RIP);
        let fault = Stage2Fault {
            linear: Some(Gva::new(at)),
            ..fault(Stage2Access::WRITE)
        };
        touch(&mut machine, fault);
    }
    let hw = &mut machine.0.hw;
    assert_eq!((hw.registers.rcx(), hw.rip()), (0, RIP + 2));
    assert_eq!(machine.0.raised, None);
}

/// A process that was given the port prints what it may read, and no page of its kernel's.
#[test]
fn process_prints_its_own_pages_only() {
    const PAGES: [(u64, u64); 2] = [(4, 3), (5, 7)];
    const OUTSB: u64 = 0x5100;
    let mut machine = guest(&[]);
    let (runner, _) = &mut machine;
    write(runner, OUTSB, &[0x6E]);
    // tables of 32-bit paging in frames 1 and 2
    write(runner, 0x1000, &0x2007_u32.to_le_bytes());
    for (frame, rights) in PAGES {
        let entry = u32::try_from((frame << 12) | rights).unwrap();
        write(runner, 0x2000 + frame * 4, &entry.to_le_bytes());
    }
    runner.hw.system.cr0 = 0x8000_0011;
    runner.hw.system.cr3 = 0x1000;
    for (cpl, frame, may) in [(3, 4, false), (3, 5, true), (0, 4, true)] {
        let (runner, pcpu) = &mut machine;
        runner.raised = None;
        runner.hw.system.segments[SEGMENT_SS].access = cpl << 5;
        let output = IoExit {
            port: 0xE9,
            size: 1,
            is_in: false,
            is_string: true,
        };
        runner.hw.instruction_length = Some(1);
        runner.hw.system.rip = OUTSB;
        runner.hw.registers.set_rsi(frame << 12);
        let _ = exit::handle(runner, pcpu, VmExit::Io(output));
        assert_eq!(runner.raised.is_none(), may, "CPL {cpl}, frame {frame}");
    }
}
