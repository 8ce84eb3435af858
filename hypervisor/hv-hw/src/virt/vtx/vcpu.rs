//! A vCPU as a VMCS.
// UNSAFETY: states that a VMCS is current, and enters it.
#![expect(unsafe_code, reason = "VMCS life cycle")]

use alloc::vec::Vec;
use core::fmt;

use hv_core::addr::Hpa;
use hv_core::walk::PagingMode;

use super::super::guard::Guard;
use super::super::{
    ApicAssist, ApicUpdate, Event, GuestRegs, Rights, Stage2Root, SystemRegs, SystemSet, VcpuHw,
    VmExit, Waits, debug_regs, extended,
};
use super::fields::{Field, Primary};
use super::registers::{self, BLOCKED_BY_NMI};
use super::setup::{self, Setup};
use super::switch::Switched;
use super::vmcs::CurrentVmcs;
use super::{apic, dump, entry, exit, host, inject, insn, reasons};
use crate::percpu::IrqsOff;

/// A vCPU on VT-x. Its VMCS is current on the CPU between [`VcpuHw::load`] and [`VcpuHw::unload`], and only then may
/// the other methods be called.
#[derive(Debug)]
pub(crate) struct VtxVcpu {
    regs: GuestRegs,
    /// 1 once launched since the last VMCLEAR: VMRESUME instead of VMLAUNCH.
    launched: u64,
    primary: Primary,
    apic: ApicAssist,
    eptp: u64,
    vmcs: Hpa,
    is_loaded: bool,
    is_new: bool,
    is_x2apic: bool,
    pub(super) switched: Switched,
    /// What VM entry and exit do against speculation.
    pub(super) guard: Guard,
    is_guarded: bool,
    pub(super) config: Setup,
}

impl VtxVcpu {
    pub(super) fn new(config: Setup) -> Self {
        host::stamp_revision(config.vmcs, config.caps.revision);
        let caps = &config.caps;
        let guard = Guard::new(&config.speculation);
        Self {
            regs: GuestRegs::default(),
            launched: 0,
            primary: caps.primary,
            apic: if caps.has_interrupt_delivery() {
                ApicAssist::Delivery
            } else if caps.has_tpr_shadow() {
                ApicAssist::TaskPriority
            } else {
                ApicAssist::None
            },
            eptp: setup::ept_pointer(caps, config.stage2),
            vmcs: config.vmcs.base(),
            is_loaded: false,
            is_new: true,
            is_x2apic: false,
            switched: Switched::new(config.extended, config.xsave_area),
            is_guarded: guard.is_needed(),
            guard,
            config,
        }
    }

    /// The current VMCS, this vCPU's.
    #[inline(always)]
    pub(super) fn current(&self) -> CurrentVmcs {
        debug_assert!(self.is_loaded, "vCPU used while it is not loaded");
        // SAFETY: loaded here, as every method but `load` demands; writers below keep host state and bitmaps.
        unsafe { CurrentVmcs::assume() }
    }

    fn interruptibility(&self) -> u64 {
        self.current().read(Field::Interruptibility)
    }

    fn set_interruptibility(&mut self, value: u64) {
        self.current().write(Field::Interruptibility, value);
    }

    /// Drops what an earlier owner of this VPID left in the TLB.
    pub(super) fn forget_vpid(&self) {
        if let Some(vpid) = &self.config.vpid {
            // SAFETY: in VMX operation since the VMCS was loaded; VPID is used only with single-context INVVPID.
            unsafe { insn::invvpid_single(vpid.get()) };
        }
    }

    fn set_primary(&mut self, bit: Primary, wanted: bool) {
        if self.primary.contains(bit) != wanted {
            self.primary.set(bit, wanted);
            self.current()
                .write(Field::PrimaryControls, u64::from(self.primary.bits()));
        }
    }

    fn set_x2apic(&mut self, is_on: bool) {
        self.is_x2apic = is_on;
        self.config.show_x2apic(is_on);
        let secondary = setup::secondary(&self.config.caps, is_on);
        self.current()
            .write(Field::SecondaryControls, u64::from(secondary.bits()));
    }

    fn inject(&mut self, event: Event) {
        let vmcs = self.current();
        if let Event::Exception { .. } = event {
            // a fault ends the shadow of the instruction before it, and VM entry insists on that for #DB
            registers::end_shadow(vmcs);
        }
        inject::write(vmcs, event);
    }

    #[cold]
    fn entry_refused(&self) -> VmExit {
        VmExit::Broken {
            reason: self.current().read32(Field::InstructionError),
            qualification: u64::MAX,
        }
    }

    /// Does what the CPU would have done on delivering the debug exception that exited instead.
    #[cold]
    fn take_debug_exception(&mut self, qualification: u64) {
        const GENERAL_DETECT: u64 = 1 << 13;
        debug_regs::merge_dr6(qualification);
        let vmcs = self.current();
        vmcs.write(
            Field::GuestDr7,
            vmcs.read(Field::GuestDr7) & !GENERAL_DETECT,
        );
        if exit::is_int1(vmcs) {
            // a trap, whose handler returns after the instruction
            let next = vmcs
                .read(Field::GuestRip)
                .wrapping_add(vmcs.read(Field::InstructionLength));
            vmcs.write(Field::GuestRip, next);
        }
    }

