//! A vCPU as a VMCB.
// UNSAFETY: takes a frame for a VMCB, and enters its guest.
#![expect(unsafe_code, reason = "VMCB life cycle")]

use alloc::vec::Vec;
use core::fmt;
use core::ptr;

use hv_core::addr::Hpa;
use hv_core::mem::SharedWords;
use hv_core::msr::number::IA32_MCG_STATUS;
use hv_core::walk::PagingMode;
use hv_core::x86::{DR6_BS, RFLAGS_IF, vector};

use super::super::extended::{self, Extended, ExtendedState};
use super::super::guard::Guard;
use super::super::guest_msrs::TscAux;
use super::super::{
    ApicAssist, ApicUpdate, Event, GuestRegs, Rights, Stage2Root, SystemRegs, SystemSet,
    VcpuConfig, VcpuHw, VmExit, Waits, debug_regs, merge_dr6,
};
use super::asid::{Asid, Asids, FLUSH_ALL, FLUSH_GUEST, FLUSH_NOTHING};
use super::exit_codes as codes;
use super::inject::{Injected, SHADOW, VIRTUAL};
use super::msr_map::MsrMap;
use super::probe::Svm;
use super::registers::{own_debug, step};
use super::setup::{self, Setup};
use super::vmcb::OwnVmcb;
use super::{dump, entry, exit, host};
use crate::cpu::msr::rdmsr_safe;
use crate::irq;
use crate::percpu::IrqsOff;

/// Bits of `Vmcb::virtual_interrupt`: V_TPR, as CR8 has it.
const V_TPR: u64 = 0xFF;
/// Offset of the task priority in an APIC page, in bytes.
const TPR: usize = 0x80;

/// A vCPU on SVM.
#[derive(Debug)]
pub(crate) struct SvmVcpu {
    regs: GuestRegs,
    pub(super) vmcb: OwnVmcb,
    /// The host's VMCB of the CPU that it is loaded on.
    host: Hpa,
    asids: &'static Asids,
    asid: Asid,
    pub(super) injected: Injected,
    /// A single-step trap follows the instruction that was stepped over.
    pub(super) is_step_due: bool,
    pub(super) extended: Extended,
    pub(super) kind: ExtendedState,
    pub(super) tsc_aux: TscAux,
    debug: [u64; 5],
    msrs: MsrMap,
    /// What entry and exit do against speculation.
    pub(super) guard: Guard,
    is_guarded: bool,
    pub(super) config: Setup,
}

impl SvmVcpu {
    pub(super) fn new(svm: &Svm, config: &VcpuConfig<'_>) -> Self {
        let msrs = MsrMap::new(config.msr_bitmap, config.rights.passthrough);
        // SAFETY: the frame is the vCPU's own for as long as it lives, as `Backend::vcpu` demands.
        let mut vmcb = unsafe { OwnVmcb::new(config.control_block) };
        setup::fill(&mut vmcb, &svm.caps, config);
        vmcb.msr_map = msrs.address().as_u64();
        vmcb.virtual_interrupt = VIRTUAL;
        let guard = Guard::new(&svm.speculation);
        Self {
            regs: GuestRegs::default(),
            vmcb,
            host: Hpa::new(0),
            asids: Asids::of_this_cpu(),
            asid: Asid::default(),
            injected: Injected::default(),
            is_step_due: false,
            extended: Extended::new(svm.extended, config.xsave_area),
            kind: svm.extended,
            tsc_aux: TscAux::new(svm.extended.has_tsc_aux),
            debug: own_debug([0; 5]),
            msrs,
            is_guarded: guard.is_needed(),
            guard,
            config: Setup::new(svm, config),
        }
    }

    /// Has the CPU forget what it knows of the guest's translations.
    pub(super) fn forget_translations(&mut self) {
        if self.config.caps.flush_by_asid && self.vmcb.tlb_control == FLUSH_NOTHING {
            self.vmcb.tlb_control = FLUSH_GUEST;
        } else {
            self.asid.forget();
        }
    }

    /// Takes a tag that is in order on this CPU.
    #[cold]
    fn renew_asid(&mut self) {
        let (asid, flush) = if self.config.caps.tags == 0 {
            (1, FLUSH_ALL)
        } else {
            self.asid.renew(self.asids, self.config.caps.tags)
        };
        self.vmcb.asid = asid;
        self.vmcb.tlb_control = flush;
    }

    /// The trap that is due after an instruction that was stepped over, before anything else that is delivered.
    #[cold]
    fn trap_step(&mut self) {
        self.is_step_due = false;
        self.vmcb.state.dr6 = merge_dr6(self.vmcb.state.dr6, DR6_BS);
        self.injected.inject(&mut self.vmcb, vector::DEBUG, None);
    }

    /// Decodes all exits but the most frequent, and does for them what cannot wait.
    #[inline(never)]
    fn decode_other(&mut self, irqs_off: &mut IrqsOff) -> VmExit {
        match exit::code(&self.vmcb) {
            codes::INTR => {
                irq::poll_interrupt(irqs_off).map_or(VmExit::Nothing, VmExit::ExternalInterrupt)
            }
            // it was taken when interrupts of that kind were let in again
            codes::NMI => VmExit::Nmi,
            codes::IRET => self.injected.iret(&mut self.vmcb),
            codes::SHUTDOWN if is_machine_check() => VmExit::Exception {
                vector: vector::MACHINE_CHECK,
                error: None,
                qualification: 0,
            },
            codes::INVALID => {
                self.asids.start_over();
                exit::decode(&self.vmcb)
            }
            _ => exit::decode(&self.vmcb),
        }
    }

