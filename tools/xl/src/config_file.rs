//! The configuration that a command line names: its file, and words appended to it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use toolstack::config::{self, DiskConfig, DomainConfig, HostConfig, Message, Parsed, Rejected};

use crate::failure::{Failure, NOT_CREATED, Outcome};
use crate::output;

/// Exit code where no file is named: xl's.
const NO_FILE: u8 = 6;
/// So many errors, and warnings, are shown; the others are counted.
const SHOWN: usize = 50;

/// A configuration's file and what is appended to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWords {
    file: PathBuf,
    extra: Vec<OsString>,
}

impl ConfigWords {
    /// Sorts words: those with `=` are appended, the other one is the file.
    ///
    /// # Errors
    /// No file, or two.
    pub fn new(defconfig: Option<OsString>, words: Vec<OsString>) -> Result<Self, Failure> {
        let is_setting = |word: &OsString| word.as_bytes().contains(&b'=');
        let (extra, mut files): (Vec<_>, Vec<_>) = words.into_iter().partition(is_setting);
        files.extend(defconfig);
        match <[OsString; 1]>::try_from(files) {
            Ok([file]) => Ok(Self {
                file: file.into(),
                extra,
            }),
            Err(files) if files.is_empty() => Err(Failure::with_code(
                "xl: name the configuration's file",
                NO_FILE,
            )),
            Err(files) => {
                let files: Vec<_> = files.iter().map(|file| file.to_string_lossy()).collect();
                Err(Failure::usage(format!(
                    "xl: one configuration at a time, not {}",
                    files.join(" and ")
                )))
            }
        }
    }

    /// Reads and checks the file; what is read, and warnings unless `quiet`, are told on stderr.
    ///
    /// # Errors
    /// Exit code 3 where it cannot be read, 1 where it is wrong: with all that is.
    pub fn read(&self, quiet: bool, host: &HostConfig) -> Result<DomainConfig, Failure> {
        let name = self.file.display().to_string();
        let text = std::fs::read(&self.file).map_err(|error| {
            let reason = error.to_string();
            let reason = reason
                .split(" (os error")
                .next()
                .unwrap_or_default()
                .to_owned();
            Failure::with_code(
                format!("Failed to read config file: {name}: {reason}"),
                NOT_CREATED,
            )
        })?;
        if !quiet {
            output::note(&format!("Parsing config from {name}"));
        }
        let tell = |warnings: &[Message]| {
            if !quiet {
                note_warnings(warnings);
            }
        };
        match config::parse(&name, &text, &self.extra, host) {
            Ok(Parsed { config, warnings }) => {
                tell(&warnings);
                Ok(config)
            }
            Err(Rejected { errors, warnings }) => {
                tell(&warnings);
                Err(Failure::of_messages(&shown(&errors, "")))
            }
        }
    }
}

/// Tells what was odd about a file.
pub fn note_warnings(warnings: &[Message]) {
    for text in shown(warnings, "warning: ") {
        output::note(&text);
    }
}

/// Spells messages; of very many only the first, and how many more there are.
fn shown(messages: &[Message], lead: &str) -> Vec<String> {
    let mut texts: Vec<_> = messages
        .iter()
        .take(SHOWN)
        .map(|message| format!("{lead}{message}"))
        .collect();
    let more = messages.len().saturating_sub(SHOWN);
    if more > 0 {
        texts.push(format!("{lead}and {more} more"));
    }
    texts
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
    if disk.script.is_none() && disk.backend.is_none() && !disk.target.as_os_str().is_empty() {
        disk.target = std::path::absolute(&disk.target)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn read(words: Vec<OsString>) -> Result<DomainConfig, Failure> {
        ConfigWords::new(None, words)
            .unwrap()
            .read(true, &HostConfig::default())
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
            std::path::Path::new("a.cfg")
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
        let failure = read(words("/nonexistent.cfg")).unwrap_err();
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
        let failure = read(vec![file.into_os_string()]).unwrap_err();
        assert_eq!(failure.code, 1);
        assert!(
            failure.text.contains("bad.cfg:2:10: expected a value"),
            "{}",
            failure.text
        );
    }

    #[test]
    fn paths_that_are_no_text_reach_their_files() {
        use std::os::unix::ffi::OsStringExt;
        let directory = tempfile::tempdir().unwrap();
        let latin = OsString::from_vec(b"caf\xe9".to_vec());
        let file = directory.path().join(&latin);
        let mut text = b"name='a'\nmemory=1\nkernel='".to_vec();
        text.extend(file.as_os_str().as_bytes());
        text.extend(b"'\n");
        std::fs::write(&file, text).unwrap();
        let mut extra = OsString::from("ramdisk='");
        extra.push(&latin);
        extra.push("'");
        let config = read(vec![file.clone().into_os_string(), extra]).unwrap();
        assert_eq!(config.kernel, file);
        assert_eq!(config.ramdisk.unwrap().as_os_str(), latin);
        let missing = read(vec![OsString::from_vec(b"/\xff".to_vec())]).unwrap_err();
        assert_eq!(missing.code, NOT_CREATED);
    }

    #[test]
    fn of_very_many_messages_the_first_are_shown() {
        let text: String = (0..60).map(|n| format!("a{n} = oops\n")).collect();
        let none: &[&str] = &[];
        let rejected = config::parse("a", text.as_bytes(), none, &HostConfig::default());
        let texts = shown(&rejected.unwrap_err().errors, "");
        assert_eq!((texts.len(), texts[50].as_str()), (51, "and 10 more"));
    }

    #[test]
    fn paths_are_kept_for_another_directory() {
        let text = "name='a'\nmemory=1\nkernel='k'\nramdisk='/r'\ndisk=['file:d.img,xvda,w','phy:vg/lv,xvdb,w']";
        let none: &[&str] = &[];
        let mut config = config::parse("a", text.as_bytes(), none, &HostConfig::default())
            .unwrap()
            .config;
        make_absolute(&mut config).unwrap();
        assert!(config.kernel.is_absolute() && config.kernel.ends_with("k"));
        assert_eq!(config.ramdisk.as_deref(), Some(std::path::Path::new("/r")));
        assert!(config.disks[0].target.is_absolute() && config.disks[0].target.ends_with("d.img"));
        assert_eq!(config.disks[1].target, std::path::Path::new("/dev/vg/lv"));
    }
}
