//! Writes of control registers that touch what the hypervisor owns, and XSETBV.

use hv_core::emulate::{ControlAccess, ControlInsn, after_clts, after_lmsw};
use hv_core::x86::gpr::RSP;
use hv_core::x86::{
    CR0_CD, CR0_ET, CR0_NW, CR0_PE, CR0_PG, CR4_LA57, CR4_PAE, CR4_PCIDE, EFER_LMA, EFER_LME,
};
use hv_hw::virt::{ControlRegister, Event, SystemRegs, SystemSet, VcpuHw};

use crate::exit::{Next, Runner, done};
use crate::pcpu::Pcpu;
use crate::runner::instruction::gone;
use crate::runner::{pdptes, raise};

const CR0_DEFINED: u64 = 0xE005_003F;
const CR3_PCID: u64 = 0xFFF;

/// Carries out the write, or raises #GP as the CPU would have.
pub(super) fn write<H: VcpuHw>(
    runner: &mut Runner<H>,
    pcpu: &mut Pcpu,
    register: ControlRegister,
    value: Option<u64>,
) -> Next {
    let known = value.filter(|_| runner.hw.knows_length());
    let Some(value) = known.or_else(|| decoded_value(runner, register)) else {
        return gone(runner, pcpu);
    };
    let is_valid = match register {
        ControlRegister::Cr0 => is_cr0_valid(runner, value),
        ControlRegister::Cr4 => is_cr4_valid(runner, value),
        ControlRegister::Cr8 => runner.lapic.set_cr8(value).is_ok(),
        ControlRegister::Cr3 => false,
    };
    if !is_valid {
        return raise(runner, Event::PROTECTION);
    }
    let value = if register == ControlRegister::Cr0 {
        value | CR0_ET
    } else {
        value
    };
    let Ok(entries) = pdptes::due(runner, register, value) else {
        return raise(runner, Event::PROTECTION);
    };
    set(runner, register, value);
    if let Some(entries) = entries {
        pdptes::set(runner, entries);
    }
    done(runner)
}

/// What the guest wants in the register, by the instruction; `None` where that is gone.
#[cold]
fn decoded_value<H: VcpuHw>(runner: &mut Runner<H>, register: ControlRegister) -> Option<u64> {
    let (code_size, bytes) = runner.first_bytes();
    let insn = ControlInsn::plain_write(bytes, code_size, &runner.gprs())
        .or_else(|| runner.decode(ControlInsn::decode))?;
    // what the guest sees, of which it changes a part
    let cr0 = runner.hw.system(SystemSet::CR0).cr0;
    let (written, value) = match insn.access {
        ControlAccess::Write { register, value } => (register, value),
        ControlAccess::ClearTaskSwitched => (0, after_clts(cr0)),
        ControlAccess::LoadStatus(word) => (0, after_lmsw(cr0, u64::from(word))),
        ControlAccess::LoadStatusFrom(operand) => {
            let mut word = [0; 2];
            runner.copy_bytes_in(operand, &mut word).ok()?;
            (0, after_lmsw(cr0, u64::from(u16::from_le_bytes(word))))
        }
        ControlAccess::Read { .. } => return None,
    };
    (written == number(register) && runner.has_length(insn.len)).then_some(value)
}

const fn number(register: ControlRegister) -> u8 {
    match register {
        ControlRegister::Cr0 => 0,
        ControlRegister::Cr3 => 3,
        ControlRegister::Cr4 => 4,
        ControlRegister::Cr8 => 8,
    }
}

fn set<H: VcpuHw>(runner: &mut Runner<H>, register: ControlRegister, value: u64) {
    let mut regs = SystemRegs::default();
    let changed = match register {
        ControlRegister::Cr0 => {
            regs.cr0 = value;
            SystemSet::CR0
        }
        ControlRegister::Cr3 => {
            regs.cr3 = value;
            SystemSet::CR3
        }
        ControlRegister::Cr4 => {
            regs.cr4 = value;
            SystemSet::CR4
        }
        // the task priority is the local APIC's
        ControlRegister::Cr8 => return,
    };
    runner.hw.set_system(&regs, changed);
}

pub(super) fn read_cr8<H: VcpuHw>(
    runner: &mut Runner<H>,
    pcpu: &mut Pcpu,
    destination: Option<u8>,
) -> Next {
    let known = destination.filter(|_| runner.hw.knows_length());
    let Some(destination) = known.or_else(|| decoded_destination(runner)) else {
        return gone(runner, pcpu);
    };
    let value = u64::from(runner.lapic.cr8());
    if usize::from(destination) == RSP {
        let regs = SystemRegs {
            rsp: value,
            ..SystemRegs::default()
        };
        runner.hw.set_system(&regs, SystemSet::RSP);
    } else if let Some(register) = runner.hw.regs().gpr.get_mut(usize::from(destination)) {
        *register = value;
    }
    done(runner)
}

/// The register that takes CR8, by the instruction; `None` where that is gone.
#[cold]
fn decoded_destination<H: VcpuHw>(runner: &mut Runner<H>) -> Option<u8> {
    let insn = runner.decode(ControlInsn::decode)?;
    let ControlAccess::Read { register: 8, to } = insn.access else {
        return None;
    };
    runner.has_length(insn.len).then_some(to)
}

/// XSETBV: only XCR0 exists.
pub(super) fn xsetbv<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    let regs = runner.hw.regs();
    let (register, value) = (regs.rcx() & 0xFFFF_FFFF, regs.edx_eax());
    if register != 0 || runner.hw.cpl() != 0 || !runner.policies.cpuid.xcr0_is_valid(value) {
        return raise(runner, Event::PROTECTION);
    }
    runner.xcr0 = value;
    let regs = SystemRegs {
        xcr0: value,
        ..SystemRegs::default()
    };
    runner.hw.set_system(&regs, SystemSet::XCR0);
    done(runner)
}

/// SDM vol. 3A, "Control Registers"; vol. 3A, "Initializing IA-32e Mode".
fn is_cr0_valid<H: VcpuHw>(runner: &Runner<H>, value: u64) -> bool {
    let regs = runner.hw.paging();
    let has = |bit| value & bit != 0;
    let long_without_pae = has(CR0_PG) && regs.efer & EFER_LME != 0 && regs.cr4 & CR4_PAE == 0;
    value & !CR0_DEFINED == 0
        && (has(CR0_PG) || may_leave_paging(runner))
        && (!has(CR0_PG) || has(CR0_PE))
        && (!has(CR0_NW) || has(CR0_CD))
        && !long_without_pae
}

/// Neither 64-bit code nor one with PCIDs can switch paging off.
fn may_leave_paging<H: VcpuHw>(runner: &Runner<H>) -> bool {
    let regs = runner.hw.paging();
    regs.cr0 & CR0_PG == 0 || !(runner.hw.is_64_bit() || regs.cr4 & CR4_PCIDE != 0)
}

/// SDM vol. 3A, "Control Registers"; the CPU checks only writes that do not exit.
fn is_cr4_valid<H: VcpuHw>(runner: &Runner<H>, value: u64) -> bool {
    let regs = runner.hw.paging();
    let is_long = regs.efer & EFER_LMA != 0;
    let changes = |bit| (value ^ regs.cr4) & bit != 0;
    let has = |bit| value & bit != 0;
    let pcid_on = changes(CR4_PCIDE) && has(CR4_PCIDE);
    value & !runner.policies.cpuid.cr4_allowed() == 0
        && !(is_long && (!has(CR4_PAE) || changes(CR4_LA57)))
        && !(pcid_on && (!is_long || regs.cr3 & CR3_PCID != 0))
}
