//! Decodes the instruction behind an MMIO exit and applies what was read: pure, and never panics on any bytes.
//!
//! An access has three steps, so that the device sits between them: [`MmioInsn::decode`], then the caller reads the
//! device where [`MmioInsn::reads`], then [`MmioInsn::finish`] updates registers and flags and says what to write.
//! Known: MOV, MOVZX, MOVSX(D), XCHG, and the arithmetic that drivers do on registers of devices (AND OR XOR ADD SUB
//! TEST CMP, INC DEC NOT NEG, BT with an immediate). String instructions, SSE and the rest are refused, as is an operand
//! that crosses the end of its page.
//!
//! Decoding is iced-x86's; without VEX, EVEX and XOP it adds 100 KiB to the image. It builds 100 KiB of tables on the heap
//! when it is first used: call [`prepare`] at boot, so that no exit allocates.

mod alu;
mod decode;
mod register;
#[cfg(test)]
mod tests;

use crate::addr::{Gva, PAGE_BYTES};
use alu::Alu;
pub use register::{Gprs, SegmentBases};
use register::{Register, truncate};

/// How the bytes are to be read: the default operand and address size of the code segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// Real mode, virtual-8086 or a 16-bit segment.
    Bits16,
    /// A 32-bit segment.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// What the CPU had when it executed the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuView {
    /// The code segment's size.
    pub code_size: CodeSize,
    /// Address of the instruction, for RIP-relative operands.
    pub rip: u64,
    /// Registers.
    pub gprs: Gprs,
    /// Segment bases; all but FS and GS are ignored in 64-bit mode.
    pub bases: SegmentBases,
}

/// Why an instruction cannot be emulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// The bytes end before the instruction does.
    Truncated,
    /// Not an instruction, or none that this emulator knows.
    Unsupported,
}

/// An access to memory, decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmioInsn {
    /// Bytes of the instruction, 1 to 15.
    pub len: u8,
    /// Linear address of the operand; the exit knows the physical one.
    pub gva: Gva,
    /// Bytes of the operand: 1, 2, 4 or 8.
    pub size: u8,
    operation: Operation,
}

/// What happens to the operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    /// The operand goes to a register as wide as it or wider.
    Load { to: Register, signed: bool },
    /// A value goes to the operand.
    Store { value: u64 },
    /// Operand and register change places.
    Exchange { with: Register },
    /// The operand is computed with.
    Compute(Alu),
}

/// Builds the decoder's tables. Without it the first [`MmioInsn::decode`] does.
pub fn prepare() {
    decode::prepare();
}

impl MmioInsn {
    /// Decodes the instruction that starts at `bytes[0]`; up to 15 bytes are looked at.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8], cpu: &CpuView) -> Result<Self, DecodeError> {
        let insn = decode::decode(bytes, cpu)?;
        if insn.gva.page_offset() + usize::from(insn.size) > PAGE_BYTES {
            return Err(DecodeError::Unsupported);
        }
        Ok(insn)
    }

    /// True where the operand must be read before [`MmioInsn::finish`].
    #[must_use]
    pub fn reads(&self) -> bool {
        !matches!(self.operation, Operation::Store { .. })
    }

    /// Completes the instruction with the operand `read` (ignored where it does not read): updates registers and flags,
    /// not RIP. Returns what is to be written to the operand, if anything.
    #[must_use]
    pub fn finish(&self, read: u64, gprs: &mut Gprs, rflags: &mut u64) -> Option<u64> {
        let read = truncate(read, self.size);
        match self.operation {
            Operation::Load { to, signed } => {
                let value = if signed {
                    register::sign_extend(read, self.size)
                } else {
                    read
                };
                gprs.set(to, value);
                None
            }
            Operation::Store { value } => Some(value),
            Operation::Exchange { with } => {
                let value = gprs.get(with);
                gprs.set(with, read);
                Some(value)
            }
            Operation::Compute(alu) => alu.finish(read, self.size, gprs, rflags),
        }
    }
}
