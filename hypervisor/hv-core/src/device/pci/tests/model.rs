//! What must hold of the device whatever dom0 does, against a table of its entries as dom0 wrote them.

use proptest::prelude::*;

use super::*;

/// What dom0 has written, and nothing else.
#[derive(Default)]
struct Model {
    entries: [[u32; 4]; ENTRIES],
}

impl Model {
    fn new() -> Self {
        Self {
            entries: [[0, 0, 0, 1]; ENTRIES],
        }
    }

    /// A store at `offset` of the table.
    fn store(&mut self, offset: usize, size: u8, value: u64) {
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(usize::from(size)) {
            return;
        }
        let [a, b, c, d, high @ ..] = value.to_le_bytes();
        let words = [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes(high)];
        for (i, word) in words.into_iter().enumerate() {
            let at = offset / 4 + i;
            if i == 0 || size == 8 {
                let writable = [!3, u32::MAX, u32::MAX, 1][at % 4];
                self.entries[at / 4][at % 4] = word & writable;
            }
        }
    }

    fn message(&self, index: usize) -> Option<InterruptMessage> {
        let [low, high, data, control] = self.entries[index];
        let address = u64::from(high) << 32 | u64::from(low);
        InterruptMessage::from_msi(address, data).filter(|_| control & 1 == 0)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Config(u16, u8, u32),
    Extended(u16, u32),
    Table(u32, u8, u64),
    Keep,
    Reset,
}

fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..4).prop_map(|cpu| 0xfee0_0000 | cpu << 12),
        (0x10u32..0x100),
        Just(0),
        Just(2),
        Just(BAR),
        Just(0x8f00_0000),
        Just(0x8000),
        Just(0xc000),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let place = prop_oneof![
        Just(4u16),
        Just(0x10),
        Just(0x14),
        0x60u16..0x80,
        Just(0x62),
        Just(0x72),
        8u16..0x100
    ];
    let size = prop_oneof![Just(1u8), Just(2), Just(4)];
    let wide = prop_oneof![Just(1u8), Just(2), Just(4), Just(4), Just(8)];
    prop_oneof![
        6 => (place, size, value()).prop_map(|(at, size, value)| Step::Config(at & !(u16::from(size) - 1), size, value)),
        1 => (0x100u16..0x1000, any::<u32>()).prop_map(|(at, value)| Step::Extended(at & !3, value)),
        8 => (0u32..0x800, wide, value(), value()).prop_map(|(at, size, low, high)| {
            // mostly in the table
            let at = if at < 0x600 { at % 0x30 } else { at };
            Step::Table(at & !(u32::from(size) - 1), size, u64::from(high) << 32 | u64::from(low))
        }),
        4 => Just(Step::Keep),
        1 => Just(Step::Reset),
    ]
}

/// True for what must stay as it is, for the device to be the same one.
fn is_its_shape(offset: u16) -> bool {
    matches!(offset, 0..4 | 6..16 | 0x34..0x38 | 0x50..0x54 | 0x90..0x94)
        || matches!(offset, 0x60..0x62 | 0x70..0x72)
}

/// Where the device has its table now.
fn table_of(machine: &mut Machine) -> Option<u64> {
    let low = machine.read(NIC, 0x10, 4);
    let high = if low & 6 == 4 {
        machine.read(NIC, 0x14, 4)
    } else {
        0
    };
    let base = u64::from(high) << 32 | u64::from(low & !0xf);
    let is_reached = machine.space[4] & 2 != 0 && low & 1 == 0 && base != 0;
    let table = base.checked_add(u64::from(TABLE))?;
    (is_reached && table.checked_add(0x40)? < 1 << 52).then_some(table)
}

