//! Each instruction by its encodings, behind prefixes, and taken for another.

use alloc::vec::Vec;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const SIZES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];
/// Segment overrides and the operand and address size, which change none of these instructions.
const PREFIXES: [u8; 8] = [0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67];

/// Every instruction without operands, with each of its encodings.
fn plain() -> Vec<(ExitingInsn, &'static [u8])> {
    use ExitingInsn as I;
    alloc::vec![
        (I::Cpuid, &[0x0F, 0xA2]),
        (I::Hypercall, &[0x0F, 0x01, 0xD9]),
        (I::Hypercall, &[0x0F, 0x01, 0xC1]),
        (I::Hlt, &[0xF4]),
        (I::Pause, &[0xF3, 0x90]),
        (I::Rdtsc, &[0x0F, 0x31]),
        (I::Rdtscp, &[0x0F, 0x01, 0xF9]),
        (I::Rdmsr, &[0x0F, 0x32]),
        (I::Wrmsr, &[0x0F, 0x30]),
        (I::Xsetbv, &[0x0F, 0x01, 0xD1]),
        (I::CacheFlush, &[0x0F, 0x08]),
        (I::CacheFlush, &[0x0F, 0x09]),
    ]
}

fn port(port: u16, size: u8, is_in: bool) -> ExitingInsn {
    ExitingInsn::Port { port, size, is_in }
}

fn first_word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let count = bytes.len().min(8);
    word[..count].copy_from_slice(&bytes[..count]);
    u64::from_le_bytes(word)
}

#[test]
fn each_is_known_by_its_encodings_and_taken_for_no_other() {
    for (insn, bytes) in plain() {
        let length = u8::try_from(bytes.len()).ok();
        for (other, _) in plain() {
            let expected = if other == insn { length } else { None };
            assert_eq!(other.plain_length(first_word(bytes)), expected, "{other:?}");
            for size in SIZES {
                assert_eq!(other.length(bytes, size), expected, "{other:?}");
            }
        }
    }
}

#[test]
fn instructions_that_have_to_be_decoded() {
    use ExitingInsn as I;
    use TaskSource as S;
    let cases: [(I, &[u8], CodeSize, Option<u8>); 27] = [
        (
            I::Hypercall,
            &[0xF3, 0x0F, 0x01, 0xD9],
            CodeSize::Bits64,
            Some(4),
        ),
        (
            I::CacheFlush,
            &[0xF3, 0x0F, 0x09],
            CodeSize::Bits64,
            Some(3),
        ),
        (I::Pause, &[0x90], CodeSize::Bits64, None),
        // in 32-bit code 48H is an instruction
        (I::Cpuid, &[0x48, 0x0F, 0xA2], CodeSize::Bits32, None),
        (I::Cpuid, &[0x48, 0x0F, 0xA2], CodeSize::Bits64, Some(3)),
        // LOCK, too many prefixes, cut short, nothing
        (I::Cpuid, &[0xF0, 0x0F, 0xA2], CodeSize::Bits64, None),
        (I::Hlt, &[0x66; 15], CodeSize::Bits64, None),
        (I::Cpuid, &[0x0F], CodeSize::Bits64, None),
        (I::Cpuid, &[], CodeSize::Bits32, None),
        (
            port(0x80, 1, false),
            &[0xE6, 0x80],
            CodeSize::Bits16,
            Some(2),
        ),
        (
            port(0x80, 1, true),
            &[0xE4, 0x80],
            CodeSize::Bits64,
            Some(2),
        ),
        (port(0x81, 1, true), &[0xE4, 0x80], CodeSize::Bits64, None),
        (
            port(0x80, 4, true),
            &[0xE5, 0x80],
            CodeSize::Bits64,
            Some(2),
        ),
        (port(0x80, 4, true), &[0xE5, 0x80], CodeSize::Bits16, None),
        (
            port(0x80, 2, true),
            &[0xE5, 0x80],
            CodeSize::Bits16,
            Some(2),
        ),
        (port(0xCF8, 4, true), &[0xED], CodeSize::Bits32, Some(1)),
        (
            port(0xCF8, 2, true),
            &[0x66, 0xED],
            CodeSize::Bits32,
            Some(2),
        ),
        (port(0xCF8, 4, true), &[0xEF], CodeSize::Bits32, None),
        (port(0xE9, 1, false), &[0xEE], CodeSize::Bits64, Some(1)),
        // a string instruction is decoded for its operand as well
        (port(0xE9, 1, false), &[0x6E], CodeSize::Bits64, None),
        (
            I::TaskSwitch(S::Call),
            &[0x9A, 0, 0, 0, 0, 0x20, 0],
            CodeSize::Bits32,
            Some(7),
        ),
        (
            I::TaskSwitch(S::Call),
            &[0xE8, 0, 0, 0, 0],
            CodeSize::Bits32,
            None,
        ),
        (
            I::TaskSwitch(S::Jump),
            &[0xFF, 0x2B],
            CodeSize::Bits32,
            Some(2),
        ),
        (
            I::TaskSwitch(S::Jump),
            &[0xFF, 0x23],
            CodeSize::Bits32,
            None,
        ),
        (
            I::TaskSwitch(S::Iret),
            &[0x66, 0xCF],
            CodeSize::Bits16,
            Some(2),
        ),
        (
            I::TaskSwitch(S::Gate(None)),
            &[0xCD, 0x80],
            CodeSize::Bits32,
            Some(2),
        ),
        (
            I::TaskSwitch(S::Gate(None)),
            &[0xCC],
            CodeSize::Bits32,
            Some(1),
        ),
    ];
    for (insn, bytes, size, expected) in cases {
        assert_eq!(insn.length(bytes, size), expected, "{insn:?} {bytes:x?}");
    }
}

