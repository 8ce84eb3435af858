//! The story's answers to exits, over a vCPU without hardware: what the guest finds in its registers, and whether its
//! domain lives on.
#![expect(clippy::unwrap_used, reason = "a test that fails here fails")]

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Once};

use arrayvec::{ArrayString, ArrayVec};
use guest_abi::errno::Errno;
use guest_abi::xen::{__HYPERVISOR_sched_op, __HYPERVISOR_xen_version};
use hv_core::addr::{Gfn, Mfn, MfnRange, PageOrder};
use hv_core::cpuid::{CpuidOptions, CpuidPolicy, CpuidRegs, HostCpuid, Provides, TscInfo};
use hv_core::device::lapic::{Delivery, Lapic, LapicConfig};
use hv_core::device::ports::PortMap;
use hv_core::device::posted::PostedInterrupts;
use hv_core::domid::DomId;
use hv_core::evtchn::EventChannels;
use hv_core::frame::{FrameInfo, FrameTable};
use hv_core::image::e820::E820Map;
use hv_core::msr::{HostMsrs, MsrPolicy, MsrState};
use hv_core::p2m::{P2m, P2mCache, P2mConfig};
use hv_core::vcpu::VcpuId;
use hv_core::vcpu::time::{ClockScale, PvClock};
use hv_hw::direct_map::SharedFrame;
use hv_hw::percpu::IrqsOff;
use hv_hw::sync::RankedLock;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{Event, SEGMENT_SS, Stage2Root, TscView, VcpuHw, VmExit};
use hypervisor::cpu::Pcpu;
use hypervisor::domain::devices::Devices;
use hypervisor::domain::{Domain, Ended, Life};
use hypervisor::memory::{self, Tables};
use hypervisor::pinned::Pinned;
use hypervisor::vcpu::run::{self, Stop};
use hypervisor::vcpu::{Activity, Requests, Runner, Vcpu, exit};

const TSC_KHZ: u32 = 2_000_000;
const RIP: u64 = 0x1000;
const LENGTH: u64 = 3;
const ID: DomId = DomId::DOM0;

/// 64 MiB of machine memory in the arena, all free.
fn prepare_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let ram = MfnRange::new(Mfn::new(0x100), Mfn::new(0x4000));
        let records = (0..FrameTable::records_needed(&[ram])).map(|_| FrameInfo::default());
        let records: &'static [FrameInfo] = Vec::leak(records.collect());
        memory::init(FrameTable::new(records, &[ram]).unwrap_or_else(|_| panic!("one range")));
        assert!(memory::free().lock().add_free(ram).is_ok());
    });
}

fn frame() -> SharedFrame {
    SharedFrame::new(memory::alloc_own().unwrap()).unwrap()
}

fn cpuid() -> CpuidPolicy {
    let host = HostCpuid::read(|leaf, _| match leaf {
        0 => regs(0xD),
        0x8000_0000 => regs(0x8000_0008),
        0x8000_0008 => regs(0x3028),
        _ => regs(0),
    });
    let tsc = TscInfo {
        host_khz: TSC_KHZ,
        guest_khz: TSC_KHZ,
        mode: 0,
        incarnation: 0,
        offset: 0,
        mul: 1 << 31,
        shift: 0,
    };
    let options = CpuidOptions {
        domid: ID.get(),
        vcpus: 1,
        provides: Provides::empty(),
        xcr0_switched: 0,
        stage2_bits: 48,
        tsc,
    };
    CpuidPolicy::build(&host, &options)
}

fn regs(eax: u32) -> CpuidRegs {
    CpuidRegs {
        eax,
        ebx: 0,
        ecx: 0,
        edx: 0,
    }
}

fn domain() -> Domain {
    let config = P2mConfig {
        max_order: PageOrder::SIZE_2M,
        large_executable: true,
        gfn_limit: Gfn::new(1 << 36),
    };
    let p2m = P2m::new(&mut Tables, config).unwrap();
    let shared_info = memory::alloc_special(ID).unwrap();
    let cpuid = cpuid();
    let id = VcpuId {
        domid: ID,
        index: 0,
    };
    let pinned = Pinned::new(shared_info, ID).unwrap();
    Domain {
        id: ID,
        is_hardware: true,
        msrs: MsrPolicy::build(&cpuid, &HostMsrs::default()),
        cpuid,
        ports: PortMap::guest(),
        e820: E820Map::default(),
        stage2: Stage2Root { table: p2m.root() },
        tsc: TscView::default(),
        clock: PvClock {
            tsc_timestamp: 0,
            system_time_ns: 0,
            scale: ClockScale::from_tsc_khz(TSC_KHZ).unwrap(),
            is_tsc_stable: true,
        },
        shared_info: SharedFrame::new(shared_info).unwrap(),
        vcpus: vec![Vcpu::new(id, 0, PostedInterrupts::new(frame(), 0), true)],
        p2m: RankedLock::new(p2m),
        events: RankedLock::new(EventChannels::new(ID, pinned, 1, 4095)),
        devices: RankedLock::new(Devices::none()),
        life: RankedLock::new(Life::new()),
        pollers: AtomicU32::new(0),
        callback_vector: AtomicU8::new(0),
        debug_line: RankedLock::new(ArrayString::new()),
        pages: AtomicU64::new(0),
        has_runstate_flag: AtomicBool::new(false),
        is_ending: AtomicBool::new(false),
    }
}

