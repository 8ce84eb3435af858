//! Arithmetic with an operand in memory: results and flags.
//!
//! Source: Intel SDM vol. 1, "Status Flags"; vol. 2, each instruction's "Flags Affected". A flag that is undefined
//! there (AF after logic) is cleared.

use super::register::{Gprs, Register, sign_bit, truncate};

/// What is computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AluOp {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Not,
    Neg,
    Adc,
    Sbb,
    /// Copies the bit with this number to CF, and leaves it as said.
    Bit(u8, BitChange),
}

/// What becomes of a bit that was tested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BitChange {
    Keep,
    Set,
    Reset,
    Complement,
}

/// Where the result goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Destination {
    /// The operand in memory.
    Memory,
    /// A register of the same size.
    Register(Register),
    /// Only the flags count (CMP, TEST).
    Nowhere,
}

/// An operation on the operand in memory and another value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Alu {
    pub(super) op: AluOp,
    /// The other value: a register's or an immediate; 0 where the operation has one operand.
    pub(super) other: u64,
    /// The operand in memory is the first one (of a subtraction).
    pub(super) memory_first: bool,
    pub(super) destination: Destination,
}

const CF: u64 = 1 << 0;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

impl Alu {
    /// Computes with the operand `read` of `size` bytes.
    pub(super) fn finish(
        self,
        read: u64,
        size: u8,
        gprs: &mut Gprs,
        rflags: &mut u64,
    ) -> Option<u64> {
        let other = truncate(self.other, size);
        let (a, b) = if self.memory_first {
            (read, other)
        } else {
            (other, read)
        };
        let result = self.op.compute(a, b, size, rflags);
        match self.destination {
            Destination::Memory => Some(result),
            Destination::Register(register) => {
                gprs.set(register, result);
                None
            }
            Destination::Nowhere => None,
        }
    }
}

impl AluOp {
    /// The result of `size` bytes, and the flags that follow from it.
    pub(super) fn compute(self, a: u64, b: u64, size: u8, rflags: &mut u64) -> u64 {
        let carry_before = *rflags & CF;
        let (result, flags) = match self {
            Self::Add => add(a, b, 0, size),
            Self::Sub => sub(a, b, 0, size),
            Self::Adc => add(a, b, carry_before, size),
            Self::Sbb => sub(a, b, carry_before, size),
            Self::And => (a & b, 0),
            Self::Or => (a | b, 0),
            Self::Xor => (a ^ b, 0),
            Self::Inc => keep_carry(add(a, 1, 0, size), carry_before),
            Self::Dec => keep_carry(sub(a, 1, 0, size), carry_before),
            Self::Neg => sub(0, a, 0, size),
            Self::Not => return truncate(!a, size),
            Self::Bit(bit, change) => {
                let bit = bit & 63;
                *rflags = *rflags & !CF | (a >> bit) & CF;
                return match change {
                    BitChange::Keep => a,
                    BitChange::Set => a | 1 << bit,
                    BitChange::Reset => a & !(1 << bit),
                    BitChange::Complement => a ^ 1 << bit,
                };
            }
        };
        *rflags = *rflags & !STATUS | flags | of_result(result, size);
        result
    }
}

fn add(a: u64, b: u64, carry: u64, size: u8) -> (u64, u64) {
    let result = truncate(a.wrapping_add(b).wrapping_add(carry), size);
    let overflow = (a ^ result) & (b ^ result) & sign_bit(size) != 0;
    let carries_on = result < a || carry != 0 && result == a;
    (result, carries(carries_on, a ^ b ^ result, overflow))
}

fn sub(a: u64, b: u64, borrow: u64, size: u8) -> (u64, u64) {
    let result = truncate(a.wrapping_sub(b).wrapping_sub(borrow), size);
    let overflow = (a ^ b) & (a ^ result) & sign_bit(size) != 0;
    let borrows_on = a < b || borrow != 0 && a == b;
    (result, carries(borrows_on, a ^ b ^ result, overflow))
}

/// CF, AF (the carry into bit 4) and OF.
fn carries(carry: bool, carry_in: u64, overflow: bool) -> u64 {
    u64::from(carry) | carry_in & AF | if overflow { OF } else { 0 }
}

fn keep_carry((result, flags): (u64, u64), carry: u64) -> (u64, u64) {
    (result, flags & !CF | carry)
}

/// PF, ZF and SF.
fn of_result(result: u64, size: u8) -> u64 {
    let mut flags = 0;
    if (result & 0xff).count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    if result == 0 {
        flags |= ZF;
    }
    if result & sign_bit(size) != 0 {
        flags |= SF;
    }
    flags
}
