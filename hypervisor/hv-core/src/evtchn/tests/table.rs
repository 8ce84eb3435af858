//! Ports of two domains against a naive model: who is connected with whom after any sequence of operations.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    AllocUnbound(usize, u16),
    BindInterdomain(usize, u32),
    BindLoopback(usize, u32),
    BindVirq(usize, u32, u16),
    BindIpi(usize, u16),
    BindVcpu(usize, u32, u16),
    Close(usize, u32),
    Send(usize, u32),
    Reset(usize, u32),
}

fn op() -> impl Strategy<Value = Op> {
    let side = 0..2usize;
    let port = 0..20u32;
    prop_oneof![
        3 => (side.clone(), 0..3u16).prop_map(|(side, remote)| Op::AllocUnbound(side, remote)),
        3 => (side.clone(), port.clone()).prop_map(|(side, port)| Op::BindInterdomain(side, port)),
        1 => (side.clone(), port.clone()).prop_map(|(side, port)| Op::BindLoopback(side, port)),
        2 => (side.clone(), 0..30u32, 0..3u16).prop_map(|(side, virq, vcpu)| Op::BindVirq(side, virq, vcpu)),
        1 => (side.clone(), 0..3u16).prop_map(|(side, vcpu)| Op::BindIpi(side, vcpu)),
        1 => (side.clone(), port.clone(), 0..3u16).prop_map(|(side, port, vcpu)| Op::BindVcpu(side, port, vcpu)),
        2 => (side.clone(), port.clone()).prop_map(|(side, port)| Op::Close(side, port)),
        2 => (side.clone(), port).prop_map(|(side, port)| Op::Send(side, port)),
        1 => (side, 1..8u32).prop_map(|(side, limit)| Op::Reset(side, limit)),
    ]
}

const MAX_PORT: u32 = 12;

/// Domain by domain: port → (state, vCPU).
type Model = [BTreeMap<u32, (State, u16)>; 2];

fn peer(side: usize, port: u32) -> Peer {
    Peer {
        domid: domid(u16::from(side == 1)),
        port: Port::new(port),
    }
}

/// Closes in the model, the far end included.
fn model_close(model: &mut Model, side: usize, port: u32) -> bool {
    let Some((state, _)) = model[side].remove(&port) else {
        return false;
    };
    if let State::Interdomain(far) = state
        && let Some(end) = model[usize::from(far.domid.get())].get_mut(&far.port.get())
    {
        end.0 = State::Unbound {
            remote: peer(side, 0).domid,
        };
    }
    true
}

fn waits_for(model: &Model, side: usize, port: u32, remote: DomId) -> bool {
    matches!(model[side].get(&port), Some((State::Unbound { remote: waits }, _)) if *waits == remote)
}

struct World {
    domains: [Channels; 2],
    model: Model,
}

impl World {
    fn new() -> Self {
        let domain = |side| Channels::new(peer(side, 0).domid, TestFrame::new(), VCPUS, MAX_PORT);
        Self {
            domains: [domain(0), domain(1)],
            model: Model::default(),
        }
    }

    fn opened(&mut self, side: usize, result: Result<Port, Error>, state: State, vcpu: u16) {
        let is_full = self.model[side].len() == MAX_PORT as usize;
        match result {
            Ok(port) => {
                assert!(!is_full && (1..=MAX_PORT).contains(&port.get()));
                let replaced = self.model[side].insert(port.get(), (state, vcpu));
                assert_eq!(replaced, None, "handed out twice");
            }
            Err(error) => assert!(is_full && error == Error::NoFreePort, "{error:?}"),
        }
    }

