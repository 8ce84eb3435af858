//! A new VMCB: what exits, and the parts of guest state that never change.

use super::super::regs::{DR6_FIXED, RESET_PAT};
use super::super::{Rights, VcpuConfig};
use super::host::EFER_SVME;
use super::intercepts::{self, PAUSE, RDTSC, RDTSCP};
use super::probe::{Caps, Svm};
use super::vmcb::Vmcb;
use crate::direct_map::SharedFrame;

/// Turns of a loop with PAUSE, and the ticks between two of them that make them one loop: as Xen has them
/// (SVM_PAUSEFILTER_INIT, SVM_PAUSETHRESH_INIT).
const PAUSE_COUNT: u16 = 4000;
const PAUSE_THRESHOLD: u16 = 1000;
const NESTED_PAGING: u64 = 1;

/// What a vCPU keeps of what it was made of.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) caps: Caps,
    /// The registers of its local APIC, of which the task priority is here.
    pub(super) apic_page: SharedFrame,
}

impl Setup {
    pub(super) fn new(svm: &Svm, config: &VcpuConfig<'_>) -> Self {
        Self {
            caps: svm.caps,
            apic_page: SharedFrame::new(config.apic_page)
                .expect("frames of ours are in the direct map"),
        }
    }
}

/// Fills a zeroed VMCB with everything but the registers of the guest.
pub(super) fn fill(vmcb: &mut Vmcb, caps: &Caps, config: &VcpuConfig<'_>) {
    vmcb.intercepts = intercepts::ALWAYS;
    vmcb.exception_intercepts = intercepts::EXCEPTIONS;
    vmcb.cr_intercepts = intercepts::CR4_WRITE;
    if caps.pause_filter {
        vmcb.intercepts[0] |= PAUSE;
        vmcb.pause_filter_count = PAUSE_COUNT;
        vmcb.pause_filter_threshold = PAUSE_THRESHOLD;
    }
    vmcb.nested_paging = NESTED_PAGING;
    vmcb.nested_cr3 = config.stage2.table.base().as_u64();
    let state = &mut vmcb.state;
    state.efer = EFER_SVME;
    state.pat = RESET_PAT;
    state.dr6 = DR6_FIXED;
    state.dr7 = 0x400;
    set_rights(vmcb, &config.rights);
}

/// Sets what the guest may do without an exit; its MSRs are in the map.
pub(super) fn set_rights(vmcb: &mut Vmcb, rights: &Rights<'_>) {
    vmcb.io_map = rights.io_bitmap.first().base().as_u64();
    vmcb.tsc_offset = rights.tsc.offset;
    for (word, bit) in [(0, RDTSC), (1, RDTSCP)] {
        let word = &mut vmcb.intercepts[word];
        *word = if rights.intercepts_tsc {
            *word | bit
        } else {
            *word & !bit
        };
    }
}
