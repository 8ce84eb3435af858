//! Exceptions and NMIs that go in, those that exit, and what an exit in the middle of a delivery gives back.

use hv_core::paging::stage2::Access;
use hv_hw::virt::{
    Backend, Blocking, Event, SoftwareEvent, Stage2Access, SystemSet, VcpuHw, VmExit, Waits,
};

use crate::guest::Guest;
use crate::layout::{
    self, CODE, CR0_AM, IDT, NOWHERE, PAGE_TABLE, RFLAGS_AC, RFLAGS_TF, STACK, STACK_TOP,
};
use crate::report::{Check, Verdict};
use crate::start::Bench;
use crate::{check, check_eq, code, skip};

pub(super) fn checks<B: Backend>() -> &'static [Check<B>] {
    const {
        &[
            Check::new("event_exception_with_error", with_error),
            Check::new("event_exception_without_error", without_error),
            Check::new("event_nmi_blocks_until_iret", nmi_blocks),
            Check::new("event_nmi_window", nmi_window),
            Check::new("event_nmi_window_at_once", nmi_window_at_once),
            Check::new("event_interrupted_interrupt", interrupted_interrupt),
            Check::new("event_interrupted_by_stack", interrupted_by_stack),
            Check::new("event_interrupted_exception", interrupted_exception),
            Check::new("event_interrupted_nmi", interrupted_nmi),
            Check::new("event_interrupted_fault_of_guest", interrupted_fault),
            Check::new("event_interrupted_int_n", interrupted_int_n),
            Check::new("event_interrupted_int_3", interrupted_int_3),
            Check::new("event_triple_fault", triple_fault),
            Check::new("event_single_step", single_step),
            Check::new("event_single_step_over_skipped", step_over_skipped),
            Check::new("event_alignment_check", alignment_check),
        ]
    }
}

const VECTOR: u8 = 0x41;
const PAGE_FAULT: u8 = 14;
const DR6_BS: u64 = 1 << 14;
/// What DR6 has always set.
const DR6_FIXED: u64 = 0xFFFF_0FF0;

fn with_error<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.begin(code!("nop", "hlt"));
    guest.deliver(Event::Exception {
        vector: 13,
        error: Some(0x1230),
    });
    let exit = guest.enter();
    guest.expect_handler(exit, 13)?;
    let pushed = guest.pushed(true);
    check_eq!(pushed.error, Some(0x1230), "the error code");
    check_eq!(
        (pushed.rip, pushed.rsp),
        (CODE, STACK_TOP),
        "what is pushed"
    );
    guest.step_over(1)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 1)
}

/// A shadow, which would put off an interrupt, does not keep an exception out.
fn without_error<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.begin(code!("nop", "hlt"));
    guest.set(SystemSet::BLOCKING, |regs| {
        regs.blocking = Blocking::SHADOW;
    });
    guest.deliver(Event::UNDEFINED);
    let exit = guest.enter();
    guest.expect_handler(exit, 6)?;
    let pushed = guest.pushed(false);
    check_eq!(
        (pushed.rip, pushed.rsp),
        (CODE, STACK_TOP),
        "what is pushed"
    );
    Ok(())
}

/// An NMI that goes in keeps others out until its handler's IRET.
fn nmi_blocks<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.begin(code!("nop", "hlt"));
    check!(guest.vcpu().nmi_open(), "NMIs are blocked from the start");
    guest.deliver(Event::Nmi);
    let exit = guest.enter();
    guest.expect_handler(exit, 2)?;
    check_eq!(guest.pushed(false).rip, CODE, "where it was taken");
    check!(!guest.vcpu().nmi_open(), "another NMI is let in");
    let blocking = guest.system(SystemSet::BLOCKING).blocking;
    check!(blocking.contains(Blocking::NMI), "it is {blocking:?}");
    guest.step_over(1)?;
    guest.wait_for(Waits::default());
    let exit = guest.enter();
    guest.expect_halt(exit, 1)?;
    check!(guest.vcpu().nmi_open(), "IRET does not open NMIs");
    Ok(())
}

