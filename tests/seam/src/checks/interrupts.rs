//! Interrupts: the host's take the CPU out of the guest, the guest's go in when they may.

use hv_hw::irq::{local, timer, vectors};
use hv_hw::virt::{ApicAssist, Backend, Blocking, Event, SystemSet, VcpuHw, VmExit, Waits};
use hv_hw::{insn, time};

use crate::guest::Guest;
use crate::layout::{CODE, RFLAGS_IF, STACK_TOP};
use crate::report::{Check, Verdict};
use crate::start::Bench;
use crate::{check, check_eq, code, skip};

pub(super) fn checks<B: Backend>() -> &'static [Check<B>] {
    const {
        &[
            Check::new("interrupt_of_host_if_1", |bench| of_host(bench, true)),
            Check::new("interrupt_of_host_if_0", |bench| of_host(bench, false)),
            Check::new("interrupt_of_host_after_sti", of_host_after_sti),
            Check::new("interrupt_window_at_once", window_at_once),
            Check::new("interrupt_window_in_shadow", window_in_shadow),
            Check::new("interrupt_window_after_sti", window_after_sti),
            Check::new("interrupt_window_after_popf", window_after_popf),
            Check::new("interrupt_delivered", delivered),
            Check::new("interrupt_and_window_for_the_next", next_window),
            Check::new("interrupt_requested", requested),
            Check::new("interrupt_requested_held_by_priority", held),
        ]
    }
}

const VECTOR: u8 = 0x41;

const INTERRUPT: Waits = Waits {
    interrupt: true,
    nmi: false,
    task_priority: 0,
};

/// A loop without an exit: whatever its IF is, the host's interrupt ends it, acknowledged.
fn of_host<B: Backend>(bench: &mut Bench<B>, are_on: bool) -> Verdict {
    const SOON_NS: u64 = 200_000;
    // an emulator whose clock is the world's may be off the CPU for a while
    const LATE_NS: u64 = 1_000_000_000;
    let mut guest = Guest::new(bench);
    guest.set_interrupts(are_on);
    for _ in 0..3 {
        let due = time::now() + time::ns_to_ticks(SOON_NS);
        timer::arm(due);
        let exit = guest.run(code!("2: inc rax", "jmp 2b"));
        let now = insn::rdtsc();
        local::eoi();
        check_eq!(exit, VmExit::ExternalInterrupt(vectors::TIMER), "the exit");
        let late = time::ticks_to_ns(now.saturating_sub(due));
        check!(late < LATE_NS, "it came {late} ns late");
        let flags = guest.vcpu().rflags();
        check_eq!(flags & RFLAGS_IF != 0, are_on, "the guest's IF");
        check!(guest.at() < 5, "it is outside its loop");
    }
    timer::disarm();
    Ok(())
}

/// An interrupt of the host that waits when the guest is entered ends it before it does anything.
fn of_host_after_sti<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    timer::arm(time::now() + 1);
    time::spin_ns(1_000_000);
    let exit = guest.run(code!("2: sti", "cli", "jmp 2b"));
    local::eoi();
    timer::disarm();
    check_eq!(exit, VmExit::ExternalInterrupt(vectors::TIMER), "the exit");
    check_eq!(guest.at(), 0, "where");
    Ok(())
}

/// Interrupts are open: nothing is executed before the exit.
fn window_at_once<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set_interrupts(true);
    guest.wait_for(INTERRUPT);
    let exit = guest.run(code!("nop", "hlt"));
    check_eq!(exit, VmExit::InterruptWindow, "the exit");
    check_eq!(guest.at(), 0, "where");
    check!(guest.vcpu().interrupts_open(), "interrupts are not open");
    guest.wait_for(Waits::default());
    let exit = guest.enter();
    guest.expect_halt(exit, 1)
}

/// A shadow puts it off by one instruction.
fn window_in_shadow<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set_interrupts(true);
    guest.begin(code!("nop", "nop", "hlt"));
    guest.set(SystemSet::BLOCKING, |regs| {
        regs.blocking = Blocking::SHADOW;
    });
    check!(!guest.vcpu().interrupts_open(), "the shadow is not seen");
    guest.wait_for(INTERRUPT);
    let exit = guest.enter();
    check_eq!(exit, VmExit::InterruptWindow, "the exit");
    check_eq!(guest.at(), 1, "where");
    check!(guest.vcpu().interrupts_open(), "interrupts are not open");
    Ok(())
}

