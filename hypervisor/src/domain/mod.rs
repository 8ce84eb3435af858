//! A domain: what belongs to it, and under which lock.
//!
//! | field | rank of its lock | what |
//! |---|---|---|
//! | `grants` | `GRANT`, then `MAPTRACK` | what it grants, what it has mapped of what others do |
//! | `lifecycle` | `DOMAIN` | limits, parameters, why it ended, how far its destruction is |
//! | `p2m` | `P2M` | its memory |
//! | `events` | `EVTCHN` | its event channels |
//! | `devices` | `DEVICE` | virtual I/O APIC, PCI configuration |
//! | `policies`, `Vcpu::account`, `Vcpu::state` | `VCPU` | what CPUID and MSRs are, run state, registers on their way |
//!
//! What is not behind a lock never changes, or is a single atomic word. Next: `create` for how one is made, `lifecycle`
//! for what becomes of it, `destroy` and `teardown` for how it goes, `registry` for how it is found, `runner` for what
//! runs.

pub(crate) mod account;
pub(crate) mod create;
pub(crate) mod destroy;
pub(crate) mod devices;
pub(crate) mod exit_counts;
pub(crate) mod grants;
pub(crate) mod info;
pub(crate) mod interrupts;
pub(crate) mod lifecycle;
pub(crate) mod pci;
pub(crate) mod pod;
pub(crate) mod policies;
pub(crate) mod registry;
pub(crate) mod share;
pub(crate) mod soft_reset;
pub(crate) mod space;
pub(crate) mod specials;
pub(crate) mod teardown;
pub(crate) mod vcpu;
pub(crate) mod vcpu_frames;
pub(crate) mod vcpu_state;
pub(crate) mod wallclock;

use alloc::sync::Arc;
use alloc::vec::Vec;
use hv_hw::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicUsize, Ordering, fence};

use arrayvec::ArrayString;

use hv_core::device::ports::PortMap;
use hv_core::domid::DomId;
use hv_core::evtchn::{EventChannels, Notify};
use hv_core::image::e820::E820Map;
use hv_core::p2m::P2m;
use hv_core::vcpu::time::PvClock;
use hv_hw::console::log::GuestLog;
use hv_hw::direct_map::SharedFrame;
use hv_hw::once_a_machine;
use hv_hw::sync::{Once, RankedLock, rank};
use hv_hw::virt::IoBitmap;
use hv_hw::virt::{Stage2Root, TscView};

use crate::domain::vcpu::Vcpu;
use crate::machine::memory::{self, OwnFrame, SpecialFrame};
use crate::machine::pinned::Pinned;
use create::DomainConfig;
use devices::Devices;
pub(crate) use lifecycle::{Lifecycle, PauseReasons, ShutdownReason};
pub(crate) use policies::Policies;

/// What there is once for all domains of a machine.
pub(crate) struct Domains {
    registry: registry::Registry,
    lines: interrupts::Lines,
    wall_clock: wallclock::Shared,
    /// Bytes of the heap that all guests have: see [`share`].
    guests_heap_bytes: AtomicUsize,
    /// The ports of guests, which all exit on the same.
    guest_io_bitmap: Once<IoBitmap>,
}

impl Domains {
    const fn new() -> Self {
        Self {
            registry: RankedLock::new(registry::Table::new()),
            lines: interrupts::Lines::new(),
            wall_clock: RankedLock::new(wallclock::UNSET),
            guests_heap_bytes: AtomicUsize::new(0),
            guest_io_bitmap: Once::new(),
        }
    }
}

once_a_machine! {
    /// The domains of the machine of the CPU that runs.
    fn domains() -> Domains = Domains::new();
}

/// How many HVM parameters there are (`public/hvm/params.h, HVM_NR_PARAMS`).
pub(crate) const HVM_PARAMS: usize = 39;
/// The longest line of debug output that is kept together.
pub(crate) const DEBUG_LINE: usize = 120;

/// The vector by which all vCPUs of a domain get their upcalls, once it has named one: any, as with Xen.
#[derive(Debug, Default)]
pub(crate) struct Callback(AtomicU16);

impl Callback {
    const IS_SET: u16 = 1 << 8;

