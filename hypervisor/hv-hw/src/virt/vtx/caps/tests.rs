//! What CPUs offer, and what becomes of it.

use super::super::controls::{CONTROLS, Use};
use super::*;

/// A CPU whose every control may be either value.
fn all(msr: u32) -> u64 {
    match msr {
        FEATURE_CONTROL => 5,
        VMX_BASIC => (1 << 55) | 7,
        VMX_EPT_VPID => u64::MAX,
        _ => 0xFFFF_FFFF_0000_0000,
    }
}

fn probe_with(changed: u32, value: u64) -> Result<Caps, Refusal> {
    Caps::probe(true, &Switches::default(), |msr| {
        if msr == changed { value } else { all(msr) }
    })
}

#[test]
fn full_cpu_gets_every_feature() {
    let caps = Caps::probe(true, &Switches::default(), all).unwrap();
    assert_eq!(caps.revision, 7);
    assert!(caps.has_tpr_shadow() && caps.has_interrupt_delivery() && caps.ept_1g);
    assert!(caps.pin.contains(Pin::POSTED_INTERRUPTS));
    assert!(caps.secondary.contains(Secondary::VPID));
}

#[test]
fn apicv_off_leaves_tpr_shadow_and_no_posted_interrupts() {
    let switches = Switches {
        delivery: false,
        ..Switches::default()
    };
    let caps = Caps::probe(true, &switches, all).unwrap();
    assert!(caps.has_tpr_shadow() && !caps.has_interrupt_delivery());
    assert!(!caps.pin.contains(Pin::POSTED_INTERRUPTS));
}

#[test]
fn sizes_of_ept_leaves_are_switched_one_by_one() {
    for (ept_2m, ept_1g) in [(true, true), (true, false), (false, true), (false, false)] {
        let switches = Switches {
            stage2_2m: ept_2m,
            stage2_1g: ept_1g,
            ..Switches::default()
        };
        let caps = Caps::probe(true, &switches, all).unwrap();
        assert_eq!((caps.ept_2m, caps.ept_1g), (ept_2m, ept_2m && ept_1g));
    }
}

#[test]
fn without_tpr_shadow_cr8_exits() {
    let switches = Switches {
        task_priority: false,
        ..Switches::default()
    };
    let caps = Caps::probe(true, &switches, all).unwrap();
    assert!(
        caps.primary
            .contains(Primary::CR8_LOAD | Primary::CR8_STORE)
    );
    assert!(!caps.secondary.contains(Secondary::VIRTUAL_X2APIC));
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(
        Caps::probe(false, &Switches::default(), all),
        Err(Refusal::NoVmx)
    );
    assert_eq!(probe_with(FEATURE_CONTROL, 1), Err(Refusal::LockedOff(1)));
    let secondary_without = |bit: Secondary| u64::from(!bit.bits()) << 32;
    assert_eq!(
        probe_with(VMX_SECONDARY, secondary_without(Secondary::EPT)),
        Err(Refusal::NoEpt)
    );
    assert_eq!(
        probe_with(
            VMX_SECONDARY,
            secondary_without(Secondary::UNRESTRICTED_GUEST)
        ),
        Err(Refusal::NoUnrestrictedGuest)
    );
    assert_eq!(
        probe_with(0x48E, 0x7FFF_FFFF_0000_0000),
        Err(Refusal::NoEpt)
    );
}

#[test]
fn required_bits_are_kept() {
    let caps = probe_with(0x48D, 0xFFFF_FFFF_0000_0016).unwrap();
    assert_eq!(caps.pin.bits() & 0x16, 0x16);
}

#[test]
fn wbinvd_of_a_guest_exits_where_the_cpu_can_make_it() {
    let caps = Caps::probe(true, &Switches::default(), all).unwrap();
    assert!(caps.secondary.contains(Secondary::WBINVD));
    let without = probe_with(VMX_SECONDARY, u64::from(!Secondary::WBINVD.bits()) << 32);
    assert!(!without.unwrap().secondary.contains(Secondary::WBINVD));
}

/// The word of a row as a CPU's MSR of it would be, and as it was chosen.
fn msr_of(word: Word) -> Option<u32> {
    match word {
        Word::Pin => Some(0x48D),
        Word::Primary => Some(0x48E),
        Word::Exit => Some(0x48F),
        Word::Entry => Some(0x490),
        Word::Secondary => Some(VMX_SECONDARY),
        // activated by a primary control that is off
        Word::Tertiary => None,
    }
}

fn chosen(caps: &Caps, word: Word) -> u32 {
    match word {
        Word::Pin => caps.pin.bits(),
        Word::Primary => caps.primary.bits(),
        Word::Secondary => caps.secondary.bits(),
        Word::Tertiary => 0,
        Word::Exit => caps.exit.bits(),
        Word::Entry => caps.entry.bits(),
    }
}

