//! What each CPU has for itself, found through its GS base, and the proof that its interrupts are off.
//!
//! UNSAFETY: reads GS-relative memory, which holds a pointer to the CPU's own block from [`init`] on.
//!
//! The block is shared by reference (its fields are atomics), because interrupt stubs write to it at any moment in
//! `irq::wait_for_interrupt` and `irq::poll_interrupt`. On the host each thread is a CPU of its own.
#![expect(unsafe_code)]

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The most CPUs that the hypervisor knows.
pub const MAX_CPUS: usize = 256;

/// How many locks a CPU may hold at once.
pub(crate) const MAX_HELD_LOCKS: usize = 12;

/// Proof that external interrupts are disabled on this CPU. Rust code of the hypervisor holds it from boot on; only
/// `irq::wait_for_interrupt` and `irq::poll_interrupt` open a window, through a mutable borrow.
#[derive(Debug)]
pub struct IrqsOff {
    /// The proof belongs to the CPU that it was made on.
    not_send: PhantomData<*mut ()>,
}

impl IrqsOff {
    /// Makes the proof.
    ///
    /// # Safety
    /// RFLAGS.IF must be clear, and stay so but for the windows of `irq::wait_for_interrupt` and `irq::poll_interrupt`;
    /// one proof a CPU.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self {
            not_send: PhantomData,
        }
    }
    /// For tests of the core: a thread of the host has no interrupts.
    #[cfg(not(target_os = "none"))]
    #[must_use]
    pub const fn for_tests() -> Self {
        Self {
            not_send: PhantomData,
        }
    }
}

/// A CPU's own block. Assembly knows that its own address comes first.
#[repr(C)]
#[derive(Debug)]
pub struct PerCpu {
    /// The block's own address, so that one GS-relative load finds it (LEA ignores segment bases).
    myself: AtomicUsize,
    /// The vector that the last external-interrupt stub saw, 0 for none.
    pub(crate) taken_vector: AtomicU32,
    id: u32,
    /// The ranks of the locks held, lowest first, and how many (debug builds).
    pub(crate) held: [AtomicU8; MAX_HELD_LOCKS],
    pub(crate) held_count: AtomicU8,
    /// NMIs taken outside of guests.
    pub(crate) nmis: AtomicU32,
    /// Turns spent waiting for the lock at hand.
    pub(crate) spins: AtomicU32,
    /// The TSC at the last of them.
    pub(crate) spun_at: AtomicU64,
}

impl PerCpu {
    /// Where the interrupt stubs write the vector.
    pub(crate) const TAKEN_VECTOR_OFFSET: usize = core::mem::offset_of!(Self, taken_vector);

    /// The block of CPU `id`.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self {
            myself: AtomicUsize::new(0),
            taken_vector: AtomicU32::new(0),
            id,
            held: [const { AtomicU8::new(0) }; MAX_HELD_LOCKS],
            held_count: AtomicU8::new(0),
            nmis: AtomicU32::new(0),
            spins: AtomicU32::new(0),
            spun_at: AtomicU64::new(0),
        }
    }
    /// The CPU's number: 0 for the one that booted, then in order of the MADT.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }
    /// Records a vector as the stub does.
    pub(crate) fn raise(&self, vector: u8) {
        self.taken_vector
            .store(u32::from(vector), Ordering::Relaxed);
    }
    /// True where a vector was recorded and not taken.
    pub(crate) fn has_vector(&self) -> bool {
        self.taken_vector.load(Ordering::Relaxed) != 0
    }
    /// Takes the vector that the last interrupt stub recorded.
    pub(crate) fn take_vector(&self) -> Option<u8> {
        u8::try_from(self.taken_vector.swap(0, Ordering::Relaxed))
            .ok()
            .filter(|&vector| vector != 0)
    }
}

/// Makes `block` this CPU's own, from now on. Comes before the first lock of the CPU.
pub fn init(block: &'static PerCpu) {
    let address = core::ptr::from_ref(block).expose_provenance();
    block.myself.store(address, Ordering::Relaxed);
    // SAFETY: every x86-64 CPU has IA32_GS_BASE; nothing but `this` is GS-relative, and the block lives for ever.
    unsafe { crate::insn::wrmsr(IA32_GS_BASE, address as u64) };
}

/// IA32_GS_BASE.
const IA32_GS_BASE: u32 = 0xc000_0101;

/// This CPU's GS base, to be restored at an exit.
#[must_use]
pub fn gs_base() -> u64 {
    core::ptr::from_ref(this()).expose_provenance() as u64
}

#[cfg(target_os = "none")]
#[inline]
#[must_use]
pub fn this() -> &'static PerCpu {
    let address: usize;
    // SAFETY: GS points to a block from `init` on, whose first word is the block's address and never changes.
    unsafe {
        core::arch::asm!("mov {}, gs:[0]", out(reg) address, options(pure, readonly, nostack, preserves_flags));
    }
    // SAFETY: `init` put the address of a block with static lifetime there.
    unsafe { &*core::ptr::with_exposed_provenance::<PerCpu>(address) }
}

#[cfg(not(target_os = "none"))]
pub use crate::hosted::percpu as this;

#[inline]
#[must_use]
pub fn cpu_id() -> u32 {
    this().id()
}
