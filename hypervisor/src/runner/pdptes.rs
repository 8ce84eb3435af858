//! The four top entries of PAE paging, which the CPU keeps in registers.

use hv_core::addr::Gpa;
use hv_core::mem::GuestMem;
use hv_core::walk::pdpte_is_valid;
use hv_core::x86::{CR0_PG, CR4_PAE, EFER_LME};
use hv_hw::virt::{ControlRegister, SystemRegs, SystemSet, VcpuHw};

use super::Runner;
use crate::guest_mem::DomainMemory;

/// Loads the top entries of PAE paging where registers that were set from outside turn it on. Entries that the CPU
/// would refuse are left out: what they map is not there.
pub(super) fn load<H: VcpuHw>(runner: &mut Runner<H>) {
    let cr0 = runner.hw.paging().cr0;
    if let Ok(Some(entries)) = due(runner, ControlRegister::Cr0, cr0) {
        set(runner, entries);
    }
}

pub(crate) fn set<H: VcpuHw>(runner: &mut Runner<H>, pdptes: [u64; 4]) {
    let regs = SystemRegs {
        pdptes,
        ..SystemRegs::default()
    };
    runner.hw.set_system(&regs, SystemSet::PDPTES);
}

/// With PAE paging outside long mode the CPU keeps the four top entries in registers, which a vCPU has among its own:
/// those that are due with `value` in `register`, or an error where one of them has a reserved bit set.
/// SDM vol. 3A, "PDPTE Registers".
pub(crate) fn due<H: VcpuHw>(
    runner: &Runner<H>,
    register: ControlRegister,
    value: u64,
) -> Result<Option<[u64; 4]>, ReservedBit> {
    let mut regs = runner.hw.paging();
    match register {
        ControlRegister::Cr0 => regs.cr0 = value,
        ControlRegister::Cr4 => regs.cr4 = value,
        ControlRegister::Cr3 => regs.cr3 = value,
        ControlRegister::Cr8 => return Ok(None),
    }
    let is_pae = regs.cr0 & CR0_PG != 0 && regs.cr4 & CR4_PAE != 0 && regs.efer & EFER_LME == 0;
    if !is_pae {
        return Ok(None);
    }
    let table = regs.cr3 & 0xFFFF_FFE0;
    let entries = {
        let memory = DomainMemory::lock(&runner.domain, &runner.tlb);
        [0u64, 8, 16, 24].map(|offset| memory.read_u64(Gpa::new(table + offset)).unwrap_or(0))
    };
    let bits = u32::from(runner.policies.cpuid.physical_bits());
    if entries.iter().all(|entry| pdpte_is_valid(*entry, bits)) {
        Ok(Some(entries))
    } else {
        Err(ReservedBit)
    }
}

/// A top entry of PAE paging sets a bit that must be zero.
#[derive(Debug)]
pub(crate) struct ReservedBit;