    /// Decodes all other exits, and does for them what cannot wait.
    #[inline(never)]
    fn decode_other(&mut self) -> VmExit {
        let exit = exit::decode(self.current(), &self.regs);
        match exit {
            VmExit::Nmi => Self::run_host_nmi(),
            VmExit::Exception {
                vector: 1,
                qualification,
                ..
            } => self.take_debug_exception(qualification),
            VmExit::Broken { reason, .. } if reasons::is_entry_failure(reason) => self.launched = 0,
            _ => {}
        }
        exit
    }

    /// An NMI took us out of the guest: the host's handler runs now, as it would have.
    #[cold]
    fn run_host_nmi() {
        // SAFETY: vector 2 has the host's NMI handler, which returns with IRET and thereby ends NMI blocking.
        unsafe { core::arch::asm!("int 2") };
    }
}

impl VcpuHw for VtxVcpu {
    #[inline]
    fn enter(&mut self, _irqs_off: &mut IrqsOff) -> VmExit {
        let regs = &raw mut self.regs;
        let refused = if self.is_guarded {
            // SAFETY: the VMCS is current with this CPU's host state (`load`), interrupts are off by the token.
            unsafe { entry::enter_guarded(regs, self.launched, &raw const self.guard) }
        } else {
            // SAFETY: as above.
            unsafe { entry::enter(regs, self.launched) }
        };
        if refused != 0 {
            return self.entry_refused();
        }
        self.launched = 1;
        match exit::decode_frequent(self.current()) {
            Some(exit) => exit,
            None => self.decode_other(),
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
        let vmcs = self.current();
        PagingMode {
            cr0: vmcs.read(Field::GuestCr0),
            cr3: vmcs.read(Field::GuestCr3),
            cr4: vmcs.read(Field::GuestCr4),
            efer: vmcs.read(Field::GuestEfer),
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
        self.switched.extended.read()
    }

    fn set_extended(&mut self, extended: &[u8]) {
        self.switched.extended.write(extended);
    }

    #[inline(always)]
    fn instruction_length(&self) -> Option<u64> {
        Some(self.current().read(Field::InstructionLength))
    }

    #[inline(always)]
    fn knows_length(&self) -> bool {
        true
    }

    #[inline(always)]
    fn skip(&mut self, length: u64) {
        registers::step(self.current(), length);
    }

    fn deliver(&mut self, event: Option<Event>, waits: Waits) {
        if let Some(event) = event {
            self.inject(event);
        }
        self.set_primary(Primary::INTERRUPT_WINDOW, waits.interrupt);
        self.set_primary(Primary::NMI_WINDOW, waits.nmi);
        if self.apic == ApicAssist::TaskPriority {
            let class = u64::from(waits.task_priority & 0xF);
            self.current().write(Field::TprThreshold, class);
        }
    }

    #[inline]
    fn take_interrupted_event(&mut self) -> Option<Event> {
        let event = inject::interrupted(self.current())?;
        if event == Event::Nmi {
            // its delivery set the blocking, which would keep it from being delivered again
            let shadow = self.interruptibility();
            self.set_interruptibility(shadow & !BLOCKED_BY_NMI);
        }
        Some(event)
    }

    fn flush_stage2(&mut self, root: Stage2Root) {
        // SAFETY: in VMX operation since the VMCS was loaded; single-context INVEPT was asked for by `Caps::probe`.
        unsafe { insn::invept_single(setup::ept_pointer(&self.config.caps, root)) };
    }

    fn apic(&self) -> ApicAssist {
        self.apic
    }

    #[inline]
    fn update_apic(&mut self, update: ApicUpdate) {
        let vmcs = self.current();
        match update {
            ApicUpdate::Requested(vector) => {
                let status = apic::status(vmcs).raised(vector);
                apic::set_status(vmcs, status);
            }
            ApicUpdate::Status(status) => apic::set_status(vmcs, status),
            ApicUpdate::EoiExits(vectors) => apic::set_eoi_exits(vmcs, &vectors),
            ApicUpdate::X2apic(is_on) => self.set_x2apic(is_on),
        }
    }

    fn set_rights(&mut self, rights: &Rights<'_>) {
        if self.config.set_rights(rights) {
            self.config.show_x2apic(self.is_x2apic);
        }
        setup::write_rights(self.current(), &self.config);
        self.set_primary(Primary::RDTSC, rights.intercepts_tsc);
    }

    fn load(&mut self, _irqs_off: &IrqsOff) {
        if self.is_new {
            // SAFETY: the region is ours, stamped in `new`, and in use on no CPU yet.
            unsafe { insn::vmclear(self.vmcs) }.expect("a VMCS of ours can be cleared");
        }
        // SAFETY: cleared above or in `unload`, so active on no other CPU.
        unsafe { insn::vmptrld(self.vmcs) }.expect("a cleared VMCS of ours can be loaded");
        self.is_loaded = true;
        if self.is_new {
            setup::write_all(self.current(), &self.config, self.eptp);
            self.forget_vpid();
            self.is_new = false;
        }
        extended::enable_xsave(&self.config.extended);
        host::write_state(self.current(), self.is_guarded);
        self.switched.load();
    }

    fn forget_branches(&mut self) {
        self.guard.forget_branches();
    }

    fn unload(&mut self, _irqs_off: &IrqsOff) {
        self.switched.save();
        // SAFETY: the region is ours and current here.
        unsafe { insn::vmclear(self.vmcs) }.expect("a VMCS of ours can be cleared");
        self.is_loaded = false;
        self.launched = 0;
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        dump::write(
            self.current(),
            &self.regs,
            &self.system(SystemSet::all()),
            out,
        )
    }
}

#[inline(always)]
pub(super) fn low_half(word: u32) -> u16 {
    let [low, high, ..] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}
