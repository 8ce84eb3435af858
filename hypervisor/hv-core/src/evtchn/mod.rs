//! Event channels: ports of a domain, what they are bound to, and what follows when one is raised.
//!
//! [`EventChannels`] is one domain's side. It holds no lock: whoever calls it holds the domain's, and state is checked
//! under the lock under which it is used. A connection has two ends in two tables; what one end asks of the other is
//! returned ([`Delivery`], [`PeerClosed`]) and applied to the other table under *its* lock, where it is checked
//! again: a connection that ended in between is left alone. Only binding needs both locks at once (ascending domid).
//!
//! Raising an event returns [`Notify`]: whom to kick, and which pollers to wake. Two ABIs carry the bits to the guest:
//! `two_level.rs` and `fifo.rs`. The table is in `ports.rs`.
//! Source: `public/event_channel.h`.

mod fifo;
mod ports;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod two_level;

use alloc::vec::Vec;
use core::fmt;

use guest_abi::xen;

use crate::domid::DomId;
use crate::mem::SharedWords;
use crate::vcpu::time::PvClock;
use crate::vcpu::vcpu_info::VcpuInfo;
use fifo::Fifo;
use ports::{Channel, Ports};

pub use ports::State;

/// What `EVTCHNOP_init_control` answers: bits of an event word that name a port.
pub const FIFO_LINK_BITS: u32 = fifo::LINK_BITS;
/// Virtual interrupts there are (`public/xen.h, NR_VIRQS`).
pub const VIRQS: usize = xen::NR_VIRQS as usize;

/// A domain's name for an event channel. 0 is never a channel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Port(u32);

impl Port {
    /// Names port `raw`, which may be any number a guest came up with.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One end of a connection, seen from the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// The domain it belongs to.
    pub domid: DomId,
    /// Its port there.
    pub port: Port,
}

/// A virtual interrupt: raised by the hypervisor (`public/xen.h, VIRQ_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Virq(u8);

impl Virq {
    /// The vCPU's timer has expired.
    pub const TIMER: Self = Self::known(xen::VIRQ_TIMER);
    /// Asks the guest to dump its state.
    pub const DEBUG: Self = Self::known(xen::VIRQ_DEBUG);
    /// Input on the emergency console.
    pub const CONSOLE: Self = Self::known(xen::VIRQ_CONSOLE);
    /// A domain has died or changed its life's phase.
    pub const DOM_EXC: Self = Self::known(xen::VIRQ_DOM_EXC);
    /// The console ring has new output.
    pub const CON_RING: Self = Self::known(xen::VIRQ_CON_RING);
    /// A physical CPU came or went.
    pub const PCPU_STATE: Self = Self::known(xen::VIRQ_PCPU_STATE);
    const XENOPROF: Self = Self::known(xen::VIRQ_XENOPROF);
    const XENPMU: Self = Self::known(xen::VIRQ_XENPMU);

    const fn known(raw: u32) -> Self {
        assert!(raw < xen::NR_VIRQS);
        Self(raw.to_le_bytes()[0])
    }
    /// Virtual interrupt `raw`, or `None` from [`VIRQS`] on.
    #[must_use]
    pub fn new(raw: u32) -> Option<Self> {
        let raw = u8::try_from(raw).ok()?;
        (usize::from(raw) < VIRQS).then_some(Self(raw))
    }
    /// The number, below [`VIRQS`].
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
    /// True where each vCPU has its own; the others are the domain's and are bound on vCPU 0.
    #[must_use]
    pub fn is_per_vcpu(self) -> bool {
        matches!(
            self,
            Self::TIMER | Self::DEBUG | Self::XENOPROF | Self::XENPMU
        )
    }
}

/// What has to happen because an event was raised. Applied after the lock is released.
#[must_use = "the vCPU named here sleeps on until it is kicked"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notify {
    /// The vCPU whose upcall flag went from 0 to 1: inject the upcall, wake it.
    pub upcall: Option<u16>,
    /// vCPUs of the domain that poll this port wake up, masked or not.
    pub wake_pollers_of: Option<Port>,
}