/// A domain of one vCPU, in kernel mode, with interrupts off.
fn one_vcpu() -> (Runner<FakeVcpu>, Pcpu) {
    prepare_memory();
    let domain = Arc::new(domain());
    let mut pcpu = Pcpu::new(IrqsOff::for_tests());
    let [singleshot, apic_timer, poll_timer] = pcpu.adopt(domain.clone(), 0);
    let lapic = LapicConfig {
        id: 0,
        is_bsp: true,
        tsc_khz: TSC_KHZ,
        delivery: Delivery::BySoftware,
    };
    let mut hw = FakeVcpu::default();
    hw.instruction_length = LENGTH;
    hw.system.rip = RIP;
    hw.system.rflags = 2;
    let runner = Runner {
        hw,
        domain,
        index: 0,
        lapic: Lapic::new(frame(), lapic),
        msr_state: MsrState::RESET,
        xcr0: 1,
        activity: Activity::Ready,
        raised: None,
        nmi_pending: false,
        singleshot,
        apic_timer,
        poll_timer,
        p2m_cache: P2mCache::new(),
        polled: ArrayVec::new(),
    };
    (runner, pcpu)
}

fn hypercall(number: u64) -> (u64, u64) {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.regs().set_rax(number);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    (runner.hw.regs().rax(), runner.hw.rip())
}

#[test]
fn cpuid_shows_xen_and_steps_over_the_instruction() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.regs().set_rax(0x4000_0000);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Cpuid);
    let regs = *runner.hw.regs();
    let name =
        [regs.rbx(), regs.rcx(), regs.rdx()].map(|word| u32::try_from(word).unwrap().to_le_bytes());
    assert_eq!(name.as_flattened(), b"XenVMMXenVMM");
    assert_eq!(runner.hw.rip(), RIP + LENGTH);
}

#[test]
fn unknown_msr_raises_protection_fault_at_the_instruction() {
    for access in [VmExit::Rdmsr, VmExit::Wrmsr] {
        let (mut runner, mut pcpu) = one_vcpu();
        runner.hw.regs().set_rcx(0x1234_5678);
        let _ = exit::handle(&mut runner, &mut pcpu, access);
        assert_eq!(runner.raised, Some(Event::PROTECTION));
        assert_eq!(runner.hw.rip(), RIP);
    }
}

#[test]
fn hypercall_that_does_not_exist_is_refused() {
    assert_eq!(hypercall(63), (Errno::ENOSYS.to_rax(), RIP + LENGTH));
    assert_eq!(hypercall(u64::MAX), (Errno::ENOSYS.to_rax(), RIP + LENGTH));
}

#[test]
fn hypercall_of_an_application_is_refused() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.system.segments[SEGMENT_SS].access = 3 << 5;
    runner.hw.regs().set_rax(__HYPERVISOR_xen_version);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    assert_eq!(runner.hw.regs().rax(), Errno::EPERM.to_rax());
}

#[test]
fn pointer_to_nowhere_is_refused() {
    let (mut runner, mut pcpu) = one_vcpu();
    let regs = runner.hw.regs();
    regs.set_rax(__HYPERVISOR_sched_op);
    regs.set_rdi(u64::from(guest_abi::sched::SCHEDOP_poll));
    regs.set_rsi(u64::MAX - 1);
    let _ = exit::handle(&mut runner, &mut pcpu, VmExit::Hypercall);
    assert_eq!(runner.hw.regs().rax(), Errno::EFAULT.to_rax());
}

#[test]
fn halt_of_the_only_vcpu_with_interrupts_off_is_power_off() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.exits.push_back(VmExit::Hlt);
    assert_eq!(run::run(&mut runner, &mut pcpu), Stop::Yield);
    assert_eq!(runner.domain.ended(), Some(Ended::PowerOff));
}

#[test]
fn vcpu_that_is_taken_down_stops_and_goes_on_when_it_is_up() {
    use std::sync::atomic::Ordering;
    let (mut runner, mut pcpu) = one_vcpu();
    runner.vcpu().is_up.store(false, Ordering::Release);
    runner.vcpu().request(Requests::LIFE);
    assert_eq!(run::run(&mut runner, &mut pcpu), Stop::Waiting);
    assert_eq!(runner.activity, Activity::Down);
    runner.vcpu().is_up.store(true, Ordering::Release);
    runner.vcpu().request(Requests::LIFE);
    runner.reconsider(&mut pcpu);
    assert_eq!(runner.activity, Activity::Ready);
}

#[test]
fn long_mode_keeps_pae() {
    const PAE: u64 = 1 << 5;
    let (mut runner, mut pcpu) = one_vcpu();
    runner.hw.system.efer = 0x500;
    runner.hw.system.cr0 = 0x8000_0011;
    runner.hw.system.cr4 = PAE;
    let write = VmExit::ControlWrite {
        register: hv_hw::virt::ControlRegister::Cr4,
        value: 0,
    };
    let _ = exit::handle(&mut runner, &mut pcpu, write);
    assert_eq!(runner.raised, Some(Event::PROTECTION));
    assert_eq!(runner.hw.system.cr4, PAE);
}

#[test]
fn kick_after_the_wait_began_is_left_for_the_one_who_wakes() {
    let (mut runner, mut pcpu) = one_vcpu();
    runner.activity = Activity::Halted;
    runner.vcpu().post_edge(0x40);
    assert_eq!(run::run(&mut runner, &mut pcpu), Stop::Waiting);
    assert!(runner.vcpu().take_kick());
    runner.reconsider(&mut pcpu);
    assert_eq!(runner.activity, Activity::Ready);
}
