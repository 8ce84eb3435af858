//! The seam's test double: plays back scripted exits and remembers what it was told.
//!
//! A host interrupt that is pending (a vector that its CPU recorded and nobody took) takes the place of an exit where
//! the guest comes to a boundary between two instructions at which it may be interrupted, and nowhere else. One that
//! waits for more than [`FakeVcpu::patience`] entries ends the test: the host would hang.

extern crate alloc;

use core::fmt;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{
    ApicAssist, ApicUpdate, Blocking, Event, GuestRegs, Rights, Segment, Stage2Root, SystemRegs,
    SystemSet, VcpuHw, VmExit, Waits, reset_extended,
};
use crate::percpu::{self, IrqsOff};
use hv_core::device::lapic::InterruptStatus;
use hv_core::walk::PagingMode;

/// Where its exits find the guest, which decides whether a host interrupt gets in between two of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Course {
    /// Each instruction that exits has a boundary before it.
    #[default]
    Boundaries,
    /// Each exit comes in the delivery of the event that was injected or, where none was, of this one, which the
    /// guest's own course raised.
    InDelivery(Event),
    /// MOV SS comes before the instruction that exits.
    InShadow,
    /// A trap of the last instruction exits before interrupts are looked at.
    Trap,
}

/// Entries for which a host interrupt may wait, unless a test says less: 64 of the run loop, and those around them.
const PATIENCE: u64 = 66;

/// A vCPU without hardware.
#[derive(Debug)]
pub struct FakeVcpu {
    /// The exits to come, first first; a triple fault where none is left.
    pub exits: VecDeque<VmExit>,
    /// The registers, as the next exit finds them.
    pub registers: GuestRegs,
    /// Control registers and the like.
    pub system: SystemRegs,
    /// What was injected, in order.
    pub injected: Vec<Event>,
    /// The event that the last exit interrupted.
    pub interrupted: Option<Event>,
    /// What it waits for.
    pub waits: Waits,
    /// Bytes of each instruction that exits; `None` where the CPU does not say.
    pub instruction_length: Option<u64>,
    /// Reads of the TSC exit.
    pub intercepts_tsc: bool,
    /// How often translations were flushed.
    pub flushes: usize,
    /// Where no exit is left, what the next entry brings, given how many there were: a guest that goes on for ever.
    pub endless: Option<fn(u64) -> VmExit>,
    /// How often it was entered.
    pub entries: u64,
    /// How often what the CPU had learnt of branches was forgotten for it.
    pub barriers: u64,
    /// What of the local APIC the hardware takes over.
    pub assist: ApicAssist,
    /// The vectors that it would deliver and end itself.
    pub status: InterruptStatus,
    /// It may serve registers of the local APIC's x2APIC mode.
    pub is_x2apic: bool,
    pub is_loaded: bool,
    /// Whoever enters it has to have loaded it.
    pub must_be_loaded: bool,
    /// Where its exits find the guest.
    pub course: Course,
    /// The entry during which a host interrupt comes, and its vector.
    pub interrupt_at: Option<(u64, u8)>,
    /// The most entries for which a host interrupt may wait.
    pub patience: u64,
    /// The last instruction was MOV SS or STI: no boundary comes before its next instruction.
    pub is_in_shadow: bool,
    /// What loading it does beside: a test counts, or has it take time.
    pub on_load: Option<fn()>,
    entry_event: Option<Event>,
    ignored: u64,
    extended: Vec<u8>,
}

impl Default for FakeVcpu {
    fn default() -> Self {
        Self {
            exits: VecDeque::new(),
            registers: GuestRegs::default(),
            system: SystemRegs::default().else_reset(),
            injected: Vec::new(),
            interrupted: None,
            waits: Waits::default(),
            instruction_length: Some(0),
            intercepts_tsc: false,
            flushes: 0,
            endless: None,
            entries: 0,
            barriers: 0,
            assist: ApicAssist::None,
            status: InterruptStatus::default(),
            is_x2apic: false,
            is_loaded: false,
            must_be_loaded: false,
            course: Course::default(),
            interrupt_at: None,
            patience: PATIENCE,
            is_in_shadow: false,
            on_load: None,
            entry_event: None,
            ignored: 0,
            extended: reset_extended(),
        }
    }
}

