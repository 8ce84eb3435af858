//! Who else has a disk's target: nobody may write what another domain has, unless both say so (`w!`).
//!
//! Two kernels that each keep their own idea of one file system destroy it. A reader next to a writer sees it change
//! under its cache, which is refused as well.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use xenstore::Ops;

use super::{Device, Kind, disk::identity};
use crate::config::DiskConfig;
use crate::error::During;
use crate::{Error, Lock, Result, Toolstack};

/// How a domain has a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    writes: bool,
    shares: bool,
}

impl Mode {
    fn parse(text: &str) -> Self {
        Self {
            writes: text.contains('w'),
            shares: text.contains('!'),
        }
    }

    const fn conflicts(self, other: Self) -> bool {
        (self.writes || other.writes) && !(self.shares && other.shares)
    }
}

/// Checks that `domid` may have `disk`, whose target is at `path`.
///
/// A domain that has it but is gone (whoever destroyed it was not left the time to tidy up) is no obstacle: what is
/// left of it is taken away.
pub(super) fn check(
    ts: &Toolstack,
    held: &Lock,
    domid: u16,
    disk: &DiskConfig,
    path: &Path,
) -> Result<()> {
    let Some(wanted) = identity(path) else {
        return Ok(());
    };
    let mine = Mode {
        writes: disk.writable,
        shares: disk.shared,
    };
    let backends = format!("{}/backend/vbd", crate::domain::path(crate::DOM0));
    for owner in ts.children(&backends)? {
        let Ok(owner) = owner.parse::<u16>() else {
            continue;
        };
        let disks = ts.device_ids(owner, Kind::Vbd)?;
        // what a driver domain says of its disks is no path of ours
        for device in disks.iter().filter(|disk| disk.backend == crate::DOM0) {
            let node = |name: &str| {
                ts.store
                    .read_opt(&format!("{}/{name}", device.backend_path()))
            };
            let (Some(target), Some(mode)) = (node("params")?, node("mode")?) else {
                continue;
            };
            let theirs = Mode::parse(&String::from_utf8_lossy(&mode));
            let target = Path::new(OsStr::from_bytes(&target));
            if mine.conflicts(theirs) && identity(target) == Some(wanted) {
                if is_gone(ts, owner)? {
                    ts.sweep(held, owner)
                        .during(format!("taking away what domain {owner} left"))?;
                    break;
                }
                return Err(refusal(ts, domid, disk, device, theirs)?);
            }
        }
    }
    Ok(())
}

fn is_gone(ts: &Toolstack, domid: u16) -> Result<bool> {
    match ts.info(domid) {
        Ok(_) => Ok(false),
        Err(Error::NoDomain(_)) => Ok(true),
        Err(error) => Err(error),
    }
}

fn refusal(
    ts: &Toolstack,
    domid: u16,
    disk: &DiskConfig,
    other: &Device,
    theirs: Mode,
) -> Result<Error> {
    let name = |domid: u16| -> Result<String> {
        Ok(ts
            .name_of(domid)?
            .unwrap_or_else(|| format!("domain {domid}")))
    };
    let vdev = ts
        .store
        .read_string_opt(&format!("{}/dev", other.backend_path()))?
        .unwrap_or_default();
    Ok(Error::Refused(format!(
        "{} cannot be \"{}\" of \"{}\"{}: it is \"{vdev}\" of \"{}\"{}; only what all have as w! may be shared so",
        disk.target.display(),
        disk.vdev,
        name(domid)?,
        if disk.writable { " for writing" } else { "" },
        name(other.frontend)?,
        if theirs.writes {
            ", which writes to it"
        } else {
            ", which reads it"
        },
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_writers_only_by_agreement() {
        let conflict = |a: &str, b: &str| Mode::parse(a).conflicts(Mode::parse(b));
        assert!(!conflict("r", "r") && !conflict("w!", "w!"));
        assert!(
            conflict("w", "w")
                && conflict("w", "r")
                && conflict("r", "w")
                && conflict("w!", "w")
                && conflict("w!", "r")
        );
    }
}
