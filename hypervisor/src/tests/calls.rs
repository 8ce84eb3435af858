//! Hypercalls over vCPUs without hardware: what is refused, and that a call which waits, or asks for much, stays in
//! bounds.

use hv_hw::sync::atomic::Ordering;

use crate::domain::destroy::{self, Progress};
use crate::exit;
use crate::main_loop::CpuMain;
use crate::pcpu::{Pcpu, hand_off};
use crate::runner::{Activity, Runner};
use crate::tests::common::{RIP, fake, give_ram, known_guest, one_vcpu, pcpu, prepare};
use guest_abi::domctl::{
    XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_SCHEDOP_putinfo, XEN_DOMCTL_scheduler_op,
    XEN_DOMCTL_sethvmcontext, XEN_SCHEDULER_CREDIT2, XenDomctl, XenDomctlHvmcontext,
    XenDomctlSchedulerOp,
};
use guest_abi::errno::Errno;
use guest_abi::event_channel::{
    EVTCHNOP_alloc_unbound, EVTCHNOP_bind_interdomain, EvtchnAllocUnbound, EvtchnBindInterdomain,
};
use guest_abi::hvm::save::{
    HVM_FILE_MAGIC, HVM_FILE_VERSION, HVM_SAVE_CODE_VMCE_VCPU, HvmSaveHeader,
};
use guest_abi::sched::{SCHEDOP_block, SCHEDOP_poll, SchedPoll};
use guest_abi::sysctl::{
    XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_SCHEDOP_getinfo, XEN_SYSCTL_SCHEDOP_putinfo,
    XEN_SYSCTL_scheduler_op, XenSysctl, XenSysctlSchedulerOp,
};
use guest_abi::xen::{
    __HYPERVISOR_domctl, __HYPERVISOR_event_channel_op, __HYPERVISOR_multicall,
    __HYPERVISOR_sched_op, __HYPERVISOR_sysctl, DOMID_SELF, MulticallEntry,
};
use hv_core::domid::DomId;
use hv_core::options::Scheduler;
use hv_core::vcpu::context::Stream;
use hv_hw::direct_map::SharedFrame;
use hv_hw::virt::fake::FakeVcpu;
use hv_hw::virt::{VcpuHw, VmExit};
use zerocopy::{FromZeros, IntoBytes};

/// dom0's only vCPU, its CPU, and what is in its memory from address 0 on.
struct Caller {
    runner: Runner<FakeVcpu>,
    pcpu: Pcpu,
    ram: Vec<SharedFrame>,
}

impl Caller {
    fn new() -> Self {
        let (runner, pcpu) = one_vcpu();
        let ram = give_ram(&runner.domain, 4);
        Self { runner, pcpu, ram }
    }

    /// Executes the instruction of a hypercall once; its result where that is all.
    fn call(&mut self, number: u64, first: u64, second: u64) -> Option<u64> {
        let regs = self.runner.hw.regs();
        regs.set_rax(number);
        regs.set_rdi(first);
        regs.set_rsi(second);
        self.again()
    }

    fn again(&mut self) -> Option<u64> {
        let before = self.runner.hw.rip();
        let _ = exit::handle(&mut self.runner, &mut self.pcpu, VmExit::Hypercall);
        (self.runner.hw.rip() != before).then(|| self.runner.hw.regs().rax())
    }
}

fn polls(port: u32) -> (SchedPoll, MulticallEntry) {
    const PORTS: u64 = 0x1000;
    assert_ne!(port, 0);
    let poll = SchedPoll {
        ports: PORTS,
        nr_ports: 1,
        ..Default::default()
    };
    let mut entry = MulticallEntry {
        op: __HYPERVISOR_sched_op,
        ..Default::default()
    };
    entry.args[..2].copy_from_slice(&[u64::from(SCHEDOP_poll), 0x2000]);
    (poll, entry)
}

