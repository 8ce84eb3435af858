//! The FIFO ABI with a guest that consumes queues as Linux does, step by step *between* the accesses of the hypervisor.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::testing::Meanwhile;
use super::*;

const PENDING: u32 = 1 << 31;
const MASKED: u32 = 1 << 30;
const LINKED: u32 = 1 << 29;
const BUSY: u32 = 1 << 28;
const LINK: u32 = (1 << 17) - 1;

const PORTS: u32 = 12;
/// Byte offset of the control block in each vCPU's frame.
const CONTROL: usize = 256;

/// One vCPU of the guest in its upcall: drivers/xen/events/events_fifo.c as a machine of atomic steps.
struct Consumer {
    info: (TestFrame, usize),
    control: TestFrame,
    heads: [u32; 16],
    ready: u32,
    at: Step,
}

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Idle,
    TakeReady,
    Unlink { queue: usize, port: u32 },
    Handle { port: u32 },
}

struct Guest {
    words: TestFrame,
    vcpus: Vec<Consumer>,
    /// Events handled, by port.
    handled: BTreeMap<u32, u32>,
    /// How many steps are taken before each of the hypervisor's next accesses, and by whom.
    schedule: Vec<(usize, u8)>,
}

impl Guest {
    fn step(&mut self, vcpu: usize) {
        let words = &self.words;
        let this = &mut self.vcpus[vcpu];
        this.at = match this.at {
            Step::Idle => {
                let (frame, at) = &this.info;
                if frame.swap_u8(*at, 0) == 0 {
                    Step::Idle
                } else {
                    Step::TakeReady
                }
            }
            Step::TakeReady => {
                this.ready |= this.control.fetch_and_u32(CONTROL, 0);
                let queue = this.ready.trailing_zeros() as usize;
                if this.ready == 0 {
                    Step::Idle
                } else {
                    if this.heads[queue] == 0 {
                        this.heads[queue] = this.control.load_u32(CONTROL + 8 + queue * 4);
                    }
                    let port = this.heads[queue];
                    assert_ne!(port, 0, "a ready queue without a head");
                    Step::Unlink { queue, port }
                }
            }
            Step::Unlink { queue, port } => {
                let at = port as usize * 4;
                let word = words.load_u32(at) & !BUSY;
                let unlinked = word & !(LINKED | LINK);
                if words.compare_exchange_u32(at, word, unlinked).is_err() {
                    this.at
                } else {
                    this.heads[queue] = word & LINK;
                    if word & LINK == 0 {
                        this.ready &= !(1 << queue);
                    }
                    Step::Handle { port }
                }
            }
            Step::Handle { port } => {
                let word = words.load_u32(port as usize * 4);
                if word & (PENDING | MASKED) == PENDING {
                    words.fetch_and_u32(port as usize * 4, !PENDING);
                    *self.handled.entry(port).or_default() += 1;
                }
                Step::TakeReady
            }
        };
    }

    /// Lets `vcpu` run until it has nothing to do.
    fn drain(&mut self, vcpu: usize) {
        for _ in 0..10_000 {
            let (frame, at) = &self.vcpus[vcpu].info;
            if self.vcpus[vcpu].at == Step::Idle && frame.load_u8(*at) == 0 {
                return;
            }
            self.step(vcpu);
        }
        panic!("vCPU {vcpu} is caught in its queues");
    }

    fn is_consistent(&self) -> bool {
        self.vcpus
            .iter()
            .all(|vcpu| vcpu.control.load_u32(CONTROL) == 0 && vcpu.ready == 0)
    }
}

struct World {
    channels: Channels,
    guest: Rc<RefCell<Guest>>,
    /// Times that the hypervisor called an event new, by port.
    raised: BTreeMap<u32, u32>,
}

impl World {
    fn new(schedule: Vec<(usize, u8)>) -> Self {
        let shared_info = TestFrame::new();
        let mut channels = Channels::new(DOM, shared_info.clone(), VCPUS, ALL_PORTS);
        while loopback(&mut channels).0.get() < PORTS {}
        // What binding raised under the 2-level ABI is of no interest here.
        for port in (0..64).step_by(8) {
            shared_info.store_u64(2048 + port, 0);
        }
        let vcpus = (0..usize::from(VCPUS)).map(|_| Consumer {
            info: (TestFrame::new(), 0),
            control: TestFrame::new(),
            heads: [0; 16],
            ready: 0,
            at: Step::Idle,
        });
        let guest = Guest {
            words: TestFrame::new(),
            vcpus: vcpus.collect(),
            handled: BTreeMap::new(),
            schedule,
        };
        let mut world = Self {
            channels,
            guest: Rc::new(RefCell::new(guest)),
            raised: BTreeMap::new(),
        };
        world.set_up();
        world
    }

