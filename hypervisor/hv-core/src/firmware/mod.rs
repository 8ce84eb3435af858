//! What the boot loader and the firmware say about the machine, as owned plain data.
//!
//! All of it comes from outside: sizes, offsets and checksums are checked before use, and nothing here panics on any
//! bytes. [`multiboot2`] is where the machine's description starts, [`acpi`] reads the host's tables through a trait,
//! [`dom0_acpi`] makes what dom0 sees of them, and [`efi`] is about firmware that goes on running.

pub mod acpi;
pub mod dom0_acpi;
pub mod efi;
pub mod fadt;
pub mod framebuffer;
pub mod madt;
pub mod multiboot2;
pub mod sleep;
