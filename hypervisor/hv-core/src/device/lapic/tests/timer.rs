//! The timer: counts, divisors, periods, deadlines, and ways between them.

use super::*;

#[test]
fn one_shot_counts_down_and_fires_once() {
    let mut lapic = enabled();
    assert_eq!(lapic.write(DIVIDE, 0b1011, 0), Ok(LapicEffect::Timer(None)));
    assert_eq!(
        lapic.write(LVT_TIMER, 0x41, 0),
        Ok(LapicEffect::Timer(None))
    );
    let due = 1000 * TSC_PER_TICK;
    assert_eq!(
        lapic.write(INITIAL_COUNT, 1000, 0),
        Ok(LapicEffect::Timer(Some(due)))
    );
    assert_eq!(lapic.read(CURRENT_COUNT, due / 4), Ok(750));
    assert_eq!(lapic.on_timer(due - 1), Some(due));
    assert_eq!(lapic.deliverable(), None);
    assert_eq!(lapic.on_timer(due), None);
    assert_eq!(lapic.deliverable(), Some(0x41));
    assert_eq!(lapic.read(CURRENT_COUNT, due), Ok(0));
}

#[test]
fn divider_slows_the_count_and_may_change_while_it_runs() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x41, 0).expect("valid");
    let _ = lapic.write(DIVIDE, 0b0011, 0).expect("by 16");
    let due = 1000 * 16 * TSC_PER_TICK;
    assert_eq!(
        lapic.write(INITIAL_COUNT, 1000, 0),
        Ok(LapicEffect::Timer(Some(due)))
    );
    let half = due / 2;
    assert_eq!(
        lapic.write(DIVIDE, 0b1011, half),
        Ok(LapicEffect::Timer(Some(half + 500 * TSC_PER_TICK)))
    );
    assert_eq!(lapic.read(CURRENT_COUNT, half), Ok(500));
}

#[test]
fn periodic_goes_on_and_merges_missed_periods() {
    let mut lapic = enabled();
    let _ = lapic.write(DIVIDE, 0b1011, 0).expect("by 1");
    let _ = lapic.write(LVT_TIMER, 0x2_0041, 0).expect("valid");
    let period = 100_000 * TSC_PER_TICK;
    let _ = lapic.write(INITIAL_COUNT, 100_000, 0).expect("valid");
    assert_eq!(lapic.on_timer(period), Some(2 * period));
    lapic.acknowledge(0x41);
    assert_eq!(lapic.on_timer(5 * period + 7), Some(6 * period));
    assert_eq!(set_of(&mut lapic, IRR), BTreeSet::from([0x41]));
}

#[test]
fn tiny_periods_are_stretched() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x2_0041, 0).expect("valid");
    let shortest = u64::from(TSC_KHZ) / 10;
    assert_eq!(
        lapic.write(INITIAL_COUNT, 1, 0),
        Ok(LapicEffect::Timer(Some(shortest)))
    );
    assert_eq!(lapic.on_timer(shortest), Some(2 * shortest));
}

#[test]
fn tsc_deadline_fires_at_once_where_it_has_passed() {
    let mut lapic = enabled();
    assert_eq!(lapic.set_tsc_deadline(500, 0), LapicEffect::None);
    let _ = lapic.write(LVT_TIMER, 0x4_0041, 0).expect("valid");
    assert_eq!(
        lapic.set_tsc_deadline(500, 0),
        LapicEffect::Timer(Some(500))
    );
    assert_eq!(lapic.tsc_deadline(), 500);
    assert_eq!(lapic.set_tsc_deadline(400, 450), LapicEffect::Timer(None));
    assert_eq!(lapic.deliverable(), Some(0x41));
    assert_eq!(lapic.tsc_deadline(), 0);
    let _ = lapic.write(INITIAL_COUNT, 77, 0).expect("ignored");
    assert_eq!(read(&mut lapic, CURRENT_COUNT), 0);
}

#[test]
fn masked_timer_expires_unheard() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x5_0041, 0).expect("valid");
    assert_eq!(lapic.set_tsc_deadline(500, 0), LapicEffect::Timer(None));
    assert_eq!(
        lapic.write(LVT_TIMER, 0x4_0041, 600),
        Ok(LapicEffect::Timer(None))
    );
    assert_eq!(lapic.deliverable(), None);
}

#[test]
fn change_between_deadline_and_count_disarms() {
    let mut lapic = enabled();
    let _ = lapic.write(LVT_TIMER, 0x41, 0).expect("valid");
    let _ = lapic.write(INITIAL_COUNT, 1000, 0).expect("valid");
    assert_eq!(
        lapic.write(LVT_TIMER, 0x4_0041, 0),
        Ok(LapicEffect::Timer(None))
    );
    assert_eq!(read(&mut lapic, INITIAL_COUNT), 0);
}
