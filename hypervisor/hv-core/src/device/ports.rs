//! Which I/O ports of dom0 exit, and who answers.

/// Who answers an access to a port that exits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortOwner {
    /// Nobody: reads are all ones, writes are dropped. PIC, PIT, the hypervisor's UART.
    Absent,
    /// Ports 0xCF8–0xCFF less the reset register: [`super::pci`].
    PciConfig,
    /// Port 0xE9: debug output of the guest, a byte each.
    DebugConsole,
    /// PM1 control block a or b: a write with SLP_EN ends the machine.
    Pm1Control,
    /// The reset register (0xCF9 or the FADT's): a write may reset the machine.
    Reset,
    /// The guest's own: the hardware answers, no exit.
    Passthrough,
}

/// Bytes of the two I/O bitmaps: a bit per port, set where it exits.
pub const BITMAP_BYTES: usize = 8192;

/// Ports that depend on the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MachinePorts {
    /// First of the 8 ports of the UART that the hypervisor owns.
    pub uart: Option<u16>,
    /// FADT PM1a_CNT_BLK.
    pub pm1a_control: Option<u16>,
    /// FADT PM1b_CNT_BLK.
    pub pm1b_control: Option<u16>,
    /// The FADT's reset register, where it is a port.
    pub reset: Option<u16>,
}

/// Which port exits and who answers it.
#[derive(Clone, Copy, Debug)]
pub struct PortMap {
    machine: Option<MachinePorts>,
}

impl PortMap {
    /// dom0: everything passes except what the hypervisor owns.
    #[must_use]
    pub fn dom0(machine: MachinePorts) -> Self {
        Self {
            machine: Some(machine),
        }
    }
    /// A guest without devices: every port exits and only the debug console answers.
    #[must_use]
    pub fn guest() -> Self {
        Self { machine: None }
    }
    /// Who answers an access to `port`.
    #[must_use]
    pub fn owner(&self, port: u16) -> PortOwner {
        let _ = (port, &self.machine);
        PortOwner::Absent
    }
    /// Writes the two I/O bitmaps, A (ports below 0x8000) before B.
    pub fn write_bitmap(&self, bitmap: &mut [u8; BITMAP_BYTES]) {
        bitmap.fill(0xff);
    }
}

/// What an absent port reads: all ones in `size` (1, 2 or 4) bytes.
#[must_use]
pub const fn all_ones(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => 0xffff_ffff,
    }
}
