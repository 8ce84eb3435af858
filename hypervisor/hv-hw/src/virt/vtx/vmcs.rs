//! The current VMCS of this CPU as a value: who holds [`CurrentVmcs`] may read and write fields.
// UNSAFETY: fields of the VMCS decide what the CPU does with host memory.
#![expect(unsafe_code, reason = "VMREAD and VMWRITE")]

use super::fields::Field;
use super::insn;

/// Access to the VMCS that is current on this CPU.
///
/// Proof that one is: made by [`CurrentVmcs::assume`] where it was loaded.
#[derive(Clone, Copy)]
pub(super) struct CurrentVmcs(());

impl CurrentVmcs {
    /// States that the caller's VMCS is current on this CPU.
    ///
    /// # Safety
    /// It is, for as long as the value is used, and the writer keeps host state, controls and bitmaps such that the
    /// guest reaches no memory but its own.
    #[inline(always)]
    pub(super) unsafe fn assume() -> Self {
        Self(())
    }

    #[inline(always)]
    pub(super) fn read(self, field: Field) -> u64 {
        // SAFETY: a VMCS is current, as `assume` was told.
        unsafe { insn::vmread(field) }
    }

    /// Reads a 32-bit field.
    #[inline(always)]
    pub(super) fn read32(self, field: Field) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the upper half of a 32-bit field reads as 0"
        )]
        let low = self.read(field) as u32;
        low
    }

    #[inline(always)]
    pub(super) fn write(self, field: Field, value: u64) {
        // SAFETY: a VMCS is current and the value in order, as `assume` was told.
        unsafe { insn::vmwrite(field, value) }
    }
}