    fn set_up(&mut self) {
        let guest = self.guest.clone();
        let meanwhile: Meanwhile = Rc::new(move || {
            let mut guest = guest.borrow_mut();
            if let Some((vcpu, steps)) = guest.schedule.pop() {
                (0..steps).for_each(|_| guest.step(vcpu));
            }
        });
        let schedule = core::mem::take(&mut self.guest.borrow_mut().schedule);
        for vcpu in 0..VCPUS {
            let guest = self.guest.borrow();
            let consumer = &guest.vcpus[usize::from(vcpu)];
            let control = consumer.control.raced_by(&meanwhile);
            let info = consumer.info.0.raced_by(&meanwhile);
            drop(guest);
            let offset = u32::try_from(CONTROL).expect("small");
            let result = self.channels.init_control(vcpu, control, offset);
            assert_eq!(result, Ok(()));
            let result = self.channels.register_vcpu_info(vcpu, info, 0);
            assert!(result.is_ok());
        }
        let words = self.guest.borrow().words.raced_by(&meanwhile);
        let notifies = self.channels.expand_array(words);
        assert_eq!(notifies, Ok(Vec::new()));
        self.guest.borrow_mut().schedule = schedule;
    }

    fn note(&mut self, notify: Notify) {
        if let Some(port) = notify.wake_pollers_of {
            *self.raised.entry(port.get()).or_default() += 1;
        }
    }

    fn send_to(&mut self, port: u32) {
        let notify = here(self.channels.send(Port::new(((port - 1) ^ 1) + 1)));
        self.note(notify);
    }

    /// As Linux does: the hypervisor is asked only where something waits.
    fn unmask(&mut self, port: u32) {
        let words = self.guest.borrow().words.clone();
        if words.fetch_and_u32(port as usize * 4, !MASKED) & PENDING != 0 {
            let notify = self.channels.unmask(Port::new(port)).expect("open");
            self.note(notify);
        }
    }

    fn drain_all(&mut self) {
        let mut guest = self.guest.borrow_mut();
        guest.schedule.clear();
        (0..usize::from(VCPUS)).for_each(|vcpu| guest.drain(vcpu));
    }
}

