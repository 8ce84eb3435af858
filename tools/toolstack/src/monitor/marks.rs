//! Which domains the host's monitor follows: a node of xenstore says so, so that a monitor that starts finds them all.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use xenstore::Ops;

use crate::{Result, Toolstack};

/// What is noted of a domain that is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// How many of its predecessors, in a row, had a short life.
    pub(super) short_lives: u32,
    /// When it was started, since the boot of dom0.
    pub(super) since: Duration,
}

impl Mark {
    /// One for a domain that starts now.
    pub(super) fn now(short_lives: u32) -> Self {
        Self {
            short_lives,
            since: uptime(),
        }
    }

    /// How long the domain has lived.
    pub(super) fn lived(&self) -> Duration {
        uptime().saturating_sub(self.since)
    }
}

/// Time since dom0's boot: a clock that nobody sets.
fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds)
}

fn node(domid: u16) -> String {
    format!("/libxl/{domid}/monitor")
}

impl Toolstack {
    /// Has the host's monitor follow a domain: see [`super::serve`].
    ///
    /// # Errors
    /// xenstored's.
    pub fn follow(&self, domid: u16) -> Result<()> {
        self.mark(domid, Mark::now(0))
    }

    pub(super) fn mark(&self, domid: u16, mark: Mark) -> Result<()> {
        let text = format!("{} {}", mark.short_lives, mark.since.as_secs());
        Ok(self.store.write(&node(domid), text)?)
    }

    pub(super) fn unmark(&self, domid: u16) -> Result<()> {
        Ok(self.store.rm_if_exists(&node(domid))?)
    }

    /// Reads a domain's mark; `None` where the host's monitor does not follow it.
    pub(super) fn mark_of(&self, domid: u16) -> Result<Option<Mark>> {
        let text = self.store.read_string_opt(&node(domid))?;
        Ok(text.map(|text| {
            let (short_lives, since) = text.split_once(' ').unwrap_or_default();
            Mark {
                short_lives: short_lives.parse().unwrap_or(0),
                since: Duration::from_secs(since.parse().unwrap_or(0)),
            }
        }))
    }

    /// Says whether there is a domain to follow.
    pub(super) fn has_marks(&self) -> Result<bool> {
        for info in self.list()? {
            if !info.state.dying && self.mark_of(info.domid)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
