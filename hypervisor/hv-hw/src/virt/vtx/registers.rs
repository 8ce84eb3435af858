//! The guest's registers in the VMCS: those that VM entry and exit switch, and the step over an instruction.

use super::super::{DescriptorTable, Segment, SystemRegs};
use super::exit::seen;
use super::fields::{Entry, Field};
use super::setup;
use super::vcpu::{BLOCKED_BY_MOV_SS, BLOCKED_BY_STI, VtxVcpu, low_half};
use super::vmcs::CurrentVmcs;
use hv_core::x86::{CR0_NE, CR0_PG, CR4_MCE, CR4_VMXE, EFER_LMA, EFER_LME, RFLAGS_TF};

const PENDING_SINGLE_STEP: u64 = 1 << 14;
/// NE must be 1, and a guest may not turn the caches off: CR0.CD and NW outlive a VM exit.
pub(super) const CR0_OWNED: u64 = CR0_NE | (1 << 29) | (1 << 30);
/// Bits of CR4 that are always 1.
pub(super) const CR4_REQUIRED: u64 = CR4_VMXE | CR4_MCE;
const CS_LONG: u32 = 1 << 13;

impl VtxVcpu {
    /// All of them.
    pub(super) fn read_system(&self) -> SystemRegs {
        let vmcs = self.current();
        let owned =
            |shadow: Field, real: Field, mask: u64| seen(vmcs.read(shadow), vmcs.read(real), mask);
        SystemRegs {
            cr0: owned(Field::Cr0Shadow, Field::GuestCr0, CR0_OWNED),
            cr3: vmcs.read(Field::GuestCr3),
            cr4: owned(
                Field::Cr4Shadow,
                Field::GuestCr4,
                self.config.cr4_owned | CR4_REQUIRED,
            ),
            efer: vmcs.read(Field::GuestEfer),
            rip: vmcs.read(Field::GuestRip),
            rsp: vmcs.read(Field::GuestRsp),
            rflags: vmcs.read(Field::GuestRflags),
            dr7: vmcs.read(Field::GuestDr7),
            segments: core::array::from_fn(|index| self.segment(index)),
            gdtr: self.table(Field::GuestGdtrBase, Field::GuestGdtrLimit),
            idtr: self.table(Field::GuestIdtrBase, Field::GuestIdtrLimit),
        }
    }

    /// Sets all of them; what the TLB has is stale then.
    pub(super) fn write_system(&mut self, system: &SystemRegs) {
        let vmcs = self.current();
        vmcs.write(Field::GuestEfer, system.efer);
        self.write_cr0(system.cr0);
        self.write_cr4(system.cr4);
        vmcs.write(Field::GuestCr3, system.cr3);
        vmcs.write(Field::GuestRip, system.rip);
        vmcs.write(Field::GuestRsp, system.rsp);
        vmcs.write(Field::GuestRflags, system.rflags | 2);
        vmcs.write(Field::GuestDr7, system.dr7);
        for (index, segment) in system.segments.iter().enumerate() {
            vmcs.write(setup::selector(index), u64::from(segment.selector));
            vmcs.write(setup::base(index), segment.base);
            vmcs.write(setup::limit(index), u64::from(segment.limit));
            vmcs.write(setup::access(index), u64::from(segment.access));
        }
        vmcs.write(Field::GuestGdtrBase, system.gdtr.base);
        vmcs.write(Field::GuestGdtrLimit, u64::from(system.gdtr.limit));
        vmcs.write(Field::GuestIdtrBase, system.idtr.base);
        vmcs.write(Field::GuestIdtrLimit, u64::from(system.idtr.limit));
        vmcs.write(Field::Interruptibility, 0);
        vmcs.write(Field::PendingDebug, 0);
    }

