//! `xen_version`. Source: `public/version.h`, `public/features.h`.

use guest_abi::errno::Errno;
use guest_abi::features::{
    XENFEAT_auto_translated_physmap, XENFEAT_dom0, XENFEAT_hvm_callback_vector,
    XENFEAT_hvm_safe_pvclock, XENFEAT_memory_op_vnode_supported, XENFEAT_not_direct_mapped,
    XENFEAT_writable_page_tables,
};
use guest_abi::version::{
    XEN_CAPABILITIES_INFO_LEN, XEN_CHANGESET_INFO_LEN, XEN_COMMANDLINE_LEN, XEN_EXTRAVERSION_LEN,
    XenCompileInfo, XenFeatureInfo, XenPlatformParameters,
};
use hv_core::addr::PAGE_SIZE;
use hv_core::cpuid::XEN_VERSION;
use hv_hw::virt::VcpuHw;

use crate::hypercall::{Answer, Call};
use crate::machine::host;

/// What stands after the version number; the tools print it.
const EXTRAVERSION: &str = concat!(".0-hematite", env!("CARGO_PKG_VERSION_MAJOR"));
const CAPABILITIES: &str = "xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ";

pub(super) fn number<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Ok(u64::from(XEN_VERSION))
}

pub(super) fn page_size<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Ok(PAGE_SIZE)
}

pub(super) fn extraversion<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    text::<XEN_EXTRAVERSION_LEN, H>(call, EXTRAVERSION)
}

pub(super) fn capabilities<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    text::<XEN_CAPABILITIES_INFO_LEN, H>(call, CAPABILITIES)
}

pub(super) fn changeset<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    text::<XEN_CHANGESET_INFO_LEN, H>(call, "unavailable")
}

pub(super) fn platform_parameters<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let parameters = XenPlatformParameters { virt_start: 0 };
    call.runner.copy_out(call.pointer(1), &parameters)?;
    Ok(0)
}

/// XENVER_guest_handle: no UUID is told.
pub(super) fn guest_handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    call.runner.copy_out(call.pointer(1), &[0u8; 16])?;
    Ok(0)
}

/// XENVER_build_id: the image has none.
pub(super) fn build_id<H: VcpuHw>(_: &mut Call<'_, H>) -> Answer {
    Err(Errno::ENODATA.into())
}

pub(super) fn features<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let to = call.pointer(1);
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
fn text<const N: usize, H: VcpuHw>(call: &mut Call<'_, H>, text: &str) -> Answer {
    let field: [u8; N] = field(text);
    call.runner.copy_bytes_out(call.pointer(1), &field)?;
    Ok(0)
}

fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().take(N - 1).zip(text.bytes()) {
        *to = from;
    }
    field
}

/// XENVER_commandline: the hardware domain's to know.
pub(super) fn command_line<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    if !call.runner.domain.is_hardware {
        return text::<XEN_COMMANDLINE_LEN, H>(call, "");
    }
    text::<XEN_COMMANDLINE_LEN, H>(call, &host::host().command_line)
}

pub(super) fn compile_info<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let info = XenCompileInfo {
        compiler: field("rustc"),
        compile_by: field("hematite"),
        compile_domain: field(""),
        compile_date: field(""),
    };
    call.runner.copy_out(call.pointer(1), &info)?;
    Ok(0)
}
