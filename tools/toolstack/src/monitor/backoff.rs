//! When a domain that ended is started again, and when no more: one that crashes as it starts must not keep dom0
//! building.

use std::time::Duration;

/// A domain that ends sooner after its start has had a short life.
const SHORT_LIFE: Duration = Duration::from_secs(60);
/// The pause before the start after a first short life; it doubles with each that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How many short lives in a row are followed by another start.
pub(super) const MOST: u32 = 10;

/// What follows an end that is to be followed by a start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Follows {
    /// A start after a pause; how many short lives in a row there have been.
    Start { pause: Duration, short_lives: u32 },
    /// None: too many short lives in a row.
    Nothing,
}

/// Decides for a domain that lived for `lived` after `short_lives` short lives of its predecessors, in a row.
pub(super) fn after(lived: Duration, short_lives: u32) -> Follows {
    if lived >= SHORT_LIFE {
        return Follows::Start {
            pause: Duration::ZERO,
            short_lives: 0,
        };
    }
    if short_lives >= MOST {
        return Follows::Nothing;
    }
    let doubled = 2_u32.saturating_pow(short_lives);
    Follows::Start {
        pause: FIRST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE),
        short_lives: short_lives.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute_and_end_after_ten() {
        let (mut short_lives, mut pauses) = (0, Vec::new());
        while let Follows::Start {
            pause,
            short_lives: now,
        } = after(Duration::from_secs(1), short_lives)
        {
            pauses.push(pause.as_secs());
            short_lives = now;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
    }

    proptest! {
        /// However long a domain's lives are, starts cost dom0 little: in any hour at most one a minute on the whole,
        /// but for the quick ones at the start of a row.
        #[test]
        fn an_hour_sees_few_starts(lives in prop::collection::vec(0_u64..120, 1..4000)) {
            let (mut now, mut short_lives, mut starts) = (0, 0, 0_u64);
            for life in lives {
                now += life;
                match after(Duration::from_secs(life), short_lives) {
                    Follows::Start { pause, short_lives: count } => {
                        now += pause.as_secs();
                        short_lives = count;
                    }
                    Follows::Nothing => break,
                }
                if now > 3600 {
                    break;
                }
                starts += 1;
            }
            prop_assert!(starts <= 3600 / 6, "{starts}");
        }
    }
}
