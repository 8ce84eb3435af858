//! The guest's registers in the VMCB, and the step over an instruction.

use super::super::debug_regs;
use super::super::regs::{DR6_FIXED, canonical};
use super::super::{
    Blocking, DescriptorTable, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_LONG, SEGMENT_SS, SEGMENT_TR,
    SEGMENT_UNUSABLE, Segment, SystemRegs, SystemSet,
};
use super::host::EFER_SVME;
use super::inject::SHADOW;
use super::vcpu::SvmVcpu;
use super::vmcb::{self, State, Vmcb};
use hv_core::x86::{
    CR0_CD, CR0_ET, CR0_NW, CR0_PE, CR0_PG, EFER_LMA, EFER_LME, RFLAGS_FIXED, RFLAGS_RF, RFLAGS_TF,
    RFLAGS_VM,
};

/// [`Segment::access`]: DPL, and the lowest bit of it.
const LEVEL: u32 = 3 << 5;
const LEVEL_SHIFT: u32 = 5;
const PRESENT: u32 = 1 << 7;
const GRANULAR: u32 = 1 << 15;
const LOW_HALF: u64 = 0xFFFF_FFFF;

impl SvmVcpu {
    /// Reads the registers in `wanted`. What is known when this is compiled costs no test.
    #[inline(always)]
    pub(super) fn read_system(&self, wanted: SystemSet) -> SystemRegs {
        let state = &self.vmcb.state;
        let mut regs = SystemRegs::default();
        if wanted.contains(SystemSet::RIP) {
            regs.rip = state.rip;
        }
        if wanted.contains(SystemSet::RSP) {
            regs.rsp = state.rsp;
        }
        if wanted.contains(SystemSet::RFLAGS) {
            regs.rflags = state.rflags;
        }
        if wanted.contains(SystemSet::BLOCKING) {
            let is_in_shadow = self.vmcb.shadow & SHADOW != 0;
            regs.blocking.set(Blocking::SHADOW, is_in_shadow);
            regs.blocking.set(Blocking::NMI, self.injected.blocks_nmi);
        }
        if wanted.contains(SystemSet::CR3) {
            regs.cr3 = state.cr3;
        }
        if wanted.contains(SystemSet::EFER) {
            regs.efer = state.efer & !EFER_SVME;
        }
        if wanted.contains(SystemSet::CODE) {
            regs.segments[SEGMENT_CS] = segment(&state.segments[SEGMENT_CS]);
        }
        if wanted.contains(SystemSet::STACK) {
            regs.segments[SEGMENT_SS] = stack(state);
        }
        if wanted.intersects(SystemSet::SELDOM) {
            self.read_seldom(wanted, &mut regs);
        }
        regs
    }

    #[inline(never)]
    fn read_seldom(&self, wanted: SystemSet, regs: &mut SystemRegs) {
        let state = &self.vmcb.state;
        regs.cr0 = state.cr0;
        regs.cr4 = state.cr4;
        for index in DATA {
            regs.segments[index] = or_unusable(segment(place(state, index)));
        }
        // some CPUs do not keep that a task is busy
        regs.segments[SEGMENT_TR] = segment(&state.tr);
        regs.segments[SEGMENT_TR].access |= 1 << 1;
        regs.gdtr = table(&state.gdtr);
        regs.idtr = table(&state.idtr);
        regs.dr7 = state.dr7;
        regs.pat = state.pat;
        regs.debugctl = state.debugctl;
        regs.sysenter_cs = state.sysenter_cs;
        regs.sysenter_esp = state.sysenter_esp;
        regs.sysenter_eip = state.sysenter_eip;
        regs.spec_ctrl = self.guard.guest_spec_ctrl;
        regs.star = state.star;
        regs.lstar = state.lstar;
        regs.cstar = state.cstar;
        regs.fmask = state.fmask;
        regs.kernel_gs_base = state.kernel_gs_base;
        regs.cr2 = state.cr2;
        regs.xcr0 = self.extended.xcr0();
        if wanted.contains(SystemSet::TSC_AUX) {
            regs.tsc_aux = self.tsc_aux.read();
        }
        if wanted.contains(SystemSet::DEBUG) {
            regs.debug = debug_regs::read_debug();
            regs.debug[4] = state.dr6;
        }
    }

    /// Sets the registers in `changed`.
    #[inline(always)]
    pub(super) fn write_system(&mut self, regs: &SystemRegs, changed: SystemSet) {
        let state = &mut self.vmcb.state;
        if changed.contains(SystemSet::RIP) {
            state.rip = regs.rip;
            self.is_step_due = false;
        }
        if changed.contains(SystemSet::RSP) {
            state.rsp = regs.rsp;
        }
        if changed.contains(SystemSet::RFLAGS) {
            state.rflags = regs.rflags | RFLAGS_FIXED;
        }
        if changed.contains(SystemSet::BLOCKING) {
            self.vmcb.shadow = u64::from(regs.blocking.contains(Blocking::SHADOW));
            let blocks_nmi = regs.blocking.contains(Blocking::NMI);
            self.injected.set_blocking(&mut self.vmcb, blocks_nmi);
        }
        if changed.intersects(SystemSet::INDIRECT) {
            self.write_seldom(regs, changed);
        }
    }

