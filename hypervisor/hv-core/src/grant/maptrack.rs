//! The user's side: which handle stands for which mapping.
//!
//! Handles are handed out and come back in constant time; room for them is made in pieces of a page, so that a large
//! table never has to move.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{GrantError, Pin};
use crate::addr::Gfn;

const PER_CHUNK: usize = 128;
const LAST_IN_CHUNK: u32 = 127;

/// A domain's number for one of its mappings of granted pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(u32);

/// A granted page, mapped.
#[must_use = "an entry that stays pinned can never be revoked"]
#[derive(PartialEq, Eq, Debug)]
pub struct Mapping {
    /// The use of the granter's entry.
    pub pin: Pin,
    /// Where the user has it.
    pub gfn: Gfn,
}

/// The mappings that a domain has of others' pages.
pub struct Maptrack {
    chunks: Vec<Box<[Slot]>>,
    free: Option<u32>,
    used: u32,
    limit: u32,
}

enum Slot {
    /// The next free one.
    Free(Option<u32>),
    Used(Mapping),
}

impl Handle {
    /// Names the mapping `raw`, which may be any number a guest came up with.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }
    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Maptrack {
    /// Bytes of the heap that [`Maptrack::make_room`] takes.
    pub const BYTES_PER_PIECE: usize = PER_CHUNK * size_of::<Slot>();

    /// No mapping yet, and room for `limit` of them (rounded up to pieces of 128).
    #[must_use]
    pub const fn new(limit: u32) -> Self {
        Self {
            chunks: Vec::new(),
            free: None,
            used: 0,
            limit,
        }
    }

    /// How many mappings there are.
    #[must_use]
    pub fn used(&self) -> u32 {
        self.used
    }

    /// True where the next [`Maptrack::insert`] has to [make room](Maptrack::make_room).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.is_none()
    }

    /// Gives a mapping a handle.
    ///
    /// # Errors
    /// [`GrantError::NoSpace`] where the domain has all it may have or the heap is out; the mapping comes back.
    pub fn insert(&mut self, mapping: Mapping) -> Result<Handle, (GrantError, Mapping)> {
        if self.free.is_none() && !self.make_room() {
            return Err((GrantError::NoSpace, mapping));
        }
        let handle = self.free.expect("room was made");
        let slot = self.slot(handle).expect("free slots exist");
        let Slot::Free(next) = core::mem::replace(slot, Slot::Used(mapping)) else {
            unreachable!("the free list holds free slots only");
        };
        self.free = next;
        self.used += 1;
        Ok(Handle(handle))
    }

    /// Takes the mapping with `handle` out, which the user has at `gfn`.
    ///
    /// # Errors
    /// [`GrantError::BadHandle`], or [`GrantError::BadAddress`] where it is mapped elsewhere; nothing has changed then.
    pub fn take(&mut self, handle: Handle, gfn: Gfn) -> Result<Mapping, GrantError> {
        let free = self.free;
        let slot = self.slot(handle.0).ok_or(GrantError::BadHandle)?;
        match slot {
            Slot::Free(_) => return Err(GrantError::BadHandle),
            Slot::Used(mapping) if mapping.gfn != gfn => return Err(GrantError::BadAddress),
            Slot::Used(_) => {}
        }
        let taken = core::mem::replace(slot, Slot::Free(free));
        self.free = Some(handle.0);
        self.used -= 1;
        let Slot::Used(mapping) = taken else {
            unreachable!("the slot was seen used");
        };
        Ok(mapping)
    }

    /// The first mapping at or above `from`, for teardown, which takes one after the other: its handle and place. Looks
    /// at no more than `budget` slots; `Err` with where to go on, if there was none among them.
    ///
    /// # Errors
    /// `Err(Some(handle))` to go on from there, `Err(None)` at the end.
    pub fn next(&self, from: Handle, budget: u32) -> Result<(Handle, Gfn), Option<Handle>> {
        let end = from.0.saturating_add(budget);
        for raw in from.0..end {
            match self.peek(raw) {
                None => return Err(None),
                Some(Slot::Used(mapping)) => return Ok((Handle(raw), mapping.gfn)),
                Some(Slot::Free(_)) => {}
            }
        }
        Err(Some(Handle(end)))
    }

    fn slot(&mut self, raw: u32) -> Option<&mut Slot> {
        let number = usize::try_from(raw).ok()?;
        nospec::get_mut::<{ nospec::GRANT_HANDLES }, _>(&mut self.chunks, number / PER_CHUNK)?
            .get_mut(number % PER_CHUNK)
    }

    fn peek(&self, raw: u32) -> Option<&Slot> {
        let number = usize::try_from(raw).ok()?;
        nospec::get::<{ nospec::GRANT_HANDLES }, _>(&self.chunks, number / PER_CHUNK)?
            .get(number % PER_CHUNK)
    }

    /// Makes room for 128 mappings more, from the heap; false where there may be no more or the heap is out.
    pub fn make_room(&mut self) -> bool {
        let count = self.chunks.len() * PER_CHUNK;
        let Ok(first) = u32::try_from(count) else {
            return false;
        };
        if first >= self.limit || self.chunks.try_reserve(1).is_err() {
            return false;
        }
        let mut chunk = Vec::new();
        if chunk.try_reserve_exact(PER_CHUNK).is_err() {
            return false;
        }
        let last = first + LAST_IN_CHUNK;
        chunk.extend((first..last).map(|slot| Slot::Free(Some(slot + 1))));
        chunk.push(Slot::Free(None));
        self.chunks.push(chunk.into_boxed_slice());
        self.free = Some(first);
        true
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn handles_stand_for_their_mappings(ops in prop::collection::vec(any::<(bool, u16)>(), 1..400)) {
            let mut track = Maptrack::new(256);
            let mut model = BTreeMap::new();
            for (serial, (is_insert, which)) in ops.into_iter().enumerate() {
                let gfn = Gfn::new(serial as u64);
                if is_insert {
                    match track.insert(Mapping { pin: Pin::for_test(), gfn }) {
                        Ok(handle) => prop_assert_eq!(model.insert(handle, gfn), None),
                        Err((error, _)) => {
                            prop_assert_eq!((error, model.len()), (GrantError::NoSpace, 256));
                        }
                    }
                } else {
                    let handle = Handle::new(u32::from(which) % 300);
                    match model.remove(&handle) {
                        None => {
                            prop_assert_eq!(track.take(handle, gfn), Err(GrantError::BadHandle));
                        }
                        Some(at) => {
                            let elsewhere = track.take(handle, at + 1);
                            prop_assert_eq!(elsewhere, Err(GrantError::BadAddress));
                            prop_assert_eq!(track.take(handle, at).map(|m| m.gfn), Ok(at));
                        }
                    }
                }
                prop_assert_eq!(track.used() as usize, model.len());
            }
            let mut from = Handle::new(0);
            let mut seen = BTreeMap::new();
            loop {
                match track.next(from, 10) {
                    Ok((handle, gfn)) => {
                        seen.insert(handle, gfn);
                        from = Handle::new(handle.get() + 1);
                    }
                    Err(Some(next)) => from = next,
                    Err(None) => break,
                }
            }
            prop_assert_eq!(seen, model);
        }
    }
}
