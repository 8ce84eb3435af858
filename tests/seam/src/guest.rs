//! A guest for a check: a little memory behind second-stage tables, and vCPUs, of which one is in the CPU.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use hv_core::addr::{Gfn, Gpa, Mfn, MfnRange, PageOrder};
use hv_core::mem::SharedWords;
use hv_core::msr::{Passthrough, PassthroughList};
use hv_core::paging::PageTable;
use hv_core::paging::stage2::{Access, MemoryType, Stage2};
use hv_hw::direct_map::{self, DirectTables, SharedFrame};
use hv_hw::virt::{
    ApicAssist, ApicUpdate, Backend, Event, GuestRegs, IoBitmap, Rights, Stage2Root, SystemRegs,
    SystemSet, TscView, VcpuConfig, VcpuHw, VmExit, Waits,
};

use crate::layout::{self, CODE, MEMORY_BYTES};
use crate::report::Verdict;
use crate::start::Bench;
use crate::{check, check_eq};

/// A port that the guest reaches without an exit: the one that POST codes go to.
pub(crate) const OPEN_PORT: u16 = 0x80;
pub(crate) const SYSENTER_CS: u32 = 0x174;
pub(crate) const STAR: u32 = 0xC000_0081;
pub(crate) const LSTAR: u32 = 0xC000_0082;
pub(crate) const GS_BASE: u32 = 0xC000_0101;
pub(crate) const KERNEL_GS_BASE: u32 = 0xC000_0102;

/// Added to the TSC that the guest reads.
pub(crate) const TSC_OFFSET: u64 = 1 << 50;

/// Offset of the task priority in an APIC page.
const TASK_PRIORITY: usize = 0x80;
/// Offset of the first of eight registers of requested vectors, 16 bytes each.
const REQUESTED: usize = 0x200;

/// A guest.
pub(crate) struct Guest<'b, B: Backend> {
    pub(crate) bench: &'b mut Bench<B>,
    memory: MfnRange,
    stage2: PageTable<Stage2>,
    vcpus: Vec<(B::Vcpu, SharedFrame)>,
    current: usize,
    /// The event whose delivery the last exit interrupted.
    pub(crate) interrupted: Option<Event>,
}

/// What an interrupt or exception pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pushed {
    pub(crate) error: Option<u64>,
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) rsp: u64,
}

impl<'b, B: Backend> Guest<'b, B> {
    /// A guest with one vCPU, in the CPU and ready to run.
    pub(crate) fn new(bench: &'b mut Bench<B>) -> Self {
        let memory = bench
            .frames
            .block(PageOrder::new(6).expect("a small order"));
        let stage2 = PageTable::new(&mut bench.frames, PageOrder::SIZE_4K).expect("memory");
        let mut guest = Self {
            bench,
            memory,
            stage2,
            vcpus: Vec::new(),
            current: 0,
            interrupted: None,
        };
        for page in 0..MEMORY_BYTES >> 12 {
            guest.map(page << 12, memory.start + page, Access::Rwx);
        }
        layout::fill(|at, words| guest.write_words(at, words));
        guest.add_vcpu();
        guest.load(0);
        guest
    }

    /// Makes another vCPU; its number.
    pub(crate) fn add_vcpu(&mut self) -> usize {
        let Bench {
            backend,
            features,
            frames,
            ..
        } = &mut *self.bench;
        let mut ports = Box::new([0xFF; 8192]);
        ports[usize::from(OPEN_PORT / 8)] &= !1;
        let apic_page = frames.one();
        let vcpu = backend.vcpu(VcpuConfig {
            control_block: frames.one(),
            xsave_area: frames.one(),
            apic_page,
            msr_bitmap: frames.block(features.msr_bitmap),
            posted_interrupts: frames.one().base(),
            stage2: Stage2Root {
                table: self.stage2.root(),
            },
            rights: rights(
                IoBitmap::new(frames.block(features.io_bitmap), &ports),
                &passthrough(),
                false,
            ),
        });
        let page = SharedFrame::new(apic_page).expect("the frame is in the direct map");
        self.vcpus.push((vcpu, page));
        self.vcpus.len() - 1
    }

    /// Puts a vCPU that has not run yet into the CPU, with the registers to begin with.
    pub(crate) fn load(&mut self, number: usize) {
        self.current = number;
        let (vcpu, _) = &mut self.vcpus[number];
        vcpu.load(&self.bench.irqs_off);
        vcpu.set_system(&layout::registers(), SystemSet::SAVED);
    }

