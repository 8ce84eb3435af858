//! Instructions that read or write control registers, for a CPU that says which register it was and no more.
//!
//! Source: Intel SDM vol. 2B, "MOV—Move to/from Control Registers"; vol. 2A, "CLTS", "LMSW"; AMD APM vol. 3,
//! "MOV CRn", for LOCK before MOV CR0, which is MOV CR8 outside 64-bit code too.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::decode::{address, instruction_of_amd, register};
use super::register::Register;
use super::{CodeSize, CpuView, DecodeError, Gprs, truncate};
use crate::addr::Gva;
use crate::x86::CR0_TS;

/// An access to a control register, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ControlInsn {
    /// Bytes of the instruction, 1 to 15.
    pub len: u8,
    pub access: ControlAccess,
}

/// What it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlAccess {
    /// MOV to the control register with this number.
    Write { register: u8, value: u64 },
    /// MOV from the control register with this number to a general one.
    Read { register: u8, to: u8 },
    /// CLTS, which clears CR0.TS.
    ClearTaskSwitched,
    /// LMSW of a register.
    LoadStatus(u16),
    /// LMSW of two bytes in memory.
    LoadStatusFrom(Gva),
}

/// Bytes of what [`ControlInsn::plain_write`] knows.
const PLAIN_BYTES: u8 = 3;

impl ControlInsn {
    /// MOV to a control register where the low 3 bytes of `bytes`, the first lowest, are its encoding without prefixes,
    /// as kernels have it most: a few comparisons. `None` for every other instruction.
    #[must_use]
    pub fn plain_write(bytes: u64, code_size: CodeSize, gprs: &Gprs) -> Option<Self> {
        let [0x0F, 0x22, modrm @ 0xC0..=0xFF, ..] = bytes.to_le_bytes() else {
            return None;
        };
        let register = (modrm >> 3) & 7;
        let size = match code_size {
            CodeSize::Bits64 => 8,
            CodeSize::Bits16 | CodeSize::Bits32 => 4,
        };
        let value = gprs.get(Register::low(modrm & 7, size));
        matches!(register, 0 | 3 | 4).then_some(Self {
            len: PLAIN_BYTES,
            access: ControlAccess::Write { register, value },
        })
    }

    /// Decodes the instruction that starts at `bytes[0]`; up to 15 bytes are looked at.
    ///
    /// # Errors
    /// See [`DecodeError`]: [`DecodeError::Unsupported`] for every other instruction.
    pub fn decode(bytes: &[u8], cpu: &CpuView) -> Result<Self, DecodeError> {
        let insn = instruction_of_amd(bytes, cpu.code_size, cpu.rip)?;
        decoded(&insn, cpu).ok_or(DecodeError::Unsupported)
    }
}

fn decoded(insn: &Instruction, cpu: &CpuView) -> Option<ControlInsn> {
    let access = match insn.mnemonic() {
        Mnemonic::Clts => ControlAccess::ClearTaskSwitched,
        Mnemonic::Lmsw => status_word(insn, cpu)?,
        Mnemonic::Mov if insn.op0_register().is_cr() => ControlAccess::Write {
            register: number(insn.op0_register())?,
            value: cpu.gprs.get(register(insn.op1_register())?),
        },
        Mnemonic::Mov if insn.op1_register().is_cr() => ControlAccess::Read {
            register: number(insn.op1_register())?,
            to: register(insn.op0_register())?.index,
        },
        _ => return None,
    };
    Some(ControlInsn {
        len: u8::try_from(insn.len()).ok()?,
        access,
    })
}

/// LMSW takes two bytes, whatever the size of the register.
fn status_word(insn: &Instruction, cpu: &CpuView) -> Option<ControlAccess> {
    if insn.op0_kind() == OpKind::Memory {
        return Some(ControlAccess::LoadStatusFrom(address(insn, 0, cpu)?));
    }
    let value = cpu.gprs.get(register(insn.op0_register())?);
    let word = u16::try_from(truncate(value, 2)).ok()?;
    Some(ControlAccess::LoadStatus(word))
}

fn number(register: iced_x86::Register) -> Option<u8> {
    u8::try_from(register.number()).ok()
}

/// CR0 after CLTS.
#[must_use]
pub const fn after_clts(cr0: u64) -> u64 {
    cr0 & !CR0_TS
}

/// CR0 after LMSW, which loads bits 3:0, but cannot clear PE.
#[must_use]
pub const fn after_lmsw(cr0: u64, source: u64) -> u64 {
    (cr0 & !0xE) | (source & 0xF)
}

#[cfg(test)]
mod tests;
