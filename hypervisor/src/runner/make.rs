//! How a vCPU gets what it runs on: whoever makes it allocates ([`spawn`]), the CPU that is to run it builds its
//! [`Runner`] when it finds it in its inbox ([`runner`]).

use guest_abi::compat::Width;
use hv_core::addr::Gpa;
use hv_core::device::lapic::{Lapic, LapicConfig};
use hv_core::msr::MsrState;
use hv_hw::direct_map::SharedFrame;
use hv_hw::irq::vectors;
use hv_hw::virt::vtx::{MsrBitmap, VcpuConfig, VtxVcpu};
use hv_hw::virt::{
    DescriptorTable, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_TR, SEGMENT_UNUSABLE, Segment, SystemRegs,
    VcpuHw,
};

use crate::domain::vcpu_frames::VcpuParts;
use crate::domain::{Domain, Policies};
use crate::guest_mem::Memo;
use crate::machine::host::host;
use crate::pcpu::Pcpu;
use crate::pcpu::hand_off::Arrival;
use crate::runner::{Activity, Runner};

/// Makes the hardware half of a vCPU of a domain from its parts.
pub type MakeHw<H> = fn(&Domain, usize, &VcpuParts, &Policies) -> H;

/// Builds the vCPU, which its CPU has still to load.
pub fn runner<H: VcpuHw>(arrival: Arrival, pcpu: &mut Pcpu, make: MakeHw<H>) -> Runner<H> {
    let Arrival {
        domain,
        index,
        parts,
    } = arrival;
    let policies = domain.policies();
    let hw = make(&domain, index, &parts, &policies);
    let vcpu = domain.vcpus.get(index).cloned();
    let vcpu = vcpu.expect("a vCPU that was sent to a CPU is its domain's");
    vcpu.set_made();
    let lapic_config = LapicConfig {
        id: vcpu.apic_id,
        is_bsp: index == 0,
        tsc_khz: host().tsc_khz,
        delivery: host().caps.apic_virtualization().delivery,
    };
    let page =
        SharedFrame::new(parts.virtual_apic.mfn()).expect("frames of ours are in the direct map");
    let [singleshot, apic_timer, poll_timer, watchdog] = pcpu.adopt(domain.clone(), index);
    Runner {
        lapic: Lapic::new(page, lapic_config),
        hw,
        width: Width::default(),
        memo: Memo::new(domain.shared_info),
        domain,
        vcpu,
        index,
        policies,
        parts,
        msr_state: MsrState::RESET,
        xcr0: 1,
        activity: Activity::Waiting,
        raised: None,
        interrupted: None,
        nmi_pending: false,
        is_quiet: false,
        singleshot,
        apic_timer,
        poll_timer,
        is_period_over: false,
        watchdog,
        polled: arrayvec::ArrayVec::new(),
    }
}

/// A vCPU on VT-x.
#[must_use]
pub fn vtx(domain: &Domain, index: usize, parts: &VcpuParts, policies: &Policies) -> VtxVcpu {
    let vcpu = domain.vcpus.get(index);
    let posted = vcpu.map(|vcpu| &vcpu.posted);
    let posted = posted.expect("a vCPU that was sent to a CPU is its domain's");
    let mut config = VcpuConfig {
        caps: host().caps,
        extended: host().extended,
        speculation: host().speculation,
        vmcs: parts.vmcs.mfn(),
        xsave_area: parts.xsave_area.mfn(),
        virtual_apic: parts.virtual_apic.mfn(),
        posted_interrupts: posted.frame().mfn().base() + posted.offset() as u64,
        notification_vector: vectors::POSTED_INTERRUPT,
        io_bitmap: domain.io_bitmap,
        msr_bitmap: MsrBitmap::new(parts.msr_bitmap.mfn()),
        vpid: parts.vpid.get(),
        stage2: domain.stage2,
        tsc: domain.tsc,
        cr4_owned: !policies.cpuid.cr4_allowed(),
    };
    config.allow(policies.msrs.passthrough());
    VtxVcpu::new(config)
}

/// `public/arch-x86/hvm/start_info.h`: 32-bit protected mode without paging, flat segments.
#[must_use]
pub fn pvh_entry(rip: Gpa) -> SystemRegs {
    const DATA: u32 = 0xC093;
    const CODE: u32 = 0xC09B;
    const BUSY_TSS: u32 = 0x8B;
    let flat = |access| Segment {
        selector: 0,
        base: 0,
        limit: u32::MAX,
        access,
    };
    let mut segments = [flat(DATA); 8];
    segments[SEGMENT_CS] = flat(CODE);
    segments[SEGMENT_LDTR] = flat(SEGMENT_UNUSABLE);
    segments[SEGMENT_TR] = Segment {
        selector: 0,
        base: 0,
        limit: 0x67,
        access: BUSY_TSS,
    };
    SystemRegs {
        cr0: 0x11,
        rip: rip.as_u64(),
        rflags: 2,
        dr7: 0x400,
        segments,
        gdtr: DescriptorTable::default(),
        idtr: DescriptorTable::default(),
        ..SystemRegs::default()
    }
}
