//! Repeats one measurement and reports its distribution.

use guest_rt::{Stop, Verdict, check, insn, say};

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
    if let Some(budget) = budget.map(|budget| here(name, budget)) {
        check!(median <= budget, "median {median}, budget {budget}");
    }
    Ok(())
}

/// What of a budget, which is that of an Intel CPU, counts on this CPU. An exit of SVM costs some fifty instructions
/// more; and as no emulated CPU of AMD's delivers interrupts itself, one exits for what it waits for and for its EOI.
fn here(name: &str, budget: u64) -> u64 {
    const WITH_INTERRUPTS: [(&str, u64); 3] = [
        ("evtchn_send_loopback_already_pending", 780),
        ("evtchn_send_interdomain_with_upcall", 1750),
        ("hlt_wake_after_deadline_1ms", 2200),
    ];
    if !insn::is_amd() {
        return budget;
    }
    let row = WITH_INTERRUPTS.iter().find(|(row, _)| *row == name);
    row.map_or(budget * 13 / 10, |(_, budget)| *budget)
}
