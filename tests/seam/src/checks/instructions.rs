//! Instructions that exit: the exit, where it stands, how long the instruction is, and that it goes on behind it.

use hv_hw::insn;
use hv_hw::virt::{ApicAssist, Backend, ControlRegister, SystemSet, VcpuHw, VmExit, Waits};

use crate::guest::{Guest, TSC_OFFSET};
use crate::layout::{self, CR4_OSXSAVE, DATA};
use crate::report::{Check, Verdict};
use crate::start::Bench;
use crate::{check, check_eq, code, skip};

pub(super) fn checks<B: Backend>() -> &'static [Check<B>] {
    const {
        &[
            Check::new("instruction_cpuid", cpuid),
            Check::new("instruction_registers", registers),
            Check::new("instruction_prefixed", prefixed),
            Check::new("instruction_hypercall", hypercall),
            Check::new("instruction_halt_in_shadow", halt_in_shadow),
            Check::new("instruction_xsetbv", xsetbv),
            Check::new("instruction_cr4", cr4),
            Check::new("instruction_cr8", cr8),
            Check::new("instruction_cr8_threshold", cr8_threshold),
            Check::new("instruction_not_offered", not_offered),
            Check::new("instruction_cache_flush", cache_flush),
            Check::new("instruction_tsc", tsc),
        ]
    }
}

fn cpuid<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("mov eax, 0x1234", "mov ecx, 5", "cpuid", "hlt"));
    check_eq!(exit, VmExit::Cpuid, "the exit");
    check_eq!(guest.at(), 10, "where");
    let regs = guest.regs();
    check_eq!((regs.rax(), regs.rcx()), (0x1234, 5), "the operands");
    guest.step_over(2)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 12)
}

/// All registers reach the guest, and come back.
fn registers<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    for (index, value) in (0..).zip(&mut guest.regs().gpr) {
        *value = 0x1111_2222_3333_0000 + index;
    }
    let exit = guest.run(code!(
        "mov [0x20000], rax",
        "mov [0x20008], rcx",
        "mov [0x20010], rdx",
        "mov [0x20018], rbx",
        "mov [0x20028], rbp",
        "mov [0x20030], rsi",
        "mov [0x20038], rdi",
        "mov [0x20040], r8",
        "mov [0x20048], r9",
        "mov [0x20050], r10",
        "mov [0x20058], r11",
        "mov [0x20060], r12",
        "mov [0x20068], r13",
        "mov [0x20070], r14",
        "mov [0x20078], r15",
        "not rax; not rcx; not rdx; not rbx; not rbp; not rsi; not rdi; not r8",
        "not r9; not r10; not r11; not r12; not r13; not r14; not r15; hlt",
    ));
    check_eq!(exit, VmExit::Hlt, "the exit");
    // what has index 4 is RSP, which is not among them
    for (index, back) in (0..).zip(guest.regs().gpr) {
        let value = 0x1111_2222_3333_0000 + index;
        if index != 4 {
            let inside = guest.word(DATA + index * 8);
            check_eq!(inside, value, "register {index} in the guest");
            check_eq!(back, !value, "register {index} after the exit");
        }
    }
    Ok(())
}

/// A prefix belongs to the instruction's length.
fn prefixed<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!(
        ".byte 0x66, 0x48, 0x0f, 0xa2",
        ".byte 0xf3, 0xf4",
        "hlt"
    ));
    check_eq!(exit, VmExit::Cpuid, "the exit");
    guest.step_over(4)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 4)?;
    guest.step_over(2)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 6)
}

fn hypercall<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let [first, second, third] = bench.features.hypercall;
    let mut guest = Guest::new(bench);
    let exit = guest.run(&[first, second, third, 0xF4]);
    check_eq!(exit, VmExit::Hypercall, "the exit");
    check_eq!(guest.at(), 0, "where");
    guest.step_over(3)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 3)
}

/// HLT right after STI: interrupts are open once it is stepped over, and not before.
fn halt_in_shadow<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("sti", "hlt", "hlt"));
    guest.expect_halt(exit, 1)?;
    let vcpu = guest.vcpu();
    check!(!vcpu.interrupts_open(), "the shadow of STI is not seen");
    guest.step_over(1)?;
    let vcpu = guest.vcpu();
    check!(
        vcpu.interrupts_open(),
        "the shadow outlives its instruction"
    );
    let exit = guest.enter();
    guest.expect_halt(exit, 2)
}

fn xsetbv<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    if bench.extended.xcr0 == 0 {
        skip!("there is no XSAVE");
    }
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::CR4, |regs| regs.cr4 |= CR4_OSXSAVE);
    let exit = guest.run(code!(
        "mov eax, 3",
        "xor edx, edx",
        "xor ecx, ecx",
        "xsetbv",
        "mov eax, -1",
        "mov edx, -1",
        "xgetbv",
        "hlt"
    ));
    check_eq!(exit, VmExit::Xsetbv, "the exit");
    check_eq!(guest.regs().edx_eax(), 3, "the operand");
    guest.set(SystemSet::XCR0, |regs| regs.xcr0 = 3);
    guest.step_over(3)?;
    let exit = guest.enter();
    check_eq!(exit, VmExit::Hlt, "the exit after it");
    check_eq!(guest.regs().edx_eax(), 3, "XCR0 as the guest reads it");
    check_eq!(guest.system(SystemSet::XCR0).xcr0, 3, "XCR0");
    Ok(())
}

