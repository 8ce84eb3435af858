//! Instructions by their bytes against what they are known to do, and any bytes at all.

use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xfec0_0000;

/// 64-bit mode, RBX at [`BASE`], the others recognisable.
fn cpu() -> CpuView {
    let mut gprs = Gprs::default();
    for (i, r) in gprs.0.iter_mut().enumerate() {
        *r = 0x1111_1111_1111_1111 * i as u64;
    }
    gprs.0[3] = BASE;
    CpuView {
        code_size: CodeSize::Bits64,
        rip: 0xffff_ffff_8100_0000,
        gprs,
        bases: SegmentBases([1 << 40, 2 << 40, 3 << 40, 4 << 40, 0x1000, 0x2000]),
    }
}

/// Runs the bytes over a device that holds `device`: (registers, flags, what was written).
fn run(bytes: &[u8], device: u64, rflags: u64) -> (Gprs, u64, Option<u64>) {
    let cpu = cpu();
    let insn = MmioInsn::decode(bytes, &cpu).unwrap();
    assert_eq!(usize::from(insn.len), bytes.len());
    let (mut gprs, mut flags) = (cpu.gprs, rflags);
    let written = insn.finish(device, &mut gprs, &mut flags);
    (gprs, flags, written)
}

#[test]
fn the_stores_that_linux_uses_on_its_io_apic() {
    let cpu = cpu();
    // mov %eax,0x10(%rbx)
    let insn = MmioInsn::decode(&[0x89, 0x43, 0x10], &cpu).unwrap();
    assert_eq!(
        (insn.len, insn.size, insn.gva),
        (3, 4, Gva::new(BASE + 0x10))
    );
    assert!(!insn.reads());
    assert_eq!(run(&[0x89, 0x4b, 0x10], 0, 2).2, Some(0x1111_1111));
    // movl $0x12345678,(%rbx)
    assert_eq!(
        run(&[0xc7, 0x03, 0x78, 0x56, 0x34, 0x12], 0, 2).2,
        Some(0x1234_5678)
    );
    // movq $-1,(%rbx): sign-extended
    assert_eq!(
        run(&[0x48, 0xc7, 0x03, 0xff, 0xff, 0xff, 0xff], 0, 2).2,
        Some(u64::MAX)
    );
    // mov %ch,(%rbx) ; mov %r9w,(%rbx)
    assert_eq!(run(&[0x88, 0x2b], 0, 2).2, Some(0x11));
    assert_eq!(run(&[0x66, 0x44, 0x89, 0x0b], 0, 2).2, Some(0x9999));
}

#[test]
fn loads_extend_as_the_register_says() {
    let read = |bytes: &[u8], index: usize| run(bytes, 0xffff_ffff_8000_0080, 2).0.0[index];
    assert_eq!(read(&[0x8b, 0x43, 0x10], 0), 0x8000_0080); // mov 0x10(%rbx),%eax
    assert_eq!(read(&[0x48, 0x8b, 0x0b], 1), 0xffff_ffff_8000_0080); // mov (%rbx),%rcx
    assert_eq!(read(&[0x66, 0x8b, 0x0b], 1), 0x1111_1111_1111_0080); // mov (%rbx),%cx
    assert_eq!(read(&[0x8a, 0x2b], 1), 0x1111_1111_1111_8011); // mov (%rbx),%ch
    assert_eq!(read(&[0x0f, 0xb6, 0x0b], 1), 0x80); // movzbl (%rbx),%ecx
    assert_eq!(read(&[0x0f, 0xbe, 0x0b], 1), 0xffff_ff80); // movsbl (%rbx),%ecx
    assert_eq!(read(&[0x48, 0x63, 0x0b], 1), 0xffff_ffff_8000_0080); // movslq (%rbx),%rcx
    assert_eq!(read(&[0x4c, 0x0f, 0xb7, 0x3b], 15), 0x80); // movzwq (%rbx),%r15
}

