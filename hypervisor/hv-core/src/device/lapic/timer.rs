//! The local APIC's timer, counted in the guest's TSC.
//!
//! The counter runs at 100 MHz (Xen's figure) before its divider. Nothing ticks here: counts are computed from the time
//! passed in, and the one wish outwards is "call me at this TSC value". Linux on Xen leaves this timer alone.
//! Intel SDM vol. 3A, "APIC Timer", "TSC-Deadline Mode".

use super::regs::{Reg, lvt};
use super::{Lapic, LapicEffect};
use crate::device::Gp;
use crate::mem::SharedWords;

/// Rate of the counter before the divider.
const BUS_KHZ: u32 = 100_000;
/// Periodic interrupts come no faster than this, or a guest could ask for more than it has time to take.
const SHORTEST_PERIOD_US: u64 = 100;

/// How the counter is used. Bits 18:17 of the timer's local vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Mode {
    /// Decodes a local vector; `None` for the reserved encoding 3.
    pub(super) const fn from_lvt(entry: u32) -> Option<Self> {
        match (entry & lvt::TIMER_MODE) >> 17 {
            0 => Some(Self::OneShot),
            1 => Some(Self::Periodic),
            2 => Some(Self::TscDeadline),
            _ => None,
        }
    }
}

/// What the timer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Idle,
    /// The counter held `count` at `since_tsc` and goes down from there; a periodic one starts over at `initial`.
    Counting {
        since_tsc: u64,
        count: u32,
        initial: u32,
    },
    /// The TSC value to reach.
    Deadline(u64),
}

/// The counter and the deadline.
#[derive(Debug)]
pub(super) struct Timer {
    tsc_khz: u32,
    pub(super) divide: u32,
    state: State,
    /// No periodic interrupt before this.
    pause_until_tsc: u64,
}

impl Timer {
    pub(super) fn new(tsc_khz: u32) -> Self {
        Self {
            tsc_khz: tsc_khz.max(1),
            divide: 2,
            state: State::Idle,
            pause_until_tsc: 0,
        }
    }

    /// Forgets what it waits for, and goes back to the divider of reset.
    pub(super) fn disarm(&mut self) {
        self.state = State::Idle;
        self.divide = 2;
    }

    pub(super) fn count(&self, now_tsc: u64, mode: Mode) -> u32 {
        let State::Counting {
            since_tsc,
            count,
            initial,
        } = self.state
        else {
            return 0;
        };
        let passed = self.ticks(now_tsc.saturating_sub(since_tsc));
        let left = match u32::try_from(passed) {
            Ok(passed) if passed < count => return count - passed,
            _ => passed - u64::from(count),
        };
        if mode == Mode::Periodic && initial != 0 {
            let into_period = left % u64::from(initial);
            initial - u32::try_from(into_period).unwrap_or(0)
        } else {
            0
        }
    }

    /// The TSC value at which the next interrupt is due.
    fn expiry(&self, mode: Mode) -> Option<u64> {
        match self.state {
            State::Idle => None,
            State::Deadline(tsc) => Some(tsc),
            State::Counting {
                since_tsc, count, ..
            } => {
                let zero = since_tsc.saturating_add(self.tsc(u64::from(count)));
                Some(match mode {
                    Mode::Periodic => zero.max(self.pause_until_tsc),
                    Mode::OneShot | Mode::TscDeadline => zero,
                })
            }
        }
    }

    /// Where the expiry has passed: goes to the next period or to rest, and returns true.
    fn take_expired(&mut self, now_tsc: u64, mode: Mode) -> bool {
        if self.expiry(mode).is_none_or(|expiry| expiry > now_tsc) {
            return false;
        }
        self.pause_until_tsc = self.pause_from(now_tsc);
        self.state = match self.state {
            // a late call skips the periods that have passed: they are one interrupt
            State::Counting {
                since_tsc,
                count,
                initial,
            } if mode == Mode::Periodic && initial != 0 => {
                let passed = self.ticks(now_tsc.saturating_sub(since_tsc));
                let into_period = passed.saturating_sub(u64::from(count)) % u64::from(initial);
                State::Counting {
                    // the start of the period, not now: rounding must not add up
                    since_tsc: since_tsc.saturating_add(self.tsc(passed - into_period)),
                    count: initial,
                    initial,
                }
            }
            _ => State::Idle,
        };
        true
    }

    /// Goes on in `state`, which was saved.
    pub(super) fn resume(&mut self, state: State, now_tsc: u64) {
        self.pause_until_tsc = self.pause_from(now_tsc);
        self.state = state;
    }

    /// The end of the pause after an interrupt at `now_tsc`.
    fn pause_from(&self, now_tsc: u64) -> u64 {
        let shortest = u64::from(self.tsc_khz) * SHORTEST_PERIOD_US / 1000;
        now_tsc.saturating_add(shortest)
    }

