//! The hypercall ABI: numbers, errors, registers, privilege.

use guest_abi::Errno::{self, EACCES, EFAULT, EINVAL, ENOENT, ENOSYS, EPERM, ESRCH};
use guest_abi::event_channel::{
    EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu, EVTCHNOP_bind_virq, EVTCHNOP_close, EVTCHNOP_send,
    EVTCHNOP_status, EVTCHNOP_unmask, EvtchnBindIpi, EvtchnBindVcpu, EvtchnBindVirq, EvtchnClose,
    EvtchnSend, EvtchnStatus, EvtchnUnmask,
};
use guest_abi::hvm::hvm_op::{
    HVMOP_get_param, HVMOP_pagetable_dying, HVMOP_set_evtchn_upcall_vector, HVMOP_set_param,
    XenHvmEvtchnUpcallVector, XenHvmPagetableDying, XenHvmParam,
};
use guest_abi::hvm::params::{
    HVM_NR_PARAMS, HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN,
};
use guest_abi::memory::{
    XENMEM_acquire_resource, XENMEM_add_to_physmap, XenAddToPhysmap, XenMemAcquireResource,
};
use guest_abi::platform::{XENPF_INTERFACE_VERSION, XENPF_firmware_info, XenPlatformOp};
use guest_abi::vcpu::{
    VCPUOP_get_runstate_info, VCPUOP_is_up, VCPUOP_register_vcpu_info, VCPUOP_set_singleshot_timer,
    VcpuRegisterVcpuInfo, VcpuSetSingleshotTimer,
};
use guest_abi::version::{XENVER_extraversion, XENVER_get_features, XenFeatureInfo};
use guest_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_event_channel_op, __HYPERVISOR_grant_table_op,
    __HYPERVISOR_hvm_op, __HYPERVISOR_memory_op, __HYPERVISOR_multicall, __HYPERVISOR_physdev_op,
    __HYPERVISOR_platform_op, __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op, __HYPERVISOR_vm_assist,
    __HYPERVISOR_xen_version, DOMID_SELF, MulticallEntry, NR_VIRQS, VIRQ_CONSOLE, VIRQ_TIMER,
};
use guest_rt::hypercall::{
    event_channel, hvm, memory, plain, present, refused, vcpu, vcpu_plain, with,
};
use guest_rt::{Test, Verdict, check, check_eq, event, probe, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("hypercall_unknown_numbers_enosys", unknown_numbers),
    Test::new(
        "hypercall_unknown_sub_operations_enosys",
        unknown_sub_operations,
    ),
    Test::new("hypercall_bad_pointers_efault", bad_pointers),
    Test::new("hypercall_event_channel_arguments", event_channel_arguments),
    Test::new("hypercall_vcpu_arguments", vcpu_arguments),
    Test::new("hypercall_hvm_arguments", hvm_arguments),
    Test::new("hypercall_reserved_fields_einval", reserved_fields),
    Test::new("hypercall_platform_version_eacces", platform_version),
    Test::new("hypercall_pagetable_dying_is_refused", pagetable_dying),
    Test::new("hypercall_registers_are_preserved", registers),
    Test::new("hypercall_from_user_mode_eperm", user_mode),
    Test::new("hypercall_multicall", multicall),
    Test::new("hypercall_hvm_params", params),
];

fn need_hypervisor() -> Verdict {
    if !present() {
        skip!("no hypervisor");
    }
    Ok(())
}

const fn no(errno: Errno) -> i64 {
    refused(errno)
}

/// Not a hypercall of an HVM or PVH guest in release 4.17, or none at all.
fn unknown_numbers() -> Verdict {
    need_hypervisor()?;
    const OLD_OR_PV: [u64; 21] = [
        0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 14, 16, 19, 22, 23, 25, 28, 30, 31, 38,
    ];
    let beyond = [
        64,
        100,
        4096,
        0x8000_0000,
        1 << 32 | __HYPERVISOR_xen_version,
        u64::MAX,
    ];
    for number in OLD_OR_PV
        .into_iter()
        .chain(43..48)
        .chain(50..64)
        .chain(beyond)
    {
        check_eq!(plain(number, [0, 0]), no(ENOSYS), "hypercall {number:#x}");
    }
    Ok(())
}