#[test]
fn every_control_is_used_as_its_row_says() {
    let full = Caps::probe(true, &Switches::default(), all).unwrap();
    for row in CONTROLS {
        let bit = 1u32 << row.bit;
        let is_on = chosen(&full, row.word) & bit != 0;
        let lacking = msr_of(row.word).map(|msr| probe_with(msr, u64::from(!bit) << 32));
        match row.usage {
            Use::Needed => {
                assert!(is_on, "{}", row.name);
                assert!(lacking.unwrap().is_err(), "{}", row.name);
            }
            Use::Wished(_) => {
                assert!(is_on, "{}", row.name);
                let lacking = lacking.unwrap().unwrap();
                assert_eq!(chosen(&lacking, row.word) & bit, 0, "{}", row.name);
            }
            // nothing to wait for, and no mode, when a VMCS is new
            Use::AtTimes | Use::Off => assert!(!is_on, "{}", row.name),
        }
        assert!(!row.why.is_empty(), "{}", row.name);
    }
}

/// Bits that the SDM reserves, those that must be 1 among them.
#[test]
fn every_bit_of_every_word_has_a_row_or_is_reserved() {
    const RESERVED: [(Word, u32, &[u8]); 5] = [
        (Word::Pin, 8, &[1, 2, 4]),
        (Word::Primary, 32, &[0, 1, 4, 5, 6, 8, 13, 14, 18, 26]),
        (Word::Secondary, 32, &[29]),
        (
            Word::Exit,
            32,
            &[0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 13, 14, 16, 17],
        ),
        (Word::Entry, 24, &[0, 1, 3, 4, 5, 6, 7, 8, 12]),
    ];
    for (word, bits, reserved) in RESERVED {
        for bit in 0..bits {
            let rows = CONTROLS.iter().filter(|row| row.word == word);
            let rows = rows.filter(|row| u32::from(row.bit) == bit).count();
            let is_reserved = reserved.iter().any(|r| u32::from(*r) == bit);
            assert_eq!(rows, usize::from(!is_reserved), "{word:?} bit {bit}");
        }
    }
}

/// What code elsewhere names is what the table has as used.
#[test]
fn every_control_that_code_names_is_one_that_may_be_on() {
    let named = [
        (Word::Pin, Pin::all().bits()),
        (Word::Primary, Primary::all().bits()),
        (Word::Secondary, Secondary::all().bits()),
        (Word::Exit, Exit::all().bits()),
        (Word::Entry, Entry::all().bits()),
    ];
    for (word, bits) in named {
        for row in CONTROLS.iter().filter(|row| row.word == word) {
            let may_be_on = !matches!(row.usage, Use::Off);
            // named so that a CPU is refused which cannot leave them off
            let is_cr3 = word == Word::Primary && matches!(row.bit, 15 | 16);
            let is_named = bits & (1 << row.bit) != 0;
            assert!(!is_named || may_be_on || is_cr3, "{}", row.name);
        }
    }
}

/// IA32_VMX_BASIC, the five control words (by the "true" MSRs where there are any), the secondary one, EPT_VPID_CAP.
struct Recorded {
    name: &'static str,
    basic: u64,
    words: [u64; 4],
    secondary: u64,
    ept_vpid: u64,
    expected: Secondary,
}

/// What CPUs have had since 2012.
const OLD: Secondary = Secondary::EPT
    .union(Secondary::RDTSCP)
    .union(Secondary::VIRTUAL_X2APIC)
    .union(Secondary::VPID)
    .union(Secondary::WBINVD)
    .union(Secondary::UNRESTRICTED_GUEST)
    .union(Secondary::PAUSE_LOOP)
    .union(Secondary::INVPCID);

const RECORDED: [Recorded; 2] = [
    Recorded {
        name: "Skylake client",
        basic: 0x00DA_0400_0000_0004,
        words: [
            0x0000_007F_0000_0016,
            0xFFF9_FFFE_0400_6172,
            0x01FF_FFFF_0003_6DFB,
            0x0003_FFFF_0000_11FB,
        ],
        secondary: 0x001F_FCFF_0000_0000,
        ept_vpid: 0x0000_0F01_0673_4141,
        expected: OLD.union(Secondary::XSAVES).union(Secondary::ENCLS),
    },
    Recorded {
        name: "a CPU of another hypervisor's",
        basic: 0x00D8_0400_0000_0001,
        words: [
            0x0000_003F_0000_0016,
            0xFFF9_FFFE_0400_6172,
            0x003F_FFFF_0003_6DFB,
            0x0000_F3FF_0000_11FB,
        ],
        secondary: 0x0055_3CFE_0000_0000,
        ept_vpid: 0x0000_0F01_0611_4141,
        expected: OLD.union(Secondary::XSAVES),
    },
];

#[test]
fn recorded_cpus_get_what_they_have() {
    for cpu in RECORDED {
        let rdmsr = |msr| match msr {
            FEATURE_CONTROL => 5,
            VMX_BASIC => cpu.basic | 1 << 55,
            VMX_SECONDARY => cpu.secondary,
            VMX_EPT_VPID => cpu.ept_vpid,
            0x48D..=0x490 => cpu.words[usize::try_from(msr - 0x48D).unwrap()],
            _ => 0,
        };
        let caps = Caps::probe(true, &Switches::default(), rdmsr).unwrap();
        assert_eq!(caps.secondary, cpu.expected, "{}", cpu.name);
        assert!(!caps.pin.contains(Pin::POSTED_INTERRUPTS), "{}", cpu.name);
    }
}
