//! Memory for a new domain out of dom0's, as xl takes it: dom0's balloon is asked for what is missing, and waited for
//! as long as it gives some.
//!
//! Source: xl.conf(5), `autoballoon`; `libxl.h, LIBXL_MIN_DOM0_MEM`.

use std::time::{Duration, Instant};

use xenstore::Ops;

use super::path;
use crate::error::During;
use crate::hypercall::HypercallError;
use crate::{DOM0, Error, Hyper, Result, Toolstack};

/// The least that dom0 may be asked to go down to, in KiB: with less its kernel cannot work.
pub(crate) const MIN_DOM0_KIB: u64 = 128 << 10;
/// What is left to dom0's programs of what its kernel calls available, in KiB, where nobody said how much dom0 gets.
const KEPT_AVAILABLE_KIB: u64 = 64 << 10;
/// How long dom0 may give nothing before it is asked for more, how often it is asked, and how often that is looked at.
const STALL: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 5000 });
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 100 });

/// Whether a new domain's memory may be taken out of dom0's (xl.conf's `autoballoon`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Autoballoon {
    /// Never.
    Off,
    /// Always.
    On,
    /// Unless `dom0_mem=` on the hypervisor's command line says how much dom0 is to have.
    #[default]
    Auto,
}

impl Autoballoon {
    /// True where dom0 may be made smaller, the hypervisor having been started with `commandline`.
    fn applies(self, commandline: &str) -> bool {
        let sets_dom0 = |word: &str| {
            word.split_once('=')
                .is_some_and(|(name, _)| matches!(name, "dom0_mem" | "dom0-mem"))
        };
        match self {
            Self::Off => false,
            Self::On => true,
            Self::Auto => !commandline.split_whitespace().any(sets_dom0),
        }
    }
}

impl Toolstack {
    /// Waits until `pages` are free that nobody has claimed, out of dom0's memory where need be and allowed; `tell`
    /// hears how far it is. Does nothing where it is not allowed: who needs the memory will say what is missing.
    ///
    /// # Errors
    /// [`Error::NotEnoughMemory`] where dom0 does not give as much; or the hypervisor's, xenstore's.
    pub(crate) fn make_room(&self, pages: u64, tell: &mut dyn FnMut(&str)) -> Result<()> {
        if self.unclaimed()? >= pages || !self.may_balloon()? {
            return Ok(());
        }
        let node = format!("{}/memory/target", path(DOM0));
        let now = self.info(DOM0)?.tot_pages * 4;
        let least = MIN_DOM0_KIB.max(now.saturating_sub(self.spare_kib()?));
        let mut target = now;
        for _ in 0..ROUNDS {
            let missing = pages.saturating_sub(self.unclaimed()?) * 4;
            target = match target.checked_sub(missing) {
                Some(lower) if lower >= least => lower,
                _ => return Err(self.shortage(pages, least)),
            };
            self.store
                .write(&node, target.to_string())
                .during("making dom0 smaller")?;
            if self.await_room(pages, tell)? {
                return Ok(());
            }
        }
        Err(self.shortage(pages, least))
    }

