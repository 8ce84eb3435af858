//! `vcpu_op` and the older `set_timer_op`. Source: `public/vcpu.h`.

use core::sync::atomic::Ordering;

use guest_abi::compat::Width;
use guest_abi::errno::Errno;
use guest_abi::vcpu::{
    VCPU_SSHOTTMR_future, VCPUOP_down, VCPUOP_get_physid, VCPUOP_get_runstate_info, VCPUOP_is_up,
    VCPUOP_register_runstate_memory_area, VCPUOP_register_vcpu_info,
    VCPUOP_register_vcpu_time_memory_area, VCPUOP_send_nmi, VCPUOP_set_periodic_timer,
    VCPUOP_set_singleshot_timer, VCPUOP_stop_periodic_timer, VCPUOP_stop_singleshot_timer,
    VCPUOP_up, VcpuGetPhysid, VcpuRegisterMemoryArea, VcpuRegisterVcpuInfo, VcpuSetSingleshotTimer,
};
use hv_core::addr::{Gfn, Gva, PAGE_BYTES, PAGE_SIZE};
use hv_core::evtchn::Virq;
use hv_core::vcpu::runstate::RunstateArea;
use hv_core::vcpu::vcpu_info;
use hv_hw::time;
use hv_hw::virt::VcpuHw;

use super::guest::pin;
use super::{Answer, Call, Stop, low};
use crate::domain::Ended;
use crate::host;
use crate::vcpu::{Requests, Vcpu};

/// Serves it.
#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let number = low(call.arg(1));
    if call.runner.domain.vcpu(number).is_none() {
        return Err(Errno::ENOENT.into());
    }
    match call.sub_op() {
        VCPUOP_set_singleshot_timer => set_singleshot(call, number),
        _ => handle_rare(call, number),
    }
}

