//! The local APIC's state as records: what a toolstack saves of it and loads again.
//!
//! The page has the xAPIC layout in both. It differs in one place: the record keeps the upper half of the interrupt
//! command in the register of its own that xAPIC mode has, in x2APIC mode too. The current count is told, and counted
//! on from when it is loaded.
//! Source: `public/arch-x86/hvm/save.h, hvm_hw_lapic`, `hvm_hw_lapic_regs`.

use guest_abi::hvm::save::{HVM_LAPIC_REGS_BYTES, HvmHwLapic};

use super::regs::{self, Reg, lvt};
use super::timer::{Mode, State};
use super::{Lapic, base};
use crate::device::Gp;
use crate::mem::SharedWords;

/// [`HvmHwLapic::disabled`]: in the spurious-vector register.
const SW_DISABLED: u32 = 1 << 0;
/// [`HvmHwLapic::disabled`]: in APIC_BASE.
const HW_DISABLED: u32 = 1 << 1;
const STRIDE: usize = regs::STRIDE as usize;

/// The page of a record.
pub type LapicPage = [u8; HVM_LAPIC_REGS_BYTES];

impl<F: SharedWords> Lapic<F> {
    /// The state at guest TSC `now_tsc`. What others have posted is to be collected first ([`Lapic::wakes_for`]).
    #[must_use]
    pub fn save(&self, now_tsc: u64) -> (HvmHwLapic, LapicPage) {
        let mut page = [0; HVM_LAPIC_REGS_BYTES];
        let mut put = |offset: usize, value: u32| {
            if let Some(place) = page.get_mut(offset..offset + 4) {
                place.copy_from_slice(&value.to_le_bytes());
            }
        };
        for offset in (0..regs::END).step_by(STRIDE) {
            put(offset, self.page.load_u32(offset));
        }
        if self.mode() == base::Mode::X2apic {
            let destination = self.page.load_u32(Reg::Icr.offset() + 4);
            put(Reg::IcrHigh.offset(), destination);
        }
        let count = self.timer.count(now_tsc, self.timer_mode());
        put(Reg::CurrentCount.offset(), count);
        let mut disabled = 0;
        if self.get(Reg::Svr) & regs::svr::ENABLED == 0 {
            disabled |= SW_DISABLED;
        }
        if !self.is_on() {
            disabled |= HW_DISABLED;
        }
        let state = HvmHwLapic {
            apic_base_msr: self.base(),
            disabled,
            timer_divisor: self.timer.divide,
            tdt_msr: self.tsc_deadline(),
        };
        (state, page)
    }

    /// Takes up a saved state at guest TSC `now_tsc`, its mode included; id and version stay. With
    /// [`super::Delivery::ByCpu`], [`interrupt_status`](Self::interrupt_status) and the EOI-exit bitmaps are to be set
    /// after, and in any case the timer to what [`on_timer`](Self::on_timer) gives, and others are to be told of the
    /// [address](Self::address).
    ///
    /// # Errors
    /// [`Gp`] for a state that this APIC cannot be in; then nothing has changed.
    pub fn load(&mut self, state: &HvmHwLapic, page: &LapicPage, now_tsc: u64) -> Result<(), Gp> {
        let word = |offset: usize| word(page, offset);
        let mode = check(state, page)?;
        for offset in (0..regs::END).step_by(8) {
            self.page.store_u64(offset, 0);
        }
        for offset in (0..regs::END).step_by(STRIDE) {
            self.page.store_u32(offset, word(offset));
        }
        self.set(Reg::Version, regs::VERSION);
        self.set(Reg::CurrentCount, 0);
        self.base = state.apic_base_msr;
        self.load_addresses(&word);
        self.errors = 0;
        self.note_vectors();
        self.timer.divide = Self::divide(word(Reg::DivideConfig.offset()));
        self.timer
            .resume(self.timer_state(mode, state, &word, now_tsc), now_tsc);
        Ok(())
    }

    /// Sets the registers that say who it is and whom it speaks to, by its mode.
    fn load_addresses(&self, word: &impl Fn(usize) -> u32) {
        self.set_ids();
        let kept = |reg: Reg| word(reg.offset()) & reg.kept();
        self.set(Reg::Dfr, kept(Reg::Dfr) | regs::DFR_ONES);
        match self.mode() {
            base::Mode::X2apic => {
                let destination = word(Reg::IcrHigh.offset());
                self.page.store_u32(Reg::Icr.offset() + 4, destination);
                self.set(Reg::IcrHigh, 0);
            }
            base::Mode::Xapic | base::Mode::Off => {
                self.set(Reg::Ldr, kept(Reg::Ldr));
                self.set(Reg::IcrHigh, kept(Reg::IcrHigh));
            }
        }
    }

    /// Looks which words of the sets have something, and has the next [`Lapic::sync`] tell of it.
    fn note_vectors(&mut self) {
        let words = |set: fn(u8) -> Reg| {
            (0..8u8).fold(0, |words, n| words | u8::from(self.get(set(n)) != 0) << n)
        };
        let (irr, isr) = (words(Reg::Irr), words(Reg::Isr));
        self.irr_words = irr;
        self.isr_words = isr;
        self.eoi_exits_changed = true;
        self.raised = self.interrupt_status().requested;
    }

    fn timer_state(
        &self,
        mode: Mode,
        state: &HvmHwLapic,
        word: &impl Fn(usize) -> u32,
        now_tsc: u64,
    ) -> State {
        let initial = word(Reg::InitialCount.offset());
        let left = word(Reg::CurrentCount.offset()).min(initial);
        match mode {
            Mode::TscDeadline if state.tdt_msr != 0 => State::Deadline(state.tdt_msr),
            Mode::Periodic | Mode::OneShot if left != 0 => State::Counting {
                since_tsc: now_tsc,
                count: left,
                initial,
            },
            Mode::Periodic if initial != 0 => State::Counting {
                since_tsc: now_tsc,
                count: initial,
                initial,
            },
            _ => State::Idle,
        }
    }
}

/// The register at `offset` of a page.
fn word(page: &LapicPage, offset: usize) -> u32 {
    let bytes = page.get(offset..).and_then(|rest| rest.first_chunk());
    u32::from_le_bytes(bytes.copied().unwrap_or_default())
}

/// Whether [`Lapic::load`] takes the state.
///
/// # Errors
/// [`Gp`] where it does not.
pub fn check_saved(state: &HvmHwLapic, page: &LapicPage) -> Result<(), Gp> {
    check(state, page).map(|_| ())
}

/// The same; gives the timer's mode.
fn check(state: &HvmHwLapic, page: &LapicPage) -> Result<Mode, Gp> {
    let word = |offset| word(page, offset);
    let flags = base::EN | base::EXTD | base::BSP;
    let mode = state.apic_base_msr & (base::EN | base::EXTD);
    let base_is_valid = state.apic_base_msr & !flags == base::ADDRESS && mode != base::EXTD;
    // vectors that no interrupt can have
    let no_exceptions = [Reg::Isr(0), Reg::Irr(0)]
        .iter()
        .all(|reg| word(reg.offset()) & 0xFFFF == 0);
    let are_writable = [Reg::Tpr, Reg::Svr, Reg::DivideConfig]
        .into_iter()
        .chain(regs::LVT)
        .all(|reg| {
            let read_only = u64::from(lvt::READ_ONLY);
            u64::from(word(reg.offset())) & !(reg.writable() | read_only) == 0
        });
    if base_is_valid && no_exceptions && are_writable {
        Mode::from_lvt(word(Reg::LvtTimer.offset())).ok_or(Gp)
    } else {
        Err(Gp)
    }
}
