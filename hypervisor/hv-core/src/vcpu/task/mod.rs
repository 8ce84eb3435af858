//! Hardware task switches, which the CPU does not carry out for a guest: what CALL, JMP, IRET or an event does by a
//! task gate or a TSS.
//!
//! 32-bit kernels have their double fault delivered so. Source: Intel SDM vol. 3A, "Task Switching",
//! "Exception Conditions Checked During a Task Switch"; vol. 3C, "Treatment of Task Switches": the CPU has checked the
//! gate, and privileges. Accessed and dirty bits of the guest's page tables are not set; nor are NMIs blocked in a task
//! that one has entered.

mod segment;
#[cfg(test)]
mod tests;

use crate::addr::Gva;
use crate::x86::gpr::RSP;
use crate::x86::vector::{INVALID_TSS, NOT_PRESENT, PROTECTION, STACK};
use crate::x86::{CR0_PG, CR0_TS, RFLAGS_FIXED, RFLAGS_NT, RFLAGS_VM};
pub use segment::Segment;
use segment::{Descriptor, Slot};

/// What a task switch changes of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TaskRegs {
    /// EAX ECX EDX EBX ESP EBP ESI EDI.
    pub gprs: [u32; 8],
    /// Where the task goes on.
    pub eip: u32,
    pub eflags: u32,
    pub cr0: u64,
    pub cr3: u64,
    pub dr7: u64,
    /// ES CS SS DS FS GS LDTR TR.
    pub segments: [Segment; 8],
    /// Base and limit of the GDT.
    pub gdt: (u64, u16),
}

/// What brought the switch about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskSource {
    /// CALL: the new task is nested.
    Call,
    /// IRET: back to the task that this one is nested in.
    Iret,
    Jump,
    /// An event by a gate of the IDT, with the error code that it has: the new task is nested.
    Gate(Option<u32>),
}

/// Why a switch, or the new task's beginning, failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskFault {
    /// An exception with an error code.
    Exception {
        vector: u8,
        /// Error code: mostly a selector.
        error: u32,
    },
    Page {
        address: Gva,
        error: u32,
    },
    /// #DB: the new task asked for it; DR6.BT is due.
    Trap,
}

/// The guest's linear memory, as its kernel reaches it.
pub trait TaskMemory {
    /// Reads through the page tables at `cr3`.
    ///
    /// # Errors
    /// [`TaskFault::Page`], mostly.
    fn read(&self, cr3: u64, from: Gva, to: &mut [u8]) -> Result<(), TaskFault>;
    /// Writes through the page tables at `cr3`.
    ///
    /// # Errors
    /// [`TaskFault::Page`], mostly.
    fn write(&mut self, cr3: u64, to: Gva, from: &[u8]) -> Result<(), TaskFault>;
}

/// Bits of EFLAGS that a task may choose.
const EFLAGS_DEFINED: u32 = 0x003F_7FD5;
const EFLAGS_FIXED: u32 = eflags(RFLAGS_FIXED);
const EFLAGS_NT: u32 = eflags(RFLAGS_NT);
const EFLAGS_VM: u32 = eflags(RFLAGS_VM);

/// The lower half of RFLAGS.
const fn eflags(rflags: u64) -> u32 {
    let [a, b, c, d, ..] = rflags.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// L0 to L3 and LE, which are a task's own.
const DR7_LOCAL: u64 = 0x155;
/// Indices of [`TaskRegs::segments`].
const CS: usize = 1;
const SS: usize = 2;
const LDTR: usize = 6;
const TR: usize = 7;
/// The order in which segments are loaded: CS decides on privileges.
const LOADED: [usize; 6] = [CS, SS, 0, 3, 4, 5];

/// Where things are in a TSS.
struct Layout {
    /// Bytes of a field.
    width: usize,
    /// Bytes of the whole.
    bytes: usize,
    cr3: Option<usize>,
    /// EIP; EFLAGS and general registers follow.
    eip: usize,
    /// ES; the other segment registers follow.
    segments: usize,
    /// How many segment registers there are.
    count: usize,
    ldt: usize,
    /// The word whose bit 0 asks for a trap.
    trap: Option<usize>,
}

const TSS32: Layout = Layout {
    width: 4,
    bytes: 104,
    cr3: Some(0x1C),
    eip: 0x20,
    segments: 0x48,
    count: 6,
    ldt: 0x60,
    trap: Some(0x64),
};
const TSS16: Layout = Layout {
    width: 2,
    bytes: 44,
    cr3: None,
    eip: 0x0E,
    segments: 0x22,
    count: 4,
    ldt: 0x2A,
    trap: None,
};

impl Layout {
    const fn of(is_32_bit: bool) -> &'static Self {
        if is_32_bit { &TSS32 } else { &TSS16 }
    }
    fn get(&self, tss: &[u8; 104], at: usize) -> u32 {
        let mut word = [0; 4];
        let field = tss.get(at..at + self.width).unwrap_or_default();
        word[..field.len()].copy_from_slice(field);
        u32::from_le_bytes(word)
    }
    fn set(&self, tss: &mut [u8; 104], at: usize, value: u32) {
        if let Some(field) = tss.get_mut(at..at + self.width) {
            field.copy_from_slice(&value.to_le_bytes()[..self.width]);
        }
    }
}