impl Notify {
    /// Nothing to do.
    pub const NOTHING: Self = Self {
        upcall: None,
        wake_pollers_of: None,
    };
}

/// What [`EventChannels::send`] did.
#[must_use = "the event has not reached the guest yet"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The event stays in the domain.
    Here(Notify),
    /// It goes to another domain: [`EventChannels::deliver`] there.
    Remote(Delivery),
}

/// An event on its way to another domain.
#[must_use = "the event has not reached the peer yet"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Where it goes.
    pub to: Peer,
    /// Where it comes from.
    pub from: Peer,
}

/// Tells the peer that its other end is gone: [`EventChannels::disconnect`] there.
#[must_use = "the peer believes it is still connected"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerClosed {
    /// Whom to tell.
    pub to: Peer,
    /// The end that was closed.
    pub from: Peer,
}

/// How far [`EventChannels::reset`] came.
#[must_use = "peers are to be told, and the reset may not be complete"]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reset {
    /// The peers of the ports closed.
    pub closed: Vec<PeerClosed>,
    /// All ports are closed and the domain is back to the 2-level ABI; else call again.
    pub is_done: bool,
}

/// What `EVTCHNOP_status` tells of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it is bound to.
    pub state: State,
    /// The vCPU that gets its events.
    pub vcpu: u16,
    /// An event waits there.
    pub is_pending: bool,
    /// The guest does not want to be told of it.
    pub is_masked: bool,
}

/// Why an operation was refused; nothing has changed then. The errno is Xen's for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// No such port, or not one that this can be done with (EINVAL).
    BadPort,
    /// An argument is out of its range, or the thing was set before and stays (EINVAL).
    BadArgument,
    /// The domain has no such vCPU (ENOENT).
    NoSuchVcpu,
    /// All ports that the domain may have are in use (ENOSPC).
    NoFreePort,
    /// The virtual interrupt is bound already (EEXIST).
    AlreadyBound,
    /// The domain does not use the FIFO ABI (ENOSYS).
    NotFifo,
    /// The hypervisor's heap is exhausted (ENOMEM).
    NoMemory,
}

/// The event channels of one domain. `F` reaches one frame of its memory, and keeps it from being freed.
pub struct EventChannels<F> {
    domid: DomId,
    shared_info: F,
    vcpus: Vec<Vcpu<F>>,
    ports: Ports,
    /// The highest port the domain may have.
    max_port: u32,
    abi: Abi<F>,
    /// Where [`EventChannels::reset`] goes on.
    next_reset: u32,
}

enum Abi<F> {
    TwoLevel,
    Fifo(Fifo<F>),
}

struct Vcpu<F> {
    /// `None` from vCPU 32 on until the guest registers one.
    info: Option<VcpuInfo<F>>,
    is_info_registered: bool,
    /// The port of each virtual interrupt; 0 where it is not bound.
    virqs: [u32; VIRQS],
}

/// What raising a port did to the guest's words.
#[derive(Clone, Copy)]
struct Raised {
    is_newly_pending: bool,
    wants_upcall: bool,
}

impl Raised {
    const NOTHING: Self = Self {
        is_newly_pending: false,
        wants_upcall: false,
    };
}

impl<F: SharedWords + Clone> EventChannels<F> {
    /// A domain of `vcpus` vCPUs with no port open, which uses the 2-level ABI in `shared_info` (zeroed) and may open
    /// ports up to number `max_port`.
    #[must_use]
    pub fn new(domid: DomId, shared_info: F, vcpus: u16, max_port: u32) -> Self {
        let vcpus = (0..vcpus)
            .map(|index| Vcpu {
                info: VcpuInfo::in_shared_info(shared_info.clone(), index),
                is_info_registered: false,
                virqs: [0; VIRQS],
            })
            .collect();
        Self {
            domid,
            shared_info,
            vcpus,
            ports: Ports::new(),
            max_port,
            abi: Abi::TwoLevel,
            next_reset: 1,
        }
    }

