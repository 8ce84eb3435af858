//! What VM entry and exit do not switch: extended state, debug registers and the MSRs that the guest uses directly.
//!
//! The hypervisor uses none of it, so it stays in the CPU over exits and moves only when another vCPU takes the CPU.
// UNSAFETY: saves and loads registers that no crate covers.
#![expect(unsafe_code, reason = "MOV to CR2")]

use core::arch::asm;

use hv_core::addr::Mfn;
use x86_64::registers::control::Cr2;

use super::super::debug_regs::{read_debug, write_debug};
use super::super::extended::{Extended, ExtendedState};
use super::super::guest_msrs::{TscAux, read_msr, write_msr};
use super::super::regs::{DR6_FIXED, canonical};
use super::super::{SystemRegs, SystemSet};

/// STAR, LSTAR, CSTAR, FMASK, KERNEL_GS_BASE: on every 64-bit CPU.
const SWITCHED_MSRS: [u32; 5] = [
    0xC000_0081,
    0xC000_0082,
    0xC000_0083,
    0xC000_0084,
    0xC000_0102,
];

/// One vCPU's share, while it is not in the CPU.
#[derive(Debug)]
pub(super) struct Switched {
    pub(super) extended: Extended,
    msrs: [u64; SWITCHED_MSRS.len()],
    tsc_aux: TscAux,
    cr2: u64,
    debug: [u64; 5],
}

impl Switched {
    /// The state after reset. `area` is a zeroed frame for extended state.
    pub(super) fn new(kind: ExtendedState, area: Mfn) -> Self {
        Self {
            extended: Extended::new(kind, area),
            msrs: [0; SWITCHED_MSRS.len()],
            tsc_aux: TscAux::new(kind.has_tsc_aux),
            cr2: 0,
            debug: [0, 0, 0, 0, DR6_FIXED],
        }
    }

    /// Puts it into the CPU.
    pub(super) fn load(&self) {
        self.extended.load();
        for (msr, value) in SWITCHED_MSRS.into_iter().zip(self.msrs) {
            write_msr(msr, value);
        }
        self.tsc_aux.load();
        write_cr2(self.cr2);
        write_debug(&self.debug);
    }

    /// Takes it out of the CPU.
    pub(super) fn save(&mut self) {
        self.extended.save();
        for (msr, value) in SWITCHED_MSRS.into_iter().zip(&mut self.msrs) {
            *value = read_msr(msr);
        }
        self.tsc_aux.save();
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
        if wanted.contains(SystemSet::TSC_AUX) {
            regs.tsc_aux = self.tsc_aux.read();
        }
        if wanted.contains(SystemSet::CR2) {
            regs.cr2 = Cr2::read_raw();
        }
        if wanted.contains(SystemSet::DEBUG) {
            regs.debug = read_debug();
        }
        regs.xcr0 = self.extended.xcr0();
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
        if changed.contains(SystemSet::TSC_AUX) {
            self.tsc_aux.write(regs.tsc_aux);
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
            self.extended.set_xcr0(regs.xcr0);
        }
    }
}

fn write_cr2(value: u64) {
    // SAFETY: the hypervisor does not use CR2 but in the handler of its own page faults, which end it.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nomem, nostack)) };
}
