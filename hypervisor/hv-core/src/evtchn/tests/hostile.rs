//! A guest that writes anything anywhere at any time: no panic, no endless loop, and no port number it may not have.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::super::testing::Meanwhile;
use super::*;

/// Accesses to the guest's frames that one operation may make, whatever the guest does meanwhile.
const MAX_ACCESSES: u32 = 40;

#[derive(Clone, Debug)]
enum Op {
    Send(u32),
    Unmask(u32),
    SetPriority(u32, u32),
    BindVcpu(u32, u16),
    Close(u32),
    BindIpi(u16),
    AllocUnbound,
    BindLoopback(u32),
    InitControl(u16, u32),
    RegisterInfo(u16, u32),
    RaiseVirq(u16, u32),
    Status(u32),
}

fn op() -> impl Strategy<Value = Op> {
    let port = prop_oneof![10 => 0..40u32, 1 => any::<u32>()];
    let vcpu = prop_oneof![10 => 0..VCPUS, 1 => any::<u16>()];
    let offset = prop_oneof![10 => (0..512u32).prop_map(|word| word * 8), 1 => any::<u32>()];
    prop_oneof![
        8 => port.clone().prop_map(Op::Send),
        4 => port.clone().prop_map(Op::Unmask),
        1 => (port.clone(), any::<u32>()).prop_map(|(port, priority)| Op::SetPriority(port, priority % 20)),
        1 => (port.clone(), vcpu.clone()).prop_map(|(port, vcpu)| Op::BindVcpu(port, vcpu)),
        1 => port.clone().prop_map(Op::Close),
        2 => vcpu.clone().prop_map(Op::BindIpi),
        1 => Just(Op::AllocUnbound),
        1 => port.clone().prop_map(Op::BindLoopback),
        1 => (vcpu.clone(), offset.clone()).prop_map(|(vcpu, offset)| Op::InitControl(vcpu, offset)),
        1 => (vcpu.clone(), offset).prop_map(|(vcpu, offset)| Op::RegisterInfo(vcpu, offset)),
        2 => (vcpu, 0..30u32).prop_map(|(vcpu, virq)| Op::RaiseVirq(vcpu, virq)),
        1 => port.prop_map(Op::Status),
    ]
}

fn run(channels: &mut Channels, op: &Op, frame: &TestFrame) {
    let _ = match *op {
        Op::Send(port) => channels.send(Port::new(port)).err(),
        Op::Unmask(port) => channels.unmask(Port::new(port)).err(),
        Op::SetPriority(port, priority) => channels.set_priority(Port::new(port), priority).err(),
        Op::BindVcpu(port, vcpu) => channels.bind_vcpu(Port::new(port), vcpu).err(),
        Op::Close(port) => channels.close(Port::new(port)).err(),
        Op::BindIpi(vcpu) => channels.bind_ipi(vcpu).err(),
        Op::AllocUnbound => channels.alloc_unbound(DOM).err(),
        Op::BindLoopback(port) => channels.bind_loopback(Port::new(port)).err(),
        Op::InitControl(vcpu, offset) => channels.init_control(vcpu, frame.clone(), offset).err(),
        Op::RegisterInfo(vcpu, offset) => channels
            .register_vcpu_info(vcpu, frame.clone(), offset)
            .err(),
        Op::RaiseVirq(vcpu, virq) => Virq::new(virq).and_then(|virq| {
            let notify = channels.raise_virq(vcpu, virq);
            notify.upcall.map(|_| Error::BadPort)
        }),
        Op::Status(port) => channels.status(Port::new(port)).err(),
    };
}

proptest! {
    /// All that the guest supplies is one and the same frame, which it scribbles over between any two of our accesses.
    #[test]
    fn no_scribbling_makes_us_panic_or_loop(
        ops in prop::collection::vec(op(), 0..200),
        scribbles in prop::collection::vec((0..1024usize, any::<u32>()), 1..200),
        is_fifo: bool,
    ) {
        let frame = TestFrame::new();
        let accesses = Rc::new(Cell::new(0));
        let next = Rc::new(RefCell::new(scribbles.into_iter().cycle()));
        let (scribbled, counted) = (frame.clone(), accesses.clone());
        let meanwhile: Meanwhile = Rc::new(move || {
            counted.set(counted.get() + 1);
            if let Some((word, bits)) = next.borrow_mut().next() {
                // Mostly the words of the ports in use, their flags above all.
                let word = if bits & 3 == 0 { word } else { word % 40 };
                scribbled.store_u32(word * 4, bits);
            }
        });
        let frame = frame.raced_by(&meanwhile);
        let mut channels = Channels::new(DOM, frame.clone(), VCPUS, 40);
        if is_fifo {
            channels.init_control(0, frame.clone(), 2048).expect("first");
            channels.expand_array(frame.clone()).expect("FIFO");
        }
        let mut open: Vec<Port> = Vec::new();
        for op in &ops {
            accesses.set(0);
            run(&mut channels, op, &frame);
            let is_switch = matches!(op, Op::InitControl(..));
            prop_assert!(is_switch || accesses.get() <= MAX_ACCESSES, "{op:?}: {}", accesses.get());
            open.clear();
            open.extend(channels.open_ports(Port::new(1)).map(|(port, _)| port));
            prop_assert!(open.iter().all(|port| (1..=40).contains(&port.get())));
        }
        let reset = channels.reset(u32::MAX);
        prop_assert!(reset.is_done && reset.closed.is_empty());
    }
}
