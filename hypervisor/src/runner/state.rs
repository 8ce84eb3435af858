//! The registers of a vCPU, taken from it or put into it for a toolstack that left a request.

use alloc::boxed::Box;
use hv_hw::sync::atomic::Ordering;

use guest_abi::hvm::save::HvmHwLapic;
use hv_core::device::lapic::{LapicPage, Mode};
use hv_hw::virt::{ApicAssist, ApicUpdate, Blocking, SystemRegs, SystemSet, VcpuHw};

use super::{Activity, Runner, apic, apic_timer, inject, pdptes};
use crate::domain::vcpu::Requests;
use crate::domain::vcpu_state::VcpuState;
use crate::pcpu::Pcpu;

impl<H: VcpuHw> Runner<H> {
    /// Does what was asked for with the mailbox. The vCPU is loaded.
    pub(crate) fn answer_state(&mut self, requests: Requests, pcpu: &mut Pcpu) {
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
        inject::put_back(self);
        // what others have posted is in the APIC's page from then on
        let _ = self.lapic.wakes_for(&self.vcpu.posted);
        let (lapic, page) = self.lapic.save(self.guest_tsc());
        let system = SystemRegs {
            // no record has a place for it
            blocking: Blocking::empty(),
            xcr0: self.xcr0,
            ..self.hw.system(SystemSet::SAVED)
        };
        VcpuState {
            regs: *self.hw.regs(),
            system,
            msr_state: self.msr_state.clone(),
            extended: self.hw.extended(),
            lapic: Some((lapic, Box::new(page))),
            is_up: self.vcpu().is_up.load(Ordering::Acquire),
            is_initialised: false,
        }
    }

    fn load_state(&mut self, state: &VcpuState, pcpu: &mut Pcpu) {
        self.wake(pcpu);
        *self.hw.regs() = state.regs;
        self.hw.set_system(&state.system, SystemSet::SAVED);
        self.hw.set_extended(&state.extended);
        self.msr_state = state.msr_state.clone();
        self.xcr0 = state.system.xcr0;
        if let Some((lapic, page)) = &state.lapic {
            self.load_lapic(lapic, page, pcpu);
        }
        self.raised = None;
        self.interrupted = None;
        self.is_quiet = false;
        pdptes::load(self);
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
            let status = self.lapic.interrupt_status();
            self.hw.update_apic(ApicUpdate::Status(status));
            let eoi_exits = self.lapic.eoi_exit_bitmap();
            self.hw.update_apic(ApicUpdate::EoiExits(eoi_exits));
        }
        apic::tell_address(self);
        let is_x2apic = self.lapic.mode() == Mode::X2apic;
        self.hw.update_apic(ApicUpdate::X2apic(is_x2apic));
        apic_timer::expired(self, pcpu);
    }
}