    #[inline]
    #[must_use]
    pub(crate) fn vector(&self) -> Option<u8> {
        let [vector, is_set] = self.0.load(Ordering::Acquire).to_le_bytes();
        (is_set != 0).then_some(vector)
    }
    pub(crate) fn set(&self, vector: u8) {
        let word = u16::from(vector) | Self::IS_SET;
        self.0.store(word, Ordering::Release);
    }
    /// Has none any longer: the kernel that set it is gone.
    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// A domain.
pub(crate) struct Domain {
    pub id: DomId,
    /// It owns the devices and may manage others.
    pub is_hardware: bool,
    /// What it was made with: its limits among others.
    pub config: DomainConfig,
    /// What CPUID and MSRs are; each vCPU that runs has an own reference.
    pub policies: RankedLock<Arc<Policies>, { rank::VCPU }>,
    /// What its ports reach.
    pub ports: PortMap,
    /// Which of them exit.
    pub io_bitmap: IoBitmap,
    /// The map of the memory that it began with; see [`Lifecycle::memory_map`].
    pub e820: E820Map,
    /// Root of its second-stage tables; `p2m` changes what is below.
    pub stage2: Stage2Root,
    pub tsc: TscView,
    /// Its clock by the host's TSC; see [`Domain::clock`].
    host_clock: PvClock,
    /// The page with its pending events and wall clock.
    pub shared_info: SharedFrame,
    /// Its vCPUs, by index.
    pub vcpus: Vec<Arc<Vcpu>>,
    pub p2m: RankedLock<P2m, { rank::P2M }>,
    /// Its grant table, and its handles of others' pages.
    pub grants: grants::Grants,
    pub events: RankedLock<EventChannels<Pinned>, { rank::EVTCHN }>,
    pub devices: RankedLock<Devices, { rank::DEVICE }>,
    /// What is asked rarely.
    pub lifecycle: RankedLock<Lifecycle, { rank::DOMAIN }>,
    /// vCPUs that wait in SCHEDOP_poll.
    pub pollers: AtomicU32,
    pub callback: Callback,
    /// How fast it may fill the log.
    pub log: GuestLog,
    /// Debug output that has not come to the end of its line.
    pub debug_line: RankedLock<ArrayString<DEBUG_LINE>, { rank::VCPU }>,
    /// What bounds its memory.
    pub limits: space::Limits,
    /// What it has of the hypervisor's heap.
    pub heap: share::HeapShare,
    /// vm_assist: the run state is written with the update flag.
    pub has_runstate_flag: AtomicBool,
    /// Its share of the CPU relative to others, 1 and up; 256 is the usual.
    pub weight: AtomicU16,
    /// The most of one CPU that it gets, in percent; 0 for no limit.
    pub cap: AtomicU16,
    /// Why none of its vCPUs may run: [`PauseReasons`], 0 where they may.
    pause_reasons: AtomicU32,
    /// How many of its vCPUs CPUs have to themselves.
    pub(crate) runners: AtomicU32,
    /// Frames of the vCPUs' posted-interrupt descriptors.
    _descriptors: Vec<OwnFrame>,
    _shared_info: SpecialFrame,
}

impl Domain {
    /// The vCPU with this index, where the domain has it.
    #[must_use]
    pub(crate) fn vcpu(&self, index: u32) -> Option<&Vcpu> {
        let vcpu = nospec::get::<{ nospec::VCPUS }, _>(&self.vcpus, usize::try_from(index).ok()?)?;
        Some(vcpu)
    }

    /// What CPUID and MSRs are for it now.
    #[must_use]
    pub(crate) fn policies(&self) -> Arc<Policies> {
        self.policies.lock().clone()
    }

    /// Its clock: what its vCPUs compute time by, whose TSCs were not moved.
    #[must_use]
    pub(crate) fn clock(&self) -> PvClock {
        let tsc = self.policies().tsc;
        PvClock {
            tsc_timestamp: tsc.of_host(self.host_clock.tsc_timestamp),
            scale: policies::clock_of(tsc),
            ..self.host_clock
        }
    }

    /// What its TSC is when the host's is `host_tsc`.
    #[must_use]
    pub(crate) fn tsc_at(&self, host_tsc: u64) -> u64 {
        let ticks = host_tsc.wrapping_add(self.tsc.offset);
        self.policies().tsc.of_host(ticks)
    }

    /// Carries out what a change of event channels asks for: upcalls and wake-ups.
    #[inline]
    pub(crate) fn notify(&self, notify: Notify) {
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

    /// Has every vCPU look at what was left for it.
    pub(crate) fn kick_all(&self) {
        for vcpu in &self.vcpus {
            vcpu.kick();
        }
    }

    /// Raises a virtual interrupt of a vCPU.
    pub(crate) fn raise_virq(&self, vcpu: u16, virq: hv_core::evtchn::Virq) {
        let notify = self.events.lock().raise_virq(vcpu, virq);
        self.notify(notify);
    }

    /// True where no vCPU will run again by itself. Of several that have just gone down, one at least hears it.
    #[must_use]
    pub(crate) fn is_every_vcpu_down(&self) -> bool {
        // the caller's own flag is seen by whoever does not see theirs here
        fence(Ordering::SeqCst);
        self.vcpus
            .iter()
            .all(|vcpu| !vcpu.is_up.load(Ordering::Acquire))
    }

    /// Notes that a vCPU begins or ends to wait in SCHEDOP_poll.
    pub(crate) fn note_poller(&self, vcpu: &Vcpu, is_polling: bool) {
        vcpu.set_polling(is_polling);
        if is_polling {
            self.pollers.fetch_add(1, Ordering::AcqRel);
        } else {
            self.pollers.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Frames of RAM that it has, or that others still use of it.
    #[must_use]
    pub(crate) fn pages(&self) -> u64 {
        memory::ram_of(self.id)
    }
}

impl Drop for Domain {
    /// What is left by now: the root of its map. Frames that it shares go with the fields.
    fn drop(&mut self) {
        self.p2m.get_mut().end(&mut memory::Tables);
    }
}
