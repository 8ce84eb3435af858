//! VMCS → [`VmExit`]: reads the fields that each reason has, and no others.
//!
//! Source: Intel SDM vol. 3D, "VMX Basic Exit Reasons"; vol. 3C, "Basic VM-Exit Information".

use hv_core::addr::{Gpa, Gva};

use super::super::{
    ControlRegister, GuestRegs, IoExit, Stage2Access, Stage2Fault, StringIo, VmExit,
};
use super::fields::Field;
use super::vmcs::CurrentVmcs;

const EVENT_VALID: u32 = 1 << 31;
const EVENT_HAS_ERROR: u32 = 1 << 11;
const EVENT_TYPE_NMI: u32 = 2;
const EVENT_TYPE_PRIVILEGED: u32 = 5;
/// Bit of an exception's information, of no meaning for a double fault.
const EVENT_UNBLOCKED_NMI: u32 = 1 << 12;
const DOUBLE_FAULT: u8 = 8;
/// Bit of an EPT violation's qualification.
const UNBLOCKED_NMI: u64 = 1 << 12;
/// Bit of the exit reason: the VM entry itself failed.
const ENTRY_FAILED: u32 = 1 << 31;

/// The reasons that guests choose most: apart, so that whoever asks knows which without a look at the result.
#[inline(always)]
pub(super) fn decode_frequent(vmcs: CurrentVmcs) -> Option<VmExit> {
    match vmcs.read32(Field::ExitReason) {
        18 => Some(VmExit::Hypercall),
        10 => Some(VmExit::Cpuid),
        _ => None,
    }
}

/// Decodes the exit that the CPU just took.
pub(super) fn decode(vmcs: CurrentVmcs, regs: &GuestRegs) -> VmExit {
    let reason = vmcs.read32(Field::ExitReason);
    match reason {
        10 => VmExit::Cpuid,
        18 => VmExit::Hypercall,
        1 => VmExit::ExternalInterrupt(low_byte(vmcs.read(Field::ExitEvent))),
        12 => VmExit::Hlt,
        31 => VmExit::Rdmsr,
        32 => VmExit::Wrmsr,
        30 => io(vmcs),
        45 => VmExit::Eoi(low_byte(vmcs.read(Field::Qualification))),
        48 => stage2_fault(vmcs),
        7 => VmExit::InterruptWindow,
        _ => decode_rare(vmcs, regs, reason),
    }
}

fn decode_rare(vmcs: CurrentVmcs, regs: &GuestRegs, reason: u32) -> VmExit {
    match reason {
        0 => exception(vmcs),
        2 => VmExit::TripleFault,
        8 => VmExit::NmiWindow,
        13 | 54 => VmExit::CacheFlush,
        28 => control_access(vmcs, regs),
        43 => VmExit::TprBelowThreshold,
        55 => VmExit::Xsetbv,
        56 => VmExit::ApicWrite(u16::from(low_byte(vmcs.read(Field::Qualification) >> 4)) << 4),
        // GETSEC, RDPMC, the VMX instructions, MWAIT, MONITOR, INVEPT, INVVPID, INVPCID, VMFUNC, ENCLS, RDSEED …
        11 | 15 | 19..=27 | 36 | 39 | 50 | 53 | 58 | 59 | 60 | 63 | 64 => VmExit::Undefined(reason),
        _ => VmExit::Broken {
            reason,
            qualification: vmcs.read(Field::Qualification),
        },
    }
}

/// True where the exit says that the VM entry failed, before any guest instruction.
pub(super) fn is_entry_failure(reason: u32) -> bool {
    reason & ENTRY_FAILED != 0
}

fn exception(vmcs: CurrentVmcs) -> VmExit {
    let info = vmcs.read32(Field::ExitEvent);
    if info & EVENT_VALID == 0 {
        return VmExit::Broken {
            reason: 0,
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
    let is_string = qualification & (1 << 4) != 0;
    VmExit::Io(IoExit {
        port: u16::try_from((qualification >> 16) & 0xFFFF).expect("masked to 16 bits"),
        size: low_byte(qualification & 7) + 1,
        is_in: qualification & (1 << 3) != 0,
        string: is_string.then(|| StringIo {
            linear: Gva::new(vmcs.read(Field::GuestLinearAddress)),
            is_rep: qualification & (1 << 5) != 0,
        }),
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
                reason: 28,
                qualification,
            };
        }
    };
    let operand = usize::from(low_byte((qualification >> 8) & 0xF));
    let cr0 = || vmcs.read(Field::GuestCr0);
    match (qualification >> 4) & 3 {
        0 => {
            let value = match operand {
                4 => vmcs.read(Field::GuestRsp),
                _ => regs.gpr.get(operand).copied().unwrap_or(0),
            };
            VmExit::ControlWrite { register, value }
        }
        1 if register == ControlRegister::Cr8 => VmExit::Cr8Read {
            destination: low_byte((qualification >> 8) & 0xF),
        },
        // CLTS
        2 => VmExit::ControlWrite {
            register,
            value: cr0() & !(1 << 3),
        },
        // LMSW: loads bits 3:0, but cannot clear PE
        3 => {
            let source = (qualification >> 16) & 0xF;
            let kept_pe = cr0() & 1;
            VmExit::ControlWrite {
                register,
                value: (cr0() & !0xF) | source | kept_pe,
            }
        }
        _ => VmExit::Broken {
            reason: 28,
            qualification,
        },
    }
}

fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}
