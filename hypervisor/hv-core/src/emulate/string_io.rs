//! INS and OUTS, for a CPU that says which port it was and no more.

use iced_x86::{Instruction, Mnemonic};

use super::decode::{address, address_bytes, instruction};
use super::register::{Gprs, Register, truncate};
use super::{CpuView, DecodeError};
use crate::addr::Gva;

/// A port access of a string instruction, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringIoInsn {
    /// Bytes of the instruction, 1 to 15.
    pub len: u8,
    /// INS rather than OUTS.
    pub is_in: bool,
    /// Bytes of each element: 1, 2 or 4.
    pub size: u8,
    /// Linear address of the first element.
    pub gva: Gva,
    /// RDI or RSI, as wide as addresses are.
    pointer: Register,
    /// RCX, where there is a REP prefix.
    count: Option<Register>,
}

impl StringIoInsn {
    /// Decodes the instruction that starts at `bytes[0]`; up to 15 bytes are looked at.
    ///
    /// # Errors
    /// See [`DecodeError`]: [`DecodeError::Unsupported`] for every other instruction.
    pub fn decode(bytes: &[u8], cpu: &CpuView) -> Result<Self, DecodeError> {
        let insn = instruction(bytes, cpu.code_size, cpu.rip)?;
        decoded(&insn, cpu).ok_or(DecodeError::Unsupported)
    }

    /// True where it has a REP prefix.
    #[must_use]
    pub const fn is_rep(&self) -> bool {
        self.count.is_some()
    }

    /// How many elements are left.
    #[must_use]
    pub fn wanted(&self, gprs: &Gprs) -> u64 {
        self.count.map_or(1, |count| gprs.get(count))
    }

    /// How many bytes lie in one piece from the first element on, upwards: to where the offset starts over at 0, which
    /// may be in the middle of one. Of 64-bit offsets it is as many as there are.
    #[must_use]
    pub fn in_one_piece(&self, gprs: &Gprs) -> u64 {
        let last = truncate(u64::MAX, self.pointer.size);
        (last - gprs.get(self.pointer)).saturating_add(1)
    }

    /// Moves the registers on, upwards, behind `elements` that are done.
    pub fn advance(&self, gprs: &mut Gprs, elements: u64) {
        if elements == 0 {
            // a write of 4 bytes would clear the upper half
            return;
        }
        let bytes = elements.wrapping_mul(u64::from(self.size));
        gprs.set(self.pointer, gprs.get(self.pointer).wrapping_add(bytes));
        if let Some(count) = self.count {
            gprs.set(count, gprs.get(count).wrapping_sub(elements));
        }
    }
}

fn decoded(insn: &Instruction, cpu: &CpuView) -> Option<StringIoInsn> {
    const RCX: u8 = 1;
    const RSI: u8 = 6;
    const RDI: u8 = 7;
    let is_in = match insn.mnemonic() {
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => true,
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => false,
        _ => return None,
    };
    // the port is the other operand
    let (memory, pointer) = if is_in { (0, RDI) } else { (1, RSI) };
    let width = address_bytes(insn.op_kind(memory));
    let is_rep = insn.has_rep_prefix() || insn.has_repne_prefix();
    Some(StringIoInsn {
        len: u8::try_from(insn.len()).ok()?,
        is_in,
        size: u8::try_from(insn.memory_size().size()).ok()?,
        gva: address(insn, memory, cpu)?,
        pointer: Register::low(pointer, width),
        count: is_rep.then_some(Register::low(RCX, width)),
    })
}

#[cfg(test)]
mod tests;
