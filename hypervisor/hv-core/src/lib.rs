//! The core logic of the hypervisor: what must be true.
//!
//! Pure logic without unsafe code, statics, locks or a clock: time is passed in, memory is reached through the traits
//! in [`mem`], and consequences are return values that the core (the `hypervisor` crate) applies. All of it is tested
//! on the host in milliseconds.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod addr;
pub mod cpuid;
pub mod device;
pub mod domid;
pub mod emulate;
pub mod errata;
pub mod evtchn;
pub mod firmware;
pub mod frame;
pub mod grant;
pub mod image;
mod index_heap;
pub mod le;
pub mod log_budget;
pub mod mem;
pub mod msr;
pub mod options;
pub mod p2m;
pub mod paging;
pub mod sched;
pub mod speculation;
pub mod timer;
pub mod vcpu;
pub mod walk;
pub mod watchdog;
pub mod x86;