    /// The guest's task priority, as its local APIC has it: into the VMCB, from which CR8 is served.
    #[inline(always)]
    fn show_task_priority(&mut self) -> u64 {
        let class = u64::from(self.config.apic_page.load_u32(TPR) >> 4 & 0xF);
        self.vmcb.virtual_interrupt = self.vmcb.virtual_interrupt & !V_TPR | class;
        class
    }

    #[inline(always)]
    fn take_task_priority(&mut self, shown: u64) {
        let class = self.vmcb.virtual_interrupt & V_TPR;
        if class != shown {
            self.config
                .apic_page
                .store_u8(TPR, ((class & 0xF) << 4).to_le_bytes()[0]);
        }
    }
}

/// True where the shutdown is that of a machine check: of a guest that has not set CR4.MCE.
#[cold]
fn is_machine_check() -> bool {
    const IN_PROGRESS: u64 = 1 << 2;
    rdmsr_safe(IA32_MCG_STATUS).is_some_and(|status| status & IN_PROGRESS != 0)
}

impl VcpuHw for SvmVcpu {
    #[inline]
    fn enter(&mut self, irqs_off: &mut IrqsOff) -> VmExit {
        if !self.asid.is_current(self.asids) {
            self.renew_asid();
        }
        if self.is_step_due {
            self.trap_step();
        }
        let shown = self.show_task_priority();
        self.vmcb.state.rax = self.regs.rax();
        let guard = if self.is_guarded {
            &raw const self.guard
        } else {
            ptr::null()
        };
        let vmcb = self.vmcb.address().as_u64();
        // SAFETY: loaded here, so `host` is this CPU's; the VMCB and its maps are of this vCPU, interrupts are off by
        // the token.
        unsafe { entry::enter(&raw mut self.regs, vmcb, self.host.as_u64(), guard) };
        self.regs.set_rax(self.vmcb.state.rax);
        self.vmcb.tlb_control = FLUSH_NOTHING;
        self.take_task_priority(shown);
        match exit::decode_frequent(&self.vmcb) {
            Some(exit) => {
                self.injected.is_delivered();
                exit
            }
            None => self.decode_other(irqs_off),
        }
    }

    #[inline]
    fn regs(&mut self) -> &mut GuestRegs {
        &mut self.regs
    }

    #[inline]
    fn read_regs(&self) -> &GuestRegs {
        &self.regs
    }

    #[inline]
    fn paging(&self) -> PagingMode {
        let state = &self.vmcb.state;
        PagingMode {
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer & !host::EFER_SVME,
        }
    }

    #[inline(always)]
    fn system(&self, wanted: SystemSet) -> SystemRegs {
        self.read_system(wanted)
    }

    #[inline(always)]
    fn set_system(&mut self, regs: &SystemRegs, changed: SystemSet) {
        self.write_system(regs, changed);
    }

    fn extended(&self) -> Vec<u8> {
        self.extended.read()
    }

    fn set_extended(&mut self, extended: &[u8]) {
        self.extended.write(extended);
    }

    #[inline(always)]
    fn instruction_length(&self) -> Option<u64> {
        let end = match exit::code(&self.vmcb) {
            codes::IOIO => self.vmcb.exit_info2,
            _ if self.config.caps.next_rip => self.vmcb.next_rip,
            _ => return None,
        };
        (end != 0).then(|| end.wrapping_sub(self.vmcb.state.rip) & 0xF)
    }

    #[inline(always)]
    fn knows_length(&self) -> bool {
        // 0 where the CPU has left it out
        self.config.caps.next_rip && self.vmcb.next_rip != 0
            || exit::code(&self.vmcb) == codes::IOIO
    }

    #[inline(always)]
    fn skip(&mut self, length: u64) {
        self.is_step_due = step(&mut self.vmcb, length);
    }

    fn deliver(&mut self, event: Option<Event>, waits: Waits) {
        self.injected.deliver(&mut self.vmcb, event, waits);
    }

    #[inline]
    fn take_interrupted_event(&mut self) -> Option<Event> {
        self.injected.take_interrupted(&mut self.vmcb)
    }

    fn flush_stage2(&mut self, _root: Stage2Root) {
        self.asids.forget_all();
    }

    fn apic(&self) -> ApicAssist {
        ApicAssist::TaskPriority
    }

    fn update_apic(&mut self, _update: ApicUpdate) {
        // nothing of it is served here but the task priority, which is read from the APIC's page at each entry
    }

    fn set_rights(&mut self, rights: &Rights<'_>) {
        self.msrs.set(rights.passthrough);
        setup::set_rights(&mut self.vmcb, rights);
    }

    fn load(&mut self, _irqs_off: &IrqsOff) {
        self.host = host::vmcb();
        let asids = Asids::of_this_cpu();
        if !ptr::eq(asids, self.asids) {
            self.asids = asids;
            self.asid.forget();
        }
        extended::enable_xsave(&self.kind);
        self.extended.load();
        self.tsc_aux.load();
        debug_regs::write_debug(&self.debug);
    }

    fn forget_branches(&mut self) {
        self.guard.forget_branches();
    }

    fn unload(&mut self, _irqs_off: &IrqsOff) {
        self.extended.save();
        self.tsc_aux.save();
        self.debug = own_debug(debug_regs::read_debug());
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        dump::write(&self.vmcb, &self.regs, &self.system(SystemSet::all()), out)
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        self.vmcb.state.cpl
    }

    #[inline(always)]
    fn interrupts_open(&self) -> bool {
        let is_in_shadow = self.vmcb.shadow & SHADOW != 0;
        // the trap comes first, and its handler may be entered with interrupts off
        self.vmcb.state.rflags & RFLAGS_IF != 0 && !is_in_shadow && !self.is_step_due
    }

    #[inline(always)]
    fn nmi_open(&self) -> bool {
        self.system(SystemSet::BLOCKING).blocking.is_empty() && !self.is_step_due
    }
}
