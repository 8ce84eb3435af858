//! System time, wall clock, and the account of where time went.

use guest_abi::vcpu::{
    RUNSTATE_blocked, RUNSTATE_running, VCPUOP_get_runstate_info, VcpuRunstateInfo,
    XEN_RUNSTATE_UPDATE,
};
use guest_abi::xen::{
    __HYPERVISOR_vm_assist, SHARED_INFO_WC_NSEC, SHARED_INFO_WC_SEC, SHARED_INFO_WC_VERSION,
    VMASST_CMD_enable, VMASST_TYPE_runstate_update_flag, XEN_PVCLOCK_TSC_STABLE_BIT,
};
use guest_rt::hypercall::{plain, vcpu};
use guest_rt::{Stop, Test, Verdict, check, check_eq, event, insn, time};

pub(crate) static TESTS: &[Test] = &[
    Test::new("clock_parameters", parameters),
    Test::new("clock_never_steps_back", monotone),
    Test::new("clock_wall_time_is_plausible", wall),
    Test::new("clock_second_copy", second_copy),
    Test::new("clock_tsc_does_not_step_over_exits", tsc_steps),
    Test::new("runstate_is_running_and_sums_up", runstate),
    Test::new("runstate_counts_blocked_time", blocked),
    Test::new("runstate_update_flag_is_clear_at_rest", update_flag),
    // the last: from then on the clock is not called stable
    Test::new("clock_does_not_jump_with_a_written_tsc", written_tsc),
];

fn parameters() -> Verdict {
    event::setup()?;
    let clock = time::parameters();
    check!(
        clock.tsc_to_system_mul >= 1 << 31,
        "mul {:#x} has not its top bit",
        clock.tsc_to_system_mul
    );
    check!(
        (-31..=31).contains(&clock.tsc_shift),
        "shift {}",
        clock.tsc_shift
    );
    check!(clock.flags & !3 == 0, "flags {:#x}", clock.flags);
    check!(
        clock.flags & XEN_PVCLOCK_TSC_STABLE_BIT != 0,
        "TSC_STABLE is clear"
    );
    let hz = time::tsc_hz();
    check!(
        (1_000_000..20_000_000_000).contains(&hz),
        "the TSC runs at {hz} Hz"
    );
    Ok(())
}

fn monotone() -> Verdict {
    event::setup()?;
    let mut last = 0;
    for count in 0..100_000 {
        let now = time::now_ns();
        check!(now >= last, "read {count}: {now} ns after {last} ns");
        last = now;
    }
    Ok(())
}

fn wall() -> Verdict {
    event::setup()?;
    check!(
        event::shared_word32(SHARED_INFO_WC_VERSION) & 1 == 0,
        "wc_version is odd at rest"
    );
    let seconds = event::shared_word32(SHARED_INFO_WC_SEC);
    check!(
        seconds > 1_500_000_000,
        "system time 0 was {seconds} s after the epoch"
    );
    check!(
        event::shared_word32(SHARED_INFO_WC_NSEC) < 1_000_000_000,
        "wc_nsec"
    );
    Ok(())
}

fn second_copy() -> Verdict {
    event::setup()?;
    check_eq!(
        time::register_second_clock(),
        0,
        "register_vcpu_time_memory_area"
    );
    let (first, second) = (time::parameters(), time::second_clock());
    check_eq!(second.tsc_to_system_mul, first.tsc_to_system_mul, "mul");
    check_eq!(
        second.flags & XEN_PVCLOCK_TSC_STABLE_BIT,
        XEN_PVCLOCK_TSC_STABLE_BIT,
        "flags of the copy"
    );
    let tsc = insn::tsc();
    let (a, b) = (time::at_tsc(&first, tsc), time::at_tsc(&second, tsc));
    check!(a.abs_diff(b) < 1000, "the copies say {a} and {b} ns");
    Ok(())
}