#[test]
fn vcpu_that_waits_in_a_batch_does_the_rest_when_it_is_back() {
    let mut dom0 = Caller::new();
    let port = dom0
        .runner
        .domain
        .events
        .lock()
        .alloc_unbound(DomId::DOM0)
        .unwrap();
    let (poll, polling) = polls(port.get());
    let mut blocking = polling;
    blocking.args[0] = u64::from(SCHEDOP_block);
    dom0.ram[0].write_bytes(0, [polling, polling, blocking].as_bytes());
    dom0.ram[1].write_bytes(0, port.get().as_bytes());
    dom0.ram[2].write_bytes(0, poll.as_bytes());
    let pollers = |dom0: &Caller| dom0.runner.domain.pollers.load(Ordering::Relaxed);
    let mut answer = dom0.call(__HYPERVISOR_multicall, 0, 3);
    for _ in 0..2 {
        assert_eq!((answer, dom0.runner.hw.rip()), (None, RIP));
        assert_eq!(
            (dom0.runner.activity, pollers(&dom0)),
            (Activity::Polling, 1)
        );
        dom0.runner.wake(&mut dom0.pcpu);
        assert_eq!(pollers(&dom0), 0);
        answer = dom0.again();
    }
    assert_eq!(answer, Some(0));
    assert_eq!(
        (dom0.runner.activity, pollers(&dom0)),
        (Activity::Halted, 0)
    );
}

#[test]
fn dying_domain_gets_no_port_and_binds_none() {
    prepare();
    let mut dom0 = Caller::new();
    let guest = known_guest();
    let waits = guest.events.lock().alloc_unbound(DomId::DOM0).unwrap();
    let mut hw = FakeVcpu::default();
    assert_eq!(destroy::step(&guest, &mut hw), Progress::More);
    let alloc = EvtchnAllocUnbound {
        dom: guest.id.get(),
        remote_dom: DOMID_SELF,
        port: 0,
    };
    dom0.ram[0].write_bytes(0, alloc.as_bytes());
    let bind = EvtchnBindInterdomain {
        remote_dom: guest.id.get(),
        remote_port: waits.get(),
        ..Default::default()
    };
    dom0.ram[1].write_bytes(0, bind.as_bytes());
    for (op, at) in [
        (EVTCHNOP_alloc_unbound, 0),
        (EVTCHNOP_bind_interdomain, 0x1000),
    ] {
        let answer = dom0.call(__HYPERVISOR_event_channel_op, u64::from(op), at);
        assert_eq!(answer, Some(Errno::EINVAL.to_rax()));
    }
    while destroy::step(&guest, &mut hw) != Progress::Done {}
}

/// Loads a stream with so many empty records of vCPU 0.
fn load(dom0: &mut Caller, main: &mut CpuMain<FakeVcpu>, guest: DomId, records: usize) -> u64 {
    const STREAM: u64 = 0x1000;
    let mut header = HvmSaveHeader::new_zeroed();
    header.magic = HVM_FILE_MAGIC;
    header.version = HVM_FILE_VERSION;
    let mut stream = Stream::begin(4096, &header).unwrap();
    for _ in 0..records {
        stream.put(HVM_SAVE_CODE_VMCE_VCPU, 0, &[]).unwrap();
    }
    let bytes = stream.end().unwrap();
    dom0.ram[1].write_bytes(0, &bytes);
    let body = XenDomctlHvmcontext {
        size: u32::try_from(bytes.len()).unwrap(),
        buffer: STREAM,
        ..XenDomctlHvmcontext::new_zeroed()
    };
    let mut domctl = XenDomctl::new_zeroed();
    domctl.cmd = XEN_DOMCTL_sethvmcontext;
    domctl.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    domctl.domain = guest.get();
    body.write_to_prefix(domctl.u.as_mut_bytes()).unwrap();
    dom0.ram[0].write_bytes(0, domctl.as_bytes());
    let mut answer = dom0.call(__HYPERVISOR_domctl, 0, 0);
    for _ in 0..10 {
        if let Some(answer) = answer {
            return answer;
        }
        let _ = main.step();
        answer = dom0.again();
    }
    panic!("the vCPU's CPU does not answer");
}

