//! The ELF file inside a bzImage, for scenarios that are not about unpacking it.
//!
//! The hypervisor unpacks a stock kernel by itself, which takes more instructions than all the rest of a boot. Both
//! forms of the same kernel boot alike, so most scenarios use this one and a few the package's file.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::debian::Kernel;
use crate::paths;

/// Returns `kernel`'s vmlinux, unpacked the first time.
///
/// # Errors
/// The kernel is missing, or its payload is not the one of Debian's kernels (xz).
pub(crate) fn unpacked(kernel: Kernel) -> Result<PathBuf> {
    let bzimage = kernel.vmlinuz()?;
    let name = bzimage
        .file_name()
        .context("a kernel has a name")?
        .to_string_lossy();
    let to = paths::out().join(name.replace("vmlinuz", "vmlinux"));
    if to.exists() {
        return Ok(to);
    }
    let bytes = fs::read(&bzimage).with_context(|| format!("cannot read {}", bzimage.display()))?;
    let payload =
        payload(&bytes).with_context(|| format!("{} is no bzImage", bzimage.display()))?;
    let partial = to.with_extension("partial");
    let mut xz = Command::new("xz")
        // The kernel's build appends the unpacked size, which is not part of the stream.
        .args(["-dc", "--single-stream"])
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&partial)?)
        .spawn()
        .context("cannot start xz")?;
    let mut stdin = xz.stdin.take().context("xz's input is a pipe")?;
    // xz stops reading at the stream's end, so the last bytes may find nobody.
    let _ = stdin.write_all(payload);
    drop(stdin);
    ensure!(
        xz.wait()?.success(),
        "the payload of {} is not xz",
        bzimage.display()
    );
    fs::rename(partial, &to)?;
    Ok(to)
}

/// Finds the packed kernel in a bzImage (Linux's "The Linux/x86 Boot Protocol": setup_sects, payload_offset and
/// payload_length).
fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = bzimage.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    if bzimage.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = usize::from(*bzimage.get(0x1f1)?);
    let start = (sectors + 1) * 512 + word(0x248)?;
    bzimage.get(start..start + word(0x24c)?)
}
