//! A vCPU's state as the records that toolstacks exchange, and back.
//!
//! What the records are is in `hv_core::vcpu::context`. This knows both sides: where a vCPU has a register, and where
//! the record has it.

use alloc::vec::Vec;

use arrayvec::ArrayVec;
use guest_abi::hvm::save::{
    HvmHwCpu, HvmHwCpuXsave, HvmHwMtrr, HvmOneMsr, XEN_X86_FPU_INITIALISED, segment,
};
use hv_core::cpuid::CpuidPolicy;
use hv_core::msr::{MsrPolicy, number};
use hv_core::vcpu::context::{self, BadRecord};
use hv_core::x86::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use hv_hw::virt::{DescriptorTable, GuestRegs, Segment, SystemRegs, reset_extended};

use zerocopy::FromBytes;

use crate::domain::vcpu_state::VcpuState;

/// The record's general-purpose registers; RSP is not in [`GuestRegs`] but in [`SystemRegs`].
const GPRS: [usize; 16] = [
    RAX, RBX, RCX, RDX, RBP, RSI, RDI, RSP, 8, 9, 10, 11, 12, 13, 14, 15,
];
/// Where the record's segments are in [`SystemRegs`].
const SEGMENTS: [usize; 8] = [1, 3, 0, 4, 5, 2, 7, 6];

impl VcpuState {
    /// The record of the registers; `tsc` is what the guest's RDTSC gives.
    #[must_use]
    pub(crate) fn cpu_record(&self, tsc: u64) -> HvmHwCpu {
        let system = &self.system;
        let mut cpu = HvmHwCpu {
            rip: system.rip,
            rflags: system.rflags,
            cr0: system.cr0,
            cr3: system.cr3,
            cr4: system.cr4,
            dr7: system.dr7,
            msr_efer: system.efer,
            sysenter_cs: system.sysenter_cs,
            sysenter_esp: system.sysenter_esp,
            sysenter_eip: system.sysenter_eip,
            tsc,
            ..context::empty_cpu()
        };
        self.switched_into(&mut cpu);
        for (place, index) in cpu.gprs.iter_mut().zip(GPRS) {
            *place = if index == RSP {
                system.rsp
            } else {
                self.regs.gpr[index]
            };
        }
        for (which, index) in SEGMENTS.into_iter().enumerate() {
            let from = system.segments[index];
            cpu.sel[which] = u32::from(from.selector);
            cpu.limit[which] = from.limit;
            cpu.base[which] = from.base;
            cpu.arbytes[which] = context::to_arbytes(from.access);
        }
        for (which, table) in [(segment::IDTR, system.idtr), (segment::GDTR, system.gdtr)] {
            cpu.limit[which] = u32::from(table.limit);
            cpu.base[which] = table.base;
        }
        cpu
    }

    fn switched_into(&self, cpu: &mut HvmHwCpu) {
        let from = &self.system;
        cpu.shadow_gs = from.kernel_gs_base;
        cpu.msr_lstar = from.lstar;
        cpu.msr_star = from.star;
        cpu.msr_cstar = from.cstar;
        cpu.msr_syscall_mask = from.fmask;
        cpu.msr_tsc_aux = from.tsc_aux;
        cpu.cr2 = from.cr2;
        [cpu.dr[0], cpu.dr[1], cpu.dr[2], cpu.dr[3], cpu.dr6] = from.debug;
        if let Some(legacy) = self.extended.first_chunk() {
            cpu.fpu_regs = *legacy;
            cpu.flags = XEN_X86_FPU_INITIALISED;
        }
    }

