//! What everybody may touch of a vCPU. What only the CPU that runs it touches is the `Runner` of the layer above.

use hv_hw::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;
use hv_core::device::message::{ApicAddress, LogicalId};
use hv_core::device::posted::{PostNotify, PostedInterrupts};
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::time::PvClock;
use hv_hw::direct_map::SharedFrame;
use hv_hw::sync::{RankedLock, rank};

use super::Domain;
use super::account::Account;
use super::exit_counts::Counts;
use super::vcpu_state::StateMailbox;
use crate::machine::{cpus, kicked};

bitflags! {
    /// What others ask of a vCPU beside interrupts: single bits of one word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Requests: u32 {
        /// Deliver an NMI.
        const NMI = 1 << 0;
        /// INIT.
        const INIT = 1 << 1;
        /// STARTUP, its vector in bits 31:24.
        const STARTUP = 1 << 2;
        /// Write the state to the log.
        const DUMP = 1 << 4;
        /// VCPUOP_up or VCPUOP_down changed what it may do.
        const UP_OR_DOWN = 1 << 5;
        /// The local APIC's timer has reached its deadline.
        const APIC_TIMER = 1 << 6;
        /// SCHEDOP_poll has waited long enough.
        const POLL_TIMEOUT = 1 << 7;
        /// Take up the domain's policies.
        const POLICIES = 1 << 8;
        /// Go on with the registers in the [`StateMailbox`].
        const LOAD_STATE = 1 << 9;
        /// Leave the registers in the [`StateMailbox`].
        const SAVE_STATE = 1 << 10;
        /// Drop the translations of the domain's memory before the guest is entered.
        const FLUSH = 1 << 11;
        /// An access of the hypervisor found no frame for a page that is populated on demand.
        const RELIEVE = 1 << 12;

        /// What a guest's clock asks for: while its domain is paused, that stands still.
        const TIMERS = Self::APIC_TIMER.bits() | Self::POLL_TIMEOUT.bits();
        /// What needs none of the registers that [`VcpuHw::load`] brings.
        const OF_SOFTWARE = Self::TIMERS.bits()
            | Self::NMI.bits()
            | Self::UP_OR_DOWN.bits()
            | Self::RELIEVE.bits();
        /// What moves registers between the vCPU and its [`StateMailbox`], the local APIC's timer among them.
        const STATE = Self::LOAD_STATE.bits() | Self::SAVE_STATE.bits();
    }
}

const STARTUP_VECTOR_SHIFT: u32 = 24;
const REQUESTS: u32 = (1 << STARTUP_VECTOR_SHIFT) - 1;

/// What everybody may touch of a vCPU.
pub(crate) struct Vcpu {
    pub id: VcpuId,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// Its logical id, as its CPU last told.
    logical_id: AtomicU32,
    /// Where interrupts for it are left.
    pub posted: PostedInterrupts<SharedFrame>,
    /// The vector of its event-channel upcall, 0 where it has none of its own.
    pub upcall_vector: AtomicU8,
    /// Run state, and the guest's copies of run state and time.
    pub account: RankedLock<Account, { rank::VCPU }>,
    /// Registers on their way to or from a toolstack.
    pub(crate) state: RankedLock<StateMailbox, { rank::VCPU }>,
    /// Where its toolstack wants it to run.
    pub affinity: Affinity,
    /// False until started, and while taken down.
    pub is_up: AtomicBool,
    /// It has been started since its last INIT.
    pub is_started: AtomicBool,
    /// How far the guest has moved its TSC away from the domain's by writing it, wrapping.
    pub tsc_moved: AtomicU64,
    pub counts: Counts,
    requests: AtomicU32,
    is_polling: AtomicBool,
    is_kicked: AtomicBool,
    /// It has been given what it runs on.
    is_made: AtomicBool,
    is_running: AtomicBool,
    is_blocked: AtomicBool,
    /// The CPU that runs it.
    home: AtomicU32,
    /// The bit of its slot there.
    mark: AtomicU64,
}