/// One that waits for that has its window then, and goes in no earlier than the code that was interrupted goes on.
fn nmi_window<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const NMI: Waits = Waits {
        interrupt: false,
        nmi: true,
        task_priority: 0,
    };
    let mut guest = Guest::new(bench);
    guest.begin(code!("nop", "nop", "hlt"));
    guest.deliver(Event::Nmi);
    let exit = guest.enter();
    guest.expect_handler(exit, 2)?;
    guest.step_over(1)?;
    guest.wait_for(NMI);
    let exit = guest.enter();
    check_eq!(exit, VmExit::NmiWindow, "the exit");
    let mut turns = 0;
    while !guest.vcpu().nmi_open() {
        check!(turns < 3, "NMIs do not open");
        turns += 1;
        guest.wait_for(NMI);
        let exit = guest.enter();
        if exit == VmExit::Hlt {
            guest.step_over(1)?;
        } else {
            let is_window = matches!(exit, VmExit::NmiWindow | VmExit::InterruptWindow);
            check!(is_window, "the exit on the way is {exit:x?}");
        }
    }
    let here = guest.vcpu().rip();
    check!(here < layout::handler(0), "it is still in the handler");
    guest.deliver(Event::Nmi);
    let exit = guest.enter();
    guest.expect_handler(exit, 2)?;
    let pushed = guest.pushed(false);
    check_eq!(
        (pushed.rip, pushed.rsp),
        (here, STACK_TOP),
        "what is pushed"
    );
    Ok(())
}

/// Where NMIs are open the window is at once; where interrupts are open too.
fn nmi_window_at_once<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set_interrupts(true);
    guest.wait_for(Waits {
        nmi: true,
        ..Waits::default()
    });
    let exit = guest.run(code!("nop", "hlt"));
    let is_window = matches!(exit, VmExit::NmiWindow | VmExit::InterruptWindow);
    check!(is_window, "the exit is {exit:x?}");
    check_eq!(guest.at(), 0, "where");
    Ok(())
}

/// Has the delivery of `event` end at the IDT, checks that it comes back, and delivers it.
fn interrupt_and_repeat<B: Backend>(guest: &mut Guest<'_, B>, event: Event, vector: u8) -> Verdict {
    guest.unmap(IDT);
    guest.deliver(event);
    let exit = guest.enter();
    cut_short(guest, exit, vector)?;
    check_eq!(guest.interrupted, Some(event), "what was interrupted");
    guest.map_again(IDT, Access::Rwx);
    guest.deliver(event);
    let exit = guest.enter();
    guest.expect_handler(exit, vector)?;
    check_eq!(guest.interrupted, None, "what was interrupted then");
    Ok(())
}

/// Checks that the exit is for the gate of `vector`.
fn cut_short<B: Backend>(guest: &mut Guest<'_, B>, exit: VmExit, vector: u8) -> Verdict {
    let at = guest.vcpu().rip();
    let VmExit::Stage2Fault(fault) = exit else {
        check!(false, "the exit is {exit:x?} at {at:x}");
        return Ok(());
    };
    let gate = IDT + u64::from(vector) * 16;
    let is_there = (gate..gate + 16).contains(&fault.gpa.as_u64());
    check!(is_there, "the fault is at {:x?}", fault.gpa);
    check_eq!(fault.access, Stage2Access::READ, "the access");
    Ok(())
}

fn interrupted_interrupt<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set_interrupts(true);
    guest.begin(code!("nop", "hlt"));
    interrupt_and_repeat(&mut guest, Event::Interrupt(VECTOR), VECTOR)?;
    check_eq!(guest.pushed(false).rip, CODE, "where it was taken");
    guest.step_over(1)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 1)
}

/// The same where the stack is not there, which is written.
fn interrupted_by_stack<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let event = Event::Interrupt(VECTOR);
    let mut guest = Guest::new(bench);
    guest.set_interrupts(true);
    guest.begin(code!("nop", "hlt"));
    guest.unmap(STACK);
    guest.deliver(event);
    let exit = guest.enter();
    let VmExit::Stage2Fault(fault) = exit else {
        check!(false, "the exit is {exit:x?}");
        return Ok(());
    };
    check_eq!(fault.gpa.as_u64() & !0xFFF, STACK, "the page");
    check_eq!(fault.access, Stage2Access::WRITE, "the access");
    check_eq!(guest.interrupted, Some(event), "what was interrupted");
    check_eq!(guest.at(), 0, "where it stands");
    let rsp = guest.system(SystemSet::RSP).rsp;
    check_eq!(rsp, STACK_TOP, "the stack pointer");
    guest.map_again(STACK, Access::Rwx);
    guest.deliver(event);
    let exit = guest.enter();
    guest.expect_handler(exit, VECTOR)
}

