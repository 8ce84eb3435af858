//! Hardware task switches: out of long mode into 32-bit protected mode, where one task starts another by a [`Way`] and
//! what either saw is written down.
//!
//! The first task (TSS at [`FIRST`]) does the way's one instruction; the second (TSS at [`SECOND`]) notes its registers
//! and goes back. Tables are made anew for each run. An exception that has no task ends the run and is noted.

// UNSAFETY: leaves long mode and comes back, over tables that serve nothing else.
#![expect(unsafe_code, reason = "sequences of exact instructions, page tables")]

mod code;

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::insn;

/// Selector of the first task's TSS.
pub const FIRST: u16 = 0x18;
/// Selector of the second task's TSS.
pub const SECOND: u16 = 0x20;
/// Selector of a task gate to the second task.
const GATE: u32 = 0x28;
/// Selector of the TSS of a third task, which takes #TS of one that has no code to take it in.
const THIRD: u16 = 0x30;
/// Selector behind the end of the GDT.
pub const NO_SEGMENT: u16 = 0x38;
const CODE: u32 = 8;
const DATA: u32 = 0x10;
/// Index of the words of a TSS.
const TSS_CR3: usize = 7;
const TSS_EIP: usize = 8;
const TSS_EFLAGS: usize = 9;
const TSS_GPRS: usize = 10;
const TSS_SEGMENTS: usize = 18;
/// Index of ESP among the general registers.
const ESP: usize = 4;
const TSS_TRAP: usize = 25;
/// Where only the second task's page tables have something: the page with the mark.
const ALIAS: u32 = 0xC000_0000;
const PRESENT: u64 = 1;
const WRITABLE_LARGE: u32 = 0x83;
/// What can be read by the second task's page tables only.
static MARK: AtomicU32 = AtomicU32::new(0x4D41_524B);

/// How the second task is started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// JMP to its TSS.
    Jump,
    /// JMP to a task gate.
    JumpGate,
    /// CALL of its TSS.
    Call,
    /// CALL of a task gate.
    CallGate,
    /// INT n, two bytes.
    Interrupt,
    /// INT3, one byte.
    Breakpoint,
    /// INT1.
    Debug,
    /// INTO.
    Overflow,
    /// #GP with [`NO_SEGMENT`] as its error code.
    Protection,
    /// #DF: #PF on a stack that is not there. Needs paging.
    DoubleFault,
}

/// Which page tables the tasks have, each its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paging {
    /// None.
    Off,
    /// 32-bit, of 4 MiB pages.
    Bits32,
    /// PAE.
    Pae,
}

/// What is wrong with the second task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// Nothing.
    Nothing,
    /// Its descriptor is not present.
    Absent,
    /// Its TSS is a byte too short.
    Short,
    /// DS is a selector behind the end of the GDT.
    Segment,
    /// CS is a segment of data; #TS has a task.
    Code,
    /// It asks for a debug exception when it begins.
    Trap,
}

/// What was seen.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Record {
    /// EAX ECX EDX EBX ESP EBP ESI EDI as the second task began.
    pub gprs: [u32; 8],
    /// EFLAGS.
    pub eflags: u32,
    /// TR.
    pub tr: u32,
    /// CR0.
    pub cr0: u32,
    /// CR3.
    pub cr3: u32,
    /// ES CS SS DS FS GS.
    pub segments: [u32; 6],
    /// Types of the two TSSs' descriptors while the second task ran.
    pub types: [u32; 2],
    /// The error code on its stack, where the way has one.
    pub error: u32,
    /// What it read by its own page tables.
    pub mark: u32,
    /// How often the first task was come back to.
    pub returns: u32,
    /// TR then.
    pub back_tr: u32,
    /// EBX, ESI, EDI, EBP then.
    pub back_gprs: [u32; 4],
    /// An exception that the way is not: its vector (`u32::MAX` for none).
    pub vector: u32,
    /// Its error code.
    pub vector_error: u32,
    /// Where it came.
    pub vector_eip: u32,
    /// TR then.
    pub vector_tr: u32,
    /// DR6 then.
    pub vector_dr6: u32,
    /// Where the first task was left, by its TSS.
    pub left_at: u32,
    /// Where the second was left, by its TSS.
    pub second_left_at: u32,
    /// EFLAGS in the second's TSS.
    pub second_eflags: u32,
    /// The link in the second's TSS.
    pub link: u32,
    /// Types of the two TSSs' descriptors at the end.
    pub end_types: [u32; 2],
}

