//! The 2-level ABI: one pending and one mask bit a port in the shared info frame, one selector bit a word of 64 ports
//! in the vCPU's info. A 32-bit guest has a quarter of the ports: its pending bits are where a 64-bit guest's are, its
//! mask bits begin after the last of them, and a selector bit is for 32 ports.
//!
//! The guest clears selector before pending bits, we set them in the opposite order: an event between is never lost.
//! Source: `public/event_channel.h` and `public/xen.h, struct shared_info`. Its sibling is `fifo.rs`.

use guest_abi::compat::{Width, shared_info as narrow};
use guest_abi::event_channel::EVTCHN_2L_NR_CHANNELS;
use guest_abi::xen::{SHARED_INFO_EVTCHN_MASK, SHARED_INFO_EVTCHN_PENDING as PENDING};

use super::{Port, Raised};
use crate::mem::SharedWords;
use crate::vcpu::vcpu_info::VcpuInfo;

/// Ports there are for a guest of this width.
#[inline(always)]
pub(super) const fn ports(width: Width) -> u32 {
    match width {
        Width::Bits64 => EVTCHN_2L_NR_CHANNELS,
        Width::Bits32 => narrow::NR_CHANNELS,
    }
}

/// Where the mask bits are.
#[inline(always)]
const fn mask(width: Width) -> usize {
    match width {
        Width::Bits64 => SHARED_INFO_EVTCHN_MASK,
        Width::Bits32 => narrow::EVTCHN_MASK,
    }
}

/// A port that has just been marked pending, and whether it is masked.
#[derive(Clone, Copy)]
pub(super) struct Marked {
    port: Port,
    is_masked: bool,
}

/// Marks `port` pending; `None` where it was.
#[inline]
pub(super) fn mark_pending<F: SharedWords>(
    (shared_info, width): (&F, Width),
    port: Port,
) -> Option<Marked> {
    let (word, bit) = place(width, port)?;
    if shared_info.fetch_or_u64(PENDING + word * 8, bit) & bit != 0 {
        return None;
    }
    let is_masked = shared_info.load_u64(mask(width) + word * 8) & bit != 0;
    Some(Marked { port, is_masked })
}

/// Tells `info`'s vCPU where to look, unless the port is masked.
#[inline]
pub(super) fn tell<F: SharedWords>(
    width: Width,
    marked: Marked,
    info: Option<&VcpuInfo<F>>,
) -> Raised {
    Raised {
        is_newly_pending: true,
        wants_upcall: !marked.is_masked && select(width, info, marked.port),
    }
}

/// Clears the mask bit; a pending event is told of then.
pub(super) fn unmask<F: SharedWords>(
    (shared_info, width): (&F, Width),
    info: Option<&VcpuInfo<F>>,
    port: Port,
) -> Raised {
    let Some((word, bit)) = place(width, port) else {
        return Raised::NOTHING;
    };
    let was_masked = shared_info.fetch_and_u64(mask(width) + word * 8, !bit) & bit != 0;
    let is_pending = shared_info.load_u64(PENDING + word * 8) & bit != 0;
    Raised {
        is_newly_pending: false,
        wants_upcall: was_masked && is_pending && select(width, info, port),
    }
}

/// Clears the pending bit.
pub(super) fn clear_pending<F: SharedWords>((shared_info, width): (&F, Width), port: Port) {
    if let Some((word, bit)) = place(width, port) {
        shared_info.fetch_and_u64(PENDING + word * 8, !bit);
    }
}

/// True where the pending bit is set.
pub(super) fn is_pending<F: SharedWords>((shared_info, width): (&F, Width), port: Port) -> bool {
    place(width, port)
        .is_some_and(|(word, bit)| shared_info.load_u64(PENDING + word * 8) & bit != 0)
}

/// True where the mask bit is set.
pub(super) fn is_masked<F: SharedWords>((shared_info, width): (&F, Width), port: Port) -> bool {
    place(width, port)
        .is_none_or(|(word, bit)| shared_info.load_u64(mask(width) + word * 8) & bit != 0)
}

#[inline]
fn select<F: SharedWords>(width: Width, info: Option<&VcpuInfo<F>>, port: Port) -> bool {
    info.is_some_and(|info| info.select(width, port.get()))
}

/// The word of 64 bits and the bit in it, where the ABI has the port.
#[inline(always)]
fn place(width: Width, port: Port) -> Option<(usize, u64)> {
    let port = port.get();
    (port < ports(width)).then_some(((port / 64) as usize, 1 << (port % 64)))
}
