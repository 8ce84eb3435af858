//! What VM entry and exit do not switch: extended state, debug registers and the MSRs that the guest uses directly.
//!
//! The hypervisor uses none of it, so it stays in the CPU over exits and moves only when another vCPU takes the CPU.
// UNSAFETY: saves and loads registers that no crate covers.
#![expect(unsafe_code, reason = "XSAVE, debug registers and MSRs")]

use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;

use hv_core::addr::{Mfn, PAGE_BYTES};
use x86_64::registers::control::{Cr2, Cr4, Cr4Flags};
use x86_64::registers::model_specific::Msr;

use super::super::regs::{DR6_FIXED, merge_dr6 as merged_dr6};
use super::super::{SystemRegs, SystemSet};
use crate::direct_map;

/// STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE: on every 64-bit CPU.
const SWITCHED_MSRS: [u32; 5] = [
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,
    0xC000_0102,
];
const TSC_AUX: u32 = 0xC000_0103;
/// XCR0: x87 state, which is always on.
const X87: u64 = 1;

/// What this CPU's extended state consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtendedState {
    /// The XCR0 bits that guests may have; 0 where there is no XSAVE.
    pub xcr0: u64,
    /// RDTSCP or RDPID: TSC_AUX exists.
    pub has_tsc_aux: bool,
    /// IA32_SPEC_CTRL exists and is shown to guests; it is switched at VM entry and exit (`guard`).
    pub has_spec_ctrl: bool,
}

/// One vCPU's share, while it is not in the CPU.
#[derive(Debug)]
pub(super) struct Switched {
    kind: ExtendedState,
    area: Mfn,
    msrs: [u64; SWITCHED_MSRS.len()],
    tsc_aux: u64,
    cr2: u64,
    debug: [u64; 5],
    /// XCR0 as the guest set it; x87 is always on.
    xcr0: u64,
}

