//! A domain's memory: promised first, then given in the largest pieces there are.

use std::ops::Range;

use guest_abi::Errno;
use guest_abi::grant_table::GTF_permit_access;
use guest_abi::memory::{
    E820Entry, XENMEM_resource_grant_table, XENMEM_resource_grant_table_id_shared,
};

use crate::config::DomainConfig;
use crate::domain::{MIN_DOM0_KIB, SLACK_KIB};
use crate::hypercall::When;
use crate::image::Layout;
use crate::image::layout::{CONSOLE_GFN, PAGE, STORE_GFN};
use crate::{DOM0, Error, Hyper, Result};

/// The sizes of pieces by log2 of their pages, the largest first: 1 GiB, 2 MiB, 4 KiB.
const ORDERS: [u32; 3] = [18, 9, 0];
/// Pieces asked for at once.
const AT_ONCE: usize = 1024;

/// Limits a domain's memory and promises what it will take.
pub(crate) fn reserve(
    hyper: &Hyper,
    config: &DomainConfig,
    domid: u16,
    layout: &Layout,
) -> Result<()> {
    hyper.set_max_mem(domid, config.memory_kib + SLACK_KIB)?;
    let tables = table_bytes(config);
    match hyper.set_paging_mempool(domid, tables) {
        Err(error) if error.errno == Errno::ENOMEM => {
            let pages = layout.pages() + tables / PAGE;
            return Err(shortage(hyper, pages, error.into()));
        }
        Err(error) if !matches!(error.errno, Errno::ENOSYS | Errno::EOPNOTSUPP) => {
            return Err(error.into());
        }
        _ => {}
    }
    if !config.claim {
        return Ok(());
    }
    match hyper.claim_pages(domid, layout.pages()) {
        Err(error) if error.errno == Errno::ENOMEM => {
            Err(shortage(hyper, layout.pages(), error.into()))
        }
        result => Ok(result?),
    }
}

/// Bytes set aside for a domain's page tables, beyond what is needed by default: a quarter of a per cent, and 1 MiB a
/// vCPU.
fn table_bytes(config: &DomainConfig) -> u64 {
    (config.max_memory_kib / 512 + u64::from(config.max_vcpus) * 1024).div_ceil(1024) << 20
}

/// How many pages have to be free for a domain: its own, those set aside for its tables, and what the hypervisor keeps
/// of it (1 MiB, and 128 KiB a vCPU, are more than enough).
pub(crate) fn needed(config: &DomainConfig, pages: u64) -> u64 {
    const KEPT: u64 = (1 << 20) / PAGE;
    const KEPT_PER_VCPU: u64 = (128 << 10) / PAGE;
    pages + table_bytes(config) / PAGE + KEPT + u64::from(config.max_vcpus) * KEPT_PER_VCPU
}

/// Says how much is missing, where that is the reason.
fn shortage(hyper: &Hyper, pages: u64, error: Error) -> Error {
    match crate::domain::shortage(hyper, pages, MIN_DOM0_KIB) {
        Ok(Some(shortage)) => shortage,
        _ => error,
    }
}

/// Gives a domain its memory, and tells the hypervisor its map.
pub(crate) fn populate(hyper: &Hyper, domid: u16, layout: &Layout) -> Result<()> {
    let how = if layout.is_on_demand() {
        hyper
            .set_pod_target(domid, layout.populated)
            .map_err(|error| shortage(hyper, layout.pages(), error.into()))?;
        When::Touched
    } else {
        When::Now
    };
    for range in &layout.ram {
        populate_range(hyper, domid, range.clone(), how)
            .map_err(|error| shortage(hyper, layout.pages(), error))?;
    }
    let single: Vec<u64> = layout
        .acpi
        .clone()
        .chain([STORE_GFN, CONSOLE_GFN])
        .collect();
    populate_all(hyper, domid, (0, When::Now), &single)?;
    // what the promise was larger than is everybody's again
    match hyper.claim_pages(domid, 0) {
        Err(error) if !matches!(error.errno, Errno::ENOSYS | Errno::EINVAL) => {
            return Err(error.into());
        }
        _ => {}
    }
    let map: Vec<E820Entry> = layout
        .map
        .entries()
        .iter()
        .map(|entry| E820Entry {
            addr: entry.start,
            size: entry.size(),
            type_: entry.kind.as_u32(),
        })
        .collect();
    Ok(hyper.set_memory_map(domid, &map)?)
}

fn populate_range(hyper: &Hyper, domid: u16, range: Range<u64>, when: When) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let fits =
            |order: &&u32| at.is_multiple_of(1 << **order) && at + (1 << **order) <= range.end;
        let order = ORDERS.iter().find(fits).copied().unwrap_or(0);
        // as many of this size as follow each other, up to where a larger one starts
        let larger = ORDERS.iter().rev().find(|other| **other > order);
        let run: Vec<u64> = (0..)
            .map(|nth| at + (nth << order))
            .take_while(|gfn| gfn + (1 << order) <= range.end)
            .take_while(|gfn| {
                *gfn == at
                    || larger.is_none_or(|larger| {
                        !gfn.is_multiple_of(1 << larger) || gfn + (1 << larger) > range.end
                    })
            })
            .take(AT_ONCE)
            .collect();
        at += (run.len() as u64) << order;
        populate_all(hyper, domid, (order, when), &run)?;
    }
    Ok(())
}

