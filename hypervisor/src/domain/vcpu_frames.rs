//! What a vCPU takes of the machine beside its domain: frames for the CPU's own structures.

use crate::machine::host::host;
use crate::machine::memory::{OwnBlock, OwnFrame};

/// The frames of one vCPU, returned when dropped: after its hardware half is unloaded.
#[derive(Debug)]
pub(crate) struct VcpuFrames {
    /// Frame of the structure that controls it.
    pub control_block: OwnFrame,
    /// Frame for extended state.
    pub xsave_area: OwnFrame,
    /// Frame of the local APIC's registers.
    pub apic_page: OwnFrame,
    /// Frames of the map of MSRs.
    pub msr_bitmap: OwnBlock,
}

impl VcpuFrames {
    /// Takes them; `None` where memory is out.
    #[must_use]
    pub(crate) fn alloc() -> Option<Self> {
        Some(Self {
            control_block: OwnFrame::alloc()?,
            xsave_area: OwnFrame::alloc()?,
            apic_page: OwnFrame::alloc()?,
            msr_bitmap: OwnBlock::alloc(host().features.msr_bitmap)?,
        })
    }
}
