//! Extended state (x87, SSE, AVX …) of a vCPU, and what of it moves between the CPU and memory.
//!
//! The hypervisor uses none of it, so it stays in the CPU over exits and moves only when another vCPU takes the CPU.
// UNSAFETY: saves and loads registers that no crate covers.
#![expect(unsafe_code, reason = "XSAVE and XCR0")]

use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;

use hv_core::addr::{Mfn, PAGE_BYTES};
use x86_64::registers::control::{Cr4, Cr4Flags};

use crate::direct_map;

/// XCR0: x87 state, which is always on.
const X87: u64 = 1;

/// What this CPU's extended state consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedState {
    /// The XCR0 bits that guests may have; 0 where there is no XSAVE.
    pub xcr0: u64,
    /// Restoring leaves the x87 error pointers of whoever ran before where no exception is pending.
    pub leaks_x87_pointers: bool,
    /// RDTSCP or RDPID: TSC_AUX exists.
    pub has_tsc_aux: bool,
    /// IA32_SPEC_CTRL exists and is shown to guests; it is switched at VM entry and exit (`guard`).
    pub has_spec_ctrl: bool,
}

/// One vCPU's extended state, while it is not in the CPU, and its XCR0.
#[derive(Debug)]
pub(super) struct Extended {
    kind: ExtendedState,
    area: Mfn,
    /// XCR0 as the guest set it; x87 is always on.
    xcr0: u64,
}

impl Extended {
    /// The state after reset. `area` is a zeroed frame.
    pub(super) fn new(kind: ExtendedState, area: Mfn) -> Self {
        let state = Self {
            kind,
            area,
            xcr0: X87,
        };
        state.reset_area();
        state
    }

    pub(super) fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// An all-zero XSAVE header means "everything in its initial state"; FXSAVE has no such header, and MXCSR is never
    /// 0.
    fn reset_area(&self) {
        let area = direct_map::hva(self.area.base());
        // SAFETY: the frame is ours; FCW is at offset 0 of the legacy region.
        unsafe { area.cast::<u16>().write_volatile(0x37F) };
        // SAFETY: the frame is ours; offset 24 is inside it.
        let mxcsr = unsafe { area.add(24) };
        // SAFETY: the frame is ours and the field aligned.
        unsafe { mxcsr.cast::<u32>().write_volatile(0x1F80) };
    }

    /// The guest's extended state, which is in the CPU.
    pub(super) fn read(&self) -> Vec<u8> {
        self.save();
        if self.kind.xcr0 != 0 {
            write_xcr0(self.xcr0);
        }
        let mut extended = vec![0; PAGE_BYTES];
        direct_map::read(self.area.base(), &mut extended).expect("the frame is ours");
        extended
    }

    /// Puts `extended` into the CPU, made into what it takes; one of another size is left alone.
    pub(super) fn write(&mut self, extended: &[u8]) {
        if extended.len() == PAGE_BYTES {
            let mut image = extended.to_vec();
            self.make_loadable(&mut image);
            direct_map::write(self.area.base(), &image).expect("the frame is ours");
            self.load();
        }
    }

    /// Intel SDM vol. 1, "Operation of XRSTOR": reserved bits of MXCSR and of the header fault, as do components that
    /// XCR0 has not.
    fn make_loadable(&self, image: &mut [u8]) {
        const MXCSR: usize = 24;
        const MXCSR_DEFINED: u32 = 0xFFFF;
        const XSTATE_BV: usize = 512;
        const HEADER_END: usize = 576;
        let mut mxcsr = [0; 4];
        mxcsr.copy_from_slice(&image[MXCSR..MXCSR + 4]);
        let mxcsr = u32::from_le_bytes(mxcsr) & MXCSR_DEFINED;
        image[MXCSR..MXCSR + 4].copy_from_slice(&mxcsr.to_le_bytes());
        let mut components = [0; 8];
        components.copy_from_slice(&image[XSTATE_BV..XSTATE_BV + 8]);
        let components = u64::from_le_bytes(components) & self.kind.xcr0;
        image[XSTATE_BV..XSTATE_BV + 8].copy_from_slice(&components.to_le_bytes());
        image[XSTATE_BV + 8..HEADER_END].fill(0);
    }