/// A bit of CR4 that is not offered exits; one that is may.
fn cr4<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const PGE: u64 = 1 << 7;
    const PCE: u64 = 1 << 8;
    let mut guest = Guest::new(bench);
    let code = code!(
        "mov rax, cr4",
        "or rax, rbx",
        "mov cr4, rax",
        "mov rcx, cr4",
        "hlt"
    );
    for (bit, is_offered) in [(PGE, true), (PCE, false)] {
        let before = guest.system(SystemSet::CR4).cr4;
        guest.regs().set_rbx(bit);
        let mut exit = guest.run(code);
        if let VmExit::ControlWrite { register, value } = exit {
            check_eq!(register, ControlRegister::Cr4, "the register");
            let is_right = value.is_none_or(|value| value == before | bit);
            check!(is_right, "the value is {value:x?}");
            check_eq!(guest.at(), 6, "where");
            if is_offered {
                guest.set(SystemSet::CR4, |regs| regs.cr4 |= bit);
            }
            guest.step_over(3)?;
            exit = guest.enter();
        } else {
            check!(is_offered, "bit {bit:x} is set without an exit: {exit:x?}");
        }
        guest.expect_halt(exit, 12)?;
        let after = before | if is_offered { bit } else { 0 };
        check_eq!(guest.regs().rcx(), after, "CR4 as the guest reads it");
        check_eq!(guest.system(SystemSet::CR4).cr4, after, "CR4");
    }
    Ok(())
}

/// CR8 is the task priority of the APIC's page, both ways.
fn cr8<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    if guest.vcpu().apic() == ApicAssist::None {
        skip!("the task priority is not the hardware's");
    }
    guest.set_task_priority(0x90);
    let exit = guest.run(code!("mov rbx, cr8", "mov eax, 5", "mov cr8, rax", "hlt"));
    guest.expect_halt(exit, 13)?;
    check_eq!(guest.regs().rbx(), 9, "CR8 as the guest reads it");
    check_eq!(guest.task_priority(), 0x50, "the priority that it wrote");
    let exit = guest.run(code!("mov rbx, cr8", "hlt"));
    guest.expect_halt(exit, 4)?;
    check_eq!(guest.regs().rbx(), 5, "CR8 as it was written");
    Ok(())
}

/// A task priority that falls below what is waited for exits, with the write done or still to be done.
fn cr8_threshold<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    if guest.vcpu().apic() != ApicAssist::TaskPriority {
        skip!("the task priority is not the hardware's, or it delivers interrupts too");
    }
    guest.set_task_priority(0x90);
    guest.wait_for(Waits {
        task_priority: 8,
        ..Waits::default()
    });
    let exit = guest.run(code!("mov eax, 3", "mov cr8, rax", "hlt"));
    match exit {
        VmExit::TprBelowThreshold => {
            check_eq!(guest.task_priority(), 0x30, "the priority that it wrote");
            check_eq!(guest.at(), 9, "where, after the write");
        }
        VmExit::ControlWrite {
            register: ControlRegister::Cr8,
            value,
        } => {
            check!(
                value.is_none_or(|value| value == 3),
                "{value:x?} is written"
            );
            check_eq!(guest.at(), 5, "where, before the write");
            guest.step_over(4)?;
        }
        other => check!(false, "the exit is {other:x?}"),
    }
    guest.wait_for(Waits::default());
    let exit = guest.enter();
    guest.expect_halt(exit, 9)
}

/// What guests are not offered is #UD: by an exit, or by a CPU that has not got it.
fn not_offered<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    for (name, code) in [
        ("RDPMC", code!("rdpmc")),
        ("MONITOR", code!("monitor")),
        ("MWAIT", code!("mwait")),
        ("VMRUN", code!("vmrun rax")),
        ("VMLOAD", code!("vmload rax")),
        ("CLGI", code!("clgi")),
        ("INVLPGA", code!("invlpga rax, ecx")),
    ] {
        guest.regs().gpr = [0; 16];
        match guest.run(code) {
            VmExit::Undefined(_) => check_eq!(guest.at(), 0, "where {name} stands"),
            exit => {
                let rip = guest.vcpu().rip();
                let is_undefined = exit == VmExit::Hlt && rip == layout::handler(6);
                check!(is_undefined, "{name} is {exit:x?} at {rip:x}");
            }
        }
    }
    Ok(())
}

/// INVD exits; WBINVD does where the CPU can.
fn cache_flush<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("invd", "wbinvd", "hlt"));
    check_eq!(exit, VmExit::CacheFlush, "INVD's exit");
    guest.step_over(2)?;
    let mut exit = guest.enter();
    if exit == VmExit::CacheFlush {
        check_eq!(guest.at(), 2, "where WBINVD stands");
        guest.step_over(2)?;
        exit = guest.enter();
    }
    guest.expect_halt(exit, 4)
}

/// The TSC has the offset, or its reads exit.
fn tsc<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let code = code!("rdtsc", "hlt");
    let before = insn::rdtsc();
    let exit = guest.run(code);
    let after = insn::rdtsc();
    guest.expect_halt(exit, 2)?;
    let seen = guest.regs().edx_eax().wrapping_sub(TSC_OFFSET);
    let is_between = (before..=after).contains(&seen);
    check!(is_between, "{seen:x} is not from {before:x} to {after:x}");

    guest.intercept_tsc(true);
    let exit = guest.run(code);
    check_eq!(exit, VmExit::ReadTsc { with_aux: false }, "the exit");
    check_eq!(guest.at(), 0, "where");
    guest.step_over(2)?;
    guest.intercept_tsc(false);
    let exit = guest.run(code);
    guest.expect_halt(exit, 2)
}
