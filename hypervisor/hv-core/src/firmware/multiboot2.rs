//! The boot information that GRUB leaves, from bytes to owned values.
//!
//! The multiboot2 crate knows the tags, but trusts their sizes and panics where they are wrong; so the chain of tags is
//! walked here, each tag is checked against the least size of its kind, and only then handed to the crate. The
//! information lies in low memory that is reused soon: nothing here refers to it afterwards.
//!
//! Source: "The Multiboot2 Specification", "Boot information".

pub use super::framebuffer::Framebuffer;

use super::efi::{MemoryDescriptor, WRITE_BACK};
use crate::addr::{Hpa, MfnRange};
use crate::image::e820::{E820Entry, E820Kind, E820Map};
use crate::le::u32_at;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use multiboot2::{
    BootLoaderNameTag, CommandLineTag, DynSizedStructure, EFISdt32Tag, EFISdt64Tag, MaybeDynSized,
    ModuleTag, StringError, TagHeader, TagType,
};
use zerocopy::IntoBytes;

/// A tag of which only type and size are looked at.
type GenericInfoTag = DynSizedStructure<TagHeader>;

/// The largest boot information that is read; GRUB's is a few KiB.
pub const MAX_SIZE: usize = 1 << 20;

/// What the boot loader says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BootInformation {
    /// The hypervisor's own command line.
    pub command_line: String,
    /// The loader's name, empty where it has none.
    pub loader: String,
    /// The modules in the order of the loader's configuration: dom0's kernel, then its initrd.
    pub modules: Vec<Module>,
    pub memory: E820Map,
    /// A copy of the ACPI root pointer, the newer one where there are two: 20 or 36 bytes.
    pub rsdp: Option<Vec<u8>>,
    /// What is known of EFI, where the machine booted through it.
    pub efi: Efi,
    /// Where the loader left the screen, if it is one of pixels.
    pub screen: Option<Framebuffer>,
}

/// A file that the boot loader put into memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    pub start: Hpa,
    /// After its last byte; not below `start`.
    pub end: Hpa,
    /// The words after its name in the loader's configuration, without that name: see `arguments`.
    pub command_line: String,
}

impl Module {
    /// The frames that it touches; one where it is empty.
    #[must_use]
    pub fn frames(&self) -> MfnRange {
        MfnRange::covering(self.start, self.end.max(self.start + 1))
    }
}

/// What is known of EFI.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Efi {
    /// The system table, where the machine booted through EFI.
    pub system_table: Option<Hpa>,
    /// True where it is one of 32-bit firmware.
    pub is_32_bit: bool,
    /// EFI's own memory map, empty where the loader passed none.
    pub memory: Vec<MemoryDescriptor>,
    /// True where boot services are still running and have to be ended.
    pub has_boot_services: bool,
}

/// Why boot information cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Multiboot2Error {
    /// It ends before its own end, or a tag does.
    Truncated,
    /// The tag of this type is shorter than its kind, or of a layout that is not known.
    BadTag(u32),
    /// The string in the tag of this type is not ended or not UTF-8.
    BadString(u32),
    /// The module with this number (from 0) ends before it starts.
    BadModule(usize),
    /// There is no memory map.
    NoMemoryMap,
}

impl fmt::Display for Multiboot2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("multiboot2 information: ")?;
        match self {
            Self::Truncated => f.write_str("it is truncated"),
            Self::BadTag(tag) => write!(f, "tag {tag} is malformed"),
            Self::BadString(tag) => write!(f, "the text in tag {tag} is not UTF-8 or has no end"),
            Self::BadModule(n) => write!(f, "module {n} ends before it starts"),
            Self::NoMemoryMap => f.write_str(
                "it has no memory map; boot with a loader that passes one, such as GRUB 2",
            ),
        }
    }
}

/// The size that boot information states in its first 8 bytes, 8 to [`MAX_SIZE`] bytes.
///
/// # Errors
/// [`Multiboot2Error::Truncated`] where it is none.
pub fn total_size(first: [u8; 8]) -> Result<usize, Multiboot2Error> {
    let size = u32_at(&first, 0).and_then(|size| usize::try_from(size).ok());
    size.filter(|size| (8..=MAX_SIZE).contains(size))
        .ok_or(Multiboot2Error::Truncated)
}

