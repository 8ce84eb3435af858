//! Descriptors of segments, and the segments that are loaded from them. Intel SDM vol. 3A, "Segment Descriptors".

use super::{TaskFault, TaskMemory};
use crate::addr::Gva;
use crate::x86::access::{ACCESSED, BUSY, CODE, CODE_OR_DATA, PRESENT, WRITABLE};

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    pub selector: u16,
    pub base: u64,
    /// The limit in bytes.
    pub limit: u32,
    /// Access rights: type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15, unusable 16.
    pub access: u32,
}

const UNUSABLE: u32 = 1 << 16;
const BIG: u32 = 1 << 14;
const GRANULAR: u32 = 1 << 15;
/// A bit of the type of a code or data segment.
const CONFORMING_OR_DOWN: u32 = 4;
/// Types of system segments.
const LDT: u32 = 2;
const TSS16: u32 = 1;
const TSS32: u32 = 9;

impl Segment {
    /// A register that holds no segment yet.
    pub(super) const fn unusable(selector: u16) -> Self {
        Self {
            selector,
            base: 0,
            limit: 0,
            access: UNUSABLE,
        }
    }

    /// CS of a task whose code segment could not be loaded: nothing can be executed, and its privilege is the
    /// selector's.
    pub(super) const fn no_code(selector: u16) -> Self {
        let kind = PRESENT | CODE_OR_DATA | CODE | WRITABLE | ACCESSED | BIG;
        Self {
            access: kind | level(selector),
            ..Self::unusable(selector)
        }
    }

    /// SS of a task whose stack could not be loaded, where CS has that selector.
    pub(super) const fn no_stack(selector: u16, code: u16) -> Self {
        Self {
            access: UNUSABLE | level(code),
            ..Self::unusable(selector)
        }
    }

    /// True for a register that holds no segment.
    pub(super) const fn is_unusable(&self) -> bool {
        self.access & UNUSABLE != 0
    }

    /// As virtual-8086 mode has it.
    pub(super) const fn virtual_8086(selector: u16) -> Self {
        Self {
            selector,
            base: (selector as u64) << 4,
            limit: 0xFFFF,
            access: 0xF3,
        }
    }

    /// True for a 32-bit TSS.
    pub(super) const fn is_32_bit_tss(&self) -> bool {
        self.access & 8 != 0
    }

    /// True for a stack that ESP points to, not SP.
    pub(super) const fn is_big(&self) -> bool {
        self.access & BIG != 0
    }

    /// True where `bytes` at `offset` lie in it.
    pub(super) const fn holds(&self, offset: u32, bytes: u32) -> bool {
        let Some(last) = offset.checked_add(bytes - 1) else {
            return false;
        };
        if self.access & (CODE | CONFORMING_OR_DOWN) == CONFORMING_OR_DOWN {
            let top = if self.is_big() { u32::MAX } else { 0xFFFF };
            offset > self.limit && last <= top
        } else {
            last <= self.limit
        }
    }
}

/// A segment descriptor of 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Descriptor(u64);

impl Descriptor {
    /// In the form of [`Segment::access`].
    const fn access(self) -> u32 {
        low(self.0 >> 40) & 0xF0FF
    }
    pub(super) const fn base(self) -> u32 {
        low(self.0 >> 16) & 0xFF_FFFF | low(self.0 >> 32) & 0xFF00_0000
    }
    /// In bytes.
    pub(super) const fn limit(self) -> u32 {
        let limit = low(self.0) & 0xFFFF | low(self.0 >> 32) & 0xF_0000;
        if self.access() & GRANULAR != 0 {
            limit << 12 | 0xFFF
        } else {
            limit
        }
    }
    const fn dpl(self) -> u16 {
        ((self.0 >> 45) & 3) as u16
    }
    const fn has(self, bits: u32) -> bool {
        self.access() & bits == bits
    }
    const fn is_system(self, kind: u32) -> bool {
        self.access() & (CODE_OR_DATA | 0xF) == kind
    }
    pub(super) const fn is_present(self) -> bool {
        self.has(PRESENT)
    }
    pub(super) const fn is_ldt(self) -> bool {
        self.is_system(LDT)
    }
    /// True for a TSS, busy or not as asked.
    pub(super) const fn is_tss(self, is_busy: bool) -> bool {
        let busy = if is_busy { BUSY } else { 0 };
        self.is_system(TSS16 | busy) || self.is_system(TSS32 | busy)
    }
    pub(super) const fn is_32_bit_tss(self) -> bool {
        self.has(8)
    }
    pub(super) const fn with_busy(self, is_busy: bool) -> Self {
        const BIT: u64 = (BUSY as u64) << 40;
        Self(if is_busy { self.0 | BIT } else { self.0 & !BIT })
    }
    pub(super) const fn accessed(self) -> Self {
        Self(self.0 | (ACCESSED as u64) << 40)
    }

