//! What travels between interrupt controllers: a vector, a delivery mode and a destination.
//!
//! Every guest local APIC is in x2APIC mode, so an id is 32 bits and the logical id is derived from it: cluster in the
//! upper half, one bit of 16 in the lower. I/O APICs and MSIs carry 8 bits of destination only.
//! Intel SDM vol. 3A, "Determining IPI Destination", "Logical Destination Mode in x2APIC Mode".

/// How the source signals: once per event, or for as long as the line is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// One message per event; nobody waits for the EOI.
    Edge,
    /// The source waits for the EOI of the vector before it looks at the line again.
    Level,
}

/// What the receiving local APIC does. Intel SDM vol. 3A, "Local Vector Table", delivery mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryMode {
    /// Sets the vector's IRR bit in every CPU of the destination.
    Fixed,
    /// As `Fixed`, in the one CPU of the destination with the lowest processor priority.
    LowestPriority,
    /// A system-management interrupt; guests have none, so it goes nowhere.
    Smi,
    /// A non-maskable interrupt; the vector is ignored.
    Nmi,
    /// Resets the CPU and makes it wait for a start-up.
    Init,
    /// Starts a waiting CPU in real mode at `vector << 12`. IPIs only.
    Startup,
    /// A vector asked from an 8259; guests have none, so it goes nowhere. Devices only.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes bits 10:8 of a redirection entry, an LVT entry, MSI data or the ICR; `None` for the reserved encoding 3.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            7 => Self::ExtInt,
            _ => return None,
        })
    }
}

/// Which CPUs a message is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The CPU with this x2APIC id.
    Physical(u32),
    /// Cluster in bits 31:16, a mask of members in bits 15:0.
    Logical(u32),
    /// Every CPU.
    All,
    /// Every CPU but the one with this x2APIC id.
    AllBut(u32),
}

/// A destination of all ones means every CPU, in either mode.
const BROADCAST: u32 = u32::MAX;
/// The same in the 8 bits that devices have.
const BROADCAST_8: u8 = u8::MAX;

impl Target {
    /// Decodes the 32-bit destination field of an x2APIC ICR.
    #[must_use]
    pub const fn from_x2apic(destination: u32, is_logical: bool) -> Self {
        match (destination, is_logical) {
            (BROADCAST, _) => Self::All,
            (_, true) => Self::Logical(destination),
            (_, false) => Self::Physical(destination),
        }
    }

    /// Decodes the 8-bit destination field of a redirection entry or an MSI address: zero-extended, except that all
    /// ones stays a broadcast.
    #[must_use]
    pub const fn from_device(destination: u8, is_logical: bool) -> Self {
        match (destination, is_logical) {
            (BROADCAST_8, _) => Self::All,
            (_, true) => Self::Logical(destination as u32),
            (_, false) => Self::Physical(destination as u32),
        }
    }

    /// The one CPU meant, by x2APIC id, where that is plain from the destination alone: look it up instead of asking
    /// every CPU.
    #[must_use]
    pub const fn single(self) -> Option<u32> {
        match self {
            Self::Physical(id) => Some(id),
            Self::Logical(destination) => single_of_cluster(destination),
            Self::All | Self::AllBut(_) => None,
        }
    }

    /// True where the CPU with x2APIC id `id` is meant.
    #[must_use]
    pub const fn includes(self, id: u32) -> bool {
        match self {
            Self::Physical(wanted) => wanted == id,
            Self::Logical(wanted) => {
                let own = logical_id(id);
                wanted >> 16 == own >> 16 && wanted & own & 0xFFFF != 0
            }
            Self::All => true,
            Self::AllBut(sender) => sender != id,
        }
    }
}

/// The logical id (LDR) that belongs to x2APIC id `id`.
#[must_use]
pub const fn logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

const fn single_of_cluster(destination: u32) -> Option<u32> {
    let members = destination & 0xFFFF;
    if members.count_ones() == 1 {
        Some((destination >> 16) << 4 | members.trailing_zeros())
    } else {
        None
    }
}

/// An interrupt on its way from a device to one or more local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptMessage {
    /// The vector, for modes that have one. Vectors 0–15 are illegal; the receiver refuses them.
    pub vector: u8,
    /// What the receiver does.
    pub mode: DeliveryMode,
    /// Who receives.
    pub target: Target,
    /// Whether the source waits for the EOI.
    pub trigger: Trigger,
}

/// The first MiB-aligned address of the window in which a write is an interrupt.
const MSI_WINDOW: u64 = 0xFEE0_0000;

impl InterruptMessage {
    /// Decodes a message-signalled interrupt; `None` where `address` is outside the interrupt window or the delivery
    /// mode is reserved. MSIs count as edges whatever their data says about level.
    ///
    /// Intel SDM vol. 3A, "Message Signalled Interrupts".
    #[must_use]
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address & !0xF_FFFF != MSI_WINDOW {
            return None;
        }
        let Some(mode) = DeliveryMode::from_bits((data >> 8) as u64) else {
            return None;
        };
        let destination = (address >> 12 & 0xFF) as u8;
        Some(Self {
            vector: (data & 0xFF) as u8,
            mode,
            target: Target::from_device(destination, address & 1 << 2 != 0),
            trigger: Trigger::Edge,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn logical_id_is_cluster_and_one_bit() {
        assert_eq!(logical_id(0), 0x0000_0001);
        assert_eq!(logical_id(5), 0x0000_0020);
        assert_eq!(logical_id(0x1F), 0x0001_8000);
    }

    #[test]
    fn all_ones_is_a_broadcast_in_both_widths_and_modes() {
        for is_logical in [false, true] {
            assert_eq!(Target::from_x2apic(u32::MAX, is_logical), Target::All);
            assert_eq!(Target::from_device(u8::MAX, is_logical), Target::All);
        }
        assert_eq!(Target::from_x2apic(0xFF, false), Target::Physical(0xFF));
    }

    #[test]
    fn logical_target_reaches_the_members_of_one_cluster_only() {
        let target = Target::from_x2apic(0x0001_0005, true);
        let reached: alloc::vec::Vec<u32> = (0..64).filter(|&id| target.includes(id)).collect();
        assert_eq!(reached, [16, 18]);
    }

    #[test]
    fn all_but_leaves_out_the_sender() {
        assert!(!Target::AllBut(3).includes(3));
        assert!(Target::AllBut(3).includes(4));
    }

    #[test]
    fn msi_carries_vector_mode_and_destination() {
        let message = InterruptMessage::from_msi(0xFEE0_3004, 0x0141).expect("in the window");
        assert_eq!(message.vector, 0x41);
        assert_eq!(message.mode, DeliveryMode::LowestPriority);
        assert_eq!(message.target, Target::Logical(3));
        assert_eq!(message.trigger, Trigger::Edge);
        assert_eq!(InterruptMessage::from_msi(0xFEF0_0000, 0x41), None);
        assert_eq!(InterruptMessage::from_msi(0xFEE0_0000, 0x341), None);
    }

    proptest! {
        #[test]
        fn single_agrees_with_includes(destination: u32, is_logical: bool, id in 0..4096u32) {
            let target = Target::from_x2apic(destination, is_logical);
            if let Some(only) = target.single() {
                prop_assert_eq!(target.includes(id), only == id);
                prop_assert!(target.includes(only));
            }
        }
    }
}
