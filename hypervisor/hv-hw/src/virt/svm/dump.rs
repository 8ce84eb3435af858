//! The state of a guest as text.

use core::fmt::{Result, Write};

use super::super::{GuestRegs, SystemRegs, dump};
use super::vmcb::Vmcb;
use super::{exit, exit_codes};

/// Writes all of it.
pub(super) fn write(
    vmcb: &Vmcb,
    regs: &GuestRegs,
    system: &SystemRegs,
    out: &mut dyn Write,
) -> Result {
    let code = exit::code(vmcb);
    let (name, why_not) = exit_codes::describe(code);
    writeln!(
        out,
        "exit code {code:#x} ({name}) info {:#x} {:#x} in delivery {:#x} injected {:#x} virtual interrupt {:#x} shadow {}",
        vmcb.exit_info1,
        vmcb.exit_info2,
        vmcb.exit_event,
        vmcb.event,
        vmcb.virtual_interrupt,
        vmcb.shadow & 1
    )?;
    if !why_not.is_empty() {
        writeln!(out, "this exit should not have come: {why_not}")?;
    }
    dump::write(regs, system, out)
}
