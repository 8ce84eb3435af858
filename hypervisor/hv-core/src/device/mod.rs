//! Devices as state machines: an access and the time go in, effects come out for the story to apply.

pub mod pci;
pub mod ports;
