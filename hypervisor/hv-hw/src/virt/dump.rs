//! The state of a guest as text, for whoever reads the log of one that died.

use core::fmt::{Result, Write};

use super::{GuestRegs, SystemRegs};

/// Writes what both vendors' vCPUs have.
pub(super) fn write(regs: &GuestRegs, system: &SystemRegs, out: &mut dyn Write) -> Result {
    general(regs, system, out)?;
    control(system, out)
}

fn general(regs: &GuestRegs, system: &SystemRegs, out: &mut dyn Write) -> Result {
    let SystemRegs {
        rip,
        rsp,
        rflags,
        cr2,
        ..
    } = system;
    writeln!(
        out,
        "rip {rip:#018x} rsp {rsp:#018x} rflags {rflags:#x} cr2 {cr2:#x}"
    )?;
    let names = [
        "rax", "rcx", "rdx", "rbx", "-", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    for (names, values) in names.chunks(4).zip(regs.gpr.chunks(4)) {
        for (name, value) in names.iter().zip(values) {
            write!(out, "{name:>3} {value:#018x} ")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn control(system: &SystemRegs, out: &mut dyn Write) -> Result {
    let SystemRegs {
        cr0,
        cr3,
        cr4,
        efer,
        dr7,
        gdtr,
        idtr,
        ..
    } = system;
    writeln!(
        out,
        "cr0 {cr0:#x} cr3 {cr3:#x} cr4 {cr4:#x} efer {efer:#x} dr7 {dr7:#x}"
    )?;
    let names = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"];
    for (name, segment) in names.into_iter().zip(&system.segments) {
        writeln!(
            out,
            "{name:>4} {:#06x} base {:#x} limit {:#x} access {:#x}",
            segment.selector, segment.base, segment.limit, segment.access
        )?;
    }
    writeln!(
        out,
        "gdtr {:#x}+{:#x} idtr {:#x}+{:#x}",
        gdtr.base, gdtr.limit, idtr.base, idtr.limit
    )
}
