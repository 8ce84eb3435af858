//! A machine without hardware, and domains on it, for tests of the core.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "every test file uses a part of it"
)]

pub(crate) mod code;

use std::sync::{Arc, Once};

use crate::domain::create::{self, DomainConfig, DomainResources};
use crate::domain::destroy::{self, Progress};
use crate::domain::vcpu_frames::VcpuFrames;
use crate::domain::{Domain, Policies, registry};
use crate::machine::host::{self, Host};
use crate::machine::memory::{self, Tables};
use crate::main_loop::CpuMain;
use crate::pcpu::Pcpu;
use crate::pcpu::hand_off::HandOff;
use crate::runner::{Activity, Runner, make};
use hv_core::addr::{Gfn, Mfn, MfnRange, PageOrder};
use hv_core::cpuid::{CpuidRegs, HostCpuid, Provides};
use hv_core::device::lapic::Delivery;
use hv_core::domid::DomId;
use hv_core::frame::{FrameInfo, FrameTable};
use hv_core::msr::HostMsrs;
use hv_core::options::Options;
use hv_core::p2m::{P2mKind, P2mMapping};
use hv_core::paging::stage2::Stage2Format;
use hv_core::x86::EFER_LMA;
use hv_hw::direct_map::{DirectTables, SharedFrame};
use hv_hw::percpu::IrqsOff;
use hv_hw::virt::Features;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{SEGMENT_CS, SEGMENT_LONG};

/// Of the board: 64 MiB, or what is quickly zeroed before the model checker's next schedule.
pub(crate) const RAM: MfnRange = MfnRange {
    start: Mfn::new(0x100),
    end: Mfn::new(if cfg!(shuttle) { 0x800 } else { 0x4000 }),
};
pub(crate) const TSC_KHZ: u32 = 2_000_000;
/// Of a machine with 512 MiB.
pub(crate) const HEAP_BYTES: usize = 8 << 20;
/// Where a fake vCPU's next instruction is, and how long that is.
pub(crate) const RIP: u64 = 0x1000;
pub(crate) const LENGTH: u64 = 3;

/// Memory, all free, and a host with what it needs: once for the board of this thread, which has no other
/// test's domains.
pub(crate) fn prepare() {
    struct Prepared(Once);
    let prepared = hv_hw::hosted::board().part(|| Prepared(Once::new()));
    prepared.0.call_once(|| {
        let records = (0..FrameTable::records_needed(&[RAM])).map(|_| FrameInfo::default());
        let records: &'static [FrameInfo] = Vec::leak(records.collect());
        let table = FrameTable::new(records, &[RAM]).unwrap_or_else(|_| panic!("one range"));
        memory::init(table, HEAP_BYTES);
        assert!(memory::free().lock().add_free(RAM).is_ok());
        hv_hw::time::set_start(hv_hw::hosted::FIRST_TSC);
        hv_hw::time::set_tsc_khz(u64::from(TSC_KHZ));
        host::init(host());
        create::prepare();
    });
}

fn host() -> Host {
    Host {
        firmware: None,
        screen: None,
        features: features(),
        xcr0: 0,
        msrs: HostMsrs::default(),
        provides: Provides::empty(),
        cpuid: cpuid(),
        tsc_khz: TSC_KHZ,
        kept: Vec::new(),
        power_off: None,
        command_line: String::new(),
        options: Options::default(),
    }
}

/// A CPU that can do everything but deliver interrupts.
fn features() -> Features {
    Features {
        stage2: Stage2Format::Ept,
        stage2_2m: true,
        stage2_1g: true,
        rdtscp: true,
        invpcid: true,
        xsaves: true,
        delivery: Delivery::BySoftware,
        io_bitmap: PageOrder::new(1).unwrap(),
        msr_bitmap: PageOrder::SIZE_4K,
        hypercall: [0x0F, 0x01, 0xC1],
    }
}

