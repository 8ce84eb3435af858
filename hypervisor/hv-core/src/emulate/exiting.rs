//! How long the instruction is that exited, where the CPU does not say so.
//!
//! Another vCPU may have changed the code since, so the instruction is looked for by what the exit says of it: what is
//! none of that kind has not exited.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{CodeSize, decode};
use crate::vcpu::task::TaskSource;

/// What an exit says of the instruction that brought it about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitingInsn {
    Cpuid,
    /// VMCALL or VMMCALL, whichever the CPU has.
    Hypercall,
    Hlt,
    Pause,
    Rdtsc,
    Rdtscp,
    Rdmsr,
    Wrmsr,
    Xsetbv,
    /// INVD, WBINVD or WBNOINVD.
    CacheFlush,
    /// IN or OUT, of the accumulator.
    Port {
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// IN rather than OUT.
        is_in: bool,
    },
    /// What switches tasks; INT n and its like where it goes by a gate.
    TaskSwitch(TaskSource),
}

impl ExitingInsn {
    /// The length of the instruction where the low 3 bytes of `bytes`, the first lowest, begin with its encoding
    /// without prefixes, as compilers and kernels write it: a few comparisons. `None` for every other encoding.
    #[inline]
    #[must_use]
    pub const fn plain_length(self, bytes: u64) -> Option<u8> {
        const TWO: u64 = 0xFFFF;
        const THREE: u64 = 0x00FF_FFFF;
        let (mask, length) = match self {
            Self::Hlt => (0xFF, 1),
            Self::Hypercall | Self::Rdtscp | Self::Xsetbv => (THREE, 3),
            _ => (TWO, 2),
        };
        let is_plain = match (self, bytes & mask) {
            (Self::Cpuid, code) => code == 0xA20F,
            (Self::Hypercall, code) => code == 0xD9_010F || code == 0xC1_010F,
            (Self::Hlt, code) => code == 0xF4,
            (Self::Pause, code) => code == 0x90F3,
            (Self::Rdtsc, code) => code == 0x310F,
            (Self::Rdtscp, code) => code == 0xF9_010F,
            (Self::Rdmsr, code) => code == 0x320F,
            (Self::Wrmsr, code) => code == 0x300F,
            (Self::Xsetbv, code) => code == 0xD1_010F,
            (Self::CacheFlush, code) => code == 0x080F || code == 0x090F,
            (Self::Port { .. } | Self::TaskSwitch(_), _) => false,
        };
        if is_plain { Some(length) } else { None }
    }

    /// The length of the instruction that begins at `bytes[0]`, where that is this one; `None` for every other, and
    /// for what is cut short.
    #[must_use]
    pub fn length(self, bytes: &[u8], code_size: CodeSize) -> Option<u8> {
        let insn = decode::instruction(bytes, code_size, 0).ok()?;
        let length = u8::try_from(insn.len()).ok()?;
        self.is(&insn).then_some(length)
    }

    fn is(self, insn: &Instruction) -> bool {
        use Mnemonic as M;
        let found = insn.mnemonic();
        match self {
            Self::Cpuid => found == M::Cpuid,
            // with a REP prefix it calls another kind of hypervisor, where there is one
            Self::Hypercall => matches!(found, M::Vmcall | M::Vmmcall | M::Vmgexit),
            Self::Hlt => found == M::Hlt,
            Self::Pause => found == M::Pause,
            Self::Rdtsc => found == M::Rdtsc,
            Self::Rdtscp => found == M::Rdtscp,
            Self::Rdmsr => found == M::Rdmsr,
            Self::Wrmsr => found == M::Wrmsr,
            Self::Xsetbv => found == M::Xsetbv,
            Self::CacheFlush => matches!(found, M::Invd | M::Wbinvd | M::Wbnoinvd),
            Self::Port { port, size, is_in } => {
                let wanted = if is_in { M::In } else { M::Out };
                found == wanted && is_port_access(insn, is_in, port, size)
            }
            Self::TaskSwitch(source) => match source {
                TaskSource::Call => insn.is_call_far() || insn.is_call_far_indirect(),
                TaskSource::Jump => insn.is_jmp_far() || insn.is_jmp_far_indirect(),
                TaskSource::Iret => matches!(found, M::Iret | M::Iretd | M::Iretq),
                TaskSource::Gate(_) => matches!(found, M::Int | M::Int1 | M::Int3 | M::Into),
            },
        }
    }
}

/// True for IN or OUT of `size` bytes at `port`. A port in DX is the exit's: DX is what it was.
fn is_port_access(insn: &Instruction, is_in: bool, port: u16, size: u8) -> bool {
    let (port_operand, data) = if is_in { (1, 0) } else { (0, 1) };
    let is_at_port = match insn.op_kind(port_operand) {
        OpKind::Immediate8 => u16::from(insn.immediate8()) == port,
        _ => insn.op_register(port_operand) == Register::DX,
    };
    is_at_port && insn.op_register(data).size() == usize::from(size)
}

#[cfg(test)]
mod tests;
