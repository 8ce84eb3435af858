//! Plans for hosts of all sizes, checked against what a plan promises.

use super::super::e820::E820Entry;
use super::super::elf::tests::RELOCATION;
use super::*;
use crate::options::Amount;
use proptest::prelude::*;
use std::vec;

const MIB: u64 = 1 << 20;

fn frames(start: u64, end: u64) -> MfnRange {
    MfnRange::inside(Hpa::new(start), Hpa::new(end))
}

fn host(end: u64) -> E820Map {
    let mut raw = vec![
        E820Entry::new(0, 0x9_fc00, E820Kind::Ram),
        E820Entry::new(0x9_fc00, 0xa_0000, E820Kind::Reserved),
        E820Entry::new(0xf_0000, 0x10_0000, E820Kind::Reserved),
        E820Entry::new(MIB, end.min(3 * GIB), E820Kind::Ram),
    ];
    if end > 3 * GIB {
        raw.push(E820Entry::new(4 * GIB, end + GIB, E820Kind::Ram));
    }
    E820Map::sanitise(&raw)
}

fn request<'a>(
    host: &'a E820Map,
    reserved: &'a [MfnRange],
    size: Option<u64>,
) -> Dom0MemoryRequest<'a> {
    Dom0MemoryRequest {
        host,
        reserved,
        kernel: Gpa::new(16 * MIB)..Gpa::new(74 * MIB),
        initrd: Some((Hpa::new(100 * MIB), 30 * MIB + 5)),
        acpi_size: 1000,
        want: Dom0Mem {
            size: size.map(Amount::of_bytes),
            ..Dom0Mem::default()
        },
    }
}

#[test]
fn a_small_dom0_gets_one_chunk_behind_low_memory() {
    let host = host(GIB);
    let reserved = [frames(0x8000, 0x9000), frames(MIB, 16 * MIB)];
    let layout = plan_dom0(&request(&host, &reserved, Some(256 * MIB))).unwrap();
    assert_eq!(layout.pages(), 256 * MIB / PAGE_SIZE);
    assert_eq!(layout.ranges.len(), 3);
    assert_eq!(layout.ranges[0], frames(0, 0x8000));
    assert_eq!(layout.ranges[1], frames(0x9000, 0x9_f000));
    assert_eq!(layout.ranges[2].start, Mfn::new(0x1000));
    assert_eq!(layout.initrd.unwrap().start, Gpa::new(100 * MIB));
    assert_eq!(layout.start_info, Gpa::new(74 * MIB));
    let map = layout.memory_map(&host);
    assert_eq!(map.kind_at(0x8000), Some(E820Kind::Unusable));
    assert_eq!(map.kind_at(MIB), Some(E820Kind::Unusable));
    assert_eq!(map.kind_at(0xf_0000), Some(E820Kind::Reserved));
    assert_eq!(
        map.kind_at(layout.acpi.start.base().as_u64()),
        Some(E820Kind::AcpiTables)
    );
    assert_eq!(map.kind_at(GIB - 1), Some(E820Kind::Unusable));
}

#[test]
fn an_initrd_in_the_kernels_place_is_moved_behind_it() {
    let host = host(GIB);
    let request = Dom0MemoryRequest {
        initrd: Some((Hpa::new(60 * MIB), 30 * MIB)),
        ..request(&host, &[], None)
    };
    let layout = plan_dom0(&request).unwrap();
    // not over itself either
    assert_eq!(layout.initrd.unwrap().start, Gpa::new(90 * MIB));
}

#[test]
fn low_memory_is_given_first() {
    let host = host(6 * GIB);
    let most = host.ram_pages() * PAGE_SIZE - 128 * MIB;
    let layout = plan_dom0(&request(&host, &[], Some(most))).unwrap();
    assert_eq!(layout.pages(), host.ram_pages() - 128 * MIB / PAGE_SIZE);
    assert_eq!(
        layout.ranges.last().unwrap().end,
        frames(0, 7 * GIB - 128 * MIB).end
    );
}

#[test]
fn by_default_guests_have_a_part() {
    let host = host(6 * GIB);
    let layout = plan_dom0(&request(&host, &[], None)).unwrap();
    assert_eq!(layout.pages() >> 8, 1024 + 6 * 1024 / 20);
}

