//! `xen_version`. Source: `public/version.h`, `public/features.h`.

use guest_abi::errno::Errno;
use guest_abi::features::{
    XENFEAT_auto_translated_physmap, XENFEAT_dom0, XENFEAT_hvm_callback_vector,
    XENFEAT_hvm_safe_pvclock, XENFEAT_memory_op_vnode_supported, XENFEAT_not_direct_mapped,
    XENFEAT_writable_page_tables,
};
use guest_abi::version::{
    XEN_CAPABILITIES_INFO_LEN, XEN_CHANGESET_INFO_LEN, XEN_COMMANDLINE_LEN, XEN_EXTRAVERSION_LEN,
    XENVER_build_id, XENVER_capabilities, XENVER_changeset, XENVER_commandline,
    XENVER_compile_info, XENVER_extraversion, XENVER_get_features, XENVER_guest_handle,
    XENVER_pagesize, XENVER_platform_parameters, XENVER_version, XenCompileInfo, XenFeatureInfo,
    XenPlatformParameters,
};
use hv_core::addr::{Gva, PAGE_SIZE};
use hv_core::cpuid::XEN_VERSION;
use hv_hw::virt::VcpuHw;

use super::{Answer, Call};
use crate::host;

/// What stands behind the version number; the tools print it.
const EXTRAVERSION: &str = concat!(".0-hematite", env!("CARGO_PKG_VERSION_MAJOR"));
const CAPABILITIES: &str = "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ";

/// Serves it.
#[inline]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    match call.sub_op() {
        XENVER_version => Ok(u64::from(XEN_VERSION)),
        _ => handle_rare(call),
    }
}

/// Apart, so that the plain version does not pay for its large frame.
#[inline(never)]
fn handle_rare<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let to = call.pointer(1);
    match call.sub_op() {
        XENVER_pagesize => Ok(PAGE_SIZE),
        XENVER_get_features => features(call, to),
        XENVER_extraversion => text::<XEN_EXTRAVERSION_LEN, H>(call, to, EXTRAVERSION),
        XENVER_capabilities => text::<XEN_CAPABILITIES_INFO_LEN, H>(call, to, CAPABILITIES),
        XENVER_changeset => text::<XEN_CHANGESET_INFO_LEN, H>(call, to, "unavailable"),
        XENVER_commandline => commandline(call, to),
        XENVER_compile_info => compile_info(call, to),
        XENVER_platform_parameters => {
            call.runner
                .copy_out(to, &XenPlatformParameters { virt_start: 0 })?;
            Ok(0)
        }
        XENVER_guest_handle => {
            call.runner.copy_out(to, &[0u8; 16])?;
            Ok(0)
        }
        // the image has none
        XENVER_build_id => Err(Errno::ENODATA.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn features<H: VcpuHw>(call: &mut Call<'_, H>, to: Gva) -> Answer {
    let mut arg: XenFeatureInfo = call.runner.copy_in(to)?;
    if arg.submap_idx != 0 {
        return Err(Errno::EINVAL.into());
    }
    let always = [
        XENFEAT_writable_page_tables,
        XENFEAT_auto_translated_physmap,
        XENFEAT_hvm_callback_vector,
        XENFEAT_hvm_safe_pvclock,
        XENFEAT_memory_op_vnode_supported,
        XENFEAT_not_direct_mapped,
    ];
    let dom0 = call.runner.domain.is_hardware.then_some(XENFEAT_dom0);
    arg.submap = always
        .into_iter()
        .chain(dom0)
        .fold(0, |map, bit| map | (1 << bit));
    call.runner.copy_out(to, &arg)?;
    Ok(0)
}

/// Copies out a text in a field of `N` bytes, cut to fit, NUL-terminated.
fn text<const N: usize, H: VcpuHw>(call: &mut Call<'_, H>, to: Gva, text: &str) -> Answer {
    let field: [u8; N] = field(text);
    call.runner.copy_bytes_out(to, &field)?;
    Ok(0)
}

fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from;
    }
    field
}

fn commandline<H: VcpuHw>(call: &mut Call<'_, H>, to: Gva) -> Answer {
    if !call.runner.domain.is_hardware {
        return text::<XEN_COMMANDLINE_LEN, H>(call, to, "");
    }
    text::<XEN_COMMANDLINE_LEN, H>(call, to, &host::host().command_line)
}

fn compile_info<H: VcpuHw>(call: &mut Call<'_, H>, to: Gva) -> Answer {
    let info = XenCompileInfo {
        compiler: field("rustc"),
        compile_by: field("hematite"),
        compile_domain: field(""),
        compile_date: field(""),
    };
    call.runner.copy_out(to, &info)?;
    Ok(0)
}