    /// Sets the highest port number the domain may open from now on (`public/domctl.h, XEN_DOMCTL_set_max_evtchn`).
    pub fn set_max_port(&mut self, max_port: u32) {
        self.max_port = max_port;
    }

    /// Opens a port that domain `remote` may bind.
    ///
    /// # Errors
    /// [`Error::NoFreePort`], [`Error::NoMemory`].
    pub fn alloc_unbound(&mut self, remote: DomId) -> Result<Port, Error> {
        self.open(State::Unbound { remote }, 0)
    }

    /// Opens a port and connects it with `remote_port` of `remote`, which waits for this domain. The new port starts
    /// pending: the peer may have tried to tell something before.
    ///
    /// # Errors
    /// [`Error::BadPort`] where the remote port does not wait for this domain; those of opening a port.
    pub fn bind_interdomain(
        &mut self,
        remote: &mut Self,
        remote_port: Port,
    ) -> Result<(Port, Notify), Error> {
        remote.check_waits_for(remote_port, self.domid)?;
        let far = Peer {
            domid: remote.domid,
            port: remote_port,
        };
        let port = self.open(State::Interdomain(far), 0)?;
        let near = Peer {
            domid: self.domid,
            port,
        };
        remote.ports.open_mut(remote_port)?.state = State::Interdomain(near);
        Ok((port, self.set_pending(port)))
    }

    /// As [`EventChannels::bind_interdomain`] where the remote domain is this one.
    ///
    /// # Errors
    /// The same.
    pub fn bind_loopback(&mut self, remote_port: Port) -> Result<(Port, Notify), Error> {
        self.check_waits_for(remote_port, self.domid)?;
        let domid = self.domid;
        let far = Peer {
            domid,
            port: remote_port,
        };
        let port = self.open(State::Interdomain(far), 0)?;
        self.ports.open_mut(remote_port)?.state = State::Interdomain(Peer { domid, port });
        Ok((port, self.set_pending(port)))
    }

    /// Opens a port for `virq` on `vcpu`, which may not have been started yet.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for one of the domain's on a vCPU other than 0, [`Error::NoSuchVcpu`],
    /// [`Error::AlreadyBound`]; those of opening a port.
    pub fn bind_virq(&mut self, virq: Virq, vcpu: u16) -> Result<Port, Error> {
        if !virq.is_per_vcpu() && vcpu != 0 {
            return Err(Error::BadArgument);
        }
        if self.vcpu(vcpu)?.virqs[usize::from(virq.get())] != 0 {
            return Err(Error::AlreadyBound);
        }
        let port = self.open(State::Virq(virq), vcpu)?;
        self.set_virq_port(vcpu, virq, port.get());
        Ok(port)
    }

    /// Opens a port by which the domain's vCPUs can interrupt `vcpu`, which may not have been started yet.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`]; those of opening a port.
    pub fn bind_ipi(&mut self, vcpu: u16) -> Result<Port, Error> {
        self.vcpu(vcpu)?;
        self.open(State::Ipi, vcpu)
    }

    /// Lets `vcpu` get the port's events from now on.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`]; [`Error::BadPort`], also for ports that belong to a vCPU by their nature.
    pub fn bind_vcpu(&mut self, port: Port, vcpu: u16) -> Result<(), Error> {
        self.vcpu(vcpu)?;
        let channel = self.ports.open_mut(port)?;
        match channel.state {
            State::Ipi | State::Closed => return Err(Error::BadPort),
            State::Virq(virq) if virq.is_per_vcpu() => return Err(Error::BadPort),
            State::Virq(_) | State::Unbound { .. } | State::Interdomain(_) => {}
        }
        channel.queue.vcpu = vcpu;
        Ok(())
    }