/// Backs all extents; those for which there is no piece so large, by smaller pieces.
fn populate_all(hyper: &Hyper, domid: u16, (order, when): (u32, When), gfns: &[u64]) -> Result<()> {
    let smaller = ORDERS.iter().copied().find(|other| *other < order);
    let done = match (hyper.populate(domid, order, gfns, when), smaller) {
        (Ok(done), _) => done,
        (Err(error), Some(_)) if error.errno == Errno::ENOMEM => 0,
        (Err(error), _) => return Err(error.into()),
    };
    let left = gfns.get(done..).unwrap_or_default();
    match (left.first(), smaller) {
        (None, _) => Ok(()),
        (Some(gfn), None) => Err(crate::hypercall::HypercallError::new(
            "memory_op populate_physmap",
            format!("domain {domid}, gfn {gfn:#x}"),
            Errno::ENOMEM,
        )
        .into()),
        (Some(_), Some(smaller)) => left.iter().try_for_each(|gfn| {
            populate_range_by(hyper, domid, *gfn..gfn + (1 << order), (smaller, when))
        }),
    }
}

fn populate_range_by(
    hyper: &Hyper,
    domid: u16,
    range: Range<u64>,
    (order, when): (u32, When),
) -> Result<()> {
    let gfns: Vec<u64> = range.step_by(1 << order).collect();
    gfns.chunks(AT_ONCE)
        .try_for_each(|part| populate_all(hyper, domid, (order, when), part))
}

/// Bytes of an entry of grant table version 1.
const GRANT_ENTRY: usize = 8;

/// Grants the console's page (reference 0) and xenstore's (1) to dom0, whose daemons map them.
pub(crate) fn grant_rings(hyper: &Hyper, domid: u16) -> Result<()> {
    let id = XENMEM_resource_grant_table_id_shared;
    let table = hyper.map_resource(domid, XENMEM_resource_grant_table, id, 1)?;
    for (reference, gfn) in [CONSOLE_GFN, STORE_GFN].into_iter().enumerate() {
        let frame = u32::try_from(gfn).expect("the special pages lie below 4 GiB");
        let [flags_low, flags_high] = GTF_permit_access.to_le_bytes();
        let [dom_low, dom_high] = DOM0.to_le_bytes();
        let [a, b, c, d] = frame.to_le_bytes();
        // the flags make the entry valid; nobody reads it before the domain is introduced
        table.write(
            reference * GRANT_ENTRY,
            &[flags_low, flags_high, dom_low, dom_high, a, b, c, d],
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FakeHost;
    use proptest::prelude::*;

    #[test]
    fn what_a_domain_may_have_beyond_its_memory_is_populated_on_demand() {
        let layout = |memory_kib| {
            Layout::plan(&crate::image::layout::Request {
                memory_kib,
                populated_kib: 64 << 10,
                kernel: 0x10_0000..0x20_0000,
                initrd: None,
                acpi_size: 500,
            })
            .unwrap()
        };
        for (memory_kib, target, on_demand) in [(64 << 10, 0, 0), (256 << 10, 64 * 256, 256 * 256)]
        {
            let host = FakeHost::new();
            let domid = host.make_domain();
            let layout = layout(memory_kib);
            populate(&host.hyper(), domid, &layout).unwrap();
            assert_eq!(layout.pages(), 64 * 256 + 1 + 2);
            let state = host.state();
            let domain = &state.domains[&domid];
            assert_eq!((domain.pod_target, domain.on_demand), (target, on_demand));
            assert_eq!(domain.populated.len() as u64, memory_kib / 4 + 3);
        }
    }

    #[test]
    fn memory_comes_in_the_largest_pieces_and_in_smaller_ones_where_there_are_none() {
        for (largest, mib) in [(18, 2050), (9, 2050), (0, 6), (9, 3)] {
            let host = FakeHost::new();
            host.state().largest_order = largest;
            let hyper = host.hyper();
            let domid = host.make_domain();
            populate_range(&hyper, domid, 0..mib * 256, When::Now).unwrap();
            assert_eq!(
                host.state().domains[&domid].populated.len() as u64,
                mib * 256
            );
            let calls = host
                .state()
                .calls
                .iter()
                .filter(|call| **call == "populate")
                .count();
            assert!(calls < 12, "{calls} calls for {mib} MiB by order {largest}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_range_is_filled_exactly_whatever_pieces_there_are(
            start in 0x3_fe00u64..0x4_0200, len in 1u64..3000, largest in prop::sample::select(vec![0u32, 9, 18])
        ) {
            let host = FakeHost::new();
            host.state().largest_order = largest;
            let domid = host.make_domain();
            populate_range(&host.hyper(), domid, start..start + len, When::Now).unwrap();
            let state = host.state();
            prop_assert!(state.domains[&domid].populated.iter().copied().eq(start..start + len));
        }
    }
}
