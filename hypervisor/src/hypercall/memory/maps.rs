//! What a domain is told of its memory.

use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_abi::errno::Errno;
use guest_abi::memory::{E820Entry as AbiEntry, XenForeignMemoryMap, XenMemoryMap};
use hv_core::addr::Gva;
use hv_hw::virt::VcpuHw;

use crate::hypercall::{Answer, Call, Stop, caller};

/// Entries that a map may have (`E820MAX` of Xen and of the x86 boot protocol).
const MAX_ENTRIES: u32 = 1024;

/// XENMEM_memory_map: the caller's own.
pub(in crate::hypercall) fn memory_map<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let mut arg: XenMemoryMap = call.runner.copy_in(call.pointer(1))?;
    let domain = call.runner.domain.clone();
    let given = domain.lifecycle.lock().memory_map.clone();
    let (base, room) = (Gva::new(arg.buffer), arg.nr_entries);
    arg.nr_entries = match given {
        Some(map) if map.is_empty() => return Err(Errno::ENOSYS.into()),
        Some(map) => tell(call, (base, room), map.iter().copied())?,
        None => {
            let begun_with = domain.e820.entries().iter().map(|entry| AbiEntry {
                addr: entry.start,
                size: entry.size(),
                type_: entry.kind.as_u32(),
            });
            tell(call, (base, room), begun_with)?
        }
    };
    call.runner.copy_out(call.pointer(1), &arg)?;
    Ok(0)
}

/// Copies as many entries out as there is room for; how many.
fn tell<H: VcpuHw>(
    call: &mut Call<'_, H>,
    (base, room): (Gva, u32),
    entries: impl Iterator<Item = AbiEntry>,
) -> Result<u32, Stop> {
    let mut written = 0;
    for (index, entry) in (0..room).zip(entries) {
        let at = call.runner.element::<AbiEntry>(base, u64::from(index))?;
        call.runner.copy_out(at, &entry)?;
        written += 1;
    }
    Ok(written)
}

/// XENMEM_set_memory_map: what a domain will be told, as it is given: its toolstack says it, or the domain itself.
pub(in crate::hypercall) fn set_memory_map<H: VcpuHw>(call: &mut Call<'_, H>) -> Answer {
    let arg: XenForeignMemoryMap = call.runner.copy_in(call.pointer(1))?;
    if arg.map.nr_entries > MAX_ENTRIES {
        return Err(Errno::EINVAL.into());
    }
    let domain = caller::target(call.runner, arg.domid)?;
    let count = arg.map.nr_entries as usize;
    let bytes = count * size_of::<AbiEntry>();
    if !domain.heap.charge(bytes) {
        return Err(Errno::ENOMEM.into());
    }
    match copy_map(call, Gva::new(arg.map.buffer), count) {
        Ok(map) => {
            let old = domain.lifecycle.lock().memory_map.replace(Arc::new(map));
            let old = old.map_or(0, |old| old.len() * size_of::<AbiEntry>());
            domain.heap.uncharge(old);
            Ok(0)
        }
        Err(stop) => {
            domain.heap.uncharge(bytes);
            Err(stop)
        }
    }
}

fn copy_map<H: VcpuHw>(call: &Call<'_, H>, base: Gva, count: usize) -> Result<Vec<AbiEntry>, Stop> {
    let mut map = Vec::new();
    if map.try_reserve_exact(count).is_err() {
        return Err(Errno::ENOMEM.into());
    }
    for index in 0..count as u64 {
        let at = call.runner.element::<AbiEntry>(base, index)?;
        map.push(call.runner.copy_in(at)?);
    }
    Ok(map)
}
