//! The register file by the order of the encoding, and the parts of it that instructions name.

/// The general registers in the order of their encoding: RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gprs(pub [u64; 16]);

/// Bases of the segments, in the order of their encoding: ES CS SS DS FS GS.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentBases(pub [u64; 6]);

/// A general register, or a part of one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Register {
    /// Place in [`Gprs`], below 16.
    pub(super) index: u8,
    /// Bytes: 1, 2, 4 or 8.
    pub(super) size: u8,
    /// AH CH DH BH: the second byte.
    pub(super) is_high: bool,
}

impl Register {
    /// AL, AX, EAX, RAX.
    pub(super) const fn accumulator(size: u8) -> Self {
        Self::low(0, size)
    }
    /// The low `size` bytes of the register at `index`.
    pub(super) const fn low(index: u8, size: u8) -> Self {
        Self {
            index,
            size,
            is_high: false,
        }
    }
}

impl Gprs {
    /// The register's value, zero-extended.
    pub(super) fn get(&self, register: Register) -> u64 {
        let full = self.full(register.index);
        if register.is_high {
            (full >> 8) & 0xff
        } else {
            truncate(full, register.size)
        }
    }

    /// Sets the register. Four bytes clear the upper half, one or two leave the rest.
    pub(super) fn set(&mut self, register: Register, value: u64) {
        let Some(full) = self.0.get_mut(usize::from(register.index)) else {
            return;
        };
        *full = match (register.size, register.is_high) {
            (1, true) => *full & !0xff00 | (value & 0xff) << 8,
            (1, false) => *full & !0xff | value & 0xff,
            (2, _) => *full & !0xffff | value & 0xffff,
            (size, _) => truncate(value, size),
        };
    }

    /// All 64 bits of the register at `index`.
    pub(super) fn full(&self, index: u8) -> u64 {
        self.0.get(usize::from(index)).copied().unwrap_or(0)
    }
}

/// The low `size` bytes.
pub(super) fn truncate(value: u64, size: u8) -> u64 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Extends the number in the low `size` bytes by its sign.
pub(super) fn sign_extend(value: u64, size: u8) -> u64 {
    let sign = sign_bit(size);
    (truncate(value, size) ^ sign).wrapping_sub(sign)
}

/// The highest bit of `size` bytes.
pub(super) fn sign_bit(size: u8) -> u64 {
    match size {
        1 => 1 << 7,
        2 => 1 << 15,
        4 => 1 << 31,
        _ => 1 << 63,
    }
}