/// Apart, so that setting a timer does not pay for its large frame.
#[inline(never)]
fn handle_rare<H: VcpuHw>(call: &mut Call<'_, H>, number: u32) -> Answer {
    match call.sub_op() {
        VCPUOP_stop_singleshot_timer => {
            own(call, number)?;
            call.pcpu.cancel_timer(call.runner.singleshot);
            Ok(0)
        }
        // no periodic timer runs, ever
        VCPUOP_stop_periodic_timer => Ok(0),
        VCPUOP_register_vcpu_info => register_info(call, number),
        VCPUOP_register_runstate_memory_area => register_runstate(call, number),
        VCPUOP_register_vcpu_time_memory_area => register_time(call, number),
        VCPUOP_get_runstate_info => get_runstate(call, number),
        VCPUOP_is_up => Ok(u64::from(vcpu(call, number).is_up.load(Ordering::Acquire))),
        VCPUOP_up => set_up(call, number, true),
        VCPUOP_down => set_up(call, number, false),
        VCPUOP_send_nmi => {
            vcpu(call, number).request(Requests::NMI);
            Ok(0)
        }
        VCPUOP_get_physid => get_physid(call, number),
        VCPUOP_set_periodic_timer => Err(Errno::EOPNOTSUPP.into()),
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// `set_timer_op`: the time in the first argument, of a 32-bit caller in the first two; 0 to stop.
#[inline(never)]
pub(super) fn set_timer_op<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let time = match call.runner.width {
        Width::Bits64 => call.arg(0),
        Width::Bits32 => call.arg(1) << 32 | call.arg(0),
    };
    match time {
        0 => call.pcpu.cancel_timer(call.runner.singleshot),
        ns => arm(call, ns),
    }
    Ok(0)
}

fn vcpu<'c, H: VcpuHw>(call: &'c Call<'_, H>, number: u32) -> &'c Vcpu {
    call.runner
        .domain
        .vcpu(number)
        .expect("checked at the start of the hypercall")
}

/// The timers of a vCPU are its own to set.
fn own<H: VcpuHw>(call: &Call<'_, H>, number: u32) -> Result<(), Stop> {
    if u32::from(call.runner.number()) == number {
        Ok(())
    } else {
        Err(Errno::EINVAL.into())
    }
}

fn set_singleshot<H: VcpuHw>(call: &mut Call<'_, H>, number: u32) -> Answer {
    own(call, number)?;
    let arg: VcpuSetSingleshotTimer = call.runner.copy_in(call.pointer(2))?;
    let wants_future = arg.flags & VCPU_SSHOTTMR_future != 0;
    if wants_future && arg.timeout_abs_ns < host::now_ns() {
        return Err(Errno::ETIME.into());
    }
    arm(call, arg.timeout_abs_ns);
    Ok(0)
}

/// A time that has passed is delivered before the call returns.
fn arm<H: VcpuHw>(call: &mut Call<'_, H>, ns: u64) {
    let deadline = host::tsc_at(ns);
    if deadline <= time::now() {
        call.pcpu.cancel_timer(call.runner.singleshot);
        let number = call.runner.number();
        call.runner.domain.raise_virq(number, Virq::TIMER);
    } else {
        call.pcpu.set_timer(call.runner.singleshot, deadline);
    }
}

/// Only for the calling vCPU, or one that is down, and once.
fn register_info<H: VcpuHw>(call: &mut Call<'_, H>, number: u32) -> Answer {
    let arg: VcpuRegisterVcpuInfo = call.runner.copy_in(call.pointer(2))?;
    if !vcpu_info::fits(arg.offset) {
        return Err(Errno::ENXIO.into());
    }
    let is_own = u32::from(call.runner.number()) == number;
    if !is_own && vcpu(call, number).is_up.load(Ordering::Acquire) {
        return Err(Errno::EINVAL.into());
    }
    let index = u16::try_from(number).map_err(|_| Errno::ENOENT)?;
    let domain = call.runner.domain.clone();
    let frame = pin(&domain, Gfn::new(arg.mfn))?;
    let notify = {
        let mut events = domain.events.lock();
        let notify = events.register_vcpu_info(index, frame, arg.offset)?;
        events.write_time(index, &vcpu(call, number).clock(&domain));
        notify
    };
    domain.notify(notify);
    Ok(0)
}

fn register_runstate<H: VcpuHw>(call: &mut Call<'_, H>, number: u32) -> Answer {
    let arg: VcpuRegisterMemoryArea = call.runner.copy_in(call.pointer(2))?;
    let domain = call.runner.domain.clone();
    if arg.addr == 0 {
        vcpu(call, number).account.lock().forget_state_copy();
        return Ok(0);
    }
    let first = call.runner.locate(Gva::new(arg.addr))?;
    // in the layout of what else it shares, as Xen writes it
    let width = domain.events.lock().width();
    let crosses = RunstateArea::crosses(width, first.page_offset());
    let second = if crosses {
        let next_page = Gva::new(arg.addr)
            .align_down(PAGE_SIZE)
            .checked_add(PAGE_SIZE);
        Some(call.runner.locate(next_page.ok_or(Errno::EFAULT)?)?)
    } else {
        None
    };
    let area = RunstateArea::new(width, first, second).ok_or(Errno::EFAULT)?;
    let first_frame = pin(&domain, Gfn::containing(first))?;
    let second_frame = second
        .map(|gpa| pin(&domain, Gfn::containing(gpa)))
        .transpose()?;
    let has_flag = domain.has_runstate_flag.load(Ordering::Acquire);
    let mut account = vcpu(call, number).account.lock();
    account.keep_state_copy(area, (first, first_frame), second_frame, has_flag);
    Ok(0)
}

/// The second copy of the clock, for the vDSO.
fn register_time<H: VcpuHw>(call: &mut Call<'_, H>, number: u32) -> Answer {
    let arg: VcpuRegisterMemoryArea = call.runner.copy_in(call.pointer(2))?;
    let domain = call.runner.domain.clone();
    let place = if arg.addr == 0 {
        None
    } else {
        const TIME_INFO_BYTES: usize = 32;
        let gpa = call.runner.locate(Gva::new(arg.addr))?;
        let offset = gpa.page_offset();
        if !offset.is_multiple_of(8) || offset > PAGE_BYTES - TIME_INFO_BYTES {
            return Err(Errno::EINVAL.into());
        }
        Some((pin(&domain, Gfn::containing(gpa))?, offset))
    };
    let vcpu = vcpu(call, number);
    let clock = vcpu.clock(&domain);
    vcpu.account.lock().keep_clock_copy(place, &clock);
    Ok(0)
}

fn get_runstate<H: VcpuHw>(call: &mut Call<'_, H>, number: u32) -> Answer {
    let state = vcpu(call, number).account.lock().state();
    call.runner.copy_out(call.pointer(2), &state.info())?;
    Ok(0)
}

/// Takes a vCPU down, or lets it go on from exactly where it was. With the last one the domain has switched itself off.
fn set_up<H: VcpuHw>(call: &mut Call<'_, H>, number: u32, is_up: bool) -> Answer {
    let target = vcpu(call, number);
    if is_up && !target.is_started.load(Ordering::Acquire) {
        return Err(Errno::EINVAL.into());
    }
    target.is_up.store(is_up, Ordering::Release);
    target.request(Requests::LIFE);
    if call.runner.domain.is_every_vcpu_down() {
        call.runner.domain.end(Ended::PowerOff);
    }
    Ok(0)
}

fn get_physid<H: VcpuHw>(call: &mut Call<'_, H>, number: u32) -> Answer {
    let target = vcpu(call, number);
    let phys_id = u64::from(target.apic_id) | (u64::from(target.id.index) << 32);
    call.runner
        .copy_out(call.pointer(2), &VcpuGetPhysid { phys_id })?;
    Ok(0)
}
