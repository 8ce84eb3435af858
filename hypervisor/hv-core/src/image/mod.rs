//! From a kernel file to a domain that can start: the file's formats, and what the kernel is told about its machine.
//!
//! A Debian kernel is a [`bzimage`] with a compressed [`payload`], which holds an ELF file ([`elf`]) whose note names
//! the PVH entry point; others come as ELF files, plain or packed whole by gzip; [`KernelFile`] is where a file's bytes
//! go in. [`e820`] is the map of memory, [`dom0_memory`] decides which memory of the host is dom0's, [`initrd`] whether
//! a file can be an initrd, and [`start_info`] lays out what the kernel finds through EBX.

use core::fmt;

pub mod bzimage;
pub mod dom0_memory;
pub mod e820;
pub mod elf;
pub mod initrd;
pub mod payload;
pub mod start_info;

use bzimage::{BzImage, BzImageError};
use payload::{Payload, PayloadError};

/// A kernel's file by its format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelFile<'a> {
    /// An ELF file, for [`elf::Kernel::parse`] as it is.
    Elf(&'a [u8]),
    /// A bzImage, whose payload is to be unpacked first.
    BzImage(BzImage<'a>),
    /// An ELF file packed whole by gzip (`vmlinux.gz`), to be unpacked first.
    Packed(Payload<'a>),
}

/// Why a file is no kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelFileError {
    Empty,
    /// It is neither a bzImage nor ELF.
    UnknownFormat,
    /// It is a bzImage that cannot be used.
    BzImage(BzImageError),
    /// It is packed whole and cannot be unpacked.
    Packed(PayloadError),
}

impl fmt::Display for KernelFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the kernel file is empty"),
            Self::UnknownFormat => f.write_str(
                "the kernel file is neither a bzImage nor an ELF file, plain or by gzip",
            ),
            Self::BzImage(error) => error.fmt(f),
            Self::Packed(error) => write!(f, "the kernel file: {error}"),
        }
    }
}

impl<'a> KernelFile<'a> {
    /// Tells the format of a file.
    ///
    /// # Errors
    /// Where it is not known, or a bzImage's header is unusable.
    pub fn open(file: &'a [u8]) -> Result<Self, KernelFileError> {
        if file.is_empty() {
            return Err(KernelFileError::Empty);
        }
        if bzimage::is_bzimage(file) {
            return BzImage::parse(file)
                .map(Self::BzImage)
                .map_err(KernelFileError::BzImage);
        }
        match file {
            [0x7f, b'E', b'L', b'F', ..] => Ok(Self::Elf(file)),
            [0x1f, 0x8b, ..] => Payload::detect(file)
                .map(Self::Packed)
                .map_err(KernelFileError::Packed),
            _ => Err(KernelFileError::UnknownFormat),
        }
    }

    /// The payload to unpack, where there is one.
    #[must_use]
    pub const fn payload(&self) -> Option<Payload<'a>> {
        match self {
            Self::Elf(_) => None,
            Self::BzImage(image) => Some(image.payload),
            Self::Packed(payload) => Some(*payload),
        }
    }
}

#[cfg(test)]
mod tests;