fn unknown_sub_operations() -> Verdict {
    need_hypervisor()?;
    for (number, name) in [
        (__HYPERVISOR_xen_version, "xen_version"),
        (__HYPERVISOR_console_io, "console_io"),
        (__HYPERVISOR_event_channel_op, "event_channel_op"),
        (__HYPERVISOR_sched_op, "sched_op"),
        (__HYPERVISOR_hvm_op, "hvm_op"),
        (__HYPERVISOR_vcpu_op, "vcpu_op"),
        (__HYPERVISOR_physdev_op, "physdev_op"),
        (__HYPERVISOR_grant_table_op, "grant_table_op"),
    ] {
        check_eq!(
            plain(number, [99, 0]),
            no(ENOSYS),
            "{name}, sub-operation 99"
        );
    }
    // type 5 is a valid one: the type is looked at first
    check_eq!(
        plain(__HYPERVISOR_vm_assist, [99, 5]),
        no(ENOSYS),
        "vm_assist, command 99"
    );
    check_eq!(
        plain(__HYPERVISOR_memory_op, [63, 0]),
        no(ENOSYS),
        "memory_op, sub-operation 63"
    );
    Ok(())
}

/// Past the page tables, not canonical, unmapped at the top, the local APIC's page (which is not RAM).
const BAD_POINTERS: [u64; 5] = [
    5 << 30,
    1 << 63,
    0x0000_8000_0000_0000,
    u64::MAX - 15,
    0xFEE0_0000,
];

fn bad_pointers() -> Verdict {
    need_hypervisor()?;
    for pointer in BAD_POINTERS {
        for (number, op, name) in [
            (
                __HYPERVISOR_event_channel_op,
                EVTCHNOP_send,
                "event_channel_op send",
            ),
            (
                __HYPERVISOR_event_channel_op,
                EVTCHNOP_status,
                "event_channel_op status",
            ),
            (
                __HYPERVISOR_xen_version,
                XENVER_get_features,
                "xen_version get_features",
            ),
            (
                __HYPERVISOR_xen_version,
                XENVER_extraversion,
                "xen_version extraversion",
            ),
            (
                __HYPERVISOR_memory_op,
                XENMEM_add_to_physmap,
                "memory_op add_to_physmap",
            ),
            (__HYPERVISOR_sched_op, 2, "sched_op shutdown"),
            (__HYPERVISOR_sched_op, 3, "sched_op poll"),
            (__HYPERVISOR_hvm_op, HVMOP_get_param, "hvm_op get_param"),
            (
                __HYPERVISOR_hvm_op,
                HVMOP_set_evtchn_upcall_vector,
                "hvm_op set_evtchn_upcall_vector",
            ),
        ] {
            check_eq!(
                plain(number, [u64::from(op), pointer]),
                no(EFAULT),
                "{name} at {pointer:#x}"
            );
        }
        check_eq!(
            three(__HYPERVISOR_vcpu_op, VCPUOP_get_runstate_info, 0, pointer),
            no(EFAULT),
            "runstate to {pointer:#x}"
        );
        check_eq!(
            three(
                __HYPERVISOR_vcpu_op,
                VCPUOP_set_singleshot_timer,
                0,
                pointer
            ),
            no(EFAULT),
            "timer at {pointer:#x}"
        );
        check_eq!(
            three(__HYPERVISOR_console_io, 0, 16, pointer),
            no(EFAULT),
            "console text at {pointer:#x}"
        );
        check_eq!(
            plain(__HYPERVISOR_multicall, [pointer, 1]),
            no(EFAULT),
            "multicall at {pointer:#x}"
        );
    }
    Ok(())
}

fn three(number: u64, op: u32, second: u64, third: u64) -> i64 {
    guest_rt::hypercall::with_bad_pointer(number, u64::from(op), second, third)
}

fn event_channel_arguments() -> Verdict {
    event::setup()?;
    for port in [0, 4095, 4096, 0x1_0000, u32::MAX] {
        check_eq!(
            event_channel(EVTCHNOP_send, EvtchnSend { port }).0,
            no(EINVAL),
            "send to port {port:#x}"
        );
        check_eq!(
            event_channel(EVTCHNOP_close, EvtchnClose { port }).0,
            no(EINVAL),
            "close of port {port:#x}"
        );
    }
    for port in [4096, u32::MAX] {
        check_eq!(
            event_channel(EVTCHNOP_unmask, EvtchnUnmask { port }).0,
            no(EINVAL),
            "unmask of port {port:#x}"
        );
    }
    let bind = |virq, vcpu| {
        event_channel(
            EVTCHNOP_bind_virq,
            EvtchnBindVirq {
                virq,
                vcpu,
                port: 0,
            },
        )
        .0
    };
    check_eq!(bind(NR_VIRQS, 0), no(EINVAL), "bind_virq of one too many");
    check_eq!(bind(u32::MAX, 0), no(EINVAL), "bind_virq of none");
    check_eq!(
        bind(VIRQ_CONSOLE, 1),
        no(EINVAL),
        "bind_virq of a global one to vCPU 1"
    );
    check_eq!(bind(VIRQ_TIMER, 8192), no(ENOENT), "bind_virq to no vCPU");
    let ipi = event_channel(
        EVTCHNOP_bind_ipi,
        EvtchnBindIpi {
            vcpu: 8192,
            port: 0,
        },
    )
    .0;
    check_eq!(ipi, no(ENOENT), "bind_ipi to no vCPU");
    let status = event_channel(
        EVTCHNOP_status,
        EvtchnStatus {
            dom: 0x7000,
            ..Default::default()
        },
    )
    .0;
    check_eq!(status, no(ESRCH), "status of no domain");
    let port = event::bind_ipi()?;
    let moved = event_channel(EVTCHNOP_bind_vcpu, EvtchnBindVcpu { port, vcpu: 0 }).0;
    check_eq!(moved, no(EINVAL), "bind_vcpu of an IPI port");
    check_eq!(event::close(port), 0, "close");
    check_eq!(event::close(port), no(EINVAL), "second close");
    Ok(())
}