impl FakeVcpu {
    /// Goes on to where the next exit comes; true where a boundary is on the way.
    fn go_on(&mut self) -> bool {
        let injected = self.entry_event.take();
        match self.course {
            Course::Boundaries => true,
            Course::Trap => false,
            Course::InDelivery(own) => {
                self.interrupted = Some(injected.unwrap_or(own));
                injected.is_none()
            }
            Course::InShadow => !core::mem::replace(&mut self.is_in_shadow, true),
        }
    }

    /// The host interrupt that is due, where there is a boundary for it.
    fn host_interrupt(&mut self, is_boundary: bool) -> Option<u8> {
        let cpu = percpu::this();
        if is_boundary && let Some(vector) = cpu.take_vector() {
            self.interrupted = None;
            return Some(vector);
        }
        self.ignored = if cpu.has_vector() {
            self.ignored + 1
        } else {
            0
        };
        assert!(
            self.ignored <= self.patience,
            "a host interrupt has waited for {} entries: {:?}",
            self.ignored,
            self.course
        );
        if let Some((entry, vector)) = self.interrupt_at
            && entry == self.entries
        {
            cpu.raise(vector);
        }
        None
    }
}

impl VcpuHw for FakeVcpu {
    fn enter(&mut self, _irqs_off: &mut IrqsOff) -> VmExit {
        assert!(
            self.is_loaded || !self.must_be_loaded,
            "only a loaded vCPU is entered"
        );
        self.entries += 1;
        let was_in_shadow = self.is_in_shadow;
        let is_boundary = self.go_on();
        if let Some(vector) = self.host_interrupt(is_boundary) {
            self.is_in_shadow = was_in_shadow;
            return VmExit::ExternalInterrupt(vector);
        }
        let entries = self.entries;
        let next = self.exits.pop_front();
        next.or_else(|| self.endless.map(|exit| exit(entries)))
            .unwrap_or(VmExit::TripleFault)
    }
    fn regs(&mut self) -> &mut GuestRegs {
        &mut self.registers
    }
    fn read_regs(&self) -> &GuestRegs {
        &self.registers
    }
    fn paging(&self) -> PagingMode {
        let SystemRegs {
            cr0,
            cr3,
            cr4,
            efer,
            ..
        } = self.system;
        PagingMode {
            cr0,
            cr3,
            cr4,
            efer,
        }
    }
    fn system(&self, wanted: SystemSet) -> SystemRegs {
        let mut from = self.system;
        from.blocking.set(Blocking::SHADOW, self.is_in_shadow);
        let mut regs = poison();
        copy(&mut regs, &from, wanted);
        regs
    }
    fn set_system(&mut self, regs: &SystemRegs, changed: SystemSet) {
        copy(&mut self.system, regs, changed);
        if changed.contains(SystemSet::BLOCKING) {
            self.is_in_shadow = regs.blocking.contains(Blocking::SHADOW);
        }
    }
    fn extended(&self) -> Vec<u8> {
        self.extended.clone()
    }
    fn set_extended(&mut self, extended: &[u8]) {
        self.extended = extended.to_vec();
    }
    fn instruction_length(&self) -> Option<u64> {
        self.instruction_length
    }
    fn knows_length(&self) -> bool {
        self.instruction_length.is_some()
    }
    fn skip(&mut self, length: u64) {
        self.system.rip += length;
        self.is_in_shadow = false;
    }
    fn deliver(&mut self, event: Option<Event>, waits: Waits) {
        self.waits = waits;
        let Some(event) = event else { return };
        self.injected.push(event);
        self.entry_event = Some(event);
        if matches!(event, Event::Exception { .. }) {
            self.is_in_shadow = false;
        }
    }
    fn take_interrupted_event(&mut self) -> Option<Event> {
        self.interrupted.take()
    }
    fn flush_stage2(&mut self, _root: Stage2Root) {
        self.flushes += 1;
    }
    fn apic(&self) -> ApicAssist {
        self.assist
    }
    fn update_apic(&mut self, update: ApicUpdate) {
        match update {
            ApicUpdate::Requested(vector) => self.status = self.status.raised(vector),
            ApicUpdate::Status(status) => self.status = status,
            ApicUpdate::EoiExits(_) => {}
            ApicUpdate::X2apic(is_on) => self.is_x2apic = is_on,
        }
    }
    fn set_rights(&mut self, rights: &Rights<'_>) {
        self.intercepts_tsc = rights.intercepts_tsc;
    }
    fn load(&mut self, _irqs_off: &IrqsOff) {
        self.is_loaded = true;
        if let Some(on_load) = self.on_load {
            on_load();
        }
    }
    fn forget_branches(&mut self) {
        self.barriers += 1;
    }
    fn unload(&mut self, _irqs_off: &IrqsOff) {
        self.is_loaded = false;
    }
    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let SystemRegs {
            rip,
            rsp,
            rflags,
            cr0,
            cr3,
            cr4,
            efer,
            segments,
            ..
        } = self.system;
        writeln!(
            out,
            "SystemRegs {{ rip: {rip}, rsp: {rsp}, rflags: {rflags}, cr0: {cr0}, cr3: {cr3}, cr4: {cr4}, efer: {efer}, segments: \
             {segments:?} }}"
        )
    }
}

