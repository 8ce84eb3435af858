//! VMCB → [`VmExit`]: reads the fields that each exit code has, and no others.
//!
//! Source: AMD APM vol. 2, appendix "SVM Intercept Exit Codes"; "Basic Operation", "Nested Paging".

use hv_core::addr::Gpa;

use super::super::{
    ControlRegister, IoExit, Stage2Access, Stage2Fault, TaskSource, TaskSwitch, VmExit,
};
use super::exit_codes::{self as codes, Answer};
use super::inject;
use super::vmcb::Vmcb;

/// The exit code. Emulators disagree on the upper half of that of an invalid state.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "no code is wider")]
pub(super) fn code(vmcb: &Vmcb) -> u32 {
    vmcb.exit_code as u32
}

/// The codes that guests choose most: apart, so that whoever asks knows which without a look at the result.
#[inline(always)]
pub(super) fn decode_frequent(vmcb: &Vmcb) -> Option<VmExit> {
    match code(vmcb) {
        codes::VMMCALL => Some(VmExit::Hypercall),
        codes::CPUID => Some(VmExit::Cpuid),
        _ => None,
    }
}

/// Decodes all others but external interrupts, NMIs and IRET, for which something has to be done first.
pub(super) fn decode(vmcb: &Vmcb) -> VmExit {
    match code(vmcb) {
        codes::HLT => VmExit::Hlt,
        codes::MSR if vmcb.exit_info1 == 0 => VmExit::Rdmsr,
        codes::MSR => VmExit::Wrmsr,
        codes::IOIO => VmExit::Io(io(vmcb.exit_info1)),
        codes::NPF => VmExit::Stage2Fault(stage2_fault(vmcb)),
        codes::VINTR => VmExit::InterruptWindow,
        other => decode_rare(vmcb, other),
    }
}

fn decode_rare(vmcb: &Vmcb, code: u32) -> VmExit {
    match code {
        codes::CR4_WRITE => control_write(ControlRegister::Cr4),
        codes::CR8_WRITE => control_write(ControlRegister::Cr8),
        codes::EXCEPTION_DB | codes::EXCEPTION_AC | codes::EXCEPTION_MC => exception(code),
        codes::SMI => VmExit::Nothing,
        codes::INIT => VmExit::HostReset,
        codes::RDTSC => VmExit::ReadTsc { with_aux: false },
        codes::RDTSCP => VmExit::ReadTsc { with_aux: true },
        codes::INVD | codes::WBINVD => VmExit::CacheFlush,
        codes::PAUSE => VmExit::PauseLoop,
        codes::TASK_SWITCH => VmExit::TaskSwitch(task_switch(vmcb)),
        codes::SHUTDOWN => VmExit::TripleFault,
        codes::XSETBV => VmExit::Xsetbv,
        _ if codes::answer(code) == Answer::Undefined => VmExit::Undefined(code),
        _ => VmExit::Broken {
            reason: code,
            qualification: vmcb.exit_info1,
        },
    }
}

/// No CPU that we are tested on says what is written.
fn control_write(register: ControlRegister) -> VmExit {
    VmExit::ControlWrite {
        register,
        value: None,
    }
}

fn exception(code: u32) -> VmExit {
    const FIRST: u32 = 0x40;
    const ALIGNMENT_CHECK: u8 = 17;
    let vector = (code - FIRST).to_le_bytes()[0];
    VmExit::Exception {
        vector,
        error: (vector == ALIGNMENT_CHECK).then_some(0),
        qualification: 0,
    }
}

fn io(info: u64) -> IoExit {
    const IN: u64 = 1 << 0;
    const STRING: u64 = 1 << 2;
    let [_, _, low, high, ..] = info.to_le_bytes();
    IoExit {
        port: u16::from_le_bytes([low, high]),
        // one bit of three is set: 1, 2 or 4 bytes
        size: ((info >> 4) & 7).to_le_bytes()[0],
        is_in: info & IN != 0,
        is_string: info & STRING != 0,
    }
}

fn stage2_fault(vmcb: &Vmcb) -> Stage2Fault {
    const PRESENT: u64 = 1 << 0;
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    const WALK: u64 = 1 << 33;
    let info = vmcb.exit_info1;
    let has = |bit| info & bit != 0;
    let mut access = Stage2Access::empty();
    access.set(Stage2Access::READ, !has(WRITE) && !has(FETCH));
    access.set(Stage2Access::WRITE, has(WRITE));
    access.set(Stage2Access::FETCH, has(FETCH) && !has(WALK));
    access.set(Stage2Access::PRESENT, has(PRESENT));
    access.set(Stage2Access::WALK, has(WALK));
    Stage2Fault {
        gpa: Gpa::new(vmcb.exit_info2),
        linear: None,
        access,
    }
}

fn task_switch(vmcb: &Vmcb) -> TaskSwitch {
    const BY_IRET: u64 = 1 << 36;
    const BY_JUMP: u64 = 1 << 38;
    const HAS_ERROR: u64 = 1 << 44;
    let info = vmcb.exit_info2;
    let [low, high, ..] = vmcb.exit_info1.to_le_bytes();
    let source = if info & BY_IRET != 0 {
        TaskSource::Iret
    } else if info & BY_JUMP != 0 {
        TaskSource::Jump
    } else if inject::is_in_delivery(vmcb) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low half is the error code"
        )]
        let error = (info & HAS_ERROR != 0).then_some(info as u32);
        TaskSource::Gate(error)
    } else {
        TaskSource::Call
    };
    TaskSwitch {
        selector: u16::from_le_bytes([low, high]),
        source,
        length: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_access_has_size_direction_and_port() {
        let out = io(0x3F8_0010);
        assert_eq!((out.port, out.size, out.is_in), (0x3F8, 1, false));
        assert!(!out.is_string);
        let ins = io(0x1F0_002D);
        assert_eq!((ins.port, ins.size, ins.is_in), (0x1F0, 2, true));
        assert!(ins.is_string);
        assert_eq!(io(0xCFC_0040).size, 4);
    }
}