    fn bind(&mut self, side: usize, far_side: usize, port: u32) {
        let near_domid = peer(side, 0).domid;
        let may_bind = waits_for(&self.model, far_side, port, near_domid);
        let [first, second] = &mut self.domains;
        let result = match (side, far_side) {
            (0, 1) => first.bind_interdomain(second, Port::new(port)),
            (1, 0) => second.bind_interdomain(first, Port::new(port)),
            (side, _) => self.domains[side].bind_loopback(Port::new(port)),
        };
        if !may_bind {
            assert_eq!(result, Err(Error::BadPort));
            return;
        }
        let state = State::Interdomain(peer(far_side, port));
        self.opened(side, result.map(|(port, _)| port), state, 0);
        if let Ok((near, _)) = result {
            assert!(self.domains[side].is_pending(near), "tells of the past");
            let far = self.model[far_side].get_mut(&port);
            far.expect("it waits").0 = State::Interdomain(peer(side, near.get()));
        }
    }

    fn bind_virq(&mut self, side: usize, raw: u32, vcpu: u16) {
        let Some(virq) = Virq::new(raw) else {
            assert!(raw >= 24);
            return;
        };
        let result = self.domains[side].bind_virq(virq, vcpu);
        let is_bound = self.model[side].values().any(|(state, bound)| {
            *state == State::Virq(virq) && (!virq.is_per_vcpu() || *bound == vcpu)
        });
        if !virq.is_per_vcpu() && vcpu != 0 {
            assert_eq!(result, Err(Error::BadArgument));
        } else if vcpu >= VCPUS {
            assert_eq!(result, Err(Error::NoSuchVcpu));
        } else if is_bound {
            assert_eq!(result, Err(Error::AlreadyBound));
        } else {
            self.opened(side, result, State::Virq(virq), vcpu);
        }
    }

    fn bind_vcpu(&mut self, side: usize, port: u32, vcpu: u16) {
        let result = self.domains[side].bind_vcpu(Port::new(port), vcpu);
        if vcpu >= VCPUS {
            assert_eq!(result, Err(Error::NoSuchVcpu));
            return;
        }
        let entry = self.model[side].get_mut(&port);
        match entry {
            Some((State::Unbound { .. } | State::Interdomain(_), bound)) => *bound = vcpu,
            Some((State::Virq(virq), bound)) if !virq.is_per_vcpu() => *bound = vcpu,
            _ => {
                assert_eq!(result, Err(Error::BadPort));
                return;
            }
        }
        assert_eq!(result, Ok(()));
    }

    fn close(&mut self, side: usize, port: u32) {
        let result = self.domains[side].close(Port::new(port));
        if let Ok(Some(closed)) = result {
            self.domains[usize::from(closed.to.domid.get())].disconnect(closed);
        }
        let was_open = model_close(&mut self.model, side, port);
        assert_eq!(result.is_ok(), was_open);
    }

    fn send(&mut self, side: usize, port: u32) {
        let result = self.domains[side].send(Port::new(port));
        match self.model[side].get(&port) {
            None | Some((State::Virq(_) | State::Closed, _)) => {
                assert_eq!(result, Err(Error::BadPort));
            }
            Some((State::Unbound { .. }, _)) => {
                assert_eq!(result, Ok(Sent::Here(Notify::NOTHING)));
            }
            Some((State::Ipi, _)) => assert!(self.domains[side].is_pending(Port::new(port))),
            Some((State::Interdomain(far), _)) => {
                let far_side = usize::from(far.domid.get());
                if let Ok(Sent::Remote(delivery)) = result {
                    assert_ne!(far_side, side);
                    let _ = self.domains[far_side].deliver(delivery);
                }
                assert!(self.domains[far_side].is_pending(far.port));
            }
        }
    }

    fn reset(&mut self, side: usize, limit: u32) {
        loop {
            let reset = self.domains[side].reset(limit);
            assert!(reset.closed.len() <= limit as usize);
            for closed in reset.closed {
                self.domains[usize::from(closed.to.domid.get())].disconnect(closed);
            }
            if reset.is_done {
                break;
            }
        }
        for port in 1..=MAX_PORT {
            model_close(&mut self.model, side, port);
        }
    }