/// Reads boot information from its bytes, which may be more than it has.
///
/// # Errors
/// Says what is malformed or missing.
pub fn parse(bytes: &[u8]) -> Result<BootInformation, Multiboot2Error> {
    let first = bytes.first_chunk::<8>().ok_or(Multiboot2Error::Truncated)?;
    let tags = bytes
        .get(8..total_size(*first)?)
        .ok_or(Multiboot2Error::Truncated)?;
    let aligned = aligned_copy(tags);
    let mut reader = Reader::default();
    let mut rest = aligned.as_bytes();
    loop {
        let size = u32_at(rest, 4)
            .and_then(|size| usize::try_from(size).ok())
            .ok_or(Multiboot2Error::Truncated)?;
        let padded = size
            .checked_next_multiple_of(8)
            .ok_or(Multiboot2Error::Truncated)?;
        let (tag, next) = rest
            .split_at_checked(padded)
            .ok_or(Multiboot2Error::Truncated)?;
        let tag = GenericInfoTag::ref_from_slice(tag).map_err(|_| Multiboot2Error::Truncated)?;
        if tag.header().typ == TagType::End {
            return reader.finish();
        }
        reader.take(tag)?;
        rest = next;
    }
}

/// The tags at an address that is a multiple of 8, as the crate demands, and padded to such a size.
fn aligned_copy(tags: &[u8]) -> Vec<u64> {
    let mut copy = vec![0u64; tags.len().div_ceil(8)];
    for (to, from) in copy.as_mut_bytes().iter_mut().zip(tags) {
        *to = *from;
    }
    copy
}

#[derive(Default)]
struct Reader {
    info: BootInformation,
    memory: Vec<E820Entry>,
    has_new_rsdp: bool,
}

impl Reader {
    fn take(&mut self, tag: &GenericInfoTag) -> Result<(), Multiboot2Error> {
        match TagType::from(tag.header().typ) {
            TagType::Cmdline => {
                self.info.command_line =
                    arguments(&string(tag, typed::<CommandLineTag>(tag)?.cmdline())?)
            }
            TagType::BootLoaderName => {
                self.info.loader = string(tag, typed::<BootLoaderNameTag>(tag)?.name())?
            }
            TagType::Module => self.take_module(tag)?,
            TagType::Mmap => self.memory = memory_map(tag)?,
            TagType::EfiMmap => self.info.efi.memory = efi_memory_map(tag)?,
            TagType::AcpiV1 => self.take_rsdp(tag, 20, false)?,
            TagType::AcpiV2 => self.take_rsdp(tag, 36, true)?,
            TagType::Efi32 => {
                self.info.efi.is_32_bit = true;
                self.take_system_table(typed::<EFISdt32Tag>(tag)?.sdt_address());
            }
            TagType::Efi64 => self.take_system_table(typed::<EFISdt64Tag>(tag)?.sdt_address()),
            TagType::Framebuffer => self.info.screen = Framebuffer::parse(tag.payload()),
            TagType::EfiBs => self.info.efi.has_boot_services = true,
            _ => {}
        }
        Ok(())
    }

    fn take_module(&mut self, tag: &GenericInfoTag) -> Result<(), Multiboot2Error> {
        let module = typed::<ModuleTag>(tag)?;
        let (start, end) = (module.start_address(), module.end_address());
        // the crate's own size of a module panics here
        if end < start {
            return Err(Multiboot2Error::BadModule(self.info.modules.len()));
        }
        self.info.modules.push(Module {
            start: Hpa::new(start.into()),
            end: Hpa::new(end.into()),
            command_line: arguments(&string(tag, module.cmdline())?),
        });
        Ok(())
    }

    fn take_rsdp(
        &mut self,
        tag: &GenericInfoTag,
        size: usize,
        is_new: bool,
    ) -> Result<(), Multiboot2Error> {
        let rsdp = tag
            .payload()
            .get(..size)
            .ok_or(Multiboot2Error::BadTag(raw_type(tag)))?;
        if is_new || !self.has_new_rsdp {
            self.info.rsdp = Some(rsdp.to_vec());
            self.has_new_rsdp |= is_new;
        }
        Ok(())
    }

    fn take_system_table(&mut self, address: usize) {
        self.info.efi.system_table = Some(Hpa::new(address as u64));
    }

