//! Locks with ranks.
//!
//! A CPU takes locks in ascending [`rank`] only, which debug builds check at every acquisition; so no order of events
//! can deadlock. Interrupts are off throughout the hypervisor, so a holder is never interrupted on its own CPU. A wait
//! that lasts absurdly long panics with the lock's rank instead of hanging silently.

pub mod atomic;
mod mutex;
pub mod rank;

use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering;

use mutex::{Mutex, MutexGuard};

use crate::percpu::{self, MAX_HELD_LOCKS};

pub use spin::Once;

/// A ticket lock around `T` with a place in the lock order: `RankedLock<Frames, { rank::FRAMES }>`.
#[derive(Debug, Default)]
pub struct RankedLock<T, const RANK: u8> {
    mutex: Mutex<T>,
}

impl<T, const RANK: u8> RankedLock<T, RANK> {
    /// Locks `value` away.
    pub const fn new(value: T) -> Self {
        Self {
            mutex: Mutex::new(value),
        }
    }
    /// Waits for the lock, in the order of arrival, and takes it.
    #[inline]
    pub fn lock(&self) -> RankedGuard<'_, T, RANK> {
        enter_rank(RANK, Same::Refused);
        self.take()
    }
    /// Takes the lock while another of the same rank is held, where the caller has an order of its own among the locks
    /// of that rank (two domains: ascending domid).
    #[inline]
    pub fn lock_second(&self) -> RankedGuard<'_, T, RANK> {
        enter_rank(RANK, Same::Allowed);
        self.take()
    }
    /// Takes the lock where it is free. Any order is allowed, since it does not wait.
    #[inline]
    pub fn try_lock(&self) -> Option<RankedGuard<'_, T, RANK>> {
        let guard = self.mutex.try_lock()?;
        note_rank(RANK);
        Some(RankedGuard { guard })
    }
    /// The value, through the exclusive borrow.
    pub fn get_mut(&mut self) -> &mut T {
        self.mutex.get_mut()
    }
    #[inline]
    fn take(&self) -> RankedGuard<'_, T, RANK> {
        RankedGuard {
            guard: self.mutex.lock(),
        }
    }
}

/// The right to use what a [`RankedLock`] holds.
#[must_use]
#[derive(Debug)]
pub struct RankedGuard<'a, T, const RANK: u8> {
    guard: MutexGuard<'a, T>,
}

impl<T, const RANK: u8> Deref for RankedGuard<'_, T, RANK> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T, const RANK: u8> DerefMut for RankedGuard<'_, T, RANK> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T, const RANK: u8> Drop for RankedGuard<'_, T, RANK> {
    #[inline]
    fn drop(&mut self) {
        leave_rank(RANK);
    }
}

/// Whether a lock of the rank that is held already may be taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Same {
    Refused,
    Allowed,
}

/// Checks in debug builds that `rank` comes after every lock held by this CPU, and notes it.
#[inline]
fn enter_rank(rank: u8, same: Same) {
    if cfg!(debug_assertions) {
        if let Some(top) = highest_held() {
            assert!(
                rank > top || (rank == top && same == Same::Allowed),
                "lock of rank {rank} taken while one of rank {top} is held"
            );
        }
        note_rank(rank);
    }
}

fn highest_held() -> Option<u8> {
    let cpu = percpu::this();
    let held = usize::from(cpu.held_count.load(Ordering::Relaxed));
    cpu.held
        .iter()
        .take(held)
        .map(|rank| rank.load(Ordering::Relaxed))
        .max()
}

fn note_rank(rank: u8) {
    if cfg!(debug_assertions) {
        let cpu = percpu::this();
        let held = cpu.held_count.load(Ordering::Relaxed);
        let slot = cpu
            .held
            .get(usize::from(held))
            .expect("no path nests more locks than a CPU has slots");
        slot.store(rank, Ordering::Relaxed);
        cpu.held_count.store(held + 1, Ordering::Relaxed);
    }
}

/// Forgets the latest lock of `rank`; guards may be dropped in any order.
#[inline]
fn leave_rank(rank: u8) {
    if cfg!(debug_assertions) {
        let cpu = percpu::this();
        let count = usize::from(cpu.held_count.load(Ordering::Relaxed)).min(MAX_HELD_LOCKS);
        let held = &cpu.held[..count];
        if let Some(at) = held
            .iter()
            .rposition(|slot| slot.load(Ordering::Relaxed) == rank)
        {
            for slot in at + 1..count {
                held[slot - 1].store(held[slot].load(Ordering::Relaxed), Ordering::Relaxed);
            }
            cpu.held_count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_ascending_rank_and_dropped_in_any_order() {
        let (low, high) = (RankedLock::<u32, 10>::new(1), RankedLock::<u32, 20>::new(2));
        for _ in 0..3 {
            let first = low.lock();
            let second = high.lock();
            drop(first);
            drop(second);
        }
        assert_eq!(highest_held(), None);
    }

    #[test]
    #[should_panic(expected = "lock of rank 10 taken while one of rank 20 is held")]
    fn descending_rank_panics() {
        let (low, high) = (RankedLock::<u32, 10>::new(1), RankedLock::<u32, 20>::new(2));
        let _second = high.lock();
        let _first = low.lock();
    }

    #[test]
    fn two_of_one_rank_are_allowed_where_the_caller_orders_them() {
        let (a, b) = (RankedLock::<u32, 10>::new(1), RankedLock::<u32, 10>::new(2));
        let first = a.lock();
        let second = b.lock_second();
        assert_eq!(*first + *second, 3);
        assert!(a.try_lock().is_none());
    }
}
