//! A vCPU in two halves: [`Vcpu`] is what everybody may touch, [`Runner`] what only the CPU that runs it does.
//!
//! Next: `run` for the loop, `inject` for what goes in, `exit` for what comes out.

pub mod account;
pub mod exit;
pub mod inject;
pub mod run;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use bitflags::bitflags;
use hv_core::cpuid::VcpuView;
use hv_core::device::lapic::Lapic;
use hv_core::device::posted::{PostNotify, PostedInterrupts};
use hv_core::msr::MsrState;
use hv_core::p2m::P2mCache;
use hv_core::timer::TimerId;
use hv_core::vcpu::VcpuId;
use hv_core::walk::PagingMode;
use hv_hw::direct_map::SharedFrame;
use hv_hw::sync::{RankedLock, rank};
use hv_hw::virt::{Event, VcpuHw};

use crate::cpu;
use crate::domain::Domain;
use account::Account;

bitflags! {
    /// What others ask of a vCPU beside interrupts: single bits of one word.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Requests: u32 {
        /// Deliver an NMI.
        const NMI = 1 << 0;
        /// INIT.
        const INIT = 1 << 1;
        /// STARTUP, its vector in bits 15:8.
        const STARTUP = 1 << 2;
        /// Drop cached translations of the second stage.
        const FLUSH = 1 << 3;
        /// Write the state to the log.
        const DUMP = 1 << 4;
        /// VCPUOP_up or VCPUOP_down changed what it may do.
        const LIFE = 1 << 5;
        /// The local APIC's timer has reached its deadline.
        const APIC_TIMER = 1 << 6;
        /// SCHEDOP_poll has waited long enough.
        const POLL_TIMEOUT = 1 << 7;
    }
}

const STARTUP_VECTOR_SHIFT: u32 = 8;

/// What everybody may touch of a vCPU.
pub struct Vcpu {
    /// Which one.
    pub id: VcpuId,
    /// Its local APIC's id.
    pub apic_id: u32,
    /// Where interrupts for it are left.
    pub posted: PostedInterrupts<SharedFrame>,
    /// The vector of its event-channel upcall, 0 where it has none of its own.
    pub upcall_vector: AtomicU8,
    /// Run state, and the guest's copies of run state and time.
    pub account: RankedLock<Account, { rank::VCPU }>,
    /// False until started, and while taken down.
    pub is_up: AtomicBool,
    /// It has been started since its last INIT.
    pub is_started: AtomicBool,
    /// Exits by reason.
    pub counts: exit::Counts,
    requests: AtomicU32,
    is_polling: AtomicBool,
    is_kicked: AtomicBool,
    /// The CPU that runs it.
    home: AtomicU32,
}

impl Vcpu {
    /// A vCPU that has not run yet.
    #[must_use]
    pub fn new(
        id: VcpuId,
        apic_id: u32,
        posted: PostedInterrupts<SharedFrame>,
        is_up: bool,
    ) -> Self {
        Self {
            id,
            apic_id,
            posted,
            upcall_vector: AtomicU8::new(0),
            account: RankedLock::new(Account::new(is_up)),
            is_up: AtomicBool::new(is_up),
            is_started: AtomicBool::new(is_up),
            counts: exit::Counts::default(),
            requests: AtomicU32::new(0),
            is_polling: AtomicBool::new(false),
            is_kicked: AtomicBool::new(false),
            home: AtomicU32::new(0),
        }
    }

    /// Delivers the event-channel upcall, by the vector that the guest chose.
    #[inline]
    pub fn upcall(&self) {
        match self.upcall_vector.load(Ordering::Acquire) {
            // the callback of the whole domain is injected while the flag is up: see `inject`
            0 => self.kick(),
            vector => self.post_edge(vector),
        }
    }

    /// Leaves an edge-triggered interrupt.
    #[inline]
    pub fn post_edge(&self, vector: u8) {
        self.told(self.posted.post_edge(vector));
    }

    /// Leaves a level-triggered interrupt.
    pub fn post_level(&self, vector: u8) {
        self.told(self.posted.post_level(vector));
    }

    #[inline]
    fn told(&self, notify: PostNotify) {
        match notify {
            PostNotify::None => {}
            PostNotify::Posted | PostNotify::Kick => self.kick(),
        }
    }

    /// Asks for something that is no interrupt.
    pub fn request(&self, what: Requests) {
        self.requests.fetch_or(what.bits(), Ordering::AcqRel);
        self.kick();
    }

    /// Asks a waiting vCPU to start at `vector << 12`.
    pub fn request_startup(&self, vector: u8) {
        let bits = Requests::STARTUP.bits() | (u32::from(vector) << STARTUP_VECTOR_SHIFT);
        self.requests.fetch_or(bits, Ordering::AcqRel);
        self.kick();
    }