fn interrupted_exception<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.begin(code!("nop", "hlt"));
    let event = Event::Exception {
        vector: 13,
        error: Some(0x4560),
    };
    interrupt_and_repeat(&mut guest, event, 13)?;
    check_eq!(guest.pushed(true).error, Some(0x4560), "the error code");
    let debug = Event::Exception {
        vector: 1,
        error: None,
    };
    guest.begin(code!("nop", "hlt"));
    interrupt_and_repeat(&mut guest, debug, 1)
}

/// Whose delivery was cut short has not blocked others, and blocks once it is delivered.
fn interrupted_nmi<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.begin(code!("nop", "hlt"));
    guest.unmap(IDT);
    guest.deliver(Event::Nmi);
    let exit = guest.enter();
    cut_short(&mut guest, exit, 2)?;
    check_eq!(guest.interrupted, Some(Event::Nmi), "what was interrupted");
    check!(guest.vcpu().nmi_open(), "NMIs are blocked without one");
    guest.map_again(IDT, Access::Rwx);
    guest.deliver(Event::Nmi);
    let exit = guest.enter();
    guest.expect_handler(exit, 2)?;
    check!(!guest.vcpu().nmi_open(), "another NMI is let in");
    Ok(())
}

/// A fault of the guest's own, with its error code and CR2.
fn interrupted_fault<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.write_words(PAGE_TABLE + (NOWHERE >> 12) * 8, &[0]);
    guest.unmap(IDT);
    let exit = guest.run(code!("mov [0x80123], al", "hlt"));
    cut_short(&mut guest, exit, PAGE_FAULT)?;
    let event = Event::Exception {
        vector: PAGE_FAULT,
        error: Some(2),
    };
    check_eq!(guest.interrupted, Some(event), "what was interrupted");
    let cr2 = guest.system(SystemSet::CR2).cr2;
    check_eq!(cr2, NOWHERE + 0x123, "CR2");
    guest.map_again(IDT, Access::Rwx);
    guest.deliver(event);
    let exit = guest.enter();
    guest.expect_handler(exit, PAGE_FAULT)?;
    let pushed = guest.pushed(true);
    check_eq!(
        (pushed.error, pushed.rip),
        (Some(2), CODE),
        "what is pushed"
    );
    Ok(())
}

/// The event is the instruction's, and its handler returns behind it.
fn interrupted_software<B: Backend>(
    guest: &mut Guest<'_, B>,
    code: &[u8],
    (vector, kind, length): (u8, SoftwareEvent, u8),
) -> Verdict {
    guest.unmap(IDT);
    let exit = guest.run(code);
    cut_short(guest, exit, vector)?;
    check_eq!(guest.at(), 0, "where it stands");
    let Some(event @ Event::Software { .. }) = guest.interrupted else {
        check!(false, "what was interrupted is {:x?}", guest.interrupted);
        return Ok(());
    };
    // where there is no length the instruction runs again, whichever it is
    let runs_again = matches!(event, Event::Software { vector: of, length: 0, .. } if of == vector);
    let wanted = Event::Software {
        vector,
        kind,
        length,
    };
    check!(runs_again || event == wanted, "it is {event:x?}");
    guest.map_again(IDT, Access::Rwx);
    guest.deliver(event);
    let exit = guest.enter();
    guest.expect_handler(exit, vector)?;
    let pushed = guest.pushed(false);
    check_eq!(pushed.rip, CODE + u64::from(length), "what it returns to");
    check_eq!(pushed.rsp, STACK_TOP, "the stack");
    guest.step_over(1)?;
    let exit = guest.enter();
    guest.expect_halt(exit, u64::from(length))
}

