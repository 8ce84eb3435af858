//! Who gets what a device signals by a message: for each of the host's vectors that messages may have, the message that
//! the domain with the device asked for.
//!
//! A function with one message has one vector; one with several has as many in a row, at a multiple of their number, as
//! it adds to its data itself. Source: PCI Local Bus Specification 3.0, "Message Data for MSI".

use alloc::vec;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::message::InterruptMessage;

/// The table of vectors.
#[derive(Clone, Debug)]
pub struct Routes {
    first: u8,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    /// A device has it, and nothing is delivered yet.
    Held,
    Routed(InterruptMessage),
}

impl Routes {
    /// Routes for these vectors, all of them free.
    #[must_use]
    pub fn new(vectors: RangeInclusive<u8>) -> Self {
        Self {
            first: *vectors.start(),
            slots: vec![Slot::Free; vectors.count()],
        }
    }

    /// For a domain that gets no messages.
    #[must_use]
    pub const fn none() -> Self {
        Self {
            first: 0,
            slots: Vec::new(),
        }
    }

    /// What is delivered where `vector` came.
    #[must_use]
    pub fn message(&self, vector: u8) -> Option<InterruptMessage> {
        match self.slots.get(self.index(vector)?)? {
            Slot::Routed(message) => Some(*message),
            Slot::Free | Slot::Held => None,
        }
    }

    /// Takes a run of `count` vectors (a power of two up to 32): the first of them. `None` where there is none.
    pub fn allocate(&mut self, count: u8) -> Option<u8> {
        let run = usize::from(count).max(1);
        let first = usize::from(self.first);
        let aligned = first.next_multiple_of(run) - first;
        let is_free = |&at: &usize| {
            let slots = self.slots.get(at..at + run);
            slots.is_some_and(|slots| slots.iter().all(|slot| *slot == Slot::Free))
        };
        let at = (aligned..self.slots.len()).step_by(run).find(is_free)?;
        self.slots.get_mut(at..at + run)?.fill(Slot::Held);
        u8::try_from(first + at).ok()
    }

    /// Has `vector`, which was allocated, be delivered as `message`.
    pub fn set(&mut self, vector: u8, message: InterruptMessage) {
        if let Some(slot) = self.slot(vector)
            && *slot != Slot::Free
        {
            *slot = Slot::Routed(message);
        }
    }

    /// Frees `count` vectors from `vector`.
    pub fn free(&mut self, vector: u8, count: u8) {
        for vector in (vector..=u8::MAX).take(usize::from(count)) {
            if let Some(slot) = self.slot(vector) {
                *slot = Slot::Free;
            }
        }
    }

    /// How many vectors are not free.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let held = self.slots.iter().filter(|slot| **slot != Slot::Free);
        held.count()
    }

    fn slot(&mut self, vector: u8) -> Option<&mut Slot> {
        let index = self.index(vector)?;
        self.slots.get_mut(index)
    }

    fn index(&self, vector: u8) -> Option<usize> {
        vector.checked_sub(self.first).map(usize::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(vector: u8) -> InterruptMessage {
        InterruptMessage::from_msi(0xFEE0_0000, u32::from(vector)).expect("in the window")
    }

    #[test]
    fn what_was_freed_is_delivered_to_nobody() {
        let mut routes = Routes::new(0x48..=0xDF);
        let vector = routes.allocate(1).unwrap();
        assert_eq!((vector, routes.message(vector)), (0x48, None));
        routes.set(vector, message(0x31));
        assert_eq!(routes.message(vector), Some(message(0x31)));
        routes.free(vector, 1);
        assert_eq!(routes.message(vector), None);
        routes.set(vector, message(0x31));
        assert_eq!(routes.message(vector), None);
        for nobodys in [0, 0x47, 0xE0, 0xFF] {
            routes.set(nobodys, message(0x31));
            assert_eq!(routes.message(nobodys), None);
        }
        assert_eq!(Routes::none().allocate(1), None);
    }

    proptest! {
        /// Runs are aligned, lie inside, and nobody else's; all comes back.
        #[test]
        fn runs_are_aligned_and_nobody_elses(first in 0u8..0xE0, steps in proptest::collection::vec((0u32..6, any::<bool>(), any::<u8>()), 0..120)) {
            let mut routes = Routes::new(first..=0xDF);
            let mut held: Vec<(u8, u8)> = Vec::new();
            for (order, frees, pick) in steps {
                if frees && !held.is_empty() {
                    let (vector, count) = held.swap_remove(usize::from(pick) % held.len());
                    routes.free(vector, count);
                    continue;
                }
                let count = 1 << order;
                let taken = |v: u8| held.iter().any(|&(start, n)| (start..=u8::MAX).take(n.into()).any(|h| h == v));
                let fits = |v: &u8| v.is_multiple_of(count) && *v <= 0xE0 - count && (*v..*v + count).all(|v| !taken(v));
                let expected = (first..=0xDF).find(fits);
                prop_assert_eq!(routes.allocate(count), expected);
                held.extend(expected.map(|vector| (vector, count)));
                prop_assert_eq!(routes.held(), held.iter().map(|h| usize::from(h.1)).sum());
            }
        }
    }
}
