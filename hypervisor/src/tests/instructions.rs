//! Exits of a CPU that says neither how long the instruction was nor what its operands were: they are found in memory,
//! where another vCPU may have put something else meanwhile.

use crate::domain::ShutdownReason;
use crate::exit;
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;
use crate::runner::Runner;
use crate::tests::common::{RIP, code, domain, give_ram, guest_config, vcpu_of};
use guest_abi::sched::SCHEDOP_shutdown;
use guest_abi::xen::__HYPERVISOR_sched_op;
use hv_core::addr::Gpa;
use hv_core::mem::GuestMem;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{
    ControlRegister, Event, GuestRegs, IoExit, SEGMENT_CS, SEGMENT_LONG, SystemRegs, TaskSource,
    TaskSwitch, VcpuHw, VmExit,
};

/// Of the general-purpose registers, in the encoding's order.
const RBX: usize = 3;
const RSP: usize = 4;

const fn port(port: u16, size: u8, is_in: bool) -> VmExit {
    VmExit::Io(IoExit {
        port,
        size,
        is_in,
        is_string: false,
    })
}

const PRINTS: VmExit = VmExit::Io(IoExit {
    port: 0xE9,
    size: 1,
    is_in: false,
    is_string: true,
});

const fn control(register: ControlRegister) -> VmExit {
    VmExit::ControlWrite {
        register,
        value: None,
    }
}

/// Every exit whose instruction is stepped over, each with what the guest has in RAX, RBX, RCX, RDX and RDI.
const EXITS: [(VmExit, [u64; 5]); 20] = [
    (VmExit::Cpuid, [0x4000_0000, 0, 0, 0, 0]),
    (VmExit::Hlt, [0; 5]),
    (VmExit::ReadTsc { with_aux: false }, [0; 5]),
    (VmExit::ReadTsc { with_aux: true }, [0; 5]),
    (VmExit::Hypercall, [17, 0, 0, 0, 0]),
    (VmExit::Hypercall, [63, 0, 0, 0, 0]),
    (VmExit::Rdmsr, [0, 0, 0x1B, 0, 0]),
    (VmExit::Wrmsr, [0x0007_0406, 0, 0x277, 0, 0]),
    (VmExit::Wrmsr, [0xFEE0_0800, 0, 0x1B, 0, 0]),
    (VmExit::Xsetbv, [1, 0, 0, 0, 0]),
    (VmExit::CacheFlush, [0; 5]),
    (VmExit::PauseLoop, [0; 5]),
    (port(0x60, 4, true), [0x1234, 0, 0, 0x60, 0]),
    (port(0xE9, 1, false), [0x41, 0, 0, 0xE9, 0]),
    (port(0x61, 2, false), [0x41, 0, 0, 0x61, 0]),
    (PRINTS, [0, 0, 3, 0xE9, 0]),
    (control(ControlRegister::Cr0), [0, 0x8000_0033, 0, 0, 0]),
    (control(ControlRegister::Cr4), [0, 0x20, 0, 0, 0]),
    (control(ControlRegister::Cr8), [0, 7, 0, 0, 0]),
    (VmExit::Cr8Read { destination: None }, [0; 5]),
];

/// 64-bit code at [`RIP`], without paging, of a guest with a TSC that stands still.
fn guest(code: &[u8]) -> (Runner<FakeVcpu>, Pcpu) {
    let domain = domain(9, guest_config(1));
    drop(give_ram(&domain, 8));
    let (mut runner, pcpu) = vcpu_of(domain);
    write(&runner, RIP, code);
    runner.hw.instruction_length = None;
    runner.hw.system.cr4 = 0x20;
    runner.lapic.set_cr8(5).unwrap();
    (runner, pcpu)
}

fn write(runner: &Runner<FakeVcpu>, gpa: u64, bytes: &[u8]) {
    let mut memory = DomainMemory::lock(&runner.domain, &runner.tlb);
    memory.write(Gpa::new(gpa), bytes).unwrap();
}

fn set_registers(runner: &mut Runner<FakeVcpu>, [rax, rbx, rcx, rdx, rdi]: [u64; 5]) {
    let regs = &mut runner.hw.registers;
    for (register, value) in [(0, rax), (RBX, rbx), (1, rcx), (2, rdx), (7, rdi)] {
        regs.gpr[register] = value;
    }
    regs.set_rsi(0x4000);
}

