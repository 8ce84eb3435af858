//! What a vCPU keeps while it is out of the CPU, what two of them do not share, and what the host has after an exit.

use hv_hw::cpu::msr::rdmsr_safe;
use hv_hw::virt::{Backend, SEGMENT_TR, SystemSet, VcpuHw, VmExit};
use x86_64::instructions::{interrupts, tables};
use x86_64::registers::debug::Dr7;

use crate::code::host_task;
use crate::guest::{GS_BASE, Guest};
use crate::layout::{self, CR4_OSXSAVE, DATA, MORE_DATA, OTHER_TABLES, PRESENT, WRITABLE};
use crate::report::{Check, Verdict};
use crate::start::Bench;
use crate::{check, check_eq, code, skip};

pub(super) fn checks<B: Backend>() -> &'static [Check<B>] {
    const {
        &[
            Check::new("state_registers_set_and_read", set_and_read),
            Check::new("state_sse_of_two_vcpus", sse_of_two),
            Check::new("state_avx_image", avx_image),
            Check::new("state_debug_registers_of_two_vcpus", debug_of_two),
            Check::new("state_cr2_of_two_vcpus", cr2_of_two),
            Check::new("state_msrs_of_two_vcpus", msrs_of_two),
            Check::new("state_translations_of_two_vcpus", translations_of_two),
            Check::new("state_translations_after_cr3", translations_after_cr3),
            Check::new("state_of_host", of_host),
            Check::new("state_that_is_refused", refused),
        ]
    }
}

/// What is set is what is read, before the guest has run and after.
fn set_and_read<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let mut wanted = layout::registers();
    wanted.star = 0x0023_0010_0000_0000;
    wanted.lstar = 0xFFFF_8000_0000_1000;
    wanted.cstar = 0xFFFF_8000_0000_2000;
    wanted.fmask = 0x4_7700;
    wanted.kernel_gs_base = 0x7FFF_1234_5000;
    wanted.sysenter_cs = 0x10;
    wanted.sysenter_esp = 0xFFFF_8000_0000_3000;
    wanted.sysenter_eip = 0xFFFF_8000_0000_4000;
    wanted.cr2 = 0xDEAD_B000;
    wanted.debug = [0x1000, 0x2000, 0x3000, 0x4000, 0xFFFF_0FF0];
    wanted.segments[4].base = 0x1_2345_6000;
    wanted.segments[5].base = 0xFFFF_8000_1234_0000;
    guest.vcpu().set_system(&wanted, SystemSet::SAVED);
    check_eq!(guest.system(SystemSet::SAVED), wanted, "before it has run");
    let exit = guest.run(code!("nop", "hlt"));
    guest.expect_halt(exit, 1)?;
    wanted.rip += 1;
    let found = guest.system(SystemSet::SAVED);
    check_eq!(found.segments, wanted.segments, "the segments afterwards");
    check_eq!(found, wanted, "after it has run");
    guest.add_vcpu();
    guest.unload();
    guest.load(1);
    guest.switch_to(0);
    check_eq!(guest.system(SystemSet::SAVED), wanted, "after another");
    Ok(())
}

/// Puts a second vCPU in, with the registers to begin with.
fn load_second<B: Backend>(guest: &mut Guest<'_, B>) {
    let second = guest.add_vcpu();
    guest.unload();
    guest.load(second);
}

fn sse_of_two<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const VALUES: [u64; 2] = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888];
    let mut guest = Guest::new(bench);
    let set = code!("movq xmm5, rax", "push rax", "fild qword ptr [rsp]", "hlt");
    let get = code!("movq rbx, xmm5", "fistp qword ptr [0x20000]", "hlt");
    guest.regs().set_rax(VALUES[0]);
    let exit = guest.run(set);
    check_eq!(exit, VmExit::Hlt, "the first's exit");
    load_second(&mut guest);
    guest.regs().set_rax(VALUES[1]);
    let exit = guest.run(set);
    check_eq!(exit, VmExit::Hlt, "the second's exit");
    for (number, value) in VALUES.into_iter().enumerate() {
        guest.switch_to(number);
        let exit = guest.run(get);
        check_eq!(exit, VmExit::Hlt, "the exit of {number}");
        check_eq!(guest.regs().rbx(), value, "XMM5 of {number}");
        check_eq!(guest.word(DATA), value, "ST0 of {number}");
    }
    Ok(())
}

