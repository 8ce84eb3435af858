//! The fixed ACPI description table: the registers by which a machine is reset, put to sleep and timed.
//!
//! A table of ACPI 1.0 gives I/O ports only; later ones repeat each block as a generic address, which counts where it
//! is not 0.
//!
//! Source: ACPI specification, "Fixed ACPI Description Table (FADT)", "Generic Address Structure".

use crate::addr::Hpa;
use crate::le::{u8_at, u16_at, u32_at, u64_at};

/// A register's place, ACPI's "Generic Address Structure".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Register {
    Memory(Hpa),
    Port(u16),
    /// In the configuration space of a device on PCI bus 0.
    Pci {
        /// The device, below 32.
        device: u8,
        /// The function, below 8.
        function: u8,
        /// The offset, below 256.
        offset: u8,
    },
}

impl Register {
    /// Reads the 12 bytes at `offset`; an address of 0 is no register.
    pub(super) fn parse(table: &[u8], offset: usize) -> Option<Self> {
        let address = u64_at(table, offset.checked_add(4)?).filter(|&address| address != 0)?;
        match u8_at(table, offset)? {
            0 => Some(Self::Memory(Hpa::new(address))),
            1 => u16::try_from(address).ok().map(Self::Port),
            2 => {
                let [
                    low,
                    high,
                    function_low,
                    function_high,
                    device_low,
                    device_high,
                    ..,
                ] = address.to_le_bytes();
                let is_sound = high == 0 && function_high == 0 && device_high == 0;
                (is_sound && function_low < 8 && device_low < 32).then_some(Self::Pci {
                    device: device_low,
                    function: function_low,
                    offset: low,
                })
            }
            _ => None,
        }
    }
}

/// A block of fixed-hardware registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    pub register: Register,
    /// Its length in bytes.
    pub length: u8,
}

impl Block {
    /// The I/O ports it takes, first and count, where it is in I/O space.
    #[must_use]
    pub fn ports(self) -> Option<(u16, u8)> {
        match self.register {
            Register::Port(port) => Some((port, self.length)),
            _ => None,
        }
    }
}

/// Fixed hardware: what the hypervisor needs to reboot, to power off, and to leave alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fadt {
    /// The system control interrupt's number, as a global system interrupt.
    pub sci: u16,
    /// The port that hands power management to the operating system, 0 for none.
    pub smi_command: u16,
    /// What to write there.
    pub acpi_enable: u8,
    pub pm1a_event: Option<Block>,
    pub pm1b_event: Option<Block>,
    /// PM1a control register: sleep type and enable.
    pub pm1a_control: Option<Block>,
    pub pm1b_control: Option<Block>,
    pub pm_timer: Option<Block>,
    /// True where the timer counts 32 bits, not 24.
    pub has_wide_pm_timer: bool,
    /// The reset register and what to write there.
    pub reset: Option<(Register, u8)>,
    /// The register of the real-time clock that holds the century, where there is one.
    pub century: Option<u8>,
    /// Where the DSDT is.
    pub dsdt: Hpa,
    /// Where the FACS is, 0 for none.
    pub facs: Hpa,
    /// True where there is no fixed hardware.
    pub is_hardware_reduced: bool,
}

impl Fadt {
    /// Reads a whole table, header included, of any revision.
    #[must_use]
    pub fn parse(table: &[u8]) -> Option<Self> {
        let flags = u32_at(table, 112)?;
        let block = |old: usize, length: usize, new: usize| {
            let length = u8_at(table, length)?;
            let register = Register::parse(table, new).or_else(|| {
                let port = u16::try_from(u32_at(table, old)?).ok()?;
                (port != 0).then_some(Register::Port(port))
            })?;
            (length != 0).then_some(Block { register, length })
        };
        let reset = || {
            (flags & (1 << 10) != 0).then(|| Register::parse(table, 116).zip(u8_at(table, 128)))?
        };
        let pointer = |old: usize, new: usize| {
            let long = u64_at(table, new).filter(|&address| address != 0);
            Hpa::new(long.or(u32_at(table, old).map(u64::from)).unwrap_or(0))
        };
        Some(Self {
            sci: u16_at(table, 46)?,
            smi_command: u16::try_from(u32_at(table, 48)?).unwrap_or(0),
            acpi_enable: u8_at(table, 52)?,
            pm1a_event: block(56, 88, 148),
            pm1b_event: block(60, 88, 160),
            pm1a_control: block(64, 89, 172),
            pm1b_control: block(68, 89, 184),
            pm_timer: block(76, 91, 208),
            has_wide_pm_timer: flags & (1 << 8) != 0,
            reset: reset(),
            century: u8_at(table, 108).filter(|&register| register != 0 && register < 0x80),
            dsdt: pointer(40, 140),
            facs: pointer(36, 132),
            is_hardware_reduced: flags & (1 << 20) != 0,
        })
    }
}
