//! The machine that stands under tests on the host: memory, a clock, and a thread for each CPU.
//!
//! A thread has a board of its own from its first use on, as its CPU 0: tests that run side by side share nothing. One
//! that [joins](Board::join) another's board is one more CPU of it, with its number.
//!
//! The clock is virtual: it moves a little with each look at it, so that whoever waits for a time sees it come, and
//! stands still between; a busy host ages no test.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::Cell;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError};

use crate::direct_map;
use crate::percpu::PerCpu;

/// The TSC of a new board, which is also when its hypervisor was entered: that of a machine that has been up for a
/// while, so that subtractions have room.
pub const FIRST_TSC: u64 = 1 << 40;
/// The most types that a board has one value of.
const PARTS: usize = 12;
/// Ticks that a look at the clock takes: about what RDTSC costs.
const LOOK: u64 = 32;

/// The hardware of one machine.
pub struct Board {
    /// Where its memory is, see [`direct_map`].
    memory: usize,
    tsc: AtomicU64,
    /// Ticks that a look takes now.
    look: AtomicU64,
    /// What there is once on it, of each type one.
    parts: [OnceLock<&'static (dyn Any + Send + Sync)>; PARTS],
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

/// What this thread is.
#[derive(Clone, Copy)]
struct Cpu {
    board: &'static Board,
    block: &'static PerCpu,
}

#[cfg(not(shuttle))]
std::thread_local! {
    static CPU: Cell<Option<Cpu>> = const { Cell::new(None) };
}
#[cfg(shuttle)]
shuttle::thread_local! {
    static CPU: Cell<Option<Cpu>> = Cell::new(None);
}

fn cpu() -> Cpu {
    CPU.with(Cell::get).unwrap_or_else(|| {
        let board = Box::leak(Box::new(Board {
            memory: arena(),
            tsc: AtomicU64::new(FIRST_TSC),
            look: AtomicU64::new(LOOK),
            parts: [const { OnceLock::new() }; PARTS],
        }));
        board.join(0);
        CPU.with(Cell::get).expect("the thread has just joined")
    })
}

/// Arenas of boards that are used no longer, zeroed.
static RETIRED: std::sync::Mutex<Vec<usize>> = std::sync::Mutex::new(Vec::new());

fn retired() -> std::sync::MutexGuard<'static, Vec<usize>> {
    RETIRED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn arena() -> usize {
    let used = retired().pop();
    used.unwrap_or_else(direct_map::hosted_memory)
}

/// The board of this thread.
#[must_use]
pub fn board() -> &'static Board {
    cpu().board
}

/// The block of the CPU that this thread is.
#[must_use]
pub fn percpu() -> &'static PerCpu {
    cpu().block
}

impl Board {
    /// Makes this thread CPU `number` of the board. Each number belongs to one thread.
    pub fn join(&'static self, number: u32) {
        let block = Box::leak(Box::new(PerCpu::new(number)));
        let cpu = Cpu { board: self, block };
        CPU.with(|own| own.set(Some(cpu)));
    }
    /// The `T` of the board: all its CPUs get the same, which the first to ask makes.
    ///
    /// # Panics
    /// Where they ask for too many types.
    pub fn part<T: Any + Send + Sync>(&self, new: impl Fn() -> T) -> &'static T {
        let parts = self.parts.iter();
        parts
            .map(|part| *part.get_or_init(|| Box::leak(Box::new(new()))))
            .find_map(|part| part.downcast_ref())
            .expect("a board has few parts")
    }
    /// Lends the board's memory, which is zero again, to the next one. No thread of the board goes on.
    pub fn retire(&self) {
        retired().push(self.memory);
    }
    /// Where host physical address 0 is.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }
    /// A look at the clock.
    pub(crate) fn tsc(&self) -> u64 {
        self.tsc
            .fetch_add(self.look.load(Ordering::Relaxed), Ordering::Relaxed)
    }
}

/// While it lives, the board's time stands still but for [`advance`](Self::advance).
#[derive(Debug)]
pub struct Clock(&'static Board);

impl Clock {
    /// Stops the clock of this thread's board.
    #[must_use]
    pub fn take_over() -> Self {
        let board = board();
        board.look.store(0, Ordering::Relaxed);
        Self(board)
    }
    pub fn advance(ticks: u64) {
        board().tsc.fetch_add(ticks, Ordering::Relaxed);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.look.store(LOOK, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{percpu, time};
    use hv_core::addr::Hpa;

    #[test]
    fn boards_share_neither_memory_nor_time_and_cpus_of_one_share_both() {
        let at = Hpa::new(0x5000);
        direct_map::write(at, &[7]).unwrap();
        Clock::advance(1 << 30);
        let (own, ahead) = (board(), time::now());
        let look = move || {
            let mut byte = [0];
            direct_map::read(at, &mut byte).unwrap();
            (byte[0], time::now() >= ahead, percpu::cpu_id())
        };
        let other = std::thread::spawn(look).join().unwrap();
        assert_eq!(other, (0, false, 0));
        let sibling = std::thread::spawn(move || {
            own.join(3);
            look()
        });
        assert_eq!(sibling.join().unwrap(), (7, true, 3));
    }

    #[test]
    fn time_passes_for_those_that_wait_and_stands_still_where_it_is_taken_over() {
        time::spin_ns(1000);
        let _clock = Clock::take_over();
        let now = time::now();
        assert_eq!(time::now(), now);
        Clock::advance(5);
        assert_eq!(time::now(), now + 5);
    }
}
