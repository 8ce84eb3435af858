//! Switches between tasks in flat memory: there and back, and every refusal.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;

/// Memory without paging; one page of it may be missing.
struct Flat {
    bytes: Vec<u8>,
    missing: Option<u64>,
}

impl Flat {
    fn check(&self, at: Gva, bytes: usize, error: u32) -> Result<usize, TaskFault> {
        let first = at.as_u64();
        let end = first + bytes as u64;
        let is_missing = self
            .missing
            .is_some_and(|page| first < (page + 1) << 12 && end > page << 12);
        if is_missing || end > self.bytes.len() as u64 {
            return Err(TaskFault::Page { address: at, error });
        }
        Ok(usize::try_from(first).unwrap())
    }
    fn word(&self, at: u64) -> u32 {
        let at = usize::try_from(at).unwrap();
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).unwrap();
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn descriptor(&self, selector: u16) -> u64 {
        let at = GDT.0 + u64::from(selector & !7);
        u64::from(self.word(at)) | u64::from(self.word(at + 4)) << 32
    }
}

impl TaskMemory for Flat {
    fn read(&self, _cr3: u64, from: Gva, to: &mut [u8]) -> Result<(), TaskFault> {
        let at = self.check(from, to.len(), 0)?;
        to.copy_from_slice(&self.bytes[at..at + to.len()]);
        Ok(())
    }
    fn write(&mut self, _cr3: u64, to: Gva, from: &[u8]) -> Result<(), TaskFault> {
        let at = self.check(to, from.len(), 2)?;
        self.bytes[at..at + from.len()].copy_from_slice(from);
        Ok(())
    }
}

const GDT: (u64, u16) = (0x1000, 0x7F);
const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1B;
const DATA3: u16 = 0x23;
/// The task that runs, 32-bit; one to go to, 32-bit; one, 16-bit; its LDT.
const OLD: u16 = 0x28;
const NEW: u16 = 0x30;
const NEW16: u16 = 0x38;
const LDT0: u16 = 0x40;
/// A stack of 64 KiB.
const DATA16: u16 = 0x48;
/// In that LDT.
const LOCAL_DATA: u16 = 0x0C;
const BUSY: u64 = 2 << 40;
const PRESENT: u64 = 0x80 << 40;

/// Flat segments, and three tasks.
fn memory() -> Flat {
    let mut mem = Flat {
        bytes: vec![0; 0x8000],
        missing: None,
    };
    let system = |base: u64, limit: u64, access: u64| limit | base << 16 | access << 40;
    let gdt = [
        0,
        0x00CF_9A00_0000_FFFF,
        0x00CF_9200_0000_FFFF,
        0x00CF_FA00_0000_FFFF,
        0x00CF_F200_0000_FFFF,
        system(0x2000, 103, 0x8B),
        system(0x3000, 103, 0x89),
        system(0x4000, 43, 0x81),
        system(0x5000, 15, 0x82),
        0x0000_9200_0000_FFFF,
    ];
    for (index, entry) in (0..).zip(gdt) {
        mem.put(GDT.0 + index * 8, &u64::to_le_bytes(entry));
    }
    mem.put(0x5008, &0x00CF_9200_0000_FFFF_u64.to_le_bytes());
    write_task(&mut mem, &TSS32, 0x3000, (DATA0, LDT0));
    write_task(&mut mem, &TSS16, 0x4000, (DATA16, 0));
    mem
}

/// A task at rest, in kernel mode.
fn write_task(mem: &mut Flat, layout: &Layout, base: u64, (stack, ldt): (u16, u16)) {
    let mut tss = [0; 104];
    for (index, word) in [0x1234, 0x202, 1, 2, 3, 4, 0x7000, 6, 7, 8]
        .into_iter()
        .enumerate()
    {
        layout.set(&mut tss, layout.eip + index * layout.width, word);
    }
    for (index, selector) in [DATA0, CODE0, stack, DATA0].into_iter().enumerate() {
        let at = layout.segments + index * layout.width;
        layout.set(&mut tss, at, u32::from(selector));
    }
    layout.set(&mut tss, layout.ldt, u32::from(ldt));
    mem.put(base, &tss[..layout.bytes]);
}

