//! Hardware task switches, which the CPU leaves to the hypervisor: all ways into a task and back, without paging, with
//! that of 32 bits, and with PAE.

use guest_rt::tasks::{self, Expected, FIRST, FIRST_GPRS, Flaw, Paging, Record, SECOND, Way};
use guest_rt::{Test, Verdict, check, check_eq};

pub(crate) static TESTS: &[Test] = &[
    Test::new("task_jump_and_back", jump),
    Test::new("task_call_and_return", call),
    Test::new("task_software_interrupts", software),
    Test::new("task_exceptions_with_an_error_code", exceptions),
    Test::new("task_that_cannot_be_is_a_fault_of_the_old_one", refused),
    Test::new("task_faults_when_it_begins", begins_badly),
];

const ALL: [Paging; 3] = [Paging::Off, Paging::Bits32, Paging::Pae];
const EFLAGS_NT: u32 = 1 << 14;
const CR0_TS: u32 = 1 << 3;
const AVAILABLE: u32 = 9;
const BUSY: u32 = 0xB;
const DEBUG: u32 = 1;
const INVALID_TSS: u32 = 10;
const NOT_PRESENT: u32 = 11;
/// DR6.BT.
const TASK_TRAP: u32 = 1 << 15;

fn jump() -> Verdict {
    for paging in ALL {
        for way in [Way::Jump, Way::JumpGate] {
            let (seen, expected) = tasks::run(way, paging, Flaw::Nothing);
            second_began(&seen, &expected)?;
            check_eq!(seen.eflags & EFLAGS_NT, 0, "NT behind {way:?}, {paging:?}");
            check_eq!(seen.types, [AVAILABLE, BUSY], "TSSs behind {way:?}");
            check_eq!(seen.link, 0, "link behind {way:?}");
            came_back(&seen, &expected, expected.behind)?;
        }
    }
    Ok(())
}

/// A nested task has begun, the first was left at `left_at`, and went on.
fn nested(way: Way, paging: Paging, is_behind: bool) -> Result<Record, guest_rt::Stop> {
    let (seen, expected) = tasks::run(way, paging, Flaw::Nothing);
    second_began(&seen, &expected)?;
    check!(seen.eflags & EFLAGS_NT != 0, "no NT behind {way:?}");
    check_eq!(seen.types, [BUSY, BUSY], "TSSs behind {way:?}");
    check_eq!(seen.link, u32::from(FIRST), "link behind {way:?}");
    check_eq!(seen.second_eflags & EFLAGS_NT, 0, "NT behind its IRET");
    let left_at = if is_behind {
        expected.behind
    } else {
        expected.at
    };
    came_back(&seen, &expected, left_at)?;
    Ok(seen)
}

fn call() -> Verdict {
    for paging in ALL {
        for way in [Way::Call, Way::CallGate] {
            nested(way, paging, true)?;
        }
    }
    Ok(())
}

fn software() -> Verdict {
    for paging in ALL {
        for way in [Way::Interrupt, Way::Breakpoint, Way::Debug, Way::Overflow] {
            nested(way, paging, true)?;
        }
    }
    Ok(())
}

fn exceptions() -> Verdict {
    for paging in ALL {
        let seen = nested(Way::Protection, paging, false)?;
        check_eq!(seen.error, u32::from(tasks::NO_SEGMENT), "error of #GP");
    }
    for paging in [Paging::Bits32, Paging::Pae] {
        let seen = nested(Way::DoubleFault, paging, false)?;
        check_eq!(seen.error, 0, "error of #DF");
    }
    Ok(())
}

fn refused() -> Verdict {
    let cases = [(Flaw::Absent, NOT_PRESENT), (Flaw::Short, INVALID_TSS)];
    for (flaw, vector) in cases {
        for paging in ALL {
            for way in [Way::Jump, Way::Call, Way::Interrupt] {
                let (seen, expected) = tasks::run(way, paging, flaw);
                let error = u32::from(SECOND);
                check_eq!(
                    (seen.vector, seen.vector_error),
                    (vector, error),
                    "{flaw:?}, {way:?}"
                );
                check_eq!(seen.vector_eip, expected.at, "where, {flaw:?}, {way:?}");
                check_eq!(seen.vector_tr, u32::from(FIRST), "task of it");
                check_eq!(seen.end_types, [BUSY, AVAILABLE], "TSSs");
            }
        }
    }
    Ok(())
}

fn begins_badly() -> Verdict {
    let segments = [
        (Flaw::Segment, u32::from(tasks::NO_SEGMENT)),
        (Flaw::Code, 0x10),
    ];
    for paging in ALL {
        for (flaw, selector) in segments {
            let (seen, expected) = tasks::run(Way::Jump, paging, flaw);
            check_eq!(
                (seen.vector, seen.vector_error),
                (INVALID_TSS, selector),
                "{flaw:?}"
            );
            check_eq!(seen.vector_tr, u32::from(SECOND), "task of #TS");
            check_eq!(seen.vector_eip, expected.second, "where #TS came");
        }
        let (seen, expected) = tasks::run(Way::Jump, paging, Flaw::Trap);
        check_eq!(seen.vector, DEBUG, "a task that asks for a trap");
        check!(seen.vector_dr6 & TASK_TRAP != 0, "DR6 without BT");
        check_eq!(seen.vector_tr, u32::from(SECOND), "task of #DB");
        check_eq!(seen.vector_eip, expected.second, "where #DB came");
    }
    Ok(())
}

/// The second task has its own registers, segments and page tables.
fn second_began(seen: &Record, expected: &Expected) -> Verdict {
    check_eq!(
        seen.vector,
        u32::MAX,
        "exception at {:#x} (the way begins at {:#x}), {seen:x?}",
        seen.vector_eip,
        expected.at
    );
    check_eq!(seen.tr, u32::from(SECOND), "TR");
    check_eq!(seen.gprs, expected.gprs, "general registers");
    check_eq!(seen.segments, [0x10, 8, 0x10, 0x10, 0, 0x10], "segments");
    check_eq!(seen.eflags & !EFLAGS_NT, 2, "EFLAGS");
    check!(seen.cr0 & CR0_TS != 0, "CR0.TS is clear: {:#x}", seen.cr0);
    if expected.cr3 != 0 {
        check_eq!(seen.cr3, expected.cr3, "CR3");
        check_eq!(seen.mark, expected.mark, "what its page tables lead to");
    }
    Ok(())
}

/// The first task was left at an address, and has gone on with its registers.
fn came_back(seen: &Record, expected: &Expected, left_at: u32) -> Verdict {
    check_eq!(seen.left_at, left_at, "where the first task was left");
    check_eq!(seen.second_left_at, expected.second_end, "and the second");
    check_eq!((seen.returns, seen.back_tr), (1, u32::from(FIRST)), "back");
    check_eq!(seen.back_gprs, FIRST_GPRS, "registers as they were");
    check_eq!(seen.end_types, [BUSY, AVAILABLE], "TSSs at the end");
    Ok(())
}