#[derive(Clone, Debug)]
enum Op {
    Send(u32),
    Mask(u32),
    Unmask(u32),
    Bind(u32, u16),
    SetPriority(u32, u32),
    Steps(usize, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let port = 1..=PORTS;
    prop_oneof![
        8 => port.clone().prop_map(Op::Send),
        1 => port.clone().prop_map(Op::Mask),
        2 => port.clone().prop_map(Op::Unmask),
        1 => (port.clone(), 0..VCPUS).prop_map(|(port, vcpu)| Op::Bind(port, vcpu)),
        1 => (port, 5..8u32).prop_map(|(port, priority)| Op::SetPriority(port, priority)),
        4 => (0..usize::from(VCPUS), 0..20u8).prop_map(|(vcpu, steps)| Op::Steps(vcpu, steps)),
    ]
}

fn schedule() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec((0..usize::from(VCPUS), 0..6u8), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// However the guest's steps fall between ours, each event called new is handled exactly once, and nothing stays
    /// behind in a queue.
    #[test]
    fn each_event_is_handled_once(ops in prop::collection::vec(op(), 0..150), schedule in schedule()) {
        let mut world = World::new(schedule);
        for op in ops {
            match op {
                Op::Send(port) => world.send_to(port),
                Op::Mask(port) => {
                    world.guest.borrow().words.fetch_or_u32(port as usize * 4, MASKED);
                }
                Op::Unmask(port) => world.unmask(port),
                Op::Bind(port, vcpu) => {
                    world.channels.bind_vcpu(Port::new(port), vcpu).expect("interdomain");
                }
                Op::SetPriority(port, priority) => {
                    world.channels.set_priority(Port::new(port), priority).expect("below 16");
                }
                Op::Steps(vcpu, steps) => {
                    (0..steps).for_each(|_| world.guest.borrow_mut().step(vcpu));
                }
            }
        }
        world.guest.borrow_mut().schedule.clear();
        (1..=PORTS).for_each(|port| world.unmask(port));
        world.drain_all();
        let guest = world.guest.borrow();
        prop_assert_eq!(&guest.handled, &world.raised);
        prop_assert!(guest.is_consistent());
        for port in 1..=PORTS {
            let word = guest.words.load_u32(port as usize * 4);
            prop_assert_eq!(word & !LINK, 0, "port {} is left as {:#x}", port, word);
        }
    }

    /// Without a race, events of one priority are handled in the order in which they were sent, lower numbers first.
    #[test]
    fn a_queue_keeps_the_order_of_arrival(ports in prop::collection::vec(1..=PORTS, 1..40), urgent in 1..=PORTS) {
        let mut world = World::new(Vec::new());
        world.channels.set_priority(Port::new(urgent), 0).expect("below 16");
        let mut expected = Vec::new();
        for port in ports {
            world.send_to(port);
            if !expected.contains(&port) {
                expected.push(port);
            }
        }
        expected.sort_by_key(|port| *port != urgent);
        let mut guest = world.guest.borrow_mut();
        let mut order = Vec::new();
        for _ in 0..1000 {
            if let Step::Handle { port } = guest.vcpus[0].at {
                order.push(port);
            }
            guest.step(0);
        }
        // vCPU 0 starts with an upcall from registering its info: all is in its queues.
        prop_assert_eq!(order, expected);
    }
}

#[test]
fn events_of_the_time_before_their_page_are_told_when_it_comes() {
    let shared_info = TestFrame::new();
    let mut channels = Channels::new(DOM, shared_info.clone(), 1, ALL_PORTS);
    let early = channels.bind_ipi(0).expect("free");
    assert!(here(channels.send(early)).upcall.is_some());
    assert_eq!(channels.set_priority(early, 3), Err(Error::NotFifo));
    let control = TestFrame::new();
    assert_eq!(channels.init_control(0, control.clone(), 0), Ok(()));
    let between = channels.bind_ipi(0).expect("free");
    let masked = channels.bind_ipi(0).expect("free");
    let first = here(channels.send(between));
    assert_eq!((first.upcall, first.wake_pollers_of), (None, Some(between)));
    assert_eq!(here(channels.send(between)), Notify::NOTHING);
    assert!(channels.is_pending(early) && channels.is_pending(between));
    let _ = here(channels.send(masked));
    let page = TestFrame::new();
    page.store_u32(masked.get() as usize * 4, MASKED);
    shared_info.store_u8(0, 0);
    let notifies = channels.expand_array(page.clone()).expect("FIFO");
    assert_eq!(notifies.len(), 1, "the upcall flag rises once");
    assert_eq!(control.load_u32(0), 1 << 7);
    assert_eq!(control.load_u32(8 + 7 * 4), early.get());
    let words = [early, between, masked].map(|port| page.load_u32(port.get() as usize * 4));
    assert_eq!(words[0], PENDING | LINKED | between.get());
    assert_eq!(words[1], PENDING | LINKED);
    assert_eq!(words[2], PENDING | MASKED);
}

#[test]
fn pages_ports_and_control_blocks_have_limits() {
    let mut channels = Channels::new(DOM, TestFrame::new(), 2, ALL_PORTS);
    assert_eq!(channels.expand_array(TestFrame::new()), Err(Error::NotFifo));
    for offset in [4, 4032, 4096, u32::MAX] {
        let refused = channels.init_control(0, TestFrame::new(), offset);
        assert_eq!(refused, Err(Error::BadArgument));
    }
    let absent = channels.init_control(2, TestFrame::new(), 0);
    assert_eq!(absent, Err(Error::NoSuchVcpu));
    for _ in 1..4096 {
        channels.bind_ipi(0).expect("free");
    }
    assert_eq!(channels.bind_ipi(0), Err(Error::NoFreePort));
    assert_eq!(channels.init_control(1, TestFrame::new(), 4024), Ok(()));
    let again = channels.init_control(1, TestFrame::new(), 0);
    assert_eq!(again, Err(Error::BadArgument));
    let port = channels.bind_ipi(0).expect("the FIFO ABI has more");
    assert_eq!(port.get(), 4096);
    assert_eq!(channels.set_priority(port, 16), Err(Error::BadArgument));
    for _ in 0..128 {
        assert_eq!(channels.expand_array(TestFrame::new()), Ok(Vec::new()));
    }
    let past = channels.expand_array(TestFrame::new());
    assert_eq!(past, Err(Error::NoFreePort));
    while !channels.reset(1000).is_done {}
    assert_eq!(channels.set_priority(port, 3), Err(Error::NotFifo));
    assert_eq!(channels.bind_ipi(0), Ok(Port::new(1)));
}
