//! `event_channel_op`. Source: `public/event_channel.h`.

use guest_abi::compat::Compat;
use guest_abi::errno::Errno;
use guest_abi::event_channel::{
    EVTCHN_FIFO_LINK_BITS, EVTCHNSTAT_closed, EVTCHNSTAT_interdomain, EVTCHNSTAT_ipi,
    EVTCHNSTAT_unbound, EVTCHNSTAT_virq, EvtchnAllocUnbound, EvtchnBindInterdomain, EvtchnBindIpi,
    EvtchnBindVcpu, EvtchnBindVirq, EvtchnClose, EvtchnExpandArray, EvtchnInitControl, EvtchnReset,
    EvtchnSend, EvtchnSetPriority, EvtchnStatus, EvtchnUnmask,
};
use guest_abi::xen::DOMID_SELF;
use hv_core::addr::Gfn;
use hv_core::domid::DomId;
use hv_core::evtchn::{Delivery, Error, EventChannels, Notify, Opening, Port, Sent, State, Virq};
use hv_hw::virt::VcpuHw;

use crate::domain::{Domain, destroy, registry};
use crate::guest_mem::pin;
use crate::hypercall::{Answer, Call, Stop, caller};
use crate::machine::pinned::Pinned;

/// Bits of an event word that name a port.
const LINK_BITS: u8 = EVTCHN_FIFO_LINK_BITS.to_le_bytes()[0];
/// Ports that are closed in one go.
const RESET_BATCH: u32 = 4096;

/// Errors of the core logic as Xen numbers them.
impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Refused(match error {
            Error::BadPort | Error::BadArgument | Error::Sealed => Errno::EINVAL,
            Error::NoSuchVcpu => Errno::ENOENT,
            Error::NoFreePort => Errno::ENOSPC,
            Error::AlreadyBound => Errno::EEXIST,
            Error::NotFifo => Errno::ENOSYS,
            Error::NoMemory => Errno::ENOMEM,
            // Xen's answer to a reset within a reset; it lets ports be opened meanwhile, and then loses them
            Error::BeingReset => Errno::EBUSY,
        })
    }
}

pub(super) fn send<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: EvtchnSend = call.runner.copy_in(call.pointer(1))?;
    let domain = &call.runner.domain;
    let sent = domain.events.lock().send(Port::new(arg.port))?;
    match sent {
        Sent::Here(notify) => domain.notify(notify),
        Sent::Remote(delivery) => deliver(delivery),
    }
    Ok(0)
}

/// Takes an event to another domain.
#[inline(never)]
fn deliver(delivery: Delivery) {
    if let Some(domain) = registry::find(delivery.to.domid) {
        let notify = domain.events.lock().deliver(delivery);
        domain.notify(notify);
    }
}

pub(super) fn unmask<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: EvtchnUnmask = call.runner.copy_in(call.pointer(1))?;
    let domain = &call.runner.domain;
    let notify = domain.events.lock().unmask(Port::new(arg.port))?;
    domain.notify(notify);
    Ok(0)
}

pub(super) fn close<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: EvtchnClose = call.runner.copy_in(call.pointer(1))?;
    let peer = call
        .runner
        .domain
        .events
        .lock()
        .close(Port::new(arg.port))?;
    if let Some(closed) = peer {
        destroy::disconnect(&call.runner.domain, closed);
    }
    Ok(0)
}

pub(super) fn status<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: EvtchnStatus = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.dom)?;
    let status = domain.events.lock().status(Port::new(arg.port))?;
    arg.vcpu = u32::from(status.vcpu);
    (arg.status, arg.u, arg.interdomain_port) = match status.state {
        State::Closed => (EVTCHNSTAT_closed, 0, 0),
        State::Unbound { remote } => (EVTCHNSTAT_unbound, u32::from(remote.get()), 0),
        State::Interdomain(peer) => (
            EVTCHNSTAT_interdomain,
            u32::from(peer.domid.get()),
            peer.port.get(),
        ),
        State::Virq(virq) => (EVTCHNSTAT_virq, u32::from(virq.get()), 0),
        State::Ipi => (EVTCHNSTAT_ipi, 0, 0),
    };
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

pub(super) fn alloc_unbound<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: EvtchnAllocUnbound = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.dom)?;
    let remote = domid(call, arg.remote_dom)?;
    let opened = open(&domain, |events| events.alloc_unbound(remote))?;
    arg.port = opened.port.get();
    give_port(call, &domain, opened, &arg)
}

pub(super) fn bind_interdomain<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: EvtchnBindInterdomain = call.runner.copy_in(call.pointer(1))?;
    let remote = domid(call, arg.remote_dom)?;
    let remote_port = Port::new(arg.remote_port);
    let own = call.runner.domain.clone();
    let (opened, notify) = if remote == own.id {
        bind_in(&own, &mut own.events.lock(), |own| {
            own.bind_loopback(remote_port)
        })?
    } else {
        let other = registry::find(remote).ok_or(Errno::ESRCH)?;
        bind_with(&own, &other, remote_port)?
    };
    own.notify(notify);
    arg.local_port = opened.port.get();
    give_port(call, &own, opened, &arg)
}

/// Locks both domains in ascending domid.
fn bind_with(own: &Domain, other: &Domain, remote_port: Port) -> Result<(Opening, Notify), Stop> {
    if own.id < other.id {
        let mut events = own.events.lock();
        let mut remote = other.events.lock_second();
        bind_in(own, &mut events, |own| {
            own.bind_interdomain(&mut remote, remote_port)
        })
    } else {
        let mut remote = other.events.lock();
        let mut events = own.events.lock_second();
        bind_in(own, &mut events, |own| {
            own.bind_interdomain(&mut remote, remote_port)
        })
    }
}

