//! Hypercalls whose arguments make no sense: which error each gives.

use crate::hypercall::{need_hypervisor, no};
use guest_abi::Errno::{self, EACCES, EINVAL, ENOENT, ENOSYS, EPERM, ESRCH};
use guest_abi::event_channel::{
    EVTCHNOP_bind_ipi, EVTCHNOP_bind_vcpu, EVTCHNOP_bind_virq, EVTCHNOP_close, EVTCHNOP_send,
    EVTCHNOP_status, EVTCHNOP_unmask, EvtchnBindIpi, EvtchnBindVcpu, EvtchnBindVirq, EvtchnClose,
    EvtchnSend, EvtchnStatus, EvtchnUnmask,
};
use guest_abi::hvm::hvm_op::{
    HVMOP_get_param, HVMOP_set_evtchn_upcall_vector, HVMOP_set_param, XenHvmEvtchnUpcallVector,
    XenHvmParam,
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
    VCPUOP_is_up, VCPUOP_register_vcpu_info, VCPUOP_set_singleshot_timer, VcpuRegisterVcpuInfo,
    VcpuSetSingleshotTimer,
};
use guest_abi::version::{XENVER_get_features, XenFeatureInfo};
use guest_abi::xen::{
    __HYPERVISOR_platform_op, __HYPERVISOR_vm_assist, __HYPERVISOR_xen_version, DOMID_SELF,
    NR_VIRQS, VIRQ_CONSOLE, VIRQ_TIMER,
};
use guest_rt::hypercall::{event_channel, hvm, memory, plain, vcpu, vcpu_plain, with};
use guest_rt::{Test, Verdict, check, check_eq, event, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("hypercall_event_channel_arguments", event_channel_arguments),
    Test::new("hypercall_vcpu_arguments", vcpu_arguments),
    Test::new("hypercall_hvm_arguments", hvm_arguments),
    Test::new("hypercall_reserved_fields_einval", reserved_fields),
    Test::new("hypercall_platform_version_eacces", platform_version),
    Test::new("hypercall_hvm_params", params),
];

fn event_channel_arguments() -> Verdict {
    event::setup()?;
    ports_not_in_use()?;
    bindings_to_nothing()?;
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

/// Calls about ports that are free, or past the last.
fn ports_not_in_use() -> Verdict {
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
    Ok(())
}

/// VIRQs that do not exist, and vCPUs that do not.
fn bindings_to_nothing() -> Verdict {
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
