//! Guest time: TSC ticks to nanoseconds and back, and the two records by which a guest computes the time itself.
//!
//! The guest computes `system_time + ((ticks << shift) * mul >> 32)`; [`ClockScale`] computes exactly the same, so that
//! a deadline in guest time becomes the first tick at which the guest's own clock has reached it.
//! Source: `public/xen.h, struct vcpu_time_info` and `struct shared_info`.

use core::mem::offset_of;

use guest_abi::compat::{Width, shared_info as narrow};
use guest_abi::xen::{
    self, SHARED_INFO_WC_NSEC, SHARED_INFO_WC_SEC, SHARED_INFO_WC_SEC_HI, SHARED_INFO_WC_VERSION,
    VcpuTimeInfo,
};

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

    /// The scale as one word, never 0, for an atomic.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        let [shift] = self.shift.to_le_bytes();
        u64::from(self.mul) << 32 | u64::from(shift)
    }

    /// From [`ClockScale::to_bits`]; `None` for 0.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        let [shift, _, _, _, mul @ ..] = bits.to_le_bytes();
        let mul = u32::from_le_bytes(mul);
        (mul != 0).then_some(Self {
            mul,
            shift: i8::from_le_bytes([shift]),
        })
    }

    /// The nanoseconds that `ticks` take, rounded down as the guest rounds; the highest number where it does not fit.
    #[inline]
    #[must_use]
    pub fn ticks_to_ns(self, ticks: u64) -> u64 {
        let places = u32::from(self.shift.unsigned_abs());
        // to shift left first is to shift less to the right later; what a shift to the right drops is dropped for
        // guests too
        let (ticks, right) = if self.shift < 0 {
            (ticks.wrapping_shr(places), 32)
        } else {
            (ticks, 32_u32.wrapping_sub(places))
        };
        // the product has 96 bits, and no scale shifts by more than 32: said so that nothing checks it
        let ns = (u128::from(ticks) * u128::from(self.mul)) >> (right & 63);
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

/// The rate of a guest's TSC, and whether each read of it is emulated (`public/domctl.h, XEN_DOMCTL_settscinfo`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestTsc {
    khz: u32,
    host_khz: u32,
    is_emulated: bool,
}

impl GuestTsc {
    /// The host's own.
    #[must_use]
    pub const fn native(host_khz: u32) -> Self {
        Self {
            khz: host_khz,
            host_khz,
            is_emulated: false,
        }
    }
    /// One of `khz`, 0 for the host's rate, which is emulated where it cannot be the host's.
    #[must_use]
    pub const fn of_rate(khz: u32, host_khz: u32) -> Self {
        let khz = if khz == 0 { host_khz } else { khz };
        Self {
            khz,
            host_khz,
            is_emulated: khz != host_khz,
        }
    }
    /// The same, emulated in any case.
    #[must_use]
    pub const fn emulated(self) -> Self {
        Self {
            is_emulated: true,
            ..self
        }
    }
    /// Its rate in kHz.
    #[must_use]
    pub const fn khz(self) -> u32 {
        self.khz
    }
    /// True where reads of it exit.
    #[must_use]
    pub const fn is_emulated(self) -> bool {
        self.is_emulated
    }
    /// What it counts while the host's counts `ticks`, rounded down; the highest number where it does not fit.
    #[inline]
    #[must_use]
    pub fn of_host(self, ticks: u64) -> u64 {
        if self.khz == self.host_khz {
            return ticks;
        }
        let product = u128::from(ticks) * u128::from(self.khz);
        let own = product / u128::from(self.host_khz.max(1));
        u64::try_from(own).unwrap_or(u64::MAX)
    }
    /// The fewest ticks of the host's in which it counts `ticks`; the highest number where it does not fit.
    #[inline]
    #[must_use]
    pub fn to_host(self, ticks: u64) -> u64 {
        if self.khz == self.host_khz {
            return ticks;
        }
        let product = u128::from(ticks) * u128::from(self.host_khz);
        let host = product.div_ceil(u128::from(self.khz.max(1)));
        u64::try_from(host).unwrap_or(u64::MAX)
    }
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
    const VERSION: usize = offset_of!(VcpuTimeInfo, version);
    const TSC_TIMESTAMP: usize = offset_of!(VcpuTimeInfo, tsc_timestamp);
    const SYSTEM_TIME: usize = offset_of!(VcpuTimeInfo, system_time);
    const MUL: usize = offset_of!(VcpuTimeInfo, tsc_to_system_mul);
    const SHIFT_FLAGS: usize = offset_of!(VcpuTimeInfo, tsc_shift);

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
            xen::XEN_PVCLOCK_TSC_STABLE_BIT
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
    pub seconds: u64,
    pub nanoseconds: u32,
}