    /// Takes the vCPU out of the CPU, and puts another in.
    pub(crate) fn switch_to(&mut self, number: usize) {
        self.unload();
        self.current = number;
        self.vcpus[number].0.load(&self.bench.irqs_off);
    }

    /// Takes the vCPU out of the CPU.
    pub(crate) fn unload(&mut self) {
        self.vcpus[self.current].0.unload(&self.bench.irqs_off);
    }

    /// Has reads of the TSC exit, or not.
    pub(crate) fn intercept_tsc(&mut self, intercepts: bool) {
        let ports = self.bench.frames.block(self.bench.features.io_bitmap);
        let ports = IoBitmap::new(ports, &[0xFF; 8192]);
        self.vcpu()
            .set_rights(&rights(ports, &passthrough(), intercepts));
    }

    pub(crate) fn vcpu(&mut self) -> &mut B::Vcpu {
        &mut self.vcpus[self.current].0
    }

    /// The registers of the vCPU's local APIC.
    fn apic_page(&self) -> SharedFrame {
        self.vcpus[self.current].1
    }

    pub(crate) fn regs(&mut self) -> &mut GuestRegs {
        self.vcpu().regs()
    }

    /// Runs until the next exit that somebody has to do something about.
    pub(crate) fn enter(&mut self) -> VmExit {
        const MOST: usize = 8;
        for _ in 0..MOST {
            let (vcpu, _) = &mut self.vcpus[self.current];
            let exit = vcpu.enter(&mut self.bench.irqs_off);
            self.interrupted = vcpu.take_interrupted_event();
            if exit != VmExit::Nothing {
                return exit;
            }
        }
        VmExit::Nothing
    }

    /// Runs `code` from its start until the next exit.
    pub(crate) fn run(&mut self, code: &[u8]) -> VmExit {
        self.begin(code);
        self.enter()
    }

    /// Puts `code` where the guest goes on.
    pub(crate) fn begin(&mut self, code: &[u8]) {
        self.write(CODE, code);
        self.set(SystemSet::RIP, |regs| regs.rip = CODE);
    }

    /// Changes registers of `set`.
    pub(crate) fn set(&mut self, set: SystemSet, change: impl FnOnce(&mut SystemRegs)) {
        let mut regs = self.vcpu().system(set);
        change(&mut regs);
        self.vcpu().set_system(&regs, set);
    }

    pub(crate) fn system(&mut self, set: SystemSet) -> SystemRegs {
        self.vcpu().system(set)
    }

    /// Where it stands, as bytes from the start of the code.
    pub(crate) fn at(&mut self) -> u64 {
        self.vcpu().rip().wrapping_sub(CODE)
    }

    /// Sets whether interrupts are on.
    pub(crate) fn set_interrupts(&mut self, are_on: bool) {
        self.set(SystemSet::RFLAGS, |regs| {
            regs.rflags = if are_on {
                regs.rflags | layout::RFLAGS_IF
            } else {
                regs.rflags & !layout::RFLAGS_IF
            }
        });
    }

    pub(crate) fn deliver(&mut self, event: Event) {
        self.vcpu().deliver(Some(event), Waits::default());
    }

    pub(crate) fn wait_for(&mut self, waits: Waits) {
        self.vcpu().deliver(None, waits);
    }

    /// Requests an interrupt of the vCPU's local APIC, of which the hardware delivers them.
    pub(crate) fn request(&mut self, vector: u8) {
        debug_assert_eq!(self.vcpu().apic(), ApicAssist::Delivery);
        let register = REQUESTED + usize::from(vector / 32) * 16;
        self.apic_page().fetch_or_u32(register, 1 << (vector % 32));
        self.vcpu().update_apic(ApicUpdate::Requested(vector));
    }

    pub(crate) fn task_priority(&self) -> u8 {
        self.apic_page().load_u8(TASK_PRIORITY)
    }

    pub(crate) fn set_task_priority(&mut self, priority: u8) {
        self.apic_page().store_u8(TASK_PRIORITY, priority);
    }

    /// Maps the page at `gpa` to `frame`. What the CPU has cached is not dropped.
    pub(crate) fn map(&mut self, gpa: u64, frame: Mfn, access: Access) {
        let format = self.bench.features.stage2;
        let attr = format.attr(access, MemoryType::WriteBack);
        let flush = self.stage2.map(
            (&mut DirectTables, &mut self.bench.frames),
            Gfn::containing(Gpa::new(gpa)),
            1,
            (frame, attr),
        );
        // the table does nothing with what is flushed, as no frame of it is ever given back
        let _done = flush.expect("memory for tables").completed();
    }