/// Where a vCPU is to run: a bit a CPU, all ones where nobody said.
#[derive(Debug)]
pub(crate) struct Affinity {
    /// Where it may run.
    pub hard: AtomicU64,
    /// Where it had better run.
    pub soft: AtomicU64,
}

impl Default for Affinity {
    fn default() -> Self {
        Self {
            hard: AtomicU64::new(u64::MAX),
            soft: AtomicU64::new(u64::MAX),
        }
    }
}

impl Vcpu {
    /// A vCPU that has not run yet.
    #[must_use]
    pub(crate) fn new(
        id: VcpuId,
        apic_id: u32,
        posted: PostedInterrupts<SharedFrame>,
        is_up: bool,
    ) -> Self {
        Self {
            id,
            apic_id,
            logical_id: AtomicU32::new(LogicalId::RESET.to_bits()),
            posted,
            upcall_vector: AtomicU8::new(0),
            account: RankedLock::new(Account::new(is_up)),
            state: RankedLock::new(StateMailbox::default()),
            affinity: Affinity::default(),
            is_up: AtomicBool::new(is_up),
            is_started: AtomicBool::new(is_up),
            tsc_moved: AtomicU64::new(0),
            counts: Counts::default(),
            requests: AtomicU32::new(0),
            is_polling: AtomicBool::new(false),
            is_kicked: AtomicBool::new(false),
            is_made: AtomicBool::new(false),
            is_running: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            home: AtomicU32::new(0),
            mark: AtomicU64::new(kicked::mark(0)),
        }
    }

    /// What its local APIC is reached by.
    #[must_use]
    pub(crate) fn apic_address(&self) -> ApicAddress {
        ApicAddress {
            id: self.apic_id,
            logical: LogicalId::from_bits(self.logical_id.load(Ordering::Acquire)),
        }
    }

    /// Changes its local APIC's logical id.
    pub(crate) fn set_logical_id(&self, id: LogicalId) {
        self.logical_id.store(id.to_bits(), Ordering::Release);
    }

    /// How far the guest has moved its TSC.
    #[must_use]
    pub(crate) fn tsc_moved(&self) -> u64 {
        self.tsc_moved.load(Ordering::Acquire)
    }

    /// What the guest computes time by on this vCPU. One whose TSC was moved is out of step with the others.
    #[must_use]
    pub(crate) fn clock(&self, domain: &Domain) -> PvClock {
        let clock = domain.clock();
        match self.tsc_moved() {
            0 => clock,
            moved => PvClock {
                tsc_timestamp: clock.tsc_timestamp.wrapping_add(moved),
                is_tsc_stable: false,
                ..clock
            },
        }
    }

    /// Delivers the event-channel upcall, by the vector that the guest chose.
    #[inline]
    pub(crate) fn upcall(&self) {
        match self.upcall_vector.load(Ordering::Acquire) {
            // the callback of the whole domain is injected while the flag is up: see `inject`
            0 => self.kick(),
            vector => self.post_edge(vector),
        }
    }

    /// Leaves an edge-triggered interrupt.
    #[inline]
    pub(crate) fn post_edge(&self, vector: u8) {
        self.notify(self.posted.post_edge(vector));
    }

    /// Leaves a level-triggered interrupt.
    pub(crate) fn post_level(&self, vector: u8) {
        self.notify(self.posted.post_level(vector));
    }

    #[inline]
    fn notify(&self, notify: PostNotify) {
        match notify {
            PostNotify::None => {}
            PostNotify::Kick => self.kick(),
        }
    }

    /// Asks for something that is no interrupt.
    pub(crate) fn request(&self, what: Requests) {
        self.requests.fetch_or(what.bits(), Ordering::AcqRel);
        self.kick();
    }