/// What an exit can change of a guest that it does not end.
fn state(runner: &Runner<FakeVcpu>) -> (GuestRegs, SystemRegs, u64, u8) {
    let hw = &runner.hw;
    (
        hw.registers,
        hw.system,
        runner.lapic.base(),
        runner.lapic.cr8(),
    )
}

/// The exit as a CPU reports it that says all of it.
fn with_operands(exit: VmExit, registers: &GuestRegs) -> VmExit {
    match exit {
        VmExit::ControlWrite { register, .. } => VmExit::ControlWrite {
            register,
            value: Some(registers.gpr[RBX]),
        },
        VmExit::Cr8Read { .. } => VmExit::Cr8Read {
            destination: Some(3),
        },
        other => other,
    }
}

#[test]
fn exits_come_to_the_same_whether_the_cpu_says_it_all_or_nothing() {
    let _clock = hv_hw::hosted::Clock::take_over();
    for (exit, registers) in EXITS {
        let code = code::of(&exit, false).unwrap();
        let run = |is_told: bool| {
            let (mut runner, mut pcpu) = guest(&code);
            set_registers(&mut runner, registers);
            let mut exit = exit;
            if is_told {
                runner.hw.instruction_length = Some(code.len() as u64);
                exit = with_operands(exit, &runner.hw.registers);
            }
            let next = exit::handle(&mut runner, &mut pcpu, exit);
            let end = (runner.domain.shutdown_reason(), runner.raised);
            (state(&runner), next, runner.activity, end)
        };
        let (told, untold) = (run(true), run(false));
        assert_eq!(told, untold, "{exit:?}");
        let length = match exit {
            // this machine has no XSAVE
            VmExit::Xsetbv => 0,
            _ => code.len() as u64,
        };
        assert_eq!(untold.0.1.rip, RIP + length, "{exit:?}");
    }
}

/// Memory has another instruction by now, none, or is not there: nothing of the exit is done, and the guest executes
/// what there is. Where that comes to the same exit again, it is a fault of the guest's.
#[test]
fn exit_whose_instruction_is_gone_does_nothing() {
    for (exit, registers) in EXITS {
        for (other, rip) in [
            (&[0x90, 0x90, 0x90][..], RIP),
            (&[0xF0, 0x0F, 0xA2], RIP),
            (&[0x0F, 0x04], RIP),
            (&[0x0F, 0x22, 0xD0], RIP),
            (&[], 0x10_0000),
        ] {
            let (mut runner, mut pcpu) = guest(other);
            set_registers(&mut runner, registers);
            runner.hw.system.rip = rip;
            let before = state(&runner);
            let _ = exit::handle(&mut runner, &mut pcpu, exit);
            assert_eq!(state(&runner), before, "{exit:?}, {other:x?}");
            assert_eq!(runner.raised, None, "{exit:?}, {other:x?}");
            assert_eq!(runner.domain.shutdown_reason(), None, "{exit:?}");
            let _ = exit::handle(&mut runner, &mut pcpu, exit);
            assert_eq!(state(&runner), before, "{exit:?}, {other:x?}");
            assert_eq!(runner.raised, Some(Event::PROTECTION), "{exit:?}");
        }
    }
}

#[test]
fn hypercall_that_is_gone_does_not_end_its_domain() {
    let (mut runner, mut pcpu) = guest(&[0x0F, 0xA2]);
    let shutdown = u64::from(SCHEDOP_shutdown);
    set_registers(&mut runner, [__HYPERVISOR_sched_op, 0, 0, 0, shutdown]);
    runner.hw.registers.set_rsi(0x4000);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    assert_eq!(runner.domain.shutdown_reason(), None);
    // vmmcall behind a prefix
    write(&runner, RIP, &[0x3E, 0x0F, 0x01, 0xD9]);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    assert_eq!(
        runner.domain.shutdown_reason(),
        Some(ShutdownReason::PowerOff)
    );
}

