//! The configuration that a command line names: its file, and words appended to it.

use toolstack::config::{self, DiskConfig, DomainConfig, Parsed};

use crate::failure::{Failure, Outcome};
use crate::output;

/// Exit code where the file cannot be read.
const UNREADABLE: u8 = 3;

/// A configuration's file and what is appended to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWords {
    file: String,
    extra: Vec<String>,
}

impl ConfigWords {
    /// Sorts words: those with `=` are appended, the other one is the file.
    ///
    /// # Errors
    /// No file, or two.
    pub fn new(defconfig: Option<String>, words: Vec<String>) -> Result<Self, Failure> {
        let (extra, mut files): (Vec<_>, Vec<_>) =
            words.into_iter().partition(|word| word.contains('='));
        files.extend(defconfig);
        match <[String; 1]>::try_from(files) {
            Ok([file]) => Ok(Self { file, extra }),
            Err(files) if files.is_empty() => {
                Err(Failure::new("xl: name the configuration's file"))
            }
            Err(files) => Err(Failure::new(format!(
                "xl: one configuration at a time, not {}",
                files.join(" and ")
            ))),
        }
    }

    /// Reads and checks the file; warnings go to stderr.
    ///
    /// # Errors
    /// Exit code 3 where it cannot be read, 1 where it is wrong.
    pub fn read(&self, quiet: bool) -> Result<DomainConfig, Failure> {
        let text = std::fs::read(&self.file).map_err(|error| {
            let reason = error.to_string();
            let reason = reason
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_owned();
            Failure::with_code(
                format!("Failed to read config file: {}: {reason}", self.file),
                UNREADABLE,
            )
        })?;
        if !quiet {
            output::print(&format!("Parsing config from {}\n", self.file))?;
        }
        let text = String::from_utf8_lossy(&text);
        let Parsed { config, warnings } = config::parse(&self.file, &text, &self.extra)
            .map_err(|message| Failure::new(message.to_string()))?;
        for warning in warnings {
            output::note(&format!("warning: {warning}"));
        }
        Ok(config)
    }
}

/// Makes paths independent of this directory: a reboot reads them again from another.
///
/// # Errors
/// There is no such directory any more.
pub fn make_absolute(config: &mut DomainConfig) -> Outcome {
    config.kernel = std::path::absolute(&config.kernel)?;
    config.ramdisk = config
        .ramdisk
        .as_ref()
        .map(std::path::absolute)
        .transpose()?;
    config.disks.iter_mut().try_for_each(make_disk_absolute)
}

/// The same for one disk: what it is attached with and compared by is its path.
///
/// # Errors
/// There is no such directory any more.
pub fn make_disk_absolute(disk: &mut DiskConfig) -> Outcome {
    // A script gives its target a meaning of its own, and another domain has other files.
    if disk.script.is_none() && disk.backend.is_none() && !disk.target.is_empty() {
        disk.target = std::path::absolute(&disk.target)?
            .to_string_lossy()
            .into_owned();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_with_an_equals_sign_are_appended() {
        let read = ConfigWords::new(None, words("name='x' web.cfg memory=1")).unwrap();
        assert_eq!(
            read,
            ConfigWords {
                file: "web.cfg".into(),
                extra: words("name='x' memory=1")
            }
        );
        assert_eq!(
            ConfigWords::new(Some("a.cfg".into()), Vec::new())
                .unwrap()
                .file,
            "a.cfg"
        );
        assert!(
            ConfigWords::new(None, words("a=1"))
                .unwrap_err()
                .text
                .contains("name the configuration")
        );
        assert!(
            ConfigWords::new(Some("a".into()), words("b"))
                .unwrap_err()
                .text
                .contains("b and a")
        );
    }

    #[test]
    fn an_unreadable_file_exits_3_in_xl_words() {
        let failure = ConfigWords::new(None, words("/nonexistent.cfg"))
            .unwrap()
            .read(true)
            .unwrap_err();
        assert_eq!(failure.code, 3);
        assert_eq!(
            failure.text,
            "Failed to read config file: /nonexistent.cfg: No such file or directory"
        );
    }

    #[test]
    fn a_wrong_file_exits_1_with_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bad.cfg");
        std::fs::write(&file, "name = \"x\"\nmemory = lots\n").unwrap();
        let failure = ConfigWords::new(None, vec![file.display().to_string()])
            .unwrap()
            .read(true)
            .unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(
            failure.text.contains("bad.cfg:2:10: expected a value"),
            "{}",
            failure.text
        );
    }

    #[test]
    fn paths_are_kept_for_another_directory() {
        let text = "name='a'\nmemory=1\nkernel='k'\nramdisk='/r'\ndisk=['file:d.img,xvda,w','phy:vg/lv,xvdb,w']";
        let mut config = config::parse("a", text, &[] as &[&str]).unwrap().config;
        make_absolute(&mut config).unwrap();
        assert!(config.kernel.is_absolute() && config.kernel.ends_with("k"));
        assert_eq!(config.ramdisk.as_deref(), Some(std::path::Path::new("/r")));
        assert!(
            config.disks[0].target.starts_with('/') && config.disks[0].target.ends_with("/d.img")
        );
        assert_eq!(config.disks[1].target, "/dev/vg/lv");
    }
}
