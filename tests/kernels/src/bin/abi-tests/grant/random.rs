//! Mappings made and ended in any order.

use guest_abi::grant_table::{GNTMAP_host_map, GNTST_okay, GTF_permit_access};
use guest_rt::{Test, Verdict, check_eq, insn};

use super::{FIRST_REF, OWN, grant, hole, map, marks, page, table, unmap, write};

pub(crate) static TESTS: &[Test] = &[Test::new("grant_sequence_of_random_operations", random)];

/// Maps and unmaps in an order that a generator picks; what is visible where follows a table kept beside.
fn random() -> Verdict {
    const PAGES: u64 = 4;
    const PLACES: u64 = 8;
    table()?;
    for index in 0..PAGES {
        let own = page(10 + index)?;
        write(own, 0xA000 + index)?;
        grant(FIRST_REF + index as u32, GTF_permit_access, OWN, own)?;
    }
    for index in 0..PLACES {
        hole(20 + index)?;
    }
    let mut shown: [Option<(u32, u64)>; PLACES as usize] = [None; PLACES as usize];
    let mut seed = 0x1234_5678_9ABC_DEF1u64;
    for round in 0..400 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let (place, own) = (seed % PLACES, seed / PLACES % PAGES);
        let at = page(20 + place)?;
        let slot = &mut shown[place as usize];
        match *slot {
            Some((handle, _)) => {
                check_eq!(unmap(handle, at)?, GNTST_okay, "unmapping in round {round}");
                *slot = None;
            }
            None => {
                let handle = map(FIRST_REF + own as u32, at, GNTMAP_host_map)?;
                *slot = Some((handle, own));
            }
        }
        for (index, slot) in shown.iter().enumerate() {
            let expected = slot.map_or(u64::MAX, |(_, own)| 0xA000 + own);
            let found = insn::peek(page(20 + index as u64)?);
            check_eq!(found, Ok(expected), "place {index} in round {round}");
        }
    }
    for (index, slot) in shown.iter().enumerate() {
        if let Some((handle, _)) = slot {
            let at = page(20 + index as u64)?;
            check_eq!(unmap(*handle, at)?, GNTST_okay, "unmapping at the end");
        }
    }
    for index in 0..PAGES {
        check_eq!(marks(FIRST_REF + index as u32)?, 0, "marks of page {index}");
    }
    Ok(())
}