/// A second miss counts only where the guest has done nothing between.
#[test]
fn guest_that_went_on_is_not_held_to_an_earlier_miss() {
    let (mut runner, mut pcpu) = guest(&[0x90]);
    for _ in 0..3 {
        runner.hw.system.rip = RIP;
        write(&runner, RIP, &[0x90]);
        let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Cpuid);
        assert_eq!((runner.raised, runner.hw.rip()), (None, RIP));
        write(&runner, RIP, &[0x0F, 0xA2]);
        let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Cpuid);
        assert_eq!((runner.raised, runner.hw.rip()), (None, RIP + 2));
    }
}

#[test]
fn instruction_is_found_wherever_it_lies_in_its_page() {
    for offset in (0..16).chain(0xFF0..0x1000) {
        let (mut runner, mut pcpu) = guest(&[]);
        // the next page is not there
        let at = if offset > 0xF00 { 0x7000 } else { RIP } + offset;
        for (exit, code) in [
            (VmExit::Hlt, &[0xF4][..]),
            (VmExit::Rdmsr, &[0x0F, 0x32]),
            (VmExit::ReadTsc { with_aux: true }, &[0x0F, 0x01, 0xF9]),
            (VmExit::Cpuid, &[0x64, 0x66, 0x0F, 0xA2]),
        ] {
            if at + code.len() as u64 > 0x8000 {
                continue;
            }
            write(&runner, at, code);
            set_registers(&mut runner, [1, 0, 0, 0, 0]);
            if exit == VmExit::Rdmsr {
                runner.hw.registers.set_rcx(0x1B);
            }
            runner.hw.system.rip = at;
            let _ = exit::handle(&mut runner, &mut pcpu, exit);
            let expected = at + code.len() as u64;
            assert_eq!((runner.raised, runner.hw.rip()), (None, expected));
        }
    }
}

/// Real mode: CS has a base, and offsets start over.
#[test]
fn code_of_16_bits_lies_where_its_segment_begins() {
    let (mut runner, mut pcpu) = guest(&[]);
    write(&runner, 0x2010, &[0x0F, 0xA2]);
    runner.hw.system.efer = 0;
    runner.hw.system.segments[SEGMENT_CS].access = 0x9B;
    runner.hw.system.segments[SEGMENT_CS].base = 0xFFFF_F010;
    runner.hw.system.rip = 0x3000;
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Cpuid);
    assert_eq!((runner.raised, runner.hw.rip()), (None, 0x3002));
}

#[test]
fn every_register_can_be_the_operand() {
    const VALUE: u64 = 0x6A0;
    for number in 0..16_u8 {
        let (rex, modrm) = (0x40 | number >> 3, 0xE0 | number & 7);
        let general = usize::from(number);
        let (mut runner, mut pcpu) = guest(&[rex, 0x0F, 0x22, modrm]);
        if general == RSP {
            runner.hw.system.rsp = VALUE;
        } else {
            runner.hw.registers.gpr[general] = VALUE;
        }
        let write_cr4 = control(ControlRegister::Cr4);
        let _ = exit::handle(&mut runner, &mut pcpu, write_cr4);
        assert_eq!(runner.hw.system.cr4, VALUE, "{general}");
        assert_eq!(runner.hw.rip(), RIP + 4);
    }
}

/// MOV RSP, CR8 as both kinds of CPU report it: RSP is not among the registers that we keep.
#[test]
fn task_priority_can_be_read_into_the_stack_pointer() {
    for destination in [None, Some(4)] {
        let (mut runner, mut pcpu) = guest(&[0x44, 0x0F, 0x20, 0xC4]);
        if destination.is_some() {
            runner.hw.instruction_length = Some(4);
        }
        let read = VmExit::Cr8Read { destination };
        let _ = exit::handle(&mut runner, &mut pcpu, read);
        assert_eq!((runner.hw.system.rsp, runner.hw.rip()), (5, RIP + 4));
    }
}

