//! Devices as state machines: an access and the time go in, effects come out for the core to apply.
//!
//! | module | what | who has one |
//! |---|---|---|
//! | [`message`] | what travels between the controllers: vector, mode, destination | – |
//! | [`lapic`] | local APIC in xAPIC and x2APIC mode, over the page that the CPU's APIC virtualisation also works on | every vCPU |
//! | [`posted`] | the descriptor into which others put interrupts for a vCPU, without a lock | every vCPU |
//! | [`ioapic`] | I/O APIC whose pins are bound one to one to real pins | dom0 |
//! | [`pci`], [`ports`] | PCI configuration space and I/O ports: what passes and what does not | dom0 |
//! | [`routes`] | which message of a device is whose interrupt | dom0 |
//!
//! Nothing else is needed. The 8259 PICs (ports 0x20, 0x21, 0xA0, 0xA1), the PIT with its gate (0x40–0x43, 0x61) and
//! the HPET are absent for everyone: their ports read all-ones as any unclaimed port does, and Linux then takes its
//! "NULL legacy PIC" and skips the timer check that would ask for a ticking IRQ 0. A *half* present PIC or PIT is what
//! hangs guests. The CMOS clock (0x70, 0x71) is dom0's own, passed through; other domains have none.
//!
//! An interrupt's way in: a device or another vCPU makes an [`message::InterruptMessage`]; the core finds the vCPUs
//! whose id [`message::Target::includes`]; each gets a [`posted::PostedInterrupts::post_edge`]; the CPU that runs that
//! vCPU calls [`lapic::Lapic::sync`] before it enters the guest.

pub mod ioapic;
pub mod lapic;
pub mod message;
pub mod pci;
pub mod ports;
pub mod posted;
pub mod routes;

/// The access raises #GP(0) in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gp;
