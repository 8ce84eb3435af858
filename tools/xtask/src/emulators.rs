//! The emulators of this host, for all that start machines.

use std::path::PathBuf;

use anyhow::Result;
use harness::Programs;

use crate::{bochs_build, qemu_fetch};

/// Finds them, and whether Bochs may be trusted with APIC virtualisation.
///
/// # Errors
/// `setup` has not run.
pub(crate) fn programs() -> Result<(Programs, bool)> {
    let (bochs, is_mended) = bochs_build::find()?;
    let programs = Programs {
        bochs,
        qemu: qemu_fetch::find()?,
        uefi: (
            PathBuf::from(qemu_fetch::UEFI_CODE),
            PathBuf::from(qemu_fetch::UEFI_VARIABLES),
        ),
    };
    Ok((programs, is_mended))
}
