//! The state of a guest as text.

use core::fmt::{Result, Write};

use super::super::{GuestRegs, SystemRegs, dump};
use super::fields::Field;
use super::reasons;
use super::vmcs::CurrentVmcs;

/// Writes all of it.
pub(super) fn write(
    vmcs: CurrentVmcs,
    regs: &GuestRegs,
    system: &SystemRegs,
    out: &mut dyn Write,
) -> Result {
    let reason = vmcs.read32(Field::ExitReason);
    let (name, why_not) = reasons::describe(reason);
    writeln!(
        out,
        "exit reason {reason:#x} ({name}) qualification {:#x} entry event {:#x} interruptibility {:#x} activity {}",
        vmcs.read(Field::Qualification),
        vmcs.read(Field::EntryEvent),
        vmcs.read(Field::Interruptibility),
        vmcs.read(Field::Activity)
    )?;
    if !why_not.is_empty() {
        writeln!(out, "this exit should not have come: {why_not}")?;
    }
    dump::write(regs, system, out)
}