fn interrupted_int_n<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let is = (0x80, SoftwareEvent::Interrupt, 2);
    interrupted_software(&mut guest, code!("int 0x80", "hlt"), is)?;
    // of a vector that the CPU's own exceptions have
    let is = (13, SoftwareEvent::Interrupt, 2);
    let mut guest = Guest::new(guest.bench);
    guest.unmap(IDT);
    let exit = guest.run(code!("int 13", "hlt"));
    cut_short(&mut guest, exit, 13)?;
    let is_software = matches!(
        guest.interrupted,
        Some(Event::Software { vector, kind, .. }) if (vector, kind) == (is.0, is.1)
    );
    check!(is_software, "INT 13 is {:x?}", guest.interrupted);
    Ok(())
}

fn interrupted_int_3<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let is = (3, SoftwareEvent::Exception, 1);
    interrupted_software(&mut guest, code!("int3", "hlt"), is)
}

fn triple_fault<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::TABLES, |regs| regs.idtr.limit = 0);
    let exit = guest.run(code!("ud2"));
    check_eq!(exit, VmExit::TripleFault, "the exit");
    Ok(())
}

/// #DB exits, with its reason in the exit and in DR6.
fn single_step<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::RFLAGS, |regs| regs.rflags |= RFLAGS_TF);
    let exit = guest.run(code!("nop", "hlt"));
    let VmExit::Exception { vector: 1, .. } = exit else {
        check!(false, "the exit is {exit:x?}");
        return Ok(());
    };
    check_eq!(guest.at(), 1, "where");
    let dr6 = guest.system(SystemSet::DEBUG).debug[4];
    check_eq!(dr6, DR6_FIXED | DR6_BS, "DR6");
    guest.deliver(Event::Exception {
        vector: 1,
        error: None,
    });
    let exit = guest.enter();
    guest.expect_handler(exit, 1)?;
    check_eq!(guest.pushed(false).rip, CODE + 1, "what it returns to");
    Ok(())
}

/// The trap follows an instruction that was stepped over too, by an exit or in the guest.
fn step_over_skipped<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::RFLAGS, |regs| regs.rflags |= RFLAGS_TF);
    let exit = guest.run(code!("cpuid", "nop", "hlt"));
    check_eq!(exit, VmExit::Cpuid, "the exit");
    guest.step_over(2)?;
    let exit = guest.enter();
    if let VmExit::Exception { vector: 1, .. } = exit {
        check_eq!(guest.at(), 2, "where");
        guest.deliver(Event::Exception {
            vector: 1,
            error: None,
        });
        let exit = guest.enter();
        guest.expect_handler(exit, 1)?;
    } else {
        guest.expect_handler(exit, 1)?;
    }
    check_eq!(guest.pushed(false).rip, CODE + 2, "what it returns to");
    let dr6 = guest.system(SystemSet::DEBUG).debug[4];
    check_eq!(dr6, DR6_FIXED | DR6_BS, "DR6");
    Ok(())
}

fn alignment_check<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let set = SystemSet::CR0
        .union(SystemSet::CODE)
        .union(SystemSet::STACK);
    guest.set(set, |regs| {
        layout::at_level_3(regs);
        regs.cr0 |= CR0_AM;
    });
    guest.set(SystemSet::RFLAGS, |regs| regs.rflags |= RFLAGS_AC);
    check_eq!(guest.vcpu().cpl(), 3, "the level");
    let exit = guest.run(code!("mov rax, [0x20001]", "hlt"));
    if (exit, guest.vcpu().rip()) == (VmExit::Hlt, layout::handler(13)) {
        skip!("the CPU checks no alignment: HLT was reached, and is not for level 3");
    }
    let VmExit::Exception {
        vector: 17, error, ..
    } = exit
    else {
        check!(false, "the exit is {exit:x?} at {:x}", guest.at());
        return Ok(());
    };
    check_eq!(error, Some(0), "the error code");
    check_eq!(guest.at(), 0, "where");
    guest.deliver(Event::Exception { vector: 17, error });
    let exit = guest.enter();
    guest.expect_handler(exit, 17)?;
    check_eq!(guest.vcpu().cpl(), 0, "the handler's level");
    Ok(())
}