proptest! {
    #[test]
    fn prefixes_count_and_change_nothing(
        which in select(plain()), prefixes in proptest::collection::vec(select(&PREFIXES[..]), 0..6),
        rex in proptest::option::of(0x40u8..0x50), mode in select(&SIZES[..]), tail in any::<[u8; 4]>(),
    ) {
        let (insn, plain) = which;
        // REX.B makes NOP behind F3 an exchange with R8, and 66 is no prefix of PAUSE's own
        let rex = rex.filter(|_| mode == CodeSize::Bits64 && insn != ExitingInsn::Pause);
        let mut bytes = prefixes;
        if insn == ExitingInsn::Xsetbv || plain[..] == [0x0F, 0x01, 0xC1] {
            // Intel's, which 66 makes invalid
            bytes.retain(|prefix| *prefix != 0x66);
        }
        bytes.extend(rex);
        bytes.extend(plain);
        let expected = u8::try_from(bytes.len()).unwrap();
        bytes.extend(tail);
        prop_assert_eq!(insn.length(&bytes, mode), Some(expected), "{:?} {:x?}", insn, bytes);
    }

    /// Whatever follows: the few comparisons say what the decoder says, or nothing.
    #[test]
    fn comparisons_agree_with_the_decoder(
        head in select(plain()), tail in any::<[u8; 13]>(), is_random in any::<bool>(), which in select(plain()),
        mode in select(&SIZES[..]),
    ) {
        let mut bytes = if is_random { Vec::new() } else { head.1.to_vec() };
        bytes.extend(tail);
        if let Some(length) = which.0.plain_length(first_word(&bytes)) {
            prop_assert_eq!(which.0.length(&bytes, mode), Some(length), "{:?} {:x?}", which, bytes);
        }
    }

    #[test]
    fn any_bytes_end_in_an_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0..20), mode in select(&SIZES[..]), number in any::<u16>(),
    ) {
        let sources = [TaskSource::Call, TaskSource::Iret, TaskSource::Jump, TaskSource::Gate(None)];
        let others = sources.map(ExitingInsn::TaskSwitch).into_iter().chain([port(number, 1, true), port(number, 4, false)]);
        for insn in plain().into_iter().map(|(insn, _)| insn).chain(others) {
            if let Some(length) = insn.length(&bytes, mode) {
                prop_assert!(length >= 1 && usize::from(length) <= bytes.len().min(15));
            }
        }
    }
}
