//! Which interrupt a vCPU takes next: IRR, ISR, TMR and the priorities between them.
//!
//! Without virtual-interrupt delivery the core asks [`Lapic::deliverable`] before each entry, injects what it gets and
//! calls [`Lapic::acknowledge`]; where something waits for a lower TPR, [`Lapic::tpr_threshold`] makes the CPU exit in
//! time. With it, the CPU does all this, and [`Lapic::sync`] only says which requests are new and when the set of
//! vectors whose EOI must exit has changed.
//! Intel SDM vol. 3A, "Interrupt, Task, and Processor Priority"; vol. 3C, "Virtual-Interrupt Delivery".

use super::regs::Reg;
use super::{Delivery, Lapic};
use crate::device::message::Trigger;
use crate::device::posted::PostedInterrupts;
use crate::mem::SharedWords;

/// The end of an interrupt's handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eoi {
    pub vector: u8,
    /// True where the source waits to hear of it.
    pub is_level: bool,
}

/// What [`Lapic::sync`] brought in.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Synced {
    /// The highest vector new in the IRR, or 0: with [`Delivery::ByCpu`], it is [`InterruptStatus::raised`] by that.
    pub highest: u8,
    /// True where the EOI-exit bitmaps are to be loaded again from [`Lapic::eoi_exit_bitmap`].
    pub eoi_exits_changed: bool,
}

/// Of a CPU that delivers interrupts itself: the highest vectors requested and in service, or 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InterruptStatus {
    pub requested: u8,
    pub in_service: u8,
}

impl InterruptStatus {
    /// The same, after `vector` has been requested.
    #[must_use]
    #[inline]
    pub const fn raised(self, vector: u8) -> Self {
        let requested = if self.requested > vector {
            self.requested
        } else {
            vector
        };
        Self { requested, ..self }
    }
}

/// One of the three sets of 256 bits.
type Set = fn(u8) -> Reg;

impl<F: SharedWords> Lapic<F> {
    /// Moves what others have posted into the IRR, and tells what has been accepted since the last call. To be called
    /// with each entry; costs three loads where there is nothing.
    ///
    /// While the APIC is software-disabled, edges are lost as in hardware; a level, whose source holds its line, waits
    /// in the IRR.
    #[inline]
    pub fn sync<G: SharedWords>(&mut self, posted: &PostedInterrupts<G>) -> Synced {
        if self.is_in_sync(posted) {
            return Synced::default();
        }
        self.collect(posted);
        Synced {
            highest: core::mem::take(&mut self.raised),
            eoi_exits_changed: core::mem::take(&mut self.eoi_exits_changed),
        }
    }

    /// True where [`sync`](Self::sync) would find nothing: three loads.
    #[inline(always)]
    pub fn is_in_sync<G: SharedWords>(&self, posted: &PostedInterrupts<G>) -> bool {
        self.raised == 0 && !posted.is_waiting()
    }

    /// True where an interrupt may be requested. With [`Delivery::ByCpu`] the CPU knows, and this is false.
    #[inline(always)]
    pub fn has_requests(&self) -> bool {
        self.irr_words != 0 && self.config.delivery == Delivery::BySoftware
    }

