//! The registers of a vCPU on their way between its CPU and a toolstack.
//!
//! Nobody but its CPU touches a vCPU that runs. Who wants its registers, or wants them changed, leaves a request and
//! the new registers in the vCPU's [`StateMailbox`]; its CPU answers before the vCPU runs again.

pub(crate) mod records;

use alloc::boxed::Box;
use alloc::vec::Vec;

use guest_abi::hvm::save::{HvmHwCpu, HvmHwLapic};
use hv_core::cpuid::CpuidPolicy;
use hv_core::device::lapic::LapicPage;
use hv_core::msr::MsrState;
use hv_core::vcpu::context::BadRecord;
use hv_hw::virt::{GuestRegs, SystemRegs, reset_extended};

use super::vcpu::{Requests, Vcpu};

/// What a toolstack reads and sets of a vCPU.
#[derive(Clone, Debug)]
pub(crate) struct VcpuState {
    pub regs: GuestRegs,
    pub system: SystemRegs,
    /// MSRs that are kept in software: MTRRs.
    pub msr_state: MsrState,
    /// Extended state, as XSAVE writes it.
    pub extended: Vec<u8>,
    /// The local APIC; `None` leaves it as it is.
    pub lapic: Option<(HvmHwLapic, Box<LapicPage>)>,
    /// It may run: false for one that waits.
    pub is_up: bool,
    /// It waits for VCPUOP_up, which may have come already, where it may not run yet; else for INIT and STARTUP.
    pub is_initialised: bool,
}

impl VcpuState {
    /// A vCPU that starts with these of the registers of [`SystemSet::CORE`](hv_hw::virt::SystemSet::CORE), all else as
    /// after reset.
    #[must_use]
    pub(crate) fn starting(regs: GuestRegs, system: SystemRegs) -> Self {
        Self {
            regs,
            system: system.else_reset(),
            msr_state: MsrState::RESET,
            extended: reset_extended(),
            lapic: None,
            is_up: true,
            is_initialised: false,
        }
    }

    /// A vCPU that will start with the registers of `record` when VCPUOP_up lets it.
    ///
    /// # Errors
    /// [`BadRecord`] where no vCPU of a domain with this CPUID can have them.
    pub(crate) fn initialised(record: &HvmHwCpu, cpuid: &CpuidPolicy) -> Result<Self, BadRecord> {
        let mut state = Self::starting(GuestRegs::default(), SystemRegs::default());
        state.take_cpu(record, cpuid)?;
        state.is_up = false;
        state.is_initialised = true;
        Ok(state)
    }
}

/// Registers on their way between a vCPU's CPU and a toolstack, in either direction.
#[derive(Debug, Default)]
pub(crate) struct StateMailbox {
    pub(crate) to_load: Option<Box<VcpuState>>,
    pub(crate) saved: Option<Box<VcpuState>>,
}

impl Vcpu {
    /// Has the vCPU go on with `state`, in place of what it has.
    pub(crate) fn set_state(&self, state: VcpuState) {
        {
            let mut at = self.state.lock();
            at.to_load = Some(Box::new(state));
            at.saved = None;
        }
        self.request(Requests::LOAD_STATE);
    }

    /// Its registers, where its CPU has answered; else `None`, and it has been asked. The answer is of use while the
    /// vCPU stands still.
    #[must_use]
    pub(crate) fn take_state(&self) -> Option<Box<VcpuState>> {
        let saved = self.state.lock().saved.take();
        if saved.is_none() {
            self.request(Requests::SAVE_STATE);
        }
        saved
    }

    /// Puts a state back that [`Vcpu::take_state`] gave, until others have answered too.
    pub(crate) fn put_back(&self, state: Box<VcpuState>) {
        self.state.lock().saved = Some(state);
    }

    /// Drops the answer that nobody took: the vCPU may run from now on, and the answer would be of the past.
    pub(crate) fn forget_saved(&self) {
        let saved = self.state.lock().saved.take();
        drop(saved);
    }

    /// Drops what is in the mailbox.
    pub(crate) fn forget_state(&self) {
        *self.state.lock() = StateMailbox::default();
    }
}