/// The upper half of a register of AVX goes through the image that a toolstack gets, and through a switch.
fn avx_image<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const AVX: u64 = 7;
    const COMPONENTS: usize = 512;
    const YMM: usize = 576;
    if bench.extended.xcr0 & AVX != AVX {
        skip!("there is no AVX");
    }
    let mut guest = Guest::new(bench);
    let set = SystemSet::CR4.union(SystemSet::XCR0);
    guest.set(set, |regs| {
        regs.cr4 |= CR4_OSXSAVE;
        regs.xcr0 = AVX;
    });
    guest.write_words(DATA, &[1, 2, 3, 4]);
    let exit = guest.run(code!("vmovdqu ymm0, [0x20000]", "hlt"));
    check_eq!(exit, VmExit::Hlt, "the exit");
    let mut image = guest.vcpu().extended();
    check_eq!(image[YMM], 3, "the upper half of YMM0 in the image");
    let components = image[COMPONENTS];
    check!(components & 4 != 0, "the components are {components:x}");
    image[YMM] = 5;
    guest.vcpu().set_extended(&image);
    load_second(&mut guest);
    let exit = guest.run(code!("hlt"));
    check_eq!(exit, VmExit::Hlt, "the second's exit");
    check_eq!(guest.system(SystemSet::XCR0).xcr0, 1, "the second's XCR0");
    guest.switch_to(0);
    let exit = guest.run(code!("vmovdqu [0x20000], ymm0", "hlt"));
    check_eq!(exit, VmExit::Hlt, "the exit after the switch");
    let words = [0, 8, 16, 24].map(|at| guest.word(DATA + at));
    check_eq!(words, [1, 2, 5, 4], "YMM0");
    Ok(())
}

fn debug_of_two<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let set = code!(
        "mov dr0, rax",
        "inc rax",
        "mov dr3, rax",
        "mov eax, 0x2401",
        "and eax, 0x401",
        "mov dr7, rax",
        "mov eax, 0xffff4ff0",
        "mov dr6, rax",
        "hlt"
    );
    let get = code!(
        "mov rax, dr0",
        "mov rbx, dr3",
        "mov rcx, dr6",
        "mov rdx, dr7",
        "hlt"
    );
    guest.regs().set_rax(0x12_3456_7000);
    let exit = guest.run(set);
    check_eq!(exit, VmExit::Hlt, "the first's exit");
    check_eq!(Dr7::read_raw() & 0xFF, 0, "the host's DR7");
    load_second(&mut guest);
    let exit = guest.run(get);
    check_eq!(exit, VmExit::Hlt, "the second's exit");
    let regs = guest.regs();
    check_eq!((regs.rax(), regs.rbx()), (0, 0), "the second's DR0 and DR3");
    check_eq!(
        (regs.rcx(), regs.rdx()),
        (0xFFFF_0FF0, 0x400),
        "its DR6, DR7"
    );
    guest.regs().set_rax(0x7000);
    let exit = guest.run(set);
    check_eq!(exit, VmExit::Hlt, "the second's exit");
    guest.switch_to(0);
    let exit = guest.run(get);
    check_eq!(exit, VmExit::Hlt, "the first's exit");
    let regs = guest.regs();
    let [first, last] = [0x12_3456_7000, 0x12_3456_7001];
    check_eq!((regs.rax(), regs.rbx()), (first, last), "DR0 and DR3");
    check_eq!((regs.rcx(), regs.rdx()), (0xFFFF_4FF0, 0x401), "DR6, DR7");
    let regs = guest.system(SystemSet::DEBUG.union(SystemSet::DR7));
    check_eq!(regs.debug, [first, 0, 0, last, 0xFFFF_4FF0], "DR0 to DR6");
    check_eq!(regs.dr7, 0x401, "DR7");
    Ok(())
}

fn cr2_of_two<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let get = code!("mov rbx, cr2", "hlt");
    let exit = guest.run(code!("mov eax, 0x1230", "mov cr2, rax", "hlt"));
    check_eq!(exit, VmExit::Hlt, "the first's exit");
    load_second(&mut guest);
    guest.set(SystemSet::CR2, |regs| regs.cr2 = 0x4560);
    for (number, value) in [(1, 0x4560), (0, 0x1230)] {
        guest.switch_to(number);
        let exit = guest.run(get);
        check_eq!(exit, VmExit::Hlt, "the exit of {number}");
        check_eq!(guest.regs().rbx(), value, "CR2 of {number} in the guest");
        check_eq!(guest.system(SystemSet::CR2).cr2, value, "CR2 of {number}");
    }
    Ok(())
}

fn msrs_of_two<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    let set = code!(
        "xor edx, edx",
        "mov ecx, 0xc0000082",
        "wrmsr",
        "mov ecx, 0xc0000102",
        "wrmsr",
        "hlt"
    );
    guest.regs().set_rax(0x1000);
    let exit = guest.run(set);
    check_eq!(exit, VmExit::Hlt, "the first's exit");
    load_second(&mut guest);
    guest.regs().set_rax(0x2000);
    let exit = guest.run(set);
    check_eq!(exit, VmExit::Hlt, "the second's exit");
    for (number, value) in [(0, 0x1000), (1, 0x2000)] {
        guest.switch_to(number);
        let regs = guest.system(SystemSet::SYSCALL);
        check_eq!(regs.lstar, value, "LSTAR of {number}");
        check_eq!(regs.kernel_gs_base, value, "KERNEL_GS_BASE of {number}");
        let exit = guest.run(code!("swapgs", "rdmsr", "hlt"));
        check_eq!(exit, VmExit::Hlt, "the exit of {number}");
        let base = guest.system(SystemSet::DATA).segments[5].base;
        check_eq!(base, value, "the base of GS of {number}");
    }
    Ok(())
}

