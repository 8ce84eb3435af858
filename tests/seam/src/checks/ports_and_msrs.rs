//! Ports and MSRs: what exits and what does not, and what of it the guest finds.

use hv_hw::cpu::msr::rdmsr_safe;
use hv_hw::virt::{Backend, IoExit, SystemSet, VmExit};

use crate::guest::{GS_BASE, Guest, KERNEL_GS_BASE, LSTAR, STAR, SYSENTER_CS};
use crate::layout::DATA;
use crate::report::{Check, Verdict};
use crate::start::Bench;
use crate::{check, check_eq, code};

pub(super) fn checks<B: Backend>() -> &'static [Check<B>] {
    const {
        &[
            Check::new("port_in_and_out", in_and_out),
            Check::new("port_sizes", sizes),
            Check::new("port_strings", strings),
            Check::new("port_open", open),
            Check::new("msr_closed", closed),
            Check::new("msr_open", open_msrs),
            Check::new("msr_read_only", read_only),
            Check::new("msr_pat", pat),
        ]
    }
}

const fn access(port: u16, size: u8, is_in: bool) -> VmExit {
    VmExit::Io(IoExit {
        port,
        size,
        is_in,
        is_string: false,
    })
}

fn in_and_out<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("in al, 0x61", "mov dx, 0x3f8", "out dx, al", "hlt"));
    check_eq!(exit, access(0x61, 1, true), "IN");
    check_eq!(guest.at(), 0, "where IN stands");
    guest.step_over_known(2)?;
    guest.regs().set_rax(0x5A);
    let exit = guest.enter();
    check_eq!(exit, access(0x3F8, 1, false), "OUT");
    check_eq!(guest.regs().rax(), 0x5A, "what it writes");
    guest.step_over_known(1)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 7)
}

/// Two and four bytes, with the prefix in the length.
fn sizes<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("mov dx, 0xcfc", "in ax, dx", "out dx, eax", "hlt"));
    check_eq!(exit, access(0xCFC, 2, true), "IN of two bytes");
    guest.step_over_known(2)?;
    let exit = guest.enter();
    check_eq!(exit, access(0xCFC, 4, false), "OUT of four bytes");
    guest.step_over_known(1)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 7)
}

fn strings<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let regs = guest.regs();
    regs.set_rsi(DATA);
    regs.set_rdi(DATA);
    regs.set_rcx(3);
    regs.set_rdx(0x1F0);
    let exit = guest.run(code!("rep outsb", "insd", "hlt"));
    let string = |size, is_in| {
        VmExit::Io(IoExit {
            port: 0x1F0,
            size,
            is_in,
            is_string: true,
        })
    };
    check_eq!(exit, string(1, false), "REP OUTSB");
    check_eq!(guest.at(), 0, "where it stands");
    check_eq!(guest.regs().rcx(), 3, "what is left to do");
    guest.step_over_known(2)?;
    let exit = guest.enter();
    check_eq!(exit, string(4, true), "INSD");
    guest.step_over_known(1)?;
    let exit = guest.enter();
    guest.expect_halt(exit, 3)
}

/// A port that the map opens does not exit; the one beside it does, and so does an access that reaches beyond.
fn open<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let exit = guest.run(code!("out 0x80, al", "out 0x81, al", "out 0x80, ax"));
    check_eq!(exit, access(0x81, 1, false), "the neighbour");
    check_eq!(guest.at(), 2, "where it stands");
    guest.step_over_known(2)?;
    let exit = guest.enter();
    check_eq!(exit, access(0x80, 2, false), "two bytes from the open port");
    Ok(())
}

/// MSRs that no list opens exit, those too that no map has.
fn closed<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    for msr in [0x1B, STAR, 0xC001_0015, 0x4000_0000, 0xFFFF_FFFF] {
        guest.regs().set_rcx(u64::from(msr));
        let exit = guest.run(code!("rdmsr", "wrmsr", "hlt"));
        check_eq!(exit, VmExit::Rdmsr, "a read of {msr:x}");
        check_eq!(guest.at(), 0, "where it stands");
        guest.step_over(2)?;
        let exit = guest.enter();
        check_eq!(exit, VmExit::Wrmsr, "a write of {msr:x}");
        guest.step_over(2)?;
        let exit = guest.enter();
        guest.expect_halt(exit, 4)?;
    }
    Ok(())
}

/// MSRs that are open are the guest's: what it writes is found by the seam, and the other way.
fn open_msrs<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const KERNEL: u64 = 0xFFFF_8000_1234_5000;
    const LONG: u64 = 0xFFFF_8000_5678_9000;
    let host = [GS_BASE, KERNEL_GS_BASE, LSTAR].map(rdmsr_safe);
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::SYSCALL, |regs| {
        regs.lstar = LONG;
        regs.kernel_gs_base = KERNEL;
    });
    let code = code!(
        "mov ecx, 0xc0000082",
        "rdmsr",
        "mov [0x20000], eax",
        "mov [0x20004], edx",
        "mov ecx, 0xc0000102",
        "rdmsr",
        "mov [0x20008], eax",
        "mov [0x2000c], edx",
        "mov eax, 0x1000",
        "mov edx, 0x7f",
        "wrmsr",
        "mov ecx, 0xc0000101",
        "mov eax, 0x2000",
        "wrmsr",
        "hlt"
    );
    let exit = guest.run(code);
    check_eq!(exit, VmExit::Hlt, "the exit at {:x}", guest.at());
    check_eq!(guest.word(DATA), LONG, "LSTAR in the guest");
    check_eq!(guest.word(DATA + 8), KERNEL, "KERNEL_GS_BASE in the guest");
    let regs = guest.system(SystemSet::SYSCALL.union(SystemSet::DATA));
    check_eq!(regs.kernel_gs_base, 0x7F_0000_1000, "KERNEL_GS_BASE");
    check_eq!(regs.segments[5].base, 0x7F_0000_2000, "the base of GS");
    check_eq!(rdmsr_safe(GS_BASE), host[0], "the host's base of GS");
    drop(guest);
    Ok(())
}

/// An MSR that may be read only is read without an exit, and its write exits.
fn read_only<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::SYSENTER, |regs| regs.sysenter_cs = 0x1238);
    guest.regs().set_rcx(u64::from(SYSENTER_CS));
    let exit = guest.run(code!("rdmsr", "wrmsr", "hlt"));
    check_eq!(exit, VmExit::Wrmsr, "the exit");
    check_eq!(guest.at(), 2, "where it stands");
    check_eq!(guest.regs().edx_eax(), 0x1238, "what it read");
    Ok(())
}

/// The guest's PAT is not the host's.
fn pat<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const PAT: u32 = 0x277;
    const OTHER: u64 = 0x0001_0406_0007_0400;
    let host = rdmsr_safe(PAT);
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::PAT, |regs| regs.pat = OTHER);
    let exit = guest.run(code!("nop", "hlt"));
    guest.expect_halt(exit, 1)?;
    check_eq!(rdmsr_safe(PAT), host, "the host's PAT");
    check_eq!(guest.system(SystemSet::PAT).pat, OTHER, "the guest's PAT");
    guest.regs().set_rcx(u64::from(PAT));
    let exit = guest.run(code!("rdmsr", "hlt"));
    check_eq!(exit, VmExit::Rdmsr, "a read of it, as it is not open");
    check!(
        host.is_some_and(|host| host != OTHER),
        "the host has it by chance"
    );
    Ok(())
}
