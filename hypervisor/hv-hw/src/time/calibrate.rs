//! How fast the TSC runs: measured against a clock of known frequency, and compared with what CPUID claims.
//!
//! A measurement is the count of ticks between two edges of the reference clock, so that its granularity costs nothing;
//! the time of one read of the clock bounds the error. CPUID's figure is exact where it is true, and used when both
//! agree; in emulators it is not true.

use core::ops::RangeInclusive;

use crate::mmio::Registers;
use crate::{cpu, port, time};

/// A clock of known frequency.
#[derive(Clone, Copy, Debug)]
pub enum Reference {
    /// ACPI's power-management timer at this I/O port, 3.579545 MHz, 24 bits.
    PmTimer(u16),
    /// The HPET's main counter, with the length of its tick in femtoseconds; switched on by the caller.
    Hpet(Registers, u32),
    /// The PIT's channel 2, 1.193182 MHz.
    Pit,
}

/// How the frequency was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frequency {
    pub khz: u64,
    /// The clock that it was measured against.
    pub source: &'static str,
    /// What CPUID claims, where it says anything.
    pub claimed_khz: Option<u64>,
}

/// How long a measurement lasts.
const WINDOW_MS: u64 = 20;
const PM_TIMER_HZ: u64 = 3_579_545;
const PM_TIMER_MASK: u32 = 0x00ff_ffff;
const PIT_HZ: u64 = 1_193_182;
/// Reads of a reference clock before it is taken for stopped.
const MOST_READS: u32 = 50_000_000;
/// TSC frequencies that are believed: 10 MHz to 10 GHz.
const PLAUSIBLE_KHZ: RangeInclusive<u64> = 10_000..=10_000_000;
/// CPUID's claim is taken where it differs from the measurement by less than one part in this.
const AGREEMENT: u64 = 1000;

/// Measures the TSC against the first of `references` that runs, or `None` where none does and CPUID is silent.
#[must_use]
pub fn tsc_frequency(references: &[Reference]) -> Option<Frequency> {
    let claimed_khz = claimed_khz();
    let measured = references
        .iter()
        .find_map(|reference| Some((measure(reference)?, reference.name())));
    match (measured, claimed_khz) {
        (Some((khz, source)), Some(claimed)) if khz.abs_diff(claimed) < claimed / AGREEMENT => {
            Some(Frequency {
                khz: claimed,
                source,
                claimed_khz,
            })
        }
        (Some((khz, source)), _) => Some(Frequency {
            khz,
            source,
            claimed_khz,
        }),
        (None, Some(khz)) => Some(Frequency {
            khz,
            source: "CPUID",
            claimed_khz,
        }),
        (None, None) => None,
    }
}

impl Reference {
    fn name(&self) -> &'static str {
        match self {
            Self::PmTimer(_) => "ACPI PM timer",
            Self::Hpet(..) => "HPET",
            Self::Pit => "PIT",
        }
    }
}

/// What CPUID says: leaf 15H (Intel SDM vol. 2A, "CPUID", "Time Stamp Counter and Nominal Core Crystal Clock").
fn claimed_khz() -> Option<u64> {
    let info = cpu::cpuid().get_tsc_info()?;
    Some(info.tsc_frequency()? / 1000).filter(|khz| PLAUSIBLE_KHZ.contains(khz))
}

fn measure(reference: &Reference) -> Option<u64> {
    let khz = match reference {
        Reference::PmTimer(port) => {
            let read = || port::read32(*port) & PM_TIMER_MASK;
            count_ticks(read, PM_TIMER_MASK, PM_TIMER_HZ)
        }
        Reference::Hpet(registers, femtoseconds) => {
            const MAIN_COUNTER: usize = 0xf0;
            let hz = 1_000_000_000_000_000u64.checked_div(u64::from(*femtoseconds))?;
            count_ticks(|| registers.read32(MAIN_COUNTER), u32::MAX, hz)
        }
        Reference::Pit => pit_ticks(),
    }?;
    PLAUSIBLE_KHZ.contains(&khz).then_some(khz)
}

/// TSC ticks a millisecond by a clock that counts up at `hz` and wraps at `mask`.
fn count_ticks(read: impl Fn() -> u32, mask: u32, hz: u64) -> Option<u64> {
    let window = u32::try_from(hz * WINDOW_MS / 1000).ok()?;
    let edge = |from: u32, least: u32| {
        (0..MOST_READS).find_map(|_| {
            let value = read();
            let passed = value.wrapping_sub(from) & mask;
            (passed >= least).then(|| (value, passed, time::now()))
        })
    };
    let (first, _, begin) = edge(read(), 1)?;
    let (_, passed, end) = edge(first, window)?;
    // passed / hz seconds took end - begin ticks.
    let ticks = end.checked_sub(begin)?;
    u64::try_from(u128::from(ticks) * u128::from(hz) / (u128::from(passed) * 1000)).ok()
}

/// TSC ticks a millisecond by the PIT's channel 2, which counts down once from a given value while its gate is open and
/// then raises its output, readable in port 0x61 without touching the speaker.
fn pit_ticks() -> Option<u64> {
    const CHANNEL_2: u16 = 0x42;
    const COMMAND: u16 = 0x43;
    const SYSTEM_CONTROL: u16 = 0x61;
    const GATE: u8 = 1;
    const SPEAKER: u8 = 2;
    const OUTPUT: u8 = 0x20;
    /// Channel 2, low then high byte, mode 0.
    const ONE_SHOT: u8 = 0xb0;
    let count = u16::try_from(PIT_HZ * WINDOW_MS / 1000).ok()?;
    let [low, high] = count.to_le_bytes();
    let control = port::read8(SYSTEM_CONTROL);
    port::write8(SYSTEM_CONTROL, (control & !SPEAKER) | GATE);
    port::write8(COMMAND, ONE_SHOT);
    port::write8(CHANNEL_2, low);
    port::write8(CHANNEL_2, high);
    let begin = time::now();
    let end =
        (0..MOST_READS).find_map(|_| (port::read8(SYSTEM_CONTROL) & OUTPUT != 0).then(time::now));
    port::write8(SYSTEM_CONTROL, control);
    let ticks = end?.checked_sub(begin)?;
    u64::try_from(u128::from(ticks) * u128::from(PIT_HZ) / (u128::from(count) * 1000)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    #[test]
    fn clock_that_stands_still_is_given_up() {
        let reads = Cell::new(0u32);
        let stopped = || {
            reads.set(reads.get() + 1);
            7
        };
        assert_eq!(count_ticks(stopped, u32::MAX, 1_000_000), None);
        assert_eq!(reads.get(), MOST_READS + 1);
    }
}