impl Switched {
    /// The state after reset. `area` is a zeroed frame for extended state.
    pub(super) fn new(kind: ExtendedState, area: Mfn) -> Self {
        let state = Self {
            kind,
            area,
            msrs: [0; SWITCHED_MSRS.len()],
            tsc_aux: 0,
            cr2: 0,
            debug: [0, 0, 0, 0, DR6_FIXED],
            xcr0: 1,
        };
        state.reset_area();
        state
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

    /// Puts it into the CPU.
    pub(super) fn load(&self) {
        self.load_extended();
        for (msr, value) in SWITCHED_MSRS.into_iter().zip(self.msrs) {
            write_msr(msr, value);
        }
        if self.kind.has_tsc_aux {
            write_msr(TSC_AUX, self.tsc_aux);
        }
        write_cr2(self.cr2);
        write_debug(&self.debug);
    }

    /// Takes it out of the CPU.
    pub(super) fn save(&mut self) {
        self.save_extended();
        for (msr, value) in SWITCHED_MSRS.into_iter().zip(&mut self.msrs) {
            *value = read_msr(msr);
        }
        if self.kind.has_tsc_aux {
            self.tsc_aux = read_msr(TSC_AUX);
        }
        self.cr2 = Cr2::read_raw();
        self.debug = read_debug();
    }

    /// Reads what is in the CPU of the registers in `wanted`.
    pub(super) fn read(&self, wanted: SystemSet, regs: &mut SystemRegs) {
        if wanted.contains(SystemSet::SYSCALL) {
            [
                regs.star,
                regs.lstar,
                regs.cstar,
                regs.fmask,
                regs.kernel_gs_base,
            ] = SWITCHED_MSRS.map(read_msr);
        }
        if wanted.contains(SystemSet::TSC_AUX) && self.kind.has_tsc_aux {
            regs.tsc_aux = read_msr(TSC_AUX);
        }
        if wanted.contains(SystemSet::CR2) {
            regs.cr2 = Cr2::read_raw();
        }
        if wanted.contains(SystemSet::DEBUG) {
            regs.debug = read_debug();
        }
        regs.xcr0 = self.xcr0;
    }

    /// Puts the registers in `changed` into the CPU in place of what the guest has there. What the CPU would fault on
    /// is made into what it takes, whoever was to check it.
    pub(super) fn write(&mut self, regs: &SystemRegs, changed: SystemSet) {
        const LOW_HALF: u64 = 0xFFFF_FFFF;
        if changed.contains(SystemSet::SYSCALL) {
            let values = [
                regs.star,
                canonical(regs.lstar),
                canonical(regs.cstar),
                regs.fmask & LOW_HALF,
                canonical(regs.kernel_gs_base),
            ];
            for (msr, value) in SWITCHED_MSRS.into_iter().zip(values) {
                write_msr(msr, value);
            }
        }
        if changed.contains(SystemSet::TSC_AUX) && self.kind.has_tsc_aux {
            write_msr(TSC_AUX, regs.tsc_aux & LOW_HALF);
        }
        if changed.contains(SystemSet::CR2) {
            write_cr2(regs.cr2);
        }
        if changed.contains(SystemSet::DEBUG) {
            let mut debug = regs.debug;
            debug[4] &= LOW_HALF;
            write_debug(&debug);
        }
        if changed.contains(SystemSet::XCR0) {
            self.set_xcr0(regs.xcr0);
        }
    }

    /// The guest's extended state, which is in the CPU.
    pub(super) fn extended(&self) -> Vec<u8> {
        self.save_extended();
        if self.kind.xcr0 != 0 {
            write_xcr0(self.xcr0);
        }
        let mut extended = vec![0; PAGE_BYTES];
        direct_map::read(self.area.base(), &mut extended).expect("the frame is ours");
        extended
    }

    /// Puts `extended` into the CPU, made into what it takes; one of another size is left alone.
    pub(super) fn set_extended(&mut self, extended: &[u8]) {
        if extended.len() == PAGE_BYTES {
            let mut image = extended.to_vec();
            self.make_loadable(&mut image);
            direct_map::write(self.area.base(), &image).expect("the frame is ours");
            self.load_extended();
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
    fn set_xcr0(&mut self, value: u64) {
        // without XSAVE there is no such register
        if self.kind.xcr0 != 0 {
            self.xcr0 = value & self.kind.xcr0 | X87;
            write_xcr0(self.xcr0);
        }
    }

    fn load_extended(&self) {
        let area = direct_map::hva(self.area.base());
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

    fn save_extended(&self) {
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

/// Lets the CPU use XSAVE, where it has it.
pub(super) fn enable_xsave(kind: &ExtendedState) {
    if kind.xcr0 != 0 {
        // SAFETY: OSXSAVE changes nothing that the hypervisor relies on.
        unsafe { Cr4::write_raw(Cr4::read_raw() | Cr4Flags::OSXSAVE.bits()) };
    }
}

/// Adds `bits` to DR6, as the CPU would have on delivering the debug exception that exited instead.
pub(super) fn merge_dr6(bits: u64) {
    let dr6: u64;
    // SAFETY: reads a register of the guest's.
    unsafe { asm!("mov {}, dr6", out(reg) dr6, options(nomem, nostack)) };
    let merged = merged_dr6(dr6, bits);
    // SAFETY: writes a register of the guest's; no reserved bit is set.
    unsafe { asm!("mov dr6, {}", in(reg) merged, options(nomem, nostack)) };
}

fn write_xcr0(value: u64) {
    let [low, high] = split(value);
    // SAFETY: CR4.OSXSAVE is on, and the value was checked against what the CPU offers.
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") low, in("edx") high, options(nomem, nostack)) };
}

fn split(value: u64) -> [u32; 2] {
    [value, value >> 32].map(|half| u32::try_from(half & 0xFFFF_FFFF).expect("masked to 32 bits"))
}

/// The address with bits 63:48 as bit 47 has it.
fn canonical(address: u64) -> u64 {
    const UNUSED: u32 = 16;
    ((address << UNUSED).cast_signed() >> UNUSED).cast_unsigned()
}

fn read_msr(msr: u32) -> u64 {
    // SAFETY: called for MSRs that the CPU was found to have.
    unsafe { Msr::new(msr).read() }
}

fn write_msr(msr: u32, value: u64) {
    // SAFETY: the value was in the MSR before or is its reset value, and the hypervisor uses none of these MSRs.
    unsafe { Msr::new(msr).write(value) }
}

fn write_cr2(value: u64) {
    // SAFETY: the hypervisor does not use CR2 but in the handler of its own page faults, which end it.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack)) };
}

fn write_debug(debug: &[u64; 5]) {
    // SAFETY: DR7 is 0 while the host runs, so the breakpoints are the guest's only.
    unsafe {
        asm!("mov dr0, {0}", "mov dr1, {1}", "mov dr2, {2}", "mov dr3, {3}", "mov dr6, {4}",
            in(reg) debug[0], in(reg) debug[1], in(reg) debug[2], in(reg) debug[3], in(reg) debug[4],
            options(nomem, nostack));
    }
}

fn read_debug() -> [u64; 5] {
    let (dr0, dr1, dr2, dr3, dr6): (u64, u64, u64, u64, u64);
    // SAFETY: reads registers of the guest's.
    unsafe {
        asm!("mov {0}, dr0", "mov {1}, dr1", "mov {2}, dr2", "mov {3}, dr3", "mov {4}, dr6",
            out(reg) dr0, out(reg) dr1, out(reg) dr2, out(reg) dr3, out(reg) dr6, options(nomem, nostack));
    }
    [dr0, dr1, dr2, dr3, dr6]
}
