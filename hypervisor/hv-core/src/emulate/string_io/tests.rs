//! INS and OUTS by every prefix that counts, and how far they go at once.

use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::super::{CodeSize, SegmentBases, truncate};
use super::*;

const SIZES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];
/// Overrides in the order of the segments: ES CS SS DS FS GS.
const OVERRIDES: [u8; 6] = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65];
const RCX: usize = 1;
const RSI: usize = 6;
const RDI: usize = 7;

fn cpu(code_size: CodeSize, registers: [u64; 16], bases: [u64; 6]) -> CpuView {
    CpuView {
        code_size,
        rip: 0x1000,
        gprs: Gprs(registers),
        bases: SegmentBases(bases),
    }
}

/// Bytes of an address.
fn address_size(mode: CodeSize, is_other: bool) -> u8 {
    match (mode, is_other) {
        (CodeSize::Bits16, false) | (CodeSize::Bits32, true) => 2,
        (CodeSize::Bits64, false) => 8,
        _ => 4,
    }
}

proptest! {
    /// The naive model: the tables of the manual.
    #[test]
    fn operands_are_where_the_manual_has_them(
        mode in select(&SIZES[..]), opcode in 0x6Cu8..=0x6F, overrides in proptest::option::of(0usize..6),
        other_operand in any::<bool>(), other_address in any::<bool>(), rep in select(&[0u8, 0xF2, 0xF3][..]),
        registers in any::<[u64; 16]>(), bases in any::<[u64; 6]>(),
    ) {
        let mut bytes = Vec::new();
        bytes.extend(overrides.map(|segment| OVERRIDES[segment]));
        for (prefix, is_there) in [(0x66, other_operand), (0x67, other_address), (rep, rep != 0)] {
            if is_there {
                bytes.push(prefix);
            }
        }
        bytes.push(opcode);
        let insn = StringIoInsn::decode(&bytes, &cpu(mode, registers, bases)).unwrap();
        let is_in = opcode < 0x6E;
        let size = match (opcode & 1, (mode == CodeSize::Bits16) ^ other_operand) {
            (0, _) => 1,
            (_, true) => 2,
            (_, false) => 4,
        };
        let width = address_size(mode, other_address);
        let segment = if is_in { 0 } else { overrides.unwrap_or(3) };
        let base = if mode == CodeSize::Bits64 && segment < 4 { 0 } else { bases[segment] };
        let offset = truncate(registers[if is_in { RDI } else { RSI }], width);
        let linear = base.wrapping_add(offset);
        let linear = if mode == CodeSize::Bits64 { linear } else { truncate(linear, 4) };
        prop_assert_eq!(usize::from(insn.len), bytes.len());
        prop_assert_eq!((insn.is_in, insn.size, insn.is_rep()), (is_in, size, rep != 0));
        prop_assert_eq!(insn.gva, Gva::new(linear), "{:x?}", bytes);
        let wanted = if rep == 0 { 1 } else { truncate(registers[RCX], width) };
        prop_assert_eq!(insn.wanted(&Gprs(registers)), wanted);
    }

    /// The naive model: an element at a time.
    #[test]
    fn registers_move_on_as_element_by_element(
        mode in select(&SIZES[..]), other_address in any::<bool>(), is_rep in any::<bool>(), opcode in 0x6Cu8..=0x6F,
        registers in any::<[u64; 16]>(), elements in 0u64..300,
    ) {
        let mut bytes = Vec::new();
        bytes.extend(other_address.then_some(0x67));
        bytes.extend(is_rep.then_some(0xF3));
        bytes.push(opcode);
        let insn = StringIoInsn::decode(&bytes, &cpu(mode, registers, [0; 6])).unwrap();
        let mut at_once = Gprs(registers);
        insn.advance(&mut at_once, elements);
        let mut slowly = registers;
        let mask = truncate(u64::MAX, address_size(mode, other_address));
        for _ in 0..elements {
            let pointer = if opcode < 0x6E { RDI } else { RSI };
            let mut step = |register: usize, by: u64| {
                let kept = if mask == 0xFFFF { slowly[register] & !mask } else { 0 };
                slowly[register] = kept | slowly[register].wrapping_add(by) & mask;
            };
            step(pointer, u64::from(insn.size));
            if is_rep {
                step(RCX, u64::MAX);
            }
        }
        prop_assert_eq!(at_once.0, slowly);
    }

    #[test]
    fn any_bytes_end_in_an_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0..20), mode in select(&SIZES[..]), registers in any::<[u64; 16]>(),
    ) {
        if let Ok(insn) = StringIoInsn::decode(&bytes, &cpu(mode, registers, [0; 6])) {
            prop_assert!(insn.len >= 1 && usize::from(insn.len) <= bytes.len().min(15));
        }
    }
}

#[test]
fn one_piece_ends_where_the_offset_starts_over() {
    let in_one_piece = |mode, pointer| {
        let mut registers = [0xFFFF_FFFF_0000_0000; 16];
        registers[RSI] |= pointer;
        let insn = StringIoInsn::decode(&[0x6E], &cpu(mode, registers, [0; 6])).unwrap();
        insn.in_one_piece(&Gprs(registers))
    };
    assert_eq!(in_one_piece(CodeSize::Bits16, 0xFFFE), 2);
    assert_eq!(in_one_piece(CodeSize::Bits16, 0x1_0000), 0x1_0000);
    assert_eq!(in_one_piece(CodeSize::Bits32, 0xFFFF_FFFF), 1);
    assert_eq!(in_one_piece(CodeSize::Bits64, 0xFFFF_FFFF), 1);
    assert_eq!(in_one_piece(CodeSize::Bits64, 0), 1 << 32);
}
