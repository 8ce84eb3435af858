//! The files: a kernel, unpacked where it is packed, and an initrd.
//!
//! The same loader as the hypervisor's for dom0 (hv-core's `image`), so that what boots as dom0 boots as a guest.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use hv_core::image::elf::Kernel;
use hv_core::image::{self};
use xendev::Scratch;

use super::ImageError;

/// An ELF kernel, unpacked.
#[derive(Debug)]
pub struct KernelFile {
    path: String,
    bytes: Scratch,
}

/// An initrd as it is in its file.
#[derive(Debug)]
pub struct InitrdFile {
    bytes: Scratch,
}

impl KernelFile {
    /// Reads a bzImage (gzip, xz, lz4, zstd or not packed) or an ELF file.
    ///
    /// # Errors
    /// Where it cannot be read, is neither, or is damaged.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let file = read(path)?;
        let unusable = |reason: String| unusable(path, &reason);
        let payload = image::KernelFile::open(&file)
            .map_err(|error| unusable(error.to_string()))?
            .payload();
        let Some(payload) = payload else {
            return Ok(Self {
                path: path.display().to_string(),
                bytes: file,
            });
        };
        let mut bytes = Scratch::new(payload.unpacked_size()).map_err(|errno| {
            unusable(format!(
                "unpacking takes {} bytes: {errno}",
                payload.unpacked_size()
            ))
        })?;
        payload
            .unpack(&mut bytes)
            .map_err(|error| unusable(error.to_string()))?;
        Ok(Self {
            path: path.display().to_string(),
            bytes,
        })
    }

    /// Finds segments and entry point.
    ///
    /// # Errors
    /// Where it has no PVH entry point or cannot be loaded.
    pub fn parse(&self) -> Result<Kernel<'_>, ImageError> {
        Kernel::parse(&self.bytes).map_err(|error| ImageError::File {
            path: self.path.clone(),
            reason: error.to_string(),
        })
    }
}

impl InitrdFile {
    /// Reads an initrd.
    ///
    /// # Errors
    /// Where it cannot be read or is empty.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        read(path).map(|bytes| Self { bytes })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a whole file.
fn read(path: &Path) -> Result<Scratch, ImageError> {
    let failed = |error: std::io::Error| unusable(path, &error.to_string());
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(unusable(path, "it is a directory"));
    }
    let size = usize::try_from(metadata.len()).unwrap_or(0);
    if size == 0 {
        return Err(unusable(path, "the file is empty"));
    }
    let mut bytes = Scratch::new(size).map_err(|errno| failed(errno.into()))?;
    file.read_exact(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn unusable(path: &Path, reason: &str) -> ImageError {
    ImageError::File {
        path: path.display().to_string(),
        reason: reason.to_owned(),
    }
}
