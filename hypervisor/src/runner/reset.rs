//! The states in which a vCPU starts: after reset and STARTUP (SDM vol. 3A, "Processor State After Reset"), and at a
//! kernel's PVH entry.

use hv_core::addr::Gpa;
use hv_core::x86::{CR0_CD, CR0_ET, CR0_NW, CR0_PE, DR7_RESET, RFLAGS_FIXED};
use hv_hw::virt::{
    DescriptorTable, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_TR, SEGMENT_UNUSABLE, Segment, SystemRegs,
    SystemSet, VcpuHw,
};

use super::Runner;

const BUSY_TSS: u32 = 0x8B;

impl<H: VcpuHw> Runner<H> {
    /// Puts a new vCPU, which is loaded, into the state after reset. Its domain's tables may lie where another's were.
    pub(crate) fn begin(&mut self) {
        self.hw.flush_stage2(self.domain.stage2);
        let state = reset_state(0xF000, 0xFFFF_0000, 0xFFF0);
        self.hw.set_system(&state, SystemSet::CORE);
    }
}

/// The state after reset or STARTUP.
pub(crate) fn reset_state(cs: u16, cs_base: u64, rip: u64) -> SystemRegs {
    const DATA: u32 = 0x93;
    const CODE: u32 = 0x9B;
    const LDT: u32 = 0x82;
    let mut segments = [flat(DATA, 0xFFFF); 8];
    segments[SEGMENT_CS] = Segment {
        selector: cs,
        base: cs_base,
        ..flat(CODE, 0xFFFF)
    };
    segments[SEGMENT_LDTR] = flat(LDT | SEGMENT_UNUSABLE, 0xFFFF);
    segments[SEGMENT_TR] = flat(BUSY_TSS, 0xFFFF);
    let table = DescriptorTable {
        base: 0,
        limit: 0xFFFF,
    };
    SystemRegs {
        cr0: CR0_CD | CR0_NW | CR0_ET,
        gdtr: table,
        idtr: table,
        ..at(rip, segments)
    }
}

/// `public/arch-x86/hvm/start_info.h`: 32-bit protected mode without paging, flat segments.
#[must_use]
pub(crate) fn pvh_entry(rip: Gpa) -> SystemRegs {
    const DATA: u32 = 0xC093;
    const CODE: u32 = 0xC09B;
    let mut segments = [flat(DATA, u32::MAX); 8];
    segments[SEGMENT_CS] = flat(CODE, u32::MAX);
    segments[SEGMENT_LDTR] = flat(SEGMENT_UNUSABLE, u32::MAX);
    segments[SEGMENT_TR] = flat(BUSY_TSS, 0x67);
    SystemRegs {
        cr0: CR0_PE | CR0_ET,
        ..at(rip.as_u64(), segments)
    }
}

fn flat(access: u32, limit: u32) -> Segment {
    Segment {
        limit,
        access,
        ..Segment::default()
    }
}

fn at(rip: u64, segments: [Segment; 8]) -> SystemRegs {
    SystemRegs {
        rip,
        rflags: RFLAGS_FIXED,
        dr7: DR7_RESET,
        segments,
        ..SystemRegs::default()
    }
}
