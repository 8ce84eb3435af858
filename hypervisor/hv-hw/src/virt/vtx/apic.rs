//! Virtual-interrupt delivery: what the VMCS has of the local APIC beside its page.
//!
//! Source: Intel SDM vol. 3C, "Guest Non-Register State", "Virtual-Interrupt Delivery".

use hv_core::device::lapic::InterruptStatus;

use super::fields::Field;
use super::vcpu::low_half;
use super::vmcs::CurrentVmcs;

/// The highest vectors requested (RVI) and in service (SVI).
#[inline(always)]
pub(super) fn status(vmcs: CurrentVmcs) -> InterruptStatus {
    let [requested, in_service] = low_half(vmcs.read32(Field::GuestInterruptStatus)).to_le_bytes();
    InterruptStatus {
        requested,
        in_service,
    }
}

#[inline(always)]
pub(super) fn set_status(vmcs: CurrentVmcs, status: InterruptStatus) {
    let word = u16::from_le_bytes([status.requested, status.in_service]);
    vmcs.write(Field::GuestInterruptStatus, u64::from(word));
}

/// Has EOI of each vector whose bit is set exit.
pub(super) fn set_eoi_exits(vmcs: CurrentVmcs, vectors: &[u64; 4]) {
    let fields = [
        Field::EoiExitBitmap0,
        Field::EoiExitBitmap1,
        Field::EoiExitBitmap2,
        Field::EoiExitBitmap3,
    ];
    for (field, word) in fields.into_iter().zip(vectors) {
        vmcs.write(field, *word);
    }
}
