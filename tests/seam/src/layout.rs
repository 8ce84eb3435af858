//! Where what is in a guest's memory: 64-bit code at level 0, linear addresses those of its memory up to 2 MiB.
//!
//! A vector's handler halts, which is how a check sees that it was entered, and returns once it is stepped over. Above
//! [`MEMORY_BYTES`] the guest has page tables but no memory.

use hv_hw::virt::{
    DescriptorTable, SEGMENT_CS, SEGMENT_LDTR, SEGMENT_SS, SEGMENT_TR, SEGMENT_UNUSABLE, Segment,
    SystemRegs,
};

/// Bytes of the guest's memory, from address 0.
pub(crate) const MEMORY_BYTES: u64 = 64 << 12;
/// Its page tables, from the highest.
pub(crate) const TABLES: [u64; 4] = [0x1000, 0x2000, 0x3000, 0x4000];
/// The lowest table, with an entry a page.
pub(crate) const PAGE_TABLE: u64 = TABLES[3];
const GDT: u64 = 0x5000;
pub(crate) const IDT: u64 = 0x6000;
const TSS: u64 = 0x7000;
/// The page of the stack, and its end.
pub(crate) const STACK: u64 = 0x9000;
pub(crate) const STACK_TOP: u64 = 0xA000;
pub(crate) const CODE: u64 = 0x1_0000;
const HANDLERS: u64 = 0x1_8000;
/// Pages for data.
pub(crate) const DATA: u64 = 0x2_0000;
pub(crate) const MORE_DATA: u64 = 0x2_1000;
/// A linear address with a page table entry but no memory.
pub(crate) const NOWHERE: u64 = 0x8_0000;
/// A second set of page tables, for who wants one.
pub(crate) const OTHER_TABLES: [u64; 4] = [0x3_1000, 0x3_2000, 0x3_3000, 0x3_4000];

/// Bits of a page table entry.
pub(crate) const PRESENT: u64 = 1;
pub(crate) const WRITABLE: u64 = 2;
pub(crate) const USER: u64 = 4;
pub(crate) const ACCESSED: u64 = 1 << 5;
pub(crate) const DIRTY: u64 = 1 << 6;

/// Bits of CR4 that guests here are offered: DE, PAE, PGE, OSFXSR, OSXMMEXCPT, OSXSAVE.
pub(crate) const CR4_OFFERED: u64 = 0x4_06A8;
pub(crate) const CR4_OSXSAVE: u64 = 1 << 18;
pub(crate) const CR0_AM: u64 = 1 << 18;
pub(crate) const RFLAGS_TF: u64 = 1 << 8;
pub(crate) const RFLAGS_IF: u64 = 1 << 9;
pub(crate) const RFLAGS_AC: u64 = 1 << 18;
/// RFLAGS after reset.
pub(crate) const RFLAGS_FIXED: u64 = 2;

/// The first byte of vector's handler.
pub(crate) const fn handler(vector: u8) -> u64 {
    HANDLERS + vector as u64 * 16
}

/// Says whether the CPU pushes an error code for it.
const fn has_error(vector: u64) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21)
}

/// Writes everything but the code to run by `write`: address and words.
pub(crate) fn fill(mut write: impl FnMut(u64, &[u64])) {
    write_tables(TABLES, &mut write);
    let tss = 0x0000_8900_0000_0067 | TSS << 16;
    let gdt = [
        0,
        0x00AF_9B00_0000_FFFF,
        0x00CF_9300_0000_FFFF,
        tss,
        0,
        0x00CF_F300_0000_FFFF,
        0x00AF_FB00_0000_FFFF,
    ];
    write(GDT, &gdt);
    for vector in 0..=255u8 {
        let at = handler(vector);
        let gate = [(at & 0xFFFF) | 8 << 16 | 0x8E00 << 32 | (at >> 16) << 48, 0];
        write(IDT + u64::from(vector) * 16, &gate);
        // hlt; add rsp, 8 where there is an error code; iretq
        let code = if has_error(u64::from(vector)) {
            0x00CF_4808_C483_48F4
        } else {
            0x00CF_48F4
        };
        write(at, &[code]);
    }
    // the stack of level 0
    write(TSS, &[STACK_TOP << 32]);
}

/// Writes page tables at `places` that map the first 2 MiB to themselves.
pub(crate) fn write_tables(places: [u64; 4], mut write: impl FnMut(u64, &[u64])) {
    const ALL: u64 = PRESENT | WRITABLE | USER;
    let [top, second, third, lowest] = places;
    for (table, next) in [(top, second), (second, third), (third, lowest)] {
        write(table, &[next | ALL]);
    }
    for page in 0..512 {
        write(lowest + page * 8, &[page << 12 | ALL]);
    }
}

/// The registers to begin with.
pub(crate) fn registers() -> SystemRegs {
    let data = Segment {
        selector: 0x10,
        base: 0,
        limit: u32::MAX,
        access: 0xC093,
    };
    let mut segments = [data; 8];
    segments[SEGMENT_CS] = Segment {
        selector: 8,
        access: 0xA09B,
        ..data
    };
    segments[SEGMENT_LDTR] = Segment {
        access: SEGMENT_UNUSABLE,
        ..Segment::default()
    };
    segments[SEGMENT_TR] = Segment {
        selector: 0x18,
        base: TSS,
        limit: 0x67,
        access: 0x8B,
    };
    SystemRegs {
        cr0: 0x8001_0033,
        cr3: TABLES[0],
        cr4: 0x620,
        efer: 0xD01,
        rip: CODE,
        rsp: STACK_TOP,
        rflags: RFLAGS_FIXED,
        dr7: 0x400,
        segments,
        gdtr: DescriptorTable {
            base: GDT,
            limit: 7 * 8 - 1,
        },
        idtr: DescriptorTable {
            base: IDT,
            limit: 0xFFF,
        },
        ..SystemRegs::default()
    }
    .else_reset()
}

/// Makes the registers those of code at level 3.
pub(crate) fn at_level_3(regs: &mut SystemRegs) {
    regs.segments[SEGMENT_CS].selector = 0x33;
    regs.segments[SEGMENT_CS].access = 0xA0FB;
    regs.segments[SEGMENT_SS].selector = 0x2B;
    regs.segments[SEGMENT_SS].access = 0xC0F3;
}
