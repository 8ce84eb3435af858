//! `platform_op`, dom0 only. Source: `public/platform.h`.

mod firmware;

use guest_abi::errno::Errno;
use guest_abi::platform::{
    XEN_PCPU_FLAGS_INVALID, XEN_PCPU_FLAGS_ONLINE, XENPF_INTERFACE_VERSION, XENPF_efi_runtime_call,
    XENPF_firmware_info, XENPF_get_cpuinfo, XENPF_get_dom0_console, XENPF_settime32,
    XENPF_settime64, XenPlatformOp, XenpfPcpuinfo, XenpfSettime32, XenpfSettime64,
};
use guest_abi::xen::{Dom0FrameBufferInfo, XEN_VGATYPE_EFI_LFB};
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, IntoBytes};

use crate::domain::{interrupts, wallclock};
use crate::hypercall::{Answer, Call};
use crate::machine::host::host;

#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut op: XenPlatformOp = call.runner.copy_in(call.pointer(0))?;
    if op.interface_version != XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    match op.cmd {
        XENPF_settime64 => {
            let arg: XenpfSettime64 = argument(&op)?;
            if arg.mbz != 0 {
                return Err(Errno::EINVAL.into());
            }
            set_time(arg.secs, arg.nsecs, arg.system_time)
        }
        XENPF_settime32 => {
            let arg: XenpfSettime32 = argument(&op)?;
            set_time(u64::from(arg.secs), arg.nsecs, arg.system_time)
        }
        XENPF_get_cpuinfo => {
            let answer = cpu_info(argument(&op)?);
            let place =
                op.u.get_mut(..size_of::<XenpfPcpuinfo>())
                    .ok_or(Errno::EINVAL)?;
            place.copy_from_slice(answer.as_bytes());
            call.runner.copy_out(call.pointer(0), &op)?;
            Ok(0)
        }
        XENPF_firmware_info => firmware::info(call, &mut op),
        XENPF_efi_runtime_call => firmware::runtime_call(call, &mut op),
        XENPF_get_dom0_console => screen(call, &mut op),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn argument<T: FromBytes>(op: &XenPlatformOp) -> Result<T, Errno> {
    let (value, _) = T::read_from_prefix(&op.u).map_err(|_| Errno::EINVAL)?;
    Ok(value)
}

/// The frame buffer that the firmware set up, for dom0 to go on with; it has none where the screen is one of text.
fn screen<H: VcpuHw>(call: &mut Call<'_, H>, op: &mut XenPlatformOp) -> Answer {
    let screen = host().screen.ok_or(Errno::EOPNOTSUPP)?;
    let narrow = |value: u32| u16::try_from(value).map_err(|_| Errno::EOPNOTSUPP);
    let (low, high) = hv_core::le::halves(screen.address.as_u64());
    let bytes = u64::from(screen.bytes_per_line) * u64::from(screen.height);
    let answer = Dom0FrameBufferInfo {
        video_type: XEN_VGATYPE_EFI_LFB,
        width: narrow(screen.width)?,
        height: narrow(screen.height)?,
        bytes_per_line: narrow(screen.bytes_per_line)?,
        bits_per_pixel: u16::from(screen.bits_per_pixel),
        lfb_base: low,
        lfb_size: u32::try_from(bytes.div_ceil(64 << 10)).map_err(|_| Errno::EOPNOTSUPP)?,
        red: [screen.red.position, screen.red.size],
        green: [screen.green.position, screen.green.size],
        blue: [screen.blue.position, screen.blue.size],
        ext_lfb_base: high,
        ..Dom0FrameBufferInfo::default()
    };
    answer
        .write_to_prefix(&mut op.u)
        .map_err(|_| Errno::EINVAL)?;
    call.runner.copy_out(call.pointer(0), op)?;
    Ok(size_of::<Dom0FrameBufferInfo>() as u64)
}

fn set_time(seconds: u64, nanoseconds: u32, system_time_ns: u64) -> Answer {
    wallclock::set(seconds, nanoseconds, system_time_ns).ok_or(Errno::EINVAL)?;
    Ok(0)
}

/// One CPU is in use.
fn cpu_info(asked: XenpfPcpuinfo) -> XenpfPcpuinfo {
    let is_known = asked.xen_cpuid == 0;
    XenpfPcpuinfo {
        max_present: 0,
        flags: if is_known {
            XEN_PCPU_FLAGS_ONLINE
        } else {
            XEN_PCPU_FLAGS_INVALID
        },
        apic_id: if is_known {
            u32::from(interrupts::boot_apic_id())
        } else {
            0
        },
        acpi_id: 0,
        ..asked
    }
}