#[test]
fn clts_and_lmsw_are_writes_of_what_the_guest_sees() {
    for (code, before, after) in [
        (&[0x0F, 0x06][..], 0x19, 0x11),
        // lmsw %bx ; lmsw (%rdi)
        (&[0x0F, 0x01, 0xF3], 0x19, 0x17),
        (&[0x0F, 0x01, 0x37], 0x11, 0x1B),
    ] {
        let (mut runner, mut pcpu) = guest(code);
        write(&runner, 0x3000, &[0xFA, 0xFF]);
        set_registers(&mut runner, [0, 0xFFF6, 0, 0, 0x3000]);
        runner.hw.system.cr0 = before;
        let cr0 = control(ControlRegister::Cr0);
        let _ = exit::handle(&mut runner, &mut pcpu, cr0);
        assert_eq!(runner.hw.system.cr0, after, "{code:x?}");
        assert_eq!(runner.hw.rip(), RIP + code.len() as u64);
    }
    // lmsw of what is not there
    let (mut runner, mut pcpu) = guest(&[0x0F, 0x01, 0x37]);
    set_registers(&mut runner, [0, 0, 0, 0, 1 << 40]);
    let _ = exit::handle(&mut runner, &mut pcpu, control(ControlRegister::Cr0));
    assert_eq!((runner.raised, runner.hw.rip()), (None, RIP));
}

/// A move to another register than the one that exited is another instruction.
#[test]
fn write_of_another_control_register_is_not_taken_for_it() {
    for (code, register) in [
        (&[0x0F, 0x22, 0xE3][..], ControlRegister::Cr0),
        (&[0x0F, 0x22, 0xC3], ControlRegister::Cr4),
        (&[0x0F, 0x06], ControlRegister::Cr8),
        (&[0x0F, 0x20, 0xE3], ControlRegister::Cr4),
    ] {
        let (mut runner, mut pcpu) = guest(code);
        set_registers(&mut runner, [0, 0x11, 0, 0, 0]);
        let before = state(&runner);
        let _ = exit::handle(&mut runner, &mut pcpu, control(register));
        assert_eq!(state(&runner), before, "{code:x?}");
    }
}

/// 16-bit code prints by SI and CX, whatever their upper halves hold.
#[test]
fn string_output_of_16_bit_code_goes_by_16_bit_registers() {
    const UPPER: u64 = 0xABCD_0000;
    for length in [None, Some(2)] {
        let (mut runner, mut pcpu) = guest(&[0xF3, 0x6E]);
        runner.hw.instruction_length = length;
        runner.hw.system.efer = 0;
        runner.hw.system.segments[SEGMENT_CS].access &= !SEGMENT_LONG;
        let regs = &mut runner.hw.registers;
        regs.set_rcx(UPPER | 3);
        regs.set_rsi(UPPER | 0x4000);
        let _ = exit::handle(&mut runner, &mut pcpu, PRINTS);
        let regs = runner.hw.registers;
        assert_eq!((regs.rcx(), regs.rsi()), (UPPER, UPPER | 0x4003));
        assert_eq!((runner.raised, runner.hw.rip()), (None, RIP + 2));
    }
}

/// Where the offset starts over in the middle, the instruction is executed again from there.
#[test]
fn string_output_goes_on_where_its_offset_starts_over() {
    let (mut runner, mut pcpu) = guest(&[0x67, 0xF3, 0x6E]);
    runner.hw.system.efer = 0;
    runner.hw.system.segments[SEGMENT_CS].access = 0xC09B;
    write(&runner, RIP, &[0x67, 0xF3, 0x6E]);
    // DS begins where the offset of 64 KiB less one is the last byte of RAM
    runner.hw.system.segments[3].base = 0xFFFF_7FFE;
    runner.hw.registers.set_rcx(6);
    runner.hw.registers.set_rsi(0xFFFE);
    let _ = exit::handle(&mut runner, &mut pcpu, PRINTS);
    let regs = runner.hw.registers;
    assert_eq!((regs.rcx(), regs.rsi()), (4, 0));
    assert_eq!((runner.raised, runner.hw.rip()), (None, RIP));
}

/// A task switch that is not done leaves the guest as it was, and the event that came by a gate is still due.
#[test]
fn task_switch_whose_instruction_is_gone_does_nothing() {
    for source in [TaskSource::Call, TaskSource::Jump, TaskSource::Iret] {
        let (mut runner, mut pcpu) = guest(&[0x90, 0x90]);
        runner.hw.system.efer = 0;
        let before = state(&runner);
        let switch = VmExit::TaskSwitch(TaskSwitch {
            selector: 0x20,
            source,
            length: None,
        });
        for raised in [None, Some(Event::PROTECTION)] {
            let _ = exit::handle(&mut runner, &mut pcpu, switch);
            assert_eq!(state(&runner), before, "{source:?}");
            assert_eq!(runner.raised, raised, "{source:?}");
        }
    }
}
