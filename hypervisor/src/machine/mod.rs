//! The machine as a whole: its facts, its frames, its CPUs. The lowest layer: it knows of no domain but by number.
//!
//! What there is once is a field of [`Machine`], reached through the CPU that runs: on bare metal there is one machine,
//! on the host each board of tests has its own. What there is once for domains is `domain::Domains` likewise.

pub(crate) mod cpus;
pub(crate) mod host;
pub(crate) mod kicked;
pub(crate) mod memory;
pub(crate) mod pinned;
pub(crate) mod zombies;

use hv_hw::once_a_machine;
use hv_hw::sync::Once;

/// What a machine has.
pub(crate) struct Machine {
    host: Once<host::Host>,
    memory: memory::Memory,
    cpus: cpus::Cpus,
    zombies: zombies::Zombies,
}

impl Machine {
    const fn new() -> Self {
        Self {
            host: Once::new(),
            memory: memory::Memory::new(),
            cpus: cpus::Cpus::new(),
            zombies: zombies::Zombies::new(),
        }
    }
}

once_a_machine! {
    /// The machine of the CPU that runs.
    fn machine() -> Machine = Machine::new();
}
