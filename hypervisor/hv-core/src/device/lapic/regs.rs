//! Offsets and bits of the local APIC's registers.
//!
//! A register's x2APIC MSR is 0x800 plus its xAPIC offset divided by 16.
//! Intel SDM vol. 3A, "Local APIC Register Map", "Local APIC Register Address Map Supported by x2APIC".

use super::{X2APIC_FIRST, X2APIC_LAST};

/// The byte after the last register.
pub(super) const END: usize = 0x400;
/// Bytes from one register to the next.
pub(super) const STRIDE: u16 = 16;
/// The bits of the destination format register that are always ones.
pub(super) const DFR_ONES: u32 = 0x0FFF_FFFF;
/// Version 0x14, six LVT entries (0–5), no EOI-broadcast suppression: what Xen reports.
pub(super) const VERSION: u32 = 0x0005_0014;

/// A register, by its offset in the page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reg {
    Id,
    Version,
    Tpr,
    Ppr,
    Eoi,
    Ldr,
    /// Of xAPIC mode only: how logical ids are compared.
    Dfr,
    Svr,
    /// Word 0–7 of the in-service register.
    Isr(u8),
    /// Word 0–7 of the trigger-mode register.
    Tmr(u8),
    /// Word 0–7 of the interrupt-request register.
    Irr(u8),
    Esr,
    /// In xAPIC mode its lower half.
    Icr,
    /// Of xAPIC mode only: the destination.
    IcrHigh,
    LvtTimer,
    LvtThermal,
    LvtPerf,
    Lint0,
    Lint1,
    LvtError,
    InitialCount,
    CurrentCount,
    DivideConfig,
    /// Of x2APIC mode only.
    SelfIpi,
}

/// The local vectors.
pub(super) const LVT: [Reg; 6] = [
    Reg::LvtTimer,
    Reg::LvtThermal,
    Reg::LvtPerf,
    Reg::Lint0,
    Reg::Lint1,
    Reg::LvtError,
];

impl Reg {
    /// The register behind x2APIC MSR `msr`; `None` for the holes, the destination format register and CMCI included.
    pub(super) const fn from_msr(msr: u32) -> Option<Self> {
        if msr < X2APIC_FIRST || msr > X2APIC_LAST {
            return None;
        }
        match Self::from_index((msr - X2APIC_FIRST).to_le_bytes()[0]) {
            Some(Self::Dfr | Self::IcrHigh) => None,
            known => known,
        }
    }

    /// The register that starts at byte `offset` of the page in xAPIC mode; `None` for the holes.
    pub(super) const fn from_offset(offset: u16) -> Option<Self> {
        if !offset.is_multiple_of(STRIDE) || offset as usize >= END {
            return None;
        }
        match Self::from_index((offset / STRIDE).to_le_bytes()[0]) {
            Some(Self::SelfIpi) => None,
            known => known,
        }
    }

    /// The register at 16 times `index`, in whatever mode.
    const fn from_index(index: u8) -> Option<Self> {
        Some(match index {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::Tpr,
            0x0A => Self::Ppr,
            0x0B => Self::Eoi,
            0x0D => Self::Ldr,
            0x0E => Self::Dfr,
            0x0F => Self::Svr,
            0x10..=0x17 => Self::Isr(index - 0x10),
            0x18..=0x1F => Self::Tmr(index - 0x18),
            0x20..=0x27 => Self::Irr(index - 0x20),
            0x28 => Self::Esr,
            0x30 => Self::Icr,
            0x31 => Self::IcrHigh,
            0x32 => Self::LvtTimer,
            0x33 => Self::LvtThermal,
            0x34 => Self::LvtPerf,
            0x35 => Self::Lint0,
            0x36 => Self::Lint1,
            0x37 => Self::LvtError,
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3E => Self::DivideConfig,
            0x3F => Self::SelfIpi,
            _ => return None,
        })
    }