    fn check(&self) {
        for (domain, model) in self.domains.iter().zip(&self.model) {
            let ports: BTreeMap<_, _> = domain
                .open_ports(Port::new(1))
                .map(|(port, status)| (port.get(), (status.state, status.vcpu)))
                .collect();
            assert_eq!(ports, *model);
        }
    }
}

proptest! {
    #[test]
    fn two_domains_agree_on_their_connections(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        for op in ops {
            match op {
                Op::AllocUnbound(side, remote) => {
                    let remote = domid(remote);
                    let result = world.domains[side].alloc_unbound(remote);
                    world.opened(side, result, State::Unbound { remote }, 0);
                }
                Op::BindInterdomain(side, port) => world.bind(side, 1 - side, port),
                Op::BindLoopback(side, port) => world.bind(side, side, port),
                Op::BindVirq(side, virq, vcpu) => world.bind_virq(side, virq, vcpu),
                Op::BindIpi(side, vcpu) => {
                    let result = world.domains[side].bind_ipi(vcpu);
                    if vcpu >= VCPUS {
                        prop_assert_eq!(result, Err(Error::NoSuchVcpu));
                    } else {
                        world.opened(side, result, State::Ipi, vcpu);
                    }
                }
                Op::BindVcpu(side, port, vcpu) => world.bind_vcpu(side, port, vcpu),
                Op::Close(side, port) => world.close(side, port),
                Op::Send(side, port) => world.send(side, port),
                Op::Reset(side, limit) => world.reset(side, limit),
            }
            world.check();
        }
    }
}

#[test]
fn an_event_for_a_connection_that_ended_in_between_is_dropped() {
    let mut near = Channels::new(domid(1), TestFrame::new(), 1, ALL_PORTS);
    let mut far = Channels::new(domid(2), TestFrame::new(), 1, ALL_PORTS);
    let waits = far.alloc_unbound(domid(1)).expect("a free port");
    let (port, _) = near.bind_interdomain(&mut far, waits).expect("it waits");
    let Ok(Sent::Remote(delivery)) = near.send(port) else {
        panic!("the peer is remote");
    };
    assert!(far.close(waits).expect("open").is_some());
    let reused = far.bind_ipi(0).expect("a free port");
    assert_eq!(reused, waits);
    assert_eq!(far.deliver(delivery), Notify::NOTHING);
    assert!(!far.is_pending(reused));
}

#[test]
fn a_virq_reaches_the_vcpu_it_is_bound_on_and_a_domains_virq_where_its_port_was_moved() {
    let mut channels = Channels::new(DOM, TestFrame::new(), 3, ALL_PORTS);
    assert_eq!(channels.raise_virq(1, Virq::TIMER), Notify::NOTHING);
    let timer = channels.bind_virq(Virq::TIMER, 1).expect("free");
    let console = channels.bind_virq(Virq::CONSOLE, 0).expect("free");
    channels.bind_vcpu(console, 2).expect("may be moved");
    assert_eq!(channels.raise_virq(0, Virq::TIMER), Notify::NOTHING);
    let expected = |vcpu, port| Notify {
        upcall: Some(vcpu),
        wake_pollers_of: Some(port),
    };
    assert_eq!(channels.raise_virq(1, Virq::TIMER), expected(1, timer));
    assert_eq!(channels.raise_virq(0, Virq::CONSOLE), expected(2, console));
    assert_eq!(channels.raise_virq(9, Virq::DEBUG), Notify::NOTHING);
    assert_eq!(channels.close(timer), Ok(None));
    assert_eq!(channels.raise_virq(1, Virq::TIMER), Notify::NOTHING);
}

