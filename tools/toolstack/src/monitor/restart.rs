//! A domain made once more: the pause before it, its predecessor's end, and the record that lets another monitor go on.
//!
//! From the moment its predecessor goes until it is there, the guest is nowhere but in a record beside the kept
//! configurations: a monitor that is killed in between is followed by one that finds it there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xenstore::Ops;

use super::marks::Mark;
use super::{Note, clock};
use crate::config::DomainConfig;
use crate::create::Options;
use crate::domain::kept::{remove_if_there, write_json};
use crate::domain::{DomainState, path};
use crate::error::During;
use crate::{Error, Lock, Result, Toolstack};

/// A domain to be made once more.
pub(super) struct Restart {
    pub(super) record: Record,
    pub(super) due: Instant,
    pub(super) stage: Stage,
}

/// What another monitor has to know of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    /// Its predecessor.
    pub(super) domid: u16,
    pub(super) old: Old,
    /// Short lives in a row before it.
    pub(super) short_lives: u32,
    pub(super) config: DomainConfig,
}

/// What is done with the predecessor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Old {
    Destroy,
    /// It stays under another name and UUID.
    SetAside {
        name: String,
        uuid: Uuid,
    },
}

impl Old {
    /// Sets a domain aside that is called `name`, under a name with the time.
    pub(super) fn aside(name: &str) -> Self {
        Self::SetAside {
            name: format!("{name}{}", clock::suffix(clock::now())),
            uuid: Uuid::new_v4(),
        }
    }
}

/// How far it is. Kept over a loss of xenstored: without it the guest would be lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// The predecessor is there; who destroys it meanwhile wants no other.
    Waiting,
    /// The predecessor is being taken away.
    Clearing,
    /// It is gone.
    Away,
    /// The new one is there.
    Made(u16),
}

impl Restart {
    /// Waits for `pause` before the first step.
    pub(super) fn after(pause: Duration, record: Record) -> Self {
        Self {
            record,
            due: due(pause),
            stage: Stage::Waiting,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.record.config.name
    }
}

/// When a pause that begins now is over.
pub(super) fn due(pause: Duration) -> Instant {
    // tests do not wait for it
    Instant::now() + if cfg!(test) { pause / 2000 } else { pause }
}

impl Toolstack {
    /// Takes a restart as far as it goes; may be called again where it failed. Returns the new domain, or nothing where
    /// somebody destroyed the old one meanwhile.
    pub(super) fn restart(
        &self,
        restart: &mut Restart,
        note: &mut Note<'_>,
    ) -> Result<Option<u16>> {
        let name = restart.name().to_owned();
        let mut note = |text: &str| note(&name, text);
        // from here on: nobody else may take its name meanwhile
        let held = self.lock(&mut note)?;
        if restart.stage == Stage::Waiting && !self.begin(restart)? {
            note("its domain was taken away meanwhile: it is not started again");
            return Ok(None);
        }
        if restart.stage == Stage::Clearing {
            let record = &restart.record;
            match &record.old {
                Old::Destroy => self.clear_away(&held, record.domid, &mut note)?,
                Old::SetAside { name, uuid } => self.set_aside(&held, record, name, *uuid)?,
            }
            restart.stage = Stage::Away;
        }
        if restart.stage == Stage::Away {
            let config = &restart.record.config;
            // it runs when it is followed
            let made = self.create(&held, config, Options { paused: true });
            let domid = made.during("restarting")?.domid;
            note(&format!("\"{name}\" is domain {domid} now"));
            restart.stage = Stage::Made(domid);
        }
        let Stage::Made(domid) = restart.stage else {
            return Ok(None);
        };
        Ok(Some(domid))
    }

