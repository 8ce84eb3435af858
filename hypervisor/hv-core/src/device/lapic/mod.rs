//! A vCPU's local APIC, in xAPIC or x2APIC mode, over its virtual-APIC page.
//!
//! The registers live in a shared frame at the offsets of the xAPIC layout, because the CPU's APIC virtualisation reads
//! and writes that very page: the same code serves with it ([`Delivery::ByCpu`]) and without
//! ([`Delivery::BySoftware`]). Only the vCPU's own thread of control calls this; others put interrupts into its
//! [`PostedInterrupts`](super::posted::PostedInterrupts), and reach it by its [`ApicAddress`].
//!
//! It starts in xAPIC mode, as all do; the CPU serves registers of x2APIC mode only, which kernels go over to early.
//! What both have in common is in terms of x2APIC mode.
//!
//! Not supported: relocation of the APIC, which Xen refuses as well; CMCI; a change of the id, which is the CPU model's
//! to allow.
//! Intel SDM vol. 3A, "Advanced Programmable Interrupt Controller (APIC)", "Extended XAPIC (x2APIC)".
//!
//! | file | what |
//! |---|---|
//! | here | the registers: which MSR may be read and written how |
//! | `base` | IA32_APIC_BASE: the modes |
//! | `mapped` | the registers of xAPIC mode, in memory |
//! | `delivery` | IRR, ISR, priorities: what the vCPU takes next |
//! | `icr` | a write to the interrupt command register → a message |
//! | `save` | the state as records, and back |
//! | `timer` | one-shot, periodic and TSC-deadline |
//! | `regs` | offsets and bits |

pub mod base;
mod delivery;
mod icr;
mod mapped;
mod regs;
mod save;
mod timer;

use super::Gp;
use super::message::{ApicAddress, InterruptMessage, LogicalId, logical_id};
use crate::mem::SharedWords;
pub use base::{BaseRefused, Mode};
pub use delivery::{Eoi, InterruptStatus, Synced};
use regs::{Reg, lvt};
pub use save::{LapicPage, check_saved};
use timer::Timer;

/// The first x2APIC MSR.
pub const X2APIC_FIRST: u32 = 0x800;
/// The last x2APIC MSR that this APIC may have.
pub const X2APIC_LAST: u32 = 0x83F;

/// Who moves interrupts from IRR to ISR and does EOIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// We do, at VM entry and on exits.
    BySoftware,
    /// The CPU does: its own [`InterruptStatus`] rules.
    ByCpu,
}

/// What the CPU does by itself for a guest's accesses to x2APIC MSRs. Intel SDM vol. 3C, "Virtualizing MSR-Based APIC
/// Accesses".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApicVirtualization {
    /// "Virtualize x2APIC mode" is on.
    pub x2apic_mode: bool,
    /// "APIC-register virtualization" is on.
    pub registers: bool,
    pub delivery: Delivery,
}

impl ApicVirtualization {
    /// True where RDMSR of `msr` need not exit, because the page holds what the guest is to see. Registers that do not
    /// exist must exit, as the CPU would read the page there too.
    #[must_use]
    pub fn reads(self, msr: u32) -> bool {
        self.x2apic_mode
            && match Reg::from_msr(msr) {
                Some(Reg::Tpr) => true,
                Some(Reg::Ppr) => self.registers && self.delivery == Delivery::ByCpu,
                Some(Reg::Eoi | Reg::SelfIpi | Reg::CurrentCount) | None => false,
                Some(_) => self.registers,
            }
    }

    /// True where WRMSR to `msr` need not exit.
    #[must_use]
    pub fn writes(self, msr: u32) -> bool {
        self.x2apic_mode
            && match Reg::from_msr(msr) {
                Some(Reg::Tpr) => true,
                Some(Reg::Eoi | Reg::SelfIpi) => self.delivery == Delivery::ByCpu,
                _ => false,
            }
    }
}

/// What a local APIC is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LapicConfig {
    /// x2APIC id, as in the MADT and CPUID.
    pub id: u32,
    /// True for the vCPU that boots.
    pub is_bsp: bool,
    /// Rate of the guest's TSC; the timer's 100 MHz are derived from it.
    pub tsc_khz: u32,
    pub delivery: Delivery,
}

/// What a register write asks of others. The local consequences (IRR, priorities) are in the page already, and show at
/// the next [`Lapic::sync`] and [`Lapic::deliverable`].
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LapicEffect {
    None,
    /// Deliver this message to every vCPU that its target includes, the sender too where included.
    Send(InterruptMessage),
    /// The vector's handler is done: tell the I/O APIC where `is_level`.
    Eoi(Eoi),
    /// The timer is to call [`Lapic::on_timer`] at this guest TSC value, or not at all; replaces the previous wish.
    Timer(Option<u64>),
    /// The APIC takes interrupts from now on: look again at what was withheld, such as the event-channel upcall.
    SoftwareEnabled,
    /// The APIC takes no interrupts from now on.
    SoftwareDisabled,
    /// The APIC is reached by another [`Lapic::address`].
    Readdressed,
    /// The APIC is in another mode, and reached by another address. Unless that is x2APIC mode, its registers are as
    /// after INIT, and so are the timer, the guest interrupt status and the EOI-exit bitmaps to be.
    Mode(Mode),
}