#[test]
fn what_has_no_place_is_named() {
    let host = host(GIB);
    let taken = [frames(20 * MIB, 21 * MIB)];
    let error = plan_dom0(&request(&host, &taken, None)).unwrap_err();
    assert_eq!(error, Dom0MemoryError::KernelPlaceTaken(Gpa::new(20 * MIB)));
    let error = plan_dom0(&request(&host, &[], Some(64 * MIB))).unwrap_err();
    assert!(matches!(
        error,
        Dom0MemoryError::TooSmall { given: 16384, .. }
    ));
    let all_else = [frames(MIB, 16 * MIB), frames(74 * MIB, GIB)];
    let error = plan_dom0(&request(&host, &all_else, None)).unwrap_err();
    assert!(matches!(
        error,
        Dom0MemoryError::NoPlace { what: "initrd", .. }
    ));
    let huge = Dom0MemoryRequest {
        initrd: Some((Hpa::new(u64::MAX - 5), u64::MAX)),
        ..request(&host, &[], None)
    };
    assert!(matches!(
        plan_dom0(&huge),
        Err(Dom0MemoryError::NoPlace { what: "initrd", .. })
    ));
}

#[test]
fn a_kernel_that_can_be_moved_goes_where_memory_is_free() {
    let host = host(GIB);
    let file = super::super::elf::tests::build(
        &[(16 * MIB, &[0; 16], 58 * MIB)],
        &[(18, &(16 * MIB + 4).to_le_bytes())],
    );
    let fixed = Kernel::parse(&file).unwrap();
    let firmware = [frames(20 * MIB, 21 * MIB)];
    assert_eq!(place_kernel(&host, &[], &fixed), Ok(fixed.clone()));
    let taken = Dom0MemoryError::KernelPlaceTaken(Gpa::new(20 * MIB));
    assert_eq!(place_kernel(&host, &firmware, &fixed), Err(taken));
    let kernel = Kernel {
        relocation: Some(RELOCATION),
        ..fixed
    };
    let moved = place_kernel(&host, &firmware, &kernel).unwrap();
    assert_eq!(moved.extent(), Gpa::new(22 * MIB)..Gpa::new(80 * MIB));
    assert_eq!(moved.entry, Gpa::new(22 * MIB + 4));
    let all = [frames(MIB, GIB)];
    assert!(place_kernel(&host, &all, &kernel).is_err());
}

fn is_given(layout: &Dom0Layout, range: MfnRange) -> bool {
    layout
        .ranges
        .iter()
        .any(|r| r.start <= range.start && range.end <= r.end)
}

fn check(request: &Dom0MemoryRequest<'_>, layout: &Dom0Layout) -> Result<(), TestCaseError> {
    for range in &layout.ranges {
        prop_assert!(request.host.is_all(
            range.start.base().as_u64(),
            range.end.base().as_u64(),
            E820Kind::Ram
        ));
        prop_assert!(
            !request
                .reserved
                .iter()
                .any(|r| !r.is_empty() && r.overlaps(*range))
        );
    }
    prop_assert!(layout.ranges.windows(2).all(|w| w[0].end < w[1].start));
    let at = |start: Gpa, size: u64| {
        MfnRange::covering(Hpa::new(start.as_u64()), Hpa::new(start.as_u64() + size))
    };
    let start_info = at(layout.start_info, StartInfo::MAX_SIZE as u64);
    let initrd = layout.initrd.map(|i| at(i.start, i.size));
    let mut places = vec![layout.kernel, start_info, layout.acpi];
    places.extend(initrd);
    for (i, &place) in places.iter().enumerate() {
        prop_assert!(is_given(layout, place));
        prop_assert!(places[..i].iter().all(|other| !other.overlaps(place)));
    }
    prop_assert!(start_info.end.base().as_u64() <= GIB);
    let available = {
        let mut free = E820Map::default();
        request
            .host
            .ram()
            .for_each(|r| mark(&mut free, r, E820Kind::Ram));
        request
            .reserved
            .iter()
            .for_each(|&r| mark(&mut free, r, E820Kind::Reserved));
        free.ram_pages()
    };
    prop_assert_eq!(
        layout.pages(),
        request.want.pages(available, request.host.ram_pages())
    );
    Ok(())
}

proptest! {
    #[test]
    fn every_plan_keeps_its_promises(
        reserved in proptest::collection::vec((0u64..0x6_0000, 0u64..0x2000), 0..5),
        end_mib in 64u64..5000,
        size_mib in proptest::option::of(1u64..5000),
        initrd in proptest::option::of((0u64..0x2_0000_0000, 0u64..64 * MIB)),
        acpi_size in 0usize..20_000,
    ) {
        let host = host(end_mib * MIB);
        let reserved: Vec<_> = reserved.into_iter().map(|(start, count)| MfnRange::new(Mfn::new(start), Mfn::new(start + count))).collect();
        let request = Dom0MemoryRequest {
            initrd: initrd.map(|(start, size)| (Hpa::new(start), size)),
            acpi_size,
            ..request(&host, &reserved, size_mib.map(|mib| mib * MIB))
        };
        if let Ok(layout) = plan_dom0(&request) {
            check(&request, &layout)?;
        }
    }
}
