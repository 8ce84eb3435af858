//! The operations.

use crate::samples::measure;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use guest_abi::event_channel::{
    EVTCHNOP_send, EVTCHNOP_status, EVTCHNOP_unmask, EvtchnSend, EvtchnStatus, EvtchnUnmask,
};
use guest_abi::hvm::hvm_op::{HVMOP_get_param, XenHvmParam};
use guest_abi::memory::{
    XENMEM_decrease_reservation, XENMEM_maximum_gpfn, XENMEM_populate_physmap, XenMemoryReservation,
};
use guest_abi::sched::{SCHEDOP_poll, SCHEDOP_yield, SchedPoll};
use guest_abi::vcpu::{
    VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer, VcpuSetSingleshotTimer,
};
use guest_abi::version::{XENVER_extraversion, XENVER_get_features, XenFeatureInfo};
use guest_abi::xen::{
    __HYPERVISOR_event_channel_op, __HYPERVISOR_hvm_op, __HYPERVISOR_memory_op,
    __HYPERVISOR_multicall, __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op, __HYPERVISOR_xen_version,
    DOMID_SELF, MulticallEntry, VIRQ_TIMER,
};
use guest_rt::timed::{self, Timed};
use guest_rt::{
    Stop, Test, Verdict, broken, check_eq, event, hypercall, insn, memory, skip, time, traps,
};

/// A test that measures `$sample` (an expression of ticks) after `$prepare`, against a budget where there is one.
macro_rules! row {
    ($name:literal, $budget:expr, $prepare:expr, $sample:expr) => {
        Test::new(concat!("cost_", $name), || {
            let context = $prepare?;
            let sample = $sample;
            measure($name, $budget, || sample(context))
        })
    };
}

pub(crate) use row;

/// Only printed. The other budgets keep what has been reached on a CPU with APIC virtualisation, a few instructions of
/// which the compiler may use; README has the goals.
pub(crate) const NO_BUDGET: Option<u64> = None;