    /// Writes the record, if the predecessor is still there and has ended.
    fn begin(&self, restart: &mut Restart) -> Result<bool> {
        let domid = restart.record.domid;
        match self.info(domid) {
            Ok(info) if !info.state.dying && info.state.shutdown.is_some() => {}
            Ok(_) | Err(Error::NoDomain(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        // it may have been renamed
        if let Some(config) = self.kept_config(domid)? {
            restart.record.config = config;
        }
        write_json(
            &self.record_path(restart.record.config.uuid),
            &restart.record,
        )?;
        restart.stage = Stage::Clearing;
        Ok(true)
    }

    /// Lets a domain run that was made again; it is followed before.
    pub(super) fn release(&self, domid: u16, mark: Option<Mark>) -> Result<()> {
        if let Some(mark) = mark {
            self.mark(domid, mark)?;
        }
        match self.info(domid) {
            Ok(info) if info.state.paused => self.unpause(domid),
            Ok(_) | Err(Error::NoDomain(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes the record of a restart that is over.
    pub(super) fn forget_restart(&self, record: &Record) -> Result<()> {
        remove_if_there(&self.record_path(record.config.uuid))
    }

    /// Finds what a monitor left that was killed during a restart.
    pub(super) fn left_restarts(&self, note: &mut Note<'_>) -> Result<Vec<Restart>> {
        let Ok(files) = std::fs::read_dir(&self.paths.userdata) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for file in files.flatten().map(|entry| entry.path()) {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with(RECORD) || !name.ends_with(".json") {
                continue;
            }
            match read_record(&file) {
                Ok(record) => found.push(self.left_restart(record)?),
                Err(error) => note("monitor", &error.chain()),
            }
        }
        Ok(found)
    }

    /// Finds out how far a restart was: what the record says of both domains holds as long as their UUIDs are there.
    fn left_restart(&self, record: Record) -> Result<Restart> {
        let all = self.hyper.domain_infos()?;
        let mut alive = all
            .iter()
            .filter(|raw| !DomainState::from_flags(raw.flags).dying);
        let old = alive.clone().find(|raw| raw.domain == record.domid);
        let stage = match alive.find(|raw| raw.handle == record.config.uuid.into_bytes()) {
            Some(raw) if raw.domain == record.domid => Stage::Clearing,
            // the last thing that is done to make a domain is to keep its configuration
            Some(raw) if self.kept_config(raw.domain)?.is_some() => Stage::Made(raw.domain),
            Some(raw) => {
                self.destroy(raw.domain)?;
                Stage::Away
            }
            None => match (&record.old, old) {
                (Old::SetAside { uuid, .. }, Some(raw)) if raw.handle == *uuid.as_bytes() => {
                    Stage::Clearing
                }
                (Old::Destroy, None) => Stage::Clearing,
                // set aside and destroyed since then, or the number is another's by now
                _ => Stage::Away,
            },
        };
        Ok(Restart {
            record,
            due: Instant::now(),
            stage,
        })
    }

    fn record_path(&self, uuid: Uuid) -> PathBuf {
        self.paths.userdata.join(format!("{RECORD}{uuid}.json"))
    }

    /// Destroys a domain so that another can take its place. Where it is gone in the end, a part that failed is told,
    /// and does not keep its successor away.
    fn clear_away(&self, held: &Lock, domid: u16, note: &mut dyn FnMut(&str)) -> Result<()> {
        let error = match self.destroy(domid) {
            Err(error) if !error.is_lost_store() => error,
            result => return result,
        };
        let swept = match self.info(domid) {
            Ok(info) if info.state.dying => Ok(()),
            Err(Error::NoDomain(_)) => self.sweep(held, domid),
            Err(lost) if lost.is_lost_store() => return Err(lost),
            _ => return Err(error),
        };
        if !matches!(error, Error::NoDomain(_)) {
            note(&error.chain());
        }
        match swept {
            Err(error) if !error.is_lost_store() => note(&error.chain()),
            result => return result,
        }
        Ok(())
    }

    /// Keeps an ended domain under another name and UUID, without its devices.
    fn set_aside(&self, held: &Lock, record: &Record, name: &str, uuid: Uuid) -> Result<()> {
        let (domid, config) = (record.domid, &record.config);
        self.detach_all(domid)?;
        self.hyper.set_handle(domid, uuid.into_bytes())?;
        let vm = format!("/vm/{uuid}");
        self.store.transaction(|tx| -> xenstore::Result<()> {
            tx.rm_if_exists(&format!("/vm/{}", config.uuid))?;
            tx.write(&format!("{vm}/name"), name)?;
            tx.write(&format!("{vm}/uuid"), uuid.to_string())?;
            tx.write(&format!("{}/vm", path(domid)), &vm)?;
            tx.write(&format!("{}/name", path(domid)), name)
        })?;
        self.unmark(domid)?;
        self.forget_config(domid, config.uuid)?;
        self.keep_config(
            held,
            domid,
            &DomainConfig {
                name: name.to_owned(),
                uuid,
                disks: Vec::new(),
                vifs: Vec::new(),
                ..config.clone()
            },
        )
    }
}

/// What a record's file is called, before the domain's UUID.
const RECORD: &str = "restart-";

fn read_record(file: &Path) -> Result<Record> {
    let bytes = std::fs::read(file).map_err(|error| Error::file(file, error))?;
    serde_json::from_slice(&bytes).map_err(|error| Error::file(file, std::io::Error::from(error)))
}