/// The window opens after the instruction that follows STI.
fn window_after_sti<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.wait_for(INTERRUPT);
    let exit = guest.run(code!("nop", "sti", "nop", "nop", "hlt"));
    check_eq!(exit, VmExit::InterruptWindow, "the exit");
    check_eq!(guest.at(), 3, "where");
    guest.deliver(Event::Interrupt(VECTOR));
    let exit = guest.enter();
    guest.expect_handler(exit, VECTOR)?;
    check_eq!(guest.pushed(false).rip, CODE + 3, "where it was taken");
    Ok(())
}

/// POPF has no shadow.
fn window_after_popf<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.wait_for(INTERRUPT);
    let exit = guest.run(code!("push 0x202", "popfq", "nop", "hlt"));
    check_eq!(exit, VmExit::InterruptWindow, "the exit");
    check_eq!(guest.at(), 6, "where");
    Ok(())
}

/// An interrupt is delivered before the next instruction, clears IF, and returns.
fn delivered<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set_interrupts(true);
    guest.begin(code!("nop", "hlt"));
    for vector in [0x20, VECTOR, 0xFF] {
        guest.set(SystemSet::RIP, |regs| regs.rip = CODE);
        guest.deliver(Event::Interrupt(vector));
        let exit = guest.enter();
        guest.expect_handler(exit, vector)?;
        check_eq!(guest.interrupted, None, "what was interrupted");
        let pushed = guest.pushed(false);
        check_eq!(
            (pushed.rip, pushed.rsp),
            (CODE, STACK_TOP),
            "what it pushed"
        );
        check!(pushed.rflags & RFLAGS_IF != 0, "IF is not pushed");
        check!(guest.vcpu().rflags() & RFLAGS_IF == 0, "IF is not cleared");
        guest.step_over(1)?;
        let exit = guest.enter();
        guest.expect_halt(exit, 1)?;
        check!(guest.vcpu().rflags() & RFLAGS_IF != 0, "IF does not return");
    }
    Ok(())
}

/// While an interrupt is delivered another waits: its window comes with the handler's IRET at the latest.
fn next_window<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set_interrupts(true);
    guest.begin(code!("2: inc rax", "jmp 2b"));
    guest
        .vcpu()
        .deliver(Some(Event::Interrupt(VECTOR)), INTERRUPT);
    let exit = guest.enter();
    guest.expect_handler(exit, VECTOR)?;
    guest.step_over(1)?;
    let exit = guest.enter();
    check_eq!(exit, VmExit::InterruptWindow, "the exit");
    for _ in 0..2 {
        if guest.vcpu().interrupts_open() {
            break;
        }
        guest.wait_for(INTERRUPT);
        let exit = guest.enter();
        check_eq!(exit, VmExit::InterruptWindow, "the exit in a shadow");
    }
    check!(guest.at() < 5, "it is not back in its loop");
    guest.deliver(Event::Interrupt(VECTOR + 1));
    let exit = guest.enter();
    guest.expect_handler(exit, VECTOR + 1)
}

/// Where the hardware delivers interrupts, one that is requested comes when IF is set.
fn requested<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    if guest.vcpu().apic() != ApicAssist::Delivery {
        skip!("the hardware delivers no interrupts");
    }
    guest.request(VECTOR);
    let exit = guest.run(code!("nop", "sti", "nop", "nop", "hlt"));
    guest.expect_handler(exit, VECTOR)?;
    check_eq!(guest.pushed(false).rip, CODE + 3, "where it was taken");
    Ok(())
}

/// The task priority holds it back until the guest lowers it.
fn held<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    if guest.vcpu().apic() != ApicAssist::Delivery {
        skip!("the hardware delivers no interrupts");
    }
    guest.set_interrupts(true);
    // by the guest, as the hardware weighs priorities when they change
    let exit = guest.run(code!(
        "mov eax, 4",
        "mov cr8, rax",
        "hlt",
        "nop",
        "mov eax, 3",
        "mov cr8, rax",
        "nop",
        "hlt"
    ));
    guest.expect_halt(exit, 9)?;
    guest.step_over(1)?;
    guest.request(VECTOR);
    let exit = guest.enter();
    guest.expect_handler(exit, VECTOR)?;
    check_eq!(guest.pushed(false).rip, CODE + 20, "where it was taken");
    Ok(())
}
