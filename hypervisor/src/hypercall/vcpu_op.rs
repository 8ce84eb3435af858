//! `vcpu_op` and the older `set_timer_op`. Source: `public/vcpu.h`.

use hv_hw::sync::atomic::Ordering;

use guest_abi::compat::Width;
use guest_abi::errno::Errno;
use guest_abi::hvm::hvm_vcpu::VcpuHvmContext;
use guest_abi::vcpu::{
    VCPU_SSHOTTMR_future, VcpuGetPhysid, VcpuRegisterMemoryArea, VcpuRegisterVcpuInfo,
    VcpuSetSingleshotTimer,
};
use hv_core::addr::{Gfn, Gva, PAGE_BYTES, PAGE_SIZE};
use hv_core::evtchn::Virq;
use hv_core::vcpu::runstate::RunstateArea;
use hv_core::vcpu::{initialise, vcpu_info};
use hv_hw::time;
use hv_hw::virt::VcpuHw;

use crate::domain::ShutdownReason;
use crate::domain::vcpu::{Requests, Vcpu};
use crate::domain::vcpu_state::VcpuState;
use crate::guest_mem::pin;
use crate::hypercall::{Answer, Call, low};
use crate::machine::host;

/// VCPUOP_initialise: a state to start in, once, for a vCPU that waits for one. VCPUOP_up starts it.
pub(super) fn initialise<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let vcpu = vcpu(call)?;
    let context: VcpuHvmContext = call.runner.copy_in(call.pointer(2))?;
    if !vcpu.is_made() {
        return Err(Errno::EINVAL.into());
    }
    let state = initialise::record(&context)
        .and_then(|record| VcpuState::initialised(&record, &call.runner.domain.policies().cpuid))
        .map_err(|_| Errno::EINVAL)?;
    if vcpu.is_started.swap(true, Ordering::AcqRel) {
        return Err(Errno::EEXIST.into());
    }
    vcpu.set_state(state);
    Ok(0)
}

pub(super) fn stop_singleshot<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    own(call)?;
    call.pcpu.cancel_timer(call.runner.singleshot);
    Ok(0)
}

/// VCPUOP_set_periodic_timer: none runs, ever.
pub(super) fn set_periodic<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    vcpu(call)?;
    Err(Errno::EOPNOTSUPP.into())
}

pub(super) fn stop_periodic<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    vcpu(call)?;
    Ok(0)
}

pub(super) fn is_up<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let is_up = vcpu(call)?.is_up.load(Ordering::Acquire);
    Ok(u64::from(is_up))
}

/// VCPUOP_up: lets a vCPU go on from exactly where it was.
pub(super) fn up<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    set_up(call, true)
}

/// VCPUOP_down: takes a vCPU down.
pub(super) fn down<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    set_up(call, false)
}

pub(super) fn send_nmi<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    vcpu(call)?.request(Requests::NMI);
    Ok(0)
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

/// The vCPU of the caller's that the second argument names.
#[inline]
fn vcpu<'c, H: VcpuHw>(call: &'c Call<'_, H>) -> Result<&'c Vcpu, Errno> {
    let vcpu = call.runner.domain.vcpu(low(call.arg(1)));
    vcpu.ok_or(Errno::ENOENT)
}

/// The timers of a vCPU are its own to set.
#[inline]
fn own<H: VcpuHw>(call: &Call<'_, H>) -> Result<(), Errno> {
    let named = vcpu(call)?.id.index;
    if call.runner.number() == named {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

pub(super) fn set_singleshot<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    own(call)?;
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

/// VCPUOP_register_vcpu_info: only for the calling vCPU, or one that is down, and once.
pub(super) fn register_info<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let vcpu = vcpu(call)?;
    let index = vcpu.id.index;
    let arg: VcpuRegisterVcpuInfo = call.runner.copy_in(call.pointer(2))?;
    if !vcpu_info::fits(arg.offset) {
        return Err(Errno::ENXIO.into());
    }
    let is_own = call.runner.number() == index;
    if !is_own && vcpu.is_up.load(Ordering::Acquire) {
        return Err(Errno::EINVAL.into());
    }
    let domain = &call.runner.domain;
    let frame = pin(domain, Gfn::new(arg.mfn))?;
    let notify = {
        let mut events = domain.events.lock();
        let notify = events.register_vcpu_info(index, frame, arg.offset)?;
        events.write_time(index, &vcpu.clock(domain));
        notify
    };
    domain.notify(notify);
    Ok(0)
}

pub(super) fn register_runstate<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let vcpu = vcpu(call)?;
    let arg: VcpuRegisterMemoryArea = call.runner.copy_in(call.pointer(2))?;
    let domain = &call.runner.domain;
    if arg.addr == 0 {
        vcpu.account.lock().forget_state_copy();
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
    let first_frame = pin(domain, Gfn::containing(first))?;
    let second_frame = second
        .map(|gpa| pin(domain, Gfn::containing(gpa)))
        .transpose()?;
    let has_flag = domain.has_runstate_flag.load(Ordering::Acquire);
    let mut account = vcpu.account.lock();
    account.keep_state_copy(area, (first, first_frame), second_frame, has_flag);
    Ok(0)
}

/// VCPUOP_register_vcpu_time_memory_area: a second copy of the clock, for the vDSO.
pub(super) fn register_time<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let vcpu = vcpu(call)?;
    let arg: VcpuRegisterMemoryArea = call.runner.copy_in(call.pointer(2))?;
    let domain = &call.runner.domain;
    let place = if arg.addr == 0 {
        None
    } else {
        const TIME_INFO_BYTES: usize = 32;
        let gpa = call.runner.locate(Gva::new(arg.addr))?;
        let offset = gpa.page_offset();
        if !offset.is_multiple_of(8) || offset > PAGE_BYTES - TIME_INFO_BYTES {
            return Err(Errno::EINVAL.into());
        }
        Some((pin(domain, Gfn::containing(gpa))?, offset))
    };
    let clock = vcpu.clock(domain);
    vcpu.account.lock().keep_clock_copy(place, &clock);
    Ok(0)
}

pub(super) fn get_runstate<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let state = vcpu(call)?.account.lock().state();
    call.runner.copy_out(call.pointer(2), &state.info())?;
    Ok(0)
}

/// With the last one that goes down the domain has switched itself off.
fn set_up<H: VcpuHw>(call: &mut Call<'_, H>, is_up: bool) -> Answer {
    let target = vcpu(call)?;
    if is_up && !target.is_started.load(Ordering::Acquire) {
        return Err(Errno::EINVAL.into());
    }
    target.is_up.store(is_up, Ordering::Release);
    target.request(Requests::UP_OR_DOWN);
    if call.runner.domain.is_every_vcpu_down() {
        call.runner
            .domain
            .end(ShutdownReason::PowerOff, "its last vCPU was taken down");
    }
    Ok(0)
}

pub(super) fn get_physid<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let target = vcpu(call)?;
    let phys_id = u64::from(target.apic_id) | (u64::from(target.id.index) << 32);
    call.runner
        .copy_out(call.pointer(2), &VcpuGetPhysid { phys_id })?;
    Ok(0)
}
