//! `platform_op`, dom0 only. Source: `public/platform.h`.

use guest_abi::errno::Errno;
use guest_abi::platform::{
    XEN_PCPU_FLAGS_INVALID, XEN_PCPU_FLAGS_ONLINE, XENPF_INTERFACE_VERSION, XENPF_get_cpuinfo,
    XENPF_settime32, XENPF_settime64, XenPlatformOp, XenpfPcpuinfo, XenpfSettime32, XenpfSettime64,
};
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, IntoBytes};

use crate::domain::{interrupts, wallclock};
use crate::hypercall::{Answer, Call};

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
        // firmware_info in particular: no EFI runtime services, whatever the firmware
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn argument<T: FromBytes>(op: &XenPlatformOp) -> Result<T, Errno> {
    let (value, _) = T::read_from_prefix(&op.u).map_err(|_| Errno::EINVAL)?;
    Ok(value)
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
