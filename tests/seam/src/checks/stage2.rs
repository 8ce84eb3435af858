//! Second-stage tables: what they do not allow exits, with what was tried, and works once it is allowed.

use hv_core::paging::stage2::Access;
use hv_hw::virt::{Backend, Stage2Access, Stage2Fault, VcpuHw, VmExit};

use crate::guest::Guest;
use crate::layout::{ACCESSED, DATA, DIRTY, MORE_DATA, NOWHERE, PAGE_TABLE};
use crate::report::{Check, Verdict};
use crate::start::Bench;
use crate::{check, check_eq, code};

pub(super) fn checks<B: Backend>() -> &'static [Check<B>] {
    const {
        &[
            Check::new("stage2_read", read),
            Check::new("stage2_write", write),
            Check::new("stage2_fetch", fetch),
            Check::new("stage2_write_to_read_only", write_to_read_only),
            Check::new("stage2_fetch_of_data", fetch_of_data),
            Check::new("stage2_walk", walk),
            Check::new("stage2_accessed_and_dirty", accessed_and_dirty),
            Check::new("stage2_read_modify_write", read_modify_write),
            Check::new("stage2_flush", flush),
        ]
    }
}

/// Checks that the exit is a fault at `gpa` for `access`, with nothing done.
fn expect_fault<B: Backend>(
    guest: &mut Guest<'_, B>,
    exit: VmExit,
    gpa: u64,
    access: Stage2Access,
) -> Result<Stage2Fault, crate::report::Stop> {
    let VmExit::Stage2Fault(fault) = exit else {
        check!(false, "the exit is {exit:x?} at {:x}", guest.vcpu().rip());
        unreachable!("the check has failed");
    };
    check_eq!(fault.gpa.as_u64(), gpa, "the address");
    check_eq!(fault.access, access, "the access");
    check_eq!(guest.interrupted, None, "what was interrupted");
    Ok(fault)
}

fn read<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("mov rax, [0x80120]", "hlt"));
    let fault = expect_fault(&mut guest, exit, NOWHERE + 0x120, Stage2Access::READ)?;
    let is_right = fault
        .linear
        .is_none_or(|linear| linear.as_u64() == NOWHERE + 0x120);
    check!(is_right, "the linear address is {:x?}", fault.linear);
    check_eq!(guest.at(), 0, "where");
    let frame = guest.bench.frames.one();
    guest.map(NOWHERE, frame, Access::R);
    let exit = guest.enter();
    guest.expect_halt(exit, 8)?;
    check_eq!(guest.regs().rax(), 0, "what it read");
    Ok(())
}

fn write<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("mov [0x80120], rax", "hlt"));
    expect_fault(&mut guest, exit, NOWHERE + 0x120, Stage2Access::WRITE)?;
    let frame = guest.bench.frames.one();
    guest.map(NOWHERE, frame, Access::Rw);
    let exit = guest.enter();
    guest.expect_halt(exit, 8)
}

fn fetch<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("mov eax, 0x80120", "jmp rax"));
    expect_fault(&mut guest, exit, NOWHERE + 0x120, Stage2Access::FETCH)?;
    check_eq!(guest.vcpu().rip(), NOWHERE + 0x120, "where");
    Ok(())
}

fn write_to_read_only<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.write_words(DATA, &[0x1234]);
    guest.map_again(DATA, Access::R);
    let exit = guest.run(code!("mov rbx, [0x20000]", "mov [0x20008], rbx", "hlt"));
    let access = Stage2Access::WRITE | Stage2Access::PRESENT;
    expect_fault(&mut guest, exit, DATA + 8, access)?;
    check_eq!(guest.at(), 8, "where");
    check_eq!(guest.regs().rbx(), 0x1234, "what it read");
    guest.map_again(DATA, Access::Rw);
    let exit = guest.enter();
    guest.expect_halt(exit, 16)?;
    check_eq!(guest.word(DATA + 8), 0x1234, "what it wrote");
    Ok(())
}