fn vcpu_arguments() -> Verdict {
    event::setup()?;
    check_eq!(vcpu_plain(VCPUOP_is_up, 0), 1, "is_up of vCPU 0");
    check_eq!(
        vcpu_plain(VCPUOP_is_up, 8192),
        no(ENOENT),
        "is_up of no vCPU"
    );
    check_eq!(vcpu_plain(99, 0), no(ENOSYS), "sub-operation 99");
    for (offset, what) in [
        (4096 - 56, "crossing its page"),
        (4, "not aligned"),
        (u32::MAX, "far out"),
    ] {
        let arg = VcpuRegisterVcpuInfo {
            mfn: event::shared_info_address() >> 12,
            offset,
            rsvd: 0,
        };
        check_eq!(
            vcpu(VCPUOP_register_vcpu_info, 0, arg).0,
            no(Errno::ENXIO),
            "vcpu_info {what}"
        );
    }
    let arg = VcpuRegisterVcpuInfo {
        mfn: 1 << 50,
        offset: 0,
        rsvd: 0,
    };
    check_eq!(
        vcpu(VCPUOP_register_vcpu_info, 0, arg).0,
        no(EINVAL),
        "vcpu_info at no frame"
    );
    let past = VcpuSetSingleshotTimer {
        timeout_abs_ns: 1,
        flags: 1,
        _pad: 0,
    };
    // older releases refuse, 4.17 fires at once
    let result = vcpu(VCPUOP_set_singleshot_timer, 0, past).0;
    check!(
        result == no(Errno::ETIME) || result == 0,
        "timer in the past, flagged as not to be: {result}"
    );
    Ok(())
}

fn hvm_arguments() -> Verdict {
    event::setup()?;
    for index in [HVM_NR_PARAMS, 1000, u32::MAX] {
        let arg = XenHvmParam {
            domid: DOMID_SELF,
            pad: 0,
            index,
            value: 0,
        };
        check_eq!(hvm(HVMOP_get_param, arg).0, no(EINVAL), "get_param {index}");
        check_eq!(hvm(HVMOP_set_param, arg).0, no(EINVAL), "set_param {index}");
    }
    let upcall = |vcpu, vector| {
        hvm(
            HVMOP_set_evtchn_upcall_vector,
            XenHvmEvtchnUpcallVector {
                vcpu,
                vector,
                _pad: [0; 3],
            },
        )
        .0
    };
    check_eq!(upcall(0, 0x0F), no(EINVAL), "upcall vector 0xF");
    check_eq!(upcall(8192, 0xF3), no(ENOENT), "upcall vector of no vCPU");
    let arg = XenHvmParam {
        domid: 0x7000,
        pad: 0,
        index: HVM_PARAM_STORE_PFN,
        value: 0,
    };
    check_eq!(
        hvm(HVMOP_get_param, arg).0,
        no(ESRCH),
        "get_param of no domain"
    );
    Ok(())
}

fn reserved_fields() -> Verdict {
    need_hypervisor()?;
    let arg = XenMemAcquireResource {
        domid: DOMID_SELF,
        pad: 1,
        ..Default::default()
    };
    // a hypervisor without the operation says so
    let result = memory(XENMEM_acquire_resource, arg).0;
    check!(
        result == no(EINVAL) || result == no(ENOSYS),
        "acquire_resource with padding set: {result}"
    );
    let arg = XenAddToPhysmap {
        domid: DOMID_SELF,
        space: 99,
        ..Default::default()
    };
    let result = memory(XENMEM_add_to_physmap, arg).0;
    check!(
        result == no(EINVAL) || result == no(ENOSYS),
        "add_to_physmap of space 99: {result}"
    );
    let mut features = XenFeatureInfo {
        submap_idx: 1,
        submap: 0,
    };
    check_eq!(
        with(__HYPERVISOR_xen_version, XENVER_get_features, &mut features),
        no(EINVAL),
        "feature submap 1"
    );
    check_eq!(
        plain(__HYPERVISOR_vm_assist, [0, 99]),
        no(EINVAL),
        "vm_assist type 99"
    );
    Ok(())
}