    /// True where something was asked for: one load for the entry path.
    #[inline]
    #[must_use]
    pub fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// Takes what was asked for, and the vector of a start-up.
    pub fn take_requests(&self) -> (Requests, u8) {
        let bits = self.requests.swap(0, Ordering::AcqRel);
        let [_, vector, ..] = bits.to_le_bytes();
        (Requests::from_bits_truncate(bits & 0xFF), vector)
    }

    /// Makes the vCPU look at what was left for it: wakes it, or has its CPU leave the guest.
    #[inline]
    pub fn kick(&self) {
        if !self.is_kicked.swap(true, Ordering::AcqRel) {
            cpu::wake(self.home.load(Ordering::Relaxed));
        }
    }

    /// True once for each time it was kicked.
    #[inline]
    pub fn take_kick(&self) -> bool {
        self.is_kicked.load(Ordering::Acquire) && self.is_kicked.swap(false, Ordering::AcqRel)
    }

    /// True while it waits in SCHEDOP_poll.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.is_polling.load(Ordering::Acquire)
    }

    /// Notes that it waits in SCHEDOP_poll, or no longer.
    pub fn set_polling(&self, polling: bool) {
        self.is_polling.store(polling, Ordering::Release);
    }
}

/// What a vCPU is doing, as its CPU sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It can run.
    Ready,
    /// It waits for an interrupt, after HLT or SCHEDOP_block.
    Halted,
    /// It waits for one of its ports or a timeout.
    Polling,
    /// It waits for STARTUP.
    Waiting,
    /// VCPUOP_down, or HLT with interrupts off: VCPUOP_up lets it go on, INIT begins anew.
    Down,
}

/// A vCPU as the CPU that runs it sees it.
pub struct Runner<H> {
    /// Its hardware half.
    pub hw: H,
    /// Its domain.
    pub domain: Arc<Domain>,
    /// Its index in the domain.
    pub index: usize,
    /// Its local APIC.
    pub lapic: Lapic<SharedFrame>,
    /// MSRs that are kept in software.
    pub msr_state: MsrState,
    /// XCR0.
    pub xcr0: u64,
    /// What it is doing.
    pub activity: Activity,
    /// An exception that its last exit raised.
    pub raised: Option<Event>,
    /// An NMI waits for its window.
    pub nmi_pending: bool,
    /// VCPUOP_set_singleshot_timer.
    pub singleshot: TimerId,
    /// The local APIC's timer.
    pub apic_timer: TimerId,
    /// The end of a poll.
    pub poll_timer: TimerId,
    /// Its last look-ups in its domain's p2m.
    pub p2m_cache: P2mCache,
    /// Ports that SCHEDOP_poll waits for.
    pub polled: arrayvec::ArrayVec<hv_core::evtchn::Port, 128>,
}

impl<H: VcpuHw> Runner<H> {
    /// The shared half.
    #[inline]
    #[must_use]
    pub fn vcpu(&self) -> &Vcpu {
        self.domain
            .vcpus
            .get(self.index)
            .expect("a runner is made for a vCPU that its domain has")
    }

    /// The number of the vCPU in its domain.
    #[inline]
    #[must_use]
    pub fn number(&self) -> u16 {
        self.vcpu().id.index
    }

    /// What CPUID depends on.
    #[inline]
    pub fn cpuid_view(&mut self) -> VcpuView {
        let vcpu = self.vcpu();
        VcpuView {
            vcpu_id: u32::from(vcpu.id.index),
            apic_id: vcpu.apic_id,
            cr4: self.hw.paging().cr4,
            xcr0: self.xcr0,
            xss: 0,
        }
    }

    /// What a walk of its page tables needs.
    #[inline]
    #[must_use]
    pub fn paging_mode(&self) -> PagingMode {
        let regs = self.hw.paging();
        PagingMode {
            cr0: regs.cr0,
            cr3: regs.cr3,
            cr4: regs.cr4,
            efer: regs.efer,
        }
    }

    /// Its TSC now.
    #[must_use]
    pub fn guest_tsc(&self) -> u64 {
        hv_hw::insn::rdtsc().wrapping_add(self.domain.tsc.offset)
    }

    /// The host's TSC when the guest's is `tsc`: now where that has passed, never where it is past the host's last.
    #[must_use]
    pub fn host_tsc(&self, tsc: u64) -> u64 {
        let now = hv_hw::insn::rdtsc();
        let guest_now = now.wrapping_add(self.domain.tsc.offset);
        now.saturating_add(tsc.saturating_sub(guest_now))
    }
}
