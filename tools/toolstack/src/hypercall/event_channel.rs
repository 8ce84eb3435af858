//! event_channel_op: ports of another domain, made before it runs.

use guest_abi::event_channel::{EVTCHNOP_alloc_unbound, EvtchnAllocUnbound};
use guest_abi::xen::__HYPERVISOR_event_channel_op;
use zerocopy::IntoBytes;

use super::{CallResult, Hyper, HypercallError};

impl Hyper {
    /// Makes a port of `domid` that `remote` may bind to.
    ///
    /// # Errors
    /// The hypervisor's: ENOSPC where all ports are in use.
    pub fn alloc_unbound(&self, domid: u16, remote: u16) -> CallResult<u32> {
        let mut body = EvtchnAllocUnbound {
            dom: domid,
            remote_dom: remote,
            port: 0,
        };
        self.call_with(
            __HYPERVISOR_event_channel_op,
            EVTCHNOP_alloc_unbound,
            body.as_mut_bytes(),
        )
        .map_err(|errno| {
            HypercallError::new(
                "event_channel_op alloc_unbound",
                format!("domain {domid}, remote {remote}"),
                errno,
            )
        })?;
        Ok(body.port)
    }
}
