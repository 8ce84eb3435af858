//! What a PVH kernel finds through EBX: start info, modules, memory map and strings, laid out in one block.
//!
//! Linux reads the block through page tables that map the first GiB only, and 6.12 uses its first bytes as a stack for
//! a moment: the place is writable RAM below 1 GiB.
//!
//! Source: `public/arch-x86/hvm/start_info.h`.

use super::e820::E820Map;
use crate::addr::Gpa;
use alloc::vec::Vec;
use core::fmt;
use guest_abi::arch_x86::hvm::start_info::{
    HvmMemmapTableEntry, HvmModlistEntry, HvmStartInfo, XEN_HVM_START_MAGIC_VALUE,
};
use zerocopy::IntoBytes;

/// What the kernel is told.
#[derive(Clone, Copy, Debug)]
pub struct StartInfo<'a> {
    /// `SIF_*`: for dom0 privileged and initial domain, else 0.
    pub flags: u32,
    /// The command line; neither longer than [`StartInfo::MAX_COMMAND_LINE`] nor with a NUL in it.
    pub command_line: &'a str,
    /// The initial RAM disk, below 4 GiB.
    pub initrd: Option<Initrd>,
    /// The guest's memory, at most [`StartInfo::MAX_ENTRIES`] entries.
    pub memory: &'a E820Map,
    /// The ACPI root pointer.
    pub rsdp: Option<Gpa>,
}

/// Where the initial RAM disk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Initrd {
    pub start: Gpa,
    /// Its size in bytes.
    pub size: u64,
}

/// Why start info cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartInfoError {
    /// The command line has this many bytes, which is too many.
    LongCommandLine(usize),
    /// There is a NUL in the command line.
    NulInCommandLine,
    /// The memory map has this many entries, which is too many.
    ManyEntries(usize),
    /// The place is misaligned or reaches beyond 1 GiB.
    BadPlace(Gpa),
    /// The initrd reaches beyond 4 GiB.
    HighInitrd(Gpa),
}

impl fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LongCommandLine(length) => write!(
                f,
                "the kernel's command line has {length} bytes, it takes at most {}",
                StartInfo::MAX_COMMAND_LINE
            ),
            Self::NulInCommandLine => f.write_str("the kernel's command line has a NUL in it"),
            Self::ManyEntries(count) => {
                write!(
                    f,
                    "the memory map has {count} entries, Linux takes at most {}",
                    StartInfo::MAX_ENTRIES
                )
            }
            Self::BadPlace(at) => write!(f, "start info cannot lie at {at}"),
            Self::HighInitrd(at) => write!(f, "the initrd at {at} is not below 4 GiB"),
        }
    }
}

const GIB: u64 = 1 << 30;
const INFO: usize = size_of::<HvmStartInfo>();
const MODULE: usize = size_of::<HvmModlistEntry>();
const ENTRY: usize = size_of::<HvmMemmapTableEntry>();