/// What a run should come to, by addresses.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// The way's instruction.
    pub at: u32,
    /// Behind it.
    pub behind: u32,
    /// The second task's first instruction.
    pub second: u32,
    /// Behind the second task's last.
    pub second_end: u32,
    /// What the second's general registers are: those of its TSS, and an error code on its stack.
    pub gprs: [u32; 8],
    /// CR3 of the second task, 0 without paging.
    pub cr3: u32,
    /// What the second reads by its own page tables, 0 without paging.
    pub mark: u32,
}

/// EBX, ESI, EDI, EBP of the first task.
pub const FIRST_GPRS: [u32; 4] = [0x1B1B_0001, 0x1515_0002, 0x1D1D_0003, 0x1B9B_0004];

#[repr(C, align(4096))]
struct Tables {
    directories: [[u32; 1024]; 2],
    /// Of the second task's alias, with PAE.
    pae_directory: [u64; 512],
    pdpts: [[u64; 4]; 2],
    gdt: [u64; 7],
    idt: [u64; 129],
    first: [u32; 26],
    second: [u32; 26],
    third: [u32; 26],
    /// Of the third task, and of the second.
    stacks: [[u32; 256]; 2],
    record: Record,
    /// The way's instruction, in 32-bit code.
    way: u32,
    /// How the second task leaves.
    leave: u32,
    /// CR0, CR3, CR4 of the first task.
    modes: [u32; 3],
    /// Whether there is an error code to pop.
    has_error: u32,
    /// Where the mark is for the second task, or 0.
    alias: u32,
    /// Where the first task goes on instead, or 0.
    resume: u32,
    gdtr: Pointer,
    idtr: Pointer,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Pointer {
    limit: u16,
    base: [u16; 4],
}

struct TablesCell(UnsafeCell<MaybeUninit<Tables>>);
// SAFETY: one vCPU; written by `run` and the code that it calls.
unsafe impl Sync for TablesCell {}

static TABLES: TablesCell = TablesCell(UnsafeCell::new(MaybeUninit::zeroed()));

/// Starts the second task by `way` and comes back, by IRET where it is nested, else by JMP.
#[must_use]
pub fn run(way: Way, paging: Paging, flaw: Flaw) -> (Record, Expected) {
    let tables = TABLES.0.get().cast::<Tables>();
    // SAFETY: zeroes are such tables; nobody else refers to them, until the code below uses them.
    let expected = unsafe { &mut *tables }.fill(way, paging, flaw);
    code::task_run();
    // SAFETY: as above; the code is done.
    let tables = unsafe { &mut *tables };
    tables.read_back();
    (tables.record, expected)
}

impl Tables {
    fn fill(&mut self, way: Way, paging: Paging, flaw: Flaw) -> Expected {
        let (at, behind) = way.place();
        let is_nested = !matches!(way, Way::Jump | Way::JumpGate);
        let is_fault = matches!(way, Way::Protection | Way::DoubleFault);
        self.way = way.entry();
        self.leave = address(if is_nested {
            &raw const code::task_leave_iret
        } else {
            &raw const code::task_leave_jump
        });
        self.has_error = u32::from(is_fault);
        self.resume = if is_fault { behind } else { 0 };
        self.fill_descriptors(flaw);
        self.fill_gates(way, flaw);
        let cr3 = self.fill_pages(paging);
        self.modes[1] = cr3[0];
        let mut gprs = self.fill_tasks(flaw, cr3);
        gprs[ESP] -= 4 * self.has_error;
        self.record = Record {
            vector: u32::MAX,
            ..Default::default()
        };
        Expected {
            at,
            behind,
            second: address(&raw const code::task_second),
            second_end: address(if is_nested {
                &raw const code::task_iret_end
            } else {
                &raw const code::task_jump_end
            }),
            gprs,
            cr3: cr3[1],
            mark: match paging {
                Paging::Off => 0,
                Paging::Bits32 | Paging::Pae => MARK.load(Relaxed),
            },
        }
    }