pub(crate) static TESTS: &[Test] = &[
    row!("empty", NO_BUDGET, free(), |()| Ok(timed::nothing())),
    row!("cpuid_leaf0", Some(185), free(), |()| Ok(timed::cpuid(
        0, 0
    ))),
    row!("cpuid_leaf1", Some(185), free(), |()| Ok(timed::cpuid(
        1, 0
    ))),
    row!("cpuid_leaf7", Some(190), free(), |()| Ok(timed::cpuid(
        7, 0
    ))),
    row!("cpuid_leafD_1", Some(195), free(), |()| Ok(timed::cpuid(
        0xD, 1
    ))),
    row!("cpuid_xen_40000000", Some(200), free(), |()| Ok(
        timed::cpuid(0x4000_0000, 0)
    )),
    row!("rdmsr_apicbase", NO_BUDGET, free(), |()| Ok(timed::rdmsr(
        0x1B
    ))),
    row!("rdmsr_platform_info", NO_BUDGET, free(), |()| Ok(
        timed::rdmsr(0xCE)
    )),
    row!("x2apic_read_id", NO_BUDGET, apic(), |()| Ok(timed::rdmsr(
        0x802
    ))),
    row!("inb_0x80", NO_BUDGET, free(), |()| Ok(timed::inb(0x80))),
    row!("inb_0x20(exit)", NO_BUDGET, free(), |()| Ok(timed::inb(
        0x20
    ))),
    row!("outb_0x21(exit)", NO_BUDGET, hypervisor(), |()| Ok(
        timed::outb(0x21, 0xFF)
    )),
    row!("mov_cr4_toggle_pge", NO_BUDGET, free(), |()| Ok(
        timed::toggle_cr4_pge()
    )),
    row!("mov_cr3_same", NO_BUDGET, free(), |()| Ok(
        timed::reload_cr3()
    )),
    row!("wbinvd", NO_BUDGET, free(), |()| Ok(timed::wbinvd())),
    row!("page_fault_in_guest", NO_BUDGET, free(), |()| page_fault()),
    row!("pause", NO_BUDGET, free(), |()| Ok(timed::pause())),
    row!("hc_xen_version", Some(195), hypervisor(), |()| call(
        __HYPERVISOR_xen_version,
        0,
        0
    )),
    row!("hc_enosys(nr63)", Some(190), hypervisor(), |()| Ok(
        timed::hypercall(63, 0, 0, 0).ticks
    )),
    row!(
        "hc_xen_version_extraversion",
        Some(330),
        hypervisor(),
        |()| extraversion()
    ),
    row!(
        "hc_xen_version_get_features",
        NO_BUDGET,
        hypervisor(),
        |()| get_features()
    ),
    row!("hc_sched_yield", NO_BUDGET, hypervisor(), |()| call(
        __HYPERVISOR_sched_op,
        SCHEDOP_yield,
        0
    )),
    row!("hc_hvmop_get_param", Some(440), hypervisor(), |()| {
        get_param()
    }),
    row!("hc_memory_op_maximum_gpfn", NO_BUDGET, hypervisor(), |()| {
        maximum_gpfn()
    }),
    row!("hc_multicall_0", NO_BUDGET, hypervisor(), |()| call_raw(
        __HYPERVISOR_multicall,
        0,
        0
    )),
    row!("hc_multicall_8x_version", NO_BUDGET, hypervisor(), |()| {
        multicall()
    }),
    row!("hc_evtchn_status", NO_BUDGET, port(), |port| status(port)),
    row!("hc_evtchn_unmask_notpending", Some(405), port(), |port| {
        unmask(port)
    }),
    row!(
        "evtchn_send_loopback_masked_fresh",
        NO_BUDGET,
        port(),
        |port| send_masked_fresh(port)
    ),
    row!(
        "evtchn_send_loopback_already_pending",
        Some(398),
        port(),
        |port| send_pending(port)
    ),
    row!("evtchn_send_to_upcall_entry", NO_BUDGET, port(), |port| {
        send_to_entry(port)
    }),
    row!("evtchn_send_with_upcall_total", NO_BUDGET, port(), |port| {
        send_with_upcall(port)
    }),
    row!(
        "evtchn_send_IF0_then_sti_total",
        NO_BUDGET,
        port(),
        |port| send_then_sti(port)
    ),
    row!(
        "hc_set_singleshot_timer(+1s)",
        Some(530),
        timer(),
        |()| arm()
    ),
    row!("hc_stop_singleshot_timer", NO_BUDGET, timer(), |()| stop()),
    row!("hlt_wake_after_deadline_1ms", Some(1340), timer(), |()| {
        hlt_wake(1)
    }),
    row!("hlt_wake_after_deadline_10ms", NO_BUDGET, timer(), |()| {
        hlt_wake(10)
    }),
    row!("hc_sched_poll_ready", NO_BUDGET, port(), |port| poll_ready(
        port
    )),
    row!("x2apic_self_ipi_via_icr_total", NO_BUDGET, apic(), |()| Ok(
        self_ipi(0x830, 1 << 18 | IPI)
    )),
    row!("x2apic_self_ipi_msr_total", NO_BUDGET, apic(), |()| Ok(
        self_ipi(0x83F, IPI)
    )),
    row!("hc_decrease+populate_4k", Some(2820), spare(), |frame| {
        decrease_populate(frame)
    }),
];

fn free() -> Result<(), Stop> {
    Ok(())
}

fn hypervisor() -> Verdict {
    if !hypercall::present() {
        skip!("no hypervisor");
    }
    Ok(())
}

/// A page fault that the guest handles itself must not exit: some hundred instructions of the guest's own.
fn page_fault() -> Result<u64, Stop> {
    let start = insn::tsc();
    let fault = insn::peek(5 << 30);
    let ticks = insn::tsc() - start;
    fault.map_or(Ok(ticks), |_| Err(broken!("no page fault")))
}

