//! A vCPU's registers in the old form, for core dumps and for domains that go on after a suspend that was called off.

use guest_abi::arch_x86::xen::{VGCF_I387_VALID, VGCF_in_kernel, VGCF_online, VcpuGuestContext};
use guest_abi::domctl::XenDomctlVcpucontext;
use guest_abi::errno::Errno;
use hv_core::addr::Gva;
use hv_core::vcpu::context;
use hv_core::x86::gpr::{RAX, RBP, RBX, RCX, RDI, RDX, RSI};
use hv_hw::virt::{SEGMENT_CS, SEGMENT_SS, VcpuHw};
use zerocopy::FromZeros;

use crate::domain::Domain;
use crate::domain::vcpu::Vcpu;
use crate::domain::vcpu_state::VcpuState;
use crate::hypercall::domctl::{Answer, Call, Domctl, Stop, lifecycle};
use crate::machine::memory;

/// The old form's general-purpose registers.
const GPRS: [usize; 15] = [
    15, 14, 13, 12, RBP, RBX, 11, 10, 9, 8, RAX, RCX, RDX, RSI, RDI,
];
/// Where SS, ES, DS, FS, GS are among the segments.
const SELECTORS: [usize; 5] = [SEGMENT_SS, 0, 3, FS, GS];
const FS: usize = 4;
const GS: usize = 5;

/// DOMCTL_getvcpucontext.
///
/// # Errors
/// EINVAL for a vCPU that there is not, ENOMEM, EFAULT.
pub(super) fn get<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlVcpucontext = op.body();
    let domain = lifecycle::another(call, op)?;
    let vcpu = made(&domain, body.vcpu)?;
    let state = vcpu.take_state().ok_or_else(|| call.again_after_others())?;
    call.runner
        .copy_out(Gva::new(body.ctxt), &context_of(&state))?;
    Ok(0)
}

/// DOMCTL_setvcpucontext: general-purpose registers, RIP, RSP and RFLAGS. The others stay, and have to be given as they
/// are.
///
/// # Errors
/// EINVAL for a vCPU that there is not, and for RFLAGS that none has; EBUSY unless the domain stands still, EOPNOTSUPP
/// for other registers that are to change, ENOMEM, EFAULT.
pub(super) fn set<H: VcpuHw>(call: &mut Call<'_, H>, op: &Domctl) -> Answer {
    let body: XenDomctlVcpucontext = op.body();
    let domain = lifecycle::another(call, op)?;
    let vcpu = made(&domain, body.vcpu)?;
    if !domain.is_stopped() {
        return Err(Errno::EBUSY.into());
    }
    let wanted: VcpuGuestContext = call.runner.copy_in(Gva::new(body.ctxt))?;
    let mut state = vcpu.take_state().ok_or_else(|| call.again_after_others())?;
    let now = context_of(&state);
    let is_same = wanted.ctrlreg == now.ctrlreg
        && wanted.debugreg == now.debugreg
        && wanted.fpu_ctxt == now.fpu_ctxt
        && wanted.user_regs.cs == now.user_regs.cs
        && wanted.user_regs.selectors == now.user_regs.selectors
        && wanted.fs_base == now.fs_base
        && wanted.gs_base_kernel == now.gs_base_kernel
        && wanted.gs_base_user == now.gs_base_user;
    if !is_same {
        vcpu.put_back(state);
        return Err(Errno::EOPNOTSUPP.into());
    }
    let regs = &wanted.user_regs;
    let Some(rflags) = context::checked_rflags(regs.rflags) else {
        vcpu.put_back(state);
        return Err(Errno::EINVAL.into());
    };
    for (index, value) in GPRS.into_iter().zip(regs.gprs) {
        if let Some(gpr) = state.regs.gpr.get_mut(index) {
            *gpr = value;
        }
    }
    state.system.rip = regs.rip;
    state.system.rsp = regs.rsp;
    state.system.rflags = rflags;
    state.lapic = None;
    state.is_up |= wanted.flags & VGCF_online != 0;
    vcpu.set_state(*state);
    Ok(0)
}

/// The vCPU, of a domain that is not dying, where there is room for its state.
fn made(domain: &Domain, number: u32) -> Result<&Vcpu, Stop> {
    let vcpu = domain.vcpu(number).filter(|vcpu| vcpu.is_made());
    match vcpu {
        _ if !memory::heap_has_room() => Err(Errno::ENOMEM.into()),
        Some(vcpu) if !domain.is_dying() => Ok(vcpu),
        _ => Err(Errno::EINVAL.into()),
    }
}

fn context_of(state: &VcpuState) -> VcpuGuestContext {
    const RPL: u16 = 3;
    let system = &state.system;
    let mut context = VcpuGuestContext::new_zeroed();
    if let Some(legacy) = state.extended.first_chunk() {
        context.fpu_ctxt = *legacy;
    }
    let selector = |index: usize| {
        let segment = system.segments.get(index);
        segment.map_or(0, |segment| segment.selector)
    };
    let base = |index: usize| {
        let segment = system.segments.get(index);
        segment.map_or(0, |segment| segment.base)
    };
    let is_kernel = selector(SEGMENT_CS) & RPL == 0;
    context.flags = VGCF_I387_VALID
        | if is_kernel { VGCF_in_kernel } else { 0 }
        | if state.is_up { VGCF_online } else { 0 };
    let regs = &mut context.user_regs;
    for (place, index) in regs.gprs.iter_mut().zip(GPRS) {
        *place = state.regs.gpr.get(index).copied().unwrap_or_default();
    }
    for (place, index) in regs.selectors.iter_mut().zip(SELECTORS) {
        *place = u64::from(selector(index));
    }
    regs.rip = system.rip;
    regs.rsp = system.rsp;
    regs.rflags = system.rflags;
    regs.cs = selector(SEGMENT_CS);
    let [dr0, dr1, dr2, dr3, dr6] = system.debug;
    context.ctrlreg = [system.cr0, 0, system.cr2, system.cr3, system.cr4, 0, 0, 0];
    context.debugreg = [dr0, dr1, dr2, dr3, 0, 0, dr6, system.dr7];
    context.fs_base = base(FS);
    [context.gs_base_kernel, context.gs_base_user] = if is_kernel {
        [base(GS), system.kernel_gs_base]
    } else {
        [system.kernel_gs_base, base(GS)]
    };
    context
}
