//! Memory, CPUs and their topology, for `xl info` and for everybody who places domains.
//!
//! Memory is one NUMA node, and every CPU is told as a core of its own in one socket, until more is known of the
//! machine.

use guest_abi::errno::Errno;
use guest_abi::sysctl::{
    XEN_SYSCTL_PHYSCAP_gnttab_v1, XEN_SYSCTL_PHYSCAP_hap, XEN_SYSCTL_PHYSCAP_hvm,
    XenSysctlAvailheap, XenSysctlCputopo, XenSysctlCputopoinfo, XenSysctlGetcpuinfo,
    XenSysctlMeminfo, XenSysctlNumainfo, XenSysctlPcitopoinfo, XenSysctlPhysinfo,
};
use hv_core::addr::PAGE_SIZE;

use hv_hw::virt::VcpuHw;

use crate::hypercall::sysctl::put;
use crate::hypercall::{Answer, Call};
use crate::machine::{cpus, host, memory};

/// NUMA nodes.
const NODES: u32 = 1;
/// Distance of a node to itself (ACPI, "System Locality Information Table").
const OWN_DISTANCE: u32 = 10;

pub(super) fn physinfo<H: VcpuHw>(_: &mut Call<'_, H>, arg: &mut XenSysctlPhysinfo) -> Answer {
    let host = host::host();
    let cpus = cpus::online();
    let mut hw_cap = [0; 8];
    let features = host.cpuid.feature_words(host.msrs.arch_capabilities);
    for (to, from) in hw_cap.iter_mut().zip(features) {
        *to = from;
    }
    *arg = XenSysctlPhysinfo {
        threads_per_core: 1,
        cores_per_socket: cpus,
        nr_cpus: cpus,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: NODES,
        max_node_id: NODES - 1,
        cpu_khz: host.tsc_khz,
        capabilities: XEN_SYSCTL_PHYSCAP_hvm
            | XEN_SYSCTL_PHYSCAP_hap
            | XEN_SYSCTL_PHYSCAP_gnttab_v1,
        arch_capabilities: 0,
        pad: 0,
        total_pages: memory::total_frames(),
        free_pages: memory::free_frames(),
        scrub_pages: 0,
        outstanding_pages: memory::claimed_frames(),
        max_mfn: memory::last_frame(),
        hw_cap,
    };
    Ok(0)
}

/// XEN_SYSCTL_getcpuinfo: how long each CPU has been idle.
///
/// # Errors
/// EFAULT.
pub(super) fn idle_times<H: VcpuHw>(
    call: &mut Call<'_, H>,
    arg: &mut XenSysctlGetcpuinfo,
) -> Answer {
    let count = arg.max_cpus.min(cpus::online());
    for id in 0..count {
        put(call, arg.info, id, &cpus::idle_ns(id))?;
    }
    arg.nr_cpus = count;
    Ok(0)
}

/// XEN_SYSCTL_availheap. Free memory is not kept by address width: whoever asks for addresses of fewer bits than the
/// machine has is told what is free below 4 GiB, which all widths from 32 on reach.
pub(super) fn free_memory<H: VcpuHw>(_: &mut Call<'_, H>, arg: &mut XenSysctlAvailheap) -> Answer {
    const NO_NODE: i32 = -1;
    const NARROW_BITS: u32 = 32;
    let is_narrow = arg.max_bitwidth != 0 && arg.max_bitwidth < memory::address_bits();
    let frames = match (arg.node, is_narrow) {
        (NO_NODE | 0, false) => memory::free_frames(),
        (NO_NODE | 0, true) if arg.max_bitwidth >= NARROW_BITS => memory::free_frames_below_4g(),
        _ => 0,
    };
    arg.avail_bytes = frames.saturating_mul(PAGE_SIZE);
    Ok(0)
}

/// XEN_SYSCTL_cputopoinfo.
///
/// # Errors
/// EFAULT.
pub(super) fn cpu_topology<H: VcpuHw>(
    call: &mut Call<'_, H>,
    arg: &mut XenSysctlCputopoinfo,
) -> Answer {
    let cpus = cpus::online();
    if arg.cputopo == 0 {
        arg.num_cpus = cpus;
        return Ok(0);
    }
    arg.num_cpus = arg.num_cpus.min(cpus);
    for core in 0..arg.num_cpus {
        let told = XenSysctlCputopo {
            core,
            socket: 0,
            node: 0,
        };
        put(call, arg.cputopo, core, &told)?;
    }
    Ok(0)
}

/// XEN_SYSCTL_numainfo.
///
/// # Errors
/// EFAULT.
pub(super) fn numa<H: VcpuHw>(call: &mut Call<'_, H>, arg: &mut XenSysctlNumainfo) -> Answer {
    if arg.meminfo == 0 && arg.distance == 0 {
        arg.num_nodes = NODES;
        return Ok(0);
    }
    arg.num_nodes = arg.num_nodes.min(NODES);
    if arg.num_nodes == 0 {
        return Ok(0);
    }
    if arg.meminfo != 0 {
        let told = XenSysctlMeminfo {
            memsize: memory::total_frames().saturating_mul(PAGE_SIZE),
            memfree: memory::free_frames().saturating_mul(PAGE_SIZE),
        };
        put(call, arg.meminfo, 0, &told)?;
    }
    if arg.distance != 0 {
        put(call, arg.distance, 0, &OWN_DISTANCE)?;
    }
    Ok(0)
}

/// XEN_SYSCTL_pcitopoinfo: no device's node is known.
///
/// # Errors
/// EINVAL without arrays, EFAULT.
pub(super) fn pci_topology<H: VcpuHw>(
    call: &mut Call<'_, H>,
    arg: &mut XenSysctlPcitopoinfo,
) -> Answer {
    const INVALID_NODE: u32 = !0;
    /// Elements of one call: the caller comes again for the rest.
    const MAX_DEVICES: u32 = 256;
    if arg.devs == 0 || arg.nodes == 0 {
        return Err(Errno::EINVAL.into());
    }
    arg.num_devs = arg.num_devs.min(MAX_DEVICES);
    for index in 0..arg.num_devs {
        put(call, arg.nodes, index, &INVALID_NODE)?;
    }
    Ok(0)
}
