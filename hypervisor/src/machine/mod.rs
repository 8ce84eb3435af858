//! The machine as a whole: its facts, its frames, its CPUs. The lowest layer: it knows of no domain but by number.

pub mod cpus;
pub mod host;
pub mod memory;
pub mod pinned;
pub mod zombies;
