//! What becomes of a domain: paused, shut down, destroyed. [`PauseReasons`] is the one word that the run loop looks at.
//!
//! A pause is counted, as Xen's toolstacks count it; a new domain starts with one. A shutdown, the guest's own or its
//! crash, leaves everything as it is until the domain is destroyed or resumed. Next: `destroy`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use hv_hw::sync::atomic::Ordering;

use bitflags::bitflags;
use guest_abi::memory::E820Entry;
use guest_abi::sched::{
    SHUTDOWN_crash, SHUTDOWN_poweroff, SHUTDOWN_reboot, SHUTDOWN_soft_reset, SHUTDOWN_suspend,
    SHUTDOWN_watchdog,
};
use hv_core::domid::DomId;
use hv_core::evtchn::Virq;
use hv_core::watchdog::Watchdogs;
use hv_hw::domain_log;

use crate::domain::specials::Specials;
use crate::domain::vcpu::Requests;
use crate::domain::{Domain, HVM_PARAMS, registry};
use crate::machine::host;

/// The most pauses that can be open at once.
const MAX_PAUSES: u32 = 255;

bitflags! {
    /// Why none of a domain's vCPUs may run.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct PauseReasons: u32 {
        /// The toolstack wants it to stand still.
        const PAUSED = 1 << 0;
        /// It has shut itself down, or crashed.
        const SHUT_DOWN = 1 << 1;
        /// It is being destroyed.
        const DYING = 1 << 2;
    }
}

/// What is asked rarely.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    /// HVM parameters by index.
    pub params: [u64; HVM_PARAMS],
    pub ended: Option<ShutdownReason>,
    pub handle: [u8; 16],
    /// The map of its memory that its toolstack gave it, in place of `Domain::e820` (XENMEM_set_memory_map).
    pub memory_map: Option<Arc<Vec<E820Entry>>>,
    /// It has been allowed to run: its CPU policy is settled.
    pub has_started: bool,
    /// Pauses that were not undone.
    pub pauses: u32,
    /// Seconds by which its wall clock is ahead of the host's.
    pub time_offset_s: i64,
    /// How its TSC is to behave (`public/domctl.h, xen_domctl_tsc_info`), as its toolstack has said.
    pub tsc_mode: u32,
    /// How often it was restored.
    pub tsc_incarnation: u32,
    /// Who shuts it down where it does not come back in time.
    pub watchdogs: Watchdogs,
    /// How far its destruction is.
    pub(super) teardown_stage: super::destroy::TeardownStage,
    /// Where in its memory the pages are that it shares with the hypervisor.
    pub(super) specials: Specials,
}

/// Why a domain ended, in Xen's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ShutdownReason {
    /// It switched itself off.
    PowerOff,
    /// It wants to start over.
    Reboot,
    /// It wants its state saved.
    Suspend,
    /// It crashed, or was made to.
    Crash,
    /// Another of `public/sched.h`, SHUTDOWN_*.
    Other(u32),
}

impl ShutdownReason {
    /// From the number of `public/sched.h`.
    #[must_use]
    pub(crate) fn from_reason(reason: u32) -> Self {
        match reason {
            SHUTDOWN_poweroff => Self::PowerOff,
            SHUTDOWN_reboot => Self::Reboot,
            SHUTDOWN_suspend => Self::Suspend,
            SHUTDOWN_crash => Self::Crash,
            other => Self::Other(other),
        }
    }

    /// The number of `public/sched.h`.
    #[must_use]
    pub(crate) fn reason(self) -> u32 {
        match self {
            Self::PowerOff => SHUTDOWN_poweroff,
            Self::Reboot => SHUTDOWN_reboot,
            Self::Suspend => SHUTDOWN_suspend,
            Self::Crash => SHUTDOWN_crash,
            Self::Other(other) => other,
        }
    }
}

impl fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("power-off"),
            Self::Reboot => f.write_str("reboot"),
            Self::Suspend => f.write_str("suspend"),
            Self::Crash => f.write_str("crash"),
            Self::Other(SHUTDOWN_watchdog) => f.write_str("watchdog"),
            Self::Other(SHUTDOWN_soft_reset) => f.write_str("soft reset"),
            Self::Other(reason) => write!(f, "reason {reason}"),
        }
    }
}

/// Why a pause was not made, or not undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PauseError {
    /// There is none to undo.
    NotPaused,
    /// More pauses are open than are counted.
    TooMany,
}

impl Lifecycle {
    /// How far its destruction is.
    #[must_use]
    pub(crate) fn teardown_stage(&self) -> super::destroy::TeardownStage {
        self.teardown_stage
    }

    /// Of a new domain.
    #[must_use]
    pub(crate) fn new(handle: [u8; 16]) -> Self {
        Self {
            params: [0; HVM_PARAMS],
            watchdogs: Watchdogs::default(),
            ended: None,
            handle,
            memory_map: None,
            has_started: false,
            pauses: 0,
            time_offset_s: 0,
            tsc_mode: 0,
            tsc_incarnation: 1,
            teardown_stage: super::destroy::TeardownStage::None,
            specials: Specials::default(),
        }
    }
}

impl Domain {
    /// Why none of its vCPUs may run.
    #[inline]
    #[must_use]
    pub(crate) fn pause_reasons(&self) -> PauseReasons {
        PauseReasons::from_bits_retain(self.pause_reasons.load(Ordering::Acquire))
    }

    /// True where none of its vCPUs may run: one load for the run loop.
    #[inline]
    #[must_use]
    pub(crate) fn is_stopped(&self) -> bool {
        self.pause_reasons.load(Ordering::Acquire) != 0
    }

