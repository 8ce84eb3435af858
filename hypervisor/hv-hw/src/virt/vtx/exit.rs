//! VMCS → [`VmExit`]: reads the fields that each reason has, and no others.
//!
//! Source: Intel SDM vol. 3D, "VMX Basic Exit Reasons"; vol. 3C, "Basic VM-Exit Information".

use hv_core::addr::{Gpa, Gva};
use hv_core::emulate::{after_clts, after_lmsw};
use hv_core::x86::gpr::RSP;

use super::super::{
    ControlRegister, GuestRegs, IoExit, Stage2Access, Stage2Fault, TaskSource, TaskSwitch, VmExit,
};
use super::fields::Field;
use super::reasons::{self, Answer};
use super::registers::CR0_OWNED;
use super::vmcs::CurrentVmcs;

const EVENT_VALID: u32 = 1 << 31;
const EVENT_HAS_ERROR: u32 = 1 << 11;
const EVENT_TYPE_NMI: u32 = 2;
const EVENT_TYPE_PRIVILEGED: u32 = 5;
/// Bit of an exception's information, of no meaning for a double fault.
const EVENT_UNBLOCKED_NMI: u32 = 1 << 12;
const DOUBLE_FAULT: u8 = 8;
/// Bit of the qualification of an EPT violation and of an instruction timeout.
const UNBLOCKED_NMI: u64 = 1 << 12;
const MACHINE_CHECK: u8 = 18;

/// The reasons that guests choose most: apart, so that whoever asks knows which without a look at the result.
#[inline(always)]
pub(super) fn decode_frequent(vmcs: CurrentVmcs) -> Option<VmExit> {
    match vmcs.read32(Field::ExitReason) {
        reasons::VMCALL => Some(VmExit::Hypercall),
        reasons::CPUID => Some(VmExit::Cpuid),
        _ => None,
    }
}

/// Decodes the exit that the CPU just took.
pub(super) fn decode(vmcs: CurrentVmcs, regs: &GuestRegs) -> VmExit {
    let reason = reasons::number(vmcs.read32(Field::ExitReason));
    match reason {
        reasons::CPUID => VmExit::Cpuid,
        reasons::VMCALL => VmExit::Hypercall,
        reasons::EXTERNAL_INTERRUPT => {
            VmExit::ExternalInterrupt(low_byte(vmcs.read(Field::ExitEvent)))
        }
        reasons::HLT => VmExit::Hlt,
        reasons::RDMSR => VmExit::Rdmsr,
        reasons::WRMSR => VmExit::Wrmsr,
        reasons::IO => io(vmcs),
        reasons::EOI => VmExit::Eoi(low_byte(vmcs.read(Field::Qualification))),
        reasons::EPT_VIOLATION => stage2_fault(vmcs),
        reasons::INTERRUPT_WINDOW => VmExit::InterruptWindow,
        _ => decode_rare(vmcs, regs, reason),
    }
}

fn decode_rare(vmcs: CurrentVmcs, regs: &GuestRegs, reason: u32) -> VmExit {
    match reason {
        reasons::EXCEPTION_OR_NMI => exception(vmcs),
        reasons::TRIPLE_FAULT => VmExit::TripleFault,
        reasons::RDTSC => VmExit::ReadTsc { with_aux: false },
        reasons::RDTSCP => VmExit::ReadTsc { with_aux: true },
        reasons::INIT => VmExit::HostReset,
        reasons::SIPI => VmExit::Nothing,
        reasons::NMI_WINDOW => VmExit::NmiWindow,
        reasons::TASK_SWITCH => VmExit::TaskSwitch(task_switch(vmcs)),
        reasons::INVD | reasons::WBINVD => VmExit::CacheFlush,
        reasons::CONTROL_REGISTER => control_access(vmcs, regs),
        reasons::PAUSE => VmExit::PauseLoop,
        reasons::TPR_BELOW_THRESHOLD => VmExit::TprBelowThreshold,
        reasons::XSETBV => VmExit::Xsetbv,
        reasons::APIC_WRITE => {
            VmExit::ApicWrite(u16::from(low_byte(vmcs.read(Field::Qualification) >> 4)) << 4)
        }
        reasons::BUS_LOCK => VmExit::BusLock,
        reasons::NOTIFY => instruction_timeout(vmcs),
        reasons::ENTRY_MACHINE_CHECK => VmExit::Exception {
            vector: MACHINE_CHECK,
            error: None,
            qualification: 0,
        },
        _ if reasons::answer(reason) == Answer::Undefined => VmExit::Undefined(reason),
        _ => VmExit::Broken {
            reason,
            qualification: vmcs.read(Field::Qualification),
        },
    }
}

/// SDM vol. 3C, table "Exit Qualification for Task Switches".
fn task_switch(vmcs: CurrentVmcs) -> TaskSwitch {
    let qualification = vmcs.read(Field::Qualification);
    let [low, high, ..] = qualification.to_le_bytes();
    TaskSwitch {
        selector: u16::from_le_bytes([low, high]),
        source: match (qualification >> 30) & 3 {
            0 => TaskSource::Call,
            1 => TaskSource::Iret,
            2 => TaskSource::Jump,
            _ => TaskSource::Gate(None),
        },
        length: Some(low_byte(vmcs.read(Field::InstructionLength))),
    }
}

/// An instruction had no end for longer than any may take. Where its state could not be kept, the guest cannot go on.
fn instruction_timeout(vmcs: CurrentVmcs) -> VmExit {
    const CONTEXT_INVALID: u64 = 1;
    let qualification = vmcs.read(Field::Qualification);
    if qualification & CONTEXT_INVALID != 0 {
        return VmExit::Broken {
            reason: reasons::NOTIFY,
            qualification,
        };
    }
    if qualification & UNBLOCKED_NMI != 0 {
        block_nmi_again(vmcs);
    }
    VmExit::InstructionTimeout
}

