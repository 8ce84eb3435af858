//! The instructions behind exits, as a guest has them in memory.

use hv_hw::virt::{ControlRegister, IoExit, TaskSource, VmExit};

/// An encoding of the instruction that brings `exit` about, if one does, in 16-bit code or any other: with EBX or (E)SI
/// for its operands, as far as the exit does not say another.
pub(crate) fn of(exit: &VmExit, is_16_bit: bool) -> Option<Vec<u8>> {
    let bytes: &[u8] = match *exit {
        VmExit::Cpuid => &[0x0F, 0xA2],
        VmExit::Hlt => &[0xF4],
        VmExit::ReadTsc { with_aux: false } => &[0x0F, 0x31],
        VmExit::ReadTsc { with_aux: true } => &[0x0F, 0x01, 0xF9],
        VmExit::Hypercall => &[0x0F, 0x01, 0xD9],
        VmExit::Rdmsr => &[0x0F, 0x32],
        VmExit::Wrmsr => &[0x0F, 0x30],
        VmExit::Xsetbv => &[0x0F, 0x01, 0xD1],
        VmExit::CacheFlush => &[0x0F, 0x09],
        VmExit::PauseLoop => &[0xF3, 0x90],
        VmExit::Io(access) => return Some(port_access(access, is_16_bit)),
        VmExit::ControlWrite { register, .. } => match register {
            ControlRegister::Cr0 => &[0x0F, 0x22, 0xC3],
            ControlRegister::Cr3 => &[0x0F, 0x22, 0xDB],
            ControlRegister::Cr4 => &[0x0F, 0x22, 0xE3],
            ControlRegister::Cr8 => &[0xF0, 0x0F, 0x22, 0xC3],
        },
        VmExit::Cr8Read { destination } => {
            let general = destination.unwrap_or(3) & 7;
            return Some(vec![0xF0, 0x0F, 0x20, 0xC0 | general]);
        }
        VmExit::TaskSwitch(switch) => match switch.source {
            TaskSource::Call => &[0xFF, 0x1B],
            TaskSource::Jump => &[0xFF, 0x2B],
            TaskSource::Iret => &[0xCF],
            TaskSource::Gate(_) => &[0xCD, 0x80],
        },
        _ => return None,
    };
    Some(bytes.to_vec())
}

/// IN, OUT, INS or OUTS by DX.
fn port_access(access: IoExit, is_16_bit: bool) -> Vec<u8> {
    let base = match (access.is_string, access.is_in) {
        (false, true) => 0xEC,
        (false, false) => 0xEE,
        (true, true) => 0x6C,
        (true, false) => 0x6E,
    };
    let mut code = Vec::new();
    if access.is_string {
        code.push(0xF3);
    }
    let is_other_size = access.size == if is_16_bit { 4 } else { 2 };
    code.extend(is_other_size.then_some(0x66));
    code.push(base | u8::from(access.size != 1));
    code
}
