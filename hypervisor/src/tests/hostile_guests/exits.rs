//! Exits that are no hypercalls, and where they find the guest.

use hv_core::addr::{Gpa, Gva};
use hv_hw::virt::fake::{Course, FakeVcpu};
use hv_hw::virt::{
    ControlRegister, Event, IoExit, SoftwareEvent, Stage2Access, Stage2Fault, TaskSource,
    TaskSwitch, VcpuHw, VmExit,
};

use super::random::Random;

const LEAVES: [u64; 15] = [
    0,
    1,
    2,
    4,
    7,
    0xB,
    0xD,
    0x14,
    0x1F,
    0x4000_0000,
    0x4000_0003,
    0x4000_0004,
    0x8000_0000,
    0x8000_0008,
    0xFFFF_FFFF,
];
const MSRS: [u64; 62] = [
    0x10,
    0x17,
    0x1B,
    0x3A,
    0x3B,
    0x48,
    0x49,
    0x8B,
    0xCE,
    0xE7,
    0xE8,
    0xFE,
    0x10A,
    0x10B,
    0x122,
    0x140,
    0x174,
    0x175,
    0x176,
    0x179,
    0x17A,
    0x17B,
    0x186,
    0x198,
    0x199,
    0x1A0,
    0x1B0,
    0x1C9,
    0x1D9,
    0x1DB,
    0x200,
    0x201,
    0x20F,
    0x250,
    0x26F,
    0x277,
    0x2FF,
    0x345,
    0x400,
    0x401,
    0x402,
    0x480,
    0x491,
    0x6E0,
    0xD90,
    0xDA0,
    0xC000_0080,
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,
    0xC000_0100,
    0xC000_0101,
    0xC000_0102,
    0xC000_0103,
    0x4000_0000,
    0x4000_0001,
    0x4000_0020,
    0xC001_0015,
    0xC001_0117,
    0x4B56_4D00,
    0x770,
];
/// Registers of the local APIC that do most.
const APIC_MSRS: [u64; 11] = [
    0x80F, 0x832, 0x838, 0x83E, 0x6E0, 0x830, 0x808, 0x80B, 0x1B, 0x10, 0x83F,
];
const MSR_VALUES: [u64; 10] = [
    0xFEE0_0C00,
    0xFEE0_0800,
    0xFEE0_0000,
    0x1FF,
    0x30 | 1 << 17,
    2 << 17 | 0x31,
    0xB,
    0x4000,
    0x500,
    0xC4031,
];
const PORTS: [u16; 12] = [
    0xE9, 0xCF8, 0xCFC, 0xCF9, 0x3F8, 0x60, 0x64, 0x604, 0xFFFF, 0, 0xE8, 0xEA,
];
const CONTROL_VALUES: [u64; 9] = [
    0x8000_0033,
    0x8000_0011,
    0x11,
    0x6000_0010,
    0x20,
    0x6F0,
    0x10_00B0,
    0x300_00F0,
    0x4_26E0,
];
const PLACES: [u64; 6] = [
    0xFEE0_0000,
    0xFEC0_0000,
    0x5000,
    0x10_0000,
    1 << 40,
    (1 << 46) - 0x1000,
];

