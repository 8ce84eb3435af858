//! The registers of xAPIC mode: 32 bits at every 16th byte of a page of memory.
//!
//! Nothing here faults: what cannot be written is ignored, and an access to a register that is not there is noted as an
//! error. As in Xen, a part of a register's 32 bits can be accessed too; what reaches beyond them reads as 0 and is not
//! written.
//! Intel SDM vol. 3A, "Local APIC Register Map", "Error Handling"; Xen's `vlapic_mmio_read`, `vlapic_mmio_write`.

use super::regs::{self, Reg, esr};
use super::{Lapic, LapicEffect, Mode};
use crate::mem::SharedWords;

/// A part of a register.
#[derive(Clone, Copy)]
struct Part {
    shift: u32,
    /// Its bits, moved down to bit 0.
    mask: u32,
}

impl Part {
    /// The register's byte offset, and the part of it; `None` for what reaches beyond its 32 bits.
    fn at(offset: u16, size: u8) -> Option<(u16, Self)> {
        let into = offset % regs::STRIDE;
        let mask = match size {
            1 => 0xFF,
            2 => 0xFFFF,
            4 => u32::MAX,
            _ => return None,
        };
        let part = Self {
            shift: u32::from(into) * 8,
            mask,
        };
        (into + u16::from(size) <= 4).then_some((offset - into, part))
    }
}

impl<F: SharedWords> Lapic<F> {
    /// True where the registers are in memory.
    pub fn is_mapped(&self) -> bool {
        self.mode() == Mode::Xapic
    }

    /// Reads `size` bytes at byte `offset` of the page. `now_tsc` is what RDTSC would give the guest.
    pub fn read_mapped(&mut self, offset: u16, size: u8, now_tsc: u64) -> u32 {
        let Some((offset, part)) = Part::at(offset, size) else {
            return 0;
        };
        match Reg::from_offset(offset) {
            Some(reg) => self.value(reg, now_tsc) >> part.shift & part.mask,
            None => {
                self.error(esr::ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes `size` bytes at byte `offset` of the page. `now_tsc` is what RDTSC would give the guest.
    pub fn write_mapped(&mut self, offset: u16, size: u8, value: u32, now_tsc: u64) -> LapicEffect {
        let Some((offset, part)) = Part::at(offset, size) else {
            return LapicEffect::None;
        };
        let Some(reg) = Reg::from_offset(offset) else {
            self.error(esr::ILLEGAL_REGISTER);
            return LapicEffect::None;
        };
        let others = self.get(reg) & !(part.mask << part.shift);
        let value = (others | (value & part.mask) << part.shift) & reg.kept();
        match reg {
            Reg::Icr => self.write_icr_low(value),
            Reg::Dfr => self.write_register_mapped(reg, value | regs::DFR_ONES, now_tsc),
            _ => self.write_register_mapped(reg, value, now_tsc),
        }
    }

    /// What raises #GP as an MSR is ignored here.
    fn write_register_mapped(&mut self, reg: Reg, value: u32, now_tsc: u64) -> LapicEffect {
        self.write_register(reg, value, now_tsc)
            .unwrap_or(LapicEffect::None)
    }
}
