//! What callers and event channels say to each other: names of ports, consequences that the caller applies, errors.
//!
//! The consequences are `must_use`: each names somebody who would otherwise wait for ever. They are made in `mod.rs`.

use arrayvec::ArrayVec;
use core::fmt;

use guest_abi::xen;

use super::State;
use crate::domid::DomId;

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

/// A port as it was opened once: where it has been closed since, and may have been opened again, this is another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opening {
    pub port: Port,
    pub(super) opening: Option<u32>,
}

/// What [`EventChannels::send`](super::EventChannels::send) did.
#[must_use = "the event has not reached the guest yet"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The event stays in the domain.
    Here(Notify),
    /// It goes to another domain: [`EventChannels::deliver`](super::EventChannels::deliver) there.
    Remote(Delivery),
}

/// An event on its way to another domain.
#[must_use = "the event has not reached the peer yet"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    pub to: Peer,
    /// Where it comes from.
    pub from: Peer,
}

/// Tells the peer that its other end is gone: [`EventChannels::disconnect`](super::EventChannels::disconnect) there.
#[must_use = "the peer believes it is still connected"]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerClosed {
    pub to: Peer,
    /// The end that was closed.
    pub from: Peer,
}

/// Peers that one call of [`EventChannels::reset`](super::EventChannels::reset) tells of.
pub const RESET_PEERS: usize = 64;

/// How far [`EventChannels::reset`](super::EventChannels::reset) came.
#[must_use = "peers are to be told, and the reset may not be complete"]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reset {
    /// The peers of the ports closed.
    pub closed: ArrayVec<PeerClosed, RESET_PEERS>,
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
    /// All ports are being closed, and not all are yet (EBUSY).
    BeingReset,
    /// The domain is being destroyed (EINVAL).
    Sealed,
}