/// Carries out the switch to the task whose TSS has `selector`. `regs.eip` is where the old task goes on.
///
/// Where the new task has begun, what comes back is the exception that it begins with, if any.
///
/// # Errors
/// [`TaskFault`] of the old task, which goes on: nothing of `regs` has changed.
pub fn switch(
    regs: &mut TaskRegs,
    mem: &mut impl TaskMemory,
    selector: u16,
    source: TaskSource,
) -> Result<Option<TaskFault>, TaskFault> {
    let descriptor = new_task(regs, mem, selector, source)?;
    let new = Layout::of(descriptor.is_32_bit_tss());
    let old = Layout::of(regs.segments[TR].is_32_bit_tss());
    let old_base = Gva::new(regs.segments[TR].base);
    let new_base = Gva::new(u64::from(descriptor.base()));
    let mut from = [0; 104];
    let mut to = [0; 104];
    mem.read(regs.cr3, old_base, &mut from[..old.bytes])?;
    mem.read(regs.cr3, new_base, &mut to[..new.bytes])?;
    let is_nested = matches!(source, TaskSource::Call | TaskSource::Gate(_));
    save(regs, old, &mut from, source);
    mem.write(regs.cr3, old_base, &from[..old.bytes])?;
    if is_nested {
        mem.write(
            regs.cr3,
            new_base,
            &regs.segments[TR].selector.to_le_bytes(),
        )?;
    } else {
        set_busy(regs, mem, regs.segments[TR].selector, false)?;
    }
    if source != TaskSource::Iret {
        set_busy(regs, mem, selector, true)?;
    }
    load(regs, (new, &to), is_nested);
    regs.segments[TR] = descriptor.tss(selector);
    let begun = begin(regs, mem, source, (new, &to));
    fill_gaps(regs);
    Ok(begun.err())
}

/// The descriptor of the new task, checked.
fn new_task(
    regs: &TaskRegs,
    mem: &impl TaskMemory,
    selector: u16,
    source: TaskSource,
) -> Result<Descriptor, TaskFault> {
    let is_back = source == TaskSource::Iret;
    let bad = selector_fault(if is_back { INVALID_TSS } else { PROTECTION }, selector);
    let slot = Slot::in_gdt(regs.gdt, selector).ok_or(bad)?;
    let descriptor = slot.read(mem, regs.cr3)?;
    if !descriptor.is_tss(is_back) {
        return Err(bad);
    }
    if !descriptor.is_present() {
        return Err(selector_fault(NOT_PRESENT, selector));
    }
    let bytes = Layout::of(descriptor.is_32_bit_tss()).bytes;
    if (descriptor.limit() as usize) < bytes - 1 {
        return Err(selector_fault(INVALID_TSS, selector));
    }
    Ok(descriptor)
}

const fn selector_fault(vector: u8, selector: u16) -> TaskFault {
    TaskFault::Exception {
        vector,
        error: (selector & !3) as u32,
    }
}

fn set_busy(
    regs: &TaskRegs,
    mem: &mut impl TaskMemory,
    selector: u16,
    is_busy: bool,
) -> Result<(), TaskFault> {
    // a TR from before the guest shrank its GDT has no descriptor to mark
    let Some(slot) = Slot::in_gdt(regs.gdt, selector) else {
        return Ok(());
    };
    let descriptor = slot.read(mem, regs.cr3)?;
    slot.write(mem, regs.cr3, descriptor.with_busy(is_busy))
}

/// Writes what the old task was doing into its TSS.
fn save(regs: &TaskRegs, layout: &Layout, tss: &mut [u8; 104], source: TaskSource) {
    let eflags = match source {
        TaskSource::Iret => regs.eflags & !EFLAGS_NT,
        _ => regs.eflags,
    };
    let words = [regs.eip, eflags].into_iter().chain(regs.gprs);
    for (index, word) in words.enumerate() {
        layout.set(tss, layout.eip + index * layout.width, word);
    }
    for (index, segment) in regs.segments[..layout.count].iter().enumerate() {
        let at = layout.segments + index * layout.width;
        layout.set(tss, at, u32::from(segment.selector));
    }
}

/// Loads what the new task was doing, but for the hidden parts of its segments.
fn load(regs: &mut TaskRegs, (layout, tss): (&Layout, &[u8; 104]), is_nested: bool) {
    if let Some(at) = layout.cr3
        && regs.cr0 & CR0_PG != 0
    {
        regs.cr3 = u64::from(layout.get(tss, at));
    }
    let word = |index: usize| layout.get(tss, layout.eip + index * layout.width);
    // a 16-bit task leaves upper halves as ones
    let upper = if layout.width == 2 { 0xFFFF_0000 } else { 0 };
    regs.eip = word(0);
    regs.eflags = word(1) & EFLAGS_DEFINED | EFLAGS_FIXED;
    if is_nested {
        regs.eflags |= EFLAGS_NT;
    }
    for (index, register) in regs.gprs.iter_mut().enumerate() {
        *register = word(2 + index) | upper;
    }
    for (index, segment) in regs.segments[..6].iter_mut().enumerate() {
        let is_kept = index < layout.count;
        let selector = if is_kept {
            layout.get(tss, layout.segments + index * layout.width)
        } else {
            0
        };
        *segment = Segment::unusable(low_half(selector));
    }
    regs.segments[LDTR] = Segment::unusable(low_half(layout.get(tss, layout.ldt)));
    regs.cr0 |= CR0_TS;
    regs.dr7 &= !DR7_LOCAL;
}

