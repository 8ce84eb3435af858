//! From files to what a guest finds in its memory.
//!
//! [`kernel`] reads and unpacks the files, [`layout`] decides where everything goes, [`acpi`] makes the tables, and
//! [`Image`] is the result: pieces with their addresses, an entry point, a memory map. [`load`] writes it into a
//! domain.

pub mod acpi;
pub mod kernel;
pub mod layout;
pub mod load;

use std::borrow::Cow;

use hv_core::addr::Gpa;
use hv_core::image::start_info::{Initrd, StartInfo};

pub use kernel::{InitrdFile, KernelFile};
pub use layout::Layout;

use crate::config::DomainConfig;

/// Why a domain's image cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A file cannot be used.
    #[error("{path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The parts do not fit the domain's memory, or the kernel cannot be told of them.
    #[error("{0}")]
    Layout(String),
}

/// Some bytes of a guest's memory.
#[derive(Clone, Debug)]
pub struct Piece<'a> {
    /// What it is, for messages.
    pub what: &'static str,
    /// Where it goes.
    pub at: u64,
    /// What it holds; memory is zero where nothing is.
    pub data: Cow<'a, [u8]>,
}

/// What a guest finds in its memory, and where it starts.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// Where memory is.
    pub layout: Layout,
    /// What is in it.
    pub pieces: Vec<Piece<'a>>,
    /// Where the first vCPU starts, in 32-bit mode.
    pub entry: u64,
    /// What EBX points at.
    pub start_info: u64,
}

impl<'a> Image<'a> {
    /// Builds the image of a domain from its files.
    ///
    /// # Errors
    /// Where the kernel cannot be used, or the parts do not fit.
    pub fn build(
        config: &DomainConfig,
        file: &'a KernelFile,
        initrd: Option<&'a InitrdFile>,
    ) -> Result<Self, ImageError> {
        let kernel = file.parse()?;
        let extent = kernel.extent();
        let tables = acpi::Tables::build(layout::ACPI_START, config.max_vcpus);
        let layout = Layout::plan(&layout::Request {
            memory_kib: config.max_memory_kib.max(config.memory_kib),
            populated_kib: config.memory_kib,
            kernel: extent.start.as_u64()..extent.end.as_u64(),
            initrd: initrd.map(|initrd| initrd.bytes().len() as u64),
            acpi_size: tables.bytes.len() as u64,
        })?;
        let told = StartInfo {
            flags: 0,
            command_line: &config.cmdline,
            initrd: layout.initrd.map(|(start, size)| Initrd {
                start: Gpa::new(start),
                size,
            }),
            memory: &layout.map,
            rsdp: Some(Gpa::new(tables.rsdp)),
        };
        let start_info = told
            .build(Gpa::new(layout.start_info))
            .map_err(|error| ImageError::Layout(error.to_string()))?;
        let of_kernel = kernel.segments.iter().map(|segment| Piece {
            what: "kernel",
            at: segment.start.as_u64(),
            data: Cow::Borrowed(segment.data),
        });
        let mut pieces: Vec<Piece<'a>> = of_kernel.collect();
        pieces.push(Piece {
            what: "start info",
            at: layout.start_info,
            data: start_info.into(),
        });
        if let (Some((at, _)), Some(initrd)) = (layout.initrd, initrd) {
            pieces.push(Piece {
                what: "initrd",
                at,
                data: Cow::Borrowed(initrd.bytes()),
            });
        }
        // a kernel that this one starts by kexec has no start info; its loader may not tell it of the tables either
        let has_root = extent.start.as_u64() >= layout::BIOS_END;
        pieces.extend(table_pieces(tables, has_root));
        Ok(Self {
            entry: kernel.entry.as_u64(),
            start_info: layout.start_info,
            layout,
            pieces,
        })
    }
}

/// The ACPI tables, and where a BIOS has it their root pointer.
fn table_pieces<'a>(tables: acpi::Tables, has_root: bool) -> impl Iterator<Item = Piece<'a>> {
    let root = has_root.then(|| Piece {
        what: "ACPI root pointer",
        at: layout::BIOS_RSDP,
        data: tables.root.into(),
    });
    let block = Piece {
        what: "ACPI tables",
        at: layout::ACPI_START,
        data: tables.bytes.into(),
    };
    [Some(block), root].into_iter().flatten()
}

#[cfg(test)]
mod tests;
