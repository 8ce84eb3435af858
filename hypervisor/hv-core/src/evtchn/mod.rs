//! Event channels: ports of a domain, what they are bound to, and what follows when one is raised.
//!
//! [`EventChannels`] is one domain's side. It holds no lock: whoever calls it holds the domain's, and state is checked
//! under the lock under which it is used. A connection has two ends in two tables; what one end asks of the other is
//! returned ([`Delivery`], [`PeerClosed`]) and applied to the other table under *its* lock, where it is checked
//! again: a connection that ended in between is left alone. Only binding needs both locks at once (ascending domid).
//!
//! Raising an event returns [`Notify`]: whom to kick, and which pollers to wake. Two ABIs carry the bits to the guest:
//! `two_level.rs` and `fifo.rs`. The table is in `ports.rs`, what is said to callers in `types.rs`.
//! Binding and closing ports is in `bind.rs`. Source: `public/event_channel.h`.

mod bind;
mod fifo;
mod ports;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod two_level;
mod types;

use alloc::vec::Vec;
use core::mem;

use arrayvec::ArrayVec;
use guest_abi::compat::Width;

use crate::domid::DomId;
use crate::mem::SharedWords;
use crate::vcpu::time::PvClock;
use crate::vcpu::vcpu_info::VcpuInfo;
use fifo::Fifo;
use ports::{Channel, Ports};

pub use ports::State;
pub use types::{
    Delivery, Error, Notify, Opening, Peer, PeerClosed, Port, RESET_PEERS, Reset, Sent, Status,
    VIRQS, Virq,
};