    /// Takes up a record of registers, for a domain with this CPUID. The TSC stays the domain's.
    ///
    /// # Errors
    /// [`BadRecord`]; then nothing has changed.
    pub(crate) fn take_cpu(
        &mut self,
        cpu: &HvmHwCpu,
        cpuid: &CpuidPolicy,
    ) -> Result<(), BadRecord> {
        let mut cpu = *cpu;
        context::check_cpu(&mut cpu, cpuid)?;
        let system = system_of(&cpu)?;
        let mut regs = GuestRegs::default();
        for (value, index) in cpu.gprs.into_iter().zip(GPRS) {
            if index != RSP {
                regs.gpr[index] = value;
            }
        }
        let [dr0, dr1, dr2, dr3] = cpu.dr;
        let before = &self.system;
        let system = SystemRegs {
            sysenter_cs: cpu.sysenter_cs,
            sysenter_esp: cpu.sysenter_esp,
            sysenter_eip: cpu.sysenter_eip,
            star: cpu.msr_star,
            lstar: cpu.msr_lstar,
            cstar: cpu.msr_cstar,
            fmask: cpu.msr_syscall_mask,
            kernel_gs_base: cpu.shadow_gs,
            tsc_aux: cpu.msr_tsc_aux,
            cr2: cpu.cr2,
            debug: [dr0, dr1, dr2, dr3, cpu.dr6],
            // these have records of their own
            pat: before.pat,
            debugctl: before.debugctl,
            spec_ctrl: before.spec_ctrl,
            xcr0: before.xcr0,
            ..system
        };
        self.extended = reset_extended();
        if cpu.flags & XEN_X86_FPU_INITIALISED != 0 {
            set_legacy_area(&mut self.extended, &cpu.fpu_regs);
        }
        self.regs = regs;
        self.system = system;
        self.is_up = true;
        Ok(())
    }

    /// The record of PAT and MTRRs.
    #[must_use]
    pub(crate) fn mtrr_record(&self) -> HvmHwMtrr {
        self.msr_state.mtrr_record(self.system.pat)
    }

    /// Takes up a record of PAT and MTRRs.
    ///
    /// # Errors
    /// [`BadRecord`]; then nothing has changed.
    pub(crate) fn take_mtrrs(
        &mut self,
        mtrrs: &HvmHwMtrr,
        cpuid: &CpuidPolicy,
    ) -> Result<(), BadRecord> {
        self.msr_state =
            (self.msr_state.with_mtrrs(mtrrs, cpuid.physical_bits())).ok_or(BadRecord::Values)?;
        self.system.pat = mtrrs.msr_pat_cr;
        Ok(())
    }
}

/// Puts x87's and SSE's state into an XSAVE area, with nothing else in it.
fn set_legacy_area(area: &mut [u8], legacy: &[u8; 512]) {
    const X87_AND_SSE: u8 = 0b11;
    if let Some((start, rest)) = area.split_first_chunk_mut() {
        *start = *legacy;
        if let Some(xstate_bv) = rest.first_mut() {
            *xstate_bv = X87_AND_SSE;
        }
    }
}

