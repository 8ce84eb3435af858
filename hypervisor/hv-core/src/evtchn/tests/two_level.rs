//! The 2-level ABI bit by bit, against a model that knows no words; and moving a vCPU's info.

use std::collections::BTreeSet;
use std::vec::Vec;

use guest_abi::compat::Width;
use proptest::prelude::*;

use super::*;
use crate::vcpu::time::ClockScale;

const PENDING: usize = 2048;
const MASK: usize = 2560;
const NARROW_MASK: usize = 2176;
const PORTS: u32 = 150;

#[derive(Clone, Debug)]
enum Op {
    Send(u32),
    Mask(u32),
    Unmask(u32),
    Bind(u32, u16),
    Consume(u16),
    MoveInfo(u16),
}

fn op() -> impl Strategy<Value = Op> {
    // Few ports, but in each of the three words.
    let port = prop_oneof![1..4u32, 62..66u32, 126..130u32];
    let vcpu = 0..VCPUS;
    prop_oneof![
        4 => port.clone().prop_map(Op::Send),
        2 => port.clone().prop_map(Op::Mask),
        2 => port.clone().prop_map(Op::Unmask),
        1 => (port, vcpu.clone()).prop_map(|(port, vcpu)| Op::Bind(port, vcpu)),
        2 => vcpu.clone().prop_map(Op::Consume),
        1 => vcpu.prop_map(Op::MoveInfo),
    ]
}

/// The guest's side, which follows the registered places, and what it believes.
struct Guest {
    width: Width,
    shared_info: TestFrame,
    infos: Vec<(TestFrame, usize)>,
    pending: BTreeSet<u32>,
    masked: BTreeSet<u32>,
}

impl Guest {
    /// Takes upcalls of `vcpu` until there are none, as Linux does; returns the events seen.
    fn consume(&mut self, vcpu: u16) -> Vec<u32> {
        let (frame, at) = &self.infos[usize::from(vcpu)];
        let mut seen = Vec::new();
        while frame.swap_u8(*at, 0) != 0 {
            match self.width {
                Width::Bits64 => {
                    let selected = frame.fetch_and_u64(at + 8, 0);
                    for word in (0..64).filter(|word| selected & 1 << word != 0) {
                        let mask = self.shared_info.load_u64(MASK + word * 8);
                        let pending = self.shared_info.load_u64(PENDING + word * 8) & !mask;
                        self.shared_info.fetch_and_u64(PENDING + word * 8, !pending);
                        let bits = (0..64).filter(|bit| pending & 1 << bit != 0);
                        seen.extend(bits.map(|bit| word * 64 + bit));
                    }
                }
                Width::Bits32 => {
                    let selected = frame.fetch_and_u32(at + 4, 0);
                    for word in (0..32).filter(|word| selected & 1 << word != 0) {
                        let mask = self.shared_info.load_u32(NARROW_MASK + word * 4);
                        let pending = self.shared_info.load_u32(PENDING + word * 4) & !mask;
                        self.shared_info.fetch_and_u32(PENDING + word * 4, !pending);
                        let bits = (0..32).filter(|bit| pending & 1 << bit != 0);
                        seen.extend(bits.map(|bit| word * 32 + bit));
                    }
                }
            }
        }
        let port = |bit: usize| u32::try_from(bit).expect("below 4096");
        seen.into_iter().map(port).collect()
    }

    fn mask(&self, port: u32) {
        match self.width {
            Width::Bits64 => {
                let (word, bit) = ((port / 64) as usize, 1 << (port % 64));
                self.shared_info.fetch_or_u64(MASK + word * 8, bit);
            }
            Width::Bits32 => {
                let (word, bit) = ((port / 32) as usize, 1 << (port % 32));
                self.shared_info.fetch_or_u32(NARROW_MASK + word * 4, bit);
            }
        }
    }
}

