//! `hvm_op`. Source: `public/hvm/hvm_op.h`, `public/hvm/params.h`.

use alloc::sync::Arc;
use hv_hw::sync::atomic::Ordering;

use guest_abi::errno::Errno;
use guest_abi::hvm::hvm_op::{
    HVMMEM_mmio_dm, HVMMEM_ram_ro, HVMMEM_ram_rw, XenHvmEvtchnUpcallVector, XenHvmGetMemType,
    XenHvmGetTime, XenHvmParam,
};
use guest_abi::hvm::params::{
    HVM_PARAM_ALTP2M, HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_CALLBACK_IRQ_TYPE_SHIFT,
    HVM_PARAM_CALLBACK_TYPE_VECTOR, HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_CONSOLE_PFN,
    HVM_PARAM_IOREQ_SERVER_PFN, HVM_PARAM_MCA_CAP, HVM_PARAM_NR_IOREQ_SERVER_PAGES,
    HVM_PARAM_STORE_EVTCHN, HVM_PARAM_STORE_PFN, HVM_PARAM_VIRIDIAN, HVM_PARAM_VM86_TSS,
    HVM_PARAM_VM86_TSS_SIZED, HVM_PARAM_X87_FIP_WIDTH,
};
use hv_hw::virt::VcpuHw;

use crate::domain::{Domain, HVM_PARAMS};
use crate::hypercall::table::Who;
use crate::hypercall::{Answer, Call, Stop, caller};
use crate::machine::host;
use hv_core::addr::Gfn;
use hv_core::p2m::P2mKind;
use hv_core::x86::FIRST_LEGAL_VECTOR;
use hv_hw::direct_map::DirectTables;

pub(super) fn get_time<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let now = host::now_ns();
    call.runner
        .copy_out(call.pointer(1), &XenHvmGetTime { now })?;
    Ok(0)
}

/// HVMOP_get_mem_type: for a kernel that reads the memory of a crashed one, of which it is to touch RAM alone.
pub(super) fn get_mem_type<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: XenHvmGetMemType = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    let entry = domain.p2m.lock().lookup(&DirectTables, Gfn::new(arg.pfn));
    arg.mem_type = entry.map_or(HVMMEM_mmio_dm, |entry| mem_type(entry.kind));
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

/// The type of memory that Xen gives a page of this kind.
const fn mem_type(kind: P2mKind) -> u16 {
    match kind {
        P2mKind::Ram | P2mKind::Special | P2mKind::GrantRw => HVMMEM_ram_rw,
        P2mKind::RamLogDirty | P2mKind::GrantRo => HVMMEM_ram_ro,
        P2mKind::Foreign | P2mKind::Mmio => HVMMEM_mmio_dm,
    }
}

pub(super) fn flush_tlbs<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    call.runner.hw.flush_stage2(call.runner.domain.stage2);
    Ok(0)
}

pub(super) fn get_param<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: XenHvmParam = call.runner.copy_in(call.pointer(1))?;
    let (domain, index) = param(call, &arg)?;
    caller::may(call.runner, who_reads(arg.index))?;
    arg.value = domain.lifecycle.lock().params[index];
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

pub(super) fn set_param<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenHvmParam = call.runner.copy_in(call.pointer(1))?;
    let (domain, index) = param(call, &arg)?;
    caller::may(call.runner, who_writes(arg.index))?;
    if arg.index == HVM_PARAM_CALLBACK_IRQ {
        if let Some(vector) = callback_vector(arg.value) {
            domain.callback.set(vector);
        }
        // events may wait already
        domain.kick_all();
        if domain.id == call.runner.domain.id {
            call.runner.latch_width();
        }
    }
    let mut lifecycle = domain.lifecycle.lock();
    let is_once = matches!(
        arg.index,
        HVM_PARAM_VIRIDIAN
            | HVM_PARAM_IOREQ_SERVER_PFN
            | HVM_PARAM_NR_IOREQ_SERVER_PAGES
            | HVM_PARAM_ALTP2M
            | HVM_PARAM_MCA_CAP
    );
    let value = &mut lifecycle.params[index];
    if is_once && *value != 0 && *value != arg.value {
        return Err(Errno::EEXIST.into());
    }
    *value = arg.value;
    Ok(0)
}

/// Who may read a parameter of its own.
const fn who_reads(index: u32) -> Who {
    match index {
        HVM_PARAM_CALLBACK_IRQ
        | HVM_PARAM_STORE_PFN
        | HVM_PARAM_STORE_EVTCHN
        | HVM_PARAM_CONSOLE_PFN
        | HVM_PARAM_CONSOLE_EVTCHN
        | HVM_PARAM_VM86_TSS
        | HVM_PARAM_VM86_TSS_SIZED
        | HVM_PARAM_X87_FIP_WIDTH => Who::Everybody,
        _ => Who::HardwareDomain,
    }
}

/// Who may set one.
const fn who_writes(index: u32) -> Who {
    match index {
        HVM_PARAM_CALLBACK_IRQ => Who::Everybody,
        _ => Who::HardwareDomain,
    }
}

/// The parameter that is meant: whose, and its place.
#[inline]
fn param<H: VcpuHw>(call: &Call<'_, H>, arg: &XenHvmParam) -> Result<(Arc<Domain>, usize), Stop> {
    let domain = caller::target(call.runner, arg.domid)?;
    let index = usize::try_from(arg.index).map_err(|_| Errno::EINVAL)?;
    if index < HVM_PARAMS {
        Ok((domain, index))
    } else {
        Err(Errno::EINVAL.into())
    }
}

/// The vector that a value of HVM_PARAM_CALLBACK_IRQ names. A line of an interrupt controller that no PVH domain has,
/// or of a PCI device, changes nothing, as with Xen: Linux names line 1 to show that it has drivers, after it has set
/// vectors.
fn callback_vector(value: u64) -> Option<u8> {
    let [vector, ..] = value.to_le_bytes();
    let kind = value >> HVM_PARAM_CALLBACK_IRQ_TYPE_SHIFT;
    (kind == u64::from(HVM_PARAM_CALLBACK_TYPE_VECTOR)).then_some(vector)
}

/// HVMOP_set_evtchn_upcall_vector: from now on the upcall of that vCPU is an edge of this vector at its local APIC.
/// What waits already comes at once.
pub(super) fn set_upcall_vector<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenHvmEvtchnUpcallVector = call.runner.copy_in(call.pointer(1))?;
    if arg.vector < FIRST_LEGAL_VECTOR {
        return Err(Errno::EINVAL.into());
    }
    let domain = &call.runner.domain;
    let vcpu = domain.vcpu(arg.vcpu).ok_or(Errno::ENOENT)?;
    vcpu.upcall_vector.store(arg.vector, Ordering::Release);
    let is_pending = {
        let events = domain.events.lock();
        events
            .vcpu_info(vcpu.id.index)
            .is_some_and(|info| info.is_upcall_pending())
    };
    if is_pending {
        vcpu.upcall();
    }
    Ok(0)
}
