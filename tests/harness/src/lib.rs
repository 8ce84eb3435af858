//! Starts the emulator with what was built, time-boxes it, reads verdicts, drives consoles.
//!
//! The harness depends on no crate that it tests: it sees the machine as a user does, through its serial line. A test
//! is over when its verdict is there, not when the emulator ends, so that nothing waits for a power-off.
//!
//! Read [`machine`] for what can be started, [`console`] for how it is talked to, [`scenario`] for what a test is.

pub mod bochs;
pub mod clock;
pub mod console;
pub mod machine;
pub mod parallel;
pub mod qemu;
pub mod qmp;
pub mod running;
pub mod scenario;
pub mod server;
pub mod verdict;

pub use clock::{Clock, Limit};
pub use console::{Console, Seen};
pub use machine::{Emulator, Machine, Model, Network, Programs};
pub use running::Running;
pub use scenario::{Outcome, Scenario};