#[test]
fn context_with_more_records_than_a_vcpu_has_is_refused() {
    prepare();
    let mut dom0 = Caller::new();
    let guest = known_guest();
    let mut main = CpuMain::new(pcpu(), Scheduler::Credit2, fake);
    hand_off::spawn(&guest, 0).unwrap();
    let _ = main.step();
    assert_eq!(load(&mut dom0, &mut main, guest.id, 16), 0);
    let refused = load(&mut dom0, &mut main, guest.id, 17);
    assert_eq!(refused, Errno::EINVAL.to_rax());
    let mut hw = FakeVcpu::default();
    while destroy::step(&guest, &mut hw) != Progress::Done {
        let _ = main.step();
    }
}

/// A cap is at most what all vCPUs together could use, as in Xen.
#[test]
fn caps_above_all_vcpus_are_refused() {
    prepare();
    let mut dom0 = Caller::new();
    let guest = known_guest();
    let mut set = |cap: u16| {
        let body = XenDomctlSchedulerOp {
            sched_id: XEN_SCHEDULER_CREDIT2,
            cmd: XEN_DOMCTL_SCHEDOP_putinfo,
            u: [512 | u32::from(cap) << 16, 0, 0, 0],
        };
        let mut domctl = XenDomctl::new_zeroed();
        domctl.cmd = XEN_DOMCTL_scheduler_op;
        domctl.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
        domctl.domain = guest.id.get();
        body.write_to_prefix(domctl.u.as_mut_bytes()).unwrap();
        dom0.ram[0].write_bytes(0, domctl.as_bytes());
        let answer = dom0.call(__HYPERVISOR_domctl, 0, 0);
        let weight = guest.weight.load(Ordering::Relaxed);
        (answer, weight, guest.cap.load(Ordering::Relaxed))
    };
    let refused = Some(Errno::EINVAL.to_rax());
    assert_eq!(set(101), (refused, 256, 0));
    assert_eq!(set(u16::MAX), (refused, 256, 0));
    assert_eq!(set(100), (Some(0), 512, 100));
    let mut hw = FakeVcpu::default();
    while destroy::step(&guest, &mut hw) != Progress::Done {}
}

/// What is told of the rate limit is what was set.
#[test]
fn rate_limit_is_set_within_its_range() {
    prepare();
    let mut dom0 = Caller::new();
    let mut ask = |cmd: u32, us: u32| {
        let body = XenSysctlSchedulerOp {
            sched_id: XEN_SCHEDULER_CREDIT2,
            cmd,
            u: [us, 0, 0, 0],
            ..Default::default()
        };
        let mut sysctl = XenSysctl::new_zeroed();
        sysctl.cmd = XEN_SYSCTL_scheduler_op;
        sysctl.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
        body.write_to_prefix(sysctl.u.as_mut_bytes()).unwrap();
        dom0.ram[0].write_bytes(0, sysctl.as_bytes());
        let answer = dom0.call(__HYPERVISOR_sysctl, 0, 0).unwrap();
        (answer, crate::machine::cpus::rate_limit_us())
    };
    let refused = Errno::EINVAL.to_rax();
    assert_eq!(ask(XEN_SYSCTL_SCHEDOP_getinfo, 7), (0, 1000));
    for (us, result, now) in [
        (99, refused, 1000),
        (100, 0, 100),
        (500_001, refused, 100),
        (0, 0, 0),
    ] {
        assert_eq!(ask(XEN_SYSCTL_SCHEDOP_putinfo, us), (result, now));
    }
    assert_eq!(ask(XEN_SYSCTL_SCHEDOP_putinfo, 1000), (0, 1000));
    assert_eq!(ask(9, 500), (refused, 1000));
}