/// Opens a port that is bound to another.
fn bind_in(
    domain: &Domain,
    events: &mut EventChannels<Pinned>,
    bind: impl FnOnce(&mut EventChannels<Pinned>) -> Result<(Port, Notify), Error>,
) -> Result<(Opening, Notify), Stop> {
    let (port, notify) = bind(with_room(domain, events)?)?;
    Ok((events.opening(port), notify))
}

fn open(
    domain: &Domain,
    alloc: impl FnOnce(&mut EventChannels<Pinned>) -> Result<Port, Error>,
) -> Result<Opening, Stop> {
    let mut events = domain.events.lock();
    let port = alloc(with_room(domain, &mut events)?)?;
    Ok(events.opening(port))
}

pub(super) fn bind_virq<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: EvtchnBindVirq = call.runner.copy_in(call.pointer(1))?;
    let virq = Virq::new(arg.virq).ok_or(Errno::EINVAL)?;
    let vcpu = vcpu_index(arg.vcpu)?;
    let domain = call.runner.domain.clone();
    let opened = open(&domain, |events| events.bind_virq(virq, vcpu))?;
    arg.port = opened.port.get();
    give_port(call, &domain, opened, &arg)
}

pub(super) fn bind_ipi<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: EvtchnBindIpi = call.runner.copy_in(call.pointer(1))?;
    let vcpu = vcpu_index(arg.vcpu)?;
    let domain = call.runner.domain.clone();
    let opened = open(&domain, |events| events.bind_ipi(vcpu))?;
    arg.port = opened.port.get();
    give_port(call, &domain, opened, &arg)
}

/// The event channels of `domain`, with room for one more port where it may have that much of the heap.
fn with_room<'a>(
    domain: &Domain,
    events: &'a mut EventChannels<Pinned>,
) -> Result<&'a mut EventChannels<Pinned>, Stop> {
    let bytes = events.lacks_bytes();
    if bytes > 0 {
        if !domain.heap.charge(bytes) {
            return Err(Errno::ENOMEM.into());
        }
        if let Err(error) = events.make_room() {
            domain.heap.uncharge(bytes);
            return Err(error.into());
        }
    }
    Ok(events)
}

/// Tells the caller its new port, and takes it back where that fails and no other vCPU has closed it meanwhile.
fn give_port<H: VcpuHw, T: Compat>(
    call: &Call<'_, H>,
    domain: &Domain,
    opened: Opening,
    arg: &T,
) -> Answer {
    if let Err(errno) = call.runner.copy_out(call.pointer(1), arg) {
        let taken = domain.events.lock().take_back(opened);
        if let Ok(Some(closed)) = taken {
            destroy::disconnect(domain, closed);
        }
        return Err(errno.into());
    }
    Ok(0)
}

pub(super) fn bind_vcpu<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: EvtchnBindVcpu = call.runner.copy_in(call.pointer(1))?;
    let vcpu = vcpu_index(arg.vcpu)?;
    call.runner
        .domain
        .events
        .lock()
        .bind_vcpu(Port::new(arg.port), vcpu)?;
    Ok(0)
}

pub(super) fn init_control<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: EvtchnInitControl = call.runner.copy_in(call.pointer(1))?;
    let vcpu = vcpu_index(arg.vcpu)?;
    let frame = pin(&call.runner.domain, Gfn::new(arg.control_gfn))?;
    call.runner
        .domain
        .events
        .lock()
        .init_control(vcpu, frame, arg.offset)?;
    arg.link_bits = LINK_BITS;
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

pub(super) fn expand_array<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: EvtchnExpandArray = call.runner.copy_in(call.pointer(1))?;
    let domain = &call.runner.domain;
    let frame = pin(domain, Gfn::new(arg.array_gfn))?;
    let notifies = domain.events.lock().expand_array(frame)?;
    for notify in notifies {
        domain.notify(notify);
    }
    Ok(0)
}

pub(super) fn set_priority<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: EvtchnSetPriority = call.runner.copy_in(call.pointer(1))?;
    call.runner
        .domain
        .events
        .lock()
        .set_priority(Port::new(arg.port), arg.priority)?;
    Ok(0)
}

pub(super) fn reset<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: EvtchnReset = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.dom)?;
    if reset_ports(&domain) {
        Ok(0)
    } else {
        Err(Stop::Continuation)
    }
}

/// Closes some of a domain's ports; true once all are.
pub(super) fn reset_ports(domain: &Domain) -> bool {
    let (reset, freed) = {
        let mut events = domain.events.lock();
        let before = events.port_bytes();
        let reset = events.reset(RESET_BATCH);
        (reset, before - events.port_bytes())
    };
    domain.heap.uncharge(freed);
    for closed in reset.closed {
        destroy::disconnect(domain, closed);
    }
    reset.is_done
}

fn domid<H: VcpuHw>(call: &Call<'_, H>, raw: u16) -> Result<DomId, Stop> {
    if raw == DOMID_SELF {
        return Ok(call.runner.domain.id);
    }
    DomId::new(raw).ok_or(Stop::Refused(Errno::ESRCH))
}

fn vcpu_index(raw: u32) -> Result<u16, Stop> {
    u16::try_from(raw).map_err(|_| Stop::Refused(Errno::ENOENT))
}