    /// Starts the counter; 0 stops it.
    fn start(&mut self, initial: u32, now_tsc: u64) {
        self.pause_until_tsc = self.pause_from(now_tsc);
        self.state = match initial {
            0 => State::Idle,
            _ => State::Counting {
                since_tsc: now_tsc,
                count: initial,
                initial,
            },
        };
    }

    /// Changes the divider; a running counter goes on from its current count.
    fn set_divide(&mut self, divide: u32, now_tsc: u64, mode: Mode) {
        let current = self.count(now_tsc, mode);
        if let State::Counting {
            since_tsc, count, ..
        } = &mut self.state
        {
            *since_tsc = now_tsc;
            *count = current;
        }
        self.divide = divide;
    }

    /// Whole counter ticks in `tsc` TSC ticks.
    fn ticks(&self, tsc: u64) -> u64 {
        let per = u128::from(self.tsc_khz) * u128::from(self.divide);
        u64::try_from(u128::from(tsc) * u128::from(BUS_KHZ) / per).unwrap_or(u64::MAX)
    }

    /// TSC ticks until `ticks` counter ticks have passed, rounded up so that the count is then 0.
    fn tsc(&self, ticks: u64) -> u64 {
        let per = u128::from(self.tsc_khz) * u128::from(self.divide);
        u64::try_from((u128::from(ticks) * per).div_ceil(u128::from(BUS_KHZ))).unwrap_or(u64::MAX)
    }
}

impl<F: SharedWords> Lapic<F> {
    /// Raises the timer's interrupt where it is due at `now_tsc`, and returns the TSC value to be called at next, if
    /// any. Calling it too early or too often does no harm.
    pub fn on_timer(&mut self, now_tsc: u64) -> Option<u64> {
        let mode = self.timer_mode();
        let entry = self.get(Reg::LvtTimer);
        let is_masked = entry & lvt::MASKED != 0;
        if self.timer.take_expired(now_tsc, mode) && !is_masked {
            self.accept_local(entry);
        }
        if is_masked {
            // the counter runs on, but nobody hears of it
            return None;
        }
        self.timer.expiry(mode)
    }

    /// True where the timer goes on after each interrupt.
    pub fn is_timer_periodic(&self) -> bool {
        self.timer_mode() == Mode::Periodic
    }

    /// IA32_TSC_DEADLINE: the deadline, 0 where none is armed or the timer is in another mode.
    pub fn tsc_deadline(&self) -> u64 {
        match self.timer.state {
            State::Deadline(tsc) => tsc,
            State::Idle | State::Counting { .. } => 0,
        }
    }

    /// Writes IA32_TSC_DEADLINE: arms, or disarms with 0; ignored in the timer's other modes.
    pub fn set_tsc_deadline(&mut self, deadline_tsc: u64, now_tsc: u64) -> LapicEffect {
        if !self.is_on() || self.timer_mode() != Mode::TscDeadline {
            return LapicEffect::None;
        }
        self.timer.state = match deadline_tsc {
            0 => State::Idle,
            tsc => State::Deadline(tsc),
        };
        LapicEffect::Timer(self.on_timer(now_tsc))
    }

    pub(super) fn timer_mode(&self) -> Mode {
        // the reserved mode is never stored
        Mode::from_lvt(self.get(Reg::LvtTimer)).unwrap_or(Mode::OneShot)
    }

    pub(super) fn write_lvt_timer(&mut self, value: u32, now_tsc: u64) -> Result<LapicEffect, Gp> {
        let new = Mode::from_lvt(value).ok_or(Gp)?;
        let old = self.timer_mode();
        // what came due under the old vector, or while masked, is settled under it
        self.on_timer(now_tsc);
        if (new == Mode::TscDeadline) != (old == Mode::TscDeadline) {
            self.timer.state = State::Idle;
            self.set(Reg::InitialCount, 0);
        }
        self.set_lvt(Reg::LvtTimer, value);
        Ok(LapicEffect::Timer(self.on_timer(now_tsc)))
    }

    pub(super) fn write_initial_count(&mut self, value: u32, now_tsc: u64) -> LapicEffect {
        if self.timer_mode() == Mode::TscDeadline {
            return LapicEffect::None;
        }
        self.set(Reg::InitialCount, value);
        self.timer.start(value, now_tsc);
        LapicEffect::Timer(self.on_timer(now_tsc))
    }

    /// The divider that the register's `value` stands for.
    pub(super) const fn divide(value: u32) -> u32 {
        let exponent = value & 0b11 | value >> 1 & 0b100;
        // 0 means 2, 6 means 128, 7 means 1
        1 << ((exponent + 1) & 7)
    }

    pub(super) fn write_divide(&mut self, value: u32, now_tsc: u64) -> LapicEffect {
        self.set(Reg::DivideConfig, value);
        let mode = self.timer_mode();
        self.on_timer(now_tsc);
        self.timer.set_divide(Self::divide(value), now_tsc, mode);
        LapicEffect::Timer(self.on_timer(now_tsc))
    }
}
