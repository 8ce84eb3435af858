//! The registers of a vCPU on their way between its CPU and a toolstack.
//!
//! Nobody but its CPU touches a vCPU that runs. Who wants its registers, or wants them changed, leaves a request and the
//! new registers in the vCPU's box; its CPU answers before the vCPU runs again.

use alloc::boxed::Box;

use guest_abi::hvm::save::{HvmHwCpu, HvmHwLapic};
use hv_core::cpuid::CpuidPolicy;
use hv_core::device::lapic::LapicPage;
use hv_core::msr::MsrState;
use hv_core::vcpu::context::BadRecord;
use hv_hw::virt::{ApicAssist, GuestRegs, SwitchedRegs, SystemRegs, VcpuHw, VcpuMsr};

use super::{Activity, Requests, Runner, Vcpu, exit};
use crate::cpu::Pcpu;
use core::sync::atomic::Ordering;

/// Registers that the hardware keeps beside [`SystemRegs`], in the order of [`VcpuState::msrs`].
pub const KEPT_MSRS: [VcpuMsr; 6] = [
    VcpuMsr::Pat,
    VcpuMsr::DebugCtl,
    VcpuMsr::SysenterCs,
    VcpuMsr::SysenterEsp,
    VcpuMsr::SysenterEip,
    VcpuMsr::SpecCtrl,
];
/// Index of IA32_PAT in [`VcpuState::msrs`].
pub const KEPT_PAT: usize = 0;
/// Index of IA32_SYSENTER_CS in [`VcpuState::msrs`].
pub const KEPT_SYSENTER_CS: usize = 2;
/// Index of IA32_SYSENTER_ESP in [`VcpuState::msrs`].
pub const KEPT_SYSENTER_ESP: usize = 3;
/// Index of IA32_SYSENTER_EIP in [`VcpuState::msrs`].
pub const KEPT_SYSENTER_EIP: usize = 4;
/// Index of IA32_SPEC_CTRL in [`VcpuState::msrs`].
pub const KEPT_SPEC_CTRL: usize = 5;
/// IA32_PAT after reset.
const RESET_PAT: u64 = 0x0007_0406_0007_0406;

/// What a toolstack reads and sets of a vCPU.
#[derive(Clone, Debug)]
pub struct VcpuState {
    /// General-purpose registers.
    pub regs: GuestRegs,
    /// Control registers, EFER, segments, tables, RIP, RSP, RFLAGS, DR7.
    pub system: SystemRegs,
    /// The registers of [`KEPT_MSRS`].
    pub msrs: [u64; KEPT_MSRS.len()],
    /// MSRs that are kept in software: MTRRs.
    pub msr_state: MsrState,
    /// What moves with the vCPU: extended state, debug registers, CR2, MSRs of system calls.
    pub switched: SwitchedRegs,
    /// The local APIC; `None` leaves it as it is.
    pub lapic: Option<(HvmHwLapic, Box<LapicPage>)>,
    /// XCR0.
    pub xcr0: u64,
    /// It may run: false for one that waits.
    pub is_up: bool,
    /// It waits for VCPUOP_up, which may have come already, where it may not run yet; else for INIT and STARTUP.
    pub is_initialised: bool,
}

impl VcpuState {
    /// A vCPU that starts with these, all else as after reset.
    #[must_use]
    pub fn starting(regs: GuestRegs, system: SystemRegs) -> Self {
        Self {
            regs,
            system,
            msrs: [RESET_PAT, 0, 0, 0, 0, 0],
            msr_state: MsrState::RESET,
            switched: SwitchedRegs::reset(),
            lapic: None,
            xcr0: 1,
            is_up: true,
            is_initialised: false,
        }
    }

    /// A vCPU that will start with the registers of `record` when VCPUOP_up lets it.
    ///
    /// # Errors
    /// [`BadRecord`] where no vCPU of a domain with this CPUID can have them.
    pub fn initialised(record: &HvmHwCpu, cpuid: &CpuidPolicy) -> Result<Self, BadRecord> {
        let mut state = Self::starting(GuestRegs::default(), SystemRegs::default());
        state.take_cpu(record, cpuid)?;
        state.is_up = false;
        state.is_initialised = true;
        Ok(state)
    }
}

/// A vCPU's box.
#[derive(Debug, Default)]
pub struct StateBox {
    to_load: Option<Box<VcpuState>>,
    saved: Option<Box<VcpuState>>,
}

