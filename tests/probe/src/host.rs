//! What the hypervisor has free, to the page: xl tells whole MiB.

use guest_abi::sysctl::{
    XEN_SYSCTL_INTERFACE_VERSION, XEN_SYSCTL_physinfo, XenSysctl, XenSysctlPhysinfo,
};
use guest_abi::xen::__HYPERVISOR_sysctl;
use xendev::{Arg, Privcmd};
use zerocopy::{FromBytes, IntoBytes};

/// Returns the number of free pages.
pub(crate) fn free_pages() -> Result<String, String> {
    let privcmd = Privcmd::open().map_err(|error| error.to_string())?;
    let mut sysctl = XenSysctl {
        cmd: XEN_SYSCTL_physinfo,
        interface_version: XEN_SYSCTL_INTERFACE_VERSION,
        u: [0; 16],
    };
    let mut args = [Arg::Bytes(sysctl.as_mut_bytes())];
    privcmd
        .hypercall(__HYPERVISOR_sysctl, &mut args)
        .map_err(|errno| format!("physinfo: {errno:?}"))?;
    let (info, _) =
        XenSysctlPhysinfo::read_from_prefix(sysctl.u.as_bytes()).map_err(|e| e.to_string())?;
    Ok(info.free_pages.to_string())
}
