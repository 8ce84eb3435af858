//! A tiny guest that does one thing: what a well-behaved, an idle, a hostile or a broken guest does to its neighbours.
//!
//! `mode=` on the command line says what; the default says hello on the console and powers off. It starts in a
//! fraction of the time of Linux, so it is what scenarios create by the hundred.
#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "addresses are 64-bit, parameters are small"
)]

mod console;
mod greed;

use guest_abi::sched::{
    SCHEDOP_shutdown, SCHEDOP_watchdog, SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot,
    SHUTDOWN_soft_reset, SchedShutdown, SchedWatchdog,
};
use guest_rt::memory::Touch;
use guest_rt::{event, hold, hypercall, insn, options, probe, say};

guest_rt::entry!(main);

fn main() {
    let mode = options::value("mode").unwrap_or("hello");
    console::print(format_args!("domu: mode {mode}"));
    match mode {
        "hello" | "poweroff" => shutdown(SHUTDOWN_poweroff),
        "reboot" => shutdown(SHUTDOWN_reboot),
        "crash" => shutdown(SHUTDOWN_crash),
        "soft-reset" => {
            shutdown(SHUTDOWN_soft_reset);
            // the console's port is another now, whatever its number; more than its ring holds has to be taken away
            for line in 0..64 {
                console::print(format_args!("domu: line {line} of the next kernel"));
            }
            console::print(format_args!("domu: goes on after a soft reset"));
            shutdown(SHUTDOWN_poweroff);
        }
        "watchdog" => {
            let one_second = SchedWatchdog { id: 0, timeout: 1 };
            let id = hypercall::sched(SCHEDOP_watchdog, one_second);
            console::print(format_args!("domu: watchdog {id}"));
            spin()
        }
        "triple-fault" => probe::triple_fault(),
        "loop" => spin(),
        "console-flood" => console::flood(),
        "log-flood" => loop {
            say!("domu: a line of a flood");
        },
        "event-flood" => greed::flood_events(),
        "ports" => greed::take_ports(),
        "grants" => greed::take_grant_frames(),
        "memory" => greed::take_memory(),
        "write-all" => greed::touch_all(Touch::Write),
        "read-all" => greed::touch_all(Touch::Read),
        "hold-alignment" => hold::alignment_checks(),
        "hold-debug" => hold::debug_traps(),
        "hold-table" => hold::no_interrupt_table(),
        "hold-output" => hold::string_output(),
        "hold-multicall" => hold::multicalls(),
        other => console::print(format_args!("domu: no mode {other}")),
    }
    idle()
}

fn spin() -> ! {
    loop {
        insn::pause();
    }
}

fn shutdown(reason: u32) {
    let _ = hypercall::sched(SCHEDOP_shutdown, SchedShutdown { reason });
}

/// Waits for events that never come, with interrupts open.
fn idle() -> ! {
    if event::setup().is_err() {
        console::print(format_args!("domu: no events"));
    }
    console::print(format_args!("domu: idle"));
    loop {
        insn::sti_hlt_cli();
    }
}
