//! Port accesses that exit: few of dom0's, all of a guest's.

use hv_core::addr::{Gva, PAGE_BYTES};
use hv_core::device::ports::{self, PortOwner};
use hv_core::emulate::StringIoInsn;
use hv_core::walk::{self, Access};
use hv_core::x86::RFLAGS_DF;
use hv_hw::port;
use hv_hw::virt::{Event, IoExit, VcpuHw};

use crate::domain::pci;
use crate::exit::done;
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;
use crate::runner::instruction::gone;
use crate::runner::{Next, Runner, raise, restart};
use crate::{console, power};

const DEBUG_CONSOLE: u16 = 0xE9;

pub(super) fn handle<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, access: IoExit) -> Next {
    if access.is_string {
        return string_io(runner, pcpu, access);
    }
    if access.is_in {
        let value = read(runner, access.port, access.size);
        let mask = u64::from(ports::all_ones(access.size));
        let regs = runner.hw.regs();
        // a 32-bit result clears the upper half of RAX, smaller ones keep the rest
        let kept = if access.size == 4 {
            0
        } else {
            regs.rax() & !mask
        };
        regs.set_rax(kept | (u64::from(value) & mask));
    } else {
        #[expect(clippy::cast_possible_truncation, reason = "OUT takes EAX")]
        let value = runner.hw.regs().rax() as u32 & ports::all_ones(access.size);
        write(runner, access.port, access.size, value);
    }
    done(runner)
}

fn read<H: VcpuHw>(runner: &mut Runner<H>, port: u16, size: u8) -> u32 {
    let Runner { domain, hw, .. } = runner;
    match domain.ports.owner(port, size) {
        PortOwner::DebugConsole => u32::from(DEBUG_CONSOLE.to_le_bytes()[0]),
        PortOwner::PciConfig => {
            let value = pci::change(hw, domain, |pci, host| pci.read_port(port, size, host));
            value.unwrap_or(ports::all_ones(size))
        }
        PortOwner::Pm1Control | PortOwner::Reset | PortOwner::Hardware if domain.is_hardware => {
            port::read(port, size)
        }
        _ => ports::all_ones(size),
    }
}

fn write<H: VcpuHw>(runner: &mut Runner<H>, port: u16, size: u8, value: u32) {
    let Runner { domain, hw, .. } = runner;
    match domain.ports.owner(port, size) {
        PortOwner::DebugConsole => console::guest_debug(domain, &[value.to_le_bytes()[0]]),
        PortOwner::PciConfig => {
            pci::change(hw, domain, |pci, host| {
                pci.write_port(port, size, value, host);
            });
        }
        PortOwner::Pm1Control if domain.is_hardware => {
            power::sleep_requested(&domain.log, port, size, value);
        }
        PortOwner::Reset if domain.is_hardware => power::reset_requested(port, size, value),
        PortOwner::Hardware if domain.is_hardware => port::write(port, size, value),
        _ => {}
    }
}

/// INS and OUTS: only to the debug console, which old kernels print on with REP OUTSB, a page at most at a time.
fn string_io<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, access: IoExit) -> Next {
    let is_served = access.port == DEBUG_CONSOLE
        && access.size == 1
        && !access.is_in
        && runner.hw.rflags() & RFLAGS_DF == 0;
    if !is_served {
        return raise(runner, Event::PROTECTION);
    }
    let insn = runner
        .decode(StringIoInsn::decode)
        .filter(|insn| (insn.is_in, insn.size) == (access.is_in, access.size))
        .filter(|insn| runner.has_length(insn.len));
    let Some(insn) = insn else {
        return gone(runner, pcpu);
    };
    let mut gprs = runner.gprs();
    let wanted = insn.wanted(&gprs);
    let count = wanted.min(insn.in_one_piece(&gprs));
    let count = usize::try_from(count).unwrap_or(usize::MAX).min(PAGE_BYTES);
    let printed = print(runner, insn.gva, count);
    insn.advance(&mut gprs, printed);
    runner.hw.regs().gpr = gprs.0;
    if printed == 0 && wanted != 0 {
        return raise(runner, Event::PROTECTION);
    }
    if printed < wanted {
        restart(runner, pcpu)
    } else {
        done(runner)
    }
}

/// Prints up to `count` bytes from `from` on, as many as can be read: a process that was given the port reads what it
/// may read. Tells how many.
fn print<H: VcpuHw>(runner: &mut Runner<H>, from: Gva, count: usize) -> u64 {
    let access = match runner.hw.cpl() {
        3 => Access::UserRead,
        _ => Access::Read,
    };
    let mode = runner.hw.paging();
    let mut text = [0; 128];
    let mut printed = 0;
    while printed < count {
        let part = text.len().min(count - printed);
        let part = &mut text[..part];
        let from = Gva::new(from.as_u64().wrapping_add(printed as u64));
        let is_copied = {
            let memory = DomainMemory::lock(&runner.domain, &runner.tlb);
            walk::copy_in(&memory, &mode, from, access, part).is_ok()
        };
        if !is_copied {
            break;
        }
        console::guest_debug(&runner.domain, part);
        printed += part.len();
    }
    printed as u64
}
