//! The run loop: what was asked → what goes in → the guest → what came out.
//!
//! Route card, VM exit:
//! - hypervisor/src/main_loop/run_loop.rs:run
//! - with VT-x: hypervisor/hv-hw/src/virt/vtx/vcpu.rs:enter, hypervisor/hv-hw/src/virt/vtx/entry.rs:enter (the guest
//!   runs), hypervisor/hv-hw/src/virt/vtx/exit.rs:decode
//! - with AMD-V: hypervisor/hv-hw/src/virt/svm/vcpu.rs:enter, hypervisor/hv-hw/src/virt/svm/entry.rs:enter (the guest
//!   runs), hypervisor/hv-hw/src/virt/svm/exit.rs:decode
//! - hypervisor/src/exit/mod.rs:handle
//! - hypervisor/src/exit/ (a file per reason)

use hv_hw::sync::atomic::Ordering;

use hv_hw::virt::{SystemSet, VcpuHw};

use crate::domain::pod;
use crate::domain::vcpu::Requests;
use crate::exit;
use crate::pcpu::{Pcpu, poll};
use crate::runner::reset::reset_state;
use crate::runner::{Activity, Next, Runner, apic, apic_timer, crash, inject};

/// Why the loop left a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Descheduled {
    Waiting,
    /// Its domain has [`PauseReasons`](crate::domain::lifecycle::PauseReasons).
    Paused,
    /// It lets others go first.
    Yield,
    /// Its CPU was asked to look at its vCPUs; it goes on where none is to go before it.
    Look,
}

/// Runs the vCPU, which is loaded, until it stops.
///
/// What others want of it they leave where it is looked for, and then kick it: between two exits one flag tells that
/// nobody did. The host's interrupts come as exits, and where the guest keeps them from that, before an entry: see
/// `poll`.
pub(crate) fn run<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Descheduled {
    apic_timer::begin_period(runner, pcpu);
    loop {
        if pcpu.patience.is_over() {
            poll::serve_interrupt(pcpu);
        }
        // before the kick is taken: whoever waits has yet to hear of it
        if runner.activity != Activity::Ready {
            return Descheduled::Waiting;
        }
        if pcpu.take_wake()
            && let Some(stop) = look_up(runner, pcpu)
        {
            return stop;
        }
        if inject::prepare(runner) == Next::Yield {
            continue;
        }
        pcpu.arm();
        let exit = runner.hw.enter(&mut pcpu.irqs_off);
        match exit::handle(runner, pcpu, exit) {
            Next::Resume => {}
            Next::Yield => return Descheduled::Yield,
            Next::Look => return Descheduled::Look,
        }
    }
}

/// Somebody wanted this CPU: looks at all that may have been left for the vCPU, and whether others were meant as well.
#[cold]
#[inline(never)]
fn look_up<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) -> Option<Descheduled> {
    runner.vcpu.take_kick();
    // after the kick: who asks from now on kicks again
    if runner.domain.is_stopped() {
        return Some(Descheduled::Paused);
    }
    if runner.vcpu.has_requests() {
        answer_requests(runner, pcpu);
    }
    if runner.activity != Activity::Ready {
        return Some(Descheduled::Waiting);
    }
    if pcpu.has_business() {
        return Some(Descheduled::Look);
    }
    apic_timer::begin_period(runner, pcpu);
    None
}

impl<H: VcpuHw> Runner<H> {
    /// What of the requests it answers now. The clock of a paused domain stands still; its timer's interrupt belongs to
    /// the registers, though.
    #[must_use]
    pub(crate) fn answerable(&self) -> Requests {
        if self.domain.is_stopped() && !self.vcpu().requests().intersects(Requests::STATE) {
            Requests::all().difference(Requests::TIMERS)
        } else {
            Requests::all()
        }
    }

    /// True where it has to be loaded to answer the requests.
    #[must_use]
    pub(crate) fn needs_registers(&self) -> bool {
        let asked = self.vcpu().requests() & self.answerable();
        !Requests::OF_SOFTWARE.contains(asked)
    }

