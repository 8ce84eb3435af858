//! How many bytes guests may have printed: a token bucket for each voice of a guest, and one for all guests together.
//!
//! A line passes where its guest's bucket *and* the common one have room for all of it. The common bucket is not first
//! come, first served, or one flood would hide all others: who has used up its own share leaves the lower half of the
//! common bucket alone, who has been quiet may use it to the ground ([`Common::admit`]). A domain is born with half a
//! share, so that one that dies and is made again, over and over, leaves the lowest quarter to those that were there
//! before. The text of a death ([`Common::admit_dump`]) passes whole or not at all.
//!
//! Rates are in bytes a second, times in nanoseconds of any clock that does not go back.

/// The most that all guests together have printed at one instant: half of what waits for the transmitter, so that the
/// hypervisor's own lines have room after it.
pub const COMMON_BURST: u32 = 8 << 10;
/// The most that one voice of a guest prints at one instant.
pub const VOICE_BURST: u32 = 2 << 10;
/// Each voice of a guest has this part of the common rate.
const VOICES_IN_COMMON: u32 = 4;
/// Guests together have this part of the transmitter's rate.
const GUESTS_IN_TRANSMITTER: u32 = 4;
/// Of a transmitter at 115200 baud, for consoles without one.
const DEFAULT_BYTES_PER_SECOND: u32 = 11_520;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// A token bucket. Its contents are counted in bytes times 10^9, so that no fraction is lost or gained.
#[derive(Debug)]
pub struct Bucket {
    credit: u64,
    at_ns: u64,
}

impl Bucket {
    /// Makes a bucket with `bytes` in it at time 0.
    const fn holding(bytes: u32) -> Self {
        Self {
            credit: bytes as u64 * NS_PER_SECOND,
            at_ns: 0,
        }
    }
    /// Makes the bucket of a voice of a domain that is made at `now_ns`: half full.
    #[must_use]
    pub const fn of_newborn(now_ns: u64) -> Self {
        Self {
            at_ns: now_ns,
            ..Self::holding(VOICE_BURST / 2)
        }
    }
    fn refill(&mut self, now_ns: u64, rate: u32, most: u32) {
        let passed = now_ns.saturating_sub(self.at_ns);
        self.at_ns = self.at_ns.max(now_ns);
        let gained = passed.saturating_mul(u64::from(rate));
        let full = Self::holding(most).credit;
        self.credit = self.credit.saturating_add(gained).min(full);
    }
    /// Takes `bytes` where that leaves at least `floor` bytes times 10^9.
    fn take(&mut self, bytes: u32, floor: u64) -> bool {
        let wanted = u64::from(bytes) * NS_PER_SECOND;
        let has_room = self.has_room(bytes, floor);
        if has_room {
            self.credit -= wanted;
        }
        has_room
    }
    fn has_room(&self, bytes: u32, floor: u64) -> bool {
        let wanted = u64::from(bytes) * NS_PER_SECOND;
        self.credit >= wanted.saturating_add(floor)
    }
}

/// What all guests together may print.
#[derive(Debug)]
pub struct Common {
    bucket: Bucket,
    rate: u32,
}

impl Common {
    /// Full, at the rate of a console without a serial port.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bucket: Bucket::holding(COMMON_BURST),
            rate: DEFAULT_BYTES_PER_SECOND / GUESTS_IN_TRANSMITTER,
        }
    }
    /// Takes a quarter of what a transmitter at `baud` sends, at ten bits a byte, for the rate from now on; at least a
    /// byte a second for each voice.
    pub fn set_baud(&mut self, baud: u32) {
        const BITS_PER_BYTE: u32 = 10;
        self.rate = (baud / BITS_PER_BYTE / GUESTS_IN_TRANSMITTER).max(VOICES_IN_COMMON);
    }
    /// Charges a line of `bytes` to a guest's voice and to all guests, where both have room for it. An exhausted voice
    /// leaves the lower half of the common bucket to others, a full one leaves nothing, linearly between.
    #[must_use]
    pub fn admit(&mut self, voice: &mut Bucket, bytes: u32, now_ns: u64) -> bool {
        self.refill(now_ns);
        voice.refill(now_ns, self.rate / VOICES_IN_COMMON, VOICE_BURST);
        let full = Bucket::holding(VOICE_BURST).credit;
        // a voice's burst times `per_byte` is half of the common one
        let per_byte = u64::from(COMMON_BURST / 2 / VOICE_BURST);
        let floor = (full - voice.credit) * per_byte;
        let passes = voice.has_room(bytes, 0) && self.bucket.take(bytes, floor);
        passes && voice.take(bytes, 0)
    }
    /// Charges the `bytes` of a dying vCPU's registers to all guests, where that leaves the lower half to others.
    #[must_use]
    pub fn admit_dump(&mut self, bytes: u32, now_ns: u64) -> bool {
        self.refill(now_ns);
        self.bucket
            .take(bytes, Bucket::holding(COMMON_BURST / 2).credit)
    }
    fn refill(&mut self, now_ns: u64) {
        self.bucket.refill(now_ns, self.rate, COMMON_BURST);
    }
}

