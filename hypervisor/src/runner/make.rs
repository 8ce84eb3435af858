//! How a vCPU begins: the CPU that is to run it builds its [`Runner`] when it finds it in its queue.

use guest_abi::compat::Width;
use hv_core::device::lapic::{Lapic, LapicConfig};
use hv_core::msr::MsrState;
use hv_hw::direct_map::SharedFrame;
use hv_hw::virt::{Backend, Rights, TscView, VcpuConfig, VcpuHw};

use crate::domain::vcpu::Vcpu;
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::{Domain, Policies};
use crate::guest_mem::SoftwareTlb;
use crate::machine::host::host;
use crate::pcpu::Pcpu;
use crate::pcpu::hand_off::HandOff;
use crate::runner::{Activity, Runner};

/// Makes the hardware half of vCPU `index` of a domain from its frames.
pub(crate) trait MakeVcpu<H>: Fn(&Domain, usize, &VcpuFrames, &Policies) -> H {}

impl<H, F: Fn(&Domain, usize, &VcpuFrames, &Policies) -> H> MakeVcpu<H> for F {}

/// Builds the vCPU, which its CPU has still to load.
pub(crate) fn runner<H: VcpuHw>(
    hand_off: HandOff,
    pcpu: &mut Pcpu,
    make: impl MakeVcpu<H>,
) -> Runner<H> {
    let HandOff {
        domain,
        index,
        parts,
    } = hand_off;
    let policies = domain.policies();
    let hw = make(&domain, index, &parts, &policies);
    let vcpu = domain.vcpus.get(index).cloned();
    let vcpu = vcpu.expect("a vCPU that was sent to a CPU is its domain's");
    vcpu.set_made();
    let lapic_config = LapicConfig {
        id: vcpu.apic_id,
        is_bsp: index == 0,
        tsc_khz: host().tsc_khz,
        delivery: host().features.delivery,
    };
    let page =
        SharedFrame::new(parts.apic_page.mfn()).expect("frames of ours are in the direct map");
    let (slot, timers) = pcpu.attach(domain.clone(), index);
    let [singleshot, apic_timer, poll_timer, watchdog] = timers;
    Runner {
        lapic: Lapic::new(page, lapic_config),
        hw,
        width: Width::default(),
        tlb: SoftwareTlb::new(domain.shared_info),
        domain,
        vcpu,
        slot,
        policies,
        parts,
        msr_state: MsrState::RESET,
        xcr0: 1,
        activity: Activity::Waiting,
        raised: None,
        interrupted: None,
        nmi_pending: false,
        decoded_length: 0,
        gone_from: None,
        is_quiet: false,
        singleshot,
        apic_timer,
        poll_timer,
        is_period_over: false,
        watchdog,
        polled: arrayvec::ArrayVec::new(),
    }
}

/// Makes them by the vendor's side of this machine.
pub(crate) fn by<B: Backend>(backend: B) -> impl MakeVcpu<B::Vcpu> {
    move |domain: &Domain, index: usize, parts: &VcpuFrames, policies: &Policies| {
        let vcpu = domain.vcpus.get(index);
        let vcpu = vcpu.expect("a vCPU that was sent to a CPU is its domain's");
        let posted = &vcpu.posted;
        backend.vcpu(VcpuConfig {
            control_block: parts.control_block.mfn(),
            xsave_area: parts.xsave_area.mfn(),
            apic_page: parts.apic_page.mfn(),
            msr_bitmap: parts.msr_bitmap.frames(),
            posted_interrupts: posted.frame().mfn().base() + posted.offset() as u64,
            stage2: domain.stage2,
            rights: rights(domain, vcpu, policies),
        })
    }
}

/// What a vCPU may do without an exit.
pub(super) fn rights<'a>(domain: &Domain, vcpu: &Vcpu, policies: &'a Policies) -> Rights<'a> {
    Rights {
        io_bitmap: domain.io_bitmap,
        passthrough: policies.msrs.passthrough(),
        cr4_owned: !policies.cpuid.cr4_allowed(),
        tsc: TscView {
            offset: domain.tsc.offset.wrapping_add(vcpu.tsc_moved()),
        },
        intercepts_tsc: policies.tsc.is_emulated(),
    }
}
