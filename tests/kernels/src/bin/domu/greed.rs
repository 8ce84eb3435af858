//! A guest that takes all it can get: ports, grant frames, memory, other people's attention.

use crate::console::{parameter, print};
use guest_abi::event_channel::{EVTCHNOP_alloc_unbound, EvtchnAllocUnbound};
use guest_abi::hvm::params::{HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_STORE_EVTCHN};
use guest_abi::memory::{
    XENMAPSPACE_grant_table, XENMEM_add_to_physmap, XENMEM_populate_physmap, XenAddToPhysmap,
    XenMemoryReservation,
};
use guest_abi::xen::DOMID_SELF;
use guest_rt::memory::{self, Touch};
use guest_rt::{event, hypercall};

/// The first of the guest frames past all that is mapped or described: 1 TiB.
const EMPTY: u64 = 1 << 28;

/// Rings the bells of xenstored and xenconsoled for ever, with nothing to tell.
pub(crate) fn flood_events() {
    let ports = [HVM_PARAM_STORE_EVTCHN, HVM_PARAM_CONSOLE_EVTCHN].map(|p| parameter(p) as u32);
    loop {
        for port in ports {
            let _ = event::send(port);
        }
    }
}

/// Makes ports until it is refused, then stays.
pub(crate) fn take_ports() {
    let mut made = 0u32;
    let refusal = loop {
        let arg = EvtchnAllocUnbound {
            dom: DOMID_SELF,
            remote_dom: 0,
            port: 0,
        };
        match hypercall::event_channel(EVTCHNOP_alloc_unbound, arg).0 {
            0 => made += 1,
            refusal => break refusal,
        }
    };
    print(format_args!("domu: {made} ports, then {refusal}"));
}

/// Maps frames of its grant table until it is refused, then stays.
pub(crate) fn take_grant_frames() {
    /// More than any table may have.
    const ENOUGH: u64 = 4096;
    let mut made = 0u64;
    let refusal = loop {
        let arg = XenAddToPhysmap {
            domid: DOMID_SELF,
            size: 0,
            space: XENMAPSPACE_grant_table,
            idx: made,
            gpfn: EMPTY + made,
        };
        match hypercall::memory(XENMEM_add_to_physmap, arg).0 {
            0 if made < ENOUGH => made += 1,
            refusal => break refusal,
        }
    };
    print(format_args!("domu: {made} grant frames, then {refusal}"));
}

/// Asks for pages at new places until it is refused, then stays.
pub(crate) fn take_memory() {
    let mut made = 0u64;
    let refusal = loop {
        let mut frame = EMPTY + made;
        let arg = XenMemoryReservation {
            extent_start: &raw mut frame as u64,
            nr_extents: 1,
            extent_order: 0,
            mem_flags: 0,
            domid: DOMID_SELF,
            _pad: [0; 6],
        };
        match hypercall::memory(XENMEM_populate_physmap, arg).0 {
            1 => made += 1,
            refusal => break refusal,
        }
    };
    print(format_args!("domu: {made} more pages, then {refusal}"));
}

/// Touches all of its memory once, as a guest without a balloon driver may.
pub(crate) fn touch_all(how: Touch) {
    let pages = memory::touch_all(how);
    print(format_args!("domu: touched {pages} pages"));
}
