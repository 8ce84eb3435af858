//! The guest's side of FIFO event channels: a control block, pages of event words for as many ports as two-level has,
//! and the draining of queues.
//!
//! public/event_channel.h: a word is taken off its queue by clearing LINKED, and only then may Xen link it again.

// UNSAFETY: pages that the hypervisor writes at any time; touched through atomics only.
#![expect(unsafe_code, reason = "pages shared with the hypervisor")]

use crate::{Stop, event, hypercall};
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use guest_abi::event_channel::{
    EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_PENDING,
    EVTCHNOP_expand_array, EVTCHNOP_init_control, EVTCHNOP_reset, EvtchnExpandArray,
    EvtchnInitControl, EvtchnReset,
};
use guest_abi::xen::DOMID_SELF;

#[repr(C, align(4096))]
struct Page(UnsafeCell<[u32; 1024]>);
// SAFETY: touched through atomics only.
unsafe impl Sync for Page {}
static CONTROL: Page = Page(UnsafeCell::new([0; 1024]));
static ARRAY: [Page; PAGES] = [const { Page(UnsafeCell::new([0; WORDS])) }; PAGES];
const WORDS: usize = 1024;
const PAGES: usize = 4;
static IS_ON: AtomicBool = AtomicBool::new(false);
static HEADS: [AtomicU32; 16] = [const { AtomicU32::new(0) }; 16];

/// Whether the domain uses FIFO now.
#[must_use]
pub fn is_on() -> bool {
    IS_ON.load(SeqCst)
}

/// Switches the domain to FIFO, with room for 4096 ports; all are masked.
///
/// # Errors
/// Skip where the hypervisor has no FIFO, Failure where it refuses.
pub fn switch_on() -> Result<(), Stop> {
    if is_on() {
        return Ok(());
    }
    let control_gfn = CONTROL.0.get() as u64 >> 12;
    let arg = EvtchnInitControl {
        control_gfn,
        ..Default::default()
    };
    let (result, answer) = hypercall::event_channel(EVTCHNOP_init_control, arg);
    if result == hypercall::refused(guest_abi::Errno::ENOSYS) {
        crate::skip!("no FIFO events");
    }
    crate::check_eq!(result, 0, "init_control");
    crate::check_eq!(answer.link_bits, 17, "link bits");
    HEADS.iter().for_each(|head| head.store(0, SeqCst));
    (0..4096).for_each(|port| word(port).store(1 << EVTCHN_FIFO_MASKED, SeqCst));
    IS_ON.store(true, SeqCst);
    for page in &ARRAY {
        let array_gfn = page.0.get() as u64 >> 12;
        let (result, _) =
            hypercall::event_channel(EVTCHNOP_expand_array, EvtchnExpandArray { array_gfn });
        crate::check_eq!(result, 0, "expand_array");
    }
    Ok(())
}

/// Closes all ports and goes back to two-level.
///
/// # Errors
/// Failure where it is refused.
pub fn switch_off() -> Result<(), Stop> {
    let (result, _) = hypercall::event_channel(EVTCHNOP_reset, EvtchnReset { dom: DOMID_SELF });
    crate::check_eq!(result, 0, "EVTCHNOP_reset");
    IS_ON.store(false, SeqCst);
    Ok(())
}

/// Masks a port.
pub fn mask(port: u32) {
    word(port).fetch_or(1 << EVTCHN_FIFO_MASKED, SeqCst);
}

/// Whether a port is pending.
#[must_use]
pub fn is_pending(port: u32) -> bool {
    word(port).load(SeqCst) & 1 << EVTCHN_FIFO_PENDING != 0
}

/// Whether a port is on a queue.
#[must_use]
pub fn is_linked(port: u32) -> bool {
    word(port).load(SeqCst) & 1 << EVTCHN_FIFO_LINKED != 0
}

/// Takes a port's pending bit away; whether it was set.
pub fn take_pending(port: u32) -> bool {
    word(port).fetch_and(!(1 << EVTCHN_FIFO_PENDING), SeqCst) & 1 << EVTCHN_FIFO_PENDING != 0
}

/// Takes events off the queues, highest priority first, and logs them.
pub(crate) fn drain() {
    let mut ready = control(0).swap(0, SeqCst);
    while ready != 0 {
        let priority = ready.trailing_zeros();
        drain_one(priority as usize, &mut ready);
        ready |= control(0).swap(0, SeqCst);
    }
}

fn drain_one(priority: usize, ready: &mut u32) {
    let head = &HEADS[priority % 16];
    let mut port = head.load(SeqCst);
    if port == 0 {
        port = control(2 + priority).load(SeqCst);
    }
    let next = unlink(port);
    // an empty link: the queue ended there
    if next == 0 {
        *ready &= !(1 << priority);
    }
    head.store(next, SeqCst);
    let state = word(port).load(SeqCst);
    if state & 1 << EVTCHN_FIFO_PENDING != 0 && state & 1 << EVTCHN_FIFO_MASKED == 0 {
        take_pending(port);
        event::log(port);
    }
}

/// Clears LINKED and the link of a port; returns the link.
fn unlink(port: u32) -> u32 {
    let cleared = !(1 << EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK);
    word(port).fetch_and(cleared, SeqCst) & EVTCHN_FIFO_LINK_MASK
}

fn word(port: u32) -> &'static AtomicU32 {
    slot(&ARRAY[port as usize / WORDS % PAGES], port as usize)
}

/// Word `index` of the control block: 0 ready, 2 to 17 the heads.
fn control(index: usize) -> &'static AtomicU32 {
    slot(&CONTROL, index)
}

fn slot(page: &'static Page, index: usize) -> &'static AtomicU32 {
    let at = page.0.get() as usize + index % 1024 * 4;
    // SAFETY: inside the page, aligned, and everyone uses atomics.
    unsafe { &*(at as *const AtomicU32) }
}