fn flat(selector: u16, access: u32) -> Segment {
    Segment {
        selector,
        base: 0,
        limit: u32::MAX,
        access,
    }
}

/// The running task, with these registers, in kernel mode or not.
fn running(gprs: [u32; 8], eip: u32, is_user: bool) -> TaskRegs {
    let (code, data) = if is_user {
        (flat(CODE3, 0xC0FB), flat(DATA3, 0xC0F3))
    } else {
        (flat(CODE0, 0xC09B), flat(DATA0, 0xC093))
    };
    let none = Segment::unusable(0);
    let tr = Segment {
        selector: OLD,
        base: 0x2000,
        limit: 103,
        access: 0x8B,
    };
    TaskRegs {
        gprs,
        eip,
        eflags: 0x202,
        cr0: 0x11,
        cr3: 0,
        dr7: 0x7FF,
        segments: [data, code, data, data, none, none, none, tr],
        gdt: GDT,
    }
}

fn exception(vector: u8, error: u16) -> TaskFault {
    let error = u32::from(error);
    TaskFault::Exception { vector, error }
}

#[test]
fn new_task_begins_where_its_tss_says() {
    let mut mem = memory();
    let mut regs = running([9; 8], 0x100, true);
    assert_eq!(switch(&mut regs, &mut mem, NEW, TaskSource::Jump), Ok(None));
    assert_eq!((regs.eip, regs.eflags), (0x1234, 0x202));
    assert_eq!(regs.gprs, [1, 2, 3, 4, 0x7000, 6, 7, 8]);
    assert_eq!(regs.segments[CS], flat(CODE0, 0xC09B));
    assert_eq!(regs.segments[SS], flat(DATA0, 0xC093));
    assert_eq!(regs.segments[LDTR].base, 0x5000);
    assert_eq!(
        (regs.segments[TR].selector, regs.segments[TR].access),
        (NEW, 0x8B)
    );
    assert_eq!((regs.cr0 & CR0_TS, regs.dr7), (CR0_TS, 0x6AA));
    // one task is busy, the other is not
    assert_eq!(mem.descriptor(OLD) & BUSY, 0);
    assert_eq!(mem.descriptor(NEW) & BUSY, BUSY);
    // and what the old one was doing is in its TSS
    assert_eq!((mem.word(0x2020), mem.word(0x2024)), (0x100, 0x202));
    assert_eq!(mem.word(0x2000 + 0x4C), u32::from(CODE3));
}

#[test]
fn paging_moves_to_the_new_tasks_tables() {
    let mut mem = memory();
    mem.put(0x301C, &0x9000_u32.to_le_bytes());
    let mut regs = running([0; 8], 0, false);
    regs.cr0 |= CR0_PG;
    assert_eq!(switch(&mut regs, &mut mem, NEW, TaskSource::Call), Ok(None));
    assert_eq!(regs.cr3, 0x9000);
}

#[test]
fn events_error_code_is_on_the_new_tasks_stack() {
    let mut mem = memory();
    let mut regs = running([0; 8], 0, true);
    let gate = TaskSource::Gate(Some(0xABCD));
    assert_eq!(switch(&mut regs, &mut mem, NEW, gate), Ok(None));
    assert_eq!(regs.gprs[RSP], 0x6FFC);
    assert_eq!(mem.word(0x6FFC), 0xABCD);
    assert_eq!(regs.eflags & EFLAGS_NT, EFLAGS_NT);
    assert_eq!(mem.word(0x3000), u32::from(OLD), "the link back");
}

#[test]
fn task_of_16_bits_has_half_of_everything() {
    let mut mem = memory();
    let mut regs = running([0x1_0002; 8], 0x5_6789, false);
    assert_eq!(
        switch(&mut regs, &mut mem, NEW16, TaskSource::Call),
        Ok(None)
    );
    assert_eq!((regs.eip, regs.gprs[0]), (0x1234, 0xFFFF_0001));
    assert_eq!(regs.segments[4], Segment::unusable(0));
    assert_eq!(switch(&mut regs, &mut mem, OLD, TaskSource::Iret), Ok(None));
    assert_eq!((regs.eip, regs.gprs[0]), (0x5_6789, 0x1_0002));
}

