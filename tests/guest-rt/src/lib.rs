//! A guest that is nothing but tests: PVH entry, exceptions that are recorded instead of fatal, hypercalls, events, a
//! registry of tests and their report.
//!
//! The one fact to know: any faulting instruction in [`insn`] leaves its fault behind as a [`Fault`] and goes on, and
//! any *other* exception or panic ends only the test that caused it. Read [`report`] for how a kernel is written, then
//! the `kernels` package. Runs under Hematite, Xen, and (without hypercalls) under QEMU's `-kernel`.

// UNSAFETY: the macro `entry` exports a symbol that the assembly calls.
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    reason = "registers are cut into halves, addresses are 64-bit"
)]
#![expect(
    clippy::result_large_err,
    reason = "a verdict carries its text: there is no heap"
)]

pub mod console;
pub mod entry;
pub mod event;
pub mod fifo;
pub mod hold;
pub mod hypercall;
pub mod insn;
pub mod memory;
pub mod narrow;
pub mod options;
pub mod others;
pub mod probe;
pub mod register;
pub mod report;
pub mod tasks;
pub mod time;
pub mod timed;
pub mod traps;
pub mod xsave;

pub use report::{Stop, Test, Text, Verdict};
pub use traps::Fault;

/// Names the function that runs once the guest is set up; it hands the kernel's tests to [`report::run_all`].
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_main() {
            let main: fn() = $main;
            main();
        }
    };
}
