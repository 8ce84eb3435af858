//! The mechanisms: how the chip does it. The only hypervisor crate with unsafe code, in named modules that say why.
#![no_std]
extern crate alloc;