    /// Asks a waiting vCPU to start at `vector << 12`. Of two such requests the first counts: a CPU that has started
    /// ignores the second.
    pub(crate) fn request_startup(&self, vector: u8) {
        let bits = Requests::STARTUP.bits() | (u32::from(vector) << STARTUP_VECTOR_SHIFT);
        let ask = |asked: u32| (asked & Requests::STARTUP.bits() == 0).then_some(asked | bits);
        // refused where the first has not been answered yet
        let _ = self
            .requests
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, ask);
        self.kick();
    }

    /// True where something was asked for: one load for the entry path.
    #[inline]
    #[must_use]
    pub(crate) fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// What is asked for and not answered yet.
    #[must_use]
    pub(crate) fn requests(&self) -> Requests {
        Requests::from_bits_truncate(self.requests.load(Ordering::Acquire) & REQUESTS)
    }

    /// Takes what was asked for of `which`, and the vector of a start-up where it is of these.
    pub(crate) fn take_requests(&self, which: Requests) -> (Requests, u8) {
        let mut mask = which.bits();
        if which.contains(Requests::STARTUP) {
            mask |= !REQUESTS;
        }
        let bits = self.requests.fetch_and(!mask, Ordering::AcqRel) & mask;
        let [.., vector] = bits.to_le_bytes();
        (Requests::from_bits_truncate(bits & REQUESTS), vector)
    }

    /// Makes the vCPU look at what was left for it: wakes it, or has its CPU leave the guest. One that has no CPU yet
    /// looks when it gets one.
    #[inline]
    pub(crate) fn kick(&self) {
        if self.is_made() && !self.is_kicked.swap(true, Ordering::AcqRel) {
            cpus::wake_for_vcpu(self.home(), self.mark.load(Ordering::Acquire));
        }
    }

    /// True once for each time it was kicked.
    #[inline]
    pub(crate) fn take_kick(&self) -> bool {
        let was_kicked =
            self.is_kicked.load(Ordering::Acquire) && self.is_kicked.swap(false, Ordering::AcqRel);
        if was_kicked {
            cpus::kick_served(self.home());
        }
        was_kicked
    }

    /// The CPU that runs it.
    #[inline]
    #[must_use]
    pub(crate) fn home(&self) -> u32 {
        self.home.load(Ordering::Relaxed)
    }

    /// Its CPU has given it a number, by which it is found there. Kicks from before are found by a look at all.
    pub(crate) fn take_slot(&self, slot: usize) {
        self.mark.store(kicked::mark(slot), Ordering::Release);
    }

    /// True once it was given what it runs on: before, it does not exist for a toolstack.
    #[must_use]
    pub(crate) fn is_made(&self) -> bool {
        self.is_made.load(Ordering::Acquire)
    }

    /// True once, for the one who is first.
    pub(crate) fn set_made(&self) -> bool {
        !self.is_made.swap(true, Ordering::AcqRel)
    }

    /// Its CPU has dropped it.
    pub(crate) fn set_gone(&self) {
        self.is_made.store(false, Ordering::Release);
        let _ = self.take_kick();
    }

    /// True while it has a CPU.
    #[must_use]
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    /// True while it waits for an event.
    #[must_use]
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

    /// Notes what it does: it has the CPU, or waits for an event, or neither.
    pub(crate) fn note(&self, is_running: bool, is_blocked: bool) {
        self.is_running.store(is_running, Ordering::Release);
        self.is_blocked.store(is_blocked, Ordering::Release);
    }

    /// True while it waits in SCHEDOP_poll.
    #[must_use]
    pub(crate) fn is_polling(&self) -> bool {
        self.is_polling.load(Ordering::Acquire)
    }

    /// Notes that it waits in SCHEDOP_poll, or no longer.
    pub(crate) fn set_polling(&self, polling: bool) {
        self.is_polling.store(polling, Ordering::Release);
    }
}

impl Drop for Vcpu {
    /// A kick that came as its CPU dropped it is still counted there.
    fn drop(&mut self) {
        let _ = self.take_kick();
    }
}