    /// Closes a port. Where its other end is in another domain, that must be told.
    ///
    /// # Errors
    /// [`Error::BadPort`].
    pub fn close(&mut self, port: Port) -> Result<Option<PeerClosed>, Error> {
        let channel = *self.ports.open(port)?;
        let from = Peer {
            domid: self.domid,
            port,
        };
        let told = match channel.state {
            State::Interdomain(to) => {
                let closed = PeerClosed { to, from };
                if to.domid == self.domid {
                    self.disconnect(closed);
                    None
                } else {
                    Some(closed)
                }
            }
            State::Virq(virq) => {
                let vcpu = if virq.is_per_vcpu() {
                    channel.queue.vcpu
                } else {
                    0
                };
                self.set_virq_port(vcpu, virq, 0);
                None
            }
            State::Ipi | State::Unbound { .. } | State::Closed => None,
        };
        match &self.abi {
            Abi::TwoLevel => two_level::clear_pending(&self.shared_info, port),
            Abi::Fifo(fifo) => fifo.clear_pending(port),
        }
        self.ports.free(port);
        Ok(told)
    }

    /// Takes note that the other end of a port was closed: it waits for that domain again. Without effect where the
    /// port has a different other end by now.
    pub fn disconnect(&mut self, closed: PeerClosed) {
        if let Ok(channel) = self.ports.open_mut(closed.to.port)
            && channel.state == State::Interdomain(closed.from)
        {
            channel.state = State::Unbound {
                remote: closed.from.domid,
            };
        }
    }

    /// What the port is bound to, open or closed.
    ///
    /// # Errors
    /// [`Error::BadPort`] where the domain never had such a port.
    pub fn status(&self, port: Port) -> Result<Status, Error> {
        if port.get() == 0 {
            return Err(Error::BadPort);
        }
        let channel = self.ports.get(port).ok_or(Error::BadPort)?;
        let is_masked = match &self.abi {
            Abi::TwoLevel => two_level::is_masked(&self.shared_info, port),
            Abi::Fifo(fifo) => fifo.is_masked(port),
        };
        Ok(Status {
            state: channel.state,
            vcpu: channel.queue.vcpu,
            is_pending: self.is_pending(port),
            is_masked,
        })
    }

    /// Sends an event from `port` to its other end. Into a port that nobody has bound yet it goes without effect.
    ///
    /// # Errors
    /// [`Error::BadPort`], also for ports that only the hypervisor raises.
    pub fn send(&mut self, port: Port) -> Result<Sent, Error> {
        match self.ports.open(port)?.state {
            State::Ipi => Ok(Sent::Here(self.set_pending(port))),
            State::Interdomain(to) if to.domid == self.domid => {
                Ok(Sent::Here(self.set_pending(to.port)))
            }
            State::Interdomain(to) => {
                let from = Peer {
                    domid: self.domid,
                    port,
                };
                Ok(Sent::Remote(Delivery { to, from }))
            }
            State::Unbound { .. } => Ok(Sent::Here(Notify::NOTHING)),
            State::Virq(_) | State::Closed => Err(Error::BadPort),
        }
    }

    /// Takes an event that another domain sent. Without effect where the connection has ended since.
    pub fn deliver(&mut self, delivery: Delivery) -> Notify {
        match self.ports.open(delivery.to.port) {
            Ok(channel) if channel.state == State::Interdomain(delivery.from) => {
                self.set_pending(delivery.to.port)
            }
            _ => Notify::NOTHING,
        }
    }

    /// Raises `virq` on `vcpu` (of no meaning where the virtual interrupt is the domain's). Without effect where the
    /// guest has not bound it.
    pub fn raise_virq(&mut self, vcpu: u16, virq: Virq) -> Notify {
        let vcpu = if virq.is_per_vcpu() { vcpu } else { 0 };
        match self.vcpu(vcpu) {
            Ok(vcpu) => self.set_pending(Port::new(vcpu.virqs[usize::from(virq.get())])),
            Err(_) => Notify::NOTHING,
        }
    }

    /// Lets the guest be told of the port's events again; of one that waits, at once.
    ///
    /// # Errors
    /// [`Error::BadPort`].
    pub fn unmask(&mut self, port: Port) -> Result<Notify, Error> {
        let channel = self.ports.open_mut(port)?;
        let vcpu = self.vcpus.get(usize::from(channel.queue.vcpu));
        let info = vcpu.and_then(|vcpu| vcpu.info.as_ref());
        let raised = match &mut self.abi {
            Abi::TwoLevel => two_level::unmask(&self.shared_info, info, port),
            Abi::Fifo(fifo) => fifo.unmask(port, channel),
        };
        Ok(notify(port, channel, info, raised))
    }