    fn fill_descriptors(&mut self, flaw: Flaw) {
        let access = if flaw == Flaw::Absent { 0x09 } else { 0x89 };
        let limit = if flaw == Flaw::Short { 102 } else { 103 };
        self.gdt = [
            0,
            0x00CF_9A00_0000_FFFF,
            0x00CF_9200_0000_FFFF,
            tss_descriptor(&raw const self.first as u64, 0x89, 103),
            tss_descriptor(&raw const self.second as u64, access, limit),
            task_gate(SECOND),
            tss_descriptor(&raw const self.third as u64, 0x89, 103),
        ];
        self.gdtr = pointer(&raw const self.gdt as u64, size_of_val(&self.gdt));
        self.idtr = pointer(&raw const self.idt as u64, size_of_val(&self.idt));
    }

    /// Interrupt gates to stubs, but for the way's own vector, which is the second task's.
    fn fill_gates(&mut self, way: Way, flaw: Flaw) {
        let stubs = address(&raw const code::task_stubs);
        for (vector, gate) in (0..).zip(&mut self.idt[..32]) {
            let stub = u64::from(stubs + vector * 16);
            *gate = stub & 0xFFFF | u64::from(CODE) << 16 | 0x8E00 << 32 | (stub >> 16) << 48;
        }
        if let Some(vector) = way.vector() {
            self.idt[vector] = task_gate(SECOND);
        }
        if flaw == Flaw::Code {
            self.idt[INVALID_TSS] = task_gate(THIRD);
        }
    }

    /// Page tables of both tasks. Returns where they are.
    fn fill_pages(&mut self, paging: Paging) -> [u32; 2] {
        const CR0: u32 = 0x33;
        const PG_WP: u32 = 0x8001_0000;
        const PSE: u32 = 0x10;
        const PAE: u32 = 0x20;
        let mark = MARK.as_ptr() as u64 as u32;
        let (bit, cr4, size, roots) = match paging {
            Paging::Off => (0, 0, 0, [0; 2]),
            Paging::Bits32 => (
                PG_WP,
                PSE,
                1 << 22,
                self.directories.each_ref().map(|at| address(at)),
            ),
            Paging::Pae => (
                PG_WP,
                PAE,
                1 << 21,
                self.pdpts.each_ref().map(|at| address(at)),
            ),
        };
        self.modes = [CR0 | bit, 0, cr4];
        self.alias = match size {
            0 => 0,
            _ => ALIAS | mark & (size - 1),
        };
        let page = mark & !size.wrapping_sub(1) | WRITABLE_LARGE;
        for directory in &mut self.directories {
            for (index, entry) in (0u32..).zip(&mut directory[..768]) {
                *entry = index << 22 | WRITABLE_LARGE;
            }
        }
        self.directories[1][768] = page;
        self.pae_directory[0] = u64::from(page);
        for pdpt in &mut self.pdpts {
            *pdpt = core::array::from_fn(|index| identity_directory(index) | PRESENT);
            pdpt[3] = 0;
        }
        self.pdpts[1][3] = &raw const self.pae_directory as u64 | PRESENT;
        roots
    }

    /// The state that the second task begins in. Returns its general registers.
    fn fill_tasks(&mut self, flaw: Flaw, cr3: [u32; 2]) -> [u32; 8] {
        let [third_top, top] = self
            .stacks
            .each_ref()
            .map(|at| address(at.as_ptr_range().end));
        let gprs = [
            0xA0A0_0001,
            0xC1C1_0002,
            0xD2D2_0003,
            0xB3B3_0004,
            top,
            0xB5B5_0006,
            0x5151_0007,
            0xD1D1_0008,
        ];
        self.first = [0; 26];
        self.first[TSS_CR3] = cr3[0];
        self.third = [0; 26];
        self.third[TSS_CR3] = cr3[0];
        self.third[TSS_EIP] = address(&raw const code::task_third);
        self.third[TSS_GPRS + ESP] = third_top;
        let segments = [DATA, CODE, DATA, DATA, 0, DATA];
        self.third[TSS_SEGMENTS..TSS_SEGMENTS + 6].copy_from_slice(&segments);
        let tss = &mut self.second;
        *tss = [0; 26];
        tss[TSS_CR3] = cr3[1];
        tss[TSS_EIP] = address(&raw const code::task_second);
        tss[TSS_EFLAGS] = 2;
        tss[TSS_GPRS..TSS_GPRS + 8].copy_from_slice(&gprs);
        tss[TSS_SEGMENTS..TSS_SEGMENTS + 6].copy_from_slice(&segments);
        if flaw == Flaw::Segment {
            tss[TSS_SEGMENTS + 3] = u32::from(NO_SEGMENT);
        }
        if flaw == Flaw::Code {
            tss[TSS_SEGMENTS + 1] = DATA;
        }
        tss[TSS_TRAP] = 104 << 16 | u32::from(flaw == Flaw::Trap);
        gprs
    }

