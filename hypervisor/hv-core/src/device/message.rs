//! What travels between interrupt controllers: a vector, a delivery mode and a destination.
//!
//! In x2APIC mode an id is 32 bits and the logical id is derived from it: cluster in the upper half, one bit of 16 in
//! the lower. In xAPIC mode the guest chooses the 8 bits of the logical id, and how they are compared. A sender in
//! xAPIC mode, an I/O APIC and an MSI have 8 bits of destination only; the mode of the receiver says what a logical one
//! means.
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
    /// In x2APIC mode a cluster in bits 31:16 and a mask of members in bits 15:0; in xAPIC mode bits 7:0 are compared.
    Logical(u32),
    All,
    /// Every CPU but the one with this x2APIC id.
    AllBut(u32),
}

/// A destination of all ones means every CPU, in either mode.
const BROADCAST: u32 = u32::MAX;
/// The same in the 8 bits of xAPIC mode.
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

    /// Decodes the 8-bit destination field of an xAPIC ICR, a redirection entry or an MSI address: zero-extended,
    /// except that all ones stays a broadcast.
    #[must_use]
    pub const fn from_xapic(destination: u8, is_logical: bool) -> Self {
        match (destination, is_logical) {
            (BROADCAST_8, _) => Self::All,
            (_, true) => Self::Logical(destination as u32),
            (_, false) => Self::Physical(destination as u32),
        }
    }

    /// True where the CPU whose local APIC is `apic` is meant.
    #[must_use]
    pub const fn includes(self, apic: ApicAddress) -> bool {
        match self {
            Self::Physical(wanted) => wanted == apic.id,
            Self::Logical(wanted) => apic.logical.is_in(wanted, apic.id),
            Self::All => true,
            Self::AllBut(sender) => sender != apic.id,
        }
    }
}

/// What a local APIC is reached by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ApicAddress {
    /// Its x2APIC id, of which xAPIC mode has the lower 8 bits.
    pub id: u32,
    pub logical: LogicalId,
}

/// The logical id of a local APIC, and how it is compared. Intel SDM vol. 3A, "Logical Destination Mode".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogicalId {
    /// x2APIC mode: it belongs to the id ([`logical_id`]).
    OfId,
    /// xAPIC mode, flat model: one bit in common is enough. 0 is reached by nobody.
    Flat(u8),
    /// xAPIC mode, cluster model: the cluster in bits 7:4 is the same, and one of bits 3:0 in common.
    Cluster(u8),
}

impl LogicalId {
    /// After reset: xAPIC mode, not yet set.
    pub const RESET: Self = Self::Flat(0);

    /// The logical id of an APIC in xAPIC mode, from its registers LDR and DFR. One with a reserved model is reached by
    /// nobody.
    #[must_use]
    pub const fn of_xapic(ldr: u32, dfr: u32) -> Self {
        const FLAT: u32 = 0xF;
        const CLUSTER: u32 = 0;
        let [.., id] = ldr.to_le_bytes();
        match dfr >> 28 {
            FLAT => Self::Flat(id),
            CLUSTER => Self::Cluster(id),
            _ => Self::RESET,
        }
    }

    /// It in a word that others may read while its owner changes it.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        match self {
            Self::Flat(id) => id as u32,
            Self::Cluster(id) => 1 << 8 | id as u32,
            Self::OfId => 2 << 8,
        }
    }

    /// What [`to_bits`](Self::to_bits) gave.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        let [id, kind, ..] = bits.to_le_bytes();
        match kind {
            0 => Self::Flat(id),
            1 => Self::Cluster(id),
            _ => Self::OfId,
        }
    }

    const fn is_in(self, wanted: u32, own_id: u32) -> bool {
        let [narrow, ..] = wanted.to_le_bytes();
        match self {
            Self::OfId => {
                let own = logical_id(own_id);
                wanted >> 16 == own >> 16 && wanted & own & 0xFFFF != 0
            }
            Self::Flat(own) => own & narrow != 0,
            Self::Cluster(own) => own >> 4 == narrow >> 4 && own & narrow & 0xF != 0,
        }
    }
}

/// The logical id (LDR) that belongs to x2APIC id `id`.
#[must_use]
pub const fn logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

/// An interrupt on its way from a device to one or more local APICs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptMessage {
    /// The vector, for modes that have one. Vectors 0–15 are illegal; the receiver refuses them.
    pub vector: u8,
    /// What the receiver does.
    pub mode: DeliveryMode,
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
            target: Target::from_xapic(destination, address & 1 << 2 != 0),
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
            assert_eq!(Target::from_xapic(u8::MAX, is_logical), Target::All);
        }
        assert_eq!(Target::from_x2apic(0xFF, false), Target::Physical(0xFF));
    }

    const fn x2apic(id: u32) -> ApicAddress {
        ApicAddress {
            id,
            logical: LogicalId::OfId,
        }
    }

    const fn xapic(id: u32, ldr: u32, dfr: u32) -> ApicAddress {
        ApicAddress {
            id,
            logical: LogicalId::of_xapic(ldr << 24, dfr),
        }
    }

    #[test]
    fn logical_target_reaches_the_members_of_one_cluster_only() {
        let target = Target::from_x2apic(0x0001_0005, true);
        let reached: alloc::vec::Vec<u32> =
            (0..64).filter(|&id| target.includes(x2apic(id))).collect();
        assert_eq!(reached, [16, 18]);
    }

    #[test]
    fn all_but_leaves_out_the_sender() {
        assert!(!Target::AllBut(3).includes(x2apic(3)));
        assert!(Target::AllBut(3).includes(x2apic(4)));
    }

    #[test]
    fn xapic_logical_ids_are_compared_by_their_model() {
        const FLAT: u32 = u32::MAX;
        const CLUSTER: u32 = 0x0FFF_FFFF;
        for (wanted, ldr, dfr, is_meant) in [
            (0x05, 0x04, FLAT, true),
            (0x05, 0x0A, FLAT, false),
            (0x05, 0x00, FLAT, false),
            (0x15, 0x14, CLUSTER, true),
            (0x15, 0x24, CLUSTER, false),
            (0x15, 0x1A, CLUSTER, false),
            (0x05, 0x05, 0x3FFF_FFFF, false),
        ] {
            let target = Target::from_xapic(wanted, true);
            let apic = xapic(2, ldr, dfr);
            assert_eq!(target.includes(apic), is_meant, "{wanted:#x} {apic:?}");
        }
        assert!(Target::from_xapic(0xFF, true).includes(xapic(2, 0, FLAT)));
        assert!(Target::from_xapic(2, false).includes(xapic(2, 0, FLAT)));
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
        fn logical_id_goes_through_its_word(ldr: u32, dfr: u32) {
            for id in [LogicalId::of_xapic(ldr, dfr), LogicalId::of_xapic(ldr, 0), LogicalId::of_xapic(ldr, u32::MAX), LogicalId::OfId] {
                prop_assert_eq!(LogicalId::from_bits(id.to_bits()), id);
            }
        }
    }
}