#[test]
fn addresses_have_a_base_an_index_and_the_segments_that_count() {
    let cpu = cpu();
    let gva = |bytes: &[u8]| MmioInsn::decode(bytes, &cpu).unwrap().gva.as_u64();
    assert_eq!(gva(&[0x8b, 0x04, 0x8b]), BASE + 4 * 0x1111_1111_1111_1111); // (%rbx,%rcx,4)
    assert_eq!(gva(&[0x64, 0x8b, 0x03]), BASE + 0x1000); // %fs:(%rbx)
    assert_eq!(gva(&[0x3e, 0x8b, 0x03]), BASE); // %ds: is flat
    assert_eq!(gva(&[0x8b, 0x05, 0xfa, 0, 0, 0]), cpu.rip + 0x100); // 0xfa(%rip)
    assert_eq!(gva(&[0x67, 0x8b, 0x04, 0x09]), 0x2222_2222); // (%ecx,%ecx)
    let moffs = [0xa1, 0x10, 0, 0xc0, 0xfe, 0, 0, 0, 0];
    assert_eq!(gva(&moffs), 0xfec0_0010);
}

#[test]
fn old_modes_use_segment_bases_and_wrap() {
    let mut cpu = cpu();
    cpu.bases = SegmentBases([0, 0, 0, 0xf_0000, 0, 0]);
    cpu.code_size = CodeSize::Bits16;
    let insn = MmioInsn::decode(&[0x8b, 0x07], &cpu).unwrap(); // mov (%bx),%ax
    assert_eq!((insn.gva.as_u64(), insn.size), (0xf_0000, 2));
    cpu.code_size = CodeSize::Bits32;
    cpu.bases.0[3] = 0xffff_f000;
    let insn = MmioInsn::decode(&[0x8b, 0x03], &cpu).unwrap(); // mov (%ebx),%eax
    assert_eq!(insn.gva.as_u64(), (BASE + 0xffff_f000) & 0xffff_ffff);
}

#[test]
fn read_modify_write_writes_back_and_sets_flags() {
    // orl $0x10000,(%rbx)
    let (_, flags, written) = run(&[0x81, 0x0b, 0, 0, 1, 0], 0x8000_0000, 0x8d7);
    assert_eq!(written, Some(0x8001_0000));
    assert_eq!(flags, 0x2 | 0x80 | 0x4);
    // andb $0xfe,(%rbx)
    assert_eq!(run(&[0x80, 0x23, 0xfe], 0xff, 2).2, Some(0xfe));
    // xchg %ecx,(%rbx)
    let (gprs, _, written) = run(&[0x87, 0x0b], 7, 2);
    assert_eq!((gprs.0[1], written), (7, Some(0x1111_1111)));
    // and (%rbx),%ecx: into the register
    let (gprs, _, written) = run(&[0x23, 0x0b], 0xff, 2);
    assert_eq!((gprs.0[1], written), (0x11, None));
    // lock incl (%rbx) keeps CF
    assert_eq!(run(&[0xf0, 0xff, 0x03], 1, 3), (cpu().gprs, 3, Some(2)));
}

#[test]
fn tests_and_comparisons_only_set_flags() {
    // testl $0x1000,(%rbx): the delivery-status bit
    let (gprs, flags, written) = run(&[0xf7, 0x03, 0, 0x10, 0, 0], 0x1000, 2);
    assert_eq!((gprs, flags & 0x40, written), (cpu().gprs, 0, None));
    assert_eq!(run(&[0xf7, 0x03, 0, 0x10, 0, 0], 0, 2).1 & 0x40, 0x40);
    // cmpl $5,(%rbx) with 4: below
    assert_eq!(run(&[0x83, 0x3b, 5], 4, 2).1 & 1, 1);
    // cmp (%rbx),%ecx with 4: above
    assert_eq!(run(&[0x3b, 0x0b], 4, 2).1 & 0x41, 0);
    // btl $33,(%rbx) is bit 1
    assert_eq!(run(&[0x0f, 0xba, 0x23, 33], 2, 2).1 & 1, 1);
}

