//! Which interrupt vector means what. The local APIC delivers higher numbers first.

use core::ops::RangeInclusive;

/// Where the PICs would deliver, were they not masked: only their spurious interrupts arrive.
pub const PIC: RangeInclusive<u8> = 0x20..=0x2f;
/// For interrupts of real devices.
pub const DEVICES: RangeInclusive<u8> = 0x30..=0xdf;
/// The console's serial port.
pub const SERIAL: u8 = 0xe0;
/// Tells a vCPU's processor to look at its posted interrupts (used by the CPU itself while it runs a guest).
pub const POSTED_INTERRUPT: u8 = 0xf0;
/// Tells a CPU to leave its guest or its sleep and look around.
pub const KICK: u8 = 0xf1;
/// The local APIC's timer.
pub const TIMER: u8 = 0xf2;
/// The local APIC found an error.
pub const APIC_ERROR: u8 = 0xfe;
/// An interrupt that went away before it was delivered; it takes no end-of-interrupt.
pub const SPURIOUS: u8 = 0xff;