const fn low_half(word: u32) -> u16 {
    let [low, high, ..] = word.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// What is done and checked in the new task: its LDT, its segments, the error code on its stack, its trap.
fn begin(
    regs: &mut TaskRegs,
    mem: &mut impl TaskMemory,
    source: TaskSource,
    (layout, tss): (&Layout, &[u8; 104]),
) -> Result<(), TaskFault> {
    let is_virtual_8086 = regs.eflags & EFLAGS_VM != 0;
    if is_virtual_8086 {
        for segment in &mut regs.segments[..6] {
            *segment = Segment::virtual_8086(segment.selector);
        }
    }
    load_ldt(regs, mem)?;
    if !is_virtual_8086 {
        for index in LOADED {
            load_segment(regs, mem, index)?;
        }
    }
    if let TaskSource::Gate(Some(error)) = source {
        push(regs, mem, layout.width, error)?;
    }
    let asks_for_trap = layout.trap.is_some_and(|at| layout.get(tss, at) & 1 != 0);
    if asks_for_trap {
        return Err(TaskFault::Trap);
    }
    Ok(())
}

/// Has CS and SS hold what a VM entry takes where they could not be loaded: the exception that says so is delivered
/// first, and loads others.
fn fill_gaps(regs: &mut TaskRegs) {
    let code = regs.segments[CS];
    if code.is_unusable() {
        regs.segments[CS] = Segment::no_code(code.selector);
    }
    let stack = regs.segments[SS];
    if stack.is_unusable() {
        regs.segments[SS] = Segment::no_stack(stack.selector, code.selector);
    }
}

fn load_ldt(regs: &mut TaskRegs, mem: &impl TaskMemory) -> Result<(), TaskFault> {
    let selector = regs.segments[LDTR].selector;
    if selector & !3 == 0 {
        return Ok(());
    }
    let bad = selector_fault(INVALID_TSS, selector);
    let slot = Slot::in_gdt(regs.gdt, selector).ok_or(bad)?;
    let descriptor = slot.read(mem, regs.cr3)?;
    if !descriptor.is_ldt() || !descriptor.is_present() {
        return Err(bad);
    }
    regs.segments[LDTR] = descriptor.segment(selector);
    Ok(())
}

/// Loads the hidden part of a segment register by its selector.
fn load_segment(
    regs: &mut TaskRegs,
    mem: &mut impl TaskMemory,
    index: usize,
) -> Result<(), TaskFault> {
    let selector = regs.segments[index].selector;
    let bad = selector_fault(INVALID_TSS, selector);
    if selector & !3 == 0 {
        return if index == CS || index == SS {
            Err(bad)
        } else {
            Ok(())
        };
    }
    let ldt = &regs.segments[LDTR];
    let slot = Slot::find(regs.gdt, ldt, selector).ok_or(bad)?;
    let descriptor = slot.read(mem, regs.cr3)?;
    // the selector in CS says what the privilege level will be
    let cpl = regs.segments[CS].selector & 3;
    let is_fit = match index {
        CS => descriptor.fits_code(selector),
        SS => descriptor.fits_stack(selector, cpl),
        _ => descriptor.fits_data(selector, cpl),
    };
    if !is_fit {
        return Err(bad);
    }
    if !descriptor.is_present() {
        let vector = if index == SS { STACK } else { NOT_PRESENT };
        return Err(selector_fault(vector, selector));
    }
    let descriptor = descriptor.accessed();
    slot.write(mem, regs.cr3, descriptor)?;
    regs.segments[index] = descriptor.segment(selector);
    Ok(())
}

/// Pushes an error code onto the new task's stack.
fn push(
    regs: &mut TaskRegs,
    mem: &mut impl TaskMemory,
    width: usize,
    error: u32,
) -> Result<(), TaskFault> {
    let stack = regs.segments[SS];
    let bytes = if width == 4 { 4 } else { 2 };
    let esp = regs.gprs[RSP].wrapping_sub(bytes);
    let (top, esp) = if stack.is_big() {
        (esp, esp)
    } else {
        (esp & 0xFFFF, regs.gprs[RSP] & 0xFFFF_0000 | esp & 0xFFFF)
    };
    if !stack.holds(top, bytes) {
        return Err(TaskFault::Exception {
            vector: STACK,
            error: 0,
        });
    }
    let linear = (stack.base.wrapping_add(u64::from(top))) & 0xFFFF_FFFF;
    mem.write(regs.cr3, Gva::new(linear), &error.to_le_bytes()[..width])?;
    regs.gprs[RSP] = esp;
    Ok(())
}