    /// True once its destruction has begun: nothing new is given to it, mapped from it or bound to it.
    #[inline]
    #[must_use]
    pub(crate) fn is_dying(&self) -> bool {
        self.pause_reasons().contains(PauseReasons::DYING)
    }

    /// True where it has shut itself down, or crashed.
    #[must_use]
    pub(crate) fn is_shut_down(&self) -> bool {
        self.pause_reasons().contains(PauseReasons::SHUT_DOWN)
    }

    pub(super) fn hold(&self, why: PauseReasons) {
        self.pause_reasons.fetch_or(why.bits(), Ordering::AcqRel);
        self.kick_all();
    }

    /// Takes a reason away. Under the lock under which it is given, or the end of one pause would take the next with
    /// it.
    fn release(&self, why: PauseReasons, _lifecycle: &mut Lifecycle) {
        for vcpu in &self.vcpus {
            vcpu.forget_saved();
        }
        self.pause_reasons.fetch_and(!why.bits(), Ordering::AcqRel);
    }

    /// Lets none of its vCPUs run until [`Domain::unpause`] was called as often. They may be running still: see
    /// [`Domain::is_any_vcpu_running`].
    ///
    /// # Errors
    /// [`PauseError::TooMany`].
    pub(crate) fn pause(&self) -> Result<(), PauseError> {
        {
            let mut lifecycle = self.lifecycle.lock();
            if lifecycle.pauses >= MAX_PAUSES {
                return Err(PauseError::TooMany);
            }
            lifecycle.pauses += 1;
            self.pause_reasons
                .fetch_or(PauseReasons::PAUSED.bits(), Ordering::AcqRel);
        }
        self.kick_all();
        Ok(())
    }

    /// Undoes one pause.
    ///
    /// # Errors
    /// [`PauseError::NotPaused`].
    pub(crate) fn unpause(&self) -> Result<(), PauseError> {
        {
            let mut lifecycle = self.lifecycle.lock();
            lifecycle.pauses = lifecycle
                .pauses
                .checked_sub(1)
                .ok_or(PauseError::NotPaused)?;
            if lifecycle.pauses > 0 {
                return Ok(());
            }
            lifecycle.has_started = true;
            self.release(PauseReasons::PAUSED, &mut lifecycle);
        }
        self.kick_all();
        Ok(())
    }

    /// True once it has been allowed to run: what may be set only before that is settled.
    #[must_use]
    pub(crate) fn has_started(&self) -> bool {
        self.lifecycle.lock().has_started
    }

    /// True while a CPU has one of its vCPUs in the guest or in a hypercall.
    #[must_use]
    pub(crate) fn is_any_vcpu_running(&self) -> bool {
        self.vcpus.iter().any(|vcpu| vcpu.is_running())
    }

    /// Waits until none of the vCPUs of a paused domain runs. One that runs is on another CPU, which leaves the guest
    /// at once; no guest waits for the caller's, so the wait is short.
    pub(crate) fn wait_until_still(&self) {
        const TURNS: u32 = 1 << 26;
        for _ in 0..TURNS {
            if !self.is_any_vcpu_running() {
                return;
            }
            hv_hw::sync::atomic::spin_loop();
        }
        domain_log!(self.log, Error, "{}: a vCPU does not stop", self.id);
    }

    /// Ends the domain: its vCPUs stop at their next exit, and the toolstack hears of it. The first reason stays, and
    /// the log has one line of it with `how` it came.
    pub(crate) fn end(&self, why: ShutdownReason, how: &str) {
        let is_first = {
            let mut lifecycle = self.lifecycle.lock();
            let is_first = lifecycle.ended.is_none();
            lifecycle.ended.get_or_insert(why);
            self.pause_reasons
                .fetch_or(PauseReasons::SHUT_DOWN.bits(), Ordering::AcqRel);
            is_first
        };
        self.kick_all();
        if is_first {
            domain_log!(self.log, Info, "{}: ended, {why}: {how}", self.id);
        }
        if is_first && !self.is_hardware {
            tell_toolstack();
        }
    }

    /// Ends the domain where one of its watchdogs has expired. Each vCPU that sets one has a timer for the first of
    /// them all then, so that the last who set one has a timer for the first that is due now.
    pub(crate) fn look_at_watchdogs(&self) {
        let watchdogs = self.lifecycle.lock().watchdogs;
        if watchdogs.has_expired(host::now_ns()) {
            self.end(
                ShutdownReason::Other(SHUTDOWN_watchdog),
                "its watchdog has expired",
            );
        }
    }

    /// Lets a domain go on that has shut down, as one that asked for its suspend and is to live here on. Without effect
    /// on others.
    pub(crate) fn resume(&self) {
        {
            let mut lifecycle = self.lifecycle.lock();
            lifecycle.ended = None;
            self.release(PauseReasons::SHUT_DOWN, &mut lifecycle);
        }
        self.kick_all();
    }

    /// Why it ended, if it did.
    #[must_use]
    pub(crate) fn shutdown_reason(&self) -> Option<ShutdownReason> {
        self.lifecycle.lock().ended
    }

    /// Has each of its vCPUs take up the domain's policies.
    pub(crate) fn set_policies(&self, policies: Arc<super::Policies>) {
        *self.policies.lock() = policies;
        for vcpu in &self.vcpus {
            vcpu.request(Requests::POLICIES);
        }
    }
}

/// Raises VIRQ_DOM_EXC: a domain has ended, or is gone.
pub(crate) fn tell_toolstack() {
    if let Some(dom0) = registry::find(DomId::DOM0) {
        dom0.raise_virq(0, Virq::DOM_EXC);
    }
}
