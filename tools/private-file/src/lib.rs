//! Files that their owner alone may read: what guests keep in memory, print, or are configured with is nobody else's.
//!
//! Xen's tools make dumps, saved configurations and the like with mode 0600 whatever the umask. Every file that a tool
//! of ours writes is opened here; the few that others may read are named in `xtask`'s audit.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Read and written by the owner.
const MODE: u32 = 0o600;

/// Opens a file for reading and writing, made or emptied, that only its owner may open.
///
/// # Errors
/// The file system's.
pub fn create(path: &Path) -> io::Result<File> {
    // emptied only when nobody else can open it any more
    let file = open(
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false),
        path,
    )?;
    if file.metadata()?.is_file() {
        file.set_len(0)?;
    }
    Ok(file)
}

/// Opens a file for writing at its end, made where it is not there, that only its owner may open.
///
/// # Errors
/// The file system's.
pub fn append(path: &Path) -> io::Result<File> {
    open(OpenOptions::new().append(true).create(true), path)
}

/// Opens with the mode; one that was there with another is given ours. A pipe or a device keeps its own.
fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.mode(MODE).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.permissions().mode() & 0o7777 != MODE {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_file_is_its_owners_and_so_is_an_old_one() {
        let directory = tempfile::tempdir().unwrap();
        let new = directory.path().join("new");
        create(&new).unwrap();
        assert_eq!(mode(&new), 0o600);
        let log = directory.path().join("log");
        append(&log).unwrap();
        assert_eq!(mode(&log), 0o600);
        for open in [create, append] {
            let old = directory.path().join("old");
            std::fs::write(&old, "before").unwrap();
            std::fs::set_permissions(&old, Permissions::from_mode(0o644)).unwrap();
            open(&old).unwrap().write_all(b"now").unwrap();
            assert_eq!(mode(&old), 0o600);
        }
        let mut text = String::new();
        File::open(directory.path().join("old"))
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "beforenow");
    }

    #[test]
    fn a_device_keeps_its_mode() {
        let before = mode(Path::new("/dev/null"));
        create(Path::new("/dev/null")).unwrap();
        assert_eq!(mode(Path::new("/dev/null")), before);
    }
}