    /// Sets EFER and what the VM entry must agree with.
    pub(super) fn write_efer(&mut self, efer: u64, cr0: u64) {
        let vmcs = self.current();
        let is_long = efer & EFER_LME != 0 && cr0 & CR0_PG != 0;
        let efer = if is_long {
            efer | EFER_LMA
        } else {
            efer & !EFER_LMA
        };
        vmcs.write(Field::GuestEfer, efer);
        let mut controls = Entry::from_bits_retain(vmcs.read32(Field::EntryControls));
        controls.set(Entry::IA32E_MODE, is_long);
        vmcs.write(Field::EntryControls, u64::from(controls.bits()));
    }

    /// Sets CR0 as the guest sees it.
    pub(super) fn write_cr0(&mut self, value: u64) {
        let vmcs = self.current();
        let real = (value & !CR0_OWNED & self.config.caps.cr0_allowed) | CR0_NE;
        vmcs.write(Field::GuestCr0, real);
        vmcs.write(Field::Cr0Shadow, value);
        self.write_efer(vmcs.read(Field::GuestEfer), value);
    }

    /// Sets CR4 as the guest sees it.
    pub(super) fn write_cr4(&mut self, value: u64) {
        let vmcs = self.current();
        vmcs.write(Field::GuestCr4, value | CR4_REQUIRED);
        vmcs.write(Field::Cr4Shadow, value);
    }

    fn segment(&self, index: usize) -> Segment {
        let vmcs = self.current();
        Segment {
            selector: low_half(vmcs.read32(setup::selector(index))),
            base: vmcs.read(setup::base(index)),
            limit: vmcs.read32(setup::limit(index)),
            access: vmcs.read32(setup::access(index)),
        }
    }

    fn table(&self, base: Field, limit: Field) -> DescriptorTable {
        let vmcs = self.current();
        DescriptorTable {
            base: vmcs.read(base),
            limit: low_half(vmcs.read32(limit)),
        }
    }
}

/// Steps over `length` bytes of an instruction: ends the interrupt shadow, and has the single-step trap follow.
#[inline(always)]
pub(super) fn step(vmcs: CurrentVmcs, length: u64) {
    let rip = vmcs.read(Field::GuestRip);
    let mut next = rip.wrapping_add(length);
    if (rip ^ next) >> 32 != 0 {
        next = across_4_gib(vmcs, next);
    }
    vmcs.write(Field::GuestRip, next);
    end_shadow(vmcs);
    if vmcs.read(Field::GuestRflags) & RFLAGS_TF != 0 {
        vmcs.write(
            Field::PendingDebug,
            vmcs.read(Field::PendingDebug) | PENDING_SINGLE_STEP,
        );
    }
}

/// Ends the shadow in which STI or MOV SS put the instruction after it.
#[inline(always)]
pub(super) fn end_shadow(vmcs: CurrentVmcs) {
    let shadow = vmcs.read(Field::Interruptibility);
    if shadow & (BLOCKED_BY_STI | BLOCKED_BY_MOV_SS) != 0 {
        vmcs.write(
            Field::Interruptibility,
            shadow & !(BLOCKED_BY_STI | BLOCKED_BY_MOV_SS),
        );
    }
}

/// An instruction at the end of 4 GiB: only 64-bit code goes on behind it, and VM entry refuses such an RIP of other code.
#[cold]
fn across_4_gib(vmcs: CurrentVmcs, next: u64) -> u64 {
    let is_long = vmcs.read(Field::GuestEfer) & EFER_LMA != 0;
    wrap(
        next,
        is_long && vmcs.read32(setup::access(1)) & CS_LONG != 0,
    )
}

const fn wrap(rip: u64, is_64_bit_code: bool) -> u64 {
    if is_64_bit_code {
        rip
    } else {
        rip & 0xFFFF_FFFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_pointer_of_32_bit_code_wraps_at_4_gib() {
        assert_eq!(wrap(0x1_0000_0001, false), 1);
        assert_eq!(wrap(0x1_0000_0001, true), 0x1_0000_0001);
    }
}
