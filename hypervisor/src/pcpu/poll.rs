//! When the host looks at its interrupts though no exit brought one.
//!
//! A pending interrupt makes a VM exit at a boundary between two instructions of the guest. An entry that ends before
//! the first such boundary lets none in: one that delivers an event whose delivery faults, that a trap of the last
//! instruction ends, or that starts after MOV SS. A guest can have such entries follow each other for ever. So the run
//! loop counts exits and looks itself: at once before an entry that is known to be of that kind, and after `MOST_EXITS`
//! whatever they were.

use hv_hw::irq::poll_interrupt;

use super::irq;
use crate::pcpu::Pcpu;

/// Exits in a row without a look at the host's interrupts. Each takes 100 µs at most, and mostly less than one.
const MOST_EXITS: u32 = 64;

/// Counts down to the next look.
#[derive(Debug)]
pub(crate) struct Patience {
    exits_left: u32,
}

impl Patience {
    /// A CPU that has just looked.
    pub(crate) const NEW: Self = Self {
        exits_left: MOST_EXITS,
    };

    /// The entry to come may end before a boundary: looks before it.
    #[inline]
    pub(crate) fn end(&mut self) {
        self.exits_left = 0;
    }

    /// Counts an exit; true where it is time to look, which starts the count over.
    #[inline(always)]
    pub(crate) fn is_over(&mut self) -> bool {
        let (left, is_over) = self.exits_left.overflowing_sub(1);
        self.exits_left = left;
        is_over
    }
}

/// Looks, and serves what is there. More may wait behind it: the next entry is preceded by a look again.
#[cold]
#[inline(never)]
pub(crate) fn serve_interrupt(pcpu: &mut Pcpu) {
    pcpu.patience = Patience::NEW;
    if let Some(vector) = poll_interrupt(&mut pcpu.irqs_off) {
        irq::handle(pcpu, vector);
        pcpu.patience.end();
    }
}
