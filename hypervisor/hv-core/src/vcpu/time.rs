//! Guest time: TSC ticks to nanoseconds and back, and the two records by which a guest computes the time itself.
//!
//! The guest computes `system_time + ((ticks << shift) * mul >> 32)`; [`ClockScale`] computes exactly the same, so that a
//! deadline in guest time becomes the first tick at which the guest's own clock has reached it.
//! Source: `public/xen.h, struct vcpu_time_info` and `struct shared_info`.

use crate::mem::SharedWords;

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_MS: u64 = 1_000_000;

/// Nanoseconds a tick, as a 32-bit fraction and a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClockScale {
    mul: u32,
    shift: i8,
}

impl ClockScale {
    /// The scale of a TSC with `tsc_khz` ticks a millisecond, `None` for 0. `mul` is at least 2^31: all its bits count.
    #[must_use]
    pub fn from_tsc_khz(tsc_khz: u32) -> Option<Self> {
        let khz = u64::from(tsc_khz);
        // One of the shifts makes the fraction 10^6 * 2^(32 - shift) / khz fall into [2^31, 2^32).
        (-32..=20).find_map(|shift: i8| {
            let exponent = u32::try_from(32 - i32::from(shift)).ok()?;
            let mul = (u128::from(NS_PER_MS) << exponent).checked_div(u128::from(khz))?;
            let mul = u32::try_from(mul).ok()?;
            (mul >= 1 << 31).then_some(Self { mul, shift })
        })
    }

    /// The fraction of 2^32 to multiply with.
    #[must_use]
    pub fn mul(self) -> u32 {
        self.mul
    }

    /// Bits to shift ticks left by before (negative: right).
    #[must_use]
    pub fn shift(self) -> i8 {
        self.shift
    }

    /// The nanoseconds that `ticks` take, rounded down as the guest rounds; the highest number where it does not fit.
    #[must_use]
    pub fn ticks_to_ns(self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks);
        let places = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 {
            ticks >> places
        } else {
            ticks << places
        };
        let ns = shifted
            .checked_mul(u128::from(self.mul))
            .map_or(u128::MAX, |product| product >> 32);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }

    /// The fewest ticks that take at least `ns` nanoseconds; the highest number where it does not fit.
    #[must_use]
    pub fn ns_to_ticks(self, ns: u64) -> u64 {
        let shifted = div_ceil_96(ns, self.mul);
        let places = u32::from(self.shift.unsigned_abs());
        let ticks = if self.shift < 0 {
            shifted << places
        } else {
            (shifted + ((1 << places) - 1)) >> places
        };
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// `(ns << 32) / divisor` rounded up, digit by digit: three divisions of the CPU instead of a 128-bit one in software.
fn div_ceil_96(ns: u64, divisor: u32) -> u128 {
    let divisor = u64::from(divisor.max(1));
    let high = ns >> 32;
    let middle = (high % divisor) << 32 | (ns & 0xffff_ffff);
    let low = (middle % divisor) << 32;
    (u128::from(high / divisor) << 64)
        + (u128::from(middle / divisor) << 32)
        + u128::from(low.div_ceil(divisor))
}

/// A guest's clock: the system time at one tick of the guest's TSC, and the scale from there on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PvClock {
    /// The guest's TSC when the system time was `system_time_ns`.
    pub tsc_timestamp: u64,
    /// The guest's system time then, in ns.
    pub system_time_ns: u64,
    /// Of the guest's TSC.
    pub scale: ClockScale,
    /// The clocks of all the domain's vCPUs agree and never step back (`public/xen.h, XEN_PVCLOCK_TSC_STABLE_BIT`).
    pub is_tsc_stable: bool,
}

impl PvClock {
    const VERSION: usize = 0;
    const TSC_TIMESTAMP: usize = 8;
    const SYSTEM_TIME: usize = 16;
    const MUL: usize = 24;
    const SHIFT_FLAGS: usize = 28;
    const TSC_STABLE: u8 = 1;

    /// The system time, in ns, at the guest's TSC `guest_tsc`; before the timestamp time stands still.
    #[must_use]
    pub fn ns_at(&self, guest_tsc: u64) -> u64 {
        let ticks = guest_tsc.saturating_sub(self.tsc_timestamp);
        self.system_time_ns
            .saturating_add(self.scale.ticks_to_ns(ticks))
    }

    /// The first guest TSC at which the system time is `ns` or later. Any deadline a guest can name has an answer; one
    /// that is past answers with the timestamp at the latest.
    #[must_use]
    pub fn tsc_at(&self, ns: u64) -> u64 {
        let ahead = ns.saturating_sub(self.system_time_ns);
        self.tsc_timestamp
            .saturating_add(self.scale.ns_to_ticks(ahead))
    }

    /// Writes the 32 bytes of `vcpu_time_info` at `offset` (8-aligned) of `frame`; its version is odd meanwhile.
    pub fn write(&self, frame: &impl SharedWords, offset: usize) {
        let [shift] = self.scale.shift.to_le_bytes();
        let flags = if self.is_tsc_stable {
            Self::TSC_STABLE
        } else {
            0
        };
        versioned(frame, offset + Self::VERSION, || {
            frame.store_u64(offset + Self::TSC_TIMESTAMP, self.tsc_timestamp);
            frame.store_u64(offset + Self::SYSTEM_TIME, self.system_time_ns);
            frame.store_u32(offset + Self::MUL, self.scale.mul);
            let shift_flags = u32::from_le_bytes([shift, flags, 0, 0]);
            frame.store_u32(offset + Self::SHIFT_FLAGS, shift_flags);
        });
    }
}

/// The wall clock (UTC since 1970) at system time 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallClock {
    /// Whole seconds.
    pub seconds: u64,
    /// Below 10^9.
    pub nanoseconds: u32,
}

impl WallClock {
    const VERSION: usize = 3072;
    const SECONDS: usize = 3076;
    const NANOSECONDS: usize = 3080;
    const SECONDS_HIGH: usize = 3084;

    /// The wall clock that shows `seconds` and `nanoseconds` at system time `system_time_ns`, or `None` where the
    /// system would have started before 1970 or `nanoseconds` is not below 10^9.
    #[must_use]
    pub fn from_now(seconds: u64, nanoseconds: u32, system_time_ns: u64) -> Option<Self> {
        if u64::from(nanoseconds) >= NS_PER_S {
            return None;
        }
        let now = u128::from(seconds) * u128::from(NS_PER_S) + u128::from(nanoseconds);
        let start = now.checked_sub(u128::from(system_time_ns))?;
        Some(Self {
            seconds: u64::try_from(start / u128::from(NS_PER_S)).ok()?,
            nanoseconds: u32::try_from(start % u128::from(NS_PER_S)).ok()?,
        })
    }

    /// Writes it into a shared info frame; its version is odd meanwhile.
    pub fn write(&self, shared_info: &impl SharedWords) {
        let [low, high] = halves(self.seconds);
        versioned(shared_info, Self::VERSION, || {
            shared_info.store_u32(Self::SECONDS, low);
            shared_info.store_u32(Self::NANOSECONDS, self.nanoseconds);
            shared_info.store_u32(Self::SECONDS_HIGH, high);
        });
    }
}

/// Runs `write` while the version word at `offset` is odd. A version that the guest made odd does not confuse it.
fn versioned(frame: &impl SharedWords, offset: usize, write: impl FnOnce()) {
    let odd = frame.load_u32(offset).wrapping_add(1) | 1;
    frame.store_u32(offset, odd);
    write();
    frame.store_u32(offset, odd.wrapping_add(1));
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}
