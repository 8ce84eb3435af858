//! The boot CPU's stacks: one to run on, and one each for the exceptions that may strike while the running stack is
//! unusable.
//!
//! Below each stack lies a page that the final page tables leave out, so that an overflow faults at once.

use core::mem::offset_of;
use core::sync::atomic::AtomicU64;

/// Words of a page of nothing.
const GUARD: usize = 4096 / 8;
/// Words of the stack that the hypervisor runs on: 64 KiB.
const MAIN: usize = (64 << 10) / 8;
/// Words of an exception's stack: 16 KiB.
const EXCEPTION: usize = (16 << 10) / 8;

/// Stacks with their guard pages, in ascending address. Only the CPU looks inside: atomics, since a static that changes
/// must say so, and zero, so that they take no room in the file.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct BootStacks {
    main_guard: [AtomicU64; GUARD],
    main: [AtomicU64; MAIN],
    nmi_guard: [AtomicU64; GUARD],
    nmi: [AtomicU64; EXCEPTION],
    double_fault_guard: [AtomicU64; GUARD],
    double_fault: [AtomicU64; EXCEPTION],
    machine_check_guard: [AtomicU64; GUARD],
    machine_check: [AtomicU64; EXCEPTION],
}

/// The stacks of the CPU that boots.
pub static BOOT_STACKS: BootStacks = BootStacks {
    main_guard: [const { AtomicU64::new(0) }; GUARD],
    main: [const { AtomicU64::new(0) }; MAIN],
    nmi_guard: [const { AtomicU64::new(0) }; GUARD],
    nmi: [const { AtomicU64::new(0) }; EXCEPTION],
    double_fault_guard: [const { AtomicU64::new(0) }; GUARD],
    double_fault: [const { AtomicU64::new(0) }; EXCEPTION],
    machine_check_guard: [const { AtomicU64::new(0) }; GUARD],
    machine_check: [const { AtomicU64::new(0) }; EXCEPTION],
};

/// The initial stack pointers of a CPU's exception stacks.
#[derive(Clone, Copy, Debug)]
pub struct ExceptionStacks {
    pub nmi: u64,
    pub double_fault: u64,
    pub machine_check: u64,
}

impl BootStacks {
    /// Offset of the first stack's top, where the boot code starts pushing.
    pub const MAIN_TOP: usize = offset_of!(Self, nmi_guard);

    /// The linear address `offset` bytes into the structure.
    fn at(&self, offset: usize) -> u64 {
        core::ptr::from_ref(self).addr() as u64 + offset as u64
    }
    /// The linear addresses of the guard pages.
    #[must_use]
    pub fn guards(&self) -> [u64; 4] {
        [
            offset_of!(Self, main_guard),
            offset_of!(Self, nmi_guard),
            offset_of!(Self, double_fault_guard),
            offset_of!(Self, machine_check_guard),
        ]
        .map(|offset| self.at(offset))
    }
    /// Where the exceptions' stacks begin.
    #[must_use]
    pub fn exception_stacks(&self) -> ExceptionStacks {
        ExceptionStacks {
            nmi: self.at(offset_of!(Self, double_fault_guard)),
            double_fault: self.at(offset_of!(Self, machine_check_guard)),
            machine_check: self.at(size_of::<Self>()),
        }
    }
    /// The words of the running stack from linear address `rsp` up, all of them where `rsp` has run into the guard
    /// page; none where it is elsewhere.
    #[must_use]
    pub fn words_from(&self, rsp: u64) -> &[AtomicU64] {
        let main = self.at(offset_of!(Self, main));
        let guard = self.at(offset_of!(Self, main_guard))..main;
        let offset = if guard.contains(&rsp) {
            0
        } else {
            rsp.wrapping_sub(main)
        };
        usize::try_from(offset / 8)
            .ok()
            .and_then(|first| self.main.get(first..))
            .unwrap_or_default()
    }
}