    /// Waits for free memory as long as it becomes more; true when there are so many pages.
    fn await_room(&self, pages: u64, tell: &mut dyn FnMut(&str)) -> Result<bool> {
        let mut most = 0;
        let mut until = Instant::now() + STALL;
        loop {
            let free = self.unclaimed()?;
            if free >= pages {
                return Ok(true);
            }
            if free > most {
                most = free;
                until = Instant::now() + STALL;
                tell(&format!(
                    "dom0 gives memory: {} of {} MiB are free",
                    free / 256,
                    pages.div_ceil(256)
                ));
            } else if Instant::now() >= until {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Free pages that nobody has claimed.
    pub(crate) fn unclaimed(&self) -> Result<u64> {
        let host = self.hyper.physinfo()?;
        Ok(host.free_pages.saturating_sub(host.outstanding_pages))
    }

    fn may_balloon(&self) -> Result<bool> {
        Ok(match self.autoballoon {
            Autoballoon::Auto => self.autoballoon.applies(&self.hyper.commandline()?),
            said => said.applies(""),
        })
    }

    /// How much dom0 can give in KiB without its programs running out of memory.
    fn spare_kib(&self) -> Result<u64> {
        let file = &self.paths.meminfo;
        let text = std::fs::read_to_string(file).map_err(|error| Error::file(file, error))?;
        let available = text
            .lines()
            .find_map(|line| line.strip_prefix("MemAvailable:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        // a kernel that does not tell (before 3.14) is taken at Xen's word alone
        Ok(available.map_or(u64::MAX, |kib| kib.saturating_sub(KEPT_AVAILABLE_KIB)))
    }

    /// Says how much is missing and what helps.
    fn shortage(&self, pages: u64, least: u64) -> Error {
        match shortage(&self.hyper, pages, least) {
            Ok(Some(error)) => error,
            // it has become free just now: whoever tries again finds it
            Ok(None) => Error::Timeout(
                "dom0 gave its memory too late; the same command will find it".to_owned(),
            ),
            Err(error) => error.into(),
        }
    }
}

/// Says how much is missing and what helps, where there are not so many pages that are free and unclaimed; dom0 keeps
/// `dom0_least` KiB.
///
/// # Errors
/// The hypervisor's.
pub(crate) fn shortage(
    hyper: &Hyper,
    pages: u64,
    dom0_least: u64,
) -> std::result::Result<Option<Error>, HypercallError> {
    let host = hyper.physinfo()?;
    let Some(missing) = pages.checked_sub(host.free_pages.saturating_sub(host.outstanding_pages))
    else {
        return Ok(None);
    };
    if missing == 0 {
        return Ok(None);
    }
    let dom0 = hyper.domain_info(DOM0)?.tot_pages;
    Ok(Some(Error::NotEnoughMemory {
        needed_mib: pages.div_ceil(256),
        free_mib: host.free_pages / 256,
        claimed_mib: host.outstanding_pages / 256,
        remedy: remedy(dom0, missing, dom0_least),
    }))
}

/// What helps where so many pages are missing.
fn remedy(dom0_pages: u64, missing: u64, dom0_least: u64) -> String {
    let target = dom0_pages.saturating_sub(missing) / 256;
    if target * 1024 >= dom0_least {
        format!(
            "make dom0 smaller: `xl mem-set 0 {target}` now, dom0_mem={target}M on the hypervisor's command line for good"
        )
    } else {
        format!(
            "dom0 has {} MiB and cannot give as much: end another domain, or give this one less",
            dom0_pages / 256
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Balloon, Bench};

    fn bench(free_mib: u64, dom0_mib: u64, available_mib: u64) -> Bench {
        let bench = Bench::new();
        let text = format!("MemTotal: 1 kB\nMemAvailable: {} kB\n", available_mib << 10);
        std::fs::write(&bench.ts.paths.meminfo, text).unwrap();
        let mut state = bench.host.state();
        state.free_pages = free_mib * 256;
        state.dom0_pages = dom0_mib * 256;
        drop(state);
        bench
    }

    #[test]
    fn what_is_missing_comes_out_of_dom0_with_progress() {
        let bench = bench(100, 1500, 1400);
        bench.host.state().balloon = Some(Balloon::of(&bench, 0));
        let mut told = Vec::new();
        let mut tell = |text: &str| told.push(text.to_owned());
        bench.ts.make_room(512 * 256, &mut tell).unwrap();
        assert_eq!(bench.host.state().free_pages, 512 * 256);
        assert_eq!(
            bench.store.get("/local/domain/0/memory/target").unwrap(),
            "1114112"
        );
        let is_progress = |text: &String| {
            text.starts_with("dom0 gives memory: ") && text.ends_with(" of 512 MiB are free")
        };
        assert!(told.len() > 2 && told.iter().all(is_progress), "{told:?}");
    }

    #[test]
    fn enough_free_memory_leaves_dom0_alone() {
        let bench = bench(600, 1500, 1400);
        bench.ts.make_room(512 * 256, &mut |_| {}).unwrap();
        assert_eq!(bench.store.get("/local/domain/0/memory/target"), None);
    }

    #[test]
    fn dom0_is_left_alone_where_that_was_said() {
        for (said, commandline) in [
            (Autoballoon::Off, ""),
            (Autoballoon::Auto, "console=com1 dom0_mem=1G"),
            (Autoballoon::Auto, "dom0-mem=max:1G"),
        ] {
            let mut bench = bench(100, 1500, 1400);
            bench.ts.autoballoon = said;
            commandline.clone_into(&mut bench.host.state().commandline);
            bench.ts.make_room(512 * 256, &mut |_| {}).unwrap();
            assert_eq!(
                bench.store.get("/local/domain/0/memory/target"),
                None,
                "{said:?} {commandline}"
            );
        }
        let asks = |said: Autoballoon, line| said.applies(line);
        assert!(asks(Autoballoon::On, "dom0_mem=1G"));
        assert!(asks(Autoballoon::Auto, "xdom0_mem=1G dom0_mem"));
    }

    #[test]
    fn dom0_is_never_asked_for_what_it_lives_by() {
        // by its kernel's word, and by Xen's minimum
        for (dom0_mib, available_mib) in [(1500, 400), (500, 490)] {
            let bench = bench(100, dom0_mib, available_mib);
            let error = bench.ts.make_room(512 * 256, &mut |_| {}).unwrap_err();
            assert!(
                error.chain().starts_with("not enough memory: "),
                "{}",
                error.chain()
            );
            assert_eq!(bench.store.get("/local/domain/0/memory/target"), None);
        }
    }

    #[test]
    fn one_that_stops_short_is_asked_again_and_then_told_of() {
        let bench = bench(100, 1500, 1400);
        bench.host.state().balloon = Some(Balloon::of(&bench, 1300 * 256));
        let error = bench.ts.make_room(512 * 256, &mut |_| {}).unwrap_err();
        assert_eq!(
            error.chain(),
            "not enough memory: the domain needs 512 MiB, 300 MiB are free, of which 0 MiB are claimed by others; \
             make dom0 smaller: `xl mem-set 0 1088` now, dom0_mem=1088M on the hypervisor's command line for good"
        );
    }

    #[test]
    fn where_dom0_cannot_give_as_much_something_else_is_advised() {
        assert!(remedy(200 * 256, 100 * 256, MIN_DOM0_KIB).contains("end another domain"));
        assert!(remedy(256 * 256, 128 * 256, MIN_DOM0_KIB).contains("xl mem-set 0 128"));
    }
}