/// One port for all rows, unmasked.
fn port() -> Result<u32, Stop> {
    static PORT: AtomicU32 = AtomicU32::new(0);
    event::setup()?;
    if PORT.load(SeqCst) == 0 {
        PORT.store(event::bind_ipi()?, SeqCst);
    }
    let port = PORT.load(SeqCst);
    check_eq!(event::unmask(port), 0, "unmask");
    Ok(port)
}

fn timer() -> Verdict {
    static IS_BOUND: AtomicU32 = AtomicU32::new(0);
    event::setup()?;
    if IS_BOUND.swap(1, SeqCst) == 0 {
        let (result, port) = event::bind_virq(VIRQ_TIMER);
        check_eq!(result, 0, "bind_virq TIMER");
        check_eq!(event::unmask(port), 0, "unmask");
    }
    Ok(())
}

const IPI: u64 = 0x41;

fn apic() -> Verdict {
    event::setup()?;
    traps::set_handler(
        0x41,
        Some(|_| {
            let _ = insn::wrmsr_safe(event::X2APIC_EOI, 0);
        }),
    );
    Ok(())
}

pub(crate) fn spare() -> Result<u64, Stop> {
    hypervisor()?;
    memory::spare_range()
        .map(|start| start >> 12)
        .ok_or_else(|| broken!("no spare RAM"))
}

/// The ticks of a call that must not fail.
pub(crate) fn succeeded(timed: Timed) -> Result<u64, Stop> {
    if timed.result < 0 {
        return Err(broken!("the call failed with {}", timed.result));
    }
    Ok(timed.ticks)
}

pub(crate) fn call(number: u64, op: u32, arg: u64) -> Result<u64, Stop> {
    call_raw(number, u64::from(op), arg)
}

fn call_raw(number: u64, first: u64, second: u64) -> Result<u64, Stop> {
    succeeded(timed::hypercall(number, first, second, 0))
}

fn extraversion() -> Result<u64, Stop> {
    let mut text = [0u8; 16];
    call(
        __HYPERVISOR_xen_version,
        XENVER_extraversion,
        text.as_mut_ptr() as u64,
    )
}

fn get_features() -> Result<u64, Stop> {
    let mut info = XenFeatureInfo::default();
    call(
        __HYPERVISOR_xen_version,
        XENVER_get_features,
        &raw mut info as u64,
    )
}

fn get_param() -> Result<u64, Stop> {
    let mut param = XenHvmParam {
        domid: DOMID_SELF,
        pad: 0,
        index: 1,
        value: 0,
    };
    call(__HYPERVISOR_hvm_op, HVMOP_get_param, &raw mut param as u64)
}

fn maximum_gpfn() -> Result<u64, Stop> {
    let domid = DOMID_SELF;
    call(
        __HYPERVISOR_memory_op,
        XENMEM_maximum_gpfn,
        &raw const domid as u64,
    )
}

fn multicall() -> Result<u64, Stop> {
    let mut calls = [MulticallEntry {
        op: __HYPERVISOR_xen_version,
        ..Default::default()
    }; 8];
    call_raw(__HYPERVISOR_multicall, calls.as_mut_ptr() as u64, 8)
}

fn status(port: u32) -> Result<u64, Stop> {
    let mut arg = EvtchnStatus {
        dom: DOMID_SELF,
        port,
        ..Default::default()
    };
    call(
        __HYPERVISOR_event_channel_op,
        EVTCHNOP_status,
        &raw mut arg as u64,
    )
}

fn unmask(port: u32) -> Result<u64, Stop> {
    let arg = EvtchnUnmask { port };
    call(
        __HYPERVISOR_event_channel_op,
        EVTCHNOP_unmask,
        &raw const arg as u64,
    )
}

pub(crate) fn send(port: u32) -> Result<u64, Stop> {
    let arg = EvtchnSend { port };
    call(
        __HYPERVISOR_event_channel_op,
        EVTCHNOP_send,
        &raw const arg as u64,
    )
}

