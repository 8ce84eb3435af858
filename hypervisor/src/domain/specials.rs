//! Where in a domain's memory the pages are that it shares with the hypervisor: its shared info, the frames of its
//! grant table.

use alloc::vec::Vec;

use hv_core::addr::{Gfn, Mfn};

use crate::domain::Domain;
use crate::domain::space::SpaceError;
use crate::machine::memory;

/// The places by frame.
#[derive(Default, Debug)]
pub(crate) struct Specials(Vec<(Mfn, Gfn)>);

impl Specials {
    /// Where a page is.
    #[must_use]
    pub(crate) fn place(&self, mfn: Mfn) -> Option<Gfn> {
        let at = self.find(mfn).ok()?;
        self.0.get(at).map(|(_, gfn)| *gfn)
    }

    /// Makes room for one more page; false where the heap has none.
    #[must_use]
    pub(crate) fn make_room(&mut self) -> bool {
        let has_room = self.0.len() < self.0.capacity();
        has_room || memory::heap_has_room() && self.0.try_reserve(1).is_ok()
    }

    /// Notes where a page is now; for one that was nowhere, after [`Specials::make_room`].
    pub(crate) fn set(&mut self, mfn: Mfn, gfn: Option<Gfn>) {
        match (self.find(mfn), gfn) {
            (Ok(at), Some(gfn)) => self.0[at].1 = gfn,
            (Ok(at), None) => {
                self.0.remove(at);
            }
            (Err(at), Some(gfn)) if self.make_room() => self.0.insert(at, (mfn, gfn)),
            (Err(_), _) => {}
        }
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    fn find(&self, mfn: Mfn) -> Result<usize, usize> {
        self.0.binary_search_by_key(&mfn, |(special, _)| *special)
    }
}

impl Domain {
    /// Where a page that it shares with the hypervisor is in its memory.
    #[must_use]
    pub(crate) fn special_place(&self, mfn: Mfn) -> Option<Gfn> {
        self.lifecycle.lock().specials.place(mfn)
    }

    /// Makes room to note one place more.
    pub(super) fn make_special_room(&self) -> Result<(), SpaceError> {
        let has_room = self.lifecycle.lock().specials.make_room();
        has_room.then_some(()).ok_or(SpaceError::OutOfMemory)
    }

    /// Notes where such a page is now.
    pub(crate) fn set_special_place(&self, mfn: Mfn, gfn: Option<Gfn>) {
        self.lifecycle.lock().specials.set(mfn, gfn);
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pages_are_where_they_were_put_last(
            moves in prop::collection::vec((0..12u64, prop::option::of(0..100u64)), 1..100)
        ) {
            let mut specials = Specials::default();
            let mut model = BTreeMap::new();
            for (mfn, gfn) in moves {
                let (mfn, gfn) = (Mfn::new(mfn), gfn.map(Gfn::new));
                specials.set(mfn, gfn);
                match gfn {
                    Some(gfn) => model.insert(mfn, gfn),
                    None => model.remove(&mfn),
                };
                let all: BTreeMap<_, _> = specials.0.iter().copied().collect();
                prop_assert_eq!(&all, &model);
                for mfn in (0..12).map(Mfn::new) {
                    prop_assert_eq!(specials.place(mfn), model.get(&mfn).copied());
                }
            }
        }
    }
}