#[test]
fn task_may_ask_for_a_trap_at_its_begin() {
    let mut mem = memory();
    mem.put(0x3064, &[1]);
    let mut regs = running([0; 8], 0, false);
    let begun = switch(&mut regs, &mut mem, NEW, TaskSource::Jump);
    assert_eq!((begun, regs.eip), (Ok(Some(TaskFault::Trap)), 0x1234));
}

#[test]
fn virtual_8086_task_has_segments_of_paragraphs() {
    let mut mem = memory();
    mem.put(0x3024, &0x2_0202_u32.to_le_bytes());
    mem.put(0x304C, &0xF000_u32.to_le_bytes());
    let mut regs = running([0; 8], 0, false);
    assert_eq!(switch(&mut regs, &mut mem, NEW, TaskSource::Jump), Ok(None));
    assert_eq!(regs.segments[CS], Segment::virtual_8086(0xF000));
    assert_eq!(regs.segments[CS].base, 0xF_0000);
}

/// What the old task gets, which then goes on as if nothing had been.
#[test]
fn selector_that_names_no_task_faults_in_the_old_one() {
    type Change = fn(&mut Flat, &mut TaskRegs);
    let nothing: Change = |_, _| {};
    let cases: [(u16, TaskSource, Change, TaskFault); 10] = [
        (0, TaskSource::Jump, nothing, exception(13, 0)),
        (0, TaskSource::Iret, nothing, exception(10, 0)),
        (NEW | 4, TaskSource::Call, nothing, exception(13, NEW | 4)),
        (0x80, TaskSource::Call, nothing, exception(13, 0x80)),
        (CODE0, TaskSource::Call, nothing, exception(13, CODE0)),
        // busy to go to, not busy to come back to
        (OLD, TaskSource::Call, nothing, exception(13, OLD)),
        (NEW, TaskSource::Iret, nothing, exception(10, NEW)),
        (
            NEW,
            TaskSource::Jump,
            |mem, _| {
                let absent = mem.descriptor(NEW) & !PRESENT;
                mem.put(GDT.0 + u64::from(NEW), &absent.to_le_bytes());
            },
            exception(11, NEW),
        ),
        (
            NEW,
            TaskSource::Jump,
            |mem, _| mem.put(GDT.0 + u64::from(NEW), &[102]),
            exception(10, NEW),
        ),
        (
            NEW,
            TaskSource::Jump,
            |mem, _| mem.missing = Some(3),
            TaskFault::Page {
                address: Gva::new(0x3000),
                error: 0,
            },
        ),
    ];
    for (selector, source, change, expected) in cases {
        let mut mem = memory();
        let mut regs = running([5; 8], 0x100, false);
        change(&mut mem, &mut regs);
        let (bytes, before) = (mem.bytes.clone(), regs);
        assert_eq!(switch(&mut regs, &mut mem, selector, source), Err(expected));
        assert_eq!(regs, before, "{selector:#x} {source:?}");
        assert_eq!(mem.bytes, bytes, "{selector:#x} {source:?}");
    }
}

/// What the new task gets, whose registers they are by then.
#[test]
fn segment_that_does_not_fit_faults_in_the_new_task() {
    let cases = [
        (0x4C, 0, Some(exception(10, 0))),
        (0x4C, DATA0, Some(exception(10, DATA0))),
        (0x4C, CODE0 | 3, Some(exception(10, CODE0))),
        (0x50, 0, Some(exception(10, 0))),
        (0x50, CODE0, Some(exception(10, CODE0))),
        (0x50, DATA3, Some(exception(10, DATA3 & !3))),
        (0x54, 0x78, Some(exception(10, 0x78))),
        (0x54, OLD, Some(exception(10, OLD))),
        (0x54, 0x14, Some(exception(10, 0x14))),
        (0x54, LOCAL_DATA, None),
        (0x54, 0, None),
        (0x60, LOCAL_DATA, Some(exception(10, LOCAL_DATA))),
        (0x60, DATA0, Some(exception(10, DATA0))),
    ];
    for (at, selector, expected) in cases {
        let mut mem = memory();
        mem.put(0x3000 + at, &u32::from(selector).to_le_bytes());
        let mut regs = running([5; 8], 0x100, false);
        let begun = switch(&mut regs, &mut mem, NEW, TaskSource::Jump);
        assert_eq!(begun, Ok(expected), "{selector:#x} at {at:#x}");
        assert_eq!((regs.eip, regs.segments[TR].selector), (0x1234, NEW));
        assert!(can_enter(&regs), "{selector:#x} at {at:#x}");
    }
}