fn platform_version() -> Verdict {
    need_hypervisor()?;
    let mut op = XenPlatformOp {
        cmd: XENPF_firmware_info,
        interface_version: 0x0300_0000,
        u: [0; 128],
    };
    let call =
        |op: &mut XenPlatformOp| guest_rt::hypercall::with_only(__HYPERVISOR_platform_op, op);
    let wrong = call(&mut op);
    if wrong == no(EPERM) {
        skip!("not dom0");
    }
    check_eq!(wrong, no(EACCES), "wrong interface version");
    op = XenPlatformOp {
        cmd: 9999,
        interface_version: XENPF_INTERFACE_VERSION,
        u: [0; 128],
    };
    check_eq!(call(&mut op), no(ENOSYS), "unknown command");
    Ok(())
}

fn pagetable_dying() -> Verdict {
    need_hypervisor()?;
    let arg = XenHvmPagetableDying {
        domid: DOMID_SELF,
        pad: [0; 3],
        gpa: 0,
    };
    let result = hvm(HVMOP_pagetable_dying, arg).0;
    check!(result < 0, "pagetable_dying returned {result}");
    Ok(())
}

fn registers() -> Verdict {
    need_hypervisor()?;
    for (number, op) in [
        (__HYPERVISOR_xen_version, 0),
        (__HYPERVISOR_sched_op, 0),
        (63, 0),
        (__HYPERVISOR_vcpu_op, u64::from(VCPUOP_is_up)),
        (__HYPERVISOR_event_channel_op, u64::from(EVTCHNOP_send)),
        (u64::MAX, u64::MAX),
    ] {
        let (changed, result) = probe::changed_by_hypercall(number, op, 1 << 63);
        check!(
            changed == 0,
            "hypercall {number:#x} changed registers {changed:#06x}"
        );
        check!(
            result != number as i64 || number == u64::MAX,
            "hypercall {number:#x} left rax alone"
        );
    }
    Ok(())
}

fn user_mode() -> Verdict {
    need_hypervisor()?;
    check_eq!(
        probe::hypercall_from_user_mode(__HYPERVISOR_xen_version),
        no(EPERM),
        "xen_version at CPL 3"
    );
    check_eq!(
        probe::hypercall_from_user_mode(63),
        no(EPERM),
        "hypercall 63 at CPL 3"
    );
    Ok(())
}

fn multicall() -> Verdict {
    need_hypervisor()?;
    let version = MulticallEntry {
        op: __HYPERVISOR_xen_version,
        ..Default::default()
    };
    let unknown = MulticallEntry {
        op: 63,
        ..Default::default()
    };
    let mut calls = [version, unknown, version];
    check_eq!(guest_rt::hypercall::multicall(&mut calls), 0, "multicall");
    check_eq!(calls[0].result, 0x0004_0011, "first result");
    check_eq!(calls[1].result as i64, no(ENOSYS), "second result");
    check_eq!(calls[2].result, 0x0004_0011, "third result");
    check_eq!(
        guest_rt::hypercall::multicall(&mut []),
        0,
        "multicall of nothing"
    );
    Ok(())
}

fn params() -> Verdict {
    event::setup()?;
    let get = |index| {
        hvm(
            HVMOP_get_param,
            XenHvmParam {
                domid: DOMID_SELF,
                pad: 0,
                index,
                value: 0xAAAA,
            },
        )
    };
    for index in [
        HVM_PARAM_STORE_EVTCHN,
        HVM_PARAM_STORE_PFN,
        HVM_PARAM_CONSOLE_EVTCHN,
        HVM_PARAM_CONSOLE_PFN,
    ] {
        let (result, arg) = get(index);
        check_eq!(result, 0, "get_param {index}");
        check!(
            arg.value != 0xAAAA,
            "get_param {index} left the value alone"
        );
    }
    // what Linux does after it chose an upcall vector: "GSI 1", which must change nothing
    let arg = XenHvmParam {
        domid: DOMID_SELF,
        pad: 0,
        index: HVM_PARAM_CALLBACK_IRQ,
        value: 1,
    };
    check_eq!(hvm(HVMOP_set_param, arg).0, 0, "set_param CALLBACK_IRQ");
    check_eq!(
        get(HVM_PARAM_CALLBACK_IRQ).1.value,
        1,
        "CALLBACK_IRQ reads back"
    );
    let port = event::bind_ipi()?;
    let before = event::upcalls();
    check_eq!(event::unmask(port), 0, "unmask");
    let _ = event::send(port);
    guest_rt::insn::sti();
    guest_rt::insn::cli();
    check_eq!(
        event::upcalls(),
        before + 1,
        "upcalls after one event, by vector"
    );
    check_eq!(event::close(port), 0, "close");
    Ok(())
}
