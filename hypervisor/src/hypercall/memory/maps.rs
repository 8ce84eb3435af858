//! What a domain is told of its memory.

use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_abi::errno::Errno;
use guest_abi::memory::{E820Entry as AbiEntry, XenForeignMemoryMap, XenMemoryMap};
use hv_core::addr::Gva;
use hv_core::image::e820::{E820Entry, E820Kind, E820Map};
use hv_hw::virt::VcpuHw;

use crate::hypercall::{Answer, Call, caller};

/// Entries that a map may have (`E820MAX` of Xen and of the x86 boot protocol).
const MAX_ENTRIES: u32 = 1024;

/// XENMEM_memory_map: the caller's own.
pub(in crate::hypercall) fn memory_map<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: XenMemoryMap = call.runner.copy_in(call.pointer(1))?;
    let domain = call.runner.domain.clone();
    let given = domain.life.lock().memory_map.clone();
    let map = given.as_deref().unwrap_or(&domain.e820);
    let room = usize::try_from(arg.nr_entries).unwrap_or(usize::MAX);
    let mut written = 0;
    for (index, entry) in map.entries().iter().take(room).enumerate() {
        let at = call
            .runner
            .element::<AbiEntry>(Gva::new(arg.buffer), index as u64)?;
        let raw = AbiEntry {
            addr: entry.start,
            size: entry.size(),
            type_: entry.kind.as_u32(),
        };
        call.runner.copy_out(at, &raw)?;
        written += 1;
    }
    arg.nr_entries = written;
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

/// XENMEM_set_memory_map: what another domain will be told.
pub(in crate::hypercall) fn set_memory_map<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenForeignMemoryMap = call.runner.copy_in(call.pointer(1))?;
    let domain = caller::target(call.runner, arg.domid)?;
    if arg.map.nr_entries > MAX_ENTRIES {
        return Err(Errno::EINVAL.into());
    }
    let mut entries = Vec::new();
    for index in 0..arg.map.nr_entries {
        let base = Gva::new(arg.map.buffer);
        let at = call.runner.element::<AbiEntry>(base, u64::from(index))?;
        let raw: AbiEntry = call.runner.copy_in(at)?;
        if entries.try_reserve(1).is_err() {
            return Err(Errno::ENOMEM.into());
        }
        let kind = E820Kind::from_raw(raw.type_);
        entries.push(E820Entry::sized(raw.addr, raw.size, kind));
    }
    let map = E820Map::try_sanitise(&entries).ok_or(Errno::ENOMEM)?;
    domain.life.lock().memory_map = Some(Arc::new(map));
    Ok(0)
}