    /// Takes the page away, with all that the CPU knows of it.
    pub(crate) fn unmap(&mut self, gpa: u64) {
        let flush = self.stage2.unmap(
            (&mut DirectTables, &mut self.bench.frames),
            Gfn::containing(Gpa::new(gpa)),
            1,
        );
        let _done = flush.expect("memory for tables").completed();
        self.flush();
    }

    /// Maps the page of the guest's memory again.
    pub(crate) fn map_again(&mut self, gpa: u64, access: Access) {
        self.map(gpa, self.frame_of(gpa), access);
        self.flush();
    }

    /// The frame of the guest's memory that has this address.
    pub(crate) fn frame_of(&self, gpa: u64) -> Mfn {
        self.memory.start + (gpa >> 12)
    }

    /// Drops what the CPU knows of the second-stage tables.
    pub(crate) fn flush(&mut self) {
        let table = self.stage2.root();
        self.vcpu().flush_stage2(Stage2Root { table });
    }

    pub(crate) fn write(&mut self, gpa: u64, bytes: &[u8]) {
        debug_assert!(gpa + bytes.len() as u64 <= MEMORY_BYTES);
        direct_map::write(self.memory.start.base() + gpa, bytes).expect("the memory is ours");
    }

    pub(crate) fn write_words(&mut self, gpa: u64, words: &[u64]) {
        for (index, word) in (0..).zip(words) {
            self.write(gpa + index * 8, &word.to_le_bytes());
        }
    }

    pub(crate) fn word(&self, gpa: u64) -> u64 {
        let mut bytes = [0; 8];
        direct_map::read(self.memory.start.base() + gpa, &mut bytes).expect("the memory is ours");
        u64::from_le_bytes(bytes)
    }

    /// What the handler that was entered last found on the stack.
    pub(crate) fn pushed(&mut self, has_error: bool) -> Pushed {
        let top = self.system(SystemSet::RSP).rsp;
        let skipped = if has_error { 8 } else { 0 };
        let word = |index: u64| self.word(top + skipped + index * 8);
        Pushed {
            error: has_error.then(|| self.word(top)),
            rip: word(0),
            rflags: word(2),
            rsp: word(3),
        }
    }

    /// Checks that the exit's instruction has this length, where the CPU says so, and steps over it.
    pub(crate) fn step_over(&mut self, length: u64) -> Verdict {
        let vcpu = self.vcpu();
        let said = vcpu.instruction_length();
        check_eq!(said.is_some(), vcpu.knows_length(), "a length is there");
        check!(
            said.is_none_or(|said| said == length),
            "the length is {said:?}, not {length}"
        );
        vcpu.skip(length);
        Ok(())
    }

    /// Checks that the exit says the instruction's length, on every CPU, and steps over it.
    pub(crate) fn step_over_known(&mut self, length: u64) -> Verdict {
        check!(self.vcpu().knows_length(), "the length is not known");
        self.step_over(length)
    }

    /// Checks that the guest has halted where it stands `at` bytes in its code.
    pub(crate) fn expect_halt(&mut self, exit: VmExit, at: u64) -> Verdict {
        check_eq!(exit, VmExit::Hlt, "the exit at {:x}", self.vcpu().rip());
        check_eq!(self.at(), at, "where it halted");
        Ok(())
    }

    /// Checks that the guest has halted in the handler of `vector`.
    pub(crate) fn expect_handler(&mut self, exit: VmExit, vector: u8) -> Verdict {
        let rip = self.vcpu().rip();
        check_eq!(exit, VmExit::Hlt, "the exit at {rip:x}");
        check_eq!(rip, layout::handler(vector), "the handler of {vector:x}");
        Ok(())
    }
}

impl<B: Backend> Drop for Guest<'_, B> {
    fn drop(&mut self) {
        self.unload();
    }
}

/// MSRs that need no exit: one that is written too, and one that is only read.
fn passthrough() -> PassthroughList {
    let pass = |msr, write| Passthrough {
        msr,
        read: true,
        write,
    };
    let list = vec![
        pass(GS_BASE, true),
        pass(KERNEL_GS_BASE, true),
        pass(SYSENTER_CS, false),
        pass(LSTAR, true),
    ];
    list.into_iter().collect()
}

fn rights(io_bitmap: IoBitmap, passthrough: &PassthroughList, intercepts_tsc: bool) -> Rights<'_> {
    Rights {
        io_bitmap,
        passthrough,
        cr4_owned: !layout::CR4_OFFERED,
        tsc: TscView { offset: TSC_OFFSET },
        intercepts_tsc,
    }
}
