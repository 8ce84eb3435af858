//! How a domain goes: at any moment of its life, in steps of bounded length, and everything comes back.
//!
//! Its CPUs drop its vCPUs first; then its ports are closed, and their peers told; grants are released both ways; its
//! memory is taken down; its tables; what it shared with the hypervisor. What others still use of it keeps it as a
//! zombie, which [`reap`] ends.

use alloc::sync::Arc;
use core::mem;
use hv_hw::sync::atomic::Ordering;

use hv_core::evtchn::{EventChannels, PeerClosed};
use hv_hw::domain_log;
use hv_hw::virt::VcpuHw;

use crate::domain::lifecycle::{PauseReasons, tell_toolstack};
use crate::domain::teardown::{self, Budget};
use crate::domain::{Domain, grants, registry};
use crate::machine::pinned::Pinned;
use crate::machine::{memory, zombies};

/// Ports closed in one step.
const PORTS: u32 = 256;
/// Handles of grants looked at in one step.
const HANDLES: u32 = 512;
/// How much memory is taken down in one step.
const STEP: Budget = Budget {
    frames: 1024,
    entries: 1 << 15,
};

/// How far a domain's destruction is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TeardownStage {
    None,
    /// Somebody is at it right now.
    Busy,
    /// CPUs have yet to drop its vCPUs.
    Vcpus,
    /// Its ports are being closed.
    Ports,
    /// Grants are being released.
    Grants,
    /// Its memory is being put.
    Memory,
    /// Its tables are being freed.
    Tables,
    /// It has nothing left but what others use.
    Zombie,
}

/// What a step of destruction leaves to do.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Done,
    /// More of the same.
    More,
    /// CPUs have to look at what was left for them first.
    WaitForCpus,
}

/// Takes the domain's destruction a step further; the first begins it.
pub(crate) fn step<H: VcpuHw>(domain: &Domain, hw: &mut H) -> Progress {
    let now = mem::replace(
        &mut domain.lifecycle.lock().teardown_stage,
        TeardownStage::Busy,
    );
    let next = match now {
        TeardownStage::Busy => return Progress::WaitForCpus,
        TeardownStage::None => begin(domain),
        TeardownStage::Vcpus => vcpus_gone(domain),
        TeardownStage::Ports => close_ports(domain),
        TeardownStage::Grants => release_grants(domain, hw),
        TeardownStage::Memory => empty(domain, hw),
        TeardownStage::Tables => free_tables(domain, hw),
        TeardownStage::Zombie => TeardownStage::Zombie,
    };
    domain.lifecycle.lock().teardown_stage = next;
    if now != TeardownStage::Zombie && next == TeardownStage::Zombie {
        zombies::add(domain.id);
        tell_toolstack();
    }
    match next {
        TeardownStage::Zombie => {
            reap();
            Progress::Done
        }
        TeardownStage::Vcpus => Progress::WaitForCpus,
        _ => Progress::More,
    }
}

fn begin(domain: &Domain) -> TeardownStage {
    if domain.shutdown_reason().is_none() {
        domain_log!(
            domain.log,
            Info,
            "{}: ended: destroyed by its toolstack",
            domain.id
        );
    }
    domain.hold(PauseReasons::DYING);
    grants::close(domain);
    teardown::close(domain);
    domain.events.lock().seal();
    vcpus_gone(domain)
}

fn vcpus_gone(domain: &Domain) -> TeardownStage {
    if domain.runners.load(Ordering::Acquire) == 0 {
        TeardownStage::Ports
    } else {
        // in case that a CPU took its last kick before it could see the end
        domain.kick_all();
        TeardownStage::Vcpus
    }
}

fn close_ports(domain: &Domain) -> TeardownStage {
    let reset = domain.events.lock().reset(PORTS);
    for closed in reset.closed {
        disconnect(domain, closed);
    }
    if reset.is_done {
        TeardownStage::Grants
    } else {
        TeardownStage::Ports
    }
}

/// Tells the other end of a port that was closed.
pub(crate) fn disconnect(own: &Domain, closed: PeerClosed) {
    if closed.to.domid == own.id {
        own.events.lock().disconnect(closed);
    } else if let Some(domain) = registry::find(closed.to.domid) {
        domain.events.lock().disconnect(closed);
    }
}

fn release_grants<H: VcpuHw>(domain: &Domain, hw: &mut H) -> TeardownStage {
    if grants::release_mappings(hw, domain, HANDLES) {
        TeardownStage::Memory
    } else {
        TeardownStage::Grants
    }
}

fn empty<H: VcpuHw>(domain: &Domain, hw: &mut H) -> TeardownStage {
    if teardown::empty(hw, domain, STEP) {
        TeardownStage::Tables
    } else {
        TeardownStage::Memory
    }
}

fn free_tables<H: VcpuHw>(domain: &Domain, hw: &mut H) -> TeardownStage {
    if !teardown::dismantle(hw, domain, STEP.entries) {
        return TeardownStage::Tables;
    }
    let_go(domain);
    TeardownStage::Zombie
}

/// Ends the hypervisor's own uses of the domain's pages, but for its shared info: that goes with the domain.
fn let_go(domain: &Domain) {
    for vcpu in &domain.vcpus {
        let areas = vcpu.account.lock().forget_copies();
        drop(areas);
        vcpu.forget_state();
    }
    if let Some(pinned) = Pinned::new(domain.shared_info.mfn(), domain.id) {
        let mut empty = EventChannels::new(domain.id, pinned, 0, 0);
        empty.seal();
        let old = mem::replace(&mut *domain.events.lock(), empty);
        drop(old);
    }
    domain.lifecycle.lock().specials.clear();
    // here already, so that what most domains leave makes no CPU look again
    let _ = grants::finish(domain);
}

/// Forgets the domains that are destroyed and of which nobody uses anything any longer.
pub(crate) fn reap() {
    for id in zombies::all() {
        let Some(domain) = registry::find(id) else {
            continue;
        };
        if is_unused(&domain) && registry::remove(&domain) {
            zombies::remove(id);
            domain_log!(domain.log, Info, "{id}: gone");
            drop(domain);
            tell_toolstack();
        }
    }
}

/// True for a zombie whose last frame is its shared info, used by nobody but the domain and its event channels.
fn is_unused(domain: &Arc<Domain>) -> bool {
    const OWN_USES: u32 = 2;
    let is_zombie = domain.lifecycle.lock().teardown_stage == TeardownStage::Zombie;
    is_zombie
        && grants::finish(domain)
        && memory::charged(domain.id) == 1
        && memory::table().state(domain.shared_info.mfn()).uses == OWN_USES
}
