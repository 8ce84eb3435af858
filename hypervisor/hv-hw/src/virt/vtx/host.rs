//! The host side of VMX: entering VMX operation, and the host state of every VMCS.
// UNSAFETY: switches the CPU into VMX operation and reads its tables to tell VM exits where to land.
#![expect(unsafe_code, reason = "VMXON and the host's descriptor tables")]

use core::arch::asm;

use hv_core::addr::Mfn;
use x86_64::instructions::tables::{sgdt, sidt};
use x86_64::registers::control::{Cr0, Cr3, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;
use x86_64::registers::segmentation::{CS, SS, Segment};

use super::caps::Caps;
use super::fields::Field;
use super::vmcs::CurrentVmcs;
use super::{entry, insn};
use crate::direct_map::DirectTables;
use crate::percpu::{self, IrqsOff};

const FEATURE_CONTROL: u32 = 0x3A;
const FEATURE_CONTROL_LOCKED: u64 = 1;
const FEATURE_CONTROL_VMX_OUTSIDE_SMX: u64 = 1 << 2;
const IA32_PAT: u32 = 0x277;
const IA32_EFER: u32 = 0xC000_0080;

/// VMXON was refused though the capabilities were in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct VmxonFailed;

/// Enters VMX operation on this CPU, permanently. `region` is a frame that belongs to the CPU from here on.
///
/// # Errors
/// [`VmxonFailed`] where the CPU refuses.
pub(super) fn enable(caps: &Caps, region: Mfn, _irqs_off: &IrqsOff) -> Result<(), VmxonFailed> {
    unlock_feature_control();
    stamp_revision(region, caps.revision);
    // SAFETY: VMXE and the fixed bits change no translation; the values are what VMX operation asks for.
    unsafe {
        Cr4::write_raw(
            Cr4::read_raw() | caps.cr4_required | Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS.bits(),
        )
    };
    // SAFETY: as above; PE and PG are set already.
    unsafe { Cr0::write_raw(Cr0::read_raw() | caps.cr0_required) };
    // SAFETY: VMXE is set, the region is ours permanently and stamped.
    unsafe { insn::vmxon(region.base()) }.map_err(|_| VmxonFailed)
}

/// Writes the revision identifier that starts every VMXON and VMCS region.
pub(super) fn stamp_revision(region: Mfn, revision: u32) {
    use hv_core::mem::TableMem;
    DirectTables.write(region, 0, u64::from(revision));
}

fn unlock_feature_control() {
    let mut msr = Msr::new(FEATURE_CONTROL);
    // SAFETY: every CPU with VMX has the MSR.
    let value = unsafe { msr.read() };
    if value & FEATURE_CONTROL_LOCKED == 0 {
        let on = value | FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX_OUTSIDE_SMX;
        // SAFETY: unlocked, so writable; turns VMX on, which is what we are here for.
        unsafe { msr.write(on) };
    }
}

/// Writes this CPU's state into the host part of the current VMCS, which is entered with a guard or without.
pub(super) fn write_state(vmcs: CurrentVmcs, is_guarded: bool) {
    vmcs.write(Field::HostCr0, Cr0::read_raw());
    vmcs.write(Field::HostCr3, Cr3::read_raw().0.start_address().as_u64());
    vmcs.write(Field::HostCr4, Cr4::read_raw());
    vmcs.write(Field::HostCsSelector, u64::from(CS::get_reg().0 & !7));
    vmcs.write(Field::HostSsSelector, u64::from(SS::get_reg().0 & !7));
    for field in [
        Field::HostEsSelector,
        Field::HostDsSelector,
        Field::HostFsSelector,
        Field::HostGsSelector,
    ] {
        vmcs.write(field, 0);
    }
    vmcs.write(Field::HostFsBase, 0);
    // RDGSBASE needs CR4.FSGSBASE, which older CPUs lack
    vmcs.write(Field::HostGsBase, percpu::gs_base());
    vmcs.write(Field::HostTrSelector, u64::from(task_register()));
    vmcs.write(Field::HostTrBase, task_state_base());
    vmcs.write(Field::HostGdtrBase, sgdt().base.as_u64());
    vmcs.write(Field::HostIdtrBase, sidt().base.as_u64());
    for field in [
        Field::HostSysenterCs,
        Field::HostSysenterEsp,
        Field::HostSysenterEip,
    ] {
        vmcs.write(field, 0);
    }
    vmcs.write(Field::HostPat, read_msr(IA32_PAT));
    vmcs.write(Field::HostEfer, read_msr(IA32_EFER));
    let landing = if is_guarded {
        entry::guarded_landing()
    } else {
        entry::landing()
    };
    vmcs.write(Field::HostRip, landing);
}

fn read_msr(msr: u32) -> u64 {
    // SAFETY: called for PAT and EFER only, which every 64-bit CPU has.
    unsafe { Msr::new(msr).read() }
}

fn task_register() -> u16 {
    let selector: u16;
    // SAFETY: STR reads a selector.
    unsafe { asm!("str {0:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// The base address in the 16-byte descriptor that the task register names.
fn task_state_base() -> u64 {
    let descriptor = sgdt().base.as_u64() + u64::from(task_register() & !7);
    let low = read_descriptor(descriptor);
    let high = read_descriptor(descriptor + 8);
    let base_low = ((low >> 16) & 0xFF_FFFF) | ((low >> 56) << 24);
    base_low | (high << 32)
}

fn read_descriptor(address: u64) -> u64 {
    // SAFETY: the address lies in the live GDT, at the descriptor that LTR read; 8-byte reads need no alignment here.
    unsafe { (address as *const u64).read_unaligned() }
}
