//! A vCPU in two halves: [`Vcpu`] is what everybody may touch, [`Runner`] what only the CPU that runs it does.
//!
//! Next: `run` for the loop, `inject` for what goes in, `exit` for what comes out.

pub mod account;
pub mod context;
pub mod exit;
pub mod inject;
pub mod make;
pub mod parts;
pub mod poll;
pub mod run;
pub mod state;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use bitflags::bitflags;
use guest_abi::compat::Width;
use hv_core::cpuid::VcpuView;
use hv_core::device::lapic::Lapic;
use hv_core::device::posted::{PostNotify, PostedInterrupts};
use hv_core::msr::MsrState;
use hv_core::timer::TimerId;
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::runstate::RunState;
use hv_core::vcpu::time::PvClock;
use hv_core::walk::PagingMode;
use hv_hw::direct_map::SharedFrame;
use hv_hw::sync::{RankedLock, rank};
use hv_hw::virt::{Event, TscView, VcpuHw};

use crate::cpu;
use crate::domain::{Domain, Policies};
use crate::hypercall::guest::Memo;
use account::Account;
use parts::VcpuParts;
use state::StateBox;

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
        const LIFE = 1 << 5;
        /// The local APIC's timer has reached its deadline.
        const APIC_TIMER = 1 << 6;
        /// SCHEDOP_poll has waited long enough.
        const POLL_TIMEOUT = 1 << 7;
        /// Take up the domain's policies.
        const POLICIES = 1 << 8;
        /// Go on with the registers in the box.
        const LOAD_STATE = 1 << 9;
        /// Leave the registers in the box.
        const SAVE_STATE = 1 << 10;

        /// What a guest's clock asks for: while its domain is held, that stands still.
        const TIMERS = Self::APIC_TIMER.bits() | Self::POLL_TIMEOUT.bits();
        /// What needs none of the registers that [`VcpuHw::load`] brings.
        const OF_SOFTWARE = Self::TIMERS.bits() | Self::NMI.bits() | Self::LIFE.bits();
        /// What moves registers between the vCPU and the box, the local APIC's timer among them.
        const STATE = Self::LOAD_STATE.bits() | Self::SAVE_STATE.bits();
    }
}

const STARTUP_VECTOR_SHIFT: u32 = 24;
const REQUESTS: u32 = (1 << STARTUP_VECTOR_SHIFT) - 1;

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
    /// Registers on their way to or from a toolstack.
    pub(crate) state: RankedLock<StateBox, { rank::VCPU }>,
    /// Where its toolstack wants it to run.
    pub affinity: Affinity,
    /// False until started, and while taken down.
    pub is_up: AtomicBool,
    /// It has been started since its last INIT.
    pub is_started: AtomicBool,
    /// How far the guest has moved its TSC away from the domain's by writing it, wrapping.
    pub tsc_moved: AtomicU64,
    /// Exits by reason.
    pub counts: exit::Counts,
    requests: AtomicU32,
    is_polling: AtomicBool,
    is_kicked: AtomicBool,
    /// It has been given what it runs on.
    is_made: AtomicBool,
    is_running: AtomicBool,
    is_blocked: AtomicBool,
    /// The CPU that runs it.
    home: AtomicU32,
}

