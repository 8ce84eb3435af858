//! The CPU as the hypervisor uses it: descriptor tables, control registers, exceptions.
//!
//! UNSAFETY: loads descriptor tables, segment and control registers.
//!
//! [`init_boot_cpu`] comes before anything that can lock, log or fault usefully. Next: `exception` for what faults do,
//! `crate::irq` for interrupts.
#![expect(unsafe_code)]

pub mod amd;
mod exception;
pub mod msr;
pub mod stacks;

pub(crate) use exception::{ExceptionFrame, name as exception_name};

use hv_core::msr::number::IA32_MCG_STATUS;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::idt::InterruptDescriptorTable;
use x86_64::structures::tss::TaskStateSegment;

use crate::percpu::{self, IrqsOff, PerCpu};
use crate::sync::Once;
use stacks::{BOOT_STACKS, ExceptionStacks};

/// One CPU's descriptor tables; they stay where the CPU was told they are.
struct Tables {
    gdt: GlobalDescriptorTable,
    selectors: [SegmentSelector; 3],
}

static BOOT_CPU: PerCpu = PerCpu::new(0);
static BOOT_TSS: Once<TaskStateSegment> = Once::new();
static BOOT_TABLES: Once<Tables> = Once::new();
/// The same for every CPU: stubs find per-CPU data through GS.
static IDT: Once<InterruptDescriptorTable> = Once::new();

/// The selector of the data segment, which comes second.
pub(crate) const DATA_SELECTOR: u16 = 2 << 3;

/// Slots of the TSS's table of stacks.
const NMI_STACK: u16 = 0;
const DOUBLE_FAULT_STACK: u16 = 1;
const MACHINE_CHECK_STACK: u16 = 2;

/// Gives the CPU that boots its per-CPU block, descriptor tables and control registers. Interrupts are off from the
/// first instruction of the image on; the proof of it starts here.
///
/// # Panics
/// When called a second time.
pub fn init_boot_cpu() -> IrqsOff {
    assert!(!BOOT_TABLES.is_completed(), "the boot CPU starts once");
    percpu::init(&BOOT_CPU);
    let tss = BOOT_TSS.call_once(|| task_state(BOOT_STACKS.exception_stacks()));
    let tables = BOOT_TABLES.call_once(|| Tables::new(tss));
    let idt = IDT.call_once(interrupt_table);
    load(tables, idt);
    init_control_registers();
    // SAFETY: the boot code disabled interrupts, and this runs once on this CPU (asserted above).
    unsafe { IrqsOff::new() }
}

/// What CPUID says at boot. Each CPUID is an exit where the hypervisor itself runs in a guest: keep what is asked
/// twice.
#[must_use]
pub fn cpuid() -> raw_cpuid::CpuId<raw_cpuid::CpuIdReaderNative> {
    raw_cpuid::CpuId::new()
}

/// Runs the host's machine-check handler, for a machine check that arrived in a guest. It ends the host.
pub fn machine_check() {
    // SAFETY: vector 18 has the host's handler, with a stack of its own.
    unsafe { core::arch::asm!("int 18") };
}

/// Asks CPUID: EAX, EBX, ECX, EDX.
#[must_use]
pub fn cpuid_leaf(leaf: u32, subleaf: u32) -> [u32; 4] {
    let answer = raw_cpuid::native_cpuid::cpuid_count(leaf, subleaf);
    [answer.eax, answer.ebx, answer.ecx, answer.edx]
}

fn task_state(stacks: ExceptionStacks) -> TaskStateSegment {
    let mut tss = TaskStateSegment::new();
    for (slot, stack) in [
        (NMI_STACK, stacks.nmi),
        (DOUBLE_FAULT_STACK, stacks.double_fault),
        (MACHINE_CHECK_STACK, stacks.machine_check),
    ] {
        tss.interrupt_stack_table[usize::from(slot)] = VirtAddr::new(stack);
    }
    tss
}

impl Tables {
    fn new(tss: &'static TaskStateSegment) -> Self {
        let mut gdt = GlobalDescriptorTable::new();
        let selectors = [
            gdt.append(Descriptor::kernel_code_segment()),
            gdt.append(Descriptor::kernel_data_segment()),
            gdt.append(Descriptor::tss_segment(tss)),
        ];
        assert_eq!(selectors[1].0, DATA_SELECTOR, "the data segment is second");
        Self { gdt, selectors }
    }
}

