//! PCI configuration mechanism #1 in front of the real configuration space: what dom0's accesses to CF8 and CFC do.
//!
//! Everything passes, except: functions that the hypervisor owns are absent, MSI-X capabilities are cut out of the
//! capability list, and MSI capabilities are virtual. Their address and data stay ours; a guest that enables one gets an
//! [`PciEffect::MsiEnabled`] and the caller programs the device with a vector of the host.

use alloc::vec::Vec;

/// A PCI function of segment 0: bus, device and function as in CF8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bdf(pub u16);

/// Access to the real configuration space.
pub trait ConfigSpace {
    /// Reads `size` (1, 2 or 4) bytes at `offset` (below 256, aligned to `size`).
    fn read(&mut self, function: Bdf, offset: u8, size: u8) -> u32;
    /// Writes them.
    fn write(&mut self, function: Bdf, offset: u8, size: u8, value: u32);
}

/// A message-signalled interrupt: the address and data that a device writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MsiMessage {
    /// 0xFEE00000 with destination and mode.
    pub address: u64,
    /// Vector, delivery mode, trigger.
    pub data: u16,
}

/// What a write asks the caller to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum PciEffect {
    /// Nothing.
    None,
    /// Route the function's interrupt to what the guest's message names, then call [`PciConfig::program_msi`].
    MsiEnabled(Bdf, MsiMessage),
    /// The function's MSI is off: release the host's vector.
    MsiDisabled(Bdf),
}

/// The two ports, and the MSI capabilities seen so far.
#[derive(Clone, Debug)]
pub struct PciConfig {
    latch: u32,
    hidden: Vec<Bdf>,
}

impl PciConfig {
    /// A front end that hides `hidden`.
    #[must_use]
    pub fn new(hidden: &[Bdf]) -> Self {
        Self {
            latch: 0,
            hidden: hidden.to_vec(),
        }
    }
    /// Answers an IN of `size` (1, 2 or 4) bytes from `port` (0xCF8–0xCFF).
    pub fn read_port(&mut self, port: u16, size: u8, hw: &mut impl ConfigSpace) -> u32 {
        let _ = (port, size, hw, &self.latch, &self.hidden);
        u32::MAX
    }
    /// Performs an OUT of `size` (1, 2 or 4) bytes to `port` (0xCF8–0xCFF).
    pub fn write_port(
        &mut self,
        port: u16,
        size: u8,
        value: u32,
        hw: &mut impl ConfigSpace,
    ) -> PciEffect {
        let _ = (port, size, value, hw);
        PciEffect::None
    }
    /// Gives the function `message` of the host and switches its MSI on.
    pub fn program_msi(&mut self, function: Bdf, message: MsiMessage, hw: &mut impl ConfigSpace) {
        let _ = (function, message, hw);
    }
}