impl StartInfo<'_> {
    /// The longest command line in bytes: Linux' `COMMAND_LINE_SIZE` without the NUL.
    pub const MAX_COMMAND_LINE: usize = 2047;
    /// The most entries of a memory map: Linux has room for 128 and adds one.
    pub const MAX_ENTRIES: usize = 127;

    /// How many bytes [`StartInfo::build`] comes to at most, whatever it tells.
    pub const MAX_SIZE: usize =
        INFO + MODULE + Self::MAX_ENTRIES * ENTRY + Self::MAX_COMMAND_LINE + 1;

    /// Lays the block out for the place `at`, a multiple of 8.
    ///
    /// # Errors
    /// Where something does not fit what the kernel can take.
    pub fn build(&self, at: Gpa) -> Result<Vec<u8>, StartInfoError> {
        let entries = self.memory.entries();
        let modlist = INFO;
        let memmap = modlist + MODULE * usize::from(self.initrd.is_some());
        let text = memmap + ENTRY * entries.len();
        self.check(at, text + self.command_line.len() + 1)?;
        let address = |offset: usize| (at + offset as u64).as_u64();
        let info = HvmStartInfo {
            magic: XEN_HVM_START_MAGIC_VALUE,
            version: 1,
            flags: self.flags,
            nr_modules: self.initrd.is_some().into(),
            modlist_paddr: if self.initrd.is_some() {
                address(modlist)
            } else {
                0
            },
            cmdline_paddr: address(text),
            rsdp_paddr: self.rsdp.map_or(0, Gpa::as_u64),
            memmap_paddr: address(memmap),
            memmap_entries: u32::try_from(entries.len())
                .map_err(|_| StartInfoError::ManyEntries(entries.len()))?,
            reserved: 0,
        };
        let mut block = info.as_bytes().to_vec();
        if let Some(initrd) = self.initrd {
            let module = HvmModlistEntry {
                paddr: initrd.start.as_u64(),
                size: initrd.size,
                ..Default::default()
            };
            block.extend(module.as_bytes());
        }
        for entry in entries {
            let row = HvmMemmapTableEntry {
                addr: entry.start,
                size: entry.size(),
                type_: entry.kind.as_u32(),
                reserved: 0,
            };
            block.extend(row.as_bytes());
        }
        block.extend(self.command_line.as_bytes());
        block.push(0);
        Ok(block)
    }

    fn check(&self, at: Gpa, size: usize) -> Result<(), StartInfoError> {
        if self.command_line.len() > Self::MAX_COMMAND_LINE {
            return Err(StartInfoError::LongCommandLine(self.command_line.len()));
        }
        if self.command_line.contains('\0') {
            return Err(StartInfoError::NulInCommandLine);
        }
        if self.memory.entries().len() > Self::MAX_ENTRIES {
            return Err(StartInfoError::ManyEntries(self.memory.entries().len()));
        }
        if !at.is_aligned(8)
            || at
                .checked_add(size as u64)
                .is_none_or(|end| end.as_u64() > GIB)
        {
            return Err(StartInfoError::BadPlace(at));
        }
        match self.initrd {
            Some(Initrd { start, size })
                if start
                    .checked_add(size)
                    .is_none_or(|end| end.as_u64() > 4 * GIB) =>
            {
                Err(StartInfoError::HighInitrd(start))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::e820::{E820Entry, E820Kind};
    use super::*;
    use crate::le::{u32_at, u64_at};
    use proptest::prelude::*;
    use std::string::String;

    const AT: Gpa = Gpa::new(0x10_0000);

    fn map() -> E820Map {
        E820Map::sanitise(&[
            E820Entry::new(0, 0x9_f000, E820Kind::Ram),
            E820Entry::new(0x10_0000, 0x4000_0000, E820Kind::Ram),
            E820Entry::new(0x4000_0000, 0x5000_0000, E820Kind::Unusable),
        ])
    }

    fn info<'a>(command_line: &'a str, memory: &'a E820Map) -> StartInfo<'a> {
        StartInfo {
            flags: 3,
            command_line,
            initrd: None,
            memory,
            rsdp: None,
        }
    }

    /// Reads as the kernel does: by address.
    fn word(block: &[u8], address: u64) -> u64 {
        u64_at(block, usize::try_from(address - AT.as_u64()).unwrap()).unwrap()
    }

    #[test]
    fn the_kernel_finds_everything_by_address() {
        let map = map();
        let initrd = Initrd {
            start: Gpa::new(0x800_0000),
            size: 12345,
        };
        let told = StartInfo {
            initrd: Some(initrd),
            rsdp: Some(Gpa::new(0x9_0000)),
            ..info("console=hvc0", &map)
        };
        let block = told.build(AT).unwrap();
        assert!(block.len() <= StartInfo::MAX_SIZE);
        assert_eq!(u32_at(&block, 0), Some(0x336e_c578));
        assert_eq!(
            (u32_at(&block, 4), u32_at(&block, 8), u32_at(&block, 12)),
            (Some(1), Some(3), Some(1))
        );
        let modlist = word(&block, AT.as_u64() + 16);
        assert_eq!(
            (word(&block, modlist), word(&block, modlist + 8)),
            (0x800_0000, 12345)
        );
        assert_eq!(word(&block, AT.as_u64() + 32), 0x9_0000);
        let memmap = word(&block, AT.as_u64() + 40);
        assert_eq!(u32_at(&block, 48), Some(3));
        assert_eq!(
            (
                word(&block, memmap + 48),
                word(&block, memmap + 56),
                word(&block, memmap + 64)
            ),
            (0x4000_0000, 0x1000_0000, 5)
        );
        let text = usize::try_from(word(&block, AT.as_u64() + 24) - AT.as_u64()).unwrap();
        assert_eq!(&block[text..], b"console=hvc0\0");
    }

    #[test]
    fn what_the_kernel_cannot_take_is_refused() {
        let map = map();
        let long = "x".repeat(2048);
        assert_eq!(
            info(&long, &map).build(AT),
            Err(StartInfoError::LongCommandLine(2048))
        );
        assert!(info(&long[1..], &map).build(AT).is_ok());
        assert_eq!(
            info("a\0b", &map).build(AT),
            Err(StartInfoError::NulInCommandLine)
        );
        let high = Gpa::new(0x3fff_fff8);
        assert_eq!(
            info("", &map).build(high),
            Err(StartInfoError::BadPlace(high))
        );
        assert_eq!(
            info("", &map).build(AT + 4),
            Err(StartInfoError::BadPlace(AT + 4))
        );
        let initrd = Initrd {
            start: Gpa::new(0xffff_f000),
            size: 0x1001,
        };
        let told = StartInfo {
            initrd: Some(initrd),
            ..info("", &map)
        };
        assert_eq!(
            told.build(AT),
            Err(StartInfoError::HighInitrd(initrd.start))
        );
        let raw: Vec<_> = (0..128)
            .map(|i| E820Entry::sized(i * 0x2000, 0x1000, E820Kind::Ram))
            .collect();
        assert_eq!(
            info("", &E820Map::sanitise(&raw)).build(AT),
            Err(StartInfoError::ManyEntries(128))
        );
    }

    proptest! {
        #[test]
        fn no_arguments_panic(line in ".{0,40}", at: u64, start: u64, size: u64) {
            let map = map();
            let initrd = Some(Initrd { start: Gpa::new(start), size });
            let line: String = line;
            let _ = StartInfo { initrd, ..info(&line, &map) }.build(Gpa::new(at));
        }
    }
}