    /// True where it can be in CS of a task, with that selector.
    pub(super) const fn fits_code(self, selector: u16) -> bool {
        let rpl = selector & 3;
        let is_conforming = self.has(CONFORMING_OR_DOWN);
        self.has(CODE_OR_DATA | CODE) && (self.dpl() == rpl || is_conforming && self.dpl() < rpl)
    }
    /// True where it can be in SS.
    pub(super) const fn fits_stack(self, selector: u16, cpl: u16) -> bool {
        self.has(CODE_OR_DATA | WRITABLE)
            && !self.has(CODE)
            && selector & 3 == cpl
            && self.dpl() == cpl
    }
    /// True where it can be in DS, ES, FS, GS.
    pub(super) const fn fits_data(self, selector: u16, cpl: u16) -> bool {
        let is_readable = !self.has(CODE) || self.has(WRITABLE);
        let is_conforming = self.has(CODE | CONFORMING_OR_DOWN);
        self.has(CODE_OR_DATA)
            && is_readable
            && (is_conforming || self.dpl() >= cpl && self.dpl() >= selector & 3)
    }

    /// The segment that it describes.
    pub(super) const fn segment(self, selector: u16) -> Segment {
        Segment {
            selector,
            base: self.base() as u64,
            limit: self.limit(),
            access: self.access(),
        }
    }
    /// The task that it describes, as the current one.
    pub(super) const fn tss(self, selector: u16) -> Segment {
        self.with_busy(true).segment(selector)
    }
}

/// The privilege of a selector, in access rights.
const fn level(selector: u16) -> u32 {
    ((selector & 3) as u32) << 5
}

/// The low half.
const fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// Where a descriptor lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot(Gva);

impl Slot {
    /// That of `selector`, which must be one of the GDT; `None` where it is not, or past its end, or null.
    pub(super) fn in_gdt((base, limit): (u64, u16), selector: u16) -> Option<Self> {
        let is_ok = selector & 4 == 0 && selector & !3 != 0;
        let fits = u32::from(selector | 7) <= u32::from(limit);
        (is_ok && fits).then(|| Self::at(base, selector))
    }

    /// That of `selector`, in the table that it names.
    pub(super) fn find(gdt: (u64, u16), ldt: &Segment, selector: u16) -> Option<Self> {
        if selector & 4 == 0 {
            return Self::in_gdt(gdt, selector);
        }
        let fits = ldt.access & UNUSABLE == 0 && u32::from(selector | 7) <= ldt.limit;
        fits.then(|| Self::at(ldt.base, selector))
    }

    const fn at(base: u64, selector: u16) -> Self {
        Self(Gva::new(
            base.wrapping_add((selector & !7) as u64) & 0xFFFF_FFFF,
        ))
    }

    pub(super) fn read(self, mem: &impl TaskMemory, cr3: u64) -> Result<Descriptor, TaskFault> {
        let mut bytes = [0; 8];
        mem.read(cr3, self.0, &mut bytes)?;
        Ok(Descriptor(u64::from_le_bytes(bytes)))
    }

    pub(super) fn write(
        self,
        mem: &mut impl TaskMemory,
        cr3: u64,
        descriptor: Descriptor,
    ) -> Result<(), TaskFault> {
        mem.write(cr3, self.0, &descriptor.0.to_le_bytes())
    }
}
