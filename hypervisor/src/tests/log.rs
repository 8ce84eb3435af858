//! What guests can make the log say: bounded in bytes, for each and for all together, and nobody hides another.

use crate::console::guest_debug;
use crate::domain::Domain;
use crate::domain::vcpu_frames::VcpuFrames;
use crate::exit;
use crate::pcpu::hand_off::HandOff;
use crate::runner::make;
use crate::tests::common::{TSC_KHZ, domain, fake, guest_config, pcpu, prepare, vcpu_of};
use hv_core::addr::Gpa;
use hv_core::log_budget::COMMON_BURST;
use hv_core::options::{LogLevel, LogThresholds};
use hv_hw::console::{self, HistoryStart, log};
use hv_hw::hosted::Clock;
use hv_hw::virt::{Stage2Access, Stage2Fault, VmExit};

/// What has been logged since stream position `since`.
fn logged(since: u64) -> String {
    let mut text = vec![0; 60 << 10];
    let (_, count) = console::copy_history(since, &mut text);
    text.truncate(count);
    String::from_utf8(text).expect("the log is text")
}

/// Forgets what has been logged; returns where the log goes on.
fn end_of_log() -> u64 {
    console::forget_history(u64::MAX);
    console::history_position(HistoryStart::Oldest)
}

fn show_words_of_guests() {
    let info = LogThresholds {
        always: Some(LogLevel::Info),
        limited: Some(LogLevel::Info),
    };
    log::set_levels(info, info);
}

/// A guest comes to be, and triple-faults with its first instruction.
fn live_and_die(id: u16) {
    let domain = domain(id, guest_config(1));
    let mut pcpu = pcpu();
    let hand_off = HandOff {
        domain,
        index: 0,
        parts: VcpuFrames::alloc().expect("the arena has room"),
    };
    let mut runner = make::runner(hand_off, &mut pcpu, fake);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::TripleFault);
}

/// Stops the clock after so much quiet that guests' earlier lines count no longer.
fn clock_after_quiet() -> Clock {
    let clock = Clock::take_over();
    Clock::advance(3_000 * u64::from(TSC_KHZ));
    clock
}

fn flood(domain: &Domain) {
    for _ in 0..1000 {
        guest_debug(domain, b"all work and no play makes a guest a dull boy\n");
    }
}

#[test]
fn deaths_of_guests_do_not_flood_the_log() {
    prepare();
    let _clock = clock_after_quiet();
    let since = end_of_log();
    for id in 100..120 {
        live_and_die(id);
    }
    let text = logged(since);
    assert!(text.len() <= COMMON_BURST as usize, "{} bytes", text.len());
    assert!(text.contains("d100v0: triple fault") && text.contains("d100v0: SystemRegs"));
    let mut shortened = text.lines().filter(|line| line.contains("left out"));
    assert!(shortened.next().is_some(), "{text}");
}

#[test]
fn quiet_guest_is_heard_among_floods_and_deaths() {
    prepare();
    let _clock = clock_after_quiet();
    show_words_of_guests();
    let quiet = domain(200, guest_config(1));
    let since = end_of_log();
    for id in 201..221 {
        live_and_die(id);
        flood(&domain(id + 100, guest_config(1)));
    }
    guest_debug(&quiet, b"still here\n");
    let text = logged(since);
    assert!(text.contains("d200: still here\n"), "{text}");
    assert!(text.len() <= COMMON_BURST as usize, "{} bytes", text.len());
}

#[test]
fn lines_left_out_are_counted_and_told_later() {
    prepare();
    let _clock = clock_after_quiet();
    show_words_of_guests();
    let guest = domain(330, guest_config(1));
    let since = end_of_log();
    flood(&guest);
    let shown = logged(since).lines().count();
    assert!((5..100).contains(&shown), "{shown} lines of 1000");
    Clock::advance(1_000 * u64::from(TSC_KHZ));
    let since = end_of_log();
    guest_debug(&guest, b"again\n");
    let text = logged(since);
    let told = format!("d330: {} messages suppressed\n", 1000 - shown);
    assert!(
        text.contains(&told) && text.ends_with("d330: again\n"),
        "{text}"
    );
}

/// What a guest does uses its own share of the log up, not what tells of its end.
#[test]
fn a_guest_cannot_hide_its_own_end_behind_what_it_does() {
    prepare();
    let _clock = clock_after_quiet();
    show_words_of_guests();
    let (mut runner, mut pcpu) = vcpu_of(domain(340, guest_config(1)));
    let since = end_of_log();
    for gigabyte in 4..1004 {
        let fault = Stage2Fault {
            gpa: Gpa::new(gigabyte << 30),
            linear: None,
            access: Stage2Access::READ,
        };
        let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Stage2Fault(fault));
    }
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::TripleFault);
    let text = logged(since);
    assert!(
        text.contains(": triple fault") && text.contains("ended, crash"),
        "{text}"
    );
}

#[test]
fn halt_with_interrupts_off_is_told_as_the_end_that_it_is() {
    prepare();
    let _clock = clock_after_quiet();
    let (mut runner, mut pcpu) = vcpu_of(domain(341, guest_config(1)));
    let since = end_of_log();
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hlt);
    let text = logged(since);
    let told = "ended, power-off: HLT with interrupts off on its last vCPU";
    assert!(text.contains(told), "{text}");
}