impl VcpuState {
    /// The bytes of the record of extended state: the head, and the area as far as the domain's XCR0 can reach. `None`
    /// where the domain has none.
    #[must_use]
    pub(crate) fn xsave_record(&self, cpuid: &CpuidPolicy) -> Option<Vec<u8>> {
        if cpuid.xcr0_allowed() == 0 {
            return None;
        }
        let area = self.extended.get(..cpuid.xsave_bytes())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(XSAVE_HEAD + area.len()).ok()?;
        for word in [u64::MAX, self.system.xcr0, self.system.xcr0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(area);
        Some(bytes)
    }

    /// Takes up a record of extended state.
    ///
    /// # Errors
    /// [`BadRecord`]; then nothing has changed.
    pub(crate) fn take_xsave(&mut self, body: &[u8], cpuid: &CpuidPolicy) -> Result<(), BadRecord> {
        let (head, _) = HvmHwCpuXsave::read_from_prefix(body).map_err(|_| BadRecord::CutShort)?;
        let area = body.get(XSAVE_HEAD..).ok_or(BadRecord::CutShort)?;
        let is_valid = cpuid.xcr0_is_valid(head.xcr0)
            && (head.xcr0_accum | head.xstate_bv) & !cpuid.xcr0_allowed() == 0
            && head.xcomp_bv == 0
            && head.reserved == [0; 6];
        if !is_valid {
            return Err(BadRecord::Values);
        }
        // other hypervisors write more than there is, as zeroes
        let (area, rest) = area.split_at(area.len().min(cpuid.xsave_bytes()));
        if rest.iter().any(|byte| *byte != 0) {
            return Err(BadRecord::TooLong);
        }
        let mut extended = reset_extended();
        let place = extended.get_mut(..area.len()).ok_or(BadRecord::TooLong)?;
        place.copy_from_slice(area);
        self.extended = extended;
        self.system.xcr0 = head.xcr0;
        Ok(())
    }

    /// The MSRs of the record of MSRs: those that are not as after reset.
    #[must_use]
    pub(crate) fn msr_record(&self, msrs: &MsrPolicy) -> ArrayVec<HvmOneMsr, MOST_MSRS> {
        let spec_ctrl = if msrs.spec_ctrl_allowed() == 0 {
            0
        } else {
            self.system.spec_ctrl
        };
        let all = [
            (number::IA32_SPEC_CTRL, spec_ctrl),
            (
                number::MSR_MISC_FEATURES_ENABLES,
                self.msr_state.misc_features(),
            ),
        ];
        let set = all.into_iter().filter(|(_, value)| *value != 0);
        set.map(|(index, val)| HvmOneMsr {
            index,
            _rsvd: 0,
            val,
        })
        .collect()
    }

    /// Takes up an MSR of the record of MSRs.
    ///
    /// # Errors
    /// [`BadRecord::Values`] for one that the domain has not, or not with that value.
    pub(crate) fn take_msr(&mut self, msr: &HvmOneMsr, msrs: &MsrPolicy) -> Result<(), BadRecord> {
        let is_valid = msr._rsvd == 0
            && match msr.index {
                number::IA32_SPEC_CTRL => msr.val & !msrs.spec_ctrl_allowed() == 0,
                number::IA32_XSS => msr.val == 0,
                number::MSR_MISC_FEATURES_ENABLES => self.msr_state.set_misc_features(msr.val),
                _ => false,
            };
        if !is_valid {
            return Err(BadRecord::Values);
        }
        if msr.index == number::IA32_SPEC_CTRL {
            self.system.spec_ctrl = msr.val;
        }
        Ok(())
    }
}

/// The most MSRs that a record of MSRs has.
pub(crate) const MOST_MSRS: usize = 2;
/// Bytes of the record of extended state before the area.
const XSAVE_HEAD: usize = 24;

fn system_of(cpu: &HvmHwCpu) -> Result<SystemRegs, BadRecord> {
    let mut segments = [Segment::default(); 8];
    for (which, index) in SEGMENTS.into_iter().enumerate() {
        segments[index] = Segment {
            selector: u16::try_from(cpu.sel[which]).map_err(|_| BadRecord::Values)?,
            base: cpu.base[which],
            limit: cpu.limit[which],
            access: context::from_arbytes(cpu.arbytes[which]),
        };
    }
    let table = |which: usize| {
        Ok(DescriptorTable {
            base: cpu.base[which],
            limit: u16::try_from(cpu.limit[which]).map_err(|_| BadRecord::Values)?,
        })
    };
    Ok(SystemRegs {
        cr0: cpu.cr0,
        cr3: cpu.cr3,
        cr4: cpu.cr4,
        efer: cpu.msr_efer,
        rip: cpu.rip,
        rsp: cpu.gprs[7],
        rflags: cpu.rflags,
        dr7: cpu.dr7,
        segments,
        gdtr: table(segment::GDTR)?,
        idtr: table(segment::IDTR)?,
        ..SystemRegs::default()
    })
}

#[cfg(test)]
mod tests;
