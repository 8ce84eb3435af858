//! IA32_APIC_BASE: the modes, and the ways between them.
//!
//! Off leads to xAPIC mode, that to x2APIC mode, and both to off, where all registers are lost. INIT changes no mode.
//! Intel SDM vol. 3A, "Local APIC Status and Location", "x2APIC State Transitions".

use super::regs::Reg;
use super::{Lapic, LapicEffect, logical_id};
use crate::mem::SharedWords;

/// The vCPU is the boot processor.
pub const BSP: u64 = 1 << 8;
/// x2APIC mode.
pub const EXTD: u64 = 1 << 10;
/// The APIC is on.
pub const EN: u64 = 1 << 11;
/// The only address that the APIC can be said to be at.
pub const ADDRESS: u64 = 0xFEE0_0000;

const MODE: u64 = EN | EXTD;
const XAPIC: u64 = EN;

/// How the registers are reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Not at all, and no interrupt is taken. CPUID does not show this.
    Off,
    /// In memory, at [`ADDRESS`].
    Xapic,
    X2apic,
}

/// Why IA32_APIC_BASE does not take a value: both raise #GP.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BaseRefused {
    /// Reserved bits, or a way between modes that no CPU allows.
    Invalid,
    /// Another address, which is not supported.
    Moved,
}

impl<F: SharedWords> Lapic<F> {
    pub fn base(&self) -> u64 {
        self.base
    }

    /// How its registers are reached.
    pub fn mode(&self) -> Mode {
        match self.base & MODE {
            MODE => Mode::X2apic,
            XAPIC => Mode::Xapic,
            _ => Mode::Off,
        }
    }

    /// True unless the guest has switched the APIC off in APIC_BASE.
    pub fn is_on(&self) -> bool {
        self.base & EN != 0
    }

    /// Writes IA32_APIC_BASE.
    ///
    /// # Errors
    /// [`BaseRefused`]; then nothing has changed.
    pub fn set_base(&mut self, value: u64) -> Result<LapicEffect, BaseRefused> {
        let flags = value & 0xFFF;
        if flags & !(MODE | BSP) != 0 {
            return Err(BaseRefused::Invalid);
        }
        if value != ADDRESS | flags {
            return Err(BaseRefused::Moved);
        }
        let (old, new) = (self.base & MODE, value & MODE);
        match (old, new) {
            _ if old == new => {
                self.base = value;
                return Ok(LapicEffect::None);
            }
            (XAPIC, MODE) => {
                self.base = value;
                self.enter_x2apic();
            }
            (_, 0) | (0, XAPIC) => {
                self.base = value;
                self.init();
            }
            _ => return Err(BaseRefused::Invalid),
        }
        Ok(LapicEffect::Mode(self.mode()))
    }

    /// All registers keep what they have, but for the ids and the destination of the interrupt command.
    ///
    /// Intel SDM vol. 3A, "State Changes From xAPIC Mode to x2APIC Mode".
    fn enter_x2apic(&mut self) {
        let command = u64::from(self.get(Reg::Icr));
        self.page.store_u64(Reg::Icr.offset(), command);
        self.set(Reg::IcrHigh, 0);
        self.set_ids();
    }

    /// Sets the id, and the logical id as it is before the guest may have chosen one.
    pub(super) fn set_ids(&self) {
        let id = self.config.id;
        let (id, logical) = match self.mode() {
            Mode::X2apic => (id, logical_id(id)),
            Mode::Xapic | Mode::Off => (id << 24, 0),
        };
        self.set(Reg::Id, id);
        self.set(Reg::Ldr, logical);
    }
}
