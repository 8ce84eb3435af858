//! A vCPU as the CPU that runs it has it: [`Runner`]. Everybody else has its shared half, [`Vcpu`].
//!
//! Next: `inject` for what goes into the guest, `memory` for its memory by linear addresses, `make` for how it begins.

pub(crate) mod apic;
pub(crate) mod apic_timer;
pub(crate) mod crash;
pub(crate) mod inject;
pub(crate) mod instruction;
pub(crate) mod make;
mod memory;
pub(crate) mod pdptes;
pub(crate) mod reset;
mod state;

use alloc::sync::Arc;
use hv_hw::sync::atomic::Ordering;

use guest_abi::compat::Width;
use hv_core::cpuid::VcpuView;
use hv_core::device::lapic::Lapic;
use hv_core::msr::MsrState;
use hv_core::timer::TimerId;
use hv_core::vcpu::runstate::RunState;
use hv_hw::direct_map::SharedFrame;
use hv_hw::virt::{Event, VcpuHw};

use crate::domain::vcpu::Vcpu;
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::{Domain, Policies, wallclock};
use crate::guest_mem::SoftwareTlb;
use crate::pcpu::{Pcpu, VCPU_TIMERS};

/// What a vCPU is doing, as its CPU sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Activity {
    Ready,
    /// It waits for an interrupt, after HLT or SCHEDOP_block.
    Halted,
    /// It waits for one of its ports or a timeout.
    Polling,
    /// It waits for STARTUP.
    Waiting,
    /// VCPUOP_down, or HLT with interrupts off: VCPUOP_up lets it go on, INIT resets it.
    Down,
}

/// A vCPU as the CPU that runs it sees it.
pub(crate) struct Runner<H> {
    pub hw: H,
    pub domain: Arc<Domain>,
    pub vcpu: Arc<Vcpu>,
    /// Its number on the CPU that runs it.
    pub slot: usize,
    /// Its domain's policies, as it was last told.
    pub policies: Arc<Policies>,
    /// What it runs on, kept for it to be returned last.
    #[expect(dead_code, reason = "to be dropped")]
    pub parts: VcpuFrames,
    pub lapic: Lapic<SharedFrame>,
    /// MSRs that are kept in software.
    pub msr_state: MsrState,
    pub xcr0: u64,
    /// What it is doing.
    pub activity: Activity,
    /// An exception that its last exit raised.
    pub raised: Option<Event>,
    /// The event in whose delivery its last exit came.
    pub interrupted: Option<Event>,
    /// Bytes of the instruction that exited, where they were decoded and it has not been stepped over; else 0.
    pub decoded_length: u8,
    /// Where the instruction that exited last was not found any more.
    pub gone_from: Option<u64>,
    /// An NMI waits for its window.
    pub nmi_pending: bool,
    /// Nothing waited to be delivered at the last look, so that no window is asked for.
    pub is_quiet: bool,
    pub singleshot: TimerId,
    /// The local APIC's timer.
    pub apic_timer: TimerId,
    /// The end of a poll.
    pub poll_timer: TimerId,
    /// A period of the local APIC's timer is over, and the next is not waited for until it runs.
    pub is_period_over: bool,
    pub watchdog: TimerId,
    /// How wide the registers of the hypercall's caller are, while one is served.
    pub width: Width,
    /// What it remembers of its domain's memory.
    pub tlb: SoftwareTlb,
    /// Ports that SCHEDOP_poll waits for.
    pub polled: arrayvec::ArrayVec<hv_core::evtchn::Port, 128>,
}

