//! Which guests there are, and where their consoles are: what xenstore says, and what follows from it.

use std::time::{Duration, Instant};

use xendev::evtchn::{Evtchn, Port};
use xenstore::{Ops, Store, WatchEvent};

use super::{Attached, CONSOLE_GRANT, Daemon, Error, GUEST, INTRODUCED, RELEASED, Wanted};
use crate::backlog::DEFAULT_LIMIT;
use crate::console::{Console, Page};
use crate::terminal::Terminal;

impl Attached {
    /// Binds the port again after a soft reset: it is the same ring, of which the terminal and what it shows stay. The
    /// port may even have the number that it had, and can be bound only while nobody has it. Returns the old end's.
    fn rebind(&mut self, evtchn: &Evtchn, domid: u16, wanted: Wanted) -> Option<Port> {
        let port = evtchn.bind_interdomain(domid, wanted.port).ok()?;
        self.what = wanted;
        self.console.event();
        Some(std::mem::replace(&mut self.port, port))
    }
}

impl Daemon {
    /// Takes all events of the store's watches.
    pub(super) fn follow(&mut self, store: &Store, now: Instant) -> Result<(), xenstore::Error> {
        while let Some(WatchEvent { token, .. }) = store.next_event(Some(Duration::ZERO))? {
            match token.as_str() {
                INTRODUCED => self.find_guests(store, now)?,
                RELEASED => self.drop_guests(store, now)?,
                _ => {
                    let domid = token.strip_prefix(GUEST).and_then(|id| id.parse().ok());
                    if let Some(domid) = domid {
                        self.look_at(store, domid, now)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn find_guests(
        &mut self,
        store: &Store,
        now: Instant,
    ) -> Result<(), xenstore::Error> {
        let ids = match store.directory("/local/domain") {
            Ok(names) => names,
            Err(_) if !store.exists("/local/domain")? => Vec::new(),
            Err(error) => return Err(error),
        };
        for domid in ids.iter().filter_map(|id| id.parse::<u16>().ok()) {
            if domid == 0 || !store.is_domain_introduced(domid)? {
                continue;
            }
            let guest = self.guests.entry(domid).or_default();
            if !guest.is_watched {
                guest.is_watched = true;
                let path = format!("/local/domain/{domid}/console");
                store.watch(&path, &format!("{GUEST}{domid}"))?;
            }
            self.look_at(store, domid, now)?;
        }
        Ok(())
    }

    fn drop_guests(&mut self, store: &Store, now: Instant) -> Result<(), xenstore::Error> {
        let known: Vec<u16> = self.guests.keys().copied().collect();
        for domid in known {
            if store.is_domain_introduced(domid)? {
                continue;
            }
            if let Some(guest) = self.guests.remove(&domid) {
                // The watch may be gone with the nodes; both is well.
                let path = format!("/local/domain/{domid}/console");
                let _ = store.unwatch(&path, &format!("{GUEST}{domid}"));
                if let Some(attached) = guest.attached {
                    self.detach(attached, now);
                }
            }
        }
        Ok(())
    }

    /// Brings one guest's console to what xenstore says about it.
    fn look_at(&mut self, store: &Store, domid: u16, now: Instant) -> Result<(), xenstore::Error> {
        let base = format!("/local/domain/{domid}/console");
        let read = |name: &str| store.read_string_opt(&format!("{base}/{name}"));
        let kind = read("type")?;
        let is_ours = kind.is_none_or(|kind| kind == "xenconsoled");
        let limit = read("limit")?.and_then(|text| text.parse().ok());
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        let wanted = match (read("ring-ref")?, read("port")?) {
            (Some(frame), Some(port)) if is_ours => parse_wanted(&frame, &port),
            _ => None,
        };
        let Some(guest) = self.guests.get_mut(&domid) else {
            return Ok(());
        };
        let failed = guest.failed;
        if let (Some(attached), Some(wanted)) = (&mut guest.attached, wanted)
            && attached.what.ring_frame == wanted.ring_frame
        {
            if let Some(old) = attached.rebind(&self.evtchn, domid, wanted) {
                // the far end has gone, and the port with it
                let _ = self.evtchn.unbind(old);
                // our own write comes back as an event: only where it says something new, or a guest that makes its
                // port bindable again and again would have us write for ever
                let tty = attached.console.tty();
                if read("tty")?.as_deref() != Some(tty) {
                    store.write(&format!("{base}/tty"), tty)?;
                }
            }
            if attached.what == wanted {
                attached.console.set_limit(limit);
                return Ok(());
            }
        }
        if let Some(old) = guest.attached.take() {
            self.detach(old, now);
        }
        let Some(wanted) = wanted.filter(|wanted| failed != Some(*wanted)) else {
            return Ok(());
        };
        let name = store.read_string_opt(&format!("/local/domain/{domid}/name"))?;
        let attached = self.attach(domid, name, wanted, limit, now);
        let Some(guest) = self.guests.get_mut(&domid) else {
            return Ok(());
        };
        match attached {
            Ok(attached) => {
                let tty = attached.console.tty().to_owned();
                guest.attached = Some(attached);
                guest.failed = None;
                store.write(&format!("{base}/tty"), tty)
            }
            Err(error) => {
                ::log::error!("d{domid}: no console: {error}");
                guest.failed = Some(wanted);
                Ok(())
            }
        }
    }

    fn attach(
        &self,
        domid: u16,
        name: Option<String>,
        what: Wanted,
        limit: usize,
        now: Instant,
    ) -> Result<Attached, Error> {
        let page = match self.gntdev.map(domid, &[CONSOLE_GRANT], true) {
            Ok(mapping) => Page::Granted(mapping),
            Err(_) => Page::Foreign(self.privcmd.map_foreign(domid, &[what.ring_frame], true)?),
        };
        let terminal = Terminal::open().map_err(Error::Poll)?;
        let name = name.unwrap_or_else(|| domid.to_string());
        let log = if self.options.log.has_guests() {
            Some(self.guest_log(&name)?)
        } else {
            None
        };
        let port = self.evtchn.bind_interdomain(domid, what.port)?;
        ::log::info!("d{domid}: {name} has its console at {}", terminal.name());
        let limit = (limit, self.options.overflow_data);
        Ok(Attached {
            what,
            port,
            console: Console::new(page, terminal, log, limit, now),
        })
    }

    pub(super) fn detach(&mut self, attached: Attached, now: Instant) {
        ::log::info!("{}: the console is over", attached.console.tty());
        // The far end may be gone already, and the port with it.
        let _ = self.evtchn.unbind(attached.port);
        self.remains.push(attached.console.close(now));
    }

    /// Forgets that guests are watched, as their watches went with the connection.
    pub(super) fn forget_watches(&mut self) {
        for guest in self.guests.values_mut() {
            guest.is_watched = false;
        }
    }
}

fn parse_wanted(frame: &str, port: &str) -> Option<Wanted> {
    Some(Wanted {
        ring_frame: frame.parse().ok()?,
        port: port.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_without_numbers_is_none() {
        assert_eq!(parse_wanted("", "3"), None);
        assert_eq!(
            parse_wanted("262140", "3"),
            Some(Wanted {
                ring_frame: 262_140,
                port: 3
            })
        );
    }
}