    #[inline(never)]
    fn write_seldom(&mut self, regs: &SystemRegs, changed: SystemSet) {
        self.write_control(regs, changed);
        let state = &mut self.vmcb.state;
        for (set, indices) in [
            (SystemSet::CODE, &[SEGMENT_CS][..]),
            (SystemSet::STACK, &[SEGMENT_SS]),
            (SystemSet::DATA, &DATA),
            (SystemSet::DATA, &[SEGMENT_TR]),
        ] {
            if changed.contains(set) {
                for index in indices {
                    *place_mut(state, *index) = written(&regs.segments[*index]);
                }
            }
        }
        if changed.contains(SystemSet::STACK) {
            state.cpl = level(state, &regs.segments[SEGMENT_SS]);
        }
        if changed.contains(SystemSet::TABLES) {
            for (place, table) in [(&mut state.gdtr, regs.gdtr), (&mut state.idtr, regs.idtr)] {
                place.base = table.base;
                place.limit = u32::from(table.limit);
            }
        }
        self.write_msrs(regs, changed);
        self.write_debug(regs, changed);
        if changed.contains(SystemSet::CR2) {
            self.vmcb.state.cr2 = regs.cr2;
        }
        if changed.contains(SystemSet::XCR0) {
            self.extended.set_xcr0(regs.xcr0);
        }
    }

    /// Control registers and EFER. What the TLB has is stale after a write of CR0, CR3 or CR4: the CPU would have
    /// dropped it, had it carried out the write.
    fn write_control(&mut self, regs: &SystemRegs, changed: SystemSet) {
        const TRANSLATING: SystemSet = SystemSet::CR0.union(SystemSet::CR3).union(SystemSet::CR4);
        let state = &mut self.vmcb.state;
        if changed.contains(SystemSet::CR0) {
            state.cr0 = valid_cr0(regs.cr0);
        }
        if changed.contains(SystemSet::CR4) {
            state.cr4 = regs.cr4;
        }
        if changed.contains(SystemSet::CR3) {
            state.cr3 = regs.cr3;
        }
        if changed.contains(SystemSet::EFER) {
            state.efer = regs.efer | EFER_SVME;
        }
        if changed.intersects(SystemSet::EFER.union(SystemSet::CR0)) {
            let is_long = state.efer & EFER_LME != 0 && state.cr0 & CR0_PG != 0;
            state.efer = if is_long {
                state.efer | EFER_LMA
            } else {
                state.efer & !EFER_LMA
            };
        }
        if changed.intersects(TRANSLATING) {
            self.forget_translations();
        }
    }

    fn write_msrs(&mut self, regs: &SystemRegs, changed: SystemSet) {
        let state = &mut self.vmcb.state;
        if changed.contains(SystemSet::PAT) {
            state.pat = regs.pat;
        }
        if changed.contains(SystemSet::SYSENTER) {
            state.sysenter_cs = regs.sysenter_cs;
            state.sysenter_esp = regs.sysenter_esp;
            state.sysenter_eip = regs.sysenter_eip;
        }
        if changed.contains(SystemSet::SYSCALL) {
            state.star = regs.star;
            state.lstar = canonical(regs.lstar);
            state.cstar = canonical(regs.cstar);
            state.fmask = regs.fmask & LOW_HALF;
            state.kernel_gs_base = canonical(regs.kernel_gs_base);
        }
        if changed.contains(SystemSet::DEBUGCTL) {
            state.debugctl = regs.debugctl;
            self.vmcb.branch_recording =
                u64::from(self.config.caps.branch_recording && regs.debugctl != 0);
        }
        if changed.contains(SystemSet::SPEC_CTRL) && self.kind.has_spec_ctrl {
            self.guard.guest_spec_ctrl = regs.spec_ctrl;
        }
        if changed.contains(SystemSet::TSC_AUX) {
            self.tsc_aux.write(regs.tsc_aux);
        }
    }

    fn write_debug(&mut self, regs: &SystemRegs, changed: SystemSet) {
        let state = &mut self.vmcb.state;
        if changed.contains(SystemSet::DR7) {
            state.dr7 = regs.dr7 & LOW_HALF;
        }
        if changed.contains(SystemSet::DEBUG) {
            state.dr6 = regs.debug[4] & LOW_HALF;
            debug_regs::write_debug(&own_debug(regs.debug));
        }
    }
}

/// DR0 to DR3 of the guest, and DR6 as after reset, which is not the guest's.
pub(super) fn own_debug(debug: [u64; 5]) -> [u64; 5] {
    let [dr0, dr1, dr2, dr3, _] = debug;
    [dr0, dr1, dr2, dr3, DR6_FIXED]
}

/// ES, DS, FS, GS and LDTR.
const DATA: [usize; 5] = [0, 3, 4, 5, SEGMENT_LDTR];