#[test]
fn bits_far_from_the_operand_are_found_on_either_side() {
    let mut cpu = cpu();
    for (number, size, place, bit) in [
        (33, 4, 4, 1),
        (31, 4, 0, 31),
        (-1, 4, -4, 31),
        (-33, 8, -8, 31),
        (1 << 20, 8, 1 << 17, 0),
    ] {
        cpu.gprs.0[1] = i64::cast_unsigned(number);
        // bts %rcx,(%rbx) ; bts %ecx,(%rbx)
        let bytes: &[u8] = if size == 8 {
            &[0x48, 0x0f, 0xab, 0x0b]
        } else {
            &[0x0f, 0xab, 0x0b]
        };
        let insn = MmioInsn::decode(bytes, &cpu).unwrap();
        assert_eq!(
            insn.gva.as_u64(),
            BASE.wrapping_add_signed(place),
            "{number}"
        );
        let (mut gprs, mut flags) = (cpu.gprs, 3);
        let written = insn.finish(0, &mut gprs, &mut flags);
        assert_eq!((written, flags), (Some(1 << bit), 2), "{number}");
    }
    // btr, btc with immediates
    assert_eq!(run(&[0x0f, 0xba, 0x33, 3], 0xF, 2).1, 3);
    assert_eq!(run(&[0x0f, 0xba, 0x33, 3], 0xF, 2).2, Some(7));
    assert_eq!(run(&[0x0f, 0xba, 0x3b, 3], 7, 2).2, Some(0xF));
}

#[test]
fn exchanges_compare_and_add() {
    // lock xadd %ecx,(%rbx)
    let (gprs, flags, written) = run(&[0xf0, 0x0f, 0xc1, 0x0b], 5, 2);
    assert_eq!((gprs.0[1], written), (5, Some(0x1111_1116)));
    assert_eq!(flags & 0x41, 0);
    // lock cmpxchg %ecx,(%rbx) with EAX = 0
    let bytes = [0xf0, 0x0f, 0xb1, 0x0b];
    let (gprs, flags, written) = run(&bytes, 0, 2);
    assert_eq!(
        (gprs, flags & 0x40, written),
        (cpu().gprs, 0x40, Some(0x1111_1111))
    );
    let (gprs, flags, written) = run(&bytes, 7, 2);
    assert_eq!((gprs.0[0], flags & 0x41, written), (7, 1, Some(7)));
}

#[test]
fn string_stores_and_loads_go_on_by_one() {
    let mut cpu = cpu();
    cpu.gprs.0[0] = 0x1_2345_6789;
    cpu.gprs.0[1] = 2;
    cpu.gprs.0[7] = BASE;
    // rep stosl
    let insn = MmioInsn::decode(&[0xf3, 0xab], &cpu).unwrap();
    assert_eq!(
        (insn.gva, insn.size, insn.reads()),
        (Gva::new(BASE), 4, false)
    );
    let (mut gprs, mut flags) = (cpu.gprs, 2);
    assert_eq!(insn.finish(0, &mut gprs, &mut flags), Some(0x2345_6789));
    assert_eq!(
        (gprs.0[7], gprs.0[1], insn.repeats(&gprs)),
        (BASE + 4, 1, true)
    );
    assert_eq!(insn.finish(0, &mut gprs, &mut flags), Some(0x2345_6789));
    assert!(!insn.repeats(&gprs));
    // lodsw, downwards
    cpu.gprs.0[6] = BASE;
    let insn = MmioInsn::decode(&[0x66, 0xad], &cpu).unwrap();
    let (mut gprs, mut flags) = (cpu.gprs, 0x402);
    assert_eq!(insn.finish(0xABCD, &mut gprs, &mut flags), None);
    assert_eq!((gprs.0[0], gprs.0[6]), (0x1_2345_ABCD, BASE - 2));
    assert!(!insn.repeats(&gprs));
}

#[test]
fn what_is_not_known_is_refused() {
    let refused: [&[u8]; 10] = [
        &[0xf3, 0xa5],       // rep movsl
        &[0xae],             // scasb
        &[0x90],             // no operand in memory
        &[0x0f, 0x11, 0x03], // movups
        &[0x8c, 0x1b],       // mov %ds,(%rbx)
        &[0xff, 0x33],       // push (%rbx)
        &[0xff, 0x13],       // call *(%rbx)
        &[0x8d, 0x03],       // lea (%rbx),%eax
        &[0x0f, 0x0b],       // ud2
        &[0xd1, 0x23],       // shll (%rbx)
    ];
    for bytes in refused {
        assert_eq!(
            MmioInsn::decode(bytes, &cpu()),
            Err(DecodeError::Unsupported),
            "{bytes:x?}"
        );
    }
    assert_eq!(
        MmioInsn::decode(&[0xc7, 0x03, 1], &cpu()),
        Err(DecodeError::Truncated)
    );
    assert_eq!(MmioInsn::decode(&[], &cpu()), Err(DecodeError::Truncated));
    // mov %eax,0xffe(%rbx) leaves its page
    let crossing = [0x89, 0x83, 0xfe, 0x0f, 0, 0];
    assert_eq!(
        MmioInsn::decode(&crossing, &cpu()),
        Err(DecodeError::Unsupported)
    );
}