#[test]
fn virtual_8086_task_without_its_ldt_can_be_entered() {
    let mut mem = memory();
    mem.put(0x3024, &(EFLAGS_VM | 2).to_le_bytes());
    mem.put(0x3060, &u32::from(DATA0).to_le_bytes());
    let mut regs = running([5; 8], 0x100, false);
    let begun = switch(&mut regs, &mut mem, NEW, TaskSource::Jump);
    assert_eq!(begun, Ok(Some(exception(10, DATA0))));
    assert!(can_enter(&regs));
}

/// True where VM entry takes CS and SS. Intel SDM vol. 3C, "Checks on Guest Segment Registers".
fn can_enter(regs: &TaskRegs) -> bool {
    if regs.eflags & EFLAGS_VM != 0 {
        let fits = |at: &Segment| {
            at.access == 0xF3 && at.limit == 0xFFFF && at.base == u64::from(at.selector) << 4
        };
        return regs.segments[..6].iter().all(fits);
    }
    let (code, stack) = (regs.segments[CS].access, regs.segments[SS].access);
    let (code_level, stack_level) = ((code >> 5) & 3, (stack >> 5) & 3);
    // present, code, accessed, not a system segment
    let is_code = code & 0x99 == 0x99 && code & 1 << 16 == 0;
    let is_conforming = code & 4 != 0;
    is_code && (code_level == stack_level || is_conforming && code_level < stack_level)
}

proptest! {
    /// The task that calls another, or that an event interrupts, goes on as it was when that one returns.
    #[test]
    fn return_brings_back_what_was_left(
        gprs in any::<[u32; 8]>(), eip in any::<u32>(), is_user in any::<bool>(), error in any::<Option<u32>>(),
        is_call in any::<bool>(), is_wide in any::<bool>(),
    ) {
        let mut mem = memory();
        let mut regs = running(gprs, eip, is_user);
        let before = regs;
        let source = if is_call { TaskSource::Call } else { TaskSource::Gate(error) };
        let to = if is_wide { NEW } else { NEW16 };
        prop_assert_eq!(switch(&mut regs, &mut mem, to, source), Ok(None));
        prop_assert_eq!(mem.descriptor(OLD) & BUSY, BUSY);
        prop_assert_eq!(switch(&mut regs, &mut mem, OLD, TaskSource::Iret), Ok(None));
        let expected = TaskRegs { cr0: before.cr0 | CR0_TS, dr7: before.dr7 & !DR7_LOCAL, ..before };
        prop_assert_eq!(regs, expected);
        prop_assert_eq!(mem.descriptor(to) & BUSY, 0);
    }

    #[test]
    fn any_memory_and_any_selector_end_in_an_answer(
        bytes in proptest::collection::vec(any::<u8>(), 0x400), selector in any::<u16>(), kind in 0usize..4, limit in any::<u16>(),
    ) {
        let mut mem = Flat { bytes: vec![0; 0x2_0000], missing: None };
        mem.put(GDT.0, &bytes);
        let source = [TaskSource::Call, TaskSource::Iret, TaskSource::Jump, TaskSource::Gate(Some(1))][kind];
        let mut regs = running([0; 8], 0, false);
        regs.gdt.1 = limit;
        for index in 0..128 {
            let tr = regs.segments[TR];
            let _ = switch(&mut regs, &mut mem, selector.wrapping_add(index * 8), source);
            prop_assert!(regs.segments[TR] == tr || can_enter(&regs), "{:x?}", regs);
        }
    }
}