fn interrupt_table() -> InterruptDescriptorTable {
    let mut idt = InterruptDescriptorTable::new();
    let address = |vector| VirtAddr::new(exception::stub(vector));
    macro_rules! exceptions {
        ($($vector:literal => $entry:ident),* $(,)?) => {
            // SAFETY: the stubs of entry.S save and restore all registers and end in IRETQ.
            $( let _options = unsafe { idt.$entry.set_handler_addr(address($vector)) }; )*
        };
    }
    exceptions! {
        0 => divide_error, 1 => debug, 3 => breakpoint, 4 => overflow, 5 => bound_range_exceeded, 6 => invalid_opcode,
        7 => device_not_available, 10 => invalid_tss, 11 => segment_not_present, 12 => stack_segment_fault,
        13 => general_protection_fault, 14 => page_fault, 16 => x87_floating_point, 17 => alignment_check,
        19 => simd_floating_point, 20 => virtualization, 21 => cp_protection_exception,
    }
    // SAFETY: as above; the stack is this exception's own.
    let nmi = unsafe { idt.non_maskable_interrupt.set_handler_addr(address(2)) };
    // SAFETY: slot 0 of the TSS holds the stack.
    unsafe { nmi.set_stack_index(NMI_STACK) };
    // SAFETY: as above; the handler of a double fault never returns.
    let double_fault = unsafe { idt.double_fault.set_handler_addr(address(8)) };
    // SAFETY: slot 1 of the TSS holds the stack.
    unsafe { double_fault.set_stack_index(DOUBLE_FAULT_STACK) };
    // SAFETY: as above; the handler of a machine check never returns.
    let machine_check = unsafe { idt.machine_check.set_handler_addr(address(18)) };
    // SAFETY: slot 2 of the TSS holds the stack.
    unsafe { machine_check.set_stack_index(MACHINE_CHECK_STACK) };
    for vector in 32..=255u8 {
        // SAFETY: the stubs of entry.S save and restore what they use and end in IRETQ.
        let _options = unsafe { idt[vector].set_handler_addr(address(vector)) };
    }
    idt
}

/// Makes the tables the CPU's own.
fn load(tables: &'static Tables, idt: &'static InterruptDescriptorTable) {
    let [code, data, task] = tables.selectors;
    tables.gdt.load();
    // SAFETY: the selector is of a 64-bit code segment of the table just loaded.
    unsafe { CS::set_reg(code) };
    // SAFETY: the selector is of a data segment of the table just loaded.
    unsafe { SS::set_reg(data) };
    // SAFETY: as above.
    unsafe { DS::set_reg(data) };
    // SAFETY: as above.
    unsafe { ES::set_reg(data) };
    // SAFETY: the selector is of an available TSS that lives for ever.
    unsafe { load_tss(task) };
    idt.load();
}

/// Sets what the hypervisor relies on: writes to read-only pages fault, the whole of the FPU state can be saved for
/// guests, and a machine check comes to its handler.
fn init_control_registers() {
    let cr0 = (Cr0::read()
        | Cr0Flags::WRITE_PROTECT
        | Cr0Flags::NUMERIC_ERROR
        | Cr0Flags::MONITOR_COPROCESSOR)
        - (Cr0Flags::EMULATE_COPROCESSOR
            | Cr0Flags::TASK_SWITCHED
            | Cr0Flags::NOT_WRITE_THROUGH
            | Cr0Flags::CACHE_DISABLE);
    // SAFETY: paging and protection stay on.
    unsafe { Cr0::write(cr0) };
    let mut cr4 = Cr4::read()
        | Cr4Flags::PAGE_GLOBAL
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE
        | Cr4Flags::MACHINE_CHECK_EXCEPTION;
    if cpuid()
        .get_feature_info()
        .is_some_and(|features| features.has_xsave())
    {
        cr4 |= Cr4Flags::OSXSAVE;
    }
    forget_machine_check();
    // SAFETY: paging stays as it is; the hypervisor has no floating-point state of its own.
    unsafe { Cr4::write(cr4) };
}

/// Ends a machine check that the last reset has left as being served: the next would be a shutdown, and a guest's
/// shutdown would be taken for one.
fn forget_machine_check() {
    if msr::rdmsr_safe(IA32_MCG_STATUS).is_some_and(|status| status != 0) {
        // SAFETY: says that no machine check is being served, which is so.
        let _is_taken = unsafe { msr::wrmsr_safe(IA32_MCG_STATUS, 0) };
    }
}
