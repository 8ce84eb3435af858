//! Atomics as the core names them: the language's, or the model checker's (`--cfg shuttle`), which runs the CPUs of a
//! test as tasks of one thread and changes between them at each of these accesses, and at each lock.
//!
//! Words of machine memory (frame records, pages that guests share) are the language's in both.

#[cfg(not(shuttle))]
pub use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(shuttle)]
pub use shuttle::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// A turn of a loop that waits for another CPU.
#[inline]
pub fn spin_loop() {
    #[cfg(not(shuttle))]
    core::hint::spin_loop();
    #[cfg(shuttle)]
    shuttle::thread::yield_now();
}
