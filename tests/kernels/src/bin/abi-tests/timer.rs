//! The singleshot timer of a vCPU: VCPUOP_set_singleshot_timer and VIRQ_TIMER.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use guest_abi::Errno::{EEXIST, ENOENT, ENOSYS};
use guest_abi::vcpu::{
    VCPUOP_set_singleshot_timer, VCPUOP_stop_periodic_timer, VCPUOP_stop_singleshot_timer,
    VcpuSetSingleshotTimer,
};
use guest_abi::xen::{__HYPERVISOR_set_timer_op, VIRQ_TIMER};
use guest_rt::hypercall::{plain, refused, vcpu, vcpu_plain};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, insn, skip, time};

pub(crate) static TESTS: &[Test] = &[
    Test::new("timer_virq_binds_once", binds_once),
    Test::new("timer_in_the_past_fires_at_once", past),
    Test::new("timer_fires_in_time", in_time),
    Test::new("timer_stop", stop),
    Test::new("timer_rearm_replaces", rearm),
    Test::new("timer_wakes_hlt", wakes_hlt),
    Test::new("timer_fires_once", fires_once),
    Test::new("timer_short_deadlines_are_all_delivered", short),
    Test::new("timer_periodic_can_be_stopped", periodic),
    Test::new("timer_set_timer_op", set_timer_op),
];

static PORT: AtomicU32 = AtomicU32::new(0);

/// The timer's port, unmasked, the log empty.
fn begin() -> Result<u32, Stop> {
    event::setup()?;
    if PORT.load(Relaxed) == 0 {
        let (result, port) = event::bind_virq(VIRQ_TIMER);
        check_eq!(result, 0, "bind_virq TIMER");
        PORT.store(port, Relaxed);
    }
    let port = PORT.load(Relaxed);
    check_eq!(
        vcpu_plain(VCPUOP_stop_singleshot_timer, 0),
        0,
        "stop_singleshot_timer"
    );
    check_eq!(event::unmask(port), 0, "unmask");
    insn::sti();
    insn::cli();
    event::clear_log();
    Ok(port)
}

fn arm(timeout_abs_ns: u64) -> i64 {
    vcpu(
        VCPUOP_set_singleshot_timer,
        0,
        VcpuSetSingleshotTimer {
            timeout_abs_ns,
            flags: 0,
            _pad: 0,
        },
    )
    .0
}

/// Sleeps by HLT.
pub(crate) fn sleep(ns: u64) -> Verdict {
    let port = begin()?;
    let deadline = time::now_ns() + ns;
    check_eq!(arm(deadline), 0, "set_singleshot_timer");
    while event::times_logged(port) == 0 {
        insn::sti_hlt_cli();
        check!(
            time::now_ns() < deadline + 1000 * time::MS,
            "no wake-up a second after the deadline"
        );
    }
    Ok(())
}

fn binds_once() -> Verdict {
    begin()?;
    check_eq!(
        event::bind_virq(VIRQ_TIMER).0,
        refused(EEXIST),
        "a second bind_virq"
    );
    Ok(())
}

fn past() -> Verdict {
    let port = begin()?;
    for timeout in [1, time::now_ns() - 1, time::now_ns()] {
        event::clear_log();
        check_eq!(arm(timeout), 0, "set_singleshot_timer at {timeout}");
        check!(
            time::wait(10 * time::MS, || event::logged() > 0),
            "no event in 10 ms"
        );
        check_eq!(event::times_logged(port), 1, "events");
    }
    Ok(())
}

fn in_time() -> Verdict {
    let port = begin()?;
    for ns in [100_000, time::MS, 10 * time::MS] {
        event::clear_log();
        let deadline = time::now_ns() + ns;
        check_eq!(arm(deadline), 0, "set_singleshot_timer");
        check!(
            time::wait(ns + 50 * time::MS, || event::times_logged(port) > 0),
            "no event 50 ms after the deadline"
        );
        let fired = time::at_tsc(&time::parameters(), event::last_upcall_tsc());
        check!(
            fired >= deadline,
            "fired {} ns early, asked for {ns}",
            deadline - fired
        );
        check!(
            fired - deadline < time::MS / 2,
            "fired {} ns late, asked for {ns}",
            fired - deadline
        );
    }
    Ok(())
}

fn stop() -> Verdict {
    begin()?;
    check_eq!(
        arm(time::now_ns() + 2 * time::MS),
        0,
        "set_singleshot_timer"
    );
    check_eq!(
        vcpu_plain(VCPUOP_stop_singleshot_timer, 0),
        0,
        "stop_singleshot_timer"
    );
    check!(
        !time::wait(6 * time::MS, || event::logged() > 0),
        "the stopped timer fired"
    );
    check_eq!(
        vcpu_plain(VCPUOP_stop_singleshot_timer, 0),
        0,
        "stop of a stopped timer"
    );
    Ok(())
}

fn rearm() -> Verdict {
    begin()?;
    check_eq!(
        arm(time::now_ns() + 5 * time::MS),
        0,
        "set_singleshot_timer to 5 ms"
    );
    check_eq!(
        arm(time::now_ns() + time::MS),
        0,
        "set_singleshot_timer to 1 ms"
    );
    check!(
        time::wait(4 * time::MS, || event::logged() > 0),
        "no event in 4 ms"
    );
    check!(
        !time::wait(8 * time::MS, || event::logged() > 1),
        "the replaced deadline fired too"
    );
    Ok(())
}

fn wakes_hlt() -> Verdict {
    for ns in [50_000, time::MS, 3 * time::MS] {
        begin()?;
        let start = time::now_ns();
        sleep(ns)?;
        let slept = time::now_ns() - start;
        check!(slept >= ns, "slept {slept} ns, asked for {ns}");
        check!(
            slept < ns + 2 * time::MS,
            "slept {slept} ns, asked for {ns}"
        );
    }
    Ok(())
}

fn fires_once() -> Verdict {
    let port = begin()?;
    check_eq!(arm(time::now_ns() + time::MS), 0, "set_singleshot_timer");
    check!(
        time::wait(10 * time::MS, || event::logged() > 0),
        "no event in 10 ms"
    );
    check!(
        !time::wait(5 * time::MS, || event::logged() > 1),
        "a second event"
    );
    check_eq!(event::times_logged(port), 1, "events");
    Ok(())
}

fn short() -> Verdict {
    let port = begin()?;
    for round in 0..500u64 {
        event::clear_log();
        check_eq!(arm(time::now_ns() + round * 40), 0, "set_singleshot_timer");
        check!(
            time::wait(10 * time::MS, || event::times_logged(port) > 0),
            "round {round}: no event in 10 ms"
        );
    }
    Ok(())
}

fn periodic() -> Verdict {
    begin()?;
    check_eq!(
        vcpu_plain(VCPUOP_stop_periodic_timer, 0),
        0,
        "stop_periodic_timer"
    );
    check_eq!(
        vcpu_plain(VCPUOP_stop_singleshot_timer, 8192),
        refused(ENOENT),
        "timer of no vCPU"
    );
    Ok(())
}

fn set_timer_op() -> Verdict {
    let port = begin()?;
    let result = plain(__HYPERVISOR_set_timer_op, [time::now_ns() + time::MS, 0]);
    if result == refused(ENOSYS) {
        skip!("no set_timer_op");
    }
    check_eq!(result, 0, "set_timer_op");
    check!(
        time::wait(10 * time::MS, || event::times_logged(port) > 0),
        "no event in 10 ms"
    );
    Ok(())
}
