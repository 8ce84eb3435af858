//! A compressed kernel: which format it is in, how large it becomes, and its unpacking into a buffer of that size.
//!
//! The unpacked size is known beforehand, from the last 4 bytes of the payload, so that the buffer comes from the
//! caller (frames of the host) and not from the heap. What the unpackers need of the heap themselves is
//! [`Payload::heap_needed`]: a caller whose heap is smaller refuses the kernel instead of running into it.
//!
//! Each format has its own checksum; a payload that unpacks without error is the one that was packed.

use core::fmt;

mod gzip;
mod lz4;
mod xz;
mod zstd;

/// How a payload is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Not at all: an ELF file.
    Plain,
    Gzip,
    /// XZ, with the x86 filter or without.
    Xz,
    Lz4,
    Zstd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "not compressed",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// A compressed kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a> {
    format: Format,
    packed: &'a [u8],
    unpacked_size: usize,
}

impl fmt::Debug for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Payload({}, {} → {} bytes)",
            self.format,
            self.packed.len(),
            self.unpacked_size
        )
    }
}

/// Why a payload cannot be unpacked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadError {
    /// It is in none of the formats; `Some` names one that is known but not supported.
    UnknownFormat(Option<&'static str>),
    /// It has no room for its unpacked size, or states an impossible one.
    BadSize,
    /// The buffer is not as large as the unpacked payload.
    WrongBuffer,
    /// Its bytes are not what was packed, or some are missing.
    Corrupt(Format),
    /// The heap is too small to unpack it.
    OutOfMemory(Format),
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownFormat(Some(name)) => {
                write!(f, "{name} is not supported; gzip, xz, lz4 and zstd are")
            }
            Self::UnknownFormat(None) => f.write_str("it is none of gzip, xz, lz4, zstd and ELF"),
            Self::BadSize => f.write_str("its unpacked size is missing or impossible"),
            Self::WrongBuffer => f.write_str("it does not unpack to the size it states"),
            Self::Corrupt(format) => write!(f, "the {format} data is corrupt or truncated"),
            Self::OutOfMemory(format) => write!(f, "too little memory to unpack {format}"),
        }
    }
}

/// No kernel is larger.
const MAX_UNPACKED: u32 = 512 << 20;

impl<'a> Payload<'a> {
    /// Detects the format of a bzImage's payload by its first bytes, and reads its unpacked size from its last.
    ///
    /// # Errors
    /// Where the format or the size is not known.
    pub fn detect(payload: &'a [u8]) -> Result<Self, PayloadError> {
        let format = detect_format(payload)?;
        let (body, size) = payload
            .split_last_chunk::<4>()
            .ok_or(PayloadError::BadSize)?;
        let size = u32::from_le_bytes(*size);
        if size == 0 || size > MAX_UNPACKED {
            return Err(PayloadError::BadSize);
        }
        // gzip ends in the size by itself; to the others the kernel's build appends it
        let packed = if format == Format::Gzip {
            payload
        } else {
            body
        };
        let unpacked_size = usize::try_from(size).map_err(|_| PayloadError::BadSize)?;
        Ok(Self {
            format,
            packed,
            unpacked_size,
        })
    }

    /// How it is packed.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// How many bytes it unpacks to, 1 to 512 MiB.
    #[must_use]
    pub const fn unpacked_size(&self) -> usize {
        self.unpacked_size
    }

    /// How many bytes of heap [`Payload::unpack`] takes at most: all of it comes back.
    #[must_use]
    pub fn heap_needed(&self) -> usize {
        match self.format {
            Format::Plain | Format::Lz4 => 0,
            Format::Gzip => gzip::HEAP_NEEDED,
            Format::Xz => xz::HEAP_NEEDED,
            Format::Zstd => zstd::heap_needed(self.packed, self.unpacked_size),
        }
    }

    /// Unpacks into `out`, which has exactly [`Payload::unpacked_size`] bytes.
    ///
    /// # Errors
    /// Where the data is corrupt or the heap too small; `out` is then unspecified.
    pub fn unpack(&self, out: &mut [u8]) -> Result<(), PayloadError> {
        if out.len() != self.unpacked_size {
            return Err(PayloadError::WrongBuffer);
        }
        match self.format {
            Format::Plain if out.len() == self.packed.len() => {
                out.copy_from_slice(self.packed);
                Ok(())
            }
            Format::Plain => Err(PayloadError::WrongBuffer),
            Format::Gzip => gzip::unpack(self.packed, out),
            Format::Xz => xz::unpack(self.packed, out),
            Format::Lz4 => lz4::unpack(self.packed, out),
            Format::Zstd => zstd::unpack(self.packed, out),
        }
    }
}

fn detect_format(payload: &[u8]) -> Result<Format, PayloadError> {
    match payload {
        [0x7f, b'E', b'L', b'F', ..] => Ok(Format::Plain),
        [0x1f, 0x8b | 0x9e, ..] => Ok(Format::Gzip),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Ok(Format::Xz),
        [0x02, 0x21, 0x4c, 0x18, ..] => Ok(Format::Lz4),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Format::Zstd),
        [b'B', b'Z', b'h', ..] => Err(PayloadError::UnknownFormat(Some("bzip2"))),
        [0x89, b'L', b'Z', b'O', ..] => Err(PayloadError::UnknownFormat(Some("lzo"))),
        [0x5d, 0, 0, ..] => Err(PayloadError::UnknownFormat(Some("lzma"))),
        _ => Err(PayloadError::UnknownFormat(None)),
    }
}