    /// Decides whether a waiting vCPU can go on, after somebody kicked it. Loaded, where it
    /// [needs](Self::needs_registers) to be.
    pub(crate) fn reconsider(&mut self, pcpu: &mut Pcpu) {
        if self.vcpu().has_requests() {
            answer_requests(self, pcpu);
        }
        let can_go_on = match self.activity {
            Activity::Ready | Activity::Waiting | Activity::Down => return,
            Activity::Halted => self.was_left_something(),
            Activity::Polling => self.is_any_polled_port_pending() || self.was_left_something(),
        };
        if can_go_on {
            self.wake(pcpu);
        }
    }

    /// True where something was left for the vCPU since it began to wait. It may be of too low a priority: then the
    /// guest comes out of HLT for nothing, which it expects to happen.
    fn was_left_something(&self) -> bool {
        self.nmi_pending || self.vcpu().posted.is_waiting() || inject::callback(self).is_some()
    }
}

/// Does what others asked for since the last look.
#[cold]
fn answer_requests<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    let (requests, vector) = runner.vcpu().take_requests(runner.answerable());
    if requests.contains(Requests::FLUSH) {
        runner.hw.flush_stage2(runner.domain.stage2);
    }
    if requests.contains(Requests::RELIEVE) {
        pod::relieve(&runner.domain);
    }
    if requests.contains(Requests::NMI) {
        runner.nmi_pending = true;
    }
    if requests.contains(Requests::APIC_TIMER) {
        apic_timer::expired(runner, pcpu);
        if matches!(runner.activity, Activity::Halted | Activity::Polling) {
            runner.wake(pcpu);
        }
    }
    if requests.contains(Requests::POLL_TIMEOUT) && runner.activity == Activity::Polling {
        runner.wake(pcpu);
    }
    if requests.contains(Requests::INIT) {
        init(runner, pcpu);
    }
    if requests.contains(Requests::POLICIES) {
        runner.policies = runner.domain.policies();
        runner.take_rights();
    }
    if requests.intersects(Requests::LOAD_STATE.union(Requests::SAVE_STATE)) {
        runner.answer_state(requests, pcpu);
    }
    if requests.contains(Requests::STARTUP) && runner.activity == Activity::Waiting {
        startup(runner, vector);
    }
    if requests.contains(Requests::UP_OR_DOWN) {
        go_up_or_down(runner, pcpu);
    }
    if requests.contains(Requests::DUMP) {
        crash::show_state(runner);
    }
}

/// INIT: everything as after reset but APIC_BASE and extended state. SDM vol. 3A, "Processor State After Reset".
fn init<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    runner.wake(pcpu);
    let vcpu = runner.vcpu();
    vcpu.is_up.store(false, Ordering::Release);
    vcpu.is_started.store(false, Ordering::Release);
    let state = reset_state(0xF000, 0xFFFF_0000, 0xFFF0);
    runner.hw.set_system(&state, SystemSet::CORE);
    *runner.hw.regs() = hv_hw::virt::GuestRegs::default();
    runner.lapic.init();
    let _ = runner.vcpu().posted.take();
    apic::reset(runner, pcpu);
    runner.nmi_pending = false;
    runner.raised = None;
    runner.interrupted = None;
    runner.is_quiet = false;
    runner.activity = Activity::Waiting;
}

/// STARTUP: real mode at `vector << 12`.
fn startup<H: VcpuHw>(runner: &mut Runner<H>, vector: u8) {
    let selector = u16::from(vector) << 8;
    let base = u64::from(vector) << 12;
    let state = reset_state(selector, base, 0);
    runner.hw.set_system(&state, SystemSet::CORE);
    let vcpu = runner.vcpu();
    vcpu.is_started.store(true, Ordering::Release);
    vcpu.is_up.store(true, Ordering::Release);
    runner.activity = Activity::Ready;
}

/// VCPUOP_up or VCPUOP_down: a wait ends early, which guests expect to happen.
fn go_up_or_down<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu) {
    match (runner.activity, runner.vcpu().is_up.load(Ordering::Acquire)) {
        (Activity::Waiting, _) | (Activity::Down, false) => {}
        (Activity::Down, true) => runner.activity = Activity::Ready,
        (Activity::Ready | Activity::Halted | Activity::Polling, true) => {}
        (Activity::Ready | Activity::Halted | Activity::Polling, false) => {
            runner.wake(pcpu);
            runner.activity = Activity::Down;
        }
    }
}