/// A virtual local APIC.
#[derive(Debug)]
pub struct Lapic<F> {
    page: F,
    config: LapicConfig,
    base: u64,
    timer: Timer,
    /// Errors since the guest last wrote ESR.
    errors: u32,
    /// Bit n: word n of the IRR may be nonzero. Meaningless with [`Delivery::ByCpu`].
    irr_words: u8,
    /// Likewise for the ISR.
    isr_words: u8,
    /// The highest vector put into the IRR since the last [`Lapic::sync`], or 0.
    raised: u8,
    /// The TMR has changed since the last [`Lapic::sync`].
    eoi_exits_changed: bool,
}

impl<F: SharedWords> Lapic<F> {
    /// Makes an APIC in reset state, in xAPIC mode, over `page`, a zeroed frame that nobody else writes.
    pub fn new(page: F, config: LapicConfig) -> Self {
        let bsp = if config.is_bsp { base::BSP } else { 0 };
        let mut lapic = Self {
            page,
            config,
            base: base::ADDRESS | base::EN | bsp,
            timer: Timer::new(config.tsc_khz),
            errors: 0,
            irr_words: 0,
            isr_words: 0,
            raised: 0,
            eoi_exits_changed: false,
        };
        lapic.init();
        lapic
    }

    /// Puts the registers into the state that INIT leaves: all as after power-up but the id and APIC_BASE. The timer is
    /// disarmed. The caller empties the vCPU's descriptor as well, and tells of the [address](Self::address); the guest
    /// interrupt status and the EOI-exit bitmaps become 0.
    ///
    /// Intel SDM vol. 3A, "Local APIC State After It Has Been Reset".
    pub fn init(&mut self) {
        for offset in (0..regs::END).step_by(8) {
            self.page.store_u64(offset, 0);
        }
        self.set(Reg::Version, regs::VERSION);
        self.set(Reg::Dfr, u32::MAX);
        self.set_ids();
        self.set(Reg::Svr, regs::svr::RESET);
        for entry in regs::LVT {
            self.set(entry, lvt::MASKED);
        }
        self.timer.disarm();
        self.errors = 0;
        self.irr_words = 0;
        self.isr_words = 0;
        self.raised = 0;
        self.eoi_exits_changed = false;
    }

    /// The page, for the CPU.
    pub fn page(&self) -> &F {
        &self.page
    }

    /// What others reach it by.
    pub fn address(&self) -> ApicAddress {
        ApicAddress {
            id: self.config.id,
            logical: match self.mode() {
                Mode::X2apic => LogicalId::OfId,
                Mode::Xapic => LogicalId::of_xapic(self.get(Reg::Ldr), self.get(Reg::Dfr)),
                Mode::Off => LogicalId::RESET,
            },
        }
    }

    /// True where the APIC takes interrupts: on, and enabled in its spurious-vector register.
    pub fn is_enabled(&self) -> bool {
        self.is_on() && self.get(Reg::Svr) & regs::svr::ENABLED != 0
    }

    /// Reads x2APIC MSR `msr`. `now_tsc` is what RDTSC would give the guest.
    ///
    /// # Errors
    /// [`Gp`] for MSRs that do not exist or are write-only, and in other modes.
    pub fn read(&mut self, msr: u32, now_tsc: u64) -> Result<u64, Gp> {
        let reg = self.register(msr)?;
        match reg {
            Reg::Eoi | Reg::SelfIpi => Err(Gp),
            Reg::Icr => Ok(self.page.load_u64(Reg::Icr.offset())),
            _ => Ok(u64::from(self.value(reg, now_tsc))),
        }
    }

    /// Writes x2APIC MSR `msr`. `now_tsc` is what RDTSC would give the guest.
    ///
    /// # Errors
    /// [`Gp`] for MSRs that do not exist or are read-only, for reserved bits, and in other modes.
    pub fn write(&mut self, msr: u32, value: u64, now_tsc: u64) -> Result<LapicEffect, Gp> {
        let reg = self.register(msr)?;
        if value & !reg.writable() != 0 || reg == Reg::Ldr {
            return Err(Gp);
        }
        if reg == Reg::Icr {
            return Ok(self.write_icr(value));
        }
        let value = u32::try_from(value).map_err(|_| Gp)?;
        self.write_register(reg, value, now_tsc)
    }