/// What registers read as that were not asked for: nothing that a test could take for a value.
fn poison() -> SystemRegs {
    const NOT_ASKED_FOR: u64 = 0xDEAD_0000_DEAD_0000;
    let segment = Segment {
        selector: 0xDEAD,
        base: NOT_ASKED_FOR,
        limit: 0,
        access: 0xDEAD,
    };
    SystemRegs {
        cr0: NOT_ASKED_FOR,
        cr3: NOT_ASKED_FOR,
        cr4: NOT_ASKED_FOR,
        efer: NOT_ASKED_FOR,
        rip: NOT_ASKED_FOR,
        rsp: NOT_ASKED_FOR,
        rflags: NOT_ASKED_FOR,
        blocking: Blocking::all(),
        segments: [segment; 8],
        pat: NOT_ASKED_FOR,
        cr2: NOT_ASKED_FOR,
        tsc_aux: NOT_ASKED_FOR,
        ..SystemRegs::default()
    }
}

/// Copies the registers in `which`.
fn copy(to: &mut SystemRegs, from: &SystemRegs, which: SystemSet) {
    macro_rules! each {
        ($($set:ident: $($field:ident $([$index:expr])?),+;)*) => {
            $(if which.contains(SystemSet::$set) {
                $(to.$field $([$index])? = from.$field $([$index])?;)+
            })*
        };
    }
    each! {
        RIP: rip;
        RSP: rsp;
        RFLAGS: rflags;
        BLOCKING: blocking;
        CR0: cr0;
        CR3: cr3;
        CR4: cr4;
        EFER: efer;
        CODE: segments[1];
        STACK: segments[2];
        DATA: segments[0], segments[3], segments[4], segments[5], segments[6], segments[7];
        TABLES: gdtr, idtr;
        DR7: dr7;
        PDPTES: pdptes;
        PAT: pat;
        DEBUGCTL: debugctl;
        SYSENTER: sysenter_cs, sysenter_esp, sysenter_eip;
        SPEC_CTRL: spec_ctrl;
        SYSCALL: star, lstar, cstar, fmask, kernel_gs_base;
        TSC_AUX: tsc_aux;
        CR2: cr2;
        DEBUG: debug;
        XCR0: xcr0;
    }
}