impl Vcpu {
    /// Has the vCPU go on with `state`, in place of what it has.
    pub fn set_state(&self, state: VcpuState) {
        {
            let mut at = self.state.lock();
            at.to_load = Some(Box::new(state));
            at.saved = None;
        }
        self.request(Requests::LOAD_STATE);
    }

    /// Its registers, where its CPU has answered; else `None`, and it has been asked. The answer is of use while the vCPU
    /// stands still.
    #[must_use]
    pub fn take_state(&self) -> Option<Box<VcpuState>> {
        let saved = self.state.lock().saved.take();
        if saved.is_none() {
            self.request(Requests::SAVE_STATE);
        }
        saved
    }

    /// Puts a state back that [`Vcpu::take_state`] gave, until others have answered too.
    pub fn put_back(&self, state: Box<VcpuState>) {
        self.state.lock().saved = Some(state);
    }

    /// Drops the answer that nobody took: the vCPU may run from now on, and the answer would be of the past.
    pub fn forget_saved(&self) {
        let saved = self.state.lock().saved.take();
        drop(saved);
    }

    /// Drops what is in the box.
    pub fn forget_state(&self) {
        *self.state.lock() = StateBox::default();
    }
}

impl<H: VcpuHw> Runner<H> {
    /// Does what was asked for with the box. The vCPU is loaded.
    pub(super) fn answer_state(&mut self, requests: Requests, pcpu: &mut Pcpu) {
        if requests.contains(Requests::LOAD_STATE) {
            let state = self.vcpu().state.lock().to_load.take();
            if let Some(state) = state {
                self.load_state(&state, pcpu);
            }
        }
        if requests.contains(Requests::SAVE_STATE) {
            let state = Box::new(self.save_state());
            self.vcpu().state.lock().saved = Some(state);
        }
    }

    /// The registers as they are.
    fn save_state(&mut self) -> VcpuState {
        // what others have posted is in the APIC's page from then on
        let _ = self.lapic.wakes_for(&self.vcpu.posted);
        let (lapic, page) = self.lapic.save(self.guest_tsc());
        VcpuState {
            regs: *self.hw.regs(),
            system: self.hw.system(),
            msrs: KEPT_MSRS.map(|msr| self.hw.msr(msr)),
            msr_state: self.msr_state.clone(),
            switched: self.hw.switched(),
            lapic: Some((lapic, Box::new(page))),
            xcr0: self.xcr0,
            is_up: self.vcpu().is_up.load(Ordering::Acquire),
            is_initialised: false,
        }
    }

    fn load_state(&mut self, state: &VcpuState, pcpu: &mut Pcpu) {
        self.wake(pcpu);
        *self.hw.regs() = state.regs;
        self.hw.set_system(&state.system);
        for (msr, value) in KEPT_MSRS.into_iter().zip(state.msrs) {
            self.hw.set_msr(msr, value);
        }
        self.msr_state = state.msr_state.clone();
        self.hw.set_switched(&state.switched);
        self.xcr0 = state.xcr0;
        self.hw.set_xcr0(state.xcr0);
        if let Some((lapic, page)) = &state.lapic {
            self.load_lapic(lapic, page, pcpu);
        }
        self.raised = None;
        self.interrupted = None;
        self.is_quiet = false;
        exit::control::load_pdptes(self);
        let vcpu = self.vcpu();
        if !state.is_initialised {
            vcpu.is_up.store(state.is_up, Ordering::Release);
            vcpu.is_started.store(state.is_up, Ordering::Release);
        }
        self.activity = match (vcpu.is_up.load(Ordering::Acquire), state.is_initialised) {
            (true, _) => Activity::Ready,
            (false, true) => Activity::Down,
            (false, false) => Activity::Waiting,
        };
    }

    /// Takes up the state of the local APIC; one that it cannot be in was to be refused before, and is left out.
    fn load_lapic(&mut self, state: &HvmHwLapic, page: &LapicPage, pcpu: &mut Pcpu) {
        let now = self.guest_tsc();
        let _ = self.vcpu.posted.take();
        if self.lapic.load(state, page, now).is_err() {
            return;
        }
        if self.hw.apic() == ApicAssist::Delivery {
            let status = self.lapic.guest_interrupt_status();
            self.hw.set_interrupt_status(status);
            self.hw.set_eoi_exits(&self.lapic.eoi_exit_bitmap());
        }
        if !self.lapic.is_on() {
            self.hw.intercept_apic();
        }
        super::exit::apic::timer_expired(self, pcpu);
    }
}
