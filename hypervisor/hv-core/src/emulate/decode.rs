//! From iced-x86's instruction to what happens to the operand in memory.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind};

use super::alu::{Alu, AluOp, BitChange, Destination};
use super::register::{Gprs, Register, sign_extend, truncate};
use super::{CodeSize, CpuView, DecodeError, MmioInsn, Operation, StringStep};
use crate::addr::Gva;

/// The architecture's limit on the length of an instruction.
const MAX_BYTES: usize = 15;

pub(super) fn prepare() {
    let _ = Decoder::new(64, &[0x90], DecoderOptions::NONE).decode();
}

pub(super) fn decode(bytes: &[u8], cpu: &CpuView) -> Result<MmioInsn, DecodeError> {
    let insn = instruction(bytes, cpu.code_size, cpu.rip)?;
    decoded(&insn, cpu).ok_or(DecodeError::Unsupported)
}

pub(super) fn instruction(
    bytes: &[u8],
    code_size: CodeSize,
    rip: u64,
) -> Result<Instruction, DecodeError> {
    instruction_with(DecoderOptions::NONE, bytes, code_size, rip)
}

/// As AMD's CPUs read the bytes.
pub(super) fn instruction_of_amd(
    bytes: &[u8],
    code_size: CodeSize,
    rip: u64,
) -> Result<Instruction, DecodeError> {
    instruction_with(DecoderOptions::AMD, bytes, code_size, rip)
}

fn instruction_with(
    options: u32,
    bytes: &[u8],
    code_size: CodeSize,
    rip: u64,
) -> Result<Instruction, DecodeError> {
    let bytes = bytes.get(..MAX_BYTES).unwrap_or(bytes);
    let bits = match code_size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let mut decoder =
        Decoder::try_with_ip(bits, bytes, rip, options).map_err(|_| DecodeError::Unsupported)?;
    let insn = decoder.decode();
    match decoder.last_error() {
        DecoderError::None => Ok(insn),
        DecoderError::NoMoreBytes if bytes.len() < MAX_BYTES => Err(DecodeError::Truncated),
        _ => Err(DecodeError::Unsupported),
    }
}

/// `None` for what is not known.
fn decoded(insn: &Instruction, cpu: &CpuView) -> Option<MmioInsn> {
    let string = string_step(insn);
    let memory = match string {
        Some((memory, _)) => memory,
        None => (0..insn.op_count()).find(|&op| insn.op_kind(op) == OpKind::Memory)?,
    };
    let size = u8::try_from(insn.memory_size().size()).ok()?;
    if insn.op_count() > 2 || !matches!(size, 1 | 2 | 4 | 8) {
        return None;
    }
    let operation = operation(insn, memory, size, cpu)?;
    Some(MmioInsn {
        len: u8::try_from(insn.len()).ok()?,
        gva: bit_string(insn, memory, size, cpu, address(insn, memory, cpu)?),
        size,
        operation,
        string: string.map(|(_, step)| step),
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
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => {
            Some(Operation::Store {
                value: cpu.gprs.get(Register::accumulator(size)),
            })
        }
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => {
            Some(Operation::Load {
                to: Register::accumulator(size),
                signed: false,
            })
        }
        Mnemonic::Xadd => Some(Operation::ExchangeAdd {
            with: register(insn.op_register(other))?,
        }),
        Mnemonic::Cmpxchg => Some(Operation::CompareExchange {
            with: register(insn.op_register(other))?,
        }),
        Mnemonic::Bt => bit(insn, size, cpu, BitChange::Keep),
        Mnemonic::Bts => bit(insn, size, cpu, BitChange::Set),
        Mnemonic::Btr => bit(insn, size, cpu, BitChange::Reset),
        Mnemonic::Btc => bit(insn, size, cpu, BitChange::Complement),
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
        Mnemonic::Adc => (AluOp::Adc, true),
        Mnemonic::Sbb => (AluOp::Sbb, true),
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

/// The bit in the operand that an immediate or a register names.
fn bit(insn: &Instruction, size: u8, cpu: &CpuView, change: BitChange) -> Option<Operation> {
    let [number, ..] = value(insn, 1, size, cpu)?.to_le_bytes();
    Some(Operation::Compute(Alu {
        op: AluOp::Bit(number & (size * 8 - 1), change),
        other: 0,
        memory_first: true,
        destination: match change {
            BitChange::Keep => Destination::Nowhere,
            _ => Destination::Memory,
        },
    }))
}

/// A bit that a register names may lie far from the operand, on either side: where that part of the bit string is.
fn bit_string(insn: &Instruction, memory: u32, size: u8, cpu: &CpuView, at: Gva) -> Gva {
    let is_bit = matches!(
        insn.mnemonic(),
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
    );
    if !is_bit || memory != 0 || insn.op1_kind() != OpKind::Register {
        return at;
    }
    let Some(number) = value(insn, 1, size, cpu) else {
        return at;
    };
    let bits = i64::from(size) * 8;
    let parts = sign_extend(number, size).cast_signed().div_euclid(bits);
    let bytes = parts.wrapping_mul(i64::from(size));
    let linear = at.as_u64().wrapping_add_signed(bytes);
    Gva::new(if cpu.code_size == CodeSize::Bits64 {
        linear
    } else {
        truncate(linear, 4)
    })
}

/// STOS and LODS: their operand in memory, and what they do beside.
fn string_step(insn: &Instruction) -> Option<(u32, StringStep)> {
    const RCX: u8 = 1;
    const RSI: u8 = 6;
    const RDI: u8 = 7;
    let (memory, pointer) = match insn.mnemonic() {
        Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => (0, RDI),
        Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => (1, RSI),
        _ => return None,
    };
    let width = address_bytes(insn.op_kind(memory));
    let is_rep = insn.has_rep_prefix() || insn.has_repne_prefix();
    let step = StringStep {
        pointer: Register::low(pointer, width),
        count: is_rep.then_some(Register::low(RCX, width)),
    };
    Some((memory, step))
}

/// Bytes of the registers that address a string instruction's operand.
pub(super) fn address_bytes(operand: OpKind) -> u8 {
    match operand {
        OpKind::MemoryESDI | OpKind::MemorySegSI => 2,
        OpKind::MemoryESEDI | OpKind::MemorySegESI => 4,
        _ => 8,
    }
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
pub(super) fn address(insn: &Instruction, memory: u32, cpu: &CpuView) -> Option<Gva> {
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
pub(super) fn register(named: iced_x86::Register) -> Option<Register> {
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
