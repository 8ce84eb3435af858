//! Opening, binding and closing ports: who is connected with whom.
//!
//! Nothing here raises events but one: a port just bound to another domain starts pending. Next: `mod.rs`, sending.

use super::ports::{CHUNK_BYTES, State};
use super::{
    Abi, Error, EventChannels, Notify, Opening, Peer, PeerClosed, Port, Virq, fifo, two_level,
};
use crate::domid::DomId;
use crate::mem::SharedWords;

impl<F: SharedWords + Clone> EventChannels<F> {
    /// Opens a port that domain `remote` may bind.
    ///
    /// # Errors
    /// [`Error::NoFreePort`], [`Error::NoMemory`], [`Error::BeingReset`], [`Error::Sealed`].
    pub fn alloc_unbound(&mut self, remote: DomId) -> Result<Port, Error> {
        self.open(State::Unbound { remote }, 0)
    }

    /// Opens a port and connects it with `remote_port` of `remote`, which waits for this domain. The new port starts
    /// pending: the peer may have tried to tell something before.
    ///
    /// # Errors
    /// [`Error::BadPort`] where the remote port does not wait for this domain, [`Error::Sealed`] where the remote
    /// domain is being destroyed; those of opening a port.
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
            Abi::TwoLevel => two_level::clear_pending((&self.shared_info, self.width), port),
            Abi::Fifo(fifo) => fifo.clear_pending(port),
        }
        self.ports.free(port);
        Ok(told)
    }

    /// Names what was just opened, for [`EventChannels::take_back`] when the lock has been released in between.
    #[must_use]
    pub fn opening(&self, port: Port) -> Opening {
        let opening = self.ports.opening(port);
        Opening { port, opening }
    }

    /// As [`EventChannels::close`], unless the port was closed meanwhile: what has its number then is somebody else's.
    ///
    /// # Errors
    /// [`Error::BadPort`].
    pub fn take_back(&mut self, opened: Opening) -> Result<Option<PeerClosed>, Error> {
        if self.opening(opened.port) != opened {
            return Err(Error::BadPort);
        }
        self.close(opened.port)
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

    /// Bytes of the heap that the next port takes which is opened: 0, or [`EventChannels::make_room`] takes so many.
    #[must_use]
    pub fn lacks_bytes(&self) -> usize {
        if self.ports.is_full(self.last_port()) {
            CHUNK_BYTES
        } else {
            0
        }
    }

    /// Makes room for the next port.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn make_room(&mut self) -> Result<(), Error> {
        self.ports.make_room()
    }

    /// Bytes of the heap that ports have.
    #[must_use]
    pub fn port_bytes(&self) -> usize {
        self.ports.bytes()
    }

    fn open(&mut self, state: State, vcpu: u16) -> Result<Port, Error> {
        if self.is_sealed {
            return Err(Error::Sealed);
        }
        if self.next_reset != 1 {
            return Err(Error::BeingReset);
        }
        let last = self.last_port();
        self.ports.alloc(state, vcpu, last)
    }

    /// The highest port that may be opened.
    fn last_port(&self) -> u32 {
        let ports = match self.abi {
            Abi::TwoLevel => two_level::ports(self.width),
            Abi::Fifo(_) => fifo::PORTS,
        };
        self.max_port.min(ports - 1)
    }

    fn check_waits_for(&self, port: Port, domid: DomId) -> Result<(), Error> {
        if self.is_sealed {
            return Err(Error::Sealed);
        }
        match self.ports.open(port)?.state {
            State::Unbound { remote } if remote == domid => Ok(()),
            _ => Err(Error::BadPort),
        }
    }

    fn set_virq_port(&mut self, vcpu: u16, virq: Virq, port: u32) {
        if let Some(vcpu) =
            nospec::get_mut::<{ nospec::EVENT_VCPUS }, _>(&mut self.vcpus, usize::from(vcpu))
        {
            vcpu.virqs[usize::from(virq.get())] = port;
        }
    }
}