impl<H: VcpuHw> Runner<H> {
    #[inline]
    #[must_use]
    pub(crate) fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }

    /// The number of the vCPU in its domain.
    #[inline]
    #[must_use]
    pub(crate) fn number(&self) -> u16 {
        self.vcpu().id.index
    }

    /// True where it could have the CPU.
    #[must_use]
    pub(crate) fn can_run(&self) -> bool {
        self.activity == Activity::Ready && !self.domain.is_stopped()
    }

    /// What it is booked as while it does not run.
    #[must_use]
    pub(crate) fn waiting_state(&self) -> RunState {
        match self.activity {
            Activity::Ready if self.domain.is_stopped() => RunState::Offline,
            Activity::Ready => RunState::Runnable,
            Activity::Halted | Activity::Polling => RunState::Blocked,
            Activity::Waiting | Activity::Down => RunState::Offline,
        }
    }

    /// Books the time up to now, and what it does from now on.
    pub(crate) fn account(&self, state: RunState, now_ns: u64) {
        let has_flag = self.domain.has_runstate_flag.load(Ordering::Acquire);
        let vcpu = self.vcpu();
        vcpu.note(state == RunState::Running, state == RunState::Blocked);
        vcpu.account.lock().change(state, now_ns, has_flag);
    }

    #[must_use]
    pub(crate) fn timers(&self) -> [TimerId; VCPU_TIMERS] {
        [
            self.singleshot,
            self.apic_timer,
            self.poll_timer,
            self.watchdog,
        ]
    }

    /// Has the domain's shared memory in the layout of the code that runs: at what drivers do first, and again after a
    /// kernel has started another. Source: Xen's `arch/x86/hvm/hvm.c, hvm_latch_shinfo_size`.
    pub(crate) fn latch_width(&self) {
        let width = if self.hw.is_64_bit() {
            Width::Bits64
        } else {
            Width::Bits32
        };
        self.domain.events.lock().set_width(width);
        wallclock::tell(&self.domain);
    }

    /// What CPUID depends on.
    #[inline]
    pub(crate) fn cpuid_view(&mut self) -> VcpuView {
        let vcpu = self.vcpu();
        VcpuView {
            vcpu_id: u32::from(vcpu.id.index),
            apic_id: vcpu.apic_id,
            cr4: self.hw.paging().cr4,
            xcr0: self.xcr0,
            xss: 0,
        }
    }

    /// Its domain's TSC now, which its APIC's timer counts by, whatever the guest writes into its own.
    #[must_use]
    pub(crate) fn domain_tsc(&self) -> u64 {
        hv_hw::time::now().wrapping_add(self.domain.tsc.offset)
    }

    /// Its TSC now: at its own rate, and moved.
    #[must_use]
    pub(crate) fn guest_tsc(&self) -> u64 {
        let own = self.policies.tsc.of_host(self.domain_tsc());
        own.wrapping_add(self.vcpu.tsc_moved())
    }

    /// Takes up what its policies let it do without an exit, and how its TSC counts.
    pub(crate) fn take_rights(&mut self) {
        let rights = make::rights(&self.domain, &self.vcpu, &self.policies);
        self.hw.set_rights(&rights);
        self.tell_time();
    }

    /// Sets its TSC, and what the guest computes time by from it.
    pub(crate) fn set_guest_tsc(&mut self, value: u64) {
        let own = self.policies.tsc.of_host(self.domain_tsc());
        let moved = value.wrapping_sub(own);
        self.vcpu.tsc_moved.store(moved, Ordering::Release);
        self.take_rights();
    }

    /// Tells the guest what it computes time by.
    fn tell_time(&mut self) {
        let clock = self.vcpu.clock(&self.domain);
        let number = self.number();
        self.domain.events.lock().write_time(number, &clock);
        self.vcpu.account.lock().write_clock(&clock);
    }

    /// The host's TSC when the domain's is `tsc`: now where that has passed, never where it is past the host's last.
    #[must_use]
    pub(crate) fn host_tsc(&self, tsc: u64) -> u64 {
        let now = hv_hw::time::now();
        let guest_now = now.wrapping_add(self.domain.tsc.offset);
        now.saturating_add(tsc.saturating_sub(guest_now))
    }

    pub(crate) fn wake(&mut self, pcpu: &mut Pcpu) {
        if self.activity == Activity::Polling {
            pcpu.cancel_timer(self.poll_timer);
            self.polled.clear();
            self.domain.note_poller(self.vcpu(), false);
        }
        self.activity = Activity::Ready;
    }

    /// True where an interrupt or NMI would be delivered at once, were IF set.
    pub(crate) fn has_something_to_deliver(&mut self) -> bool {
        self.lapic.wakes_for(&self.vcpu.posted).is_some()
            || self.nmi_pending
            || inject::callback(self).is_some()
    }

    /// True where a port that SCHEDOP_poll named has an event.
    pub(crate) fn is_any_polled_port_pending(&self) -> bool {
        let events = self.domain.events.lock();
        self.polled.iter().any(|port| events.is_pending(*port))
    }
}

/// What an exit's handler leaves to do.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Go on with the guest.
    Resume,
    /// Let others go first.
    Yield,
    /// Have the CPU look at its vCPUs first: one of them was asked for something that this one waits for.
    Look,
}

/// Raises an exception at the next entry.
pub(crate) fn raise<H: VcpuHw>(runner: &mut Runner<H>, event: Event) -> Next {
    runner.raised = Some(event);
    Next::Resume
}

/// Has the guest begin the same instruction again with its registers moved on: what was due meanwhile comes first, and
/// its interrupt shadow, if it stands in one, ends here.
pub(crate) fn restart<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Next {
    runner.hw.run_again();
    retry(pcpu)
}

/// Has the guest try the same instruction again, of which nothing was done.
pub(crate) fn retry(pcpu: &mut Pcpu) -> Next {
    pcpu.patience.end();
    Next::Resume
}
