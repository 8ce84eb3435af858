//! Decodes the instruction that exited: pure, and never panics on any bytes.
//!
//! `exiting` finds the length of one that is stepped over, `control` and `string_io` the operands of those of which a
//! CPU says no more than that they exited.
//!
//! The rest is about MMIO. An access has three steps, so that the device sits between them: [`MmioInsn::decode`], then
//! the caller reads the device where [`MmioInsn::reads`], then [`MmioInsn::finish`] updates registers and flags and
//! says what to write. Known: MOV, MOVZX, MOVSX(D), XCHG, XADD, CMPXCHG, arithmetic (AND OR XOR ADD ADC SUB SBB TEST
//! CMP, INC DEC NOT NEG, BT BTS BTR BTC), and STOS and LODS, a repetition at a time. String instructions with two
//! operands in memory, shifts, SSE and the rest are refused, as is an operand that crosses the end of its page.
//!
//! Decoding is iced-x86's; without VEX, EVEX and XOP it adds 100 KiB to the image. It builds 100 KiB of tables on the
//! heap when it is first used: call [`prepare`] at boot, so that no exit allocates.

mod alu;
mod control;
mod decode;
mod exiting;
mod register;
mod string_io;
#[cfg(test)]
mod tests;

use crate::addr::{Gva, PAGE_BYTES};
use alu::{Alu, AluOp};
pub use control::{ControlAccess, ControlInsn, after_clts, after_lmsw};
pub use exiting::ExitingInsn;
pub use register::{Gprs, SegmentBases};
use register::{Register, truncate};
pub use string_io::StringIoInsn;

/// How the bytes are to be read: the default operand and address size of the code segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeSize {
    /// Real mode, virtual-8086 or a 16-bit segment.
    Bits16,
    Bits32,
    Bits64,
}

/// What the CPU had when it executed the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuView {
    /// The code segment's size.
    pub code_size: CodeSize,
    /// Address of the instruction, for RIP-relative operands.
    pub rip: u64,
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
    string: Option<StringStep>,
}

/// What STOS and LODS do beside the access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct StringStep {
    /// RDI or RSI, as wide as addresses are.
    pointer: Register,
    /// RCX, where there is a REP prefix.
    count: Option<Register>,
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
    /// The operand goes to the register, the sum of both to the operand.
    ExchangeAdd { with: Register },
    /// The register goes to the operand where that is equal to the accumulator, else the operand to that.
    CompareExchange { with: Register },
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

    /// True where the instruction, [finished](Self::finish), is to be executed again: repetitions are left.
    #[must_use]
    pub fn repeats(&self, gprs: &Gprs) -> bool {
        let count = self.string.and_then(|string| string.count);
        count.is_some_and(|count| gprs.get(count) != 0)
    }

    /// Completes the instruction, or a repetition of it, with the operand `read` (ignored where it does not read):
    /// updates registers and flags, not RIP. Returns what is to be written to the operand, if anything.
    #[must_use]
    pub fn finish(&self, read: u64, gprs: &mut Gprs, rflags: &mut u64) -> Option<u64> {
        let read = truncate(read, self.size);
        if let Some(string) = self.string {
            string.step(self.size, gprs, *rflags);
        }
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
            Operation::ExchangeAdd { with } => {
                let other = truncate(gprs.get(with), self.size);
                gprs.set(with, read);
                Some(AluOp::Add.compute(read, other, self.size, rflags))
            }
            Operation::CompareExchange { with } => {
                let accumulator = Register::accumulator(self.size);
                let expected = gprs.get(accumulator);
                let _ = AluOp::Sub.compute(expected, read, self.size, rflags);
                if expected == read {
                    return Some(truncate(gprs.get(with), self.size));
                }
                gprs.set(accumulator, read);
                Some(read)
            }
            Operation::Compute(alu) => alu.finish(read, self.size, gprs, rflags),
        }
    }
}

impl StringStep {
    /// Moves on to the next repetition.
    fn step(self, size: u8, gprs: &mut Gprs, rflags: u64) {
        const DF: u64 = 1 << 10;
        let at = gprs.get(self.pointer);
        let next = if rflags & DF == 0 {
            at.wrapping_add(u64::from(size))
        } else {
            at.wrapping_sub(u64::from(size))
        };
        gprs.set(self.pointer, next);
        if let Some(count) = self.count {
            gprs.set(count, gprs.get(count).wrapping_sub(1));
        }
    }
}