    fn finish(mut self) -> Result<BootInformation, Multiboot2Error> {
        // the loader's map already says which memory of EFI's is free; EFI's own is the second choice
        if self.memory.is_empty() {
            self.memory = self.info.efi.memory.iter().map(in_e820).collect();
        }
        if self.memory.is_empty() {
            return Err(Multiboot2Error::NoMemoryMap);
        }
        self.info.memory = E820Map::sanitise(&self.memory);
        Ok(self.info)
    }
}

/// A command line without a first word that only names the file: its path, or the word `placeholder` that
/// grub-mkconfig's 20_linux_xen writes in its place. No option of ours or of a kernel is such a word. (Xen drops the
/// first word of whatever loader is not GRUB 2, and passes `placeholder` on, which Linux then passes to init.)
fn arguments(line: &str) -> String {
    let line = line.trim_start_matches(' ');
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let is_name = first == "placeholder" || first.starts_with(['/', '(']);
    let words = if is_name {
        rest.trim_start_matches(' ')
    } else {
        line
    };
    words.into()
}

fn raw_type(tag: &GenericInfoTag) -> u32 {
    TagType::from(tag.header().typ).val()
}

/// The tag as its own type, where it is long enough for it.
fn typed<T>(tag: &GenericInfoTag) -> Result<&T, Multiboot2Error>
where
    T: MaybeDynSized<Header = TagHeader> + ?Sized,
    T::Metadata: Default,
{
    let size = size_of::<TagHeader>() + tag.payload().len();
    let is_exact = size_of::<T::Metadata>() != 0
        || size.next_multiple_of(8) == T::BASE_SIZE.next_multiple_of(8);
    if size < T::BASE_SIZE || !is_exact {
        return Err(Multiboot2Error::BadTag(raw_type(tag)));
    }
    Ok(tag.cast())
}

fn string(
    tag: &GenericInfoTag,
    text: Result<&str, StringError>,
) -> Result<String, Multiboot2Error> {
    text.map(ToString::to_string)
        .map_err(|_| Multiboot2Error::BadString(raw_type(tag)))
}

/// The entries of a memory map, each `entry_size` bytes, which may be more than the 24 that are defined.
fn memory_map(tag: &GenericInfoTag) -> Result<Vec<E820Entry>, Multiboot2Error> {
    let read = |entry: &[u8]| {
        let kind = E820Kind::from_raw(u32_at(entry, 16)?);
        Some(E820Entry::sized(
            crate::le::u64_at(entry, 0)?,
            crate::le::u64_at(entry, 8)?,
            kind,
        ))
    };
    table(tag, 24, read)
}

fn efi_memory_map(tag: &GenericInfoTag) -> Result<Vec<MemoryDescriptor>, Multiboot2Error> {
    table(tag, MemoryDescriptor::BYTES, MemoryDescriptor::parse)
}

/// EFI's memory in the terms of e820, boot services' memory being free as they are ended before it is used.
///
/// Source: UEFI specification, "Memory Type Usage after `ExitBootServices()`".
fn in_e820(descriptor: &MemoryDescriptor) -> E820Entry {
    let can_write_back = descriptor.attributes & WRITE_BACK != 0;
    let kind = match descriptor.kind {
        1..=4 | 7 if can_write_back => E820Kind::Ram,
        8 => E820Kind::Unusable,
        9 => E820Kind::AcpiTables,
        10 => E820Kind::AcpiNvs,
        14 => E820Kind::Persistent,
        _ => E820Kind::Reserved,
    };
    E820Entry::new(descriptor.start.as_u64(), descriptor.end(), kind)
}

/// Reads each entry of a tag that states their size, `least` bytes or more, in its first word.
fn table<T>(
    tag: &GenericInfoTag,
    least: usize,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, Multiboot2Error> {
    let bad = Multiboot2Error::BadTag(raw_type(tag));
    let size = u32_at(tag.payload(), 0)
        .and_then(|size| usize::try_from(size).ok())
        .ok_or(bad)?;
    let entries = tag.payload().get(8..).ok_or(bad)?;
    if size < least {
        return Err(bad);
    }
    entries
        .chunks_exact(size)
        .map(|entry| read(entry).ok_or(bad))
        .collect()
}

#[cfg(test)]
mod tests;
