//! Whether a call names a frame of this kernel's image: such a call could take its code away, or write over it.
//!
//! Frame numbers are read just as the hypervisor will read them, from wherever the call points; nobody else runs.

use crate::call::Call;
use guest_abi::event_channel::{EVTCHNOP_expand_array, EVTCHNOP_init_control};
use guest_abi::grant_table::{GNTTABOP_map_grant_ref, GNTTABOP_unmap_and_replace};
use guest_abi::memory::{
    MEMOP_CMD_MASK, XENMEM_acquire_resource, XENMEM_add_to_physmap, XENMEM_add_to_physmap_batch,
    XENMEM_decrease_reservation, XENMEM_exchange, XENMEM_increase_reservation,
    XENMEM_populate_physmap, XENMEM_remove_from_physmap,
};
use guest_abi::vcpu::VCPUOP_register_vcpu_info;
use guest_abi::xen::{
    __HYPERVISOR_event_channel_op, __HYPERVISOR_grant_table_op, __HYPERVISOR_memory_op,
    __HYPERVISOR_vcpu_op,
};
use guest_rt::{entry, insn, memory::PAGE_SIZE};

/// Longer lists are not read to their end: a hypervisor stops at the first frame that it cannot serve, and so many that
/// it can, there are not.
const LIST_MAX: u64 = 1 << 16;

/// The fuzzer asks for fewer at a time.
const GRANTS_MAX: u64 = 16;

/// True where the call names a frame of the image.
pub(crate) fn is_named(call: &Call) -> bool {
    let op = (call.args[0] & 0xFFFF_FFFF) as u32;
    match call.number {
        __HYPERVISOR_memory_op => in_memory_op(op & MEMOP_CMD_MASK as u32, call.args[1]),
        __HYPERVISOR_grant_table_op => in_grants(op, call.args[1], call.args[2]),
        __HYPERVISOR_event_channel_op => {
            matches!(op, EVTCHNOP_init_control | EVTCHNOP_expand_array)
                && is_ours(word(call.args[1]), 0)
        }
        __HYPERVISOR_vcpu_op => op == VCPUOP_register_vcpu_info && is_ours(word(call.args[2]), 0),
        _ => false,
    }
}

fn in_memory_op(op: u32, arg: u64) -> bool {
    let field = |index: u64| word(arg.wrapping_add(index * 8));
    match op {
        XENMEM_increase_reservation
        | XENMEM_decrease_reservation
        | XENMEM_populate_physmap
        | XENMEM_exchange => in_list(field(0), field(1), field(2).map(|word| word & 0xFFFF_FFFF)),
        XENMEM_add_to_physmap => is_ours(field(1), 0) || is_ours(field(2), 0),
        XENMEM_remove_from_physmap => is_ours(field(1), 0),
        XENMEM_add_to_physmap_batch => {
            let count = field(0).map(|word| word >> 32 & 0xFFFF);
            in_list(field(1), count, Some(0)) || in_list(field(2), count, Some(0))
        }
        XENMEM_acquire_resource => in_list(field(3), field(1), Some(0)),
        _ => false,
    }
}

fn in_grants(op: u32, elements: u64, count: u64) -> bool {
    const ELEMENT_MAX: u64 = 40;
    matches!(op, GNTTABOP_map_grant_ref | GNTTABOP_unmap_and_replace)
        && (0..count.min(GRANTS_MAX) * ELEMENT_MAX / 8).any(|index| {
            let address = word(elements.wrapping_add(index * 8));
            is_ours(address.map(|address| address / PAGE_SIZE), 0)
        })
}

fn in_list(list: Option<u64>, count: Option<u64>, order: Option<u64>) -> bool {
    let (Some(list), Some(count), Some(order)) = (list, count, order) else {
        return false;
    };
    // no call goes past a frame that cannot be (nothing there reads all-ones), or the same one again
    let mut last = u64::MAX;
    (0..count.min(LIST_MAX))
        .map_while(|index| word(list.wrapping_add(index * 8)))
        .take_while(|&frame| core::mem::replace(&mut last, frame) != frame && frame != u64::MAX)
        .any(|frame| is_ours(Some(frame), order))
}

fn is_ours(frame: Option<u64>, order: u64) -> bool {
    let (start, end) = entry::image();
    let Some(frame) = frame else { return false };
    let past = frame.saturating_add(1 << order.min(40));
    frame < end / PAGE_SIZE && past > start / PAGE_SIZE
}

/// The word there, `None` where nothing is mapped. Read by aligned words: one that crosses into a page that was given
/// away would be an access that nobody emulates.
fn word(address: u64) -> Option<u64> {
    let (aligned, bits) = (address & !7, (address & 7) * 8);
    let low = insn::peek(aligned).ok()?;
    if bits == 0 {
        return Some(low);
    }
    let high = insn::peek(aligned.checked_add(8)?).ok()?;
    Some(low >> bits | high << (64 - bits))
}