    /// Sets XCR0 as the guest, which is in the CPU, asked; the value has been checked.
    pub(super) fn set_xcr0(&mut self, value: u64) {
        // without XSAVE there is no such register
        if self.kind.xcr0 != 0 {
            self.xcr0 = value & self.kind.xcr0 | X87;
            write_xcr0(self.xcr0);
        }
    }

    /// Puts it into the CPU.
    pub(super) fn load(&self) {
        let area = direct_map::hva(self.area.base());
        if self.kind.leaks_x87_pointers {
            replace_x87_pointers();
        }
        if self.kind.xcr0 == 0 {
            // SAFETY: the frame holds a legacy region that FXSAVE or `new` wrote.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack)) };
            return;
        }
        write_xcr0(self.kind.xcr0);
        // SAFETY: the frame holds an image that XSAVE or `new` wrote, with only bits of XCR0 in its header.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) area, in("eax") !0u32, in("edx") !0u32, options(nostack))
        };
        write_xcr0(self.xcr0);
    }

    /// Takes it out of the CPU.
    pub(super) fn save(&self) {
        let area = direct_map::hva(self.area.base());
        if self.kind.xcr0 == 0 {
            // SAFETY: the frame is ours and 4 KiB long.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack)) };
            return;
        }
        write_xcr0(self.kind.xcr0);
        // SAFETY: the frame is ours; the features that are shown to guests take less than 4 KiB.
        unsafe {
            asm!("xsave64 [{}]", in(reg) area, in("eax") !0u32, in("edx") !0u32, options(nostack))
        };
    }
}

/// Has the x87 error pointers (FOP, FIP, FDP) be of an instruction here, not of a guest's, by an instruction that sets
/// them; what it loads is replaced by the state that is restored next.
///
/// As Xen's `arch/x86/i387.c, fpu_fxrstor` does under `cpu_bug_fpu_ptrs`, but whether an exception is pending or not.
fn replace_x87_pointers() {
    let zero = 0u32;
    // SAFETY: the x87 registers are nobody's between two guests. Pending exceptions are cleared and a register is
    // freed first, so that the load neither faults nor overflows the stack; it reads a word of ours.
    unsafe {
        asm!(
            "fnclex",
            "ffree st(7)",
            "fild dword ptr [{}]",
            in(reg) &raw const zero,
            options(nostack, readonly),
        )
    };
}

/// Lets the CPU use XSAVE, where it has it.
pub(super) fn enable_xsave(kind: &ExtendedState) {
    if kind.xcr0 != 0 {
        // SAFETY: OSXSAVE changes nothing that the hypervisor relies on.
        unsafe { Cr4::write_raw(Cr4::read_raw() | Cr4Flags::OSXSAVE.bits()) };
    }
}

fn write_xcr0(value: u64) {
    let [low, high] = split(value);
    // SAFETY: CR4.OSXSAVE is on, and the value was checked against what the CPU offers.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack)) };
}

fn split(value: u64) -> [u32; 2] {
    [value, value >> 32].map(|half| u32::try_from(half & 0xFFFF_FFFF).expect("masked to 32 bits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The environment that FNSTENV stores, which has the error pointers whatever the CPU's FXSAVE does.
    fn instruction_pointer() -> u32 {
        let mut environment = [0u32; 7];
        let at = environment.as_mut_ptr();
        // SAFETY: 28 bytes, which the array has.
        unsafe { asm!("fnstenv [{}]", in(reg) at, options(nostack)) };
        environment[3]
    }

    #[test]
    fn nothing_of_what_ran_before_is_left_in_the_error_pointers() {
        let own: u64;
        // SAFETY: leaves a register full, as a guest may, and the address of what filled it.
        unsafe {
            asm!(
                "fninit",
                "lea {own}, [rip + 2f]",
                "2: fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                "fld1",
                own = out(reg) own,
                options(nostack),
            );
        }
        let own = u32::try_from(own & 0xFFFF_FFFF).expect("masked");
        let is_own = |pointer: u32| pointer.wrapping_sub(own) < 16;
        assert!(is_own(instruction_pointer()));
        replace_x87_pointers();
        assert!(!is_own(instruction_pointer()));
        // SAFETY: the state that programs begin with.
        unsafe { asm!("fninit", options(nostack)) };
    }
}
