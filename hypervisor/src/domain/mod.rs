//! A domain: what belongs to it, and under which lock.
//!
//! | field | lock | rank |
//! |---|---|---|
//! | `life` | `DOMAIN` | limits, parameters, why it ended |
//! | `p2m` | `P2M` | its memory |
//! | `events` | `EVTCHN` | its event channels |
//! | `devices` | `DEVICE` | virtual I/O APIC, PCI configuration |
//! | `Vcpu::account` | `VCPU` | run state and the guest's copies of it |
//!
//! What is not behind a lock never changes, or is a single atomic word. Next: [`crate::dom0`] for how the first one is
//! built, `registry` for how others are found, [`crate::vcpu`] for what runs.

pub mod devices;
pub mod registry;
pub mod space;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use arrayvec::{ArrayString, ArrayVec};

use guest_abi::sched::{SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot};
use hv_core::addr::{Gfn, Mfn};
use hv_core::cpuid::CpuidPolicy;
use hv_core::device::ports::PortMap;
use hv_core::domid::DomId;
use hv_core::evtchn::{EventChannels, Notify};
use hv_core::image::e820::E820Map;
use hv_core::msr::MsrPolicy;
use hv_core::p2m::P2m;
use hv_core::vcpu::time::PvClock;
use hv_hw::direct_map::SharedFrame;
use hv_hw::sync::{RankedLock, rank};
use hv_hw::virt::{Stage2Root, TscView};

use crate::memory;
use crate::pinned::Pinned;
use crate::vcpu::Vcpu;
use devices::Devices;

/// How many HVM parameters there are (`public/hvm/params.h, HVM_NR_PARAMS`).
pub const HVM_PARAMS: usize = 39;
/// The most frames of a grant table: 32768 entries.
pub const MAX_GRANT_FRAMES: u32 = 64;
/// The longest line of debug output that is kept together.
pub const DEBUG_LINE: usize = 120;

/// A domain.
pub struct Domain {
    /// Its number.
    pub id: DomId,
    /// It owns the devices and may manage others.
    pub is_hardware: bool,
    /// What CPUID shows it.
    pub cpuid: CpuidPolicy,
    /// What its MSRs do.
    pub msrs: MsrPolicy,
    /// What its ports reach.
    pub ports: PortMap,
    /// The map of its memory, as given in its e820.
    pub e820: E820Map,
    /// Root of its second-stage tables; `p2m` changes what is below.
    pub stage2: Stage2Root,
    /// Its TSC.
    pub tsc: TscView,
    /// Its clock.
    pub clock: PvClock,
    /// The page with its pending events and wall clock.
    pub shared_info: SharedFrame,
    /// Its vCPUs, by index.
    pub vcpus: Vec<Vcpu>,
    /// Its memory.
    pub p2m: RankedLock<P2m, { rank::P2M }>,
    /// Its event channels.
    pub events: RankedLock<EventChannels<Pinned>, { rank::EVTCHN }>,
    /// Its devices.
    pub devices: RankedLock<Devices, { rank::DEVICE }>,
    /// What is asked rarely.
    pub life: RankedLock<Life, { rank::DOMAIN }>,
    /// vCPUs that wait in SCHEDOP_poll.
    pub pollers: AtomicU32,
    /// The vector of HVM_PARAM_CALLBACK_IRQ where it names one, else 0.
    pub callback_vector: AtomicU8,
    /// Debug output that has not come to the end of its line.
    pub debug_line: RankedLock<ArrayString<DEBUG_LINE>, { rank::VCPU }>,
    /// Frames of RAM that it has.
    pub pages: AtomicU64,
    /// vm_assist: the run state is written with the update flag.
    pub has_runstate_flag: AtomicBool,
    /// It is ending or has ended: none of its vCPUs runs again.
    pub is_ending: AtomicBool,
}

/// What is asked rarely.
#[derive(Debug)]
pub struct Life {
    /// HVM parameters by index.
    pub params: [u64; HVM_PARAMS],
    /// Why it ended.
    pub ended: Option<Ended>,
    /// The frames of its grant table.
    grant_table: ArrayVec<Mfn, { MAX_GRANT_FRAMES as usize }>,
    /// Where in its memory the pages are that it shares with the hypervisor.
    specials: Vec<(Mfn, Gfn)>,
}

/// Why a domain ended, in Xen's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It switched itself off.
    PowerOff,
    /// It wants to start anew.
    Reboot,
    /// It crashed, or was made to.
    Crash,
    /// Another of `public/sched.h`, SHUTDOWN_*.
    Other(u32),
}

