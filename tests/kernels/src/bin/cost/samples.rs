//! Repeats one measurement and reports its distribution.

use guest_rt::{Stop, Verdict, check, say};

const SAMPLES: usize = 201;
const WARM_UP: usize = 5;

/// Takes samples (ticks each), prints the line, and fails where the median is over `budget`.
pub(crate) fn measure(
    name: &str,
    budget: Option<u64>,
    mut sample: impl FnMut() -> Result<u64, Stop>,
) -> Verdict {
    let mut ticks = [0u64; SAMPLES];
    for _ in 0..WARM_UP {
        sample()?;
    }
    for slot in &mut ticks {
        *slot = sample()?;
    }
    ticks.sort_unstable();
    let median = ticks[SAMPLES / 2];
    say!(
        "--- cost {name}: {} {median} {} {}",
        ticks[0],
        ticks[SAMPLES * 9 / 10],
        ticks[SAMPLES - 1]
    );
    if let Some(budget) = budget {
        check!(median <= budget, "median {median}, budget {budget}");
    }
    Ok(())
}
