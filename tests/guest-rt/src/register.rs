//! A device's register of 32 bits in memory, by the instructions that kernels reach it with. What faults ends the test.

// UNSAFETY: exact instructions at addresses outside RAM, where no object of Rust's lies.
#![expect(unsafe_code, reason = "exact instructions")]

use core::arch::asm;
use guest_abi::arch_x86::hvm::start_info::XEN_HVM_MEMMAP_TYPE_RAM;

/// A register, by its address.
#[derive(Clone, Copy, Debug)]
pub struct Register(u64);

impl Register {
    /// The register at `address`.
    ///
    /// # Panics
    /// Where that is RAM: it might be Rust's.
    #[must_use]
    pub fn at(address: u64) -> Self {
        let kind = crate::memory::type_of(address);
        assert_ne!(kind, Some(XEN_HVM_MEMMAP_TYPE_RAM));
        Self(address)
    }

    /// MOV r32, m32.
    #[must_use]
    pub fn load(self) -> u32 {
        let value;
        // SAFETY: a load of what is outside RAM.
        unsafe { asm!("mov {0:e}, [{1}]", out(reg) value, in(reg) self.0, options(nostack)) };
        value
    }

    /// MOV m32, r32.
    pub fn store(self, value: u32) {
        // SAFETY: no object of Rust's lies outside RAM.
        unsafe { asm!("mov [{1}], {0:e}", in(reg) value, in(reg) self.0, options(nostack)) };
    }

    /// MOV m32, imm32.
    pub fn store_constant<const VALUE: u32>(self) {
        // SAFETY: no object of Rust's lies outside RAM.
        unsafe {
            asm!("mov dword ptr [{0}], {1}", in(reg) self.0, const VALUE, options(nostack));
        }
    }

    /// MOV m32, r32 with an address of 32 bits.
    pub fn store_narrow(self, value: u32) {
        // SAFETY: no object of Rust's lies outside RAM, and all of it is below 4 GiB here; DS has base 0.
        unsafe {
            asm!("mov dword ptr ds:[{1:e}], {0:e}", in(reg) value, in(reg) self.0, options(nostack));
        }
    }

    /// MOVZX r32, m8 of byte `index`.
    #[must_use]
    pub fn load_byte(self, index: u64) -> u32 {
        let value;
        // SAFETY: a load of what is outside RAM.
        unsafe {
            asm!("movzx {0:e}, byte ptr [{1} + {2}]", out(reg) value, in(reg) self.0, in(reg) index, options(nostack));
        }
        value
    }

    /// XCHG m32, r32: what was there.
    #[must_use]
    pub fn exchange(self, value: u32) -> u32 {
        let old;
        // SAFETY: no object of Rust's lies outside RAM.
        unsafe {
            asm!("xchg [{1}], {0:e}", inout(reg) value => old, in(reg) self.0, options(nostack));
        }
        old
    }

    /// OR m32, r32.
    pub fn or(self, value: u32) {
        // SAFETY: no object of Rust's lies outside RAM.
        unsafe { asm!("or [{1}], {0:e}", in(reg) value, in(reg) self.0, options(nostack)) };
    }

    /// AND m32, imm32.
    pub fn and<const VALUE: u32>(self) {
        // SAFETY: no object of Rust's lies outside RAM.
        unsafe { asm!("and dword ptr [{0}], {1}", in(reg) self.0, const VALUE, options(nostack)) };
    }

    /// TEST m32, imm32: whether a bit of it is set.
    #[must_use]
    pub fn test<const VALUE: u32>(self) -> bool {
        let is_set: u8;
        // SAFETY: a load of what is outside RAM.
        unsafe {
            asm!("test dword ptr [{0}], {1}", "setnz {2}", in(reg) self.0, const VALUE, out(reg_byte) is_set, options(nostack));
        }
        is_set != 0
    }

    /// CMP m32, r32: whether it is less, equal or greater, without a sign.
    #[must_use]
    pub fn compare(self, with: u32) -> core::cmp::Ordering {
        let (is_below, is_equal): (u8, u8);
        // SAFETY: a load of what is outside RAM.
        unsafe {
            asm!("cmp [{0}], {1:e}", "setb {2}", "sete {3}", in(reg) self.0, in(reg) with, out(reg_byte) is_below, out(reg_byte) is_equal, options(nostack));
        }
        match (is_below, is_equal) {
            (0, 0) => core::cmp::Ordering::Greater,
            (0, _) => core::cmp::Ordering::Equal,
            _ => core::cmp::Ordering::Less,
        }
    }
}
