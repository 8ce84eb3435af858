//! What is checked, a topic a file. Where the seam says "where the CPU says so", or that an exit may come, both are
//! right; else there is one answer, whoever made the CPU.

mod events;
mod instructions;
mod interrupts;
mod ports_and_msrs;
mod stage2;
mod state;

use hv_hw::virt::Backend;

use crate::report::Check;

/// All checks, in the order in which they run.
pub(crate) fn groups<B: Backend>() -> [&'static [Check<B>]; 6] {
    [
        instructions::checks(),
        ports_and_msrs::checks(),
        stage2::checks(),
        events::checks(),
        state::checks(),
        interrupts::checks(),
    ]
}
