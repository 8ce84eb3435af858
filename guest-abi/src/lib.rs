//! Xen's public ABI (release 4.17, x86-64) as plain data: one file per public header, under the header's name.
//!
//! Nothing here acts: constants, and `#[repr(C)]` structs that are copied to and from guests as bytes, every padding
//! byte named, so that no padding of ours ever leaks. A guest handle (a pointer in a struct) is a `u64`: a guest
//! *linear* address. Items keep Xen's spelling; structs are Xen's names in CamelCase. [`layout`] asserts size and
//! offsets of each at compile time. Start with [`xen`] (hypercall numbers, shared info) and [`errno`].
#![no_std]
#![forbid(unsafe_code)]
#![expect(
    non_upper_case_globals,
    reason = "constants keep Xen's spelling, so that a search for it finds them"
)]

pub mod arch_x86;
pub mod compat;
pub mod domctl;
pub mod elfnote;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod hvm;
pub mod io;
pub mod layout;
pub mod memory;
pub mod physdev;
pub mod platform;
pub mod sched;
pub mod sysctl;
pub mod vcpu;
pub mod version;
pub mod xen;

pub use errno::Errno;
