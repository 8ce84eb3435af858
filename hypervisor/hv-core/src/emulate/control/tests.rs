//! MOV to and from control registers by every encoding; CLTS and LMSW; and any bytes at all.

use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::super::SegmentBases;
use super::*;

const SIZES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];

/// Registers that tell which they are, and segments that do.
fn cpu(code_size: CodeSize) -> CpuView {
    CpuView {
        code_size,
        rip: 0x1000,
        gprs: Gprs(core::array::from_fn(|i| 0x1111_1111_1111_1111 * i as u64)),
        bases: SegmentBases([1 << 20, 2 << 20, 3 << 20, 4 << 20, 5 << 20, 6 << 20]),
    }
}

fn access(bytes: &[u8], code_size: CodeSize) -> Option<ControlAccess> {
    let insn = ControlInsn::decode(bytes, &cpu(code_size)).ok()?;
    assert_eq!(usize::from(insn.len), bytes.len(), "{bytes:x?}");
    Some(insn.access)
}

#[test]
fn clts_and_the_status_word() {
    use ControlAccess as A;
    let lmsw = |modrm: u8| [0x0F, 0x01, 0x30 | modrm];
    for size in SIZES {
        assert_eq!(access(&[0x0F, 0x06], size), Some(A::ClearTaskSwitched));
        // lmsw %bx
        assert_eq!(access(&lmsw(0xC3), size), Some(A::LoadStatus(0x3333)));
        // smsw, invlpg, mov to a debug register, nop
        for other in [
            &[0x0F, 0x01, 0xE3][..],
            &[0x0F, 0x01, 0x3B],
            &[0x0F, 0x23, 0xC0],
            &[0x90],
        ] {
            assert_eq!(access(other, size), None, "{other:x?}");
        }
    }
    let from = |linear| Some(A::LoadStatusFrom(Gva::new(linear)));
    // lmsw (%rbx), %fs:(%rbx), %gs:(%ebx); (%ebx); (%bp,%si)
    assert_eq!(
        access(&lmsw(3), CodeSize::Bits64),
        from(0x3333_3333_3333_3333)
    );
    assert_eq!(
        access(&[0x64, 0x0F, 0x01, 0x33], CodeSize::Bits64),
        from(0x3333_3333_3383_3333)
    );
    assert_eq!(
        access(&[0x65, 0x67, 0x0F, 0x01, 0x33], CodeSize::Bits64),
        from(0x3393_3333)
    );
    assert_eq!(access(&lmsw(3), CodeSize::Bits32), from(0x3373_3333));
    assert_eq!(access(&lmsw(2), CodeSize::Bits16), from(0x0030_BBBB));
}

#[test]
fn clts_and_lmsw_change_what_the_guest_sees_and_no_more() {
    assert_eq!(after_clts(0x19), 0x11);
    assert_eq!(after_lmsw(0x19, 0xFFF6), 0x17);
    assert_eq!(after_lmsw(0x10, 1), 0x11);
}

/// LOCK MOV CR0 is MOV CR8 on AMD's CPUs: the only way to it from 32-bit code.
#[test]
fn task_priority_is_reached_from_every_code() {
    let write = |value| Some(ControlAccess::Write { register: 8, value });
    assert_eq!(
        access(&[0xF0, 0x0F, 0x22, 0xC3], CodeSize::Bits32),
        write(0x3333_3333)
    );
    assert_eq!(
        access(&[0xF0, 0x0F, 0x22, 0xC3], CodeSize::Bits64),
        write(0x3333_3333_3333_3333)
    );
    assert_eq!(
        access(&[0x44, 0x0F, 0x22, 0xC3], CodeSize::Bits64),
        write(0x3333_3333_3333_3333)
    );
    let read = Some(ControlAccess::Read { register: 8, to: 9 });
    assert_eq!(
        access(&[0xF0, 0x41, 0x0F, 0x20, 0xC1], CodeSize::Bits64),
        read
    );
    // of no other register
    assert_eq!(access(&[0xF0, 0x0F, 0x22, 0xD8], CodeSize::Bits64), None);
}

proptest! {
    /// The naive model: the tables of the manual. Mod is ignored, and so are prefixes but LOCK and REX.
    #[test]
    fn moves_are_read_as_the_manual_has_them(
        mode in select(&SIZES[..]), is_write in any::<bool>(), register in 0u8..16, general in 0u8..16, mode_bits in 0u8..4,
        has_lock in any::<bool>(), has_wide in any::<bool>(),
        prefixes in proptest::collection::vec(select(&[0x26u8, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67][..]), 0..4),
    ) {
        let is_64 = mode == CodeSize::Bits64;
        let (register, general) = if is_64 { (register, general) } else { (register & 7, general & 7) };
        let mut bytes: Vec<u8> = prefixes;
        if has_lock {
            bytes.push(0xF0);
        }
        let rex = 0x40 | u8::from(has_wide) << 3 | (register >> 3) << 2 | general >> 3;
        if is_64 && rex != 0x40 {
            bytes.push(rex);
        }
        let opcode = if is_write { 0x22 } else { 0x20 };
        bytes.extend([0x0F, opcode, mode_bits << 6 | (register & 7) << 3 | general & 7]);
        let number = match (has_lock, register) {
            (false, 0 | 2 | 3 | 4 | 8) => Some(register),
            (true, 0) => Some(8),
            _ => None,
        };
        let value = 0x1111_1111_1111_1111 * u64::from(general);
        let expected = number.map(|register| if is_write {
            ControlAccess::Write { register, value: if is_64 { value } else { value & 0xFFFF_FFFF } }
        } else {
            ControlAccess::Read { register, to: general }
        });
        prop_assert_eq!(access(&bytes, mode), expected, "{:x?}", bytes);
    }

    /// The few comparisons say what the decoder says, or nothing.
    #[test]
    fn comparisons_agree_with_the_decoder(
        head in proptest::option::of(Just([0x0F, 0x22])), bytes in any::<[u8; 8]>(), mode in select(&SIZES[..]),
    ) {
        let mut bytes = bytes;
        if let Some(head) = head {
            bytes[..2].copy_from_slice(&head);
        }
        let cpu = cpu(mode);
        let plain = ControlInsn::plain_write(u64::from_le_bytes(bytes), mode, &cpu.gprs);
        if head.is_some() && bytes[2] >= 0xC0 && matches!((bytes[2] >> 3) & 7, 0 | 3 | 4) {
            prop_assert!(plain.is_some(), "{:x?}", bytes);
        }
        if let Some(plain) = plain {
            prop_assert_eq!(ControlInsn::decode(&bytes, &cpu), Ok(plain), "{:x?}", bytes);
        }
    }

    #[test]
    fn any_bytes_end_in_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..20), mode in select(&SIZES[..])) {
        if let Ok(insn) = ControlInsn::decode(&bytes, &cpu(mode)) {
            prop_assert!(insn.len >= 2 && usize::from(insn.len) <= bytes.len().min(15));
        }
    }
}
