//! The table of a domain's ports: chunks of channels, allocated on demand, looked up by index.
//!
//! A closed port stays in its chunk and is chained into a list of free ports, so that taking one is O(1). What survives
//! a close is [`Channel::last_queue`]: the guest may not have consumed the port's event yet, and it is then still
//! linked there. Next: `mod.rs`, what the operations do with the table.

use alloc::vec::Vec;

use super::{Error, Peer, Port, Virq};
use crate::domid::DomId;

const PORTS_PER_CHUNK: u32 = 256;
/// Bytes of the heap that a chunk takes.
pub(super) const CHUNK_BYTES: usize = PORTS_PER_CHUNK as usize * size_of::<Channel>();

/// What a port is bound to; numbers as in `public/event_channel.h, EVTCHNOP_status`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Closed,
    /// Waits until domain `remote` binds it.
    Unbound {
        /// The domain that may bind it.
        remote: DomId,
    },
    /// One end of a connection; `0` is the other.
    Interdomain(Peer),
    /// Raised by the hypervisor.
    Virq(Virq),
    /// Sent to by the domain itself.
    Ipi,
}

/// The queue of one vCPU and one priority (FIFO ABI).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Queue {
    pub(super) vcpu: u16,
    /// 0 is served first, 15 last.
    pub(super) priority: u8,
}

/// One port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channel {
    /// What it is bound to.
    pub(super) state: State,
    /// Where its events go: the vCPU, and with the FIFO ABI the priority.
    pub(super) queue: Queue,
    /// The queue it was last linked into (FIFO ABI).
    pub(super) last_queue: Queue,
    /// Raised while the guest had not supplied the page of its event word (FIFO ABI).
    pub(super) is_pending_early: bool,
    /// The next free port, 0 for none; of meaning while closed only.
    next_free: u32,
    /// Which opening of the domain's ports its last was.
    opening: u32,
}

impl Channel {
    const CLOSED: Self = Self {
        state: State::Closed,
        queue: Queue::DEFAULT,
        last_queue: Queue::DEFAULT,
        is_pending_early: false,
        next_free: 0,
        opening: 0,
    };
}

impl Queue {
    /// `public/event_channel.h, EVTCHN_FIFO_PRIORITY_DEFAULT`, on vCPU 0.
    pub(super) const DEFAULT: Self = Self {
        vcpu: 0,
        priority: 7,
    };
}

/// All ports of a domain.
pub(super) struct Ports {
    chunks: Vec<Vec<Channel>>,
    /// The lowest port never handed out since the last [`Ports::forget_all`]; port 0 never is.
    fresh: u32,
    first_free: u32,
    /// How many times a port was opened, wrapping; it is kept when the ports start over.
    openings: u32,
}

impl Ports {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            fresh: 1,
            first_free: 0,
            openings: 0,
        }
    }

    /// The port, open or closed, or `None` where its chunk does not exist.
    pub(super) fn get(&self, port: Port) -> Option<&Channel> {
        let (chunk, index) = place(port);
        nospec::get::<{ nospec::PORTS }, _>(&self.chunks, chunk)?.get(index)
    }

    /// As [`Ports::get`], to change it.
    pub(super) fn get_mut(&mut self, port: Port) -> Option<&mut Channel> {
        let (chunk, index) = place(port);
        nospec::get_mut::<{ nospec::PORTS }, _>(&mut self.chunks, chunk)?.get_mut(index)
    }

    /// The port, which must be open.
    pub(super) fn open(&self, port: Port) -> Result<&Channel, Error> {
        match self.get(port) {
            Some(channel) if channel.state != State::Closed => Ok(channel),
            _ => Err(Error::BadPort),
        }
    }

    /// As [`Ports::open`], to change it.
    pub(super) fn open_mut(&mut self, port: Port) -> Result<&mut Channel, Error> {
        match self.get_mut(port) {
            Some(channel) if channel.state != State::Closed => Ok(channel),
            _ => Err(Error::BadPort),
        }
    }

    /// Opens a free port not above `max_port` in `state`, bound to `vcpu`.
    pub(super) fn alloc(&mut self, state: State, vcpu: u16, max_port: u32) -> Result<Port, Error> {
        let recycled = Port::new(self.first_free);
        let port = if recycled.get() != 0 {
            recycled
        } else {
            Port::new(self.fresh)
        };
        if port.get() > max_port {
            return Err(Error::NoFreePort);
        }
        if port != recycled {
            self.grow_to(port)?;
            self.fresh += 1;
        }
        let openings = self.openings.wrapping_add(1);
        let channel = self.get_mut(port).ok_or(Error::BadPort)?;
        let next_free = channel.next_free;
        channel.state = state;
        channel.opening = openings;
        channel.queue = Queue {
            vcpu,
            ..Queue::DEFAULT
        };
        channel.next_free = 0;
        self.openings = openings;
        if port == recycled {
            self.first_free = next_free;
        }
        Ok(port)
    }

    /// Closes an open port.
    pub(super) fn free(&mut self, port: Port) {
        let first_free = self.first_free;
        if let Ok(channel) = self.open_mut(port) {
            let last_queue = channel.last_queue;
            *channel = Channel {
                last_queue,
                next_free: first_free,
                ..Channel::CLOSED
            };
            self.first_free = port.get();
        }
    }

    /// Which opening of a port that of `port` is; `None` where it is closed.
    pub(super) fn opening(&self, port: Port) -> Option<u32> {
        self.open(port).ok().map(|channel| channel.opening)
    }

    /// The port after the highest that was ever open.
    pub(super) fn end(&self) -> u32 {
        self.fresh
    }

    /// Starts over with an empty table; every port must be closed.
    pub(super) fn forget_all(&mut self) {
        *self = Self {
            openings: self.openings,
            ..Self::new()
        };
    }

    /// True where the next port to be opened, not above `max_port`, is in no chunk yet.
    pub(super) fn is_full(&self, max_port: u32) -> bool {
        let (chunk, _) = place(Port::new(self.fresh));
        self.first_free == 0 && self.fresh <= max_port && chunk >= self.chunks.len()
    }

    /// Makes the chunk of the next port to be opened.
    pub(super) fn make_room(&mut self) -> Result<(), Error> {
        self.grow_to(Port::new(self.fresh))
    }

    /// Bytes of all chunks.
    pub(super) fn bytes(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES
    }

    fn grow_to(&mut self, port: Port) -> Result<(), Error> {
        let (chunk, _) = place(port);
        if chunk < self.chunks.len() {
            return Ok(());
        }
        let mut channels = Vec::new();
        channels
            .try_reserve_exact(PORTS_PER_CHUNK as usize)
            .map_err(|_| Error::NoMemory)?;
        channels.resize(PORTS_PER_CHUNK as usize, Channel::CLOSED);
        self.chunks.try_reserve(1).map_err(|_| Error::NoMemory)?;
        self.chunks.push(channels);
        Ok(())
    }
}

fn place(port: Port) -> (usize, usize) {
    let port = port.get();
    (
        (port / PORTS_PER_CHUNK) as usize,
        (port % PORTS_PER_CHUNK) as usize,
    )
}
