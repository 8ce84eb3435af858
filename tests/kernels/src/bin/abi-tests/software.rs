//! Software interrupts: each is a trap of its own kind, also where its delivery was cut short because the handler's
//! stack lies on memory that comes when it is touched.

use guest_rt::probe::{self, Software};
use guest_rt::{Test, Verdict, check_eq, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("software_interrupts_are_traps", traps),
    Test::new("software_int1_of_user_mode", privileged),
    Test::new("software_interrupts_on_a_stack_not_touched_yet", untouched),
];

const ALL: [Software; 4] = [
    Software::Interrupt,
    Software::Breakpoint,
    Software::Debug,
    Software::Overflow,
];

fn traps() -> Verdict {
    for instruction in ALL {
        let seen = probe::software(instruction, None);
        check_eq!(
            (seen.count, seen.first),
            (1, seen.expected),
            "{instruction:?}"
        );
    }
    Ok(())
}

/// INT1 alone looks at no gate's privilege.
fn privileged() -> Verdict {
    let seen = probe::int1_in_user_mode();
    check_eq!((seen.count, seen.first), (1, seen.expected), "INT1");
    Ok(())
}

/// The screen's memory, a page for each, behind what a screen shows.
const SCREEN: u64 = 0xB_9000;

fn untouched() -> Verdict {
    if !probe::is_screen_there() {
        skip!("no screen, or not in text mode");
    }
    for (page, instruction) in (1..).zip(ALL) {
        let seen = probe::software(instruction, Some(SCREEN + page * 4096));
        check_eq!(
            (seen.count, seen.first),
            (1, seen.expected),
            "{instruction:?}"
        );
    }
    Ok(())
}