/// A value that VMRUN takes: NW needs CD, as MOV to CR0 insists.
const fn valid_cr0(cr0: u64) -> u64 {
    let cr0 = cr0 & LOW_HALF | CR0_ET;
    if cr0 & CR0_CD == 0 {
        cr0 & !CR0_NW
    } else {
        cr0
    }
}

fn place(state: &State, index: usize) -> &vmcb::Segment {
    match index {
        SEGMENT_LDTR => &state.ldtr,
        SEGMENT_TR => &state.tr,
        _ => &state.segments[index],
    }
}

fn place_mut(state: &mut State, index: usize) -> &mut vmcb::Segment {
    match index {
        SEGMENT_LDTR => &mut state.ldtr,
        SEGMENT_TR => &mut state.tr,
        _ => &mut state.segments[index],
    }
}

/// A segment register in no vendor's layout. The limit is in bytes in both; whether it is granular follows from it.
#[inline(always)]
fn segment(from: &vmcb::Segment) -> Segment {
    let attributes = u32::from(from.attributes);
    let access = (attributes & 0xFF) | (attributes & 0xF00) << 4;
    let granular = if from.limit > 0xF_FFFF { GRANULAR } else { 0 };
    Segment {
        selector: from.selector,
        base: from.base,
        limit: from.limit,
        access: access & !GRANULAR | granular,
    }
}

fn or_unusable(mut segment: Segment) -> Segment {
    if segment.access & PRESENT == 0 {
        segment.access |= SEGMENT_UNUSABLE;
    }
    segment
}

/// SS. The privilege level is kept apart, and what SYSRET leaves in SS does not tell it.
#[inline(always)]
fn stack(state: &State) -> Segment {
    let mut stack = or_unusable(segment(&state.segments[SEGMENT_SS]));
    stack.access = stack.access & !LEVEL | u32::from(state.cpl) << LEVEL_SHIFT;
    stack
}

/// The level at which code with this SS runs.
fn level(state: &State, stack: &Segment) -> u8 {
    if state.cr0 & CR0_PE == 0 {
        0
    } else if state.rflags & RFLAGS_VM != 0 {
        3
    } else {
        ((stack.access & LEVEL) >> LEVEL_SHIFT).to_le_bytes()[0]
    }
}

/// As the VMCB has it: what is unusable is not present.
fn written(segment: &Segment) -> vmcb::Segment {
    let access = if segment.access & SEGMENT_UNUSABLE == 0 {
        segment.access
    } else {
        segment.access & !PRESENT
    };
    let [low, high, ..] = ((access & 0xFF) | (access >> 4) & 0xF00).to_le_bytes();
    vmcb::Segment {
        selector: segment.selector,
        attributes: u16::from_le_bytes([low, high]),
        limit: segment.limit,
        base: segment.base,
    }
}

fn table(from: &vmcb::Segment) -> DescriptorTable {
    let [low, high, ..] = from.limit.to_le_bytes();
    DescriptorTable {
        base: from.base,
        limit: u16::from_le_bytes([low, high]),
    }
}

/// Steps over `length` bytes of an instruction: ends the interrupt shadow. True where the single-step trap follows.
#[inline(always)]
pub(super) fn step(vmcb: &mut Vmcb, length: u64) -> bool {
    let next = vmcb.state.rip.wrapping_add(length);
    vmcb.state.rip = if (vmcb.state.rip ^ next) >> 32 != 0 {
        across_4_gib(&vmcb.state, next)
    } else {
        next
    };
    vmcb.shadow &= !SHADOW;
    vmcb.state.rflags &= !RFLAGS_RF;
    vmcb.state.rflags & RFLAGS_TF != 0
}

/// An instruction at the end of 4 GiB: only 64-bit code goes on after it.
#[cold]
fn across_4_gib(state: &State, next: u64) -> u64 {
    let code = segment(&state.segments[SEGMENT_CS]);
    if state.efer & EFER_LMA != 0 && code.access & SEGMENT_LONG != 0 {
        next
    } else {
        next & LOW_HALF
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_come_back_as_they_were_written() {
        for (access, limit) in [
            (0xA09B, u32::MAX),
            (0xC093, u32::MAX),
            (0x0093, 0xFFFF),
            (0x008B, 0x67),
            (0x4093, 0xF_FFFF),
        ] {
            let before = Segment {
                selector: 0x10,
                base: 0x1234_5678,
                limit,
                access,
            };
            assert_eq!(or_unusable(segment(&written(&before))), before);
        }
        let unusable = Segment {
            access: SEGMENT_UNUSABLE | 0x93,
            ..Segment::default()
        };
        let back = or_unusable(segment(&written(&unusable)));
        assert_eq!(back.access, SEGMENT_UNUSABLE | 0x13);
    }

    #[test]
    fn caches_that_are_on_are_written_through_as_the_cpu_wants_it() {
        assert_eq!(valid_cr0(CR0_NW | CR0_PE), CR0_PE | CR0_ET);
        assert_eq!(valid_cr0(CR0_CD | CR0_NW), CR0_CD | CR0_NW | CR0_ET);
    }
}