fn exception(vmcs: CurrentVmcs) -> VmExit {
    let info = vmcs.read32(Field::ExitEvent);
    if info & EVENT_VALID == 0 {
        return VmExit::Broken {
            reason: reasons::EXCEPTION_OR_NMI,
            qualification: u64::from(info),
        };
    }
    if (info >> 8) & 7 == EVENT_TYPE_NMI {
        return VmExit::Nmi;
    }
    let vector = low_byte(u64::from(info));
    if info & EVENT_UNBLOCKED_NMI != 0 && vector != DOUBLE_FAULT {
        block_nmi_again(vmcs);
    }
    let error = (info & EVENT_HAS_ERROR != 0).then(|| vmcs.read32(Field::ExitErrorCode));
    VmExit::Exception {
        vector,
        error,
        qualification: vmcs.read(Field::Qualification),
    }
}

/// True where the exception that exited is that of INT1, which exits before the instruction pointer has moved on.
pub(super) fn is_int1(vmcs: CurrentVmcs) -> bool {
    (vmcs.read32(Field::ExitEvent) >> 8) & 7 == EVENT_TYPE_PRIVILEGED
}

fn io(vmcs: CurrentVmcs) -> VmExit {
    let qualification = vmcs.read(Field::Qualification);
    VmExit::Io(IoExit {
        port: u16::try_from((qualification >> 16) & 0xFFFF).expect("masked to 16 bits"),
        size: low_byte(qualification & 7) + 1,
        is_in: qualification & (1 << 3) != 0,
        is_string: qualification & (1 << 4) != 0,
    })
}

fn stage2_fault(vmcs: CurrentVmcs) -> VmExit {
    let qualification = vmcs.read(Field::Qualification);
    if qualification & UNBLOCKED_NMI != 0 {
        block_nmi_again(vmcs);
    }
    let mut access = Stage2Access::empty();
    access.set(Stage2Access::READ, qualification & 1 != 0);
    access.set(Stage2Access::WRITE, qualification & 2 != 0);
    access.set(Stage2Access::FETCH, qualification & 4 != 0);
    access.set(Stage2Access::PRESENT, qualification & 0x38 != 0);
    let has_linear = qualification & (1 << 7) != 0;
    let is_final = qualification & (1 << 8) != 0;
    access.set(Stage2Access::WALK, has_linear && !is_final);
    VmExit::Stage2Fault(Stage2Fault {
        gpa: Gpa::new(vmcs.read(Field::GuestPhysicalAddress)),
        linear: has_linear.then(|| Gva::new(vmcs.read(Field::GuestLinearAddress))),
        access,
    })
}

/// An IRET ended the blocking of NMIs and then faulted: it runs again, and NMIs wait until then.
/// SDM vol. 3C, "Resuming Guest Software after Handling an Exception".
#[cold]
fn block_nmi_again(vmcs: CurrentVmcs) {
    const BLOCKED_BY_NMI: u64 = 8;
    if vmcs.read32(Field::VectoringEvent) & EVENT_VALID == 0 {
        let state = vmcs.read(Field::Interruptibility);
        vmcs.write(Field::Interruptibility, state | BLOCKED_BY_NMI);
    }
}

/// SDM vol. 3C, table "Exit Qualification for Control-Register Accesses".
fn control_access(vmcs: CurrentVmcs, regs: &GuestRegs) -> VmExit {
    let qualification = vmcs.read(Field::Qualification);
    let register = match qualification & 0xF {
        0 => ControlRegister::Cr0,
        3 => ControlRegister::Cr3,
        4 => ControlRegister::Cr4,
        8 => ControlRegister::Cr8,
        _ => {
            return VmExit::Broken {
                reason: reasons::CONTROL_REGISTER,
                qualification,
            };
        }
    };
    let operand = usize::from(low_byte((qualification >> 8) & 0xF));
    // what the guest sees, of which it changes a part
    let cr0 = || {
        seen(
            vmcs.read(Field::Cr0Shadow),
            vmcs.read(Field::GuestCr0),
            CR0_OWNED,
        )
    };
    match (qualification >> 4) & 3 {
        0 => {
            let value = match operand {
                RSP => vmcs.read(Field::GuestRsp),
                _ => regs.gpr.get(operand).copied().unwrap_or(0),
            };
            VmExit::ControlWrite {
                register,
                value: Some(value),
            }
        }
        1 if register == ControlRegister::Cr8 => VmExit::Cr8Read {
            destination: Some(low_byte((qualification >> 8) & 0xF)),
        },
        2 => VmExit::ControlWrite {
            register,
            value: Some(after_clts(cr0())),
        },
        3 => VmExit::ControlWrite {
            register,
            value: Some(after_lmsw(cr0(), qualification >> 16)),
        },
        _ => VmExit::Broken {
            reason: reasons::CONTROL_REGISTER,
            qualification,
        },
    }
}

/// A control register as the guest sees it: the bits that it does not own as it wrote them.
pub(super) const fn seen(shadow: u64, real: u64, owned: u64) -> u64 {
    (shadow & owned) | (real & !owned)
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clts_and_lmsw_change_what_the_guest_sees_and_no_more() {
        const NE: u64 = 1 << 5;
        // the guest has neither NE nor CD set; the CPU has NE
        let before = seen(0x11, 0x11 | 8 | NE, CR0_OWNED);
        assert_eq!(before, 0x19);
        assert_eq!(after_clts(before), 0x11);
        assert_eq!(after_lmsw(before, 0xFFF6), 0x17);
        assert_eq!(after_lmsw(0x10, 1), 0x11);
    }
}