    /// True where an event waits on `port`, masked or not: what `SCHEDOP_poll` asks before it blocks.
    #[must_use]
    pub fn is_pending(&self, port: Port) -> bool {
        let is_early = self
            .ports
            .get(port)
            .is_some_and(|channel| channel.is_pending_early);
        is_early
            || match &self.abi {
                Abi::TwoLevel => two_level::is_pending(&self.shared_info, port),
                Abi::Fifo(fifo) => fifo.is_pending(port),
            }
    }

    /// Moves `vcpu`'s info to byte `offset` of `frame`, for good. The guest looks at all its events once.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`]; [`Error::BadArgument`] where it was moved before, or `offset` is not 8-aligned or too near
    /// the frame's end.
    pub fn register_vcpu_info(
        &mut self,
        vcpu: u16,
        frame: F,
        offset: u32,
    ) -> Result<Notify, Error> {
        let slot = self
            .vcpus
            .get_mut(usize::from(vcpu))
            .ok_or(Error::NoSuchVcpu)?;
        if slot.is_info_registered {
            return Err(Error::BadArgument);
        }
        let info = VcpuInfo::new(frame, offset).ok_or(Error::BadArgument)?;
        info.take_over(slot.info.as_ref());
        slot.info = Some(info);
        slot.is_info_registered = true;
        Ok(Notify {
            upcall: Some(vcpu),
            wake_pollers_of: None,
        })
    }

    /// Where `vcpu`'s info is now, if anywhere.
    #[must_use]
    pub fn vcpu_info(&self, vcpu: u16) -> Option<&VcpuInfo<F>> {
        self.vcpus.get(usize::from(vcpu))?.info.as_ref()
    }

    /// Writes the time of `vcpu` into its info.
    pub fn write_time(&self, vcpu: u16, clock: &PvClock) {
        if let Some(info) = self.vcpu_info(vcpu) {
            info.write_time(clock);
        }
    }

    /// Takes the control block of `vcpu` at byte `offset` of `frame`. The domain's first switches it to the FIFO ABI;
    /// events that wait are carried over.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`]; [`Error::BadArgument`] where the vCPU has one already, or `offset` is not 8-aligned or too
    /// near the frame's end.
    pub fn init_control(&mut self, vcpu: u16, frame: F, offset: u32) -> Result<(), Error> {
        if let Abi::Fifo(fifo) = &mut self.abi {
            return fifo.init_control(vcpu, frame, offset);
        }
        let mut fifo = Fifo::new(self.vcpus.len());
        fifo.init_control(vcpu, frame, offset)?;
        for port in (1..self.ports.end()).map(Port::new) {
            let is_pending = two_level::is_pending(&self.shared_info, port);
            if let Ok(channel) = self.ports.open_mut(port) {
                channel.is_pending_early = is_pending;
                two_level::clear_pending(&self.shared_info, port);
            }
        }
        self.abi = Abi::Fifo(fifo);
        Ok(())
    }

    /// Takes the next page of event words. Events that waited for it are raised now.
    ///
    /// # Errors
    /// [`Error::NotFifo`]; [`Error::NoFreePort`] past the last page, [`Error::NoMemory`].
    pub fn expand_array(&mut self, page: F) -> Result<Vec<Notify>, Error> {
        let Abi::Fifo(fifo) = &mut self.abi else {
            return Err(Error::NotFifo);
        };
        let ports = fifo.add_page(page)?;
        let mut notifies = Vec::new();
        for port in ports.map(Port::new) {
            let is_early = self
                .ports
                .open_mut(port)
                .is_ok_and(|channel| core::mem::take(&mut channel.is_pending_early));
            if is_early {
                let notify = self.set_pending(port);
                if notify.upcall.is_some() {
                    notifies.push(notify);
                }
            }
        }
        Ok(notifies)
    }

