//! The state of a vCPU after reset and STARTUP. SDM vol. 3A, "Processor State After Reset".

use hv_hw::virt::{
    DescriptorTable, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_TR, SEGMENT_UNUSABLE, Segment, SystemRegs,
    VcpuHw,
};

use super::Runner;

impl<H: VcpuHw> Runner<H> {
    /// Puts a new vCPU, which is loaded, into the state after reset. Its domain's tables may lie where another's were.
    pub fn begin(&mut self) {
        self.hw.flush_stage2(self.domain.stage2);
        self.hw
            .set_system(&reset_state(0xF000, 0xFFFF_0000, 0xFFF0));
    }
}

/// The state after reset or STARTUP.
pub(crate) fn reset_state(cs: u16, cs_base: u64, rip: u64) -> SystemRegs {
    const DATA: u32 = 0x93;
    const CODE: u32 = 0x9B;
    const LDT: u32 = 0x82;
    const BUSY_TSS: u32 = 0x8B;
    let flat = |access| Segment {
        selector: 0,
        base: 0,
        limit: 0xFFFF,
        access,
    };
    let mut segments = [flat(DATA); 8];
    segments[SEGMENT_CS] = Segment {
        selector: cs,
        base: cs_base,
        limit: 0xFFFF,
        access: CODE,
    };
    segments[SEGMENT_LDTR] = flat(LDT | SEGMENT_UNUSABLE);
    segments[SEGMENT_TR] = flat(BUSY_TSS);
    SystemRegs {
        cr0: 0x6000_0010,
        rip,
        rflags: 2,
        dr7: 0x400,
        segments,
        gdtr: DescriptorTable {
            base: 0,
            limit: 0xFFFF,
        },
        idtr: DescriptorTable {
            base: 0,
            limit: 0xFFFF,
        },
        ..SystemRegs::default()
    }
}
