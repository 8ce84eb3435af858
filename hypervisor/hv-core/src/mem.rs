//! How the core logic reaches memory that it does not own: traits that the hardware layer implements over the direct
//! map, and tests over plain vectors.

use crate::addr::{Gpa, Mfn};

/// Reads and writes entries of page tables, each table one frame of 512 entries.
pub trait TableMem {
    /// The entry at `index` (below 512) of the table in frame `table`.
    fn read(&self, table: Mfn, index: usize) -> u64;
    /// Writes it in one store.
    fn write(&mut self, table: Mfn, index: usize, entry: u64);
}

/// Where page tables get their own frames from.
pub trait TableFrames {
    /// A zeroed frame, or `None` where memory is out.
    fn alloc_table(&mut self) -> Option<Mfn>;
    /// Takes a frame back that no table refers to any longer.
    fn free_table(&mut self, table: Mfn);
}

/// One frame whose words others (a guest, another CPU, the CPU's own APIC virtualisation) change at the same time.
///
/// Offsets are bytes from the start of the frame, aligned to the access and inside it; anything else is a bug of the
/// caller and panics. Every access is one atomic operation with sequentially consistent order.
pub trait SharedWords {
    fn load_u8(&self, offset: usize) -> u8;
    fn store_u8(&self, offset: usize, value: u8);
    /// Stores a byte and returns the one it replaces.
    fn swap_u8(&self, offset: usize, value: u8) -> u8;
    fn load_u32(&self, offset: usize) -> u32;
    fn store_u32(&self, offset: usize, value: u32);
    /// Ors `bits` in and returns the value before.
    fn fetch_or_u32(&self, offset: usize, bits: u32) -> u32;
    /// Ands with `bits` and returns the value before.
    fn fetch_and_u32(&self, offset: usize, bits: u32) -> u32;
    /// Replaces `current` by `new`.
    ///
    /// # Errors
    /// The value found, where it is not `current`.
    fn compare_exchange_u32(&self, offset: usize, current: u32, new: u32) -> Result<u32, u32>;
    fn load_u64(&self, offset: usize) -> u64;
    fn store_u64(&self, offset: usize, value: u64);
    /// Ors `bits` in and returns the value before.
    fn fetch_or_u64(&self, offset: usize, bits: u64) -> u64;
    /// Ands with `bits` and returns the value before.
    fn fetch_and_u64(&self, offset: usize, bits: u64) -> u64;
}

/// A guest's physical memory, copied in and out: never a reference into it.
pub trait GuestMem {
    /// Fills `to` from guest physical memory at `from`.
    ///
    /// # Errors
    /// [`NotRam`] where a byte of it is not RAM of the guest; `to` is then unspecified.
    fn read(&self, from: Gpa, to: &mut [u8]) -> Result<(), NotRam>;
    /// Loads the 8 bytes at `from` (aligned to 8) as little endian, for entries of page tables: where others may write
    /// them at the same time an implementation does it in one load.
    ///
    /// # Errors
    /// [`NotRam`] where `from` is not RAM of the guest.
    #[inline]
    fn read_u64(&self, from: Gpa) -> Result<u64, NotRam> {
        let mut bytes = [0; 8];
        self.read(from, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    /// Loads the 4 bytes at `from` (aligned to 4); see [`GuestMem::read_u64`].
    ///
    /// # Errors
    /// [`NotRam`] where `from` is not RAM of the guest.
    #[inline]
    fn read_u32(&self, from: Gpa) -> Result<u32, NotRam> {
        let mut bytes = [0; 4];
        self.read(from, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
    /// Copies `from` to guest physical memory at `to`.
    ///
    /// # Errors
    /// [`NotRam`] where a byte of it is not writable RAM of the guest; the bytes before may be written.
    fn write(&mut self, to: Gpa, from: &[u8]) -> Result<(), NotRam>;
}

/// The guest physical address is not backed by RAM that the access may touch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotRam(pub Gpa);