fn send_masked_fresh(port: u32) -> Result<u64, Stop> {
    event::mask(port);
    event::take_pending(port);
    send(port)
}

fn send_pending(port: u32) -> Result<u64, Stop> {
    event::mask(port);
    let _ = event::send(port);
    let ticks = send(port);
    event::take_pending(port);
    ticks
}

fn send_to_entry(port: u32) -> Result<u64, Stop> {
    insn::sti();
    let start = insn::tsc();
    let result = event::send(port);
    insn::cli();
    if result != 0 || event::last_upcall_tsc() < start {
        return Err(broken!("no upcall"));
    }
    Ok(event::last_upcall_tsc() - start)
}

fn send_with_upcall(port: u32) -> Result<u64, Stop> {
    insn::sti();
    let ticks = send(port);
    insn::cli();
    ticks
}

fn send_then_sti(port: u32) -> Result<u64, Stop> {
    let start = insn::tsc();
    let result = event::send(port);
    insn::sti();
    insn::cli();
    let end = insn::tsc();
    if result != 0 || event::last_upcall_tsc() < start {
        return Err(broken!("no upcall"));
    }
    Ok(end - start)
}

fn arm() -> Result<u64, Stop> {
    let arg = VcpuSetSingleshotTimer {
        timeout_abs_ns: time::now_ns() + 1000 * time::MS,
        flags: 0,
        _pad: 0,
    };
    let op = u64::from(VCPUOP_set_singleshot_timer);
    let ticks = succeeded(timed::hypercall(
        __HYPERVISOR_vcpu_op,
        op,
        0,
        &raw const arg as u64,
    ));
    let _ = hypercall::vcpu_plain(VCPUOP_stop_singleshot_timer, 0);
    ticks
}

fn stop() -> Result<u64, Stop> {
    arm()?;
    call(__HYPERVISOR_vcpu_op, VCPUOP_stop_singleshot_timer, 0)
}

/// From the TSC of the deadline to the instruction after HLT.
fn hlt_wake(ms: u64) -> Result<u64, Stop> {
    static TARGET: AtomicU64 = AtomicU64::new(0);
    let clock = time::parameters();
    let target = insn::tsc() + time::tsc_hz() / 1000 * ms;
    TARGET.store(target, SeqCst);
    let timeout_abs_ns = time::at_tsc(&clock, target);
    let arg = VcpuSetSingleshotTimer {
        timeout_abs_ns,
        flags: 0,
        _pad: 0,
    };
    check_eq_result(hypercall::vcpu(VCPUOP_set_singleshot_timer, 0, arg).0)?;
    let before = event::upcalls();
    while event::upcalls() == before {
        insn::sti_hlt_cli();
    }
    Ok(insn::tsc().saturating_sub(TARGET.load(SeqCst)))
}

fn check_eq_result(result: i64) -> Verdict {
    check_eq!(result, 0, "the call");
    Ok(())
}

fn poll_ready(port: u32) -> Result<u64, Stop> {
    event::mask(port);
    let _ = event::send(port);
    let ports = [port];
    let arg = SchedPoll {
        ports: ports.as_ptr() as u64,
        nr_ports: 1,
        _pad: 0,
        timeout: 0,
    };
    let ticks = call(__HYPERVISOR_sched_op, SCHEDOP_poll, &raw const arg as u64);
    event::take_pending(port);
    ticks
}

fn self_ipi(msr: u32, value: u64) -> u64 {
    insn::sti();
    let ticks = timed::wrmsr(msr, value);
    insn::cli();
    ticks
}

fn decrease_populate(frame: u64) -> Result<u64, Stop> {
    let arg = XenMemoryReservation {
        extent_start: &raw const frame as u64,
        nr_extents: 1,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let down = call(
        __HYPERVISOR_memory_op,
        XENMEM_decrease_reservation,
        &raw const arg as u64,
    )?;
    let up = call(
        __HYPERVISOR_memory_op,
        XENMEM_populate_physmap,
        &raw const arg as u64,
    )?;
    Ok(down + up)
}