impl Life {
    /// Of a new domain.
    #[must_use]
    pub fn new() -> Self {
        Self {
            params: [0; HVM_PARAMS],
            ended: None,
            grant_table: ArrayVec::new(),
            specials: Vec::new(),
        }
    }
}

impl Default for Life {
    fn default() -> Self {
        Self::new()
    }
}

impl Ended {
    /// From the number of `public/sched.h`.
    #[must_use]
    pub fn from_reason(reason: u32) -> Self {
        match reason {
            SHUTDOWN_poweroff => Self::PowerOff,
            SHUTDOWN_reboot => Self::Reboot,
            SHUTDOWN_crash => Self::Crash,
            other => Self::Other(other),
        }
    }
}

impl Domain {
    /// The vCPU with this index, where the domain has it.
    #[must_use]
    pub fn vcpu(&self, index: u32) -> Option<&Vcpu> {
        self.vcpus.get(usize::try_from(index).ok()?)
    }

    /// True once the domain is ending.
    #[inline]
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Ends the domain: its vCPUs stop at their next exit. The first reason stays.
    pub fn end(&self, why: Ended) {
        let is_first = {
            let mut life = self.life.lock();
            let is_first = life.ended.is_none();
            life.ended.get_or_insert(why);
            is_first
        };
        self.is_ending.store(true, Ordering::Release);
        if is_first {
            for vcpu in &self.vcpus {
                vcpu.kick();
            }
        }
    }

    /// Why it ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        self.life.lock().ended
    }

    /// Carries out what a change of event channels asks for: upcalls and wake-ups.
    #[inline]
    pub fn notify(&self, notify: Notify) {
        if let Some(vcpu) = notify.upcall.and_then(|index| self.vcpu(u32::from(index))) {
            vcpu.upcall();
        }
        if notify.wake_pollers_of.is_some() && self.pollers.load(Ordering::Acquire) != 0 {
            self.wake_pollers();
        }
    }

    /// Wakes every vCPU that polls: it looks at its ports again itself.
    #[cold]
    fn wake_pollers(&self) {
        for vcpu in &self.vcpus {
            if vcpu.is_polling() {
                vcpu.kick();
            }
        }
    }

    /// Raises a virtual interrupt of a vCPU.
    pub fn raise_virq(&self, vcpu: u16, virq: hv_core::evtchn::Virq) {
        let notify = self.events.lock().raise_virq(vcpu, virq);
        self.notify(notify);
    }

    /// True where no vCPU will run again by itself.
    #[must_use]
    pub fn is_every_vcpu_down(&self) -> bool {
        self.vcpus
            .iter()
            .all(|vcpu| !vcpu.is_up.load(Ordering::Acquire))
    }

    /// Notes that a vCPU begins or ends to wait in SCHEDOP_poll.
    pub fn note_poller(&self, vcpu: &Vcpu, is_polling: bool) {
        vcpu.set_polling(is_polling);
        if is_polling {
            self.pollers.fetch_add(1, Ordering::AcqRel);
        } else {
            self.pollers.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Frames of RAM that it has.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// Counts frames that it got, or lost.
    pub fn count_pages(&self, change: i64) {
        self.pages
            .fetch_add(change.cast_unsigned(), Ordering::Relaxed);
    }

    /// Where a page that it shares with the hypervisor is in its memory.
    #[must_use]
    pub fn special_place(&self, mfn: Mfn) -> Option<Gfn> {
        let life = self.life.lock();
        life.specials
            .iter()
            .find(|(special, _)| *special == mfn)
            .map(|(_, gfn)| *gfn)
    }

    /// Notes where such a page is now.
    pub fn set_special_place(&self, mfn: Mfn, gfn: Option<Gfn>) {
        let mut life = self.life.lock();
        life.specials.retain(|(special, _)| *special != mfn);
        if let Some(gfn) = gfn {
            life.specials.push((mfn, gfn));
        }
    }

    /// How many frames its grant table has.
    #[must_use]
    pub fn grant_frames(&self) -> u32 {
        let frames = self.life.lock().grant_table.len();
        u32::try_from(frames).expect("at most MAX_GRANT_FRAMES")
    }

    /// The frame of its grant table with this index; the table grows up to it. `None` past its limit, or where memory is
    /// out.
    #[must_use]
    pub fn grow_grant_table(&self, index: usize) -> Option<Mfn> {
        let mut life = self.life.lock();
        if index >= life.grant_table.capacity() {
            return None;
        }
        while life.grant_table.len() <= index {
            life.grant_table.push(memory::alloc_special(self.id)?);
        }
        life.grant_table.get(index).copied()
    }
}
