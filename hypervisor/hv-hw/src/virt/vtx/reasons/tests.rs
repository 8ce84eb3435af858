//! The table against the SDM's numbers.

use alloc::vec::Vec;

use super::*;

/// Numbers that the SDM leaves out.
const GAPS: [u32; 4] = [35, 38, 42, 71];

#[test]
fn every_reason_has_one_row_in_order() {
    let expected: Vec<u32> = (0..=81).filter(|number| !GAPS.contains(number)).collect();
    let rows: Vec<u32> = REASONS.iter().map(|row| row.span.0).collect();
    assert_eq!(rows, expected);
    assert!(REASONS.iter().all(|row| row.span.0 == row.span.1));
}

#[test]
fn what_no_cpu_has_yet_is_not_taken_for_what_it_has() {
    for number in GAPS.into_iter().chain([82, 0xFFFF]) {
        assert!(matches!(answer(number), Never(_)), "{number}");
        assert_eq!(describe(number).0, "unknown");
    }
}

#[test]
fn bus_lock_that_came_with_an_exit_does_not_hide_its_reason() {
    const INCIDENT_TO_BUS_LOCK: u32 = 1 << 26;
    assert_eq!(number(IO | INCIDENT_TO_BUS_LOCK), IO);
    assert_eq!(describe(IO | INCIDENT_TO_BUS_LOCK).0, "I/O instruction");
}

#[test]
fn failed_entry_is_not_taken_for_an_exit() {
    let failed = number(GUEST_STATE | ENTRY_FAILED);
    assert!(is_entry_failure(failed) && !is_entry_failure(GUEST_STATE));
    assert!(matches!(answer(failed), Never(_)));
}

/// Each kills whoever runs there, or is the way out for a guest's process, where it is not answered.
#[test]
fn what_a_guests_process_can_execute_is_never_its_domains_end() {
    for reason in [
        GETSEC, VMCLEAR, VMLAUNCH, VMPTRLD, VMPTRST, VMREAD, VMRESUME, VMWRITE, VMXOFF, VMXON,
        VMFUNC, RDPMC, MWAIT, MONITOR, UMWAIT, TPAUSE, SEAMCALL, TDCALL, URDMSR, UWRMSR,
    ] {
        assert_eq!(answer(reason), Undefined, "{}", describe(reason).0);
    }
    for reason in [
        CPUID, VMCALL, XSETBV, PAUSE, IO, BUS_LOCK, NOTIFY, INIT, SIPI,
    ] {
        assert_eq!(answer(reason), Handled, "{}", describe(reason).0);
    }
}
