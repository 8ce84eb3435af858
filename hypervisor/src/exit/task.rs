//! A hardware task switch, which the CPU leaves to us; the rules are `hv_core::vcpu::task`'s.

use hv_core::addr::Gva;
use hv_core::emulate::ExitingInsn;
use hv_core::vcpu::task::{self, TaskFault, TaskMemory, TaskRegs, TaskSource};
use hv_core::walk::{self, Access, PagingMode, WalkFault};
use hv_core::x86::gpr::RSP;
use hv_core::x86::page_fault::{PRESENT, RESERVED, WRITE};
use hv_core::x86::vector::{DEBUG, PAGE_FAULT, PROTECTION};
use hv_core::x86::{DR6_BT, EFER_LMA};
use hv_hw::virt::{
    Blocking, ControlRegister, Event, Segment, SystemRegs, SystemSet, TaskSwitch, VcpuHw, merge_dr6,
};

use crate::exit::{Next, Runner};
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;
use crate::runner::instruction::gone;
use crate::runner::{pdptes, raise};

/// Carries it out. An event by whose gate it came has then been delivered.
pub(super) fn handle<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, exit: TaskSwitch) -> Next {
    let system = runner.hw.system(SystemSet::CORE);
    if system.efer & EFER_LMA != 0 {
        // the CPU raises this itself: there are no tasks in long mode
        return raise(runner, Event::PROTECTION);
    }
    let event = runner.interrupted;
    let Some(length) = length(runner, exit, event) else {
        return gone(runner, pcpu);
    };
    runner.interrupted = None;
    // where the old task goes on
    let next = low(system.rip).wrapping_add(u32::from(length));
    let mut regs = gather(runner, &system, next);
    let mut memory = Linear {
        runner,
        mode: runner.hw.paging(),
    };
    let source = match (exit.source, event) {
        (TaskSource::Gate(_), Some(Event::Exception { error, .. })) => TaskSource::Gate(error),
        (source, _) => source,
    };
    match task::switch(&mut regs, &mut memory, exit.selector, source) {
        Ok(begun) => {
            enter(runner, system, &regs);
            begun.map_or(Next::Resume, |fault| fail(runner, fault))
        }
        Err(fault) => {
            runner.interrupted = event;
            fail(runner, fault)
        }
    }
}

/// Bytes of the instruction that brought the switch about, which the old task goes on after; 0 for an event that came
/// between two. `None` where the CPU does not say, and it is gone.
fn length<H: VcpuHw>(runner: &Runner<H>, exit: TaskSwitch, event: Option<Event>) -> Option<u8> {
    match (exit.source, event) {
        (TaskSource::Gate(_), Some(Event::Software { length, .. })) if length != 0 => Some(length),
        (TaskSource::Gate(_), Some(event)) if !matches!(event, Event::Software { .. }) => Some(0),
        (TaskSource::Gate(_), None) if exit.length.is_some() => Some(0),
        (source, _) => exit
            .length
            .or_else(|| runner.length_of(ExitingInsn::TaskSwitch(source))),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "32-bit code")]
const fn low(value: u64) -> u32 {
    value as u32
}

fn gather<H: VcpuHw>(runner: &Runner<H>, system: &SystemRegs, eip: u32) -> TaskRegs {
    let gpr = runner.hw.read_regs().gpr;
    let mut gprs = core::array::from_fn(|index| low(gpr[index]));
    gprs[RSP] = low(system.rsp);
    TaskRegs {
        gprs,
        eip,
        eflags: low(system.rflags),
        cr0: system.cr0,
        cr3: system.cr3,
        dr7: system.dr7,
        segments: system.segments.map(|segment| task::Segment {
            selector: segment.selector,
            base: segment.base,
            limit: segment.limit,
            access: segment.access,
        }),
        gdt: (system.gdtr.base, system.gdtr.limit),
    }
}

/// Gives the vCPU the new task's registers.
fn enter<H: VcpuHw>(runner: &mut Runner<H>, old: SystemRegs, regs: &TaskRegs) {
    let gpr = &mut runner.hw.regs().gpr;
    for (register, value) in gpr.iter_mut().zip(regs.gprs) {
        *register = u64::from(value);
    }
    let system = SystemRegs {
        cr0: regs.cr0,
        cr3: regs.cr3,
        rip: u64::from(regs.eip),
        rsp: u64::from(regs.gprs[RSP]),
        rflags: u64::from(regs.eflags),
        blocking: Blocking::empty(),
        dr7: regs.dr7,
        segments: regs.segments.map(|segment| Segment {
            selector: segment.selector,
            base: segment.base,
            limit: segment.limit,
            access: segment.access,
        }),
        ..old
    };
    runner.hw.set_system(&system, SystemSet::CORE);
    match pdptes::due(runner, ControlRegister::Cr3, regs.cr3) {
        Ok(Some(entries)) => pdptes::set(runner, entries),
        Ok(None) => {}
        // none is present then: the new task's first access faults
        Err(_) => pdptes::set(runner, [0; 4]),
    }
}

fn fail<H: VcpuHw>(runner: &mut Runner<H>, fault: TaskFault) -> Next {
    let (vector, error) = match fault {
        TaskFault::Exception { vector, error } => (vector, Some(error)),
        TaskFault::Page { address, error } => {
            let regs = SystemRegs {
                cr2: address.as_u64(),
                ..SystemRegs::default()
            };
            runner.hw.set_system(&regs, SystemSet::CR2);
            (PAGE_FAULT, Some(error))
        }
        TaskFault::Trap => {
            let mut regs = runner.hw.system(SystemSet::DEBUG);
            regs.debug[4] = merge_dr6(regs.debug[4], DR6_BT);
            runner.hw.set_system(&regs, SystemSet::DEBUG);
            (DEBUG, None)
        }
    };
    raise(runner, Event::Exception { vector, error })
}

/// The guest's linear memory.
struct Linear<'a, H> {
    runner: &'a Runner<H>,
    mode: PagingMode,
}

impl<H: VcpuHw> TaskMemory for Linear<'_, H> {
    fn read(&self, cr3: u64, from: Gva, to: &mut [u8]) -> Result<(), TaskFault> {
        let mode = PagingMode { cr3, ..self.mode };
        let memory = DomainMemory::lock(&self.runner.domain, &self.runner.tlb);
        walk::copy_in(&memory, &mode, from, Access::Read, to).map_err(|why| fault(from, why, 0))
    }

    fn write(&mut self, cr3: u64, to: Gva, from: &[u8]) -> Result<(), TaskFault> {
        let mode = PagingMode { cr3, ..self.mode };
        let mut memory = DomainMemory::lock(&self.runner.domain, &self.runner.tlb);
        walk::copy_out(&mut memory, &mode, to, from).map_err(|why| fault(to, why, WRITE))
    }
}

/// What the CPU would raise.
fn fault(address: Gva, why: WalkFault, access: u32) -> TaskFault {
    let bits = match why {
        WalkFault::NotPresent => 0,
        WalkFault::ReadOnly => PRESENT,
        WalkFault::ReservedBit => PRESENT | RESERVED,
        WalkFault::NotCanonical | WalkFault::Supervisor | WalkFault::NotRam(_) => {
            return TaskFault::Exception {
                vector: PROTECTION,
                error: 0,
            };
        }
    };
    TaskFault::Page {
        address,
        error: bits | access,
    }
}