/// Any exit but a hypercall, with its registers.
pub(crate) fn any(random: &mut Random, ids: &[u64], hw: &mut FakeVcpu) -> VmExit {
    match random.below(24) {
        0 => {
            let leaf = random.of(&LEAVES) + random.below(3);
            hw.regs().set_rax(leaf);
            hw.regs().set_rcx(random.value(ids));
            VmExit::Cpuid
        }
        1..=8 => msr(random, ids, hw),
        9 | 10 => port(random, ids, hw),
        11 | 12 => stage2(random, ids),
        13 => VmExit::Eoi(random.below(256) as u8),
        14 => VmExit::ApicWrite((random.below(0x40) << 4) as u16),
        15 | 16 => VmExit::ControlWrite {
            register: random.of(&[
                ControlRegister::Cr0,
                ControlRegister::Cr3,
                ControlRegister::Cr4,
                ControlRegister::Cr8,
            ]),
            value: match random.below(6) {
                0 | 1 => None,
                2 => Some(random.of(&CONTROL_VALUES)),
                _ => Some(random.value(ids)),
            },
        },
        17 => VmExit::Cr8Read {
            destination: random.one_in(2).then(|| random.below(16) as u8),
        },
        18 => {
            hw.regs().set_rcx(random.below(3));
            hw.regs().set_edx_eax(random.value(ids));
            VmExit::Xsetbv
        }
        19 => VmExit::Exception {
            vector: random.of(&[1, 17]),
            error: random.one_in(2).then_some(0),
            qualification: random.next(),
        },
        20 => VmExit::TaskSwitch(TaskSwitch {
            selector: (random.below(16) << 3) as u16,
            source: random.of(&[
                TaskSource::Call,
                TaskSource::Iret,
                TaskSource::Jump,
                TaskSource::Gate(None),
            ]),
            length: random.one_in(2).then(|| random.below(16) as u8),
        }),
        _ => random.of(&[
            VmExit::CacheFlush,
            VmExit::Undefined(3),
            VmExit::Nmi,
            VmExit::NmiWindow,
            VmExit::TprBelowThreshold,
            VmExit::InterruptWindow,
            VmExit::ExternalInterrupt(0xEF),
        ]),
    }
}

fn msr(random: &mut Random, ids: &[u64], hw: &mut FakeVcpu) -> VmExit {
    let number = match random.below(3) {
        0 => 0x800 + random.below(0x100),
        1 => random.of(&MSRS),
        _ => random.of(&APIC_MSRS),
    };
    hw.regs().set_rcx(number);
    let value = match random.below(4) {
        0 => random.of(&MSR_VALUES),
        _ => random.value(ids),
    };
    hw.regs().set_edx_eax(value);
    if random.one_in(3) {
        VmExit::Rdmsr
    } else {
        VmExit::Wrmsr
    }
}

fn port(random: &mut Random, ids: &[u64], hw: &mut FakeVcpu) -> VmExit {
    let is_string = random.one_in(3);
    if is_string {
        // more than it may have is left to the test of host interrupts
        hw.regs().set_rcx(random.value(ids) & 0xF_FFFF);
    }
    VmExit::Io(IoExit {
        port: random.of(&PORTS),
        size: random.of(&[1, 2, 4]),
        is_in: random.one_in(2),
        is_string,
    })
}

fn stage2(random: &mut Random, ids: &[u64]) -> VmExit {
    let mut access = Stage2Access::empty();
    for (bit, one_in) in [
        (Stage2Access::READ, 2),
        (Stage2Access::WRITE, 6),
        (Stage2Access::FETCH, 6),
        (Stage2Access::PRESENT, 6),
        (Stage2Access::WALK, 6),
    ] {
        access.set(bit, random.one_in(one_in));
    }
    VmExit::Stage2Fault(Stage2Fault {
        gpa: Gpa::new(random.of(&PLACES) + random.below(0x1000)),
        linear: random.one_in(2).then(|| Gva::new(random.value(ids))),
        access,
    })
}

/// Where the exits of a while find the guest.
pub(crate) fn course(random: &mut Random) -> Course {
    let software = |kind| Event::Software {
        vector: 0x80,
        kind,
        length: 2,
    };
    let event = random.of(&[
        Event::Interrupt(0x40),
        Event::Nmi,
        Event::PROTECTION,
        Event::Exception {
            vector: 14,
            error: Some(2),
        },
        software(SoftwareEvent::Interrupt),
        software(SoftwareEvent::Exception),
        software(SoftwareEvent::Privileged),
    ]);
    match random.below(20) {
        0 => Course::InDelivery(event),
        1 => Course::Trap,
        2..=4 => Course::InShadow,
        _ => Course::Boundaries,
    }
}
