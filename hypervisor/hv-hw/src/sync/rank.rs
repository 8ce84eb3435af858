//! The order of locks: a CPU that holds one takes only locks of a higher rank.
//!
//! This file is the order's one home. A new lock gets a rank here, between those that are held around it and those that
//! are taken inside it.

/// The table of domains by domid.
pub const DOMAIN_REGISTRY: u8 = 10;
/// What belongs to a domain as a whole (life cycle, limits); two domains in ascending domid.
pub const DOMAIN: u8 = 20;
/// A domain's grant table.
pub const GRANT: u8 = 30;
/// A domain's handles of granted pages.
pub const MAPTRACK: u8 = 35;
/// A domain's p2m; two domains in ascending domid.
pub const P2M: u8 = 40;
/// A domain's event channels; two domains in ascending domid.
pub const EVTCHN: u8 = 50;
/// A domain's devices: virtual I/O APIC, routing of real interrupts.
pub const DEVICE: u8 = 60;
/// A vCPU's state that other CPUs may change.
pub const VCPU: u8 = 70;
/// Queues of vCPUs on their way to a CPU, VPIDs, the wall clock, what was typed.
pub const SCHED: u8 = 80;
/// The machine's I/O APICs and interrupt routing.
pub const IRQ: u8 = 90;
/// The firmware's runtime services.
pub const FIRMWARE: u8 = 95;
/// The frame allocator.
pub const FRAMES: u8 = 100;
/// The page through which devices' memory is reached.
pub const PEEPHOLE: u8 = 105;
/// The hypervisor's own page tables and the region for device mappings.
pub const HOST_PAGING: u8 = 110;
/// The heap.
pub const HEAP: u8 = 120;
/// Paired index and data ports (RTC, PCI configuration).
pub const PORTS: u8 = 130;
/// How much of the log a domain has filled.
pub const LOG: u8 = 135;
/// The console: everything may log.
pub const CONSOLE: u8 = 140;