/// Where a vCPU is to run: a bit a CPU, all ones where nobody said.
#[derive(Debug)]
pub struct Affinity {
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
            state: RankedLock::new(StateBox::default()),
            affinity: Affinity::default(),
            is_up: AtomicBool::new(is_up),
            is_started: AtomicBool::new(is_up),
            tsc_moved: AtomicU64::new(0),
            counts: exit::Counts::default(),
            requests: AtomicU32::new(0),
            is_polling: AtomicBool::new(false),
            is_kicked: AtomicBool::new(false),
            is_made: AtomicBool::new(false),
            is_running: AtomicBool::new(false),
            is_blocked: AtomicBool::new(false),
            home: AtomicU32::new(0),
        }
    }

    /// How far the guest has moved its TSC.
    #[must_use]
    pub fn tsc_moved(&self) -> u64 {
        self.tsc_moved.load(Ordering::Acquire)
    }

    /// What the guest computes time by on this vCPU. One whose TSC was moved is out of step with the others.
    #[must_use]
    pub fn clock(&self, domain: &Domain) -> PvClock {
        match self.tsc_moved() {
            0 => domain.clock,
            moved => PvClock {
                tsc_timestamp: domain.clock.tsc_timestamp.wrapping_add(moved),
                is_tsc_stable: false,
                ..domain.clock
            },
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

    /// Asks a waiting vCPU to start at `vector << 12`. Of two such requests the first counts: a CPU that has started
    /// ignores the second.
    pub fn request_startup(&self, vector: u8) {
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
    pub fn has_requests(&self) -> bool {
        self.requests.load(Ordering::Acquire) != 0
    }

    /// What is asked for and not answered yet.
    #[must_use]
    pub fn requests(&self) -> Requests {
        Requests::from_bits_truncate(self.requests.load(Ordering::Acquire) & REQUESTS)
    }

    /// Takes what was asked for of `which`, and the vector of a start-up where it is of these.
    pub fn take_requests(&self, which: Requests) -> (Requests, u8) {
        let mut mask = which.bits();
        if which.contains(Requests::STARTUP) {
            mask |= !REQUESTS;
        }
        let bits = self.requests.fetch_and(!mask, Ordering::AcqRel) & mask;
        let [.., vector] = bits.to_le_bytes();
        (Requests::from_bits_truncate(bits & REQUESTS), vector)
    }

    /// Makes the vCPU look at what was left for it: wakes it, or has its CPU leave the guest. One that has no CPU yet looks
    /// when it gets one.
    #[inline]
    pub fn kick(&self) {
        if self.is_made() && !self.is_kicked.swap(true, Ordering::AcqRel) {
            cpu::wake_for_vcpu(self.home());
        }
    }

    /// True once for each time it was kicked.
    #[inline]
    pub fn take_kick(&self) -> bool {
        let was_kicked =
            self.is_kicked.load(Ordering::Acquire) && self.is_kicked.swap(false, Ordering::AcqRel);
        if was_kicked {
            cpu::attended(self.home());
        }
        was_kicked
    }

    /// The CPU that runs it.
    #[inline]
    #[must_use]
    pub fn home(&self) -> u32 {
        self.home.load(Ordering::Relaxed)
    }

    /// True once it was given what it runs on: before, it does not exist for a toolstack.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.is_made.load(Ordering::Acquire)
    }

    /// True once, for the one who is first.
    fn set_made(&self) -> bool {
        !self.is_made.swap(true, Ordering::AcqRel)
    }

    /// Its CPU has dropped it.
    pub(crate) fn set_gone(&self) {
        self.is_made.store(false, Ordering::Release);
        let _ = self.take_kick();
    }

    /// True while it has a CPU.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    /// True while it waits for an event.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Acquire)
    }

    /// Notes what it does: it has the CPU, or waits for an event, or neither.
    pub(crate) fn note(&self, is_running: bool, is_blocked: bool) {
        self.is_running.store(is_running, Ordering::Release);
        self.is_blocked.store(is_blocked, Ordering::Release);
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

impl Drop for Vcpu {
    /// A kick that came as its CPU dropped it is still counted there.
    fn drop(&mut self) {
        let _ = self.take_kick();
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
    /// Its shared half.
    pub vcpu: Arc<Vcpu>,
    /// Its index in the domain.
    pub index: usize,
    /// Its domain's policies, as it was last told.
    pub policies: Arc<Policies>,
    /// What it runs on.
    pub parts: VcpuParts,
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
    /// The event in whose delivery its last exit came.
    pub interrupted: Option<Event>,
    /// An NMI waits for its window.
    pub nmi_pending: bool,
    /// Nothing waited to be delivered at the last look, so that no window is asked for.
    pub is_quiet: bool,
    /// VCPUOP_set_singleshot_timer.
    pub singleshot: TimerId,
    /// The local APIC's timer.
    pub apic_timer: TimerId,
    /// The end of a poll.
    pub poll_timer: TimerId,
    /// A period of the local APIC's timer is over, and the next is not waited for until it runs.
    pub is_period_over: bool,
    /// SCHEDOP_watchdog.
    pub watchdog: TimerId,
    /// How wide the registers of the hypercall's caller are, while one is served.
    pub width: Width,
    /// What it remembers of its domain's memory.
    pub memo: Memo,
    /// Ports that SCHEDOP_poll waits for.
    pub polled: arrayvec::ArrayVec<hv_core::evtchn::Port, 128>,
}

impl<H: VcpuHw> Runner<H> {
    /// The shared half.
    #[inline]
    #[must_use]
    pub fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }

    /// The number of the vCPU in its domain.
    #[inline]
    #[must_use]
    pub fn number(&self) -> u16 {
        self.vcpu().id.index
    }

    /// True where it could have the CPU.
    #[must_use]
    pub fn can_run(&self) -> bool {
        self.activity == Activity::Ready && !self.domain.is_held()
    }

    /// What it is booked as while it does not run.
    #[must_use]
    pub fn waiting_state(&self) -> RunState {
        match self.activity {
            Activity::Ready if self.domain.is_held() => RunState::Offline,
            Activity::Ready => RunState::Runnable,
            Activity::Halted | Activity::Polling => RunState::Blocked,
            Activity::Waiting | Activity::Down => RunState::Offline,
        }
    }

    /// Books the time up to now, and what it does from now on.
    pub fn account(&self, state: RunState) {
        let has_flag = self.domain.has_runstate_flag.load(Ordering::Acquire);
        let vcpu = self.vcpu();
        vcpu.note(state == RunState::Running, state == RunState::Blocked);
        vcpu.account.lock().change(state, has_flag);
    }

    /// Its timers.
    #[must_use]
    pub fn timers(&self) -> [TimerId; cpu::VCPU_TIMERS] {
        [
            self.singleshot,
            self.apic_timer,
            self.poll_timer,
            self.watchdog,
        ]
    }

    /// Has the domain's shared memory in the layout of the code that runs: at what drivers do first, and again after a
    /// kernel has started another. Source: Xen's `arch/x86/hvm/hvm.c, hvm_latch_shinfo_size`.
    pub fn latch_width(&self) {
        let width = if self.hw.is_64_bit() {
            Width::Bits64
        } else {
            Width::Bits32
        };
        self.domain.events.lock().set_width(width);
        crate::wallclock::tell(&self.domain);
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

    /// Its domain's TSC now, which its APIC's timer counts by, whatever the guest writes into its own.
    #[must_use]
    pub fn domain_tsc(&self) -> u64 {
        hv_hw::time::now().wrapping_add(self.domain.tsc.offset)
    }

    /// Its TSC now.
    #[must_use]
    pub fn guest_tsc(&self) -> u64 {
        self.domain_tsc().wrapping_add(self.vcpu.tsc_moved())
    }

    /// Sets its TSC, and what the guest computes time by from it.
    pub fn set_guest_tsc(&mut self, value: u64) {
        let moved = value.wrapping_sub(self.domain_tsc());
        self.vcpu.tsc_moved.store(moved, Ordering::Release);
        self.hw.set_tsc(TscView {
            offset: self.domain.tsc.offset.wrapping_add(moved),
        });
        let clock = self.vcpu.clock(&self.domain);
        let number = self.number();
        self.domain.events.lock().write_time(number, &clock);
        self.vcpu.account.lock().write_clock(&clock);
    }

    /// The host's TSC when the domain's is `tsc`: now where that has passed, never where it is past the host's last.
    #[must_use]
    pub fn host_tsc(&self, tsc: u64) -> u64 {
        let now = hv_hw::time::now();
        let guest_now = now.wrapping_add(self.domain.tsc.offset);
        now.saturating_add(tsc.saturating_sub(guest_now))
    }
}