fn check(dom0: &mut Dom0, model: &Model) -> Result<(), TestCaseError> {
    let table = table_of(&mut dom0.machine);
    let is_on = dom0.machine.control(0x62) & 0x8000 != 0;
    let mut held = 0;
    if is_on {
        // reached, and dom0 is kept from it
        let table = table.unwrap_or_default();
        let frame = Mfn::containing(Hpa::new(table));
        prop_assert!(DEVICES.contains(&table));
        prop_assert!(dom0.kept.iter().any(|kept| kept.contains(frame)));
        for index in 0..ENTRIES {
            let [low, high, data, control] = dom0.machine.entry(index);
            let wanted = model.message(index);
            if control & 1 != 0 {
                prop_assert!(wanted.is_none() || dom0.routes.held() == VECTORS);
                continue;
            }
            held += 1;
            prop_assert_eq!((low, high), (0xfee0_3000, 0));
            prop_assert_eq!(dom0.message(data), wanted);
            prop_assert!(wanted.is_some());
        }
    }
    let msi = dom0.machine.control(MSI + 2);
    if msi & 1 != 0 {
        let count = 1u32 << (msi >> 4 & 7);
        held += count as usize;
        prop_assert_eq!(
            dom0.machine.space[0x74..0x78].to_vec(),
            [0, 0x30, 0xe0, 0xfe]
        );
        let first = u32::from(dom0.machine.space[0x7c]);
        prop_assert_eq!(first % count, 0);
        let (low, data) = (dom0.read(NIC, 0x74, 4), dom0.read(NIC, 0x7c, 2));
        let high = dom0.read(NIC, 0x78, 4);
        for index in 0..count {
            let own = data & !(count - 1) | index;
            let address = u64::from(high) << 32 | u64::from(low);
            prop_assert_eq!(
                dom0.message(first + index),
                InterruptMessage::from_msi(address, own)
            );
        }
    }
    prop_assert!(dom0.routes.held() >= held);
    Ok(())
}

const VECTORS: usize = 8;

proptest! {
    /// Whatever dom0 writes where: the device has messages of the host's only, what they are delivered as is what dom0
    /// asked for, and its table is in use only while dom0 is kept from it.
    #[test]
    fn the_device_has_the_hosts_messages_only(steps in proptest::collection::vec(step(), 0..60)) {
        let mut dom0 = Dom0::with_vectors(0x84, 0x48..=0x4f);
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Config(offset, size, value) => {
                    if (offset..offset + u16::from(size)).any(is_its_shape) {
                        continue;
                    }
                    dom0.write(offset, size, value);
                }
                Step::Extended(offset, value) => {
                    if offset >= 0x104 && !(0x140..0x144).contains(&offset) && !(0x180..0x184).contains(&offset) {
                        dom0.on(|pci, host| pci.write_memory((NIC, offset, 4), value, host));
                    }
                }
                Step::Table(offset, size, value) => {
                    if let Some(table) = table_of(&mut dom0.machine) {
                        let at = Hpa::new(table + u64::from(offset));
                        let is_kept = dom0.on(|pci, host| pci.store(at, (size, value), host));
                        prop_assert_eq!(is_kept, DEVICES.contains(&table));
                        if is_kept && offset < 0x30 {
                            model.store(offset as usize, size, value);
                        }
                    }
                }
                Step::Keep => dom0.keep(),
                Step::Reset => {
                    if dom0.machine.control(0x62) & 0x8000 != 0 {
                        model = Model::new();
                    }
                    dom0.reset_device();
                    // it is noticed
                    dom0.read(NIC, 0x62, 2);
                    dom0.read(NIC, 0x72, 2);
                    dom0.write(4, 1, 0);
                }
            }
            dom0.touch();
            check(&mut dom0, &model)?;
        }
        // what dom0 reads is what it wrote
        dom0.write(0x14, 4, 0);
        dom0.write(0x10, 4, BAR | 4);
        dom0.write(4, 1, 2);
        dom0.keep();
        check(&mut dom0, &model)?;
        for (index, entry) in model.entries.iter().enumerate() {
            for (i, word) in entry.iter().enumerate() {
                let at = BAR + TABLE + u32::try_from(index * 16 + i * 4).unwrap();
                prop_assert_eq!(dom0.load(at, 4), Some(u64::from(*word)));
            }
        }
        // off, it has nothing
        dom0.write(0x62, 2, 0);
        dom0.write(0x72, 2, 0);
        prop_assert_eq!(dom0.routes.held(), 0);
    }

    #[test]
    fn any_configuration_space_can_be_searched(space in proptest::collection::vec(any::<u8>(), 4096), offset in any::<u8>(), value in any::<u32>()) {
        let mut dom0 = Dom0::new(0);
        dom0.machine.space.copy_from_slice(&space);
        dom0.pci = PciConfig::new(&[]);
        dom0.on(|pci, host| {
            pci.read_memory((NIC, u16::from(offset & !3), 4), host);
            pci.write_memory((NIC, u16::from(offset & !3), 4), value, host);
        });
        dom0.keep();
    }
}