    /// Byte offset in the page.
    pub(super) const fn offset(self) -> usize {
        match self {
            Self::Id => 0x020,
            Self::Version => 0x030,
            Self::Tpr => 0x080,
            Self::Ppr => 0x0A0,
            Self::Eoi => 0x0B0,
            Self::Ldr => 0x0D0,
            Self::Dfr => 0x0E0,
            Self::Svr => 0x0F0,
            Self::Isr(word) => 0x100 + 0x10 * (word & 7) as usize,
            Self::Tmr(word) => 0x180 + 0x10 * (word & 7) as usize,
            Self::Irr(word) => 0x200 + 0x10 * (word & 7) as usize,
            Self::Esr => 0x280,
            Self::Icr => 0x300,
            Self::IcrHigh => 0x310,
            Self::LvtTimer => 0x320,
            Self::LvtThermal => 0x330,
            Self::LvtPerf => 0x340,
            Self::Lint0 => 0x350,
            Self::Lint1 => 0x360,
            Self::LvtError => 0x370,
            Self::InitialCount => 0x380,
            Self::CurrentCount => 0x390,
            Self::DivideConfig => 0x3E0,
            Self::SelfIpi => 0x3F0,
        }
    }

    /// The bits that a write of x2APIC mode may set without #GP. For EOI and ESR only 0 may be written; registers that
    /// are read-only refuse that too, later.
    pub(super) const fn writable(self) -> u64 {
        match self {
            Self::Tpr | Self::SelfIpi => 0xFF,
            // vector, enabled, focus checking
            Self::Svr => 0x3FF,
            Self::Icr => super::icr::WRITABLE,
            Self::LvtTimer => (lvt::MASKED | lvt::STATUS | lvt::VECTOR | lvt::TIMER_MODE) as u64,
            Self::LvtThermal | Self::LvtPerf => {
                (lvt::MASKED | lvt::STATUS | lvt::VECTOR | lvt::MODE) as u64
            }
            Self::Lint0 | Self::Lint1 => {
                (lvt::MASKED | lvt::STATUS | lvt::VECTOR | lvt::MODE | lvt::PIN) as u64
            }
            Self::LvtError => (lvt::MASKED | lvt::STATUS | lvt::VECTOR) as u64,
            Self::InitialCount => u32::MAX as u64,
            Self::DivideConfig => 0b1011,
            _ => 0,
        }
    }

    /// The bits that a write of xAPIC mode sets; it drops the others.
    pub(super) const fn kept(self) -> u32 {
        match self {
            Self::Ldr | Self::IcrHigh => 0xFF << 24,
            // the model; the other bits are ones
            Self::Dfr => 0xF << 28,
            other => {
                let [a, b, c, d, ..] = other.writable().to_le_bytes();
                u32::from_le_bytes([a, b, c, d])
            }
        }
    }
}

/// Bits of the local vectors. Intel SDM vol. 3A, "Local Vector Table".
pub(super) mod lvt {
    pub(crate) const VECTOR: u32 = 0xFF;
    /// Delivery mode.
    pub(crate) const MODE: u32 = 7 << 8;
    /// Delivery status.
    pub(crate) const STATUS: u32 = 1 << 12;
    /// Polarity, remote IRR and trigger mode.
    pub(crate) const PIN: u32 = 7 << 13;
    pub(crate) const MASKED: u32 = 1 << 16;
    pub(crate) const TIMER_MODE: u32 = 3 << 17;
    /// Bits that a write leaves 0: delivery status and remote IRR.
    pub(crate) const READ_ONLY: u32 = STATUS | 1 << 14;
}

/// Bits of the spurious-interrupt vector register.
pub(super) mod svr {
    pub(crate) const ENABLED: u32 = 1 << 8;
    pub(crate) const RESET: u32 = 0xFF;
}

/// Bits of the error status register.
pub(super) mod esr {
    pub(crate) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    pub(crate) const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
    /// A register that xAPIC mode has not.
    pub(crate) const ILLEGAL_REGISTER: u32 = 1 << 7;
}
