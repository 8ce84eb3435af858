//! From iced-x86's instruction to what happens to the operand in memory.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::alu::{Alu, AluOp, Destination};
use super::register::{Gprs, Register, truncate};
use super::{CodeSize, CpuView, DecodeError, MmioInsn, Operation};
use crate::addr::Gva;

/// The architecture's limit on the length of an instruction.
const MAX_BYTES: usize = 15;

pub(super) fn prepare() {
    let _ = Decoder::new(64, &[0x90], DecoderOptions::NONE).decode();
}

pub(super) fn decode(bytes: &[u8], cpu: &CpuView) -> Result<MmioInsn, DecodeError> {
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let bits = match cpu.code_size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let mut decoder = Decoder::try_with_ip(bits, bytes, cpu.rip, DecoderOptions::NONE)
        .map_err(|_| DecodeError::Unsupported)?;
    let insn = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => {}
        DecoderError::NoMoreBytes if bytes.len() < MAX_BYTES => return Err(DecodeError::Truncated),
        _ => return Err(DecodeError::Unsupported),
    }
    decoded(&insn, cpu).ok_or(DecodeError::Unsupported)
}

/// `None` for what is not known.
fn decoded(insn: &Instruction, cpu: &CpuView) -> Option<MmioInsn> {
    let memory = (0..insn.op_count()).find(|&op| insn.op_kind(op) == OpKind::Memory)?;
    let size = u8::try_from(insn.memory_size().size()).ok()?;
    if insn.op_count() > 2 || !matches!(size, 1 | 2 | 4 | 8) {
        return None;
    }
    let operation = operation(insn, memory, size, cpu)?;
    Some(MmioInsn {
        len: u8::try_from(insn.len()).ok()?,
        gva: address(insn, memory, cpu)?,
        size,
        operation,
    })
}

fn operation(insn: &Instruction, memory: u32, size: u8, cpu: &CpuView) -> Option<Operation> {
    // The operand that is not in memory; the same one again where there is only one.
    let other = insn.op_count() - 1 - memory;
    match insn.mnemonic() {
        Mnemonic::Mov if memory == 0 => Some(Operation::Store {
            value: value(insn, other, size, cpu)?,
        }),
        Mnemonic::Mov | Mnemonic::Movzx => Some(Operation::Load {
            to: register(insn.op_register(other))?,
            signed: false,
        }),
        Mnemonic::Movsx | Mnemonic::Movsxd => Some(Operation::Load {
            to: register(insn.op_register(other))?,
            signed: true,
        }),
        Mnemonic::Xchg => Some(Operation::Exchange {
            with: register(insn.op_register(other))?,
        }),
        Mnemonic::Bt => bit_test(insn, memory, size),
        mnemonic => {
            let (op, stores) = alu_op(mnemonic)?;
            let is_unary = insn.op_count() == 1;
            Some(Operation::Compute(Alu {
                op,
                other: if is_unary {
                    0
                } else {
                    value(insn, other, size, cpu)?
                },
                memory_first: memory == 0,
                destination: match (stores, memory) {
                    (false, _) => Destination::Nowhere,
                    (true, 0) => Destination::Memory,
                    (true, _) => Destination::Register(register(insn.op_register(other))?),
                },
            }))
        }
    }
}

/// The operation, and whether it keeps its result.
fn alu_op(mnemonic: Mnemonic) -> Option<(AluOp, bool)> {
    Some(match mnemonic {
        Mnemonic::Add => (AluOp::Add, true),
        Mnemonic::Sub => (AluOp::Sub, true),
        Mnemonic::Cmp => (AluOp::Sub, false),
        Mnemonic::And => (AluOp::And, true),
        Mnemonic::Test => (AluOp::And, false),
        Mnemonic::Or => (AluOp::Or, true),
        Mnemonic::Xor => (AluOp::Xor, true),
        Mnemonic::Inc => (AluOp::Inc, true),
        Mnemonic::Dec => (AluOp::Dec, true),
        Mnemonic::Not => (AluOp::Not, true),
        Mnemonic::Neg => (AluOp::Neg, true),
        _ => return None,
    })
}

/// Only with an immediate: with a register the bit may lie far from the operand.
fn bit_test(insn: &Instruction, memory: u32, size: u8) -> Option<Operation> {
    if insn.op1_kind() != OpKind::Immediate8 || memory != 0 {
        return None;
    }
    Some(Operation::Compute(Alu {
        op: AluOp::BitTest(insn.immediate8() & (size * 8 - 1)),
        other: 0,
        memory_first: true,
        destination: Destination::Nowhere,
    }))
}

/// The value of a register or of an immediate, of `size` bytes.
fn value(insn: &Instruction, operand: u32, size: u8, cpu: &CpuView) -> Option<u64> {
    if insn.op_kind(operand) == OpKind::Register {
        let register = register(insn.op_register(operand))?;
        return Some(cpu.gprs.get(register));
    }
    let immediate = insn.try_immediate(operand).ok()?;
    Some(truncate(immediate, size))
}

/// The linear address of the operand in memory.
fn address(insn: &Instruction, memory: u32, cpu: &CpuView) -> Option<Gva> {
    let in_64_bit = cpu.code_size == CodeSize::Bits64;
    let linear = insn.virtual_address(memory, 0, |named, _, _| {
        if named.is_segment_register() {
            let base = segment_base(named, cpu)?;
            let is_flat =
                in_64_bit && named != iced_x86::Register::FS && named != iced_x86::Register::GS;
            return Some(if is_flat { 0 } else { base });
        }
        register(named).map(|r| cpu.gprs.get(r))
    })?;
    Some(Gva::new(if in_64_bit {
        linear
    } else {
        truncate(linear, 4)
    }))
}

fn segment_base(segment: iced_x86::Register, cpu: &CpuView) -> Option<u64> {
    let index = segment as usize - iced_x86::Register::ES as usize;
    cpu.bases.0.get(index).copied()
}

/// A general register by its name; `None` for all others.
fn register(named: iced_x86::Register) -> Option<Register> {
    if !named.is_gpr() {
        return None;
    }
    let is_high = matches!(
        named,
        iced_x86::Register::AH
            | iced_x86::Register::CH
            | iced_x86::Register::DH
            | iced_x86::Register::BH
    );
    let number = named.full_register() as usize - iced_x86::Register::RAX as usize;
    let index = u8::try_from(number)
        .ok()
        .filter(|i| usize::from(*i) < Gprs::default().0.len())?;
    Some(Register {
        index,
        size: u8::try_from(named.size()).ok()?,
        is_high,
    })
}