proptest! {
    /// The naive model: signed and unsigned arithmetic in 128 bits.
    #[test]
    fn arithmetic_agrees_with_wide_numbers(a in any::<u64>(), b in any::<u64>(), size in 0usize..4, op in 0usize..10, carry in any::<bool>()) {
        let size = [1u8, 2, 4, 8][size];
        // OR, AND, SUB, XOR, CMP, ADD of memory and register; their first opcode and whether they store.
        let (opcode, stores) = [(0x08, true), (0x20, true), (0x28, true), (0x30, true), (0x38, false), (0, true), (0x84, false), (0x86, true), (0x10, true), (0x18, true)][op];
        let mut bytes = alloc::vec::Vec::new();
        if size == 2 { bytes.push(0x66); }
        if size == 8 { bytes.push(0x48); }
        bytes.extend([opcode | u8::from(size != 1), 0x0b]); // (%rbx), %ecx
        let mut cpu = cpu();
        cpu.gprs.0[1] = b;
        let insn = MmioInsn::decode(&bytes, &cpu).unwrap();
        let (mut gprs, mut flags) = (cpu.gprs, 2 | u64::from(carry));
        let written = insn.finish(a, &mut gprs, &mut flags);
        let (x, y) = (truncate(a, size), truncate(b, size));
        let signed = |v: u64| i128::from(register::sign_extend(v, size).cast_signed());
        let wide = match opcode {
            0x08 => i128::from(x | y),
            0x20 | 0x84 => i128::from(x & y),
            0x28 | 0x38 => i128::from(x) - i128::from(y),
            0x30 => i128::from(x ^ y),
            0x10 => i128::from(x) + i128::from(y) + i128::from(carry),
            0x18 => i128::from(x) - i128::from(y) - i128::from(carry),
            0x86 => {
                prop_assert_eq!(written, Some(y));
                prop_assert_eq!(truncate(gprs.0[1], size), x);
                return Ok(());
            }
            _ => i128::from(x) + i128::from(y),
        };
        let modulus = 1i128 << (8 * u32::from(size));
        let result = u64::try_from(wide.rem_euclid(modulus)).unwrap();
        prop_assert_eq!(written, stores.then_some(result));
        let (carry, overflow) = match opcode {
            0x28 | 0x38 => (wide < 0, signed(x) - signed(y) != signed(result)),
            0x10 => (wide >= modulus, signed(x) + signed(y) + i128::from(carry) != signed(result)),
            0x18 => (wide < 0, signed(x) - signed(y) - i128::from(carry) != signed(result)),
            0 => (wide >= modulus, signed(x) + signed(y) != signed(result)),
            _ => (false, false),
        };
        prop_assert_eq!(flags & 1 != 0, carry);
        prop_assert_eq!(flags >> 11 & 1 != 0, overflow);
        prop_assert_eq!(flags >> 6 & 1 != 0, result == 0);
        prop_assert_eq!(flags >> 7 & 1 != 0, signed(result) < 0);
        prop_assert_eq!(flags >> 2 & 1 != 0, (result & 0xff).count_ones() % 2 == 0);
    }

    #[test]
    fn any_bytes_in_any_mode_end_in_an_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0..20), mode in 0usize..3,
        registers in any::<[u64; 16]>(), rip in any::<u64>(), device in any::<u64>(), flags in any::<u64>(),
    ) {
        let cpu = CpuView {
            code_size: [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64][mode],
            rip,
            gprs: Gprs(registers),
            bases: SegmentBases([flags; 6]),
        };
        if let Ok(insn) = MmioInsn::decode(&bytes, &cpu) {
            prop_assert!(insn.len >= 1 && usize::from(insn.len) <= bytes.len().min(15));
            let (mut gprs, mut rflags) = (cpu.gprs, flags);
            let written = insn.finish(device, &mut gprs, &mut rflags);
            prop_assert!(written.is_none_or(|w| truncate(w, insn.size) == w));
            prop_assert_eq!((rflags ^ flags) & !0x8d5, 0);
        }
    }
}