    /// Accepts an interrupt that was not posted. Vectors below 16 are refused and noted as errors.
    #[cfg(test)]
    pub(super) fn accept(&mut self, vector: u8, trigger: Trigger) {
        if vector < crate::x86::FIRST_LEGAL_VECTOR {
            self.error(super::regs::esr::RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        match trigger {
            Trigger::Edge => self.accept_edge(vector),
            Trigger::Level => {
                let (word, bit) = position(vector);
                self.accept_word(word, bit, Trigger::Level);
            }
        }
    }

    /// As [`sync`](Self::sync), but leaves what it would tell for the next call: decides whether a halted vCPU wakes,
    /// by the vector that it would take with IF set.
    pub fn wakes_for<G: SharedWords>(&mut self, posted: &PostedInterrupts<G>) -> Option<u8> {
        if posted.is_waiting() {
            self.collect(posted);
        }
        self.deliverable()
    }

    /// The vector to take now, were the guest's IF set; `None` where nothing pending beats the processor priority. With
    /// [`Delivery::BySoftware`] it is the one to inject.
    #[inline]
    pub fn deliverable(&mut self) -> Option<u8> {
        if self.words(self.irr_words) == 0 {
            return None;
        }
        let vector = self.highest_pending()?;
        (vector >> 4 > self.processor_priority() >> 4 && self.is_enabled()).then_some(vector)
    }

    /// Moves `vector`, which [`deliverable`](Self::deliverable) gave, from requested to in service. To be called when
    /// the injection is certain.
    pub fn acknowledge(&mut self, vector: u8) {
        let (word, bit) = position(vector);
        self.page.fetch_and_u32(Reg::Irr(word).offset(), !bit);
        self.page.fetch_or_u32(Reg::Isr(word).offset(), bit);
        self.isr_words |= 1 << word;
    }

    /// Makes `vector` requested again instead of in service, because its delivery was interrupted and something else
    /// comes first ([`Redelivery::InjectAndKeep`](crate::vcpu::event::Redelivery)). Does nothing where it is not in
    /// service, as with a vector that went past the APIC. With [`Delivery::ByCpu`],
    /// [`interrupt_status`](Self::interrupt_status) is to be set after.
    pub fn take_back(&mut self, vector: u8) {
        let (word, bit) = position(vector);
        let before = self.page.fetch_and_u32(Reg::Isr(word).offset(), !bit);
        if before & bit != 0 {
            self.page.fetch_or_u32(Reg::Irr(word).offset(), bit);
            self.irr_words |= 1 << word;
        }
    }

    /// Ends the highest interrupt in service, as a write of the EOI register does; `None` where none is.
    pub fn eoi(&mut self) -> Option<Eoi> {
        let vector = self.highest_in_service()?;
        let (word, bit) = position(vector);
        self.page.fetch_and_u32(Reg::Isr(word).offset(), !bit);
        Some(self.eoi_exit(vector))
    }

    /// Tells about the EOI of `vector` after the CPU has carried it out and exited because its EOI-exit bit is set.
    pub fn eoi_exit(&self, vector: u8) -> Eoi {
        let (word, bit) = position(vector);
        Eoi {
            vector,
            is_level: self.get(Reg::Tmr(word)) & bit != 0,
        }
    }

    /// The threshold of the task priority: nonzero where a pending interrupt waits for nothing but a lower TPR, and
    /// then the class below which the guest's TPR must fall. Never above the current class, as VM entry demands.
    pub fn tpr_threshold(&mut self) -> u8 {
        if self.irr_words == 0 {
            return 0;
        }
        let Some(pending) = self.highest_pending() else {
            return 0;
        };
        let in_service = self.highest_in_service().unwrap_or(0);
        let class = pending >> 4;
        if class > in_service >> 4 && class <= self.cr8() {
            class
        } else {
            0
        }
    }

    /// The processor priority (PPR).
    pub fn processor_priority(&mut self) -> u8 {
        let task = self.get(Reg::Tpr).to_le_bytes()[0];
        let in_service = self.highest_in_service().unwrap_or(0);
        if task >> 4 >= in_service >> 4 {
            task
        } else {
            in_service & 0xF0
        }
    }

    /// Computes the status from the page: what it must be where the CPU has not kept it so far (a first entry, restored
    /// state).
    pub fn interrupt_status(&self) -> InterruptStatus {
        InterruptStatus {
            requested: self.highest(Reg::Irr, ALL_WORDS).unwrap_or(0),
            in_service: self.highest(Reg::Isr, ALL_WORDS).unwrap_or(0),
        }
    }

    /// The EOI-exit bitmaps: the vectors last accepted as level-triggered.
    pub fn eoi_exit_bitmap(&self) -> [u64; 4] {
        core::array::from_fn(|i| {
            let word = 2 * to_word(i);
            let low = u64::from(self.get(Reg::Tmr(word)));
            let high = u64::from(self.get(Reg::Tmr(word + 1)));
            high << 32 | low
        })
    }

    /// Accepts a legal vector.
    pub(super) fn accept_edge(&mut self, vector: u8) {
        let (word, bit) = position(vector);
        self.accept_word(word, bit, Trigger::Edge);
    }

    fn collect<G: SharedWords>(&mut self, posted: &PostedInterrupts<G>) {
        if let Some(set) = posted.take_edge() {
            self.accept_set(set, Trigger::Edge);
        }
        if let Some(set) = posted.take_level() {
            self.accept_set(set, Trigger::Level);
        }
    }

    #[inline]
    fn accept_set(&mut self, set: [u64; 4], trigger: Trigger) {
        for (pair, bits) in (0..).zip(set) {
            // most are empty
            if bits != 0 {
                self.accept_pair(pair, bits, trigger);
            }
        }
    }

    /// Accepts the bits of words `2 * pair` and the next.
    fn accept_pair(&mut self, pair: u8, bits: u64, trigger: Trigger) {
        for (word, bits) in (2 * pair..).zip(halves(bits)) {
            if bits != 0 {
                self.accept_word(word, bits, trigger);
            }
        }
    }

    /// Sets `bits` of word `word` in the IRR and their trigger in the TMR.
    fn accept_word(&mut self, word: u8, bits: u32, trigger: Trigger) {
        if trigger == Trigger::Edge && !self.is_enabled() {
            return;
        }
        let levels = self.get(Reg::Tmr(word));
        let wanted = match trigger {
            Trigger::Edge => levels & !bits,
            Trigger::Level => levels | bits,
        };
        if wanted != levels {
            self.set(Reg::Tmr(word), wanted);
            self.eoi_exits_changed = true;
        }
        self.page.fetch_or_u32(Reg::Irr(word).offset(), bits);
        self.irr_words |= 1 << word;
        self.raised = self.raised.max(top_vector(word, bits));
    }

    fn highest_pending(&mut self) -> Option<u8> {
        let found = self.highest(Reg::Irr, self.words(self.irr_words));
        self.irr_words = words_up_to(found, self.irr_words);
        found
    }

    fn highest_in_service(&mut self) -> Option<u8> {
        let found = self.highest(Reg::Isr, self.words(self.isr_words));
        self.isr_words = words_up_to(found, self.isr_words);
        found
    }

    /// The words to look at: those noted, or all where the CPU changes them behind our back.
    fn words(&self, noted: u8) -> u8 {
        match self.config.delivery {
            Delivery::BySoftware => noted,
            Delivery::ByCpu => ALL_WORDS,
        }
    }

    /// The highest vector of `set`, looking at the words in `words` only.
    fn highest(&self, set: Set, words: u8) -> Option<u8> {
        let mut left = words;
        while left != 0 {
            let word = 7 - to_word(left.leading_zeros() as usize);
            let bits = self.get(set(word));
            if bits != 0 {
                return Some(top_vector(word, bits));
            }
            left &= !(1 << word);
        }
        None
    }
}

const ALL_WORDS: u8 = 0xFF;

/// Narrows the noted words after a search that found `found`: the words above it are empty.
fn words_up_to(found: Option<u8>, noted: u8) -> u8 {
    match found {
        None => 0,
        Some(vector) => noted & (0xFF >> (7 - (vector >> 5))),
    }
}

/// The highest vector among the nonzero `bits` of word `word`.
fn top_vector(word: u8, bits: u32) -> u8 {
    let bit = 31 - bits.leading_zeros().to_le_bytes()[0];
    word << 5 | bit
}

/// The word that holds `vector`, and the bit in it.
const fn position(vector: u8) -> (u8, u32) {
    (vector >> 5, 1 << (vector & 31))
}

/// The lower and the upper 32 bits.
pub(super) fn halves(pair: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = pair.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

/// A number below 8 as the number of a word.
fn to_word(index: usize) -> u8 {
    index.to_le_bytes()[0] & 7
}