fn fetch_of_data<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.write(DATA, &[0xF4]);
    guest.map_again(DATA, Access::Rw);
    let exit = guest.run(code!("mov eax, 0x20000", "jmp rax"));
    let access = Stage2Access::FETCH | Stage2Access::PRESENT;
    expect_fault(&mut guest, exit, DATA, access)?;
    guest.map_again(DATA, Access::Rx);
    let exit = guest.enter();
    check_eq!(exit, VmExit::Hlt, "the exit once it may be executed");
    check_eq!(guest.vcpu().rip(), DATA, "where");
    Ok(())
}

/// The guest's own page table is missing: a walk, of which nobody asks what it wanted to do.
fn walk<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    for access in [None, Some(Access::R)] {
        guest.map_again(PAGE_TABLE, Access::Rwx);
        guest.begin(code!("mov rax, [0x20000]", "hlt"));
        // CR3 is written, so that the guest walks anew
        let set = hv_hw::virt::SystemSet::CR3;
        guest.set(set, |_| {});
        guest.unmap(PAGE_TABLE);
        if let Some(access) = access {
            guest.map_again(PAGE_TABLE, access);
        }
        let exit = guest.enter();
        let VmExit::Stage2Fault(fault) = exit else {
            // a CPU that writes no flags into a table that is read-only has no fault there
            check!(access.is_some(), "the exit is {exit:x?}");
            return guest.expect_halt(exit, 8);
        };
        let at = fault.gpa.as_u64();
        let is_there = (PAGE_TABLE..PAGE_TABLE + 0x1000).contains(&at);
        check!(is_there, "the address is {at:x}");
        let has = |bit| fault.access.contains(bit);
        check!(has(Stage2Access::WALK), "it is {:?}", fault.access);
        check!(!has(Stage2Access::FETCH), "it is {:?}", fault.access);
        let is_present = has(Stage2Access::PRESENT);
        check_eq!(is_present, access.is_some(), "whether the entry is there");
    }
    guest.map_again(PAGE_TABLE, Access::Rwx);
    let exit = guest.enter();
    guest.expect_halt(exit, 8)
}

/// The CPU sets the flags in the guest's tables as it would without a second stage.
fn accessed_and_dirty<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const ENTRY: u64 = PAGE_TABLE + (DATA >> 12) * 8;
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!(
        "mov rax, [0x20000]",
        "hlt",
        "mov [0x20000], rax",
        "hlt"
    ));
    guest.expect_halt(exit, 8)?;
    let flags = guest.word(ENTRY) & (ACCESSED | DIRTY);
    check_eq!(flags, ACCESSED, "the flags after a read");
    guest.step_over(1)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 17)?;
    let flags = guest.word(ENTRY) & (ACCESSED | DIRTY);
    check_eq!(flags, ACCESSED | DIRTY, "the flags after a write");
    Ok(())
}

/// An access that reads and writes is a write.
fn read_modify_write<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.map_again(MORE_DATA, Access::R);
    let exit = guest.run(code!("lock inc dword ptr [0x21000]", "hlt"));
    let VmExit::Stage2Fault(fault) = exit else {
        check!(false, "the exit is {exit:x?}");
        return Ok(());
    };
    let wanted = Stage2Access::WRITE | Stage2Access::PRESENT;
    check!(fault.access.contains(wanted), "it is {:?}", fault.access);
    Ok(())
}

/// A page whose frame changes is the new one once the old translation is flushed.
fn flush<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.write_words(DATA, &[1]);
    guest.write_words(MORE_DATA, &[2]);
    let code = code!("mov rax, [0x20000]", "hlt");
    let exit = guest.run(code);
    guest.expect_halt(exit, 8)?;
    check_eq!(guest.regs().rax(), 1, "what it read first");
    guest.map(DATA, guest.frame_of(MORE_DATA), Access::Rwx);
    guest.flush();
    let exit = guest.run(code);
    guest.expect_halt(exit, 8)?;
    check_eq!(guest.regs().rax(), 2, "what it read then");
    guest.unmap(DATA);
    let exit = guest.run(code);
    expect_fault(&mut guest, exit, DATA, Stage2Access::READ)?;
    Ok(())
}