impl WallClock {
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
    pub fn write(&self, width: Width, shared_info: &impl SharedWords) {
        let [version, sec, nsec, sec_hi] = match width {
            Width::Bits64 => [
                SHARED_INFO_WC_VERSION,
                SHARED_INFO_WC_SEC,
                SHARED_INFO_WC_NSEC,
                SHARED_INFO_WC_SEC_HI,
            ],
            Width::Bits32 => [
                narrow::WC_VERSION,
                narrow::WC_SEC,
                narrow::WC_NSEC,
                narrow::WC_SEC_HI,
            ],
        };
        let [low, high] = halves(self.seconds);
        versioned(shared_info, version, || {
            shared_info.store_u32(sec, low);
            shared_info.store_u32(nsec, self.nanoseconds);
            shared_info.store_u32(sec_hi, high);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::evtchn::testing::TestFrame;

    /// What Linux computes from the record (the formula of `public/xen.h`).
    fn as_guest(frame: &TestFrame, offset: usize, tsc: u64) -> u128 {
        let ticks = u128::from(tsc - frame.load_u64(offset + 8));
        let [shift, ..] = frame.load_u32(offset + 28).to_le_bytes();
        let shift = i8::from_le_bytes([shift]);
        let ns = scaled(ticks, shift, frame.load_u32(offset + 24));
        u128::from(frame.load_u64(offset + 16)) + ns
    }

    fn scaled(ticks: u128, shift: i8, mul: u32) -> u128 {
        let shifted = if shift < 0 {
            ticks >> shift.unsigned_abs()
        } else {
            ticks << shift
        };
        (shifted * u128::from(mul)) >> 32
    }

    proptest! {
        #[test]
        fn every_frequency_has_a_scale_with_all_bits_in_use(khz in 1u32..) {
            let scale = ClockScale::from_tsc_khz(khz).expect("not 0");
            prop_assert!(scale.mul() >= 1 << 31);
            prop_assert_eq!(ClockScale::from_bits(scale.to_bits()), Some(scale));
            let one_second = scale.ticks_to_ns(u64::from(khz) * 1000);
            prop_assert!(one_second.abs_diff(NS_PER_S) <= 2 + NS_PER_S * 2 / u64::from(khz) / 1000);
        }

        #[test]
        fn any_number_of_ticks_is_scaled_as_guests_do_or_the_highest_number(khz in 1u32.., ticks: u64) {
            let scale = ClockScale::from_tsc_khz(khz).expect("not 0");
            let wide = scaled(u128::from(ticks), scale.shift(), scale.mul());
            prop_assert_eq!(scale.ticks_to_ns(ticks), u64::try_from(wide).unwrap_or(u64::MAX));
        }

        #[test]
        fn a_deadline_is_the_first_tick_that_reaches_it(khz in 1u32.., ns: u64) {
            let scale = ClockScale::from_tsc_khz(khz).expect("not 0");
            let ticks = scale.ns_to_ticks(ns);
            if ticks < u64::MAX {
                prop_assert!(scale.ticks_to_ns(ticks) >= ns);
            }
            if let Some(before) = ticks.checked_sub(1) {
                prop_assert!(scale.ticks_to_ns(before) < ns);
            }
        }

        #[test]
        fn the_guest_and_we_read_the_same_clock(
            khz in 1000u32.., tsc_timestamp in 0..1u64 << 48, system_time_ns in 0..1u64 << 60, ticks in 0..1u64 << 40,
        ) {
            let scale = ClockScale::from_tsc_khz(khz).expect("not 0");
            let clock = PvClock { tsc_timestamp, system_time_ns, scale, is_tsc_stable: true };
            let frame = TestFrame::new();
            clock.write(&frame, 32);
            let tsc = tsc_timestamp + ticks;
            prop_assert_eq!(u128::from(clock.ns_at(tsc)), as_guest(&frame, 32, tsc));
            prop_assert!(clock.tsc_at(clock.ns_at(tsc)) <= tsc);
            prop_assert_eq!(frame.load_u32(32) % 2, 0);
            prop_assert_eq!(frame.load_u32(32 + 28) >> 8, 1);
        }

        #[test]
        fn no_deadline_or_frequency_overflows(khz: u32, ns: u64, tsc_timestamp: u64, system_time_ns: u64) {
            if let Some(scale) = ClockScale::from_tsc_khz(khz) {
                let clock = PvClock { tsc_timestamp, system_time_ns, scale, is_tsc_stable: false };
                prop_assert!(clock.tsc_at(ns) >= tsc_timestamp);
                prop_assert!(clock.ns_at(ns) >= system_time_ns);
            }
        }

        #[test]
        fn the_wall_clock_plus_system_time_is_now(
            seconds in 0u64..1 << 40, nanoseconds in 0u32..1_000_000_000, system_time_ns: u64,
        ) {
            let now = u128::from(seconds) * 1_000_000_000 + u128::from(nanoseconds);
            match WallClock::from_now(seconds, nanoseconds, system_time_ns) {
                Some(clock) => {
                    let start = u128::from(clock.seconds) * 1_000_000_000 + u128::from(clock.nanoseconds);
                    prop_assert_eq!(start + u128::from(system_time_ns), now);
                    prop_assert!(clock.nanoseconds < 1_000_000_000);
                    for (width, version, high) in [(Width::Bits64, 3072, 3084), (Width::Bits32, 2304, 2340)] {
                        let frame = TestFrame::new();
                        clock.write(width, &frame);
                        prop_assert_eq!(frame.load_u32(version), 2);
                        let written = u64::from(frame.load_u32(high)) << 32 | u64::from(frame.load_u32(version + 4));
                        prop_assert_eq!(written, clock.seconds);
                        prop_assert_eq!(frame.load_u32(version + 8), clock.nanoseconds);
                    }
                }
                None => prop_assert!(now < u128::from(system_time_ns)),
            }
        }
    }

    proptest! {
        #[test]
        fn ticks_of_a_guests_tsc_go_to_the_hosts_and_back(
            khz in 1_000u32.., host_khz in 1_000u32.., ticks in 0u64..1 << 60,
        ) {
            let tsc = GuestTsc::of_rate(khz, host_khz);
            prop_assert_eq!(tsc.is_emulated(), khz != host_khz);
            let host = tsc.to_host(ticks);
            if host != u64::MAX {
                prop_assert!(tsc.of_host(host) >= ticks, "the deadline has passed then");
                prop_assert!(host == 0 || tsc.of_host(host - 1) < ticks, "and not before");
            }
        }
    }

    #[test]
    fn no_frequency_is_no_scale() {
        assert_eq!(ClockScale::from_tsc_khz(0), None);
    }

    #[test]
    fn an_odd_version_left_by_the_guest_ends_even_and_changed() {
        let scale = ClockScale::from_tsc_khz(2_000_000).expect("not 0");
        let clock = PvClock {
            tsc_timestamp: 1,
            system_time_ns: 2,
            scale,
            is_tsc_stable: true,
        };
        for version in [0, 1, u32::MAX, u32::MAX - 1] {
            let frame = TestFrame::new();
            frame.store_u32(0, version);
            clock.write(&frame, 0);
            assert_eq!(frame.load_u32(0) % 2, 0);
            assert_ne!(frame.load_u32(0), version);
        }
    }
}