impl Default for Common {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const RATE: u64 = 2880;
    const SECOND: u64 = NS_PER_SECOND;

    /// What a guest without a history may do at once.
    #[derive(Clone, Debug)]
    enum Deed {
        /// The voice with this index prints so many bytes.
        Line(usize, u32),
        /// A new domain takes the place of that voice.
        Reborn(usize),
        Dump(u32),
        /// So many ns pass.
        Wait(u64),
    }

    fn deeds() -> impl Strategy<Value = Vec<Deed>> {
        let deed = prop_oneof![
            8 => (0..4usize, 1..300u32).prop_map(|(voice, bytes)| Deed::Line(voice, bytes)),
            1 => (0..4usize).prop_map(Deed::Reborn),
            1 => (500..3000u32).prop_map(Deed::Dump),
            2 => (0..SECOND).prop_map(Deed::Wait),
        ];
        proptest::collection::vec(deed, 0..150)
    }

    /// Plays `deeds`; returns what passed, with its time, and the time at the end.
    fn play(common: &mut Common, deeds: &[Deed]) -> (Vec<(u64, u32)>, u64) {
        let mut voices: Vec<Bucket> = (0..4).map(|_| Bucket::of_newborn(0)).collect();
        let mut now = 0;
        let mut passed = Vec::new();
        for deed in deeds {
            let (bytes, passes) = match *deed {
                Deed::Line(voice, bytes) => (bytes, common.admit(&mut voices[voice], bytes, now)),
                Deed::Dump(bytes) => (bytes, common.admit_dump(bytes, now)),
                Deed::Reborn(voice) => {
                    voices[voice] = Bucket::of_newborn(now);
                    continue;
                }
                Deed::Wait(ns) => {
                    now += ns;
                    continue;
                }
            };
            if passes {
                passed.push((now, bytes));
            }
        }
        (passed, now)
    }

    proptest! {
        #[test]
        fn no_window_of_time_has_more_than_a_burst_and_the_rate(deeds in deeds()) {
            let (passed, _) = play(&mut Common::new(), &deeds);
            for first in 0..passed.len() {
                let mut sum = 0;
                for (time, bytes) in &passed[first..] {
                    sum += u64::from(*bytes);
                    let window = time - passed[first].0;
                    prop_assert!(sum * SECOND <= u64::from(COMMON_BURST) * SECOND + RATE * window);
                }
            }
        }

        #[test]
        fn a_quiet_guest_is_heard_whatever_the_others_do(deeds in deeds()) {
            let mut common = Common::new();
            let (_, end) = play(&mut common, &deeds);
            let mut quiet = Bucket::of_newborn(0);
            // it takes 1.5 s of quiet to have all of a share
            let now = end.max(2 * SECOND);
            prop_assert!(common.admit(&mut quiet, 200, now));
        }

        #[test]
        fn one_voice_has_its_share_of_the_rate_and_no_more(waits in proptest::collection::vec(0..SECOND, 1..300)) {
            let (mut common, mut voice) = (Common::new(), Bucket::of_newborn(0));
            let (mut now, mut sum) = (0, 0);
            for wait in waits {
                now += wait;
                while common.admit(&mut voice, 50, now) {
                    sum += 50;
                }
            }
            let share = RATE / u64::from(VOICES_IN_COMMON);
            prop_assert!(sum * SECOND <= u64::from(VOICE_BURST) * SECOND + share * now);
        }
    }

    #[test]
    fn first_deaths_are_shown_whole_and_leave_half_of_the_room() {
        let mut common = Common::new();
        assert!(common.admit_dump(1900, 0) && common.admit_dump(1900, 0));
        assert!(!common.admit_dump(1900, 0));
        assert!(common.admit_dump(1900, 3 * SECOND));
    }

    #[test]
    fn a_slow_line_has_less_and_never_nothing() {
        let mut common = Common::new();
        for (baud, rate) in [(115_200, 2880), (9600, 240), (50, VOICES_IN_COMMON)] {
            common.set_baud(baud);
            assert_eq!(common.rate, rate);
        }
    }
}