/// The event channels of one domain. `F` reaches one frame of its memory, and keeps it from being freed.
pub struct EventChannels<F> {
    domid: DomId,
    shared_info: F,
    /// The layout of what the domain shares with us.
    width: Width,
    vcpus: Vec<Vcpu<F>>,
    ports: Ports,
    /// The highest port the domain may have.
    max_port: u32,
    abi: Abi<F>,
    /// Where [`EventChannels::reset`] goes on; 1 where none is under way.
    next_reset: u32,
    /// Nothing is opened or bound any longer.
    is_sealed: bool,
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
            width: Width::Bits64,
            vcpus,
            ports: Ports::new(),
            max_port,
            abi: Abi::TwoLevel,
            next_reset: 1,
            is_sealed: false,
        }
    }

    /// The layout of what the domain shares with the hypervisor.
    #[must_use]
    pub fn width(&self) -> Width {
        self.width
    }

    /// Sets it. Bits stay where they are: a guest chooses before it has ports, or after a kernel that used others has
    /// gone.
    pub fn set_width(&mut self, width: Width) {
        self.width = width;
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
            Abi::TwoLevel => two_level::is_masked((&self.shared_info, self.width), port),
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
    #[inline(always)]
    pub fn send(&mut self, port: Port) -> Result<Sent, Error> {
        let channel = self.ports.open_mut(port)?;
        match channel.state {
            State::Ipi => {
                let words = (&self.shared_info, self.width, &self.vcpus[..]);
                Ok(Sent::Here(raise(words, &mut self.abi, port, channel)))
            }
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
    #[inline(always)]
    pub fn unmask(&mut self, port: Port) -> Result<Notify, Error> {
        let channel = self.ports.open_mut(port)?;
        let vcpu = self.vcpus.get(usize::from(channel.queue.vcpu));
        let info = vcpu.and_then(|vcpu| vcpu.info.as_ref());
        let raised = match &mut self.abi {
            Abi::TwoLevel => two_level::unmask((&self.shared_info, self.width), info, port),
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
                Abi::TwoLevel => two_level::is_pending((&self.shared_info, self.width), port),
                Abi::Fifo(fifo) => fifo.is_pending(port),
            }
    }

    /// Moves `vcpu`'s info to byte `offset` of `frame`, permanently. The guest looks at all its events once.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`]; [`Error::BadArgument`] where it was moved before, or `offset` is not 8-aligned or too
    /// near the frame's end.
    pub fn register_vcpu_info(
        &mut self,
        vcpu: u16,
        frame: F,
        offset: u32,
    ) -> Result<Notify, Error> {
        let slot =
            nospec::get_mut::<{ nospec::EVENT_VCPUS }, _>(&mut self.vcpus, usize::from(vcpu))
                .ok_or(Error::NoSuchVcpu)?;
        if slot.is_info_registered {
            return Err(Error::BadArgument);
        }
        let info = VcpuInfo::new(frame, offset).ok_or(Error::BadArgument)?;
        info.take_over(self.width, slot.info.as_ref());
        slot.info = Some(info);
        slot.is_info_registered = true;
        Ok(Notify {
            upcall: Some(vcpu),
            wake_pollers_of: None,
        })
    }

    /// Puts each vCPU's info back to where it was before it was moved, for a kernel that starts over. What was left is
    /// returned, to be dropped where no lock is held.
    pub fn forget_vcpu_infos(&mut self) -> Vec<VcpuInfo<F>> {
        let shared_info = &self.shared_info;
        let moved = self
            .vcpus
            .iter_mut()
            .zip(0..)
            .filter(|(vcpu, _)| vcpu.is_info_registered);
        moved
            .filter_map(|(vcpu, index)| {
                vcpu.is_info_registered = false;
                mem::replace(
                    &mut vcpu.info,
                    VcpuInfo::in_shared_info(shared_info.clone(), index),
                )
            })
            .collect()
    }

    /// Where `vcpu`'s info is now, if anywhere.
    #[must_use]
    pub fn vcpu_info(&self, vcpu: u16) -> Option<&VcpuInfo<F>> {
        nospec::get::<{ nospec::EVENT_VCPUS }, _>(&self.vcpus, usize::from(vcpu))?
            .info
            .as_ref()
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
    /// [`Error::NoSuchVcpu`]; [`Error::BadArgument`] where the vCPU has one already, or `offset` is not 8-aligned or
    /// too near the frame's end; [`Error::NoMemory`].
    pub fn init_control(&mut self, vcpu: u16, frame: F, offset: u32) -> Result<(), Error> {
        if let Abi::Fifo(fifo) = &mut self.abi {
            return fifo.init_control(vcpu, frame, offset);
        }
        let mut fifo = Fifo::new(self.vcpus.len())?;
        fifo.init_control(vcpu, frame, offset)?;
        let shared = (&self.shared_info, self.width);
        for port in (1..self.ports.end()).map(Port::new) {
            let is_pending = two_level::is_pending(shared, port);
            if let Ok(channel) = self.ports.open_mut(port) {
                channel.is_pending_early = is_pending;
                two_level::clear_pending(shared, port);
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
        let mut notifies = Vec::new();
        notifies
            .try_reserve_exact(fifo::WORDS_PER_PAGE as usize)
            .map_err(|_| Error::NoMemory)?;
        let ports = fifo.add_page(page)?;
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

    /// Opens and binds nothing any longer, because the domain is being destroyed. A reset that was left unfinished
    /// begins again.
    pub fn seal(&mut self) {
        self.is_sealed = true;
        self.next_reset = 1;
    }

    /// Closes all ports, at most `limit` of them and [`RESET_PEERS`] with a peer a call, and at the end goes back to
    /// the 2-level ABI. For `EVTCHNOP_reset` and for a domain's end. No port opens before it is done: it would be
    /// forgotten with its peer bound to it. Who calls in between, whether it began the reset or not, takes it further.
    pub fn reset(&mut self, limit: u32) -> Reset {
        let mut closed = ArrayVec::new();
        let end = self.ports.end();
        let stop = end.min(self.next_reset.saturating_add(limit));
        while self.next_reset < stop && !closed.is_full() {
            if let Ok(Some(peer)) = self.close(Port::new(self.next_reset)) {
                closed.push(peer);
            }
            self.next_reset += 1;
        }
        let is_done = self.next_reset == end;
        if is_done {
            self.ports.forget_all();
            self.abi = Abi::TwoLevel;
            self.next_reset = 1;
        }
        Reset { closed, is_done }
    }

    /// The ports from `first` on that are open, and what they are bound to: for a dump, which is read in parts.
    pub fn open_ports(&self, first: Port) -> impl Iterator<Item = (Port, Status)> {
        let first = first.get().max(1);
        (first..self.ports.end()).map(Port::new).filter_map(|port| {
            let status = self.status(port).ok()?;
            (status.state != State::Closed).then_some((port, status))
        })
    }

    /// Marks the port pending; a closed one is left alone.
    fn set_pending(&mut self, port: Port) -> Notify {
        let Ok(channel) = self.ports.open_mut(port) else {
            return Notify::NOTHING;
        };
        let words = (&self.shared_info, self.width, &self.vcpus[..]);
        raise(words, &mut self.abi, port, channel)
    }

    fn vcpu(&self, vcpu: u16) -> Result<&Vcpu<F>, Error> {
        nospec::get::<{ nospec::EVENT_VCPUS }, _>(&self.vcpus, usize::from(vcpu))
            .ok_or(Error::NoSuchVcpu)
    }
}

/// Marks an open port pending, in the words that the guest sees.
#[inline(always)]
fn raise<F: SharedWords + Clone>(
    (shared_info, width, vcpus): (&F, Width, &[Vcpu<F>]),
    abi: &mut Abi<F>,
    port: Port,
    channel: &mut Channel,
) -> Notify {
    let number = usize::from(channel.queue.vcpu);
    let info = || vcpus.get(number).and_then(|vcpu| vcpu.info.as_ref());
    let raised = match abi {
        Abi::TwoLevel => match two_level::mark_pending((shared_info, width), port) {
            // the most frequent case: the guest knows already
            None => return Notify::NOTHING,
            Some(marked) => two_level::tell(width, marked, info()),
        },
        Abi::Fifo(fifo) => fifo.set_pending(port, channel),
    };
    notify(port, channel, info(), raised)
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