    /// Sets the port's priority (FIFO ABI): 0 is served first, 15 last.
    ///
    /// # Errors
    /// [`Error::NotFifo`], [`Error::BadArgument`] above 15, [`Error::BadPort`].
    pub fn set_priority(&mut self, port: Port, priority: u32) -> Result<(), Error> {
        if matches!(self.abi, Abi::TwoLevel) {
            return Err(Error::NotFifo);
        }
        let priority = u8::try_from(priority).map_err(|_| Error::BadArgument)?;
        if usize::from(priority) >= fifo::PRIORITIES {
            return Err(Error::BadArgument);
        }
        self.ports.open_mut(port)?.queue.priority = priority;
        Ok(())
    }

    /// Closes all ports, at most `limit` of them a call, and at the end goes back to the 2-level ABI. For
    /// `EVTCHNOP_reset` and for a domain's end. The domain must not open ports before it is done.
    pub fn reset(&mut self, limit: u32) -> Reset {
        let mut closed = Vec::new();
        let end = self.ports.end();
        let stop = end.min(self.next_reset.saturating_add(limit));
        for port in (self.next_reset..stop).map(Port::new) {
            if let Ok(Some(peer)) = self.close(port) {
                closed.push(peer);
            }
        }
        self.next_reset = stop;
        let is_done = stop == end;
        if is_done {
            self.ports.forget_all();
            self.abi = Abi::TwoLevel;
            self.next_reset = 1;
        }
        Reset { closed, is_done }
    }

    /// The ports that are open and what they are bound to, for a dump.
    pub fn open_ports(&self) -> impl Iterator<Item = (Port, Status)> {
        (1..self.ports.end()).map(Port::new).filter_map(|port| {
            let status = self.status(port).ok()?;
            (status.state != State::Closed).then_some((port, status))
        })
    }

    /// Marks the port pending; a closed one is left alone.
    fn set_pending(&mut self, port: Port) -> Notify {
        let Ok(channel) = self.ports.open_mut(port) else {
            return Notify::NOTHING;
        };
        let vcpu = self.vcpus.get(usize::from(channel.queue.vcpu));
        let info = vcpu.and_then(|vcpu| vcpu.info.as_ref());
        let raised = match &mut self.abi {
            Abi::TwoLevel => two_level::set_pending(&self.shared_info, info, port),
            Abi::Fifo(fifo) => fifo.set_pending(port, channel),
        };
        notify(port, channel, info, raised)
    }

    fn open(&mut self, state: State, vcpu: u16) -> Result<Port, Error> {
        let ports = match self.abi {
            Abi::TwoLevel => two_level::PORTS,
            Abi::Fifo(_) => fifo::PORTS,
        };
        let max_port = self.max_port.min(ports - 1);
        self.ports.alloc(state, vcpu, max_port)
    }

    fn check_waits_for(&self, port: Port, domid: DomId) -> Result<(), Error> {
        match self.ports.open(port)?.state {
            State::Unbound { remote } if remote == domid => Ok(()),
            _ => Err(Error::BadPort),
        }
    }

    fn vcpu(&self, vcpu: u16) -> Result<&Vcpu<F>, Error> {
        self.vcpus.get(usize::from(vcpu)).ok_or(Error::NoSuchVcpu)
    }

    fn set_virq_port(&mut self, vcpu: u16, virq: Virq, port: u32) {
        if let Some(vcpu) = self.vcpus.get_mut(usize::from(vcpu)) {
            vcpu.virqs[usize::from(virq.get())] = port;
        }
    }
}

/// Turns what happened to the guest's words into what is left to do.
fn notify<F: SharedWords>(
    port: Port,
    channel: &Channel,
    info: Option<&VcpuInfo<F>>,
    raised: Raised,
) -> Notify {
    let raises_upcall = raised.wants_upcall && info.is_some_and(VcpuInfo::raise_upcall);
    Notify {
        upcall: raises_upcall.then_some(channel.queue.vcpu),
        wake_pollers_of: raised.is_newly_pending.then_some(port),
    }
}