    /// Handles the exit after the CPU has stored a write to the page at byte `offset` and wants us to act on it. In
    /// x2APIC mode these are self-IPIs with an illegal vector, and ICR writes where the CPU virtualises IPIs.
    ///
    /// Intel SDM vol. 3C, "APIC-Write Emulation".
    pub fn apic_write_exit(&mut self, offset: u16) -> LapicEffect {
        match usize::from(offset) {
            o if o == Reg::SelfIpi.offset() => {
                let vector = self.get(Reg::SelfIpi);
                self.self_ipi(vector)
            }
            o if o == Reg::Icr.offset() => {
                let icr = self.page.load_u64(Reg::Icr.offset());
                self.write_icr(icr & Reg::Icr.writable())
            }
            _ => LapicEffect::None,
        }
    }

    /// The task-priority class, as CR8 shows it: 0–15.
    pub fn cr8(&self) -> u8 {
        (self.get(Reg::Tpr) >> 4 & 0xF).to_le_bytes()[0]
    }

    /// Writes CR8, where the CPU has no TPR shadow.
    ///
    /// # Errors
    /// [`Gp`] above 15.
    pub fn set_cr8(&mut self, value: u64) -> Result<(), Gp> {
        if value > 15 {
            return Err(Gp);
        }
        let class = u32::try_from(value).map_err(|_| Gp)?;
        self.set(Reg::Tpr, class << 4);
        Ok(())
    }

    fn register(&self, msr: u32) -> Result<Reg, Gp> {
        if self.mode() != Mode::X2apic {
            return Err(Gp);
        }
        Reg::from_msr(msr).ok_or(Gp)
    }

    fn get(&self, reg: Reg) -> u32 {
        self.page.load_u32(reg.offset())
    }

    fn set(&self, reg: Reg, value: u32) {
        self.page.store_u32(reg.offset(), value);
    }

    /// What a register of 32 bits reads as.
    fn value(&mut self, reg: Reg, now_tsc: u64) -> u32 {
        match reg {
            Reg::Ppr => u32::from(self.processor_priority()),
            Reg::CurrentCount => self.timer.count(now_tsc, self.timer_mode()),
            _ => self.get(reg),
        }
    }

    /// Writes a register of 32 bits, of which no reserved bit is set.
    ///
    /// # Errors
    /// [`Gp`] for those that are read-only, and for the timer's reserved mode.
    fn write_register(&mut self, reg: Reg, value: u32, now_tsc: u64) -> Result<LapicEffect, Gp> {
        Ok(match reg {
            Reg::Tpr => {
                self.set(reg, value);
                LapicEffect::None
            }
            Reg::Ldr | Reg::Dfr => {
                self.set(reg, value);
                LapicEffect::Readdressed
            }
            Reg::IcrHigh => {
                self.set(reg, value);
                LapicEffect::None
            }
            Reg::Eoi => self.eoi().map_or(LapicEffect::None, LapicEffect::Eoi),
            Reg::Svr => self.write_svr(value),
            Reg::Esr => {
                self.set(reg, self.errors);
                self.errors = 0;
                LapicEffect::None
            }
            Reg::LvtTimer => return self.write_lvt_timer(value, now_tsc),
            Reg::LvtThermal | Reg::LvtPerf | Reg::Lint0 | Reg::Lint1 | Reg::LvtError => {
                self.set_lvt(reg, value);
                LapicEffect::None
            }
            Reg::InitialCount => self.write_initial_count(value, now_tsc),
            Reg::DivideConfig => self.write_divide(value, now_tsc),
            Reg::SelfIpi => self.self_ipi(value),
            _ => return Err(Gp),
        })
    }

    fn write_svr(&mut self, value: u32) -> LapicEffect {
        let was_enabled = self.get(Reg::Svr) & regs::svr::ENABLED != 0;
        self.set(Reg::Svr, value);
        match (was_enabled, value & regs::svr::ENABLED != 0) {
            (false, true) => LapicEffect::SoftwareEnabled,
            (true, false) => {
                for entry in regs::LVT {
                    self.set(entry, self.get(entry) | lvt::MASKED);
                }
                LapicEffect::SoftwareDisabled
            }
            _ => LapicEffect::None,
        }
    }

    /// Stores a local vector; it stays masked while the APIC is software-disabled.
    fn set_lvt(&mut self, reg: Reg, value: u32) {
        let forced = if self.is_enabled() { 0 } else { lvt::MASKED };
        self.set(reg, value & !lvt::READ_ONLY | forced);
    }

    /// Notes errors, and raises the error interrupt where the guest has asked for it.
    fn error(&mut self, bits: u32) {
        self.errors |= bits;
        let entry = self.get(Reg::LvtError);
        if entry & lvt::MASKED == 0 {
            self.accept_local(entry);
        }
    }

    /// Accepts the interrupt of a local vector. An illegal vector there is noted but raises no error interrupt, which
    /// could be itself.
    fn accept_local(&mut self, entry: u32) {
        let vector = entry.to_le_bytes()[0];
        if vector < crate::x86::FIRST_LEGAL_VECTOR {
            self.errors |= regs::esr::RECEIVE_ILLEGAL_VECTOR;
        } else {
            self.accept_edge(vector);
        }
    }
}

#[cfg(test)]
mod tests;
