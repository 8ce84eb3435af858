//! The seam's test double: plays back scripted exits and remembers what it was told.
//!
//! A host interrupt that is pending (a vector that its CPU recorded and nobody took) takes the place of an exit where the guest comes to a boundary
//! between two instructions at which it may be interrupted, and nowhere else. One that waits for more than
//! [`FakeVcpu::patience`] entries ends the test: the host would hang.

extern crate alloc;

use core::fmt;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{
    ApicAssist, ControlRegister, Event, GuestRegs, Stage2Root, SwitchedRegs, SystemRegs, TscView,
    VcpuHw, VcpuMsr, VmExit, Window,
};
use crate::percpu::{self, IrqsOff};
use hv_core::msr::Passthrough;
use hv_core::walk::PagingMode;
use hv_core::x86::EFER_LMA;

/// Where its exits find the guest, which decides whether a host interrupt gets in between two of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Course {
    /// Each instruction that exits has a boundary before it.
    #[default]
    Boundaries,
    /// Each exit comes in the delivery of the event that was injected or, where none was, of this one, which the guest's own
    /// course raised.
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
    /// The windows that were asked for last.
    pub windows: [bool; 2],
    /// Bytes that `skip_instruction` steps over.
    pub instruction_length: u64,
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
    /// It may serve registers of the local APIC's x2APIC mode.
    pub is_x2apic: bool,
    /// It is loaded.
    pub is_loaded: bool,
    /// Whoever enters it has to have loaded it.
    pub must_be_loaded: bool,
    /// Where its exits find the guest.
    pub course: Course,
    /// The entry during which a host interrupt comes, and its vector.
    pub interrupt_at: Option<(u64, u8)>,
    /// The most entries for which a host interrupt may wait.
    pub patience: u64,
    /// The guest is behind MOV SS or STI: no boundary comes before its next instruction.
    pub is_in_shadow: bool,
    /// What loading it does beside: a test counts, or has it take time.
    pub on_load: Option<fn()>,
    entry_event: Option<Event>,
    ignored: u64,
    msrs: Vec<(VcpuMsr, u64)>,
    interrupt_status: u16,
    switched: Option<SwitchedRegs>,
}

impl Default for FakeVcpu {
    fn default() -> Self {
        Self {
            exits: VecDeque::new(),
            registers: GuestRegs::default(),
            system: SystemRegs::default(),
            injected: Vec::new(),
            interrupted: None,
            windows: [false; 2],
            instruction_length: 0,
            intercepts_tsc: false,
            flushes: 0,
            endless: None,
            entries: 0,
            barriers: 0,
            assist: ApicAssist::None,
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
            msrs: Vec::new(),
            interrupt_status: 0,
            switched: None,
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
    fn rip(&self) -> u64 {
        self.system.rip
    }
    fn rsp(&self) -> u64 {
        self.system.rsp
    }
    fn set_rsp(&mut self, rsp: u64) {
        self.system.rsp = rsp;
    }
    fn rflags(&self) -> u64 {
        self.system.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.system.rflags = rflags;
    }
    fn set_x2apic(&mut self, is_on: bool) {
        self.is_x2apic = is_on;
    }
    fn set_rights(&mut self, _cr4_owned: u64, _passthrough: &[Passthrough]) {}
    fn cpl(&self) -> u8 {
        (self.system.segments[super::SEGMENT_SS].access >> 5).to_le_bytes()[0] & 3
    }
    fn is_64_bit_kernel(&self) -> bool {
        self.is_64_bit() && self.cpl() == 0
    }
    fn is_64_bit(&self) -> bool {
        let code = self.system.segments[super::SEGMENT_CS].access;
        code & super::SEGMENT_LONG != 0 && self.system.efer & EFER_LMA != 0
    }
    fn system(&self) -> SystemRegs {
        self.system
    }
    fn set_system(&mut self, system: &SystemRegs) {
        self.system = *system;
    }
    fn skip_instruction(&mut self) {
        self.system.rip += self.instruction_length;
        self.is_in_shadow = false;
    }
    fn skip_bytes(&mut self, length: u8) {
        self.system.rip += u64::from(length);
        self.is_in_shadow = false;
    }
    fn run_again(&mut self) {
        self.is_in_shadow = false;
    }
    fn inject(&mut self, event: Event) {
        self.injected.push(event);
        self.entry_event = Some(event);
        if matches!(event, Event::Exception { .. }) {
            self.is_in_shadow = false;
        }
    }
    fn take_interrupted_event(&mut self) -> Option<Event> {
        self.interrupted.take()
    }
    fn interrupts_open(&self) -> bool {
        self.system.rflags & (1 << 9) != 0 && !self.is_in_shadow
    }
    fn nmi_open(&self) -> bool {
        !self.is_in_shadow
    }
    fn want_window(&mut self, window: Window, wanted: bool) {
        self.windows[usize::from(window == Window::Nmi)] = wanted;
    }
    fn flush_stage2(&mut self, _root: Stage2Root) {
        self.flushes += 1;
    }
    fn set_tsc(&mut self, _view: TscView) {}
    fn intercept_tsc(&mut self, wanted: bool) {
        self.intercepts_tsc = wanted;
    }
    fn msr(&self, msr: VcpuMsr) -> u64 {
        self.msrs
            .iter()
            .rev()
            .find(|(kept, _)| *kept == msr)
            .map_or(0, |(_, value)| *value)
    }
    fn set_msr(&mut self, msr: VcpuMsr, value: u64) {
        self.msrs.push((msr, value));
    }
    fn set_control(&mut self, register: ControlRegister, value: u64) {
        match register {
            ControlRegister::Cr0 => self.system.cr0 = value,
            ControlRegister::Cr3 => self.system.cr3 = value,
            ControlRegister::Cr4 => self.system.cr4 = value,
            ControlRegister::Cr8 => {}
        }
    }
    fn set_pdptes(&mut self, _entries: [u64; 4]) {}
    fn switched(&mut self) -> SwitchedRegs {
        self.switched.clone().unwrap_or_else(SwitchedRegs::reset)
    }
    fn set_switched(&mut self, regs: &SwitchedRegs) {
        self.switched = Some(regs.clone());
    }
    fn set_cr2(&mut self, value: u64) {
        self.switched.get_or_insert_with(SwitchedRegs::reset).cr2 = value;
    }
    fn add_dr6(&mut self, bits: u64) {
        self.switched.get_or_insert_with(SwitchedRegs::reset).debug[4] |= bits;
    }
    fn set_xcr0(&mut self, _value: u64) {}
    fn apic(&self) -> ApicAssist {
        self.assist
    }
    fn interrupt_status(&self) -> u16 {
        self.interrupt_status
    }
    fn set_interrupt_status(&mut self, status: u16) {
        self.interrupt_status = status;
    }
    fn set_tpr_threshold(&mut self, _class: u8) {}
    fn set_eoi_exits(&mut self, _vectors: &[u64; 4]) {}
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
        writeln!(out, "{:?}", self.system)
    }
}