fn cpuid() -> HostCpuid {
    let regs = |eax| CpuidRegs {
        eax,
        ebx: 0,
        ecx: 0,
        edx: 0,
    };
    HostCpuid::read(|leaf, _| match leaf {
        0 => regs(0xD),
        0x8000_0000 => regs(0x8000_0008),
        0x8000_0008 => regs(0x3028),
        _ => regs(0),
    })
}

/// A configuration of a guest with so many vCPUs.
pub(crate) fn guest_config(vcpus: u16) -> DomainConfig {
    DomainConfig {
        is_hardware: false,
        ..DomainConfig::dom0(vcpus)
    }
}

/// A domain that the registry does not know.
pub(crate) fn domain(id: u16, config: DomainConfig) -> Arc<Domain> {
    prepare();
    let id = DomId::new(id).expect("tests use small numbers");
    let own = DomainResources::none().expect("the arena has room");
    Arc::new(create::domain(id, config, own).unwrap_or_else(|errno| panic!("{errno:?}")))
}

/// A guest of one vCPU that the registry knows, paused.
pub(crate) fn known_guest() -> Arc<Domain> {
    let number = registry::reserve(None).expect("numbers are left");
    let domain = domain(number.id().get(), guest_config(1));
    registry::add(domain.clone());
    domain
}

/// Gives the domain `frames` frames of RAM from guest frame 0 on.
pub(crate) fn give_ram(domain: &Domain, frames: u64) -> Vec<SharedFrame> {
    let frame = |gfn| {
        let mfn = memory::alloc_special(domain.id).expect("the arena has room");
        let mapping = P2mMapping::new(mfn, P2mKind::Ram);
        let mut p2m = domain.p2m.lock();
        let flush = p2m.insert((&mut DirectTables, &mut Tables), Gfn::new(gfn), 1, mapping);
        let flush = flush.unwrap_or_else(|_| panic!("nothing is mapped there"));
        let _ = flush.completed();
        SharedFrame::new(mfn).expect("frames are in the arena")
    };
    (0..frames).map(frame).collect()
}

/// A CPU of this thread.
pub(crate) fn pcpu() -> Pcpu {
    Pcpu::new(IrqsOff::for_tests()).with_timer(|_| {})
}

/// A vCPU without hardware, in 64-bit kernel mode with interrupts off.
pub(crate) fn fake(_: &Domain, _: usize, _: &VcpuFrames, _: &Policies) -> FakeVcpu {
    let mut hw = FakeVcpu::default();
    hw.system.efer = EFER_LMA;
    hw.system.segments[SEGMENT_CS].access = SEGMENT_LONG;
    hw.instruction_length = Some(LENGTH);
    hw.system.rip = RIP;
    hw.system.rflags = 2;
    hw
}

/// The only vCPU of a domain in dom0's place, ready to run.
pub(crate) fn one_vcpu() -> (Runner<FakeVcpu>, Pcpu) {
    vcpu_of(domain(0, DomainConfig::dom0(1)))
}

/// The first vCPU of a domain, ready to run.
pub(crate) fn vcpu_of(domain: Arc<Domain>) -> (Runner<FakeVcpu>, Pcpu) {
    let mut pcpu = pcpu();
    let hand_off = HandOff {
        domain,
        index: 0,
        parts: VcpuFrames::alloc().expect("the arena has room"),
    };
    let mut runner = make::runner(hand_off, &mut pcpu, fake);
    runner.activity = Activity::Ready;
    (runner, pcpu)
}

/// Destroys a domain whose vCPUs, if it has any, are those of `main`'s CPU, which has its turn where that is asked for.
pub(crate) fn destroy_whole(domain: &Arc<Domain>, main: &mut CpuMain<FakeVcpu>) {
    let mut hw = FakeVcpu::default();
    for _ in 0..10_000 {
        match destroy::step(domain, &mut hw) {
            Progress::Done => return,
            Progress::More => {}
            Progress::WaitForCpus => {
                let _ = main.step();
            }
        }
    }
    panic!("destruction does not end");
}