/// Writes 1 where the guest's own tables have [`DATA`], and 2 where others have it.
fn write_other_tables<B: Backend>(guest: &mut Guest<'_, B>) {
    guest.write_words(DATA, &[1]);
    guest.write_words(MORE_DATA, &[2]);
    layout::write_tables(OTHER_TABLES, |at, words| guest.write_words(at, words));
    let entry = OTHER_TABLES[3] + (DATA >> 12) * 8;
    guest.write_words(entry, &[MORE_DATA | PRESENT | WRITABLE]);
}

/// Two vCPUs have the same linear address at different places, and each its own over switches.
fn translations_of_two<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    write_other_tables(&mut guest);
    load_second(&mut guest);
    guest.set(SystemSet::CR3, |regs| regs.cr3 = OTHER_TABLES[0]);
    for turn in 0..6 {
        let number = turn % 2;
        guest.switch_to(number);
        let exit = guest.run(code!("mov rax, [0x20000]", "hlt"));
        guest.expect_halt(exit, 8)?;
        let value = guest.regs().rax();
        check_eq!(value, number as u64 + 1, "what {number} read");
    }
    Ok(())
}

/// Who sets CR3 for the guest has it forget what it knew.
fn translations_after_cr3<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    write_other_tables(&mut guest);
    for turn in 0..4 {
        let [root, value] = [[layout::TABLES[0], 1], [OTHER_TABLES[0], 2]][turn % 2];
        guest.set(SystemSet::CR3, |regs| regs.cr3 = root);
        let exit = guest.run(code!("mov rax, [0x20000]", "hlt"));
        guest.expect_halt(exit, 8)?;
        check_eq!(guest.regs().rax(), value, "what it read with CR3 {root:x}");
    }
    Ok(())
}

/// What of the host is in the CPU, as far as a guest may have changed it.
#[derive(PartialEq, Eq, Debug)]
struct Host {
    msrs: [Option<u64>; 6],
    idt: (u64, u16),
    gdt: (u64, u16),
    task: u16,
    has_interrupts: bool,
    breakpoints: u64,
}

impl Host {
    fn now() -> Self {
        const EFER: u32 = 0xC000_0080;
        const PAT: u32 = 0x277;
        const FS_BASE: u32 = 0xC000_0100;
        const SYSENTER: u32 = 0x176;
        let [idt, gdt] = [tables::sidt(), tables::sgdt()];
        Self {
            msrs: [GS_BASE, FS_BASE, EFER, PAT, SYSENTER, 0x1D9].map(rdmsr_safe),
            idt: (idt.base.as_u64(), idt.limit),
            gdt: (gdt.base.as_u64(), gdt.limit),
            task: host_task(),
            has_interrupts: interrupts::are_enabled(),
            breakpoints: Dr7::read_raw() & 0xFF,
        }
    }
}

/// An exit leaves nothing of the guest's in what the host uses.
fn of_host<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::SAVED, |regs| {
        regs.segments[4].base = 0x1234_5000;
        regs.segments[5].base = 0x5678_9000;
        regs.sysenter_eip = 0x1111;
        regs.star = 0x0023_0010_0000_0000;
        regs.pat = 0x0001_0406_0007_0400;
        regs.dr7 = 0x7FF;
        regs.rflags |= layout::RFLAGS_IF;
    });
    let before = Host::now();
    check!(!before.has_interrupts, "the host's interrupts are on");
    let exit = guest.run(code!("str ax", "hlt"));
    check_eq!(exit, VmExit::Hlt, "the exit");
    check_eq!(Host::now(), before, "the host");
    let guests = guest.system(SystemSet::DATA).segments[SEGMENT_TR].selector;
    check_eq!(
        u64::from(guests),
        guest.regs().rax() & 0xFFFF,
        "the guest's TR"
    );
    Ok(())
}

/// Registers that no CPU takes: the entry is refused, and the next vCPU runs. The first dies of it, so that nothing is
/// asked of it any more.
fn refused<B: Backend>(bench: &mut Bench<B>) -> Verdict {
    const RESERVED: u64 = 1 << 31;
    let mut guest = Guest::new(bench);
    guest.set(SystemSet::CR4, |regs| regs.cr4 |= RESERVED);
    let exit = guest.run(code!("hlt"));
    let is_broken = matches!(exit, VmExit::Broken { .. });
    check!(is_broken, "the exit is {exit:x?}");
    load_second(&mut guest);
    let exit = guest.run(code!("hlt"));
    guest.expect_halt(exit, 0)
}
