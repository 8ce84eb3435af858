//! The hypercall ABI: numbers, errors, registers, privilege.

use guest_abi::Errno::{self, EFAULT, ENOSYS, EPERM};
use guest_abi::event_channel::{EVTCHNOP_send, EVTCHNOP_status};
use guest_abi::hvm::hvm_op::{
    HVMOP_get_param, HVMOP_pagetable_dying, HVMOP_set_evtchn_upcall_vector, XenHvmPagetableDying,
};
use guest_abi::memory::XENMEM_add_to_physmap;
use guest_abi::vcpu::{VCPUOP_get_runstate_info, VCPUOP_is_up, VCPUOP_set_singleshot_timer};
use guest_abi::version::{XENVER_extraversion, XENVER_get_features};
use guest_abi::xen::{
    __HYPERVISOR_console_io, __HYPERVISOR_event_channel_op, __HYPERVISOR_grant_table_op,
    __HYPERVISOR_hvm_op, __HYPERVISOR_memory_op, __HYPERVISOR_multicall, __HYPERVISOR_physdev_op,
    __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op, __HYPERVISOR_vm_assist, __HYPERVISOR_xen_version,
    DOMID_SELF, MulticallEntry,
};
use guest_rt::hypercall::{hvm, plain, present, refused};
use guest_rt::{Test, Verdict, check, check_eq, probe, skip};

pub(crate) static TESTS: &[Test] = &[
    Test::new("hypercall_unknown_numbers_enosys", unknown_numbers),
    Test::new(
        "hypercall_unknown_sub_operations_enosys",
        unknown_sub_operations,
    ),
    Test::new("hypercall_bad_pointers_efault", bad_pointers),
    Test::new("hypercall_pagetable_dying_is_refused", pagetable_dying),
    Test::new("hypercall_registers_are_preserved", registers),
    Test::new("hypercall_from_user_mode_eperm", user_mode),
    Test::new("hypercall_multicall", multicall),
];

/// Skips what asks the hypervisor where there is none.
pub(crate) fn need_hypervisor() -> Verdict {
    if !present() {
        skip!("no hypervisor");
    }
    Ok(())
}

/// What a refused hypercall returns.
pub(crate) const fn no(errno: Errno) -> i64 {
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

/// Calls with a pointer in the second argument: number, sub-operation, name.
const POINTER_CALLS: [(u64, u32, &str); 9] = [
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
];

fn bad_pointers() -> Verdict {
    need_hypervisor()?;
    for pointer in BAD_POINTERS {
        for (number, op, name) in POINTER_CALLS {
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
