//! What ends the domain. Each runs only when named exactly (`test=NAME`); the verdict is in the host's log and in that
//! the text after it never comes.

use guest_abi::sched::{
    SCHEDOP_shutdown, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SchedShutdown,
};
use guest_rt::{Test, Verdict, check, hypercall, insn, probe};

pub(crate) static TESTS: &[Test] = &[
    Test::last("fatal_triple_fault", || probe::triple_fault()),
    Test::last("fatal_halt_with_interrupts_off", || insn::halt_for_ever()),
    Test::last("fatal_shutdown_poweroff", || shutdown(SHUTDOWN_poweroff)),
    Test::last("fatal_shutdown_reboot", || shutdown(SHUTDOWN_reboot)),
    Test::last("fatal_shutdown_crash", || shutdown(SHUTDOWN_crash)),
];

fn shutdown(reason: u32) -> Verdict {
    let result = hypercall::sched(SCHEDOP_shutdown, SchedShutdown { reason });
    check!(
        false,
        "shutdown for reason {reason} came back with {result}"
    );
    Ok(())
}
