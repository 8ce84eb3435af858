//! The configuration of a running domain, kept in a file: what a reboot builds it from again.
//!
//! It lies where libxl keeps such files, under the domain's id and UUID.

use std::io::Write;
use std::path::PathBuf;

use uuid::Uuid;

use crate::config::DomainConfig;
use crate::{Error, Lock, Result, Toolstack};

impl Toolstack {
    fn kept_path(&self, domid: u16, uuid: Uuid) -> PathBuf {
        self.paths
            .userdata
            .join(format!("userdata-d.{domid}.{uuid}.hematite-json"))
    }

    /// Keeps a domain's configuration; a reader sees the old one or the new one whole.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep_config(&self, _held: &Lock, domid: u16, config: &DomainConfig) -> Result<()> {
        let path = self.kept_path(domid, config.uuid);
        let failed = |error: std::io::Error| Error::file(&path, error);
        let text = serde_json::to_vec_pretty(config).map_err(|error| failed(error.into()))?;
        std::fs::create_dir_all(&self.paths.userdata)
            .map_err(|error| Error::file(&self.paths.userdata, error))?;
        let new = path.with_extension("new");
        let written = private_file::create(&new).and_then(|mut file| file.write_all(&text));
        written
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(failed)
    }

    /// Reads a domain's configuration back; `None` where none was kept.
    ///
    /// # Errors
    /// Where the file cannot be read or understood.
    pub fn kept_config(&self, domid: u16) -> Result<Option<DomainConfig>> {
        let uuid = self.info(domid)?.uuid;
        let path = self.kept_path(domid, uuid);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let mut config: DomainConfig = serde_json::from_slice(&bytes)
                    .map_err(|error| Error::file(&path, std::io::Error::from(error)))?;
                // the name is xenstore's to tell: it may have been changed
                config.name = self.name_of(domid)?.unwrap_or(config.name);
                Ok(Some(config))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(&path, error)),
        }
    }

    /// Removes it.
    pub(crate) fn forget_config(&self, domid: u16, uuid: Uuid) -> Result<()> {
        let path = self.kept_path(domid, uuid);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file(&path, error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::testing::Bench;

    #[test]
    fn what_a_domain_is_made_of_is_for_its_owner_to_read() {
        let bench = Bench::new();
        let created = bench.create(&bench.config("web")).unwrap();
        let path = bench.ts.kept_path(created.domid, created.config.uuid);
        let mode = path.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
