//! `domctl`: what a toolstack does to one domain. Source: `public/domctl.h`, version 0x15.
//!
//! The struct is copied in once, and copied back where a handler changed it. A group of sub-operations is a file beside
//! this one, and a sub-operation one line of [`serve`]: a function of the call and the [`Domctl`] that it was given.
//! Only the hardware domain comes here (`hypercall::caller`).

mod context;
mod lifecycle;
mod placement;
mod policy;
mod registers;
mod rights;

use alloc::sync::Arc;

use guest_abi::domctl::{
    XEN_DOMCTL_INTERFACE_VERSION, XEN_DOMCTL_createdomain, XEN_DOMCTL_destroydomain,
    XEN_DOMCTL_get_cpu_policy, XEN_DOMCTL_get_paging_mempool_size, XEN_DOMCTL_getdomaininfo,
    XEN_DOMCTL_gethvmcontext, XEN_DOMCTL_gethvmcontext_partial, XEN_DOMCTL_getnodeaffinity,
    XEN_DOMCTL_gettscinfo, XEN_DOMCTL_getvcpuaffinity, XEN_DOMCTL_getvcpucontext,
    XEN_DOMCTL_getvcpuinfo, XEN_DOMCTL_iomem_permission, XEN_DOMCTL_ioport_permission,
    XEN_DOMCTL_irq_permission, XEN_DOMCTL_max_mem, XEN_DOMCTL_max_vcpus, XEN_DOMCTL_pausedomain,
    XEN_DOMCTL_resumedomain, XEN_DOMCTL_scheduler_op, XEN_DOMCTL_sendtrigger,
    XEN_DOMCTL_set_cpu_policy, XEN_DOMCTL_set_paging_mempool_size, XEN_DOMCTL_set_virq_handler,
    XEN_DOMCTL_setdomainhandle, XEN_DOMCTL_sethvmcontext, XEN_DOMCTL_setnodeaffinity,
    XEN_DOMCTL_settimeoffset, XEN_DOMCTL_settscinfo, XEN_DOMCTL_setvcpuaffinity,
    XEN_DOMCTL_setvcpucontext, XEN_DOMCTL_soft_reset, XEN_DOMCTL_soft_reset_cont,
    XEN_DOMCTL_unpausedomain, XenDomctl,
};
use guest_abi::errno::Errno;
use hv_core::domid::DomId;
use hv_hw::virt::VcpuHw;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::{Domain, registry};
use crate::hypercall::{Answer, Call, Stop};
use crate::runner::Next;

pub(super) use lifecycle::remote_shutdown;

/// The hypercall's one argument, copied in.
pub(super) struct Domctl {
    raw: XenDomctl,
    is_changed: bool,
}

impl Domctl {
    /// The number of the domain as the caller gave it.
    pub(super) fn domid(&self) -> u16 {
        self.raw.domain
    }

    /// The domain that it is about, dying ones as well.
    ///
    /// # Errors
    /// ESRCH where there is none.
    pub(super) fn domain(&self) -> Result<Arc<Domain>, Stop> {
        DomId::new(self.raw.domain)
            .and_then(registry::find)
            .ok_or(Stop::Refused(Errno::ESRCH))
    }

    /// The sub-operation's own part.
    pub(super) fn body<T: FromBytes>(&self) -> T {
        let bytes = self.raw.u.as_bytes();
        T::read_from_prefix(bytes)
            .map(|(body, _)| body)
            .expect("every body of domctl fits in the 128 bytes that it has")
    }

    /// Gives the caller `body` back.
    pub(super) fn reply<T: IntoBytes + Immutable>(&mut self, body: &T) {
        body.write_to_prefix(self.raw.u.as_mut_bytes())
            .expect("every body of domctl fits in the 128 bytes that it has");
        self.is_changed = true;
    }

    /// Gives the caller a domain's number back.
    pub(super) fn reply_domid(&mut self, id: DomId) {
        self.raw.domain = id.get();
        self.is_changed = true;
    }
}

#[inline(never)]
pub(super) fn handle<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let raw: XenDomctl = call.runner.copy_in(call.pointer(0))?;
    if raw.interface_version != XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES.into());
    }
    let mut op = Domctl {
        raw,
        is_changed: false,
    };
    let answer = serve(call, raw.cmd, &mut op);
    if op.is_changed {
        call.runner.copy_out(call.pointer(0), &op.raw)?;
    }
    answer
}

fn serve<H: VcpuHw>(call: &mut Call<'_, H>, command: u32, op: &mut Domctl) -> Answer {
    match command {
        XEN_DOMCTL_createdomain => lifecycle::create(op),
        XEN_DOMCTL_destroydomain => lifecycle::destroy(call, op),
        XEN_DOMCTL_pausedomain => lifecycle::pause(call, op),
        XEN_DOMCTL_unpausedomain => lifecycle::unpause(call, op),
        XEN_DOMCTL_getdomaininfo => lifecycle::get_info(op),
        XEN_DOMCTL_max_mem => lifecycle::max_mem(op),
        XEN_DOMCTL_max_vcpus => lifecycle::max_vcpus(call, op),
        XEN_DOMCTL_setdomainhandle => lifecycle::set_handle(op),
        XEN_DOMCTL_resumedomain => lifecycle::resume(call, op),
        XEN_DOMCTL_soft_reset | XEN_DOMCTL_soft_reset_cont => lifecycle::soft_reset(call, op),
        XEN_DOMCTL_gettscinfo => lifecycle::get_tsc_info(op),
        XEN_DOMCTL_settscinfo => lifecycle::set_tsc_info(call, op),
        XEN_DOMCTL_get_paging_mempool_size => lifecycle::paging_pool(op),
        XEN_DOMCTL_set_paging_mempool_size => lifecycle::set_paging_pool(op),
        XEN_DOMCTL_gethvmcontext => context::get(call, op),
        XEN_DOMCTL_sethvmcontext => context::set(call, op),
        XEN_DOMCTL_gethvmcontext_partial => context::get_one(call, op),
        XEN_DOMCTL_getvcpucontext => registers::get(call, op),
        XEN_DOMCTL_setvcpucontext => registers::set(call, op),
        XEN_DOMCTL_get_cpu_policy => policy::get(call, op),
        XEN_DOMCTL_set_cpu_policy => policy::set(call, op),
        XEN_DOMCTL_getvcpuinfo => placement::vcpu_info(op),
        XEN_DOMCTL_setvcpuaffinity => placement::set_affinity(call, op),
        XEN_DOMCTL_getvcpuaffinity => placement::affinity(call, op),
        XEN_DOMCTL_setnodeaffinity => placement::set_node_affinity(call, op),
        XEN_DOMCTL_getnodeaffinity => placement::node_affinity(call, op),
        XEN_DOMCTL_scheduler_op => placement::scheduler(op),
        XEN_DOMCTL_sendtrigger => placement::trigger(call, op),
        XEN_DOMCTL_irq_permission => rights::irq(op),
        XEN_DOMCTL_iomem_permission => rights::iomem(op),
        XEN_DOMCTL_ioport_permission => rights::ioport(op),
        XEN_DOMCTL_set_virq_handler => rights::virq_handler(op),
        XEN_DOMCTL_settimeoffset => rights::time_offset(op),
        _ => Err(Errno::ENOSYS.into()),
    }
}

impl<H: VcpuHw> Call<'_, H> {
    /// Has the guest execute the hypercall again, once this CPU has seen to its other vCPUs.
    pub(super) fn again_after_others(&mut self) -> Stop {
        self.next = Next::Look;
        Stop::Continuation
    }
}
