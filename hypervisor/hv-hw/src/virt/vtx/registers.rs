//! The guest's registers in the VMCS: those that VM entry and exit switch, and the step over an instruction.

use super::super::{
    Blocking, DescriptorTable, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_LONG, SEGMENT_SS, SEGMENT_TR,
    Segment, SystemRegs, SystemSet,
};
use super::exit::seen;
use super::fields::{Entry, Field};
use super::setup;
use super::vcpu::{VtxVcpu, low_half};
use super::vmcs::CurrentVmcs;
use hv_core::x86::{
    CR0_NE, CR0_PG, CR4_MCE, CR4_VMXE, EFER_LMA, EFER_LME, RFLAGS_FIXED, RFLAGS_TF,
};

const BLOCKED_BY_STI: u64 = 1;
const BLOCKED_BY_MOV_SS: u64 = 2;
const IN_SHADOW: u64 = BLOCKED_BY_STI | BLOCKED_BY_MOV_SS;
pub(super) const BLOCKED_BY_NMI: u64 = 8;
const PENDING_SINGLE_STEP: u64 = 1 << 14;
/// NE must be 1, and a guest may not turn the caches off: CR0.CD and NW outlive a VM exit.
pub(super) const CR0_OWNED: u64 = CR0_NE | (1 << 29) | (1 << 30);
/// Bits of CR4 that are always 1.
pub(super) const CR4_REQUIRED: u64 = CR4_VMXE | CR4_MCE;

impl VtxVcpu {
    /// Reads the registers in `wanted`. What is known when this is compiled costs no test.
    #[inline(always)]
    pub(super) fn read_system(&self, wanted: SystemSet) -> SystemRegs {
        let vmcs = self.current();
        let mut regs = SystemRegs::default();
        if wanted.contains(SystemSet::RIP) {
            regs.rip = vmcs.read(Field::GuestRip);
        }
        if wanted.contains(SystemSet::RSP) {
            regs.rsp = vmcs.read(Field::GuestRsp);
        }
        if wanted.contains(SystemSet::RFLAGS) {
            regs.rflags = vmcs.read(Field::GuestRflags);
        }
        if wanted.contains(SystemSet::BLOCKING) {
            regs.blocking = blocking(vmcs.read(Field::Interruptibility));
        }
        if wanted.contains(SystemSet::CR3) {
            regs.cr3 = vmcs.read(Field::GuestCr3);
        }
        if wanted.contains(SystemSet::EFER) {
            regs.efer = vmcs.read(Field::GuestEfer);
        }
        if wanted.contains(SystemSet::CODE) {
            regs.segments[SEGMENT_CS] = segment(vmcs, SEGMENT_CS);
        }
        if wanted.contains(SystemSet::STACK) {
            regs.segments[SEGMENT_SS] = segment(vmcs, SEGMENT_SS);
        }
        if wanted.intersects(SystemSet::SELDOM) {
            self.read_seldom(wanted, &mut regs);
        }
        regs
    }

    #[inline(never)]
    fn read_seldom(&self, wanted: SystemSet, regs: &mut SystemRegs) {
        let vmcs = self.current();
        let owned =
            |shadow: Field, real: Field, mask: u64| seen(vmcs.read(shadow), vmcs.read(real), mask);
        regs.cr0 = owned(Field::Cr0Shadow, Field::GuestCr0, CR0_OWNED);
        regs.cr4 = owned(
            Field::Cr4Shadow,
            Field::GuestCr4,
            self.config.cr4_owned | CR4_REQUIRED,
        );
        if wanted.contains(SystemSet::DATA) {
            for index in DATA {
                regs.segments[index] = segment(vmcs, index);
            }
        }
        regs.gdtr = table(vmcs, Field::GuestGdtrBase, Field::GuestGdtrLimit);
        regs.idtr = table(vmcs, Field::GuestIdtrBase, Field::GuestIdtrLimit);
        regs.dr7 = vmcs.read(Field::GuestDr7);
        regs.pdptes = core::array::from_fn(|index| vmcs.read(setup::pdpte(index)));
        regs.pat = vmcs.read(Field::GuestPat);
        regs.debugctl = vmcs.read(Field::GuestDebugCtl);
        regs.sysenter_cs = vmcs.read(Field::GuestSysenterCs);
        regs.sysenter_esp = vmcs.read(Field::GuestSysenterEsp);
        regs.sysenter_eip = vmcs.read(Field::GuestSysenterEip);
        regs.spec_ctrl = self.guard.guest_spec_ctrl;
        self.switched.read(wanted, regs);
    }

    /// Sets the registers in `changed`.
    #[inline(always)]
    pub(super) fn write_system(&mut self, regs: &SystemRegs, changed: SystemSet) {
        let vmcs = self.current();
        if changed.contains(SystemSet::RIP) {
            vmcs.write(Field::GuestRip, regs.rip);
            vmcs.write(Field::PendingDebug, 0);
        }
        if changed.contains(SystemSet::RSP) {
            vmcs.write(Field::GuestRsp, regs.rsp);
        }
        if changed.contains(SystemSet::RFLAGS) {
            vmcs.write(Field::GuestRflags, regs.rflags | RFLAGS_FIXED);
        }
        if changed.contains(SystemSet::BLOCKING) {
            vmcs.write(Field::Interruptibility, interruptibility(regs.blocking));
        }
        if changed.intersects(SystemSet::INDIRECT) {
            self.write_seldom(regs, changed);
        }
    }

