//! The end of a domain by what one of its vCPUs did, with the vCPU's state in the log.

use alloc::string::String;

use hv_hw::domain_log;
use hv_hw::virt::VcpuHw;

use super::{Next, Runner};
use crate::console::debug_keys;
use crate::domain::ShutdownReason;

/// A triple fault ends the domain.
pub(crate) fn triple_fault<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    let id = runner.vcpu().id;
    domain_log!(runner.domain.log, Error, "{id}: triple fault");
    die(runner)
}

/// Ends the domain as crashed, with its state in the log.
pub(crate) fn die<H: VcpuHw>(runner: &mut Runner<H>) -> Next {
    let vcpu = runner.vcpu().id;
    runner.domain.log.dump(&vcpu, &state(runner));
    runner.domain.end(
        ShutdownReason::Crash,
        "what a vCPU did cannot go on, see above",
    );
    Next::Resume
}

/// Answers the debug key that asks for registers.
pub(crate) fn show_state<H: VcpuHw>(runner: &Runner<H>) {
    debug_keys::show_registers(runner.vcpu().id, &state(runner));
}

/// The vCPU's state as text, in lines.
fn state<H: VcpuHw>(runner: &Runner<H>) -> String {
    let mut text = String::new();
    let _never_fails = runner.hw.dump(&mut text);
    text
}
