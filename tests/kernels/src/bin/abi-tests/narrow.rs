//! Hypercalls of 32-bit code, made in compatibility mode: where arguments are, and the layouts of structures.

use crate::hypercall::need_hypervisor;
use guest_abi::Errno;
use guest_abi::compat::XenUlong;
use guest_abi::grant_table::{GNTTABOP_query_size, GnttabQuerySize};
use guest_abi::hvm::hvm_op::{HVMOP_get_param, XenHvmParam};
use guest_abi::hvm::params::HVM_PARAM_STORE_PFN;
use guest_abi::memory::{
    E820Entry, XENMEM_memory_map, XENMEM_populate_physmap, XenMemoryMap, XenMemoryReservation,
};
use guest_abi::sched::{SCHEDOP_poll, SchedPoll};
use guest_abi::vcpu::{
    VCPUOP_get_runstate_info, VCPUOP_set_singleshot_timer, VcpuRunstateInfo, VcpuSetSingleshotTimer,
};
use guest_abi::version::{XENVER_get_features, XENVER_platform_parameters};
use guest_abi::version::{XenFeatureInfo, XenPlatformParameters};
use guest_abi::xen::{
    __HYPERVISOR_grant_table_op, __HYPERVISOR_hvm_op, __HYPERVISOR_memory_op,
    __HYPERVISOR_multicall, __HYPERVISOR_sched_op, __HYPERVISOR_vcpu_op, __HYPERVISOR_xen_version,
    DOMID_SELF, MulticallEntry,
};
use guest_rt::{Test, Verdict, check, check_eq, hypercall, narrow};

pub(crate) static TESTS: &[Test] = &[
    Test::new("narrow_version", version),
    Test::new("narrow_structures", structures),
    Test::new("narrow_arrays", arrays),
    Test::new("narrow_calls_in_one", calls_in_one),
    Test::new("narrow_errors", errors),
];

fn no(errno: Errno) -> i32 {
    hypercall::refused(errno) as i32
}

fn version() -> Verdict {
    need_hypervisor()?;
    let version = narrow::plain(__HYPERVISOR_xen_version as u32, [0, 0]);
    check!(version >> 16 == 4, "version {version:#x}");
    let features = XenFeatureInfo::default();
    let (result, narrow) = narrow::with(__HYPERVISOR_xen_version, XENVER_get_features, features);
    let mut wide = features;
    let wide_result = hypercall::with(__HYPERVISOR_xen_version, XENVER_get_features, &mut wide);
    check_eq!((result, narrow), (wide_result as i32, wide), "features");
    let start = XenPlatformParameters { virt_start: 7 };
    let (result, start) = narrow::with(__HYPERVISOR_xen_version, XENVER_platform_parameters, start);
    check_eq!((result, start.virt_start), (0, 0), "platform parameters");
    Ok(())
}

fn structures() -> Verdict {
    need_hypervisor()?;
    let (result, state) = narrow::with_second(
        __HYPERVISOR_vcpu_op,
        VCPUOP_get_runstate_info,
        0,
        VcpuRunstateInfo::default(),
    );
    check_eq!((result, state.state), (0, 0), "run state");
    check!(state.time[0] != 0, "time spent running");
    let timer = VcpuSetSingleshotTimer {
        timeout_abs_ns: 1,
        flags: 1,
        ..Default::default()
    };
    let late = narrow::with_second(__HYPERVISOR_vcpu_op, VCPUOP_set_singleshot_timer, 0, timer);
    check_eq!(late.0, no(Errno::ETIME), "a time that has passed");
    let poll = SchedPoll {
        nr_ports: 129,
        ..Default::default()
    };
    let poll = narrow::with(__HYPERVISOR_sched_op, SCHEDOP_poll, poll);
    check_eq!(poll.0, no(Errno::EINVAL), "a poll of too many");
    let size = GnttabQuerySize {
        dom: DOMID_SELF,
        ..Default::default()
    };
    let asked = narrow::with_second(__HYPERVISOR_grant_table_op, GNTTABOP_query_size, 0, size);
    check_eq!(asked.0, no(Errno::EINVAL), "a count that is none");
    let param = XenHvmParam {
        domid: DOMID_SELF,
        pad: 0,
        index: HVM_PARAM_STORE_PFN,
        value: 0,
    };
    let param = narrow::with(__HYPERVISOR_hvm_op, HVMOP_get_param, param);
    check_eq!(param.0, 0, "a parameter");
    Ok(())
}

fn arrays() -> Verdict {
    need_hypervisor()?;
    let mut maps = [[narrow::zeroed::<E820Entry>(); 64]; 2];
    let [wide, thin] = &mut maps;
    let asked = |buffer| XenMemoryMap {
        nr_entries: 64,
        _pad: 0,
        buffer,
    };
    let (result, told) = hypercall::memory(XENMEM_memory_map, asked(narrow::address(wide)));
    check_eq!(result, 0, "memory_map of 64-bit code");
    let asked = asked(narrow::address(thin));
    let (result, answer) = narrow::with(__HYPERVISOR_memory_op, XENMEM_memory_map, asked);
    check_eq!(
        (result, answer.nr_entries),
        (0, told.nr_entries),
        "memory_map"
    );
    check!(wide == thin, "the two maps differ");
    // frames that are there: none is populated
    let mut frames = [16u32, 17];
    let reservation = XenMemoryReservation {
        extent_start: narrow::address(&mut frames),
        nr_extents: 2,
        domid: DOMID_SELF,
        ..Default::default()
    };
    let done = narrow::with(__HYPERVISOR_memory_op, XENMEM_populate_physmap, reservation);
    check_eq!(done.0, 0, "frames populated where there are some");
    Ok(())
}

fn calls_in_one() -> Verdict {
    need_hypervisor()?;
    let entry = |op| {
        <MulticallEntry as guest_abi::compat::Compat>::narrow(MulticallEntry {
            op,
            result: 7,
            args: [0; 6],
        })
    };
    let mut calls = [entry(__HYPERVISOR_xen_version), entry(63)];
    let at = narrow::address(&mut calls) as u32;
    let result = narrow::plain(__HYPERVISOR_multicall as u32, [at, 2]);
    check_eq!(result, 0, "multicall");
    let results = calls.map(|call| call.result);
    check!(results[0] >> 16 == 4, "version {:#x}", results[0]);
    check_eq!(results[1] as i32, no(Errno::ENOSYS), "hypercall 63");
    Ok(())
}

fn errors() -> Verdict {
    need_hypervisor()?;
    check_eq!(narrow::plain(63, [0, 0]), no(Errno::ENOSYS), "hypercall 63");
    // a number lies where the image is mapped, and an address where nothing is
    let nowhere = narrow::plain(
        __HYPERVISOR_memory_op as u32,
        [XENMEM_memory_map, u32::MAX - 7],
    );
    check_eq!(nowhere, no(Errno::EFAULT), "a structure where nothing is");
    let frame = XenUlong(u64::MAX);
    check_eq!(
        guest_abi::compat::Compat::narrow(frame),
        u32::MAX,
        "a number cut"
    );
    Ok(())
}
