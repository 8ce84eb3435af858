//! The story: what happens next.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod dom0;
pub mod memory;
pub mod start;

pub use start::{BootInfo, Machine, start};
