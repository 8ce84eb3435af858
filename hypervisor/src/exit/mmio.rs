//! Emulated memory-mapped registers: the local APIC's in xAPIC mode, and dom0's I/O APICs, PCI configuration space and
//! the pages with tables of its devices' messages. Everything else reads as all ones and ignores writes. An access that
//! is none of an instruction's operands, or an instruction that is not emulated, gets #GP, as with Xen: what a guest
//! executes is no reason for its end.

use hv_core::addr::{Gpa, Gva, Hpa};
use hv_core::emulate::MmioInsn;
use hv_core::walk::{self, Access};
use hv_core::x86::gpr::RSP;
use hv_hw::guest_log;
use hv_hw::virt::{Event, Stage2Access, Stage2Fault, SystemRegs, SystemSet, VcpuHw};

use crate::domain::{interrupts, pci};
use crate::exit::{apic, stage2};
use crate::guest_mem::DomainMemory;
use crate::pcpu::Pcpu;
use crate::runner::{Next, Runner, raise, restart};

/// Emulates the access that faulted.
pub(super) fn handle<H: VcpuHw>(
    runner: &mut Runner<H>,
    pcpu: &mut Pcpu,
    fault: Stage2Fault,
) -> Next {
    let Some(instruction) = instruction_of(runner, fault) else {
        return refuse(runner, fault);
    };
    let read = if instruction.reads() {
        read(runner, fault.gpa, instruction.size)
    } else {
        0
    };
    let mut gprs = runner.gprs();
    let mut rflags = runner.hw.rflags();
    if let Some(value) = instruction.finish(read, &mut gprs, &mut rflags) {
        write(runner, pcpu, (fault.gpa, instruction.size), value);
    }
    runner.hw.regs().gpr = gprs.0;
    let changed = SystemRegs {
        rsp: gprs.0[RSP],
        rflags,
        ..SystemRegs::default()
    };
    let which = SystemSet::RSP.union(SystemSet::RFLAGS);
    runner.hw.set_system(&changed, which);
    if instruction.repeats(&gprs) {
        return restart(runner, pcpu);
    }
    runner.hw.skip(u64::from(instruction.len));
    Next::Resume
}

/// The instruction of whose operand the access was; `None` where it was of none, or of one that is not emulated.
fn instruction_of<H: VcpuHw>(runner: &mut Runner<H>, fault: Stage2Fault) -> Option<MmioInsn> {
    const NOT_AN_OPERANDS: Stage2Access = Stage2Access::FETCH
        .union(Stage2Access::WALK)
        .union(Stage2Access::PRESENT);
    // in an event's delivery, the instruction at RIP has not begun
    if runner.interrupted.is_some() || fault.access.intersects(NOT_AN_OPERANDS) {
        return None;
    }
    let instruction = runner.decode(MmioInsn::decode)?;
    // another address is another operand's, or another vCPU has changed the code since
    is_operand(runner, instruction.gva, fault).then_some(instruction)
}

/// True where the access was to the operand at `gva`: a CPU that does not say which linear address it was has at least
/// said which physical one.
fn is_operand<H: VcpuHw>(runner: &Runner<H>, gva: Gva, fault: Stage2Fault) -> bool {
    if let Some(linear) = fault.linear {
        return linear == gva;
    }
    let access = match runner.hw.cpl() {
        3 => Access::UserRead,
        _ => Access::Read,
    };
    let memory = DomainMemory::lock(&runner.domain, &runner.tlb);
    let translated = walk::translate(&memory, &runner.hw.paging(), gva, access);
    translated == Ok(fault.gpa)
}

/// Raises #GP. In an event's delivery it becomes a double fault where that is due, and in the end a triple fault.
#[cold]
fn refuse<H: VcpuHw>(runner: &mut Runner<H>, fault: Stage2Fault) -> Next {
    let during = match runner.interrupted {
        Some(_) => "an event's delivery",
        None => "an instruction that is not emulated",
    };
    let (id, rip) = (runner.vcpu().id, runner.hw.rip());
    guest_log!(
        runner.domain.log,
        Warning,
        "{id}: access to {} by {during} at {rip:#x}: #GP",
        fault.gpa
    );
    raise(runner, Event::PROTECTION)
}

fn read<H: VcpuHw>(runner: &mut Runner<H>, gpa: Gpa, size: u8) -> u64 {
    if let Some(offset) = apic::register_at(runner, gpa) {
        return u64::from(apic::read_mapped(runner, offset, size));
    }
    if let Some(value) = read_pci(runner, gpa, size) {
        return value;
    }
    let mut devices = runner.domain.devices.lock();
    match devices.ioapic_at(gpa) {
        Some((ioapic, offset)) if size == 4 => u64::from(ioapic.chip.read(offset)),
        Some(_) => u64::MAX,
        None => {
            drop(devices);
            stage2::nothing_there(runner, gpa);
            u64::MAX
        }
    }
}

/// What configuration space in memory says, or a page that dom0 is kept from; `None` where `gpa` is in neither.
fn read_pci<H: VcpuHw>(runner: &mut Runner<H>, gpa: Gpa, size: u8) -> Option<u64> {
    let Runner { domain, hw, .. } = runner;
    let config = domain.devices.lock().config_at(gpa);
    let value = pci::change(hw, domain, |pci, host| match config {
        Some((function, offset)) => {
            let value = pci.read_memory((function, offset, size), host);
            Some(u64::from(value))
        }
        None => pci.load(Hpa::new(gpa.as_u64()), size, host),
    });
    value.flatten()
}

fn write<H: VcpuHw>(runner: &mut Runner<H>, pcpu: &mut Pcpu, (gpa, size): (Gpa, u8), value: u64) {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "APICs take 4 bytes at most"
    )]
    let word = value as u32;
    if let Some(offset) = apic::register_at(runner, gpa) {
        return apic::write_mapped(runner, pcpu, (offset, size), word);
    }
    if write_pci(runner, (gpa, size), value) {
        return;
    }
    let mut devices = runner.domain.devices.lock();
    match devices.ioapic_at(gpa) {
        Some((ioapic, offset)) if size == 4 => {
            let effect = ioapic.chip.write(offset, word);
            let first_gsi = ioapic.first_gsi;
            if let Some(effect) = effect {
                interrupts::apply(first_gsi, effect);
            }
        }
        Some(_) => {}
        None => {
            drop(devices);
            stage2::nothing_there(runner, gpa);
        }
    }
}

/// Writes to configuration space in memory, or to a page that dom0 is kept from; false where `gpa` is in neither.
fn write_pci<H: VcpuHw>(runner: &mut Runner<H>, (gpa, size): (Gpa, u8), value: u64) -> bool {
    let Runner { domain, hw, .. } = runner;
    let config = domain.devices.lock().config_at(gpa);
    let is_taken = pci::change(hw, domain, |pci, host| match config {
        Some((function, offset)) => {
            let [a, b, c, d, ..] = value.to_le_bytes();
            let word = u32::from_le_bytes([a, b, c, d]);
            pci.write_memory((function, offset, size), word, host);
            true
        }
        None => pci.store(Hpa::new(gpa.as_u64()), (size, value), host),
    });
    is_taken.unwrap_or(false)
}