    fn read_back(&mut self) {
        if self.resume == 0 {
            self.record.left_at = self.first[TSS_EIP];
        }
        self.record.second_left_at = self.second[TSS_EIP];
        self.record.second_eflags = self.second[TSS_EFLAGS];
        self.record.link = self.second[0];
        self.record.end_types = [self.gdt[3], self.gdt[4]].map(|gate| (gate >> 40) as u32 & 0x1F);
    }
}

const INVALID_TSS: usize = 10;

const fn task_gate(selector: u16) -> u64 {
    (selector as u64) << 16 | 0x8500 << 32
}

const fn tss_descriptor(base: u64, access: u64, limit: u64) -> u64 {
    limit | (base & 0xFF_FFFF) << 16 | access << 40 | (base >> 24) << 56
}

/// All that these tables name lies in the image, below 4 GiB.
fn address<T: ?Sized>(of: *const T) -> u32 {
    of.cast::<u8>() as u64 as u32
}

const fn pointer(base: u64, bytes: usize) -> Pointer {
    Pointer {
        limit: bytes as u16 - 1,
        base: [base as u16, (base >> 16) as u16, 0, 0],
    }
}

/// The directory of 2 MiB pages that the image's own page tables have for a GiB.
fn identity_directory(gib: usize) -> u64 {
    let entry = |table: u64, index: usize| {
        let at = (table & !0xFFF) as *const u64;
        // SAFETY: tables lie below 4 GiB, which are mapped where they are; nothing but the CPU writes them.
        unsafe { at.wrapping_add(index).read_volatile() }
    };
    entry(entry(insn::cr3(), 0), gib) & !0xFFF
}

impl Way {
    const fn vector(self) -> Option<usize> {
        match self {
            Self::Jump | Self::JumpGate | Self::Call | Self::CallGate => None,
            Self::Debug => Some(1),
            Self::Breakpoint => Some(3),
            Self::Overflow => Some(4),
            Self::DoubleFault => Some(8),
            Self::Protection => Some(13),
            Self::Interrupt => Some(0x80),
        }
    }

    /// The code that does it.
    fn entry(self) -> u32 {
        address(match self {
            Self::Jump => &raw const code::task_jump,
            Self::JumpGate => &raw const code::task_jump_gate,
            Self::Call => &raw const code::task_call,
            Self::CallGate => &raw const code::task_call_gate,
            Self::Interrupt => &raw const code::task_interrupt,
            Self::Breakpoint => &raw const code::task_breakpoint,
            Self::Debug => &raw const code::task_debug,
            Self::Overflow => &raw const code::task_overflow,
            Self::Protection => &raw const code::task_protection,
            Self::DoubleFault => &raw const code::task_double_fault,
        })
    }

    /// The instruction itself, and behind it.
    fn place(self) -> (u32, u32) {
        let (before, length) = match self {
            Self::Jump | Self::JumpGate | Self::Call | Self::CallGate => (0, 7),
            Self::Interrupt => (0, 2),
            Self::Breakpoint | Self::Debug => (0, 1),
            Self::Overflow => (4, 1),
            Self::Protection => (5, 2),
            Self::DoubleFault => (7, 1),
        };
        let at = self.entry() + before;
        // the stack is put back by the code behind it
        (at, at + length)
    }
}