/// Between opening a port and failing to tell of it, another vCPU may close it, and open it for itself, through a reset
/// too.
#[test]
fn what_was_closed_and_opened_again_is_not_taken_back() {
    let mut channels = Channels::new(domid(1), TestFrame::new(), 1, 100);
    let port = channels.bind_ipi(0).expect("there is room");
    let opened = channels.opening(port);
    assert_eq!(channels.close(port), Ok(None));
    assert_eq!(channels.take_back(opened), Err(Error::BadPort));
    assert_eq!(channels.bind_ipi(0), Ok(port));
    assert_eq!(channels.take_back(opened), Err(Error::BadPort));
    assert!(channels.reset(100).is_done);
    assert_eq!(channels.bind_ipi(0), Ok(port));
    assert_eq!(channels.take_back(opened), Err(Error::BadPort));
    let again = channels.opening(port);
    assert_eq!(channels.take_back(again), Ok(None));
    assert_eq!(channels.take_back(again), Err(Error::BadPort));
}

#[test]
fn no_port_opens_while_a_reset_is_unfinished() {
    let mut near = Channels::new(domid(1), TestFrame::new(), 1, ALL_PORTS);
    let mut far = Channels::new(domid(2), TestFrame::new(), 1, ALL_PORTS);
    for _ in 0..4 {
        near.alloc_unbound(domid(2)).expect("a free port");
    }
    assert!(!near.reset(2).is_done);
    assert_eq!(near.alloc_unbound(domid(2)), Err(Error::BeingReset));
    assert_eq!(near.bind_ipi(0), Err(Error::BeingReset));
    assert_eq!(near.bind_virq(Virq::TIMER, 0), Err(Error::BeingReset));
    let waits = far.alloc_unbound(domid(1)).expect("a free port");
    let refused = near.bind_interdomain(&mut far, waits);
    assert_eq!(refused, Err(Error::BeingReset));
    assert!(near.reset(2).is_done);
    assert!(near.bind_interdomain(&mut far, waits).is_ok());
}

#[test]
fn dying_domain_binds_nothing_and_closes_what_an_unfinished_reset_left() {
    let mut near = Channels::new(domid(1), TestFrame::new(), 1, ALL_PORTS);
    let mut far = Channels::new(domid(2), TestFrame::new(), 1, ALL_PORTS);
    let waits = near.alloc_unbound(domid(2)).expect("a free port");
    near.bind_ipi(0).expect("a free port");
    assert!(!near.reset(1).is_done);
    near.seal();
    let reset = near.reset(100);
    assert!(reset.is_done);
    assert_eq!(near.open_ports(Port::new(1)).count(), 0);
    assert_eq!(near.alloc_unbound(domid(2)), Err(Error::Sealed));
    far.seal();
    let mut other = Channels::new(domid(3), TestFrame::new(), 1, ALL_PORTS);
    assert_eq!(
        other.bind_interdomain(&mut far, waits),
        Err(Error::Sealed),
        "a dying peer"
    );
}

#[test]
fn reset_tells_of_so_many_peers_a_call_and_goes_on() {
    let mut near = Channels::new(domid(1), TestFrame::new(), 1, ALL_PORTS);
    let mut far = Channels::new(domid(2), TestFrame::new(), 1, ALL_PORTS);
    for _ in 0..RESET_PEERS + 10 {
        let waits = far.alloc_unbound(domid(1)).expect("a free port");
        assert!(near.bind_interdomain(&mut far, waits).is_ok());
    }
    let first = near.reset(1000);
    assert_eq!((first.closed.len(), first.is_done), (RESET_PEERS, false));
    let second = near.reset(1000);
    assert_eq!((second.closed.len(), second.is_done), (10, true));
}

#[test]
fn room_is_made_before_a_port_needs_it() {
    let mut channels = Channels::new(domid(1), TestFrame::new(), 1, ALL_PORTS);
    let mut made = 0;
    for _ in 0..600 {
        let lacks = channels.lacks_bytes();
        if lacks > 0 {
            channels.make_room().expect("the test has a heap");
            made += lacks;
        }
        assert_eq!(channels.lacks_bytes(), 0);
        channels.alloc_unbound(domid(2)).expect("a free port");
        assert_eq!(channels.port_bytes(), made);
    }
    assert!(channels.reset(1000).is_done);
    assert_eq!(channels.port_bytes(), 0);
}