    #[inline(never)]
    fn write_seldom(&mut self, regs: &SystemRegs, changed: SystemSet) {
        self.write_control(regs, changed);
        let vmcs = self.current();
        for (set, indices) in [
            (SystemSet::CODE, &[SEGMENT_CS][..]),
            (SystemSet::STACK, &[SEGMENT_SS]),
            (SystemSet::DATA, &DATA),
        ] {
            if changed.contains(set) {
                for index in indices {
                    write_segment(vmcs, *index, &regs.segments[*index]);
                }
            }
        }
        if changed.contains(SystemSet::TABLES) {
            vmcs.write(Field::GuestGdtrBase, regs.gdtr.base);
            vmcs.write(Field::GuestGdtrLimit, u64::from(regs.gdtr.limit));
            vmcs.write(Field::GuestIdtrBase, regs.idtr.base);
            vmcs.write(Field::GuestIdtrLimit, u64::from(regs.idtr.limit));
        }
        if changed.contains(SystemSet::PDPTES) {
            for (index, entry) in regs.pdptes.into_iter().enumerate() {
                vmcs.write(setup::pdpte(index), entry);
            }
        }
        for (set, field, value) in [
            (SystemSet::DR7, Field::GuestDr7, regs.dr7),
            (SystemSet::PAT, Field::GuestPat, regs.pat),
            (SystemSet::DEBUGCTL, Field::GuestDebugCtl, regs.debugctl),
            (
                SystemSet::SYSENTER,
                Field::GuestSysenterCs,
                regs.sysenter_cs,
            ),
            (
                SystemSet::SYSENTER,
                Field::GuestSysenterEsp,
                regs.sysenter_esp,
            ),
            (
                SystemSet::SYSENTER,
                Field::GuestSysenterEip,
                regs.sysenter_eip,
            ),
        ] {
            if changed.contains(set) {
                vmcs.write(field, value);
            }
        }
        if changed.contains(SystemSet::SPEC_CTRL) && self.config.extended.has_spec_ctrl {
            self.guard.guest_spec_ctrl = regs.spec_ctrl;
        }
        self.switched.write(regs, changed);
    }

    /// Control registers and EFER. What the TLB has is stale after a write of CR0, CR3 or CR4: the CPU would have
    /// dropped it, had it carried out the write.
    fn write_control(&mut self, regs: &SystemRegs, changed: SystemSet) {
        const TRANSLATING: SystemSet = SystemSet::CR0.union(SystemSet::CR3).union(SystemSet::CR4);
        let vmcs = self.current();
        if changed.contains(SystemSet::EFER) {
            self.write_efer(regs.efer, vmcs.read(Field::GuestCr0));
        }
        if changed.contains(SystemSet::CR0) {
            self.write_cr0(regs.cr0);
        }
        if changed.contains(SystemSet::CR4) {
            self.write_cr4(regs.cr4);
        }
        if changed.contains(SystemSet::CR3) {
            vmcs.write(Field::GuestCr3, regs.cr3);
        }
        if changed.intersects(TRANSLATING) {
            self.forget_vpid();
        }
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
}

/// ES, DS, FS, GS, LDTR and TR.
const DATA: [usize; 6] = [0, 3, 4, 5, SEGMENT_LDTR, SEGMENT_TR];

#[inline(always)]
fn segment(vmcs: CurrentVmcs, index: usize) -> Segment {
    Segment {
        selector: low_half(vmcs.read32(setup::selector(index))),
        base: vmcs.read(setup::base(index)),
        limit: vmcs.read32(setup::limit(index)),
        access: vmcs.read32(setup::access(index)),
    }
}

fn write_segment(vmcs: CurrentVmcs, index: usize, segment: &Segment) {
    vmcs.write(setup::selector(index), u64::from(segment.selector));
    vmcs.write(setup::base(index), segment.base);
    vmcs.write(setup::limit(index), u64::from(segment.limit));
    vmcs.write(setup::access(index), u64::from(segment.access));
}

fn table(vmcs: CurrentVmcs, base: Field, limit: Field) -> DescriptorTable {
    DescriptorTable {
        base: vmcs.read(base),
        limit: low_half(vmcs.read32(limit)),
    }
}

#[inline(always)]
fn blocking(interruptibility: u64) -> Blocking {
    let mut blocking = Blocking::empty();
    blocking.set(Blocking::SHADOW, interruptibility & IN_SHADOW != 0);
    blocking.set(Blocking::NMI, interruptibility & BLOCKED_BY_NMI != 0);
    blocking
}

/// A shadow becomes that of MOV SS, which VM entry takes with any RFLAGS.
fn interruptibility(blocking: Blocking) -> u64 {
    let when = |is_set, bit| if is_set { bit } else { 0 };
    when(blocking.contains(Blocking::SHADOW), BLOCKED_BY_MOV_SS)
        | when(blocking.contains(Blocking::NMI), BLOCKED_BY_NMI)
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
    if shadow & IN_SHADOW != 0 {
        vmcs.write(Field::Interruptibility, shadow & !IN_SHADOW);
    }
}

/// An instruction at the end of 4 GiB: only 64-bit code goes on after it, and VM entry refuses such an RIP of other
/// code.
#[cold]
fn across_4_gib(vmcs: CurrentVmcs, next: u64) -> u64 {
    let is_long = vmcs.read(Field::GuestEfer) & EFER_LMA != 0;
    wrap(
        next,
        is_long && vmcs.read32(setup::access(SEGMENT_CS)) & SEGMENT_LONG != 0,
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