proptest! {
    /// Every event sent to an unmasked port is seen by a consumer, and by one that was told to look; a masked one
    /// waits until the port is unmasked. Pollers are told exactly of new events.
    #[test]
    fn each_event_is_seen_once(is_narrow: bool, ops in prop::collection::vec(op(), 0..200)) {
        let shared_info = TestFrame::new();
        let width = if is_narrow { Width::Bits32 } else { Width::Bits64 };
        let mut channels = Channels::new(DOM, shared_info.clone(), VCPUS, ALL_PORTS);
        channels.set_width(width);
        // Odd ports raise even ones and the other way round.
        while loopback(&mut channels).0.get() < PORTS {}
        let mut guest = Guest {
            width,
            infos: (0..usize::from(VCPUS)).map(|vcpu| (shared_info.clone(), vcpu * 64)).collect(),
            shared_info,
            pending: BTreeSet::new(),
            masked: BTreeSet::new(),
        };
        guest.consume(0);
        let mut kicked = BTreeSet::new();
        let mut moved = BTreeSet::new();
        let far = |port: u32| ((port - 1) ^ 1) + 1;
        for op in ops {
            let notify = match op {
                Op::Send(port) => {
                    let notify = here(channels.send(Port::new(far(port))));
                    let is_new = guest.pending.insert(port);
                    prop_assert_eq!(notify.wake_pollers_of, is_new.then_some(Port::new(port)));
                    notify
                }
                Op::Mask(port) => {
                    guest.mask(port);
                    guest.masked.insert(port);
                    Notify::NOTHING
                }
                Op::Unmask(port) => {
                    guest.masked.remove(&port);
                    channels.unmask(Port::new(port)).expect("open")
                }
                Op::Bind(port, vcpu) => {
                    channels.bind_vcpu(Port::new(port), vcpu).expect("interdomain");
                    Notify::NOTHING
                }
                Op::Consume(vcpu) => {
                    kicked.remove(&vcpu);
                    for port in guest.consume(vcpu) {
                        prop_assert!(guest.pending.remove(&port) && !guest.masked.contains(&port));
                    }
                    Notify::NOTHING
                }
                Op::MoveInfo(vcpu) => {
                    let frame = TestFrame::new();
                    let result = channels.register_vcpu_info(vcpu, frame.clone(), 4032);
                    prop_assert_eq!(result.is_ok(), moved.insert(vcpu));
                    if result.is_ok() {
                        guest.infos[usize::from(vcpu)] = (frame, 4032);
                    }
                    result.unwrap_or(Notify::NOTHING)
                }
            };
            kicked.extend(notify.upcall);
            for port in &guest.pending {
                prop_assert!(channels.is_pending(Port::new(*port)));
            }
        }
        // Only vCPUs that were kicked get to run: that must be enough.
        for vcpu in kicked {
            for port in guest.consume(vcpu) {
                prop_assert!(guest.pending.remove(&port));
            }
        }
        prop_assert!(guest.pending.iter().all(|port| guest.masked.contains(port)), "{:?} got lost", guest.pending);
    }
}

#[test]
fn send_to_masked_port_sets_pending_without_upcall_and_unmask_tells_of_it() {
    let shared_info = TestFrame::new();
    let mut channels = Channels::new(DOM, shared_info.clone(), 1, ALL_PORTS);
    let port = channels.bind_ipi(0).expect("free");
    shared_info.store_u64(MASK, 1 << port.get());
    let masked = here(channels.send(port));
    assert_eq!(masked.upcall, None);
    assert_eq!(masked.wake_pollers_of, Some(port));
    assert_eq!(here(channels.send(port)), Notify::NOTHING);
    let unmasked = channels.unmask(port).expect("open");
    assert_eq!((unmasked.upcall, unmasked.wake_pollers_of), (Some(0), None));
    assert_eq!(channels.unmask(port), Ok(Notify::NOTHING));
}

#[test]
fn guest_of_32_bits_has_a_quarter_of_the_ports() {
    for (width, ports) in [(Width::Bits64, 4096), (Width::Bits32, 1024)] {
        let mut channels = Channels::new(DOM, TestFrame::new(), 1, ALL_PORTS);
        channels.set_width(width);
        let opened = core::iter::from_fn(|| {
            channels.make_room().expect("the heap has room");
            channels.bind_ipi(0).ok()
        });
        assert_eq!(opened.count(), ports - 1);
    }
}

#[test]
fn closing_a_port_forgets_its_event() {
    let mut channels = Channels::new(DOM, TestFrame::new(), 1, ALL_PORTS);
    let port = channels.bind_ipi(0).expect("free");
    let _ = here(channels.send(port));
    assert!(channels.is_pending(port));
    assert_eq!(channels.close(port), Ok(None));
    assert!(!channels.is_pending(port));
    assert_eq!(channels.bind_ipi(0), Ok(port));
    assert_eq!(here(channels.send(port)).wake_pollers_of, Some(port));
}

#[test]
fn a_moved_info_keeps_its_time_and_marks_everything_pending_once() {
    let shared_info = TestFrame::new();
    let mut channels = Channels::new(DOM, shared_info.clone(), 40, ALL_PORTS);
    let clock = PvClock {
        tsc_timestamp: 3,
        system_time_ns: 4,
        scale: ClockScale::from_tsc_khz(3_000_000).expect("not 0"),
        is_tsc_stable: true,
    };
    channels.write_time(1, &clock);
    let frame = TestFrame::new();
    for offset in [4, 4040, 4096, u32::MAX] {
        let refused = channels.register_vcpu_info(1, frame.clone(), offset);
        assert_eq!(refused, Err(Error::BadArgument));
    }
    let moved = channels.register_vcpu_info(1, frame.clone(), 128);
    assert_eq!(moved.expect("first").upcall, Some(1));
    assert_eq!(frame.load_u8(128), 1);
    assert_eq!(frame.load_u64(136), u64::MAX);
    for offset in (0..32).step_by(8) {
        let (old, new) = (64 + 32 + offset, 128 + 32 + offset);
        assert_eq!(frame.load_u64(new), shared_info.load_u64(old));
    }
    let again = channels.register_vcpu_info(1, TestFrame::new(), 0);
    assert_eq!(again, Err(Error::BadArgument));
    let absent = channels.register_vcpu_info(40, TestFrame::new(), 0);
    assert_eq!(absent, Err(Error::NoSuchVcpu));
    // Beyond the 32 in the shared info frame an event waits for the place.
    let port = channels.bind_ipi(35).expect("free");
    assert_eq!(here(channels.send(port)).upcall, None);
    let late = channels.register_vcpu_info(35, TestFrame::new(), 0);
    assert_eq!(late.expect("first").upcall, Some(35));
}