fn tsc_steps() -> Verdict {
    event::setup()?;
    let mut last = insn::tsc();
    for _ in 0..20_000 {
        let _ = insn::rdmsr_safe(0x1B);
        let now = insn::tsc();
        check!(now > last, "TSC {now} after {last}");
        last = now;
    }
    let by_msr = insn::rdmsr_safe(0x10);
    check!(
        by_msr.is_ok_and(|msr| msr > last && msr - last < 1 << 32),
        "RDMSR of the TSC: {by_msr:x?} after {last:#x}"
    );
    Ok(())
}

fn registered() -> Result<VcpuRunstateInfo, Stop> {
    event::setup()?;
    check_eq!(
        time::register_runstate(),
        0,
        "register_runstate_memory_area"
    );
    Ok(time::runstate())
}

fn runstate() -> Verdict {
    let info = registered()?;
    check_eq!(info.state, RUNSTATE_running as i32, "state");
    let sum: u64 = info.time.iter().sum();
    check!(
        info.state_entry_time <= time::now_ns(),
        "entered at {} ns, in the future",
        info.state_entry_time
    );
    check!(
        sum <= info.state_entry_time,
        "times sum up to {sum} ns by {} ns",
        info.state_entry_time
    );
    let (result, asked) = vcpu(VCPUOP_get_runstate_info, 0, VcpuRunstateInfo::default());
    check_eq!(result, 0, "get_runstate_info");
    check_eq!(asked.state, RUNSTATE_running as i32, "state by hypercall");
    let total: u64 = asked.time.iter().sum::<u64>();
    check!(
        total <= time::now_ns(),
        "times by hypercall sum up to {total} ns"
    );
    Ok(())
}

fn blocked() -> Verdict {
    let before = registered()?;
    let start = time::now_ns();
    crate::timer::sleep(5 * time::MS)?;
    let slept = time::now_ns() - start;
    let after = time::runstate();
    let index = RUNSTATE_blocked as usize;
    let counted = after.time[index] - before.time[index];
    check_eq!(after.state, RUNSTATE_running as i32, "state");
    check!(
        counted >= 4 * time::MS && counted <= slept,
        "blocked for {counted} ns of {slept} ns"
    );
    check!(
        after.state_entry_time >= start,
        "the state was not entered anew"
    );
    let delta: u64 = after.time.iter().sum::<u64>() - before.time.iter().sum::<u64>();
    let elapsed = after.state_entry_time - before.state_entry_time;
    check!(
        delta.abs_diff(elapsed) < time::MS / 100,
        "times grew by {delta} ns in {elapsed} ns"
    );
    Ok(())
}

fn update_flag() -> Verdict {
    registered()?;
    let args = [
        u64::from(VMASST_CMD_enable),
        u64::from(VMASST_TYPE_runstate_update_flag),
    ];
    check_eq!(plain(__HYPERVISOR_vm_assist, args), 0, "vm_assist");
    crate::timer::sleep(time::MS)?;
    let info = time::runstate();
    check!(
        info.state_entry_time & XEN_RUNSTATE_UPDATE == 0,
        "the update flag stays set"
    );
    check_eq!(info.state, RUNSTATE_running as i32, "state");
    Ok(())
}

/// A vCPU may set its TSC, and the time that it computes from it stays what it was.
fn written_tsc() -> Verdict {
    const TSC: u32 = 0x10;
    const FAR: u64 = 1 << 40;
    let (time_before, tsc_before) = (time::now_ns(), insn::tsc());
    check!(
        insn::wrmsr_safe(TSC, tsc_before + FAR).is_ok(),
        "WRMSR faults"
    );
    let (time_after, tsc_after) = (time::now_ns(), insn::tsc());
    let _ = insn::wrmsr_safe(TSC, insn::tsc() - FAR);
    check!(
        (FAR..FAR + time::tsc_hz()).contains(&(tsc_after - tsc_before)),
        "TSC {tsc_before}, then {tsc_after}"
    );
    check!(
        (time_before..time_before + time::MS * 1000).contains(&time_after),
        "time {time_before}, then {time_after}"
    );
    Ok(())
}
